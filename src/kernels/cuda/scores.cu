// Inner products of up to 4 queries with all coded keys of one head, without attention around them.
//
// Fragment-order keys go through the int8 tensor-core product of the attention kernel, a page a
// warp and loop turn, read straight from global memory (every byte once, coalesced). Other formats
// decode value by value.
#include "codec/trellis_codec.h"
#include "kernels/cuda/attention_int8.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/cuda/scores.h"

namespace turboquant::cuda {
namespace {

constexpr int kWarps = 4;

struct ScoreArgs {
  tq_cuda_scores_params p;
  RecordLayout layout;
  ByteTables tables;
  uint32_t high_half;
};

template <int kBits, int kDim>
struct ScoreShared {
  alignas(16) uint8_t page[kWarps][kBits * kDim * kTileTokens / 8];
  alignas(16) uint8_t q_bytes[2 * kMaxScoreRows * kDim];
  float q_scale[kMaxScoreRows];
};

// 15-bit query rows as bytes, high and low, and their scales.
template <int kDim>
__device__ __forceinline__ void QuantizeQueries(const ScoreArgs& a, uint8_t* bytes, float* scale) {
  const int slot = threadIdx.x >> 2, l = threadIdx.x & 3;
  if (threadIdx.x >= 32) return;
  RowLanes<kDim> y;
  if (slot < a.p.rows) {
    y.Load(a.p.q, TQ_CUDA_F32, slot * kDim, l);
  } else {
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) y.v[i] = 0.0f;
  }
  y.Rotate(a.p.cache.k_rotation, l);
  float most = 1e-30f;
#pragma unroll
  for (int i = 0; i < kDim / 4; ++i) most = fmaxf(most, fabsf(y.v[i]));
  most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
  most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
  if (slot >= kMaxScoreRows) return;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int v = __float2int_rn(y.v[4 * k + e] * (16256.0f / most));
      const int high = (v + 64) >> 7;
      uint8_t* at = bytes + 2 * slot * kDim + 16 * k + 4 * l + e;
      at[0] = static_cast<uint8_t>(high);
      at[kDim] = static_cast<uint8_t>(v - (high << 7));
    }
  }
  if (l == 0) scale[slot] = most * (1.0f / 16256.0f) * a.tables.unit;
}

// <q_row, mean> in original coordinates; all lanes of the warp get it.
template <int kDim>
__device__ __forceinline__ float MeanProduct(const ScoreArgs& a, int mean, int row, int lane) {
  if (mean < 0 || row >= a.p.rows) return 0.0f;
  const uint16_t* mu =
      a.p.cache.means + (static_cast<int64_t>(mean) * a.p.cache.num_kv_heads + a.p.kv_head) * kDim;
  float sum = 0.0f;
  for (int d = 2 * lane; d < kDim; d += 64) {
    float x[2], y[2];
    LoadValues(a.p.q, TQ_CUDA_F32, row * kDim + d, x);
    LoadValues(mu, TQ_CUDA_F16, d, y);
    sum = fmaf(x[0], y[0], fmaf(x[1], y[1], sum));
  }
#pragma unroll
  for (int h = 1; h < 32; h *= 2) sum += __shfl_xor_sync(kAllLanes, sum, h);
  return sum;
}

__device__ __forceinline__ int MeanOf(const tq_cuda_cache& c, int64_t sequence, int token) {
  return c.mean_tokens > 0 ? __ldg(c.mean_table + sequence * c.mean_stride + token / c.mean_tokens)
                           : -1;
}

