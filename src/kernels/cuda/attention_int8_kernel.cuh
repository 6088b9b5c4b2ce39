// The int8 kernel itself: setup, the walk over pages, exact rows, and the merge. The work on one
// page: attention_int8.cuh.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_KERNEL_CUH_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_KERNEL_CUH_

#include "kernels/cuda/attention_int8.cuh"

namespace turboquant::cuda {

// Query rows, as they lie in memory: row r of kv head h is query token r / group, head
// h * group + r % group.
struct RowPlace {
  int query, head;
};

__device__ __forceinline__ RowPlace PlaceOfRow(const AttentionArgs& a, int kv_head, int row) {
  if (a.p.q_len == 1) return {0, kv_head * a.p.group + row};
  return {row / a.p.group, kv_head * a.p.group + row % a.p.group};
}

// Loads this warp's query rows before anything else is asked of memory: behind the first pages they
// would wait for all of them.
template <class S>
struct QueryRows {
  static constexpr int kEach = (S::kRows + S::kWarps - 1) / S::kWarps;
  float x[kEach][S::kLaneDims];

  __device__ __forceinline__ void Load(const AttentionArgs& a, const tq_cuda_item& item,
                                       int kv_head, int row_tile, int warp, int lane) {
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int row = row_tile * S::kRows + warp + k * S::kWarps;
#pragma unroll
      for (int i = 0; i < S::kLaneDims; ++i) x[k][i] = 0.0f;
      if (warp + k * S::kWarps < S::kRows && row < a.p.group * a.p.q_len) {
        const RowPlace at = PlaceOfRow(a, kv_head, row);
        LoadValues(a.p.q, a.p.q_dtype,
                   item.sequence * a.p.q_sequence_stride + at.query * a.p.q_token_stride +
                       at.head * a.p.q_head_stride + lane * S::kLaneDims,
                   x[k]);
      }
    }
  }

  // Rotates and quantises to 15 bits; keeps the plain row, scaled, for means and exact rows.
  __device__ __forceinline__ void Store(const AttentionArgs& a, Int8Shared<S>* sh, int warp,
                                        int lane) {
    const float scale = a.p.scale * kLog2e;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int row = warp + k * S::kWarps;
      if (row >= S::kRows) return;
#pragma unroll
      for (int i = 0; i < S::kLaneDims; ++i) {
        sh->q_plain[row * S::kDim + lane * S::kLaneDims + i] = x[k][i] * scale;
      }
      ApplySigns(a.p.cache.k_rotation, x[k], lane);
      Hadamard(x[k], lane);
      float most = 1e-30f;
#pragma unroll
      for (int i = 0; i < S::kLaneDims; ++i) most = fmaxf(most, fabsf(x[k][i]));
#pragma unroll
      for (int h = 1; h < 32; h *= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, h));
      const float to_int = 16256.0f * Reciprocal(most);
#pragma unroll
      for (int i = 0; i < S::kLaneDims; ++i) {
        const int v = __float2int_rn(x[k][i] * to_int);
        const int high = (v + 64) >> 7;
        uint8_t* column = sh->q_bytes + 2 * row * S::kDim + lane * S::kLaneDims + i;
        column[0] = static_cast<uint8_t>(high);
        column[S::kDim] = static_cast<uint8_t>(v - (high << 7));
      }
      if (lane == 0) {
        sh->q_scale[row] =
            most * (1.0f / 16256.0f) * a.p.cache.k_rotation.norm * scale * a.k_tables.unit;
      }
    }
  }
};

// Partial result of a CTA in rotated space: the sum over its warps, [tile][dim] of 4 rows, with the
// largest logit and weight sum of every row.
template <class S>
struct Partial {
  float4* values;
  float* l;  // [rows]
  float* m;  // [rows]
};

template <class S>
__device__ __forceinline__ Partial<S> GlobalPartial(const AttentionArgs& a, int index) {
  float* base = a.partials + static_cast<size_t>(index) * S::kPartialFloats;
  return {reinterpret_cast<float4*>(base), base + 4 * S::kQuads, base + 4 * S::kQuads + S::kRows};
}

