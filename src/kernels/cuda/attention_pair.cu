// The reference path: decode attention for every format, head dim and number of query rows.
//
// A CTA of 4 warps serves 16 query rows of one kv head and walks pages: the page is unpacked into
// shared memory as fp16 (codes two at a time through a table of pairs), logits and outputs are
// m16n8k16 products with query and weights split into a high and a low fp16, so that only the
// accumulation in fp32 rounds. Codebook steps are integers up to 126, exact in fp16; their unit and
// the scales stay outside. A second kernel merges the partial results and rotates back.
#include "codec/trellis_codec.h"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/row_lanes.cuh"

namespace turboquant::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTokenPitch = kTileTokens + 8;  // halves; rows start in different banks

template <int kDim>
struct PairShared {
  static constexpr int kPitch = kDim + 8;      // halves
  alignas(16) __half q[2][kPairRows][kPitch];  // high and low
  alignas(16) __half k[kTileTokens][kPitch];
  alignas(16) __half v[kDim][kTokenPitch];  // transposed
  alignas(16) __half p[2][kPairRows][kTokenPitch];
  alignas(16) float s[kPairRows][kTileTokens + 4];
  __half2 pairs[2][256];
  float k_scale[kTileTokens], v_scale[kTileTokens];
  float bias[kPairRows], keep[kPairRows], factor[kPairRows];
  float m[kPairRows], l[kPairRows];
};

__device__ __forceinline__ float CodeValue(TileFormat f, int code, float* unit) {
  if (f.trellis) {
    const TrellisView trellis = Trellis(f.bits, TrellisMemory(f.bits));
    *unit = trellis.unit;
    return static_cast<float>(trellis.steps[code]);
  }
  if (f.bits == 8) {
    *unit = 1.0f;
    return Centroids(8)[code];
  }
  *unit = CentroidUnit(f.bits);
  return static_cast<float>(CentroidSteps(f.bits)[code]);
}

__device__ __forceinline__ int CodeCount(TileFormat f) {
  return 1 << (f.bits + (f.trellis ? 1 : 0));
}

// Fills the table of a side: pairs for fragment order, single values for rows. Returns the unit.
__device__ __forceinline__ float FillTable(TileFormat f, int head_dim, __half2* table) {
  const int count = CodeCount(f);
  const bool fragments = OrderOf(f, head_dim) == TileOrder::kFragment;
  float unit = 1.0f;
  CodeValue(f, 0, &unit);
  for (int i = threadIdx.x; i < 256; i += kThreads) {
    float ignored;
    if (fragments) {
      const int low = i & 15 & (count - 1), high = (i >> 4) & (count - 1);
      table[i] = __floats2half2_rn(CodeValue(f, NibbleToCode(f.bits, low), &ignored),
                                   CodeValue(f, NibbleToCode(f.bits, high), &ignored));
    } else {
      reinterpret_cast<__half*>(table)[i] =
          __float2half(i < count ? CodeValue(f, i, &ignored) : 0.0f);
    }
  }
  return unit;
}

__device__ __forceinline__ uint4 LookUpWord(const __half2* table, uint32_t word) {
  uint32_t out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[i] = reinterpret_cast<const uint32_t&>(table[(word >> (8 * i)) & 255u]);
  }
  return make_uint4(out[0], out[1], out[2], out[3]);
}

// Where the weight of a token stands in the p and v arrays.
__device__ __forceinline__ int TokenPlace(bool fragments, int token) {
  if (!fragments) return token;
  const int rest = token & 31;
  return (token & 32) + (rest & 3) * 8 + ((rest >> 2) & 1) * 4 + (rest >> 3);
}

