// Scores and weighted sums against double, within the bound of any order of float additions, and
// inside their buffers: every array ends at an unreadable page.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/codebook.h"
#include "guarded_buffer.h"
#include "kernel_cases.h"
#include "kernels/format_rows.h"
#include "kernels/tile_layout.h"

namespace turboquant {
namespace {

constexpr int kMaxRows = 17;
constexpr int kMaxTokens = 130;
constexpr float kUntouched = -12345.0f;

// (rows, n) pairs: every n for a few row counts, every row count for a few n.
std::vector<std::pair<int, int>> Shapes() {
  std::vector<std::pair<int, int>> shapes;
  for (const int rows : {1, 3, 8, 13}) {
    for (int n = 0; n <= kMaxTokens; ++n) shapes.emplace_back(rows, n);
  }
  for (const int n : {1, 8, 17, 33, 130}) {
    for (int rows = 1; rows <= kMaxRows; ++rows) shapes.emplace_back(rows, n);
  }
  return shapes;
}

// |computed - exact| of a sum of `terms` products, each product of up to three rounded factors:
// (terms + 4) u sum |products|, u = 2^-24, doubled for the second-order part; and what underflow
// can lose.
double SumBound(int terms, double absolute_sum) {
  return 2.0 * (terms + 4) * 0x1.0p-24 * absolute_sum + terms * 0x1.0p-126;
}

// Tokens as rows of doubles: x[n][d] for dense rows, scale * centroid for coded ones.
struct Problem {
  int d;
  std::vector<double> x;
  std::vector<float> q;        // [kMaxRows][d]
  std::vector<float> weights;  // [kMaxRows][kMaxTokens]
};

Problem MakeProblem(int d, SplitMix64* random) {
  Problem problem;
  problem.d = d;
  problem.q.resize(static_cast<size_t>(kMaxRows) * d);
  for (float& v : problem.q) v = static_cast<float>(random->Normal());
  problem.weights.resize(static_cast<size_t>(kMaxRows) * kMaxTokens);
  for (float& v : problem.weights) v = static_cast<float>(random->Uniform());
  // Tokens 32..63 weigh nothing, tokens 96..111 for row 0 alone: groups that a kernel may and may
  // not skip.
  for (int r = 0; r < kMaxRows; ++r) {
    for (int j = 0; j < kMaxTokens; ++j) {
      if (j / 32 == 1 || (j / 16 == 6 && r > 0)) {
        problem.weights[static_cast<size_t>(r) * kMaxTokens + j] = 0;
      }
    }
  }
  return problem;
}

// Of integer kernels, in the terms of kernel_api.h.
struct Rounding {
  std::vector<double> scales;  // of the tokens
  int lane;                    // where token 0 lies in its tile
  double largest;              // centroid
  double step;                 // centroids are rounded to multiples of it; 0: not rounded
  double weight_steps;         // of the largest weight of 128 cells
  bool words;                  // the sum of what meets in one integer is limited to 132000 steps
};

// What meets in one integer of a kernel on words, at most: a half of values [first, first + 256).
double LargestSum(const float* x, int count) {
  double largest = 0;
  for (int first = 0; first < count; first += 256) {
    double sum[2] = {0, 0};
    for (int i = first; i < std::min(count, first + 256); ++i) sum[i / 2 % 2] += std::fabs(x[i]);
    largest = std::max({largest, sum[0], sum[1]});
  }
  return largest;
}

// Half a step of the query; centroids off by half a step of theirs; and, on bytes, the product of
// two low ones (64 at most of the query's 16256, of the centroid's step and of a token's scale).
double QueryRounding(const Problem& problem, const Rounding& rounding, int row, int token) {
  double peak = 0;
  double absolute = 0;
  double queries = 0;
  for (int i = 0; i < problem.d; ++i) {
    const double q = std::fabs(problem.q[static_cast<size_t>(row) * problem.d + i]);
    peak = std::max(peak, q);
    queries += q;
    absolute += std::fabs(problem.x[static_cast<size_t>(token) * problem.d + i]);
  }
  const double centroid = rounding.step * rounding.scales[static_cast<size_t>(token)];
  double step = peak / 16256;
  if (rounding.words) {
    const float* q = &problem.q[static_cast<size_t>(row) * problem.d];
    step = std::max(step, LargestSum(q, problem.d) / 132000);
  }
  const double low_bytes = rounding.words ? 0 : problem.d * 64 * 64 * step * centroid;
  return 1.001 * (step / 2 * absolute + queries * centroid / 2 + low_bytes);
}

template <typename Kernel>
void CheckScores(const Problem& problem, const Rounding* rounding, const Kernel& kernel) {
  const int d = problem.d;
  std::vector<double> want(static_cast<size_t>(kMaxRows) * kMaxTokens);
  std::vector<double> bound(want.size());
  for (int r = 0; r < kMaxRows; ++r) {
    for (int j = 0; j < kMaxTokens; ++j) {
      double sum = 0;
      double absolute = 0;
      for (int i = 0; i < d; ++i) {
        const double product =
            problem.q[static_cast<size_t>(r) * d + i] * problem.x[static_cast<size_t>(j) * d + i];
        sum += product;
        absolute += std::fabs(product);
      }
      want[static_cast<size_t>(r) * kMaxTokens + j] = sum;
      bound[static_cast<size_t>(r) * kMaxTokens + j] =
          SumBound(d, absolute) +
          (rounding != nullptr ? QueryRounding(problem, *rounding, r, j) : 0);
    }
  }
  for (const auto& [rows, n] : Shapes()) {
    const int ld = n + 3;
    GuardedBuffer<float> q(static_cast<size_t>(rows) * d);
    std::copy_n(problem.q.data(), q.size(), q.data());
    // The last row of out ends with its last token: nothing may be written behind it.
    GuardedBuffer<float> out(static_cast<size_t>(rows - 1) * ld + n);
    std::fill_n(out.data(), out.size(), kUntouched);
    kernel(q.data(), rows, n, out.data(), ld);
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < n; ++j) {
        const size_t at = static_cast<size_t>(r) * kMaxTokens + j;
        ASSERT_NEAR(out[static_cast<size_t>(r) * ld + j], want[at], bound[at])
            << "rows " << rows << " n " << n << " at " << r << ", " << j;
      }
      for (int j = n; j < ld && r + 1 < rows; ++j) {
        ASSERT_EQ(out[static_cast<size_t>(r) * ld + j], kUntouched);
      }
    }
    ASSERT_TRUE(out.front_intact());
  }
}

