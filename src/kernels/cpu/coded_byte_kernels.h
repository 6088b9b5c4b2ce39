// Scores and weighted sums on codes in integers: codes pick signed bytes k of the centroid grid
// (centroid = unit * k, docs/adr/0005) by a byte permute, and the products with queries and weights
// of 15 bits or more go into 32-bit sums, so that rounding those is the only error. Written against
// the products of dots_avx512.h, dots_avx2.h or dots_neon_dotprod.h, which comes first; the linking
// rule is in vec_avx512.h.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_BYTE_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_BYTE_KERNELS_H_

#include "kernels/cpu/coded_tiles.h"

namespace turboquant {
namespace {

template <int kBits>
TQ_INLINE float UnitOf() {
  return kBits == 2 ? kCentroidUnit2[0] : kBits == 3 ? kCentroidUnit3[0] : kCentroidUnit4[0];
}

// The steps plus kOffset, repeated.
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
template <int kBits, TileForm kForm>
constexpr StepTable<kBits, kStepOffset<kForm>> kStepTable;

// ---- queries ----

constexpr float kQuerySteps = 16256;  // 127 * 128: the largest |128 high + low|

void PrepareQueriesKernel(const float* q, int d, int rows, uint8_t* prepared) {
  for (int r = 0; r < rows; ++r) {
    const float* from = q + static_cast<size_t>(r) * d;
    uint8_t* to = prepared + static_cast<size_t>(r) * QueryStride(d);
    FloatVec top = Zero();
    Sum16 poison;  // NaN if any value is not finite
    for (FloatVec& part : poison.part) part = Zero();
    for (int i = 0; i < d; i += kLanes) {
      const FloatVec x = Load(from + i);
      Store(reinterpret_cast<float*>(to) + i, x);
      top = Max(top, AndNotSign(x));
      FloatVec& part = poison.part[i / kLanes % kVecsOf16];
      part = Fma(x, Zero(), part);
    }
    const float peak = MaxOfLanes(top);
    const bool usable = peak > 1e-30f;
    const FloatVec inverse = Set(usable ? kQuerySteps / peak : 0.0f);
    IntVec sum = ZeroInt();
    IntVec sum_first = ZeroInt();
    uint8_t* first = to + 4 * static_cast<size_t>(d);
    uint8_t* second = first + d;
    for (int i = 0; i < d; i += kLanes) {
      const IntVec value = ToInts(Mul(Load(from + i), inverse));
      sum = AddInts(sum, value);
      sum_first = AddInts(sum_first, StoreQuery(value, first + i, second + i));
    }
    uint8_t* turned = second + d;
    for (int i = 0; i + 32 <= d; i += 32) {
      TurnQuery(first + i, second + i, turned + i, turned + d + i);
    }
    uint8_t* numbers = turned + 2 * static_cast<size_t>(d);
    const float unit = (usable ? peak / kQuerySteps : 0.0f) + Fold(poison);
    const int32_t sums[2] = {SumOfInts(sum), SumOfInts(sum_first)};
    memcpy(numbers, &unit, sizeof(unit));
    memcpy(numbers + sizeof(unit), sums, sizeof(sums));
  }
}

// ---- scores ----

// Sums of kRows query rows over kVectors vectors of cells.
template <int kRows, int kVectors>
struct ScoreSums {
  Sum of[kRows][kVectors];
};

// Where vector g of cells lies behind the first one, which starts a tile if there are more than a
// tile holds.
TQ_INLINE size_t VectorOffset(int g, size_t tile_bytes) {
  const int cell = g * kLanes;
  return static_cast<size_t>(cell / kTileLanes) * tile_bytes +
         static_cast<size_t>(cell % kTileLanes) * 4;
}

// Four values of every cell meet those of every query row.
template <int kRows, int kVectors>
TQ_INLINE void ScoreDword(const IntVec (&bytes)[kVectors], const Query (&q)[kRows], int at,
                          ScoreSums<kRows, kVectors>* sums) {
  Steps steps[kVectors];
  for (int g = 0; g < kVectors; ++g) steps[g] = StepsOf(bytes[g]);
  for (int r = 0; r < kRows; ++r) {
    const Operand operand = LoadOperand(q[r].first + at, q[r].second + at);
    for (int g = 0; g < kVectors; ++g) {
      AddProducts<TileForm::kKeys>(&sums->of[r][g], steps[g], operand);
    }
  }
}

// Those whose codes are the low nibbles of `word`, then those of the high ones.
template <int kBits, int kRows, int kVectors>
TQ_INLINE void ScoreNibbles(const ByteTable& table, const IntVec (&word)[kVectors],
                            const Query (&q)[kRows], int low_at, int high_at,
                            ScoreSums<kRows, kVectors>* sums) {
  IntVec bytes[kVectors];
  for (int g = 0; g < kVectors; ++g) bytes[g] = LookupLow<kBits>(table, word[g]);
  ScoreDword<kRows, kVectors>(bytes, q, low_at, sums);
  for (int g = 0; g < kVectors; ++g) bytes[g] = LookupHigh<kBits>(table, word[g]);
  ScoreDword<kRows, kVectors>(bytes, q, high_at, sums);
}

// Codes are asked for this many cells ahead, a few bytes with every few that are read: many at once
// would wait for each other, and the arithmetic for all of them.
constexpr int kAheadCells = 128;

template <int kBits, int kRows, int kVectors>
TQ_INLINE void ScoreColumns(const uint8_t* codes, size_t tile_bytes, int d, const Query (&q)[kRows],
                            ScoreSums<kRows, kVectors>* sums) {
  const ByteTable table = LoadByteTable(kStepTable<kBits, TileForm::kKeys>.bytes);
  const size_t ahead = kAheadCells / kTileLanes * tile_bytes;
  const int plane = kBits == 4 ? d / 2 : d / 4;
  const int eighth = d / 8;
  for (int i = 0; i < plane; i += 4) {
    IntVec even[kVectors];  // 4 bits: all codes; else planes 0 and 2 in the nibbles
    for (int g = 0; g < kVectors; ++g) {
      const uint8_t* at = codes + VectorOffset(g, tile_bytes) + 16 * static_cast<size_t>(i);
      even[g] = LoadCodes(at);
      if (g * kLanes % kTileLanes == 0) __builtin_prefetch(at + ahead);
    }
    if constexpr (kBits == 4) {
      ScoreNibbles<4, kRows, kVectors>(table, even, q, i, plane + i, sums);
    } else {
      IntVec odd[kVectors];  // planes 1 and 3
      for (int g = 0; g < kVectors; ++g) odd[g] = ShiftRight<2>(even[g]);
      if constexpr (kBits == 2) {
        for (int g = 0; g < kVectors; ++g) {
          even[g] = LowPairs(even[g]);
          odd[g] = LowPairs(odd[g]);
        }
      } else {
        // Each high bit beside its two low ones.
        const int column = i < eighth ? i : i - eighth;
        for (int g = 0; g < kVectors; ++g) {
          const uint8_t* at =
              codes + VectorOffset(g, tile_bytes) + 16 * static_cast<size_t>(plane + column);
          const IntVec high = ShiftRightBy(LoadCodes(at), i < eighth ? 0 : 1);
          if (i < eighth && g * kLanes % kTileLanes == 0) __builtin_prefetch(at + ahead);
          even[g] = JoinTriples(ShiftLeft<2>(high), even[g]);
          odd[g] = JoinTriples(high, odd[g]);
        }
      }
      ScoreNibbles<kBits, kRows, kVectors>(table, even, q, i, 2 * plane + i, sums);
      ScoreNibbles<kBits, kRows, kVectors>(table, odd, q, plane + i, 3 * plane + i, sums);
    }
  }
}

// Scores of kRows query rows and the kVectors * kLanes cells from the first of `codes` on. Cell j
// goes to out[j]; only cells [begin, end) are stored.
template <int kBits, int kRows, int kVectors>
void ScoreCells(const uint8_t* codes, const uint16_t* scales, int d, const uint8_t* prepared,
                int row, int begin, int end, float* out, int ld) {
  const size_t tile_bytes = static_cast<size_t>(2 * kBits * d);
  Query q[kRows];
  ScoreSums<kRows, kVectors> sums;
  for (int r = 0; r < kRows; ++r) {
    q[r] = QueryAt(prepared, d, row + r);
    for (int g = 0; g < kVectors; ++g) sums.of[r][g] = ZeroSum();
  }
  ScoreColumns<kBits, kRows, kVectors>(codes, tile_bytes, d, q, &sums);
  for (int g = 0; g < kVectors; ++g) {
    const int first = Larger(begin - g * kLanes, 0);
    const int last = Smaller(end - g * kLanes, kLanes);
    if (last <= first) continue;
    const FloatVec scale = HalfLoad(scales + g * kLanes);
    for (int r = 0; r < kRows; ++r) {
      // Sums may wrap; the total does not: |total| < 126 * 16256 * 1024.
      const IntVec offset = SetInt(static_cast<int>(
          static_cast<unsigned>(kStepOffset<TileForm::kKeys>) * static_cast<unsigned>(q[r].sum)));
      const IntVec total = SubInts(Total<TileForm::kKeys>(sums.of[r][g]), offset);
      const FloatVec score = Mul(Mul(ToFloats(total), Set(q[r].unit * UnitOf<kBits>())), scale);
      StoreBetween(out + static_cast<ptrdiff_t>(r) * ld + g * kLanes, score, first, last);
    }
  }
}

template <int kBits, int kRows>
TQ_INLINE void ScoreRows(const CodedTiles& k, const uint8_t* prepared, int row, int n, float* out,
                         int ld) {
  constexpr int kVectors = kScoreVectors<kRows>;
  constexpr int kSpan = kVectors * kLanes;  // cells at once: a part of a tile, or some tiles
  constexpr int kTileSpan = kSpan < kTileLanes ? kSpan : kTileLanes;
  const size_t tile_bytes = static_cast<size_t>(2 * kBits * k.head_dim);
  const int last = k.first + n;
  for (int cell = k.first / kTileSpan * kTileSpan; cell < last;) {
    const uint8_t* codes = k.codes + static_cast<size_t>(cell / kTileLanes) * tile_bytes +
                           static_cast<size_t>(cell % kTileLanes) * 4;
    const int begin = k.first - cell;
    if (kSpan <= kTileLanes || last - cell > kSpan - kTileLanes) {
      ScoreCells<kBits, kRows, kVectors>(codes, k.scales + cell, k.head_dim, prepared, row, begin,
                                         last - cell, out - begin, ld);
      cell += kSpan;
    } else {
      ScoreCells<kBits, kRows, kTileSpan / kLanes>(codes, k.scales + cell, k.head_dim, prepared,
                                                   row, begin, last - cell, out - begin, ld);
      cell += kTileSpan;
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

// p * scale of one block as operands: piece i of each is that of cells 4 i .. 4 i + 3.
struct CellWeights {
  alignas(64) uint8_t first[kMaxSumRows][kSumCells];
  alignas(64) uint8_t second[kMaxSumRows][kSumCells];
  float unit[kMaxSumRows];
  int32_t sum[kMaxSumRows];  // of the integers, where steps have an offset
  unsigned tiles;            // bit i: tile i of the block has a weight that is not zero
};

// Rounds the weights of row r; nonzero gets bits that are set in any of a tile.
TQ_INLINE void RoundWeights(const FloatVec (&weight)[kSumCells / kLanes], FloatVec inverse, int r,
                            IntVec (&nonzero)[kSumTiles], CellWeights* w) {
  IntVec sum = ZeroInt();
  for (int i = 0; i < kSumCells; i += 4 * kLanes) {
    IntVec value[4];
    for (int t = 0; t < 4; ++t) {
      value[t] = ToInts(Mul(weight[i / kLanes + t], inverse));
      if constexpr (kStepOffset<TileForm::kValues> != 0) sum = AddInts(sum, value[t]);
      IntVec& tile = nonzero[(i + t * kLanes) / kTileLanes];
      tile = Or(tile, value[t]);
    }
    StoreWeights(value, w->first[r] + i, w->second[r] + i);
  }
  if constexpr (kStepOffset<TileForm::kValues> != 0) w->sum[r] = SumOfInts(sum);
}

// p * scale of the block that starts at tile-aligned cell `cell`; cells outside [first, last) get
// zero. p is the row's weight of cell 0. Returns the largest.
TQ_INLINE float LoadRowWeights(const uint16_t* scales, const float* p, int cell, int first,
                               int last, FloatVec (&weight)[kSumCells / kLanes]) {
  const bool whole = first <= cell && last >= cell + kSumCells;
  FloatVec top = Zero();
  for (int t = 0; t < kSumCells / kLanes; ++t) {
    weight[t] = Zero();
    const int at = cell + t * kLanes;
    if (!whole && (at >= last || at + kLanes <= first)) continue;
    const FloatVec x = whole
                           ? Load(p + at)
                           : LoadBetween(p + at, Larger(first - at, 0), Smaller(last - at, kLanes));
    const FloatVec scaled = Mul(x, HalfLoad(scales + at));
    weight[t] = WhereGreater(scaled, Zero(), scaled);  // NaN becomes zero
    top = Max(top, weight[t]);
  }
  return MaxOfLanes(top);
}

// The same as operands, of several rows.
TQ_INLINE void LoadCellWeights(const uint16_t* scales, const float* p, int ld, int rows, int cell,
                               int first, int last, CellWeights* w) {
  IntVec nonzero[kSumTiles];
  for (IntVec& tile : nonzero) tile = ZeroInt();
  for (int r = 0; r < rows; ++r) {
    FloatVec weight[kSumCells / kLanes];
    const float peak =
        LoadRowWeights(scales, p + static_cast<ptrdiff_t>(r) * ld, cell, first, last, weight);
    const bool usable = peak > 1e-30f;
    w->unit[r] = usable ? peak / kWeightSteps : 0.0f;
    w->sum[r] = 0;
    if (usable) {
      RoundWeights(weight, Set(kWeightSteps / peak), r, nonzero, w);
    } else {
      memset(w->first[r], 0, sizeof(w->first[r]));
      memset(w->second[r], 0, sizeof(w->second[r]));
    }
  }
  w->tiles = 0;
  for (int t = 0; t < kSumTiles; ++t) w->tiles |= (AnyNonZeroInt(nonzero[t]) ? 1u : 0u) << t;
}

// Sums of kRows rows over kVectors vectors of values.
template <int kRows, int kVectors>
struct WeightedSums {
  Sum of[kRows][kVectors];

  TQ_INLINE void Clear() {
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kVectors; ++t) of[r][t] = ZeroSum();
    }
  }
  TQ_INLINE FloatVec Value(int r, int t, const CellWeights& w) const {
    // |total| <= 126 * kWeightSteps * 128.
    const IntVec offset = SetInt(static_cast<int>(
        static_cast<unsigned>(kStepOffset<TileForm::kValues>) * static_cast<unsigned>(w.sum[r])));
    return ToFloats(SubInts(Total<TileForm::kValues>(of[r][t]), offset));
  }
};

// One group of four cells: their bytes of every vector meet the four weights of every row.
template <int kRows, int kVectors>
TQ_INLINE void AddGroup(const IntVec (&bytes)[kVectors], const CellWeights& w, int group,
                        WeightedSums<kRows, kVectors>* sums) {
  Steps steps[kVectors];
  for (int t = 0; t < kVectors; ++t) steps[t] = StepsOf(bytes[t]);
  for (int r = 0; r < kRows; ++r) {
    const Operand operand = LoadOperand(w.first[r] + 4 * group, w.second[r] + 4 * group);
    for (int t = 0; t < kVectors; ++t) {
      AddProducts<TileForm::kValues>(&sums->of[r][t], steps[t], operand);
    }
  }
}

// Where the kLanes byte positions from k on of the low plane find their high bits (3 bits only).
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

// Which planes a pass of kPass planes takes: all, one, or the two that share their nibbles.
template <int kBits, int kFirst, int kPass>
TQ_INLINE int PlaneOf(int t) {
  return kBits == 4 || kPass != 2 ? kFirst + t : kFirst + 2 * t;
}

// The codes of planes `pair` and pair + 2, in the low and the high nibbles (2 and 3 bits).
template <int kBits>
TQ_INLINE IntVec PairOfPlanes(const uint8_t* group, IntVec low, int pair, const HighRuns& runs) {
  const IntVec codes = pair == 0 ? low : ShiftRight<2>(low);
  if constexpr (kBits == 2) {
    return LowPairs(codes);
  } else {
    const IntVec high =
        ShiftRightEach(LoadCodesHalves(group + runs.run0, group + runs.run1), runs.shift);
    return JoinTriples(pair == 0 ? ShiftLeft<2>(high) : high, codes);
  }
}

// The steps of a pass over `count` byte positions from k on.
template <int kBits, int kFirst, int kPass>
TQ_INLINE void LoadStepPlanes(const uint8_t* group, int k, int count, const HighRuns& runs,
                              const ByteTable& table, IntVec (&bytes)[kPass]) {
  const IntVec low = LoadCodesFirst(group + 4 * static_cast<size_t>(k), count);
  for (int t = 0; t < kPass; ++t) {
    const int plane = PlaneOf<kBits, kFirst, kPass>(t);
    if constexpr (kBits == 4) {
      bytes[t] = plane == 0 ? LookupLow<4>(table, low) : LookupHigh<4>(table, low);
    } else {
      const IntVec codes = PairOfPlanes<kBits>(group, low, plane % 2, runs);
      bytes[t] = plane < 2 ? LookupLow<kBits>(table, codes) : LookupHigh<kBits>(table, codes);
    }
  }
}

// Adds one block to the planes of a pass of the chunk of `count` byte positions from k on.
template <int kBits, int kRows, int kFirst, int kPass>
TQ_INLINE void SumChunk(const uint8_t* codes, size_t group_bytes, int d, int k, int count,
                        const CellWeights& w, float* o) {
  const ByteTable table = LoadByteTable(kStepTable<kBits, TileForm::kValues>.bytes);
  const HighRuns runs = kBits == 3 ? HighRunsAt(d, k) : HighRuns{0, 0, ZeroInt()};
  WeightedSums<kRows, kPass> sums;
  sums.Clear();
  // The next block's lines are asked for one behind the other, whatever place of this one is read:
  // the memory's own prefetching sees a stream.
  const int chunks = ((kBits == 4 ? d / 2 : d / 4) + kLanes - 1) / kLanes;
  const size_t share = group_bytes / static_cast<size_t>(chunks);
  const uint8_t* next =
      codes + kSumCells / 4 * (group_bytes + static_cast<size_t>(k / kLanes) * share);
  for (int tile = 0; tile < kSumTiles; ++tile) {
    if ((w.tiles >> tile & 1u) == 0) continue;
    for (int group = 4 * tile; group < 4 * tile + 4; ++group) {
      IntVec bytes[kPass];
      const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes;
      LoadStepPlanes<kBits, kFirst, kPass>(at, k, count, runs, table, bytes);
      if constexpr (kFirst == 0) {
        __builtin_prefetch(next + static_cast<size_t>(group) * share);
        if constexpr (kBits == 3 && kLanes == 16) {
          __builtin_prefetch(next + static_cast<size_t>(group) * share + 64);
        }
      }
      AddGroup<kRows, kPass>(bytes, w, group, &sums);
    }
  }
  const int plane = kBits == 4 ? d / 2 : d / 4;
  for (int r = 0; r < kRows; ++r) {
    const FloatVec unit = Set(w.unit[r] * UnitOf<kBits>());
    for (int t = 0; t < kPass; ++t) {
      float* to = o + static_cast<ptrdiff_t>(r) * d + PlaneOf<kBits, kFirst, kPass>(t) * plane + k;
      StoreFirst(to, Fma(sums.Value(r, t, w), unit, LoadFirst(to, count)), count);
    }
  }
}

// All planes of a chunk, as many at once as the registers hold sums for.
template <int kBits, int kRows, int kFirst = 0>
TQ_INLINE void SumPasses(const uint8_t* codes, size_t group_bytes, int d, int k, int count,
                         const CellWeights& w, float* o) {
  constexpr int kAll = kPlanes<kBits>;
  constexpr int kPass = kSumVectors<kRows> < kAll ? kSumVectors<kRows> : kAll;
  SumChunk<kBits, kRows, kFirst, kPass>(codes, group_bytes, d, k, count, w, o);
  if constexpr ((kFirst + 1) * kPass < kAll) {
    SumPasses<kBits, kRows, kFirst + 1>(codes, group_bytes, d, k, count, w, o);
  }
}

template <int kBits, int kRows>
void SumBlock(const uint8_t* codes, int d, const CellWeights& w, float* o) {
  const size_t group_bytes = static_cast<size_t>(kBits * d / 2);
  const int positions = d / kPlanes<kBits>;
  for (int k = 0; k < positions; k += kLanes) {
    SumPasses<kBits, kRows>(codes, group_bytes, d, k, Smaller(positions - k, kLanes), w, o);
  }
}

template <int kBits, int kRows = kMaxSumRows>
TQ_INLINE void SumRows(int rows, const uint8_t* codes, int d, const CellWeights& w, float* o) {
  if (rows == kRows) return SumBlock<kBits, kRows>(codes, d, w, o);
  if constexpr (kRows > 1) SumRows<kBits, kRows - 1>(rows, codes, d, w, o);
}

// Scales are asked for this many cells ahead: nothing foresees so thin a stream, and all products
// of a block wait for its scales. 512 cells are too few (measured).
constexpr int kAheadScales = 1024;

template <int kBits>
void CodedAccumulateOf(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  if (n <= 0) return;
  const int d = v.head_dim;
  if (!FastSums(v)) return FallbackAccumulate(v, p, ld, rows, n, o);
  const size_t cell_bytes = static_cast<size_t>(kBits * d / 8);
  const int blocks = (rows + kMaxSumRows - 1) / kMaxSumRows;
  const int last = v.first + n;
  CellWeights w;
  for (int cell = v.first / kTileLanes * kTileLanes; cell < last; cell += kSumCells) {
    const uint8_t* codes = v.codes + static_cast<size_t>(cell) * cell_bytes;
    if constexpr (kBits == 4) {  // with fewer bits memory is not what is waited for
      const uint16_t* later = v.scales + cell + kAheadScales;
      for (int i = 0; i < kSumCells; i += 32) __builtin_prefetch(later + i);
    }
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      LoadCellWeights(v.scales, p + static_cast<ptrdiff_t>(r) * ld - v.first, ld, size, cell,
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
