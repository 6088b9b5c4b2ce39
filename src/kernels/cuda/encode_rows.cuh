// Rows of 16-bit values into fragment areas, the fast path of encoding: one lane codes one row, two
// warps one side of one page. A row in the registers of one lane needs no shuffles, neither for the
// butterflies nor for the sums; only the nibbles of values cross lanes. CTAs stay and walk over
// pages: rows of the next page are on their way while one is coded. Codes and scales are those of
// codec/scalar_codec.h bit for bit. Files that include this are compiled without contraction.
#ifndef TURBOQUANT_KERNELS_CUDA_ENCODE_ROWS_CUH_
#define TURBOQUANT_KERNELS_CUDA_ENCODE_ROWS_CUH_

#include "kernels/cuda/attention_common.cuh"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/encode_tables.h"
#include "kernels/cuda/kernel_launch.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/cuda/tensor_ops.cuh"

namespace turboquant::cuda {

template <int kDim>
struct RowTile {
  static constexpr int kThreads = kTileTokens;
  static constexpr int kCtas = 512 / kDim;      // an SM: a lane holds the whole row
  static constexpr int kPitch = 2 * kDim + 16;  // bytes; 16 more than the banks' period
  static constexpr int kWords = kDim / 8;       // of nibbles, a row
  static constexpr int kAreaWords = kDim * 8;   // the most that a side of a page takes
};

template <int kDim>
struct RowShared {
  using Tile = RowTile<kDim>;
  alignas(16) uint8_t rows[2][(kTileTokens + 1) * Tile::kPitch];  // the last one: the key mean
  alignas(16) uint32_t codes[Tile::kAreaWords];
  alignas(16) uint32_t masks[Tile::kAreaWords];  // which bits of codes are new; of a partial page
  alignas(16) uint32_t signs[2][kDim / 2];
  alignas(16) QuantizeTable tables[2];
};

struct EncodeRowsArgs {
  tq_cuda_encode_params p;
  RecordLayout layout;
  int pages;  // of a sequence, that its rows may touch
  int items;  // sides of pages
};

// One side of one page of one kv head, and the tokens [begin, end) of it that are coded.
struct EncodeItem {
  int head, begin, end;
  bool value_side, centred;
  uint8_t* record;
};

// Asks for the rows [begin, end) of a page, which start at `from` (or are listed by `sources`). A
// row that is not coded becomes zeros.
template <int kDim>
__device__ __forceinline__ void FetchRows(const uint16_t* from, const int32_t* sources,
                                          int64_t token_stride, int begin, int end, uint8_t* rows) {
  using Tile = RowTile<kDim>;
  constexpr int kPieces = kDim / 8;  // of 16 bytes, a row
  constexpr int kStep = Tile::kThreads / kPieces;
  const int slot = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
  const uint32_t to = SharedAddress(rows + slot * Tile::kPitch + 16 * piece);
  const unsigned count = static_cast<unsigned>(end - begin);
  from += 8 * piece;
  if (sources == nullptr) {
    // Addresses of rows that are not there are counted and not read.
    const int64_t first = (slot - begin) * token_stride, step = kStep * token_stride;
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      CopyAsync16(to + k * kStep * Tile::kPitch, from + (first + k * step),
                  static_cast<unsigned>(slot - begin + k * kStep) < count);
    }
    return;
  }
#pragma unroll 4
  for (int k = 0; k < kPieces; ++k) {
    const int row = slot - begin + k * kStep;
    const bool there = static_cast<unsigned>(row) < count;
    const int source = there ? __ldg(sources + row) : 0;
    CopyAsync16(to + k * kStep * Tile::kPitch, from + source * token_stride, there);
  }
}

