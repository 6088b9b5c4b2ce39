// Codes of canonical rows (codec/scalar_codec.h, codec/trellis_codec.h) as selector words of 8
// codes, for formats and head dims whose pages are kept as rows (TileOrder::kRows).
//
// A selector word has the index of one code in each nibble (trellis formats: of the alphabet, by
// the parities of the path bits). Which dims are neighbours follows from the bytes of a row; a
// product over dims does not care as long as the query is laid out alike (Place), and the output
// says which dim is which (OutputDim). Indices of 5 bits take two words: the low 3 bits, the high 2
// bits.
#ifndef TURBOQUANT_KERNELS_CUDA_CODED_ROW_CUH_
#define TURBOQUANT_KERNELS_CUDA_CODED_ROW_CUH_

#include "codec/trellis.h"
#include "kernels/cuda/byte_tables.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

template <int kFormat, int kDim>
struct CodedRow {
  static constexpr bool kTrellis = TileFormatOf(kFormat).trellis;
  static constexpr int kBits = TileFormatOf(kFormat).bits;
  static constexpr int kIndexBits = kBits + (kTrellis ? 1 : 0);
  static constexpr int kWords = kIndexBits > 4 ? 2 : 1;  // of 8 indices
  static constexpr int kBytes = kBits * kDim / 8;
  static constexpr int kPlane = kDim / 8;  // bytes of a bit plane

  // Nibble `nibble` of selector word `word`.
  struct At {
    int word, nibble;
  };

  static constexpr TQ_HD At Of(int dim) {
    if (kTrellis) return {dim / 32 * 4 + dim % 4, dim % 32 / 4};
    if (kBits == 4) {
      const int byte = dim % (kDim / 2);
      return {byte / 4, 2 * (byte % 4) + dim / (kDim / 2)};
    }
    const int byte = dim % (kDim / 4), n = dim / (kDim / 4);
    return {byte / 4 * 2 + n % 2, 2 * (byte % 4) + n / 2};
  }

  static constexpr TQ_HD int Dim(int word, int nibble) {
    if (kTrellis) return word / 4 * 32 + nibble * 4 + word % 4;
    if (kBits == 4) return 4 * word + nibble / 2 + nibble % 2 * (kDim / 2);
    return word / 2 * 4 + nibble / 2 + (nibble % 2 * 2 + word % 2) * (kDim / 4);
  }

  // Keys: lane t takes word 4 j + t in k step j.
  static constexpr TQ_HD int Place(int dim) {
    constexpr int kSteps = (kDim + 31) / 32;
    const At at = Of(dim);
    return at.word % 4 * 8 * kSteps + at.word / 4 * 8 + at.nibble;
  }

  // Values: lane g takes words g + 8 m. What is left when head_dim is no multiple of 64 is shared:
  // kRest nibbles of a word for each.
  static constexpr int kRest = kDim % 64 / 8;
  static constexpr int kRestWords = kRest == 0 ? 1 : kTrellis ? 4 : kRest;
  static constexpr TQ_HD int RestWord(int g) { return kDim / 64 * 8 + g % kRestWords; }
  static constexpr TQ_HD int RestNibble(int g) { return g / kRestWords * kRest; }

  // The dim of sum i of lanes g.
  static constexpr TQ_HD int OutputDim(int g, int i) {
    if (i < kDim / 64 * 8) return Dim(g + 8 * (i / 8), i % 8);
    return Dim(RestWord(g), RestNibble(g) + i % 8);
  }

  // 32 bits at a row's byte; rows of head_dim 80 are aligned to 2 bytes alone.
  static __device__ __forceinline__ uint32_t Word(uint32_t address) {
    if constexpr (kPlane % 4 == 0) {
      return LoadShared4(address);
    } else {
      return LoadShared2(address) | LoadShared2(address + 2) << 16;
    }
  }

  // Selector word `word` of the row at `row`.
  static __device__ __forceinline__ void Load(uint32_t row, int word, uint32_t (&out)[kWords]) {
    if constexpr (kTrellis) {
      const int block = word / 4;
      const uint32_t before = Word(row + 4 * (block > 0 ? block - 1 : 0));
      uint32_t planes[kBits];
#pragma unroll
      for (int p = 0; p < kBits; ++p) planes[p] = Word(row + p * kPlane + 4 * block);
      Indices(planes, block > 0 ? before : 0u, word % 4, out);
    } else if constexpr (kBits == 4) {
      out[0] = LoadShared4(row + 4 * word);
    } else {
      const int odd = word % 2;
      const uint32_t low = Word(row + word / 2 * 4) >> (2 * odd);
      out[0] = low & 0x33333333u;
      if constexpr (kBits == 3) {
        out[0] |= (HighBits(row + kDim / 4, word / 2 * 4) << (2 - 2 * odd)) & 0x44444444u;
      }
    }
  }