template <int kDim>
__device__ __forceinline__ void UnpackRows(PairShared<kDim>* sh, const uint8_t* area, TileFormat f,
                                           bool value_side) {
  const __half* table = reinterpret_cast<const __half*>(sh->pairs[value_side ? 1 : 0]);
  const int row_bytes = f.bits * kDim / 8;
  const TrellisView trellis = f.trellis ? Trellis(f.bits, TrellisMemory(f.bits)) : TrellisView{};
  for (int i = threadIdx.x; i < kTileTokens * kDim; i += kThreads) {
    const int token = i / kDim, dim = i % kDim;
    const uint8_t* row = area + token * row_bytes;
    const int code =
        f.trellis ? LoadTrellisIndex(trellis, row, kDim, dim) : LoadCode(f.bits, row, kDim, dim);
    if (value_side) {
      sh->v[dim][token] = table[code];
    } else {
      sh->k[token][dim] = table[code];
    }
  }
}

template <int kDim>
__device__ __forceinline__ void UnpackSide(PairShared<kDim>* sh, const uint8_t* area, TileFormat f,
                                           bool value_side) {
  if (OrderOf(f, kDim) == TileOrder::kRows) {
    UnpackRows(sh, area, f, value_side);
    return;
  }
  const __half2* table = sh->pairs[value_side ? 1 : 0];
  for (int i = threadIdx.x; i < 2 * kDim; i += kThreads) {
    const int quad = i / 32, lane = i % 32, g = lane >> 2, t = lane & 3;
    uint32_t s[4];
    LoadQuad(f.bits, reinterpret_cast<const uint32_t*>(area), kDim, quad, lane, s);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4 values = LookUpWord(table, s[j]);
      if (value_side) {
        *reinterpret_cast<uint4*>(&sh->v[16 * quad + 8 * (j % 2) + g][32 * (j / 2) + 8 * t]) =
            values;
      } else {
        constexpr int kWords = kDim >= 32 ? kDim / 32 : 1;
        const int n = 4 * quad + j;
        *reinterpret_cast<uint4*>(&sh->k[8 * (n / kWords) + g][t * (kDim / 4) + 8 * (n % kWords)]) =
            values;
      }
    }
  }
}

// 64 exact rows as they are; rows that do not exist become zeros.
template <int kDim>
__device__ __forceinline__ void LoadExact(PairShared<kDim>* sh, const tq_cuda_rows& rows,
                                          int64_t base, int first, int end) {
  for (int i = threadIdx.x; i < kTileTokens * kDim / 2; i += kThreads) {
    const int token = i / (kDim / 2), dim = 2 * (i % (kDim / 2));
    float k[2] = {0, 0}, v[2] = {0, 0};
    if (first + token < end) {
      const int64_t at = base + static_cast<int64_t>(first + token) * rows.token_stride + dim;
      LoadValues(rows.k, rows.dtype, at, k);
      LoadValues(rows.v, rows.dtype, at, v);
    }
    *reinterpret_cast<__half2*>(&sh->k[token][dim]) = __floats2half2_rn(k[0], k[1]);
    sh->v[dim][token] = __float2half(v[0]);
    sh->v[dim + 1][token] = __float2half(v[1]);
  }
  for (int i = threadIdx.x; i < kTileTokens; i += kThreads) {
    sh->k_scale[i] = 1.0f;
    sh->v_scale[i] = first + i < end ? 1.0f : 0.0f;
  }
}

template <int kPitch>
__device__ __forceinline__ void LoadOperandA(const __half (*rows)[kPitch], int column, int lane,
                                             uint32_t (&a)[4]) {
  const int g = lane >> 2, t = lane & 3;
  a[0] = *reinterpret_cast<const uint32_t*>(&rows[g][column + 2 * t]);
  a[1] = *reinterpret_cast<const uint32_t*>(&rows[g + 8][column + 2 * t]);
  a[2] = *reinterpret_cast<const uint32_t*>(&rows[g][column + 2 * t + 8]);
  a[3] = *reinterpret_cast<const uint32_t*>(&rows[g + 8][column + 2 * t + 8]);
}

