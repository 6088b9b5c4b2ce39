// tq_cache: attention and its scores against exact sums, moves that keep every bit, misuse.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "capi_fixture.h"

namespace turboquant::testing {
namespace {

constexpr int kHeads = 2, kQueryHeads = 6, kKeyDim = 64, kValueDim = 128;
constexpr size_t kTokens = 400;

struct Destroy {
  void operator()(tq_cache* cache) const { tq_cache_destroy(cache); }
};
using CachePtr = std::unique_ptr<tq_cache, Destroy>;

tq_cache_options Shape() {
  tq_cache_options options = TQ_CACHE_OPTIONS_INIT;
  options.num_kv_heads = kHeads;
  options.head_dim_k = kKeyDim;
  options.head_dim_v = kValueDim;
  options.capacity = 512;
  return options;
}

CachePtr Make(const char* policy, const tq_cache_options& options = Shape()) {
  tq_cache* cache = nullptr;
  EXPECT_EQ(tq_cache_create(policy, &options, &cache), TQ_OK) << tq_last_error();
  return CachePtr(cache);
}

class CApiCache : public ::testing::Test {
 protected:
  CachePtr Filled(const char* policy, const tq_cache_options& options = Shape()) {
    CachePtr cache = Make(policy, options);
    EXPECT_EQ(tq_cache_append(cache.get(), k_.data(), v_.data(), kTokens), TQ_OK);
    return cache;
  }
  std::vector<float> Attend(tq_cache* cache, size_t tokens = 1) {
    std::vector<float> out(tokens * kQueryHeads * kValueDim);
    EXPECT_EQ(
        tq_cache_attend(cache, q_.data(), tokens, kQueryHeads, 0.125f, out.data(), out.size()),
        TQ_OK)
        << tq_last_error();
    return out;
  }
  std::vector<float> Scores(tq_cache* cache, size_t tokens = 1) {
    std::vector<float> out(tokens * kQueryHeads * tq_cache_size(cache));
    EXPECT_EQ(tq_cache_attention_scores(cache, q_.data(), tokens, kQueryHeads, 0.125f, out.data(),
                                        out.size()),
              TQ_OK)
        << tq_last_error();
    return out;
  }
  double ExactLogit(size_t token, int head, size_t j) const {
    double dot = 0;
    for (int i = 0; i < kKeyDim; ++i) {
      dot += static_cast<double>(q_[(token * kQueryHeads + head) * kKeyDim + i]) *
             k_[(j * kHeads + head / (kQueryHeads / kHeads)) * kKeyDim + i];
    }
    return 0.125 * dot;
  }

