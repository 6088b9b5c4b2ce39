// The int8 kernel for turbo2, turbo3 and turbo4, head_dim 256.
#include "kernels/cuda/attention_int8_launch.cuh"

namespace turboquant::cuda {

cudaError_t LaunchInt8Dim256(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  return LaunchInt8Dim<256, false>(args, grid, stream);
}

}  // namespace turboquant::cuda