// Raw products of the 16 query rows with the page's keys, into s.
template <int kDim>
__device__ __forceinline__ void Scores(PairShared<kDim>* sh, int warp, int lane) {
  const int g = lane >> 2, t = lane & 3;
  float acc[2][4] = {};
#pragma unroll
  for (int column = 0; column < kDim; column += 16) {
    uint32_t high[4], low[4];
    LoadOperandA(sh->q[0], column, lane, high);
    LoadOperandA(sh->q[1], column, lane, low);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const __half* row = &sh->k[16 * warp + 8 * n + g][column + 2 * t];
      const uint32_t b0 = *reinterpret_cast<const uint32_t*>(row);
      const uint32_t b1 = *reinterpret_cast<const uint32_t*>(row + 8);
      MmaHalf(acc[n], high, b0, b1);
      MmaHalf(acc[n], low, b0, b1);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int token = 16 * warp + 8 * n + 2 * t;
    sh->s[g][token] = acc[n][0];
    sh->s[g][token + 1] = acc[n][1];
    sh->s[g + 8][token] = acc[n][2];
    sh->s[g + 8][token + 1] = acc[n][3];
  }
}

struct PageContext {
  int first_token;  // of the page, coded or exact index
  int count;        // tokens there are
  bool exact;
  bool fragments;  // value side
  float v_unit;
};

// Scales, bias, softcap, mask, online softmax; weights times value scale as two halves. 8 threads a
// row, 8 tokens each.
template <int kDim>
__device__ __forceinline__ void SoftmaxPage(const AttentionArgs& a, PairShared<kDim>* sh,
                                            const PageContext& page, const RowMask& mask, int total,
                                            int sequence, int exact_len) {
  const int row = threadIdx.x >> 3, part = threadIdx.x & 7;
  float s[8], largest_v = 0.0f, most = kNoLogit;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int token = part + 8 * i;
    s[i] = fmaf(sh->s[row][token], sh->k_scale[token], sh->bias[row]);
    if (a.p.softcap > 0.0f) s[i] = Softcap(s[i], a.p.softcap);
    int position = a.p.coded_begin + page.first_token + token;
    if (page.exact) {
      position = total - exact_len + page.first_token + token;
      if (a.p.exact_position != nullptr && token < page.count) {
        position = __ldg(a.p.exact_position + static_cast<int64_t>(sequence) * a.p.exact_stride +
                         page.first_token + token);
      }
    }
    if (token >= page.count || !mask.Sees(position)) s[i] = -INFINITY;
    most = fmaxf(most, s[i]);
    if (token < page.count) largest_v = fmaxf(largest_v, fabsf(sh->v_scale[token]));
  }
#pragma unroll
  for (int h = 1; h < 8; h *= 2) {
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, h));
    largest_v = fmaxf(largest_v, __shfl_xor_sync(kAllLanes, largest_v, h));
  }
  const float before = sh->m[row];
  most = fmaxf(most, before);
  const float to_unit = largest_v > 0.0f ? 1.0f / largest_v : 0.0f;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int token = part + 8 * i;
    const float e = Exp2(s[i] - most);
    sum += e;
    const float w = token < page.count ? e * (sh->v_scale[token] * to_unit) : 0.0f;
    const __half high = __float2half(w);
    const int place = TokenPlace(page.fragments, token);
    sh->p[0][row][place] = high;
    sh->p[1][row][place] = __float2half((w - __half2float(high)) * 2048.0f);
  }
#pragma unroll
  for (int h = 1; h < 8; h *= 2) sum += __shfl_xor_sync(kAllLanes, sum, h);
  __syncwarp();
  if (part == 0) {
    const float keep = Exp2(before - most);
    sh->m[row] = most;
    sh->l[row] = fmaf(sh->l[row], keep, sum);
    sh->keep[row] = keep;
    sh->factor[row] = largest_v * page.v_unit;
  }
}

