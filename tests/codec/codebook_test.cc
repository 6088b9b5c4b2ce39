#include "codec/codebook.h"

#include <gtest/gtest.h>

#include <cmath>

#include "math/lloyd_max.h"
#include "tests/codec/reference.h"

namespace turboquant {
namespace {

using testing::CodeExpectation;
using testing::GaussDensity;
using testing::SphereDensity;

// The committed table is what the solver gives today.
TEST(Codebook, RegeneratesToTheCommittedTable) {
  for (int bits : {1, 2, 3, 4, 8}) {
    LloydMaxCodebook book;
    if (bits >= 2 && bits <= 4) {
      const auto grid = SolveGridCodebook(bits, kGaussianMarginal);
      ASSERT_TRUE(grid.ok()) << grid.status().message();
      book = grid.value().book;
      for (int i = 0; i < 1 << bits; ++i) {
        EXPECT_EQ(CentroidSteps(bits)[i], grid.value().steps[i]) << bits << " bits, " << i;
      }
      EXPECT_FLOAT_EQ(CentroidUnit(bits), static_cast<float>(grid.value().unit));
    } else {
      const auto solved = SolveLloydMax(bits, kGaussianMarginal);
      ASSERT_TRUE(solved.ok()) << solved.status().message();
      book = solved.value();
    }
    const int levels = 1 << bits;
    ASSERT_EQ(book.centroids.size(), static_cast<size_t>(levels));
    ASSERT_EQ(book.thresholds.size(), static_cast<size_t>(levels - 1));
    for (int i = 0; i < levels; ++i) {
      const float solved = static_cast<float>(book.centroids[i]);
      EXPECT_NEAR(Centroids(bits)[i], solved, 1e-7 * std::abs(solved)) << bits << " bits, " << i;
    }
    for (int i = 0; i < levels - 1; ++i) {
      const float solved = static_cast<float>(book.thresholds[i]);
      EXPECT_NEAR(Thresholds(bits)[i], solved, 1e-7 * std::abs(solved)) << bits << " bits, " << i;
    }
  }
}

// Integer kernels multiply by the steps and once by the unit; floats of decode are the same values.
TEST(Codebook, LiesOnAByteGrid) {
  for (int bits = 2; bits <= 4; ++bits) {
    for (int i = 0; i < 1 << bits; ++i) {
      const double exact = static_cast<double>(CentroidUnit(bits)) * CentroidSteps(bits)[i];
      EXPECT_NEAR(Centroids(bits)[i], exact, 2e-7 * std::abs(exact)) << bits << " bits, " << i;
      EXPECT_LE(std::abs(CentroidSteps(bits)[i]), kMaxGridStep);
    }
  }
}

TEST(Codebook, IsAscendingAndExactlySymmetric) {
  for (int bits : {1, 2, 3, 4, 8}) {
    const int levels = 1 << bits;
    for (int i = 0; i < levels; ++i) {
      EXPECT_EQ(Centroids(bits)[i], -Centroids(bits)[levels - 1 - i]);
      if (i + 1 < levels) {
        EXPECT_LT(Centroids(bits)[i], Thresholds(bits)[i]);
        EXPECT_LT(Thresholds(bits)[i], Centroids(bits)[i + 1]);
        EXPECT_EQ(Thresholds(bits)[i], -Thresholds(bits)[levels - 2 - i]);
      }
    }
    EXPECT_EQ(Thresholds(bits)[levels / 2 - 1], 0.0f);
  }
}

// Distortion of the committed floats, integrated here by Simpson's rule: no line of the solver takes
// part. The grid costs 0.06 % at most (0.4 % at a careless peak of 127), and its unit is optimal.
TEST(Codebook, CommittedTableIsNearlyOptimal) {
  const double kOptimum[] = {0, 0, 0.117481848, 0.034547761, 0.009501008};
  const double kLoss[] = {0, 0, 1e-5, 1e-4, 6e-4};
  for (int bits = 2; bits <= 4; ++bits) {
    const int levels = 1 << bits;
    const float* c = Centroids(bits);
    for (int i = 0; i + 1 < levels; ++i) {
      EXPECT_NEAR(Thresholds(bits)[i], 0.5 * (static_cast<double>(c[i]) + c[i + 1]), 2e-7);
    }
    const double distortion = CodeExpectation(c, levels, GaussDensity,
                                              [](double u, double x) { return (u - x) * (u - x); });
    EXPECT_GT(distortion, kOptimum[bits] * (1 - 1e-6)) << bits << " bits";
    EXPECT_LT(distortion, kOptimum[bits] * (1 + kLoss[bits])) << bits << " bits";
    const double dot =
        CodeExpectation(c, levels, GaussDensity, [](double u, double x) { return u * x; });
    const double norm =
        CodeExpectation(c, levels, GaussDensity, [](double, double x) { return x * x; });
    EXPECT_NEAR(dot / norm, 1, 1e-6) << bits << " bits";
  }
}

// Distortions known from theory: b = 1 is 1 - 2/pi; the Gaussian column is Max 1960, table 1,
// recomputed; times 4^b it rises towards Panter and Dite's sqrt(3) pi / 2 and stays above 1.
TEST(LloydMax, GaussianDistortionsOfTheory) {
  const double kKnown[] = {
      0, 1 - 2 / 3.14159265358979323846, 0.117481848, 0.034547761, 0.009501008, 0.002504667};
  double previous = 0;
  for (int bits = 1; bits <= 8; ++bits) {
    const auto book = SolveLloydMax(bits, kGaussianMarginal);
    ASSERT_TRUE(book.ok()) << book.status().message();
    if (bits <= 5) {
      EXPECT_NEAR(book.value().distortion, kKnown[bits], 1e-8);
    }
    const double product = book.value().distortion * std::pow(4.0, bits);
    EXPECT_GT(product, std::max(1.0, previous));
    EXPECT_LT(product, std::sqrt(3.0) * 3.14159265358979323846 / 2);
    EXPECT_LT(book.value().entropy, bits + 1e-12);
    previous = product;
  }
}

// E[u c] = E[c^2] = 1 - D at the optimum, and both stationarity conditions, to 1e-13.
TEST(LloydMax, ConvergesForEveryWidthAndDensity) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (int d : {kGaussianMarginal, 4, 5, 16, 64, 80, 128, 576, 1024, 65536}) {
      const auto book = SolveLloydMax(bits, d);
      ASSERT_TRUE(book.ok()) << book.status().message();
      const auto& c = book.value().centroids;
      const auto& t = book.value().thresholds;
      for (size_t i = 0; i < t.size(); ++i) {
        EXPECT_NEAR(t[i], 0.5 * (c[i] + c[i + 1]), 1e-13);
        EXPECT_LT(c[i], t[i]);
        EXPECT_LT(t[i], c[i + 1]);
      }
    }
  }
}

