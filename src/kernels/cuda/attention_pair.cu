// The pair kernel for every head dim.
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/attention_pair.cuh"

namespace turboquant::cuda {

cudaError_t LaunchPair(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  cudaError_t result = cudaErrorInvalidValue;
  WithHeadDim(args.p.cache.head_dim,
              [&](auto dim) { result = LaunchPairDim<dim.value>(args, grid, stream); });
  return result;
}

}  // namespace turboquant::cuda
