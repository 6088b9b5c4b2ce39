// Decode attention on codes with int8 tensor cores, one launch: query rotation, K codes x query,
// softmax, V codes x weights, merge of the splits, rotation back.
//
// Tokens are the rows of the mma, query rows its columns: column 2 r is the high byte of query row
// r, column 2 r + 1 the low byte, so 4 rows fill the 8 columns. A warp owns a ring of pages (64
// tokens of one kv head) and walks them alone; warps meet at the end.
//
//   K: A = centroid bytes, looked up from selector words by PRMT; B = the query, 15 bits.
//      logit = (128 high + low) * key scale * query scale
//   V: weight * value scale is quantised to 16 bits against the page's largest, B = its two bytes;
//      A = centroid bytes of V^T.
// Codes that differ by sign (4 bits) take two mma steps: PRMT turns nibbles with the top bit into 0
// or -1, and the two tables make up for that (byte_tables.h). Steps are the codebook itself: exact.
#ifndef TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_CUH_
#define TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_CUH_

#include "kernels/cuda/attention_common.cuh"
#include "kernels/cuda/centroid_table.cuh"
#include "kernels/cuda/coded_row.cuh"
#include "kernels/cuda/int8_config.h"

namespace turboquant::cuda {

template <int kKeyFormat_, int kValueFormat_, int kDim_, int kTiles_, int kIndex, bool kExtras_>
struct Int8Shape {
  static constexpr Int8Config kConfig =
      Int8ConfigOf(kKeyFormat_, kValueFormat_, kDim_, kTiles_, kIndex);
  static constexpr int kKeyFormat = kKeyFormat_, kValueFormat = kValueFormat_, kDim = kDim_;
  static constexpr int kKeyBits = kKeyFormat & 15, kValueBits = kValueFormat & 15;
  static constexpr int kPaddedDim = PaddedDim(kDim);
  static constexpr int kTiles = kTiles_;
  static constexpr bool kExtras = kExtras_;  // key means and softcap
  // Records hold canonical rows; else fragments. Of turbo8: of bytes.
  static constexpr bool kKeyRows = OrderOf(TileFormatOf(kKeyFormat), kDim) == TileOrder::kRows;
  static constexpr bool kValueRows = OrderOf(TileFormatOf(kValueFormat), kDim) == TileOrder::kRows;
  static constexpr bool kByteKeys = kKeyBits == 8, kByteValues = kValueBits == 8;
  using KeyRow = CodedRow<kKeyFormat, kDim>;
  using ValueRow = CodedRow<kValueFormat, kDim>;
  static constexpr int kWarps = kConfig.warps, kStages = kConfig.Pages();
  static constexpr bool kApart = kConfig.stages == 0;  // keys and values by requests of their own
  static constexpr int kSlots = kConfig.Barriers();
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = kRowsPerTile * kTiles;
  static constexpr int kStageBytes = StageBytes(kKeyFormat, kValueFormat, kDim, kExtras);
  static constexpr int kRecordBytes = RecordBytes(kKeyFormat, kValueFormat, kDim);
  static constexpr int kValueCodes = kKeyBits * kDim * kTileTokens / 8;
  static constexpr int kKeyScales = kValueCodes + kValueBits * kDim * kTileTokens / 8;
  static constexpr int kValueScales = kKeyScales + 2 * kTileTokens;
  static constexpr int kQuads = kTiles * kDim;  // float4 of one partial: [tile][dim]{4 rows}
  static constexpr int kPartialFloats = kRows * (kDim + 2);
  static constexpr Int8Memory kMemory =
      Int8MemoryOf(kConfig, kStageBytes, TableBytes(kKeyFormat), kDim, kTiles);
  static constexpr int kGroups = kMemory.groups;
  static constexpr int kExactStates = kWarps;
  static constexpr int kSharedBytes = kMemory.dynamic_bytes;