template <int kDim>
struct PairOutput {
  static constexpr int kTiles = (kDim / 8 + kWarps - 1) / kWarps;
  float o[kTiles][4];  // columns 8 (warp + 4 i) .. + 7

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;
  }

  __device__ __forceinline__ void Add(const PairShared<kDim>& sh, int warp, int lane) {
    const int g = lane >> 2, t = lane & 3;
    const float keep0 = sh.keep[g], keep1 = sh.keep[g + 8];
    const float factor0 = sh.factor[g], factor1 = sh.factor[g + 8];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int tile = warp + kWarps * i;
      if (8 * tile >= kDim) continue;
      float high[4] = {}, low[4] = {};
#pragma unroll
      for (int column = 0; column < kTileTokens; column += 16) {
        uint32_t x[4], y[4];
        LoadOperandA(sh.p[0], column, lane, x);
        LoadOperandA(sh.p[1], column, lane, y);
        const __half* row = &sh.v[8 * tile + g][column + 2 * t];
        const uint32_t b0 = *reinterpret_cast<const uint32_t*>(row);
        const uint32_t b1 = *reinterpret_cast<const uint32_t*>(row + 8);
        MmaHalf(high, x, b0, b1);
        MmaHalf(low, y, b0, b1);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float sum = fmaf(low[c], 1.0f / 2048.0f, high[c]);
        o[i][c] = fmaf(o[i][c], c < 2 ? keep0 : keep1, sum * (c < 2 ? factor0 : factor1));
      }
    }
  }
};

// Query rows of this CTA, rotated unless the item is exact, scaled, as high and low halves.
template <int kDim>
__device__ __forceinline__ void LoadQueries(const AttentionArgs& a, PairShared<kDim>* sh,
                                            const tq_cuda_item& item, int kv_head, int row_tile) {
  if (threadIdx.x >= 4 * kPairRows) return;
  const int slot = threadIdx.x >> 2, l = threadIdx.x & 3;
  const int row = row_tile * kPairRows + slot;
  RowLanes<kDim> y;
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) y.v[i] = 0.0f;
  if (row < a.p.group * a.p.q_len) {
    y.Load(a.p.q, a.p.q_dtype,
           item.sequence * a.p.q_sequence_stride + (row / a.p.group) * a.p.q_token_stride +
               (kv_head * a.p.group + row % a.p.group) * a.p.q_head_stride,
           l);
  }
  if (item.exact == 0) y.Rotate(a.p.cache.k_rotation, l);
  const float scale = a.p.scale * kLog2e;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float x = y.v[4 * k + e] * scale;
      const __half high = __float2half(x);
      sh->q[0][slot][16 * k + 4 * l + e] = high;
      sh->q[1][slot][16 * k + 4 * l + e] = __float2half(x - __half2float(high));
    }
  }
}

// bias[row] = <query, mean of the page> in log2 units.
template <int kDim>
__device__ __forceinline__ void MeanBias(const AttentionArgs& a, PairShared<kDim>* sh,
                                         const tq_cuda_item& item, int kv_head, int row_tile,
                                         int mean) {
  const int slot = threadIdx.x >> 3, part = threadIdx.x & 7;
  const int row = row_tile * kPairRows + slot;
  float sum = 0.0f;
  if (mean >= 0 && row < a.p.group * a.p.q_len) {
    const uint16_t* mu =
        a.p.cache.means + (static_cast<int64_t>(mean) * a.p.cache.num_kv_heads + kv_head) * kDim;
    const int64_t at = item.sequence * a.p.q_sequence_stride +
                       (row / a.p.group) * a.p.q_token_stride +
                       (kv_head * a.p.group + row % a.p.group) * a.p.q_head_stride;
    for (int d = 2 * part; d < kDim; d += 16) {
      float x[2], y[2];
      LoadValues(a.p.q, a.p.q_dtype, at + d, x);
      LoadValues(mu, TQ_CUDA_F16, d, y);
      sum = fmaf(x[0], y[0], fmaf(x[1], y[1], sum));
    }
  }
#pragma unroll
  for (int h = 1; h < 8; h *= 2) sum += __shfl_xor_sync(kAllLanes, sum, h);
  if (part == 0) sh->bias[slot] = sum * a.p.scale * kLog2e;
}

