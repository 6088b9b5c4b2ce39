// Rows of 16-bit values into fragment areas, the fast path of encoding: a lane codes 64 values of a
// row (so 1, 2 or 4 lanes a row), one CTA one side of one page. 64 values leave registers for 16
// warps an SM; those of other lanes are needed in the last butterflies of a block of 16 alone. CTAs
// stay and walk over pages: a warp's rows of the next page are on their way while it codes those of
// one. Codes and scales are those of codec/scalar_codec.h bit for bit. Files that include this are
// compiled without contraction.
#ifndef TURBOQUANT_KERNELS_CUDA_ENCODE_ROWS_CUH_
#define TURBOQUANT_KERNELS_CUDA_ENCODE_ROWS_CUH_

#include "kernels/cuda/attention_common.cuh"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/encode_tables.h"
#include "kernels/cuda/kernel_launch.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/cuda/tensor_ops.cuh"

namespace turboquant::cuda {

// Rows of a page lie in shared memory so that the 8 tokens whose values share words of nibbles
// (bits 2, 3 and 4 of the token differ) are neighbours, and lanes likewise: row p is of token
// TokenOf(p). Lanes of one row are as far apart in a warp as can be.
template <int kDim>
struct RowTile {
  static constexpr int kLanes = kDim / 64;  // a row; they hold 64 values each
  static constexpr int kThreads = kLanes * kTileTokens;
  static constexpr int kCtas = 512 / kDim;      // an SM
  static constexpr int kRows = 32 / kLanes;     // a warp
  static constexpr int kPitch = 2 * kDim + 16;  // bytes; 16 more than the banks' period
  static constexpr int kWords = 8;              // of nibbles, a lane
  static constexpr int kPairs = kWords / 2;
  using Row = RowLanes<kDim, kLanes, kRows>;

