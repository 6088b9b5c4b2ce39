#include "kernels/cuda/prefill_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
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
void CheckCoverage(const tq_cuda_prefill_params& p) {
  ASSERT_EQ(WhyPrefillUnsupported(p), nullptr);
  const tq_cuda_prefill_plan plan = PlanPrefill(p);
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
      slot += (piece.keys + kTileTokens - 1) / kTileTokens * kTileTokens;
      tile += (piece.rows + PrefillRows(p.cache.head_dim) - 1) / PrefillRows(p.cache.head_dim);
    }
    EXPECT_EQ(step.tiles, tile);
    EXPECT_EQ(step.slots, slot);
  }
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
      CheckCoverage(p);
    }
  }
  const Lengths many{std::vector<int32_t>(200, 2), std::vector<int32_t>(200, 100), {}, {}};
  CheckCoverage(many.Params());
  const Lengths none{{5, 6}, {0, 0}, {}, {}};
  CheckCoverage(none.Params());
  EXPECT_EQ(PlanPrefill(none.Params()).window_tokens, 0);
}

TEST(PrefillPlan, ScratchStaysWithinItsBound) {
  const Lengths l{{2048}, {131072}, {}, {}};
  tq_cuda_prefill_params p = l.Params();
  const tq_cuda_prefill_plan plan = PlanPrefill(p);
  const size_t slot_bytes = 8 * (4 * 128 + 4 + 8);
  EXPECT_LE(plan.window_tokens * slot_bytes, kDefaultScratchBytes);
  EXPECT_GT(plan.window_tokens * slot_bytes, kDefaultScratchBytes * 8 / 10);
  // State and queries of the chunk, and the scratch: nothing grows with the prefix.
  const size_t rows = size_t{2048} * 32;
  EXPECT_LE(plan.workspace_bytes, rows * (128 * 6 + 12) + kDefaultScratchBytes + (1 << 16));
  p.scratch_bytes = size_t{8} << 20;
  EXPECT_LE(PlanPrefill(p).window_tokens * slot_bytes, size_t{8} << 20);
  // Windows of nearly equal size.
  const int windows = (131072 + plan.window_tokens - 1) / plan.window_tokens;
  EXPECT_GT(131072 - (windows - 1) * plan.window_tokens, plan.window_tokens / 2);
}

TEST(PrefillPlan, ArraysOfTheWorkspaceDoNotOverlap) {
  const Lengths l{{100}, {1000}, {}, {}};
  const tq_cuda_prefill_params p = l.Params();
  const tq_cuda_prefill_plan plan = PlanPrefill(p);
  const PrefillWorkspace w = PrefillWorkspaceOf(p, plan);
  const size_t rows = size_t{8} * 400, slots = size_t{8} * static_cast<size_t>(plan.window_tokens);
  std::map<size_t, size_t> arrays = {
      {w.values, rows * 128 * 4},        {w.sums, rows * 8},
      {w.rotated, rows * 128 * 2},       {w.factors, rows * 4},
      {w.keys, slots * 128 * 2},         {w.coded_values, slots * 128 * 2},
      {w.key_scales, slots * 4},         {w.means, slots / 64 * 2 * 128 * 2},
      {w.mean_index, slots / 8 / 64 * 4}};
  ASSERT_EQ(arrays.size(), 9u);
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
  const tq_cuda_prefill_plan plan = PlanPrefill(p);
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
