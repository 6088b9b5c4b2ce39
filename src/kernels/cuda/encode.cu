// Rows into the paged cache and back: encode_rows.cuh, encode_pages.cuh, key means, decoding,
// rotation, merge of two attention outputs. Compiled without contraction.
#include <type_traits>

#include "kernels/cuda/encode_pages.cuh"
#include "kernels/cuda/encode_rows.cuh"

namespace turboquant::cuda {
namespace {

constexpr int kThreads = 4 * kTileTokens;

// One CTA a mean and kv head, one thread a dim.
__global__ void PageMeans(const tq_cuda_means_params p) {
  const int i = blockIdx.x, head = blockIdx.y, dim = threadIdx.x;
  const int begin = __ldg(p.begin + i), end = __ldg(p.end + i);
  const int64_t base =
      __ldg(p.sequence + i) * p.rows.sequence_stride + head * p.rows.head_stride + dim;
  float sum = 0.0f;
#pragma unroll 8
  for (int row = begin; row < end; ++row) {
    const int64_t at = base + row * p.rows.token_stride;
    if (p.rows.dtype == TQ_CUDA_F32) {
      sum += __ldg(static_cast<const float*>(p.rows.k) + at);
    } else {
      sum += WordToFloat(__ldg(static_cast<const uint16_t*>(p.rows.k) + at), 0, p.rows.dtype);
    }
  }
  const tq_cuda_cache& c = p.cache;
  const_cast<uint16_t*>(
      c.means)[(static_cast<int64_t>(__ldg(p.index + i)) * c.num_kv_heads + head) * c.head_dim +
               dim] =
      FloatToHalf(fminf(fmaxf(sum / static_cast<float>(max(end - begin, 1)), -kHalfMax), kHalfMax));
}

// The stored value of (token, dim), before rotation back.
__device__ __forceinline__ float StoredValue(const uint8_t* record, const RecordLayout& layout,
                                             bool value_side, int token, int dim) {
  const TileFormat f = value_side ? layout.v : layout.k;
  const uint8_t* area = record + (value_side ? layout.v_codes : 0);
  const float scale = HalfToFloat(reinterpret_cast<const uint16_t*>(
      record + (value_side ? layout.v_scales : layout.k_scales))[ScaleSlot(token)]);
  if (OrderOf(f, layout.head_dim) == TileOrder::kFragment) {
    return scale *
           Centroids(f.bits)[LoadFragmentCode(f.bits, reinterpret_cast<const uint32_t*>(area),
                                              value_side, layout.head_dim, token, dim)];
  }
  const uint8_t* row = area + token * (f.bits * layout.head_dim / 8);
  if (f.trellis) {
    const TrellisView trellis = Trellis(f.bits, TrellisMemory(f.bits));
    return scale * trellis.alphabet[LoadTrellisIndex(trellis, row, layout.head_dim, dim)];
  }
  return scale * Centroids(f.bits)[LoadCode(f.bits, row, layout.head_dim, dim)];
}

struct DecodeArgs {
  tq_cuda_decode_params p;
  RecordLayout layout;
};

template <int kDim>
__global__ void __launch_bounds__(kThreads) DecodePages(const __grid_constant__ DecodeArgs a) {
  const tq_cuda_cache& cache = a.p.cache;
  const int head = blockIdx.y >> 1, l = threadIdx.x & 3;
  const bool value_side = (blockIdx.y & 1) != 0;
  const int i = blockIdx.x * kTileTokens + (threadIdx.x >> 2);
  const bool active = i < a.p.num_tokens;
  const int token = a.p.first_token + (active ? i : 0);
  const int page = token / kTileTokens;
  const int64_t sequence = a.p.sequence;
  const int physical = __ldg(cache.page_table + sequence * cache.page_stride + page);
  const uint8_t* record =
      static_cast<const uint8_t*>(cache.records) +
      (static_cast<size_t>(physical) * cache.num_kv_heads + head) * a.layout.bytes;
  RowLanes<kDim> y;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      y.v[4 * k + e] =
          StoredValue(record, a.layout, value_side, token % kTileTokens, 16 * k + 4 * l + e);
    }
  }
  if (a.p.rotated == 0) {
    y.Unrotate(value_side ? cache.v_rotation : cache.k_rotation, l);
    const int mean =
        !value_side && cache.mean_tokens > 0
            ? __ldg(cache.mean_table + sequence * cache.mean_stride + token / cache.mean_tokens)
            : -1;
    if (mean >= 0) {
      RowLanes<kDim> m;
      m.Load(cache.means, TQ_CUDA_F16,
             (static_cast<int64_t>(mean) * cache.num_kv_heads + head) * kDim, l);
#pragma unroll
      for (int n = 0; n < kDim / 4; ++n) y.v[n] = y.v[n] + m.v[n];
    }
  }
  if (!active) return;
  y.Store(value_side ? a.p.v : a.p.k, a.p.dtype,
          (static_cast<int64_t>(head) * a.p.num_tokens + i) * kDim, l);
}

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    RotateRows(const __grid_constant__ tq_cuda_rotate_params p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTileTokens + (threadIdx.x >> 2);
  const int l = threadIdx.x & 3;
  RowLanes<kDim> y;
  y.Load(p.in, p.dtype, (row < p.count ? row : 0) * kDim, l);
  if (p.inverse != 0) {
    y.Unrotate(p.rotation, l);
  } else {
    y.Rotate(p.rotation, l);
  }
  if (row < p.count) y.Store(p.out, p.dtype, row * kDim, l);
}

