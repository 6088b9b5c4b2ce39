// The kernels of prefill: queries into rotated fp16, a window of codes into fp16 rows, and dense
// attention of a tile of query rows over such rows or over exact ones.
//
// A row is a (query token, head of the group) of one kv head, head fastest, so that one pass over
// the keys serves the whole group. The state of a row, (reference logit, sum of weights, weighted
// values), lives in the workspace between launches. It grows over the windows of the coded prefix
// in rotated space, is rotated back once, and goes on over exact rows and the chunk itself.
#ifndef TURBOQUANT_KERNELS_CUDA_PREFILL_KERNELS_CUH_
#define TURBOQUANT_KERNELS_CUDA_PREFILL_KERNELS_CUH_

#include "codec/trellis_codec.h"
#include "kernels/cuda/prefill_plan.h"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/cuda/tensor_ops.cuh"

namespace turboquant::cuda {

// Weights of fp16 are at most 2^14, so that a token of 2^-25 of the largest weight still has all of
// its 11 bits.
inline constexpr float kHalfWeightBits = 14.0f;
// Rotated means are stored divided by this: no fp16 mean leaves the range of fp16.
inline constexpr float kMeanUnit = 16.0f;
inline constexpr float kLowPart = 2048.0f;
inline constexpr float kMostHalf = 65504.0f;

struct PrefillArgs {
  tq_cuda_prefill_params p;
  RecordLayout layout;
  int total_rows;  // of one kv head
  // The workspace.
  uint16_t* rotated;
  float* factors;
  float* values;
  float2* sums;
  uint16_t* keys;
  float* key_scales;
  uint16_t* coded_values;
  uint16_t* means;
  int32_t* mean_index;
  uint16_t* dense_q;
  uint16_t* dense_out;
  float* dense_lse;
  int32_t* dense_lengths;
  int merge;   // the piece whose result of cuDNN joins the state
  int finish;  // 1: these keys are the last
  int chunk;   // 1: exact keys are the chunk's
  PrefillStep step;
};

// The sequence of a query row that is none of a piece: pieces in order, few.
__device__ __forceinline__ const PrefillPiece& PieceOfTile(const PrefillStep& step, int tile) {
  int i = 0;
  while (i + 1 < step.num_pieces && step.pieces[i + 1].first_tile <= tile) ++i;
  return step.pieces[i];
}

// Where the decoded rows of a piece and kv head begin.
__device__ __forceinline__ int64_t FirstSlot(const PrefillArgs& a, const PrefillPiece& piece,
                                             int head) {
  return static_cast<int64_t>(piece.first_key) * a.p.cache.num_kv_heads +
         static_cast<int64_t>(head) * PieceSlots(piece);
}

// The piece that a page of the scratch belongs to.
__device__ __forceinline__ const PrefillPiece& PieceOfPage(const PrefillStep& step, int page) {
  int i = 0;
  while (i + 1 < step.num_pieces &&
         (step.pieces[i].keys == 0 ||
          step.pieces[i].first_key + PieceSlots(step.pieces[i]) <= page * kTileTokens)) {
    ++i;
  }
  return step.pieces[i];
}

__device__ __forceinline__ const int32_t* MeanOf(const tq_cuda_cache& cache,
                                                 const PrefillPiece& piece, int token) {
  return cache.mean_table + static_cast<int64_t>(piece.sequence) * cache.mean_stride +
         token / cache.mean_tokens;
}

// ---- queries ----

inline constexpr int kRotateThreads = 256;

// 4 lanes a row, 64 rows a CTA; grid (rows / 64, kv heads).
template <int kDim>
__global__ void __launch_bounds__(kRotateThreads)
    RotateQueries(const __grid_constant__ PrefillArgs a) {
  const int row = static_cast<int>(blockIdx.x) * 64 + (static_cast<int>(threadIdx.x) >> 2);
  const int l = threadIdx.x & 3, head = blockIdx.y;
  const int safe = row < a.total_rows ? row : 0;
  RowLanes<kDim> y;
  y.Load(a.p.q, a.p.dtype,
         (safe / a.p.group) * a.p.q_token_stride +
             (head * a.p.group + safe % a.p.group) * a.p.q_head_stride,
         l);
  y.Rotate(a.p.cache.k_rotation, l);
  float most = 0.0f;
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) most = fmaxf(most, fabsf(y.v[i]));
  most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
  most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
  // A power of two, so that dividing by it rounds nothing: exponents below 2^-100 count as that.
  const uint32_t exponent = (__float_as_uint(fminf(fmaxf(most, 1e-30f), 1e38f)) >> 23) & 255u;
  const float factor = __uint_as_float(exponent << 23);
  const float inverse = __uint_as_float((254u - exponent) << 23);
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) y.v[i] *= inverse;
  if (row >= a.total_rows) return;
  const int64_t at = static_cast<int64_t>(row) * a.p.cache.num_kv_heads + head;
  y.Store(a.rotated, TQ_CUDA_F16, at * kDim, l);
  if (l == 0) a.factors[static_cast<int64_t>(head) * a.total_rows + row] = factor;
}

