// Which stored words of a fragment area hold one token's codes, and what they are to hold: what a
// warp writes that appends a single row. Host and device.
#ifndef TURBOQUANT_KERNELS_CUDA_TOKEN_WORDS_H_
#define TURBOQUANT_KERNELS_CUDA_TOKEN_WORDS_H_

#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

// The selector word of 8 nibbles, a byte each (4-byte aligned).
TQ_HD inline uint32_t PackSelector(const uint8_t* nibbles) {
  const uint32_t* four = reinterpret_cast<const uint32_t*>(nibbles);
  const uint32_t a = four[0] | four[0] >> 4, b = four[1] | four[1] >> 4;  // a pair in bytes 0 and 2
  return (a & 0xFFu) | (a >> 8 & 0xFF00u) | (b & 0xFFu) << 16 | (b << 8 & 0xFF000000u);
}

// A stored 32-bit word, and which of its bits belong to the token.
struct WordPlace {
  int index;
  uint32_t mask;
};

// The words that hold the low bits (4 bits: all bits) of a token. Keys: half a word or more is the
// token's own; values: one nibble of each. `nibbles`: a byte each, 4-byte aligned.
template <int kDim, int bits, bool value_side>
struct TokenWords {
  static constexpr int kKeyWords = kDim / 32;  // selector words of one lane and token
  int token;

  static constexpr int kSelectors = value_side ? kDim : kDim / 8;
  static constexpr int kLow = bits == 4 ? kSelectors : kSelectors / 2;  // words
  static constexpr int kHigh = bits != 3        ? 0
                               : value_side     ? kDim / 2
                               : kKeyWords >= 4 ? kKeyWords
                                                : 4;

  // Values: dims of word w. 4 bits: one; else this one and the one 8 above.
  TQ_HD int ValueDim(int w) const { return bits == 4 ? w : 16 * (w / 8) + w % 8; }
  // Keys: first selector word (of 8 dims) of word w, counted in the lane, and the lane's quarter.
  TQ_HD int KeyQuarter(int w) const { return bits == 4 ? w / kKeyWords : w / (kKeyWords / 2); }
  TQ_HD int KeySelector(int w) const { return bits == 4 ? w % kKeyWords : w % (kKeyWords / 2) * 2; }

  TQ_HD WordPlace Low(int w) const {
    if (value_side) {
      const NibblePlace p = PlaceOf(true, kDim, token, ValueDim(w));
      const int index = bits == 4 ? (p.quad * 32 + p.lane) * 4 + p.word
                                  : LowWord(bits, p.quad, p.lane, p.word >> 1);
      return {index, 15u << (4 * p.nibble)};
    }
    const int n = (token >> 3) * kKeyWords + KeySelector(w);
    const int lane = (token & 7) * 4 + KeyQuarter(w);
    const int index = bits == 4 ? ((n >> 2) * 32 + lane) * 4 + (n & 3)
                                : LowWord(bits, n >> 2, lane, (n & 3) >> 1);
    return {index, 0xFFFFFFFFu};
  }

  TQ_HD uint32_t LowBits(int w, const uint8_t* nibbles) const {
    if (value_side) {
      const int dim = ValueDim(w), shift = 4 * PlaceOf(true, kDim, token, dim).nibble;
      const uint32_t one = nibbles[dim];
      return (bits == 4 ? one : (one & 3u) | (nibbles[dim + 8] & 3u) << 2) << shift;
    }
    const uint8_t* from = nibbles + KeyQuarter(w) * (kDim / 4) + 8 * KeySelector(w);
    return bits == 4 ? PackSelector(from) : LowPair(PackSelector(from), PackSelector(from + 8));
  }

  // 3 bits: the words of the high bits. Bit 4 i + j is that of nibble i of the quad's word j.
  TQ_HD WordPlace High(int w) const {
    if (value_side) {
      const NibblePlace p = PlaceOf(true, kDim, token, 16 * (w / 8) + w % 8);
      return {HighWord(kDim, p.quad, p.lane), 3u << (4 * p.nibble + p.word)};
    }
    const int quads = kKeyWords >= 4 ? kKeyWords / 4 : 1;
    const int n = (token >> 3) * kKeyWords + 4 * (w % quads);
    const uint32_t mask = kKeyWords >= 4 ? 0xFFFFFFFFu : 0x33333333u << (n & 3);
    return {HighWord(kDim, n >> 2, (token & 7) * 4 + w / quads), mask};
  }

  TQ_HD uint32_t HighBits(int w, const uint8_t* nibbles) const {
    if (value_side) {
      const int dim = 16 * (w / 8) + w % 8;
      const NibblePlace p = PlaceOf(true, kDim, token, dim);
      return (static_cast<uint32_t>(nibbles[dim] >> 2) |
              static_cast<uint32_t>(nibbles[dim + 8] >> 2) << 1)
             << (4 * p.nibble + p.word);
    }
    const int quads = kKeyWords >= 4 ? kKeyWords / 4 : 1;
    const uint8_t* from = nibbles + w / quads * (kDim / 4) + 32 * (w % quads);
    const uint32_t first = HighPair(PackSelector(from), PackSelector(from + 8), 0);
    if (kKeyWords >= 4) {
      return first | HighPair(PackSelector(from + 16), PackSelector(from + 24), 1);
    }
    return (token >> 3) % 2 == 0 ? first : first << 2;  // a token has half of the word
  }
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_TOKEN_WORDS_H_
