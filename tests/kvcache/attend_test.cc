// Attention over {coded, exact} segments against a double-precision reference on the decoded rows.
#include "attention/attend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "kvcache/row_store.h"

namespace turboquant {
namespace {

struct Case {
  int head_dim_k, head_dim_v, kv_heads, group, tokens, cells;
  Format k, v;
  bool mask, alibi, sinks;
  float softcap;
  float peak = 1.0f;  // factor on the queries: from flat to nearly one-hot weights
};

std::string Name(const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return "dk" + std::to_string(c.head_dim_k) + "dv" + std::to_string(c.head_dim_v) + "h" +
         std::to_string(c.kv_heads) + "g" + std::to_string(c.group) + "t" +
         std::to_string(c.tokens) + "n" + std::to_string(c.cells) + std::string(FormatName(c.k)) +
         std::string(FormatName(c.v)) + (c.alibi ? "alibi" : "") + (c.sinks ? "sinks" : "") +
         (c.softcap > 0 ? "cap" : "") + (c.peak > 1 ? "peaky" : "") + (c.mask ? "" : "nomask");
}

class AttendTest : public testing::TestWithParam<Case> {};

struct OneSide {
  std::vector<uint8_t> memory;
  Rotation rotation;
  RowStore store;
  OneSide(const StoreShape& shape, const KernelTable& kernels)
      : memory(RowStore::BlockBytes(shape) + 64), rotation(shape.head_dim, 7) {
    auto* base = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) &
                                            ~uintptr_t{63});
    store.Bind(shape, base, &rotation, 7, &kernels);
  }
};

void Fill(OneSide* side, SplitMix64* rng, float mean) {
  const int width = side->store.shape().width;
  std::vector<uint16_t> values(static_cast<size_t>(side->store.shape().cells) * width);
  std::vector<NewRow> rows;
  for (int c = 0; c < side->store.shape().cells; ++c) {
    for (int i = 0; i < width; ++i) {
      const double common = mean * std::sin(0.7 * i);  // what centring removes
      values[static_cast<size_t>(c) * width + i] =
          FloatToHalf(static_cast<float>(rng->Normal() + common));
    }
    rows.push_back({c, values.data() + static_cast<size_t>(c) * width});
  }
  side->store.Append(rows.data(), static_cast<int>(rows.size()));
}

