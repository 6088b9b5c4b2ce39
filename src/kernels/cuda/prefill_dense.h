// Dense attention of prefill by a library: what a call of it is, and the handle behind
// tq_cuda_dense.
#ifndef TURBOQUANT_KERNELS_CUDA_PREFILL_DENSE_H_
#define TURBOQUANT_KERNELS_CUDA_PREFILL_DENSE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/prefill_plan.h"

namespace turboquant::cuda {

// softmax(scale q k^T) v. All of it is fp16, but for lse.
struct DenseCall {
  int head_dim, heads;
  int rows;     // q [rows][heads][head_dim]
  int keys;     // k and v [heads][keys][head_dim]
  bool masked;  // only *key_count of them count; up to 256 behind these are read, and finite
  float scale;
  void *q, *k, *v;
  void* out;                       // [heads][rows][head_dim]
  float* lse;                      // [heads][rows]: natural log of the sum of exp(logit)
  int32_t *row_count, *key_count;  // device; row_count is `rows`
};

// Sees that the library can run every call of the plan; `compile`: compiles those not met before.
// bytes: workspace of the calls. False: one of them is not served, or not compiled.
bool PrepareDense(tq_cuda_dense* dense, const tq_cuda_prefill_params& p,
                  const tq_cuda_prefill_plan& plan, bool compile, size_t* bytes);

// Into the stream; after PrepareDense.
bool RunDense(tq_cuda_dense* dense, const DenseCall& call, void* workspace, void* stream);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_PREFILL_DENSE_H_
