// IEEE binary16 <-> binary32, exact, round to nearest even; no hardware needed.
//
// Matches F16C / AVX-512 vcvtps2ph bit for bit on finite values and infinities. A NaN becomes the
// quiet NaN with the sign and the top mantissa bits of its source.
#ifndef TURBOQUANT_BASE_FP16_H_
#define TURBOQUANT_BASE_FP16_H_

#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace turboquant {

inline constexpr float kHalfMax = 65504.0f;  // largest finite half
inline constexpr uint16_t kHalfMinusInfinity = 0xFC00;

TQ_HD inline uint32_t FloatBits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof(u));
  return u;
}

TQ_HD inline float BitsToFloat(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof(f));
  return f;
}

TQ_HD inline float HalfToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 0x1Fu;
  uint32_t mantissa = h & 0x3FFu;
  if (exponent == 31) return BitsToFloat(sign | 0x7F800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0));
  if (exponent == 0) {
    // Subnormal: mantissa * 2^-24 is exact in binary32.
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return BitsToFloat(sign | FloatBits(magnitude));
  }
  return BitsToFloat(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

TQ_HD inline uint16_t FloatToHalf(float f) {
  const uint32_t bits = FloatBits(f);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {
    // Below the smallest normal half: adding 0.5 aligns the mantissa at 2^-24 and rounds to even.
    const uint32_t rounded = FloatBits(BitsToFloat(magnitude) + 0.5f) - 0x3F000000u;
    return static_cast<uint16_t>(sign | rounded);
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
}

}  // namespace turboquant

#endif  // TURBOQUANT_BASE_FP16_H_
