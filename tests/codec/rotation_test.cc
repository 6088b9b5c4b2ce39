#include "math/rotation.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "codec/format.h"
#include "tests/codec/reference.h"

namespace turboquant {
namespace {

using testing::kHeadDims;
using testing::Norm;
using testing::UnitRow;

constexpr long double kPi = 3.14159265358979323846264338327950288L;

int OddPart(int d) {
  while (d % 2 == 0) d /= 2;
  return d;
}

long double MixEntry(int i, int j, int m) {
  return std::sqrt((i == 0 ? 1.0L : 2.0L) / m) * std::cos(kPi * (2 * j + 1) * i / (2 * m));
}

// The matrix of the definition in double: (M (x) H / sqrt(n)) diag(signs).
std::vector<double> DenseMatrix(int d, uint64_t seed) {
  const int m = OddPart(d);
  const int n = d / m;
  std::vector<double> signs(d);
  SplitMix64 random(seed);
  for (double& s : signs) s = random.Next() >= (1ull << 63) ? -1 : 1;
  std::vector<double> r(static_cast<size_t>(d) * d);
  for (int row = 0; row < d; ++row) {
    for (int col = 0; col < d; ++col) {
      const unsigned overlap = static_cast<unsigned>((row % n) & (col % n));
      const double hadamard = std::popcount(overlap) % 2 == 0 ? 1 : -1;
      r[static_cast<size_t>(row) * d + col] = static_cast<double>(MixEntry(row / n, col / n, m)) *
                                              hadamard / std::sqrt(static_cast<double>(n)) *
                                              signs[col];
    }
  }
  return r;
}

class RotationOf : public ::testing::TestWithParam<int> {};

TEST_P(RotationOf, IsTheMatrixOfItsDefinition) {
  const int d = GetParam();
  const Rotation rotation(d, 42);
  const std::vector<double> matrix = DenseMatrix(d, 42);
  std::vector<float> x(d), y(d), z(d);
  for (int col = 0; col < d; ++col) {
    std::fill(x.begin(), x.end(), 0.0f);
    x[col] = 1.0f;
    Rotate(rotation.view(), x.data(), y.data());
    Unrotate(rotation.view(), x.data(), z.data());
    for (int row = 0; row < d; ++row) {
      ASSERT_NEAR(y[row], matrix[static_cast<size_t>(row) * d + col], 2e-7) << row << " " << col;
      ASSERT_NEAR(z[row], matrix[static_cast<size_t>(col) * d + row], 2e-7) << row << " " << col;
    }
  }
}

TEST_P(RotationOf, TransposeTimesItselfIsTheIdentity) {
  const int d = GetParam();
  const Rotation rotation(d, 7);
  std::vector<float> x(d), y(d);
  for (int i = 0; i < d; ++i) {
    std::fill(x.begin(), x.end(), 0.0f);
    x[i] = 1.0f;
    Rotate(rotation.view(), x.data(), y.data());
    Unrotate(rotation.view(), y.data(), y.data());
    for (int j = 0; j < d; ++j) ASSERT_NEAR(y[j], x[j], 2e-6) << i << " " << j;
  }
}

TEST_P(RotationOf, KeepsNormsAndInnerProducts) {
  const int d = GetParam();
  SplitMix64 random(d);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Rotation rotation(d, seed);
    const std::vector<float> a = UnitRow(d, &random);
    const std::vector<float> b = UnitRow(d, &random);
    std::vector<float> ra(d), rb(d);
    Rotate(rotation.view(), a.data(), ra.data());
    Rotate(rotation.view(), b.data(), rb.data());
    EXPECT_NEAR(Norm(ra), Norm(a), 1e-6);
    double before = 0;
    double after = 0;
    for (int i = 0; i < d; ++i) {
      before += static_cast<double>(a[i]) * b[i];
      after += static_cast<double>(ra[i]) * rb[i];
    }
    EXPECT_NEAR(after, before, 1e-6);
  }
}

TEST_P(RotationOf, WorksInPlaceAndTouchesNothingElse) {
  const int d = GetParam();
  const Rotation rotation(d, 3);
  SplitMix64 random(1);
  const std::vector<float> x = UnitRow(d, &random);
  for (auto* map : {Rotate, Unrotate}) {
    // No padding: exactly d values are read and written.
    std::vector<float> out(d + 16, 77.0f);
    map(rotation.view(), x.data(), out.data() + 8);
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(out[i], 77.0f);
      EXPECT_EQ(out[8 + d + i], 77.0f);
    }
    std::vector<float> in_place = x;
    map(rotation.view(), in_place.data(), in_place.data());
    for (int i = 0; i < d; ++i) EXPECT_EQ(in_place[i], out[8 + i]);
  }
}

