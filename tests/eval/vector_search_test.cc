// Search and array coding against loops written out here.
#include "eval/vector_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"
#include "eval/array_coding.h"

namespace turboquant {
namespace {

std::vector<float> Normal(size_t n, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.Normal());
  return x;
}

ArrayView View(const std::vector<float>& x, std::vector<uint64_t> shape) {
  return {FloatType::kF32, std::move(shape), reinterpret_cast<const uint8_t*>(x.data())};
}

// The best k by sums in double over the vectors given.
std::vector<std::vector<uint64_t>> BestByLoop(const std::vector<float>& vectors,
                                              const std::vector<float>& queries, size_t width,
                                              size_t k) {
  std::vector<std::vector<uint64_t>> best;
  for (size_t q = 0; q < queries.size(); q += width) {
    std::vector<std::pair<double, uint64_t>> scored;
    for (size_t v = 0; v < vectors.size(); v += width) {
      double dot = 0;
      for (size_t i = 0; i < width; ++i)
        dot += static_cast<double>(queries[q + i]) * vectors[v + i];
      scored.emplace_back(-dot, v / width);
    }
    std::sort(scored.begin(), scored.end());
    best.emplace_back();
    for (size_t i = 0; i < std::min(k, scored.size()); ++i) best.back().push_back(scored[i].second);
  }
  return best;
}

std::vector<std::vector<uint64_t>> Indices(const SearchResult& result) {
  std::vector<std::vector<uint64_t>> indices;
  for (const auto& of_query : result.neighbours) {
    indices.emplace_back();
    for (const Neighbour& n : of_query) indices.back().push_back(n.index);
  }
  return indices;
}

struct Coded {
  RowFile file;
  std::vector<uint8_t> bytes;
  std::vector<float> decoded;
  CodingStats stats;
};

Coded Encode(const char* spec, const std::vector<float>& x, std::vector<uint64_t> shape,
             int head_dim, int threads = 2) {
  auto plan = RowFile::Plan(spec, shape, head_dim);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  std::vector<uint8_t> bytes(plan.value().Bytes());
  const CodingStats stats = EncodeArray(View(x, shape), plan.value(), bytes, threads, nullptr);
  Coded coded{RowFile::Open(bytes).value(), std::move(bytes), std::vector<float>(x.size()), stats};
  coded.file = RowFile::Open(coded.bytes).value();
  EXPECT_TRUE(coded.file.Verify().ok());
  DecodeArray(coded.file, FloatType::kF32, reinterpret_cast<uint8_t*>(coded.decoded.data()),
              threads, nullptr);
  return coded;
}

TEST(VectorSearch, FindsWhatALoopOverTheDecodedVectorsFinds) {
  constexpr size_t kWidth = 192, kVectors = 5000, kQueries = 7, kBest = 12;
  const auto x = Normal(kVectors * kWidth, 1), queries = Normal(kQueries * kWidth, 2);
  EXPECT_EQ(Indices(SearchArray(View(x, {kVectors, kWidth}), queries, kBest, 2)),
            BestByLoop(x, queries, kWidth, kBest));
  for (const char* spec : {"turbo4", "turbo3q", "turbo2t"}) {
    for (int head_dim : {192, 64}) {
      const Coded coded = Encode(spec, x, {kVectors, kWidth}, head_dim);
      const auto expected = BestByLoop(coded.decoded, queries, kWidth, kBest);
      const SearchResult two = SearchRows(coded.file, queries, kBest, 2);
      EXPECT_EQ(Indices(two), expected) << spec << " " << head_dim;
      EXPECT_EQ(SearchRows(coded.file, queries, kBest, 1).neighbours, two.neighbours);
      EXPECT_EQ(Indices(SearchRows(coded.file, queries, kBest, 3, ScalarKernels())), expected);
    }
  }
}

TEST(VectorSearch, FewVectorsTiesAndNaN) {
  std::vector<float> x(3 * 16, 1.0f);
  const std::vector<float> query(16, 1.0f);
  SearchResult found = SearchArray(View(x, {3, 16}), query, 10, 1);
  EXPECT_EQ(Indices(found), (std::vector<std::vector<uint64_t>>{{0, 1, 2}}));
  EXPECT_EQ(found.neighbours[0][0].score, 16.0f);
  EXPECT_EQ(Indices(SearchArray(View(x, {3, 16}), query, 2, 1)),
            (std::vector<std::vector<uint64_t>>{{0, 1}}));
  x[16] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Indices(SearchArray(View(x, {3, 16}), query, 10, 1)),
            (std::vector<std::vector<uint64_t>>{{0, 2}}));
}

