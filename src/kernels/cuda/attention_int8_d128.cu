// The int8 kernel for turbo2, turbo3 and turbo4, head_dim 128.
#include "kernels/cuda/attention_int8_launch.cuh"

namespace turboquant::cuda {

cudaError_t LaunchInt8Dim128(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  return LaunchInt8Dim<128, false>(args, grid, stream);
}

}  // namespace turboquant::cuda
