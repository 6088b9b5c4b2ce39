// The int8 kernel itself: setup, the walk over pages, exact rows, and the merge. The work on one
// page: attention_int8.cuh.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_KERNEL_CUH_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_KERNEL_CUH_

#include "kernels/cuda/attention_int8.cuh"
#include "kernels/cuda/lane_row.cuh"
#include "kernels/cuda/tensor_ops.cuh"

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

// This warp's query rows. They are asked for before anything else: behind the first pages they
// would wait for all of them. Nothing looks at them until those pages are asked for.
template <class S>
struct QueryRows {
  using Row = LaneRow<S::kDim>;
  static constexpr int kEach = (S::kRows + S::kWarps - 1) / S::kWarps;
  typename Row::Raw raw[kEach];

  __device__ __forceinline__ void Load(const AttentionArgs& a, const tq_cuda_item& item,
                                       int kv_head, int row_tile, int warp, int lane) {
    const AttentionStart& start = a.start;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int row = row_tile * S::kRows + warp + k * S::kWarps;
      const bool there = warp + k * S::kWarps < S::kRows && row < start.group * start.q_len;
      int query = 0, head = kv_head * start.group + row;
      if (start.q_len > 1) {
        query = row / start.group;
        head = kv_head * start.group + row % start.group;
      }
      raw[k].Load(start.q, start.q_dtype,
                  item.sequence * start.q_sequence_stride + query * start.q_token_stride +
                      head * start.q_head_stride,
                  lane, there);
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
      Row x;
#pragma unroll
      for (int i = 0; i < Row::kValues; ++i) {
        x.v[i] = raw[k].Value(a.start.q_dtype, lane, i);
        if (Row::Holds(lane)) sh->q_plain[row * S::kDim + Row::Dim(lane, i)] = x.v[i] * scale;
      }
      x.Rotate(a.p.cache.k_rotation, lane);
      float most = 1e-30f;
#pragma unroll
      for (int i = 0; i < Row::kValues; ++i) most = fmaxf(most, fabsf(x.v[i]));
#pragma unroll
      for (int h = 1; h < 32; h *= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, h));
      const float to_int = 16256.0f * Reciprocal(most);
      uint8_t* column = sh->q_bytes + 2 * row * S::kPaddedDim;
      if constexpr (S::kPaddedDim != S::kDim) {
        // The last k step has places of no dim: zeros, whatever the codes there.
        for (int i = lane; i < S::kPaddedDim / 2; i += 32) {
          reinterpret_cast<uint32_t*>(column)[i] = 0;
        }
        __syncwarp();
      }
#pragma unroll
      for (int i = 0; i < Row::kValues; ++i) {
        if (!Row::Holds(lane)) continue;
        const int v = __float2int_rn(x.v[i] * to_int);
        const int high = (v + 64) >> 7;
        uint8_t* to = column + S::QueryPlace(Row::Dim(lane, i));
        to[0] = static_cast<uint8_t>(high);
        to[S::kPaddedDim] = static_cast<uint8_t>(v - (high << 7));
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
    LaneRow<S::kDim> x, part;
    x.Read(rows + r * S::kDim, lane);
    for (int k = 1; k < groups; ++k) {
      part.Read(rows + (k * S::kRows + r) * S::kDim, lane);
#pragma unroll
      for (int i = 0; i < x.kValues; ++i) x.v[i] += part.v[i];
    }
    const RowSum sum = FinishRowSum(sh.row_m[r], sh.row_l[r], a.p.sinks, at.head);
    x.Unrotate(a.p.cache.v_rotation, lane);
    const float factor = sum.factor * a.p.cache.v_rotation.norm;
#pragma unroll
    for (int i = 0; i < x.kValues; ++i) x.v[i] *= factor;
    x.Store(a.p.out, a.p.out_dtype,
            item.sequence * a.p.out_sequence_stride + at.query * a.p.out_token_stride +
                at.head * a.p.out_head_stride,
            lane);
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
  const bool mine = group < S::kGroups && first_quad < S::kQuads;
  const auto values_of = [&](int i, int quad) {
    return GlobalPartial<S>(a, item.first_partial + i).values + quad;
  };

  // Values are asked for before the weights are known: one trip to memory, not two.
  float4 ahead[kAhead];
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    ahead[j] = make_float4(0, 0, 0, 0);
    if (begin + j < end && mine) ahead[j] = LoadRelaxed(values_of(begin + j, first_quad));
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
        m[k] = LoadRelaxed(part.m + row);
        l[k] = LoadRelaxed(part.l + row);
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
    for (; i < end; ++i) add(i, LoadRelaxed(values_of(i, c)));
    float* to = rows + (group * S::kRows + 4 * tile) * S::kDim + dim;
    to[0] = sum.x;
    to[S::kDim] = sum.y;
    to[2 * S::kDim] = sum.z;
    to[3 * S::kDim] = sum.w;
  }
}