// Queries for cuDNN: as they are, in fp16, which has all bits of a bf16 value from 2^-14 to 2^15
// and of smaller ones down to 2^-24. 4 lanes a row; grid (rows / 64, kv heads).
template <int kDim>
__global__ void __launch_bounds__(kRotateThreads)
    CopyQueries(const __grid_constant__ PrefillArgs a) {
  const int row = static_cast<int>(blockIdx.x) * 64 + (static_cast<int>(threadIdx.x) >> 2);
  const int l = threadIdx.x & 3, head = blockIdx.y;
  if (row >= a.total_rows) return;
  RowLanes<kDim> y;
  y.Load(a.p.q, a.p.dtype,
         (row / a.p.group) * a.p.q_token_stride +
             (head * a.p.group + row % a.p.group) * a.p.q_head_stride,
         l);
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) y.v[i] = fminf(fmaxf(y.v[i], -kMostHalf), kMostHalf);
  y.Store(a.dense_q, TQ_CUDA_F16,
          (static_cast<int64_t>(row) * a.p.cache.num_kv_heads + head) * kDim, l);
}

// ---- codes ----

inline constexpr int kDecodeThreads = 256;

__device__ __forceinline__ float StepOf(TileFormat f, int code) {
  if (f.trellis) {
    return static_cast<float>(Trellis(f.bits, TrellisMemory(f.bits)).steps[code]);
  }
  if (f.bits == 8) return Centroids(8)[code];
  return static_cast<float>(CentroidSteps(f.bits)[code]);
}

// The step of 1 in the code book.
__device__ __forceinline__ float StepUnit(TileFormat f) {
  if (f.trellis) return Trellis(f.bits, TrellisMemory(f.bits)).unit;
  return f.bits == 8 ? 1.0f : CentroidUnit(f.bits);
}

template <int kDim>
struct DecodeShared {
  static constexpr int kPitch = kDim + 8;  // halves; 16-byte columns of rows in different banks
  alignas(16) uint16_t rows[kTileTokens * kPitch];
  uint32_t pairs[256];  // fragments: steps of two nibbles; rows: the step of a code
};

template <int kDim>
__device__ __forceinline__ void FillSteps(DecodeShared<kDim>* sh, TileFormat f) {
  const int count = 1 << (f.bits + (f.trellis ? 1 : 0));
  const bool fragments = OrderOf(f, kDim) == TileOrder::kFragment;
  const int i = threadIdx.x;
  if (fragments) {
    const int low = NibbleToCode(f.bits, i & 15 & (count - 1));
    const int high = NibbleToCode(f.bits, (i >> 4) & (count - 1));
    sh->pairs[i] = PackHalves(StepOf(f, low), StepOf(f, high));
  } else {
    sh->pairs[i] = PackHalves(i < count ? StepOf(f, i) : 0.0f, 0.0f);
  }
}

// The steps of a page's codes as fp16 rows in shared memory.
template <int kDim>
__device__ __forceinline__ void UnpackPage(DecodeShared<kDim>* sh, const uint8_t* area,
                                           TileFormat f, bool value_side) {
  constexpr int kPitch = DecodeShared<kDim>::kPitch;
  if constexpr (kDim == 64 || kDim == 128 || kDim == 256) {
    if (OrderOf(f, kDim) == TileOrder::kFragment) {
      for (int i = threadIdx.x; i < 2 * kDim; i += kDecodeThreads) {
        const int quad = i / 32, lane = i % 32, g = lane >> 2, t = lane & 3;
        uint32_t s[4];
        LoadQuad(f.bits, reinterpret_cast<const uint32_t*>(area), kDim, quad, lane, s);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t two[4];
#pragma unroll
          for (int n = 0; n < 4; ++n) two[n] = sh->pairs[(s[j] >> (8 * n)) & 255u];
          if (!value_side) {
            constexpr int kWords = kDim / 32;
            const int n = 4 * quad + j;
            *reinterpret_cast<uint4*>(sh->rows + (8 * (n / kWords) + g) * kPitch + t * (kDim / 4) +
                                      8 * (n % kWords)) =
                make_uint4(two[0], two[1], two[2], two[3]);
          } else {
            uint16_t* column = sh->rows + (32 * (j / 2) + t) * kPitch + 16 * quad + 8 * (j % 2) + g;
#pragma unroll
            for (int n = 0; n < 8; ++n) {
              column[(4 * (n / 4) + 8 * (n % 4)) * kPitch] =
                  static_cast<uint16_t>(two[n / 2] >> (16 * (n % 2)));
            }
          }
        }
      }
      return;
    }
  }
  const int row_bytes = f.bits * kDim / 8;
  for (int i = threadIdx.x; i < kTileTokens * kDim; i += kDecodeThreads) {
    const int token = i / kDim, dim = i % kDim;
    const uint8_t* row = area + token * row_bytes;
    const int code = f.trellis
                         ? LoadTrellisIndex(Trellis(f.bits, TrellisMemory(f.bits)), row, kDim, dim)
                         : LoadCode(f.bits, row, kDim, dim);
    sh->rows[token * kPitch + dim] = static_cast<uint16_t>(sh->pairs[code]);
  }
}

__device__ __forceinline__ uint32_t ScaleHalves(uint32_t two, float scale) {
  const float low = WordToFloat(two, 0, TQ_CUDA_F16) * scale;
  const float high = WordToFloat(two, 1, TQ_CUDA_F16) * scale;
  return PackHalves(fminf(fmaxf(low, -kMostHalf), kMostHalf),
                    fminf(fmaxf(high, -kMostHalf), kMostHalf));
}

