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
    const auto book = SolveLloydMax(bits, kGaussianMarginal);
    ASSERT_TRUE(book.ok()) << book.status().message();
    const int levels = 1 << bits;
    ASSERT_EQ(book.value().centroids.size(), static_cast<size_t>(levels));
    ASSERT_EQ(book.value().thresholds.size(), static_cast<size_t>(levels - 1));
    for (int i = 0; i < levels; ++i) {
      const float solved = static_cast<float>(book.value().centroids[i]);
      EXPECT_NEAR(Centroids(bits)[i], solved, 1e-7 * std::abs(solved)) << bits << " bits, " << i;
    }
    for (int i = 0; i < levels - 1; ++i) {
      const float solved = static_cast<float>(book.value().thresholds[i]);
      EXPECT_NEAR(Thresholds(bits)[i], solved, 1e-7 * std::abs(solved)) << bits << " bits, " << i;
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

// The optimality conditions and the distortion of the committed floats, integrated here by
// Simpson's rule: no line of the solver takes part.
TEST(Codebook, CommittedTableIsOptimal) {
  const double kDistortion[] = {0, 0, 0.117482, 0.034548, 0.009501};
  for (int bits = 2; bits <= 4; ++bits) {
    const int levels = 1 << bits;
    const float* c = Centroids(bits);
    for (int i = 0; i < levels; ++i) {
      const double lo = i == 0 ? -9.0 : 0.5 * (static_cast<double>(c[i - 1]) + c[i]);
      const double hi = i + 1 == levels ? 9.0 : 0.5 * (static_cast<double>(c[i]) + c[i + 1]);
      const double mass = testing::Integral(GaussDensity, lo, hi, 2000);
      const double first =
          testing::Integral([](double u) { return u * GaussDensity(u); }, lo, hi, 2000);
      EXPECT_NEAR(first / mass, c[i], 5e-7) << bits << " bits, centroid " << i;
      if (i + 1 < levels) {
        EXPECT_NEAR(Thresholds(bits)[i], hi, 2e-7);
      }
    }
    const double distortion = CodeExpectation(c, levels, GaussDensity,
                                              [](double u, double x) { return (u - x) * (u - x); });
    EXPECT_NEAR(distortion, kDistortion[bits], 1e-6) << bits << " bits";
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