template <int kDim>
__device__ __forceinline__ EncodeItem FetchItem(const EncodeRowsArgs& a, int index, uint8_t* rows) {
  const tq_cuda_cache& cache = a.p.cache;
  const int heads = cache.num_kv_heads;
  const int place = index / (2 * heads), rest = index - place * 2 * heads;
  const int b = a.p.batch > 1 ? place / a.pages : 0;
  EncodeItem item{};
  item.value_side = rest >= heads;
  item.head = item.value_side ? rest - heads : rest;
  const int first = __ldg(a.p.first_token + b), count = __ldg(a.p.num_rows + b);
  const int page = first / kTileTokens + place - b * a.pages;
  item.begin = max(first - page * kTileTokens, 0);
  item.end = min(first + count - page * kTileTokens, kTileTokens);
  if (item.begin >= item.end) return item;
  const int physical = __ldg(cache.page_table + int64_t{b} * cache.page_stride + page);
  item.record = static_cast<uint8_t*>(cache.records) +
                (static_cast<size_t>(physical) * heads + item.head) * a.layout.bytes;
  const int source = page * kTileTokens + item.begin - first;
  const uint16_t* from = static_cast<const uint16_t*>(item.value_side ? a.p.rows.v : a.p.rows.k) +
                         b * a.p.rows.sequence_stride + item.head * a.p.rows.head_stride;
  if (a.p.row_index == nullptr) {
    FetchRows<kDim>(from + source * a.p.rows.token_stride, nullptr, a.p.rows.token_stride,
                    item.begin, item.end, rows);
  } else {
    FetchRows<kDim>(from, a.p.row_index + int64_t{b} * a.p.index_stride + source,
                    a.p.rows.token_stride, item.begin, item.end, rows);
  }
  if (!item.value_side && cache.mean_tokens > 0) {
    const int mean = __ldg(cache.mean_table + int64_t{b} * cache.mean_stride +
                           page * kTileTokens / cache.mean_tokens);
    item.centred = mean >= 0;
    if (item.centred && threadIdx.x < kDim / 8) {
      CopyAsync16(SharedAddress(rows + kTileTokens * RowTile<kDim>::kPitch + 16 * threadIdx.x),
                  cache.means + (int64_t{mean} * heads + item.head) * kDim + 8 * threadIdx.x, true);
    }
  }
  return item;
}

// A row of 16-bit values, with the signs of the rotation.
template <int kDim>
__device__ __forceinline__ void LoadSigned(const uint8_t* row, int dtype, const uint32_t* signs,
                                           float (&v)[kDim]) {
  uint32_t words[kDim / 2];
#pragma unroll
  for (int i = 0; i < kDim / 2; i += 4) {
    const uint4 x = *reinterpret_cast<const uint4*>(row + 4 * i);
    const uint4 s = *reinterpret_cast<const uint4*>(signs + i);
    words[i] = x.x ^ s.x;
    words[i + 1] = x.y ^ s.y;
    words[i + 2] = x.z ^ s.z;
    words[i + 3] = x.w ^ s.w;
  }
  if (dtype == TQ_CUDA_BF16) {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) {
      v[2 * i] = __uint_as_float(words[i] << 16);
      v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) {
      const float2 x = __half22float2(reinterpret_cast<const __half2&>(words[i]));
      v[2 * i] = x.x;
      v[2 * i + 1] = x.y;
    }
  }
}

// FoldLanes of the scalar truth.
__device__ __forceinline__ float Fold16(float (&lane)[16]) {
#pragma unroll
  for (int l = 0; l < 8; ++l) lane[l] = lane[l] + lane[l + 8];
#pragma unroll
  for (int l = 0; l < 4; ++l) lane[l] = lane[l] + lane[l + 4];
  return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

// Rotates the signed row; the sum of its squares.
template <int kDim>
__device__ __forceinline__ float RotateRow(float norm, float (&v)[kDim]) {
#pragma unroll
  for (int h = 1; h < kDim; h *= 2) {
#pragma unroll
    for (int i = 0; i < kDim; ++i) {
      if ((i & h) != 0) continue;
      const float a = v[i], b = v[i + h];
      v[i] = a + b;
      v[i + h] = a - b;
    }
  }
  float sum[16] = {};
#pragma unroll
  for (int i = 0; i < kDim; ++i) {
    v[i] = v[i] * norm;
    sum[i % 16] = sum[i % 16] + v[i] * v[i];
  }
  return Fold16(sum);
}

// Ascending codes as nibbles, word n: dims 8 n .. 8 n + 7; returns the least-squares scale.
template <int kDim>
__device__ __forceinline__ float QuantizeLane(const float (&v)[kDim], float inverse_rms,
                                              const QuantizeTable& table,
                                              uint32_t (&words)[kDim / 8]) {
  const uint8_t* bins = reinterpret_cast<const uint8_t*>(table.bins);
  const uint8_t* centroids = reinterpret_cast<const uint8_t*>(table.centroids);
  float dot[16] = {}, norm[16] = {};
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
    // Codes come times 8: half a word of them has room for that.
    uint32_t half[2] = {0, 0};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int i = 8 * n + e;
      const float u = v[i] * inverse_rms;
      const QuantizeBin bin = *reinterpret_cast<const QuantizeBin*>(bins + BinOffset(u));
      uint32_t offset = bin.offset;
      if (u > bin.threshold) offset += sizeof(QuantizeCentroid);
      const QuantizeCentroid c = *reinterpret_cast<const QuantizeCentroid*>(centroids + offset);
      dot[i % 16] = dot[i % 16] + v[i] * c.value;
      norm[i % 16] = norm[i % 16] + c.square;
      half[e / 4] += offset << (4 * (e % 4));
    }
    words[n] = (half[0] >> 3) + (half[1] << 13);
  }
  return FitScale(ScaleRule::kLeastSquares, 0.0f, Fold16(dot), Fold16(norm), kDim);
}