// Half a step of the weights in each block of 128 cells, for every cell at the largest centroid;
// centroids off by half a step of theirs; and, on bytes, the product of two low ones.
double WeightRounding(const Problem& problem, const Rounding& rounding, int row, int n) {
  std::vector<double> peak(static_cast<size_t>(kMaxTokens / 128 + 2));
  std::vector<std::array<double, 2>> halves(peak.size());
  std::vector<int> cells(peak.size());
  for (int j = 0; j < n; ++j) {
    const auto block = static_cast<size_t>((j + rounding.lane) / 128);
    const double weight = problem.weights[static_cast<size_t>(row) * kMaxTokens + j] *
                          rounding.scales[static_cast<size_t>(j)];
    peak[block] = std::max(peak[block], weight);
    halves[block][static_cast<size_t>((j + rounding.lane) / 2 % 2)] += weight;
    ++cells[block];
  }
  double sum = 0;
  for (size_t b = 0; b < peak.size(); ++b) {
    const double largest = peak[b] * cells[b] * 1.01;
    double step = largest / rounding.weight_steps;
    if (rounding.words) {
      step = std::max(step, std::max(halves[b][0], halves[b][1]) / 132000 * cells[b] * 1.01);
    }
    const double low_bytes = rounding.words ? 0 : step * 255 * 64 * rounding.step;
    sum += step / 2 * rounding.largest + largest * rounding.step / 2 + low_bytes;
  }
  return sum;
}

