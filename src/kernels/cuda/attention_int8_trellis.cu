// The int8 kernel for turbo2t, turbo3t and turbo4t, head dims that are powers of two.
#include "kernels/cuda/attention_int8_launch.cuh"

namespace turboquant::cuda {

cudaError_t LaunchInt8Trellis(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  switch (args.p.cache.head_dim) {
    case 64:
      return LaunchInt8Dim<64, true>(args, grid, stream);
    case 128:
      return LaunchInt8Dim<128, true>(args, grid, stream);
    case 256:
      return LaunchInt8Dim<256, true>(args, grid, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace turboquant::cuda