// What follows when this CTA's partial is on its way to global memory: the last CTA of the head to
// arrive finishes.
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
    float* to = warps + warp * kWarpFloats + n * 4 * S::kDim + t;
#pragma unroll
    for (int i = 0; i < S::kDim / 8; ++i) to[4 * S::OutputDim(g, i)] = state->o[n][i] * factor;
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
      StoreRelaxed(part.values + c, sum);
    }
  }
  if (tid < S::kRows) {
    float l = 0.0f;
#pragma unroll
    for (int k = 0; k < S::kWarps; ++k) l += warps[k * kWarpFloats + 4 * S::kQuads + tid];
    if (only) {
      sh->row_l[tid] = l;
    } else {
      StoreRelaxed(part.l + tid, l);
      StoreRelaxed(part.m + tid, sh->row_m[tid]);
    }
  }
  if (only) {
    __syncthreads();
    StoreRows(a, *sh, item, kv_head, row_tile, rows, 1, warp, lane);
  } else {
    FinishPartial(a, sh, item, kv_head, row_tile, rows, warp, lane);
  }
}

// One lane's values of an exact row (16 bits each).
template <int kDim>
struct ExactRow {
  using Row = LaneRow<kDim>;
  static constexpr int kBlockWords = (Row::kPer + 1) / 2;
  uint32_t words[Row::kOdd * kBlockWords];

  __device__ __forceinline__ void Load(const void* base, int64_t at, int lane) {
#pragma unroll
    for (int a = 0; a < Row::kOdd; ++a) {
      const uint16_t* from =
          static_cast<const uint16_t*>(base) + at + Row::Dim(lane, a * Row::kPer);
      uint32_t* to = &words[a * kBlockWords];
      if constexpr (Row::kPer == 1) {
        to[0] = Row::Holds(lane) ? __ldg(from) : 0u;
      } else if constexpr (Row::kPer == 2) {
        to[0] = __ldg(reinterpret_cast<const uint32_t*>(from));
      } else if constexpr (Row::kPer == 4) {
        const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
        to[0] = v.x;
        to[1] = v.y;
      } else {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
        to[0] = v.x;
        to[1] = v.y;
        to[2] = v.z;
        to[3] = v.w;
      }
    }
  }

  __device__ __forceinline__ void Unpack(int dtype, float (&x)[Row::kValues]) const {
#pragma unroll
    for (int i = 0; i < Row::kValues; ++i) {
      const int in = i % Row::kPer;
      x[i] = WordToFloat(words[i / Row::kPer * kBlockWords + in / 2], in & 1, dtype);
    }
  }
};