template <typename Kernel>
void CheckAccumulate(const Problem& problem, const Rounding* rounding, const Kernel& kernel) {
  const int d = problem.d;
  const size_t width = static_cast<size_t>(d);
  // Sums over the first n tokens, for every n.
  std::vector<std::vector<double>> want(kMaxTokens + 1);
  std::vector<std::vector<double>> absolute(kMaxTokens + 1);
  want[0].resize(kMaxRows * width);
  for (size_t i = 0; i < want[0].size(); ++i) want[0][i] = problem.q[i];
  absolute[0] = want[0];
  for (double& v : absolute[0]) v = std::fabs(v);
  for (int j = 0; j < kMaxTokens; ++j) {
    want[j + 1] = want[j];
    absolute[j + 1] = absolute[j];
    for (int r = 0; r < kMaxRows; ++r) {
      const double weight = problem.weights[static_cast<size_t>(r) * kMaxTokens + j];
      for (size_t i = 0; i < width; ++i) {
        const double product = weight * problem.x[j * width + i];
        want[j + 1][r * width + i] += product;
        absolute[j + 1][r * width + i] += std::fabs(product);
      }
    }
  }
  for (const auto& [rows, n] : Shapes()) {
    const int ld = n + 5;
    GuardedBuffer<float> p(static_cast<size_t>(rows - 1) * ld + n);
    std::fill_n(p.data(), p.size(), std::nanf(""));  // what lies between the rows is not read
    for (int r = 0; r < rows; ++r) {
      std::copy_n(problem.weights.data() + static_cast<size_t>(r) * kMaxTokens, n,
                  p.data() + static_cast<size_t>(r) * ld);
    }
    GuardedBuffer<float> o(rows * width);
    std::copy_n(problem.q.data(), o.size(), o.data());
    kernel(p.data(), ld, rows, n, o.data());
    double rounded = 0;
    for (size_t i = 0; i < o.size(); ++i) {
      if (rounding != nullptr && i % width == 0) {
        rounded = WeightRounding(problem, *rounding, static_cast<int>(i / width), n);
      }
      ASSERT_NEAR(o[i], want[n][i], SumBound(n + 8, absolute[n][i]) + rounded)
          << "rows " << rows << " n " << n << " at " << i / width << ", " << i % width;
    }
    ASSERT_TRUE(o.front_intact());
  }
}

// ---- coded ----

struct CodedCase {
  const KernelTable* table;
  Format format;
  int head_dim;
};

std::vector<CodedCase> CodedCases() {
  std::vector<CodedCase> cases;
  for (const KernelTable* table : AvailableTables()) {
    for (const Format format : kFormats) {
      if (!IsCoded(format)) continue;
      for (const int d : TestHeadDims()) cases.push_back({table, format, d});
    }
  }
  return cases;
}

std::string CodedName(const testing::TestParamInfo<CodedCase>& info) {
  return std::string(info.param.table->name) + "_" + std::string(FormatName(info.param.format)) +
         "_d" + std::to_string(info.param.head_dim);
}

class CodedAttentionTest : public testing::TestWithParam<CodedCase> {
 protected:
  CodedAttentionTest()
      : code_bytes_(CodeBytes(GetParam().format, GetParam().head_dim)),
        random_(7),
        problem_(MakeProblem(GetParam().head_dim, &random_)),
        codes_(kMaxTokens * code_bytes_),
        scales_(kMaxTokens) {
    const auto [table, format, d] = GetParam();
    for (uint8_t& byte : codes_) byte = static_cast<uint8_t>(random_.Next());
    for (size_t j = 0; j < scales_.size(); ++j) {
      scales_[j] = FloatToHalf(static_cast<float>(std::exp(random_.Normal())));
    }
    scales_[3] = 0;
    scales_[4] = 1;  // subnormal
    scales_[5] = 0x7BFF;
    std::vector<float> row(static_cast<size_t>(d));
    for (size_t j = 0; j < kMaxTokens; ++j) {
      // The scale is applied in double: DecodeRotatedRow would round.
      const uint16_t one = 0x3C00;
      DecodeFormatRows(ScalarKernels(), format, d, codes_.data() + j * code_bytes_, &one, 1,
                       row.data());
      for (const float c : row) {
        problem_.x.push_back(static_cast<double>(c) * HalfToFloat(scales_[j]));
      }
    }
  }

