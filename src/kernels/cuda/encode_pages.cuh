// Rows into the paged cache: mean, rotation, codes, least-squares scale, packing. One CTA codes one
// side of one page of one kv head, K and V in the same launch, 2 lanes a row (4 of long rows).
// Codes and scales are those of codec/scalar_codec.h bit for bit. Files that
// include this are compiled without contraction.
#ifndef TURBOQUANT_KERNELS_CUDA_ENCODE_PAGES_CUH_
#define TURBOQUANT_KERNELS_CUDA_ENCODE_PAGES_CUH_

#include <type_traits>

#include "kernels/cuda/encode.h"
#include "kernels/cuda/row_lanes.cuh"

namespace turboquant::cuda {

struct EncodeArgs {
  tq_cuda_encode_params p;
  RecordLayout layout;
};

template <int kDim>
struct EncodeShape {
  static constexpr int kLanes = kDim <= 128 ? 2 : 4;
  static constexpr int kThreads = kLanes * kTileTokens;
  static constexpr int kCtas = kDim <= 128 ? 4 : 2;  // an SM
  using Row = RowLanes<kDim, kLanes>;
};

template <int kDim>
struct EncodeShared {
  static constexpr int kPitch = kDim + 4;  // bytes of a row of codes; an odd number of words
  alignas(16) uint8_t codes[kTileTokens * kPitch];  // tile nibbles, or codes of rows
  alignas(16) uint32_t signs[kDim / 2];
  float2 thresholds[256];  // x; as far apart as the centroids
  float2 centroids[256];   // and their squares
};

template <typename T>
__device__ __forceinline__ T AtByte(const float2* table, int offset) {
  return *reinterpret_cast<const T*>(reinterpret_cast<const uint8_t*>(table) + offset);
}

// The scale and the codes of one row; codes as bytes in v's order.
template <int kBits, class Row>
__device__ __forceinline__ uint16_t QuantizeRow(const Row& y, const float2* thresholds,
                                                const float2* centroids, float inverse_rms,
                                                uint32_t (&codes)[Row::kValues / 4]) {
  // Codes are counted in bytes of the tables: an offset needs no shift. The first two steps of the
  // search compare with three thresholds: kept in registers.
  constexpr int kEntry = sizeof(float2);
  constexpr int kHalf = 1 << (kBits - 1), kQuarter = kHalf / 2;
  const float middle = thresholds[kHalf - 1].x;
  const float lower = thresholds[kQuarter - 1].x, upper = thresholds[kHalf + kQuarter - 1].x;
  float dot[Row::kPer] = {}, norm[Row::kPer] = {};
#pragma unroll
  for (int i = 0; i < Row::kValues; i += 4) {
    uint32_t four[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float value = y.v[i + j];
      const float u = value * inverse_rms;
      const bool above = u > middle;
      int code = above ? kHalf * kEntry : 0;
      if (u > (above ? upper : lower)) code += kQuarter * kEntry;
#pragma unroll
      for (int step = kQuarter / 2; step > 0; step /= 2) {
        if (u > AtByte<float>(thresholds, code + (step - 1) * kEntry)) code += step * kEntry;
      }
      const float2 c = AtByte<float2>(centroids, code);
      float& d = dot[(i + j) % Row::kPer];
      float& n = norm[(i + j) % Row::kPer];
      d = d + value * c.x;
      n = n + c.y;
      four[j] = static_cast<uint32_t>(code);
    }
    if constexpr (kBits <= 4) {
      const uint32_t packed =
          Prmt(Prmt(four[0], four[1], 0x0040), Prmt(four[2], four[3], 0x0040), 0x5410);
      codes[i / 4] = packed / kEntry & 0x0F0F0F0Fu;
    } else {
      codes[i / 4] = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) codes[i / 4] |= four[j] / kEntry << (8 * j);
    }
  }
  const float d = FoldRow<Row>(dot), n = FoldRow<Row>(norm);
  return ScaleToHalf(FitScale(ScaleRule::kLeastSquares, 0.0f, d, n, Row::kBlocks * 16));
}