// Exact rows: a warp takes 8 tokens at a time, all its lanes one token's dims; 32 products (8
// tokens x 4 query rows) are summed over lanes so that each lane ends with one. States merge like
// those of coded pages, after a rotation. Not inlined: it must not take registers from the walk
// over pages.
template <class S>
__device__ __noinline__ void AttendExact(const AttentionArgs& a, Int8Shared<S>* sh, float* memory,
                                         int kv_head, int row_tile, int warp, int lane) {
  const tq_cuda_item item = LoadItem(a);
  using Row = LaneRow<S::kDim>;
  constexpr int kPart = Row::kValues;
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
  const int64_t base = item.sequence * x.sequence_stride + kv_head * x.head_stride;
  const int tid = threadIdx.x, state = warp;

  for (int n = 0; n < S::kTiles; ++n) {
    float q[4][kPart], o[4][kPart];
    float m = kNoLogit, l = 0.0f;  // of row lane % 4
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int i = 0; i < kPart; ++i) {
        o[r][i] = 0.0f;
      }
      Row query;
      query.Read(sh->q_plain + (4 * n + r) * S::kDim, lane);
#pragma unroll
      for (int i = 0; i < kPart; ++i) q[r][i] = query.v[i];
    }
    const int mask_row = row_tile * S::kRows + 4 * n + (lane & 3);
    const RowMask mask =
        LoadRowMask(a, item.sequence, total, min(mask_row / a.p.group, a.p.q_len - 1));
    for (int first = item.begin + warp * kBatch; first < end; first += S::kWarps * kBatch) {
      ExactRow<S::kDim> k_raw[kBatch], v_raw[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int64_t at = base + static_cast<int64_t>(min(first + j, end - 1)) * x.token_stride;
        k_raw[j].Load(x.k, at, lane);
        v_raw[j].Load(x.v, at, lane);
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
      for (int step = 0; step < 5; ++step) {
        const int h = 16 >> step;
        const bool upper = (lane & h) != 0;
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          if (i >= h) continue;
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
      if (!Row::Holds(lane)) continue;
      *reinterpret_cast<float4*>(values + (state * S::kDim + Row::Dim(lane, i)) * 4) =
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
    Row y;
    y.Read(rows + r * S::kDim, lane);
    y.Rotate(rotation, lane);
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      if (!Row::Holds(lane)) continue;
      StoreRelaxed(
          reinterpret_cast<float*>(out.values + (r / 4) * S::kDim + Row::Dim(lane, i)) + r % 4,
          y.v[i] * rotation.norm);
    }
    if (lane == 0) {
      StoreRelaxed(out.l + r, sh->row_l[r]);
      StoreRelaxed(out.m + r, sh->row_m[r]);
    }
  }
  FinishPartial(a, sh, item, kv_head, row_tile, memory, warp, lane);
}

// Where the pages of one sequence and kv head are, and the ring of one warp that they come to.
template <class S>
struct PageSource {
  PageRing<S::kSlots> ring;
  uint32_t stages;  // shared memory, kStages pages
  const int* table;
  const uint8_t* records;  // of the kv head in physical page 0
  int heads;

  __device__ __forceinline__ PageSource(const AttentionStart& start, int sequence, int kv_head,
                                        uint32_t stage_memory, uint32_t barriers, int lane)
      : ring(barriers, lane),
        stages(stage_memory),
        table(start.page_table + static_cast<int64_t>(sequence) * start.page_stride),
        records(start.records + static_cast<size_t>(kv_head) * S::kRecordBytes),
        heads(start.num_kv_heads) {}

  __device__ __forceinline__ uint32_t Stage(int stage) const {
    return stages + stage * S::kStageBytes;
  }

  __device__ __forceinline__ const uint8_t* Record(int page_index) const {
    return records + static_cast<size_t>(page_index) * heads * S::kRecordBytes;
  }
};

// The key means of one sequence and kv head.
template <class S>
struct MeanSource {
  const int* table;
  const uint16_t* means;  // of the kv head, mean 0
  int stride, mean_tokens;

  __device__ __forceinline__ MeanSource(const tq_cuda_cache& c, int sequence, int kv_head)
      : table(c.mean_table + static_cast<int64_t>(sequence) * c.mean_stride),
        means(c.means + kv_head * S::kDim),
        stride(c.num_kv_heads * S::kDim),
        mean_tokens(c.mean_tokens) {}

  // Index of the key mean of a page; -1: none.
  __device__ __forceinline__ int Of(int page) const {
    if (!S::kExtras || mean_tokens == 0) return -1;
    return __ldg(table + page * kTileTokens / mean_tokens);
  }

  __device__ __forceinline__ const uint16_t* At(int index) const {
    return means + (index >= 0 ? static_cast<size_t>(index) * stride : 0);
  }
  static __device__ __forceinline__ int Bytes(int index) {
    return S::kExtras && index >= 0 ? 2 * S::kDim : 0;
  }
};

// Asks for a page and its mean.
template <class S>
__device__ __forceinline__ void RequestPage(const PageSource<S>& source, const MeanSource<S>& means,
                                            int stage, int page_index, int mean_index) {
  const uint32_t to = source.Stage(stage);
  source.ring.Request(stage, to, source.Record(page_index), S::kRecordBytes, to + S::kRecordBytes,
                      means.At(mean_index), MeanSource<S>::Bytes(mean_index));
}

