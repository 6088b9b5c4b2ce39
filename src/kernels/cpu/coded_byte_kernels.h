// Scores and weighted sums on codes with dot products of bytes (AVX-512 VNNI and VBMI): codes pick
// signed bytes k of the centroid grid (centroid = unit * k, docs/adr/0005) by a byte permute, and
// four products a lane go into a 32-bit sum. Queries and weights come in two bytes, high and low,
// so that rounding them is the only error. vec_avx512.h must come first; the linking rule is there.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_BYTE_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_BYTE_KERNELS_H_

#include "kernels/cpu/coded_tiles.h"

namespace turboquant {
namespace {

template <int kBits>
TQ_INLINE float UnitOf() {
  return kBits == 2 ? kCentroidUnit2[0] : kBits == 3 ? kCentroidUnit3[0] : kCentroidUnit4[0];
}

// The steps plus kOffset, repeated: index bits above the code do not matter.
template <int kBits, int kOffset>
struct StepTable {
  alignas(64) uint8_t bytes[64];
  constexpr StepTable() : bytes() {
    const signed char* steps = kBits == 2   ? kCentroidSteps2
                               : kBits == 3 ? kCentroidSteps3
                                            : kCentroidSteps4;
    for (int i = 0; i < 64; ++i) {
      bytes[i] = static_cast<uint8_t>(steps[i % (1 << kBits)] + kOffset);
    }
  }
};
template <int kBits, int kOffset>
constexpr StepTable<kBits, kOffset> kStepTable;

template <int kBits, int kOffset>
TQ_INLINE IntVec LoadSteps() {
  return _mm512_load_si512(kStepTable<kBits, kOffset>.bytes);
}
TQ_INLINE IntVec LookupBytes(IntVec table, IntVec idx) {
  return _mm512_permutexvar_epi8(idx, table);
}
TQ_INLINE IntVec SetDword(const uint8_t* p) {
  int32_t value;
  memcpy(&value, p, 4);
  return _mm512_set1_epi32(value);
}
TQ_INLINE IntVec LoadCodes(const uint8_t* p) { return _mm512_loadu_si512(p); }

// ---- queries ----

constexpr float kQuerySteps = 16256;  // 127 * 128: the largest |128 high + low|

void PrepareQueriesKernel(const float* q, int d, int rows, uint8_t* prepared) {
  for (int r = 0; r < rows; ++r) {
    const float* from = q + static_cast<size_t>(r) * d;
    uint8_t* to = prepared + static_cast<size_t>(r) * QueryStride(d);
    FloatVec top = Zero();
    FloatVec poison = Zero();  // NaN if any value is not finite
    for (int i = 0; i < d; i += 16) {
      const FloatVec x = Load(from + i);
      Store(reinterpret_cast<float*>(to) + i, x);
      top = Max(top, AndNotSign(x));
      poison = Fma(x, Zero(), poison);
    }
    const float peak = MaxOfLanes(top);
    const bool usable = peak > 1e-30f;
    const FloatVec inverse = Set(usable ? kQuerySteps / peak : 0.0f);
    IntVec sum = ZeroInt();
    uint8_t* high = to + 4 * static_cast<size_t>(d);
    uint8_t* low = high + d;
    for (int i = 0; i < d; i += 16) {
      const IntVec value = _mm512_cvtps_epi32(Mul(Load(from + i), inverse));
      sum = _mm512_add_epi32(sum, value);
      const IntVec h = _mm512_srai_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(64)), 7);
      const IntVec l = _mm512_sub_epi32(value, _mm512_slli_epi32(h, 7));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(high + i), _mm512_cvtepi32_epi8(h));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(low + i), _mm512_cvtepi32_epi8(l));
    }
    Sum16 folded;
    folded.part[0] = poison;
    const float unit = (usable ? peak / kQuerySteps : 0.0f) + Fold(folded);
    const int32_t total = _mm512_reduce_add_epi32(sum);
    memcpy(low + d, &unit, sizeof(unit));
    memcpy(low + d + sizeof(unit), &total, sizeof(total));
  }
}

// ---- scores ----