// Selector words of (quad, lane) of keys from the page's nibbles in shared memory.
template <int kDim>
__device__ __forceinline__ void GatherKeyQuad(const uint8_t* codes, int quad, int lane,
                                              uint32_t (&s)[4]) {
  constexpr int kPitch = EncodeShared<kDim>::kPitch;
  constexpr int kWords = kDim / 32;
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int n = 4 * quad + j;
    const uint32_t* row = reinterpret_cast<const uint32_t*>(
        codes + (8 * (n / kWords) + g) * kPitch + t * (kDim / 4) + 8 * (n % kWords));
    s[j] = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t four = row[half];
      // Bytes 0x0d0c0b0a to nibbles 0xdcba.
      const uint32_t pairs = (four | (four >> 4)) & 0x00FF00FFu;
      s[j] |= ((pairs | (pairs >> 8)) & 0xFFFFu) << (16 * half);
    }
  }
}

// Selector words of 4 neighbouring dims of values, lanes (g, t) to (g + 3, t): s[dim][word].
template <int kDim>
__device__ __forceinline__ void GatherValueQuads(const uint8_t* codes, int quad, int g, int t,
                                                 uint32_t (&s)[4][4]) {
  constexpr int kPitch = EncodeShared<kDim>::kPitch;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint8_t* column = codes + (32 * (j / 2) + t) * kPitch + 16 * quad + 8 * (j % 2) + g;
    uint32_t pair[4];  // nibbles 2 n and 2 n + 1 of the 4 dims, a byte each
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const auto row = [&](int i) {
        return *reinterpret_cast<const uint32_t*>(column + (4 * (i / 4) + 8 * (i % 4)) * kPitch);
      };
      pair[n] = row(2 * n) | (row(2 * n + 1) << 4);
    }
    const uint32_t low01 = Prmt(pair[0], pair[1], 0x5140), high01 = Prmt(pair[0], pair[1], 0x7362);
    const uint32_t low23 = Prmt(pair[2], pair[3], 0x5140), high23 = Prmt(pair[2], pair[3], 0x7362);
    s[0][j] = Prmt(low01, low23, 0x5410);
    s[1][j] = Prmt(low01, low23, 0x7632);
    s[2][j] = Prmt(high01, high23, 0x5410);
    s[3][j] = Prmt(high01, high23, 0x7632);
  }
}

// Nibbles of (quad, word, lane) that belong to tokens [begin, end) of the page.
template <int kDim>
__device__ __forceinline__ uint32_t NibbleMask(bool value_side, int quad, int j, int lane,
                                               int begin, int end) {
  const int g = lane >> 2, t = lane & 3;
  if (!value_side) {
    const int token = 8 * ((4 * quad + j) / (kDim / 32)) + g;
    return token >= begin && token < end ? 0xFFFFFFFFu : 0u;
  }
  uint32_t mask = 0;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const int token = 32 * (j / 2) + t + 4 * (n / 4) + 8 * (n % 4);
    if (token >= begin && token < end) mask |= 15u << (4 * n);
  }
  return mask;
}

// Stores the quad of a lane; tokens outside of [begin, end) keep their nibbles.
template <int kDim>
__device__ __forceinline__ void BlendQuad(uint32_t* area, int bits, bool value_side, int quad,
                                          int lane, int begin, int end, uint32_t (&s)[4]) {
  if (begin != 0 || end != kTileTokens) {
    uint32_t mask[4], old[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      mask[j] = NibbleMask<kDim>(value_side, quad, j, lane, begin, end);
    }
    if ((mask[0] | mask[1] | mask[2] | mask[3]) == 0) return;
    LoadQuad(bits, area, kDim, quad, lane, old);
#pragma unroll
    for (int j = 0; j < 4; ++j) s[j] = (s[j] & mask[j]) | (old[j] & ~mask[j]);
  }
  if (bits == 4) {
    reinterpret_cast<uint4*>(area)[quad * 32 + lane] = make_uint4(s[0], s[1], s[2], s[3]);
  } else {
    StoreQuad(bits, area, kDim, quad, lane, s);
  }
}

template <int kDim>
__device__ __forceinline__ void StoreFragments(const uint8_t* codes, uint32_t* area, int bits,
                                               bool value_side, int begin, int end) {
  if (!value_side) {
    for (int i = threadIdx.x; i < kDim * 2; i += EncodeShape<kDim>::kThreads) {
      uint32_t s[4];
      GatherKeyQuad<kDim>(codes, i / 32, i % 32, s);
      BlendQuad<kDim>(area, bits, false, i / 32, i % 32, begin, end, s);
    }
    return;
  }
  for (int i = threadIdx.x; i < kDim / 2; i += EncodeShape<kDim>::kThreads) {
    const int quad = i / 8, t = i & 3, g = i & 4;
    uint32_t s[4][4];
    GatherValueQuads<kDim>(codes, quad, g, t, s);
#pragma unroll
    for (int dim = 0; dim < 4; ++dim) {
      BlendQuad<kDim>(area, bits, true, quad, 4 * (g + dim) + t, begin, end, s[dim]);
    }
  }
}

