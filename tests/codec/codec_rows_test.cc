// Rows of every codec: golden bytes, rows that cannot be coded, and what must hold for any row.
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/codec.h"
#include "codec/row_map.h"
#include "codec/scalar_codec.h"
#include "tests/codec/reference.h"

namespace turboquant {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::unique_ptr<Codec> Make(const std::string& spec, int d) {
  auto codec = Codec::Create(spec, d);
  EXPECT_TRUE(codec.ok()) << spec << ", d " << d << ": " << codec.status().message();
  return codec.ok() ? std::move(codec.value()) : nullptr;
}

// One of every kind of row, and options that take a path of their own.
std::vector<std::string> EverySpec() {
  std::vector<std::string> specs;
  for (const CodecEntry& entry : CodecRegistry()) specs.emplace_back(entry.name);
  for (const char* more :
       {"turbo3:rotation=haar", "turbo3:rotation=none", "turbo2:scale=norm", "turbo3:scale=matched",
        "turbo4:scale=unbiased", "turbo3:codebook=beta", "turbo3q:projection=gaussian",
        "turbo2.5:split=outlier", "turbo3.5:split=outlier,rotation=haar", "turbo3t:states=256"}) {
    specs.emplace_back(more);
  }
  return specs;
}

struct Coded {
  bool ok;
  std::vector<uint8_t> bytes;
};

Coded Encode(const Codec& codec, const std::vector<float>& x, uint8_t garbage = 0xEE) {
  Coded coded{false, std::vector<uint8_t>(codec.row_bytes(), garbage)};
  coded.ok = codec.Encode(x.data(), coded.bytes.data());
  return coded;
}

std::vector<float> Decode(const Codec& codec, const std::vector<uint8_t>& bytes) {
  std::vector<float> x(codec.head_dim(), kNan);
  codec.Decode(bytes.data(), x.data());
  return x;
}

// Provenance: golden_family.py, encoders in Python written from docs/FORMAT.md.
TEST(CodecRows, GoldenBytes) {
  const struct {
    const char* spec;
    int head_dim;
    const char* bytes;
  } kGolden[] = {
#include "tests/codec/golden_family.inc"
  };
  for (const auto& golden : kGolden) {
    const std::unique_ptr<Codec> codec = Make(golden.spec, golden.head_dim);
    ASSERT_NE(codec, nullptr);
    const Coded coded = Encode(*codec, testing::GoldenInput(golden.head_dim));
    EXPECT_TRUE(coded.ok);
    EXPECT_EQ(testing::Hex(coded.bytes), golden.bytes) << golden.spec << " " << golden.head_dim;
  }
}

TEST(CodecRows, EveryByteIsWrittenAndNoOther) {
  SplitMix64 random(1);
  for (const std::string& spec : EverySpec()) {
    const std::unique_ptr<Codec> codec = Make(spec, 64);
    const std::vector<float> x = testing::UnitRow(64, &random);
    EXPECT_EQ(Encode(*codec, x, 0x00).bytes, Encode(*codec, x, 0xFF).bytes) << spec;
    std::vector<uint8_t> wide(codec->row_bytes() + 32, 0xA5);
    codec->Encode(x.data(), wide.data() + 16);
    std::vector<float> decoded(64 + 32, 3.5f);
    codec->Decode(wide.data() + 16, decoded.data() + 16);
    for (size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(wide[i], 0xA5) << spec;
      EXPECT_EQ(wide[wide.size() - 1 - i], 0xA5) << spec;
      EXPECT_EQ(decoded[i], 3.5f) << spec;
      EXPECT_EQ(decoded[decoded.size() - 1 - i], 3.5f) << spec;
    }
  }
}

TEST(CodecRows, NotFiniteRowsBecomeZerosAndSaySo) {
  SplitMix64 random(2);
  for (const std::string& spec : EverySpec()) {
    const std::unique_ptr<Codec> codec = Make(spec, 64);
    for (const float bad : {kNan, INFINITY, -INFINITY, FLT_MAX}) {
      for (const int at : {0, 17, 63}) {
        std::vector<float> x = testing::UnitRow(64, &random);
        x[at] = bad;
        const Coded coded = Encode(*codec, x);
        EXPECT_FALSE(coded.ok) << spec << ", " << bad;
        EXPECT_EQ(coded.bytes, std::vector<uint8_t>(codec->row_bytes(), 0)) << spec << ", " << bad;
        EXPECT_EQ(Decode(*codec, coded.bytes), std::vector<float>(64, 0.0f)) << spec << ", " << bad;
      }
    }
  }
}

// A bad row in the middle of others changes none of them.
TEST(CodecRows, RowsAreIndependent) {
  SplitMix64 random(3);
  constexpr int kRows = 7;
  for (const std::string& spec : EverySpec()) {
    const std::unique_ptr<Codec> codec = Make(spec, 64);
    const size_t stride = codec->row_bytes();
    std::vector<std::vector<float>> x;
    for (int j = 0; j < kRows; ++j) x.push_back(testing::UnitRow(64, &random));
    std::vector<uint8_t> rows(kRows * stride);
    for (int j = 0; j < kRows; ++j) codec->Encode(x[j].data(), rows.data() + j * stride);
    x[3][5] = kNan;
    // Backwards, over the old bytes.
    std::vector<uint8_t> again = rows;
    for (int j = kRows - 1; j >= 0; --j) codec->Encode(x[j].data(), again.data() + j * stride);
    std::fill_n(rows.begin() + 3 * stride, stride, uint8_t{0});
    EXPECT_EQ(again, rows) << spec;
  }
}

TEST(CodecRows, RowsWithoutEnergyBecomeZeros) {
  for (const std::string& spec : EverySpec()) {
    const std::unique_ptr<Codec> codec = Make(spec, 64);
    for (const float tiny : {0.0f, -0.0f, FLT_TRUE_MIN, 1e-30f}) {
      const Coded coded = Encode(*codec, std::vector<float>(64, tiny));
      EXPECT_TRUE(coded.ok) << spec << ", " << tiny;
      EXPECT_EQ(coded.bytes, std::vector<uint8_t>(codec->row_bytes(), 0)) << spec << ", " << tiny;
      EXPECT_EQ(Decode(*codec, coded.bytes), std::vector<float>(64, 0.0f)) << spec << ", " << tiny;
    }
  }
}

// From 1e-18 to 1e18 everything stays finite; a scale fp16 cannot hold is clamped.
TEST(CodecRows, AnyMagnitudeStaysFinite) {
  SplitMix64 random(4);
  for (const std::string& spec : EverySpec()) {
    const std::unique_ptr<Codec> codec = Make(spec, 64);
    for (float magnitude = 1e-18f; magnitude < 2e18f; magnitude *= 10) {
      std::vector<float> x = testing::UnitRow(64, &random);
      for (float& v : x) v *= magnitude;
      const Coded coded = Encode(*codec, x);
      EXPECT_TRUE(coded.ok) << spec << ", " << magnitude;
      for (float v : Decode(*codec, coded.bytes)) ASSERT_TRUE(std::isfinite(v)) << spec;
    }
  }
}

// One nonzero channel, and one nonzero rotated coordinate.
TEST(CodecRows, OneHotRowsDecodeToTheirPlace) {
  for (const std::string& spec : EverySpec()) {
    const std::unique_ptr<Codec> codec = Make(spec, 64);
    if (codec->spec().rotation == RotationKind::kNone || codec->spec().entry->bits == 1) continue;
    for (const int at : {0, 31, 63}) {
      std::vector<float> x(64, 0.0f);
      x[at] = -2.5f;
      const std::vector<float> decoded = Decode(*codec, Encode(*codec, x).bytes);
      const auto largest = std::max_element(decoded.begin(), decoded.end(), [](float a, float b) {
        return std::abs(a) < std::abs(b);
      });
      EXPECT_EQ(largest - decoded.begin(), at) << spec;
      EXPECT_LT(*largest, 0.0f) << spec;
    }
  }
}

// A power of two times the row: the same codes, the scales times as much.
TEST(CodecRows, PowersOfTwoScaleTheScalesAlone) {
  SplitMix64 random(5);
  for (const std::string& spec : EverySpec()) {
    const std::unique_ptr<Codec> codec = Make(spec, 128);
    for (int trial = 0; trial < 5; ++trial) {
      std::vector<float> x = testing::UnitRow(128, &random);
      const std::vector<float> once = Decode(*codec, Encode(*codec, x).bytes);
      for (float& v : x) v *= 16.0f;
      const std::vector<float> large = Decode(*codec, Encode(*codec, x).bytes);
      // Of a unit row, fp16 holds zero points and scales below 2^-14 with fewer digits.
      const bool fine = codec->scales_per_row() <= 2 && codec->spec().entry->bits < 8;
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(large[i], 16 * once[i], fine ? 2e-6 : 2e-2) << spec << " " << i;
      }
    }
  }
}

