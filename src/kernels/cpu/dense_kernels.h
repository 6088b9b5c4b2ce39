// Scores and weighted sums over dense rows, f32 or f16, on the vectors of the including translation
// unit (one of vec_*.h must come first; the linking rule is in vec_avx512.h).
//
// Scores: lanes are tokens, so that a coordinate meets one broadcast query value and no sum across
// lanes is ever needed. Sums: lanes are coordinates, which meet one broadcast weight.
#ifndef TURBOQUANT_KERNELS_CPU_DENSE_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_DENSE_KERNELS_H_

#include <string.h>

#include "codec/format.h"
#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

constexpr int kTileTokens = 2 * kLanes;

TQ_INLINE int Smaller(int a, int b) { return a < b ? a : b; }
TQ_INLINE int Larger(int a, int b) { return a > b ? a : b; }

// Asks for `bytes` bytes from `at` on; never faults. To the second-level cache: what is asked for in
// the first one takes its few line buffers from what is read now.
TQ_INLINE void PrefetchBytes(const uint8_t* at, size_t bytes) {
  for (size_t b = 0; b < bytes; b += 64) __builtin_prefetch(at + b, 0, 2);
}

// Rows of block `b` when `rows` are spread evenly over the fewest blocks.
TQ_INLINE int BlockSize(int rows, int blocks, int b) {
  return rows / blocks + (b < rows % blocks ? 1 : 0);
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

// Where the rows of a sum come from: f32 side by side, or f16, each at its own address.
struct FloatRows {
  const float* x;
  ptrdiff_t d;
  TQ_INLINE FloatVec At(int j, int c) const { return Load(x + j * d + c); }
  TQ_INLINE void Ask(int, int) const {}  // just made, so in the cache
};
struct HalfRows {
  const uint16_t* const* x;
  size_t row_bytes;
  TQ_INLINE FloatVec At(int j, int c) const { return HalfLoad(x[j] + c); }
  // A pass reads its rows a block of coordinates at a time, an order that memory does not foresee.
  TQ_INLINE void Ask(int first, int end) const {
    for (int j = first; j < end; ++j) {
      PrefetchBytes(reinterpret_cast<const uint8_t*>(x[j]), row_bytes);
    }
  }
};

// o[r][0 .. kVecs * kLanes) += sum over first <= j < end of p[r * ld + j] * x[j][c ...].
template <int kRows, int kVecs, typename Rows>
void DenseAccumulateBlock(const Rows& x, int c, int d, const float* p, int ld, int first, int end,
                          float* o) {
  FloatVec sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v)
      sum[r][v] = Load(o + static_cast<ptrdiff_t>(r) * d + v * kLanes);
  }
  ptrdiff_t row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = static_cast<ptrdiff_t>(r) * ld;
  for (int j = first; j < end; ++j) {
    FloatVec value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = x.At(j, c + v * kLanes);
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

template <int kVecs, typename Rows, int kRows = kBlockRows>
TQ_INLINE void DenseAccumulateRows(int rows, const Rows& x, int c, int d, const float* p, int ld,
                                   int first, int end, float* o) {
  if (rows == kRows) {
    return DenseAccumulateBlock<kRows, kVecs, Rows>(x, c, d, p, ld, first, end, o);
  }
  if constexpr (kRows > 1) {
    DenseAccumulateRows<kVecs, Rows, kRows - 1>(rows, x, c, d, p, ld, first, end, o);
  }
}

template <typename Rows>
TQ_INLINE void AccumulateRows(const Rows& x, int d, const float* p, int ld, int rows, int n,
                              float* o) {
  const int blocks = (rows + kBlockRows - 1) / kBlockRows;
  x.Ask(0, Smaller(n, kPassTokens));
  for (int j = 0; j < n; j += kPassTokens) {
    const int end = Smaller(n, j + kPassTokens);
    for (int c = 0; c < d; c += 2 * kLanes) {
      // Of the next pass, as large a part as this block is of this one.
      const int asked = Smaller(n, end + Smaller(c + 2 * kLanes, d) * kPassTokens / d);
      x.Ask(Smaller(asked, end + c * kPassTokens / d), asked);
      for (int b = 0, r = 0; b < blocks; ++b) {
        const int size = BlockSize(rows, blocks, b);
        const float* pr = p + static_cast<size_t>(r) * ld;
        float* to = o + static_cast<size_t>(r) * d + c;
        if (d - c >= 2 * kLanes) {
          DenseAccumulateRows<2>(size, x, c, d, pr, ld, j, end, to);
        } else {
          DenseAccumulateRows<1>(size, x, c, d, pr, ld, j, end, to);
        }
        r += size;
      }
    }
  }
}

void DenseAccumulateKernel(const float* x, int d, const float* p, int ld, int rows, int n,
                           float* o) {
  AccumulateRows(FloatRows{x, d}, d, p, ld, rows, n, o);
}

// ---- rows of f16, each at its own address, for few query rows ----

void HalfAccumulateKernel(const uint16_t* const* x, int d, const float* p, int ld, int rows, int n,
                          float* o) {
  AccumulateRows(HalfRows{x, 2 * static_cast<size_t>(d)}, d, p, ld, rows, n, o);
}

// Rows that are asked for before they are scored.
constexpr int kAskedRows = 16;

// Query rows of a block: four sums each.
constexpr int kHalfRows = kRegisters == 32 ? 6 : 2;

// Here lanes are coordinates: turning the rows would cost more than adding the lanes of the sums.
template <int kRows>
void HalfScoreBlock(const uint16_t* const* x, int d, const float* q, int n, float* out, int ld) {
  for (int j = 0; j < n; j += 4) {
    const int count = Smaller(n - j, 4);
    const uint16_t* row[4];
    for (int t = 0; t < 4; ++t) row[t] = x[j + Smaller(t, count - 1)];
    for (int t = j + kAskedRows; t < Smaller(n, j + kAskedRows + 4); ++t) {
      PrefetchBytes(reinterpret_cast<const uint8_t*>(x[t]), 2 * static_cast<size_t>(d));
    }
    FloatVec sum[kRows][4];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < 4; ++t) sum[r][t] = Zero();
    }
    for (int i = 0; i < d; i += kLanes) {
      FloatVec value[4];
      for (int t = 0; t < 4; ++t) value[t] = HalfLoad(row[t] + i);
      for (int r = 0; r < kRows; ++r) {
        const FloatVec query = Load(q + static_cast<ptrdiff_t>(r) * d + i);
        for (int t = 0; t < 4; ++t) sum[r][t] = Fma(query, value[t], sum[r][t]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      float* to = out + static_cast<ptrdiff_t>(r) * ld + j;
      if (count == 4) {
        FoldFour(sum[r], to);
        continue;
      }
      float quad[4];
      FoldFour(sum[r], quad);
      for (int t = 0; t < count; ++t) to[t] = quad[t];
    }
  }
}

template <int kRows = kHalfRows>
TQ_INLINE void HalfScoreRows(int rows, const uint16_t* const* x, int d, const float* q, int n,
                             float* out, int ld) {
  if (rows == kRows) return HalfScoreBlock<kRows>(x, d, q, n, out, ld);
  if constexpr (kRows > 1) HalfScoreRows<kRows - 1>(rows, x, d, q, n, out, ld);
}

void HalfScoresKernel(const uint16_t* const* x, int d, const float* q, int rows, int n, float* out,
                      int ld) {
  const int blocks = (rows + kHalfRows - 1) / kHalfRows;
  for (int b = 0, r = 0; b < blocks; ++b) {
    const int size = BlockSize(rows, blocks, b);
    HalfScoreRows(size, x, d, q + static_cast<size_t>(r) * d, n, out + static_cast<size_t>(r) * ld,
                  ld);
    r += size;
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_DENSE_KERNELS_H_
