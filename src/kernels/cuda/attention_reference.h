// Attention in double over a CUDA cache held in host memory, straight from the definition. What the
// kernels are compared with; every pointer of the parameters is a host pointer here.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_REFERENCE_H_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda_api.h"

namespace turboquant::cuda {

// Value i of a row in memory.
double LoadValue(const void* base, int dtype, int64_t i);

// x = R^T y in double.
void UnrotateDouble(const tq_cuda_rotation& r, int head_dim, double* x);

struct ReferenceOutput {
  std::vector<double> out;  // [batch][q_len][heads][head_dim]
  std::vector<double> lse;  // [batch][q_len][heads]
};

// sequence < 0: all; otherwise only this one is computed (the others stay 0).
ReferenceOutput AttendReference(const tq_cuda_attention& params, int sequence = -1);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_REFERENCE_H_
