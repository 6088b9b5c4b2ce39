// Scores and weighted sums over coded rows and over dense f32 rows, on the vectors of the including
// translation unit (vec_avx2.h or vec_avx512.h, then codec_kernels.h, must come first; the linking
// rule is in vec_avx512.h).
//
// Scores: lanes are tokens. The code bytes of 2 * kLanes rows are turned once, dword by dword, so
// that a centroid vector meets one broadcast query value and no sum across lanes is ever needed.
// Sums: lanes are coordinates, so that a centroid vector meets one broadcast weight.
#ifndef TURBOQUANT_KERNELS_CPU_ATTENTION_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_ATTENTION_KERNELS_H_

#include <string.h>

#include "codec/format.h"
#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

constexpr int kTileTokens = 2 * kLanes;

TQ_INLINE int Smaller(int a, int b) { return a < b ? a : b; }
TQ_INLINE int Larger(int a, int b) { return a > b ? a : b; }

// Rows of block `b` when `rows` are spread evenly over the fewest blocks.
TQ_INLINE int BlockSize(int rows, int blocks, int b) {
  return rows / blocks + (b < rows % blocks ? 1 : 0);
}

// Asks for the code bytes of `rows` rows from row `first` on. Blocks of a cache are mostly visited
// in order, and the hardware's own prefetcher starts too late for the short runs of one call. A
// prefetch never faults, so `first` may lie behind the last row.
TQ_INLINE void PrefetchRows(const uint8_t* codes, size_t stride, int first, int rows) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(codes) + static_cast<size_t>(first) * stride;
  const uintptr_t end = begin + static_cast<size_t>(rows) * stride;
  for (uintptr_t line = begin; line < end; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T0);
  }
}
constexpr int kPrefetchDistance = 64;  // rows

// ---- coded scores ----

// The turned code bytes of a tile: column c holds dword c of every token's code bytes.
constexpr int kMaxColumns = kMaxHeadDim / 8;
struct CodeTile {
  alignas(64) uint32_t column[kMaxColumns][kTileTokens];
  // 3 bits: low column j has its high bits in column high_start + j % high_period, shifted right by
  // j / high_period.
  int high_start;
  int high_period;
};

// Planes that do not split into whole dwords, or rows shorter than one 16-byte load.
template <int kBits>
void GatherCodes(const uint8_t* const* rows, int d, int group, CodeTile* tile) {
  const int low_bytes = kBits == 4 ? d / 2 : d / 4;
  for (int t = 0; t < kLanes; ++t) {
    for (int c = 0; c < low_bytes / 4; ++c) {
      memcpy(&tile->column[c][group * kLanes + t], rows[t] + 4 * c, 4);
    }
    if constexpr (kBits == 3) {
      const int eighth = d / 8;
      const uint8_t* high = rows[t] + low_bytes;
      for (int c = 0; c < low_bytes / 4; ++c) {
        uint32_t word = 0;
        for (int b = 0; b < 4; ++b) {
          const int j = 4 * c + b;
          const uint32_t byte = j < eighth ? high[j] : high[j - eighth] >> 1u;
          word |= byte << (8 * b);
        }
        tile->column[low_bytes / 4 + c][group * kLanes + t] = word;
      }
    }
  }
}

template <int kBits>
TQ_INLINE void TurnCodes(const uint8_t* codes, size_t stride, int d, int count, CodeTile* tile) {
  const int low_columns = kBits == 4 ? d / 8 : d / 16;
  const bool whole_dwords = stride >= 16 && (kBits != 3 || d % 32 == 0);
  tile->high_start = low_columns;
  tile->high_period = whole_dwords ? low_columns / 2 : low_columns;
  for (int group = 0; group * kLanes < count; ++group) {
    // Lanes beyond the last token repeat it; their results are not stored.
    const uint8_t* rows[kLanes];
    for (int t = 0; t < kLanes; ++t) {
      rows[t] = codes + static_cast<size_t>(Smaller(group * kLanes + t, count - 1)) * stride;
    }
    if (!whole_dwords) {
      GatherCodes<kBits>(rows, d, group, tile);
      continue;
    }
    for (size_t offset = 0; offset < stride; offset += 16) {
      // The last sixteen bytes may overlap the ones before: the same columns are written twice.
      const size_t at = offset + 16 <= stride ? offset : stride - 16;
      IntVec column[4];
      TransposeDwords(rows, at, column);
      for (int c = 0; c < 4; ++c) StoreInt(tile->column[at / 4 + c] + group * kLanes, column[c]);
    }
  }
}

