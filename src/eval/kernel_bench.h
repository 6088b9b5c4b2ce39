// Times the kernels of this processor's tables beside the bandwidth that bounds them and beside an
// f16 cache on the same instructions: what `turboquant bench kernels` runs.
//
// Before anything is timed every kernel's results are compared with the scalar table (codes and
// decoded values bit for bit) and with sums in double; a difference is an error, not a figure.
// All cells of a run take turns, round by round, so that a change of clock hits all of them.
#ifndef TURBOQUANT_EVAL_KERNEL_BENCH_H_
#define TURBOQUANT_EVAL_KERNEL_BENCH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "codec/format.h"
#include "eval/machine.h"
#include "eval/timing.h"
#include "kernels/kernel_api.h"

namespace turboquant {

// Every format that is coded, coarsest first.
std::vector<Format> CodedFormats();

// The tables this processor can run, the fastest first.
std::vector<const KernelTable*> AvailableTables();

// One of them by name; Unsupported, with the names there are.
Result<const KernelTable*> FindTable(const std::string& name);

struct KernelBenchOptions {
  std::vector<const KernelTable*> tables = AvailableTables();
  std::vector<Format> formats = CodedFormats();  // f16 always comes along
  std::vector<int> head_dims = {64, 128};
  std::vector<int> groups = {1, 4};  // query heads that share a kv head
  int threads = 2;                   // of the figures from memory, beside one thread
  int rounds = 9;
  double sample_seconds = 0.003;  // of one cell in one round
  size_t memory_bytes = 0;        // walked for figures from memory; 0: chosen from the caches
  uint64_t seed = 1;
  std::function<void(double done, const std::string& what)> progress;
};

enum class Residence { kCache, kMemory };

struct KernelFigure {
  std::string kernel;  // "scores", "sums", "encode", "decode"
  std::string table;   // "avx512", ...
  std::string format;
  int head_dim = 0;
  int group = 0;  // 0 for encode and decode
  Residence residence = Residence::kCache;
  int threads = 1;
  double bytes_per_row = 0;   // read from the cache: codes and scale
  Timing seconds_per_row;     // of all threads together
  double cycles_per_row = 0;  // of one core
  double bound_seconds = 0;   // bytes_per_row over the measured bandwidth; 0: not bound by it
  double error = 0;           // relative to double, or 0 where bits were compared
};

struct KernelBenchResult {
  Machine machine;
  bool pinned = false;
  double clock = 0;                      // hertz, median over the rounds
  size_t cache_bytes = 0;                // the codes of figures from the cache
  size_t memory_bytes = 0;               // walked
  double cache_bandwidth = 0;            // bytes a second
  std::vector<double> memory_bandwidth;  // [threads - 1]; only 1 and the most are measured
  int threads = 1;
  int rounds = 0;
  double sample_seconds = 0;
  uint64_t seed = 0;
  double processor_share = 1;  // below 0.9: others used the machine
  double seconds = 0;
  std::vector<KernelFigure> figures;
};

// InvalidArgument for shapes no kernel has, kInternal for a kernel that is wrong.
Result<KernelBenchResult> BenchKernels(const KernelBenchOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_KERNEL_BENCH_H_
