// One launcher for every set of kernel instances. Included by nvcc's files alone.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_LAUNCH_H_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_LAUNCH_H_

#include <cuda_runtime.h>

namespace turboquant::cuda {

struct AttentionArgs;

// cudaErrorInvalidValue: no instance of this shape.
cudaError_t LaunchInt8Dim64(const AttentionArgs& args, dim3 grid, cudaStream_t stream);
cudaError_t LaunchInt8Dim128(const AttentionArgs& args, dim3 grid, cudaStream_t stream);
cudaError_t LaunchInt8Dim256(const AttentionArgs& args, dim3 grid, cudaStream_t stream);
cudaError_t LaunchInt8Trellis(const AttentionArgs& args, dim3 grid, cudaStream_t stream);
cudaError_t LaunchInt8Rare(const AttentionArgs& args, dim3 grid, cudaStream_t stream);
cudaError_t LaunchInt8Turbo8(const AttentionArgs& args, dim3 grid, cudaStream_t stream);
cudaError_t LaunchInt8Odd(const AttentionArgs& args, dim3 grid, cudaStream_t stream);
cudaError_t LaunchPair(const AttentionArgs& args, dim3 grid, cudaStream_t stream);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_LAUNCH_H_