  static __device__ __forceinline__ int RowOf(int thread) {
    return (thread >> 5) * kRows + thread % kRows;
  }
  static __device__ __forceinline__ int PartOf(int thread) { return (thread & 31) / kRows; }
  static constexpr __device__ __forceinline__ int TokenOf(int row) {
    return (row >> 3 & 3) + (row >> 2 & 1) * 4 + (row & 3) * 8 + (row & 32);
  }
  // The first pair of words that a lane stages.
  static __device__ __forceinline__ int FirstPair(int part) {
    constexpr int kBlocks = kDim / 16;
    return kLanes == 1   ? 0
           : kLanes == 2 ? part * kPairs
                         : (part & 1) * (kBlocks / 2) + (part >> 1) * kPairs;
  }
};

// The thread's number, computed anew: what is made of it needs no registers while a row is coded.
__device__ __forceinline__ int ThreadAnew() {
  int thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  return thread;
}

// One side of one page of one kv head, and the tokens [begin, end) of it that are coded.
struct alignas(16) EncodeItem {
  const uint16_t* rows;  // the row of token `begin`, or all of them if they are listed; null: none
  const int32_t* sources;  // the list, from token `begin` on
  const uint16_t* mean;
  const int32_t* page;  // where the page table says which one
  int64_t token_stride;
  int physical;     // what it says; comes with the rows
  int place, rest;  // among the pages, among the sides of one
  int begin, end;
  int side;   // 1: values
  int whole;  // 1: all tokens, not listed
};

template <int kDim>
struct RowShared {
  alignas(16) uint8_t rows[2][(kTileTokens + 1) * (2 * kDim + 16)];  // the last one: the key mean
  alignas(16) uint32_t codes[2][8 * kDim];
  alignas(16) uint32_t signs[2][kDim / 2];
  alignas(16) QuantizeTable tables[2];
  EncodeItem items[4];
};

struct EncodeRowsArgs {
  tq_cuda_encode_params p;
  RecordLayout layout;
  int pages;                   // of a sequence, that its rows may touch
  int items;                   // sides of pages
  int step_pages, step_sides;  // what a CTA steps over from item to item
};

// All of an item but its physical page. It is `rest` sides after the first one of page `place`;
// pages of all sequences are counted.
__device__ __forceinline__ void FillItem(const EncodeRowsArgs& a, int place, int rest,
                                         EncodeItem* to) {
  const tq_cuda_cache& cache = a.p.cache;
  const int heads = cache.num_kv_heads;
  if (rest >= 2 * heads) rest -= 2 * heads, ++place;
  EncodeItem item{};
  item.place = place;
  item.rest = rest;
  *to = item;
  if (place >= a.p.batch * a.pages) return;
  const int b = a.p.batch > 1 ? place / a.pages : 0;
  item.side = rest >= heads ? 1 : 0;
  const int head = rest - item.side * heads;
  const int first = __ldg(a.p.first_token + b), count = __ldg(a.p.num_rows + b);
  const int page = first / kTileTokens + place - b * a.pages;
  item.begin = max(first - page * kTileTokens, 0);
  item.end = min(first + count - page * kTileTokens, kTileTokens);
  if (item.begin >= item.end) return;
  item.token_stride = a.p.rows.token_stride;
  item.page = cache.page_table + int64_t{b} * cache.page_stride + page;
  const int source = page * kTileTokens + item.begin - first;
  item.rows = static_cast<const uint16_t*>(item.side != 0 ? a.p.rows.v : a.p.rows.k) +
              b * a.p.rows.sequence_stride + head * a.p.rows.head_stride;
  if (a.p.row_index == nullptr) {
    item.rows += source * a.p.rows.token_stride;
    item.whole = item.end - item.begin == kTileTokens ? 1 : 0;
  } else {
    item.sources = a.p.row_index + int64_t{b} * a.p.index_stride + source;
  }
  if (item.side == 0 && cache.mean_tokens > 0) {
    const int mean = __ldg(cache.mean_table + int64_t{b} * cache.mean_stride +
                           page * kTileTokens / cache.mean_tokens);
    if (mean >= 0) item.mean = cache.means + (int64_t{mean} * heads + head) * cache.head_dim;
  }
  *to = item;
}

__device__ __forceinline__ uint8_t* RecordOf(const EncodeRowsArgs& a, const EncodeItem& item) {
  const int heads = a.p.cache.num_kv_heads, head = item.rest - item.side * heads;
  return static_cast<uint8_t*>(a.p.cache.records) +
         (static_cast<size_t>(item.physical) * heads + head) * a.layout.bytes;
}

// Asks for those rows of an item that this warp codes. A row that is not coded becomes zeros.
template <int kDim>
__device__ __forceinline__ void FetchRows(EncodeItem& item, uint8_t* rows) {
  using Tile = RowTile<kDim>;
  constexpr int kPieces = kDim / 8;  // of 16 bytes, a row
  constexpr int kStep = 32 / kPieces;
  constexpr int kEach = Tile::kRows / kStep;
  if (item.rows == nullptr) return;
  const int thread = ThreadAnew(), lane = thread & 31, piece = lane % kPieces;
  const int row = (thread >> 5) * Tile::kRows + lane / kPieces, token = Tile::TokenOf(row);
  const uint32_t base = SharedAddress(rows);
  const uint32_t to = base + static_cast<uint32_t>(row * Tile::kPitch + 16 * piece);
  const uint16_t* from = item.rows + 8 * piece;
  const int64_t token_stride = item.token_stride;
  if (item.mean != nullptr && thread < kPieces) {
    CopyAsync16(base + kTileTokens * Tile::kPitch + 16 * piece, item.mean + 8 * piece, true);
  }
  if (thread == 0) CopyAsync4(SharedAddress(&item.physical), item.page);
  // Row `row` + k kStep is of token `token` + TokenOf(k kStep).
  if (item.whole != 0) {
    const uint16_t* at[kEach];
    at[0] = from + token * token_stride;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int low = k & -k;
      if (k > 0) at[k] = at[k - low] + Tile::TokenOf(low * kStep) * token_stride;
      CopyAsync16(to + k * kStep * Tile::kPitch, at[k], true);
    }
    return;
  }
  const int begin = item.begin;
  const unsigned count = static_cast<unsigned>(item.end - begin);
  const int32_t* sources = item.sources;
#pragma unroll 2
  for (int k = 0; k < kEach; ++k) {
    int source = token + Tile::TokenOf(k * kStep) - begin;
    const bool there = static_cast<unsigned>(source) < count;
    source = !there ? 0 : sources != nullptr ? __ldg(sources + source) : source;
    CopyAsync16(to + k * kStep * Tile::kPitch, from + source * token_stride, there);
  }
}

