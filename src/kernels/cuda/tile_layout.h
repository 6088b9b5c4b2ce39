// The paged cache of the CUDA kernels: records of 64 tokens, codes in the order in which a tensor
// core's operands want them. Host and device; conversion to canonical rows is exact.
//
// A record is one page of 64 tokens of one kv head, bytes in this order:
//   K codes, V codes, 64 K scales (fp16), 64 V scales (fp16)       scale of token t at ScaleSlot(t)
// so a page costs what its canonical rows cost, and one bulk copy brings all of it.
//
// Code area of one side, by TileOrder:
//   kFragment (turbo2/3/4, head_dim 64, 128 or 256): 16-byte pieces, one per lane of a warp. A lane
//     (g, t), g = lane / 4, t = lane % 4, owns `quads` of 4 selector words of 8 nibbles each. A
//     nibble is a selector of the PRMT byte table. Word j of quad u holds
//       K: token 8 o + g, o = n / W, dims t d/4 + 8 (n % W) + 0..7, with n = 4 u + j, W = d / 32
//       V: dim 16 u + 8 (j % 2) + g, tokens 32 (j / 2) + t + 4 h + 8 i in nibble 4 h + i
//     4 bits: the quad is stored as it is (16 bytes); the nibble is sign and magnitude (below).
//     2 bits: two words in one, word 1 shifted by 2; quads 2 p and 2 p + 1 share a piece.
//     3 bits: the low two bits as in 2 bits, then the high bits: one word a quad, word j shifted by
//             j; four quads share a piece.
//   kRows (all else): the canonical code bytes of the 64 rows, one after the other.
#ifndef TURBOQUANT_KERNELS_CUDA_TILE_LAYOUT_H_
#define TURBOQUANT_KERNELS_CUDA_TILE_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "base/host_device.h"
#include "codec/scalar_codec.h"