// The rotated means of the pages of a step, each as the sum of a high and a low fp16 part, zeros
// where there is none. 4 lanes a page; grid (pages / 64, kv heads).
template <int kDim>
__global__ void __launch_bounds__(kRotateThreads)
    RotateMeans(const __grid_constant__ PrefillArgs a) {
  const tq_cuda_cache& cache = a.p.cache;
  const int pages = a.step.slots / kTileTokens;
  const int page = static_cast<int>(blockIdx.x) * 64 + (static_cast<int>(threadIdx.x) >> 2);
  const int l = threadIdx.x & 3, head = blockIdx.y;
  const int safe = page < pages ? page : 0;
  const PrefillPiece& piece = PieceOfPage(a.step, safe);
  const int inside = safe * kTileTokens - piece.first_key;
  const int mean =
      inside < piece.keys ? __ldg(MeanOf(cache, piece, piece.first_token + inside)) : -1;
  RowLanes<kDim> y, low;
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) y.v[i] = 0.0f;
  if (mean >= 0) {
    y.Load(cache.means, TQ_CUDA_F16,
           (static_cast<int64_t>(mean) * cache.num_kv_heads + head) * kDim, l);
  }
  y.Rotate(cache.k_rotation, l);  // all lanes, for the shuffles
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) {
    y.v[i] *= 1.0f / kMeanUnit;
    low.v[i] = (y.v[i] - WordToFloat(PackHalves(y.v[i], 0.0f), 0, TQ_CUDA_F16)) * kLowPart;
  }
  if (page >= pages) return;
  const int64_t at = (FirstSlot(a, piece, head) + inside) / kTileTokens * 2 * kDim;
  y.Store(a.means, TQ_CUDA_F16, at, l);
  low.Store(a.means, TQ_CUDA_F16, at + kDim, l);
  if (head == 0 && l == 0) a.mean_index[page] = mean;
}

// Dim i of a key mean; -1: none.
__device__ __forceinline__ float MeanValue(const tq_cuda_cache& cache, int mean, int head, int i) {
  if (mean < 0) return 0.0f;
  const int64_t row = static_cast<int64_t>(mean) * cache.num_kv_heads + head;
  return HalfToFloat(__ldg(cache.means + row * cache.head_dim + i));
}

// The keys of a page for cuDNN, out of rotated space: queries are then not rotated, so that only
// one side of a product is rounded. difference: what is added to each, null: nothing.
template <int kDim>
__device__ __forceinline__ void StoreKeys(const DecodeShared<kDim>& sh, const PrefillArgs& a,
                                          const uint16_t* scales, float unit, int count,
                                          const float* difference, int64_t first) {
  static_assert(kDecodeThreads == 4 * kTileTokens);
  const int row = static_cast<int>(threadIdx.x) >> 2, l = threadIdx.x & 3;
  const float scale = row < count ? unit * HalfToFloat(__ldg(scales + ScaleSlot(row))) : 0.0f;
  RowLanes<kDim> y;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const uint2 x = *reinterpret_cast<const uint2*>(sh.rows + row * DecodeShared<kDim>::kPitch +
                                                    16 * k + 4 * l);
    y.v[4 * k] = WordToFloat(x.x, 0, TQ_CUDA_F16) * scale;
    y.v[4 * k + 1] = WordToFloat(x.x, 1, TQ_CUDA_F16) * scale;
    y.v[4 * k + 2] = WordToFloat(x.y, 0, TQ_CUDA_F16) * scale;
    y.v[4 * k + 3] = WordToFloat(x.y, 1, TQ_CUDA_F16) * scale;
  }
  y.Unrotate(a.p.cache.k_rotation, l);
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) {
    const float add = difference != nullptr ? difference[16 * (i / 4) + 4 * l + i % 4] : 0.0f;
    y.v[i] = row < count ? fminf(fmaxf(y.v[i] + add, -kMostHalf), kMostHalf) : 0.0f;
  }
  y.Store(a.keys, TQ_CUDA_F16, (first + row) * kDim, l);
}

// What cuDNN may read behind the last page of keys: the rest of a tile of its kernels.
inline constexpr int kDenseTile = 256;

// How many rows and keys of its calls count.
__device__ __forceinline__ void StoreLengths(const PrefillArgs& a) {
  const int i = threadIdx.x;
  if (i >= a.step.num_pieces) return;
  a.dense_lengths[8 * i] = a.step.pieces[i].dense_rows;
  a.dense_lengths[8 * i + 4] = a.step.pieces[i].keys;
}

// Zeros for one side of a page behind the keys.
template <int kDim>
__device__ __forceinline__ void ClearPage(uint16_t* to) {
  for (int n = threadIdx.x; n < kTileTokens * kDim / 8; n += kDecodeThreads) {
    *reinterpret_cast<uint4*>(to + 8 * n) = make_uint4(0, 0, 0, 0);
  }
}