  // Where a dim of a query stands in its column: what the lanes of one k step want lies together.
  static __device__ __forceinline__ int QueryPlace(int dim) {
    if constexpr (kByteKeys) {
      // Lane t takes 16 bytes of each 64, and its share of the rest.
      constexpr int kWhole = kDim / 64 * 64;
      const int each = dim < kWhole ? 16 : (kDim - kWhole) / 4;
      return dim % 64 / each * (kPaddedDim / 4) + dim / 64 * 16 + dim % each;
    } else {
      return kKeyRows ? KeyRow::Place(dim) : dim;
    }
  }
  // The dim of o[n][i] in lanes (g, .).
  static __device__ __forceinline__ int OutputDim(int g, int i) {
    if constexpr (kByteValues) {
      return i < kDim / 32 * 4 ? i / 4 * 32 + 4 * g + i % 4 : kDim / 32 * 32 + 2 * g + i % 4;
    } else {
      return kValueRows ? ValueRow::OutputDim(g, i) : 8 * i + g;
    }
  }
};

template <class S>
struct Int8Shared {
  alignas(16) uint8_t q_bytes[2 * S::kRows * S::kPaddedDim];  // [column][place]
  alignas(16) float q_plain[S::kRows * S::kDim];              // scaled, not rotated
  alignas(8) uint64_t barriers[S::kWarps * S::kSlots];
  alignas(16) ByteTables tables[2];  // of keys and values
  alignas(16) float weight[kMaxPartials * S::kRows];
  float q_scale[S::kRows];
  float warp_m[S::kWarps * S::kRows];
  float row_m[S::kRows], row_l[S::kRows];
  int next;  // dynamic plans: the next page nobody has taken, counted from the item's first
  int last;
  uint32_t touched[S::kWarps];
};

__device__ __forceinline__ void UnpackLow(uint32_t low, uint32_t high, int shift, uint32_t* even,
                                          uint32_t* odd) {
  const uint32_t up0 = shift == 0 ? high << 2 : high;
  const uint32_t up1 = shift == 0 ? high << 1 : high >> 1;
  *even = (low & 0x33333333u) | (up0 & 0x44444444u);
  *odd = ((low >> 2) & 0x33333333u) | (up1 & 0x44444444u);
}

__device__ __forceinline__ uint32_t Component(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Selector words of kQuads quads from `first` (a multiple of kQuads, which is a multiple of 4).
template <int kBits, int kDim, int kQuads>
__device__ __forceinline__ void LoadSelectors(uint32_t area, int first, int lane,
                                              uint32_t (&words)[4 * kQuads]) {
  if constexpr (kBits == 4) {
#pragma unroll
    for (int u = 0; u < kQuads; ++u) {
      const uint4 v = LoadShared16(area + ((first + u) * 32 + lane) * 16);
      words[4 * u] = v.x;
      words[4 * u + 1] = v.y;
      words[4 * u + 2] = v.z;
      words[4 * u + 3] = v.w;
    }
  } else {
    uint4 high[kQuads / 4];
    if constexpr (kBits == 3) {
#pragma unroll
      for (int i = 0; i < kQuads / 4; ++i) {
        high[i] = LoadShared16(area + kDim * 16 + ((first / 4 + i) * 32 + lane) * 16);
      }
    }
#pragma unroll
    for (int u = 0; u < kQuads; u += 2) {
      const uint4 low = LoadShared16(area + ((first + u) / 2 * 32 + lane) * 16);
      const uint32_t h0 = kBits == 3 ? Component(high[u / 4], u & 3) : 0;
      const uint32_t h1 = kBits == 3 ? Component(high[u / 4], (u + 1) & 3) : 0;
      UnpackLow(low.x, h0, 0, &words[4 * u], &words[4 * u + 1]);
      UnpackLow(low.y, h0, 1, &words[4 * u + 2], &words[4 * u + 3]);
      UnpackLow(low.z, h1, 0, &words[4 * u + 4], &words[4 * u + 5]);
      UnpackLow(low.w, h1, 1, &words[4 * u + 6], &words[4 * u + 7]);
    }
  }
}

// How many words hold the indices of 8 codes: those of 5 bits take two (coded_row.cuh).
constexpr int WordsOfIndex(int bits) { return bits > 4 ? 2 : 1; }

// Accumulates one k step of kChains row tiles: A from the selector words x (rows g) and y (rows
// g + 8), whose upper halves go to the upper half of k. B: the words of every column block. The
// chains take turns, so that no product waits for the one before it. kBits: of an index.
template <int kBits, int kTiles, bool kUnsignedB, int kChains>
__device__ __forceinline__ void MmaLookUp(int (&acc)[kTiles][kChains][4],
                                          const uint32_t (&x)[WordsOfIndex(kBits)][kChains],
                                          const uint32_t (&y)[WordsOfIndex(kBits)][kChains],
                                          const ByteTables& tables, uint32_t one,
                                          const uint32_t (&b)[kTiles][2]) {
  const auto multiply = [&](int c, const uint32_t(&a)[4]) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      if constexpr (kUnsignedB) {
        MmaUnsigned(acc[n][c], a, b[n][0], b[n][1]);
      } else {
        MmaSigned(acc[n][c], a, b[n][0], b[n][1]);
      }
    }
  };
  if constexpr (kBits == 5) {
#pragma unroll
    for (int c = 0; c < kChains; ++c) {
      const WideSelectors u(x[0][c], x[1][c]), v(y[0][c], y[1][c]);
      const uint32_t below[4] = {u.Below(tables, one, 0), v.Below(tables, one, 0),
                                 u.Below(tables, one, 1), v.Below(tables, one, 1)};
      multiply(c, below);
      const uint32_t above[4] = {u.Above(tables, one, 0), v.Above(tables, one, 0),
                                 u.Above(tables, one, 1), v.Above(tables, one, 1)};
      multiply(c, above);
    }
  } else {
    const auto look = [&](const uint32_t* table, uint32_t flip) {
#pragma unroll
      for (int c = 0; c < kChains; ++c) {
        const uint32_t u = x[0][c] ^ flip, v = y[0][c] ^ flip;
        const uint32_t uh = HighHalf(u, one), vh = HighHalf(v, one);
        const uint32_t a[4] = {Prmt(table[0], table[1], u), Prmt(table[0], table[1], v),
                               Prmt(table[0], table[1], uh), Prmt(table[0], table[1], vh)};
        multiply(c, a);
      }
    };
    look(tables.a, 0);
    if constexpr (kBits == 4) look(tables.b, 0x88888888u);
  }
}

