// The plan: every page of every sequence is read exactly once, by items that fit the device.
#include "kernels/cuda/attention_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>

#include "kernels/cuda/int8_config.h"
#include "kernels/cuda/row_mask.h"
#include "tests/cuda/cuda_case.h"

namespace turboquant::cuda {
namespace {

constexpr tq_cuda_device kH100{132, 227 * 1024, 228 * 1024, 90, 13};
constexpr tq_cuda_device kH200{132, 227 * 1024, 228 * 1024, 90, 19};
constexpr tq_cuda_device kSmall{68, 99 * 1024, 100 * 1024, 89, 5};

tq_cuda_plan_request Request(const std::vector<int>& lens, const tq_cuda_device& device = kH100) {
  tq_cuda_plan_request r{};
  r.k_format = r.v_format = TQ_CUDA_TURBO4;
  r.head_dim = 128;
  r.num_kv_heads = 8;
  r.batch = static_cast<int32_t>(lens.size());
  r.group = 4;
  r.q_len = 1;
  r.coded_len = lens.data();
  r.num_sms = device.num_sms;
  r.smem_per_block = device.smem_per_block;
  r.smem_per_sm = device.smem_per_sm;
  r.bytes_per_clock = device.bytes_per_clock;
  return r;
}

// Every page and exact row of every (sequence, head tile) exactly once; partials dense and
// distinct.
void ExpectCovers(const tq_cuda_plan_request& r, const AttentionPlan& plan) {
  std::map<std::tuple<int, int, int>, std::vector<std::pair<int, int>>> spans;
  std::vector<int> partials;
  for (const tq_cuda_item& item : plan.items) {
    EXPECT_LE(item.begin, item.end);
    EXPECT_LE(item.partials, kMaxPartials);
    EXPECT_GE(item.partial, item.first_partial);
    EXPECT_LT(item.partial, item.first_partial + item.partials);
    partials.push_back(item.partial);
    spans[{item.sequence, item.head_tile, item.exact}].push_back({item.begin, item.end});
  }
  std::sort(partials.begin(), partials.end());
  for (size_t i = 0; i < partials.size(); ++i) EXPECT_EQ(partials[i], static_cast<int>(i));
  for (int b = 0; b < r.batch; ++b) {
    for (int head = 0; head < r.num_kv_heads * plan.plan.row_tiles; ++head) {
      for (const int exact : {0, 1}) {
        std::vector<std::pair<int, int>> s = spans[{b, head, exact}];
        std::sort(s.begin(), s.end());
        const int want_end = exact == 1 ? (r.exact_len != nullptr ? r.exact_len[b] : 0)
                                        : (r.coded_len[b] + kTileTokens - 1) / kTileTokens;
        if (s.empty()) {
          EXPECT_EQ(want_end, 0);
          continue;
        }
        if (r.window == 0) {
          EXPECT_EQ(s.front().first, 0);
        }
        EXPECT_EQ(s.back().second, want_end);
        for (size_t i = 1; i < s.size(); ++i) EXPECT_EQ(s[i].first, s[i - 1].second);
      }
    }
  }
}

TEST(AttentionPlan, EqualLengthsSplitIntoOneWave) {
  for (const tq_cuda_device& device : {kH100, kH200}) {
    for (const int batch : {1, 2, 3, 8, 16, 32}) {
      const std::vector<int> lens(static_cast<size_t>(batch), 32768);
      const tq_cuda_plan_request r = Request(lens, device);
      const AttentionPlan plan = PlanAttention(r);
      EXPECT_EQ(plan.plan.path, TQ_CUDA_PATH_INT8);
      EXPECT_EQ(plan.plan.uniform, 1);
      const Int8Config config = Int8ConfigOf(4, 4, 128, 1, plan.plan.config);
      // 256 kv heads: two waves of wide CTAs where memory is fast.
      const int waves = batch == 32 && device.bytes_per_clock > 16 ? 2 : 1;
      EXPECT_LE(plan.plan.num_items, waves * device.num_sms * config.ctas_per_sm);
      EXPECT_GE(plan.plan.num_items, waves * device.num_sms * 8 / 10);
      ExpectCovers(r, plan);
    }
  }
}

TEST(AttentionPlan, ConfigurationFollowsTheWork) {
  const auto config = [](int batch, int length, int head_dim = 128) {
    const std::vector<int> lens(static_cast<size_t>(batch), length);
    tq_cuda_plan_request r = Request(lens);
    r.head_dim = head_dim;
    return PlanAttention(r).plan.config;
  };
  EXPECT_EQ(config(1, 8192), kWideConfig);
  EXPECT_EQ(config(1, 32768), kWideLongConfig);
  EXPECT_EQ(config(8, 8192), kWideLongConfig);
  EXPECT_EQ(config(8, 131072), kWideLongConfig);
  EXPECT_EQ(config(32, 8192), kSlimLongConfig);
  EXPECT_EQ(config(1, 8192, 64), kWideConfig);
  EXPECT_EQ(config(32, 8192, 64), kSlimConfig);
  const std::vector<int> lens(32, 8192);
  tq_cuda_plan_request r = Request(lens);
  EXPECT_EQ(PlanAttention(r).plan.dynamic, 1);
  r.k_format = r.v_format = TQ_CUDA_TURBO8;
  EXPECT_EQ(PlanAttention(r).plan.config, kSlimConfig);
  EXPECT_EQ(PlanAttention(r).plan.dynamic, 1);
  r.reproducible = 1;
  EXPECT_EQ(PlanAttention(r).plan.dynamic, 0);
}

TEST(AttentionPlan, FastMemoryWantsMoreWarps) {
  const auto plan = [](int batch, bool exact_rows) {
    const std::vector<int> lens(static_cast<size_t>(batch), 32768);
    const std::vector<int> exact(static_cast<size_t>(batch), 132);
    tq_cuda_plan_request r = Request(lens, kH200);
    if (exact_rows) r.exact_len = exact.data();
    return PlanAttention(r).plan;
  };
  // 256 kv heads fill 132 SMs twice, 512 four times.
  for (const int batch : {32, 64}) {
    EXPECT_EQ(plan(batch, false).config, kWideLongConfig);
    EXPECT_EQ(plan(batch, false).num_items, 8 * batch);
  }
  // 160 fill them neither once nor twice, and exact rows are no full item.
  for (const auto& p : {plan(20, false), plan(20, true)}) {
    EXPECT_EQ(p.config, kSlimLongConfig);
    EXPECT_EQ(p.num_items, 3 * 160);
    EXPECT_EQ(p.dynamic, 0);
  }
}

TEST(AttentionPlan, FastMemoryTakesWhatTheSweepFoundThere) {
  const std::vector<int> lens(8, 32768);
  const auto plan = [&lens](int k_format, int v_format, int head_dim) {
    tq_cuda_plan_request r = Request(lens, kH200);
    r.k_format = k_format, r.v_format = v_format, r.head_dim = head_dim;
    const tq_cuda_plan p = PlanAttention(r).plan;
    return std::tuple(p.config, p.splits, p.dynamic);
  };
  EXPECT_EQ(plan(4, 4, 96), std::tuple(kSlimConfig, 6, 0));
  EXPECT_EQ(plan(3, 3, 80), std::tuple(kSlimConfig, 6, 0));
  EXPECT_EQ(plan(TQ_CUDA_TURBO3T, TQ_CUDA_TURBO3T, 128), std::tuple(kSlimConfig, 6, 0));
  EXPECT_EQ(plan(TQ_CUDA_TURBO4T, TQ_CUDA_TURBO4T, 128), std::tuple(kSlimConfig, 4, 0));
  EXPECT_EQ(plan(TQ_CUDA_TURBO4T, TQ_CUDA_TURBO3T, 256), std::tuple(kSlimConfig, 4, 1));
  EXPECT_EQ(plan(4, 4, 256), std::tuple(kSlimConfig, 4, 1));
  EXPECT_EQ(plan(TQ_CUDA_TURBO8, TQ_CUDA_TURBO8, 128), std::tuple(kWideConfig, 2, 1));
  EXPECT_EQ(plan(TQ_CUDA_TURBO8, 4, 128), std::tuple(kSlimConfig, 4, 1));
}

TEST(AttentionPlan, TheCacheIsReadOnceForAsManyRowsAsPossible) {
  const std::vector<int> lens = {8192};
  const auto tile = [&](int format, int head_dim, int rows) {
    tq_cuda_plan_request r = Request(lens);
    r.k_format = r.v_format = format, r.head_dim = head_dim, r.group = rows;
    const AttentionPlan plan = PlanAttention(r);
    EXPECT_EQ(plan.plan.path, TQ_CUDA_PATH_INT8);
    return plan.plan.row_tile;
  };
  for (const int d : {64, 128}) {
    EXPECT_EQ(tile(TQ_CUDA_TURBO3, d, 4), 4);
    EXPECT_EQ(tile(TQ_CUDA_TURBO3, d, 5), 8);
    EXPECT_EQ(tile(TQ_CUDA_TURBO3, d, 16), 16);
    EXPECT_EQ(tile(TQ_CUDA_TURBO3T, d, 4), 4);
    EXPECT_EQ(tile(TQ_CUDA_TURBO3T, d, 16), d == 128 ? 8 : 4);
  }
  EXPECT_EQ(tile(TQ_CUDA_TURBO4, 256, 8), 8);
  EXPECT_EQ(tile(TQ_CUDA_TURBO4, 256, 16), 8);
  EXPECT_EQ(tile(TQ_CUDA_TURBO4, 96, 8), 4);
  EXPECT_EQ(tile(TQ_CUDA_TURBO4T, 256, 8), 4);
}

TEST(AttentionPlan, UniformItemsAreThoseOfTheKernel) {
  const std::vector<int> lens(3, 1000), exact(3, 40);
  tq_cuda_plan_request r = Request(lens);
  r.exact_len = exact.data();
  const AttentionPlan plan = PlanAttention(r);
  ASSERT_EQ(plan.plan.uniform, 1);
  const int heads = r.num_kv_heads * plan.plan.row_tiles;
  std::map<int, tq_cuda_item> by_partial;
  for (const tq_cuda_item& item : plan.items) by_partial[item.partial] = item;
  for (int b = 0; b < 3; ++b) {
    for (int head = 0; head < heads; ++head) {
      for (int split = 0; split < plan.plan.splits; ++split) {
        const tq_cuda_item got = UniformItem(plan.plan, split, head, heads, b);
        const tq_cuda_item want = by_partial.at(got.partial);
        EXPECT_EQ(std::memcmp(&got, &want, sizeof(got)), 0) << b << " " << head << " " << split;
      }
    }
  }
}

TEST(AttentionPlan, RaggedLengthsAreCoveredAndBalanced) {
  const std::vector<int> lens = {1, 63, 64, 65, 131072, 5, 640, 0, 20000, 4096};
  for (const tq_cuda_device& device : {kH200, kSmall}) {
    const tq_cuda_plan_request r = Request(lens, device);
    const AttentionPlan plan = PlanAttention(r);
    EXPECT_EQ(plan.plan.uniform, 0);
    ExpectCovers(r, plan);
    int longest = 0;
    int64_t pages = 0;
    for (const tq_cuda_item& item : plan.items) {
      longest = std::max(longest, item.end - item.begin);
      pages += item.end - item.begin;
    }
    // No item is far above an even share of the device, but for the limit on splits.
    const int64_t share = pages / device.num_sms + 8;
    EXPECT_LE(longest, std::max<int64_t>(2 * share, 2048 / (kMaxPartials - 1) + 1));
    EXPECT_TRUE(std::is_sorted(plan.items.begin(), plan.items.end(),
                               [](auto& x, auto& y) { return x.end - x.begin > y.end - y.begin; }));
  }
}

TEST(AttentionPlan, EveryConformanceCaseIsCovered) {
  for (const tq_cuda_device& device : {kH200, kSmall}) {
    for (const CudaCase& c : ConformanceCases()) {
      CudaTensors t;
      t.coded_len.assign(c.coded_len.begin(), c.coded_len.end());
      for (size_t b = 0; b < c.coded_len.size(); ++b) {
        const int tail = c.tail.empty() ? 0 : c.tail[b];
        t.total_len.push_back(c.sinks + c.coded_len[b] + tail);
        t.exact_len.push_back(c.sinks + tail);
        t.max_exact = std::max(t.max_exact, c.sinks + tail);
      }
      const tq_cuda_plan_request r = PlanRequest(c, t, device);
      ASSERT_EQ(WhyUnsupported(r), "") << c.name;
      const AttentionPlan plan = PlanAttention(r);
      EXPECT_GE(plan.plan.row_tile * plan.plan.row_tiles, c.group * c.q_len) << c.name;
      ExpectCovers(r, plan);
    }
  }
}

TEST(AttentionPlan, WindowSkipsPagesNobodySees) {
  const std::vector<int> lens = {10000};
  tq_cuda_plan_request r = Request(lens);
  r.window = 512;
  const AttentionPlan plan = PlanAttention(r);
  int first = 1 << 30;
  for (const tq_cuda_item& item : plan.items) first = std::min(first, item.begin);
  EXPECT_EQ(first, (10000 - 1 - 512 + 1) / 64);
}

TEST(AttentionPlan, FormatsAndTheirPath) {
  const std::vector<int> lens = {1000};
  const auto path = [&](int k, int v, int head_dim, int smem) {
    tq_cuda_plan_request r = Request(lens);
    r.k_format = k, r.v_format = v, r.head_dim = head_dim;
    r.smem_per_block = smem, r.smem_per_sm = smem + 1024;
    EXPECT_EQ(WhyUnsupported(r), "");
    return ChoosePath(r);
  };
  constexpr int kLarge = 227 * 1024, kLittle = 99 * 1024;
  for (const auto& [k, v] : std::vector<std::pair<int, int>>{
           {4, 4}, {4, 3}, {4, 2}, {3, 4}, {3, 2}, {8, 8}, {8, 4}, {8, 3}, {20, 19}}) {
    for (const int d : {64, 128, 256}) EXPECT_EQ(path(k, v, d, kLarge), TQ_CUDA_PATH_INT8);
  }
  for (const int d : {80, 96, 192}) EXPECT_EQ(path(8, 8, d, kLarge), TQ_CUDA_PATH_INT8);
  EXPECT_EQ(path(4, 2, 80, kLarge), TQ_CUDA_PATH_PAIR);
  EXPECT_EQ(path(2, 4, 128, kLarge), TQ_CUDA_PATH_PAIR);
  EXPECT_EQ(path(4, 8, 128, kLarge), TQ_CUDA_PATH_PAIR);
  // The table of centroids and the pages of turbo8 want their room.
  EXPECT_EQ(path(8, 8, 128, kLittle), TQ_CUDA_PATH_PAIR);
  EXPECT_EQ(path(8, 4, 128, kLittle), TQ_CUDA_PATH_PAIR);
  EXPECT_EQ(path(8, 8, 64, kLittle), TQ_CUDA_PATH_INT8);
  EXPECT_EQ(path(8, 8, 256, 163 * 1024), TQ_CUDA_PATH_PAIR);
  EXPECT_EQ(path(8, 8, 128, 163 * 1024), TQ_CUDA_PATH_INT8);
}

TEST(AttentionPlan, DeclinesWithASentence) {
  const std::vector<int> lens = {100};
  const auto why = [&](auto change) {
    tq_cuda_plan_request r = Request(lens);
    change(r);
    return WhyUnsupported(r);
  };
  EXPECT_EQ(why([](auto&) {}), "");
  EXPECT_NE(why([](auto& r) { r.k_format = 5; }), "");
  EXPECT_NE(why([](auto& r) { r.head_dim = 100; }), "");
  EXPECT_NE(why([](auto& r) { r.group = 17; }), "");
  EXPECT_NE(why([](auto& r) { r.q_len = 17; }), "");
  EXPECT_NE(why([](auto& r) { r.window = -1; }), "");
  EXPECT_NE(why([](auto& r) { r.num_sms = 0; }), "");
  EXPECT_NE(why([](auto& r) { r.v_format = TQ_CUDA_TURBO8, r.path = TQ_CUDA_PATH_INT8; }), "");
  const std::vector<int> negative = {-1};
  EXPECT_NE(why([&](auto& r) { r.coded_len = negative.data(); }), "");
}

TEST(RowMask, CausalTreeAndWindow) {
  const RowMask causal = MakeRowMask(100, 4, 1, 0, nullptr);
  EXPECT_TRUE(causal.Sees(0));
  EXPECT_TRUE(causal.Sees(97));
  EXPECT_FALSE(causal.Sees(98));
  const uint32_t tree_bits = 0b1001;
  const RowMask tree = MakeRowMask(100, 4, 3, 0, &tree_bits);
  EXPECT_TRUE(tree.Sees(95));
  EXPECT_TRUE(tree.Sees(96));
  EXPECT_FALSE(tree.Sees(97));
  EXPECT_TRUE(tree.Sees(99));
  EXPECT_FALSE(tree.Sees(100));
  const RowMask window = MakeRowMask(100, 4, 1, 10, nullptr);
  EXPECT_FALSE(window.Sees(87));
  EXPECT_TRUE(window.Sees(88));
  EXPECT_FALSE(window.Sees(1 << 28));
}

}  // namespace
}  // namespace turboquant::cuda
