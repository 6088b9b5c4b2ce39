// Prefill in double over a CUDA cache held in host memory, from the definition; every pointer of
// the parameters is a host pointer here.
#ifndef TURBOQUANT_KERNELS_CUDA_PREFILL_REFERENCE_H_
#define TURBOQUANT_KERNELS_CUDA_PREFILL_REFERENCE_H_

#include <vector>

#include "kernels/cuda/attention_reference.h"

namespace turboquant::cuda {

// Query tokens of `tokens` (rows of q) alone: out [tokens][heads][head_dim], lse [tokens][heads].
ReferenceOutput PrefillReference(const tq_cuda_prefill_params& p, const std::vector<int>& tokens);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_PREFILL_REFERENCE_H_