__device__ __forceinline__ void UnpackScales(uint4 v, float (&x)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = __half22float2(reinterpret_cast<const __half2&>(words[i]));
    x[2 * i] = f.x;
    x[2 * i + 1] = f.y;
  }
}

// Largest |value scale| of the page, one lane's share given; 0 becomes the smallest that divides.
__device__ __forceinline__ float PageMaximum(uint4 v) {
  __half2 most = __hmax2(__hmax2(__habs2(reinterpret_cast<const __half2&>(v.x)),
                                 __habs2(reinterpret_cast<const __half2&>(v.y))),
                         __hmax2(__habs2(reinterpret_cast<const __half2&>(v.z)),
                                 __habs2(reinterpret_cast<const __half2&>(v.w))));
#pragma unroll
  for (int k = 4; k < 32; k *= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, reinterpret_cast<const uint32_t&>(most), k);
    most = __hmax2(most, reinterpret_cast<const __half2&>(other));
  }
  return fmaxf(fmaxf(__low2float(most), __high2float(most)), 1e-20f);
}

// The state of a warp, and what it does with one page.
template <class S>
struct Int8Warp {
  static constexpr int kTiles = S::kTiles;
  static constexpr int kWords = S::kPaddedDim / 32;  // selector words of one key's lane
  // 16-token tiles of keys and 16-dim tiles of values at a time: as many independent products as
  // the registers allow.
  static constexpr int kChains =
      S::kByteKeys || S::kDim >= 256 || (S::kDim >= 128 && S::kTiles == 4) ? 2 : 4;
  static constexpr int kValueChains = S::kTiles == 4 ? 2 : 4;
  static constexpr int kQueryWords = S::kPaddedDim / 16;
  static constexpr int kParts = S::kByteKeys ? 2 : 1;  // bytes of a key's centroid

  ByteTables k_tables, v_tables;
  CentroidTable centroids;  // of turbo8
  uint32_t q[kTiles][kQueryWords];
  float q_scale[kTiles];
  float o[kTiles][S::kDim / 8];  // dim 8 i + g, row t
  float m[kTiles], l[kTiles];

