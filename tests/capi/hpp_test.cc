// turboquant.hpp: what it adds to the C interface, i.e. ownership, sizes and exceptions.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "capi_fixture.h"
#include "turboquant/turboquant.hpp"

namespace turboquant::testing {
namespace {

static_assert(!std::is_copy_constructible_v<tq::Codec>);
static_assert(std::is_nothrow_move_constructible_v<tq::Buffer>);

// The status of the tq::Error that f throws; TQ_OK if it throws none.
template <typename F>
tq_status Thrown(const F& f, const char* word) {
  try {
    f();
  } catch (const tq::Error& error) {
    EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    return error.status();
  }
  return TQ_OK;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, energy = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(got[i] - want[i], 2);
    energy += std::pow(want[i], 2);
  }
  return error / energy;
}

TEST(Hpp, CodecAndEstimator) {
  const std::vector<float> x = NormalValues(20 * 128, 1);
  const std::vector<float> query = NormalValues(128, 2);
  const tq::Codec codec("turbo4", 128);
  EXPECT_EQ(codec.spec(), "turbo4");
  EXPECT_EQ(codec.row_bytes(), 66u);
  EXPECT_FALSE(codec.unbiased());
  const auto rows = codec.Encode(x);
  EXPECT_EQ(rows.size(), 20u * 66);
  EXPECT_NEAR(RelativeError(codec.Decode(rows), x), 0.0093, 0.001);
  EXPECT_EQ(codec.InnerProducts(query, rows).size(), 20u);
  const tq::Estimator estimator("turbo4q", 128);
  const auto coded = estimator.Quantize(x);
  const auto decoded = estimator.Dequantize(coded);
  const auto scores = estimator.InnerProduct(query, coded);
  for (size_t j = 0; j < scores.size(); ++j) {
    double dot = 0;
    for (size_t i = 0; i < 128; ++i) dot += static_cast<double>(query[i]) * decoded[j * 128 + i];
    EXPECT_NEAR(scores[j], dot, 1e-3);
  }
  tq::Codec moved("turbo2", 64);
  moved = tq::Codec("turbo3", 64);
  EXPECT_EQ(moved.spec(), "turbo3");
}

TEST(Hpp, AttendOverOneRowIsThatRow) {
  const std::vector<float> x = NormalValues(64, 1);
  const tq::Codec codec("turbo8", 64);
  const auto row = codec.Encode(x);
  const auto out = tq::Attend(codec, row, codec, row, x, 0.1f);
  EXPECT_LT(RelativeError(out, codec.Decode(row)), 1e-10);
  const std::vector<float> bias(2);
  EXPECT_EQ(Thrown([&] { tq::Attend(codec, row, codec, row, x, 0.1f, bias); }, "bias"),
            TQ_ERROR_INVALID_ARGUMENT);
}

TEST(Hpp, CompressedArraysMoveWithTheirBytes) {
  const std::vector<float> x = NormalValues(6 * 96, 1);
  const size_t shape[] = {2, 3, 96};
  tq::Buffer first = tq::Compress(x, shape, "turbo8");
  const size_t size = first.size();
  tq::Buffer block = std::move(first);
  EXPECT_EQ(first.size(), 0u);  // NOLINT(bugprone-use-after-move): this is the test
  EXPECT_EQ(block.size(), size);
  EXPECT_EQ(tq::CompressedInfo(block.bytes()).num_dims, 3u);
  EXPECT_LT(RelativeError(tq::Decompress(block.bytes()), x), 1e-4);
  EXPECT_EQ(Thrown([&] { tq::Decompress(block.bytes().first(size - 1)); }, "cut off"),
            TQ_ERROR_CORRUPT);
  EXPECT_EQ(
      Thrown([&] { tq::Compress(std::span(x).first(95), shape, "turbo8"); }, "576 are needed"),
      TQ_ERROR_INVALID_ARGUMENT);
}

TEST(Hpp, Cache) {
  tq_cache_options options = TQ_CACHE_OPTIONS_INIT;
  options.num_kv_heads = 2;
  options.head_dim_k = 64;
  options.head_dim_v = 96;
  options.capacity = 300;
  tq::Cache cache("turbo4,tail=32", options);
  const auto k = NormalValues(200 * 2 * 64, 1), v = NormalValues(200 * 2 * 96, 2);
  cache.Append(k, v);
  EXPECT_EQ(cache.size(), 200u);
  const auto q = NormalValues(2 * 4 * 64, 3);
  const auto out = cache.Attend(q, 4, 0.125f);
  EXPECT_EQ(out.size(), 2u * 4 * 96);
  EXPECT_EQ(cache.AttentionScores(q, 4, 0.125f).size(), 2u * 4 * 200);
  tq::Cache other("turbo4,tail=32", options);
  other.Restore(cache.Save().bytes());
  EXPECT_EQ(other.Attend(q, 4, 0.125f), out);
  tq::Cache copy("turbo4,tail=32", options);
  copy.CopyFrom(cache);
  EXPECT_EQ(copy.Attend(q, 4, 0.125f), out);
  copy.Clear();
  EXPECT_EQ(copy.size(), 0u);
  EXPECT_EQ(Thrown([&] { cache.Append(k, std::span(v).first(96)); }, "v has 96"),
            TQ_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(Thrown([&] { cache.Append(std::span(k).first(65), v); }, "k has 65"),
            TQ_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(Thrown([&] { tq::Cache("turbo6", options); }, "use a preset"),
            TQ_ERROR_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace turboquant::testing
