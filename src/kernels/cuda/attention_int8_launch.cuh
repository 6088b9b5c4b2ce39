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

// The instance of configuration `config`, kIndex or a later one, or of the slim one in its place.
template <int kKeyFormat, int kValueFormat, int kDim, int kTiles, int kIndex = 0>
cudaError_t LaunchInt8Config(const AttentionArgs& args, int config, dim3 grid,
                             cudaStream_t stream) {
  if constexpr (kIndex == kInt8Configs) {
    return LaunchInt8Config<kKeyFormat, kValueFormat, kDim, kTiles, kSlimConfig>(args, kSlimConfig,
                                                                                 grid, stream);
  } else {
    if constexpr (Int8ConfigOf(kKeyFormat, kValueFormat, kDim, kTiles, kIndex).warps > 0) {
      if (config == kIndex) {
        return LaunchInt8<
            Int8Shape<kKeyFormat, kValueFormat, kDim, kTiles, kIndex, !IsPlain(kIndex)>>(args, grid,
                                                                                         stream);
      }
    }
    return LaunchInt8Config<kKeyFormat, kValueFormat, kDim, kTiles, kIndex + 1>(args, config, grid,
                                                                                stream);
  }
}

// Any configuration can run any plan.
template <int kKeyFormat, int kValueFormat, int kDim, int kTiles>
cudaError_t LaunchInt8Tiles(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  const bool plain = !(args.p.softcap > 0.0f) && args.p.cache.mean_tokens == 0;
  const int config = plain ? args.plan.config : CommonConfig(args.plan.config);
  return LaunchInt8Config<kKeyFormat, kValueFormat, kDim, kTiles>(args, config, grid, stream);
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

// IsRarePair.
template <int kDim>
cudaError_t LaunchInt8RareDim(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  const int k = args.p.cache.k_format, v = args.p.cache.v_format;
  if (k == 4 && v == 2) return LaunchInt8Format<4, 2, kDim>(args, grid, stream);
  if (k == 3 && v == 2) return LaunchInt8Format<3, 2, kDim>(args, grid, stream);
  if (k == 3 && v == 4) return LaunchInt8Format<3, 4, kDim>(args, grid, stream);
  return cudaErrorInvalidValue;
}

// turbo8 keys.
template <int kDim>
cudaError_t LaunchInt8BytesDim(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  switch (args.p.cache.v_format) {
    case 8:
      return LaunchInt8Format<8, 8, kDim>(args, grid, stream);
    case 4:
      return LaunchInt8Format<8, 4, kDim>(args, grid, stream);
    case 3:
      return LaunchInt8Format<8, 3, kDim>(args, grid, stream);
    default:
      return cudaErrorInvalidValue;
  }
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
