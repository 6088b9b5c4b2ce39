// One new row of each sequence into the paged cache, as a decoding step has it: one warp a row, so
// that the latency of one row and not the throughput of many is short. Codes and scales are those
// of codec/scalar_codec.h bit for bit. Files that include this are compiled without
// contraction.
#ifndef TURBOQUANT_KERNELS_CUDA_APPEND_ROWS_CUH_
#define TURBOQUANT_KERNELS_CUDA_APPEND_ROWS_CUH_

#include "kernels/cuda/encode.h"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/cuda/token_words.h"

namespace turboquant::cuda {

inline constexpr int kAppendWarps = 4;

struct AppendArgs {
  tq_cuda_encode_params p;
  RecordLayout layout;
};

// A row spread over a warp: lane c + 16 h holds dims 16 (h kEach + i) + c, i < kEach. So a lane is
// one class of the 16-lane sums of the scalar truth, and half of its terms.
template <int kDim>
struct WarpRow {
  static constexpr int kEach = kDim / 32;
  float v[kEach];

  static __device__ __forceinline__ int Dim(int lane, int i) {
    return 16 * ((lane >> 4) * kEach + i) + (lane & 15);
  }

  __device__ __forceinline__ void Load(const void* base, int dtype, int64_t at, int lane) {
    at += Dim(lane, 0);
    if (dtype == TQ_CUDA_F32) {
      const float* from = static_cast<const float*>(base) + at;
#pragma unroll
      for (int i = 0; i < kEach; ++i) v[i] = __ldg(from + 16 * i);
      return;
    }
    const uint16_t* from = static_cast<const uint16_t*>(base) + at;
    uint32_t words[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) words[i] = __ldg(from + 16 * i);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = WordToFloat(words[i], 0, dtype);
  }

  __device__ __forceinline__ void Across(int h, int lane) {
    const float sign = (lane & h) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      v[i] = fmaf(sign, v[i], __shfl_xor_sync(kAllLanes, v[i], h));
    }
  }

  __device__ __forceinline__ void Rotate(const tq_cuda_rotation& r, int lane) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int dim = Dim(lane, i);
      const uint32_t sign = ((r.negative[dim / 32] >> (dim % 32)) & 1u) << 31;
      v[i] = __uint_as_float(__float_as_uint(v[i]) ^ sign);
    }
#pragma unroll
    for (int h = 1; h < 16; h *= 2) Across(h, lane);
#pragma unroll
    for (int h = 1; h < kEach; h *= 2) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if ((i & h) != 0) continue;
        const float a = v[i], b = v[i + h];
        v[i] = a + b;
        v[i + h] = a - b;
      }
    }
    Across(16, lane);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = v[i] * r.norm;
  }

  // Sum16 of terms in the order of v: the first half of a class, then the second, then the fold.
  static __device__ __forceinline__ float Sum(const float (&term)[kEach], int lane) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kEach; ++i) sum = sum + term[i];
    sum = __shfl_sync(kAllLanes, sum, lane & 15);
#pragma unroll
    for (int i = 0; i < kEach; ++i) sum = sum + term[i];
    sum = __shfl_sync(kAllLanes, sum, 16 + (lane & 15));
#pragma unroll
    for (int h = 8; h >= 1; h /= 2) sum = sum + __shfl_xor_sync(kAllLanes, sum, h);
    return sum;
  }
};

