// Launches encode_trellis.cuh. Compiled without contraction.
#include "kernels/cuda/encode_trellis.cuh"

namespace turboquant::cuda {

cudaError_t LaunchEncodeTrellis(const tq_cuda_encode_params& p, const RecordLayout& layout,
                                cudaStream_t stream) {
  const EncodeArgs args{p, layout};
  cudaError_t error = cudaErrorInvalidValue;
  WithHeadDim(p.cache.head_dim,
              [&](auto dim) { error = LaunchTrellisPages<dim.value>(args, stream); });
  return error;
}

}  // namespace turboquant::cuda
