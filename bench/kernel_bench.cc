// Kernel speed, per table: kernel_bench --benchmark_filter='avx512/.*d64'
//
// Names are kernel/table/shape. Counters: "cycles/row" (or /value) at the clock this program
// measures on its own core, rows/s, GFLOP/s and, for the dense kernels, the share of this core's
// measured multiply-add peak. Nothing is checked here and nothing compared: `turboquant bench
// kernels` does both. This program is for work on one kernel, with the filters and repetitions of
// Google Benchmark.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "base/rng.h"
#include "eval/machine.h"
#include "kernels/format_rows.h"
#include "kernels/kernel_api.h"
#include "kernels/tile_layout.h"
#include "math/rotation.h"

namespace turboquant {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration t) { return std::chrono::duration<double>(t).count(); }

double Hertz() {
  static const double hertz = MeasureClock();
  return hertz;
}

#if defined(__x86_64__)

// Twelve independent multiply-adds from registers: the roof of the dense kernels. In assembler,
// because a compiler may keep the sums in memory.
#define TQ_FMA(r, i) "vfmadd231ps %%" r "15, %%" r "15, %%" r i "\n\t"
#define TQ_SIX_FMA(r, a, b, c, d, e, f) \
  TQ_FMA(r, a) TQ_FMA(r, b) TQ_FMA(r, c) TQ_FMA(r, d) TQ_FMA(r, e) TQ_FMA(r, f)
#define TQ_TWELVE_FMA(r) \
  TQ_SIX_FMA(r, "0", "1", "2", "3", "4", "5") TQ_SIX_FMA(r, "6", "7", "8", "9", "10", "11")
#define TQ_CLOBBERS                                                                        \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

double MeasurePeak(int lanes) {
  constexpr int kSteps = 1 << 16;
  double best = 0;
  for (int round = 0; round < 20; ++round) {
    asm volatile("vzeroall" ::: TQ_CLOBBERS);
    const auto start = Clock::now();
    if (lanes == 16) {
      for (int i = 0; i < kSteps; ++i) asm volatile(TQ_TWELVE_FMA("zmm")::: TQ_CLOBBERS);
    } else {
      for (int i = 0; i < kSteps; ++i) asm volatile(TQ_TWELVE_FMA("ymm")::: TQ_CLOBBERS);
    }
    best = std::max(best, 2.0 * 12 * lanes * kSteps / Seconds(Clock::now() - start));
  }
  return best;
}

#endif  // __x86_64__

double PeakFlops(const KernelTable& table) {
#if defined(__x86_64__)
  if (table.name.starts_with("avx512")) {
    static const double peak = MeasurePeak(16);
    return peak;
  }
  if (table.name == "avx2" || table.name == "avxvnni") {
    static const double peak = MeasurePeak(8);
    return peak;
  }
#endif
  return 0;
}

// Processor time of the calling thread since construction: other load on the machine does not
// count.
class Stopwatch {
 public:
  Stopwatch() : start_(Now()) {}
  double seconds() const { return Now() - start_; }

 private:
  static double Now() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
  double start_;
};

// Runs `work` as the benchmark loop and reports what `units` of work an iteration cost.
template <typename Work>
double Loop(benchmark::State& state, const Work& work) {
  const Stopwatch watch;
  for (auto _ : state) {
    work();
    benchmark::ClobberMemory();
  }
  return watch.seconds() / static_cast<double>(state.iterations());
}

template <typename Work>
void LoopRows(benchmark::State& state, double rows, const Work& work) {
  const double seconds = Loop(state, work);
  state.counters["cycles/row"] = seconds * Hertz() / rows;
  state.counters["rows/s"] = rows / seconds;
}

template <typename Work>
void LoopFlops(benchmark::State& state, const KernelTable& table, double flops, const Work& work) {
  const double seconds = Loop(state, work);
  state.counters["GFLOP/s"] = flops / seconds * 1e-9;
  if (const double peak = PeakFlops(table); peak > 0) {
    state.counters["% of peak"] = 100 * flops / seconds / peak;
  }
}

std::vector<float> RandomFloats(size_t n) {
  SplitMix64 random(n);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.Normal());
  return x;
}

// A cache of kCacheRows rows, walked kBlock rows a call: the codes come from the second-level cache
// (or from memory, with many rows), as in a decode step.
constexpr int kBlock = 128;

struct Coded {
  Coded(const KernelTable& table, Format format, int d, int rows, TileForm form)
      : format(format), d(d), form(form), stride(CodeBytes(format, d)) {
    codes.resize(TilesBytes(stride, rows));
    scales.resize(TilesBytes(1, rows));
    std::vector<uint8_t> coded(64 * stride);
    std::vector<uint16_t> coded_scales(64);
    const Rotation rotation(d, 1);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(d) * 64);
    EncodeFormatRows(table, format, rotation.view(), x.data(), 64, coded.data(),
                     coded_scales.data());
    for (int j = 0; j < rows; ++j) {
      StoreTileRow(form, stride, j, coded.data() + j % 64 * stride, codes.data());
      scales[j] = coded_scales[j % 64];
    }
  }
  CodedTiles At(int j) const { return {format, d, codes.data(), scales.data(), j, form}; }

  Format format;
  int d;
  TileForm form;
  size_t stride;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;
};

