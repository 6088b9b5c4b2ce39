// Launches append_rows.cuh. Compiled without contraction.
#include "kernels/cuda/append_rows.cuh"
#include "kernels/cuda/kernel_launch.cuh"

namespace turboquant::cuda {

bool AppendServes(const RecordLayout& layout) {
  return OrderOf(layout.k, layout.head_dim) == TileOrder::kFragment &&
         OrderOf(layout.v, layout.head_dim) == TileOrder::kFragment;
}

cudaError_t LaunchAppend(const tq_cuda_encode_params& p, const RecordLayout& layout,
                         cudaStream_t stream) {
  const AppendArgs args{p, layout};
  const dim3 grid = AppendGrid(p);
  constexpr int kThreads = 32 * kAppendWarps;
  switch (p.cache.head_dim) {
    case 64:
      return LaunchKernelEarly<AppendRows<64>>(grid, kThreads, 0, stream, args);
    case 128:
      return LaunchKernelEarly<AppendRows<128>>(grid, kThreads, 0, stream, args);
    default:
      return LaunchKernelEarly<AppendRows<256>>(grid, kThreads, 0, stream, args);
  }
}

}  // namespace turboquant::cuda