// One side of one page of one kv head a CTA; grid (pages, 2 kv heads). Tokens behind the end become
// zeros: 0 times a weight of 0 must not be NaN. Keys for cuDNN are whole keys, but for the mean of
// the piece's first page: they get the difference to that one alone, so that a large mean common to
// all costs no bits of the rounding to fp16. The product with it is one number for a query and the
// piece, which MergeDense adds.
template <int kDim>
__global__ void __launch_bounds__(kDecodeThreads)
    DecodeWindow(const __grid_constant__ PrefillArgs a) {
  __shared__ DecodeShared<kDim> sh;
  __shared__ float difference[kDim];
  const tq_cuda_cache& cache = a.p.cache;
  const int page = blockIdx.x, head = static_cast<int>(blockIdx.y) >> 1;
  const bool value_side = (blockIdx.y & 1) != 0;
  const PrefillPiece& piece = PieceOfPage(a.step, page);
  const int inside = page * kTileTokens - piece.first_key;
  const int64_t first = FirstSlot(a, piece, head) + inside;
  const int token = piece.first_token + inside;
  const int count = min(piece.keys - inside, kTileTokens);
  if (a.dense_lengths != nullptr && page == 0 && blockIdx.y == 0) StoreLengths(a);
  if (count <= 0) {
    if (count > -kDenseTile) ClearPage<kDim>((value_side ? a.coded_values : a.keys) + first * kDim);
    return;
  }
  const int physical =
      __ldg(cache.page_table + static_cast<int64_t>(piece.sequence) * cache.page_stride +
            token / kTileTokens);
  const uint8_t* record =
      static_cast<const uint8_t*>(cache.records) +
      (static_cast<size_t>(physical) * cache.num_kv_heads + head) * a.layout.bytes;
  const TileFormat f = value_side ? a.layout.v : a.layout.k;
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(
      record + (value_side ? a.layout.v_scales : a.layout.k_scales));
  const float unit = StepUnit(f);
  const bool whole = !value_side && piece.dense_rows != 0;
  const bool means = whole && cache.mean_tokens > 0;

  FillSteps(&sh, f);
  if (!value_side && !whole && threadIdx.x < kTileTokens) {
    const int t = threadIdx.x;
    a.key_scales[first + t] = t < count ? unit * HalfToFloat(__ldg(scales + ScaleSlot(t))) : 0.0f;
  }
  if (means) {
    const int mean = __ldg(MeanOf(cache, piece, token));
    const int common = __ldg(MeanOf(cache, piece, piece.first_token));
    for (int i = threadIdx.x; i < kDim; i += kDecodeThreads) {
      difference[i] = MeanValue(cache, mean, head, i) - MeanValue(cache, common, head, i);
    }
  }
  __syncthreads();
  UnpackPage(&sh, record + (value_side ? a.layout.v_codes : 0), f, value_side);
  __syncthreads();
  if (whole) {
    StoreKeys<kDim>(sh, a, scales, unit, count, means ? difference : nullptr, first);
    return;
  }
  uint16_t* to = (value_side ? a.coded_values : a.keys) + first * kDim;
  for (int n = threadIdx.x; n < kTileTokens * kDim / 8; n += kDecodeThreads) {
    const int row = n / (kDim / 8), column = n % (kDim / 8) * 8;
    uint4 x = *reinterpret_cast<const uint4*>(sh.rows + row * DecodeShared<kDim>::kPitch + column);
    if (row >= count) {
      x = make_uint4(0, 0, 0, 0);
    } else if (value_side) {
      const float scale = unit * HalfToFloat(__ldg(scales + ScaleSlot(row)));
      x = make_uint4(ScaleHalves(x.x, scale), ScaleHalves(x.y, scale), ScaleHalves(x.z, scale),
                     ScaleHalves(x.w, scale));
    }
    *reinterpret_cast<uint4*>(to + static_cast<int64_t>(row) * kDim + column) = x;
  }
}

// ---- the state, out of rotated space ----

template <int kDim>
__global__ void __launch_bounds__(kRotateThreads)
    UnrotateState(const __grid_constant__ PrefillArgs a) {
  const int64_t rows = static_cast<int64_t>(a.total_rows) * a.p.cache.num_kv_heads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 64 + (threadIdx.x >> 2);
  const int l = threadIdx.x & 3;
  RowLanes<kDim> y;
  y.Load(a.values, TQ_CUDA_F32, (row < rows ? row : 0) * kDim, l);
  y.Unrotate(a.p.cache.v_rotation, l);
  if (row < rows) y.Store(a.values, TQ_CUDA_F32, row * kDim, l);
}

// ---- what cuDNN returns, into the state ----