// Sums of kRows query rows over kGroups tiles: lanes are cells.
template <int kRows, int kGroups>
struct ScoreSums {
  IntVec high[kRows][kGroups];
  IntVec low[kRows][kGroups];
};

// The bytes of four coordinates of every cell meet those of every query row.
template <int kRows, int kGroups>
TQ_INLINE void ScoreDword(const IntVec (&steps)[kGroups], const Query (&q)[kRows], int at,
                          ScoreSums<kRows, kGroups>* sums) {
  for (int r = 0; r < kRows; ++r) {
    const IntVec high = SetDword(q[r].high + at);
    const IntVec low = SetDword(q[r].low + at);
    for (int g = 0; g < kGroups; ++g) {
      sums->high[r][g] = AddDots(sums->high[r][g], steps[g], high);
      sums->low[r][g] = AddDots(sums->low[r][g], steps[g], low);
    }
  }
}

template <int kShift, int kRows, int kGroups>
TQ_INLINE void ScorePlane(IntVec table, const IntVec (&word)[kGroups], const Query (&q)[kRows],
                          int at, ScoreSums<kRows, kGroups>* sums) {
  IntVec steps[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    steps[g] = LookupBytes(table, kShift == 0 ? word[g] : ShiftRight<kShift>(word[g]));
  }
  ScoreDword<kRows, kGroups>(steps, q, at, sums);
}

// Codes are asked for this many cells ahead, a few bytes with every few that are read: many at once
// would wait for each other, and the arithmetic for all of them.
constexpr int kAheadCells = 128;

template <int kBits, int kRows, int kGroups>
TQ_INLINE void ScoreColumns(const uint8_t* tile, size_t tile_bytes, int d, const Query (&q)[kRows],
                            ScoreSums<kRows, kGroups>* sums) {
  const IntVec table = LoadSteps<kBits, 128>();
  const size_t ahead = kAheadCells / kTileLanes * tile_bytes;
  if constexpr (kBits == 4) {
    const int half = d / 2;
    for (int i = 0; i < half; i += 4) {
      IntVec word[kGroups];
      for (int g = 0; g < kGroups; ++g) {
        const uint8_t* at = tile + g * tile_bytes + 16 * i;
        word[g] = LoadCodes(at);
        __builtin_prefetch(at + ahead);
      }
      ScorePlane<0, kRows, kGroups>(table, word, q, i, sums);
      ScorePlane<4, kRows, kGroups>(table, word, q, half + i, sums);
    }
  } else {
    const int quarter = d / 4;
    const int eighth = d / 8;
    for (int i = 0; i < quarter; i += 4) {
      IntVec even[kGroups];  // planes 0 and 2 in the nibbles
      IntVec odd[kGroups];   // planes 1 and 3
      for (int g = 0; g < kGroups; ++g) {
        const uint8_t* at = tile + g * tile_bytes + 16 * i;
        even[g] = LoadCodes(at);
        odd[g] = ShiftRight<2>(even[g]);
        __builtin_prefetch(at + ahead);
      }
      if constexpr (kBits == 3) {
        // Each high bit beside its two low ones.
        const int column = i < eighth ? i : i - eighth;
        const uint8_t* plane = tile + 16 * static_cast<size_t>(quarter + column);
        for (int g = 0; g < kGroups; ++g) {
          const uint8_t* at = plane + g * tile_bytes;
          const IntVec high = ShiftRightBy(LoadCodes(at), i < eighth ? 0 : 1);
          if (i < eighth) __builtin_prefetch(at + ahead);
          even[g] = SelectBits<0x44444444>(ShiftLeft<2>(high), even[g]);
          odd[g] = SelectBits<0x44444444>(high, odd[g]);
        }
      }
      ScorePlane<0, kRows, kGroups>(table, even, q, i, sums);
      ScorePlane<0, kRows, kGroups>(table, odd, q, quarter + i, sums);
      ScorePlane<4, kRows, kGroups>(table, even, q, 2 * quarter + i, sums);
      ScorePlane<4, kRows, kGroups>(table, odd, q, 3 * quarter + i, sums);
    }
  }
}

