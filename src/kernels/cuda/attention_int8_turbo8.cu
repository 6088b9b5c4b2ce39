// The int8 kernel for turbo8 keys.
#include "kernels/cuda/attention_int8_launch.cuh"

namespace turboquant::cuda {

cudaError_t LaunchInt8Turbo8(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  switch (args.p.cache.head_dim) {
    case 64:
      return LaunchInt8BytesDim<64>(args, grid, stream);
    case 80:
      return LaunchInt8BytesDim<80>(args, grid, stream);
    case 96:
      return LaunchInt8BytesDim<96>(args, grid, stream);
    case 128:
      return LaunchInt8BytesDim<128>(args, grid, stream);
    case 192:
      return LaunchInt8BytesDim<192>(args, grid, stream);
    case 256:
      return LaunchInt8BytesDim<256>(args, grid, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace turboquant::cuda