  std::vector<float> k_ = NormalValues(kTokens * kHeads * kKeyDim, 1);
  std::vector<float> v_ = NormalValues(kTokens * kHeads * kValueDim, 2);
  std::vector<float> q_ = NormalValues(3 * kQueryHeads * kKeyDim, 3);
};

TEST_F(CApiCache, ScoresAreTheExactLogitsWhereRowsAreExactAndNearThemElsewhere) {
  const CachePtr cache = Filled("turbo4,sink=4,tail=64");
  constexpr size_t kQueries = 3;
  const std::vector<float> scores = Scores(cache.get(), kQueries);
  double coded_error = 0, coded_energy = 0;
  for (size_t t = 0; t < kQueries; ++t) {
    for (int h = 0; h < kQueryHeads; ++h) {
      for (size_t j = 0; j < kTokens; ++j) {
        const float score = scores[(t * kQueryHeads + h) * kTokens + j];
        if (j > kTokens - kQueries + t) {
          EXPECT_EQ(score, -std::numeric_limits<float>::infinity());
          continue;
        }
        const double exact = ExactLogit(t, h, j);
        if (j < 4 || j >= kTokens - 64) {
          EXPECT_NEAR(score, exact, 3e-3) << t << " " << h << " " << j;  // f16
        } else {
          coded_error += (score - exact) * (score - exact);
          coded_energy += exact * exact;
        }
      }
    }
  }
  EXPECT_NEAR(coded_error / coded_energy, 0.0093, 0.0015);  // the distortion of turbo4
}

TEST_F(CApiCache, AttentionIsTheSoftmaxOfItsScores) {
  const CachePtr cache = Filled("turbo3,sink=4,tail=64");
  const std::vector<float> scores = Scores(cache.get());
  const std::vector<float> out = Attend(cache.get());
  double error = 0, energy = 0;
  for (int h = 0; h < kQueryHeads; ++h) {
    double sum = 0;
    std::vector<double> want(kValueDim, 0);
    for (size_t j = 0; j < kTokens; ++j) {
      const double w = std::exp(static_cast<double>(scores[h * kTokens + j]));
      sum += w;
      for (int i = 0; i < kValueDim; ++i) {
        want[i] += w * v_[(j * kHeads + h / (kQueryHeads / kHeads)) * kValueDim + i];
      }
    }
    for (int i = 0; i < kValueDim; ++i) {
      error += std::pow(out[h * kValueDim + i] - want[i] / sum, 2);
      energy += std::pow(want[i] / sum, 2);
    }
  }
  // Only the values are coded here; those outside of the window, to 3 bits.
  EXPECT_LT(error / energy, 0.04);
  EXPECT_GT(error / energy, 0.01);
}

TEST_F(CApiCache, MemoryIsAllocatedOnceAndBilled) {
  CountingAllocator counting;
  tq_cache_options options = Shape();
  options.capacity = 65536;
  options.allocator = counting.allocator();
  {
    const CachePtr cache = Make("k=turbo4,v=turbo2,tail=64,center=off", options);
    EXPECT_GE(counting.largest(), tq_cache_memory_bytes(cache.get()));
    // (34 * 64 / 64 + 34) bytes a head and token: 4.25 and 2.125 bits a value, and the window.
    const double bytes = 65536.0 * kHeads * (34 + 34) + 68.0 * kHeads * 192 * 2;
    EXPECT_NEAR(tq_cache_memory_bytes(cache.get()) / bytes, 1, 0.001);
    const size_t before = counting.allocations();
    EXPECT_EQ(tq_cache_append(cache.get(), k_.data(), v_.data(), kTokens), TQ_OK);
    EXPECT_EQ(tq_cache_clear(cache.get()), TQ_OK);
    EXPECT_EQ(counting.allocations(), before);
  }
  for (size_t allocations : {0, 1}) {  // the block of rows, then the handle
    counting.FailAfter(allocations);
    tq_cache* cache = nullptr;
    EXPECT_TRUE(
        Fails(tq_cache_create("turbo4", &options, &cache), TQ_ERROR_OUT_OF_MEMORY, "bytes"));
    EXPECT_EQ(cache, nullptr);
    EXPECT_EQ(counting.live_blocks(), 0u);
  }
  counting.NeverFail();
  const CachePtr cache = Filled("turbo4", options);
  counting.FailAfter(0);
  tq_buffer saved = TQ_BUFFER_INIT;
  EXPECT_TRUE(Fails(tq_cache_save(cache.get(), &saved), TQ_ERROR_OUT_OF_MEMORY, "bytes"));
  EXPECT_EQ(tq_cache_size(cache.get()), kTokens);
}

TEST_F(CApiCache, SavedCopiedAndClearedKeepEveryBit) {
  const CachePtr cache = Filled("balanced,tail=64");
  const std::vector<float> want = Attend(cache.get(), 2);
  tq_buffer saved = TQ_BUFFER_INIT;
  ASSERT_EQ(tq_cache_save(cache.get(), &saved), TQ_OK);
  tq_cache_options larger = Shape();
  larger.capacity = 1000;
  const CachePtr restored = Make("balanced,tail=64", larger);
  ASSERT_EQ(tq_cache_restore(restored.get(), saved.data, saved.size), TQ_OK) << tq_last_error();
  EXPECT_EQ(Attend(restored.get(), 2), want);

  const CachePtr copy = Make("balanced,tail=64");
  ASSERT_EQ(tq_cache_copy(copy.get(), cache.get()), TQ_OK) << tq_last_error();
  EXPECT_EQ(Attend(copy.get(), 2), want);
  EXPECT_TRUE(
      Fails(tq_cache_copy(restored.get(), cache.get()), TQ_ERROR_INVALID_ARGUMENT, "same shape"));
  EXPECT_EQ(Attend(restored.get(), 2), want);
  // The branches part ways.
  ASSERT_EQ(tq_cache_append(copy.get(), k_.data(), v_.data(), 1), TQ_OK);
  EXPECT_EQ(tq_cache_size(copy.get()), kTokens + 1);
  EXPECT_EQ(Attend(cache.get(), 2), want);

  ASSERT_EQ(tq_cache_clear(copy.get()), TQ_OK);
  EXPECT_EQ(tq_cache_size(copy.get()), 0u);
  auto* bytes = static_cast<uint8_t*>(saved.data);
  bytes[saved.size / 2] ^= 1;
  EXPECT_TRUE(Fails(tq_cache_restore(restored.get(), saved.data, saved.size), TQ_ERROR_CORRUPT,
                    "checksum"));
  EXPECT_EQ(tq_cache_size(restored.get()), 0u);
  bytes[saved.size / 2] ^= 1;
  for (size_t size : {size_t{0}, size_t{3}, saved.size - 1}) {
    EXPECT_EQ(tq_cache_restore(restored.get(), saved.data, size), TQ_ERROR_CORRUPT) << size;
  }
  const CachePtr other = Make("turbo3");
  EXPECT_TRUE(Fails(tq_cache_restore(other.get(), saved.data, saved.size),
                    TQ_ERROR_INVALID_ARGUMENT, "policy"));
  tq_buffer_free(&saved);
}

TEST_F(CApiCache, MisuseIsRefusedWithoutEffect) {
  const tq_cache_options options = Shape();
  tq_cache* none = nullptr;
  EXPECT_TRUE(
      Fails(tq_cache_create("turbo7", &options, &none), TQ_ERROR_INVALID_ARGUMENT, "use a preset"));
  EXPECT_TRUE(
      Fails(tq_cache_create("f16", &options, &none), TQ_ERROR_INVALID_ARGUMENT, "choose turbo4"));
  EXPECT_TRUE(
      Fails(tq_cache_create(nullptr, &options, &none), TQ_ERROR_INVALID_ARGUMENT, "policy"));
  EXPECT_TRUE(
      Fails(tq_cache_create("turbo3", nullptr, &none), TQ_ERROR_INVALID_ARGUMENT, "options"));
  tq_cache_options wrong = Shape();
  wrong.struct_size = 4;
  EXPECT_TRUE(
      Fails(tq_cache_create("turbo3", &wrong, &none), TQ_ERROR_INVALID_ARGUMENT, "struct_size"));
  wrong = Shape();
  wrong.head_dim_k = 50;
  EXPECT_TRUE(
      Fails(tq_cache_create("turbo3", &wrong, &none), TQ_ERROR_UNSUPPORTED, "multiple of 16"));
  wrong = Shape();
  wrong.num_kv_heads = std::numeric_limits<int>::max();
  EXPECT_TRUE(Fails(tq_cache_create("turbo3", &wrong, &none), TQ_ERROR_UNSUPPORTED, "too many"));
  wrong = Shape();
  wrong.capacity = 0;
  EXPECT_TRUE(
      Fails(tq_cache_create("turbo3", &wrong, &none), TQ_ERROR_INVALID_ARGUMENT, "one token"));
  EXPECT_EQ(none, nullptr);

  const CachePtr cache = Filled("turbo4");
  EXPECT_TRUE(Fails(tq_cache_append(cache.get(), k_.data(), v_.data(), 113),
                    TQ_ERROR_INVALID_ARGUMENT, "400 of 512"));
  EXPECT_TRUE(Fails(tq_cache_append(cache.get(), k_.data(), v_.data(), SIZE_MAX),
                    TQ_ERROR_INVALID_ARGUMENT, "no room"));
  EXPECT_TRUE(Fails(tq_cache_append(cache.get(), nullptr, v_.data(), 1), TQ_ERROR_INVALID_ARGUMENT,
                    "k must"));
  EXPECT_TRUE(Fails(tq_cache_append(cache.get(), k_.data(), nullptr, 1), TQ_ERROR_INVALID_ARGUMENT,
                    "v must"));
  EXPECT_TRUE(
      Fails(tq_cache_append(nullptr, k_.data(), v_.data(), 1), TQ_ERROR_INVALID_ARGUMENT, "cache"));
  EXPECT_EQ(tq_cache_append(cache.get(), nullptr, nullptr, 0), TQ_OK);
  EXPECT_EQ(tq_cache_size(cache.get()), kTokens);

  std::vector<float> out(kQueryHeads * kValueDim);
  EXPECT_TRUE(
      Fails(tq_cache_attend(cache.get(), q_.data(), 1, kQueryHeads, 1, out.data(), out.size() - 1),
            TQ_ERROR_BUFFER_TOO_SMALL, "768 are needed"));
  EXPECT_TRUE(Fails(tq_cache_attend(cache.get(), q_.data(), 1, 5, 1, out.data(), out.size()),
                    TQ_ERROR_INVALID_ARGUMENT, "multiple of 2"));
  EXPECT_TRUE(Fails(tq_cache_attend(cache.get(), q_.data(), 0, kQueryHeads, 1, out.data(), 0),
                    TQ_ERROR_INVALID_ARGUMENT, "query tokens"));
  EXPECT_TRUE(
      Fails(tq_cache_attend(cache.get(), nullptr, 1, kQueryHeads, 1, out.data(), out.size()),
            TQ_ERROR_INVALID_ARGUMENT, "q must"));
  EXPECT_TRUE(Fails(
      tq_cache_attention_scores(cache.get(), q_.data(), 1, kQueryHeads, 1, out.data(), out.size()),
      TQ_ERROR_BUFFER_TOO_SMALL, "scores"));
  EXPECT_EQ(tq_cache_size(nullptr), 0u);
  EXPECT_EQ(tq_cache_memory_bytes(nullptr), 0u);
  EXPECT_EQ(tq_cache_policy(nullptr), nullptr);
  EXPECT_TRUE(Fails(tq_cache_clear(nullptr), TQ_ERROR_INVALID_ARGUMENT, "cache"));
  EXPECT_TRUE(Fails(tq_cache_save(cache.get(), nullptr), TQ_ERROR_INVALID_ARGUMENT, "saved"));
}

TEST_F(CApiCache, RowsWithNaNAreReported) {
  LogKeeper log(TQ_LOG_WARNING);
  tq_cache_options options = Shape();
  options.logger = log.logger();
  k_[70 * kHeads * kKeyDim] = std::numeric_limits<float>::quiet_NaN();
  const CachePtr cache = Filled("turbo4,tail=64", options);
  ASSERT_EQ(log.lines().size(), 1u);
  EXPECT_NE(log.lines()[0].second.find("NaN"), std::string::npos);
}

}  // namespace
}  // namespace turboquant::testing