  // By way of shared memory: what the compiler knows to be equal in all lanes it keeps in uniform
  // registers, and moves it to where PRMT can use it over and over.
  __device__ __forceinline__ void LoadTables(const Int8Shared<S>& sh) {
    k_tables = sh.tables[0];
    v_tables = sh.tables[1];
  }

  __device__ __forceinline__ void LoadQuery(const Int8Shared<S>& sh, int g, int t) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const uint8_t* row = sh.q_bytes + (8 * n + g) * S::kPaddedDim + t * (S::kPaddedDim / 4);
#pragma unroll
      for (int i = 0; i < kQueryWords; ++i) {
        q[n][i] = reinterpret_cast<const uint32_t*>(row)[i];
      }
      q_scale[n] = sh.q_scale[4 * n + t];
      m[n] = kNoLogit;
      l[n] = 0.0f;
#pragma unroll
      for (int i = 0; i < S::kDim / 8; ++i) o[n][i] = 0.0f;
    }
  }

  // s[n][i]: logit of row t and token g + 8 i, without mask, in units of log2(e).
  __device__ __forceinline__ void Logits(const AttentionArgs& a, uint32_t page, int lane,
                                         float (&s)[kTiles][8]) const {
    const int g = lane >> 2;
    float key_scale[8];
#pragma unroll
    for (int first = 0; first < 4; first += kChains) {
      int acc[kParts][kTiles][kChains][4] = {};
      if constexpr (S::kByteKeys) {
        ByteProducts(page, first, lane, &acc);
      } else if constexpr (S::kKeyRows) {
        RowProducts(a, page, first, lane, &acc[0]);
      } else {
        constexpr int kQuads = kChains * 2 * kWords / 4;
        uint32_t words[4 * kQuads];
        LoadSelectors<S::kKeyBits, S::kDim, kQuads>(page, first * 2 * kWords / 4, lane, words);
#pragma unroll
        for (int j = 0; j < kWords; ++j) {
          uint32_t b[kTiles][2];
          QueryStep(j, &b);
          uint32_t x[1][kChains], y[1][kChains];
#pragma unroll
          for (int c = 0; c < kChains; ++c) {
            x[0][c] = words[2 * c * kWords + j];
            y[0][c] = words[(2 * c + 1) * kWords + j];
          }
          MmaLookUp<S::kKeyBits, kTiles, false, kChains>(acc[0], x, y, k_tables, a.high_half, b);
        }
      }
      if (first == 0) UnpackScales(LoadShared16(page + S::kKeyScales + g * 16), key_scale);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int c = 0; c < kChains; ++c) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int i = 2 * (first + c) + half;
            float sum = Whole<128>(acc[0][n][c], half);
            if constexpr (kParts == 2) sum = fmaf(sum, 128.0f, Whole<128>(acc[1][n][c], half));
            s[n][i] = sum * (key_scale[i] * q_scale[n]);
          }
        }
      }
    }
  }

  // Rows g (half 0) or g + 8 of a product: the columns of high and low bytes together.
  template <int kFactor>
  static __device__ __forceinline__ float Whole(const int (&acc)[4], int half) {
    return static_cast<float>(acc[2 * half] * kFactor + acc[2 * half + 1]);
  }

  // Products of the query with turbo8 keys of kChains tiles of 16 tokens: with the high bytes of
  // their centroids, then with the low ones.
  __device__ __forceinline__ void ByteProducts(uint32_t page, int first, int lane,
                                               int (*acc)[kParts][kTiles][kChains][4]) const {
    const int g = lane >> 2, t = lane & 3;
    const uint32_t rows = page + (16 * first + g) * S::kDim;
#pragma unroll
    for (int j = 0; j < kWords; j += 2) {
#pragma unroll
      for (int c = 0; c < kChains; ++c) {
        constexpr int kRest = S::kDim % 64 / 4;  // bytes of a lane
        const uint32_t row = rows + 16 * c * S::kDim + 32 * j;
        uint4 codes[2];
        if (32 * j + 64 <= S::kDim) {
          codes[0] = LoadShared16(row + 16 * t);
          codes[1] = LoadShared16(row + 8 * S::kDim + 16 * t);
        } else {
          codes[0] = LoadRest<kRest>(row + kRest * t);
          codes[1] = LoadRest<kRest>(row + 8 * S::kDim + kRest * t);
        }
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          if (j + k >= kWords) continue;
          uint32_t high[4], low[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t word = Component(codes[i % 2], 2 * k + i / 2);
            centroids.LookUp(word, 0, word, 1, word, 2, word, 3, &high[i], &low[i]);
          }
          uint32_t b[kTiles][2];
          QueryStep(j + k, &b);
#pragma unroll
          for (int n = 0; n < kTiles; ++n) {
            MmaSigned((*acc)[0][n][c], high, b[n][0], b[n][1]);
            MmaSigned((*acc)[kParts - 1][n][c], low, b[n][0], b[n][1]);
          }
        }
      }
    }
  }

  // A lane's codes of the last dims, 8 or 4; zeros meet a query of zeros.
  template <int kBytes>
  static __device__ __forceinline__ uint4 LoadRest(uint32_t address) {
    if constexpr (kBytes == 8) {
      const uint2 two = LoadShared8(address);
      return make_uint4(two.x, two.y, 0, 0);
    } else {
      return make_uint4(LoadShared4(address), 0, 0, 0);
    }
  }

  // The query's words of k step j.
  __device__ __forceinline__ void QueryStep(int j, uint32_t (*b)[kTiles][2]) const {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      (*b)[n][0] = q[n][2 * j];
      (*b)[n][1] = q[n][2 * j + 1];
    }
  }

  // Products of the query with the keys of kChains tiles of 16 tokens, from canonical rows.
  __device__ __forceinline__ void RowProducts(const AttentionArgs& a, uint32_t page, int first,
                                              int lane, int (*acc)[kTiles][kChains][4]) const {
    using Row = typename S::KeyRow;
    const int g = lane >> 2, t = lane & 3;
    typename Row::Walk walk[kChains][2];
#pragma unroll
    for (int c = 0; c < kChains; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        walk[c][half].Start(page + (16 * (first + c) + 8 * half + g) * Row::kBytes);
      }
    }
