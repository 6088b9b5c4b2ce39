// Half conversion, rotation, encode and decode: every table gives the bits of the scalar truth.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/scalar_codec.h"
#include "guarded_buffer.h"
#include "kernel_cases.h"
#include "math/rotation.h"
#include "test_rows.h"

namespace turboquant {
namespace {

constexpr uint64_t kSeed = 20250614;

bool SameBits(const float* a, const float* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

// ---- half precision ----

class HalfTest : public testing::TestWithParam<const KernelTable*> {
 protected:
  void ExpectHalves(const std::vector<float>& values) {
    std::vector<uint16_t> out(values.size());
    GetParam()->float_to_half(values.data(), out.data(), values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(out[i], FloatToHalf(values[i])) << std::hex << FloatBits(values[i]);
    }
  }
};

TEST_P(HalfTest, EveryHalfToFloat) {
  std::vector<uint16_t> in(65536);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i);
  std::vector<float> out(in.size());
  GetParam()->half_to_float(in.data(), out.data(), in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    ASSERT_EQ(FloatBits(out[i]), FloatBits(HalfToFloat(in[i]))) << i;
  }
}

TEST_P(HalfTest, FloatToHalfAroundEveryHalfAndMidpoint) {
  std::vector<float> values;
  for (uint32_t h = 0; h < 65536; ++h) {
    const uint32_t bits = FloatBits(HalfToFloat(static_cast<uint16_t>(h)));
    for (const uint32_t offset : {0u, 1u, 0xFFFu, 0x1000u, 0x1001u, 0x1FFFu}) {
      values.push_back(BitsToFloat(bits + offset));
      values.push_back(BitsToFloat(bits - offset));
    }
  }
  ExpectHalves(values);
}

TEST_P(HalfTest, FloatToHalfAcrossAllFloats) {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (1ull << 32); bits += 2003) {
    values.push_back(BitsToFloat(static_cast<uint32_t>(bits)));
  }
  ExpectHalves(values);
}

TEST_P(HalfTest, EveryLengthStaysInside) {
  for (size_t n = 0; n <= 70; ++n) {
    GuardedBuffer<uint16_t> halves(n);
    GuardedBuffer<float> floats(n);
    GuardedBuffer<uint16_t> back(n);
    for (size_t i = 0; i < n; ++i) halves[i] = static_cast<uint16_t>(0x3000 + 17 * i);
    GetParam()->half_to_float(halves.data(), floats.data(), n);
    GetParam()->float_to_half(floats.data(), back.data(), n);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(back[i], halves[i]) << n;
    EXPECT_TRUE(floats.front_intact() && back.front_intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, HalfTest, testing::ValuesIn(AvailableTables()), TableName);

// ---- rotation ----

class RotateTest : public testing::TestWithParam<KernelCase> {};

TEST_P(RotateTest, BitExactAlsoInPlace) {
  const int d = GetParam().head_dim;
  const size_t count = static_cast<size_t>(d);
  const KernelTable& table = *GetParam().table;
  const Rotation rotation(d, kSeed + d);
  const RotationView view = rotation.view();
  SplitMix64 random(kSeed);
  GuardedBuffer<float> x(count);
  GuardedBuffer<float> y(count);
  std::vector<float> want(count);
  for (int round = 0; round < 300; ++round) {
    const float magnitude = std::pow(10.0f, static_cast<float>(random.Uniform() * 60 - 30));
    for (size_t i = 0; i < count; ++i) {
      x[i] = round % 3 == 0 ? static_cast<float>(random.Next() % 5) - 2.0f  // ties and zeros
                            : magnitude * static_cast<float>(random.Normal());
    }
    Rotate(view, x.data(), want.data());
    table.rotate(view, x.data(), y.data());
    ASSERT_TRUE(SameBits(want.data(), y.data(), count)) << "rotate, round " << round;
    Unrotate(view, y.data(), want.data());
    table.unrotate(view, y.data(), x.data());
    ASSERT_TRUE(SameBits(want.data(), x.data(), count)) << "unrotate, round " << round;
    table.unrotate(view, y.data(), y.data());
    ASSERT_TRUE(SameBits(want.data(), y.data(), count)) << "unrotate in place, round " << round;
    Rotate(view, y.data(), want.data());
    table.rotate(view, y.data(), y.data());
    ASSERT_TRUE(SameBits(want.data(), y.data(), count)) << "rotate in place, round " << round;
    ASSERT_TRUE(x.front_intact() && y.front_intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, RotateTest, testing::ValuesIn(DenseCases()), CaseName);

// ---- encode and decode ----

class EncodeTest : public testing::TestWithParam<KernelCase> {};

TEST_P(EncodeTest, BytesOfTheScalarTruth) {
  const auto [table, bits, d] = GetParam();
  const size_t count = static_cast<size_t>(d);
  const size_t code_bytes = static_cast<size_t>(bits * d / 8);
  const Rotation rotation(d, kSeed + d);
  const RotationView view = rotation.view();
  SplitMix64 random(kSeed * 31 + static_cast<uint64_t>(bits * 1000 + d));
  GuardedBuffer<float> x(count);
  GuardedBuffer<float> mean(count);
  GuardedBuffer<uint8_t> codes(code_bytes);
  GuardedBuffer<float> decoded(count);
  std::vector<float> y(count);
  std::vector<uint8_t> want(code_bytes);
  for (size_t i = 0; i < count; ++i) mean[i] = static_cast<float>(random.Normal());
  int stored_as_zero = 0;
  const int rows = RowsPerCase(900);
  for (int row = 0; row < rows; ++row) {
    FillRow(row, view, &random, x.data());
    const bool centred = random.Next() % 2 == 0;
    for (size_t i = 0; i < count; ++i) y[i] = centred ? x[i] - mean[i] : x[i];
    Rotate(view, y.data(), y.data());
    uint16_t want_scale = 0xBEEF;
    const bool want_ok = EncodeRotatedRow(bits, y.data(), d, want.data(), &want_scale);
    std::memset(codes.data(), 0xCC, code_bytes);
    uint16_t scale = 0xBEEF;
    const bool ok =
        table->encode(bits, view, x.data(), centred ? mean.data() : nullptr, codes.data(), &scale);
    ASSERT_EQ(ok, want_ok) << "row " << row;
    ASSERT_EQ(scale, want_scale) << "row " << row;
    ASSERT_EQ(std::memcmp(codes.data(), want.data(), code_bytes), 0) << "row " << row;
    ASSERT_TRUE(codes.front_intact());
    stored_as_zero += scale == 0 ? 1 : 0;

    DecodeRotatedRow(bits, want.data(), want_scale, d, y.data());
    const CodedRows coded = {bits, d, codes.data(), &scale};
    table->decode(coded, 1, decoded.data());
    ASSERT_TRUE(SameBits(y.data(), decoded.data(), count)) << "row " << row;
  }
  EXPECT_GT(stored_as_zero, 0);
  EXPECT_LT(stored_as_zero, rows * 3 / 4);
}

TEST_P(EncodeTest, DecodesManyRows) {
  const auto [table, bits, d] = GetParam();
  const size_t code_bytes = static_cast<size_t>(bits * d / 8);
  SplitMix64 random(kSeed);
  for (const size_t n : {0, 1, 2, 37}) {
    GuardedBuffer<uint8_t> codes(n * code_bytes);
    GuardedBuffer<uint16_t> scales(n);
    GuardedBuffer<float> out(n * static_cast<size_t>(d));
    std::vector<float> want(static_cast<size_t>(d));
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(random.Next());
    for (size_t j = 0; j < n; ++j) scales[j] = static_cast<uint16_t>(random.Next() % 0x7C00);
    table->decode({bits, d, codes.data(), scales.data()}, static_cast<int>(n), out.data());
    for (size_t j = 0; j < n; ++j) {
      DecodeRotatedRow(bits, codes.data() + j * code_bytes, scales[j], d, want.data());
      ASSERT_TRUE(SameBits(want.data(), out.data() + j * want.size(), want.size())) << j;
    }
    EXPECT_TRUE(out.front_intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, EncodeTest, testing::ValuesIn(CodecCases()), CaseName);

}  // namespace
}  // namespace turboquant