// Eight codes a lane, one a nibble: nibble 2 b belongs to coordinate b of q, nibble 2 b + 1 to
// coordinate b + far.
template <int kBits, int kRows, int kGroups, int kChains, int kNibble = 0>
TQ_INLINE void ScoreNibbles(const Table& centroids, const IntVec (&word)[kGroups], const float* q,
                            const ptrdiff_t (&row)[kRows], int far,
                            FloatVec (&sum)[kRows][kGroups][kChains]) {
  FloatVec c[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    c[g] = Lookup<kBits>(centroids, ShiftRight<4 * kNibble>(word[g]));
  }
  const float* at = q + kNibble / 2 + (kNibble % 2 == 0 ? 0 : far);
  for (int r = 0; r < kRows; ++r) {
    const FloatVec value = Set(at[row[r]]);
    for (int g = 0; g < kGroups; ++g) {
      FloatVec& s = sum[r][g][kNibble % kChains];
      s = Fma(c[g], value, s);
    }
  }
  if constexpr (kNibble < 7) {
    ScoreNibbles<kBits, kRows, kGroups, kChains, kNibble + 1>(centroids, word, q, row, far, sum);
  }
}

// out[r * ld + j] for kRows query rows and the first `count` tokens of the tile.
template <int kBits, int kRows, int kGroups>
void ScoreTile(const CodeTile& tile, const float* scales, int d, const float* q, int count,
               float* out, int ld) {
  // Enough independent sums to hide the latency of the multiply-add.
  constexpr int kChains = kRows * kGroups <= kRegisters / 4 ? 2 : 1;
  const Table centroids = LoadTable<kBits>(CentroidsOf<kBits>());
  ptrdiff_t row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = static_cast<ptrdiff_t>(r) * d;
  FloatVec sum[kRows][kGroups][kChains];
  for (int r = 0; r < kRows; ++r) {
    for (int g = 0; g < kGroups; ++g) {
      for (int c = 0; c < kChains; ++c) sum[r][g][c] = Zero();
    }
  }
  const int far = d / 2;
  if constexpr (kBits == 4) {
    for (int c = 0; c < d / 8; ++c) {
      IntVec word[kGroups];
      for (int g = 0; g < kGroups; ++g) word[g] = LoadInt(tile.column[c] + g * kLanes);
      ScoreNibbles<kBits>(centroids, word, q + 4 * c, row, far, sum);
    }
  } else {
    const int quarter = d / 4;
    int high_column = tile.high_start;
    int high_shift = 0;
    for (int c = 0; c < d / 16; ++c) {
      IntVec even[kGroups];
      IntVec odd[kGroups];
      for (int g = 0; g < kGroups; ++g) {
        even[g] = LoadInt(tile.column[c] + g * kLanes);
        odd[g] = ShiftRight<2>(even[g]);
      }
      if constexpr (kBits == 3) {
        if (high_column == tile.high_start + tile.high_period) {
          high_column = tile.high_start;
          ++high_shift;
        }
        // Each high bit beside its two low ones, as in LoadIndices.
        for (int g = 0; g < kGroups; ++g) {
          const IntVec high =
              ShiftRightBy(LoadInt(tile.column[high_column] + g * kLanes), high_shift);
          even[g] = SelectBits<0x44444444>(ShiftLeft<2>(high), even[g]);
          odd[g] = SelectBits<0x44444444>(high, odd[g]);
        }
        ++high_column;
      }
      ScoreNibbles<kBits>(centroids, even, q + 4 * c, row, far, sum);
      ScoreNibbles<kBits>(centroids, odd, q + 4 * c + quarter, row, far, sum);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int g = 0; g < kGroups; ++g) {
      FloatVec s = sum[r][g][0];
      if constexpr (kChains == 2) s = Add(s, sum[r][g][1]);
      s = Mul(s, Load(scales + g * kLanes));
      float* to = out + static_cast<ptrdiff_t>(r) * ld + g * kLanes;
      const int lanes = Smaller(count - g * kLanes, kLanes);
      if (lanes == kLanes) {
        Store(to, s);
      } else if (lanes > 0) {
        StoreFirst(to, s, lanes);
      }
    }
  }
}