TEST_P(AttendTest, MatchesDoubleReference) {
  const Case c = GetParam();
  for (const KernelTable* kernels : AllKernels()) {
    if (kernels == nullptr) continue;
    SCOPED_TRACE(kernels->name);
    SplitMix64 rng(11);
    StoreShape shape;
    shape.cells = c.cells;
    shape.sink = std::min(4, c.cells);
    shape.tail = 32;
    shape.page = 64;
    shape.head_dim = c.head_dim_k;
    shape.width = c.kv_heads * c.head_dim_k;
    shape.format = c.k;
    shape.center = true;
    OneSide k(shape, *kernels);
    shape.head_dim = c.head_dim_v;
    shape.width = c.kv_heads * c.head_dim_v;
    shape.format = c.v;
    // Either form must do: values may be a part of the keys' rows.
    shape.form = c.cells % 2 == 0 ? TileForm::kValues : TileForm::kKeys;
    shape.center = false;
    OneSide v(shape, *kernels);
    Fill(&k, &rng, 3.0f);
    Fill(&v, &rng, 0.0f);

    const int heads = c.kv_heads * c.group;
    std::vector<float> q(static_cast<size_t>(c.tokens) * heads * c.head_dim_k);
    for (float& x : q) x = c.peak * static_cast<float>(rng.Normal());
    std::vector<uint16_t> mask(static_cast<size_t>(c.tokens) * c.cells, 0);
    for (int t = 0; t < c.tokens; ++t) {
      for (int j = 0; j < c.cells; ++j) {
        const bool causal = j <= c.cells - c.tokens + t;
        const float bias = c.alibi ? -static_cast<float>(c.cells - c.tokens + t - j) : 0.0f;
        mask[static_cast<size_t>(t) * c.cells + j] = causal ? FloatToHalf(bias) : 0xFC00;
      }
    }
    if (c.tokens > 2) {  // a query that sees nothing gives zeros
      for (int j = 0; j < c.cells; ++j) mask[c.cells + j] = 0xFC00;
    }
    std::vector<float> slopes(heads), sinks(heads);
    for (int h = 0; h < heads; ++h) {
      slopes[h] = 1.0f / static_cast<float>(h + 2);
      sinks[h] = 0.5f * static_cast<float>(h);
    }

    std::vector<float> out(static_cast<size_t>(c.tokens) * heads * c.head_dim_v, -1.0f);
    AttentionRun run(*kernels);
    run.problems().resize(1);
    AttentionProblem& p = run.problems()[0];
    p.tokens = c.tokens;
    p.num_kv_heads = c.kv_heads;
    p.group = c.group;
    p.out_dim = c.head_dim_v;
    p.cells = c.cells;
    p.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim_k));
    p.softcap = c.softcap;
    p.slopes = c.alibi ? slopes.data() : nullptr;
    p.sinks = c.sinks ? sinks.data() : nullptr;
    p.q = reinterpret_cast<const char*>(q.data());
    p.q_head_stride = c.head_dim_k * 4;
    p.q_token_stride = p.q_head_stride * heads;
    p.out = reinterpret_cast<char*>(out.data());
    p.out_head_stride = c.head_dim_v * 4;
    p.out_token_stride = p.out_head_stride * heads;
    if (c.mask) {
      p.mask = reinterpret_cast<const char*>(mask.data());
      p.mask_token_stride = c.cells * 2;
    }
    p.k = k.store.CodedSide(0);
    p.v = v.store.CodedSide(0);
    p.hidden.assign(c.cells, 0);
    std::vector<NewRow> exact_k, exact_v;
    k.store.ListExact(&exact_k);
    v.store.ListExact(&exact_v);
    ASSERT_EQ(exact_k.size(), exact_v.size());
    for (size_t i = 0; i < exact_k.size(); ++i) {
      ASSERT_EQ(exact_k[i].cell, exact_v[i].cell);
      p.hidden[exact_k[i].cell] = kHalfMinusInfinity;
      p.exact.push_back({exact_k[i].cell, exact_k[i].values, exact_v[i].values});
    }
    // Windows are rings: their rows come in any order.
    if (c.cells % 3 == 0) std::reverse(p.exact.begin(), p.exact.end());
    run.RunAll();

    double error = 0, norm = 0;
    std::vector<float> krow(k.store.shape().width), vrow(v.store.shape().width);
    std::vector<std::vector<float>> ks, vs;
    for (int j = 0; j < c.cells; ++j) {
      k.store.ReadRow(j, krow.data());
      v.store.ReadRow(j, vrow.data());
      ks.push_back(krow);
      vs.push_back(vrow);
    }
    for (int t = 0; t < c.tokens; ++t) {
      for (int h = 0; h < heads; ++h) {
        const int kv = h / c.group;
        std::vector<double> logits(c.cells);
        double m = c.sinks ? sinks[h] : -std::numeric_limits<double>::infinity();
        for (int j = 0; j < c.cells; ++j) {
          double dot = 0;
          for (int d = 0; d < c.head_dim_k; ++d) {
            dot += static_cast<double>(q[(static_cast<size_t>(t) * heads + h) * c.head_dim_k + d]) *
                   ks[j][kv * c.head_dim_k + d];
          }
          dot *= p.scale;
          if (c.softcap > 0) dot = c.softcap * std::tanh(dot / c.softcap);
          if (c.mask) {
            dot += (c.alibi ? slopes[h] : 1.0f) *
                   static_cast<double>(HalfToFloat(mask[static_cast<size_t>(t) * c.cells + j]));
          }
          logits[j] = dot;
          m = std::max(m, dot);
        }
        const bool blind = std::isinf(m) && m < 0;
        double sum = c.sinks ? std::exp(sinks[h] - m) : 0.0;
        std::vector<double> expected(c.head_dim_v, 0.0);
        for (int j = 0; j < c.cells && !blind; ++j) {
          const double w = std::exp(logits[j] - m);
          sum += w;
          for (int d = 0; d < c.head_dim_v; ++d) expected[d] += w * vs[j][kv * c.head_dim_v + d];
        }
        for (int d = 0; d < c.head_dim_v; ++d) {
          const double want = blind ? 0.0 : expected[d] / sum;
          const double got = out[(static_cast<size_t>(t) * heads + h) * c.head_dim_v + d];
          error += (got - want) * (got - want);
          norm += want * want;
        }
      }
    }
    // f32 over at most a few thousand terms; or queries and weights in 15 bits.
    // A logit errs in proportion to the query.
    const bool floats = kernels == &ScalarKernels() || kernels == NeonKernels();
    const double bound = floats ? 1e-5 : 2e-4;
    EXPECT_LT(std::sqrt(error / norm), std::min(1e-3, bound * c.peak));
  }
}

