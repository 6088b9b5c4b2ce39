// Speed of every codec, rows into bytes and back: codec_bench --benchmark_filter='turbo3t/d128'
//
// Names are encode|decode/table/spec/d<head_dim>/real_time/threads:<n>. Counters: rows/s of all
// threads, the float32 side of the conversion in GB/s, and cycles of one row on one core. copy/...
// is memcpy of the same floats: what the conversion would cost if it did nothing. Times are wall
// times, so run it on an idle machine.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "codec/codec.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"

namespace turboquant {
namespace {

constexpr size_t kRows = 2048;  // a thread's rows: 1 MiB of floats at head_dim 128

std::vector<float> RandomRows(size_t n, int seed) {
  SplitMix64 random(static_cast<uint64_t>(seed) + 1);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.Normal());
  return x;
}

void Report(benchmark::State& state, int d, size_t rows) {
  const double done = static_cast<double>(rows) * static_cast<double>(state.iterations());
  state.counters["rows/s"] = benchmark::Counter(done, benchmark::Counter::kIsRate);
  state.counters["GB/s"] =
      benchmark::Counter(done * d * sizeof(float) * 1e-9, benchmark::Counter::kIsRate);
}

void Copy(benchmark::State& state, int d) {
  const std::vector<float> x = RandomRows(kRows * static_cast<size_t>(d), state.thread_index());
  std::vector<float> to(x.size());
  for (auto _ : state) {
    std::memcpy(to.data(), x.data(), x.size() * sizeof(float));
    benchmark::ClobberMemory();
  }
  Report(state, d, kRows);
}

void Convert(benchmark::State& state, const KernelTable& table, const std::string& spec, int d,
             bool decode) {
  const auto codec = Codec::Create(spec, d);
  if (!codec.ok()) return state.SkipWithError(codec.status().message().c_str());
  const RowCoder coder(*codec.value(), table);
  // Slow codecs have fewer rows a call, so that a run stays short.
  const size_t rows = coder.accelerated() && table.name != "scalar" ? kRows : 32;
  std::vector<float> x = RandomRows(rows * static_cast<size_t>(d), state.thread_index());
  std::vector<uint8_t> bytes(rows * codec.value()->row_bytes());
  coder.Encode(x.data(), rows, bytes.data());
  for (auto _ : state) {
    if (decode) {
      coder.Decode(bytes.data(), rows, x.data());
    } else {
      benchmark::DoNotOptimize(coder.Encode(x.data(), rows, bytes.data()));
    }
    benchmark::ClobberMemory();
  }
  Report(state, d, rows);
  state.counters["bpv"] =
      benchmark::Counter(codec.value()->bits_per_value(), benchmark::Counter::kAvgThreads);
}

void RegisterAll() {
  // Tables that differ in coding.
  const KernelTable* tables[] = {&ScalarKernels(), Avx2Kernels(), Avx512Kernels(), NeonKernels()};
  for (const int threads : {1, 2}) {
    for (const int d : {64, 128}) {
      const std::string shape = "/d" + std::to_string(d);
      const auto add = [&](const std::string& name, auto work) {
        benchmark::RegisterBenchmark((name + shape).c_str(), work)->Threads(threads)->UseRealTime();
      };
      add("copy", [d](benchmark::State& s) { Copy(s, d); });
      for (const KernelTable* table : tables) {
        if (table == nullptr) continue;
        for (const CodecEntry& entry : CodecRegistry()) {
          const std::string spec(entry.name);
          const auto codec = Codec::Create(spec, d);
          const bool fast = codec.ok() && RowCoder(*codec.value(), *table).accelerated();
          if (table != tables[0] && !fast) continue;
          std::string name("/");
          name.append(table->name).append("/").append(spec);
          for (const bool decode : {false, true}) {
            add((decode ? "decode" : "encode") + name,
                [=](benchmark::State& s) { Convert(s, *table, spec, d, decode); });
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace turboquant

int main(int argc, char** argv) {
  turboquant::RegisterAll();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