// The same in two requests (S::kApart): keys with all scales and the mean, then values.
template <class S>
__device__ __forceinline__ void RequestKeys(const PageSource<S>& source, const MeanSource<S>& means,
                                            int page_index, int mean_index) {
  const uint32_t to = source.Stage(0);
  const uint8_t* record = source.Record(page_index);
  source.ring.Request(0, to, record, S::kValueCodes, to + S::kKeyScales, record + S::kKeyScales,
                      4 * kTileTokens, to + S::kRecordBytes, means.At(mean_index),
                      MeanSource<S>::Bytes(mean_index));
}

template <class S>
__device__ __forceinline__ void RequestValues(const PageSource<S>& source, int page_index) {
  source.ring.Request(1, source.Stage(0) + S::kValueCodes,
                      source.Record(page_index) + S::kValueCodes, S::kKeyScales - S::kValueCodes);
}

// The pages that a warp takes: each kWarps-th of the item, or, after the first few, the next that
// no warp of the CTA has taken.
template <class S>
__device__ __forceinline__ int PageAfter(const AttentionArgs& a, Int8Shared<S>* sh, int page,
                                         int begin, int lane) {
  if (a.plan.dynamic == 0) return page + S::kWarps;
  int taken = 0;
  if (lane == 0) taken = atomicAdd(&sh->next, 1);
  return begin + __shfl_sync(kAllLanes, taken, 0);
}

// What a warp knows of its next pages.
template <class S>
struct PageQueue {
  int pages[S::kStages];       // asked for, in order
  int next;                    // to be asked for
  int page_index, mean_index;  // of `next`
  uint32_t has_mean;           // bit s: stage s holds a mean
};