// Ascending codes of 4 bits to nibbles of sign and magnitude, as CodeToNibble.
__device__ __forceinline__ uint32_t ToMagnitudes(uint32_t codes) {
  const uint32_t low = ~codes & 0x88888888u;  // codes below 8
  return codes ^ 0x88888888u ^ (low - (low >> 3));
}

// Lane t + 4 h + 8 i holds a word of 8 dims' nibbles of its token; it gets the word of dim
// m = 4 h + i: the nibbles of tokens t + 4 h' + 8 i' in place 4 h' + i'. Nibbles change places with
// lanes, one bit of the number at a time.
template <int n>
__device__ __forceinline__ void TransposeNibbles(uint32_t (&words)[n], int lane) {
  const bool bit2 = (lane & 4) != 0, bit1 = (lane & 16) != 0, bit0 = (lane & 8) != 0;
  const uint32_t halves = bit2 ? 0x3276u : 0x5410u, bytes = bit1 ? 0x3715u : 0x6240u;
  const uint32_t keep = bit0 ? 0xF0F0F0F0u : 0x0F0F0F0Fu;
  const int turn = bit0 ? 28 : 4;
#pragma unroll
  for (int k = 0; k < n; ++k) {
    uint32_t& w = words[k];
    w = Prmt(w, __shfl_xor_sync(kAllLanes, w, 4), halves);
    w = Prmt(w, __shfl_xor_sync(kAllLanes, w, 16), bytes);
    const uint32_t other = __shfl_xor_sync(kAllLanes, w, 8);
    w = (w & keep) | ((other << turn | other >> (32 - turn)) & ~keep);
  }
}

// Puts selector words 2 pair and 2 pair + 1 of (quad, lane) into the area. 3 bits: where a word of
// high bits is shared by two lanes, it comes in two parts, the second one in an area behind.
template <int kDim, int kBits, bool kParts>
__device__ __forceinline__ void StagePair(int quad, int lane, int pair, uint32_t a, uint32_t b,
                                          uint32_t* area) {
  uint32_t* low = area + LowWord(kBits, quad, lane, pair);
  if constexpr (kBits == 4) {
    *reinterpret_cast<uint2*>(low) = make_uint2(a, b);
  } else {
    *low = LowPair(a, b);
  }
  if constexpr (kBits == 3) {
    uint32_t* high = area + HighWord(kDim, quad, lane);
    const uint32_t x = HighPair(a, b, pair);
    if (kParts) {
      high[pair * 2 * kDim] = x;
    } else {
      *high = pair == 0 ? x : *high | x;
    }
  }
}

// The words of high bits of keys of 128 dims have one owner; others come in parts.
template <int kDim>
__device__ __forceinline__ bool HighParts(int bits, bool value_side) {
  return bits == 3 && (value_side || kDim < 128);
}