// One warp a row.
__global__ void MergeRows(const tq_cuda_merge_params p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 4 + (threadIdx.x >> 5);
  if (row >= p.rows) return;
  const int lane = threadIdx.x & 31;
  const float mine = p.lse[row], other = p.other_lse[row];
  const float most = fmaxf(mine, other);
  const bool none = !(most > -INFINITY);
  const float w0 = none ? 0.0f : __expf(mine - most), w1 = none ? 0.0f : __expf(other - most);
  const float scale = none ? 0.0f : 1.0f / (w0 + w1);
  for (int d = 2 * lane; d < p.head_dim; d += 64) {
    float x[2], y[2];
    const int64_t at = row * p.head_dim + d;
    LoadValues(p.out, p.out_dtype, at, x);
    LoadValues(p.other, p.other_dtype, at, y);
    // A side without weight may hold anything, NaN too.
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      x[e] = ((w0 > 0.0f ? w0 * x[e] : 0.0f) + (w1 > 0.0f ? w1 * y[e] : 0.0f)) * scale;
    }
    StoreValues(p.out, p.out_dtype, at, x);
  }
  __syncwarp();
  if (lane == 0) p.lse[row] = none ? -INFINITY : most + logf(w0 + w1);
}

dim3 PageGrid(int tokens, int num_kv_heads, int batch) {
  return dim3(static_cast<unsigned>((tokens + kTileTokens - 1) / kTileTokens),
              static_cast<unsigned>(2 * num_kv_heads), static_cast<unsigned>(batch));
}

}  // namespace

cudaError_t LaunchEncode(const tq_cuda_encode_params& p, const RecordLayout& layout,
                         cudaStream_t stream) {
  if (EncodeRowsServes(p, layout)) {
    int device = 0, sms = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess) return error;
    error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess) return error;
    const EncodeRowsArgs rows = MakeEncodeRowsArgs(p, layout);
    return layout.head_dim == 64    ? LaunchEncodeRows<64>(rows, sms, stream)
           : layout.head_dim == 128 ? LaunchEncodeRows<128>(rows, sms, stream)
                                    : LaunchEncodeRows<256>(rows, sms, stream);
  }
  const EncodeArgs args{p, layout};
  const dim3 grid = EncodeGrid(p);
  WithHeadDim(p.cache.head_dim, [&](auto dim) {
    EncodePages<dim.value><<<grid, EncodeShape<dim.value>::kThreads, 0, stream>>>(args);
  });
  return cudaGetLastError();
}

cudaError_t LaunchPageMeans(const tq_cuda_means_params& p, cudaStream_t stream) {
  PageMeans<<<dim3(p.count, p.cache.num_kv_heads), p.cache.head_dim, 0, stream>>>(p);
  return cudaGetLastError();
}

cudaError_t LaunchDecodeRows(const tq_cuda_decode_params& p, const RecordLayout& layout,
                             cudaStream_t stream) {
  const DecodeArgs args{p, layout};
  const dim3 grid = PageGrid(p.num_tokens, p.cache.num_kv_heads, 1);
  WithHeadDim(p.cache.head_dim,
              [&](auto dim) { DecodePages<dim.value><<<grid, kThreads, 0, stream>>>(args); });
  return cudaGetLastError();
}

cudaError_t LaunchRotate(const tq_cuda_rotate_params& p, cudaStream_t stream) {
  const unsigned grid = static_cast<unsigned>((p.count + kTileTokens - 1) / kTileTokens);
  WithHeadDim(p.head_dim,
              [&](auto dim) { RotateRows<dim.value><<<grid, kThreads, 0, stream>>>(p); });
  return cudaGetLastError();
}

cudaError_t LaunchMerge(const tq_cuda_merge_params& p, cudaStream_t stream) {
  MergeRows<<<static_cast<unsigned>((p.rows + 3) / 4), 128, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace turboquant::cuda