// 4 lanes a row; grid (rows / 64, kv heads).
template <int kDim>
__global__ void __launch_bounds__(kRotateThreads)
    MergeDense(const __grid_constant__ PrefillArgs a) {
  const PrefillPiece& piece = a.step.pieces[a.merge];
  const int row = static_cast<int>(blockIdx.x) * 64 + (static_cast<int>(threadIdx.x) >> 2);
  const int l = threadIdx.x & 3, head = blockIdx.y;
  const bool there = row < piece.rows;
  const int safe = there ? row : 0;
  const int64_t from = static_cast<int64_t>(head) * piece.dense_rows + safe;
  const int64_t at = static_cast<int64_t>(head) * a.total_rows + piece.first_row + safe;
  float logit = a.dense_lse[from];
  RowLanes<kDim> x;
  const int mean =
      a.p.cache.mean_tokens > 0 ? __ldg(MeanOf(a.p.cache, piece, piece.first_token)) : -1;
  if (mean >= 0) {
    // The product with the mean that the piece's keys lack.
    const int heads = a.p.cache.num_kv_heads;
    RowLanes<kDim> y;
    x.Load(a.dense_q, TQ_CUDA_F16,
           (static_cast<int64_t>(piece.first_row + safe) * heads + head) * kDim, l);
    y.Load(a.p.cache.means, TQ_CUDA_F16, (static_cast<int64_t>(mean) * heads + head) * kDim, l);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) sum = fmaf(x.v[i], y.v[i], sum);
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    logit = fmaf(sum, a.p.scale, logit);
  }
  logit *= kLog2e;
  float2 state = make_float2(kNoLogit, 0.0f);
  if (piece.fresh == 0) state = a.sums[at];
  const float reference = fmaxf(state.x, logit);
  const float keep = Exp2(state.x - reference), weight = Exp2(logit - reference);
  __syncwarp();
  if (!there) return;
  x.Load(a.dense_out, TQ_CUDA_F16, from * kDim, l);
  float* values = a.values + at * kDim + 4 * l;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    float4 y = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (piece.fresh == 0) y = *reinterpret_cast<const float4*>(values + 16 * k);
    y.x = fmaf(y.x, keep, weight * x.v[4 * k]);
    y.y = fmaf(y.y, keep, weight * x.v[4 * k + 1]);
    y.z = fmaf(y.z, keep, weight * x.v[4 * k + 2]);
    y.w = fmaf(y.w, keep, weight * x.v[4 * k + 3]);
    *reinterpret_cast<float4*>(values + 16 * k) = y;
  }
  if (l == 0) a.sums[at] = make_float2(reference, fmaf(state.y, keep, weight));
}

// ---- attention ----

enum class PrefillKind { kCoded, kHalf, kBfloat };  // decoded fp16; exact rows of fp16 or bf16

inline constexpr int kPrefillWarps = 4;
inline constexpr int kPrefillThreads = 32 * kPrefillWarps;

template <int kDim>
struct PrefillTile {
  static constexpr int kRows = PrefillRows(kDim);
  static constexpr int kKeys = PrefillKeys(kDim);
  static constexpr int kRowTiles = kRows / 16 / kPrefillWarps;  // of a warp
  static constexpr int kPitch = kDim + 8;  // halves: eight rows of 16 bytes in different banks
  static constexpr int kKeyTiles = kKeys / 8;
  static constexpr int kDimTiles = kDim / 8;
  static constexpr int kBufferBytes = kKeys * kPitch * 2;
  // Shared memory: queries, three buffers of keys or values, scales, means (both double).
  static constexpr int kBuffers = kRows * kPitch * 2;
  static constexpr int kScales = kBuffers + 3 * kBufferBytes;
  static constexpr int kMeans = kScales + 2 * kKeys * 4;
  static constexpr int kBytes = kMeans + 2 * 2 * kDim * 2;
};

template <int kDim, PrefillKind kKind>
class PrefillAttention {
  using Tile = PrefillTile<kDim>;
  static constexpr bool kCoded = kKind == PrefillKind::kCoded;
  static constexpr bool kBfloat = kKind == PrefillKind::kBfloat;
  static constexpr int kRowTiles = Tile::kRowTiles;
  static constexpr int kKeyTiles = Tile::kKeyTiles;
  static constexpr int kDimTiles = Tile::kDimTiles;

 public:
  __device__ __forceinline__ PrefillAttention(const PrefillArgs& a, const PrefillPiece& piece,
                                              int first_row, int head)
      : a_(a),
        piece_(piece),
        head_(head),
        first_row_(first_row),
        warp_(static_cast<int>(threadIdx.x) >> 5),
        lane_(static_cast<int>(threadIdx.x) & 31),
        shared_(SharedAddress(DynamicShared())) {}

  __device__ __forceinline__ void Run() {
    const int last_row = min(first_row_ + Tile::kRows, piece_.rows) - 1;
    oldest_query_ = piece_.query_position + first_row_ / a_.p.group;
    newest_query_ = piece_.query_position + last_row / a_.p.group;
    int begin = 0, end = piece_.keys;
    scattered_ = !kCoded && a_.chunk == 0 && a_.p.exact_position != nullptr;
    if (!scattered_) {
      end = min(end, newest_query_ + 1 - piece_.key_position);
      if (a_.p.window > 0) {
        begin = max(0, oldest_query_ - a_.p.window + 1 - piece_.key_position) / Tile::kKeys;
      }
    }
    const int tiles = (end + Tile::kKeys - 1) / Tile::kKeys;
    LoadState();
    if (begin < tiles) {
      LoadQueryTile();
      LoadKeys(begin, 0);
      CommitCopies();
      LoadValueTile(begin, 1);
      CommitCopies();
      int buffer = 0;
      for (int tile = begin; tile < tiles; ++tile) {
        WaitCopies<1>();  // the keys are there, their values may be under way
        __syncthreads();
        const int next = buffer == 0 ? 2 : buffer - 1;  // buffer + 2 mod 3
        if (tile + 1 < tiles) LoadKeys(tile + 1, next);
        CommitCopies();
        float s[kRowTiles][kKeyTiles][4];
        Products(buffer, s);
        Weigh(tile, s);
        WaitCopies<1>();
        __syncthreads();
        if (tile + 1 < tiles) LoadValueTile(tile + 1, buffer);
        CommitCopies();
        AddValues(buffer == 2 ? 0 : buffer + 1, s);
        buffer = next;
      }
      WaitCopies<0>();
    }
    StoreState();
  }

