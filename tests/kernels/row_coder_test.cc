// The steps of which codecs are made, and whole codecs made of them: every table gives the bits of
// the scalar truth.
#include "kernels/row_coder.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "codec/codec.h"
#include "codec/scalar_codec.h"
#include "guarded_buffer.h"
#include "kernel_cases.h"
#include "math/lloyd_max.h"
#include "test_rows.h"

namespace turboquant {
namespace {

constexpr uint64_t kSeed = 20260811;

bool SameBits(const float* a, const float* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

class StepsTest : public testing::TestWithParam<const KernelTable*> {};

TEST_P(StepsTest, MeasureAndDot) {
  const KernelTable& table = *GetParam();
  SplitMix64 random(kSeed);
  for (const int n : TestHeadDims()) {
    const Rotation rotation(n, kSeed);
    GuardedBuffer<float> a(static_cast<size_t>(n));
    GuardedBuffer<float> b(static_cast<size_t>(n));
    for (int kind = 0; kind < 160; ++kind) {
      FillRow(kind, rotation.view(), &random, a.data());
      FillRow(kind + 1, rotation.view(), &random, b.data());
      const RowEnergy want = MeasureRow(a.data(), n);
      const RowEnergy got = table.measure(a.data(), n);
      ASSERT_EQ(got.kind, want.kind) << n << " " << kind;
      ASSERT_TRUE(SameBits(&got.energy, &want.energy, 1)) << n << " " << kind;
      ASSERT_TRUE(SameBits(&got.inverse_rms, &want.inverse_rms, 1)) << n << " " << kind;
      const float product = Dot16(a.data(), b.data(), n);
      const float mine = table.dot(a.data(), b.data(), n);
      // Of NaNs only that they are.
      const bool nan = product != product;
      ASSERT_TRUE(nan ? mine != mine : SameBits(&mine, &product, 1)) << n << " " << kind;
    }
  }
}

// Codebooks of any numbers, not only those of the tables, and sums that go on from where they are.
TEST_P(StepsTest, QuantizeAndDequantize) {
  const KernelTable& table = *GetParam();
  SplitMix64 random(kSeed + 1);
  for (const int bits : {1, 2, 3, 4, 8}) {
    const auto solved = SolveLloydMax(bits, 48);
    ASSERT_TRUE(solved.ok());
    GuardedBuffer<float> centroids(solved.value().centroids.size());
    GuardedBuffer<float> thresholds(solved.value().thresholds.size());
    for (size_t i = 0; i < centroids.size(); ++i) {
      centroids[i] = static_cast<float>(solved.value().centroids[i]);
      if (i > 0) thresholds[i - 1] = static_cast<float>(solved.value().thresholds[i - 1]);
    }
    const CodebookView book = {bits, centroids.data(), thresholds.data()};
    for (const int n : {16, 32, 48, 80, 128, 144, 576, 1024}) {
      const size_t code_bytes = static_cast<size_t>(bits * n / 8);
      GuardedBuffer<float> y(static_cast<size_t>(n));
      GuardedBuffer<float> out(static_cast<size_t>(n));
      GuardedBuffer<uint8_t> codes(code_bytes);
      std::vector<uint8_t> want_codes(code_bytes);
      std::vector<float> want(static_cast<size_t>(n));
      for (int round = 0; round < 40; ++round) {
        for (int i = 0; i < n; ++i) {
          // Thresholds themselves among them.
          const auto draw = static_cast<float>(2 * random.Normal());
          y[i] = random.Next() % 8 == 0 ? thresholds[random.Next() % thresholds.size()] : draw;
        }
        const float inverse = round % 2 == 0 ? 1.0f : static_cast<float>(1 + random.Uniform());
        float sums[2][32];
        for (int i = 0; i < 32; ++i) sums[0][i] = sums[1][i] = static_cast<float>(i % 5);
        std::fill(want_codes.begin(), want_codes.end(), uint8_t{0});
        std::memset(codes.data(), 0, code_bytes);
        QuantizeValues(book, y.data(), n, 0, inverse, want_codes.data(), sums[0], sums[0] + 16);
        table.quantize(book, y.data(), n, inverse, codes.data(), sums[1], sums[1] + 16);
        ASSERT_EQ(std::memcmp(codes.data(), want_codes.data(), code_bytes), 0) << bits << " " << n;
        ASSERT_TRUE(SameBits(sums[0], sums[1], 32)) << bits << " " << n;
        DequantizeValues(book, codes.data(), inverse, n, want.data());
        table.dequantize(book, codes.data(), inverse, n, out.data());
        ASSERT_TRUE(SameBits(want.data(), out.data(), want.size())) << bits << " " << n;
        ASSERT_TRUE(codes.front_intact() && out.front_intact());
      }
    }
  }
}

// Every codec of the registry and every option, rows of all kinds: the bytes, the refusals, the
// rows back and the inner products of Codec.
TEST_P(StepsTest, RowCoderIsTheCodec) {
  std::vector<std::string> specs = {"turbo3:scale=norm",
                                    "turbo2:scale=matched,seed=9",
                                    "turbo4:scale=unbiased",
                                    "turbo3:codebook=beta",
                                    "turbo8:codebook=beta,scale=unbiased",
                                    "turbo2:rotation=haar",
                                    "turbo3t:rotation=haar",
                                    "turbo3t:scale=unbiased",
                                    "turbo2t:states=4,scale=norm",
                                    "turbo4t:states=256,scale=matched",
                                    "turbo3q:projection=gaussian",
                                    "turbo4q:codebook=beta,scale=norm",
                                    "turbo2.5:split=outlier",
                                    "turbo3.5:split=outlier,channels=0-15+32-47",
                                    "turbo2.5:codebook=beta,scale=unbiased",
                                    "uniform4:rotation=wht"};
  for (const CodecEntry& entry : CodecRegistry()) specs.emplace_back(entry.name);
  constexpr size_t kRows = 37;
  for (const std::string& spec : specs) {
    for (const int d : {64, 80, 128}) {
      if (d == 80 && !Codec::Create(spec, d).ok()) continue;  // groups that do not divide it
      const auto codec = Codec::Create(spec, d);
      ASSERT_TRUE(codec.ok()) << spec << ": " << codec.status().message();
      const Codec& truth = *codec.value();
      const RowCoder coder(truth, *GetParam());
      const size_t stride = truth.row_bytes();
      const auto count = static_cast<size_t>(d);
      const Rotation rotation(d, 1);
      SplitMix64 random(kSeed + 2);
      std::vector<float> x(kRows * count), want(count), back(kRows * count);
      std::vector<uint8_t> rows(kRows * stride, 0xA5), want_row(stride), valid(kRows, 7);
      for (size_t j = 0; j < kRows; ++j) {
        FillRow(static_cast<int>(j), rotation.view(), &random, &x[j * count]);
      }
      const size_t invalid = coder.Encode(x.data(), kRows, rows.data(), valid.data());
      coder.Decode(rows.data(), kRows, back.data());
      size_t refused = 0;
      for (size_t j = 0; j < kRows; ++j) {
        const bool ok = truth.Encode(&x[j * count], want_row.data());
        refused += ok ? 0 : 1;
        ASSERT_EQ(valid[j], ok ? 1 : 0) << spec << ", d " << d << ", row " << j;
        ASSERT_EQ(std::memcmp(&rows[j * stride], want_row.data(), stride), 0)
            << spec << ", d " << d << ", row " << j;
        truth.Decode(want_row.data(), want.data());
        ASSERT_TRUE(SameBits(want.data(), &back[j * count], count))
            << spec << ", d " << d << ", row " << j;
      }
      ASSERT_EQ(invalid, refused) << spec << ", d " << d;
      ASSERT_GT(refused, 0u);
      std::vector<float> scores(kRows), want_scores(kRows), query(count);
      for (float& q : query) q = static_cast<float>(random.Normal());
      coder.InnerProducts(query.data(), rows.data(), kRows, scores.data());
      truth.InnerProducts(query.data(), rows.data(), kRows, want_scores.data());
      ASSERT_TRUE(SameBits(scores.data(), want_scores.data(), kRows)) << spec << ", d " << d;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, StepsTest, testing::ValuesIn(AvailableTables()), TableName);

}  // namespace
}  // namespace turboquant
