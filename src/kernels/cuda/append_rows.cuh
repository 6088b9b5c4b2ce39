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
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t from = at + Dim(lane, i);
      v[i] = dtype == TQ_CUDA_F32
                 ? __ldg(static_cast<const float*>(base) + from)
                 : WordToFloat(__ldg(static_cast<const uint16_t*>(base) + from), 0, dtype);
    }
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

template <int kDim>
__global__ void __launch_bounds__(32 * kAppendWarps)
    AppendRows(const __grid_constant__ AppendArgs a) {
  using Row = WarpRow<kDim>;
  constexpr int kMostLow = kDim / 32, kMostHigh = kDim / 64;  // words of a lane
  __shared__ uint8_t shared_nibbles[kAppendWarps][kDim];
  const tq_cuda_cache& cache = a.p.cache;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int task = blockIdx.x * kAppendWarps + warp, heads = cache.num_kv_heads;
  if (task >= a.p.batch * heads * 2) return;
  const bool value_side = (task & 1) != 0;
  const int head = (task >> 1) % heads, b = (task >> 1) / heads;
  const int bits = value_side ? a.layout.v.bits : a.layout.k.bits;
  const int first = __ldg(a.p.first_token + b), count = __ldg(a.p.num_rows + b);
  const int source =
      a.p.row_index != nullptr ? __ldg(a.p.row_index + int64_t{b} * a.p.index_stride) : 0;
  const float centroid = Centroids(bits)[lane & ((1 << bits) - 1)];
  const float threshold = Thresholds(bits)[min(lane, (1 << bits) - 2)];
  Row y;
  y.Load(
      value_side ? a.p.rows.v : a.p.rows.k, a.p.rows.dtype,
      b * a.p.rows.sequence_stride + source * a.p.rows.token_stride + head * a.p.rows.head_stride,
      lane);
  if (count < 1) return;
  const int page = first / kTileTokens;
  const int physical = __ldg(cache.page_table + int64_t{b} * cache.page_stride + page);
  uint8_t* record = static_cast<uint8_t*>(cache.records) +
                    (static_cast<size_t>(physical) * heads + head) * a.layout.bytes;
  uint32_t* area = reinterpret_cast<uint32_t*>(record + (value_side ? a.layout.v_codes : 0));

  // What the words hold now is on its way while the row is coded.
  const TokenWords<kDim> words{bits, first % kTileTokens, value_side};
  const int num_low = words.NumLow(), num_high = words.NumHigh();
  WordPlace low[kMostLow] = {}, high[kMostHigh] = {};
  uint32_t low_old[kMostLow] = {}, high_old[kMostHigh] = {};
#pragma unroll
  for (int k = 0; k < kMostLow; ++k) {
    if (lane + 32 * k >= num_low) continue;
    low[k] = words.Low(lane + 32 * k);
    low_old[k] = area[low[k].index];
  }
#pragma unroll
  for (int k = 0; k < kMostHigh; ++k) {
    if (lane + 32 * k >= num_high) continue;
    high[k] = words.High(lane + 32 * k);
    high_old[k] = area[high[k].index];
  }

  if (!value_side && cache.mean_tokens > 0) {
    const int mean = __ldg(cache.mean_table + int64_t{b} * cache.mean_stride +
                           page * kTileTokens / cache.mean_tokens);
    if (mean >= 0) {
      Row m;
      m.Load(cache.means, TQ_CUDA_F16, (int64_t{mean} * heads + head) * kDim, lane);
#pragma unroll
      for (int i = 0; i < Row::kEach; ++i) y.v[i] = y.v[i] - m.v[i];
    }
  }
  y.Rotate(value_side ? cache.v_rotation : cache.k_rotation, lane);
  float term[Row::kEach];
#pragma unroll
  for (int i = 0; i < Row::kEach; ++i) term[i] = y.v[i] * y.v[i];
  const float energy = Row::Sum(term, lane);
  const float inverse_rms = 1.0f / sqrtf(energy / static_cast<float>(kDim));
  const bool valid = energy <= kFloatMax;
  const bool usable = valid && energy > 0.0f && inverse_rms <= kFloatMax;
  float square[Row::kEach];
  uint8_t* nibbles = shared_nibbles[warp];
#pragma unroll
  for (int i = 0; i < Row::kEach; ++i) {
    const float u = y.v[i] * inverse_rms;
    int code = 0;
    for (int step = 1 << (bits - 1); step > 0; step /= 2) {
      if (u > __shfl_sync(kAllLanes, threshold, code + step - 1)) code += step;
    }
    const float c = __shfl_sync(kAllLanes, centroid, code);
    term[i] = y.v[i] * c;
    square[i] = c * c;
    nibbles[Row::Dim(lane, i)] = static_cast<uint8_t>(CodeToNibble(bits, usable ? code : 0));
  }
  const float dot = Row::Sum(term, lane), norm = Row::Sum(square, lane);
  __syncwarp();
#pragma unroll
  for (int k = 0; k < kMostLow; ++k) {
    if (lane + 32 * k >= num_low) continue;
    area[low[k].index] = (low_old[k] & ~low[k].mask) | words.LowBits(lane + 32 * k, nibbles);
  }
#pragma unroll
  for (int k = 0; k < kMostHigh; ++k) {
    if (lane + 32 * k >= num_high) continue;
    area[high[k].index] = (high_old[k] & ~high[k].mask) | words.HighBits(lane + 32 * k, nibbles);
  }
  if (lane != 0) return;
  const uint16_t scale =
      usable ? ScaleToHalf(FitScale(ScaleRule::kLeastSquares, 0.0f, dot, norm, kDim)) : 0;
  reinterpret_cast<uint16_t*>(
      record +
      (value_side ? a.layout.v_scales : a.layout.k_scales))[ScaleSlot(first % kTileTokens)] = scale;
  if (!valid && a.p.bad_rows != nullptr) atomicAdd(a.p.bad_rows, 1);
}

inline dim3 AppendGrid(const tq_cuda_encode_params& p) {
  const int tasks = p.batch * p.cache.num_kv_heads * 2;
  return dim3(static_cast<unsigned>((tasks + kAppendWarps - 1) / kAppendWarps));
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_APPEND_ROWS_CUH_