 private:
  // Row of the piece of accumulator row `half` (0: lane / 4, 1: 8 more) of a row tile.
  __device__ __forceinline__ int RowOf(int row_tile, int half) const {
    return first_row_ + (warp_ * kRowTiles + row_tile) * 16 + 8 * half + (lane_ >> 2);
  }

  __device__ __forceinline__ int64_t StateRow(int row) const {
    return static_cast<int64_t>(head_) * a_.total_rows + piece_.first_row + row;
  }

  __device__ __forceinline__ uint32_t Buffer(int i) const {
    return shared_ + Tile::kBuffers + i * Tile::kBufferBytes;
  }

  __device__ __forceinline__ void LoadState() {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = RowOf(r, half);
        const bool there = row < piece_.rows;
        float2 state = make_float2(kNoLogit, 0.0f);
        if (there && piece_.fresh == 0) state = a_.sums[StateRow(row)];
        before_[r][half] = reference_[r][half] = state.x;
        // Lanes of a row hold parts of its sum.
        sum_[r][half] = (lane_ & 3) == 0 ? state.y : 0.0f;
        factor_[r][half] = a_.p.scale * kLog2e;
        if (kCoded && there) factor_[r][half] *= a_.factors[StateRow(row)];
        bias_[r][half] = 0.0f;
      }
#pragma unroll
      for (int n = 0; n < kDimTiles; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) o_[r][n][c] = 0.0f;
      }
    }
  }

  __device__ __forceinline__ void LoadQueryTile() {
    constexpr int kPieces = kDim / 8;
    for (int i = threadIdx.x; i < Tile::kRows * kPieces; i += kPrefillThreads) {
      const int slot = i / kPieces, column = i % kPieces * 8;
      const int row = first_row_ + slot;
      const bool there = row < piece_.rows;
      const int safe = piece_.first_row + (there ? row : 0);
      const uint16_t* from;
      if (kCoded) {
        from = a_.rotated + (static_cast<int64_t>(safe) * a_.p.cache.num_kv_heads + head_) * kDim;
      } else {
        from = static_cast<const uint16_t*>(a_.p.q) + (safe / a_.p.group) * a_.p.q_token_stride +
               (head_ * a_.p.group + safe % a_.p.group) * a_.p.q_head_stride;
      }
      CopyAsync16(shared_ + (slot * Tile::kPitch + column) * 2, from + column, there);
    }
  }

  // Keys or values of a tile; rows behind the end become zeros.
  __device__ __forceinline__ void LoadRows(int tile, int buffer, const uint16_t* from,
                                           int64_t stride) {
    constexpr int kPieces = kDim / 8;
#pragma unroll
    for (int i = threadIdx.x; i < Tile::kKeys * kPieces; i += kPrefillThreads) {
      const int slot = i / kPieces, column = i % kPieces * 8;
      const int key = tile * Tile::kKeys + slot;
      const bool there = key < piece_.keys;
      CopyAsync16(Buffer(buffer) + (slot * Tile::kPitch + column) * 2,
                  from + (there ? key : 0) * stride + column, there);
    }
  }

  __device__ __forceinline__ const uint16_t* ExactRows(bool value_side) const {
    const tq_cuda_prefill_params& p = a_.p;
    if (a_.chunk != 0) {
      return static_cast<const uint16_t*>(value_side ? p.chunk_v : p.chunk_k) +
             piece_.first_key * p.chunk_token_stride + head_ * p.chunk_head_stride;
    }
    return static_cast<const uint16_t*>(value_side ? p.exact.v : p.exact.k) +
           piece_.sequence * p.exact.sequence_stride + head_ * p.exact.head_stride;
  }

  __device__ __forceinline__ int64_t ExactStride() const {
    return a_.chunk != 0 ? a_.p.chunk_token_stride : a_.p.exact.token_stride;
  }

  __device__ __forceinline__ void LoadKeys(int tile, int buffer) {
    if constexpr (!kCoded) {
      LoadRows(tile, buffer, ExactRows(false), ExactStride());
    } else {
      const int64_t slot = FirstSlot(a_, piece_, head_);
      LoadRows(tile, buffer, a_.keys + slot * kDim, kDim);
      const int key = tile * Tile::kKeys;
      const uint32_t scales = shared_ + Tile::kScales + (tile & 1) * Tile::kKeys * 4;
      if (threadIdx.x < Tile::kKeys / 4) {
        CopyAsync16(scales + threadIdx.x * 16, a_.key_scales + slot + key + threadIdx.x * 4, true);
      }
      constexpr int kMeanPieces = 2 * kDim / 8;
      if (a_.p.cache.mean_tokens > 0 && threadIdx.x < kMeanPieces) {
        const int64_t page = (slot + key) / kTileTokens;
        CopyAsync16(shared_ + Tile::kMeans + (tile & 1) * 4 * kDim + threadIdx.x * 16,
                    a_.means + page * 2 * kDim + threadIdx.x * 8, true);
      }
    }
  }

  __device__ __forceinline__ void LoadValueTile(int tile, int buffer) {
    if constexpr (kCoded) {
      const int64_t slot = FirstSlot(a_, piece_, head_);
      LoadRows(tile, buffer, a_.coded_values + slot * kDim, kDim);
    } else {
      LoadRows(tile, buffer, ExactRows(true), ExactStride());
    }
  }

  __device__ __forceinline__ static void Multiply(float (&c)[4], const uint32_t (&x)[4],
                                                  uint32_t b0, uint32_t b1) {
    if constexpr (kBfloat) {
      MmaBfloat(c, x, b0, b1);
    } else {
      MmaHalf(c, x, b0, b1);
    }
  }

  // Query rows of 16 dims.
  __device__ __forceinline__ void LoadQueries(int column, uint32_t (&q)[kRowTiles][4]) const {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const int row = (warp_ * kRowTiles + r) * 16 + ((lane_ >> 3) & 1) * 8 + (lane_ & 7);
      LoadMatrices(shared_ + (row * Tile::kPitch + column + (lane_ >> 4) * 8) * 2, q[r]);
    }
  }

  __device__ __forceinline__ void Products(int buffer, float (&s)[kRowTiles][kKeyTiles][4]) const {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) s[r][n][c] = 0.0f;
      }
    }
    const uint32_t keys =
        Buffer(buffer) +
        (((lane_ >> 4) * 8 + (lane_ & 7)) * Tile::kPitch + ((lane_ >> 3) & 1) * 8) * 2;