// A lane's part of a row of 16-bit values, with the signs of the rotation.
template <class Row>
__device__ __forceinline__ void LoadSigned(const uint8_t* row, int dtype, const uint32_t* signs,
                                           int part, float (&v)[Row::kValues]) {
  constexpr int kWords = Row::kPer / 2, kLoad = kWords < 4 ? kWords : 4;
  uint32_t words[Row::kValues / 2];
#pragma unroll
  for (int i = 0; i < Row::kValues / 2; i += kLoad) {
    const int at = 8 * (i / kWords) + kWords * part + i % kWords;
    uint32_t sign[kLoad];
    LoadWords<kLoad>(row + 4 * at, false, words + i);
    LoadWords<kLoad>(signs + at, false, sign);
#pragma unroll
    for (int e = 0; e < kLoad; ++e) words[i + e] ^= sign[e];
  }
  if (dtype == TQ_CUDA_BF16) {
#pragma unroll
    for (int i = 0; i < Row::kValues / 2; ++i) {
      v[2 * i] = __uint_as_float(words[i] << 16);
      v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < Row::kValues / 2; ++i) {
      const float2 x = __half22float2(reinterpret_cast<const __half2&>(words[i]));
      v[2 * i] = x.x;
      v[2 * i + 1] = x.y;
    }
  }
}

// A lane's part of a row minus the mean (if any), rotated.
template <class Row>
__device__ __forceinline__ void LoadRotated(const uint8_t* row, const uint8_t* mean, int dtype,
                                            const uint32_t* signs, int part,
                                            const tq_cuda_rotation& rotation, Row* y) {
  LoadSigned<Row>(row, dtype, signs, part, y->v);
  if (mean != nullptr) {
    Row m;
    LoadSigned<Row>(mean, TQ_CUDA_F16, signs, part, m.v);
#pragma unroll
    for (int i = 0; i < Row::kValues; ++i) y->v[i] = y->v[i] - m.v[i];
  }
  y->RotateSigned(rotation, part);
}

// Where a table of encode_tables.h is in shared memory. Its bins hold places there, not offsets.
struct SharedTable {
  uint32_t bins;
  uint32_t zero_word;  // what 8 places of code 0 make of a word of nibbles
};

__device__ __forceinline__ SharedTable TableAt(const QuantizeTable& table) {
  const uint32_t place = SharedAddress(table.centroids);
  return {SharedAddress(table.bins), (place >> 3) + place * 0x02222222u};
}

// Ascending codes of a lane's values as nibbles, in v's order; returns the least-squares scale (of
// part 0). The sums start without a zero, which differs only if all terms are -0.
template <class Row>
__device__ __forceinline__ float QuantizeLane(const Row& y, int part, float inverse_rms,
                                              const SharedTable& table,
                                              uint32_t (&words)[Row::kValues / 8]) {
  constexpr int kPer = Row::kPer;
  float dot[kPer], norm[kPer];
#pragma unroll
  for (int n = 0; n < Row::kValues / 8; ++n) {
    uint32_t word = 0;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int i = 8 * n + e;
      const float u = y.v[i] * inverse_rms;
      const uint2 bin = LoadShared8(table.bins + BinOffset(u));
      uint32_t place = bin.y;
      if (u > __uint_as_float(bin.x)) place += sizeof(QuantizeCentroid);
      const uint2 c = LoadShared8(place);
      const float term = y.v[i] * __uint_as_float(c.x), square = __uint_as_float(c.y);
      dot[i % kPer] = i < kPer ? term : dot[i % kPer] + term;
      norm[i % kPer] = i < kPer ? square : norm[i % kPer] + square;
      // Places are 8 bytes a code after that of code 0.
      word = e == 0 ? place >> 3 : word + (place << (4 * e - 3));
    }
    words[n] = word - table.zero_word;
    // Less at once: the compiler would fill all registers with loads, and move values about.
    if (n == Row::kValues / 16 - 1) __syncwarp();
  }
  float d, square_sum;
  FoldRows<Row>(dot, norm, part, &d, &square_sum);
  return FitScale(ScaleRule::kLeastSquares, 0.0f, d, square_sum, Row::kBlocks * 16);
}

// Ascending codes of 4 bits to nibbles of sign and magnitude, as CodeToNibble.
__device__ __forceinline__ uint32_t ToMagnitudes(uint32_t codes) {
  const uint32_t low = ~codes & 0x88888888u;  // codes below 8
  return codes ^ 0x88888888u ^ (low - (low >> 3));
}