// Canonical bytes of the rows, one thread a byte.
template <int kDim>
__device__ __forceinline__ void StoreCanonical(const uint8_t* codes, uint8_t* area, int bits,
                                               int begin, int end) {
  const int row_bytes = bits * kDim / 8;
  for (int i = begin * row_bytes + threadIdx.x; i < end * row_bytes;
       i += EncodeShape<kDim>::kThreads) {
    const uint8_t* row = codes + i / row_bytes * EncodeShared<kDim>::kPitch;
    const int j = i % row_bytes;
    int byte = 0;
    if (bits == 8) {
      byte = row[j];
    } else if (bits == 4) {
      byte = row[j] | row[j + kDim / 2] << 4;
    } else if (j < kDim / 4) {
      for (int n = 0; n < 4; ++n) byte |= (row[j + n * (kDim / 4)] & 3) << (2 * n);
    } else {
      for (int n = 0; n < 8; ++n) byte |= (row[j - kDim / 4 + n * (kDim / 8)] >> 2) << n;
    }
    area[i] = static_cast<uint8_t>(byte);
  }
}

// Source row `source` of a sequence, minus its page's mean, with the signs of the rotation applied.
template <class Row>
__device__ __forceinline__ void LoadCentred(const EncodeArgs& a, bool value_side, int b, int head,
                                            int page, int source, int l, const uint32_t* signs,
                                            Row* y) {
  const tq_cuda_cache& cache = a.p.cache;
  const tq_cuda_rows& rows = a.p.rows;
  y->Load(value_side ? rows.v : rows.k, rows.dtype,
          b * rows.sequence_stride + source * rows.token_stride + head * rows.head_stride, l,
          signs);
  if (value_side || cache.mean_tokens == 0) return;
  const int mean = __ldg(cache.mean_table + static_cast<int64_t>(b) * cache.mean_stride +
                         page * kTileTokens / cache.mean_tokens);
  if (mean < 0) return;
  Row m;
  m.Load(cache.means, TQ_CUDA_F16,
         (static_cast<int64_t>(mean) * cache.num_kv_heads + head) * Row::kBlocks * 16, l, signs);
#pragma unroll
  for (int i = 0; i < Row::kValues; ++i) y->v[i] = y->v[i] - m.v[i];
}

// Codes one row: `four` bytes of codes a word, in the row's order. False: NaN, Inf or an energy
// beyond float.
template <class Row>
__device__ __forceinline__ bool EncodeRow(const Row& y, int bits, const float2* thresholds,
                                          const float2* centroids,
                                          uint32_t (&codes)[Row::kValues / 4], uint16_t* scale) {
  const RowMeasure m = MeasureLanes(y);
  switch (bits) {
    case 2:
      *scale = QuantizeRow<2>(y, thresholds, centroids, m.inverse_rms, codes);
      break;
    case 3:
      *scale = QuantizeRow<3>(y, thresholds, centroids, m.inverse_rms, codes);
      break;
    case 4:
      *scale = QuantizeRow<4>(y, thresholds, centroids, m.inverse_rms, codes);
      break;
    default:
      *scale = QuantizeRow<8>(y, thresholds, centroids, m.inverse_rms, codes);
  }
  if (!m.usable) {
    *scale = 0;
#pragma unroll
    for (int i = 0; i < Row::kValues / 4; ++i) codes[i] = 0;
  }
  return m.valid;
}