// Walks the pages of one warp.
template <class S>
__device__ __forceinline__ void WalkPages(const AttentionArgs& a, Int8Shared<S>* sh,
                                          const PageSource<S>& source, const MeanSource<S>& means,
                                          Int8Warp<S>* state, const tq_cuda_item& item,
                                          int row_tile, int coded_len, int total, int end,
                                          PageQueue<S> queue, int lane) {
  // From here on tokens may be hidden; all rows of a causal mask see the first query's token.
  const int first_hidden =
      min(coded_len, total - a.p.q_len - a.p.coded_begin + (a.p.tree_mask != nullptr ? 0 : 1));
  const int window_begin =
      a.p.window > 0 ? total - a.p.window - a.p.coded_begin : 0;  // of the last query token
  const float value_step = a.v_tables.unit * (1.0f / 65280.0f);
  int stage = 0;
  uint32_t parity = 0;
  while (queue.pages[0] < end) {
    const int page = queue.pages[0];
    const uint32_t at = source.Stage(stage);
    source.ring.Wait(S::kApart ? 0 : stage, parity);
    float s[S::kTiles][8];
    state->Logits(a, at, lane, s);
    uint4 value_scales = LoadShared16(at + S::kValueScales + (lane >> 2) * 16);
    if constexpr (S::kExtras) {
      if ((queue.has_mean >> stage) & 1u) state->AddMean(*sh, at + S::kRecordBytes, lane, s);
    }
    const bool more = queue.next < end;
    if constexpr (S::kApart) {
      __syncwarp();
      if (more) {
        RequestKeys(source, means, queue.page_index, queue.mean_index);
        queue.has_mean = MeanSource<S>::Bytes(queue.mean_index) > 0 ? 1u : 0u;
      } else {
        source.ring.Skip();
      }
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
    if constexpr (S::kApart) source.ring.Wait(1, parity);
    state->Accumulate(a, at, lane, b, inverse);
    __syncwarp();
#pragma unroll
    for (int i = 0; i + 1 < S::kStages; ++i) queue.pages[i] = queue.pages[i + 1];
    queue.pages[S::kStages - 1] = queue.next;
    if (more) {
      if constexpr (S::kApart) {
        RequestValues(source, queue.page_index);
      } else {
        RequestPage(source, means, stage, queue.page_index, queue.mean_index);
        if constexpr (S::kExtras) {
          const uint32_t bit = MeanSource<S>::Bytes(queue.mean_index) > 0 ? 1u : 0u;
          queue.has_mean = (queue.has_mean & ~(1u << stage)) | (bit << stage);
        }
      }
      queue.next = PageAfter(a, sh, queue.next, item.begin, lane);
      if (queue.next < end) {
        queue.page_index = __ldg(source.table + queue.next);
        queue.mean_index = means.Of(queue.next);
      }
    } else {
      source.ring.Skip();
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

// Asks for the first pages; `end`: as far as the sequence goes.
template <class S>
__device__ __forceinline__ void RequestFirst(const PageSource<S>& source,
                                             const MeanSource<S>& means,
                                             const int (&pages)[S::kStages + 1],
                                             const int (&page_index)[S::kStages + 1],
                                             const int (&mean_index)[S::kStages + 1], int end,
                                             PageQueue<S>* queue) {
  queue->has_mean = 0;
#pragma unroll
  for (int i = 0; i < S::kStages; ++i) {
    queue->pages[i] = pages[i];
    if (pages[i] >= end) {
      source.ring.Skip();
      if (S::kApart) source.ring.Skip();
      continue;
    }
    if constexpr (S::kApart) {
      RequestKeys(source, means, page_index[i], mean_index[i]);
      RequestValues(source, page_index[i]);
    } else {
      RequestPage(source, means, i, page_index[i], mean_index[i]);
    }
    if (MeanSource<S>::Bytes(mean_index[i]) > 0) queue->has_mean |= 1u << i;
  }
  queue->next = pages[S::kStages];
  queue->page_index = page_index[S::kStages];
  queue->mean_index = mean_index[S::kStages];
}

// The arguments span many lines of the constant cache, each a wait for whoever needs it first:
// every warp reads one that is needed late, and nobody waits for it.
template <class S>
__device__ __forceinline__ uint32_t TouchArguments(const AttentionArgs& a, int warp) {
  constexpr int kLineWords = 16, kFirst = 3;
  constexpr int kWords = static_cast<int>(sizeof(AttentionArgs) / 4);
  const uint32_t* words = reinterpret_cast<const uint32_t*>(&a);
  uint32_t sum = 0;
#pragma unroll
  for (int i = kFirst; i * kLineWords < kWords; i += S::kWarps) {
    sum += words[min((i + warp) * kLineWords, kWords - 1)];
  }
  return sum;
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kConfig.ctas_per_sm)
    AttendInt8(const __grid_constant__ AttentionArgs a) {
  uint8_t* memory = DynamicShared();
  __shared__ Int8Shared<S> sh;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
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
    AttendExact(a, &sh, reinterpret_cast<float*>(memory), kv_head, row_tile, warp, lane);
    return;
  }

  const int coded_len = __ldg(a.start.coded_len + item.sequence);
  const PageSource<S> source(a.start, item.sequence, kv_head,
                             SharedAddress(memory) + warp * S::kStages * S::kStageBytes,
                             SharedAddress(sh.barriers) + warp * S::kSlots * 8, lane);
  const MeanSource<S> means(a.p.cache, item.sequence, kv_head);
  int pages[S::kStages + 1], page_index[S::kStages + 1], mean_index[S::kStages + 1];
#pragma unroll
  for (int i = 0; i <= S::kStages; ++i) {
    pages[i] = item.begin + warp + i * S::kWarps;
    page_index[i] = pages[i] < item.end ? __ldg(source.table + pages[i]) : 0;
    mean_index[i] = pages[i] < item.end ? means.Of(pages[i]) : -1;
  }
  const uint32_t touched = TouchArguments<S>(a, warp);
  const int end = min(item.end, (coded_len + kTileTokens - 1) / kTileTokens);
  PageQueue<S> queue;
  RequestFirst(source, means, pages, page_index, mean_index, end, &queue);
  query.Store(a, &sh, warp, lane);
  if (threadIdx.x == S::kThreads - 1) {
    sh.tables[0] = a.k_tables;
    sh.tables[1] = a.v_tables;
    sh.next = (S::kStages + 1) * S::kWarps;
  }
  if (lane == 0) {
    StoreShared(SharedAddress(&sh.touched[warp]), touched);
  }
  const int total = TotalLength(a, item.sequence, coded_len);
  if constexpr (S::kByteKeys) {
    CentroidTable::Fill(memory + S::kMemory.table, a.k_tables.unit, threadIdx.x, S::kThreads);
  }
  __syncthreads();
  Int8Warp<S> state;
  if constexpr (S::kByteKeys) {
    state.centroids.Bind(SharedAddress(memory + S::kMemory.table), a.high_half, lane);
  }
  state.LoadTables(sh);
  state.LoadQuery(sh, lane >> 2, lane & 3);
  WalkPages(a, &sh, source, means, &state, item, row_tile, coded_len, total, end, queue, lane);
  MergeWarps(a, &sh, reinterpret_cast<float*>(memory), &state, item, kv_head, row_tile, warp, lane);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_KERNEL_CUH_
