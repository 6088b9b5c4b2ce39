// tq_codec, tq_attend, tq_estimator: the results of the core, and every way to misuse them.
#include <cmath>
#include <limits>
#include <thread>

#include "capi_fixture.h"
#include "codec/codec.h"

namespace turboquant::testing {
namespace {

class CodecHandle {
 public:
  CodecHandle(const char* spec, int head_dim) {
    EXPECT_EQ(tq_codec_create(spec, head_dim, nullptr, &handle_), TQ_OK) << tq_last_error();
    info_ = TQ_CODEC_INFO_INIT;
    EXPECT_EQ(tq_codec_get_info(handle_, &info_), TQ_OK);
  }
  ~CodecHandle() { tq_codec_destroy(handle_); }
  const tq_codec* get() const { return handle_; }
  const tq_codec_info& info() const { return info_; }

  std::vector<uint8_t> Encode(const std::vector<float>& x) const {
    const size_t n = x.size() / info_.head_dim;
    std::vector<uint8_t> rows(n * info_.row_bytes);
    EXPECT_EQ(tq_codec_encode(handle_, x.data(), n, rows.data(), rows.size(), nullptr), TQ_OK);
    return rows;
  }
  std::vector<float> Decode(const std::vector<uint8_t>& rows) const {
    const size_t n = rows.size() / info_.row_bytes;
    std::vector<float> x(n * info_.head_dim);
    EXPECT_EQ(tq_codec_decode(handle_, rows.data(), rows.size(), n, x.data()), TQ_OK);
    return x;
  }