#pragma unroll
    for (int column = 0; column < kDim; column += 16) {
      uint32_t q[kRowTiles][4];
      LoadQueries(column, q);
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t k[4];
        LoadMatrices(keys + (n * 8 * Tile::kPitch + column) * 2, k);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          Multiply(s[r][n], q[r], k[0], k[1]);
          Multiply(s[r][n + 1], q[r], k[2], k[3]);
        }
      }
    }
  }

  // bias_ = <query, mean of the page> in log2 units: the mean's parts are two keys of a product.
  __device__ __forceinline__ void MeanBias(int tile, int mean) {
    if (mean == mean_) return;
    mean_ = mean;
    float c[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) c[r][0] = c[r][1] = c[r][2] = c[r][3] = 0.0f;
    if (mean >= 0) {
      const int g = lane_ >> 2;
      const uint8_t* part = DynamicShared() + Tile::kMeans + (tile & 1) * 4 * kDim +
                            (g & 1) * 2 * kDim + (lane_ & 3) * 4;
#pragma unroll
      for (int column = 0; column < kDim; column += 16) {
        uint32_t q[kRowTiles][4];
        LoadQueries(column, q);
        // Column g of the product; only 0 and 1 exist.
        const uint32_t b0 = g < 2 ? *reinterpret_cast<const uint32_t*>(part + column * 2) : 0u;
        const uint32_t b1 = g < 2 ? *reinterpret_cast<const uint32_t*>(part + column * 2 + 16) : 0u;
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) MmaHalf(c[r], q[r], b0, b1);
      }
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float sum = fmaf(c[r][2 * half + 1], 1.0f / kLowPart, c[r][2 * half]) * kMeanUnit;
        bias_[r][half] = __shfl_sync(kAllLanes, sum, lane_ & ~3) * factor_[r][half];
      }
    }
  }

  // Position of key `key` of the piece.
  __device__ __forceinline__ int Position(int key) const {
    if (!scattered_) return piece_.key_position + key;
    return __ldg(a_.p.exact_position + static_cast<int64_t>(piece_.sequence) * a_.p.exact_stride +
                 key);
  }

  // -inf for what a row does not see.
  __device__ __forceinline__ void Mask(int tile, float (&s)[kRowTiles][kKeyTiles][4]) const {
    const int first = tile * Tile::kKeys;
    const int oldest = piece_.key_position + first;
    const bool whole = first + Tile::kKeys <= piece_.keys && !scattered_ &&
                       oldest + Tile::kKeys - 1 <= oldest_query_ &&
                       (a_.p.window == 0 || oldest > newest_query_ - a_.p.window);
    if (whole) return;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = first + 8 * n + 2 * (lane_ & 3) + e;
        const bool there = key < piece_.keys;
        const int position = there ? Position(key) : 0;
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int query = piece_.query_position + RowOf(r, half) / a_.p.group;
            const bool seen =
                there && position <= query && (a_.p.window == 0 || position > query - a_.p.window);
            if (!seen) s[r][n][2 * half + e] = -INFINITY;
          }
        }
      }
    }
  }

  // Products to weights, in place; moves the reference logits and scales what was summed so far.
  __device__ __forceinline__ void Weigh(int tile, float (&s)[kRowTiles][kKeyTiles][4]) {
    if constexpr (kCoded) {
      if (a_.p.cache.mean_tokens > 0) {
        MeanBias(tile,
                 __ldg(a_.mean_index + (piece_.first_key + tile * Tile::kKeys) / kTileTokens));
      }
      const uint8_t* scales = DynamicShared() + Tile::kScales + (tile & 1) * Tile::kKeys * 4;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        const float2 scale =
            *reinterpret_cast<const float2*>(scales + (8 * n + 2 * (lane_ & 3)) * 4);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          s[r][n][0] *= scale.x;
          s[r][n][1] *= scale.y;
          s[r][n][2] *= scale.x;
          s[r][n][3] *= scale.y;
        }
      }
    }
    const bool capped = a_.p.softcap > 0.0f;
    if (capped) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            s[r][n][c] =
                Softcap(fmaf(s[r][n][c], factor_[r][c / 2], bias_[r][c / 2]), a_.p.softcap);
          }
        }
      }
    }
    Mask(tile, s);
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float factor = capped ? 1.0f : factor_[r][half];
        const float bias = capped ? 0.0f : bias_[r][half];
        float most = -INFINITY;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
          most = fmaxf(most, fmaxf(s[r][n][2 * half], s[r][n][2 * half + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
        most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
        const float old = reference_[r][half];
        const float reference =
            fmaxf(old, fmaf(most, factor, bias) - (kBfloat ? 0.0f : kHalfWeightBits));
        const float keep = Exp2(old - reference);
        reference_[r][half] = reference;
        float sum = sum_[r][half] * keep;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[r][n][2 * half + e];
            x = Exp2(fmaf(x, factor, bias - reference));
            sum += x;
          }
        }
        sum_[r][half] = sum;
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
          o_[r][n][2 * half] *= keep;
          o_[r][n][2 * half + 1] *= keep;
        }
      }
    }
  }

  __device__ __forceinline__ void AddValues(int buffer, const float (&p)[kRowTiles][kKeyTiles][4]) {
    const uint32_t values =
        Buffer(buffer) +
        ((((lane_ >> 3) & 1) * 8 + (lane_ & 7)) * Tile::kPitch + (lane_ >> 4) * 8) * 2;
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      uint32_t high[kRowTiles][4], low[kRowTiles][4];
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float x = p[r][n + i / 2][2 * (i % 2)], y = p[r][n + i / 2][2 * (i % 2) + 1];
          if constexpr (kBfloat) {
            // 16 bits of a weight: its rest behind bf16 is a second product.
            high[r][i] = PackBfloats(x, y);
            low[r][i] = PackBfloats(x - WordToFloat(high[r][i], 0, TQ_CUDA_BF16),
                                    y - WordToFloat(high[r][i], 1, TQ_CUDA_BF16));
          } else {
            high[r][i] = PackHalves(x, y);
          }
        }
      }
