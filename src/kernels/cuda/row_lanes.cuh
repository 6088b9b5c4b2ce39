// A row spread over kLanes (1, 2 or 4) lanes: lane l holds dims 16 k + kPer l + e, k < d / 16, e <
// kPer = 16 / kLanes, at v[kPer k + e].
//
// So lane l owns classes kPer l .. of the 16-lane sums of the scalar truth, loads kPer neighbours
// at once, and needs shuffles only for butterflies of stride kPer .. 8. Lane l + 1 of a row is
// kApart lanes after lane l. Bit-exact to math/rotation.h and codec/scalar_codec.h; files that use
// it are compiled without contraction (-fmad=false).
#ifndef TURBOQUANT_KERNELS_CUDA_ROW_LANES_CUH_
#define TURBOQUANT_KERNELS_CUDA_ROW_LANES_CUH_

#include "codec/scalar_codec.h"
#include "kernels/cuda/attention_common.cuh"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

inline constexpr float kFloatMax = 3.4028234e38f;

// n (2 or 4) neighbouring words of shared memory, or of global memory that nobody writes.
template <int n>
__device__ __forceinline__ void LoadWords(const void* from, bool global, uint32_t* words) {
  if constexpr (n == 4) {
    const uint4* at = static_cast<const uint4*>(from);
    const uint4 x = global ? __ldg(at) : *at;
    words[0] = x.x;
    words[1] = x.y;
    words[2] = x.z;
    words[3] = x.w;
  } else {
    const uint2* at = static_cast<const uint2*>(from);
    const uint2 x = global ? __ldg(at) : *at;
    words[0] = x.x;
    words[1] = x.y;
  }
}

template <int kDim, int kLanes = 4, int kApart = 1>
struct RowLanes {
  static constexpr int kBlocks = kDim / 16;
  static constexpr int kPer = 16 / kLanes;
  static constexpr int kStep = kApart;
  static constexpr int kValues = kDim / kLanes;
  static constexpr int kSignWords = kDim / 2;  // of a row
  static constexpr int kOdd = kDim == 80 ? 5 : kDim == 96 || kDim == 192 ? 3 : 1;
  static constexpr int kPower = kDim / kOdd;

  float v[kValues];

  // All loads first, then the conversion: the type is the same for all of them. signs: none, or
  // the words of FillSigns.
  __device__ __forceinline__ void Load(const void* base, int dtype, int64_t at, int l,
                                       const uint32_t* signs = nullptr) {
    constexpr int kWords = kPer / 2;  // of 16-bit values, a block
    if (dtype == TQ_CUDA_F32) {
      const float* from = static_cast<const float*>(base) + at + kPer * l;
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) {
#pragma unroll
        for (int e = 0; e < kPer; e += 4) {
          const float4 x = __ldg(reinterpret_cast<const float4*>(from + 16 * k + e));
          v[kPer * k + e] = x.x;
          v[kPer * k + e + 1] = x.y;
          v[kPer * k + e + 2] = x.z;
          v[kPer * k + e + 3] = x.w;
        }
      }
      if (signs == nullptr) return;
#pragma unroll
      for (int i = 0; i < kValues; i += 2) {
        const uint32_t word = signs[(i / kPer * kLanes + l) * kWords + i % kPer / 2];
        v[i] = __uint_as_float(__float_as_uint(v[i]) ^ (word << 16));
        v[i + 1] = __uint_as_float(__float_as_uint(v[i + 1]) ^ (word & 0x80000000u));
      }
      return;
    }
    const uint16_t* from = static_cast<const uint16_t*>(base) + at + kPer * l;
    uint32_t words[kBlocks * kWords];
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      LoadWords<kWords>(from + 16 * k, true, &words[k * kWords]);
    }
    if (signs != nullptr) {
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) {
        uint32_t sign[kWords];
        LoadWords<kWords>(signs + (k * kLanes + l) * kWords, false, sign);
#pragma unroll
        for (int i = 0; i < kWords; ++i) words[k * kWords + i] ^= sign[i];
      }
    }
    if (dtype == TQ_CUDA_BF16) {
#pragma unroll
      for (int i = 0; i < kValues / 2; ++i) {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kValues / 2; ++i) {
        const float2 x = __half22float2(reinterpret_cast<const __half2&>(words[i]));
        v[2 * i] = x.x;
        v[2 * i + 1] = x.y;
      }
    }
  }

  // Word i of the signs of a row: what two 16-bit values, dims 2 i and 2 i + 1, are XORed with.
  static __device__ __forceinline__ uint32_t SignWord(const tq_cuda_rotation& r, int i) {
    const uint32_t two = (r.negative[i / 16] >> (2 * (i % 16))) & 3u;
    return ((two & 1u) << 15) | ((two & 2u) << 30);
  }

  __device__ __forceinline__ void Store(void* base, int dtype, int64_t at, int l) const {
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      float x[kPer];
#pragma unroll
      for (int e = 0; e < kPer; ++e) x[e] = v[kPer * k + e];
      StoreValues(base, dtype, at + 16 * k + kPer * l, x);
    }
  }

  __device__ __forceinline__ void Signs(const tq_cuda_rotation& r, int l) {
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      const uint32_t bits = r.negative[k / 2] >> (16 * (k % 2) + kPer * l);
#pragma unroll
      for (int e = 0; e < kPer; ++e) {
        float& x = v[kPer * k + e];
        x = __uint_as_float(__float_as_uint(x) ^ (((bits >> e) & 1u) << 31));
      }
    }
  }

  // Butterflies of values `stride` apart in the lane, inside blocks of kPower dims.
  __device__ __forceinline__ void Pairs(int stride) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if ((i % (kPower / kLanes) & stride) != 0) continue;
      const float a = v[i], b = v[i + stride];
      v[i] = a + b;
      v[i + stride] = a - b;
    }
  }

  __device__ __forceinline__ void Butterflies(int l) {
#pragma unroll
    for (int h = 1; h < kPer; h *= 2) Pairs(h);
#pragma unroll
    for (int h = 1; h < kLanes; h *= 2) {
      // A product with +-1 is exact: one rounding, as of the sum or difference.
      const float sign = (l & h) != 0 ? -1.0f : 1.0f;
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        v[i] = fmaf(sign, v[i], __shfl_xor_sync(kAllLanes, v[i], h * kApart));
      }
    }
    // kPower is a multiple of 16, so strides of 16 dims and more stay in the lane.