// Query rows whose sums over both groups of a tile fit half the registers.
constexpr int kScoreRows = kRegisters / 4;

template <int kBits, int kRows = kScoreRows>
TQ_INLINE void ScoreTileRows(int rows, const CodeTile& tile, const float* scales, int d,
                             const float* q, int count, float* out, int ld) {
  if (rows != kRows) {
    if constexpr (kRows > 1) {
      ScoreTileRows<kBits, kRows - 1>(rows, tile, scales, d, q, count, out, ld);
    }
  } else if (count > kLanes) {
    ScoreTile<kBits, kRows, 2>(tile, scales, d, q, count, out, ld);
  } else {
    ScoreTile<kBits, kRows, 1>(tile, scales, d, q, count, out, ld);
  }
}

template <int kBits>
void CodedScoresOf(const CodedRows& k, const float* q, int rows, int n, float* out, int ld) {
  const int d = k.head_dim;
  const size_t stride = static_cast<size_t>(kBits * d / 8);
  const int blocks = (rows + kScoreRows - 1) / kScoreRows;
  CodeTile tile;
  alignas(64) float scales[kTileTokens];
  for (int j = 0; j < n; j += kTileTokens) {
    const int count = Smaller(n - j, kTileTokens);
    PrefetchRows(k.codes, stride, j + kPrefetchDistance, count);
    TurnCodes<kBits>(k.codes + j * stride, stride, d, count, &tile);
    for (int g = 0; g * kLanes < count; ++g) {
      const uint16_t* from = k.scales + j + g * kLanes;
      const int lanes = Smaller(count - g * kLanes, kLanes);
      Store(scales + g * kLanes, lanes == kLanes ? HalfLoad(from) : HalfLoadFirst(from, lanes));
    }
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      ScoreTileRows<kBits>(size, tile, scales, d, q + static_cast<size_t>(r) * d, count,
                           out + static_cast<size_t>(r) * ld + j, ld);
      r += size;
    }
  }
}

void CodedScoresKernel(const CodedRows& k, const float* q, int rows, int n, float* out, int ld) {
  switch (k.bits) {
    case 2:
      return CodedScoresOf<2>(k, q, rows, n, out, ld);
    case 3:
      return CodedScoresOf<3>(k, q, rows, n, out, ld);
    default:
      return CodedScoresOf<4>(k, q, rows, n, out, ld);
  }
}

// ---- dense scores ----

// Query rows a register block holds: kBlockRows x 2 sums, two panel vectors, one broadcast.
constexpr int kBlockRows = kRegisters == 32 ? 12 : 6;
// Coordinates of a panel: bounds the stack and keeps the panel in the first-level cache.
constexpr int kPanelDepth = 256;

struct Panel {
  alignas(64) float column[kPanelDepth][kTileTokens];
};

