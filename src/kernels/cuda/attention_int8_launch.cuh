// From a plan to the instance of the int8 kernel that serves it.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_LAUNCH_CUH_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_LAUNCH_CUH_

#include "kernels/cuda/attention_int8_kernel.cuh"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/kernel_launch.cuh"

namespace turboquant::cuda {

template <class S>
cudaError_t LaunchInt8(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  return LaunchKernel<AttendInt8<S>>(grid, S::kThreads, S::kSharedBytes, stream, args);
}

// The instance of the plan's configuration, or of the common one in its place: any configuration
// can run any plan.
template <int kKeyFormat, int kValueFormat, int kDim, int kTiles, bool kExtras, int kIndex>
cudaError_t LaunchInt8Config(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  constexpr bool kBuilt = Int8ConfigOf(kKeyFormat, kValueFormat, kDim, kTiles, kIndex).warps > 0 &&
                          (!kExtras || kIndex == CommonConfig(kIndex));
  if constexpr (kBuilt) {
    if (args.plan.config == kIndex) {
      return LaunchInt8<Int8Shape<kKeyFormat, kValueFormat, kDim, kTiles, kIndex, kExtras>>(
          args, grid, stream);
    }
  }
  if constexpr (kIndex + 1 < kInt8Configs) {
    return LaunchInt8Config<kKeyFormat, kValueFormat, kDim, kTiles, kExtras, kIndex + 1>(args, grid,
                                                                                         stream);
  } else {
    return LaunchInt8<Int8Shape<kKeyFormat, kValueFormat, kDim, kTiles, kSlimConfig, kExtras>>(
        args, grid, stream);
  }
}

template <int kKeyFormat, int kValueFormat, int kDim, int kTiles>
cudaError_t LaunchInt8Tiles(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  if constexpr (HasPlainInstance(kDim, kTiles) &&
                OrderOf(TileFormatOf(kKeyFormat), kDim) == TileOrder::kFragment) {
    if (!(args.p.softcap > 0.0f) && args.p.cache.mean_tokens == 0) {
      return LaunchInt8Config<kKeyFormat, kValueFormat, kDim, kTiles, false, 0>(args, grid, stream);
    }
  }
  AttentionArgs common = args;
  common.plan.config = CommonConfig(args.plan.config);
  return LaunchInt8Config<kKeyFormat, kValueFormat, kDim, kTiles, true, 0>(common, grid, stream);
}

template <int kKeyFormat, int kValueFormat, int kDim, int kTiles = 1>
cudaError_t LaunchInt8Format(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  if constexpr (Int8ConfigOf(kKeyFormat, kValueFormat, kDim, kTiles, kSlimConfig).warps > 0) {
    if (args.plan.row_tile == kTiles * kRowsPerTile) {
      return LaunchInt8Tiles<kKeyFormat, kValueFormat, kDim, kTiles>(args, grid, stream);
    }
  }
  if constexpr (kTiles < 4) {
    return LaunchInt8Format<kKeyFormat, kValueFormat, kDim, 2 * kTiles>(args, grid, stream);
  }
  return cudaErrorInvalidValue;
}

// Formats turbo2 to turbo4, or (trellis) turbo2t to turbo4t.
template <int kDim, bool kTrellis>
cudaError_t LaunchInt8Dim(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  constexpr int kAdd = kTrellis ? 16 : 0, k2 = 2 + kAdd, k3 = 3 + kAdd, k4 = 4 + kAdd;
  const int k = args.p.cache.k_format, v = args.p.cache.v_format;
  if (k == k4 && v == k4) return LaunchInt8Format<k4, k4, kDim>(args, grid, stream);
  if (k == k4 && v == k3) return LaunchInt8Format<k4, k3, kDim>(args, grid, stream);
  if (k == k3 && v == k3) return LaunchInt8Format<k3, k3, kDim>(args, grid, stream);
  if (k == k2 && v == k2) return LaunchInt8Format<k2, k2, kDim>(args, grid, stream);
  return cudaErrorInvalidValue;
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_LAUNCH_CUH_