  // The first n coded rows as cells first ... of tiles that end at the end of their pages. Every
  // other cell holds what must not be seen.
  template <typename Use>
  void WithTiles(TileForm form, int first, int n, const Use& use) {
    const int cells = static_cast<int>(TilesBytes(1, first + n));
    GuardedBuffer<uint8_t> codes(TilesBytes(code_bytes_, cells));
    GuardedBuffer<uint16_t> scales(static_cast<size_t>(cells));
    std::fill_n(codes.data(), codes.size(), uint8_t{0xA5});
    std::fill_n(scales.data(), scales.size(), uint16_t{0x7E00});  // NaN
    for (int j = 0; j < n; ++j) {
      StoreTileRow(form, code_bytes_, first + j, codes_.data() + j * code_bytes_, codes.data());
      scales[static_cast<size_t>(first + j)] = scales_[static_cast<size_t>(j)];
    }
    use(CodedTiles{GetParam().format, GetParam().head_dim, codes.data(), scales.data(), first,
                   form});
  }

  bool rounds() const {
    return GetParam().table->name != "scalar" && GetParam().table->name != "neon";
  }
  Rounding RoundingFrom(int first) const {
    const bool wide = GetParam().format == Format::kTurbo8;
    const double largest = wide ? Centroids(8)[255] : 2.8;
    const std::string_view table = GetParam().table->name;
    const bool widest = table.starts_with("avx512");
    Rounding rounding = {{},
                         first % kTileCells,
                         largest,
                         wide ? largest / 16256 : 0.0,
                         widest ? 65024.0 : 32512.0,
                         wide && table.starts_with("avx") && !widest};
    for (const uint16_t s : scales_) rounding.scales.push_back(HalfToFloat(s));
    return rounding;
  }

  void CheckScoresOf(TileForm form, int first) {
    const KernelTable& table = *GetParam().table;
    const int d = problem_.d;
    const Rounding rounding = RoundingFrom(first);
    CheckScores(
        problem_, rounds() ? &rounding : nullptr,
        [&](const float* q, int rows, int n, float* out, int ld) {
          std::vector<uint8_t> bytes(static_cast<size_t>(rows) * PreparedQueryBytes(d) + 64);
          auto* prepared = reinterpret_cast<uint8_t*>(
              (reinterpret_cast<uintptr_t>(bytes.data()) + 63) & ~uintptr_t{63});
          table.prepare_queries(q, d, rows, prepared);
          WithTiles(form, first, n, [&](const CodedTiles& k) {
            table.coded_scores(k, prepared, rows, n, out, ld);
          });
        });
  }

  void CheckAccumulateOf(TileForm form, int first) {
    const KernelTable& table = *GetParam().table;
    const Rounding rounding = RoundingFrom(first);
    CheckAccumulate(problem_, rounds() ? &rounding : nullptr,
                    [&](const float* p, int ld, int rows, int n, float* o) {
                      WithTiles(form, first, n, [&](const CodedTiles& v) {
                        table.coded_accumulate(v, p, ld, rows, n, o);
                      });
                    });
  }

  size_t code_bytes_;
  SplitMix64 random_;
  Problem problem_;
  std::vector<uint8_t> codes_;
  std::vector<uint16_t> scales_;
};

TEST_P(CodedAttentionTest, Scores) { CheckScoresOf(TileForm::kKeys, 0); }
TEST_P(CodedAttentionTest, ScoresFromInsideATile) { CheckScoresOf(TileForm::kKeys, 21); }
TEST_P(CodedAttentionTest, ScoresOfValueTiles) { CheckScoresOf(TileForm::kValues, 3); }
TEST_P(CodedAttentionTest, Accumulate) { CheckAccumulateOf(TileForm::kValues, 0); }
TEST_P(CodedAttentionTest, AccumulateFromInsideATile) { CheckAccumulateOf(TileForm::kValues, 21); }
TEST_P(CodedAttentionTest, AccumulateKeyTiles) { CheckAccumulateOf(TileForm::kKeys, 3); }

INSTANTIATE_TEST_SUITE_P(Tables, CodedAttentionTest, testing::ValuesIn(CodedCases()), CodedName);