// What each rule says the scale is, to the rounding of fp16.
TEST(CodecRows, NormOfTheDecodedRow) {
  SplitMix64 random(6);
  for (int d : {64, 80, 576}) {
    for (const char* name : {"turbo1", "turbo2", "turbo3", "turbo4", "turbo2.5", "turbo3t"}) {
      const std::vector<float> x = testing::UnitRow(d, &random);
      const auto decode = [&](const char* rule) {
        const std::unique_ptr<Codec> codec = Make(std::string(name) + ":scale=" + rule, d);
        return Decode(*codec, Encode(*codec, x).bytes);
      };
      const auto dot = [&](const std::vector<float>& y) {
        double sum = 0;
        for (int i = 0; i < d; ++i) sum += static_cast<double>(x[i]) * y[i];
        return sum;
      };
      constexpr double kHalf = 1.2e-3;  // fp16 and the sums
      const double energy = std::pow(testing::Norm(x), 2);
      EXPECT_NEAR(testing::Norm(decode("matched")), testing::Norm(x), kHalf) << name << " " << d;
      EXPECT_NEAR(dot(decode("unbiased")), energy, kHalf) << name << " " << d;
      const std::vector<float> ls = decode("ls");  // the error is orthogonal to what is decoded
      EXPECT_NEAR(dot(ls), std::pow(testing::Norm(ls), 2), kHalf) << name << " " << d;
    }
    const std::unique_ptr<Codec> norm = Make("turbo3:scale=norm", d);
    const std::vector<float> x = testing::UnitRow(d, &random);
    EXPECT_NEAR(HalfToFloat(LoadHalf(Encode(*norm, x).bytes.data())) * std::sqrt(d),
                testing::Norm(x), 1e-3);
  }
}

