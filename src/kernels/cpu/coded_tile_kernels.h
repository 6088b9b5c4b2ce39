// Scores and weighted sums on codes with the products in a matrix unit (tiles_amx.h): rows of A are
// the bytes of queries or weights, two for each query row, rows of B the unpacked steps, so a step
// is unpacked once and multiplied once whatever the number of query rows. The integers are those of
// coded_byte_kernels.h and coded_step_kernels.h, and so are the results, bit for bit.
//
// The matrix unit works beside the vector unit: while it multiplies what was unpacked before, the
// next steps are unpacked, and sums are taken from memory one piece of work after they were stored.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_TILE_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_TILE_KERNELS_H_

#include "kernels/cpu/coded_tile_steps.h"
#include "kernels/cpu/tiles_amx.h"

namespace turboquant {
namespace {

constexpr int kMaxTileQueries = kTileRows / 2;

// Row 2 r of A and of C belongs to the first bytes of query row r, row 2 r + 1 to the second.
struct alignas(64) TileSums {
  int32_t row[kTileRows][kLanes];

  TQ_INLINE Sum Of(int r) const {
    return {LoadInt(reinterpret_cast<const uint32_t*>(row[2 * r])),
            LoadInt(reinterpret_cast<const uint32_t*>(row[2 * r + 1]))};
  }
};

// The wide sums have the same members in the same meaning.
template <int kBytes>
TQ_INLINE typename StepSums<kBytes>::Type SumOf(const TileSums& sums, int r) {
  const Sum sum = sums.Of(r);
  return {sum.high, sum.low};
}

// `left` tiles have rows for `queries` query rows, the others are full.
constexpr TileShapes ShapesOf(int queries, unsigned left) {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    shapes.row_bytes[tile] = kTileRowBytes;
    shapes.rows[tile] = static_cast<uint8_t>((left >> tile & 1u) != 0 ? 2 * queries : kTileRows);
  }
  return shapes;
}
template <unsigned kLeft>
struct ShapeTable {
  TileShapes of[kMaxTileQueries];
  constexpr ShapeTable() : of() {
    for (int i = 0; i < kMaxTileQueries; ++i) of[i] = ShapesOf(i + 1, kLeft);
  }
};
template <unsigned kLeft>
constexpr ShapeTable<kLeft> kShapes;

// ---- scores ----

// A is the parts of 64 values of a few query rows, for steps of two bytes then the same with the
// second bytes cleared and the first in their place (high steps meet both bytes, low steps the
// first ones). Up to kHeld of them stay in the first tiles; longer rows are loaded part by part.
// Two tiles hold B, the others C: several, because a sum is there long after its last product was
// asked for, and what waits for it holds up all that is stored behind it.
template <int kHeld>
struct ScoreTiles {
  static constexpr int kB = kHeld <= 2 ? 2 : 4;
  static constexpr int kC = kB + 2;
  static constexpr int kTurns = 8 - kC;
  static constexpr unsigned kLeft = kHeld <= 2 ? 0xF3 : 0xCF;
};

constexpr int kMaxParts = (kMaxHeadDim + 63) / 64;

template <int kBytes>
struct alignas(64) TileQueries {
  uint8_t part[kBytes][kMaxParts][kTileRows][kTileRowBytes];
};

// Values beyond d are zero: whatever steps they meet.
template <typename Source>
TQ_INLINE void PackQueries(const uint8_t* prepared, int d, int row, int rows,
                           TileQueries<Source::kBytes>* to) {
  for (int r = 0; r < rows; ++r) {
    const Query q = QueryAt(prepared, d, row + r);
    const uint8_t* first = Source::kTurned ? q.turned_first : q.first;
    const uint8_t* second = Source::kTurned ? q.turned_second : q.second;
    for (int part = 0; 64 * part < d; ++part) {
      const int dwords = Smaller((d - 64 * part) / 4, kLanes);
      const IntVec high = LoadCodesFirst(first + 64 * part, dwords);
      StoreCodes(to->part[0][part][2 * r], high);
      StoreCodes(to->part[0][part][2 * r + 1], LoadCodesFirst(second + 64 * part, dwords));
      if constexpr (Source::kBytes == 2) {
        StoreCodes(to->part[1][part][2 * r], ZeroInt());
        StoreCodes(to->part[1][part][2 * r + 1], high);
      }
    }
  }
}

// Tile kTile holds part kPart of A.
template <int kBytes, int kParts, int kTile = 0>
TQ_INLINE void LoadQueries(const TileQueries<kBytes>& queries) {
  if constexpr (kTile < kParts * kBytes) {
    LoadTile<kTile>(queries.part[kTile / kParts][kTile % kParts], kTileRowBytes);
    LoadQueries<kBytes, kParts, kTile + 1>(queries);
  }
}

// Products of kParts parts of A, from tile kA on, with the steps of one plane.
template <int kC, int kA, int kParts, int kB, int kPart = 0>
TQ_INLINE void MultiplyParts(const uint8_t* steps) {
  if constexpr (kPart < kParts) {
    LoadTile<kB + kPart % 2>(steps + 1024 * kPart, kTileRowBytes);
    AddSignedByUnsigned<kC, kA + kPart, kB + kPart % 2>();
    MultiplyParts<kC, kA, kParts, kB, kPart + 1>(steps);
  }
}

// kC is cleared and gets the products of all query rows with 16 cells. kParts: of A in tiles, 0:
// none, they are loaded.
template <int kBytes, int kParts, int kC>
TQ_INLINE void MultiplyTile(const uint8_t* steps, int d, const TileQueries<kBytes>& queries) {
  constexpr int kB = ScoreTiles<kBytes * kParts>::kB;
  ClearTile<kC>();
  if constexpr (kParts > 0) {
    MultiplyParts<kC, 0, kParts, kB>(steps);
    if constexpr (kBytes == 2) MultiplyParts<kC, kParts, kParts, kB>(steps + 16 * d);
  } else {
    for (int part = 0; 64 * part < d; ++part) {
      LoadTile<0>(queries.part[0][part], kTileRowBytes);
      MultiplyParts<kC, 0, 1, kB>(steps + 1024 * part);
      if constexpr (kBytes == 2) {
        LoadTile<1>(queries.part[1][part], kTileRowBytes);
        MultiplyParts<kC, 1, 1, kB>(steps + 16 * d + 1024 * part);
      }
    }
  }
}

// What turns the sums of a block of query rows into scores.
struct ScoreUnits {
  float unit[kMaxTileQueries];
  int32_t offset[kMaxTileQueries];  // of the steps of one byte
  int32_t sum[kMaxTileQueries];
  int32_t sum_first[kMaxTileQueries];
};
template <typename Source>
TQ_INLINE void LoadUnits(const uint8_t* prepared, int d, int row, int rows, ScoreUnits* to) {
  for (int r = 0; r < rows; ++r) {
    const Query q = QueryAt(prepared, d, row + r);
    to->unit[r] = q.unit * Source::Unit();
    to->offset[r] = static_cast<int32_t>(static_cast<unsigned>(kStepOffset<TileForm::kKeys>) *
                                         static_cast<unsigned>(q.sum));
    to->sum[r] = q.sum;
    to->sum_first[r] = q.sum_first;
  }
}
template <int kBytes>
TQ_INLINE FloatVec ProductsOf(const TileSums& sums, const ScoreUnits& units, int r) {
  if constexpr (kBytes == 1) {
    return ToFloats(SubInts(Total<TileForm::kKeys>(sums.Of(r)), SetInt(units.offset[r])));
  } else {
    return WideTotal<TileForm::kKeys>(SumOf<2>(sums, r), units.sum[r], units.sum_first[r]);
  }
}

// Keys of a call and where their scores go, tile by tile. kD: their head dim, 0: any.
template <typename Source, int kD>
struct ScoreCall {
  static constexpr int kBytes = Source::kBytes;
  const uint8_t* codes;    // of the first tile
  const uint16_t* scales;  // the same
  size_t tile_bytes;
  int head_dim;
  int begin;   // cells of the first tile that are not wanted
  int end;     // behind the last cell that is
  float* out;  // of the first tile's cell 0
  int ld;

