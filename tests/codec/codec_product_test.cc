// Inner products: variance, bias and slope of every estimator against theory, and that the bounds
// catch broken ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/codec.h"
#include "codec/product_codec.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"
#include "tests/codec/reference.h"
#include "tests/codec/theory.h"

namespace turboquant {
namespace {

using testing::ExpectedDistortion;

constexpr double kPi = 3.14159265358979323846;

std::unique_ptr<Codec> Make(const std::string& spec, int d) {
  auto codec = Codec::Create(spec, d);
  EXPECT_TRUE(codec.ok()) << spec << ": " << codec.status().message();
  return codec.ok() ? std::move(codec.value()) : nullptr;
}

struct Estimates {
  double variance;  // d E (estimate - truth)^2 over independent unit rows and queries
  double slope;     // of the estimate over the truth, queries that share direction with the row
};

// Damage done to a row's bytes and to a prepared query before the estimate.
using Damage = std::function<void(uint8_t* row, float* prepared)>;

Estimates MeasureEstimates(const Codec& codec, int rows, const Damage& damage = nullptr) {
  const int d = codec.head_dim();
  const RowOps ops = RowCoder(codec, BestKernels()).ops();
  SplitMix64 random(500 + d);
  std::vector<uint8_t> row(codec.row_bytes());
  std::vector<float> prepared(codec.query_size());
  double squares = 0, cross = 0, energy = 0;
  for (int n = 0; n < rows; ++n) {
    const std::vector<float> x = testing::UnitRow(d, &random);
    EXPECT_TRUE(codec.Encode(x.data(), row.data(), ops));
    for (bool aligned : {false, true}) {
      std::vector<float> q = testing::UnitRow(d, &random);
      if (aligned) {
        for (int i = 0; i < d; ++i) q[i] = q[i] + x[i];
      }
      codec.PrepareQuery(q.data(), prepared.data(), ops);
      if (damage && !aligned) damage(row.data(), prepared.data());
      if (damage && aligned) {
        std::vector<uint8_t> unused = row;  // the row is damaged already
        damage(unused.data(), prepared.data());
      }
      const double estimate = codec.InnerProduct(prepared.data(), row.data(), ops);
      double truth = 0;
      for (int i = 0; i < d; ++i) truth += static_cast<double>(q[i]) * x[i];
      if (aligned) {
        cross += estimate * truth;
        energy += truth * truth;
      } else {
        squares += (estimate - truth) * (estimate - truth);
      }
    }
  }
  return {d * squares / rows, cross / energy};
}

class EveryDim : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Product, EveryDim, ::testing::Values(64, 80, 128, 256, 576),
                         [](const auto& info) {
                           return std::string("d").append(std::to_string(info.param));
                         });

// d times the variance: D(b) of a plain codec, (pi/2 - 1) D(b - 1) with an orthogonal projection,
// (pi/2) D(b - 1) with a Gaussian one; slope 1 where the codec says unbiased, 1 - D where it fits
// least squares.
TEST_P(EveryDim, VarianceAndSlope) {
  const int d = GetParam();
  const int rows = std::max(3000, 1000000 / d);
  const int dense_rows = std::max(4000, 400000 / d);
  for (int bits : {2, 3, 4}) {
    const std::string name = "turbo" + std::to_string(bits);
    const double codes = ExpectedDistortion(bits - 1, d);
    const struct {
      std::string spec;
      double variance, slope;
      int rows;
    } kCases[] = {
        {name, ExpectedDistortion(bits, d), 1 - ExpectedDistortion(bits, d), rows},
        {name + ":scale=unbiased", ExpectedDistortion(bits, d, ScaleRule::kUnbiased), 1, rows},
        {name + "q", (kPi / 2 - 1) * codes, 1, rows},
        {name + "q:projection=gaussian", (kPi / 2) * codes, 1, d > 256 ? 2000 : dense_rows},
    };
    for (const auto& c : kCases) {
      // A fixed Gaussian S has rows of length sqrt(d) (1 +- 1 / sqrt(2 d)) and a slope off by their
      // mean; it is unbiased over S.
      const int seeds = c.spec.find("gaussian") != std::string::npos && d <= 256 ? 10 : 1;
      Estimates measured{0, 0};
      for (int seed = 1; seed <= seeds; ++seed) {
        CodecSpec spec = ParseCodecSpec(c.spec).value();
        spec.seed = static_cast<uint64_t>(seed);
        const std::unique_ptr<Codec> codec = Make(CodecSpecText(spec), d);
        ASSERT_NE(codec, nullptr);
        EXPECT_EQ(codec->unbiased(), c.slope == 1) << c.spec;
        const Estimates one = MeasureEstimates(*codec, c.rows / seeds);
        measured.variance += one.variance / seeds;
        measured.slope += one.slope / seeds;
      }
      RecordProperty(c.spec, std::to_string(measured.variance));
      // Five standard errors of a variance from n samples where n is small.
      const double tolerance = std::max(0.06, 5 * std::sqrt(2.0 / c.rows));
      EXPECT_NEAR(measured.variance / c.variance, 1, tolerance) << c.spec << ", d " << d;
      EXPECT_NEAR(measured.slope, c.slope, 0.005) << c.spec << ", d " << d;
    }
  }
}

// One row and one query, far from isotropic, over many rotations: the mean of the estimates is the
// inner product for the unbiased codecs, and visibly is not for the others.
TEST(Product, UnbiasedForAFixedRow) {
  constexpr int kDim = 64;
  constexpr int kSeeds = 1200;
  std::vector<float> x(kDim), q(kDim);
  double truth = 0;
  for (int i = 0; i < kDim; ++i) {
    x[i] = (i == 5 ? 9.0f : 1.0f) * static_cast<float>((37 * i + 11) % 101 - 50) / 16.0f;
    q[i] = x[i] + static_cast<float>((53 * i + 7) % 97 - 48) / 8.0f;
    truth += static_cast<double>(x[i]) * q[i];
  }
  const auto off = [&](const std::string& options) {
    double sum = 0, squares = 0;
    for (int seed = 0; seed < kSeeds; ++seed) {
      const std::unique_ptr<Codec> codec = Make(options + ",seed=" + std::to_string(seed), kDim);
      std::vector<uint8_t> row(codec->row_bytes());
      EXPECT_TRUE(codec->Encode(x.data(), row.data()));
      float estimate;
      codec->InnerProducts(q.data(), row.data(), 1, &estimate);
      sum += estimate - truth;
      squares += (estimate - truth) * (estimate - truth);
    }
    const double mean = sum / kSeeds;
    return mean / std::sqrt((squares / kSeeds - mean * mean) / kSeeds);  // standard errors
  };
  for (const char* unbiased :
       {"turbo2:rotation=haar,scale=unbiased", "turbo2q:rotation=haar", "turbo3q:rotation=haar",
        "turbo2q:rotation=haar,projection=gaussian", "turbo2t:rotation=haar,scale=unbiased",
        "turbo2.5:rotation=haar,scale=unbiased", "turbo2q:rotation=wht"}) {
    EXPECT_LT(std::abs(off(unbiased)), 4.5) << unbiased;
  }
  EXPECT_LT(off("turbo2:rotation=haar"), -20);
  EXPECT_LT(off("turbo1:rotation=haar,scale=norm"), -20);
}

// The estimate is linear in the query and equals the inner product with the decoded row.
TEST(Product, EstimateIsTheInnerProductWithTheDecodedRow) {
  for (const CodecEntry& entry : CodecRegistry()) {
    for (int d : {64, 128, 192, 576}) {
      const std::unique_ptr<Codec> codec = Make(std::string(entry.name), d);
      ASSERT_NE(codec, nullptr);
      SplitMix64 random(d);
      constexpr int kRows = 5;
      std::vector<uint8_t> rows(kRows * codec->row_bytes());
      std::vector<float> decoded(kRows * static_cast<size_t>(d));
      for (int j = 0; j < kRows; ++j) {
        const std::vector<float> x = testing::UnitRow(d, &random);
        ASSERT_TRUE(codec->Encode(x.data(), rows.data() + j * codec->row_bytes()));
        codec->Decode(rows.data() + j * codec->row_bytes(), decoded.data() + j * d);
      }
      const std::vector<float> q = testing::UnitRow(d, &random);
      float estimates[kRows];
      codec->InnerProducts(q.data(), rows.data(), kRows, estimates);
      for (int j = 0; j < kRows; ++j) {
        double expected = 0;
        for (int i = 0; i < d; ++i) expected += static_cast<double>(q[i]) * decoded[j * d + i];
        EXPECT_NEAR(estimates[j], expected, 3e-6) << entry.name << ", d " << d;
      }
    }
  }
}

TEST(Product, SignFactorsAreTheirIntegrals) {
  for (int d : {16, 64, 128, 576, 1024}) {
    // E|u_1| of the unit sphere, from the marginal of sqrt(d) u_1.
    const double mean =
        2 *
        testing::Integral([d](double u) { return u * testing::SphereDensity(u, d); }, 0,
                          std::min(14.0, std::sqrt(static_cast<double>(d))), 20000) /
        std::sqrt(static_cast<double>(d));
    EXPECT_NEAR(OrthogonalSignFactor(d) * d * mean, 1, 1e-5) << d;
    EXPECT_NEAR(OrthogonalSignFactor(d) / std::sqrt(kPi / (2 * d)), 1 - 0.25 / d,
                0.04 / (d * d) + 1e-6)
        << d;
    EXPECT_NEAR(GaussianSignFactor(d), std::sqrt(kPi / 2) / d, 1e-8);
  }
}

// Every one of these leaves the bounds of VarianceAndSlope at d = 128, turbo3q.
TEST(Product, BoundsCatchBrokenEstimators) {
  constexpr int kDim = 128;
  const std::unique_ptr<Codec> codec = Make("turbo3q", kDim);
  const size_t signs = 4 + 2 * kDim / 8;
  const auto scale_half = [](uint8_t* at, float factor) {
    StoreHalf(FloatToHalf(HalfToFloat(LoadHalf(at)) * factor), at);
  };
  const struct {
    const char* name;
    Damage damage;
  } kMutants[] = {
      {"no residual", [](uint8_t* row, float*) { StoreHalf(0, row + 2); }},
      {"signs lost", [&](uint8_t* row, float*) { std::fill_n(row + signs, kDim / 8, 0xFF); }},
      {"signs flipped",
       [&](uint8_t* row, float*) {
         for (int j = 0; j < kDim / 8; ++j) row[signs + j] ^= 0xFF;
       }},
      {"signs in another order",
       [&](uint8_t* row, float*) { std::reverse(row + signs, row + signs + kDim / 8); }},
      {"query not projected",
       [&](uint8_t*, float* prepared) { std::copy_n(prepared, kDim, prepared + kDim); }},
      {"residual norm sqrt(2) too large",
       [&](uint8_t* row, float*) { scale_half(row + 2, 1.41421356f); }},
      {"Gaussian factor",
       [&](uint8_t* row, float*) {
         scale_half(row + 2, GaussianSignFactor(kDim) / OrthogonalSignFactor(kDim));
       }},
      {"scale 2 % too large", [&](uint8_t* row, float*) { scale_half(row, 1.02f); }},
      {"scales swapped", [](uint8_t* row, float*) { std::swap_ranges(row, row + 2, row + 2); }},
      {"zeros", [&](uint8_t* row, float*) { std::fill_n(row, 4, 0); }},
  };
  const double expected = (kPi / 2 - 1) * ExpectedDistortion(2, kDim);
  for (const auto& [name, damage] : kMutants) {
    const Estimates measured = MeasureEstimates(*codec, 3000, damage);
    const bool caught = std::abs(measured.variance / expected - 1) > 0.06 + 0.07 ||
                        std::abs(measured.slope - 1) > 0.005 + 0.002;
    EXPECT_TRUE(caught) << name << ": variance " << measured.variance << " of " << expected
                        << ", slope " << measured.slope;
  }
}

}  // namespace
}  // namespace turboquant