// Scores of kRows query rows and the tiles [tile, tile + kGroups). Cell j of the first tile goes to
// out[j]; only cells [begin, end) are stored.
template <int kBits, int kRows, int kGroups>
void ScoreTiles(const uint8_t* tile, const uint16_t* scales, int d, const uint8_t* prepared,
                int row, int begin, int end, float* out, int ld) {
  const size_t tile_bytes = static_cast<size_t>(2 * kBits * d);
  Query q[kRows];
  ScoreSums<kRows, kGroups> sums;
  for (int r = 0; r < kRows; ++r) {
    q[r] = QueryAt(prepared, d, row + r);
    for (int g = 0; g < kGroups; ++g) sums.high[r][g] = sums.low[r][g] = ZeroInt();
  }
  ScoreColumns<kBits, kRows, kGroups>(tile, tile_bytes, d, q, &sums);
  for (int g = 0; g < kGroups; ++g) {
    const FloatVec scale = HalfLoad(scales + g * kTileLanes);
    const int first = Larger(begin - g * kTileLanes, 0);
    const int last = Smaller(end - g * kTileLanes, kTileLanes);
    if (last <= first) continue;
    const __mmask16 lanes = static_cast<__mmask16>(((1u << last) - 1u) & ~((1u << first) - 1u));
    for (int r = 0; r < kRows; ++r) {
      // The table held k + 128. Sums may wrap; the total does not: |total| < 126 * 16256 * 1024.
      const IntVec shifted = _mm512_slli_epi32(sums.high[r][g], 7);
      const IntVec offset =
          _mm512_set1_epi32(static_cast<int>(128u * static_cast<unsigned>(q[r].sum)));
      const IntVec total = _mm512_sub_epi32(_mm512_add_epi32(shifted, sums.low[r][g]), offset);
      const FloatVec score =
          Mul(Mul(_mm512_cvtepi32_ps(total), Set(q[r].unit * UnitOf<kBits>())), scale);
      float* to = out + static_cast<ptrdiff_t>(r) * ld + g * kTileLanes;
      _mm512_mask_storeu_ps(to, lanes, score);
    }
  }
}

// As many tiles at once as the registers hold sums for: enough independent sums to hide the latency
// of the dot product, and every query dword is loaded once for all of them.
template <int kRows>
constexpr int kScoreGroups = kRows == 1 ? 4 : 2;
constexpr int kMaxScoreRows = 6;

template <int kBits, int kRows>
TQ_INLINE void ScoreRows(const CodedTiles& k, const uint8_t* prepared, int row, int n, float* out,
                         int ld) {
  constexpr int kGroups = kScoreGroups<kRows>;
  const size_t tile_bytes = static_cast<size_t>(2 * kBits * k.head_dim);
  const int begin = k.first % kTileLanes;
  int tile = k.first / kTileLanes;
  for (int j = -begin; j < n; j += kGroups * kTileLanes, tile += kGroups) {
    const int groups = Smaller((n - j + kTileLanes - 1) / kTileLanes, kGroups);
    const uint8_t* at = k.codes + static_cast<size_t>(tile) * tile_bytes;
    const uint16_t* scales = k.scales + static_cast<size_t>(tile) * kTileLanes;
    float* to = out + j;
    if (groups == kGroups) {
      ScoreTiles<kBits, kRows, kGroups>(at, scales, k.head_dim, prepared, row, -j, n - j, to, ld);
      continue;
    }
    for (int g = 0; g < groups; ++g) {
      ScoreTiles<kBits, kRows, 1>(at + g * tile_bytes, scales + g * kTileLanes, k.head_dim,
                                  prepared, row, -j - g * kTileLanes, n - j - g * kTileLanes,
                                  to + g * kTileLanes, ld);
    }
  }
}

template <int kBits, int kRows = kMaxScoreRows>
void ScoreRowsOf(int rows, const CodedTiles& k, const uint8_t* prepared, int row, int n, float* out,
                 int ld) {
  if (rows == kRows) return ScoreRows<kBits, kRows>(k, prepared, row, n, out, ld);
  if constexpr (kRows > 1) {
    ScoreRowsOf<kBits, kRows - 1>(rows, k, prepared, row, n, out, ld);
  }
}