template <int kDim>
__global__ void __launch_bounds__(kThreads) AttendPairs(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(128) uint8_t memory[];
  PairShared<kDim>* sh = reinterpret_cast<PairShared<kDim>*>(memory);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const tq_cuda_item item = LoadItem(a);
  const int kv_head = item.head_tile / a.plan.row_tiles;
  const int row_tile = item.head_tile % a.plan.row_tiles;
  const tq_cuda_cache& cache = a.p.cache;
  const RecordLayout layout = a.layout;
  const int coded_len = __ldg(a.p.coded_len + item.sequence);
  const int total = TotalLength(a, item.sequence, coded_len);
  const int exact_len = item.exact != 0 ? __ldg(a.p.exact_len + item.sequence) : 0;
  const float k_unit = FillTable(layout.k, kDim, sh->pairs[0]);
  const float v_unit = FillTable(layout.v, kDim, sh->pairs[1]);
  LoadQueries(a, sh, item, kv_head, row_tile);
  if (threadIdx.x < kPairRows) {
    sh->m[threadIdx.x] = kNoLogit;
    sh->l[threadIdx.x] = 0.0f;
    sh->bias[threadIdx.x] = 0.0f;
  }
  const int mask_row = row_tile * kPairRows + (threadIdx.x >> 3);
  const RowMask mask =
      LoadRowMask(a, item.sequence, total, min(mask_row / a.p.group, a.p.q_len - 1));
  PairOutput<kDim> output;
  output.Clear();

  const int end =
      item.exact != 0 ? min(item.end, exact_len) : min(item.end * kTileTokens, coded_len);
  for (int first = item.exact != 0 ? item.begin : item.begin * kTileTokens; first < end;
       first += kTileTokens) {
    PageContext page;
    page.first_token = first;
    page.count = min(end - first, kTileTokens);
    page.exact = item.exact != 0;
    page.v_unit = page.exact ? 1.0f : v_unit;
    page.fragments = !page.exact && OrderOf(layout.v, kDim) == TileOrder::kFragment;
    __syncthreads();
    if (page.exact) {
      LoadExact(sh, a.p.exact,
                item.sequence * a.p.exact.sequence_stride + kv_head * a.p.exact.head_stride, first,
                end);
    } else {
      const int index = first / kTileTokens;
      const int physical =
          __ldg(cache.page_table + static_cast<int64_t>(item.sequence) * cache.page_stride + index);
      const uint8_t* record =
          static_cast<const uint8_t*>(cache.records) +
          (static_cast<size_t>(physical) * cache.num_kv_heads + kv_head) * layout.bytes;
      UnpackSide(sh, record, layout.k, false);
      UnpackSide(sh, record + layout.v_codes, layout.v, true);
      for (int i = threadIdx.x; i < kTileTokens; i += kThreads) {
        const int at = ScaleSlot(i);
        sh->k_scale[i] =
            k_unit * HalfToFloat(reinterpret_cast<const uint16_t*>(record + layout.k_scales)[at]);
        sh->v_scale[i] =
            HalfToFloat(reinterpret_cast<const uint16_t*>(record + layout.v_scales)[at]);
      }
      if (cache.mean_tokens > 0) {
        MeanBias(a, sh, item, kv_head, row_tile,
                 __ldg(cache.mean_table + static_cast<int64_t>(item.sequence) * cache.mean_stride +
                       first / cache.mean_tokens));
      }
    }
    __syncthreads();
    Scores(sh, warp, lane);
    __syncthreads();
    SoftmaxPage(a, sh, page, mask, total, item.sequence, exact_len);
    __syncthreads();
    output.Add(*sh, warp, lane);
  }
  __syncthreads();
  float* to = a.partials + static_cast<size_t>(item.partial) * PartialFloats(a.plan, kDim);
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int i = 0; i < PairOutput<kDim>::kTiles; ++i) {
    const int dim = 8 * (warp + kWarps * i) + 2 * t;
    if (dim >= kDim) continue;
    *reinterpret_cast<float2*>(to + g * kDim + dim) = make_float2(output.o[i][0], output.o[i][1]);
    *reinterpret_cast<float2*>(to + (g + 8) * kDim + dim) =
        make_float2(output.o[i][2], output.o[i][3]);
  }
  if (threadIdx.x < kPairRows) {
    to[kPairRows * kDim + threadIdx.x] = sh->m[threadIdx.x];
    to[kPairRows * (kDim + 1) + threadIdx.x] = sh->l[threadIdx.x];
    if (threadIdx.x == 0) to[kPairRows * (kDim + 2)] = item.exact != 0 ? 1.0f : 0.0f;
  }
}

