// The distortion of every codec of the family against theory, and that none is too good to be true.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "codec/codec.h"
#include "codec/product_codec.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"
#include "math/lloyd_max.h"
#include "math/uniform_quantizer.h"
#include "tests/codec/reference.h"
#include "tests/codec/theory.h"

namespace turboquant {
namespace {

using testing::ExpectedDistortion;
using testing::MomentsOf;

constexpr int kDims[] = {64, 80, 128, 256, 576};
constexpr int kValues = 1600000;  // of a cell, for codecs that run on the scalar truth
// Rows of a cell where there are kernels. They give the bytes and floats of the scalar truth
// (tests/kernels), only sooner.
constexpr int kKernelRows = 100000;

std::unique_ptr<Codec> Make(const std::string& spec, int d) {
  auto codec = Codec::Create(spec, d);
  EXPECT_TRUE(codec.ok()) << spec << ", d " << d << ": " << codec.status().message();
  return codec.ok() ? std::move(codec.value()) : nullptr;
}

// E |x - x~|^2 / |x|^2 over `rows` rows of N(0, 1), through bytes and back.
double MeasureRows(const Codec& codec, int rows) {
  constexpr int kBatch = 50;
  const int d = codec.head_dim();
  const RowCoder coder(codec, BestKernels());
  SplitMix64 random(77 + d);
  std::vector<float> x(static_cast<size_t>(kBatch) * d), decoded(x.size());
  std::vector<uint8_t> bytes(kBatch * codec.row_bytes());
  double sum = 0;
  for (int done = 0; done < rows; done += kBatch) {
    const int count = std::min(kBatch, rows - done);
    for (int i = 0; i < count * d; ++i) x[i] = static_cast<float>(random.Normal());
    EXPECT_EQ(coder.Encode(x.data(), count, bytes.data()), 0u);
    coder.Decode(bytes.data(), count, decoded.data());
    for (int j = 0; j < count; ++j) {
      double error = 0;
      double energy = 0;
      for (int i = j * d; i < (j + 1) * d; ++i) {
        const double v = x[i];
        error += (v - decoded[i]) * (v - decoded[i]);
        energy += v * v;
      }
      sum += error / energy;
    }
  }
  return sum / rows;
}

double Measure(const Codec& codec, int values = kValues) {
  return MeasureRows(codec, values / codec.head_dim());
}

double CheckShannon(const Codec& codec, double measured) {
  const std::string spec = codec.spec_text();
  const int d = codec.head_dim();
  EXPECT_GE(measured, std::pow(4.0, -codec.bits_per_value())) << spec << ", d " << d;
  ::testing::Test::RecordProperty(spec + " d=" + std::to_string(d), std::to_string(measured));
  return measured;
}

double MeasureAndCheckShannon(const std::string& spec, int d, int values = kValues) {
  const std::unique_ptr<Codec> codec = Make(spec, d);
  return codec == nullptr ? 0 : CheckShannon(*codec, Measure(*codec, values));
}

// 1e5 rows, on the kernels.
double MeasureManyRows(const std::string& spec, int d) {
  const std::unique_ptr<Codec> codec = Make(spec, d);
  if (codec == nullptr) return 0;
  EXPECT_TRUE(RowCoder(*codec, BestKernels()).accelerated()) << spec;
  return CheckShannon(*codec, MeasureRows(*codec, kKernelRows));
}

void ExpectWithin(double measured, double expected, double tolerance, const std::string& spec,
                  int d) {
  EXPECT_NEAR(measured / expected, 1, tolerance)
      << spec << ", d " << d << ": " << measured << ", expected " << expected;
}

class EveryDim : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Family, EveryDim, ::testing::ValuesIn(kDims), [](const auto& info) {
  return std::string("d").append(std::to_string(info.param));
});

TEST_P(EveryDim, ScalarCodecs) {
  const int d = GetParam();
  for (int bits : {1, 2, 3, 4, 8}) {
    const std::string spec = "turbo" + std::to_string(bits);
    // At 8 bits the fp16 scale is a part of the distortion: its relative error is uniform in
    // +-2^-12 to +-2^-11, of a mean square between 2^-24 / 3 and 2^-22 / 3.
    const double rounding = bits == 8 ? 0.004 : 0;
    ExpectWithin(MeasureManyRows(spec, d), ExpectedDistortion(bits, d), 0.01 + rounding, spec, d);
  }
}

TEST_P(EveryDim, EveryScaleRule) {
  const int d = GetParam();
  const struct {
    const char* name;
    ScaleRule rule;
  } kRules[] = {{"norm", ScaleRule::kNorm},
                {"matched", ScaleRule::kMatched},
                {"unbiased", ScaleRule::kUnbiased}};
  for (const auto& [name, rule] : kRules) {
    for (int bits : {2, 3, 4}) {
      const std::string spec = "turbo" + std::to_string(bits) + ":scale=" + name;
      ExpectWithin(MeasureAndCheckShannon(spec, d, kValues / 2), ExpectedDistortion(bits, d, rule),
                   0.01, spec, d);
    }
  }
}

TEST_P(EveryDim, HaarIsAsGoodAsHadamard) {
  const int d = GetParam();
  for (int bits : {2, 3, 4}) {
    const std::string spec = "turbo" + std::to_string(bits) + ":rotation=haar";
    ExpectWithin(MeasureAndCheckShannon(spec, d, kValues / 4), ExpectedDistortion(bits, d), 0.01,
                 spec, d);
  }
}

// The exact codebook, with the paper's scale, gives the Lloyd-Max distortion of the sphere's
// marginal; what it gains over the Gaussian table is what the integrals say.
TEST_P(EveryDim, BetaCodebooks) {
  const int d = GetParam();
  for (int bits : {1, 2, 3, 4}) {
    const std::string spec = "turbo" + std::to_string(bits) + ":scale=norm,codebook=beta";
    const auto book = SolveLloydMax(bits, d);
    ASSERT_TRUE(book.ok());
    ExpectWithin(MeasureAndCheckShannon(spec, d, kValues / 2), book.value().distortion, 0.01, spec,
                 d);
    const double gauss = ExpectedDistortion(bits, d, ScaleRule::kNorm);
    EXPECT_GT(gauss, book.value().distortion);
    EXPECT_LT(gauss, 1.006 * book.value().distortion);
  }
}

TEST_P(EveryDim, FractionalCodecs) {
  const int d = GetParam();
  for (int bits : {2, 3}) {
    const std::string spec = "turbo" + std::to_string(bits) + ".5";
    const double expected = ExpectedDistortion(
        {MomentsOf(Centroids(bits), 1 << bits, d), MomentsOf(Centroids(bits + 1), 2 << bits, d)}, d,
        ScaleRule::kLeastSquares);
    ExpectWithin(MeasureAndCheckShannon(spec, d), expected, 0.01, spec, d);
    ExpectWithin(expected, 0.5 * (ExpectedDistortion(bits, d) + ExpectedDistortion(bits + 1, d)),
                 0.01, spec, d);
    // Outlier channels on rows without outliers: each group as good as a row of its length, and
    // each holds its share of the energy.
    const std::string outlier = spec + ":split=outlier";
    const int first = std::max(16, d / 64 * 16);
    const double share = static_cast<double>(first) / d;
    ExpectWithin(MeasureAndCheckShannon(outlier, d),
                 share * ExpectedDistortion(bits + 1, first) +
                     (1 - share) * ExpectedDistortion(bits, d - first),
                 0.015, outlier, d);
  }
}

// With a trellis there is no integral. The figures are those of another program (Viterbi over rows
// with the least-squares scale, alphabets trained apart from ours); d = 80 and 576 lie between and
// beyond.
TEST_P(EveryDim, TrellisCodecs) {
  const int d = GetParam();
  const struct {
    const char* spec;
    double low, high;  // at d = 64 and in the limit
  } kKnown[] = {{"turbo2t", .0815, .0828}, {"turbo3t", .0230, .0234}, {"turbo4t", .0060, .0064}};
  for (const auto& [spec, low, high] : kKnown) {
    const double measured = MeasureManyRows(spec, d);
    EXPECT_GT(measured, 0.99 * low) << spec << ", d " << d;
    EXPECT_LT(measured, 1.01 * high) << spec << ", d " << d;
  }
}

TEST(FamilyDistortion, TrellisBoundsOfTheProject) {
  EXPECT_LE(MeasureManyRows("turbo2t", 128), .0830);
  EXPECT_LE(MeasureManyRows("turbo3t", 128), .0240);
  EXPECT_LE(MeasureManyRows("turbo4t", 128), .0067);
}

// More states never hurt: each doubling lowers the distortion.
TEST(FamilyDistortion, MoreStatesAreBetter) {
  for (int bits : {2, 3, 4}) {
    double previous = ExpectedDistortion(bits, 128);
    for (int states : {4, 16, 64, 256}) {
      const std::string spec =
          "turbo" + std::to_string(bits) + "t:states=" + std::to_string(states);
      const double measured = MeasureAndCheckShannon(spec, 128, kValues / 8);
      EXPECT_LT(measured, previous) << spec;
      previous = measured;
    }
  }
}

// The decoded row of a product codec has the variance of its estimator in every direction.
TEST_P(EveryDim, ProductCodecs) {
  const int d = GetParam();
  const double pi = 3.14159265358979323846;
  for (int bits : {2, 3, 4}) {
    const std::string spec = "turbo" + std::to_string(bits) + "q";
    const double codes = ExpectedDistortion(bits - 1, d);
    // |gamma k S^T sigma - r|^2 / |r|^2 is k^2 d - 1 in the mean, towards pi/2 - 1.
    const double factor = OrthogonalSignFactor(d);
    ExpectWithin(MeasureAndCheckShannon(spec, d, kValues / 2), (factor * factor * d - 1) * codes,
                 0.02, spec, d);
    const std::string gaussian = spec + ":projection=gaussian";
    ExpectWithin(MeasureAndCheckShannon(gaussian, d, kValues / 16), (pi / 2) * codes, 0.03,
                 gaussian, d);
  }
}

// Max 1960: .1188, .03744, .01154 with the norm as the scale.
TEST(FamilyDistortion, UniformCodecs) {
  EXPECT_NEAR(UniformDistortion(2, OptimalUniformStep(2)), .1188, 5e-5);
  EXPECT_NEAR(UniformDistortion(3, OptimalUniformStep(3)), .03744, 5e-6);
  EXPECT_NEAR(UniformDistortion(4, OptimalUniformStep(4)), .01154, 5e-6);
  for (int bits : {2, 3, 4}) {
    const std::string spec = "uniform" + std::to_string(bits);
    std::vector<float> levels;
    for (int i = 0; i < 1 << bits; ++i) {
      levels.push_back(
          static_cast<float>((i - 0.5 * ((1 << bits) - 1)) * OptimalUniformStep(bits)));
    }
    ExpectWithin(MeasureAndCheckShannon(spec, 128),
                 ExpectedDistortion({MomentsOf(levels.data(), 1 << bits, 128)}, 128,
                                    ScaleRule::kLeastSquares),
                 0.01, spec, 128);
  }
}

// Baselines: between Shannon and the Lloyd-Max codec of as many bits of code, which they exceed.
TEST(FamilyDistortion, GroupBaselines) {
  for (int d : {64, 128, 256}) {
    EXPECT_GT(MeasureAndCheckShannon("kivi2:group=32", d, kValues / 4), .1);
    EXPECT_LT(MeasureAndCheckShannon("kivi2:group=32", d, kValues / 4), .25);
    const double kivi4 = MeasureAndCheckShannon("kivi4:group=32", d, kValues / 4);
    EXPECT_NEAR(kivi4, .0064, .0008);  // ((max - min) / 15)^2 / 12, max - min = 4.14 +- 0.6
    EXPECT_NEAR(MeasureAndCheckShannon("q4_0", d, kValues / 4), .0076, .0012);
    EXPECT_NEAR(MeasureAndCheckShannon("nf4", d, kValues / 4), .0090, .0015);
    EXPECT_LT(MeasureAndCheckShannon("q8_0", d, kValues / 4), 4e-5);
    EXPECT_LT(MeasureAndCheckShannon("kivi8", d, kValues / 4), 4e-5);
    EXPECT_LT(MeasureAndCheckShannon("f16", d, kValues / 4), 1e-7);
  }
}

// More bits, less distortion, over the whole family; and the trellis below its scalar sibling.
TEST_P(EveryDim, MonotoneInBits) {
  const int d = GetParam();
  const std::vector<std::vector<std::string>> kLadders = {
      {"turbo1", "turbo2", "turbo2.5", "turbo3", "turbo3.5", "turbo4", "turbo8", "f16"},
      {"turbo2", "turbo2t", "turbo3", "turbo3t", "turbo4", "turbo4t"},
      {"turbo2q", "turbo3q", "turbo4q"},
      {"uniform2", "turbo2"},
      {"uniform3", "turbo3"},
      {"uniform2", "uniform3", "uniform4", "uniform8"},
      {"kivi2:group=16", "kivi3:group=16", "kivi4:group=16", "kivi8:group=16"}};
  for (const auto& ladder : kLadders) {
    double previous = 1;
    for (const std::string& spec : ladder) {
      const double measured = MeasureAndCheckShannon(spec, d, kValues / 16);
      EXPECT_LT(measured, previous) << spec << ", d " << d;
      previous = measured;
    }
  }
}

}  // namespace
}  // namespace turboquant