template <int kBits>
void CodedScoresOf(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                   int ld) {
  if (n <= 0) return;
  if (!FastScores(k)) {
    return FallbackScores(k, prepared, rows, n, out, ld);
  }
  const int blocks = (rows + kMaxScoreRows - 1) / kMaxScoreRows;
  // Many rows: a few tiles stay in the first-level cache while all rows pass over them.
  const int step = blocks == 1 ? n : 64;
  for (int j = 0; j < n; j += step) {
    CodedTiles part = k;
    part.first += j;
    const int count = Smaller(n - j, step);
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      ScoreRowsOf<kBits>(size, part, prepared, r, count, out + static_cast<size_t>(r) * ld + j, ld);
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

constexpr int kSumCells = 128;  // cells of a block
constexpr int kSumTiles = kSumCells / kTileLanes;
constexpr int kMaxSumRows = 6;
constexpr float kWeightSteps = 65024;  // 254 * 256

// p * scale of one block in bytes: dword i holds cells 4 i .. 4 i + 3.
struct ByteWeights {
  alignas(64) uint8_t high[kMaxSumRows][kSumCells];
  alignas(64) uint8_t low[kMaxSumRows][kSumCells];
  float unit[kMaxSumRows];
  unsigned tiles;  // bit i: tile i of the block has a weight that is not zero
};

// Rounds four tiles of row r. The packs leave dword i of tile t in lane 4 i + t.
TQ_INLINE void StoreWeights(const FloatVec* weight, FloatVec inverse, int tile, int r,
                            ByteWeights* w) {
  IntVec value[4];
  for (int t = 0; t < 4; ++t) {
    value[t] = _mm512_cvtps_epi32(Mul(weight[t], inverse));
    w->tiles |= (_mm512_test_epi32_mask(value[t], value[t]) != 0 ? 1u : 0u) << (tile + t);
  }
  const IntVec words0 = _mm512_packus_epi32(value[0], value[1]);
  const IntVec words1 = _mm512_packus_epi32(value[2], value[3]);
  const IntVec byte = _mm512_set1_epi16(255);
  const IntVec high =
      _mm512_packus_epi16(_mm512_srli_epi16(words0, 8), _mm512_srli_epi16(words1, 8));
  const IntVec low =
      _mm512_packus_epi16(_mm512_and_si512(words0, byte), _mm512_and_si512(words1, byte));
  const IntVec order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_store_si512(w->high[r] + tile * kTileLanes, _mm512_permutexvar_epi32(order, high));
  _mm512_store_si512(w->low[r] + tile * kTileLanes, _mm512_permutexvar_epi32(order, low));
}

// The weights of the block that starts at tile-aligned cell `cell`; cells outside [first, last) get
// zero. p is the row's weight of cell 0.
template <int kBits>
TQ_INLINE void LoadByteWeights(const uint16_t* scales, const float* p, int ld, int rows, int cell,
                               int first, int last, ByteWeights* w) {
  w->tiles = 0;
  for (int r = 0; r < rows; ++r) {
    FloatVec weight[kSumTiles];
    FloatVec top = Zero();
    for (int t = 0; t < kSumTiles; ++t) {
      weight[t] = Zero();
      const int at = cell + t * kTileLanes;
      if (at >= last) continue;
      const int begin = Larger(first - at, 0);
      const int end = Smaller(last - at, kTileLanes);
      const __mmask16 lanes = static_cast<__mmask16>(((1u << end) - 1u) & ~((1u << begin) - 1u));
      const FloatVec x = _mm512_maskz_loadu_ps(lanes, p + static_cast<ptrdiff_t>(r) * ld + at);
      // The order of the operands turns NaN into zero.
      weight[t] = _mm512_maskz_max_ps(lanes, Mul(x, HalfLoad(scales + at)), Zero());
      top = Max(top, weight[t]);
    }
    const float peak = MaxOfLanes(top);
    const bool usable = peak > 1e-30f;
    w->unit[r] = usable ? peak / kWeightSteps * UnitOf<kBits>() : 0.0f;
    if (!usable) {
      memset(w->high[r], 0, sizeof(w->high[r]));
      memset(w->low[r], 0, sizeof(w->low[r]));
      continue;
    }
    const FloatVec inverse = Set(kWeightSteps / peak);
    for (int t = 0; t < kSumTiles; t += 4) StoreWeights(weight + t, inverse, t, r, w);
  }
}

// Sums of kRows rows over kPlanes vectors of coordinates: lanes are coordinates.
template <int kRows, int kPlanes>
struct WeightedSums {
  IntVec high[kRows][kPlanes];
  IntVec low[kRows][kPlanes];
};

// One group of four cells: their bytes of every plane meet the four weights of every row.
template <int kRows, int kPlanes>
TQ_INLINE void AddGroup(const IntVec (&steps)[kPlanes], const ByteWeights& w, int group,
                        WeightedSums<kRows, kPlanes>* sums) {
  for (int r = 0; r < kRows; ++r) {
    const IntVec high = SetDword(w.high[r] + 4 * group);
    const IntVec low = SetDword(w.low[r] + 4 * group);
    for (int t = 0; t < kPlanes; ++t) {
      sums->high[r][t] = AddDots(sums->high[r][t], high, steps[t]);
      sums->low[r][t] = AddDots(sums->low[r][t], low, steps[t]);
    }
  }
}

// Where the 16 byte positions [k, k + 16) of the low plane find their high bits (3 bits only).
struct HighRuns {
  size_t run0;  // byte offsets in a group of four cells, lanes 0..7 and 8..15
  size_t run1;
  IntVec shift;
};
TQ_INLINE HighRuns HighRunsAt(int d, int k) {
  const int eighth = d / 8;
  const int next = k + 8;
  const int quarter = d / 4;
  HighRuns runs;
  runs.run0 = 4 * static_cast<size_t>(quarter + (k < eighth ? k : k - eighth));
  runs.run1 = 4 * static_cast<size_t>(quarter + (next < eighth ? next : next - eighth));
  runs.shift = SetHalves(k < eighth ? 0 : 1, next < eighth ? 0 : 1);
  return runs;
}

// The steps of planes kFirst .. kFirst + kPlanes - 1 of the byte positions of one chunk.
template <int kBits, int kFirst, int kPlanes>
TQ_INLINE void LoadStepPlanes(const uint8_t* group, int k, __mmask16 lanes, const HighRuns& runs,
                              IntVec table, IntVec (&steps)[kPlanes]) {
  const IntVec low = _mm512_maskz_loadu_epi32(lanes, group + 4 * static_cast<size_t>(k));
  if constexpr (kBits == 4) {
    static_assert(kFirst == 0 && kPlanes == 2);
    steps[0] = LookupBytes(table, low);
    steps[1] = LookupBytes(table, ShiftRight<4>(low));
  } else {
    IntVec even = low;                // planes 0 and 2 in the nibbles
    IntVec odd = ShiftRight<2>(low);  // planes 1 and 3
    if constexpr (kBits == 3) {
      const __m256i half0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + runs.run0));
      const __m256i half1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + runs.run1));
      const IntVec high =
          ShiftRightEach(_mm512_inserti64x4(_mm512_castsi256_si512(half0), half1, 1), runs.shift);
      even = SelectBits<0x44444444>(ShiftLeft<2>(high), even);
      odd = SelectBits<0x44444444>(high, odd);
    }
    for (int t = 0; t < kPlanes; ++t) {
      const IntVec pair = t % 2 == 0 ? even : odd;
      steps[t] = LookupBytes(table, (kFirst + t) / 2 == 0 ? pair : ShiftRight<4>(pair));
    }
  }
}