constexpr Format k2 = Format::kTurbo2, k3 = Format::kTurbo3, k4 = Format::kTurbo4;
constexpr Format k2t = Format::kTurbo2t, k3t = Format::kTurbo3t, k4t = Format::kTurbo4t;
constexpr Format k8 = Format::kTurbo8;
INSTANTIATE_TEST_SUITE_P(
    Shapes, AttendTest,
    testing::Values(
        // decode, many chunks
        Case{64, 64, 3, 3, 1, 1500, k4, k3, true, false, false, 0},
        Case{128, 128, 2, 6, 1, 700, k3, k4, true, false, false, 0},
        Case{256, 256, 1, 4, 1, 600, k2, k2, true, false, false, 0},
        Case{64, 64, 1, 1, 1, 33, k4, k4, true, false, false, 0},
        Case{64, 64, 2, 8, 1, 1, k4, k4, true, false, false, 0},
        Case{64, 64, 2, 2, 1, 200, k4, k4, false, false, false, 0},
        // short batches around the limits of the paths
        Case{64, 64, 3, 3, 5, 513, k4, k4, true, false, false, 0},
        Case{64, 64, 3, 3, 6, 512, k3, k3, true, false, false, 0},
        Case{64, 64, 3, 3, 42, 600, k3, k3, true, false, false, 0},
        // prefill: tiles of query rows
        Case{64, 64, 3, 3, 100, 400, k4, k3, true, false, false, 0},
        Case{128, 128, 2, 4, 70, 300, k3, k3, true, false, false, 0},
        Case{64, 64, 2, 1, 130, 130, k4, k4, true, false, false, 0},
        Case{64, 64, 3, 3, 200, 1200, k4, k3, true, false, false, 0},
        Case{128, 128, 2, 6, 64, 901, k4, k3, true, false, false, 0},
        Case{64, 64, 1, 16, 30, 500, k2, k4, true, true, false, 0},
        Case{128, 128, 1, 1, 140, 450, k3, k3, true, false, true, 20.0f},
        Case{64, 64, 2, 2, 100, 384, k4, k4, false, false, false, 0},
        // weights on few cells
        Case{64, 64, 3, 3, 1, 1500, k4, k3, true, false, false, 0, 8.0f},
        Case{128, 128, 2, 6, 1, 700, k3, k4, true, false, false, 0, 8.0f},
        Case{128, 128, 2, 6, 40, 700, k4, k3, true, false, false, 0, 8.0f},
        // what models do to logits
        Case{64, 64, 2, 4, 1, 700, k4, k4, true, true, false, 0},
        Case{64, 64, 2, 4, 70, 700, k4, k4, true, true, false, 0},
        Case{64, 64, 2, 4, 1, 700, k4, k4, true, false, true, 0},
        Case{64, 64, 2, 4, 70, 300, k4, k4, true, false, true, 0},
        Case{128, 128, 2, 2, 3, 300, k4, k4, true, false, false, 30.0f},
        Case{128, 128, 2, 2, 80, 300, k4, k4, true, true, true, 30.0f},
        // head sizes
        Case{80, 80, 2, 4, 3, 300, k3, k3, true, false, false, 0},
        Case{96, 96, 2, 4, 70, 300, k4, k2, true, false, false, 0},
        Case{112, 112, 2, 1, 1, 300, k3, k3, true, false, false, 0},
        Case{192, 128, 2, 4, 1, 300, k3, k4, true, false, false, 0},
        Case{192, 128, 2, 4, 70, 300, k3, k4, true, false, false, 0},
        Case{576, 512, 1, 16, 1, 300, k4, k4, true, false, false, 0},
        Case{512, 512, 1, 2, 70, 200, k3, k3, true, false, false, 0},
        // trellis codes and 8 bits: decode, short batches, prefill, every group size and head size
        Case{64, 64, 3, 3, 1, 1500, k4t, k3t, true, false, false, 0},
        Case{128, 128, 2, 6, 1, 700, k3t, k4t, true, false, false, 0},
        Case{256, 256, 1, 4, 1, 600, k2t, k2t, true, false, false, 0},
        Case{64, 64, 1, 1, 1, 33, k3t, k2t, true, false, false, 0},
        Case{64, 64, 3, 3, 5, 513, k4t, k8, true, false, false, 0},
        Case{128, 128, 1, 16, 2, 300, k8, k4t, true, false, false, 0},
        Case{64, 64, 3, 3, 100, 400, k4t, k3t, true, false, false, 0},
        Case{128, 128, 2, 4, 70, 300, k8, k8, true, false, false, 0},
        Case{128, 128, 1, 5, 1, 300, k2t, k4, true, true, true, 30.0f},
        Case{80, 80, 2, 4, 3, 300, k3t, k3t, true, false, false, 0},
        Case{96, 96, 2, 2, 70, 300, k4t, k2t, true, false, false, 0},
        Case{112, 112, 2, 1, 1, 300, k4t, k3t, true, false, false, 0},
        Case{192, 128, 2, 8, 1, 300, k3t, k4t, true, false, false, 0},
        Case{512, 512, 1, 2, 1, 200, k3t, k3t, true, false, false, 0},
        Case{576, 512, 1, 16, 1, 300, k4t, k4t, true, false, false, 0},
        Case{576, 512, 1, 7, 1, 300, k2t, k8, true, false, false, 0}),
    Name);