TEST(VectorSearch, RecallCounts) {
  SearchResult exact, found;
  exact.neighbours = {{{1, 9}, {2, 8}}, {{5, 9}, {6, 8}}};
  found.neighbours = {{{2, 9}, {1, 8}}, {{5, 9}, {7, 8}}};
  const Recall recall = CompareSearches(found, exact);
  EXPECT_DOUBLE_EQ(recall.at_k, 0.75);
  EXPECT_DOUBLE_EQ(recall.best_at_k, 1);
  EXPECT_DOUBLE_EQ(recall.best_at_1, 0.5);
}

TEST(ArrayCoding, FiguresAreThoseOfTheDecodedValuesForAnyThreads) {
  auto x = Normal(3000 * 64, 3);
  std::fill_n(x.begin() + 64, 64, 0.0f);                   // a row of zeros
  x[5 * 64 + 3] = std::numeric_limits<float>::infinity();  // an invalid one
  const Coded one = Encode("turbo3", x, {30, 100, 64}, 0, 1);
  const Coded three = Encode("turbo3", x, {30, 100, 64}, 0, 3);
  EXPECT_EQ(one.bytes, three.bytes);
  EXPECT_EQ(one.stats.distortion, three.stats.distortion);
  EXPECT_EQ(one.stats.rows, 3000u);
  EXPECT_EQ(one.stats.invalid_rows, 1u);
  EXPECT_EQ(one.stats.zero_rows, 1u);
  double error = 0, energy = 0, worst = 0;
  for (size_t row = 0; row < 3000; ++row) {
    if (row == 5) continue;
    double row_error = 0, row_energy = 0;
    for (size_t i = row * 64; i < (row + 1) * 64; ++i) {
      row_error += std::pow(static_cast<double>(x[i]) - one.decoded[i], 2);
      row_energy += std::pow(static_cast<double>(x[i]), 2);
    }
    error += row_error;
    energy += row_energy;
    if (row_energy > 0) worst = std::max(worst, row_error / row_energy);
  }
  EXPECT_NEAR(one.stats.distortion, error / energy, 1e-12);
  EXPECT_NEAR(one.stats.worst_distortion, worst, 1e-12);
  EXPECT_NEAR(one.stats.mean_distortion, 0.0325, 0.001);
  EXPECT_GT(one.stats.encode_seconds, 0);
}

TEST(ArrayCoding, DescribesAnArray) {
  std::vector<float> x(4 * 2, 0.0f);
  x = {3, 4, 0, 0, -6, 8, 1, std::numeric_limits<float>::quiet_NaN()};
  const ArrayStats stats = DescribeArray(View(x, {4, 2}), 2);
  EXPECT_EQ(stats.non_finite, 1u);
  EXPECT_EQ(stats.zero_vectors, 1u);
  EXPECT_EQ(stats.minimum, -6);
  EXPECT_EQ(stats.maximum, 8);
  EXPECT_DOUBLE_EQ(stats.mean, 10.0 / 7);
  EXPECT_DOUBLE_EQ(stats.rms, std::sqrt((9 + 16 + 36 + 64 + 1) / 7.0));
  EXPECT_EQ(stats.least_norm, 0);
  EXPECT_EQ(stats.greatest_norm, 10);
}

}  // namespace
}  // namespace turboquant
