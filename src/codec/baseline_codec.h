// Codecs to compare with, nothing to store a cache in. Each codes a group of n values; a row is its
// groups one after the other. Values are finite, with a usable energy (MeasureRow).
#ifndef TURBOQUANT_CODEC_BASELINE_CODEC_H_
#define TURBOQUANT_CODEC_BASELINE_CODEC_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/fp16.h"
#include "codec/scalar_codec.h"

namespace turboquant {

// --- affine groups (as KIVI, arXiv 2402.02750, stores V): fp16 scale, fp16 zero, codes ---
// scale = (max - min) / (2^bits - 1), zero = min; both as stored decide the codes, which are
// rounded to nearest, ties to even, and laid out like scalar codes of n values.

inline void EncodeAffineGroup(int bits, const float* x, int n, uint8_t* group) {
  float low = x[0];
  float high = x[0];
  for (int i = 1; i < n; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  const int top = (1 << bits) - 1;
  const uint16_t scale = ScaleToHalf((high - low) / static_cast<float>(top));
  const uint16_t zero = ScaleToHalf(low);
  StoreHalf(scale, group);
  StoreHalf(zero, group + 2);
  const float step = HalfToFloat(scale);
  if (step == 0.0f) return;  // all codes 0
  for (int i = 0; i < n; ++i) {
    const float u = std::nearbyint((x[i] - HalfToFloat(zero)) / step);
    const int code = u < 0.0f ? 0 : u > static_cast<float>(top) ? top : static_cast<int>(u);
    StoreCode(bits, group + 4, n, i, code);
  }
}

inline void DecodeAffineGroup(int bits, const uint8_t* group, int n, float* x) {
  const float step = HalfToFloat(LoadHalf(group));
  const float zero = HalfToFloat(LoadHalf(group + 2));
  for (int i = 0; i < n; ++i) {
    x[i] = zero + step * static_cast<float>(LoadCode(bits, group + 4, n, i));
  }
}

// --- NF4 (QLoRA, arXiv 2305.14314): fp16 largest magnitude, codes of the 16 fixed values ---

inline constexpr float kNormalFloat4[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

inline void EncodeNormalGroup(const float* x, int n, uint8_t* group) {
  float largest = 0.0f;
  for (int i = 0; i < n; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
  const uint16_t scale = ScaleToHalf(largest);
  StoreHalf(scale, group);
  const float step = HalfToFloat(scale);
  if (step == 0.0f) return;
  for (int i = 0; i < n; ++i) {
    const float u = x[i] / step;
    int code = 0;
    while (code < 15 && u > 0.5f * (kNormalFloat4[code] + kNormalFloat4[code + 1])) ++code;
    StoreCode(4, group + 2, n, i, code);
  }
}

inline void DecodeNormalGroup(const uint8_t* group, int n, float* x) {
  const float step = HalfToFloat(LoadHalf(group));
  for (int i = 0; i < n; ++i) x[i] = step * kNormalFloat4[LoadCode(4, group + 2, n, i)];
}

// --- ggml's blocks of 32: fp16 scale, codes. q8_0: int8 of x / scale, scale = largest / 127.
// q4_0: scale = value of largest magnitude / -8, byte j = code[j] | code[j + 16] << 4, 8 is zero.
// The bytes are ggml's (quantize_row_q8_0_ref, quantize_row_q4_0_ref) while the scale is a finite
// fp16; beyond it is clamped. ---

inline constexpr int kBlockValues = 32;

inline void EncodeBlock(int bits, const float* x, uint8_t* block) {
  float largest = 0.0f;  // by magnitude
  for (int i = 0; i < kBlockValues; ++i) {
    largest = std::fabs(x[i]) > std::fabs(largest) ? x[i] : largest;
  }
  const float scale = bits == 8 ? std::fabs(largest) / 127.0f : largest / -8.0f;
  float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  if (!(std::fabs(inverse) <= 3.4028234e38f)) inverse = 0.0f;  // the stored scale is 0
  StoreHalf(ScaleToHalf(scale), block);
  uint8_t* codes = block + 2;
  for (int i = 0; i < kBlockValues; ++i) {
    if (bits == 8) {
      codes[i] = static_cast<uint8_t>(static_cast<int>(std::round(x[i] * inverse)));
    } else {
      const int code = static_cast<int>(x[i] * inverse + 8.5f);
      StoreCode(4, codes, kBlockValues, i, code > 15 ? 15 : code);
    }
  }
}

inline void DecodeBlock(int bits, const uint8_t* block, float* x) {
  const float scale = HalfToFloat(LoadHalf(block));
  const uint8_t* codes = block + 2;
  for (int i = 0; i < kBlockValues; ++i) {
    const int value =
        bits == 8 ? static_cast<int8_t>(codes[i]) : LoadCode(4, codes, kBlockValues, i) - 8;
    x[i] = scale * static_cast<float>(value);
  }
}

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_BASELINE_CODEC_H_