template <int kBits, int kDim>
__global__ void __launch_bounds__(32 * kWarps) ScorePages(const __grid_constant__ ScoreArgs a) {
  extern __shared__ __align__(128) uint8_t memory[];
  auto* sh = reinterpret_cast<ScoreShared<kBits, kDim>*>(memory);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  QuantizeQueries<kDim>(a, sh->q_bytes, sh->q_scale);
  __syncthreads();
  constexpr int kWords = kDim / 32;
  uint32_t q[1][kDim / 16];
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    q[0][i] = reinterpret_cast<const uint32_t*>(sh->q_bytes + g * kDim + t * (kDim / 4))[i];
  }
  const float q_scale = sh->q_scale[t];
  const tq_cuda_cache& c = a.p.cache;
  const int64_t sequence = a.p.sequence;
  const int pages = (a.p.num_tokens + kTileTokens - 1) / kTileTokens;
  constexpr int kAreaBytes = kBits * kDim * kTileTokens / 8;
  constexpr int kPieces = kAreaBytes / 512;
  uint8_t* mine = sh->page[warp];
  for (int page = blockIdx.x * kWarps + warp; page < pages; page += gridDim.x * kWarps) {
    const int physical = __ldg(c.page_table + sequence * c.page_stride + page);
    const uint8_t* record =
        static_cast<const uint8_t*>(c.records) +
        (static_cast<size_t>(physical) * c.num_kv_heads + a.p.kv_head) * a.layout.bytes;
    uint4 bring[kPieces];
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      bring[i] = __ldcs(reinterpret_cast<const uint4*>(record) + 32 * i + lane);
    }
    const uint4 scales = __ldcs(reinterpret_cast<const uint4*>(record + a.layout.k_scales) + g);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kPieces; ++i) reinterpret_cast<uint4*>(mine)[32 * i + lane] = bring[i];
    __syncwarp();
    float key_scale[8];
    UnpackScales(scales, key_scale);
    float bias = 0.0f;
    if (c.mean_tokens > 0) {
      const int mean = MeanOf(c, sequence, page * kTileTokens);
#pragma unroll
      for (int row = 0; row < kMaxScoreRows; ++row) {
        const float sum = MeanProduct<kDim>(a, mean, row, lane);
        if (row == t) bias = sum;
      }
    }
    constexpr int kChains = kDim == 256 ? 2 : 4;
#pragma unroll
    for (int first = 0; first < 4; first += kChains) {
      constexpr int kQuads = kChains * 2 * kWords / 4;
      uint32_t words[4 * kQuads];
      LoadSelectors<kBits, kDim, kQuads>(SharedAddress(mine), first * 2 * kWords / 4, lane, words);
      int acc[1][kChains][4] = {};
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        const uint32_t b[1][2] = {{q[0][2 * j], q[0][2 * j + 1]}};
        uint32_t x[1][kChains], y[1][kChains];
#pragma unroll
        for (int chain = 0; chain < kChains; ++chain) {
          x[0][chain] = words[2 * chain * kWords + j];
          y[0][chain] = words[(2 * chain + 1) * kWords + j];
        }
        MmaLookUp<kBits, 1, false, kChains>(acc, x, y, a.tables, a.high_half, b);
      }
      if (t < a.p.rows) {
        float* out = a.p.out + static_cast<int64_t>(t) * a.p.num_tokens;
#pragma unroll
        for (int i = 0; i < 2 * kChains; ++i) {
          const int token = page * kTileTokens + g + 8 * (2 * first + i);
          const int* pair = &acc[0][i / 2][2 * (i % 2)];
          if (token < a.p.num_tokens) {
            out[token] = fmaf(static_cast<float>(pair[0] * 128 + pair[1]),
                              key_scale[2 * first + i] * q_scale, bias);
          }
        }
      }
    }
  }
}

