#include "kernels/cuda/prefill_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/cuda/prefill_case.h"

namespace turboquant::cuda {
namespace {

struct Lengths {
  std::vector<int32_t> chunk, coded, exact, prefix;

  tq_cuda_prefill_params Params() const {
    tq_cuda_prefill_params p{};
    p.cache.k_format = p.cache.v_format = TQ_CUDA_TURBO4;
    p.cache.head_dim = 128;
    p.cache.num_kv_heads = 8;
    p.batch = static_cast<int32_t>(chunk.size());
    p.group = 4;
    p.dtype = TQ_CUDA_BF16;
    p.scale = 0.1f;
    p.chunk_len = chunk.data();
    p.coded_len = coded.data();
    p.exact_len = exact.empty() ? nullptr : exact.data();
    p.prefix_len = prefix.empty() ? nullptr : prefix.data();
    return p;
  }
};

// Every coded token that a query sees is attended by every row exactly once; slots do not overlap;
// the first piece of a sequence is the fresh one.
void CheckCoverage(const tq_cuda_prefill_params& p, bool dense) {
  ASSERT_EQ(WhyPrefillUnsupported(p), nullptr);
  const tq_cuda_prefill_plan plan = PlanPrefill(p, dense);
  int most_rows = 0;
  std::map<int, int> next;  // sequence -> coded token
  PrefillCursor cursor;
  PrefillStep step;
  int steps = 0;
  while (NextCodedStep(p, plan, &cursor, &step)) {
    ASSERT_LT(++steps, 100000);
    ASSERT_LE(step.slots, plan.window_tokens);
    int slot = 0, tile = 0;
    for (int i = 0; i < step.num_pieces; ++i) {
      const PrefillPiece& piece = step.pieces[i];
      const int b = piece.sequence;
      EXPECT_EQ(piece.fresh == 1, next.count(b) == 0);
      if (piece.fresh == 1) next[b] = FirstVisibleToken(p, b);
      EXPECT_EQ(piece.first_token, next[b]);
      EXPECT_EQ(piece.first_token % kTileTokens, 0);
      EXPECT_EQ(piece.key_position, p.coded_begin + piece.first_token);
      EXPECT_EQ(piece.first_key, slot);
      EXPECT_EQ(piece.rows, p.chunk_len[b] * p.group);
      EXPECT_EQ(piece.first_tile, tile);
      next[b] += piece.keys;
      slot += PieceSlots(piece);
      EXPECT_LE(piece.keys, PieceSlots(piece));
      if (piece.dense_rows == 0) {
        tile += (piece.rows + PrefillRows(p.cache.head_dim) - 1) / PrefillRows(p.cache.head_dim);
        continue;
      }
      // Room for a power of two of keys; all rows see all keys; room for the rows and few more.
      EXPECT_GE(piece.keys, kDenseKeys);
      EXPECT_GT(2 * piece.keys, piece.dense_keys);
      EXPECT_EQ(piece.dense_keys & (piece.dense_keys - 1), 0);
      EXPECT_EQ(p.softcap, 0.0f);
      const int last_query = piece.query_position + p.chunk_len[b] - 1;
      EXPECT_TRUE(p.window == 0 || piece.key_position > last_query - p.window);
      EXPECT_GE(piece.dense_rows, piece.rows);
      EXPECT_LE(piece.dense_rows, piece.rows + std::max(128, piece.rows / 8));
      most_rows = std::max(most_rows, piece.dense_rows);
    }
    EXPECT_EQ(step.tiles, tile);
    EXPECT_EQ(step.slots, slot);
  }
  EXPECT_EQ(plan.dense_rows, most_rows);
  for (int b = 0; b < p.batch; ++b) {
    if (p.chunk_len[b] == 0 || plan.window_tokens == 0) {
      EXPECT_EQ(next.count(b), 0u);
    } else {
      EXPECT_EQ(next[b], p.coded_len[b]) << "sequence " << b;
    }
  }
}

TEST(PrefillPlan, EveryTokenIsAttendedOnce) {
  const Lengths ragged{{3, 0, 700, 1, 2}, {5000, 64, 0, 63, 129}, {}, {}};
  for (const size_t scratch : {size_t{1}, size_t{1} << 20, size_t{1} << 22, size_t{0}}) {
    for (const int window : {0, 1, 100, 3000}) {
      tq_cuda_prefill_params p = ragged.Params();
      p.scratch_bytes = scratch;
      p.window = window;
      CheckCoverage(p, false);
      for (const int64_t least : {1, 100000, 0}) {
        p.dense_least = least;
        CheckCoverage(p, true);
      }
    }
  }
  const Lengths many{std::vector<int32_t>(200, 2), std::vector<int32_t>(200, 100), {}, {}};
  CheckCoverage(many.Params(), true);
  const Lengths none{{5, 6}, {0, 0}, {}, {}};
  CheckCoverage(none.Params(), true);
  EXPECT_EQ(PlanPrefill(none.Params(), true).window_tokens, 0);
}

TEST(PrefillPlan, ScratchStaysWithinItsBound) {
  const Lengths l{{2048}, {131072}, {}, {}};
  tq_cuda_prefill_params p = l.Params();
  const tq_cuda_prefill_plan plan = PlanPrefill(p, false);
  const size_t slot_bytes = size_t{8} * 4 * 128;
  EXPECT_LE(plan.window_tokens * slot_bytes, kDefaultScratchBytes);
  EXPECT_GT(plan.window_tokens * slot_bytes, kDefaultScratchBytes * 8 / 10);
  // State and queries of the chunk, and the scratch: nothing grows with the prefix.
  const size_t rows = size_t{2048} * 32;
  EXPECT_LE(plan.workspace_bytes,
            rows * (128 * 6 + 12) + kDefaultScratchBytes * 103 / 100 + (1 << 16));
  p.scratch_bytes = size_t{8} << 20;
  EXPECT_LE(PlanPrefill(p, false).window_tokens * slot_bytes, size_t{8} << 20);
  // Windows of nearly equal size.
  const int windows = (131072 + plan.window_tokens - 1) / plan.window_tokens;
  EXPECT_GT(131072 - (windows - 1) * plan.window_tokens, plan.window_tokens / 2);
}

// What cuDNN is called for: query rows and keys that a call has room for, and its keys.
using Call = std::tuple<int, int, int>;

std::vector<Call> CallsOf(int chunk, int coded, auto change) {
  const Lengths l{{chunk}, {coded}, {}, {}};
  tq_cuda_prefill_params p = l.Params();
  change(&p);
  const tq_cuda_prefill_plan plan = PlanPrefill(p, true);
  std::vector<Call> calls;
  PrefillCursor cursor;
  PrefillStep step;
  while (NextCodedStep(p, plan, &cursor, &step)) {
    for (int i = 0; i < step.num_pieces; ++i) {
      const PrefillPiece& piece = step.pieces[i];
      if (piece.dense_rows > 0) calls.emplace_back(piece.dense_rows, piece.dense_keys, piece.keys);
    }
  }
  return calls;
}

TEST(PrefillPlan, WindowsThatAllQueriesSeeGoToCudnn) {
  using Calls = std::vector<Call>;
  const auto plain = [](auto*) {};
  EXPECT_EQ(CallsOf(2048, 32768, plain), (Calls{{8192, 16384, 16384}, {8192, 16384, 16384}}));
  EXPECT_EQ(CallsOf(2048, 30000, plain), (Calls{{8192, 16384, 16384}, {8192, 16384, 13616}}));
  EXPECT_EQ(CallsOf(2048, 16384 + 511, plain), (Calls{{8192, 16384, 16384}}));
  EXPECT_EQ(CallsOf(1100, 3000, plain), (Calls{{4608, 4096, 3000}}));
  // Every query of the chunk sees tokens from 6208 on.
  EXPECT_EQ(CallsOf(2000, 10240, [](auto* p) { p->window = 2000 + 4032; }),
            (Calls{{8192, 4096, 4032}}));
  EXPECT_EQ(CallsOf(2048, 32768, [](auto* p) { p->softcap = 30.0f; }), Calls{});
  // Too little to be worth a call; worth one when the caller says so.
  EXPECT_EQ(CallsOf(10, 16384, plain), Calls{});
  EXPECT_EQ(CallsOf(10, 16384, [](auto* p) { p->dense_least = 1000; }),
            (Calls{{128, 16384, 16384}}));
  EXPECT_EQ(CallsOf(2048, 32768, [](auto* p) { p->scratch_bytes = 1; }), Calls{});
}

TEST(PrefillPlan, FewShapesGoToCudnn) {
  std::set<std::pair<int, int>> shapes;
  const auto meet = [&](int chunk, int coded) {
    for (const auto& [rows, keys, count] : CallsOf(chunk, coded, [](auto*) {})) {
      shapes.emplace(rows, keys);
    }
  };
  for (int coded = 0; coded < 200000; coded += 777) meet(2048, coded);
  EXPECT_EQ(shapes.size(), 5u);
  for (int chunk = 1; chunk <= 2048; ++chunk) meet(chunk, 32768);
  EXPECT_LE(shapes.size(), 50u);
}

TEST(PrefillPlan, ArraysOfTheWorkspaceDoNotOverlap) {
  const Lengths l{{100}, {1000}, {}, {}};
  tq_cuda_prefill_params p = l.Params();
  p.dense_least = 1;
  tq_cuda_prefill_plan plan = PlanPrefill(p, true);
  ASSERT_EQ(plan.dense_rows, 512);
  SetDenseBytes(p, 12345, &plan);
  const PrefillWorkspace w = PrefillWorkspaceOf(p, plan);
  const size_t rows = size_t{8} * 400, slots = size_t{8} * static_cast<size_t>(plan.window_tokens);
  std::map<size_t, size_t> arrays = {{w.values, rows * 128 * 4},
                                     {w.sums, rows * 8},
                                     {w.rotated, rows * 128 * 2},
                                     {w.dense_q, (rows + 8 * 512) * 128 * 2},
                                     {w.factors, rows * 4},
                                     {w.keys, slots * 128 * 2},
                                     {w.coded_values, slots * 128 * 2},
                                     {w.key_scales, slots * 4},
                                     {w.means, slots / 64 * 2 * 128 * 2},
                                     {w.mean_index, slots / 8 / 64 * 4},
                                     {w.dense_out, size_t{8} * 512 * 128 * 2},
                                     {w.dense_lse, size_t{8} * 512 * 4},
                                     {w.dense_lengths, size_t{64} * 8 * 4},
                                     {w.dense, 12345}};
  ASSERT_EQ(arrays.size(), 14u);
  size_t end = 0;
  for (const auto& [at, bytes] : arrays) {
    EXPECT_EQ(at % 256, 0u);
    EXPECT_GE(at, end);
    end = at + bytes;
  }
  EXPECT_LE(end, plan.workspace_bytes);
}

TEST(PrefillPlan, ExactRowsAreMetBeforeTheChunk) {
  const Lengths l{{3, 4, 0}, {0, 0, 0}, {9, 0, 5}, {9, 0, 5}};
  const tq_cuda_prefill_params p = l.Params();
  const tq_cuda_prefill_plan plan = PlanPrefill(p, false);
  PrefillStep step;
  PrefillCursor before, chunk;
  ASSERT_TRUE(NextExactStep(p, plan, false, &before, &step));
  ASSERT_EQ(step.num_pieces, 1);  // the third sequence has no query
  EXPECT_EQ(step.pieces[0].fresh, 1);
  EXPECT_EQ(step.pieces[0].key_position, 0);
  ASSERT_TRUE(NextExactStep(p, plan, true, &chunk, &step));
  ASSERT_EQ(step.num_pieces, 2);
  EXPECT_EQ(step.pieces[0].fresh, 0);
  EXPECT_EQ(step.pieces[1].fresh, 1);
  EXPECT_EQ(step.pieces[0].key_position, 9);
  EXPECT_EQ(step.pieces[1].first_key, 3);
  EXPECT_EQ(step.pieces[1].first_row, 12);
  EXPECT_FALSE(NextExactStep(p, plan, true, &chunk, &step));
}

TEST(PrefillPlan, SaysWhatItDoesNotServe) {
  const Lengths l{{3}, {64}, {}, {}};
  const auto why = [&](auto change) {
    tq_cuda_prefill_params p = l.Params();
    change(&p);
    const char* text = WhyPrefillUnsupported(p);
    return std::string(text != nullptr ? text : "");
  };
  EXPECT_EQ(why([](auto*) {}), "");
  EXPECT_NE(why([](auto* p) { p->cache.head_dim = 112; }).find("head_dim"), std::string::npos);
  EXPECT_NE(why([](auto* p) { p->cache.k_format = 5; }).find("turbo4t"), std::string::npos);
  EXPECT_NE(why([](auto* p) { p->group = 65; }).find("group"), std::string::npos);
  EXPECT_NE(why([](auto* p) { p->dtype = TQ_CUDA_F32; }).find("bf16"), std::string::npos);
  EXPECT_NE(why([](auto* p) { p->scale = 0; }).find("scale"), std::string::npos);
  EXPECT_NE(why([](auto* p) { p->window = -1; }).find("window"), std::string::npos);
  EXPECT_NE(why([](auto* p) { p->coded_len = nullptr; }).find("coded_len"), std::string::npos);
  const int32_t negative = -1, zero = 0;
  EXPECT_NE(why([&](auto* p) { p->coded_len = &negative; }).find("negative"), std::string::npos);
  EXPECT_NE(why([&](auto* p) { p->chunk_len = &zero; }).find("no query"), std::string::npos);
  EXPECT_NE(why([&](auto* p) { p->prefix_len = &zero; }).find("prefix_len"), std::string::npos);
}

}  // namespace
}  // namespace turboquant::cuda
