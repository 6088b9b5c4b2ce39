// What the attention kernels share: arguments, rows in and out, rotation in registers, masks.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_COMMON_CUH_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_COMMON_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/byte_tables.h"
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/row_mask.h"

namespace turboquant::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
// Smaller than every logit; finite, so that differences of two of them are 0 and not NaN.
inline constexpr float kNoLogit = -1e30f;

// What a CTA must know before it can ask for its first page, as it stands in tq_cuda_attention.
struct AttentionStart {
  const uint8_t* records;
  const int* page_table;
  const int* coded_len;
  const void* q;
  int64_t q_sequence_stride, q_token_stride, q_head_stride;
  int page_stride, num_kv_heads, group, q_len, q_dtype;
};

// In front: what is read first. Every new line of the constant cache is a wait.
struct AttentionArgs {
  const tq_cuda_item* items;  // null: the plan is uniform
  tq_cuda_plan plan;
  AttentionStart start;
  tq_cuda_attention p;
  int* tickets;  // [batch][head tiles], and as many counters of pages
  float* partials;
  RecordLayout layout;
  ByteTables k_tables, v_tables;
  uint32_t high_half;  // 0x100, see HighHalf
};

inline ByteTables MakeSideTables(TileFormat f, int head_dim) {
  return OrderOf(f, head_dim) == TileOrder::kRows ? MakeRowTables(f) : MakeByteTables(f.bits);
}

inline AttentionArgs MakeAttentionArgs(const tq_cuda_plan& plan, const tq_cuda_attention& p,
                                       const tq_cuda_item* items, void* workspace,
                                       const RecordLayout& layout) {
  AttentionArgs args{};
  args.items = plan.uniform != 0 ? nullptr : items;
  args.plan = plan;
  args.start = {static_cast<const uint8_t*>(p.cache.records),
                p.cache.page_table,
                p.coded_len,
                p.q,
                p.q_sequence_stride,
                p.q_token_stride,
                p.q_head_stride,
                p.cache.page_stride,
                p.cache.num_kv_heads,
                p.group,
                p.q_len,
                p.q_dtype};
  args.p = p;
  args.tickets = static_cast<int*>(workspace);
  const size_t ticket_bytes = TicketBytes(p.batch, p.cache.num_kv_heads * plan.row_tiles);
  args.partials = reinterpret_cast<float*>(static_cast<uint8_t*>(workspace) + ticket_bytes);
  args.layout = layout;
  if (plan.path == TQ_CUDA_PATH_INT8) {
    args.k_tables = MakeSideTables(layout.k, layout.head_dim);
    args.v_tables = MakeSideTables(layout.v, layout.head_dim);
    args.high_half = 0x100;
  }
  return args;
}

inline dim3 AttentionGrid(const AttentionArgs& a) {
  if (a.plan.uniform == 0) return dim3(static_cast<unsigned>(a.plan.num_items));
  return dim3(static_cast<unsigned>(a.plan.splits),
              static_cast<unsigned>(a.p.cache.num_kv_heads * a.plan.row_tiles),
              static_cast<unsigned>(a.p.batch));
}

__device__ __forceinline__ tq_cuda_item LoadItem(const AttentionArgs& a) {
  if (a.items == nullptr) {
    return UniformItem(a.plan, blockIdx.x, blockIdx.y, gridDim.y, blockIdx.z);
  }
  const int4* from = reinterpret_cast<const int4*>(a.items + blockIdx.x);
  const int4 x = __ldg(from), y = __ldg(from + 1);
  return {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
}

__device__ __forceinline__ int TotalLength(const AttentionArgs& a, int sequence, int coded_len) {
  return a.p.total_len != nullptr ? __ldg(a.p.total_len + sequence) : a.p.coded_begin + coded_len;
}

__device__ __forceinline__ RowMask LoadRowMask(const AttentionArgs& a, int sequence, int total,
                                               int query) {
  const uint32_t* tree =
      a.p.tree_mask != nullptr ? a.p.tree_mask + sequence * a.p.q_len + query : nullptr;
  return MakeRowMask(total, a.p.q_len, query, a.p.window, tree);
}

// The bytes of n values of any type, asked for and not looked at: nothing waits for them yet. One
// value comes with its neighbour, whose place is even or odd as its own is.
template <int n>
struct RawValues {
  uint32_t words[n];  // 16-bit values fill the first half

  __device__ __forceinline__ void Load(const void* base, int dtype, int64_t at, bool there) {
    const int wide = dtype == TQ_CUDA_F32 ? 1 : 0;
    if constexpr (n == 1) at = wide != 0 ? at : at & ~int64_t{1};
    const uint8_t* from = static_cast<const uint8_t*>(base) + (at << (1 + wide));
#pragma unroll
    for (int i = 0; i < n; ++i) words[i] = 0;
    if constexpr (n == 1) LoadIf(from, there, &words[0]);
#pragma unroll
    for (int i = 0; i + 1 < n; i += 2) {
      const bool wanted = there && (i < n / 2 || wide != 0);
      if constexpr (n == 2) {
        LoadIf(from, wanted, &words[0]);
        LoadIf(from + 4, wanted && wide != 0, &words[1]);
      } else {
        LoadIf(from + 4 * i, wanted, &words[i], &words[i + 1]);
      }
    }
  }

  __device__ __forceinline__ float Value(int dtype, int i) const;
};

__device__ __forceinline__ float WordToFloat(uint32_t word, int half, int dtype) {
  const uint16_t bits = static_cast<uint16_t>(half != 0 ? word >> 16 : word);
  return dtype == TQ_CUDA_BF16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                               : __half2float(__ushort_as_half(bits));
}

template <int n>
__device__ __forceinline__ float RawValues<n>::Value(int dtype, int i) const {
  return dtype == TQ_CUDA_F32 ? __uint_as_float(words[n == 1 ? 0 : i])
                              : WordToFloat(words[i / 2], i & 1, dtype);
}

// n (2, 4, 8 or 16) consecutive values; the address is aligned to n 16-bit values.
template <int n>
__device__ __forceinline__ void LoadValues(const void* base, int dtype, int64_t at, float (&x)[n]) {
  if (dtype == TQ_CUDA_F32) {
    const float2* from = reinterpret_cast<const float2*>(static_cast<const float*>(base) + at);
#pragma unroll
    for (int i = 0; i < n / 2; ++i) {
      const float2 v = __ldg(from + i);
      x[2 * i] = v.x;
      x[2 * i + 1] = v.y;
    }
    return;
  }
  const uint16_t* from = static_cast<const uint16_t*>(base) + at;
  uint32_t words[n / 2];
  if constexpr (n == 2) {
    words[0] = __ldg(reinterpret_cast<const uint32_t*>(from));
  } else if constexpr (n == 4) {
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
    words[0] = v.x;
    words[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < n / 8; ++i) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(from) + i);
      words[4 * i] = v.x;
      words[4 * i + 1] = v.y;
      words[4 * i + 2] = v.z;
      words[4 * i + 3] = v.w;
    }
  }