#pragma unroll
      for (int d = 0; d < kDimTiles; d += 2) {
        uint32_t v[4];
        LoadMatricesTransposed(values + (n * 8 * Tile::kPitch + d * 8) * 2, v);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          Multiply(o_[r][d], high[r], v[0], v[1]);
          Multiply(o_[r][d + 1], high[r], v[2], v[3]);
          if constexpr (kBfloat) {
            Multiply(o_[r][d], low[r], v[0], v[1]);
            Multiply(o_[r][d + 1], low[r], v[2], v[3]);
          }
        }
      }
    }
  }

  // The state goes on in the workspace, or becomes the result.
  __device__ __forceinline__ void StoreState() {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = sum_[r][half];
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
        const int row = RowOf(r, half);
        if (row >= piece_.rows) continue;
        const int64_t at = StateRow(row);
        const int column = 2 * (lane_ & 3);
        float* values = a_.values + at * kDim + column;
        const float keep = Exp2(before_[r][half] - reference_[r][half]);
        const int token = (piece_.first_row + row) / a_.p.group;
        const int head = head_ * a_.p.group + (piece_.first_row + row) % a_.p.group;
        const RowSum finished = FinishRowSum(reference_[r][half], sum, a_.p.sinks, head);
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
          float x[2] = {o_[r][n][2 * half], o_[r][n][2 * half + 1]};
          if (piece_.fresh == 0) {
            const float2 old = *reinterpret_cast<const float2*>(values + 8 * n);
            x[0] = fmaf(old.x, keep, x[0]);
            x[1] = fmaf(old.y, keep, x[1]);
          }
          if (a_.finish == 0) {
            *reinterpret_cast<float2*>(values + 8 * n) = make_float2(x[0], x[1]);
          } else {
            x[0] *= finished.factor;
            x[1] *= finished.factor;
            StoreValues(
                a_.p.out, a_.p.out_dtype,
                token * a_.p.out_token_stride + head * a_.p.out_head_stride + 8 * n + column, x);
          }
        }
        if ((lane_ & 3) != 0) continue;
        if (a_.finish == 0) {
          a_.sums[at] = make_float2(reference_[r][half], sum);
        } else if (a_.p.lse != nullptr) {
          a_.p.lse[static_cast<int64_t>(token) * a_.p.cache.num_kv_heads * a_.p.group + head] =
              finished.lse;
        }
      }
    }
  }

  const PrefillArgs& a_;
  const PrefillPiece& piece_;
  int head_, first_row_, warp_, lane_;
  uint32_t shared_;
  int oldest_query_ = 0, newest_query_ = 0;
  bool scattered_ = false;
  int mean_ = -1;
  float before_[kRowTiles][2], reference_[kRowTiles][2], sum_[kRowTiles][2];
  float factor_[kRowTiles][2], bias_[kRowTiles][2];
  float o_[kRowTiles][kDimTiles][4];
};

// Grid (tiles, kv heads). The last tiles of a causal chunk have most to do: they start first.
template <int kDim, PrefillKind kKind>
__global__ void __launch_bounds__(kPrefillThreads, 2)
    AttendPrefill(const __grid_constant__ PrefillArgs a) {
  const int tile = a.step.tiles - 1 - static_cast<int>(blockIdx.x);
  const PrefillPiece& piece = PieceOfTile(a.step, tile);
  PrefillAttention<kDim, kKind>(a, piece, (tile - piece.first_tile) * PrefillTile<kDim>::kRows,
                                blockIdx.y)
      .Run();
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_PREFILL_KERNELS_CUH_
