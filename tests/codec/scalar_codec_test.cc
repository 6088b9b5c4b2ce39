#include "codec/scalar_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "codec/format.h"
#include "math/rotation.h"
#include "tests/codec/reference.h"

namespace turboquant {
namespace {

using testing::kHeadDims;
using testing::UnitRow;

std::vector<uint8_t> Pack(int bits, const std::vector<int>& codes) {
  const int d = static_cast<int>(codes.size());
  std::vector<uint8_t> bytes(bits * d / 8, 0);
  for (int i = 0; i < d; ++i) StoreCode(bits, bytes.data(), d, i, codes[i]);
  return bytes;
}

struct Row {
  bool ok;
  uint16_t scale;
  std::vector<uint8_t> codes;
  std::vector<float> decoded;
};

Row Encode(int bits, const std::vector<float>& y) {
  const int d = static_cast<int>(y.size());
  // Full of garbage: encode must write every byte.
  Row row{false, 0xABCD, std::vector<uint8_t>(bits * d / 8, 0xEE), std::vector<float>(d, 5.0f)};
  row.ok = EncodeRotatedRow(bits, y.data(), d, row.codes.data(), &row.scale);
  DecodeRotatedRow(bits, row.codes.data(), row.scale, d, row.decoded.data());
  return row;
}

double SquaredError(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  }
  return sum;
}

void ExpectZeroRow(const Row& row, const char* what, int bits) {
  EXPECT_EQ(row.scale, 0) << what << ", " << bits << " bits";
  for (uint8_t b : row.codes) EXPECT_EQ(b, 0) << what << ", " << bits << " bits";
  for (float v : row.decoded) EXPECT_EQ(v, 0.0f) << what << ", " << bits << " bits";
}

// --- packing ---

TEST(Packing, RoundTripsEveryWidthAndHeadDim) {
  SplitMix64 random(1);
  for (int bits : {2, 3, 4}) {
    for (int d = 16; d <= 1024; d += 16) {
      std::vector<int> codes(d);
      for (int& c : codes) c = static_cast<int>(random.Next() >> (64 - bits));
      const std::vector<uint8_t> bytes = Pack(bits, codes);
      for (int i = 0; i < d; ++i) {
        ASSERT_EQ(LoadCode(bits, bytes.data(), d, i), codes[i]) << bits << " " << d << " " << i;
      }
    }
  }
}

TEST(Packing, EveryCodeHasItsOwnBits) {
  for (int bits : {2, 3, 4}) {
    for (int d : kHeadDims) {
      std::vector<int> seen(d * bits, 0);
      for (int i = 0; i < d; ++i) {
        std::vector<int> codes(d, 0);
        codes[i] = (1 << bits) - 1;
        const std::vector<uint8_t> bytes = Pack(bits, codes);
        int count = 0;
        for (int b = 0; b < d * bits; ++b) {
          if ((bytes[b / 8] >> (b % 8)) & 1) {
            ++seen[b];
            ++count;
          }
        }
        ASSERT_EQ(count, bits);
      }
      for (int s : seen) ASSERT_EQ(s, 1);
    }
  }
}

// Golden bytes of the layout, worked out by hand from the comment above LoadCode for d = 16 and
// code i = (5 i + 3) mod 2^bits:
//   4 bits: 3 8 d 2 7 c 1 6 | b 0 5 a f 4 9 e      byte j = code j, code j + 8 above it
//   3 bits: 3 0 5 2 7 4 1 6 | 3 0 5 2 7 4 1 6      low two bits: 3 0 1 2 | 3 0 1 2 | twice again
//           high bits 0 0 1 0 1 1 0 1, twice: byte j < 2 takes high[j + 2 t] as bit t, so
//           byte 0: 0 1 1 0 0 1 1 0 from bit 0 up = 0x66; byte 1: 0 0 1 1 0 0 1 1 = 0xcc
//   2 bits: 3 0 1 2 | 3 0 1 2 | 3 0 1 2 | 3 0 1 2  byte j = the same two bits four times
TEST(Packing, GoldenBytes) {
  const char* kGolden[] = {"", "", "ff0055aa", "ff0055aa66cc", "b3085da2f74c91e6"};
  for (int bits : {2, 3, 4}) {
    std::vector<int> codes(16);
    for (int i = 0; i < 16; ++i) codes[i] = (5 * i + 3) % (1 << bits);
    EXPECT_EQ(testing::Hex(Pack(bits, codes)), kGolden[bits]) << bits << " bits";
  }
}

// --- whole rows ---

// Provenance: golden_rows.py, an encoder in Python written from the documentation.
TEST(ScalarCodec, GoldenRows) {
  const struct {
    int bits, head_dim;
    uint16_t scale;
    const char* codes;
  } kGolden[] = {
#include "tests/codec/golden_rows.inc"
  };
  for (const auto& golden : kGolden) {
    std::vector<float> y = testing::GoldenInput(golden.head_dim);
    Rotate(Rotation(golden.head_dim, 20260501).view(), y.data(), y.data());
    const Row row = Encode(golden.bits, y);
    EXPECT_TRUE(row.ok);
    EXPECT_EQ(row.scale, golden.scale) << golden.bits << " " << golden.head_dim;
    EXPECT_EQ(testing::Hex(row.codes), golden.codes) << golden.bits << " " << golden.head_dim;
  }
}

TEST(ScalarCodec, ValuesOnAThresholdTakeTheLowerCell) {
  for (int bits : {2, 3, 4}) {
    const int levels = 1 << bits;
    for (int t = 0; t < levels - 1; ++t) {
      const float threshold = Thresholds(bits)[t];
      EXPECT_EQ(NearestCode(bits, threshold), t);
      EXPECT_EQ(NearestCode(bits, std::nextafterf(threshold, 10.0f)), t + 1);
    }
    for (int c = 0; c < levels; ++c) EXPECT_EQ(NearestCode(bits, Centroids(bits)[c]), c);
    EXPECT_EQ(NearestCode(bits, -0.0f), levels / 2 - 1);
    EXPECT_EQ(NearestCode(bits, 1e30f), levels - 1);
    EXPECT_EQ(NearestCode(bits, -1e30f), 0);
  }
}

TEST(ScalarCodec, SumsInTheDocumentedOrder) {
  // 2^24 in lane 0 swallows a single 1 but not the sum of several: the order decides the result.
  float lane[16] = {0x1p24f, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(FoldLanes(lane), 0x1p24f);  // lane 0 meets lane 8 (lost), then lane 1 (lost)
  float other[16] = {1, 0x1p24f, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(FoldLanes(other), 0x1p24f + 2);  // lanes 0 and 4 meet first
}

// The scale is the least-squares one: no neighbouring half gives a smaller error, and neither
// does the scale that restores the norm.
TEST(ScalarCodec, LeastSquaresScaleIsNeverWorse) {
  SplitMix64 random(2);
  for (int bits : {2, 3, 4}) {
    for (int d : kHeadDims) {
      for (int n = 0; n < 200; ++n) {
        std::vector<float> y = UnitRow(d, &random);
        if (n % 2 == 1) {  // heavy tails as well
          for (float& v : y) v = v * v * v;
        }
        const Row row = Encode(bits, y);
        std::vector<float> unit(d);
        DecodeRotatedRow(bits, row.codes.data(), FloatToHalf(1.0f), d, unit.data());
        const double ratio = testing::Norm(y) / testing::Norm(unit);
        const double energy = testing::Norm(y) * testing::Norm(y);
        const double error = SquaredError(y, row.decoded);
        double with_norm = 0;
        for (int i = 0; i < d; ++i) with_norm += std::pow(y[i] - ratio * unit[i], 2);
        // Rounding to fp16 moves a scale by at most 2^-11 of itself (or 2^-25 when subnormal), and
        // around the optimum the error grows with the square of that.
        const double c2 = testing::Norm(unit) * testing::Norm(unit);
        const double rounding = 0x1p-22 * energy + 0x1p-50 * c2 + 1e-7 * error;
        ASSERT_LE(error, with_norm + rounding) << bits << " " << d;
        for (int step : {-1, 1}) {
          std::vector<float> moved(d);
          DecodeRotatedRow(bits, row.codes.data(), static_cast<uint16_t>(row.scale + step), d,
                           moved.data());
          ASSERT_LE(error, SquaredError(y, moved) + 1e-6 * error) << bits << " " << d;
        }
      }
    }
  }
}

TEST(ScalarCodec, ScalingARowByAPowerOfTwoScalesTheScaleAlone) {
  SplitMix64 random(4);
  for (int bits : {2, 3, 4}) {
    const std::vector<float> y = UnitRow(128, &random);
    const Row row = Encode(bits, y);
    for (float factor : {0.125f, 2.0f, 64.0f}) {
      std::vector<float> scaled = y;
      for (float& v : scaled) v *= factor;
      const Row other = Encode(bits, scaled);
      EXPECT_EQ(other.codes, row.codes);
      EXPECT_EQ(HalfToFloat(other.scale), factor * HalfToFloat(row.scale));
    }
  }
}

// --- rows at the edges of float ---

TEST(ScalarCodec, NotFiniteRowsBecomeZerosAndSaySo) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (int bits : {2, 3, 4}) {
    for (float bad : {nan, -nan, inf, -inf}) {
      for (int at : {0, 17, 127}) {
        std::vector<float> y(128, 1.0f);
        y[at] = bad;
        const Row row = Encode(bits, y);
        EXPECT_FALSE(row.ok);
        ExpectZeroRow(row, "not finite", bits);
      }
    }
    std::vector<float> both(128, inf);
    both[1] = -inf;
    EXPECT_FALSE(Encode(bits, both).ok);
    // Finite, but the energy is beyond float: the same.
    const Row huge = Encode(bits, std::vector<float>(128, 1e30f));
    EXPECT_FALSE(huge.ok);
    ExpectZeroRow(huge, "1e30", bits);
  }
}

TEST(ScalarCodec, RowsWithoutEnergyBecomeZeros) {
  for (int bits : {2, 3, 4}) {
    for (float tiny : {0.0f, -0.0f, 1e-45f, 1e-40f, 1e-38f, 1e-30f, -1e-30f}) {
      const Row row = Encode(bits, std::vector<float>(128, tiny));
      EXPECT_TRUE(row.ok) << tiny;
      ExpectZeroRow(row, "no energy", bits);
    }
  }
}

// Between the two: whatever has an energy is coded, decodes to finite values of the right sign,
// and its scale is clamped to the largest half or vanishes below the smallest.
TEST(ScalarCodec, SmallAndLargeRowsStayFinite) {
  SplitMix64 random(3);
  for (int bits : {2, 3, 4}) {
    for (float size : {1e-22f, 1e-18f, 1e-12f, 1e-8f, 1e-6f, 1e3f, 1e6f, 1e12f, 1e18f}) {
      std::vector<float> y = UnitRow(128, &random);
      for (float& v : y) v *= size;
      const Row row = Encode(bits, y);
      EXPECT_TRUE(row.ok) << size;
      EXPECT_EQ(row.scale & 0x8000, 0) << size;
      for (int i = 0; i < 128; ++i) {
        ASSERT_TRUE(std::isfinite(row.decoded[i])) << size;
        ASSERT_GE(row.decoded[i] * y[i], 0.0f) << size;
      }
      if (size >= 1e12f) {
        EXPECT_EQ(HalfToFloat(row.scale), kHalfMax) << size;
      }
      if (size <= 1e-12f) {
        EXPECT_EQ(row.scale, 0) << size;
      }
      if (size == 1e3f) {
        EXPECT_LT(SquaredError(y, row.decoded), 0.2 * 1e6) << size;
      }
    }
  }
}

// A spike becomes a row of +-1/sqrt(d), which any symmetric codebook with a least-squares scale
// holds exactly but for the rounding of the scale.
TEST(ScalarCodec, OneHotRowsOfAPowerOfTwoAreExact) {
  for (int bits : {2, 3, 4}) {
    for (int d : {16, 64, 128, 256, 512, 1024}) {
      const Rotation rotation(d, 11);
      for (int at : {0, 1, d - 1}) {
        for (float value : {1.0f, -3.0f, 1000.0f}) {
          std::vector<float> x(d, 0.0f);
          x[at] = value;
          std::vector<float> y(d);
          Rotate(rotation.view(), x.data(), y.data());
          const Row row = Encode(bits, y);
          EXPECT_TRUE(row.ok);
          std::vector<float> back(d);
          Unrotate(rotation.view(), row.decoded.data(), back.data());
          EXPECT_LE(std::sqrt(SquaredError(x, back)), 0x1p-11 * 1.01 * std::abs(value))
              << bits << " " << d;
        }
      }
    }
  }
}

// The same spike in a row that was not rotated: everything but the spike is lost in one cell, yet
// the row keeps its sign and stays finite.
TEST(ScalarCodec, OneHotRotatedRowsAreCoded) {
  for (int bits : {2, 3, 4}) {
    for (int d : kHeadDims) {
      std::vector<float> y(d, 0.0f);
      y[d / 2] = 2.0f;
      const Row row = Encode(bits, y);
      EXPECT_TRUE(row.ok);
      EXPECT_EQ(LoadCode(bits, row.codes.data(), d, d / 2), (1 << bits) - 1);
      EXPECT_GT(row.decoded[d / 2], 0.0f);
      EXPECT_LE(SquaredError(y, row.decoded), 4.0f);
    }
  }
}

}  // namespace
}  // namespace turboquant
