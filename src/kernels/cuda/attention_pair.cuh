// The reference path: decode attention for every format, head dim and number of query rows.
//
// A CTA of 4 warps serves 16 query rows of one kv head and walks pages. Codes come to shared memory
// while the page before is worked on. First the keys, then the values are unpacked to fp16 (codes
// of fragments two at a time through a table of pairs); logits and outputs are m16n8k16 products
// with query and weights split into a high and a low fp16, so that only the accumulation in fp32
// rounds. Codebook steps are integers up to 126, exact in fp16; their unit and the scales stay
// outside. A second kernel merges the partial results and rotates back.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_PAIR_CUH_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_PAIR_CUH_

#include "codec/trellis_codec.h"
#include "kernels/cuda/kernel_launch.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/cuda/tensor_ops.cuh"

namespace turboquant::cuda {

inline constexpr int kPairWarps = 4;
inline constexpr int kPairThreads = 32 * kPairWarps;
inline constexpr int kTokenPitch = kTileTokens + 8;  // halves; rows start in different banks

template <int kDim>
struct PairShared {
  static constexpr int kPitch = kDim + 8;  // halves
  static constexpr int kRowHalves = kTileTokens * kPitch, kColumnHalves = kDim * kTokenPitch;
  alignas(16) __half q[2][kPairRows][kPitch];  // high and low
  // Keys [token][kPitch], later values: the same, or those of fragments [dim][kTokenPitch].
  alignas(16) __half x[kRowHalves > kColumnHalves ? kRowHalves : kColumnHalves];
  alignas(16) __half p[2][kPairRows][kTokenPitch];
  alignas(16) float s[kPairRows][kTileTokens + 4];
  __half2 pairs[2][256];
  float k_scale[kTileTokens], v_scale[kTileTokens];
  float bias[kPairRows], keep[kPairRows], factor[kPairRows];
  float m[kPairRows], l[kPairRows];