#pragma unroll
    for (int j = 0; j < kWords; j += Row::kWalkSteps) {
      uint32_t words[2][Row::kWalkSteps][Row::kWords][kChains];
#pragma unroll
      for (int c = 0; c < kChains; ++c) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int k = 0; k < Row::kWalkSteps; ++k) {
            uint32_t one[Row::kWords];
            walk[c][half].Next(j, k, t, one);
#pragma unroll
            for (int w = 0; w < Row::kWords; ++w) words[half][k][w][c] = one[w];
          }
        }
      }
#pragma unroll
      for (int k = 0; k < Row::kWalkSteps; ++k) {
        uint32_t b[kTiles][2];
        QueryStep(j + k, &b);
        MmaLookUp<Row::kIndexBits, kTiles, false, kChains>(*acc, words[0][k], words[1][k], k_tables,
                                                           a.high_half, b);
      }
    }
  }

  // Adds <query, mean of the page>.
  __device__ __forceinline__ void AddMean(const Int8Shared<S>& sh, uint32_t mean, int lane,
                                          float (&s)[kTiles][8]) const {
    const int t = lane & 3, part = lane >> 2;
    constexpr int kPieces = S::kDim / 8;  // of 8 dims
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const float* row = sh.q_plain + (4 * n + t) * S::kDim;
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < kPieces; k += 8) {
        if (k + 8 > kPieces && part >= kPieces - k) continue;
        const int dim = 8 * (k + part);
        float x[8];
        UnpackScales(LoadShared16(mean + dim * 2), x);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum = fmaf(row[dim + e], x[e], sum);
      }