 private:
  tq_codec* handle_ = nullptr;
  tq_codec_info info_;
};

TEST(CApiCodec, EveryCodecOfTheRegistryGivesTheBytesOfTheCore) {
  ASSERT_EQ(tq_codec_count(), CodecRegistry().size());
  EXPECT_EQ(tq_codec_name(tq_codec_count()), nullptr);
  EXPECT_EQ(tq_codec_summary(tq_codec_count()), nullptr);
  constexpr int kDim = 128;
  constexpr size_t kRows = 7;
  const std::vector<float> x = NormalValues(kRows * kDim, 3);
  const std::vector<float> query = NormalValues(kDim, 4);
  for (size_t i = 0; i < tq_codec_count(); ++i) {
    const char* name = tq_codec_name(i);
    EXPECT_STRNE(tq_codec_summary(i), "");
    const CodecHandle codec(name, kDim);
    const auto core = Codec::Create(name, kDim);
    ASSERT_TRUE(core.ok());
    const Codec& c = *core.value();
    EXPECT_EQ(tq_codec_spec(codec.get()), c.spec_text());
    EXPECT_EQ(codec.info().row_bytes, c.row_bytes());
    EXPECT_EQ(codec.info().bits_per_value, c.bits_per_value());
    EXPECT_EQ(codec.info().scales_per_row, c.scales_per_row());
    EXPECT_EQ(codec.info().unbiased != 0, c.unbiased());
    std::vector<uint8_t> rows(kRows * c.row_bytes());
    std::vector<float> decoded(kRows * kDim), scores(kRows), got(kRows);
    for (size_t j = 0; j < kRows; ++j) {
      EXPECT_TRUE(c.Encode(&x[j * kDim], &rows[j * c.row_bytes()]));
      c.Decode(&rows[j * c.row_bytes()], &decoded[j * kDim]);
    }
    c.InnerProducts(query.data(), rows.data(), kRows, scores.data());
    EXPECT_EQ(codec.Encode(x), rows) << name;
    EXPECT_EQ(codec.Decode(rows), decoded) << name;
    ASSERT_EQ(tq_codec_inner_products(codec.get(), query.data(), rows.data(), rows.size(), kRows,
                                      got.data()),
              TQ_OK);
    EXPECT_EQ(got, scores) << name;
  }
}

TEST(CApiCodec, OneCodecServesManyThreads) {
  constexpr size_t kRows = 200;
  const std::vector<float> x = NormalValues(kRows * 64, 6);
  const CodecHandle codec("turbo3q", 64);
  const std::vector<uint8_t> expected = codec.Encode(x);
  std::vector<std::vector<uint8_t>> shared(4), own(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < shared.size(); ++t) {
    threads.emplace_back([&, t] {
      shared[t] = codec.Encode(x);
      own[t] = CodecHandle("turbo3q", 64).Encode(x);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < shared.size(); ++t) {
    EXPECT_EQ(shared[t], expected);
    EXPECT_EQ(own[t], expected);
  }
}

TEST(CApiCodec, WrongSpecsNameTheRemedy) {
  tq_codec* codec = reinterpret_cast<tq_codec*>(8);
  EXPECT_TRUE(Fails(tq_codec_create("turbo5", 64, nullptr, &codec), TQ_ERROR_INVALID_ARGUMENT,
                    "use one of turbo1, turbo2"));
  EXPECT_EQ(codec, nullptr);
  EXPECT_TRUE(Fails(tq_codec_create("turbo3:speed=11", 64, nullptr, &codec),
                    TQ_ERROR_INVALID_ARGUMENT, "rotation seed scale codebook"));
  EXPECT_TRUE(
      Fails(tq_codec_create("", 64, nullptr, &codec), TQ_ERROR_INVALID_ARGUMENT, "use one of"));
  for (int head_dim : {-64, 0, 8, 60, 1040, std::numeric_limits<int>::max()}) {
    EXPECT_TRUE(Fails(tq_codec_create("turbo3", head_dim, nullptr, &codec),
                      TQ_ERROR_INVALID_ARGUMENT, "multiple of 16"))
        << head_dim;
  }
  EXPECT_TRUE(
      Fails(tq_codec_create(nullptr, 64, nullptr, &codec), TQ_ERROR_INVALID_ARGUMENT, "spec"));
  EXPECT_TRUE(Fails(tq_codec_create("turbo3", 64, nullptr, nullptr), TQ_ERROR_INVALID_ARGUMENT,
                    "codec must not be NULL"));
  const std::string endless(100000, 'x');
  EXPECT_TRUE(Fails(tq_codec_create(endless.c_str(), 64, nullptr, &codec),
                    TQ_ERROR_INVALID_ARGUMENT, "unknown codec"));
}

TEST(CApiCodec, NullsAndShortBuffersAreRefused) {
  const CodecHandle codec("turbo3", 64);
  std::vector<float> x(3 * 64, 1.0f);
  std::vector<uint8_t> rows(3 * codec.info().row_bytes);
  const size_t full = rows.size();
  float scores[3];
  const auto null = [](tq_status status, const char* name) {
    return Fails(status, TQ_ERROR_INVALID_ARGUMENT, name);
  };
  const auto small = [](tq_status status) {
    return Fails(status, TQ_ERROR_BUFFER_TOO_SMALL, "rows has 77 bytes, 78 are needed");
  };
  EXPECT_TRUE(null(tq_codec_encode(nullptr, x.data(), 3, rows.data(), full, nullptr), "codec"));
  EXPECT_TRUE(null(tq_codec_encode(codec.get(), nullptr, 3, rows.data(), full, nullptr), "x must"));
  EXPECT_TRUE(null(tq_codec_encode(codec.get(), x.data(), 3, nullptr, full, nullptr), "rows"));
  EXPECT_TRUE(small(tq_codec_encode(codec.get(), x.data(), 3, rows.data(), full - 1, nullptr)));
  EXPECT_TRUE(null(tq_codec_decode(nullptr, rows.data(), full, 3, x.data()), "codec"));
  EXPECT_TRUE(null(tq_codec_decode(codec.get(), nullptr, full, 3, x.data()), "rows"));
  EXPECT_TRUE(null(tq_codec_decode(codec.get(), rows.data(), full, 3, nullptr), "x must"));
  EXPECT_TRUE(small(tq_codec_decode(codec.get(), rows.data(), full - 1, 3, x.data())));
  EXPECT_TRUE(
      null(tq_codec_inner_products(codec.get(), nullptr, rows.data(), full, 3, scores), "query"));
  EXPECT_TRUE(null(tq_codec_inner_products(codec.get(), x.data(), rows.data(), full, 3, nullptr),
                   "scores"));
  EXPECT_TRUE(
      small(tq_codec_inner_products(codec.get(), x.data(), rows.data(), full - 1, 3, scores)));
  // A count whose bytes are beyond size_t is more than any buffer.
  EXPECT_TRUE(Fails(tq_codec_decode(codec.get(), rows.data(), full, SIZE_MAX / 2, x.data()),
                    TQ_ERROR_BUFFER_TOO_SMALL, "rows"));
  // Nothing to do needs nothing.
  EXPECT_EQ(tq_codec_encode(codec.get(), nullptr, 0, nullptr, 0, nullptr), TQ_OK);
  EXPECT_EQ(tq_codec_decode(codec.get(), nullptr, 0, 0, nullptr), TQ_OK);
  EXPECT_EQ(tq_codec_spec(nullptr), nullptr);
  EXPECT_EQ(tq_estimator_codec(nullptr), nullptr);
}

TEST(CApiCodec, RowsThatCannotBeCodedAreCountedAndZero) {
  const CodecHandle codec("turbo4", 64);
  std::vector<float> x = NormalValues(4 * 64, 9);
  x[1 * 64 + 5] = std::numeric_limits<float>::quiet_NaN();
  x[2 * 64 + 9] = std::numeric_limits<float>::infinity();
  std::vector<uint8_t> rows(4 * codec.info().row_bytes);
  size_t invalid = 99;
  ASSERT_EQ(tq_codec_encode(codec.get(), x.data(), 4, rows.data(), rows.size(), &invalid), TQ_OK);
  EXPECT_EQ(invalid, 2u);
  const std::vector<float> decoded = codec.Decode(rows);
  for (int i = 64; i < 3 * 64; ++i) EXPECT_EQ(decoded[i], 0.0f);
  for (int i : {0, 63, 3 * 64, 4 * 64 - 1}) EXPECT_NE(decoded[i], 0.0f);
}

TEST(CApiCodec, MemoryComesFromTheAllocatorAndItsFailureIsReported) {
  CountingAllocator counting;
  tq_codec* codec = nullptr;
  ASSERT_EQ(tq_codec_create("turbo3", 64, counting.options(), &codec), TQ_OK);
  EXPECT_EQ(counting.live_blocks(), 1u);
  tq_codec_destroy(codec);
  EXPECT_EQ(counting.live_blocks(), 0u);
  counting.FailAfter(0);
  tq_estimator* estimator = nullptr;
  EXPECT_TRUE(Fails(tq_codec_create("turbo3", 64, counting.options(), &codec),
                    TQ_ERROR_OUT_OF_MEMORY, "bytes"));
  EXPECT_EQ(codec, nullptr);
  EXPECT_TRUE(Fails(tq_estimator_create("turbo3q", 64, counting.options(), &estimator),
                    TQ_ERROR_OUT_OF_MEMORY, "bytes"));
  EXPECT_EQ(estimator, nullptr);
}

// out = sum w v over decoded rows in double.
std::vector<double> AttentionOverDecoded(const std::vector<float>& k, const std::vector<float>& v,
                                         const std::vector<float>& q, double scale,
                                         const std::vector<float>& bias,
                                         std::vector<double>* weights) {
  const size_t dk = q.size();
  const size_t n = k.size() / dk;
  const size_t dv = v.size() / n;
  weights->assign(n, 0);
  double largest = -1e300, sum = 0;
  for (size_t j = 0; j < n; ++j) {
    double dot = 0;
    for (size_t i = 0; i < dk; ++i) dot += static_cast<double>(q[i]) * k[j * dk + i];
    (*weights)[j] = scale * dot + (bias.empty() ? 0 : bias[j]);
    largest = std::max(largest, (*weights)[j]);
  }
  for (double& w : *weights) sum += w = std::exp(w - largest);
  std::vector<double> out(dv, 0);
  for (size_t j = 0; j < n; ++j) {
    (*weights)[j] /= sum;
    for (size_t i = 0; i < dv; ++i) out[i] += (*weights)[j] * v[j * dv + i];
  }
  return out;
}

TEST(CApiAttend, IsSoftmaxAttentionOverTheDecodedRows) {
  constexpr size_t kTokens = 333;
  const std::vector<float> q = NormalValues(128, 1);
  std::vector<float> bias = NormalValues(kTokens, 2);
  for (size_t j = 100; j < 140; ++j) bias[j] = -std::numeric_limits<float>::infinity();
  for (const auto& [k_spec, v_spec] : std::vector<std::pair<const char*, const char*>>{
           {"turbo4", "turbo3"}, {"turbo3q", "turbo2t"}, {"f16", "nf4"}, {"turbo2.5", "q8_0"}}) {
    const CodecHandle k(k_spec, 128), v(v_spec, 192);
    const auto k_rows = k.Encode(NormalValues(kTokens * 128, 5));
    const auto v_rows = v.Encode(NormalValues(kTokens * 192, 6));
    for (bool with_bias : {false, true}) {
      std::vector<float> out(192), weights(kTokens);
      tq_attention a = {};
      a.struct_size = sizeof(a);
      a.k_codec = k.get();
      a.k_rows = k_rows.data();
      a.k_rows_size = k_rows.size();
      a.v_codec = v.get();
      a.v_rows = v_rows.data();
      a.v_rows_size = v_rows.size();
      a.n = kTokens;
      a.query = q.data();
      a.bias = with_bias ? bias.data() : nullptr;
      a.scale = 0.25f;
      a.out = out.data();
      a.weights = weights.data();
      ASSERT_EQ(tq_attend(&a), TQ_OK) << tq_last_error();
      std::vector<double> want_weights;
      const std::vector<double> want =
          AttentionOverDecoded(k.Decode(k_rows), v.Decode(v_rows), q, 0.25,
                               with_bias ? bias : std::vector<float>(), &want_weights);
      for (size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], want[i], 2e-5) << k_spec;
      for (size_t j = 0; j < kTokens; ++j) EXPECT_NEAR(weights[j], want_weights[j], 2e-5);
      EXPECT_EQ(weights[120] == 0.0f, with_bias);
    }
  }
}

TEST(CApiAttend, NothingToSeeIsZero) {
  const CodecHandle codec("turbo4", 64);
  const auto rows = codec.Encode(NormalValues(2 * 64, 1));
  const std::vector<float> q = NormalValues(64, 2);
  const float hidden[2] = {-std::numeric_limits<float>::infinity(),
                           -std::numeric_limits<float>::infinity()};
  std::vector<float> out(64, 5.0f);
  float weights[2] = {5, 5};
  tq_attention a = {};
  a.struct_size = sizeof(a);
  a.k_codec = a.v_codec = codec.get();
  a.k_rows = a.v_rows = rows.data();
  a.k_rows_size = a.v_rows_size = rows.size();
  a.n = 2;
  a.query = q.data();
  a.bias = hidden;
  a.scale = 1;
  a.out = out.data();
  a.weights = weights;
  ASSERT_EQ(tq_attend(&a), TQ_OK);
  EXPECT_EQ(out, std::vector<float>(64, 0.0f));
  EXPECT_EQ(weights[0], 0.0f);
  EXPECT_EQ(weights[1], 0.0f);
  out.assign(64, 5.0f);
  a.n = 0;
  a.bias = nullptr;
  ASSERT_EQ(tq_attend(&a), TQ_OK);
  EXPECT_EQ(out, std::vector<float>(64, 0.0f));

  a.n = 2;
  a.k_rows_size -= 1;
  EXPECT_TRUE(Fails(tq_attend(&a), TQ_ERROR_BUFFER_TOO_SMALL, "k_rows"));
  a.k_rows_size += 1;
  a.v_rows_size -= 1;
  EXPECT_TRUE(Fails(tq_attend(&a), TQ_ERROR_BUFFER_TOO_SMALL, "v_rows"));
  a.v_rows_size += 1;
  a.out = nullptr;
  EXPECT_TRUE(Fails(tq_attend(&a), TQ_ERROR_INVALID_ARGUMENT, "out"));
  EXPECT_TRUE(Fails(tq_attend(nullptr), TQ_ERROR_INVALID_ARGUMENT, "attention"));
}

TEST(CApiEstimator, IsTheCodecAndRefusesBiasedOnes) {
  constexpr size_t kRows = 5;
  const std::vector<float> x = NormalValues(kRows * 64, 1);
  for (const char* spec : {"turbo3q", "turbo2t:scale=unbiased"}) {
    tq_estimator* estimator = nullptr;
    ASSERT_EQ(tq_estimator_create(spec, 64, nullptr, &estimator), TQ_OK) << tq_last_error();
    const CodecHandle codec(spec, 64);
    EXPECT_STREQ(tq_codec_spec(tq_estimator_codec(estimator)), tq_codec_spec(codec.get()));
    std::vector<uint8_t> rows(kRows * codec.info().row_bytes);
    std::vector<float> scores(kRows), expected(kRows), decoded(x.size());
    EXPECT_EQ(tq_estimator_quantize(estimator, x.data(), kRows, rows.data(), rows.size(), nullptr),
              TQ_OK);
    EXPECT_EQ(rows, codec.Encode(x));
    EXPECT_EQ(tq_estimator_inner_product(estimator, x.data(), rows.data(), rows.size(), kRows,
                                         scores.data()),
              TQ_OK);
    EXPECT_EQ(tq_codec_inner_products(codec.get(), x.data(), rows.data(), rows.size(), kRows,
                                      expected.data()),
              TQ_OK);
    EXPECT_EQ(scores, expected);
    EXPECT_EQ(tq_estimator_dequantize(estimator, rows.data(), rows.size(), kRows, decoded.data()),
              TQ_OK);
    EXPECT_EQ(decoded, codec.Decode(rows));
    tq_estimator_destroy(estimator);
  }
  tq_estimator* estimator = nullptr;
  EXPECT_TRUE(Fails(tq_estimator_create("turbo3", 64, nullptr, &estimator),
                    TQ_ERROR_INVALID_ARGUMENT, "scale=unbiased"));
  EXPECT_EQ(estimator, nullptr);
  EXPECT_TRUE(Fails(tq_estimator_quantize(nullptr, x.data(), 1, nullptr, 0, nullptr),
                    TQ_ERROR_INVALID_ARGUMENT, "estimator"));
}

}  // namespace
}  // namespace turboquant::testing