// The matrix unit makes the sums of the vector unit: the same integers, rounded in the same steps.
TEST(MatrixUnit, GivesTheBitsOfTheVectorUnit) {
  const KernelTable* tiles = Avx512AmxKernels();
  if (tiles == nullptr) GTEST_SKIP() << "no AMX here";
  const KernelTable& vectors = *Avx512Kernels();
  constexpr int kCells = 300;
  SplitMix64 random(33);
  for (const Format format : kFormats) {
    if (!IsCoded(format)) continue;
    for (const int d : TestHeadDims()) {
      std::vector<uint8_t> codes(TilesBytes(CodeBytes(format, d), kCells + kTileCells));
      for (uint8_t& byte : codes) byte = static_cast<uint8_t>(random.Next());
      std::vector<uint16_t> scales(kCells + kTileCells);
      for (uint16_t& s : scales) {
        s = FloatToHalf(static_cast<float>(std::exp(random.Normal())));
      }
      for (const int rows : {1, 5, 8, 9, 21}) {
        std::vector<float> q(static_cast<size_t>(rows) * d);
        for (float& x : q) x = static_cast<float>(random.Normal());
        GuardedBuffer<uint8_t> prepared(rows * PreparedQueryBytes(d));
        vectors.prepare_queries(q.data(), d, rows, prepared.data());
        for (const auto& [first, n] : {std::pair(0, 128), std::pair(5, 70), std::pair(13, 290)}) {
          const size_t size = static_cast<size_t>(rows) * n;
          std::vector<float> out(size);
          std::vector<float> same(size);
          const CodedTiles keys = {format, d, codes.data(), scales.data(), first, TileForm::kKeys};
          vectors.coded_scores(keys, prepared.data(), rows, n, out.data(), n);
          tiles->coded_scores(keys, prepared.data(), rows, n, same.data(), n);
          ASSERT_EQ(out, same) << FormatName(format) << " d " << d << " rows " << rows << " n "
                               << n;
          for (float& w : out)
            w = random.Uniform() < 0.3 ? 0 : static_cast<float>(random.Uniform());
          std::vector<float> sum = q;
          std::vector<float> same_sum = q;
          const CodedTiles values = {format,        d,     codes.data(),
                                     scales.data(), first, TileForm::kValues};
          vectors.coded_accumulate(values, out.data(), n, rows, n, sum.data());
          tiles->coded_accumulate(values, out.data(), n, rows, n, same_sum.data());
          ASSERT_EQ(sum, same_sum)
              << FormatName(format) << " d " << d << " rows " << rows << " n " << n;
        }
      }
    }
  }
}

#ifdef TURBOQUANT_AMX
// Hosts set the shapes of their tiles once a thread and rely on them.
TEST(MatrixUnit, LeavesTheTilesOfTheHostAsTheyAre) {
  const KernelTable* table = Avx512AmxKernels();
  if (table == nullptr) GTEST_SKIP() << "no AMX here";
  constexpr int kDim = 64;
  constexpr int kCells = 128;
  constexpr int kRows = 8;
  GuardedBuffer<uint8_t> prepared(kRows * PreparedQueryBytes(kDim));
  const std::vector<float> q(kRows * kDim, 1.0f);
  table->prepare_queries(q.data(), kDim, kRows, prepared.data());
  const std::vector<uint8_t> codes(TilesBytes(CodeBytes(Format::kTurbo4, kDim), kCells));
  const std::vector<uint16_t> scales(kCells, 0x3C00);
  std::vector<float> s(kRows * kCells, 1.0f);
  std::vector<float> o(kRows * kDim);
  const auto use = [&] {
    table->coded_scores({Format::kTurbo4, kDim, codes.data(), scales.data(), 0, TileForm::kKeys},
                        prepared.data(), kRows, kCells, s.data(), kCells);
    table->coded_accumulate(
        {Format::kTurbo4, kDim, codes.data(), scales.data(), 0, TileForm::kValues}, s.data(),
        kCells, kRows, kCells, o.data());
  };
  alignas(64) uint8_t before[64] = {};
  alignas(64) uint8_t after[64];
  use();
  asm volatile("sttilecfg %0" : "=m"(after));
  EXPECT_EQ(std::memcmp(before, after, 64), 0) << "tiles are left behind";
  before[0] = 1;  // palette; tile 0: 3 rows of 20 bytes
  before[16] = 20;
  before[48] = 3;
  asm volatile("ldtilecfg %0" : : "m"(before));
  use();
  asm volatile("sttilecfg %0" : "=m"(after));
  asm volatile("tilerelease");
  EXPECT_EQ(std::memcmp(before, after, 64), 0);
}
#endif  // TURBOQUANT_AMX