#pragma unroll
      for (int k = 4; k < 32; k *= 2) sum += __shfl_xor_sync(kAllLanes, sum, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) s[n][i] += sum;
    }
  }

  // Hides what rows may not see; drops the value scales of tokens that do not exist.
  __device__ __forceinline__ void Mask(const AttentionArgs& a, const tq_cuda_item& item, int total,
                                       int coded_len, int first_token, int row_tile, int lane,
                                       float (&s)[kTiles][8], uint4* value_scales) const {
    const int g = lane >> 2, t = lane & 3;
    uint32_t words[4] = {value_scales->x, value_scales->y, value_scales->z, value_scales->w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (first_token + g + 8 * i >= coded_len)
        words[i / 2] &= (i & 1) != 0 ? 0xFFFFu : 0xFFFF0000u;
    }
    *value_scales = make_uint4(words[0], words[1], words[2], words[3]);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int row = row_tile * S::kRows + 4 * n + t;
      const int query = min(row / a.p.group, a.p.q_len - 1);
      const RowMask mask = LoadRowMask(a, item.sequence, total, query);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int token = first_token + g + 8 * i;
        if (token >= coded_len || !mask.Sees(a.p.coded_begin + token)) s[n][i] = -INFINITY;
      }
    }
  }

  // Softmax weights of the page against its own maximum; b: their bytes as the B operand of V.
  __device__ __forceinline__ void Weights(float (&s)[kTiles][8], uint4 value_scales, int lane,
                                          uint32_t (&b)[kTiles][2][2], float (&inverse)[kTiles],
                                          float value_step) {
    const int g = lane >> 2, t = lane & 3;
    const bool upper = g >= 4, odd = (g & 1) != 0;
    const int near = 4 * t + (g >> 1), far = 4 * (t + 4) + (g >> 1);
    float value_scale[8];
    UnpackScales(value_scales, value_scale);
    const float largest = PageMaximum(value_scales);
    const float to_int = 65280.0f * Reciprocal(largest);
#pragma unroll
    for (int i = 0; i < 8; ++i) value_scale[i] *= to_int;
    // All column blocks step by step together: their chains of shuffles hide each other.
    float most[kTiles], keep[kTiles], take[kTiles];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      most[n] = kNoLogit;
#pragma unroll
      for (int i = 0; i < 8; ++i) most[n] = fmaxf(most[n], s[n][i]);
    }
#pragma unroll
    for (int k = 4; k < 32; k *= 2) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        most[n] = fmaxf(most[n], __shfl_xor_sync(kAllLanes, most[n], k));
      }
    }
    bool same = true;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const float largest_m = fmaxf(m[n], most[n]);
      keep[n] = Exp2(m[n] - largest_m);
      take[n] = Exp2(most[n] - largest_m);
      m[n] = largest_m;
      inverse[n] = largest * take[n] * value_step;
      same = same && keep[n] == 1.0f;
    }
    if (!__all_sync(kAllLanes, same)) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        l[n] *= keep[n];
