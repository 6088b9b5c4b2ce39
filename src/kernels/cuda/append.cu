// Launches append_rows.cuh. Compiled without contraction.
#include "kernels/cuda/append_rows.cuh"

namespace turboquant::cuda {

bool AppendServes(const RecordLayout& layout) {
  return OrderOf(layout.k, layout.head_dim) == TileOrder::kFragment &&
         OrderOf(layout.v, layout.head_dim) == TileOrder::kFragment;
}

cudaError_t LaunchAppend(const tq_cuda_encode_params& p, const RecordLayout& layout,
                         cudaStream_t stream) {
  const AppendArgs args{p, layout};
  const dim3 grid = AppendGrid(p);
  switch (p.cache.head_dim) {
    case 64:
      AppendRows<64><<<grid, 32 * kAppendWarps, 0, stream>>>(args);
      break;
    case 128:
      AppendRows<128><<<grid, 32 * kAppendWarps, 0, stream>>>(args);
      break;
    default:
      AppendRows<256><<<grid, 32 * kAppendWarps, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace turboquant::cuda