// The lanes of a row give each other what they hold of the words (dims 8 n .. 8 n + 7 in word n),
// so that each of them has pairs 2 k and 2 k + 1 of its own, from FirstPair on.
template <int kDim>
__device__ __forceinline__ void GatherPairs(const uint32_t (&words)[RowTile<kDim>::kWords],
                                            int part, uint32_t (&pairs)[RowTile<kDim>::kWords]) {
  constexpr int kLanes = RowTile<kDim>::kLanes, kWords = RowTile<kDim>::kWords;
  constexpr int kStep = RowTile<kDim>::kRows;
#pragma unroll
  for (int i = 0; i < kWords; ++i) pairs[i] = words[i];
  if constexpr (kLanes > 1) {
    uint32_t mine[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) mine[i] = words[i];
    if constexpr (kLanes == 4) {
      // Half words of blocks 2 i and 2 i + 1: the lanes of dims 0 to 3 and 4 to 7 take half the
      // blocks.
      const bool odd = (part & 1) != 0;
      const uint32_t first = odd ? 0x1054u : 0x5410u, second = odd ? 0x3276u : 0x7632u;
#pragma unroll
      for (int i = 0; i < kWords / 2; ++i) {
        const uint32_t low = words[i], high = words[i + kWords / 2];
        const uint32_t other = __shfl_xor_sync(kAllLanes, odd ? low : high, kStep);
        mine[2 * i] = Prmt(odd ? high : low, other, first);
        mine[2 * i + 1] = Prmt(odd ? high : low, other, second);
      }
    }
    const bool upper = part >= kLanes / 2;  // dims 8 to 15
#pragma unroll
    for (int i = 0; i < kWords / 2; ++i) {
      const uint32_t low = mine[i], high = mine[i + kWords / 2];
      const uint32_t other = __shfl_xor_sync(kAllLanes, upper ? low : high, kStep * kLanes / 2);
      pairs[2 * i] = upper ? other : low;
      pairs[2 * i + 1] = upper ? high : other;
    }
  }
}

// The lanes of 8 tokens h, i = 0..1, 0..3 hold a word of 8 dims' nibbles of their token each; lane
// m = 4 h + i gets the word of dim m: the nibbles of tokens h', i' in place 4 h' + i'. Nibbles
// change places with lanes, one bit of the number at a time.
template <int n>
__device__ __forceinline__ void TransposeNibbles(uint32_t (&words)[n], int lane) {
  const bool bit2 = (lane & 4) != 0, bit1 = (lane & 2) != 0, bit0 = (lane & 1) != 0;
  const uint32_t halves = bit2 ? 0x3276u : 0x5410u, bytes = bit1 ? 0x3715u : 0x6240u;
  const uint32_t keep = bit0 ? 0xF0F0F0F0u : 0x0F0F0F0Fu;
  const int turn = bit0 ? 28 : 4;
#pragma unroll
  for (int k = 0; k < n; ++k) {
    uint32_t& w = words[k];
    w = Prmt(w, __shfl_xor_sync(kAllLanes, w, 4), halves);
    w = Prmt(w, __shfl_xor_sync(kAllLanes, w, 2), bytes);
    const uint32_t other = __shfl_xor_sync(kAllLanes, w, 1);
    w = (w & keep) | ((other << turn | other >> (32 - turn)) & ~keep);
  }
}

// Where the words of `lane` are staged: lanes that store together store to different banks.
__device__ __forceinline__ int StagedLane(int lane) { return lane ^ (lane >> 3 & 3); }

// Puts selector words 2 pair and 2 pair + 1 of (quad, staged lane) into the area. 3 bits: where a
// word of high bits is shared by two lanes, it comes in two parts, the second one in an area
// behind.
template <int kDim, int kBits>
__device__ __forceinline__ void StagePair(int quad, int lane, int pair, uint32_t a, uint32_t b,
                                          uint32_t* area, uint32_t* high_area) {
  uint32_t* low = area + LowWord(kBits, quad, lane, pair);
  if constexpr (kBits == 4) {
    *reinterpret_cast<uint2*>(low) = make_uint2(a, b);
  } else {
    *low = LowPair(a, b);
  }
  if constexpr (kBits == 3) {
    high_area[HighWord(kDim, quad, lane) + pair * 2 * kDim] = HighPair(a, b, pair);
  }
}

