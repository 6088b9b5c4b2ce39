// The host side of prefill: what is supported, how the prefix is cut into windows, where things lie
// in the workspace. Pure functions of the parameters, tested without a GPU; nothing here allocates.
#ifndef TURBOQUANT_KERNELS_CUDA_PREFILL_PLAN_H_
#define TURBOQUANT_KERNELS_CUDA_PREFILL_PLAN_H_

#include <cstddef>
#include <cstdint>

#include "base/host_device.h"
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

inline constexpr int kMaxPrefillPieces = 64;
inline constexpr size_t kDefaultScratchBytes = size_t{64} << 20;
// A call of cuDNN takes at least so many keys, and enough of them for its rows that the launch and
// the merge after it cost less than they save.
inline constexpr int kDenseKeys = 512;
inline constexpr int64_t kDenseLeast = int64_t{1} << 20;

// Query rows of a CTA: token and head of the group, head fastest. Keys of a step of its loop.
TQ_HD constexpr int PrefillRows(int head_dim) { return head_dim <= 128 ? 128 : 64; }
TQ_HD constexpr int PrefillKeys(int head_dim) { return head_dim <= 128 ? 64 : 32; }

// Query rows of one sequence against a run of keys. Its keys in the scratch, all kv heads, are one
// array [kv head][PieceSlots][head_dim] from slot first_key * kv heads on.
struct PrefillPiece {
  int32_t first_row;  // of the sequence, in the rows of one kv head
  int32_t rows;
  int32_t query_position;  // of the first row
  int32_t first_key;       // slot of the scratch, or row of the exact keys
  int32_t keys;
  int32_t key_position;  // of the first key
  int32_t sequence;
  int32_t first_token;  // coded token of the first key
  int32_t first_tile;   // CTAs of the pieces before
  int32_t fresh;        // 1: these are the first keys that the rows meet
  // 0: attended by our kernel; else by cuDNN, in a call with room for so many rows and keys.
  int32_t dense_rows, dense_keys;
};

// Slots of a piece in the scratch, for one kv head.
TQ_HD constexpr int PieceSlots(const PrefillPiece& piece) {
  return piece.dense_keys > 0 ? piece.dense_keys
                              : (piece.keys + kTileTokens - 1) / kTileTokens * kTileTokens;
}

// What one launch does.
struct PrefillStep {
  int32_t num_pieces;
  int32_t tiles;  // CTAs a kv head
  int32_t slots;  // of the scratch
  PrefillPiece pieces[kMaxPrefillPieces];
};

// Where a walk over the sequences stands.
struct PrefillCursor {
  int32_t sequence = 0;
  int32_t first_row = 0;  // of that sequence
  int32_t token = -1;     // next coded token; -1: the sequence is new
};

// Byte offsets in the workspace, each a multiple of 256. Arrays are [kv head][...].
struct PrefillWorkspace {
  size_t rotated;  // fp16 [row][kv head][head_dim], q rotated, divided by its factor
  size_t factors;  // float [rows]
  size_t values;   // float [rows][head_dim], the state's weighted values
  size_t sums;     // float2 [rows]: reference logit (log2 units) and sum of weights
  // Of the pieces of a step, each as described there.
  size_t keys;          // fp16 [slots][head_dim], codebook steps; for cuDNN keys, see DecodeWindow
  size_t key_scales;    // float [slots]
  size_t coded_values;  // fp16 [slots][head_dim]
  size_t means;         // fp16 [slots / 64][2][head_dim], high and low part of the rotated mean
  size_t mean_index;    // int32 [slots / 64], one for all kv heads; -1: none
  // Of cuDNN: the queries as they are, as rotated ones lie, and dense_rows a kv head behind them,
  // which may be read; what it returns, [dense_rows] each; its own workspace.
  size_t dense_q;        // fp16
  size_t dense_out;      // fp16 [..][head_dim]
  size_t dense_lse;      // float, natural log
  size_t dense_lengths;  // int32 [64][2][4]: rows and keys of the pieces of a step, 16 bytes apart
  size_t dense;
  size_t bytes;
};

// Why the parameters cannot be served, a static sentence; null: they can. Needs no device pointer.
const char* WhyPrefillUnsupported(const tq_cuda_prefill_params& p);

// The parameters are supported. dense: cuDNN attends what it can.
tq_cuda_prefill_plan PlanPrefill(const tq_cuda_prefill_params& p, bool dense);

// A plan with calls of cuDNN, once it is known how much workspace these need.
void SetDenseBytes(const tq_cuda_prefill_params& p, size_t bytes, tq_cuda_prefill_plan* plan);

PrefillWorkspace PrefillWorkspaceOf(const tq_cuda_prefill_params& p,
                                    const tq_cuda_prefill_plan& plan);

// First coded token of a sequence that a query sees, at the start of a page.
int FirstVisibleToken(const tq_cuda_prefill_params& p, int sequence);

// The next window of coded tokens; false: there is none. Every sequence with queries gets at least
// one piece, if only an empty one, so that its state is set.
bool NextCodedStep(const tq_cuda_prefill_params& p, const tq_cuda_prefill_plan& plan,
                   PrefillCursor* cursor, PrefillStep* step);

// The next sequences' exact rows (chunk: false) or chunks (true); false: there is none.
bool NextExactStep(const tq_cuda_prefill_params& p, const tq_cuda_prefill_plan& plan, bool chunk,
                   PrefillCursor* cursor, PrefillStep* step);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_PREFILL_PLAN_H_