// Rotates rows[row][dim] back, scales, stores; one warp a row.
template <class S>
__device__ __forceinline__ void StoreRows(const AttentionArgs& a, const Int8Shared<S>& sh,
                                          const tq_cuda_item& item, int kv_head, int row_tile,
                                          const float* rows, int groups, int warp, int lane) {
  for (int r = warp; r < S::kRows; r += S::kWarps) {
    const int row = row_tile * S::kRows + r;
    if (row >= a.p.group * a.p.q_len) return;
    const RowPlace at = PlaceOfRow(a, kv_head, row);
    float x[S::kLaneDims];
#pragma unroll
    for (int i = 0; i < S::kLaneDims; ++i) {
      x[i] = 0.0f;
      for (int k = 0; k < groups; ++k) {
        x[i] += rows[(k * S::kRows + r) * S::kDim + lane * S::kLaneDims + i];
      }
    }
    const RowSum sum = FinishRowSum(sh.row_m[r], sh.row_l[r], a.p.sinks, at.head);
    Hadamard(x, lane);
    ApplySigns(a.p.cache.v_rotation, x, lane);
    const float factor = sum.factor * a.p.cache.v_rotation.norm;
#pragma unroll
    for (int i = 0; i < S::kLaneDims; ++i) x[i] *= factor;
    StoreValues(a.p.out, a.p.out_dtype,
                item.sequence * a.p.out_sequence_stride + at.query * a.p.out_token_stride +
                    at.head * a.p.out_head_stride + lane * S::kLaneDims,
                x);
    if (a.p.lse != nullptr && lane == 0) {
      const int heads = a.p.cache.num_kv_heads * a.p.group;
      a.p.lse[(item.sequence * a.p.q_len + at.query) * heads + at.head] = sum.lse;
    }
  }
}

// The last CTA of a head's partials sums them. `rows` gets kGroups partial sums of rows.
template <class S>
__device__ __forceinline__ void GatherPartials(const AttentionArgs& a, Int8Shared<S>* sh,
                                               const tq_cuda_item& item, float* rows, int warp,
                                               int lane) {
  constexpr int kAhead = 8;
  const int tid = threadIdx.x, n = item.partials;
  const int group = S::kGroups > 1 ? tid / S::kQuads : 0;
  const int per_group = (n + S::kGroups - 1) / S::kGroups;
  const int begin = group * per_group, end = min(n, begin + per_group);
  const int first_quad = S::kGroups > 1 ? tid % S::kQuads : tid;
  constexpr int kStep = S::kGroups > 1 ? S::kQuads : S::kThreads;

  // Values are asked for before the weights are known: one trip to memory, not two.
  float4 ahead[kAhead];
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    ahead[j] = make_float4(0, 0, 0, 0);
    if (begin + j < end && group < S::kGroups && first_quad < S::kQuads) {
      ahead[j] = __ldcg(GlobalPartial<S>(a, item.first_partial + begin + j).values + first_quad);
    }
  }
  for (int row = warp; row < S::kRows; row += S::kWarps) {
    float m[2], l[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int i = lane + 32 * k;
      m[k] = kNoLogit;
      l[k] = 0.0f;
      if (i < n) {
        const Partial<S> part = GlobalPartial<S>(a, item.first_partial + i);
        m[k] = __ldcg(part.m + row);
        l[k] = __ldcg(part.l + row);
      }
    }
    float most = fmaxf(m[0], m[1]);
#pragma unroll
    for (int h = 1; h < 32; h *= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, h));
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int i = lane + 32 * k;
      const float w = Exp2(m[k] - most);
      sum = fmaf(w, l[k], sum);
      if (i < n) sh->weight[i * S::kRows + row] = w;
    }
#pragma unroll
    for (int h = 1; h < 32; h *= 2) sum += __shfl_xor_sync(kAllLanes, sum, h);
    if (lane == 0) {
      sh->row_m[row] = most;
      sh->row_l[row] = sum;
    }
  }
  __syncthreads();
  if (group >= S::kGroups) return;
  for (int c = first_quad; c < S::kQuads; c += kStep) {
    const int tile = c / S::kDim, dim = c % S::kDim;
    float4 sum = make_float4(0, 0, 0, 0);
    const auto add = [&](int i, const float4& v) {
      const float4 w = *reinterpret_cast<const float4*>(&sh->weight[i * S::kRows + 4 * tile]);
      sum.x = fmaf(w.x, v.x, sum.x);
      sum.y = fmaf(w.y, v.y, sum.y);
      sum.z = fmaf(w.z, v.z, sum.z);
      sum.w = fmaf(w.w, v.w, sum.w);
    };
    int i = begin;
    if (c == first_quad) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (begin + j < end) add(begin + j, ahead[j]);
      }
      i += kAhead;
    }