// Adds one block to kPlanes planes of the chunk of byte positions [k, k + 16).
template <int kBits, int kRows, int kFirst, int kPlanes>
TQ_INLINE void SumChunk(const uint8_t* codes, size_t group_bytes, int d, int k, __mmask16 lanes,
                        const ByteWeights& w, float* o) {
  const IntVec table = LoadSteps<kBits, 0>();
  const HighRuns runs = kBits == 3 ? HighRunsAt(d, k) : HighRuns{0, 0, ZeroInt()};
  WeightedSums<kRows, kPlanes> sums;
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kPlanes; ++t) sums.high[r][t] = sums.low[r][t] = ZeroInt();
  }
  // The next block's lines are asked for one behind the other, whatever place of this one is read:
  // the memory's own prefetching sees a stream.
  const int chunks = ((kBits == 4 ? d / 2 : d / 4) + 15) / 16;
  const size_t share = group_bytes / static_cast<size_t>(chunks);
  const uint8_t* next =
      codes + kSumCells / 4 * (group_bytes + static_cast<size_t>(k / 16) * share);
  for (int tile = 0; tile < kSumTiles; ++tile) {
    if ((w.tiles >> tile & 1u) == 0) continue;
    for (int group = 4 * tile; group < 4 * tile + 4; ++group) {
      IntVec steps[kPlanes];
      const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes;
      LoadStepPlanes<kBits, kFirst, kPlanes>(at, k, lanes, runs, table, steps);
      if constexpr (kFirst == 0) {
        __builtin_prefetch(next + static_cast<size_t>(group) * share);
        if constexpr (kBits == 3) __builtin_prefetch(next + static_cast<size_t>(group) * share + 64);
      }
      AddGroup<kRows, kPlanes>(steps, w, group, &sums);
    }
  }
  const int plane = kBits == 4 ? d / 2 : d / 4;
  for (int r = 0; r < kRows; ++r) {
    const FloatVec unit = Set(w.unit[r]);
    for (int t = 0; t < kPlanes; ++t) {
      float* to = o + static_cast<ptrdiff_t>(r) * d + (kFirst + t) * plane + k;
      const IntVec total = _mm512_add_epi32(ShiftLeft<8>(sums.high[r][t]), sums.low[r][t]);
      const FloatVec before = _mm512_maskz_loadu_ps(lanes, to);
      _mm512_mask_storeu_ps(to, lanes, Fma(_mm512_cvtepi32_ps(total), unit, before));
    }
  }
}

