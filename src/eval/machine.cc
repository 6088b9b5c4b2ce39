#include "eval/machine.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>

#include "base/parallel.h"
#include "base/rng.h"

#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace turboquant {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kHugePage = size_t{2} << 20;

double Seconds(Clock::duration t) { return std::chrono::duration<double>(t).count(); }

size_t SystemValue([[maybe_unused]] int name) {
  const long value = sysconf(name);
  return value > 0 ? static_cast<size_t>(value) : 0;
}

// A size such as "2048K" in a file of the kernel.
size_t SizeInFile(const std::string& path) {
  std::ifstream in(path);
  size_t value = 0;
  char unit = 0;
  if (!(in >> value)) return 0;
  in >> unit;
  return unit == 'K' ? value << 10 : unit == 'M' ? value << 20 : value;
}

size_t CacheBytes(int level) {
#ifdef _SC_LEVEL2_CACHE_SIZE
  if (const size_t n = SystemValue(level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE)) {
    return n;
  }
#endif
  return SizeInFile("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/size");
}

std::string CpuName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
#ifdef __aarch64__
  return "64-bit Arm";
#else
  return "unknown processor";
#endif
}

uint64_t ReadPlain(const uint8_t* p, size_t bytes, size_t ahead) {
  uint64_t sum[8] = {};
  for (size_t i = 0; i < bytes; i += 512) {
    if (ahead != 0) {
      for (size_t line = 0; line < 512; line += 64) __builtin_prefetch(p + i + ahead + line);
    }
    const auto* words = reinterpret_cast<const uint64_t*>(p + i);
    for (int w = 0; w < 64; ++w) sum[w % 8] += words[w];
  }
  uint64_t total = 0;
  for (uint64_t s : sum) total += s;
  return total;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) uint64_t Read256(const uint8_t* p, size_t bytes, size_t ahead) {
  __m256i sum[8];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (size_t i = 0; i < bytes; i += 512) {
    if (ahead != 0) {
      for (size_t line = 0; line < 512; line += 64) __builtin_prefetch(p + i + ahead + line);
    }
    for (int w = 0; w < 16; ++w) {
      sum[w % 8] = _mm256_add_epi64(
          sum[w % 8], _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32 * w)));
    }
  }
  for (int s = 1; s < 8; ++s) sum[0] = _mm256_add_epi64(sum[0], sum[s]);
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum[0]);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

__attribute__((target("avx512f"))) uint64_t Read512(const uint8_t* p, size_t bytes, size_t ahead) {
  __m512i sum[8];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (size_t i = 0; i < bytes; i += 512) {
    if (ahead != 0) {
      for (size_t line = 0; line < 512; line += 64) __builtin_prefetch(p + i + ahead + line);
    }
    for (int w = 0; w < 8; ++w) {
      sum[w] = _mm512_add_epi64(sum[w], _mm512_load_si512(p + i + 64 * w));
    }
  }
  for (int s = 1; s < 8; ++s) sum[0] = _mm512_add_epi64(sum[0], sum[s]);
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, sum[0]);
  uint64_t total = 0;
  for (uint64_t lane : lanes) total += lane;
  return total;
}
#endif

void Keep(uint64_t value) { asm volatile("" : : "r"(value) : "memory"); }

}  // namespace

Machine ThisMachine() {
  Machine machine;
  machine.cpu = CpuName();
  machine.threads = HardwareThreads();
  machine.l2_bytes = CacheBytes(2);
  machine.l3_bytes = CacheBytes(3);
  machine.memory_bytes = SystemValue(_SC_PHYS_PAGES) * SystemValue(_SC_PAGESIZE);
  return machine;
}

LoadMeter::Use LoadMeter::Now() {
  Use use;
  std::ifstream in("/proc/stat");
  std::string name;
  in >> name;  // "cpu": user, nice, system, idle, iowait, irq, softirq, steal
  for (int i = 0; i < 8; ++i) {
    double ticks = 0;
    if (!(in >> ticks)) return {};
    use.total += ticks;
    if (i != 3 && i != 4) use.busy += ticks;
  }
  for (int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage r{};
    getrusage(who, &r);
    for (const timeval& t : {r.ru_utime, r.ru_stime}) {
      use.ours += static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    }
  }
  use.ours *= static_cast<double>(SystemValue(_SC_CLK_TCK));
  return use;
}

double LoadMeter::OthersShare() const {
  const Use now = Now();
  const double total = now.total - start_.total;
  if (total <= 0) return 0;
  return std::clamp((now.busy - start_.busy - (now.ours - start_.ours)) / total, 0.0, 1.0);
}

double MeasureClock() {
  double best = 0;
  for (int round = 0; round < 8; ++round) {
    constexpr int kSteps = 1 << 18;
    uint64_t x = 1;
    const auto start = Clock::now();
    for (int i = 0; i < kSteps; ++i) {
      x += 3;
      asm volatile("" : "+r"(x));
    }
    best = std::max(best, kSteps / Seconds(Clock::now() - start));
  }
  return best;
}

void Arena::Free::operator()(uint8_t* p) const { std::free(p); }

Arena::Arena(size_t bytes, uint64_t seed) {
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  data_.reset(static_cast<uint8_t*>(std::aligned_alloc(kHugePage, rounded)));
  if (data_ == nullptr) return;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(data_.get(), rounded, MADV_HUGEPAGE);
#endif
  size_ = rounded;
  SplitMix64 random(seed);
  auto* words = reinterpret_cast<uint64_t*>(data_.get());
  const size_t pattern = std::min(rounded, size_t{1} << 20);
  for (size_t i = 0; i < pattern / 8; ++i) words[i] = random.Next() & 0x3FFF'3FFF'3FFF'3FFFull;
  for (size_t at = pattern; at < rounded; at += pattern) {
    std::memcpy(data_.get() + at, data_.get(), pattern);
  }
}

uint8_t* Arena::Take(size_t bytes) {
  bytes = std::min((bytes + 63) / 64 * 64, size_);
  if (next_ + bytes > size_) next_ = 0;
  uint8_t* at = data_.get() + next_;
  next_ += bytes;
  return at;
}

uint64_t ReadBytes(const uint8_t* p, size_t bytes, size_t ahead) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f")) return Read512(p, bytes, ahead);
  if (__builtin_cpu_supports("avx2")) return Read256(p, bytes, ahead);
#endif
  return ReadPlain(p, bytes, ahead);
}

double ReadBandwidth(WorkTeam* team, int threads, Arena* arena, size_t bytes) {
  const size_t share = bytes / threads / 512 * 512;
  double best = 0;
  for (size_t ahead : {size_t{0}, size_t{1024}}) {
    const uint8_t* p = arena->Take(share * threads);
    const double seconds =
        team->Time(threads, [&](int thread) { Keep(ReadBytes(p + thread * share, share, ahead)); });
    best = std::max(best, static_cast<double>(share) * threads / seconds);
  }
  return best;
}

double CacheBandwidth(WorkTeam* team, const uint8_t* p, size_t bytes, double seconds) {
  bytes = bytes / 512 * 512;
  Keep(ReadBytes(p, bytes, 0));
  int passes = 1;
  while (true) {
    const double time = team->Time(1, [&](int) {
      for (int i = 0; i < passes; ++i) Keep(ReadBytes(p, bytes, 0));
    });
    if (time >= seconds || passes > 1 << 24) return static_cast<double>(bytes) * passes / time;
    passes *= 2;
  }
}

}  // namespace turboquant
