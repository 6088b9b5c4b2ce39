#include "kernels/cuda/prefill_plan.h"

#include <algorithm>

#include "kernels/cuda/attention_plan.h"

namespace turboquant::cuda {
namespace {

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

int PrefixLength(const tq_cuda_prefill_params& p, int b) {
  return p.prefix_len != nullptr ? p.prefix_len[b] : p.coded_begin + p.coded_len[b];
}

// Bytes of one coded token's decoded rows of all kv heads.
size_t SlotBytes(const tq_cuda_prefill_params& p) {
  return static_cast<size_t>(p.cache.num_kv_heads) * 4 * static_cast<size_t>(p.cache.head_dim);
}

int64_t PowerBelow(int64_t n) {
  int64_t power = 1;
  while (2 * power <= n) power *= 2;
  return power;
}

int64_t PowerAbove(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// Query rows that a call of cuDNN has room for: few different numbers, each compiled once.
int DenseRows(int rows) {
  const int64_t step = std::max<int64_t>(128, PowerBelow(rows) / 8);
  return static_cast<int>((rows + step - 1) / step * step);
}

// First coded token from where on all queries of the sequence see every key, without a softcap:
// what cuDNN attends has no mask. At the start of a page.
int FirstDenseToken(const tq_cuda_prefill_params& p, int b) {
  const int begin =
      p.window > 0 ? std::max(0, PrefixLength(p, b) + p.chunk_len[b] - p.window - p.coded_begin)
                   : 0;
  return p.softcap > 0.0f ? p.coded_len[b] : CeilDiv(begin, kTileTokens) * kTileTokens;
}

// Keys of the next call of cuDNN for a sequence with `left` keys that all its queries see; 0: they
// are for our kernel.
int DenseKeys(const tq_cuda_prefill_params& p, const tq_cuda_prefill_plan& plan, int b, int left) {
  if (plan.dense_rows == 0 || left < kDenseKeys || plan.window_tokens < kDenseKeys) return 0;
  const int64_t keys = std::min(left, plan.window_tokens);
  const int64_t least = p.dense_least > 0 ? p.dense_least : kDenseLeast;
  return keys * p.chunk_len[b] * p.group >= least ? static_cast<int>(keys) : 0;
}

void Append(const tq_cuda_prefill_params& p, const PrefillCursor& at, PrefillPiece piece,
            PrefillStep* step) {
  const int b = at.sequence;
  piece.first_row = at.first_row;
  piece.rows = p.chunk_len[b] * p.group;
  piece.query_position = PrefixLength(p, b);
  piece.sequence = b;
  piece.first_tile = step->tiles;
  if (piece.dense_rows == 0) step->tiles += CeilDiv(piece.rows, PrefillRows(p.cache.head_dim));
  step->pieces[step->num_pieces++] = piece;
}

void Advance(const tq_cuda_prefill_params& p, PrefillCursor* at) {
  at->first_row += p.chunk_len[at->sequence] * p.group;
  ++at->sequence;
  at->token = -1;
}

}  // namespace

const char* WhyPrefillUnsupported(const tq_cuda_prefill_params& p) {
  TileFormat f;
  if (!ParseTileFormat(p.cache.k_format, &f) || !ParseTileFormat(p.cache.v_format, &f)) {
    return "The cache formats of CUDA are turbo2, turbo3, turbo4, turbo8, turbo2t, turbo3t and "
           "turbo4t.";
  }
  if (!SupportedTileHeadDim(p.cache.head_dim)) {
    return "head_dim must be 64, 80, 96, 128, 192 or 256.";
  }
  if (p.group < 1 || p.group > 64) return "group must be 1 to 64 query heads for each kv head.";
  if (p.batch < 1 || p.cache.num_kv_heads < 1 || p.chunk_len == nullptr || p.coded_len == nullptr) {
    return "batch and num_kv_heads must be at least 1; chunk_len and coded_len must be given.";
  }
  if ((p.dtype != TQ_CUDA_F16 && p.dtype != TQ_CUDA_BF16)) {
    return "Queries and exact rows must be f16 or bf16, all alike.";
  }
  if (!(p.scale > 0.0f)) return "scale must be above 0.";
  if (!(p.softcap >= 0.0f) || p.window < 0 || p.coded_begin < 0) {
    return "softcap, window and coded_begin must not be negative.";
  }
  int64_t rows = 0;
  for (int b = 0; b < p.batch; ++b) {
    if (p.chunk_len[b] < 0 || p.coded_len[b] < 0 ||
        (p.exact_len != nullptr && p.exact_len[b] < 0)) {
      return "A sequence has a negative length.";
    }
    if (PrefixLength(p, b) < p.coded_begin + p.coded_len[b]) {
      return "prefix_len must count the coded tokens and those in front of them.";
    }
    rows += int64_t{p.chunk_len[b]} * p.group;
  }
  if (rows == 0) return "There is no query token.";
  if (rows > (int64_t{1} << 30)) return "There are more than 2^30 query rows a kv head.";
  return nullptr;
}

int FirstVisibleToken(const tq_cuda_prefill_params& p, int sequence) {
  const int begin = p.window > 0 ? PrefixLength(p, sequence) - p.window + 1 - p.coded_begin : 0;
  return std::clamp(begin, 0, p.coded_len[sequence]) / kTileTokens * kTileTokens;
}

// Turns a plan into one with calls of cuDNN, if there are any.
void PlanDense(const tq_cuda_prefill_params& p, int slots, tq_cuda_prefill_plan* plan) {
  tq_cuda_prefill_plan with = *plan;
  with.window_tokens = slots;
  with.dense_rows = 1;
  int rows = 0;
  PrefillCursor cursor;
  PrefillStep step;
  while (NextCodedStep(p, with, &cursor, &step)) {
    for (int i = 0; i < step.num_pieces; ++i) rows = std::max(rows, step.pieces[i].dense_rows);
  }
  with.dense_rows = rows;
  if (rows > 0) *plan = with;
}

tq_cuda_prefill_plan PlanPrefill(const tq_cuda_prefill_params& p, bool dense) {
  tq_cuda_prefill_plan plan{};
  int64_t coded = 0, longest = 0;
  for (int b = 0; b < p.batch; ++b) {
    plan.chunk_tokens += p.chunk_len[b];
    if (p.chunk_len[b] == 0) continue;
    const int64_t pages = CeilDiv(p.coded_len[b] - FirstVisibleToken(p, b), kTileTokens);
    coded += pages * kTileTokens;
    longest = std::max(longest, pages * kTileTokens);
  }
  const size_t limit = p.scratch_bytes > 0 ? p.scratch_bytes : kDefaultScratchBytes;
  const int64_t room = static_cast<int64_t>(limit / SlotBytes(p)) / kTileTokens * kTileTokens;
  int64_t slots = std::min(coded, std::max<int64_t>(room, kTileTokens));
  if (slots > 0 && longest > slots) {
    // Windows of equal size: the last one is not a remnant.
    const int64_t windows = (coded + slots - 1) / slots;
    slots = CeilDiv(static_cast<int>((coded + windows - 1) / windows), kTileTokens) * kTileTokens;
  }
  plan.window_tokens = static_cast<int32_t>(slots);
  if (dense && room >= kDenseKeys) {
    PlanDense(p, static_cast<int>(std::min(PowerAbove(coded), PowerBelow(room))), &plan);
  }
  plan.workspace_bytes = PrefillWorkspaceOf(p, plan).bytes;
  return plan;
}

void SetDenseBytes(const tq_cuda_prefill_params& p, size_t bytes, tq_cuda_prefill_plan* plan) {
  plan->dense_bytes = bytes;
  plan->workspace_bytes = PrefillWorkspaceOf(p, *plan).bytes;
}

PrefillWorkspace PrefillWorkspaceOf(const tq_cuda_prefill_params& p,
                                    const tq_cuda_prefill_plan& plan) {
  PrefillWorkspace w{};
  const auto take = [&w](size_t bytes) {
    const size_t at = w.bytes;
    w.bytes += (bytes + 255) / 256 * 256;
    return at;
  };
  const size_t d = static_cast<size_t>(p.cache.head_dim);
  const size_t heads = static_cast<size_t>(p.cache.num_kv_heads);
  const size_t rows = heads * static_cast<size_t>(plan.chunk_tokens) * static_cast<size_t>(p.group);
  const size_t slots = static_cast<size_t>(plan.window_tokens);
  const size_t dense_rows = heads * static_cast<size_t>(plan.dense_rows);
  w.values = take(rows * d * sizeof(float));
  w.sums = take(rows * 2 * sizeof(float));
  if (slots > 0) {
    w.rotated = take(rows * d * 2);
    w.factors = take(rows * sizeof(float));
    w.keys = take(heads * slots * d * 2);
    w.coded_values = take(heads * slots * d * 2);
    w.key_scales = take(heads * slots * sizeof(float));
    w.means = take(heads * (slots / kTileTokens) * 2 * d * 2);
    w.mean_index = take(slots / kTileTokens * sizeof(int32_t));
    if (dense_rows > 0) w.dense_q = take((rows + dense_rows) * d * 2);
    w.dense_out = take(dense_rows * d * 2);
    w.dense_lse = take(dense_rows * sizeof(float));
    if (dense_rows > 0) w.dense_lengths = take(size_t{kMaxPrefillPieces} * 8 * sizeof(int32_t));
    w.dense = take(plan.dense_bytes);
  }
  return w;
}

bool NextCodedStep(const tq_cuda_prefill_params& p, const tq_cuda_prefill_plan& plan,
                   PrefillCursor* cursor, PrefillStep* step) {
  step->num_pieces = step->tiles = step->slots = 0;
  if (plan.window_tokens == 0) return false;
  while (cursor->sequence < p.batch && step->num_pieces < kMaxPrefillPieces) {
    const int b = cursor->sequence;
    if (p.chunk_len[b] == 0) {
      Advance(p, cursor);
      continue;
    }
    const bool fresh = cursor->token < 0;
    if (fresh) cursor->token = FirstVisibleToken(p, b);
    const int left = p.coded_len[b] - cursor->token;
    const int room = plan.window_tokens - step->slots;
    const int first_dense = FirstDenseToken(p, b);
    int take = std::min(left, room);
    int dense = 0;
    if (cursor->token >= first_dense) {
      dense = DenseKeys(p, plan, b, left);
      if (dense > 0) take = dense;
    } else if (DenseKeys(p, plan, b, p.coded_len[b] - first_dense) > 0) {
      take = std::min(take, first_dense - cursor->token);
    }
    // The room of a call is a power of two, so that prefixes of any length take few compiled
    // graphs.
    const int slots = dense > 0 ? static_cast<int>(PowerAbove(dense)) : take;
    if (left > 0 && (room <= 0 || slots > room)) {
      if (fresh) cursor->token = -1;
      break;
    }
    PrefillPiece piece{};
    piece.first_key = step->slots;
    piece.keys = take;
    piece.first_token = cursor->token;
    piece.key_position = p.coded_begin + cursor->token;
    piece.fresh = fresh ? 1 : 0;
    if (dense > 0) {
      piece.dense_rows = DenseRows(p.chunk_len[b] * p.group);
      piece.dense_keys = slots;
    }
    Append(p, *cursor, piece, step);
    step->slots += PieceSlots(piece);
    cursor->token += take;
    // A row's state has one writer in a step.
    if (cursor->token < p.coded_len[b]) break;
    Advance(p, cursor);
  }
  return step->num_pieces > 0;
}

bool NextExactStep(const tq_cuda_prefill_params& p, const tq_cuda_prefill_plan& plan, bool chunk,
                   PrefillCursor* cursor, PrefillStep* step) {
  step->num_pieces = step->tiles = step->slots = 0;
  if (!chunk && p.exact_len == nullptr) return false;
  while (cursor->sequence < p.batch && step->num_pieces < kMaxPrefillPieces) {
    const int b = cursor->sequence;
    const int keys = chunk ? p.chunk_len[b] : p.exact_len[b];
    if (p.chunk_len[b] > 0 && keys > 0) {
      const bool met_exact = p.exact_len != nullptr && p.exact_len[b] > 0;
      PrefillPiece piece{};
      piece.keys = keys;
      piece.first_key = chunk ? cursor->first_row / p.group : 0;
      piece.key_position = chunk ? PrefixLength(p, b) : PrefixLength(p, b) - keys;
      piece.fresh = plan.window_tokens == 0 && !(chunk && met_exact) ? 1 : 0;
      Append(p, *cursor, piece, step);
    }
    Advance(p, cursor);
  }
  return step->num_pieces > 0;
}

}  // namespace turboquant::cuda