TEST(LloydMax, CentroidConditionHoldsToTheLastDigits) {
  for (int d : {kGaussianMarginal, 64}) {
    const auto book = SolveLloydMax(6, d);
    ASSERT_TRUE(book.ok());
    const auto& c = book.value().centroids;
    const auto& t = book.value().thresholds;
    const auto density = [d](double u) { return d == 0 ? GaussDensity(u) : SphereDensity(u, d); };
    for (size_t i = 1; i + 1 < c.size(); ++i) {
      const double mass = testing::Integral(density, t[i - 1], t[i], 4000);
      const double shift = testing::Integral([&](double u) { return (u - c[i]) * density(u); },
                                             t[i - 1], t[i], 4000);
      EXPECT_NEAR(shift / mass, 0, 1e-13) << "d " << d << ", centroid " << i;
    }
  }
}

// Distortions of the exact sphere marginal, from an independent solver (Lloyd iteration on
// incomplete Beta functions, converged to 1e-13).
TEST(LloydMax, SphereDistortionsOfTheory) {
  const struct {
    int bits, d;
    double distortion, entropy;
  } kKnown[] = {
      {1, 64, 0.35838736, 1.0},      {1, 256, 0.36213562, 1.0},     {2, 64, 0.11452576, 1.91792},
      {2, 128, 0.11600007, 1.91453}, {2, 256, 0.11674004, 1.91282}, {3, 64, 0.03339083, 2.83790},
      {3, 128, 0.03396593, 2.83141}, {4, 64, 0.00913152, 3.78248},  {4, 128, 0.00931479, 3.77393},
      {4, 256, 0.00940753, 3.76964}, {5, 128, 0.00245146, 4.73960},
  };
  for (const auto& known : kKnown) {
    const auto book = SolveLloydMax(known.bits, known.d);
    ASSERT_TRUE(book.ok());
    EXPECT_NEAR(book.value().distortion, known.distortion, 1e-8) << known.bits << " " << known.d;
    EXPECT_NEAR(book.value().entropy, known.entropy, 1e-5) << known.bits << " " << known.d;
  }
}

TEST(LloydMax, RefusesWhatItCannotSolve) {
  for (int bits : {0, 5, 8}) EXPECT_FALSE(SolveGridCodebook(bits, 0).ok()) << bits;
  for (int bits : {-1, 0, 9, 1000}) EXPECT_FALSE(SolveLloydMax(bits, 0).ok()) << bits;
  for (int d : {-1, 1, 2, 3, 65537}) {
    const auto book = SolveLloydMax(2, d);
    ASSERT_FALSE(book.ok()) << d;
    EXPECT_EQ(book.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(book.status().message().find(std::to_string(d)), std::string::npos);
  }
}

}  // namespace
}  // namespace turboquant
