// A row spread over a warp for the int8 attention kernel: head_dim = kOdd * 2^k, and a lane holds
// kPer neighbours of each of the kOdd blocks of 2^k dims. Blocks of 16 (head_dim 80) leave the
// upper half of the warp without a dim; its values are zeros.
#ifndef TURBOQUANT_KERNELS_CUDA_LANE_ROW_CUH_
#define TURBOQUANT_KERNELS_CUDA_LANE_ROW_CUH_

#include "kernels/cuda/attention_common.cuh"

namespace turboquant::cuda {

template <int kDim>
struct LaneRow {
  static constexpr int kOdd = kDim == 80 ? 5 : kDim == 96 || kDim == 192 ? 3 : 1;
  static constexpr int kPower = kDim / kOdd;
  static constexpr int kPer = kPower >= 32 ? kPower / 32 : 1;
  static constexpr int kValues = kOdd * kPer;

  float v[kValues];

  // Of value i.
  static __device__ __forceinline__ int Dim(int lane, int i) {
    return i / kPer * kPower + lane * kPer + i % kPer;
  }
  static __device__ __forceinline__ bool Holds(int lane) { return kPower >= 32 || lane < kPower; }

  // A row's bytes, asked for and not looked at.
  struct Raw {
    RawValues<kPer> blocks[kOdd];

    __device__ __forceinline__ void Load(const void* base, int dtype, int64_t at, int lane,
                                         bool there) {
#pragma unroll
      for (int a = 0; a < kOdd; ++a) {
        blocks[a].Load(base, dtype, at + Dim(lane, a * kPer), there && Holds(lane));
      }
    }
    __device__ __forceinline__ float Value(int dtype, int lane, int i) const {
      return blocks[i / kPer].Value(dtype, kPer > 1 ? i % kPer : lane & 1);
    }
  };

  // Dims of a row of floats; 0 where the lane has none.
  __device__ __forceinline__ void Read(const float* row, int lane) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) v[i] = Holds(lane) ? row[Dim(lane, i)] : 0.0f;
  }

  __device__ __forceinline__ void Store(void* base, int dtype, int64_t at, int lane) const {
    if (!Holds(lane)) return;
#pragma unroll
    for (int a = 0; a < kOdd; ++a) {
      float x[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[i] = v[a * kPer + i];
      StoreValues(base, dtype, at + Dim(lane, a * kPer), x);
    }
  }

  // The rotation and its inverse, without its norm.
  __device__ __forceinline__ void Rotate(const tq_cuda_rotation& r, int lane) {
    Signs(r, lane);
    Butterflies(lane);
    Mix(r.mix, false);
  }
  __device__ __forceinline__ void Unrotate(const tq_cuda_rotation& r, int lane) {
    Mix(r.mix, true);
    Butterflies(lane);
    Signs(r, lane);
  }

 private:
  __device__ __forceinline__ void Signs(const tq_cuda_rotation& r, int lane) {
    if (!Holds(lane)) return;
#pragma unroll
    for (int a = 0; a < kOdd; ++a) {
      const int first = Dim(lane, a * kPer);
      const uint32_t bits = r.negative[first / 32] >> (first % 32);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        float& x = v[a * kPer + i];
        x = __uint_as_float(__float_as_uint(x) ^ (((bits >> i) & 1u) << 31));
      }
    }
  }

  __device__ __forceinline__ void Butterflies(int lane) {
#pragma unroll
    for (int h = 1; h < kPer; h *= 2) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        if ((i % kPer & h) != 0) continue;
        const float a = v[i], b = v[i + h];
        v[i] = a + b;
        v[i + h] = a - b;
      }
    }
#pragma unroll
    for (int h = 1; h < 32 && h < kPower; h *= 2) {
      const float sign = (lane & h) != 0 ? -1.0f : 1.0f;
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        const float other = __shfl_xor_sync(kAllLanes, v[i], h);
        v[i] = fmaf(sign, v[i], other);
      }
    }
  }

  __device__ __forceinline__ void Mix(const float* mix, bool transpose) {
    if constexpr (kOdd > 1) {
#pragma unroll
      for (int e = 0; e < kPer; ++e) {
        float column[kOdd];
#pragma unroll
        for (int a = 0; a < kOdd; ++a) column[a] = v[a * kPer + e];
#pragma unroll
        for (int i = 0; i < kOdd; ++i) {
          float sum = 0.0f;
#pragma unroll
          for (int j = 0; j < kOdd; ++j) {
            sum = fmaf(__ldg(mix + (transpose ? j * kOdd + i : i * kOdd + j)), column[j], sum);
          }
          v[i * kPer + e] = sum;
        }
      }
    }
  }
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_LANE_ROW_CUH_