// out[r][t] (+)= sum over i < depth of q[r * d + i] * panel[i][t].
template <int kRows, int kGroups>
void DenseScoreBlock(const Panel& panel, int depth, const float* q, int d, bool first, int count,
                     float* out, int ld) {
  FloatVec sum[kRows][kGroups];
  for (int r = 0; r < kRows; ++r) {
    for (int g = 0; g < kGroups; ++g) sum[r][g] = Zero();
  }
  ptrdiff_t row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = static_cast<ptrdiff_t>(r) * d;
  for (int i = 0; i < depth; ++i) {
    FloatVec x[kGroups];
    for (int g = 0; g < kGroups; ++g) x[g] = Load(panel.column[i] + g * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const FloatVec value = Set(q[row[r] + i]);
      for (int g = 0; g < kGroups; ++g) sum[r][g] = Fma(value, x[g], sum[r][g]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int g = 0; g < kGroups; ++g) {
      float* to = out + static_cast<ptrdiff_t>(r) * ld + g * kLanes;
      const int lanes = Smaller(count - g * kLanes, kLanes);
      const FloatVec before = first ? Zero() : LoadFirst(to, lanes);
      StoreFirst(to, Add(before, sum[r][g]), lanes);
    }
  }
}

template <int kGroups, int kRows = kBlockRows>
TQ_INLINE void DenseScoreRows(int rows, const Panel& panel, int depth, const float* q, int d,
                              bool first, int count, float* out, int ld) {
  if (rows == kRows) {
    return DenseScoreBlock<kRows, kGroups>(panel, depth, q, d, first, count, out, ld);
  }
  if constexpr (kRows > 1) {
    DenseScoreRows<kGroups, kRows - 1>(rows, panel, depth, q, d, first, count, out, ld);
  }
}

void DenseScoresKernel(const float* x, int d, const float* q, int rows, int n, float* out, int ld) {
  Panel panel;
  const int blocks = (rows + kBlockRows - 1) / kBlockRows;
  for (int j = 0; j < n; j += kTileTokens) {
    const int count = Smaller(n - j, kTileTokens);
    for (int k = 0; k < d; k += kPanelDepth) {
      const int depth = Smaller(d - k, kPanelDepth);
      for (int group = 0; group * kLanes < count; ++group) {
        const uint8_t* from[kLanes];
        for (int t = 0; t < kLanes; ++t) {
          const int token = j + Smaller(group * kLanes + t, count - 1);
          from[t] = reinterpret_cast<const uint8_t*>(x + static_cast<size_t>(token) * d + k);
        }
        for (int i = 0; i < depth; i += 4) {
          IntVec column[4];
          TransposeDwords(from, static_cast<size_t>(i) * sizeof(float), column);
          for (int c = 0; c < 4; ++c) {
            StoreInt(reinterpret_cast<uint32_t*>(panel.column[i + c] + group * kLanes), column[c]);
          }
        }
      }
      for (int b = 0, r = 0; b < blocks; ++b) {
        const int size = BlockSize(rows, blocks, b);
        const float* qr = q + static_cast<size_t>(r) * d + k;
        float* to = out + static_cast<size_t>(r) * ld + j;
        if (count > kLanes) {
          DenseScoreRows<2>(size, panel, depth, qr, d, k == 0, count, to, ld);
        } else {
          DenseScoreRows<1>(size, panel, depth, qr, d, k == 0, count, to, ld);
        }
        r += size;
      }
    }
  }
}

// ---- dense accumulate ----

// Tokens of one pass over the sums: their coordinates of one block stay in the first-level cache.
constexpr int kPassTokens = 64;

// o[r][0 .. kVecs * kLanes) += sum over j < n of p[r * ld + j] * x[j * d + ...].
template <int kRows, int kVecs>
void DenseAccumulateBlock(const float* x, int d, const float* p, int ld, int n, float* o) {
  FloatVec sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v)
      sum[r][v] = Load(o + static_cast<ptrdiff_t>(r) * d + v * kLanes);
  }
  ptrdiff_t row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = static_cast<ptrdiff_t>(r) * ld;
  for (int j = 0; j < n; ++j) {
    FloatVec value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = Load(x + static_cast<ptrdiff_t>(j) * d + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const FloatVec weight = Set(p[row[r] + j]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Fma(weight, value[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v)
      Store(o + static_cast<ptrdiff_t>(r) * d + v * kLanes, sum[r][v]);
  }
}

template <int kVecs, int kRows = kBlockRows>
TQ_INLINE void DenseAccumulateRows(int rows, const float* x, int d, const float* p, int ld, int n,
                                   float* o) {
  if (rows == kRows) return DenseAccumulateBlock<kRows, kVecs>(x, d, p, ld, n, o);
  if constexpr (kRows > 1) DenseAccumulateRows<kVecs, kRows - 1>(rows, x, d, p, ld, n, o);
}

void DenseAccumulateKernel(const float* x, int d, const float* p, int ld, int rows, int n,
                           float* o) {
  const int blocks = (rows + kBlockRows - 1) / kBlockRows;
  for (int j = 0; j < n; j += kPassTokens) {
    const int count = Smaller(n - j, kPassTokens);
    for (int c = 0; c < d; c += 2 * kLanes) {
      const float* xc = x + static_cast<size_t>(j) * d + c;
      for (int b = 0, r = 0; b < blocks; ++b) {
        const int size = BlockSize(rows, blocks, b);
        const float* pr = p + static_cast<size_t>(r) * ld + j;
        float* to = o + static_cast<size_t>(r) * d + c;
        if (d - c >= 2 * kLanes) {
          DenseAccumulateRows<2>(size, xc, d, pr, ld, count, to);
        } else {
          DenseAccumulateRows<1>(size, xc, d, pr, ld, count, to);
        }
        r += size;
      }
    }
  }
}

// ---- coded accumulate ----

constexpr int kBlockTokens = 128;
constexpr int kMaxSumRows = 8;

// Query rows whose sums of one chunk fit the registers, beside the centroids and their table.
template <int kBits>
constexpr int kSumRows = kRegisters == 32 ? (kBits == 4 ? 8 : 6) : kBits;

// A run of tokens, [begin, end) of a block, that some weight is not zero for.
struct Span {
  int begin;
  int end;
};
struct BlockWeights {
  alignas(64) float weight[kMaxSumRows][kBlockTokens];  // p * scale
  Span span[kBlockTokens / 16];
  int spans;
};

// Weights of `rows` query rows over `count` tokens, leaving out groups of 16 tokens without any.
TQ_INLINE void LoadWeights(const uint16_t* scales, const float* p, int ld, int rows, int count,
                           BlockWeights* w) {
  w->spans = 0;
  for (int j = 0; j < count; j += 16) {
    const int end = Smaller(j + 16, count);
    bool used = false;
    for (int r = 0; r < rows; ++r) {
      const float* pr = p + static_cast<ptrdiff_t>(r) * ld;
      for (int i = j; i < end; i += kLanes) {
        const int lanes = Smaller(end - i, kLanes);
        const FloatVec weight = LoadFirst(pr + i, lanes);
        used |= AnyNonZero(weight);
        const FloatVec scale =
            lanes == kLanes ? HalfLoad(scales + i) : HalfLoadFirst(scales + i, lanes);
        Store(w->weight[r] + i, Mul(weight, scale));
      }
    }
    if (!used) continue;
    if (w->spans > 0 && w->span[w->spans - 1].end == j) {
      w->span[w->spans - 1].end = end;
    } else {
      w->span[w->spans++] = {j, end};
    }
  }
}

// The sums of kRows query rows over one chunk of coordinates of a block.
template <int kBits, int kRows>
TQ_INLINE void AccumulateChunk(const uint8_t* codes, size_t stride, int d, const Chunk& chunk,
                               const BlockWeights& w, float* o) {
  constexpr int kCount = kPlanes<kBits>;
  const int plane = d / kCount;
  const Table centroids = LoadTable<kBits>(CentroidsOf<kBits>());
  float* at = o + chunk.low;
  FloatVec sum[kRows][kCount];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kCount; ++t)
      sum[r][t] = Load(at + static_cast<ptrdiff_t>(r) * d + t * plane);
  }
  for (int s = 0; s < w.spans; ++s) {
    const uint8_t* row = codes + static_cast<size_t>(w.span[s].begin) * stride;
    for (int j = w.span[s].begin; j < w.span[s].end; ++j, row += stride) {
      IntVec idx[kCount];
      LoadIndices<kBits>(row, chunk, idx);
      FloatVec c[kCount];
      for (int t = 0; t < kCount; ++t) c[t] = Lookup<kBits>(centroids, idx[t]);
      for (int r = 0; r < kRows; ++r) {
        const FloatVec weight = Set(w.weight[r][j]);
        for (int t = 0; t < kCount; ++t) sum[r][t] = Fma(weight, c[t], sum[r][t]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kCount; ++t)
      Store(at + static_cast<ptrdiff_t>(r) * d + t * plane, sum[r][t]);
  }
}

template <int kBits, int kRows>
void AccumulateBlock(const uint8_t* codes, size_t stride, int d, const BlockWeights& w, float* o) {
  for (int k = 0; k < d / kPlanes<kBits>; k += kLanes) {
    AccumulateChunk<kBits, kRows>(codes, stride, d, ChunkAt<kBits>(d, k), w, o);
  }
}

template <int kBits, int kRows = kSumRows<kBits>>
TQ_INLINE void AccumulateRows(int rows, const uint8_t* codes, size_t stride, int d,
                              const BlockWeights& w, float* o) {
  if (rows == kRows) return AccumulateBlock<kBits, kRows>(codes, stride, d, w, o);
  if constexpr (kRows > 1) AccumulateRows<kBits, kRows - 1>(rows, codes, stride, d, w, o);
}

template <int kBits>
void CodedAccumulateOf(const CodedRows& v, const float* p, int ld, int rows, int n, float* o) {
  static_assert(kSumRows<kBits> <= kMaxSumRows);
  const int d = v.head_dim;
  const size_t stride = static_cast<size_t>(kBits * d / 8);
  if (!PlanesFitVectors(d)) {
    // Rare head dims: decode a few rows, then the dense kernel.
    constexpr int kTokens = 8;
    alignas(64) float x[kTokens * kMaxHeadDim];
    for (int j = 0; j < n; j += kTokens) {
      const int count = Smaller(n - j, kTokens);
      bool used = false;
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < count; ++i) used |= p[static_cast<ptrdiff_t>(r) * ld + j + i] != 0.0f;
      }
      if (!used) continue;
      DecodeRows<kBits>(v.codes + j * stride, v.scales + j, d, count, x);
      DenseAccumulateKernel(x, d, p + j, ld, rows, count, o);
    }
    return;
  }
  const int blocks = (rows + kSumRows<kBits> - 1) / kSumRows<kBits>;
  BlockWeights w;
  for (int j = 0; j < n; j += kBlockTokens) {
    const int count = Smaller(n - j, kBlockTokens);
    PrefetchRows(v.codes, stride, j + count, Smaller(count, kPrefetchDistance));
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      LoadWeights(v.scales + j, p + static_cast<size_t>(r) * ld + j, ld, size, count, &w);
      AccumulateRows<kBits>(size, v.codes + j * stride, stride, d, w,
                            o + static_cast<size_t>(r) * d);
      r += size;
    }
  }
}

void CodedAccumulateKernel(const CodedRows& v, const float* p, int ld, int rows, int n, float* o) {
  switch (v.bits) {
    case 2:
      return CodedAccumulateOf<2>(v, p, ld, rows, n, o);
    case 3:
      return CodedAccumulateOf<3>(v, p, ld, rows, n, o);
    default:
      return CodedAccumulateOf<4>(v, p, ld, rows, n, o);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_ATTENTION_KERNELS_H_