  // turbo3: the bits for low bytes `byte` .. + 3; those of the second half of the low bytes stand
  // one bit higher in the same bytes.
  static __device__ __forceinline__ uint32_t HighBits(uint32_t plane, int byte) {
    if constexpr (kPlane % 4 == 0) {
      const int above = byte >= kPlane ? 1 : 0;
      return LoadShared4(plane + byte - above * kPlane) >> above;
    } else {
      uint32_t bits = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = byte + 2 * half, above = at >= kPlane ? 1 : 0;
        bits |= (LoadShared2(plane + at - above * kPlane) >> above) << (16 * half);
      }
      return bits;
    }
  }

  // Bit j of the result: the parity of path bits j, j - 1, ... that `taps` names.
  static __device__ __forceinline__ uint32_t Parity(unsigned taps, uint32_t path, uint32_t before) {
    uint32_t parity = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if ((taps >> j & 1u) != 0) parity ^= j == 0 ? path : FunnelLeft(before, path, j);
    }
    return parity;
  }

  // Alphabet indices of values k, k + 4, ..., k + 28 of 32, from the planes of these and the path
  // of the 32 before.
  static __device__ __forceinline__ void Indices(const uint32_t (&planes)[kBits], uint32_t before,
                                                 int k, uint32_t (&out)[kWords]) {
    constexpr TrellisView kView = Trellis(kBits, TrellisMemory(kBits));
    uint32_t bits[kBits + 1] = {Parity(kView.h1, planes[0], before),
                                Parity(kView.h0, planes[0], before)};
#pragma unroll
    for (int p = 1; p < kBits; ++p) bits[1 + p] = planes[p];
    constexpr int kLow = kWords == 2 ? 3 : kIndexBits;
    out[0] = 0;
#pragma unroll
    for (int i = 0; i < kLow; ++i) {
      out[0] |= FunnelLeft(bits[i], bits[i], i - k) & (0x11111111u << i);
    }
    if constexpr (kWords == 2) {
      out[1] = (FunnelLeft(bits[3], bits[3], -k) & 0x11111111u) |
               (FunnelLeft(bits[4], bits[4], 1 - k) & 0x22222222u);
    }
  }

  // Blocks of 32 dims that one load brings.
  static constexpr int kLoadBlocks = kPlane % 16 == 0 ? 4 : kPlane % 8 == 0 ? 2 : 1;
  static constexpr int kWalkSteps = kTrellis ? kLoadBlocks : 1;

  // A lane's walk over the k steps of a key row.
  struct Walk {
    uint32_t row;
    uint32_t before;  // trellis: the path of the block before
    uint32_t planes[kBits][kLoadBlocks];

    __device__ __forceinline__ void Start(uint32_t address) {
      row = address;
      before = 0;
    }

    // The lane's word of k step j + k; j is a multiple of kWalkSteps > k.
    __device__ __forceinline__ void Next(int j, int k, int t, uint32_t (&out)[kWords]) {
      if constexpr (kTrellis) {
        if (k == 0) LoadPlanes(row + 4 * j);
        uint32_t one[kBits];
#pragma unroll
        for (int p = 0; p < kBits; ++p) one[p] = planes[p][k];
        Indices(one, before, t, out);
        before = one[0];
      } else {
        Load(row, 4 * (j + k) + t, out);
      }
    }

    __device__ __forceinline__ void LoadPlanes(uint32_t address) {
#pragma unroll
      for (int p = 0; p < kBits; ++p) {
        const uint32_t at = address + p * kPlane;
        if constexpr (kLoadBlocks == 4) {
          const uint4 v = LoadShared16(at);
          planes[p][0] = v.x;
          planes[p][1] = v.y;
          planes[p][2] = v.z;
          planes[p][3] = v.w;
        } else if constexpr (kLoadBlocks == 2) {
          const uint2 v = LoadShared8(at);
          planes[p][0] = v.x;
          planes[p][1] = v.y;
        } else {
          planes[p][0] = Word(at);
        }
      }
    }
  };
};

// Words of 8 nibbles: nibble i of word c becomes nibble c of word i.
__device__ __forceinline__ void TransposeNibbles(uint32_t (&w)[8]) {
  constexpr uint32_t kEven = 0x0F0F0F0Fu;
  uint32_t side[2][4];  // bytes: even nibbles of two words, odd ones
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const uint32_t a = w[2 * p], b = w[2 * p + 1];
    side[0][p] = (a & kEven) | ((b << 4) & ~kEven);
    side[1][p] = ((a >> 4) & kEven) | (b & ~kEven);
  }
#pragma unroll
  for (int odd = 0; odd < 2; ++odd) {
    const uint32_t(&s)[4] = side[odd];
    const uint32_t low01 = Prmt(s[0], s[1], 0x5140), high01 = Prmt(s[0], s[1], 0x7362);
    const uint32_t low23 = Prmt(s[2], s[3], 0x5140), high23 = Prmt(s[2], s[3], 0x7362);
    w[odd] = Prmt(low01, low23, 0x5410);
    w[2 + odd] = Prmt(low01, low23, 0x7632);
    w[4 + odd] = Prmt(high01, high23, 0x5410);
    w[6 + odd] = Prmt(high01, high23, 0x7632);
  }
}

// 8 indices of 5 bits looked up in four tables of 8 steps, lowest first: those below 0, and those
// above, whose entries are greater by 1. A nibble that is not of a table selects the sign of one of
// its entries. So Below gives the step, or -1 for those above; Above the step + 1, or 0.
struct WideSelectors {
  uint32_t select[4];

  __device__ __forceinline__ WideSelectors(uint32_t low, uint32_t high) {
    constexpr uint32_t kTop = 0x88888888u;
    const uint32_t x = high << 3, y = high << 2;  // the two bits of the table's number
    select[0] = low | ((x | y) & kTop);
    select[1] = low | ((~x | y) & kTop);
    select[2] = low | ((x | ~y) & kTop);
    select[3] = low | ((~x | ~y) & kTop);
  }

  __device__ __forceinline__ uint32_t LookUp(const uint32_t* table, int i, uint32_t one,
                                             int half) const {
    return Prmt(table[0], table[1], half == 0 ? select[i] : HighHalf(select[i], one));
  }
  __device__ __forceinline__ uint32_t Below(const ByteTables& t, uint32_t one, int half) const {
    return LookUp(t.a, 0, one, half) & LookUp(t.b, 1, one, half);
  }
  __device__ __forceinline__ uint32_t Above(const ByteTables& t, uint32_t one, int half) const {
    return LookUp(t.c, 2, one, half) | LookUp(t.d, 3, one, half);
  }
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_CODED_ROW_CUH_
