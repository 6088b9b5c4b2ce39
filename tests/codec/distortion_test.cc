// The distortion of whole rows, bounded from both sides, and the proof that the bounds bite: every
// codec broken on purpose below falls outside of at least one of them.
//
// What is measured: D = E |x - x~|^2 over unit rows x, through rotation, codes, fp16 scale and
// back.
//
// What it must be. With S = 1 (no fitted scale) the rows' D is D1(d) = E (u - c(u))^2, u = sqrt(d)
// times a coordinate of the unit sphere, c the Gaussian codebook: a one-dimensional integral. The
// least-squares scale <u,c>/<c,c> takes off E[(A - B)^2 / B] with A = <u,c>/d, B = <c,c>/d, whose
// leading term is Var(A - B) / (1 - D). A - B is the mean over the row of g(u) = c (u - c), and g
// has mean 0 at the optimum; holding |u|^2 = d removes what g shares with u^2, so that
//   D(d) = D1(d) - (E g^2 - E[g (u^2 - 1)]^2 / 2) / (d (1 - D)) + O(d^-2).
// The bounds are this value -1.2 % and +1.2 %: twice what O(d^-2) and five standard errors of the
// sample come to at d = 64. At d = 128 the project's own bounds hold as well.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "codec/format.h"
#include "codec/scalar_codec.h"
#include "math/rotation.h"
#include "tests/codec/reference.h"

