// Broken decoders of every codec: each moves the distortion by more than the bounds of
// codec_distortion_test.cc allow. What those bounds would not catch is no test.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/codec.h"
#include "codec/scalar_codec.h"
#include "tests/codec/reference.h"

namespace turboquant {
namespace {

constexpr int kDim = 128;
constexpr int kRows = 400;

// Damage to the bytes of a row before decoding, or to the decoded row.
struct Mutant {
  const char* name;
  void (*bytes)(const Codec& codec, uint8_t* row);
  void (*decoded)(float* x);
};

size_t ScaleBytes(const Codec& codec) {
  return codec.spec().entry->family == CodecFamily::kProduct ? 4 : 2;
}

constexpr Mutant kMutants[] = {
    {"zero decoder", nullptr, [](float* x) { std::fill_n(x, kDim, 0.0f); }},
    {"missing sign", nullptr,
     [](float* x) {
       for (int i = 0; i < kDim; ++i) x[i] = std::abs(x[i]);
     }},
    {"swapped nibbles",
     [](const Codec& codec, uint8_t* row) {
       for (size_t i = ScaleBytes(codec); i < codec.row_bytes(); ++i) {
         row[i] = static_cast<uint8_t>(row[i] << 4 | row[i] >> 4);
       }
     },
     nullptr},
    {"wrong scale",
     [](const Codec&, uint8_t* row) {
       StoreHalf(FloatToHalf(1.15f * HalfToFloat(LoadHalf(row))), row);
     },
     nullptr},
    {"codes one byte late",
     [](const Codec& codec, uint8_t* row) {
       std::rotate(row + ScaleBytes(codec), row + codec.row_bytes() - 1, row + codec.row_bytes());
     },
     nullptr},
    {"codes lost",
     [](const Codec& codec, uint8_t* row) {
       std::fill_n(row + ScaleBytes(codec), codec.row_bytes() - ScaleBytes(codec), uint8_t{0});
     },
     nullptr},
    {"one code bit stuck",
     [](const Codec& codec, uint8_t* row) {
       for (size_t i = ScaleBytes(codec); i < codec.row_bytes(); ++i) row[i] &= 0x7F;
     },
     nullptr},
};

double Distortion(const Codec& codec, const Mutant* mutant) {
  SplitMix64 random(12);
  std::vector<uint8_t> row(codec.row_bytes());
  std::vector<float> decoded(kDim);
  double sum = 0;
  for (int n = 0; n < kRows; ++n) {
    const std::vector<float> x = testing::UnitRow(kDim, &random);
    EXPECT_TRUE(codec.Encode(x.data(), row.data()));
    if (mutant != nullptr && mutant->bytes != nullptr) mutant->bytes(codec, row.data());
    codec.Decode(row.data(), decoded.data());
    if (mutant != nullptr && mutant->decoded != nullptr) mutant->decoded(decoded.data());
    for (int i = 0; i < kDim; ++i) {
      sum += std::pow(static_cast<double>(x[i]) - decoded[i], 2) / kRows;
    }
  }
  return sum;
}

TEST(CodecMutation, EveryMutantOfEveryCodecIsCaught) {
  for (const char* name : {"turbo1", "turbo2", "turbo3", "turbo4", "turbo8", "turbo2t", "turbo3t",
                           "turbo4t", "turbo2.5", "turbo3.5", "turbo2q", "turbo3q", "turbo4q"}) {
    const auto codec = Codec::Create(name, kDim);
    ASSERT_TRUE(codec.ok());
    const double sound = Distortion(*codec.value(), nullptr);
    for (const Mutant& mutant : kMutants) {
      const double broken = Distortion(*codec.value(), &mutant);
      // The same rows both times: no sampling error to allow for beside the bound of one percent
      // (two for the product form).
      EXPECT_GT(std::abs(broken / sound - 1), 0.025)
          << name << ", " << mutant.name << ": " << broken << " against " << sound;
    }
  }
}

}  // namespace
}  // namespace turboquant