#pragma unroll 4
    for (; i < end; ++i) {
      add(i, __ldcg(GlobalPartial<S>(a, item.first_partial + i).values + c));
    }
    float* to = rows + (group * S::kRows + 4 * tile) * S::kDim + dim;
    to[0] = sum.x;
    to[S::kDim] = sum.y;
    to[2 * S::kDim] = sum.z;
    to[3 * S::kDim] = sum.w;
  }
}

// What follows when this CTA's partial is in global memory: the last one to arrive finishes.
template <class S>
__device__ __forceinline__ void FinishPartial(const AttentionArgs& a, Int8Shared<S>* sh,
                                              const tq_cuda_item& item, int kv_head, int row_tile,
                                              float* rows, int warp, int lane) {
  int* ticket =
      a.tickets + item.sequence * a.p.cache.num_kv_heads * a.plan.row_tiles + item.head_tile;
  __syncthreads();
  if (threadIdx.x == 0) sh->last = TakeTicket(ticket) == item.partials - 1;
  __syncthreads();
  if (sh->last == 0) return;
  if (threadIdx.x == 0) *ticket = 0;  // ready for the next launch
  GatherPartials(a, sh, item, rows, warp, lane);
  __syncthreads();
  StoreRows(a, *sh, item, kv_head, row_tile, rows, S::kGroups, warp, lane);
}

// Sums the warps' states and goes on to FinishPartial, or straight to the output.
template <class S>
__device__ __forceinline__ void MergeWarps(const AttentionArgs& a, Int8Shared<S>* sh, float* memory,
                                           Int8Warp<S>* state, const tq_cuda_item& item,
                                           int kv_head, int row_tile, int warp, int lane) {
  const int g = lane >> 2, t = lane & 3;
  constexpr int kTiles = S::kTiles;
  float* warps = memory;  // [warp]{[tile][dim][4], l[rows]}
  constexpr int kWarpFloats = 4 * S::kQuads + S::kRows;
  float* rows = warps + S::kWarps * kWarpFloats + 4 * S::kQuads;
  if (g == 0) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) sh->warp_m[warp * S::kRows + 4 * n + t] = state->m[n];
  }
  __syncthreads();  // from here on the ring is free
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    float most = sh->warp_m[4 * n + t];
#pragma unroll
    for (int k = 1; k < S::kWarps; ++k) most = fmaxf(most, sh->warp_m[k * S::kRows + 4 * n + t]);
    const float factor = Exp2(state->m[n] - most);
    float* to = warps + warp * kWarpFloats + n * 4 * S::kDim + lane;
#pragma unroll
    for (int i = 0; i < S::kDim / 8; ++i) to[32 * i] = state->o[n][i] * factor;
    if (g == 0) {
      warps[warp * kWarpFloats + 4 * S::kQuads + 4 * n + t] = state->l[n] * factor;
      if (warp == 0) sh->row_m[4 * n + t] = most;
    }
  }
  __syncthreads();
  const bool only = item.partials == 1;
  const Partial<S> part = GlobalPartial<S>(a, item.partial);
  const int tid = threadIdx.x;
#pragma unroll 1
  for (int c = tid; c < S::kQuads; c += S::kThreads) {
    float4 sum = reinterpret_cast<const float4*>(warps)[c];
#pragma unroll
    for (int k = 1; k < S::kWarps; ++k) {
      const float4 v = *reinterpret_cast<const float4*>(warps + k * kWarpFloats + 4 * c);
      sum.x += v.x;
      sum.y += v.y;
      sum.z += v.z;
      sum.w += v.w;
    }
    if (only) {
      float* to = rows + c / S::kDim * 4 * S::kDim + c % S::kDim;
      to[0] = sum.x;
      to[S::kDim] = sum.y;
      to[2 * S::kDim] = sum.z;
      to[3 * S::kDim] = sum.w;
    } else {
      __stcg(part.values + c, sum);
    }
  }
  if (tid < S::kRows) {
    float l = 0.0f;
#pragma unroll
    for (int k = 0; k < S::kWarps; ++k) l += warps[k * kWarpFloats + 4 * S::kQuads + tid];
    if (only) {
      sh->row_l[tid] = l;
    } else {
      __stcg(part.l + tid, l);
      __stcg(part.m + tid, sh->row_m[tid]);
    }
  }
  if (only) {
    __syncthreads();
    StoreRows(a, *sh, item, kv_head, row_tile, rows, 1, warp, lane);
  } else {
    FinishPartial(a, sh, item, kv_head, row_tile, rows, warp, lane);
  }
}