template <int kBits, int kRows>
void SumBlock(const uint8_t* codes, int d, const ByteWeights& w, float* o) {
  const size_t group_bytes = static_cast<size_t>(kBits * d / 2);
  const int positions = kBits == 4 ? d / 2 : d / 4;
  for (int k = 0; k < positions; k += 16) {
    const int count = Smaller(positions - k, 16);
    const __mmask16 lanes = static_cast<__mmask16>((1u << count) - 1u);
    if constexpr (kBits == 4) {
      SumChunk<4, kRows, 0, 2>(codes, group_bytes, d, k, lanes, w, o);
    } else if constexpr (kRows <= 3) {
      SumChunk<kBits, kRows, 0, 4>(codes, group_bytes, d, k, lanes, w, o);
    } else {
      SumChunk<kBits, kRows, 0, 2>(codes, group_bytes, d, k, lanes, w, o);
      SumChunk<kBits, kRows, 2, 2>(codes, group_bytes, d, k, lanes, w, o);
    }
  }
}

template <int kBits, int kRows = kMaxSumRows>
TQ_INLINE void SumRows(int rows, const uint8_t* codes, int d, const ByteWeights& w, float* o) {
  if (rows == kRows) return SumBlock<kBits, kRows>(codes, d, w, o);
  if constexpr (kRows > 1) SumRows<kBits, kRows - 1>(rows, codes, d, w, o);
}

template <int kBits>
void CodedAccumulateOf(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  if (n <= 0) return;
  const int d = v.head_dim;
  if (!FastSums(v)) return FallbackAccumulate(v, p, ld, rows, n, o);
  const size_t cell_bytes = static_cast<size_t>(kBits * d / 8);
  const int blocks = (rows + kMaxSumRows - 1) / kMaxSumRows;
  const int last = v.first + n;
  ByteWeights w;
  for (int cell = v.first / kTileLanes * kTileLanes; cell < last; cell += kSumCells) {
    const uint8_t* codes = v.codes + static_cast<size_t>(cell) * cell_bytes;
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      LoadByteWeights<kBits>(v.scales, p + static_cast<ptrdiff_t>(r) * ld - v.first, ld, size, cell,
                             v.first, last, &w);
      if (w.tiles != 0) SumRows<kBits>(size, codes, d, w, o + static_cast<size_t>(r) * d);
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

#endif  // TURBOQUANT_KERNELS_CPU_CODED_BYTE_KERNELS_H_