template <int kDim, int kBits>
__device__ __forceinline__ void StageWords(const uint32_t (&words)[kDim / 8], bool value_side,
                                           uint32_t* area) {
  constexpr int kEach = kDim / 32;  // selector words of a key in a quarter of its dims
  const int token = threadIdx.x, lane = token & 31;
  if (value_side) {
    const int m = (lane >> 2 & 1) * 4 + (lane >> 3);
#pragma unroll
    for (int quad = 0; quad < kDim / 16; ++quad) {
      StagePair<kDim, kBits, true>(quad, 4 * m + (lane & 3), token >> 5, words[2 * quad],
                                   words[2 * quad + 1], area);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kDim / 8; i += 2) {
    const int n = (token >> 3) * kEach + i % kEach;
    const int pair = kEach == 4 ? i % kEach / 2 : n % 4 / 2;
    StagePair<kDim, kBits, (kDim < 128)>(n >> 2, (token & 7) * 4 + i / kEach, pair, words[i],
                                         words[i + 1], area);
  }
}

// Four stored words from `index` on, of what StageWords left.
template <int kDim>
__device__ __forceinline__ uint4 StagedWords(const uint32_t* area, int index, bool parts) {
  uint4 x = *reinterpret_cast<const uint4*>(area + index);
  if (parts && index >= 4 * kDim) {
    const uint4 y = *reinterpret_cast<const uint4*>(area + index + 2 * kDim);
    x = make_uint4(x.x | y.x, x.y | y.y, x.z | y.z, x.w | y.w);
  }
  return x;
}

// The staged area to its record; bits of tokens that are not coded now stay.
template <int kDim>
__device__ __forceinline__ void StoreArea(const RowShared<kDim>& sh, int bits, bool value_side,
                                          bool whole, uint32_t* to) {
  const bool parts = HighParts<kDim>(bits, value_side);
  for (int i = 4 * threadIdx.x; i < bits * kDim * 2; i += 4 * RowTile<kDim>::kThreads) {
    uint4 x = StagedWords<kDim>(sh.codes, i, parts);
    uint4* place = reinterpret_cast<uint4*>(to + i);
    if (!whole) {
      const uint4 m = StagedWords<kDim>(sh.masks, i, parts);
      if ((m.x | m.y | m.z | m.w) == 0) continue;
      const uint4 old = *place;
      x = make_uint4((x.x & m.x) | (old.x & ~m.x), (x.y & m.y) | (old.y & ~m.y),
                     (x.z & m.z) | (old.z & ~m.z), (x.w & m.w) | (old.w & ~m.w));
    }
    *place = x;
  }
}

// Codes the rows of one item, which lie in shared memory.
template <int kDim>
__device__ __forceinline__ void EncodeItemRows(const EncodeRowsArgs& a, const EncodeItem& item,
                                               const uint8_t* rows, RowShared<kDim>& sh) {
  using Tile = RowTile<kDim>;
  const int side = item.value_side ? 1 : 0, slot = threadIdx.x;
  const int bits = item.value_side ? a.layout.v.bits : a.layout.k.bits;
  const bool active = slot >= item.begin && slot < item.end;
  float v[kDim];
  LoadSigned<kDim>(rows + slot * Tile::kPitch, a.p.rows.dtype, sh.signs[side], v);
  if (item.centred) {
    float mean[kDim];
    LoadSigned<kDim>(rows + kTileTokens * Tile::kPitch, TQ_CUDA_F16, sh.signs[side], mean);
#pragma unroll
    for (int i = 0; i < kDim; ++i) v[i] = v[i] - mean[i];
  }
  const tq_cuda_rotation& rotation = item.value_side ? a.p.cache.v_rotation : a.p.cache.k_rotation;
  const float energy = RotateRow<kDim>(rotation.norm, v);
  float inverse_rms = 1.0f / sqrtf(energy / static_cast<float>(kDim));
  const bool valid = energy <= kFloatMax;
  const bool usable = valid && energy > 0.0f && inverse_rms <= kFloatMax;
  if (!usable) {
    asm volatile("");  // a branch that nobody takes, instead of a choice for each value
    // The search wants numbers.
    inverse_rms = 0.0f;
#pragma unroll
    for (int i = 0; i < kDim; ++i) v[i] = 0.0f;
  }
  uint32_t words[Tile::kWords];
  const float fit = QuantizeLane<kDim>(v, inverse_rms, sh.tables[side], words);
#pragma unroll
  for (int n = 0; n < Tile::kWords; ++n) {
    if (!usable) words[n] = 0;
    if (bits == 4) words[n] = ToMagnitudes(words[n]);
  }
  if (active) {
    const float clamped = fminf(fmaxf(fit, -kHalfMax), kHalfMax);
    reinterpret_cast<uint16_t*>(
        item.record + (item.value_side ? a.layout.v_scales : a.layout.k_scales))[ScaleSlot(slot)] =
        usable ? static_cast<uint16_t>(PackHalves(clamped, 0.0f)) : uint16_t{0};
    if (!valid && a.p.bad_rows != nullptr) atomicAdd(a.p.bad_rows, 1);
  }
  const bool whole = item.begin == 0 && item.end == kTileTokens;
#pragma unroll 1
  for (uint32_t* area = sh.codes;; area = sh.masks) {
    if (item.value_side) TransposeNibbles<Tile::kWords>(words, slot & 31);
    if (bits == 4) {
      StageWords<kDim, 4>(words, item.value_side, area);
    } else if (bits == 3) {
      StageWords<kDim, 3>(words, item.value_side, area);
    } else {
      StageWords<kDim, 2>(words, item.value_side, area);
    }
    if (whole || area == sh.masks) break;
#pragma unroll
    for (int n = 0; n < Tile::kWords; ++n) words[n] = active ? 0xFFFFFFFFu : 0u;
  }
  __syncthreads();
  StoreArea<kDim>(sh, bits, item.value_side, whole,
                  reinterpret_cast<uint32_t*>(item.record + (side != 0 ? a.layout.v_codes : 0)));
}

template <int kDim>
__global__ void __launch_bounds__(RowTile<kDim>::kThreads, RowTile<kDim>::kCtas)
    EncodeRows(const __grid_constant__ EncodeRowsArgs a) {
  RowShared<kDim>& sh = *reinterpret_cast<RowShared<kDim>*>(DynamicShared());
  LetNextKernelStart();
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const tq_cuda_rotation& rotation = side != 0 ? a.p.cache.v_rotation : a.p.cache.k_rotation;
    for (int i = threadIdx.x; i < kDim / 2; i += RowTile<kDim>::kThreads) {
      sh.signs[side][i] = RowLanes<kDim>::SignWord(rotation, i);
    }
    const int bits = side != 0 ? a.layout.v.bits : a.layout.k.bits;
    const uint4* from = reinterpret_cast<const uint4*>(&kQuantizeTables[bits - 2]);
    uint4* to = reinterpret_cast<uint4*>(&sh.tables[side]);
    for (int i = threadIdx.x; i < int{sizeof(QuantizeTable) / 16}; i += RowTile<kDim>::kThreads) {
      to[i] = __ldg(from + i);
    }
  }
  WaitForKernelBefore();
  EncodeItem item = FetchItem<kDim>(a, blockIdx.x, sh.rows[0]);
  CommitCopies();
  int stage = 0;
  for (int index = blockIdx.x; index < a.items; index += gridDim.x) {
    EncodeItem next{};
    if (index + static_cast<int>(gridDim.x) < a.items) {
      next = FetchItem<kDim>(a, index + gridDim.x, sh.rows[stage ^ 1]);
    }
    CommitCopies();
    WaitCopies<1>();
    __syncthreads();
    if (item.begin < item.end) EncodeItemRows<kDim>(a, item, sh.rows[stage], sh);
    item = next;
    stage ^= 1;
  }
}

