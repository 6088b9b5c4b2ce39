// Which stored words of a fragment area hold one token's codes, and what they are to hold: what a
// warp writes that appends a single row. Host and device.
#ifndef TURBOQUANT_KERNELS_CUDA_TOKEN_WORDS_H_
#define TURBOQUANT_KERNELS_CUDA_TOKEN_WORDS_H_

#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

// A stored 32-bit word, and which of its bits belong to the token.
struct WordPlace {
  int index;
  uint32_t mask;
};

// The words that hold the low bits (4 bits: all bits) of a token. Keys: half a word or more is the
// token's own; values: one nibble of each.
template <int kDim>
struct TokenWords {
  static constexpr int kKeyWords = kDim / 32;  // selector words of one lane and token
  int bits, token;
  bool value_side;

  TQ_HD int NumLow() const {
    const int selectors = value_side ? kDim : kDim / 8;
    return bits == 4 ? selectors : selectors / 2;
  }
  TQ_HD int NumHigh() const {
    return bits != 3 ? 0 : value_side ? kDim / 2 : kKeyWords >= 4 ? kKeyWords : 4;
  }

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
    uint32_t word = 0;
    for (int i = 0; i < 8; ++i) {
      const uint32_t nibble = bits == 4 ? from[i] : (from[i] & 3u) | (from[i + 8] & 3u) << 2;
      word |= nibble << (4 * i);
    }
    return word;
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
    constexpr int kSelectors = kKeyWords >= 4 ? 4 : kKeyWords;
    const int quads = kKeyWords >= 4 ? kKeyWords / 4 : 1;
    const int first = (token >> 3) * kKeyWords + 4 * (w % quads);
    const uint8_t* from = nibbles + w / quads * (kDim / 4) + 32 * (w % quads);
    uint32_t word = 0;
    for (int j = 0; j < kSelectors; ++j) {
      for (int i = 0; i < 8; ++i) {
        word |= static_cast<uint32_t>(from[8 * j + i] >> 2) << (4 * i + j + (first & 3));
      }
    }
    return word;
  }
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_TOKEN_WORDS_H_