// Every number of cells up to several blocks, from tiles that end at the end of their pages. Scores
// do not depend on it; sums are differences of those over the first cells. A cell too much or too
// few moves some value by far more than the bound. Not of the scalar table, which has no blocks.
class LengthTest : public testing::TestWithParam<CodedCase> {};

TEST_P(LengthTest, EveryNumberOfCells) {
  constexpr int kMost = 4096;
  constexpr int kQueryRows = 2;
  const auto [table, format, d] = GetParam();
  const size_t code_bytes = CodeBytes(format, d);
  SplitMix64 random(21);
  GuardedBuffer<uint8_t> keys(TilesBytes(code_bytes, kMost));
  GuardedBuffer<uint8_t> values(TilesBytes(code_bytes, kMost));
  GuardedBuffer<uint16_t> scales(kMost);
  std::fill_n(scales.data(), kMost, uint16_t{0x3C00});  // 1
  std::vector<double> prefix(static_cast<size_t>(kMost + 1) * d);
  std::vector<uint8_t> row(code_bytes);
  std::vector<float> decoded(static_cast<size_t>(d));
  for (int j = 0; j < kMost; ++j) {
    for (uint8_t& byte : row) byte = static_cast<uint8_t>(random.Next());
    StoreTileRow(TileForm::kKeys, code_bytes, j, row.data(), keys.data());
    StoreTileRow(TileForm::kValues, code_bytes, j, row.data(), values.data());
    DecodeFormatRows(ScalarKernels(), format, d, row.data(), scales.data(), 1, decoded.data());
    const double* before = &prefix[static_cast<size_t>(j) * d];
    for (int i = 0; i < d; ++i) prefix[static_cast<size_t>(j + 1) * d + i] = before[i] + decoded[i];
  }
  std::vector<float> q(static_cast<size_t>(kQueryRows) * d);
  for (float& x : q) x = static_cast<float>(random.Normal());
  GuardedBuffer<uint8_t> prepared(kQueryRows * PreparedQueryBytes(d));
  table->prepare_queries(q.data(), d, kQueryRows, prepared.data());
  const auto tiles = [&](const GuardedBuffer<uint8_t>& codes, int cell, TileForm form) {
    return CodedTiles{
        format, d,   codes.data() + static_cast<size_t>(cell) * code_bytes, scales.data() + cell,
        0,      form};
  };
  std::vector<float> all(static_cast<size_t>(kQueryRows) * kMost);
  table->coded_scores(tiles(keys, 0, TileForm::kKeys), prepared.data(), kQueryRows, kMost,
                      all.data(), kMost);
  for (int n = 0; n <= kMost; ++n) {
    const int cell = kMost - static_cast<int>(TilesBytes(1, n));
    const auto length = static_cast<size_t>(n);
    GuardedBuffer<float> out(kQueryRows * length);
    table->coded_scores(tiles(keys, cell, TileForm::kKeys), prepared.data(), kQueryRows, n,
                        out.data(), n);
    for (int r = 0; r < kQueryRows; ++r) {
      const float* want = &all[static_cast<size_t>(r) * kMost + cell];
      ASSERT_TRUE(std::equal(want, want + n, out.data() + r * length)) << "n " << n;
    }
    GuardedBuffer<float> p(length);
    std::fill_n(p.data(), n, 1.0f);
    std::vector<float> o(static_cast<size_t>(d));
    table->coded_accumulate(tiles(values, cell, TileForm::kValues), p.data(), n, 1, n, o.data());
    for (int i = 0; i < d; ++i) {
      const double sum =
          prefix[static_cast<size_t>(cell + n) * d + i] - prefix[static_cast<size_t>(cell) * d + i];
      ASSERT_NEAR(o[i], sum, 0.05) << "n " << n << " at " << i;
    }
    ASSERT_TRUE(out.front_intact() && p.front_intact());
  }
}