  TQ_INLINE int d() const { return kD != 0 ? kD : head_dim; }
  TQ_INLINE int tiles() const { return (end + kTileLanes - 1) / kTileLanes; }
  TQ_INLINE void Unpack(int t, uint8_t* steps) const {
    Source::UnpackKeys(codes + static_cast<size_t>(t) * tile_bytes, d(), steps);
  }
  // Sums of `rows` query rows from `row` on with the cells of tile t.
  TQ_INLINE void Finish(int t, const TileSums& sums, const ScoreUnits& units, int row,
                        int rows) const {
    const int cell = t * kTileLanes;
    const int first = Larger(begin - cell, 0);
    const int last = Smaller(end - cell, kTileLanes);
    const FloatVec scale = HalfLoad(scales + cell);
    float* to = out + static_cast<ptrdiff_t>(row) * ld + cell;
    for (int r = 0; r < rows; ++r, to += ld) {
      const FloatVec products = ProductsOf<kBytes>(sums, units, r);
      StoreBetween(to, Mul(Mul(products, Set(units.unit[r])), scale), first, last);
    }
  }
};

// Bytes of the steps of one tile: multiplying reads whole parts.
TQ_INLINE int StepBytes(int d, int bytes) { return 1024 * bytes * ((d + 63) / 64); }

// Sums on their way: those of tile t are multiplied, those of some tiles before are stored, and
// those of the tile before that are taken from memory.
template <typename Source, int kD>
struct ScorePipe {
  static constexpr int kBytes = Source::kBytes;
  static constexpr int kParts = kD / 64;
  using Tiles = ScoreTiles<kBytes * kParts>;
  static constexpr int kLate = Tiles::kTurns / 2;