// One side of one row of sequence b.
template <int kDim, int kBits, bool kValues>
__device__ __forceinline__ void AppendRow(const AppendArgs& a, int b, int head, int lane,
                                          uint8_t* nibbles) {
  using Row = WarpRow<kDim>;
  using Words = TokenWords<kDim, kBits, kValues>;
  constexpr int kLowEach = (Words::kLow + 31) / 32, kHighEach = (Words::kHigh + 31) / 32;
  const tq_cuda_cache& cache = a.p.cache;
  const float centroid = Centroids(kBits)[lane & ((1 << kBits) - 1)];
  const float threshold = Thresholds(kBits)[min(lane, (1 << kBits) - 2)];
  // Launched while the kernel that makes the rows ends.
  WaitForKernelBefore();
  LetNextKernelStart();
  const int first = __ldg(a.p.first_token + b), count = __ldg(a.p.num_rows + b);
  const int source =
      a.p.row_index != nullptr ? __ldg(a.p.row_index + int64_t{b} * a.p.index_stride) : 0;
  Row y;
  y.Load(
      kValues ? a.p.rows.v : a.p.rows.k, a.p.rows.dtype,
      b * a.p.rows.sequence_stride + source * a.p.rows.token_stride + head * a.p.rows.head_stride,
      lane);
  if (count < 1) return;
  const int page = first / kTileTokens;
  const int physical = __ldg(cache.page_table + int64_t{b} * cache.page_stride + page);
  uint8_t* record = static_cast<uint8_t*>(cache.records) +
                    (static_cast<size_t>(physical) * cache.num_kv_heads + head) * a.layout.bytes;
  uint32_t* area = reinterpret_cast<uint32_t*>(record + (kValues ? a.layout.v_codes : 0));

  // What the words hold now is on its way while the row is coded.
  const Words words{first % kTileTokens};
  WordPlace low[kLowEach], high[kHighEach + 1];
  uint32_t low_old[kLowEach] = {}, high_old[kHighEach + 1] = {};
#pragma unroll
  for (int k = 0; k < kLowEach; ++k) {
    low[k] = words.Low(lane + 32 * k);
    if (lane + 32 * k < Words::kLow) low_old[k] = area[low[k].index];
  }
#pragma unroll
  for (int k = 0; k < kHighEach; ++k) {
    high[k] = words.High(lane + 32 * k);
    if (lane + 32 * k < Words::kHigh) high_old[k] = area[high[k].index];
  }

  if (!kValues && cache.mean_tokens > 0) {
    const int mean = __ldg(cache.mean_table + int64_t{b} * cache.mean_stride +
                           page * kTileTokens / cache.mean_tokens);
    if (mean >= 0) {
      Row m;
      m.Load(cache.means, TQ_CUDA_F16, (int64_t{mean} * cache.num_kv_heads + head) * kDim, lane);
#pragma unroll
      for (int i = 0; i < Row::kEach; ++i) y.v[i] = y.v[i] - m.v[i];
    }
  }
  y.Rotate(kValues ? cache.v_rotation : cache.k_rotation, lane);
  float term[Row::kEach];
#pragma unroll
  for (int i = 0; i < Row::kEach; ++i) term[i] = y.v[i] * y.v[i];
  const float energy = Row::Sum(term, lane);
  const float inverse_rms = 1.0f / sqrtf(energy / static_cast<float>(kDim));
  const bool valid = energy <= kFloatMax;
  const bool usable = valid && energy > 0.0f && inverse_rms <= kFloatMax;
  float square[Row::kEach];
#pragma unroll
  for (int i = 0; i < Row::kEach; ++i) {
    const float u = y.v[i] * inverse_rms;
    int code = 0;
#pragma unroll
    for (int step = 1 << (kBits - 1); step > 0; step /= 2) {
      if (u > __shfl_sync(kAllLanes, threshold, code + step - 1)) code += step;
    }
    const float c = __shfl_sync(kAllLanes, centroid, code);
    term[i] = y.v[i] * c;
    square[i] = c * c;
    nibbles[Row::Dim(lane, i)] = static_cast<uint8_t>(CodeToNibble(kBits, usable ? code : 0));
  }
  const float dot = Row::Sum(term, lane), norm = Row::Sum(square, lane);
  __syncwarp();
#pragma unroll
  for (int k = 0; k < kLowEach; ++k) {
    if (lane + 32 * k >= Words::kLow) continue;
    area[low[k].index] = (low_old[k] & ~low[k].mask) | words.LowBits(lane + 32 * k, nibbles);
  }
#pragma unroll
  for (int k = 0; k < kHighEach; ++k) {
    if (lane + 32 * k >= Words::kHigh) continue;
    area[high[k].index] = (high_old[k] & ~high[k].mask) | words.HighBits(lane + 32 * k, nibbles);
  }
  if (lane != 0) return;
  const uint16_t scale =
      usable ? ScaleToHalf(FitScale(ScaleRule::kLeastSquares, 0.0f, dot, norm, kDim)) : 0;
  reinterpret_cast<uint16_t*>(
      record + (kValues ? a.layout.v_scales : a.layout.k_scales))[ScaleSlot(first % kTileTokens)] =
      scale;
  if (!valid && a.p.bad_rows != nullptr) atomicAdd(a.p.bad_rows, 1);
}

template <int kDim, bool kValues>
__device__ __forceinline__ void AppendSide(const AppendArgs& a, int b, int head, int lane,
                                           uint8_t* nibbles) {
  switch (kValues ? a.layout.v.bits : a.layout.k.bits) {
    case 2:
      return AppendRow<kDim, 2, kValues>(a, b, head, lane, nibbles);
    case 3:
      return AppendRow<kDim, 3, kValues>(a, b, head, lane, nibbles);
    default:
      return AppendRow<kDim, 4, kValues>(a, b, head, lane, nibbles);
  }
}

// Rows of keys, then rows of values: the warps of a CTA share their instructions.
template <int kDim>
__global__ void __launch_bounds__(32 * kAppendWarps)
    AppendRows(const __grid_constant__ AppendArgs a) {
  alignas(4) __shared__ uint8_t shared_nibbles[kAppendWarps][kDim];
  // The same numbers for all lanes, and the compiler sees that.
  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x >> 5), 0);
  const int lane = threadIdx.x & 31;
  const int row = blockIdx.x * kAppendWarps + warp, heads = a.p.cache.num_kv_heads;
  if (row >= a.p.batch * heads) return;
  const int b = row / heads, head = row - b * heads;
  if (blockIdx.y == 0) {
    AppendSide<kDim, false>(a, b, head, lane, shared_nibbles[warp]);
  } else {
    AppendSide<kDim, true>(a, b, head, lane, shared_nibbles[warp]);
  }
}

inline dim3 AppendGrid(const tq_cuda_encode_params& p) {
  const int rows = p.batch * p.cache.num_kv_heads;
  return dim3(static_cast<unsigned>((rows + kAppendWarps - 1) / kAppendWarps), 2);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_APPEND_ROWS_CUH_