// The maps of every rotation are linear and orthogonal for every head_dim, without padding.
TEST(CodecRows, RotationsAreOrthogonalMaps) {
  SplitMix64 random(7);
  for (const RotationKind kind : {RotationKind::kHadamard, RotationKind::kHaar}) {
    for (int d : {80, 128, 576}) {
      const std::unique_ptr<RowMap> map = MakeRowMap(kind, d, 11);
      std::vector<int> channels(16);
      for (int i = 0; i < 16; ++i) channels[i] = 3 * i;
      const std::unique_ptr<RowMap> split = MakeSplitMap(kind, d, 11, channels);
      for (const RowMap* m : {map.get(), split.get()}) {
        const std::vector<float> a = testing::UnitRow(d, &random);
        const std::vector<float> b = testing::UnitRow(d, &random);
        std::vector<float> sum(d), ra(d), rb(d), rsum(d), back(d);
        for (int i = 0; i < d; ++i) sum[i] = 3 * a[i] - 0.5f * b[i];
        m->Forward(a.data(), ra.data(), ScalarRowOps());
        m->Forward(b.data(), rb.data(), ScalarRowOps());
        m->Forward(sum.data(), rsum.data(), ScalarRowOps());
        m->Backward(ra.data(), back.data(), ScalarRowOps());
        double before = 0, after = 0;
        for (int i = 0; i < d; ++i) {
          EXPECT_NEAR(rsum[i], 3 * ra[i] - 0.5f * rb[i], 2e-6) << d;
          EXPECT_NEAR(back[i], a[i], 1e-6) << d;
          before += static_cast<double>(a[i]) * b[i];
          after += static_cast<double>(ra[i]) * rb[i];
        }
        EXPECT_NEAR(testing::Norm(ra), testing::Norm(a), 1e-6) << d;
        EXPECT_NEAR(after, before, 1e-6) << d;
      }
    }
  }
}

// Without a rotation, the channels of a scalar codec may come in any order.
TEST(CodecRows, PermutedChannelsDecodePermuted) {
  SplitMix64 random(8);
  constexpr int kDim = 80;
  std::vector<int> order(kDim);
  for (int i = 0; i < kDim; ++i) order[i] = (37 * i + 11) % kDim;
  for (const char* name : {"turbo1", "turbo2", "turbo3", "turbo4", "turbo8", "uniform4"}) {
    const std::unique_ptr<Codec> codec = Make(std::string(name) + ":rotation=none", kDim);
    const std::vector<float> x = testing::UnitRow(kDim, &random);
    std::vector<float> permuted(kDim);
    for (int i = 0; i < kDim; ++i) permuted[i] = x[order[i]];
    const std::vector<float> plain = Decode(*codec, Encode(*codec, x).bytes);
    const std::vector<float> moved = Decode(*codec, Encode(*codec, permuted).bytes);
    // The sums come in another order, which may move the scale by a unit of fp16.
    for (int i = 0; i < kDim; ++i) {
      EXPECT_NEAR(moved[i], plain[order[i]], 1e-3 * std::abs(plain[order[i]])) << name;
    }
  }
}

// Seeds matter for every codec with a rotation, and for the projection.
TEST(CodecRows, TheSeedChangesTheBytes) {
  SplitMix64 random(9);
  const std::vector<float> x = testing::UnitRow(64, &random);
  for (const std::string& spec : EverySpec()) {
    const std::unique_ptr<Codec> codec = Make(spec, 64);
    if (codec->spec().rotation == RotationKind::kNone) continue;
    const std::string other = spec + (spec.find(':') == std::string::npos ? ":" : ",") + "seed=2";
    EXPECT_NE(Encode(*Make(other, 64), x).bytes, Encode(*codec, x).bytes) << spec;
  }
  EXPECT_NE(Encode(*Make("turbo3q:rotation=none,seed=2", 64), x).bytes,
            Encode(*Make("turbo3q:rotation=none", 64), x).bytes);
}

}  // namespace
}  // namespace turboquant