  // Behind it: a record.
  __device__ __forceinline__ uint8_t* Record() {
    return reinterpret_cast<uint8_t*>(this) + sizeof(PairShared);
  }
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
  for (int i = threadIdx.x; i < 256; i += kPairThreads) {
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

// Codes of dims 8 block .. + 7 of a canonical row.
template <int kDim>
__device__ __forceinline__ void LoadCodes(const uint8_t* row, TileFormat f, int block,
                                          int (&codes)[8]) {
  if (f.trellis) {
    constexpr int kPlane = kDim / 8;
    const TrellisView trellis = Trellis(f.bits, TrellisMemory(f.bits));
    // Bit 8 + i: path bit i of the block; below, those before. Parities at the same places.
    const uint32_t path = (block > 0 ? row[block - 1] : 0u) | static_cast<uint32_t>(row[block])
                                                                  << 8;
    uint32_t planes[5] = {0, 0, 0, 0, 0};
#pragma unroll
    for (int k = 0; k <= 6; ++k) {
      if ((trellis.h1 >> k & 1u) != 0) planes[0] ^= path << k;
      if ((trellis.h0 >> k & 1u) != 0) planes[1] ^= path << k;
    }
#pragma unroll
    for (int p = 1; p < 4; ++p) {
      if (p < f.bits) planes[1 + p] = static_cast<uint32_t>(row[p * kPlane + block]) << 8;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      uint32_t code = 0;
#pragma unroll
      for (int p = 0; p < 5; ++p) code |= (planes[p] >> (8 + i) & 1u) << p;
      codes[i] = static_cast<int>(code);
    }
  } else if (f.bits == 8) {
    const uint2 two = *reinterpret_cast<const uint2*>(row + 8 * block);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      codes[i] = static_cast<int>((i < 4 ? two.x : two.y) >> (8 * (i % 4)) & 255u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) codes[i] = LoadCode(f.bits, row, kDim, 8 * block + i);
  }
}

template <int kDim>
__device__ __forceinline__ void UnpackRows(PairShared<kDim>* sh, const uint8_t* area, TileFormat f,
                                           bool value_side) {
  const uint16_t* table = reinterpret_cast<const uint16_t*>(sh->pairs[value_side ? 1 : 0]);
  constexpr int kBlocks = kDim / 8;
  const int row_bytes = f.bits * kDim / 8;
  for (int i = threadIdx.x; i < kTileTokens * kBlocks; i += kPairThreads) {
    const int token = i / kBlocks, block = i % kBlocks;
    int codes[8];
    LoadCodes<kDim>(area + token * row_bytes, f, block, codes);
    uint32_t words[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      words[n] = table[codes[2 * n]] | static_cast<uint32_t>(table[codes[2 * n + 1]]) << 16;
    }
    *reinterpret_cast<uint4*>(&sh->x[token * PairShared<kDim>::kPitch + 8 * block]) =
        make_uint4(words[0], words[1], words[2], words[3]);
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
  for (int i = threadIdx.x; i < 2 * kDim; i += kPairThreads) {
    const int quad = i / 32, lane = i % 32, g = lane >> 2, t = lane & 3;
    uint32_t s[4];
    LoadQuad(f.bits, reinterpret_cast<const uint32_t*>(area), kDim, quad, lane, s);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      constexpr int kWords = kDim >= 32 ? kDim / 32 : 1;
      const int n = 4 * quad + j;
      const int at = value_side ? (16 * quad + 8 * (j % 2) + g) * kTokenPitch + 32 * (j / 2) + 8 * t
                                : (8 * (n / kWords) + g) * PairShared<kDim>::kPitch +
                                      t * (kDim / 4) + 8 * (n % kWords);
      *reinterpret_cast<uint4*>(&sh->x[at]) = LookUpWord(table, s[j]);
    }
  }
}

// 64 exact rows of keys or values as they are; rows that do not exist become zeros.
template <int kDim>
__device__ __forceinline__ void LoadExact(PairShared<kDim>* sh, const void* rows, int dtype,
                                          int64_t base, int64_t token_stride, int first, int end) {
  for (int i = threadIdx.x; i < kTileTokens * kDim / 2; i += kPairThreads) {
    const int token = i / (kDim / 2), dim = 2 * (i % (kDim / 2));
    float x[2] = {0, 0};
    if (first + token < end) {
      LoadValues(rows, dtype, base + int64_t{first + token} * token_stride + dim, x);
    }
    *reinterpret_cast<__half2*>(&sh->x[token * PairShared<kDim>::kPitch + dim]) =
        __floats2half2_rn(x[0], x[1]);
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
      const __half* row =
          &sh->x[(16 * warp + 8 * n + g) * PairShared<kDim>::kPitch + column + 2 * t];
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
  static constexpr int kTiles = (kDim / 8 + kPairWarps - 1) / kPairWarps;
  float o[kTiles][4];  // columns 8 (warp + 4 i) .. + 7

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;
  }

  // fragments: values lie [dim][token], else [token][dim].
  __device__ __forceinline__ void Add(const PairShared<kDim>& sh, bool fragments, int warp,
                                      int lane) {
    const int g = lane >> 2, t = lane & 3;
    const float keep0 = sh.keep[g], keep1 = sh.keep[g + 8];
    const float factor0 = sh.factor[g], factor1 = sh.factor[g + 8];
    float high[kTiles][4] = {}, low[kTiles][4] = {};
#pragma unroll
    for (int column = 0; column < kTileTokens; column += 32) {
      uint32_t p[2][2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        LoadOperandA(sh.p[0], column + 16 * half, lane, p[0][half]);
        LoadOperandA(sh.p[1], column + 16 * half, lane, p[1][half]);
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const int tile = warp + kPairWarps * i;
        if (8 * tile >= kDim) continue;
        uint32_t b[4];
        if (fragments) {
          const __half* row = &sh.x[(8 * tile + g) * kTokenPitch + column + 2 * t];
#pragma unroll
          for (int n = 0; n < 4; ++n) b[n] = *reinterpret_cast<const uint32_t*>(row + 8 * n);
        } else {
          LoadMatricesTransposed(
              SharedAddress(&sh.x[(column + lane) * PairShared<kDim>::kPitch + 8 * tile]), b);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          MmaHalf(high[i], p[0][half], b[2 * half], b[2 * half + 1]);
          MmaHalf(low[i], p[1][half], b[2 * half], b[2 * half + 1]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float sum = fmaf(low[i][c], 1.0f / 2048.0f, high[i][c]);
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

// Bytes [begin, end) of a record on their way to shared memory; a group of copies.
__device__ __forceinline__ void RequestBytes(uint8_t* to, const uint8_t* record, int begin,
                                             int end) {
  for (int i = begin + 16 * threadIdx.x; i < end; i += 16 * kPairThreads) {
    CopyAsync16(SharedAddress(to + i), record + i, true);
  }
}

template <int kDim>
__global__ void __launch_bounds__(kPairThreads)
    AttendPairs(const __grid_constant__ AttentionArgs a) {
  PairShared<kDim>* sh = reinterpret_cast<PairShared<kDim>*>(DynamicShared());
  uint8_t* coded = sh->Record();
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const tq_cuda_item item = LoadItem(a);
  const int kv_head = item.head_tile / a.plan.row_tiles;
  const int row_tile = item.head_tile % a.plan.row_tiles;
  const tq_cuda_cache& cache = a.p.cache;
  const RecordLayout layout = a.layout;
  const int coded_len = __ldg(a.p.coded_len + item.sequence);
  const int total = TotalLength(a, item.sequence, coded_len);
  const bool exact = item.exact != 0;
  const int exact_len = exact ? __ldg(a.p.exact_len + item.sequence) : 0;
  const int begin = exact ? item.begin : item.begin * kTileTokens;
  const int end = exact ? min(item.end, exact_len) : min(item.end * kTileTokens, coded_len);
  const auto record = [&](int first) {
    const int page =
        __ldg(cache.page_table + static_cast<int64_t>(item.sequence) * cache.page_stride +
              first / kTileTokens);
    return static_cast<const uint8_t*>(cache.records) +
           (static_cast<size_t>(page) * cache.num_kv_heads + kv_head) * layout.bytes;
  };
  // Groups of copies: keys with all scales, then values. Past the end they are empty.
  const auto request_keys = [&](int first) {
    if (first < end && !exact) {
      const uint8_t* from = record(first);
      RequestBytes(coded, from, 0, layout.v_codes);
      RequestBytes(coded, from, layout.k_scales, layout.bytes);
    }
    CommitCopies();
  };
  const auto request_values = [&](int first) {
    if (first < end && !exact) RequestBytes(coded, record(first), layout.v_codes, layout.k_scales);
    CommitCopies();
  };
  request_keys(begin);
  request_values(begin);

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
  const tq_cuda_rows& rows = a.p.exact;
  const int64_t exact_at = item.sequence * rows.sequence_stride + kv_head * rows.head_stride;

  for (int first = begin; first < end; first += kTileTokens) {
    PageContext page;
    page.first_token = first;
    page.count = min(end - first, kTileTokens);
    page.exact = exact;
    page.v_unit = exact ? 1.0f : v_unit;
    page.fragments = !exact && OrderOf(layout.v, kDim) == TileOrder::kFragment;
    WaitCopies<1>();
    __syncthreads();
    if (exact) {
      LoadExact(sh, rows.k, rows.dtype, exact_at, rows.token_stride, first, end);
    } else {
      UnpackSide(sh, coded, layout.k, false);
    }
    for (int i = threadIdx.x; i < kTileTokens; i += kPairThreads) {
      const auto scale = [&](int area) {
        return HalfToFloat(reinterpret_cast<const uint16_t*>(coded + area)[ScaleSlot(i)]);
      };
      sh->k_scale[i] = exact ? 1.0f : k_unit * scale(layout.k_scales);
      sh->v_scale[i] = exact ? (first + i < end ? 1.0f : 0.0f) : scale(layout.v_scales);
    }
    if (!exact && cache.mean_tokens > 0) {
      MeanBias(a, sh, item, kv_head, row_tile,
               __ldg(cache.mean_table + static_cast<int64_t>(item.sequence) * cache.mean_stride +
                     first / cache.mean_tokens));
    }
    __syncthreads();
    request_keys(first + kTileTokens);
    Scores(sh, warp, lane);
    WaitCopies<1>();
    __syncthreads();
    if (exact) {
      LoadExact(sh, rows.v, rows.dtype, exact_at, rows.token_stride, first, end);
    } else {
      UnpackSide(sh, coded + layout.v_codes, layout.v, true);
    }
    SoftmaxPage(a, sh, page, mask, total, item.sequence, exact_len);
    __syncthreads();
    request_values(first + kTileTokens);
    output.Add(*sh, page.fragments, warp, lane);
  }
  __syncthreads();
  float* to = a.partials + static_cast<size_t>(item.partial) * PartialFloats(a.plan, kDim);
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int i = 0; i < PairOutput<kDim>::kTiles; ++i) {
    const int dim = 8 * (warp + kPairWarps * i) + 2 * t;
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
  const int bytes = static_cast<int>(sizeof(PairShared<kDim>)) + args.layout.bytes;
  const cudaError_t launched =
      LaunchKernel<AttendPairs<kDim>>(grid, kPairThreads, bytes, stream, args);
  if (launched != cudaSuccess) return launched;
  return LaunchKernel<MergePairs<kDim>>(grid, 4 * kPairRows, 0, stream, args);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_PAIR_CUH_