#pragma unroll
    for (int h = 16; h < kPower; h *= 2) Pairs(h / kLanes);
  }

  __device__ __forceinline__ void Mix(const float* mix, bool transpose) {
    if constexpr (kOdd > 1) {
      constexpr int kPlaces = kPower / 16;
#pragma unroll
      for (int place = 0; place < kPlaces; ++place) {
#pragma unroll
        for (int e = 0; e < kPer; ++e) {
          float column[kOdd];
#pragma unroll
          for (int a = 0; a < kOdd; ++a) column[a] = v[kPer * (a * kPlaces + place) + e];
#pragma unroll
          for (int i = 0; i < kOdd; ++i) {
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < kOdd; ++j) {
              sum = sum + __ldg(mix + (transpose ? j * kOdd + i : i * kOdd + j)) * column[j];
            }
            v[kPer * (i * kPlaces + place) + e] = sum;
          }
        }
      }
    }
  }

  __device__ __forceinline__ void Rotate(const tq_cuda_rotation& r, int l) {
    Signs(r, l);
    RotateSigned(r, l);
  }

  // The rotation of a row whose signs are applied.
  __device__ __forceinline__ void RotateSigned(const tq_cuda_rotation& r, int l) {
    Butterflies(l);
#pragma unroll
    for (int i = 0; i < kValues; ++i) v[i] = v[i] * r.norm;
    Mix(r.mix, false);
  }

  __device__ __forceinline__ void Unrotate(const tq_cuda_rotation& r, int l) {
    Mix(r.mix, true);
    Butterflies(l);
#pragma unroll
    for (int i = 0; i < kValues; ++i) v[i] = v[i] * r.norm;
    Signs(r, l);
  }
};

// The steps of FoldLanes from `width` down.
template <int width, int n>
__device__ __forceinline__ void FoldHalves(float (&sum)[n]) {
#pragma unroll
  for (int e = 0; e < width; ++e) sum[e] = sum[e] + sum[e + width];
  if constexpr (width > 1) FoldHalves<width / 2>(sum);
}

// FoldLanes of the 16 sums, kPer a lane; every lane of the row gets the result.
template <class Row>
__device__ __forceinline__ float FoldRow(float (&sum)[Row::kPer]) {
  constexpr int kPer = Row::kPer;
#pragma unroll
  for (int h = 16 / kPer / 2; h >= 1; h /= 2) {
#pragma unroll
    for (int e = 0; e < kPer; ++e) {
      sum[e] = sum[e] + __shfl_xor_sync(kAllLanes, sum[e], h * Row::kStep);
    }
  }
  FoldHalves<kPer / 2>(sum);
  return sum[0];
}

// FoldLanes of two sums at once, for lane 0 of the row: half of the lanes fold `a`, the others `b`.
template <class Row>
__device__ __forceinline__ void FoldRows(float (&a)[Row::kPer], float (&b)[Row::kPer], int l,
                                         float* sum_a, float* sum_b) {
  constexpr int kPer = Row::kPer, kHalf = 8 / kPer;
  if constexpr (kPer == 16) {
    *sum_a = FoldRow<Row>(a);
    *sum_b = FoldRow<Row>(b);
  } else {
    const bool upper = (l & kHalf) != 0;
    float sum[kPer];
#pragma unroll
    for (int e = 0; e < kPer; ++e) {
      const float other = __shfl_xor_sync(kAllLanes, upper ? a[e] : b[e], kHalf * Row::kStep);
      sum[e] = (upper ? b[e] : a[e]) + other;
    }
    if constexpr (kHalf == 2) {
#pragma unroll
      for (int e = 0; e < kPer; ++e) {
        sum[e] = sum[e] + __shfl_xor_sync(kAllLanes, sum[e], Row::kStep);
      }
    }
    FoldHalves<kPer / 2>(sum);
    *sum_a = sum[0];
    *sum_b = __shfl_xor_sync(kAllLanes, sum[0], kHalf * Row::kStep);
  }
}

struct RowMeasure {
  float inverse_rms;
  bool valid;   // no NaN, no Inf, an energy within float
  bool usable;  // and not zero
};

template <class Row>
__device__ __forceinline__ RowMeasure MeasureLanes(const Row& y) {
  float sums[Row::kPer];  // squares are no -0: no zero to start with
#pragma unroll
  for (int i = 0; i < Row::kValues; ++i) {
    const float square = y.v[i] * y.v[i];
    sums[i % Row::kPer] = i < Row::kPer ? square : sums[i % Row::kPer] + square;
  }
  const float energy = FoldRow<Row>(sums);
  const float inverse_rms = 1.0f / sqrtf(energy / static_cast<float>(Row::kBlocks * 16));
  const bool valid = energy <= kFloatMax;
  return {inverse_rms, valid, valid && energy > 0.0f && inverse_rms <= kFloatMax};
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
