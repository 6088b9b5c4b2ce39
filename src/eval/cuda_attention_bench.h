// Times decode attention over coded pages on an NVIDIA GPU: what `turboquant bench attention
// --device cuda` runs, with nothing but the functions that tq_cuda_load finds.
//
// Rows are coded on the GPU. Before timing, the output of the last sequence is compared with double
// over the same rows coded by the CPU: codes, layout and attention are right, or nothing is timed.
// Several caches take turns, so that no cell comes from the GPU's own caches.
#ifndef TURBOQUANT_EVAL_CUDA_ATTENTION_BENCH_H_
#define TURBOQUANT_EVAL_CUDA_ATTENTION_BENCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "eval/machine.h"
#include "eval/timing.h"
#include "kernels/cuda/cuda_api.h"
#include "kvcache/policy.h"

namespace turboquant {

struct CudaAttentionOptions {
  std::vector<Policy> policies;  // their formats count; the window is left out
  std::vector<std::string> names;
  int head_dim = 128;
  int num_kv_heads = 8;
  int group = 4;
  int batch = 1;
  std::vector<int> cells = {8192, 32768, 131072};  // of every sequence
  int rounds = 9;
  size_t rotate_bytes = size_t{512} << 20;  // of all caches together, if there is room
  uint64_t seed = 1;
  std::function<void(double done, const std::string& what)> progress;
};

struct CudaAttentionFigure {
  std::string cache;   // name of the policy
  std::string format;  // "turbo4/turbo3", keys and values
  int cells = 0;
  std::string path;  // "int8" or "pair"
  int splits = 0;    // work items of one sequence and head; 0: uneven
  double bytes = 0;  // codes and scales of all sequences: what has to be read
  double bits_per_value = 0;
  Timing seconds;
  double error = 0;  // relative to double
};

struct CudaAttentionResult {
  Machine machine;
  std::string device;
  tq_cuda_device limits{};
  int head_dim = 0, num_kv_heads = 0, group = 0, batch = 0;
  double copy_bandwidth = 0;  // bytes read and written a second by a copy on the device
  int rounds = 0;
  uint64_t seed = 0;
  double seconds = 0;
  std::vector<CudaAttentionFigure> figures;
};

// InvalidArgument and Unsupported for what the library does not serve, kInternal for an output that
// is wrong.
Result<CudaAttentionResult> BenchCudaAttention(const tq_cuda_functions& cuda,
                                               const CudaAttentionOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_CUDA_ATTENTION_BENCH_H_
