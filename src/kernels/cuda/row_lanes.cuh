// A row spread over 4 lanes: lane l holds dims 16 k + 4 l + e, k < d / 16, e < 4, at v[4 k + e].
//
// So lane l owns classes 4 l .. 4 l + 3 of the 16-lane sums of the scalar truth, loads 4 neighbours
// at once, and needs shuffles only for butterflies of stride 4 and 8. Bit-exact to math/rotation.h
// and codec/scalar_codec.h; files that use it are compiled without contraction (-fmad=false).
#ifndef TURBOQUANT_KERNELS_CUDA_ROW_LANES_CUH_
#define TURBOQUANT_KERNELS_CUDA_ROW_LANES_CUH_

#include "codec/scalar_codec.h"
#include "kernels/cuda/attention_common.cuh"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

template <int kDim>
struct RowLanes {
  static constexpr int kBlocks = kDim / 16;
  static constexpr int kOdd = kDim == 80 ? 5 : kDim == 96 || kDim == 192 ? 3 : 1;
  static constexpr int kPower = kDim / kOdd;

  float v[kDim / 4];

  // All loads first, then the conversion: the type is the same for all of them.
  __device__ __forceinline__ void Load(const void* base, int dtype, int64_t at, int l) {
    if (dtype == TQ_CUDA_F32) {
      const float* from = static_cast<const float*>(base) + at + 4 * l;
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) {
        const float4 x = __ldg(reinterpret_cast<const float4*>(from + 16 * k));
        v[4 * k] = x.x;
        v[4 * k + 1] = x.y;
        v[4 * k + 2] = x.z;
        v[4 * k + 3] = x.w;
      }
      return;
    }
    const uint16_t* from = static_cast<const uint16_t*>(base) + at + 4 * l;
    uint2 words[kBlocks];
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      words[k] = __ldg(reinterpret_cast<const uint2*>(from + 16 * k));
    }
    if (dtype == TQ_CUDA_BF16) {
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) {
        v[4 * k] = __uint_as_float(words[k].x << 16);
        v[4 * k + 1] = __uint_as_float(words[k].x & 0xFFFF0000u);
        v[4 * k + 2] = __uint_as_float(words[k].y << 16);
        v[4 * k + 3] = __uint_as_float(words[k].y & 0xFFFF0000u);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) {
        const float2 low = __half22float2(reinterpret_cast<const __half2&>(words[k].x));
        const float2 high = __half22float2(reinterpret_cast<const __half2&>(words[k].y));
        v[4 * k] = low.x;
        v[4 * k + 1] = low.y;
        v[4 * k + 2] = high.x;
        v[4 * k + 3] = high.y;
      }
    }
  }

  __device__ __forceinline__ void Store(void* base, int dtype, int64_t at, int l) const {
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      const float x[4] = {v[4 * k], v[4 * k + 1], v[4 * k + 2], v[4 * k + 3]};
      StoreValues(base, dtype, at + 16 * k + 4 * l, x);
    }
  }

  __device__ __forceinline__ void Signs(const tq_cuda_rotation& r, int l) {
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      const uint32_t bits = r.negative[k / 2] >> (16 * (k % 2) + 4 * l);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        v[4 * k + e] = __uint_as_float(__float_as_uint(v[4 * k + e]) ^ (((bits >> e) & 1u) << 31));
      }
    }
  }

  __device__ __forceinline__ void Pairs(int stride_in_v) {
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) {
      if ((i & stride_in_v) != 0) continue;
      const float a = v[i], b = v[i + stride_in_v];
      v[i] = a + b;
      v[i + stride_in_v] = a - b;
    }
  }

  __device__ __forceinline__ void Butterflies(int l) {
    Pairs(1);
    Pairs(2);
#pragma unroll
    for (int h = 1; h <= 2; h *= 2) {
#pragma unroll
      for (int i = 0; i < kDim / 4; ++i) {
        const float other = __shfl_xor_sync(kAllLanes, v[i], h);
        v[i] = (l & h) != 0 ? other - v[i] : v[i] + other;
      }
    }
    // Odd parts are blocks of kPower values, each a multiple of 16: k splits into block and place.
#pragma unroll
    for (int h = 1; 16 * h < kPower; h *= 2) {
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) {
        if ((k % (kPower / 16) & h) != 0) continue;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float a = v[4 * k + e], b = v[4 * (k + h) + e];
          v[4 * k + e] = a + b;
          v[4 * (k + h) + e] = a - b;
        }
      }
    }
  }

  __device__ __forceinline__ void Mix(const float* mix, bool transpose) {
    if constexpr (kOdd > 1) {
      constexpr int kPlaces = kPower / 16;
#pragma unroll
      for (int place = 0; place < kPlaces; ++place) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float column[kOdd];
#pragma unroll
          for (int a = 0; a < kOdd; ++a) column[a] = v[4 * (a * kPlaces + place) + e];
#pragma unroll
          for (int i = 0; i < kOdd; ++i) {
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < kOdd; ++j) {
              sum = sum + __ldg(mix + (transpose ? j * kOdd + i : i * kOdd + j)) * column[j];
            }
            v[4 * (i * kPlaces + place) + e] = sum;
          }
        }
      }
    }
  }

  __device__ __forceinline__ void Rotate(const tq_cuda_rotation& r, int l) {
    Signs(r, l);
    Butterflies(l);
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) v[i] = v[i] * r.norm;
    Mix(r.mix, false);
  }

  __device__ __forceinline__ void Unrotate(const tq_cuda_rotation& r, int l) {
    Mix(r.mix, true);
    Butterflies(l);
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) v[i] = v[i] * r.norm;
    Signs(r, l);
  }
};

// FoldLanes of the 16 sums, 4 a lane; every lane of the row gets the result.
__device__ __forceinline__ float FoldRow(float (&sum)[4]) {
#pragma unroll
  for (int h = 2; h >= 1; h /= 2) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[e] = sum[e] + __shfl_xor_sync(kAllLanes, sum[e], h);
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// Runs `call` with the head dim as a compile-time constant; false: not a head dim of the cache.
template <typename Call>
bool WithHeadDim(int head_dim, Call call) {
  switch (head_dim) {
    case 64:
      call(std::integral_constant<int, 64>());
      return true;
    case 80:
      call(std::integral_constant<int, 80>());
      return true;
    case 96:
      call(std::integral_constant<int, 96>());
      return true;
    case 128:
      call(std::integral_constant<int, 128>());
      return true;
    case 192:
      call(std::integral_constant<int, 192>());
      return true;
    case 256:
      call(std::integral_constant<int, 256>());
      return true;
    default:
      return false;
  }
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ROW_LANES_CUH_
