// Times the whole attention of one layer, decode and prefill, over caches of any policy beside an
// f16 cache: what `turboquant bench attention` runs.
//
// All caches hold the same rows. Before timing, outputs are compared with double over the rows as
// the cache decodes them (an error if they differ), and with f16 (the loss of the codec, reported).
// Several layers take turns, as in a model, so that a layer's rows come from where a model of that
// size would find them.
#ifndef TURBOQUANT_EVAL_ATTENTION_BENCH_H_
#define TURBOQUANT_EVAL_ATTENTION_BENCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "eval/machine.h"
#include "eval/timing.h"
#include "kernels/kernel_api.h"
#include "kvcache/policy.h"

namespace turboquant {

// Greatest relative L2 errors against double; prefill may multiply in 16 bits.
inline constexpr double kDecodeErrorBound = 1e-3;
inline constexpr double kPrefillErrorBound = 5e-3;

struct AttentionBenchOptions {
  const KernelTable* kernels = &BestKernels();
  std::vector<Policy> policies;    // ours; f16 always comes first
  std::vector<std::string> names;  // of the policies, for the report
  int head_dim = 128;
  int num_kv_heads = 2;
  int group = 6;
  std::vector<int> tokens = {1, 512};
  std::vector<int> cells = {1024, 4096, 16384};  // seen by the newest token
  std::vector<int> threads = {1, 2};
  int rounds = 5;
  double sample_seconds = 0.01;
  uint64_t seed = 1;
  std::function<void(double done, const std::string& what)> progress;
};

struct AttentionFigure {
  std::string cache;   // "f16", or the name of a policy
  std::string policy;  // in full; empty for f16
  int tokens = 0;
  int cells = 0;
  int threads = 0;
  Timing seconds;          // of one layer's attention
  double cache_bytes = 0;  // of one layer, all that is stored
  double bits_per_value = 0;
  double error = 0;  // against double
  double loss = 0;   // against f16
};

struct AttentionBenchResult {
  Machine machine;
  bool pinned = false;
  std::string table;
  int head_dim = 0, num_kv_heads = 0, group = 0;
  int rounds = 0;
  uint64_t seed = 0;
  std::vector<int> layers;  // that took turns, for each number of cells
  double processor_share = 1;
  double seconds = 0;
  std::vector<AttentionFigure> figures;  // by tokens, cells, threads, cache
};

// InvalidArgument for impossible shapes, kInternal for an output that is wrong.
Result<AttentionBenchResult> BenchAttention(const AttentionBenchOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_ATTENTION_BENCH_H_