template <int kDim>
__global__ void __launch_bounds__(EncodeShape<kDim>::kThreads, EncodeShape<kDim>::kCtas)
    EncodePages(const __grid_constant__ EncodeArgs a) {
  using Row = typename EncodeShape<kDim>::Row;
  constexpr int kLanes = EncodeShape<kDim>::kLanes, kCtaThreads = EncodeShape<kDim>::kThreads;
  __shared__ EncodeShared<kDim> sh;
  const tq_cuda_cache& cache = a.p.cache;
  const int b = blockIdx.z, head = blockIdx.y >> 1;
  const bool value_side = (blockIdx.y & 1) != 0;
  const TileFormat format = value_side ? a.layout.v : a.layout.k;
  const int bits = format.bits;
  if (format.trellis) return;  // encode_trellis.cuh
  const int first = __ldg(a.p.first_token + b), count = __ldg(a.p.num_rows + b);
  // The codebook is on its way while the row's place is looked up.
#pragma unroll 1
  for (int i = threadIdx.x; i < 1 << bits; i += kCtaThreads) {
    const float c = Centroids(bits)[i];
    sh.centroids[i] = make_float2(c, c * c);
    if (i > 0) sh.thresholds[i - 1].x = Thresholds(bits)[i - 1];
  }
  const tq_cuda_rotation& rotation = value_side ? cache.v_rotation : cache.k_rotation;
#pragma unroll 1
  for (int i = threadIdx.x; i < Row::kSignWords; i += kCtaThreads) {
    sh.signs[i] = Row::SignWord(rotation, i);
  }
  const int page = first / kTileTokens + blockIdx.x;
  const int begin = max(first - page * kTileTokens, 0);
  const int end = min(first + count - page * kTileTokens, kTileTokens);
  if (begin >= end) return;

  const int slot = threadIdx.x / kLanes, l = threadIdx.x % kLanes;
  const bool active = slot >= begin && slot < end;
  const int token = page * kTileTokens + slot;
  const int physical = __ldg(cache.page_table + static_cast<int64_t>(b) * cache.page_stride + page);
  uint8_t* record = static_cast<uint8_t*>(cache.records) +
                    (static_cast<size_t>(physical) * cache.num_kv_heads + head) * a.layout.bytes;
  __syncthreads();
  if (__any_sync(kAllLanes, active)) {
    int source = active ? token - first : max(begin, 0) + page * kTileTokens - first;
    if (a.p.row_index != nullptr) {
      source = __ldg(a.p.row_index + static_cast<int64_t>(b) * a.p.index_stride + source);
    }
    Row y;
    LoadCentred(a, value_side, b, head, page, source, l, sh.signs, &y);
    y.RotateSigned(rotation, l);
    uint32_t codes[Row::kValues / 4];
    uint16_t scale = 0;
    const bool valid = EncodeRow(y, bits, sh.thresholds, sh.centroids, codes, &scale);
    const bool magnitudes = OrderOf(format, kDim) == TileOrder::kFragment && bits == 4;
#pragma unroll
    for (int i = 0; i < Row::kValues / 4; ++i) {
      uint32_t four = codes[i];
      if (magnitudes) {
        // Sign and magnitude: code - 8 if it is at least 8, else 15 - code, in every byte.
        const uint32_t top = (four >> 3) & 0x01010101u;
        four = (four ^ (0x0F0F0F0Fu - top * 15u)) ^ (top * 8u);
      }
      constexpr int kWords = Row::kPer / 4;
      *reinterpret_cast<uint32_t*>(sh.codes + slot * EncodeShared<kDim>::kPitch +
                                   16 * (i / kWords) + Row::kPer * l + 4 * (i % kWords)) = four;
    }
    if (active && l == 0) {
      reinterpret_cast<uint16_t*>(
          record + (value_side ? a.layout.v_scales : a.layout.k_scales))[ScaleSlot(slot)] = scale;
      if (!valid && a.p.bad_rows != nullptr) atomicAdd(a.p.bad_rows, 1);
    }
  } else {
    // Packing shifts neighbouring rows into each other: these must hold nibbles too.
    for (int i = l; i < kDim / 4; i += kLanes) {
      *reinterpret_cast<uint32_t*>(sh.codes + slot * EncodeShared<kDim>::kPitch + 4 * i) = 0;
    }
  }
  __syncthreads();
  uint8_t* area = record + (value_side ? a.layout.v_codes : 0);
  if (OrderOf(format, kDim) == TileOrder::kFragment) {
    if constexpr (kDim == 64 || kDim == 128 || kDim == 256) {
      StoreFragments<kDim>(sh.codes, reinterpret_cast<uint32_t*>(area), bits, value_side, begin,
                           end);
    }
  } else {
    StoreCanonical<kDim>(sh.codes, area, bits, begin, end);
  }
}

// Rows need not start at a page, so they may touch one page more than they fill.
inline dim3 EncodeGrid(const tq_cuda_encode_params& p) {
  const int pages = (p.max_rows + kTileTokens - 1) / kTileTokens + (p.max_rows % kTileTokens != 1);
  return dim3(static_cast<unsigned>(pages), static_cast<unsigned>(2 * p.cache.num_kv_heads),
              static_cast<unsigned>(p.batch));
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ENCODE_PAGES_CUH_