  TileQueries<kBytes> queries;
  ScoreUnits units;
  TileSums sums[Tiles::kTurns];

  TQ_INLINE void Begin(const uint8_t* prepared, int d, int row, int rows) {
    LoadUnits<Source>(prepared, d, row, rows, &units);
    PackQueries<Source>(prepared, d, row, rows, &queries);
    LoadQueries<kBytes, kParts>(queries);
  }

  // kTurn == turn.
  template <int kTurn = 0>
  TQ_INLINE void Turn(int turn, bool multiply, bool store, const uint8_t* steps, int d) {
    if (turn == kTurn) {
      if (multiply) MultiplyTile<kBytes, kParts, Tiles::kC + kTurn>(steps, d, queries);
      constexpr int kStored = (kTurn + Tiles::kTurns - kLate) % Tiles::kTurns;
      if (store) StoreTile<Tiles::kC + kStored>(&sums[kStored]);
    } else if constexpr (kTurn + 1 < Tiles::kTurns) {
      Turn<kTurn + 1>(turn, multiply, store, steps, d);
    }
  }

  // Tiles [from, to), whose steps are at steps(t); before(t) comes before tile t.
  template <typename Before, typename Steps>
  TQ_INLINE void Pass(const ScoreCall<Source, kD>& call, int from, int to, int row, int rows,
                      const Before& before, const Steps& steps) {
    for (int t = from; t < to + kLate + 1; ++t) {
      before(t);
      Turn(t % Tiles::kTurns, t < to, t >= from + kLate && t < to + kLate, steps(t), call.d());
      const int done = t - kLate - 1;
      if (done >= from) call.Finish(done, sums[done % Tiles::kTurns], units, row, rows);
    }
  }
};

// A few query rows. A tile is multiplied when its steps have reached the cache: what is still on
// the way there cannot be loaded into tiles.
template <typename Source, int kD>
void FewTileScores(const ScoreCall<Source, kD>& given, const uint8_t* prepared, int rows) {
  constexpr int kBytes = Source::kBytes;
  constexpr int kAhead = kD == 64 && kBytes == 1 ? 4 : kD == 0 || kBytes == 2 ? 1 : 2;
  constexpr int kRing = 2 * kAhead;
  constexpr int kTileBytes = 1024 * kBytes * (kD > 0 ? kD / 64 : kMaxParts);
  const ScoreCall<Source, kD> call = given;  // in registers
  alignas(64) uint8_t ring[kRing][kTileBytes];
  ScorePipe<Source, kD> pipe;
  const int tiles = call.tiles();
  for (int t = 0; t < Smaller(kAhead, tiles); ++t) call.Unpack(t, ring[t]);
  pipe.Begin(prepared, call.d(), 0, rows);
  pipe.Pass(
      call, 0, tiles, 0, rows,
      [&](int t) __attribute__((always_inline)) {
        if (t + kAhead < tiles) call.Unpack(t + kAhead, ring[(t + kAhead) % kRing]);
      },
      [&](int t) __attribute__((always_inline)) { return ring[t % kRing]; });
}

// Many query rows: some tiles are unpacked, and all blocks of rows pass over them.
template <typename Source, int kD>
void ManyTileScores(const ScoreCall<Source, kD>& given, const uint8_t* prepared, int rows,
                    int size) {
  constexpr int kStepsBytes = 16384 * Source::kBytes;
  const ScoreCall<Source, kD> call = given;
  alignas(64) uint8_t steps[kStepsBytes];
  ScorePipe<Source, kD> pipe;
  const int tiles = call.tiles();
  const int tile_steps = StepBytes(call.d(), Source::kBytes);
  const int run = Smaller(kStepsBytes / tile_steps, 8);
  for (int from = 0; from < tiles; from += run) {
    const int to = Smaller(tiles, from + run);
    for (int t = from; t < to; ++t) call.Unpack(t, steps + (t - from) * tile_steps);
    for (int row = 0; row < rows; row += size) {
      const int block_rows = Smaller(rows - row, size);
      pipe.Begin(prepared, call.d(), row, block_rows);
      pipe.Pass(
          call, from, to, row, block_rows,
          [](int) __attribute__((always_inline)){}, [&](int t) __attribute__((always_inline)) {
            return steps + (t - from) * tile_steps;
          });
    }
  }
}

template <typename Source, int kD>
void TileScoresOf(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                  int ld) {
  const size_t tile_bytes = kTileLanes * RowCodeBytes(k.format, k.head_dim);
  const int begin = k.first % kTileLanes;
  const ScoreCall<Source, kD> call = {
      k.codes + static_cast<size_t>(k.first / kTileLanes) * tile_bytes,
      k.scales + (k.first - begin),
      tile_bytes,
      k.head_dim,
      begin,
      begin + n,
      out - begin,
      ld};
  const int blocks = (rows + kMaxTileQueries - 1) / kMaxTileQueries;
  const int size = (rows + blocks - 1) / blocks;
  const TileUse use(kShapes<ScoreTiles<Source::kBytes*(kD / 64)>::kLeft>.of[size - 1]);
  if (blocks == 1) return FewTileScores<Source, kD>(call, prepared, rows);
  ManyTileScores<Source, kD>(call, prepared, rows, size);
}

template <typename Source>
void TileScores(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out, int ld) {
  if (k.head_dim == 64) return TileScoresOf<Source, 64>(k, prepared, rows, n, out, ld);
  if (k.head_dim == 128) return TileScoresOf<Source, 128>(k, prepared, rows, n, out, ld);
  return TileScoresOf<Source, 0>(k, prepared, rows, n, out, ld);
}

// ---- weighted sums ----

// Tiles 0 and 1 hold A: the weights of 64 cells each, 2 and 3 B, the others C. For steps of two
// bytes, 6 and 7 are A with the second bytes cleared and the first in their place.
constexpr unsigned kSumLeft = 0xF3;

constexpr unsigned kHalfTiles = (1u << kHalfCells / kTileLanes) - 1u;

template <int kBytes>
struct alignas(64) TileWeights {
  uint8_t part[kBytes][kTileRows][kSumCells];
  float unit[kMaxTileQueries];
  int32_t sum[kMaxTileQueries];
  unsigned tiles;
};

// p * scale of one row and block, rounded as LoadCellWeights does. kWhole: all of its cells count.
template <bool kWhole>
TQ_INLINE void ScaleWeights(const FloatVec (&scale)[kSumCells / kLanes], const float* p, int begin,
                            int end, FloatVec (&weight)[kSumCells / kLanes]) {
  for (int t = 0; t < kSumCells / kLanes; ++t) {
    const int from = Larger(begin - t * kLanes, 0);
    const int to = Smaller(end - t * kLanes, kLanes);
    FloatVec x = Zero();
    if (kWhole) {
      x = Load(p + t * kLanes);
    } else if (from < to) {
      x = LoadBetween(p + t * kLanes, from, to);
    }
    weight[t] = Max(Mul(x, scale[t]), Zero());  // NaN becomes zero
  }
}

// The weights of up to kMaxTileQueries rows in the block of cells that starts at tile-aligned
// `cell`; cells outside [first, last) weigh nothing. p: of cell 0. Tiles count by the half block.
template <int kBytes>
TQ_INLINE void LoadTileWeights(const uint16_t* scales, const float* p, int ld, int rows, int cell,
                               int first, int last, TileWeights<kBytes>* to) {
  const int begin = Larger(first - cell, 0);
  const int end = Smaller(last - cell, kSumCells);
  const bool whole = begin == 0 && end == kSumCells;
  FloatVec scale[kSumCells / kLanes];
  for (int t = 0; t < kSumCells / kLanes; ++t) {
    scale[t] = t * kLanes < end ? HalfLoad(scales + cell + t * kLanes) : Zero();
  }
  FloatVec lower = Zero();
  FloatVec upper = Zero();
  for (int r = 0; r < rows; ++r) {
    FloatVec weight[kSumCells / kLanes];
    const float* from = p + static_cast<ptrdiff_t>(r) * ld + cell;
    if (whole) {
      ScaleWeights<true>(scale, from, 0, kSumCells, weight);
    } else {
      ScaleWeights<false>(scale, from, begin, end, weight);
    }
    const FloatVec low = Max(Max(weight[0], weight[1]), Max(weight[2], weight[3]));
    const FloatVec high = Max(Max(weight[4], weight[5]), Max(weight[6], weight[7]));
    lower = Max(lower, low);
    upper = Max(upper, high);
    const float peak = MaxOfLanes(Max(low, high));
    const bool usable = peak > 1e-30f;
    to->unit[r] = usable ? peak / kWeightSteps : 0.0f;
    to->sum[r] = 0;
    const FloatVec inverse = Set(usable ? kWeightSteps / peak : 0.0f);
    for (int i = 0; i < kSumCells; i += 4 * kLanes) {
      IntVec value[4];
      for (int t = 0; t < 4; ++t) value[t] = ToInts(Mul(weight[i / kLanes + t], inverse));
      StoreWeights(value, to->part[0][2 * r] + i, to->part[0][2 * r + 1] + i);
      if constexpr (kBytes == 2) {
        StoreCodes(to->part[1][2 * r] + i, ZeroInt());
        StoreCodes(to->part[1][2 * r + 1] + i, LoadCodes(to->part[0][2 * r] + i));
      }
    }
  }
  const unsigned in_range = (2u << (end - 1) / kTileLanes) - (1u << begin / kTileLanes);
  to->tiles = 0;
  if (MaxOfLanes(lower) > 1e-30f) to->tiles |= in_range & kHalfTiles;
  if (MaxOfLanes(upper) > 1e-30f) to->tiles |= in_range & ~kHalfTiles;
}

template <int kBytes>
TQ_INLINE void LoadWeightTiles(const TileWeights<kBytes>& w) {
  LoadTile<0>(w.part[0][0], kSumCells);
  LoadTile<1>(w.part[0][0] + kHalfCells, kSumCells);
  if constexpr (kBytes == 2) {
    LoadTile<6>(w.part[1][0], kSumCells);
    LoadTile<7>(w.part[1][0] + kHalfCells, kSumCells);
  }
}

// Adds half kHalf of the block's cells to kC: one vector of values.
template <int kBytes, int kHalf, int kC>
TQ_INLINE void AddHalf(const uint8_t* steps) {
  constexpr ptrdiff_t kPlane = kPassVectors * kVectorBytes;
  constexpr int kB = 2 + kC % 2;
  LoadTile<kB>(steps, kPlane * kBytes);
  AddUnsignedBySigned<kC, kHalf, kB>();
  if constexpr (kBytes == 2) {
    LoadTile<5 - kB>(steps + kPlane, kPlane * kBytes);
    AddUnsignedBySigned<kC, 6 + kHalf, 5 - kB>();
  }
}
template <int kBytes, int kHalf>
TQ_INLINE void AddHalves(const uint8_t* steps) {
  AddHalf<kBytes, kHalf, 4>(steps);
  AddHalf<kBytes, kHalf, 5>(steps + kVectorBytes);
  if constexpr (kBytes == 1) {
    AddHalf<kBytes, kHalf, 6>(steps + 2 * kVectorBytes);
    AddHalf<kBytes, kHalf, 7>(steps + 3 * kVectorBytes);
  }
}

// Vectors of a pass that have tiles at once.
template <int kBytes>
constexpr int kSumsAtOnce = kBytes == 1 ? 4 : 2;

template <int kBytes>
TQ_INLINE void ClearSums() {
  ClearTile<4>();
  ClearTile<5>();
  if constexpr (kBytes == 1) {
    ClearTile<6>();
    ClearTile<7>();
  }
}
template <int kBytes>
TQ_INLINE void StoreSums(TileSums* sums) {
  StoreTile<4>(sums);
  StoreTile<5>(sums + 1);
  if constexpr (kBytes == 1) {
    StoreTile<6>(sums + 2);
    StoreTile<7>(sums + 3);
  }
}

// The sums of a pass and what is to be done with them.
struct SumOutput {
  TileSums sums[kPassVectors];
  float unit[kMaxTileQueries];
  int32_t sum[kMaxTileQueries];
  int rows;  // 0: nothing
  int first;
  int units;
  float* o;  // of the first query row
};

template <typename Source>
TQ_INLINE void AddOutput(SumOutput* from, int d) {
  for (int r = 0; r < from->rows; ++r) {
    FloatVec value[kPassVectors];
    for (int e = 0; e < kPassVectors; ++e) {
      value[e] = StepSums<Source::kBytes>::template Value<TileForm::kValues>(
          SumOf<Source::kBytes>(from->sums[e], r), from->sum[r], 0);
    }
    Source::AddSums(value, from->unit[r] * Source::Unit(), d, from->first, from->units,
                    from->o + static_cast<ptrdiff_t>(r) * d);
  }
  from->rows = 0;
}

// Values of a call, in passes over halves of blocks.
template <typename Source>
struct SumCall {
  static constexpr int kBytes = Source::kBytes;
  const CodedTiles& v;
  const float* p;  // weights of cell 0
  int ld;
  int first;
  int last;