// Every product has the same sign and is as large as it can be: what could leave the integers does.
class ExtremeTest : public testing::TestWithParam<CodedCase> {};

TEST_P(ExtremeTest, AllAtOnce) {
  constexpr int kCells = 256;
  constexpr int kQueryRows = 4;
  const auto [table, format, d] = GetParam();
  const size_t code_bytes = CodeBytes(format, d);
  const std::vector<uint8_t> codes(TilesBytes(code_bytes, kCells), 0xFF);
  const std::vector<uint16_t> scales(kCells, uint16_t{0x3C00});  // 1
  std::vector<float> row(static_cast<size_t>(d));
  DecodeFormatRows(ScalarKernels(), format, d, codes.data(), scales.data(), 1, row.data());
  std::vector<float> q(static_cast<size_t>(kQueryRows) * d);
  double largest = 0;
  for (size_t i = 0; i < q.size(); ++i) {
    q[i] = row[i % row.size()] < 0 ? -1.0f : 1.0f;
    if (i < row.size()) largest += std::fabs(row[i]);
  }
  GuardedBuffer<uint8_t> prepared(kQueryRows * PreparedQueryBytes(d));
  table->prepare_queries(q.data(), d, kQueryRows, prepared.data());
  std::vector<float> out(static_cast<size_t>(kQueryRows) * kCells);
  const CodedTiles k{format, d, codes.data(), scales.data(), 0, TileForm::kKeys};
  table->coded_scores(k, prepared.data(), kQueryRows, kCells, out.data(), kCells);
  for (const float score : out) ASSERT_NEAR(score, largest, 3e-4 * largest);
  const std::vector<float> p(out.size(), 1.0f);
  std::vector<float> o(q.size());
  const CodedTiles v{format, d, codes.data(), scales.data(), 0, TileForm::kValues};
  table->coded_accumulate(v, p.data(), kCells, kQueryRows, kCells, o.data());
  for (size_t i = 0; i < o.size(); ++i) {
    const double sum = kCells * static_cast<double>(row[i % row.size()]);
    ASSERT_NEAR(o[i], sum, 3e-4 * std::fabs(sum));
  }
}