#pragma unroll
        for (int i = 0; i < S::kDim / 8; ++i) o[n][i] *= keep[n];
      }
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      float sum = 0.0f;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float e = Exp2(s[n][4 * half + i] - most[n]);
          sum += e;
          // 2^23 + v: the integer v lies in the low bits.
          x[i] = __float_as_uint(fmaf(e, value_scale[4 * half + i], 8388608.0f));
        }
        const uint32_t pair0 = Prmt(x[0], x[1], 0x5140u), pair1 = Prmt(x[2], x[3], 0x5140u);
        const uint32_t low = Prmt(pair0, pair1, 0x5410u), high = Prmt(pair0, pair1, 0x7632u);
        // Lanes of even columns want high bytes, of odd ones low bytes: two shuffles bring both
        // halves of the operand, as a lane asks for `near` or for `far` first.
        const uint32_t r0 = __shfl_sync(kAllLanes, upper ? low : high, odd ? far : near);
        const uint32_t r1 = __shfl_sync(kAllLanes, upper ? high : low, odd ? near : far);
        b[n][half][0] = odd ? r1 : r0;
        b[n][half][1] = odd ? r0 : r1;
      }
      l[n] = fmaf(sum, take[n], l[n]);
    }
  }

  __device__ __forceinline__ void Accumulate(const AttentionArgs& a, uint32_t page, int lane,
                                             const uint32_t (&b)[kTiles][2][2],
                                             const float (&inverse)[kTiles]) {
    if constexpr (S::kByteValues) {
      AccumulateBytes(page + S::kValueCodes, lane, b, inverse);
    } else if constexpr (S::kValueRows) {
      AccumulateRows(a, page + S::kValueCodes, lane, b, inverse);
    } else {
      AccumulateFragments(a, page + S::kValueCodes, lane, b, inverse);
    }
  }

  __device__ __forceinline__ void AccumulateFragments(const AttentionArgs& a, uint32_t area,
                                                      int lane, const uint32_t (&b)[kTiles][2][2],
                                                      const float (&inverse)[kTiles]) {
#pragma unroll
    for (int quad = 0; quad < S::kDim / 16; quad += 4) {
      uint32_t words[16];
      LoadSelectors<S::kValueBits, S::kDim, 4>(area, quad, lane, words);
#pragma unroll
      for (int first = 0; first < 4; first += kValueChains) {
        int acc[kTiles][kValueChains][4] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t with[kTiles][2];
          WeightStep(b, half, &with);
          uint32_t x[1][kValueChains], y[1][kValueChains];
#pragma unroll
          for (int c = 0; c < kValueChains; ++c) {
            x[0][c] = words[4 * (first + c) + 2 * half];
            y[0][c] = words[4 * (first + c) + 2 * half + 1];
          }
          MmaLookUp<S::kValueBits, kTiles, true, kValueChains>(acc, x, y, v_tables, a.high_half,
                                                               with);
        }
        AddSums(acc, inverse, 2 * (quad + first));
      }
    }
  }

  static __device__ __forceinline__ void WeightStep(const uint32_t (&b)[kTiles][2][2], int half,
                                                    uint32_t (*with)[kTiles][2]) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      (*with)[n][0] = b[n][half][0];
      (*with)[n][1] = b[n][half][1];
    }
  }

  // The same from canonical rows: 8 tokens' selector words of the same dims turn into words of 8
  // tokens each. o[n][8 m + i] is nibble i of the lane's m-th selector word.
  __device__ __forceinline__ void AccumulateRows(const AttentionArgs& a, uint32_t area, int lane,
                                                 const uint32_t (&b)[kTiles][2][2],
                                                 const float (&inverse)[kTiles]) {
    using Row = typename S::ValueRow;
#pragma unroll
    for (int m = 0; m < S::kDim / 64; ++m) {
      AccumulateWord<8>(a, area, lane, (lane >> 2) + 8 * m, 0, b, inverse, 8 * m);
    }
    if constexpr (Row::kRest > 0) {
      const int g = lane >> 2;
      AccumulateWord<Row::kRest>(a, area, lane, Row::RestWord(g), 4 * Row::RestNibble(g), b,
                                 inverse, S::kDim / 8 - Row::kRest);
    }
  }

  // kCount nibbles of selector word `word`, from bit `shift` on, to o[n][at] and on.
  template <int kCount>
  __device__ __forceinline__ void AccumulateWord(const AttentionArgs& a, uint32_t area, int lane,
                                                 int word, int shift,
                                                 const uint32_t (&b)[kTiles][2][2],
                                                 const float (&inverse)[kTiles], int at) {
    using Row = typename S::ValueRow;
    constexpr int kCount2 = kCount / 2;
    const int t = lane & 3;
    int acc[kTiles][kCount2][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t tokens[Row::kWords][8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int token = 32 * half + t + 4 * (i / 4) + 8 * (i % 4);
        uint32_t one[Row::kWords];
        Row::Load(area + token * Row::kBytes, word, one);
#pragma unroll
        for (int w = 0; w < Row::kWords; ++w) {
          tokens[w][i] = kCount < 8 ? one[w] >> shift : one[w];
        }
      }
      uint32_t x[Row::kWords][kCount2], y[Row::kWords][kCount2];
#pragma unroll
      for (int w = 0; w < Row::kWords; ++w) {
        TransposeNibbles(tokens[w]);
#pragma unroll
        for (int c = 0; c < kCount2; ++c) {
          x[w][c] = tokens[w][2 * c];
          y[w][c] = tokens[w][2 * c + 1];
        }
      }
      uint32_t with[kTiles][2];
      WeightStep(b, half, &with);
      MmaLookUp<Row::kIndexBits, kTiles, true, kCount2>(acc, x, y, v_tables, a.high_half, with);
    }
    AddSums(acc, inverse, at);
  }

  // Adds the products of kCount tiles of 16 dims to o[n][at] and on.
  template <int kCount>
  __device__ __forceinline__ void AddSums(const int (&acc)[kTiles][kCount][4],
                                          const float (&inverse)[kTiles], int at) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        float* to = &o[n][at + 2 * c];
        to[0] = fmaf(Whole<256>(acc[n][c], 0), inverse[n], to[0]);
        to[1] = fmaf(Whole<256>(acc[n][c], 1), inverse[n], to[1]);
      }
    }
  }

  // turbo8 values: lanes g take words of 4 dims, g + 8 j; o[n][4 j + i] is byte i of word j. Where
  // rows are a multiple of 64 bytes, all lanes g would read from one bank, each of another
  // token: they take the words in turn, each from another one on, and put them in order.
  __device__ __forceinline__ void AccumulateBytes(uint32_t area, int lane,
                                                  const uint32_t (&b)[kTiles][2][2],
                                                  const float (&inverse)[kTiles]) {
    constexpr int kTurns = S::kDim % 128 == 0 ? 4 : S::kDim % 64 == 0 ? 2 : 1;
    const int g = lane >> 2, t = lane & 3;
    const int turn = kTurns == 4 ? t : t >> 1;
    uint32_t from[kTurns];
#pragma unroll
    for (int k = 0; k < kTurns; ++k) {
      from[k] = area + t * S::kDim + 4 * g + 32 * ((k + turn) % kTurns);
    }
#pragma unroll
    for (int j = 0; j + kTurns <= S::kDim / 32; j += kTurns) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t words[8][kTurns];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int token = 32 * half + 4 * (i / 4) + 8 * (i % 4);  // and t
#pragma unroll
          for (int k = 0; k < kTurns; ++k) {
            words[i][k] = LoadShared4(from[k] + token * S::kDim + 32 * j);
          }
          TurnWords(turn, words[i]);
        }
        uint32_t with[kTiles][2];
        WeightStep(b, half, &with);
