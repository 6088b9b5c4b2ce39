// Scores and weighted sums against double, within the bound of any order of float additions, and
// inside their buffers: every array ends at an unreadable page.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/scalar_codec.h"
#include "guarded_buffer.h"
#include "kernel_cases.h"

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

template <typename Kernel>
void CheckScores(const Problem& problem, const Kernel& kernel) {
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
      bound[static_cast<size_t>(r) * kMaxTokens + j] = SumBound(d, absolute);
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

template <typename Kernel>
void CheckAccumulate(const Problem& problem, const Kernel& kernel) {
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
    for (size_t i = 0; i < o.size(); ++i) {
      ASSERT_NEAR(o[i], want[n][i], SumBound(n, absolute[n][i]))
          << "rows " << rows << " n " << n << " at " << i / width << ", " << i % width;
    }
    ASSERT_TRUE(o.front_intact());
  }
}

// ---- coded ----

class CodedAttentionTest : public testing::TestWithParam<KernelCase> {
 protected:
  CodedAttentionTest()
      : code_bytes_(static_cast<size_t>(GetParam().bits * GetParam().head_dim / 8)),
        random_(7),
        problem_(MakeProblem(GetParam().head_dim, &random_)),
        codes_(kMaxTokens * code_bytes_),
        scales_(kMaxTokens) {
    const auto [table, bits, d] = GetParam();
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
      DecodeRotatedRow(bits, codes_.data() + j * code_bytes_, 0x3C00, d, row.data());
      for (const float c : row) {
        problem_.x.push_back(static_cast<double>(c) * HalfToFloat(scales_[j]));
      }
    }
  }

  // The first n coded rows against the end of their pages.
  template <typename Use>
  void WithRows(int n, const Use& use) {
    GuardedBuffer<uint8_t> codes(static_cast<size_t>(n) * code_bytes_);
    GuardedBuffer<uint16_t> scales(static_cast<size_t>(n));
    std::copy_n(codes_.data(), codes.size(), codes.data());
    std::copy_n(scales_.data(), scales.size(), scales.data());
    use(CodedRows{GetParam().bits, GetParam().head_dim, codes.data(), scales.data()});
  }

  size_t code_bytes_;
  SplitMix64 random_;
  Problem problem_;
  std::vector<uint8_t> codes_;
  std::vector<uint16_t> scales_;
};

TEST_P(CodedAttentionTest, Scores) {
  CheckScores(problem_, [&](const float* q, int rows, int n, float* out, int ld) {
    WithRows(n,
             [&](const CodedRows& k) { GetParam().table->coded_scores(k, q, rows, n, out, ld); });
  });
}

TEST_P(CodedAttentionTest, Accumulate) {
  CheckAccumulate(problem_, [&](const float* p, int ld, int rows, int n, float* o) {
    WithRows(n,
             [&](const CodedRows& v) { GetParam().table->coded_accumulate(v, p, ld, rows, n, o); });
  });
}

INSTANTIATE_TEST_SUITE_P(Tables, CodedAttentionTest, testing::ValuesIn(CodedCases()), CaseName);

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
  CheckScores(problem_, [&](const float* q, int rows, int n, float* out, int ld) {
    WithRows(n, [&](const float* x) { table->dense_scores(x, d, q, rows, n, out, ld); });
  });
}

TEST_P(DenseAttentionTest, Accumulate) {
  const auto [table, bits, d] = GetParam();
  CheckAccumulate(problem_, [&](const float* p, int ld, int rows, int n, float* o) {
    WithRows(n, [&](const float* x) { table->dense_accumulate(x, d, p, ld, rows, n, o); });
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

}  // namespace
}  // namespace turboquant