namespace turboquant {
namespace {

using testing::CodeExpectation;
using testing::GaussDensity;
using testing::SphereDensity;

constexpr int kRowsOfADim = 12000;
constexpr double kTolerance = 0.012;

enum class Mutation {
  kNone,
  // Decoders.
  kZeros,              // returns zeros
  kSwappedPlanes,      // reads code i from the place of code i + d/2 (swapped nibbles)
  kAdjacentCodes,      // codes in pairs of neighbours instead of planes
  kNoHighBit,          // forgets the top bit of a code
  kNoSign,             // returns magnitudes
  kNegated,            // every value negated
  kNextCentroid,       // off by one in the codebook
  kEvenCodebook,       // evenly spaced centroids over the same range
  kUnrotateUnsigned,   // un-rotates without the signs
  kForeignSeed,        // un-rotates with another seed
  kInputReturned,      // cheats: hands back what went in
  kHalfOfErrorHidden,  // cheats: half way between the input and its code
  // Scales.
  kUnitScale,    // 1 instead of the scale
  kDoubled,      // twice the scale
  kFivePercent,  // 5 % too large
  kNormScale,    // |y| / |c|, the norm instead of least squares
  kRmsScale,     // rms of the row (the paper's S = 1)
  // Encoders.
  kFloorCodes,     // cells that end at their centroid
  kSwappedLength,  // normalises by the length instead of the rms
};

const struct {
  Mutation mutation;
  const char* name;
} kMutations[] = {
    {Mutation::kZeros, "zeros"},
    {Mutation::kSwappedPlanes, "swapped planes"},
    {Mutation::kAdjacentCodes, "adjacent codes"},
    {Mutation::kNoHighBit, "no high bit"},
    {Mutation::kNoSign, "no sign"},
    {Mutation::kNegated, "negated"},
    {Mutation::kNextCentroid, "next centroid"},
    {Mutation::kEvenCodebook, "even codebook"},
    {Mutation::kUnrotateUnsigned, "un-rotated without signs"},
    {Mutation::kForeignSeed, "foreign seed"},
    {Mutation::kInputReturned, "input returned"},
    {Mutation::kHalfOfErrorHidden, "half of the error hidden"},
    {Mutation::kUnitScale, "unit scale"},
    {Mutation::kDoubled, "doubled scale"},
    {Mutation::kFivePercent, "scale 5 % too large"},
    {Mutation::kNormScale, "norm scale"},
    {Mutation::kRmsScale, "rms scale"},
    {Mutation::kFloorCodes, "floor codes"},
    {Mutation::kSwappedLength, "length for rms"},
};

// Encodes y as the library does, or as a broken encoder would.
void EncodeWith(Mutation mutation, int bits, const std::vector<float>& y, uint8_t* codes,
                uint16_t* scale) {
  const int d = static_cast<int>(y.size());
  EXPECT_TRUE(EncodeRotatedRow(bits, y.data(), d, codes, scale));
  const double norm = testing::Norm(y);
  if (mutation == Mutation::kFloorCodes || mutation == Mutation::kSwappedLength) {
    const double divisor = mutation == Mutation::kSwappedLength ? norm : norm / std::sqrt(d);
    for (int j = 0; j < bits * d / 8; ++j) codes[j] = 0;
    for (int i = 0; i < d; ++i) {
      const float u = static_cast<float>(y[i] / divisor);
      int code = NearestCode(bits, u);
      if (mutation == Mutation::kFloorCodes && code > 0 && u < Centroids(bits)[code]) --code;
      StoreCode(bits, codes, d, i, code);
    }
  }
  double code_energy = 0;
  for (int i = 0; i < d; ++i) {
    code_energy += std::pow(Centroids(bits)[LoadCode(bits, codes, d, i)], 2);
  }
  const float s = HalfToFloat(*scale);
  if (mutation == Mutation::kUnitScale) *scale = FloatToHalf(1.0f);
  if (mutation == Mutation::kDoubled) *scale = FloatToHalf(2 * s);
  if (mutation == Mutation::kFivePercent) *scale = FloatToHalf(1.05f * s);
  if (mutation == Mutation::kNormScale) {
    *scale = FloatToHalf(static_cast<float>(norm / std::sqrt(code_energy)));
  }
  if (mutation == Mutation::kRmsScale) {
    *scale = FloatToHalf(static_cast<float>(norm / std::sqrt(d)));
  }
}

// Decodes to rotated coordinates as the library does, or as a broken decoder would.
void DecodeWith(Mutation mutation, int bits, const std::vector<float>& y, const uint8_t* codes,
                uint16_t scale, std::vector<float>* out) {
  const int d = static_cast<int>(y.size());
  DecodeRotatedRow(bits, codes, scale, d, out->data());
  const float s = HalfToFloat(scale);
  const int levels = 1 << bits;
  const float* centroids = Centroids(bits);
  for (int i = 0; i < d; ++i) {
    float& value = (*out)[i];
    const int code = LoadCode(bits, codes, d, i);
    switch (mutation) {
      case Mutation::kZeros:
        value = 0;
        break;
      case Mutation::kSwappedPlanes:
        value = s * centroids[LoadCode(bits, codes, d, (i + d / 2) % d)];
        break;
      case Mutation::kAdjacentCodes:
        value = s * centroids[LoadCode(bits, codes, d, i / 2 + (i % 2) * (d / 2))];
        break;
      case Mutation::kNoHighBit:
        value = s * centroids[code & (levels / 2 - 1)];
        break;
      case Mutation::kNoSign:
        value = std::abs(value);
        break;
      case Mutation::kNegated:
        value = -value;
        break;
      case Mutation::kNextCentroid:
        value = s * centroids[code + 1 < levels ? code + 1 : code];
        break;
      case Mutation::kEvenCodebook:
        value = s * centroids[levels - 1] * (2.0f * code / (levels - 1) - 1);
        break;
      case Mutation::kInputReturned:
        value = y[i];
        break;
      case Mutation::kHalfOfErrorHidden:
        value = 0.5f * (value + y[i]);
        break;
      default:
        break;
    }
  }
}

// D of `rows` uniform unit rows.
double Measure(Mutation mutation, int bits, int d, int rows) {
  const Rotation rotation(d, 99);
  const Rotation foreign(d, 98);
  const std::vector<float> plus(d, 1.0f);
  RotationView back = rotation.view();
  if (mutation == Mutation::kUnrotateUnsigned) back.signs = plus.data();
  if (mutation == Mutation::kForeignSeed) back = foreign.view();
  SplitMix64 random(1000 * d + bits);
  std::vector<float> y(d), decoded(d);
  std::vector<uint8_t> codes(bits * d / 8);
  double sum = 0;
  for (int n = 0; n < rows; ++n) {
    const std::vector<float> x = testing::UnitRow(d, &random);
    Rotate(rotation.view(), x.data(), y.data());
    uint16_t scale = 0;
    EncodeWith(mutation, bits, y, codes.data(), &scale);
    DecodeWith(mutation, bits, y, codes.data(), scale, &decoded);
    Unrotate(back, decoded.data(), decoded.data());
    for (int i = 0; i < d; ++i) sum += std::pow(static_cast<double>(x[i]) - decoded[i], 2);
  }
  return sum / rows;
}

// D1(d): the distortion without a fitted scale.
double UnscaledDistortion(int bits, int d) {
  return CodeExpectation(
      Centroids(bits), 1 << bits, [d](double u) { return SphereDensity(u, d); },
      [](double u, double c) { return (u - c) * (u - c); });
}

// D(d) of the comment at the top.
double ExpectedDistortion(int bits, int d) {
  const auto expect = [bits](auto g) {
    return CodeExpectation(Centroids(bits), 1 << bits, GaussDensity, g);
  };
  const double distortion = expect([](double u, double c) { return (u - c) * (u - c); });
  const double variance = expect([](double u, double c) { return std::pow(c * (u - c), 2); });
  const double shared = expect([](double u, double c) { return c * (u - c) * (u * u - 1); });
  return UnscaledDistortion(bits, d) - (variance - shared * shared / 2) / (d * (1 - distortion));
}

struct Bounds {
  double low;
  double high;
};

Bounds BoundsOf(int bits, int d) {
  const double expected = ExpectedDistortion(bits, d);
  Bounds bounds{expected * (1 - kTolerance), expected * (1 + kTolerance)};
  // Never better than Shannon allows at the bits really stored, the scale included.
  const double stored_bits = 8.0 * RowBytes(static_cast<Format>(bits), d) / d;
  bounds.low = std::max(bounds.low, std::pow(4.0, -stored_bits));
  if (d == 128) {
    const Bounds kProject[] = {{}, {}, {.1130, .1190}, {.0331, .0349}, {.0090, .0096}};
    bounds.low = std::max(bounds.low, kProject[bits].low);
    bounds.high = std::min(bounds.high, kProject[bits].high);
  }
  return bounds;
}

constexpr int kDims[] = {64, 80, 128, 256};

TEST(Distortion, StaysWithinItsBounds) {
  for (int bits : {2, 3, 4}) {
    for (int d : kDims) {
      const double measured = Measure(Mutation::kNone, bits, d, kRowsOfADim);
      const Bounds bounds = BoundsOf(bits, d);
      RecordProperty("turbo" + std::to_string(bits) + "_d" + std::to_string(d),
                     std::to_string(measured));
      EXPECT_GE(measured, bounds.low) << bits << " bits, d " << d;
      EXPECT_LE(measured, bounds.high) << bits << " bits, d " << d;
      // Never worse than without a fitted scale.
      EXPECT_LT(measured, UnscaledDistortion(bits, d) * 1.002) << bits << " bits, d " << d;
    }
  }
}

// The expectation itself against figures simulated elsewhere with another program (least-squares
// scale, three digits).
TEST(Distortion, ExpectationAgreesWithIndependentFigures) {
  const struct {
    int bits, d;
    double distortion;
  } kKnown[] = {{2, 128, .1154}, {3, 128, .0335}, {4, 128, .00915},
                {2, 64, .1132},  {3, 64, .0324},  {4, 64, .0089}};
  for (const auto& known : kKnown) {
    const double expected = ExpectedDistortion(known.bits, known.d);
    EXPECT_NEAR(expected, known.distortion, 0.01 * expected) << known.bits << " " << known.d;
  }
}

// Rows whose energy sits in a few channels, as keys have it: rotated, they are never harder than
// uniform rows (a row of one or two channels becomes one of few magnitudes, which is easier), and
// without the rotation they are far off.
TEST(Distortion, UnevenRowsNeedTheRotation) {
  for (int bits : {2, 3, 4}) {
    for (int d : {64, 96, 128, 256}) {
      const Rotation rotation(d, 5);
      SplitMix64 random(d);
      std::vector<double> gain(d);
      for (double& g : gain) g = std::exp(random.Normal());
      double rotated = 0;
      double bare = 0;
      constexpr int kRows = 1000;
      std::vector<float> y(d), decoded(d);
      std::vector<uint8_t> codes(bits * d / 8);
      for (int n = 0; n < kRows; ++n) {
        std::vector<float> x = testing::UnitRow(d, &random);
        for (int i = 0; i < d; ++i) x[i] = static_cast<float>(x[i] * gain[i]);
        const double energy = std::pow(testing::Norm(x), 2);
        for (bool rotate : {true, false}) {
          y = x;
          if (rotate) Rotate(rotation.view(), x.data(), y.data());
          uint16_t scale = 0;
          EXPECT_TRUE(EncodeRotatedRow(bits, y.data(), d, codes.data(), &scale));
          DecodeRotatedRow(bits, codes.data(), scale, d, decoded.data());
          double error = 0;
          for (int i = 0; i < d; ++i) error += std::pow(static_cast<double>(y[i]) - decoded[i], 2);
          (rotate ? rotated : bare) += error / energy / kRows;
        }
      }
      const double expected = ExpectedDistortion(bits, d);
      EXPECT_LT(rotated, 1.01 * expected) << bits << " bits, d " << d;
      EXPECT_GT(rotated, 0.7 * expected) << bits << " bits, d " << d;
      EXPECT_GT(bare, 1.3 * expected) << bits << " bits, d " << d;
    }
  }
}

// Every mutant leaves the bounds of at least one (bits, d): the test above would fail.
TEST(Distortion, BoundsCatchEveryMutant) {
  for (const auto& [mutation, name] : kMutations) {
    int caught = 0;
    for (int bits : {2, 3, 4}) {
      for (int d : kDims) {
        const double measured = Measure(mutation, bits, d, kRowsOfADim / 10);
        const Bounds bounds = BoundsOf(bits, d);
        // What a tenth of the rows adds in sampling error is granted to the mutant.
        const double slack = 0.005 * bounds.high;
        caught += measured < bounds.low - slack || measured > bounds.high + slack ? 1 : 0;
      }
    }
    RecordProperty(name, caught);
    EXPECT_GT(caught, 0) << "mutant not caught: " << name;
  }
}

}  // namespace
}  // namespace turboquant
