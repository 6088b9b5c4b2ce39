// The trellis kernels of every table give the bytes and floats of the scalar truth.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/rng.h"
#include "codec/trellis_codec.h"
#include "guarded_buffer.h"
#include "kernel_cases.h"
#include "math/rotation.h"
#include "test_rows.h"

namespace turboquant {
namespace {

constexpr uint64_t kSeed = 20260611;

struct TrellisCase {
  const KernelTable* table;
  int bits;
  int memory;
};

std::vector<TrellisCase> TrellisCases() {
  std::vector<TrellisCase> cases;
  for (const KernelTable* table : AvailableTables()) {
    for (const int bits : {2, 3, 4}) {
      for (int m = kTrellisMinMemory; m <= kTrellisMaxMemory; ++m) {
        cases.push_back({table, bits, m});
      }
    }
  }
  return cases;
}

std::string TrellisName(const testing::TestParamInfo<TrellisCase>& info) {
  return std::string(info.param.table->name) + "_turbo" + std::to_string(info.param.bits) + "t_" +
         std::to_string(1 << info.param.memory);
}

class TrellisTest : public testing::TestWithParam<TrellisCase> {
 protected:
  // `rows` of all kinds in calls of `batch` rows, kinds from `first` on.
  void ExpectBytesOfTheTruth(int d, int rows, int batch, bool centred) {
    const auto [table, bits, memory] = GetParam();
    const TrellisView trellis = Trellis(bits, memory);
    const size_t row_bytes = static_cast<size_t>(bits * d / 8);
    const size_t many = static_cast<size_t>(batch);
    const size_t count = static_cast<size_t>(d);
    const Rotation rotation(d, kSeed + static_cast<uint64_t>(d));
    SplitMix64 random(kSeed * 7 + static_cast<uint64_t>(1000 * bits + d + batch));
    GuardedBuffer<float> x(many * count);
    GuardedBuffer<float> mean(count);
    GuardedBuffer<uint8_t> planes(many * row_bytes);
    GuardedBuffer<uint16_t> scales(many);
    GuardedBuffer<float> decoded(many * count);
    std::vector<uint8_t> want(row_bytes);
    std::vector<float> y(count);
    std::vector<TrellisScratch> scratch(1);
    for (size_t i = 0; i < count; ++i) mean[i] = static_cast<float>(random.Normal());
    int kind = 0;
    for (int done = 0; done < rows; done += batch) {
      for (size_t j = 0; j < many; ++j) {
        FillRow(kind++, rotation.view(), &random, x.data() + j * count);
      }
      std::memset(planes.data(), 0xCC, planes.size());
      const int invalid =
          table->encode_trellis(trellis, rotation.view(), x.data(), centred ? mean.data() : nullptr,
                                batch, planes.data(), scales.data());
      table->decode_trellis(trellis, d, planes.data(), scales.data(), batch, decoded.data());
      int want_invalid = 0;
      for (size_t j = 0; j < many; ++j) {
        for (size_t i = 0; i < count; ++i) {
          y[i] = centred ? x[j * count + i] - mean[i] : x[j * count + i];
        }
        Rotate(rotation.view(), y.data(), y.data());
        uint16_t want_scale = 0xBEEF;
        want_invalid += EncodeTrellisRow(trellis, ScaleRule::kLeastSquares, y.data(), d,
                                         scratch.data(), want.data(), &want_scale)
                            ? 0
                            : 1;
        ASSERT_EQ(scales[j], want_scale) << "d " << d << ", row " << done + static_cast<int>(j);
        ASSERT_EQ(std::memcmp(planes.data() + j * row_bytes, want.data(), row_bytes), 0)
            << "d " << d << ", row " << done + static_cast<int>(j);
        DecodeTrellisRow(trellis, want.data(), want_scale, d, y.data());
        ASSERT_EQ(std::memcmp(decoded.data() + j * count, y.data(), count * sizeof(float)), 0)
            << "d " << d << ", row " << done + static_cast<int>(j);
      }
      ASSERT_EQ(invalid, want_invalid) << "d " << d;
      ASSERT_TRUE(planes.front_intact() && scales.front_intact() && decoded.front_intact());
    }
  }
};

TEST_P(TrellisTest, BytesOfTheScalarTruth) {
  const int rows = RowsPerCase(64);
  for (const int d : TestHeadDims()) {
    ExpectBytesOfTheTruth(d, d > 256 ? rows / 2 : rows, 16, d % 32 == 0);
  }
}

// A call may have any number of rows; those that cannot be coded leave no gap.
TEST_P(TrellisTest, AnyNumberOfRows) {
  for (const int batch : {1, 2, 3, 5, 7}) ExpectBytesOfTheTruth(80, 6 * batch, batch, true);
}

// Bytes that no encoder wrote decode as the truth says.
TEST_P(TrellisTest, DecodesAnyBytes) {
  const auto [table, bits, memory] = GetParam();
  const TrellisView trellis = Trellis(bits, memory);
  SplitMix64 random(kSeed);
  for (const int d : TestHeadDims()) {
    constexpr int kRows = 5;
    const size_t row_bytes = static_cast<size_t>(bits * d / 8);
    const size_t count = static_cast<size_t>(d);
    GuardedBuffer<uint8_t> planes(kRows * row_bytes);
    GuardedBuffer<float> out(kRows * count);
    std::vector<uint16_t> scales(kRows);
    std::vector<float> want(count);
    for (size_t i = 0; i < planes.size(); ++i) planes[i] = static_cast<uint8_t>(random.Next());
    for (uint16_t& s : scales) s = static_cast<uint16_t>(random.Next() % 0x7C00);
    table->decode_trellis(trellis, d, planes.data(), scales.data(), kRows, out.data());
    for (size_t j = 0; j < kRows; ++j) {
      DecodeTrellisRow(trellis, planes.data() + j * row_bytes, scales[j], d, want.data());
      ASSERT_EQ(std::memcmp(want.data(), out.data() + j * count, count * sizeof(float)), 0) << d;
    }
    EXPECT_TRUE(out.front_intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, TrellisTest, testing::ValuesIn(TrellisCases()), TrellisName);

}  // namespace
}  // namespace turboquant
