// Scores and weighted sums on codes in f32, for instruction sets without dot products of bytes
// (vec_avx2.h or vec_neon.h must come first; the linking rule is in vec_avx512.h). Scores: lanes
// are cells; sums: lanes are coordinates.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_FLOAT_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_FLOAT_KERNELS_H_

#include "kernels/cpu/coded_tiles.h"

namespace turboquant {
namespace {

constexpr int kVecsOfTile = kTileLanes / kLanes;

TQ_INLINE IntVec LoadCodes(const uint8_t* p) {
  return LoadInt(reinterpret_cast<const uint32_t*>(p));
}

void PrepareQueriesKernel(const float* q, int d, int rows, uint8_t* prepared) {
  for (int r = 0; r < rows; ++r) {
    memcpy(prepared + static_cast<size_t>(r) * QueryStride(d), q + static_cast<size_t>(r) * d,
           static_cast<size_t>(d) * sizeof(float));
  }
}

// ---- scores ----

template <int kRows>
struct ScoreSums {
  FloatVec sum[kRows][kVecsOfTile];
};

// Eight codes a lane, one a nibble: nibble 2 b belongs to coordinate at + b, nibble 2 b + 1 to
// coordinate at + far + b.
template <int kBits, int kRows, int kNibble = 0>
TQ_INLINE void ScoreNibbles(const Table& centroids, const IntVec (&word)[kVecsOfTile],
                            const Query (&q)[kRows], int at, int far, ScoreSums<kRows>* sums) {
  FloatVec c[kVecsOfTile];
  for (int g = 0; g < kVecsOfTile; ++g) {
    c[g] = Lookup<kBits>(centroids, ShiftRight<4 * kNibble>(word[g]));
  }
  const int i = at + kNibble / 2 + (kNibble % 2 == 0 ? 0 : far);
  for (int r = 0; r < kRows; ++r) {
    const FloatVec value = Set(q[r].value[i]);
    for (int g = 0; g < kVecsOfTile; ++g) sums->sum[r][g] = Fma(c[g], value, sums->sum[r][g]);
  }
  if constexpr (kNibble < 7) {
    ScoreNibbles<kBits, kRows, kNibble + 1>(centroids, word, q, at, far, sums);
  }
}

// One tile. Cell j goes to out[j]; only cells [begin, end) are stored.
template <int kBits, int kRows>
void ScoreTile(const uint8_t* tile, const uint16_t* scales, int d, const uint8_t* prepared, int row,
               int begin, int end, float* out, int ld) {
  const Table centroids = LoadTable<kBits>(CentroidsOf<kBits>());
  Query q[kRows];
  ScoreSums<kRows> sums;
  for (int r = 0; r < kRows; ++r) {
    q[r] = QueryAt(prepared, d, row + r);
    for (int g = 0; g < kVecsOfTile; ++g) sums.sum[r][g] = Zero();
  }
  const auto column = [tile](int c, int g) {
    return LoadCodes(tile + 16 * static_cast<size_t>(c) + 4 * static_cast<size_t>(g) * kLanes);
  };
  const int plane = kBits == 4 ? d / 2 : d / 4;
  const int eighth = d / 8;
  for (int i = 0; i < plane; i += 4) {
    IntVec word[kVecsOfTile];
    for (int g = 0; g < kVecsOfTile; ++g) word[g] = column(i, g);
    if constexpr (kBits == 4) {
      ScoreNibbles<kBits, kRows>(centroids, word, q, i, plane, &sums);
    } else {
      IntVec odd[kVecsOfTile];
      for (int g = 0; g < kVecsOfTile; ++g) odd[g] = ShiftRight<2>(word[g]);
      if constexpr (kBits == 3) {
        // Each high bit beside its two low ones.
        for (int g = 0; g < kVecsOfTile; ++g) {
          const IntVec high =
              ShiftRightBy(column(plane + (i < eighth ? i : i - eighth), g), i < eighth ? 0 : 1);
          word[g] = SelectBits<0x44444444>(ShiftLeft<2>(high), word[g]);
          odd[g] = SelectBits<0x44444444>(high, odd[g]);
        }
      }
      ScoreNibbles<kBits, kRows>(centroids, word, q, i, 2 * plane, &sums);
      ScoreNibbles<kBits, kRows>(centroids, odd, q, i + plane, 2 * plane, &sums);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    alignas(64) float score[kTileLanes];
    for (int g = 0; g < kVecsOfTile; ++g) {
      Store(score + g * kLanes, Mul(sums.sum[r][g], HalfLoad(scales + g * kLanes)));
    }
    memcpy(out + static_cast<ptrdiff_t>(r) * ld + begin, score + begin,
           static_cast<size_t>(end - begin) * sizeof(float));
  }
}

constexpr int kMaxScoreRows = kRegisters / 4;

template <int kBits, int kRows = kMaxScoreRows>
TQ_INLINE void ScoreTileRows(int rows, const uint8_t* tile, const uint16_t* scales, int d,
                             const uint8_t* prepared, int row, int begin, int end, float* out,
                             int ld) {
  if (rows == kRows) {
    return ScoreTile<kBits, kRows>(tile, scales, d, prepared, row, begin, end, out, ld);
  }
  if constexpr (kRows > 1) {
    ScoreTileRows<kBits, kRows - 1>(rows, tile, scales, d, prepared, row, begin, end, out, ld);
  }
}

template <int kBits>
void CodedScoresOf(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                   int ld) {
  if (n <= 0) return;
  if (!FastScores(k)) {
    return FallbackScores(k, prepared, rows, n, out, ld);
  }
  const size_t tile_bytes = static_cast<size_t>(2 * kBits * k.head_dim);
  const int blocks = (rows + kMaxScoreRows - 1) / kMaxScoreRows;
  int tile = k.first / kTileLanes;
  for (int j = -(k.first % kTileLanes); j < n; j += kTileLanes, ++tile) {
    const uint8_t* at = k.codes + static_cast<size_t>(tile) * tile_bytes;
    PrefetchBytes(at + 4 * tile_bytes, tile_bytes);
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      ScoreTileRows<kBits>(size, at, k.scales + static_cast<size_t>(tile) * kTileLanes, k.head_dim,
                           prepared, r, Larger(-j, 0), Smaller(n - j, kTileLanes),
                           out + static_cast<ptrdiff_t>(r) * ld + j, ld);
      r += size;
    }
  }
}

void CodedScoresKernel(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                       int ld) {
  switch (k.format) {
    case Format::kTurbo2:
      return CodedScoresOf<2>(k, prepared, rows, n, out, ld);
    case Format::kTurbo3:
      return CodedScoresOf<3>(k, prepared, rows, n, out, ld);
    default:
      return CodedScoresOf<4>(k, prepared, rows, n, out, ld);
  }
}

// ---- weighted sums ----

constexpr int kSumCells = 64;
constexpr int kMaxSumRows = 4;

// Query rows whose sums of one chunk fit the registers, beside the centroids and their table.
template <int kBits>
constexpr int kSumRows = kBits == 4 ? 4 : 2;

// p * scale of one block.
struct FloatWeights {
  alignas(64) float weight[kMaxSumRows][kSumCells];
  unsigned groups;  // bit i: group i of four cells has a weight that is not zero
};

// The weights of the block that starts at tile-aligned cell `cell`; cells outside [first, last) get
// zero. p is the row's weight of cell 0.
TQ_INLINE void LoadFloatWeights(const uint16_t* scales, const float* p, int ld, int rows, int cell,
                                int first, int last, FloatWeights* w) {
  w->groups = 0;
  const int begin = Larger(first - cell, 0);
  const int end = Smaller(last - cell, kSumCells);
  for (int r = 0; r < rows; ++r) {
    float* weight = w->weight[r];
    for (int i = 0; i < kSumCells; i += kLanes) Store(weight + i, Zero());
    memcpy(weight + begin, p + static_cast<ptrdiff_t>(r) * ld + cell + begin,
           static_cast<size_t>(end - begin) * sizeof(float));
    for (int i = 0; i < end; i += kLanes) {
      const FloatVec x = Load(weight + i);
      if (!AnyNonZero(x)) continue;
      // Scales of cells without weight may be anything, NaN too.
      Store(weight + i, WhereGreater(x, Zero(), Mul(x, HalfLoad(scales + cell + i))));
      w->groups |= ((1u << (kLanes / 4)) - 1u) << (i / 4);
    }
  }
}

// The centroid indices of token kToken of a group for every plane, in the low kBits bits.
template <int kBits, int kToken>
TQ_INLINE void TokenIndices(IntVec low, IntVec high, IntVec (&idx)[kPlanes<kBits>]) {
  constexpr int kShift = 8 * kToken;
  if constexpr (kBits == 4) {
    idx[0] = ShiftRight<kShift>(low);
    idx[1] = ShiftRight<kShift + 4>(low);
  } else {
    IntVec even = ShiftRight<kShift>(low);
    IntVec odd = ShiftRight<kShift + 2>(low);
    if constexpr (kBits == 3) {
      const IntVec bits = ShiftRight<kShift>(high);
      even = SelectBits<0x44>(ShiftLeft<2>(bits), even);
      odd = SelectBits<0x44>(bits, odd);
    }
    idx[0] = even;
    idx[1] = odd;
    idx[2] = ShiftRight<4>(even);
    idx[3] = ShiftRight<4>(odd);
  }
}

template <int kBits, int kRows, int kToken = 0>
TQ_INLINE void AddTokens(const Table& centroids, IntVec low, IntVec high, const FloatWeights& w,
                         int cell, FloatVec (&sum)[kRows][kPlanes<kBits>]) {
  IntVec idx[kPlanes<kBits>];
  TokenIndices<kBits, kToken>(low, high, idx);
  FloatVec c[kPlanes<kBits>];
  for (int t = 0; t < kPlanes<kBits>; ++t) c[t] = Lookup<kBits>(centroids, idx[t]);
  for (int r = 0; r < kRows; ++r) {
    const FloatVec weight = Set(w.weight[r][cell + kToken]);
    for (int t = 0; t < kPlanes<kBits>; ++t) sum[r][t] = Fma(weight, c[t], sum[r][t]);
  }
  if constexpr (kToken < 3) {
    AddTokens<kBits, kRows, kToken + 1>(centroids, low, high, w, cell, sum);
  }
}

// Adds one block to the coordinates of byte positions [k, k + count) of every plane, count <=
// kLanes.
template <int kBits, int kRows>
TQ_INLINE void SumChunk(const uint8_t* codes, size_t group_bytes, int d, int k, int count,
                        const FloatWeights& w, float* o) {
  constexpr int kCount = kPlanes<kBits>;
  const int plane = d / kCount;
  const int eighth = d / 8;
  const Table centroids = LoadTable<kBits>(CentroidsOf<kBits>());
  const size_t low_at = 4 * static_cast<size_t>(k);
  const size_t high_at = 4 * static_cast<size_t>(plane + (k < eighth ? k : k - eighth));
  const int high_shift = k < eighth ? 0 : 1;
  FloatVec sum[kRows][kCount];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kCount; ++t) {
      sum[r][t] = LoadFirst(o + static_cast<ptrdiff_t>(r) * d + t * plane + k, count);
    }
  }
  for (int group = 0; group < kSumCells / 4; ++group) {
    if ((w.groups >> group & 1u) == 0) continue;
    const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes;
    IntVec low = ZeroInt();
    if (count == kLanes) {
      low = LoadCodes(at + low_at);
    } else {
      alignas(64) uint32_t words[kLanes] = {0};
      memcpy(words, at + low_at, 4 * static_cast<size_t>(count));
      low = LoadInt(words);
    }
    IntVec high = ZeroInt();
    if constexpr (kBits == 3) high = ShiftRightBy(LoadCodes(at + high_at), high_shift);
    AddTokens<kBits, kRows>(centroids, low, high, w, 4 * group, sum);
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kCount; ++t) {
      StoreFirst(o + static_cast<ptrdiff_t>(r) * d + t * plane + k, sum[r][t], count);
    }
  }
}