// Sums the partials of one sequence and head tile; 4 lanes a row.
template <int kDim>
__global__ void __launch_bounds__(4 * kPairRows)
    MergePairs(const __grid_constant__ AttentionArgs a) {
  const tq_cuda_item item = LoadItem(a);
  if (item.partial != item.first_partial) return;
  const int kv_head = item.head_tile / a.plan.row_tiles;
  const int slot = threadIdx.x >> 2, l = threadIdx.x & 3;
  const int row = (item.head_tile % a.plan.row_tiles) * kPairRows + slot;
  const size_t size = PartialFloats(a.plan, kDim);
  const float* first = a.partials + static_cast<size_t>(item.first_partial) * size;
  float most = kNoLogit, sum = 0.0f;
  for (int i = 0; i < item.partials; ++i) {
    most = fmaxf(most, first[i * size + kPairRows * kDim + slot]);
  }
  RowLanes<kDim> coded, exact;
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) coded.v[i] = exact.v[i] = 0.0f;
  for (int i = 0; i < item.partials; ++i) {
    const float* from = first + i * size;
    const float w = Exp2(from[kPairRows * kDim + slot] - most);
    sum = fmaf(w, from[kPairRows * (kDim + 1) + slot], sum);
    RowLanes<kDim> part;
    part.Load(from, TQ_CUDA_F32, slot * kDim, l);
    const bool plain = from[kPairRows * (kDim + 2)] != 0.0f;
#pragma unroll
    for (int n = 0; n < kDim / 4; ++n) {
      if (plain) {
        exact.v[n] = fmaf(w, part.v[n], exact.v[n]);
      } else {
        coded.v[n] = fmaf(w, part.v[n], coded.v[n]);
      }
    }
  }
  coded.Unrotate(a.p.cache.v_rotation, l);
  if (row >= a.p.group * a.p.q_len) return;
  const int query = row / a.p.group, head = kv_head * a.p.group + row % a.p.group;
  const RowSum finish = FinishRowSum(most, sum, a.p.sinks, head);
#pragma unroll
  for (int n = 0; n < kDim / 4; ++n) coded.v[n] = (coded.v[n] + exact.v[n]) * finish.factor;
  coded.Store(a.p.out, a.p.out_dtype,
              item.sequence * a.p.out_sequence_stride + query * a.p.out_token_stride +
                  head * a.p.out_head_stride,
              l);
  if (a.p.lse != nullptr && l == 0) {
    const int heads = a.p.cache.num_kv_heads * a.p.group;
    a.p.lse[(item.sequence * a.p.q_len + query) * heads + head] = finish.lse;
  }
}

template <int kDim>
cudaError_t LaunchPairDim(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  constexpr int kBytes = sizeof(PairShared<kDim>);
  const cudaError_t set =
      cudaFuncSetAttribute(AttendPairs<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (set != cudaSuccess) return set;
  AttendPairs<kDim><<<grid, kThreads, kBytes, stream>>>(args);
  const cudaError_t launched = cudaGetLastError();
  if (launched != cudaSuccess) return launched;
  MergePairs<kDim><<<grid, 4 * kPairRows, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchPair(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  cudaError_t result = cudaErrorInvalidValue;
  WithHeadDim(args.p.cache.head_dim,
              [&](auto dim) { result = LaunchPairDim<dim.value>(args, grid, stream); });
  return result;
}

}  // namespace turboquant::cuda