// n consecutive 16-bit values of a row as words, and as floats.
template <int n>
struct RawRow {
  uint32_t words[n / 2];

  __device__ __forceinline__ void Load(const void* base, int64_t at) {
    const uint16_t* from = static_cast<const uint16_t*>(base) + at;
    if constexpr (n == 2) {
      words[0] = __ldg(reinterpret_cast<const uint32_t*>(from));
    } else if constexpr (n == 4) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
      words[0] = v.x;
      words[1] = v.y;
    } else {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
      words[0] = v.x;
      words[1] = v.y;
      words[2] = v.z;
      words[3] = v.w;
    }
  }

  __device__ __forceinline__ void Unpack(int dtype, float (&x)[n]) const {
#pragma unroll
    for (int i = 0; i < n; ++i) x[i] = WordToFloat(words[i / 2], i & 1, dtype);
  }
};

// Exact rows: a warp takes 8 tokens at a time, all its lanes one token's dims; 32 products (8
// tokens x 4 query rows) are summed over lanes so that each lane ends with one. States merge like
// those of coded pages, after a rotation. Not inlined: it must not take registers from the walk
// over pages.
template <class S>
__device__ __noinline__ void AttendExact(const AttentionArgs& a, Int8Shared<S>* sh, float* memory,
                                         const tq_cuda_item& item, int kv_head, int row_tile,
                                         int warp, int lane) {
  constexpr int kPart = S::kLaneDims;
  constexpr int kStates = S::kExactStates;
  constexpr int kBatch = 8;
  float* values = memory;                           // [state][dim][4]
  float* state_m = values + kStates * 4 * S::kDim;  // [state][4]
  float* state_l = state_m + kStates * 4;
  float* weight = state_l + kStates * 4;
  float* rows = weight + kStates * 4;  // [rows][dim], rotated
  const int coded_len = __ldg(a.p.coded_len + item.sequence);
  const int total = TotalLength(a, item.sequence, coded_len);
  const int exact_len = __ldg(a.p.exact_len + item.sequence);
  const int end = min(item.end, exact_len);
  const tq_cuda_rows& x = a.p.exact;
  const int64_t base = item.sequence * x.sequence_stride + kv_head * x.head_stride + lane * kPart;
  const int tid = threadIdx.x, state = warp;

  for (int n = 0; n < S::kTiles; ++n) {
    float q[4][kPart], o[4][kPart];
    float m = kNoLogit, l = 0.0f;  // of row lane % 4
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int i = 0; i < kPart; ++i) {
        o[r][i] = 0.0f;
        q[r][i] = sh->q_plain[(4 * n + r) * S::kDim + lane * kPart + i];
      }
    }
    const int mask_row = row_tile * S::kRows + 4 * n + (lane & 3);
    const RowMask mask =
        LoadRowMask(a, item.sequence, total, min(mask_row / a.p.group, a.p.q_len - 1));
    for (int first = item.begin + warp * kBatch; first < end; first += S::kWarps * kBatch) {
      RawRow<kPart> k_raw[kBatch], v_raw[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int64_t at = base + static_cast<int64_t>(min(first + j, end - 1)) * x.token_stride;
        k_raw[j].Load(x.k, at);
        v_raw[j].Load(x.v, at);
      }
      const int token = first + (lane >> 2);
      int position = total - exact_len + token;
      if (a.p.exact_position != nullptr) {
        position =
            __ldg(a.p.exact_position + static_cast<int64_t>(item.sequence) * a.p.exact_stride +
                  min(token, end - 1));
      }
      float product[4 * kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        float k[kPart];
        k_raw[j].Unpack(x.dtype, k);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          float sum = 0.0f;
#pragma unroll
          for (int i = 0; i < kPart; ++i) sum = fmaf(q[r][i], k[i], sum);
          product[4 * j + r] = sum;
        }
      }
      // Halves the number of products and of lanes at each step: lane i ends with product i.