// Runs all phases on `threads` threads that take whatever item is next, or on one in reverse order.
void RunOn(AttentionRun* run, int threads, bool reverse) {
  run->Prepare();
  const auto phase = [&](int items, auto&& item) {
    std::atomic<int> next{0};
    const auto work = [&] {
      for (int i = next++; i < items; i = next++) item(reverse ? items - 1 - i : i);
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  };
  phase(run->attend_items(), [&](int i) { run->AttendItem(i); });
  phase(run->merge_items(), [&](int i) { run->MergeItem(i); });
}

TEST(Attend, TheSameBitsOnAnyNumberOfThreadsInAnyOrder) {
  const KernelTable& kernels = BestKernels();
  StoreShape shape;
  shape.cells = 1400;
  shape.head_dim = 64;
  shape.width = 128;
  shape.sink = 4;
  shape.tail = 100;
  shape.page = 96;
  shape.center = true;
  OneSide k(shape, kernels);
  shape.center = false;
  OneSide v(shape, kernels);
  SplitMix64 rng(3);
  Fill(&k, &rng, 3.0f);
  Fill(&v, &rng, 0);
  std::vector<NewRow> exact_k, exact_v;
  k.store.ListExact(&exact_k);
  v.store.ListExact(&exact_v);
  AttentionRun run(kernels);  // one for all: nothing may be left of the problem before
  for (const int tokens : {1, 20, 100}) {
    std::vector<float> q(static_cast<size_t>(tokens) * 4 * 64);
    for (float& x : q) x = static_cast<float>(rng.Normal());
    std::vector<float> expected;
    for (const auto& [threads, reverse] : {std::pair(1, false), {1, true}, {2, false}, {5, true}}) {
      std::vector<float> out(q.size(), -1.0f);
      run.problems().assign(2, AttentionProblem());  // two streams, of 1400 and 700 cells
      for (int s = 0; s < 2; ++s) {
        AttentionProblem& p = run.problems()[s];
        p.tokens = tokens;
        p.num_kv_heads = 1;
        p.group = 2;
        p.out_dim = 64;
        p.cells = shape.cells / (s + 1);
        p.scale = 0.125f;
        p.q = reinterpret_cast<const char*>(q.data() + s * 2 * 64);
        p.q_head_stride = 256;
        p.q_token_stride = 1024;
        p.out = reinterpret_cast<char*>(out.data() + s * 2 * 64);
        p.out_head_stride = 256;
        p.out_token_stride = 1024;
        p.k = k.store.CodedSide(0);
        p.v = v.store.CodedSide(0);
        p.hidden.assign(p.cells, 0);
        for (size_t i = 0; i < exact_k.size(); ++i) {
          if (exact_k[i].cell >= p.cells) continue;
          p.hidden[exact_k[i].cell] = kHalfMinusInfinity;
          p.exact.push_back({exact_k[i].cell, exact_k[i].values, exact_v[i].values});
        }
      }
      RunOn(&run, threads, reverse);
      if (expected.empty()) expected = out;
      EXPECT_EQ(out, expected) << tokens << " tokens, " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace turboquant
