// The theory that validation compares with, against integrals that share no line with it.
#include "eval/codec_theory.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/rng.h"
#include "math/lloyd_max.h"
#include "tests/codec/reference.h"
#include "tests/codec/theory.h"

namespace turboquant {
namespace {

constexpr double kPi = 3.14159265358979323846;

double Of(const std::string& spec, int d) {
  return ExpectedDistortion(ParseCodecSpec(spec).value(), d).value();
}

TEST(CodecTheory, ScalarCodecsAreTheIntegralsOfTheTests) {
  const struct {
    const char* option;
    ScaleRule rule;
  } kRules[] = {{"", ScaleRule::kLeastSquares},
                {":scale=norm", ScaleRule::kNorm},
                {":scale=matched", ScaleRule::kMatched},
                {":scale=unbiased", ScaleRule::kUnbiased}};
  for (int d : {64, 80, 128, 576}) {
    for (int bits : {1, 2, 3, 4}) {
      for (const auto& [option, rule] : kRules) {
        const std::string spec = "turbo" + std::to_string(bits) + option;
        EXPECT_NEAR(Of(spec, d) / testing::ExpectedDistortion(bits, d, rule), 1, 1e-5)
            << spec << ", d " << d;
      }
    }
  }
}

TEST(CodecTheory, KnownValues) {
  // The least scale rule is no worse than any other, unbiasedness costs most.
  for (int d : {64, 128, 256}) {
    EXPECT_LT(Of("turbo3", d), Of("turbo3:scale=matched", d));
    EXPECT_LT(Of("turbo3", d), Of("turbo3:scale=norm", d));
    EXPECT_LT(Of("turbo3:scale=norm", d), Of("turbo3:scale=unbiased", d));
  }
  // Exact codebook and norm: the solver's own distortion.
  EXPECT_NEAR(Of("turbo3:scale=norm,codebook=beta", 64), SolveLloydMax(3, 64).value().distortion,
              1e-8);
  EXPECT_NEAR(Of("uniform3:scale=norm", 1024), 0.03744, 2e-4);  // Max 1960
  EXPECT_NEAR(Of("turbo2.5", 128), 0.5 * (Of("turbo2", 128) + Of("turbo3", 128)), 6e-4);
  EXPECT_NEAR(Of("turbo3q", 128), (kPi / 2 - 1) * Of("turbo2", 128), 0.015 * Of("turbo3q", 128));
  EXPECT_NEAR(Of("turbo3q:projection=gaussian", 128), kPi / 2 * Of("turbo2", 128), 1e-12);
  EXPECT_FALSE(ExpectedDistortion(DefaultCodecSpec("turbo3t"), 128).has_value());
  EXPECT_FALSE(ExpectedDistortion(DefaultCodecSpec("q4_0"), 128).has_value());
  EXPECT_EQ(ShannonDistortion(3), 1.0 / 64);
  EXPECT_NEAR(kPanterDite, std::sqrt(3.0) * kPi / 2, 1e-15);
}

// Signs of an orthogonal and a Gaussian projection, simulated with matrices of this test's own.
TEST(CodecTheory, ProjectionVarianceBySimulation) {
  constexpr int d = 16;
  constexpr int kTrials = 40000;
  for (double cosine : {0.0, 0.8}) {
    const double sine = std::sqrt(1 - cosine * cosine);
    SplitMix64 random(6);
    double gaussian_squares = 0, orthogonal_sum = 0, orthogonal_squares = 0;
    for (int trial = 0; trial < kTrials; ++trial) {
      // For a Gaussian S, the pair (S r, S q) in each coordinate is a correlated normal pair.
      double estimate = 0;
      for (int i = 0; i < d; ++i) {
        const double a = random.Normal();
        const double b = cosine * a + sine * random.Normal();
        estimate += std::sqrt(kPi / 2) / d * (a > 0 ? b : -b);
      }
      gaussian_squares += std::pow(estimate - cosine, 2);
      // For an orthogonal S, S r and the part of S q across it are a random orthonormal pair.
      const auto u = testing::UnitRow(d, &random);
      auto w = testing::UnitRow(d, &random);
      double dot = 0, norm = 0;
      for (int i = 0; i < d; ++i) dot += static_cast<double>(u[i]) * w[i];
      for (int i = 0; i < d; ++i) w[i] -= static_cast<float>(dot * u[i]);
      for (int i = 0; i < d; ++i) norm += static_cast<double>(w[i]) * w[i];
      estimate = 0;
      for (int i = 0; i < d; ++i) {
        const double q = cosine * u[i] + sine * w[i] / std::sqrt(norm);
        estimate += u[i] > 0 ? q : -q;
      }
      orthogonal_sum += estimate;
      orthogonal_squares += estimate * estimate;
    }
    EXPECT_NEAR(gaussian_squares / kTrials /
                    ExpectedProjectionVariance(ProjectionKind::kGaussian, d, cosine),
                1, 0.03)
        << cosine;
    // The estimator is the signed sum times k = cosine / E of it; at cosine 0 take E|u|_1.
    const double mean_norm =
        d * std::exp(std::lgamma(0.5 * d) - std::lgamma(0.5 * (d + 1))) / std::sqrt(kPi);
    const double mean = orthogonal_sum / kTrials;
    const double variance = (orthogonal_squares / kTrials - mean * mean) / (mean_norm * mean_norm);
    EXPECT_NEAR(variance / ExpectedProjectionVariance(ProjectionKind::kOrthogonal, d, cosine), 1,
                0.04)
        << cosine;
  }
}

}  // namespace
}  // namespace turboquant