// f16 and bf16 rows of 64 or 128 dims in fragment areas.
inline bool EncodeRowsServes(const tq_cuda_encode_params& p, const RecordLayout& layout) {
  return p.rows.dtype != TQ_CUDA_F32 && (layout.head_dim == 64 || layout.head_dim == 128) &&
         OrderOf(layout.k, layout.head_dim) == TileOrder::kFragment &&
         OrderOf(layout.v, layout.head_dim) == TileOrder::kFragment;
}

inline EncodeRowsArgs MakeEncodeRowsArgs(const tq_cuda_encode_params& p,
                                         const RecordLayout& layout) {
  // Rows need not start at a page, so they may touch one page more than they fill.
  const int pages = (p.max_rows + kTileTokens - 1) / kTileTokens + (p.max_rows % kTileTokens != 1);
  return {p, layout, pages, p.batch * pages * 2 * p.cache.num_kv_heads};
}

// On `sms` multiprocessors.
template <int kDim>
cudaError_t LaunchEncodeRows(const EncodeRowsArgs& args, int sms, cudaStream_t stream) {
  const int ctas = sms * RowTile<kDim>::kCtas;
  const dim3 grid(static_cast<unsigned>(args.items < ctas ? args.items : ctas));
  return LaunchKernelEarly<EncodeRows<kDim>>(
      grid, RowTile<kDim>::kThreads, static_cast<int>(sizeof(RowShared<kDim>)), stream, args);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ENCODE_ROWS_CUH_