#pragma unroll
      for (int h = 16; h >= 1; h /= 2) {
        const bool upper = (lane & h) != 0;
#pragma unroll
        for (int i = 0; i < h; ++i) {
          const float give = upper ? product[i] : product[i + h];
          const float keep = upper ? product[i + h] : product[i];
          product[i] = keep + __shfl_xor_sync(kAllLanes, give, h);
        }
      }
      float s = product[0];
      if (S::kExtras && a.p.softcap > 0.0f) s = Softcap(s, a.p.softcap);
      if (token >= end || !mask.Sees(position)) s = -INFINITY;
      float most = fmaxf(m, s);
#pragma unroll
      for (int h = 4; h < 32; h *= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, h));
      const float keep = Exp2(m - most), p = Exp2(s - most);
      float sum = p;
#pragma unroll
      for (int h = 4; h < 32; h *= 2) sum += __shfl_xor_sync(kAllLanes, sum, h);
      m = most;
      l = fmaf(l, keep, sum);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float factor = __shfl_sync(kAllLanes, keep, r);
#pragma unroll
        for (int i = 0; i < kPart; ++i) o[r][i] *= factor;
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        float v[kPart];
        v_raw[j].Unpack(x.dtype, v);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float w = __shfl_sync(kAllLanes, p, 4 * j + r);
#pragma unroll
          for (int i = 0; i < kPart; ++i) o[r][i] = fmaf(w, v[i], o[r][i]);
        }
      }
    }
    __syncthreads();  // the states of the tile before are merged
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      *reinterpret_cast<float4*>(values + (state * S::kDim + lane * kPart + i) * 4) =
          make_float4(o[0][i], o[1][i], o[2][i], o[3][i]);
    }
    if (lane < 4) {
      state_m[state * 4 + lane] = m;
      state_l[state * 4 + lane] = l;
    }
    __syncthreads();
    for (int row = warp; row < 4; row += S::kWarps) {
      const bool there = lane < kStates;
      const float mine = there ? state_m[lane * 4 + row] : kNoLogit;
      float most = mine;
#pragma unroll
      for (int h = 1; h < 32; h *= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, h));
      const float w = Exp2(mine - most);
      float sum = there ? w * state_l[lane * 4 + row] : 0.0f;
      if (there) weight[lane * 4 + row] = w;
#pragma unroll
      for (int h = 1; h < 32; h *= 2) sum += __shfl_xor_sync(kAllLanes, sum, h);
      if (lane == 0) {
        sh->row_m[4 * n + row] = most;
        sh->row_l[4 * n + row] = sum;
      }
    }
    __syncthreads();
    for (int d = tid; d < S::kDim; d += S::kThreads) {
      float4 sum = make_float4(0, 0, 0, 0);
      for (int k = 0; k < kStates; ++k) {
        const float4 w = *reinterpret_cast<const float4*>(weight + k * 4);
        const float4 v4 = *reinterpret_cast<const float4*>(values + (k * S::kDim + d) * 4);
        sum.x = fmaf(w.x, v4.x, sum.x);
        sum.y = fmaf(w.y, v4.y, sum.y);
        sum.z = fmaf(w.z, v4.z, sum.z);
        sum.w = fmaf(w.w, v4.w, sum.w);
      }
      float* to = rows + 4 * n * S::kDim + d;
      to[0] = sum.x;
      to[S::kDim] = sum.y;
      to[2 * S::kDim] = sum.z;
      to[3 * S::kDim] = sum.w;
    }
  }
  __syncthreads();
  const Partial<S> out = GlobalPartial<S>(a, item.partial);
  const tq_cuda_rotation& rotation = a.p.cache.v_rotation;
  for (int r = warp; r < S::kRows; r += S::kWarps) {
    float y[S::kLaneDims];
#pragma unroll
    for (int i = 0; i < S::kLaneDims; ++i) y[i] = rows[r * S::kDim + lane * S::kLaneDims + i];
    ApplySigns(rotation, y, lane);
    Hadamard(y, lane);
#pragma unroll
    for (int i = 0; i < S::kLaneDims; ++i) {
      const int d = lane * S::kLaneDims + i;
      __stcg(reinterpret_cast<float*>(out.values + (r / 4) * S::kDim + d) + r % 4,
             y[i] * rotation.norm);
    }
    if (lane == 0) {
      __stcg(out.l + r, sh->row_l[r]);
      __stcg(out.m + r, sh->row_m[r]);
    }
  }
  FinishPartial(a, sh, item, kv_head, row_tile, memory, warp, lane);
}

