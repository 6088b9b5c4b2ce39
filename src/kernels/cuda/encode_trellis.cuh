// Rows into trellis formats: one CTA codes one side of one page of one kv head. The rows are
// rotated by four lanes each; then every lane searches the trellis for a row of its own, the costs
// of all states in its registers. Bytes are those of codec/trellis_codec.h. Files that include this
// are compiled without contraction.
#ifndef TURBOQUANT_KERNELS_CUDA_ENCODE_TRELLIS_CUH_
#define TURBOQUANT_KERNELS_CUDA_ENCODE_TRELLIS_CUH_

#include "codec/trellis_codec.h"
#include "kernels/cuda/encode_pages.cuh"
#include "kernels/cuda/kernel_launch.cuh"
#include "kernels/cuda/tensor_ops.cuh"

namespace turboquant::cuda {

inline constexpr int kTrellisThreads = kTileTokens;

template <int kDim>
struct TrellisShared {
  static constexpr int kPitch = kDim + 1;  // floats of a row; odd, for the banks
  float rows[kTileTokens * kPitch];
  RowMeasure measures[kTileTokens];
};

// What one step of the search leaves for the way back: the states reached from their upper
// predecessor, and the best refinement of every subset.
template <int kStates>
struct TrellisStep {
  uint32_t upper[(kStates + 31) / 32];
  uint32_t choices;  // 4 bits a subset; on the way back: the index into the alphabet
};

// Squared distances of u from the nearest entry of each subset.
template <int kBits>
__device__ __forceinline__ uint32_t MeasureSubsets(const float (&alphabet)[2 << kBits], float u,
                                                   float (&metric)[4]) {
  uint32_t choices = 0;
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    float e = u - alphabet[s];
    metric[s] = e * e;
    uint32_t best = 0;
#pragma unroll
    for (int r = 1; r < 1 << (kBits - 1); ++r) {
      e = u - alphabet[4 * r + s];
      e = e * e;
      if (e < metric[s]) {
        metric[s] = e;
        best = static_cast<uint32_t>(r);
      }
    }
    choices |= best << (4 * s);
  }
  return choices;
}

// The search forwards; returns the state of least cost.
template <int kBits, int kStates>
__device__ __forceinline__ int WalkTrellis(const TrellisView& trellis, const float* y, int d,
                                           float inverse_rms, TrellisStep<kStates>* steps) {
  float alphabet[2 << kBits], cost[kStates];
#pragma unroll
  for (int i = 0; i < 2 << kBits; ++i) alphabet[i] = trellis.alphabet[i];
#pragma unroll
  for (int n = 0; n < kStates; ++n) cost[n] = n == 0 ? 0.0f : 1e30f;
#pragma unroll 1
  for (int t = 0; t < d; ++t) {
    float metric[4], next[kStates];
    TrellisStep<kStates> step{};
    step.choices = MeasureSubsets<kBits>(alphabet, y[t] * inverse_rms, metric);
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      const float v0 = cost[n >> 1] + metric[TrellisSubset(trellis, n)];
      const float v1 = cost[(n >> 1) + kStates / 2] + metric[TrellisSubset(trellis, n + kStates)];
      if (v1 < v0) step.upper[n / 32] |= 1u << (n % 32);
      next[n] = v1 < v0 ? v1 : v0;
    }
    steps[t] = step;
#pragma unroll
    for (int n = 0; n < kStates; ++n) cost[n] = next[n];
  }
  int best = 0;
  float least = cost[0];
#pragma unroll
  for (int n = 1; n < kStates; ++n) {
    if (cost[n] < least) {
      least = cost[n];
      best = n;
    }
  }
  return best;
}

// The planes of one row and its least-squares scale.
template <int kBits>
__device__ __noinline__ float SearchTrellisLane(const float* y, int d, float inverse_rms,
                                                uint8_t* planes) {
  constexpr int kMemory = TrellisMemory(kBits), kStates = 1 << kMemory;
  const TrellisView trellis = Trellis(kBits, kMemory);
  TrellisStep<kStates> steps[kMaxTileHeadDim];
  int state = WalkTrellis<kBits, kStates>(trellis, y, d, inverse_rms, steps);
  uint32_t bytes[kBits] = {};
#pragma unroll 1
  for (int t = d - 1; t >= 0; --t) {
    uint32_t word = steps[t].upper[0];
    if (kStates > 32 && state >= 32) word = steps[t].upper[(kStates - 1) / 32];
    const int upper = static_cast<int>(word >> (state % 32) & 1u);
    const int subset = TrellisSubset(trellis, state + upper * kStates);
    const uint32_t r = steps[t].choices >> (4 * subset) & 15u;
    steps[t].choices = 4 * r + static_cast<uint32_t>(subset);
    bytes[0] = bytes[0] << 1 | static_cast<uint32_t>(state & 1);
#pragma unroll
    for (int p = 1; p < kBits; ++p) bytes[p] = bytes[p] << 1 | (r >> (p - 1) & 1u);
    if (t % 8 == 0) {
#pragma unroll
      for (int p = 0; p < kBits; ++p) {
        planes[(p * d + t) / 8] = static_cast<uint8_t>(bytes[p] & 255u);
      }
    }
    state = (state >> 1) + upper * (kStates / 2);
  }
  float dot[16] = {}, norm[16] = {};
#pragma unroll 1
  for (int t = 0; t < d; t += 16) {
#pragma unroll
    for (int l = 0; l < 16; ++l) {
      const float c = trellis.alphabet[steps[t + l].choices];
      dot[l] = dot[l] + y[t + l] * c;
      norm[l] = norm[l] + c * c;
    }
  }
  return FitScale(ScaleRule::kLeastSquares, 0.0f, FoldLanes(dot), FoldLanes(norm), d);
}