  TQ_INLINE void LoadWeights(int row, int rows, int cell, TileWeights<kBytes>* w) const {
    LoadTileWeights<kBytes>(v.scales, p + static_cast<ptrdiff_t>(row) * ld, ld, rows, cell, first,
                            last, w);
  }
  // Half `half` of the block that starts at `cell`.
  TQ_INLINE void Unpack(int cell, int half, int unit, int units, unsigned tiles,
                        StepBlock* steps) const {
    const size_t cell_bytes = RowCodeBytes(v.format, v.head_dim);
    Source::Unpack(v.codes + static_cast<size_t>(cell) * cell_bytes, half, 4 * cell_bytes,
                   v.head_dim, unit, units, HalfOf(tiles, half), steps);
  }
  static TQ_INLINE unsigned HalfOf(unsigned tiles, int half) {
    return tiles >> (half * (kHalfCells / kTileLanes)) & kHalfTiles;
  }
};

template <int kBytes>
TQ_INLINE void ExpectSums(const TileWeights<kBytes>& w, int rows, int first, int units, float* o,
                          SumOutput* to) {
  memcpy(to->unit, w.unit, sizeof(w.unit));
  memcpy(to->sum, w.sum, sizeof(w.sum));
  to->rows = rows;
  to->first = first;
  to->units = units;
  to->o = o;
}

// A few query rows and steps of one byte. While half of a pass is unpacked, the half before it is
// multiplied; sums are stored one half later, and taken from memory one more half later.
template <typename Source>
void FewTileSums(const SumCall<Source>& call, int rows, float* o) {
  const int d = call.v.head_dim;
  const int units = Source::Units(d);
  StepBlock steps[2];
  TileWeights<1> weights[2];
  SumOutput outputs[2];
  outputs[0].rows = outputs[1].rows = 0;
  int turn = 0;
  bool upper = false;  // half 1 of the pass before was unpacked and is still to be multiplied
  bool begun = false;  // there is one
  for (int cell = call.first / kTileLanes * kTileLanes, block = 0; cell < call.last;
       cell += kSumCells, block ^= 1) {
    TileWeights<1>& w = weights[block];
    call.LoadWeights(0, rows, cell, &w);
    if (w.tiles == 0) continue;
    for (int k = 0; k < units; k += Source::kPass) {
      const int count = Smaller(units - k, Source::kPass);
      call.Unpack(cell, 0, k, count, w.tiles, &steps[0]);
      if (begun) {
        if (upper) AddHalves<1, 1>(steps[1].steps);
        AddOutput<Source>(&outputs[turn ^ 1], d);
      }
      call.Unpack(cell, 1, k, count, w.tiles, &steps[1]);
      if (begun) {
        StoreSums<1>(outputs[turn].sums);
        turn ^= 1;
      }
      begun = true;
      if (k == 0) LoadWeightTiles<1>(w);
      ClearSums<1>();
      ExpectSums<1>(w, rows, k, count, o, &outputs[turn]);
      if (call.HalfOf(w.tiles, 0) != 0) AddHalves<1, 0>(steps[0].steps);
      upper = call.HalfOf(w.tiles, 1) != 0;
    }
  }
  if (!begun) return;
  if (upper) AddHalves<1, 1>(steps[1].steps);
  AddOutput<Source>(&outputs[turn ^ 1], d);
  StoreSums<1>(outputs[turn].sums);
  AddOutput<Source>(&outputs[turn], d);
}

// Many query rows, or steps of two bytes: all blocks of rows pass over what is unpacked.
template <typename Source>
void ManyTileSums(const SumCall<Source>& call, int rows, int size, float* o) {
  constexpr int kBytes = Source::kBytes;
  const int d = call.v.head_dim;
  const int units = Source::Units(d);
  StepBlock steps[2];
  TileWeights<kBytes> w;
  SumOutput outputs[2];
  outputs[0].rows = outputs[1].rows = 0;
  int turn = 0;
  for (int cell = call.first / kTileLanes * kTileLanes; cell < call.last; cell += kSumCells) {
    const int tiles = Smaller((call.last - cell + kTileLanes - 1) / kTileLanes, kSumTiles);
    for (int k = 0; k < units; k += Source::kPass) {
      const int count = Smaller(units - k, Source::kPass);
      for (int half = 0; half < 2; ++half) {
        call.Unpack(cell, half, k, count, (1u << tiles) - 1u, &steps[half]);
      }
      for (int row = 0; row < rows; row += size) {
        const int block_rows = Smaller(rows - row, size);
        call.LoadWeights(row, block_rows, cell, &w);
        if (w.tiles == 0) continue;
        LoadWeightTiles<kBytes>(w);
        SumOutput& output = outputs[turn];
        ExpectSums<kBytes>(w, block_rows, k, count, o + static_cast<ptrdiff_t>(row) * d, &output);
        for (int e = 0; e < kPassVectors; e += kSumsAtOnce<kBytes>) {
          ClearSums<kBytes>();
          if (call.HalfOf(w.tiles, 0) != 0) {
            AddHalves<kBytes, 0>(steps[0].steps + kVectorBytes * e);
          }
          if (call.HalfOf(w.tiles, 1) != 0) {
            AddHalves<kBytes, 1>(steps[1].steps + kVectorBytes * e);
          }
          StoreSums<kBytes>(output.sums + e);
        }
        turn ^= 1;
        AddOutput<Source>(&outputs[turn], d);
      }
    }
  }
  AddOutput<Source>(&outputs[turn ^ 1], d);
}

template <typename Source>
void TileAccumulate(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  const SumCall<Source> call = {v, p - v.first, ld, v.first, v.first + n};
  const int blocks = (rows + kMaxTileQueries - 1) / kMaxTileQueries;
  const int size = (rows + blocks - 1) / blocks;
  const TileUse use(kShapes<kSumLeft>.of[size - 1]);
  if constexpr (Source::kBytes == 1) {
    if (blocks == 1) return FewTileSums<Source>(call, rows, o);
  }
  ManyTileSums<Source>(call, rows, size, o);
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_TILE_KERNELS_H_
