#include "kvcache/kv_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "base/rng.h"

namespace turboquant {
namespace {

std::vector<float> Random(size_t n, uint64_t seed) {
  SplitMix64 rng(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(rng.Normal());
  return x;
}

Policy Parse(const char* text) { return Policy::Parse(text).value(); }

std::unique_ptr<KvCache> Make(const char* policy, int capacity = 1024) {
  auto cache = KvCache::Create({2, 64, 64, capacity}, Parse(policy), 5);
  return cache.ok() ? std::move(cache.value()) : nullptr;
}

// Exact attention of the newest token over f32 rows.
std::vector<double> Reference(const std::vector<float>& k, const std::vector<float>& v,
                              const std::vector<float>& q, int n) {
  std::vector<double> out(4 * 64, 0.0);
  for (int h = 0; h < 4; ++h) {
    const int kv = h / 2;
    std::vector<double> w(n);
    double sum = 0;
    for (int j = 0; j < n; ++j) {
      double dot = 0;
      for (int d = 0; d < 64; ++d) dot += static_cast<double>(q[h * 64 + d]) * k[(j * 2 + kv) * 64 + d];
      sum += w[j] = std::exp(dot / 8);
    }
    for (int j = 0; j < n; ++j) {
      for (int d = 0; d < 64; ++d) out[h * 64 + d] += w[j] / sum * v[(j * 2 + kv) * 64 + d];
    }
  }
  return out;
}

double RelativeL2(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

TEST(KvCache, AttentionErrorFollowsTheBits) {
  const int n = 700;
  const auto k = Random(n * 128, 1), v = Random(n * 128, 2), q = Random(4 * 64, 3);
  const auto want = Reference(k, v, q, n);
  double last = 1e9;
  for (const char* policy : {"turbo2,tail=0,sink=0", "turbo3,tail=0,sink=0", "turbo4,tail=0,sink=0",
                             "turbo4,tail=1024"}) {
    auto cache = Make(policy);
    ASSERT_NE(cache, nullptr);
    ASSERT_TRUE(cache->Append(k.data(), v.data(), n).ok());
    std::vector<float> out(4 * 64);
    ASSERT_TRUE(cache->Attend(q.data(), 1, 4, 0.125f, out.data()).ok());
    const double error = RelativeL2(out, want);
    EXPECT_LT(error, last) << policy;
    last = error;
  }
  EXPECT_LT(last, 2e-3);  // everything exact: f16 rounding only
}

TEST(KvCache, MemoryIsWhatThePolicySays) {
  const int capacity = 65536;
  auto cache = Make("turbo4,center=off,tail=128", capacity);
  const double bits = 8.0 * cache->memory_bytes() / (2.0 * capacity * 128);
  EXPECT_NEAR(bits, 4.25 + 132.0 / capacity * 16, 0.01);
}

TEST(KvCache, SaveAndRestoreContinueIdentically) {
  for (const char* policy : {"turbo4", "k=turbo4,v=turbo3", "turbo2,tail=16,sink=1", "turbo3,center=off"}) {
    auto a = Make(policy);
    auto b = Make(policy);
    const auto k = Random(500 * 128, 1), v = Random(500 * 128, 2), q = Random(4 * 64, 3);
    ASSERT_TRUE(a->Append(k.data(), v.data(), 400).ok());
    const auto bytes = a->Save();
    ASSERT_TRUE(b->Restore(bytes).ok());
    EXPECT_EQ(b->Save(), bytes);
    std::vector<float> x(256), y(256);
    for (int i = 400; i < 500; ++i) {
      ASSERT_TRUE(a->Append(&k[i * 128], &v[i * 128], 1).ok());
      ASSERT_TRUE(b->Append(&k[i * 128], &v[i * 128], 1).ok());
      ASSERT_TRUE(a->Attend(q.data(), 1, 4, 0.125f, x.data()).ok());
      ASSERT_TRUE(b->Attend(q.data(), 1, 4, 0.125f, y.data()).ok());
      ASSERT_EQ(x, y) << policy << " " << i;
    }
  }
}

TEST(KvCache, DamagedSavesAreRefusedAndLeaveAnEmptyCache) {
  auto a = Make("turbo4,tail=8", 64);
  const auto k = Random(40 * 128, 1), v = Random(40 * 128, 2);
  ASSERT_TRUE(a->Append(k.data(), v.data(), 40).ok());
  const auto bytes = a->Save();
  auto b = Make("turbo4,tail=8", 64);
  for (size_t n = 0; n < bytes.size(); n += 1 + n / 64) {
    EXPECT_EQ(b->Restore({bytes.begin(), bytes.begin() + n}).code(), StatusCode::kCorrupt) << n;
    EXPECT_EQ(b->size(), 0);
  }
  for (size_t at = 0; at < bytes.size(); at += 7) {
    auto damaged = bytes;
    damaged[at] ^= 0x10;
    EXPECT_EQ(b->Restore(damaged).code(), StatusCode::kCorrupt) << at;
  }
  const Status other = Make("turbo3,tail=8", 64)->Restore(bytes);
  EXPECT_EQ(other.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(other.message().find("k=turbo4"), std::string::npos) << other.message();
  EXPECT_EQ(Make("turbo4,tail=8", 32)->Restore(bytes).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(b->Restore(bytes).ok());
}

TEST(KvCache, ImpossibleRequestsSayWhatIsWrong) {
  auto status = [](const CacheShape& shape, const char* policy) {
    return KvCache::Create(shape, Parse(policy), 1).status();
  };
  EXPECT_EQ(status({2, 72, 64, 100}, "turbo4").code(), StatusCode::kUnsupported);
  EXPECT_EQ(status({0, 64, 64, 100}, "turbo4").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status({1, 64, 64, 0}, "turbo4").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status({1, 64, 64, 100}, "f16").code(), StatusCode::kInvalidArgument);
  auto cache = Make("turbo4", 16);
  const auto rows = Random(17 * 128, 1);
  EXPECT_EQ(cache->Append(rows.data(), rows.data(), 17).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(cache->size(), 0);
  std::vector<float> out(256);
  EXPECT_FALSE(cache->Attend(rows.data(), 1, 4, 1.0f, out.data()).ok());
  ASSERT_TRUE(cache->Append(rows.data(), rows.data(), 16).ok());
  EXPECT_FALSE(cache->Attend(rows.data(), 1, 3, 1.0f, out.data()).ok());
  EXPECT_TRUE(cache->Attend(rows.data(), 1, 4, 1.0f, out.data()).ok());
}

TEST(KvCache, ClearStartsOver) {
  auto a = Make("turbo4"), b = Make("turbo4");
  const auto k = Random(300 * 128, 1), v = Random(300 * 128, 2);
  ASSERT_TRUE(a->Append(v.data(), k.data(), 300).ok());
  a->Clear();
  EXPECT_EQ(a->size(), 0);
  ASSERT_TRUE(a->Append(k.data(), v.data(), 300).ok());
  ASSERT_TRUE(b->Append(k.data(), v.data(), 300).ok());
  EXPECT_EQ(a->Save(), b->Save());
}

}  // namespace
}  // namespace turboquant
