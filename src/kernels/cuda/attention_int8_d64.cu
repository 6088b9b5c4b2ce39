// The int8 kernel for turbo2, turbo3 and turbo4, head_dim 64.
#include "kernels/cuda/attention_int8_launch.cuh"

namespace turboquant::cuda {

cudaError_t LaunchInt8Dim64(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  return LaunchInt8Dim<64, false>(args, grid, stream);
}

}  // namespace turboquant::cuda