// Any format: 4 lanes a key.
template <int kDim>
__global__ void __launch_bounds__(32 * kWarps) ScoreRows(const __grid_constant__ ScoreArgs a) {
  __shared__ float q[kMaxScoreRows][kDim];
  __shared__ float plain[kMaxScoreRows][kDim];
  const int l = threadIdx.x & 3, slot = threadIdx.x >> 2;
  if (threadIdx.x < 32) {
    RowLanes<kDim> y;
    y.Load(a.p.q, TQ_CUDA_F32, (slot < a.p.rows ? slot : 0) * kDim, l);
    if (slot < a.p.rows) y.Store(plain, TQ_CUDA_F32, slot * kDim, l);
    y.Rotate(a.p.cache.k_rotation, l);
    if (slot < a.p.rows) y.Store(q, TQ_CUDA_F32, slot * kDim, l);
  }
  __syncthreads();
  const tq_cuda_cache& c = a.p.cache;
  const TileFormat f = a.layout.k;
  const int64_t sequence = a.p.sequence;
  const TrellisView trellis = f.trellis ? Trellis(f.bits, TrellisMemory(f.bits)) : TrellisView{};
  for (int token = blockIdx.x * 8 * kWarps + slot; token - slot < a.p.num_tokens;
       token += gridDim.x * 8 * kWarps) {
    const bool there = token < a.p.num_tokens;
    const int at = there ? token : 0;
    const int physical = __ldg(c.page_table + sequence * c.page_stride + at / kTileTokens);
    const uint8_t* record =
        static_cast<const uint8_t*>(c.records) +
        (static_cast<size_t>(physical) * c.num_kv_heads + a.p.kv_head) * a.layout.bytes;
    const uint8_t* row = record + (at % kTileTokens) * (f.bits * kDim / 8);
    const bool fragments = OrderOf(f, kDim) == TileOrder::kFragment;
    const int mean = MeanOf(c, sequence, at);
    float sum[kMaxScoreRows] = {}, shift[kMaxScoreRows] = {};
    for (int i = 0; i < kDim / 4; ++i) {
      const int dim = 16 * (i / 4) + 4 * l + i % 4;
      float value;
      if (fragments) {
        value = Centroids(f.bits)[LoadFragmentCode(
            f.bits, reinterpret_cast<const uint32_t*>(record), false, kDim, at % kTileTokens, dim)];
      } else if (f.trellis) {
        value = trellis.alphabet[LoadTrellisIndex(trellis, row, kDim, dim)];
      } else {
        value = Centroids(f.bits)[LoadCode(f.bits, row, kDim, dim)];
      }
      const float mu =
          mean >= 0
              ? HalfToFloat(
                    c.means[(static_cast<int64_t>(mean) * c.num_kv_heads + a.p.kv_head) * kDim +
                            dim])
              : 0.0f;
      for (int r = 0; r < a.p.rows; ++r) {
        sum[r] = fmaf(q[r][dim], value, sum[r]);
        shift[r] = fmaf(plain[r][dim], mu, shift[r]);
      }
    }
    const float scale = HalfToFloat(
        reinterpret_cast<const uint16_t*>(record + a.layout.k_scales)[ScaleSlot(at % kTileTokens)]);
    for (int r = 0; r < a.p.rows; ++r) {
      float s = fmaf(sum[r], scale, shift[r]);
      s += __shfl_xor_sync(kAllLanes, s, 1);
      s += __shfl_xor_sync(kAllLanes, s, 2);
      if (there && l == 0) a.p.out[static_cast<int64_t>(r) * a.p.num_tokens + token] = s;
    }
  }
}

template <int kBits, int kDim>
cudaError_t LaunchScorePages(const ScoreArgs& args, cudaStream_t stream) {
  constexpr int kBytes = sizeof(ScoreShared<kBits, kDim>);
  const cudaError_t set = cudaFuncSetAttribute(ScorePages<kBits, kDim>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (set != cudaSuccess) return set;
  const int pages = (args.p.num_tokens + kTileTokens - 1) / kTileTokens;
  const int ctas = (pages + kWarps - 1) / kWarps;
  constexpr int kMostCtas = 132 * 6;
  ScorePages<kBits, kDim>
      <<<static_cast<unsigned>(ctas < kMostCtas ? ctas : kMostCtas), 32 * kWarps, kBytes, stream>>>(
          args);
  return cudaGetLastError();
}

template <int kDim>
cudaError_t LaunchScoreFormats(const ScoreArgs& args, cudaStream_t stream) {
  switch (args.layout.k.bits) {
    case 2:
      return LaunchScorePages<2, kDim>(args, stream);
    case 3:
      return LaunchScorePages<3, kDim>(args, stream);
    default:
      return LaunchScorePages<4, kDim>(args, stream);
  }
}

}  // namespace

cudaError_t LaunchScores(const tq_cuda_scores_params& p, const RecordLayout& layout,
                         cudaStream_t stream) {
  ScoreArgs args{p, layout, {}, 0x100};
  if (OrderOf(layout.k, layout.head_dim) == TileOrder::kFragment) {
    args.tables = MakeByteTables(layout.k.bits);
    if (layout.head_dim == 64) return LaunchScoreFormats<64>(args, stream);
    if (layout.head_dim == 128) return LaunchScoreFormats<128>(args, stream);
    return LaunchScoreFormats<256>(args, stream);
  }
  constexpr int kMostCtas = 4096;
  const int ctas = (p.num_tokens + 8 * kWarps - 1) / (8 * kWarps);
  const dim3 grid(static_cast<unsigned>(ctas < kMostCtas ? ctas : kMostCtas));
  WithHeadDim(layout.head_dim,
              [&](auto dim) { ScoreRows<dim.value><<<grid, 32 * kWarps, 0, stream>>>(args); });
  return cudaGetLastError();
}

}  // namespace turboquant::cuda