// As the cache encodes: a batch of rows a call, minus their means.
void Encode(benchmark::State& state, const KernelTable& table, Format format, int d) {
  const Rotation rotation(d, 1);
  const std::vector<float> x = RandomFloats(static_cast<size_t>(d) * 64);
  const std::vector<float> mean = RandomFloats(d);
  const int batch = EncodeBatch(format);
  std::vector<float> rows(static_cast<size_t>(batch) * d);
  std::vector<uint8_t> codes(batch * CodeBytes(format, d));
  std::vector<uint16_t> scales(batch);
  int j = 0;
  LoopRows(state, batch, [&] {
    for (int i = 0; i < batch * d; ++i) rows[i] = x[j * d + i] - mean[i % d];
    benchmark::DoNotOptimize(EncodeFormatRows(table, format, rotation.view(), rows.data(), batch,
                                              codes.data(), scales.data()));
    j = (j + batch) % 64;
  });
}

void Scores(benchmark::State& state, const KernelTable& table, Format format, int d, int rows,
            int cache_rows) {
  const Coded k(table, format, d, cache_rows, TileForm::kKeys);
  const std::vector<float> q = RandomFloats(static_cast<size_t>(rows) * d);
  std::vector<uint8_t> prepared(rows * PreparedQueryBytes(d));
  table.prepare_queries(q.data(), d, rows, prepared.data());
  std::vector<float> out(static_cast<size_t>(rows) * kBlock);
  int j = 0;
  LoopRows(state, kBlock, [&] {
    table.coded_scores(k.At(j), prepared.data(), rows, kBlock, out.data(), kBlock);
    j = (j + kBlock) % cache_rows;
  });
}

void Accumulate(benchmark::State& state, const KernelTable& table, Format format, int d, int rows,
                int cache_rows) {
  const Coded v(table, format, d, cache_rows, TileForm::kValues);
  std::vector<float> p = RandomFloats(static_cast<size_t>(rows) * kBlock);
  std::vector<float> o(static_cast<size_t>(rows) * d);
  int j = 0;
  LoopRows(state, kBlock, [&] {
    table.coded_accumulate(v.At(j), p.data(), kBlock, rows, kBlock, o.data());
    j = (j + kBlock) % cache_rows;
  });
}

// The table's kernels over f16 rows by their addresses, as the exact window has them.
struct HalfRows {
  HalfRows(int d, int rows) : values(static_cast<size_t>(d) * rows, 0x3C00) {
    for (int j = 0; j < rows; ++j) at.push_back(values.data() + static_cast<size_t>(j) * d);
  }
  std::vector<uint16_t> values;
  std::vector<const uint16_t*> at;
};

void HalfScores(benchmark::State& state, const KernelTable& table, int d, int rows,
                int cache_rows) {
  const HalfRows k(d, cache_rows);
  const std::vector<float> q = RandomFloats(static_cast<size_t>(rows) * d);
  std::vector<float> out(static_cast<size_t>(rows) * kBlock);
  int j = 0;
  LoopRows(state, kBlock, [&] {
    table.half_scores(k.at.data() + j, d, q.data(), rows, kBlock, out.data(), kBlock);
    j = (j + kBlock) % cache_rows;
  });
}

void HalfAccumulate(benchmark::State& state, const KernelTable& table, int d, int rows,
                    int cache_rows) {
  const HalfRows v(d, cache_rows);
  const std::vector<float> p = RandomFloats(static_cast<size_t>(rows) * kBlock);
  std::vector<float> o(static_cast<size_t>(rows) * d);
  int j = 0;
  LoopRows(state, kBlock, [&] {
    table.half_accumulate(v.at.data() + j, d, p.data(), kBlock, rows, kBlock, o.data());
    j = (j + kBlock) % cache_rows;
  });
}

void Softmax(benchmark::State& state, const KernelTable& table, int n, bool biased) {
  const std::vector<float> logits = RandomFloats(n);
  const std::vector<float> bias(n, 0.0f);
  std::vector<float> s(n);
  const double seconds = Loop(state, [&] {
    std::copy(logits.begin(), logits.end(), s.begin());
    float m = -1e30f;
    float l = 0;
    float factor;
    const float* biases = bias.data();
    table.softmax({.s = s.data(),
                   .ld = n,
                   .rows = 1,
                   .n = n,
                   .bias = biased ? &biases : nullptr,
                   .m = &m,
                   .l = &l,
                   .factor = &factor});
    benchmark::DoNotOptimize(l);
  });
  state.counters["ns/value"] = seconds * 1e9 / n;
  state.counters["cycles/value"] = seconds * Hertz() / n;
}