// All of a quad.
template <int kDim, int kBits>
__device__ __forceinline__ void StageQuad(int quad, int lane, const uint32_t* s, uint32_t* area) {
  uint32_t* low = area + LowWord(kBits, quad, lane, 0);
  if constexpr (kBits == 4) {
    *reinterpret_cast<uint4*>(low) = make_uint4(s[0], s[1], s[2], s[3]);
  } else {
    *reinterpret_cast<uint2*>(low) = make_uint2(LowPair(s[0], s[1]), LowPair(s[2], s[3]));
  }
  if constexpr (kBits == 3) {
    area[HighWord(kDim, quad, lane)] = HighPair(s[0], s[1], 0) | HighPair(s[2], s[3], 1);
  }
}

// The words of high bits of keys of 128 dims and more have one owner; others come in parts.
template <int kDim>
__device__ __forceinline__ bool HighParts(int bits, bool value_side) {
  return bits == 3 && (value_side || kDim < 128);
}

template <int kDim, int kBits>
__device__ __forceinline__ void StageWords(const uint32_t (&pairs)[RowTile<kDim>::kWords],
                                           bool value_side, int token, int first, uint32_t* area) {
  using Tile = RowTile<kDim>;
  constexpr int kEach = kDim / 32;  // selector words of a key in a quarter of its dims
  if (value_side) {
    const int lane = StagedLane(4 * ((token >> 2 & 1) * 4 + (token >> 3 & 3)) + (token & 3));
    // LowWord and HighWord of quad first + i are those of quad i and what `first` adds, as it is a
    // multiple of kPairs, an even number.
    static_assert(Tile::kPairs % 2 == 0);
    uint32_t* low_area = area + first * (kBits == 4 ? 128 : 64);
    uint32_t* high_area = area + (first >> 2) * 128 + (first & 3);
#pragma unroll
    for (int i = 0; i < Tile::kPairs; ++i) {
      StagePair<kDim, kBits>(i, lane, token >> 5, pairs[2 * i], pairs[2 * i + 1], low_area,
                             high_area);
    }
    return;
  }
  constexpr int kAtOnce = kEach >= 4 ? 2 : 1;  // pairs
#pragma unroll
  for (int i = 0; i < Tile::kPairs; i += kAtOnce) {
    const int word = 2 * (first + i), n = (token >> 3) * kEach + word % kEach;
    const int lane = StagedLane((token & 7) * 4 + word / kEach);
    if constexpr (kAtOnce == 2) {
      StageQuad<kDim, kBits>(n >> 2, lane, pairs + 2 * i, area);
    } else {
      StagePair<kDim, kBits>(n >> 2, lane, n % 4 / 2, pairs[2 * i], pairs[2 * i + 1], area, area);
    }
  }
}

// Four stored words, of what StageWords left; `parts`: the second one is 2 kDim words behind.
template <int kDim>
__device__ __forceinline__ uint4 StagedWords(const uint32_t* area, bool parts) {
  uint4 x = *reinterpret_cast<const uint4*>(area);
  if (parts) {
    const uint4 y = *reinterpret_cast<const uint4*>(area + 2 * kDim);
    x = make_uint4(x.x | y.x, x.y | y.y, x.z | y.z, x.w | y.w);
  }
  return x;
}

// The staged area to its record; bits of tokens that are not coded now stay.
template <int kDim>
__device__ __forceinline__ void StoreArea(const uint32_t* codes, const uint32_t* masks, int bits,
                                          bool value_side, bool whole, uint32_t* to) {
  const bool parts = HighParts<kDim>(bits, value_side);
  const int thread = ThreadAnew(), end = bits * kDim * 2;
  const int staged = 4 * (thread & ~31) + 4 * StagedLane(thread & 31) - 4 * thread;
#pragma unroll 1
  for (int i = 4 * thread; i < end; i += 4 * RowTile<kDim>::kThreads) {
    const bool two = parts && i >= 4 * kDim;
    uint4 x = StagedWords<kDim>(codes + i + staged, two);
    uint4* place = reinterpret_cast<uint4*>(to + i);
    if (!whole) {
      const uint4 m = StagedWords<kDim>(masks + i + staged, two);
      if ((m.x | m.y | m.z | m.w) == 0) continue;
      const uint4 old = *place;
      x = make_uint4((x.x & m.x) | (old.x & ~m.x), (x.y & m.y) | (old.y & ~m.y),
                     (x.z & m.z) | (old.z & ~m.z), (x.w & m.w) | (old.w & ~m.w));
    }
    *place = x;
  }
}