// Where the pages of one sequence and kv head are.
template <class S>
struct PageSource {
  const int* table;
  const int* mean_table;
  const uint8_t* records;  // of the kv head in physical page 0
  const uint16_t* means;   // of the kv head, mean 0
  int heads;
  int mean_tokens;

  __device__ __forceinline__ PageSource(const tq_cuda_cache& c, int sequence, int kv_head)
      : table(c.page_table + static_cast<int64_t>(sequence) * c.page_stride),
        mean_table(c.mean_table + static_cast<int64_t>(sequence) * c.mean_stride),
        records(static_cast<const uint8_t*>(c.records) +
                static_cast<size_t>(kv_head) * S::kRecordBytes),
        means(c.means + kv_head * S::kDim),
        heads(c.num_kv_heads),
        mean_tokens(c.mean_tokens) {}

  // Index of the key mean of a page; -1: none.
  __device__ __forceinline__ int MeanOf(int page) const {
    if (!S::kExtras || mean_tokens == 0) return -1;
    return __ldg(mean_table + page * kTileTokens / mean_tokens);
  }

  // Asks for a page and its mean; true if there is one.
  __device__ __forceinline__ bool Request(const PageRing<S::kStages, S::kStageBytes>& ring,
                                          int stage, int page_index, int mean_index) const {
    const uint8_t* record = records + static_cast<size_t>(page_index) * heads * S::kRecordBytes;
    const bool mean = S::kExtras && mean_index >= 0;
    ring.Request(stage, record, S::kRecordBytes,
                 means + (mean ? static_cast<size_t>(mean_index) * heads * S::kDim : 0),
                 mean ? 2 * S::kDim : 0);
    return mean;
  }
};

// The pages of one warp: item.begin + warp, + kWarps, ...
template <class S>
__device__ __forceinline__ void WalkPages(const AttentionArgs& a, const Int8Shared<S>& sh,
                                          const PageRing<S::kStages, S::kStageBytes>& ring,
                                          Int8Warp<S>* state, const tq_cuda_item& item,
                                          const PageSource<S>& source, int row_tile, int coded_len,
                                          int total, int end, int page_index, int mean_index,
                                          uint32_t has_mean, int warp, int lane) {
  // From here on tokens may be hidden; all rows of a causal mask see the first query's token.
  const int first_hidden =
      min(coded_len, total - a.p.q_len - a.p.coded_begin + (a.p.tree_mask != nullptr ? 0 : 1));
  const int window_begin =
      a.p.window > 0 ? total - a.p.window - a.p.coded_begin : 0;  // of the last query token
  const float value_step = a.v_tables.unit * (1.0f / 65280.0f);
  int next = item.begin + warp + S::kStages * S::kWarps;
  int stage = 0;
  uint32_t parity = 0;
  for (int page = item.begin + warp; page < end; page += S::kWarps) {
    ring.Wait(stage, parity);
    const uint32_t at = ring.Stage(stage);
    float s[S::kTiles][8];
    state->Logits(a, at, lane, s);
    uint4 value_scales = LoadShared16(at + S::kValueScales + (lane >> 2) * 16);
    if constexpr (S::kExtras) {
      if ((has_mean >> stage) & 1u) state->AddMean(sh, at + S::kRecordBytes, lane, s);
    }
    if (S::kExtras && a.p.softcap > 0.0f) {
#pragma unroll
      for (int n = 0; n < S::kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 8; ++i) s[n][i] = Softcap(s[n][i], a.p.softcap);
      }
    }
    const int token = page * kTileTokens;
    if (__builtin_expect(token + kTileTokens > first_hidden || token < window_begin, 0)) {
      state->Mask(a, item, total, coded_len, token, row_tile, lane, s, &value_scales);
    }
    uint32_t b[S::kTiles][2][2];
    float inverse[S::kTiles];
    state->Weights(s, value_scales, lane, b, inverse, value_step);
    state->Accumulate(a, at, lane, b, inverse);
    __syncwarp();
    if (next < end) {
      if (source.Request(ring, stage, page_index, mean_index)) {
        has_mean |= 1u << stage;
      } else {
        has_mean &= ~(1u << stage);
      }
      next += S::kWarps;
      if (next < end) {
        page_index = __ldg(source.table + next);
        mean_index = source.MeanOf(next);
      }
    } else {
      ring.Skip();
    }
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1u;
    }
  }