// Rotates the page's rows [begin, end) into shared memory, four lanes a row.
template <int kDim>
__device__ __forceinline__ void RotatePage(const EncodeArgs& a, bool value_side, int b, int head,
                                           int page, int first, int begin, int end,
                                           TrellisShared<kDim>& sh) {
  using Row = RowLanes<kDim>;
  constexpr int kRows = kTrellisThreads / 4;  // at a time
  const int l = threadIdx.x & 3;
#pragma unroll 1
  for (int base = begin / kRows * kRows; base < end; base += kRows) {
    const int slot = base + static_cast<int>(threadIdx.x >> 2);
    const bool active = slot >= begin && slot < end;
    int source = page * kTileTokens + (active ? slot : begin) - first;
    if (a.p.row_index != nullptr) {
      source = __ldg(a.p.row_index + static_cast<int64_t>(b) * a.p.index_stride + source);
    }
    Row y;
    LoadCentred(a, value_side, b, head, page, source, l, nullptr, &y);
    y.Rotate(value_side ? a.p.cache.v_rotation : a.p.cache.k_rotation, l);
    const RowMeasure measure = MeasureLanes(y);
    if (!active) continue;
    if (l == 0) sh.measures[slot] = measure;
#pragma unroll
    for (int i = 0; i < Row::kValues; ++i) {
      sh.rows[slot * sh.kPitch + 16 * (i / 4) + 4 * l + i % 4] = y.v[i];
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kTrellisThreads)
    EncodeTrellisPages(const __grid_constant__ EncodeArgs a) {
  TrellisShared<kDim>& sh = *reinterpret_cast<TrellisShared<kDim>*>(DynamicShared());
  const tq_cuda_cache& cache = a.p.cache;
  const int b = blockIdx.z, head = blockIdx.y >> 1;
  const bool value_side = (blockIdx.y & 1) != 0;
  const TileFormat format = value_side ? a.layout.v : a.layout.k;
  if (!format.trellis) return;  // encode_pages.cuh
  const int first = __ldg(a.p.first_token + b), count = __ldg(a.p.num_rows + b);
  const int page = first / kTileTokens + blockIdx.x;
  const int begin = max(first - page * kTileTokens, 0);
  const int end = min(first + count - page * kTileTokens, kTileTokens);
  if (begin >= end) return;
  RotatePage<kDim>(a, value_side, b, head, page, first, begin, end, sh);
  __syncthreads();
  const int slot = threadIdx.x;
  if (slot < begin || slot >= end) return;
  const int physical = __ldg(cache.page_table + static_cast<int64_t>(b) * cache.page_stride + page);
  uint8_t* record = static_cast<uint8_t*>(cache.records) +
                    (static_cast<size_t>(physical) * cache.num_kv_heads + head) * a.layout.bytes;
  const int row_bytes = format.bits * kDim / 8;
  uint8_t* planes = record + (value_side ? a.layout.v_codes : 0) + slot * row_bytes;
  const float* y = sh.rows + slot * sh.kPitch;
  const RowMeasure m = sh.measures[slot];
  uint16_t scale = 0;
  if (m.usable) {
    const float fit = format.bits == 2   ? SearchTrellisLane<2>(y, kDim, m.inverse_rms, planes)
                      : format.bits == 3 ? SearchTrellisLane<3>(y, kDim, m.inverse_rms, planes)
                                         : SearchTrellisLane<4>(y, kDim, m.inverse_rms, planes);
    scale = ScaleToHalf(fit);
  } else {
    for (int i = 0; i < row_bytes; ++i) planes[i] = 0;
  }
  reinterpret_cast<uint16_t*>(
      record + (value_side ? a.layout.v_scales : a.layout.k_scales))[ScaleSlot(slot)] = scale;
  if (!m.valid && a.p.bad_rows != nullptr) atomicAdd(a.p.bad_rows, 1);
}

template <int kDim>
cudaError_t LaunchTrellisPages(const EncodeArgs& args, cudaStream_t stream) {
  return LaunchKernel<EncodeTrellisPages<kDim>>(EncodeGrid(args.p), kTrellisThreads,
                                                static_cast<int>(sizeof(TrellisShared<kDim>)),
                                                stream, args);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ENCODE_TRELLIS_CUH_
