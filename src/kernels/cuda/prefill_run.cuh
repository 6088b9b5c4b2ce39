// Prefill: the order of its launches, whoever launches (prefill.cu on the GPU, the tests on the
// host).
#ifndef TURBOQUANT_KERNELS_CUDA_PREFILL_RUN_CUH_
#define TURBOQUANT_KERNELS_CUDA_PREFILL_RUN_CUH_

#include "kernels/cuda/prefill_dense.h"
#include "kernels/cuda/prefill_kernels.cuh"

namespace turboquant::cuda {

using PrefillKernel = void (*)(PrefillArgs);

inline DenseCall MakeDenseCall(const PrefillArgs& a, const PrefillPiece& piece) {
  DenseCall c{};
  c.head_dim = a.p.cache.head_dim;
  c.heads = a.p.cache.num_kv_heads;
  c.rows = piece.dense_rows;
  c.keys = piece.dense_keys;
  c.masked = piece.keys < piece.dense_keys;
  const int64_t token = int64_t{c.heads} * c.head_dim;
  c.scale = a.p.scale;
  c.q = a.dense_q + piece.first_row * token;
  c.k = a.keys + piece.first_key * token;
  c.v = a.coded_values + piece.first_key * token;
  c.out = a.dense_out;
  c.lse = a.dense_lse;
  c.row_count = a.dense_lengths + 8 * (&piece - a.step.pieces);
  c.key_count = c.row_count + 4;
  return c;
}

// One step of the coded prefix: its pieces into the scratch, then attention over them.
template <int kDim, typename Launch, typename Dense>
bool RunCodedStep(PrefillArgs* args, const Launch& launch, const Dense& dense) {
  const unsigned heads = static_cast<unsigned>(args->p.cache.num_kv_heads);
  const unsigned pages = static_cast<unsigned>(args->step.slots / kTileTokens);
  if (pages > 0) {
    if (args->p.cache.mean_tokens > 0 && args->step.tiles > 0 &&
        !launch(RotateMeans<kDim>, dim3((pages + 63) / 64, heads), kRotateThreads, 0, *args)) {
      return false;
    }
    const dim3 grid(pages, 2 * heads);
    if (!launch(DecodeWindow<kDim>, grid, kDecodeThreads, 0, *args)) return false;
  }
  if (args->step.tiles > 0 && !launch(AttendPrefill<kDim, PrefillKind::kCoded>,
                                      dim3(static_cast<unsigned>(args->step.tiles), heads),
                                      kPrefillThreads, PrefillTile<kDim>::kBytes, *args)) {
    return false;
  }
  for (int i = 0; i < args->step.num_pieces; ++i) {
    const PrefillPiece& piece = args->step.pieces[i];
    if (piece.dense_rows == 0) continue;
    args->merge = i;
    const dim3 grid(static_cast<unsigned>(piece.rows + 63) / 64, heads);
    if (!dense(MakeDenseCall(*args, piece)) ||
        !launch(MergeDense<kDim>, grid, kRotateThreads, 0, *args)) {
      return false;
    }
  }
  return true;
}

// Windows of the coded prefix are decoded into the scratch and attended one after the other in
// rotated space, the state is rotated back, the exact rows and the chunk follow.
//   launch(kernel, grid, threads, bytes of dynamic shared memory, args) -> bool
//   dense(DenseCall) -> bool
template <int kDim, typename Launch, typename Dense>
bool RunPrefill(const tq_cuda_prefill_plan& plan, PrefillArgs* args, const Launch& launch,
                const Dense& dense) {
  const tq_cuda_prefill_params& p = args->p;
  const unsigned heads = static_cast<unsigned>(p.cache.num_kv_heads);
  const auto attend = [&](PrefillKernel kernel) {
    const dim3 grid(static_cast<unsigned>(args->step.tiles), heads);
    return launch(kernel, grid, kPrefillThreads, PrefillTile<kDim>::kBytes, *args);
  };
  if (plan.window_tokens > 0) {
    const unsigned tiles = static_cast<unsigned>(args->total_rows + 63) / 64;
    bool ok = plan.dense_rows == 0 ||
              launch(CopyQueries<kDim>, dim3(tiles, heads), kRotateThreads, 0, *args);
    bool rotated = false;
    PrefillCursor cursor;
    while (ok && NextCodedStep(p, plan, &cursor, &args->step)) {
      if (args->step.tiles > 0 && !rotated) {
        rotated = ok = launch(RotateQueries<kDim>, dim3(tiles, heads), kRotateThreads, 0, *args);
      }
      ok = ok && RunCodedStep<kDim>(args, launch, dense);
    }
    const int64_t rows = static_cast<int64_t>(args->total_rows) * p.cache.num_kv_heads;
    const dim3 grid(static_cast<unsigned>((rows + 63) / 64));
    ok = ok && launch(UnrotateState<kDim>, grid, kRotateThreads, 0, *args);
    if (!ok) return false;
  }
  const PrefillKernel exact = p.dtype == TQ_CUDA_BF16 ? AttendPrefill<kDim, PrefillKind::kBfloat>
                                                      : AttendPrefill<kDim, PrefillKind::kHalf>;
  PrefillCursor before, chunk;
  while (NextExactStep(p, plan, false, &before, &args->step)) {
    if (!attend(exact)) return false;
  }
  args->chunk = args->finish = 1;
  while (NextExactStep(p, plan, true, &chunk, &args->step)) {
    if (!attend(exact)) return false;
  }
  return true;
}

inline bool PrefillAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

inline bool ValidPrefillPointers(const tq_cuda_prefill_params& p,
                                 const tq_cuda_prefill_plan& plan) {
  const tq_cuda_cache& c = p.cache;
  const bool cache =
      plan.window_tokens == 0 ||
      (c.records != nullptr && PrefillAligned(c.records) && c.page_table != nullptr &&
       c.mean_tokens >= 0 && c.mean_tokens % kTileTokens == 0 &&
       (c.mean_tokens == 0 ||
        (c.means != nullptr && PrefillAligned(c.means) && c.mean_table != nullptr)));
  const bool exact =
      p.exact_len == nullptr ||
      (p.exact.k != nullptr && PrefillAligned(p.exact.k) && p.exact.v != nullptr &&
       PrefillAligned(p.exact.v) && p.exact.dtype == p.dtype &&
       (p.exact.sequence_stride | p.exact.token_stride | p.exact.head_stride) % 8 == 0 &&
       (p.exact_position == nullptr || p.exact_stride > 0));
  return cache && exact && p.q != nullptr && PrefillAligned(p.q) && p.chunk_k != nullptr &&
         PrefillAligned(p.chunk_k) && p.chunk_v != nullptr && PrefillAligned(p.chunk_v) &&
         p.out != nullptr && PrefillAligned(p.out) && p.out_dtype >= TQ_CUDA_F16 &&
         p.out_dtype <= TQ_CUDA_F32 &&
         (p.q_token_stride | p.q_head_stride | p.chunk_token_stride | p.chunk_head_stride |
          p.out_token_stride | p.out_head_stride) %
                 8 ==
             0;
}

inline PrefillArgs MakePrefillArgs(const tq_cuda_prefill_plan& plan,
                                   const tq_cuda_prefill_params& p, void* workspace) {
  PrefillArgs a{};
  a.p = p;
  TileFormat k{}, v{};
  ParseTileFormat(p.cache.k_format, &k);
  ParseTileFormat(p.cache.v_format, &v);
  a.layout = MakeRecordLayout(k, v, p.cache.head_dim);
  a.total_rows = plan.chunk_tokens * p.group;
  uint8_t* base = static_cast<uint8_t*>(workspace);
  const PrefillWorkspace w = PrefillWorkspaceOf(p, plan);
  a.rotated = reinterpret_cast<uint16_t*>(base + w.rotated);
  a.factors = reinterpret_cast<float*>(base + w.factors);
  a.values = reinterpret_cast<float*>(base + w.values);
  a.sums = reinterpret_cast<float2*>(base + w.sums);
  a.keys = reinterpret_cast<uint16_t*>(base + w.keys);
  a.key_scales = reinterpret_cast<float*>(base + w.key_scales);
  a.coded_values = reinterpret_cast<uint16_t*>(base + w.coded_values);
  a.means = reinterpret_cast<uint16_t*>(base + w.means);
  a.mean_index = reinterpret_cast<int32_t*>(base + w.mean_index);
  a.dense_q = reinterpret_cast<uint16_t*>(base + w.dense_q);
  a.dense_out = reinterpret_cast<uint16_t*>(base + w.dense_out);
  a.dense_lse = reinterpret_cast<float*>(base + w.dense_lse);
  if (plan.dense_rows > 0) a.dense_lengths = reinterpret_cast<int32_t*>(base + w.dense_lengths);
  return a;
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_PREFILL_RUN_CUH_