void DenseScores(benchmark::State& state, const KernelTable& table, int d, int rows, int n) {
  const std::vector<float> x = RandomFloats(static_cast<size_t>(n) * d);
  const std::vector<float> q = RandomFloats(static_cast<size_t>(rows) * d);
  std::vector<float> out(static_cast<size_t>(rows) * n);
  LoopFlops(state, table, 2.0 * d * rows * n,
            [&] { table.dense_scores(x.data(), d, q.data(), rows, n, out.data(), n); });
}

void DenseAccumulate(benchmark::State& state, const KernelTable& table, int d, int rows, int n) {
  const std::vector<float> x = RandomFloats(static_cast<size_t>(n) * d);
  const std::vector<float> p = RandomFloats(static_cast<size_t>(rows) * n);
  std::vector<float> o(static_cast<size_t>(rows) * d);
  LoopFlops(state, table, 2.0 * d * rows * n,
            [&] { table.dense_accumulate(x.data(), d, p.data(), n, rows, n, o.data()); });
}

template <typename... Args>
void Register(const std::string& name, Args... args) {
  benchmark::RegisterBenchmark(name.c_str(), args...);
}

void RegisterTable(const KernelTable& table) {
  constexpr int kCached = 4096;       // second-level cache
  constexpr int kStreamed = 1 << 21;  // memory
  constexpr int kHalfCached = 1024;
  std::string name = "/";
  name += table.name;
  for (const Format format : kFormats) {
    if (!IsCoded(format)) continue;
    for (const int d : {64, 128}) {
      const std::string shape =
          name + "/" + std::string(FormatName(format)) + "/d" + std::to_string(d);
      Register("encode" + shape, [=, &table](benchmark::State& s) { Encode(s, table, format, d); });
      for (const int rows : {1, 3, 4, 8}) {
        const std::string full = shape + "/rows" + std::to_string(rows);
        Register("scores" + full,
                 [=, &table](benchmark::State& s) { Scores(s, table, format, d, rows, kCached); });
        Register("accumulate" + full, [=, &table](benchmark::State& s) {
          Accumulate(s, table, format, d, rows, kCached);
        });
      }
      if (table.name == "scalar") continue;
      Register("scores" + shape + "/rows3/streamed",
               [=, &table](benchmark::State& s) { Scores(s, table, format, d, 3, kStreamed); });
      Register("accumulate" + shape + "/rows3/streamed",
               [=, &table](benchmark::State& s) { Accumulate(s, table, format, d, 3, kStreamed); });
    }
  }
  for (const int n : {64, 256}) {
    const std::string shape = name + "/n" + std::to_string(n);
    Register("softmax" + shape, [=, &table](benchmark::State& s) { Softmax(s, table, n, false); });
    Register("softmax" + shape + "/bias",
             [=, &table](benchmark::State& s) { Softmax(s, table, n, true); });
  }
  for (const int d : {64, 128, 256}) {
    for (const int rows : {4, 48, 192}) {
      for (const int n : {64, 256}) {
        const std::string shape = name + "/d" + std::to_string(d) + "/rows" + std::to_string(rows) +
                                  "/n" + std::to_string(n);
        Register("dense_scores" + shape,
                 [=, &table](benchmark::State& s) { DenseScores(s, table, d, rows, n); });
        Register("dense_accumulate" + shape,
                 [=, &table](benchmark::State& s) { DenseAccumulate(s, table, d, rows, n); });
      }
    }
  }
  for (const int d : {64, 128}) {
    for (const int rows : {1, 3, 4, 8}) {
      const std::string shape = name + "/d" + std::to_string(d) + "/rows" + std::to_string(rows);
      Register("half_scores" + shape,
               [=, &table](benchmark::State& s) { HalfScores(s, table, d, rows, kHalfCached); });
      Register("half_accumulate" + shape, [=, &table](benchmark::State& s) {
        HalfAccumulate(s, table, d, rows, kHalfCached);
      });
    }
  }
}

}  // namespace
}  // namespace turboquant

int main(int argc, char** argv) {
  using turboquant::FindKernels;
  for (const char* name : {"scalar", "avx2", "avxvnni", "avx512", "avx512amx"}) {
    if (FindKernels(name) != nullptr) turboquant::RegisterTable(*FindKernels(name));
  }
  benchmark::Initialize(&argc, argv);
  std::printf("clock %.2f GHz\n", turboquant::Hertz() * 1e-9);
  if (const turboquant::KernelTable* table = FindKernels("avx512")) {
    std::printf("avx512 multiply-add peak %.0f GFLOP/s\n", turboquant::PeakFlops(*table) * 1e-9);
  }
  if (const turboquant::KernelTable* table = FindKernels("avx2")) {
    std::printf("avx2 multiply-add peak %.0f GFLOP/s\n", turboquant::PeakFlops(*table) * 1e-9);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