// Codes the rows of one item, which lie in shared memory. Codes gather in `codes`, which the item
// before does not use; of a partial page, which of their bits are new in `masks`, which it does.
template <int kDim>
__device__ __forceinline__ void EncodeItemRows(const EncodeRowsArgs& a, const EncodeItem& item,
                                               uint8_t* rows, uint32_t* codes, uint32_t* masks,
                                               RowShared<kDim>& sh) {
  using Tile = RowTile<kDim>;
  using Row = typename Tile::Row;
  constexpr int kWords = Tile::kWords;
  const bool value_side = item.side != 0;
  Row y;
  RowMeasure m;
  bool valid = true;
#pragma unroll 1
  for (;;) {
    const int thread = ThreadAnew(), part = Tile::PartOf(thread);
    uint8_t* mine = rows + Tile::RowOf(thread) * Tile::kPitch;
    const uint8_t* mean =
        item.mean != nullptr && valid ? rows + kTileTokens * Tile::kPitch : nullptr;
    LoadRotated(mine, mean, a.p.rows.dtype, sh.signs[item.side], part,
                value_side ? a.p.cache.v_rotation : a.p.cache.k_rotation, &y);
    m = MeasureLanes(y);
    if (__all_sync(kAllLanes, m.valid)) break;
    // The search wants numbers: zeros instead of a row that is none, and all again.
    __syncwarp();
    if (!m.valid) {
      valid = false;
      uint4* words = reinterpret_cast<uint4*>(mine) + part * (Row::kValues / 8);
#pragma unroll 1
      for (int k = 0; k < Row::kValues / 8; ++k) words[k] = make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
  }
  const bool usable = valid && m.usable;
  const int thread = ThreadAnew(), part = Tile::PartOf(thread), row = Tile::RowOf(thread);
  uint32_t words[kWords];
  const float fit =
      QuantizeLane(y, part, usable ? m.inverse_rms : 0.0f, TableAt(sh.tables[item.side]), words);
  const int token = Tile::TokenOf(row);
  const int bits = value_side ? a.layout.v.bits : a.layout.k.bits;
  const bool active = token >= item.begin && token < item.end;
  if (!usable) {
    asm volatile("");  // a branch that nobody takes, instead of a choice for each word
#pragma unroll
    for (int n = 0; n < kWords; ++n) words[n] = 0;
  }
  if (bits == 4) {
    asm volatile("");
#pragma unroll
    for (int n = 0; n < kWords; ++n) words[n] = ToMagnitudes(words[n]);
  }
  uint32_t pairs[kWords];
  GatherPairs<kDim>(words, part, pairs);
  const bool whole = item.begin == 0 && item.end == kTileTokens;
  if (!whole) __syncthreads();
#pragma unroll 1
  for (uint32_t* area = codes;; area = masks) {
    const int again = ThreadAnew(), first = Tile::FirstPair(Tile::PartOf(again));
    const int token = Tile::TokenOf(Tile::RowOf(again));
    if (value_side) TransposeNibbles<kWords>(pairs, again & 31);
    if (bits == 4) {
      StageWords<kDim, 4>(pairs, value_side, token, first, area);
    } else if (bits == 3) {
      StageWords<kDim, 3>(pairs, value_side, token, first, area);
    } else {
      StageWords<kDim, 2>(pairs, value_side, token, first, area);
    }
    if (whole || area == masks) break;
#pragma unroll
    for (int n = 0; n < kWords; ++n) pairs[n] = active ? 0xFFFFFFFFu : 0u;
  }
  __syncthreads();
  uint8_t* record = RecordOf(a, item);
  if (active && part == 0) {
    const float clamped = fminf(fmaxf(fit, -kHalfMax), kHalfMax);
    reinterpret_cast<uint16_t*>(
        record + (value_side ? a.layout.v_scales : a.layout.k_scales))[ScaleSlot(token)] =
        usable ? static_cast<uint16_t>(PackHalves(clamped, 0.0f)) : uint16_t{0};
    if (!valid && a.p.bad_rows != nullptr) atomicAdd(a.p.bad_rows, 1);
  }
  StoreArea<kDim>(codes, masks, bits, value_side, whole,
                  reinterpret_cast<uint32_t*>(record + (value_side ? a.layout.v_codes : 0)));
  if (!whole) __syncthreads();
}

template <int kDim>
__global__ void __launch_bounds__(RowTile<kDim>::kThreads, RowTile<kDim>::kCtas)
    EncodeRows(const __grid_constant__ EncodeRowsArgs a) {
  constexpr int kThreads = RowTile<kDim>::kThreads;
  RowShared<kDim>& sh = *reinterpret_cast<RowShared<kDim>*>(DynamicShared());
  LetNextKernelStart();
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const tq_cuda_rotation& rotation = side != 0 ? a.p.cache.v_rotation : a.p.cache.k_rotation;
    for (int i = threadIdx.x; i < kDim / 2; i += kThreads) {
      sh.signs[side][i] = RowLanes<kDim>::SignWord(rotation, i);
    }
    const int bits = side != 0 ? a.layout.v.bits : a.layout.k.bits;
    const uint4* from = reinterpret_cast<const uint4*>(&kQuantizeTables[bits - 2]);
    uint4* to = reinterpret_cast<uint4*>(&sh.tables[side]);
    const uint32_t centroids = SharedAddress(sh.tables[side].centroids);
    for (int i = threadIdx.x; i < int{sizeof(QuantizeTable) / 16}; i += kThreads) {
      uint4 two = __ldg(from + i);
      if (i < kBins / 2) two.y += centroids, two.w += centroids;
      to[i] = two;
    }
  }
  WaitForKernelBefore();
  const int step = static_cast<int>(gridDim.x), first = static_cast<int>(blockIdx.x);
  if (threadIdx.x < 2) {
    const int index = first + static_cast<int>(threadIdx.x) * step;
    const int sides = 2 * a.p.cache.num_kv_heads;
    FillItem(a, index / sides, index % sides, &sh.items[threadIdx.x]);
  }
  __syncthreads();
  FetchRows<kDim>(sh.items[0], sh.rows[0]);
  CommitCopies();
#pragma unroll 1
  for (int i = 0, index = first; index < a.items; ++i, index += step) {
    EncodeItem* next = &sh.items[(i + 1) & 3];
    FetchRows<kDim>(*next, sh.rows[(i + 1) & 1]);
    CommitCopies();
    // The warps take turns.
    if (static_cast<int>(threadIdx.x) == 32 * (i % (kThreads / 32))) {
      FillItem(a, next->place + a.step_pages, next->rest + a.step_sides, &sh.items[(i + 2) & 3]);
    }
    WaitCopies<1>();
    const EncodeItem& item = sh.items[i & 3];
    if (item.mean == nullptr) {
      __syncwarp();  // its rows are there
    } else {
      __syncthreads();  // and the mean
    }
    if (item.rows != nullptr) {
      EncodeItemRows<kDim>(a, item, sh.rows[i & 1], sh.codes[i & 1], sh.codes[(i + 1) & 1], sh);
    } else {
      __syncthreads();
    }
  }
}