#pragma unroll
  for (int n = 0; n < S::kTiles; ++n) {
#pragma unroll
    for (int k = 4; k < 32; k *= 2) {
      state->l[n] += __shfl_xor_sync(kAllLanes, state->l[n], k);
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kConfig.ctas_per_sm)
    AttendInt8(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ Int8Shared<S> sh;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  // The arguments span many lines of the constant cache: each warp asks for one, all at once.
  constexpr int kLineWords = 32;
  const uint32_t line = reinterpret_cast<const uint32_t*>(
      &a)[warp * kLineWords < static_cast<int>(sizeof(a) / 4) ? warp * kLineWords : 0];
  asm volatile("" ::"r"(line));
  const tq_cuda_item item = LoadItem(a);
  int kv_head = item.head_tile, row_tile = 0;
  if (a.plan.row_tiles > 1) {
    kv_head = item.head_tile / a.plan.row_tiles;
    row_tile = item.head_tile % a.plan.row_tiles;
  }

  QueryRows<S> query;
  query.Load(a, item, kv_head, row_tile, warp, lane);
  if (item.exact != 0) {
    query.Store(a, &sh, warp, lane);
    __syncthreads();
    AttendExact(a, &sh, reinterpret_cast<float*>(memory), item, kv_head, row_tile, warp, lane);
    return;
  }

  const PageSource<S> source(a.p.cache, item.sequence, kv_head);
  const PageRing<S::kStages, S::kStageBytes> ring(
      SharedAddress(memory) + warp * S::kStages * S::kStageBytes,
      SharedAddress(sh.barriers) + warp * S::kStages * 8, lane);
  const int coded_len = __ldg(a.p.coded_len + item.sequence);
  int page_index[S::kStages + 1], mean_index[S::kStages + 1];
#pragma unroll
  for (int i = 0; i <= S::kStages; ++i) {
    const int page = item.begin + warp + i * S::kWarps;
    page_index[i] = page < item.end ? __ldg(source.table + page) : 0;
    mean_index[i] = page < item.end ? source.MeanOf(page) : -1;
  }
  const int total = TotalLength(a, item.sequence, coded_len);
  const int end = min(item.end, (coded_len + kTileTokens - 1) / kTileTokens);
  uint32_t has_mean = 0;
#pragma unroll
  for (int i = 0; i < S::kStages; ++i) {
    const int page = item.begin + warp + i * S::kWarps;
    if (page < end) {
      if (source.Request(ring, i, page_index[i], mean_index[i])) has_mean |= 1u << i;
    } else {
      ring.Skip();
    }
  }
  query.Store(a, &sh, warp, lane);
  __syncthreads();
  Int8Warp<S> state;
  state.LoadTables(a);
  state.LoadQuery(sh, lane >> 2, lane & 3);
  WalkPages(a, sh, ring, &state, item, source, row_tile, coded_len, total, end,
            page_index[S::kStages], mean_index[S::kStages], has_mean, warp, lane);
  MergeWarps(a, &sh, reinterpret_cast<float*>(memory), &state, item, kv_head, row_tile, warp, lane);
}

// Launches the shape; false: the runtime refused.
template <class S>
cudaError_t LaunchInt8(const AttentionArgs& args, dim3 grid, cudaStream_t stream) {
  const cudaError_t set = cudaFuncSetAttribute(
      AttendInt8<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (set != cudaSuccess) return set;
  AttendInt8<S><<<grid, S::kThreads, S::kSharedBytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_KERNEL_CUH_
