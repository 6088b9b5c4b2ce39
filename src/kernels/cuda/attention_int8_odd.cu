// The int8 kernel for head dims that are no powers of two.
#include "kernels/cuda/attention_int8_launch.cuh"

namespace turboquant::cuda {
namespace {

template <int kDim>
cudaError_t LaunchOdd(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  return args.layout.k.trellis ? LaunchInt8Dim<kDim, true>(args, grid, stream)
                               : LaunchInt8Dim<kDim, false>(args, grid, stream);
}

}  // namespace

cudaError_t LaunchInt8Odd(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  switch (args.p.cache.head_dim) {
    case 80:
      return LaunchOdd<80>(args, grid, stream);
    case 96:
      return LaunchOdd<96>(args, grid, stream);
    case 192:
      return LaunchOdd<192>(args, grid, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace turboquant::cuda