TEST_P(RotationOf, DependsOnTheSeedAlone) {
  const int d = GetParam();
  SplitMix64 random(5);
  const std::vector<float> x = UnitRow(d, &random);
  std::vector<float> first(d), again(d), other(d);
  Rotate(Rotation(d, 1).view(), x.data(), first.data());
  Rotate(Rotation(d, 1).view(), x.data(), again.data());
  Rotate(Rotation(d, 2).view(), x.data(), other.data());
  EXPECT_EQ(first, again);
  double overlap = 0;
  for (int i = 0; i < d; ++i) overlap += static_cast<double>(first[i]) * other[i];
  EXPECT_LT(std::abs(overlap), 6 / std::sqrt(static_cast<double>(d)));
}

TEST_P(RotationOf, SpreadsASpikeOverEveryCoordinateOfItsRow) {
  const int d = GetParam();
  const int m = OddPart(d);
  const Rotation rotation(d, 9);
  std::vector<float> x(d, 0.0f), y(d);
  x[1] = 1.0f;
  Rotate(rotation.view(), x.data(), y.data());
  for (int i = 0; i < d; ++i) EXPECT_LE(std::abs(y[i]), std::sqrt(2.0 / d) + 1e-6);
  if (m == 1) {
    for (float v : y) EXPECT_NEAR(std::abs(v), 1 / std::sqrt(static_cast<double>(d)), 1e-7);
  }
}

INSTANTIATE_TEST_SUITE_P(HeadDims, RotationOf, ::testing::ValuesIn(kHeadDims),
                         ::testing::PrintToStringParamName());

// The first draws of SplitMix64(0) are e220a839..., 6e789e6a..., 06c45d18..., f88bb8a8...
// (published test vector of the generator): top bits 1, 0, 0, 1.
TEST(Rotation, SignsAreTheTopBitsOfTheGenerator) {
  const Rotation rotation(64, 0);
  const float* signs = rotation.view().signs;
  EXPECT_EQ(signs[0], -1.0f);
  EXPECT_EQ(signs[1], 1.0f);
  EXPECT_EQ(signs[2], 1.0f);
  EXPECT_EQ(signs[3], -1.0f);
  int negative = 0;
  const Rotation wide(1024, 123);
  for (int i = 0; i < 1024; ++i) {
    ASSERT_EQ(std::abs(wide.view().signs[i]), 1.0f);
    negative += wide.view().signs[i] < 0;
  }
  EXPECT_NEAR(negative, 512, 80);  // five standard deviations
}

TEST(Rotation, ShapeOfEverySupportedHeadDim) {
  for (int d = 16; d <= 1024; d += 16) {
    if (!SupportedHeadDim(d)) continue;
    const Rotation rotation(d, 1);
    const RotationView view = rotation.view();
    EXPECT_EQ(view.head_dim, d);
    EXPECT_EQ(view.m, OddPart(d));
    EXPECT_EQ(view.m * view.n, d);
    EXPECT_EQ(view.norm, static_cast<float>(1 / std::sqrt(static_cast<double>(view.n))));
    EXPECT_EQ(view.mix == nullptr, view.m == 1);
  }
}

// The mixing matrix is the same float for float wherever cos() is good to eight units in the last
// place of a double: no entry lies that near to the middle between two floats.
TEST(Rotation, MixingMatrixRoundsAlikeEverywhere) {
  for (int m = 3; m <= 63; m += 2) {
    const Rotation rotation(16 * m, 1);
    const float* mix = rotation.view().mix;
    ASSERT_NE(mix, nullptr);
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < m; ++j) {
        const float value = mix[i * m + j];
        const long double exact = MixEntry(i, j, m);
        if (value == 0.0f) {
          EXPECT_LT(std::abs(exact), 1e-17L) << m << " " << i << " " << j;
          continue;
        }
        const double margin = 8 * 0x1p-53 * std::abs(value);
        EXPECT_EQ(static_cast<float>(static_cast<double>(exact) + margin), value);
        EXPECT_EQ(static_cast<float>(static_cast<double>(exact) - margin), value);
      }
    }
  }
}

}  // namespace
}  // namespace turboquant