namespace turboquant::cuda {

inline constexpr int kTileTokens = 64;
inline constexpr int kMaxTileHeadDim = 256;

enum class TileOrder : uint8_t { kFragment, kRows };

// How the codes of one side are made. `trellis`: turboNt.
struct TileFormat {
  int bits;
  bool trellis;
};

// Of a format of the C interface (tq_cuda_format); trellis formats are 16 above their bits.
TQ_HD constexpr TileFormat TileFormatOf(int format) { return {format & 15, format >= 16}; }

TQ_HD constexpr TileOrder OrderOf(TileFormat f, int head_dim) {
  const bool fast =
      !f.trellis && f.bits <= 4 && (head_dim == 64 || head_dim == 128 || head_dim == 256);
  return fast ? TileOrder::kFragment : TileOrder::kRows;
}

// Path memory of the trellis of turboNt (64 states at 2 bits, 8 at 3 and 4).
TQ_HD constexpr int TrellisMemory(int bits) { return bits == 2 ? 6 : 3; }

TQ_HD inline int CodeAreaBytes(TileFormat f, int head_dim) {
  return f.bits * head_dim * kTileTokens / 8;
}

struct RecordLayout {
  TileFormat k, v;
  int head_dim;
  int v_codes;  // byte offsets
  int k_scales;
  int v_scales;
  int bytes;  // a multiple of 16
};

TQ_HD inline RecordLayout MakeRecordLayout(TileFormat k, TileFormat v, int head_dim) {
  RecordLayout r{k, v, head_dim, 0, 0, 0, 0};
  r.v_codes = CodeAreaBytes(k, head_dim);
  r.k_scales = r.v_codes + CodeAreaBytes(v, head_dim);
  r.v_scales = r.k_scales + 2 * kTileTokens;
  r.bytes = r.v_scales + 2 * kTileTokens;
  return r;
}

// Tokens t, t + 8, ..., t + 56 (one lane's) side by side.
TQ_HD inline int ScaleSlot(int token) { return (token & 7) * 8 + (token >> 3); }

// Nibble of a canonical (ascending) code: 4 bits store sign and magnitude, so that the nibble's top
// bit tells PRMT which of two 8-entry tables is meant.
TQ_HD inline int CodeToNibble(int bits, int code) {
  return bits != 4 ? code : code >= 8 ? code - 8 : 15 - code;
}
TQ_HD inline int NibbleToCode(int bits, int nibble) {
  return bits != 4 ? nibble : nibble < 8 ? nibble + 8 : 15 - nibble;
}

// Where the selector nibble of (token, dim) is: quad u, word j, lane, nibble index.
struct NibblePlace {
  int quad, word, lane, nibble;
};

TQ_HD inline NibblePlace PlaceOf(bool value_side, int head_dim, int token, int dim) {
  NibblePlace p;
  if (!value_side) {
    const int words = head_dim / 32;
    const int t = dim / (head_dim / 4);
    const int inside = dim % (head_dim / 4);
    const int n = (token >> 3) * words + inside / 8;
    p.quad = n >> 2;
    p.word = n & 3;
    p.lane = (token & 7) * 4 + t;
    p.nibble = inside % 8;
  } else {
    const int rest = token & 31;
    p.quad = dim >> 4;
    p.word = (token >> 5) * 2 + ((dim >> 3) & 1);
    p.lane = (dim & 7) * 4 + (rest & 3);
    p.nibble = ((rest >> 2) & 1) * 4 + (rest >> 3);
  }
  return p;
}

// The stored words of a quad. Indices are of 32-bit words inside the code area.
TQ_HD inline int LowWord(int bits, int quad, int lane, int pair) {
  return bits == 4 ? (quad * 32 + lane) * 4 + 2 * pair
                   : ((quad >> 1) * 32 + lane) * 4 + (quad & 1) * 2 + pair;
}
// 3 bits: the word of the high bits, in the second part of the area (after head_dim * 16 bytes).
TQ_HD inline int HighWord(int head_dim, int quad, int lane) {
  return head_dim * 4 + ((quad >> 2) * 32 + lane) * 4 + (quad & 3);
}

// The four selector words of a quad.
TQ_HD inline void LoadQuad(int bits, const uint32_t* area, int head_dim, int quad, int lane,
                           uint32_t s[4]) {
  if (bits == 4) {
    for (int j = 0; j < 4; ++j) s[j] = area[(quad * 32 + lane) * 4 + j];
    return;
  }
  const uint32_t low0 = area[LowWord(bits, quad, lane, 0)];
  const uint32_t low1 = area[LowWord(bits, quad, lane, 1)];
  const uint32_t high = bits == 3 ? area[HighWord(head_dim, quad, lane)] : 0;
  s[0] = (low0 & 0x33333333u) | ((high << 2) & 0x44444444u);
  s[1] = ((low0 >> 2) & 0x33333333u) | ((high << 1) & 0x44444444u);
  s[2] = (low1 & 0x33333333u) | (high & 0x44444444u);
  s[3] = ((low1 >> 2) & 0x33333333u) | ((high >> 1) & 0x44444444u);
}

// 2 and 3 bits: two neighbouring selector words in one stored word of low bits, and their part (0
// or 1) of the word of high bits that four of them share.
TQ_HD inline uint32_t LowPair(uint32_t a, uint32_t b) {
  return (a & 0x33333333u) | ((b & 0x33333333u) << 2);
}
TQ_HD inline uint32_t HighPair(uint32_t a, uint32_t b, int part) {
  const uint32_t x = a & 0x44444444u, y = b & 0x44444444u;
  return part == 0 ? x >> 2 | y >> 1 : x | y << 1;
}

TQ_HD inline void StoreQuad(int bits, uint32_t* area, int head_dim, int quad, int lane,
                            const uint32_t s[4]) {
  if (bits == 4) {
    for (int j = 0; j < 4; ++j) area[(quad * 32 + lane) * 4 + j] = s[j];
    return;
  }
  area[LowWord(bits, quad, lane, 0)] = LowPair(s[0], s[1]);
  area[LowWord(bits, quad, lane, 1)] = LowPair(s[2], s[3]);
  if (bits != 3) return;
  area[HighWord(head_dim, quad, lane)] = HighPair(s[0], s[1], 0) | HighPair(s[2], s[3], 1);
}

// The canonical code of (token, dim) of a fragment area.
TQ_HD inline int LoadFragmentCode(int bits, const uint32_t* area, bool value_side, int head_dim,
                                  int token, int dim) {
  const NibblePlace p = PlaceOf(value_side, head_dim, token, dim);
  uint32_t s[4];
  LoadQuad(bits, area, head_dim, p.quad, p.lane, s);
  return NibbleToCode(bits, static_cast<int>((s[p.word] >> (4 * p.nibble)) & 15u));
}

// bf16 bits to float.
TQ_HD inline float BfloatToFloat(uint16_t b) { return BitsToFloat(static_cast<uint32_t>(b) << 16); }

// Round to nearest even; NaN stays NaN.
TQ_HD inline uint16_t FloatToBfloat(float f) {
  const uint32_t u = FloatBits(f);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_TILE_LAYOUT_H_