#pragma unroll
        for (int k = 0; k < kTurns; ++k) {
#pragma unroll
          for (int pair = 0; pair < 4; pair += 2) {
            AccumulatePair(words, k, pair, with, inverse, 4 * (j + k) + pair);
          }
        }
      }
    }
    if constexpr (S::kDim % 32 != 0) {
      static_assert(S::kDim % 32 == 16, "2 dims for each lane g");
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t words[8][1];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int token = 32 * half + t + 4 * (i / 4) + 8 * (i % 4);
          words[i][0] = LoadShared2(area + token * S::kDim + S::kDim / 32 * 32 + 2 * g);
        }
        uint32_t with[kTiles][2];
        WeightStep(b, half, &with);
        AccumulatePair(words, 0, 0, with, inverse, S::kDim / 32 * 4);
      }
    }
  }

  // Puts word (k + turn) % kTurns, read as the k-th, at its place.
  template <int kTurns>
  static __device__ __forceinline__ void TurnWords(int turn, uint32_t (&w)[kTurns]) {
#pragma unroll
    for (int step = 1; step < kTurns; step *= 2) {
      uint32_t turned[kTurns];
#pragma unroll
      for (int k = 0; k < kTurns; ++k) {
        turned[k] = (turn & step) != 0 ? w[(k + kTurns - step) % kTurns] : w[k];
      }
#pragma unroll
      for (int k = 0; k < kTurns; ++k) w[k] = turned[k];
    }
  }

  // Bytes `byte` and byte + 1 of the k-th word of 8 tokens, to o[n][at] and the next.
  template <int kTurns>
  __device__ __forceinline__ void AccumulatePair(const uint32_t (&words)[8][kTurns], int k,
                                                 int byte, const uint32_t (&with)[kTiles][2],
                                                 const float (&inverse)[kTiles], int at) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int first = i / 2 * 4, from = byte + i % 2;
      centroids.LookUp(words[first][k], from, words[first + 1][k], from, words[first + 2][k], from,
                       words[first + 3][k], from, &high[i], &low[i]);
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      int of_high[4] = {}, of_low[4] = {};
      MmaUnsigned(of_high, high, with[n][0], with[n][1]);
      MmaUnsigned(of_low, low, with[n][0], with[n][1]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float sum = fmaf(Whole<256>(of_high, half), 128.0f, Whole<256>(of_low, half));
        o[n][at + half] = fmaf(sum, inverse[n], o[n][at + half]);
      }
    }
  }
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ATTENTION_INT8_CUH_
