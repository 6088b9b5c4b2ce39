// From a plan to the instance of the int8 kernel that serves it.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_LAUNCH_CUH_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_LAUNCH_CUH_

#include "kernels/cuda/attention_int8_kernel.cuh"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/kernel_launch.cuh"

namespace turboquant::cuda {

template <class S>
cudaError_t LaunchInt8(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  return LaunchKernel<AttendInt8<S>>(grid, S::kThreads, S::kSharedBytes, args.p.launch_early != 0,
                                     stream, args);
}

// The instance of the plan's configuration, or of the common one in its place: any configuration can
// run any plan.
template <int kKeyBits, int kValueBits, int kDim, int kTiles, bool kExtras, int kIndex>
cudaError_t LaunchInt8Config(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  constexpr bool kBuilt = Int8ConfigOf(kKeyBits, kValueBits, kDim, kTiles, kIndex).warps > 0 &&
                          (!kExtras || kIndex == CommonConfig(kIndex));
  if constexpr (kBuilt) {
    if (args.plan.config == kIndex) {
      return LaunchInt8<Int8Shape<kKeyBits, kValueBits, kDim, kTiles, kIndex, kExtras>>(args, grid,
                                                                                        stream);
    }
  }
  if constexpr (kIndex + 1 < kInt8Configs) {
    return LaunchInt8Config<kKeyBits, kValueBits, kDim, kTiles, kExtras, kIndex + 1>(args, grid,
                                                                                     stream);
  } else {
    return LaunchInt8<Int8Shape<kKeyBits, kValueBits, kDim, kTiles, kSlimConfig, kExtras>>(
        args, grid, stream);
  }
}

template <int kKeyBits, int kValueBits, int kDim, int kTiles>
cudaError_t LaunchInt8Tiles(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  if (args.p.softcap > 0.0f || args.p.cache.mean_tokens > 0) {
    AttentionArgs common = args;
    common.plan.config = CommonConfig(args.plan.config);
    return LaunchInt8Config<kKeyBits, kValueBits, kDim, kTiles, true, 0>(common, grid, stream);
  }
  return LaunchInt8Config<kKeyBits, kValueBits, kDim, kTiles, false, 0>(args, grid, stream);
}

template <int kKeyBits, int kValueBits, int kDim>
cudaError_t LaunchInt8Format(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  if (args.plan.row_tile == kRowsPerTile) {
    return LaunchInt8Tiles<kKeyBits, kValueBits, kDim, 1>(args, grid, stream);
  }
  if constexpr (Int8ConfigOf(kKeyBits, kValueBits, kDim, 2, kSlimConfig).warps > 0) {
    return LaunchInt8Tiles<kKeyBits, kValueBits, kDim, 2>(args, grid, stream);
  }
  return cudaErrorInvalidValue;
}

template <int kDim>
cudaError_t LaunchInt8Dim(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  const int k = args.p.cache.k_format, v = args.p.cache.v_format;
  if (k == 4 && v == 4) return LaunchInt8Format<4, 4, kDim>(args, grid, stream);
  if (k == 4 && v == 3) return LaunchInt8Format<4, 3, kDim>(args, grid, stream);
  if (k == 3 && v == 3) return LaunchInt8Format<3, 3, kDim>(args, grid, stream);
  if (k == 2 && v == 2) return LaunchInt8Format<2, 2, kDim>(args, grid, stream);
  return cudaErrorInvalidValue;
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_LAUNCH_CUH_