// f16 and bf16 rows in fragment areas.
inline bool EncodeRowsServes(const tq_cuda_encode_params& p, const RecordLayout& layout) {
  return p.rows.dtype != TQ_CUDA_F32 &&
         OrderOf(layout.k, layout.head_dim) == TileOrder::kFragment &&
         OrderOf(layout.v, layout.head_dim) == TileOrder::kFragment;
}

inline EncodeRowsArgs MakeEncodeRowsArgs(const tq_cuda_encode_params& p,
                                         const RecordLayout& layout) {
  // Rows need not start at a page, so they may touch one page more than they fill.
  const int pages = (p.max_rows + kTileTokens - 1) / kTileTokens + (p.max_rows % kTileTokens != 1);
  return {p, layout, pages, p.batch * pages * 2 * p.cache.num_kv_heads, 0, 0};
}

// On `sms` multiprocessors.
template <int kDim>
cudaError_t LaunchEncodeRows(EncodeRowsArgs args, int sms, cudaStream_t stream) {
  constexpr int kCtas = RowTile<kDim>::kCtas;
  const int ctas = args.items < sms * kCtas ? args.items : sms * kCtas;
  const int sides = 2 * args.p.cache.num_kv_heads;
  args.step_pages = ctas / sides;
  args.step_sides = ctas % sides;
  const dim3 grid(static_cast<unsigned>(ctas));
  return LaunchKernelEarly<EncodeRows<kDim>>(
      grid, RowTile<kDim>::kThreads, static_cast<int>(sizeof(RowShared<kDim>)), stream, args);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ENCODE_ROWS_CUH_
