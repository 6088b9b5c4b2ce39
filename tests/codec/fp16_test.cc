#include "base/fp16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/rng.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace turboquant {
namespace {

// The value of a finite half, from the definition of binary16.
double HalfValue(uint16_t h) {
  const int exponent = (h >> 10) & 31;
  const int mantissa = h & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

bool IsNan(uint16_t h) { return (h & 0x7FFF) > 0x7C00; }

// Nearest half of a finite float by search among all halves, ties to the even mantissa.
uint16_t NearestHalf(float f) {
  const double x = std::abs(static_cast<double>(f));
  const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
  // Halves of one sign ascend with their bits; 65520 is half a step beyond the largest.
  if (x >= 65520.0) return sign | 0x7C00;
  uint16_t lo = 0;
  uint16_t hi = 0x7C00;
  while (hi - lo > 1) {
    const uint16_t middle = static_cast<uint16_t>((lo + hi) / 2);
    (HalfValue(middle) <= x ? lo : hi) = middle;
  }
  const double below = x - HalfValue(lo);
  const double above = (hi == 0x7C00 ? 65536.0 : HalfValue(hi)) - x;
  if (below < above || (below == above && lo % 2 == 0)) return sign | lo;
  return sign | hi;
}

// Every midpoint between neighbouring halves and the floats around it, both signs; specials; a
// random sweep of all bit patterns.
std::vector<float> Samples() {
  std::vector<float> samples;
  for (uint32_t h = 0; h < 0x7C00; ++h) {
    const double next = h + 1 == 0x7C00 ? 65536.0 : HalfValue(static_cast<uint16_t>(h + 1));
    const float exact = static_cast<float>(HalfValue(static_cast<uint16_t>(h)));
    const float tie = static_cast<float>(0.5 * (HalfValue(static_cast<uint16_t>(h)) + next));
    for (float f : {exact, tie, std::nextafterf(tie, 0.0f), std::nextafterf(tie, 1e9f)}) {
      samples.push_back(f);
      samples.push_back(-f);
    }
  }
  for (uint32_t bits : {0x00000001u, 0x007FFFFFu, 0x00800000u, 0x33000000u, 0x33000001u,
                        0x7F7FFFFFu, 0x477FEFFFu, 0x477FF000u, 0x38800000u, 0x387FFFFFu}) {
    samples.push_back(BitsToFloat(bits));
    samples.push_back(BitsToFloat(bits | 0x80000000u));
  }
  SplitMix64 random(16);
  for (int i = 0; i < 1000000; ++i) samples.push_back(BitsToFloat(random.Next() >> 32));
  for (int i = 0; i < 1000000; ++i) samples.push_back(static_cast<float>(random.Normal()));
  return samples;
}

TEST(Fp16, EveryHalfHasItsExactValue) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = HalfToFloat(static_cast<uint16_t>(h));
    if ((h & 0x7C00) != 0x7C00) {
      ASSERT_EQ(f, HalfValue(static_cast<uint16_t>(h))) << h;
      ASSERT_EQ(std::signbit(f), (h & 0x8000) != 0) << h;
    } else if (IsNan(static_cast<uint16_t>(h))) {
      ASSERT_TRUE(std::isnan(f)) << h;
    } else {
      ASSERT_TRUE(std::isinf(f) && std::signbit(f) == ((h & 0x8000) != 0)) << h;
    }
  }
}

TEST(Fp16, EveryHalfRoundTrips) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const uint16_t back = FloatToHalf(HalfToFloat(static_cast<uint16_t>(h)));
    // A NaN becomes quiet and keeps the rest of its payload.
    ASSERT_EQ(back, IsNan(static_cast<uint16_t>(h)) ? h | 0x200 : h) << h;
  }
}

TEST(Fp16, RoundsToTheNearestHalfTiesToEven) {
  for (float f : Samples()) {
    if (std::isfinite(f)) {
      ASSERT_EQ(FloatToHalf(f), NearestHalf(f)) << f;
    }
  }
}

TEST(Fp16, SpecialValues) {
  EXPECT_EQ(FloatToHalf(0.0f), 0x0000);
  EXPECT_EQ(FloatToHalf(-0.0f), 0x8000);
  EXPECT_EQ(FloatToHalf(1.0f), 0x3C00);
  EXPECT_EQ(FloatToHalf(kHalfMax), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65519.996f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToHalf(INFINITY), 0x7C00);
  EXPECT_EQ(FloatToHalf(-INFINITY), 0xFC00);
  EXPECT_EQ(FloatToHalf(0x1p-24f), 0x0001);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0x0000);  // a tie with zero, which is even
  EXPECT_EQ(FloatToHalf(0x1.000002p-25f), 0x0001);
  EXPECT_EQ(FloatToHalf(BitsToFloat(0x7FC00000u)), 0x7E00);
  EXPECT_EQ(FloatToHalf(BitsToFloat(0xFFC02000u)), 0xFE01);
  EXPECT_EQ(FloatToHalf(BitsToFloat(0x7F800001u)), 0x7E00);  // a NaN, never an infinity
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) uint16_t HardwareToHalf(float f) {
  return static_cast<uint16_t>(
      _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(f), _MM_FROUND_TO_NEAREST_INT), 0));
}

__attribute__((target("f16c"))) float HardwareToFloat(uint16_t h) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

TEST(Fp16, MatchesTheHardwareBitForBit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  // F16C works on AVX state, which the operating system must save.
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  if (!f16c || !__builtin_cpu_supports("avx")) GTEST_SKIP() << "this CPU has no F16C";
  for (uint32_t h = 0; h < 65536; ++h) {
    ASSERT_EQ(FloatBits(HalfToFloat(static_cast<uint16_t>(h))),
              FloatBits(HardwareToFloat(static_cast<uint16_t>(h))))
        << h;
  }
  for (float f : Samples()) {
    ASSERT_EQ(FloatToHalf(f), HardwareToHalf(f)) << std::hex << FloatBits(f);
  }
}
#endif

}  // namespace
}  // namespace turboquant