std::vector<CodedCase> ExtremeCases() {
  std::vector<CodedCase> cases;
  for (const CodedCase& c : CodedCases()) {
    if (c.head_dim == 128 || c.head_dim == 576) cases.push_back(c);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Tables, ExtremeTest, testing::ValuesIn(ExtremeCases()), CodedName);

std::vector<CodedCase> LengthCases() {
  std::vector<CodedCase> cases;
  for (const CodedCase& c : CodedCases()) {
    if (c.head_dim == 64 && c.table != &ScalarKernels()) cases.push_back(c);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Tables, LengthTest, testing::ValuesIn(LengthCases()), CodedName);

// ---- dense ----

class DenseAttentionTest : public testing::TestWithParam<KernelCase> {
 protected:
  DenseAttentionTest() : random_(11), problem_(MakeProblem(GetParam().head_dim, &random_)) {
    x_.resize(static_cast<size_t>(kMaxTokens) * GetParam().head_dim);
    for (float& v : x_) v = static_cast<float>(random_.Normal());
    problem_.x.assign(x_.begin(), x_.end());
  }

  template <typename Use>
  void WithRows(int n, const Use& use) {
    GuardedBuffer<float> x(static_cast<size_t>(n) * GetParam().head_dim);
    std::copy_n(x_.data(), x.size(), x.data());
    use(x.data());
  }

  SplitMix64 random_;
  Problem problem_;
  std::vector<float> x_;
};

TEST_P(DenseAttentionTest, Scores) {
  const auto [table, bits, d] = GetParam();
  CheckScores(problem_, nullptr, [&](const float* q, int rows, int n, float* out, int ld) {
    WithRows(n, [&](const float* x) { table->dense_scores(x, d, q, rows, n, out, ld); });
  });
}

TEST_P(DenseAttentionTest, Accumulate) {
  const auto [table, bits, d] = GetParam();
  CheckAccumulate(problem_, nullptr, [&](const float* p, int ld, int rows, int n, float* o) {
    WithRows(n, [&](const float* x) { table->dense_accumulate(x, d, p, ld, rows, n, o); });
  });
}

// Rows of f16 in reverse order, the first one of them at the end of the buffer.
class HalfAttentionTest : public DenseAttentionTest {
 protected:
  HalfAttentionTest() {
    for (size_t i = 0; i < x_.size(); ++i) {
      half_.push_back(FloatToHalf(x_[i]));
      problem_.x[i] = HalfToFloat(half_[i]);
    }
  }

  template <typename Use>
  void WithHalfRows(int n, const Use& use) {
    const int d = GetParam().head_dim;
    GuardedBuffer<uint16_t> x(static_cast<size_t>(n) * d);
    GuardedBuffer<const uint16_t*> rows(n);
    for (int j = 0; j < n; ++j) {
      uint16_t* row = x.data() + static_cast<size_t>(n - 1 - j) * d;
      std::copy_n(&half_[static_cast<size_t>(j) * d], d, row);
      rows.data()[j] = row;
    }
    use(rows.data());
  }

  std::vector<uint16_t> half_;
};

TEST_P(HalfAttentionTest, Scores) {
  const auto [table, bits, d] = GetParam();
  CheckScores(problem_, nullptr, [&](const float* q, int rows, int n, float* out, int ld) {
    WithHalfRows(n,
                 [&](const uint16_t* const* x) { table->half_scores(x, d, q, rows, n, out, ld); });
  });
}

TEST_P(HalfAttentionTest, Accumulate) {
  const auto [table, bits, d] = GetParam();
  CheckAccumulate(problem_, nullptr, [&](const float* p, int ld, int rows, int n, float* o) {
    WithHalfRows(
        n, [&](const uint16_t* const* x) { table->half_accumulate(x, d, p, ld, rows, n, o); });
  });
}

// Prefill shapes: more rows and tokens than one register block or cache block.
TEST_P(DenseAttentionTest, ManyRows) {
  const auto [table, bits, d] = GetParam();
  constexpr int kRows = 67;
  SplitMix64 random(5);
  std::vector<float> q(static_cast<size_t>(kRows) * d);
  for (float& v : q) v = static_cast<float>(random.Normal());
  std::vector<float> out(static_cast<size_t>(kRows) * kMaxTokens);
  table->dense_scores(x_.data(), d, q.data(), kRows, kMaxTokens, out.data(), kMaxTokens);
  std::vector<float> o(q);
  table->dense_accumulate(x_.data(), d, out.data(), kMaxTokens, kRows, kMaxTokens, o.data());
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kMaxTokens; ++j) {
      double sum = 0;
      double absolute = 0;
      for (int i = 0; i < d; ++i) {
        const double product = static_cast<double>(q[static_cast<size_t>(r) * d + i]) *
                               x_[static_cast<size_t>(j) * d + i];
        sum += product;
        absolute += std::fabs(product);
      }
      ASSERT_NEAR(out[static_cast<size_t>(r) * kMaxTokens + j], sum, SumBound(d, absolute));
    }
    for (int i = 0; i < d; ++i) {
      double sum = q[static_cast<size_t>(r) * d + i];
      double absolute = std::fabs(sum);
      for (int j = 0; j < kMaxTokens; ++j) {
        const double product = static_cast<double>(out[static_cast<size_t>(r) * kMaxTokens + j]) *
                               x_[static_cast<size_t>(j) * d + i];
        sum += product;
        absolute += std::fabs(product);
      }
      ASSERT_NEAR(o[static_cast<size_t>(r) * d + i], sum, SumBound(kMaxTokens, absolute));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, DenseAttentionTest, testing::ValuesIn(DenseCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Tables, HalfAttentionTest, testing::ValuesIn(DenseCases()), CaseName);

}  // namespace
}  // namespace turboquant