template <int kBits, int kRows = kSumRows<kBits>>
TQ_INLINE void SumRows(int rows, const uint8_t* codes, int d, const FloatWeights& w, float* o) {
  if (rows == kRows) {
    const int positions = d / kPlanes<kBits>;
    for (int k = 0; k < positions; k += kLanes) {
      SumChunk<kBits, kRows>(codes, static_cast<size_t>(kBits * d / 2), d, k,
                             Smaller(positions - k, kLanes), w, o);
    }
    return;
  }
  if constexpr (kRows > 1) SumRows<kBits, kRows - 1>(rows, codes, d, w, o);
}

template <int kBits>
void CodedAccumulateOf(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  if (n <= 0) return;
  const int d = v.head_dim;
  if (!FastSums(v)) return FallbackAccumulate(v, p, ld, rows, n, o);
  const size_t cell_bytes = static_cast<size_t>(kBits * d / 8);
  const int blocks = (rows + kSumRows<kBits> - 1) / kSumRows<kBits>;
  const int last = v.first + n;
  FloatWeights w;
  for (int cell = v.first / kTileLanes * kTileLanes; cell < last; cell += kSumCells) {
    const uint8_t* codes = v.codes + static_cast<size_t>(cell) * cell_bytes;
    PrefetchBytes(codes + kSumCells * cell_bytes, kSumCells * cell_bytes);
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      LoadFloatWeights(v.scales, p + static_cast<ptrdiff_t>(r) * ld - v.first, ld, size, cell,
                       v.first, last, &w);
      if (w.groups != 0) SumRows<kBits>(size, codes, d, w, o + static_cast<size_t>(r) * d);
      r += size;
    }
  }
}

void CodedAccumulateKernel(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  switch (v.format) {
    case Format::kTurbo2:
      return CodedAccumulateOf<2>(v, p, ld, rows, n, o);
    case Format::kTurbo3:
      return CodedAccumulateOf<3>(v, p, ld, rows, n, o);
    default:
      return CodedAccumulateOf<4>(v, p, ld, rows, n, o);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_FLOAT_KERNELS_H_