#pragma unroll
  for (int i = 0; i < n; ++i) x[i] = WordToFloat(words[i / 2], i & 1, dtype);
}

template <int n>
__device__ __forceinline__ void StoreValues(void* base, int dtype, int64_t at,
                                            const float (&x)[n]) {
  if (dtype == TQ_CUDA_F32) {
    float* to = static_cast<float*>(base) + at;
    if constexpr (n == 1) to[0] = x[0];
#pragma unroll
    for (int i = 0; i < n / 2; ++i) {
      reinterpret_cast<float2*>(to)[i] = make_float2(x[2 * i], x[2 * i + 1]);
    }
    return;
  }
  uint32_t words[(n + 1) / 2];
#pragma unroll
  for (int i = 0; i < (n + 1) / 2; ++i) {
    const float second = 2 * i + 1 < n ? x[2 * i + 1] : 0.0f;
    if (dtype == TQ_CUDA_BF16) {
      const __nv_bfloat162 v = __floats2bfloat162_rn(x[2 * i], second);
      words[i] = reinterpret_cast<const uint32_t&>(v);
    } else {
      const __half2 v = __floats2half2_rn(x[2 * i], second);
      words[i] = reinterpret_cast<const uint32_t&>(v);
    }
  }
  uint16_t* to = static_cast<uint16_t*>(base) + at;
  if constexpr (n == 1) {
    *to = static_cast<uint16_t>(words[0]);
  } else if constexpr (n == 2) {
    *reinterpret_cast<uint32_t*>(to) = words[0];
  } else if constexpr (n == 4) {
    *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
  } else {
#pragma unroll
    for (int i = 0; i < n / 8; ++i) {
      reinterpret_cast<uint4*>(to)[i] =
          make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    }
  }
}

// softcap * tanh(s / softcap) of a logit in units of log2(e), without losing small values.
__device__ __forceinline__ float Softcap(float s, float softcap) {
  const float x = s * kLn2 * Reciprocal(softcap);
  const float e = Exp2(-2.0f * kLog2e * fabsf(x));
  const float t = fabsf(x) < 0.05f
                      ? fabsf(x) * (1.0f - x * x * (1.0f / 3.0f - x * x * (2.0f / 15.0f)))
                      : (1.0f - e) * Reciprocal(1.0f + e);
  return copysignf(softcap * kLog2e * t, s);
}

// Weight sum and largest logit (log2 units) of a finished row, with its sink logit if there is one.
struct RowSum {
  float factor;  // of the accumulated values
  float lse;     // natural log
};

__device__ __forceinline__ RowSum FinishRowSum(float m, float l, const float* sinks, int head) {
  if (sinks != nullptr) {
    const float sink = __ldg(sinks + head) * kLog2e;
    const float most = fmaxf(m, sink);
    const float keep = Exp2(m - most);
    const float sum = fmaf(l, keep, Exp2(sink - most));
    return {keep * Reciprocal(sum), (most + log2f(sum)) * kLn2};
  }
  if (!(l > 0.0f)) return {0.0f, -INFINITY};
  return {Reciprocal(l), (m + log2f(l)) * kLn2};
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_COMMON_CUH_
