// Scores and weighted sums on unpacked codes, for formats whose way from codes to steps is longer
// than a permute. A chunk of steps goes into first-level cache once and meets all query rows there.
// Queries, weights and what they are multiplied with are those of coded_byte_kernels.h, which comes
// first.
//
// `Source` is the format: TrellisSteps (coded_trellis_kernels.h), WideSteps (coded_wide_kernels.h).
//   kBytes      bytes of a step: 1, or 2 for 128 high + low, each a plane of its own
//   kUnit       centroid = kUnit * step
//   kTurned     order of the unpacked key steps: that of TurnQuery, else natural
//   kChunk      values of a row that are unpacked at once, of values
//   Serves      whether keys of this head dim can be unpacked
//   UnpackKeys  one tile to steps with their offset: d / 4 columns of 16 dwords (dwords = cells,
//               bytes = four values), per byte plane
//   UnpackBlock, Vectors, AddTo: values; vectors of lanes = values, bytes = the cells of a group
//               `ahead`: what to ask for meanwhile
// Codes of later blocks are asked for a few bytes at a time: many at once would wait for each
// other, and the arithmetic for all of them.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_STEP_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_STEP_KERNELS_H_

#include "kernels/cpu/coded_byte_kernels.h"

namespace turboquant {
namespace {

constexpr int kVectorBytes = 4 * kLanes;

TQ_INLINE void StoreCodes(uint8_t* p, IntVec v) { StoreInt(reinterpret_cast<uint32_t*>(p), v); }

// The sums of steps of kBytes bytes, of either form, and how many vectors stay in registers.
template <int kBytes>
struct StepSums;
template <>
struct StepSums<1> {
  using Type = Sum;
  template <int kRows>
  static constexpr int kForScores = kScoreVectors<kRows>;
  template <int kRows>
  static constexpr int kForSums = kSumVectors<kRows>;
  static TQ_INLINE Sum Clear() { return ZeroSum(); }
  template <TileForm kForm>
  static TQ_INLINE void Add(Sum* sum, const Steps (&steps)[1], const Operand& operand) {
    AddProducts<kForm>(sum, steps[0], operand);
  }
  template <TileForm kForm>
  static TQ_INLINE FloatVec Value(const Sum& sum, int total, int) {
    // |products| < 126 * 16256 * 1024 (coded_byte_kernels.h); what wraps before does not matter.
    const auto offset =
        static_cast<int>(static_cast<unsigned>(kStepOffset<kForm>) * static_cast<unsigned>(total));
    return ToFloats(SubInts(Total<kForm>(sum), SetInt(offset)));
  }
};
// ---- scores ----

// Scores of kRows query rows with kVectors * kLanes unpacked cells (coded_byte_kernels.h:
// ScoreCells). Cell j of the first vector goes to out[j]; only cells [begin, end) are stored.
template <int kBytes, bool kTurned, int kRows, int kVectors>
void ScoreSteps(const uint8_t* steps, const uint16_t* scales, int d, const uint8_t* prepared,
                int row, float unit, int begin, int end, float* out, int ld) {
  using Sums = StepSums<kBytes>;
  const size_t plane = static_cast<size_t>(16 * d);
  const uint8_t* first[kRows];
  const uint8_t* second[kRows];
  typename Sums::Type sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    const Query q = QueryAt(prepared, d, row + r);
    first[r] = kTurned ? q.turned_first : q.first;
    second[r] = kTurned ? q.turned_second : q.second;
    for (int g = 0; g < kVectors; ++g) sums[r][g] = Sums::Clear();
  }
  for (int i = 0; i < d; i += 4) {
    Steps step[kVectors][kBytes];
    for (int g = 0; g < kVectors; ++g) {
      const uint8_t* at = steps + VectorOffset(g, kBytes * plane) + 16 * static_cast<size_t>(i);
      for (int b = 0; b < kBytes; ++b) step[g][b] = StepsOf(LoadCodes(at + b * plane));
    }
    for (int r = 0; r < kRows; ++r) {
      const Operand operand = LoadOperand(first[r] + i, second[r] + i);
      for (int g = 0; g < kVectors; ++g) {
        Sums::template Add<TileForm::kKeys>(&sums[r][g], step[g], operand);
      }
    }
  }
  for (int g = 0; g < kVectors; ++g) {
    const int from = Larger(begin - g * kLanes, 0);
    const int to = Smaller(end - g * kLanes, kLanes);
    if (to <= from) continue;
    const FloatVec scale = HalfLoad(scales + g * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Query q = QueryAt(prepared, d, row + r);
      const FloatVec products =
          Sums::template Value<TileForm::kKeys>(sums[r][g], q.sum, q.sum_first);
      StoreBetween(out + static_cast<ptrdiff_t>(r) * ld + g * kLanes,
                   Mul(Mul(products, Set(q.unit * unit)), scale), from, to);
    }
  }
}

// All of `tiles` unpacked tiles; cell j of the first goes to out[j].
template <typename Source, int kRows>
TQ_INLINE void ScoreStepTiles(int tiles, const uint8_t* steps, const uint16_t* scales, int d,
                              const uint8_t* prepared, int row, int begin, int end, float* out,
                              int ld) {
  constexpr int kVectors = StepSums<Source::kBytes>::template kForScores<kRows>;
  constexpr int kSpan = kVectors * kLanes;
  constexpr int kTileSpan = kSpan < kTileLanes ? kSpan : kTileLanes;
  const size_t tile_steps = static_cast<size_t>(16 * d * Source::kBytes);
  for (int cell = 0; cell < tiles * kTileLanes;) {
    const uint8_t* at = steps + static_cast<size_t>(cell / kTileLanes) * tile_steps +
                        static_cast<size_t>(cell % kTileLanes) * 4;
    if (cell + kSpan <= tiles * kTileLanes) {
      ScoreSteps<Source::kBytes, Source::kTurned, kRows, kVectors>(at, scales + cell, d, prepared,
                                                                   row, Source::kUnit, begin - cell,
                                                                   end - cell, out + cell, ld);
      cell += kSpan;
    } else {
      ScoreSteps<Source::kBytes, Source::kTurned, kRows, kTileSpan / kLanes>(
          at, scales + cell, d, prepared, row, Source::kUnit, begin - cell, end - cell, out + cell,
          ld);
      cell += kTileSpan;
    }
  }
}

template <typename Source, int kRows = kMaxScoreRows>
TQ_INLINE void ScoreStepRows(int rows, int tiles, const uint8_t* steps, const uint16_t* scales,
                             int d, const uint8_t* prepared, int row, int begin, int end,
                             float* out, int ld) {
  if (rows == kRows) {
    return ScoreStepTiles<Source, kRows>(tiles, steps, scales, d, prepared, row, begin, end, out,
                                         ld);
  }
  if constexpr (kRows > 1) {
    ScoreStepRows<Source, kRows - 1>(rows, tiles, steps, scales, d, prepared, row, begin, end, out,
                                     ld);
  }
}

template <typename Source>
void StepScores(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out, int ld) {
  if (n <= 0) return;
  const int d = k.head_dim;
  if (k.form != TileForm::kKeys || !Source::Serves(d)) {
    return FallbackScores(k, prepared, rows, n, out, ld);
  }
  constexpr int kMaxSteps = 16384 * Source::kBytes;  // a tile of the longest rows, or several
  alignas(64) uint8_t steps[kMaxSteps];
  const size_t tile_bytes = kTileLanes * RowCodeBytes(k.format, d);
  const size_t tile_steps = static_cast<size_t>(16 * d * Source::kBytes);
  const int blocks = (rows + kMaxScoreRows - 1) / kMaxScoreRows;
  const int at_once = Smaller(kMaxSteps / static_cast<int>(tile_steps), 4);
  int tile = k.first / kTileLanes;
  for (int j = -(k.first % kTileLanes); j < n; j += at_once * kTileLanes, tile += at_once) {
    const int tiles = Smaller((n - j + kTileLanes - 1) / kTileLanes, at_once);
    const uint8_t* codes = k.codes + static_cast<size_t>(tile) * tile_bytes;
    for (int t = 0; t < tiles; ++t) {
      Source::UnpackKeys(codes + t * tile_bytes, d, steps + t * tile_steps);
    }
    const uint16_t* scales = k.scales + static_cast<size_t>(tile) * kTileLanes;
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      ScoreStepRows<Source>(size, tiles, steps, scales, d, prepared, r, -j, n - j,
                            out + static_cast<ptrdiff_t>(r) * ld + j, ld);
      r += size;
    }
  }
}

// ---- weighted sums ----

constexpr int kSumGroups = kSumCells / 4;

// What a block asks for while it is worked on, one line behind the other whatever place is read:
// the memory's own prefetching sees a stream. `group_bytes` with every group of four cells.
struct AheadBytes {
  const uint8_t* at;
  size_t group_bytes;

  TQ_INLINE void Ask(int group, int groups) const {
    PrefetchBytes(at + static_cast<size_t>(group) * group_bytes,
                  static_cast<size_t>(groups) * group_bytes);
  }
};

// The codes of `values` values of a row from `first` on, of the block behind the one at `codes`.
TQ_INLINE AheadBytes NextBlock(const uint8_t* codes, size_t group_bytes, int first, int values,
                               int d) {
  const size_t before = group_bytes * static_cast<size_t>(first) / static_cast<size_t>(d);
  const size_t share = group_bytes * static_cast<size_t>(values) / static_cast<size_t>(d);
  return {codes + kSumGroups * (group_bytes + before), share};
}

// Unpacked steps of one block and one chunk of values, group by group: the vectors of the high
// bytes, then, if there are two, those of the low ones.
struct StepBlock {
  alignas(64) uint8_t steps[kSumGroups * 512];
};

// Adds one block to kRows rows of o: the values of the chunk start at o.
template <typename Source, int kRows>
void SumSteps(const StepBlock& block, const CellWeights& w, int values, int d, AheadBytes ahead,
              float* o) {
  constexpr int kBytes = Source::kBytes;
  constexpr int kVectors = StepSums<kBytes>::template kForSums<kRows>;
  using Sums = StepSums<kBytes>;
  const int vectors = Source::Vectors(values);
  ahead.group_bytes /= static_cast<size_t>((vectors + kVectors - 1) / kVectors);
  FloatVec value[kRows][8];
  for (int e = 0; e < vectors; e += kVectors) {
    typename Sums::Type sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kVectors; ++t) sums[r][t] = Sums::Clear();
    }
    for (int tile = 0; tile < kSumTiles; ++tile) {
      if ((w.tiles >> tile & 1u) == 0) continue;
      ahead.Ask(4 * tile, 4);
      for (int group = 4 * tile; group < 4 * tile + 4; ++group) {
        const uint8_t* at = block.steps + kVectorBytes * (kBytes * vectors * group + e);
        Steps steps[kVectors][kBytes];
        for (int t = 0; t < kVectors; ++t) {
          for (int b = 0; b < kBytes; ++b) {
            steps[t][b] = StepsOf(LoadCodes(at + kVectorBytes * (b * vectors + t)));
          }
        }
        for (int r = 0; r < kRows; ++r) {
          const Operand operand = LoadOperand(w.first[r] + 4 * group, w.second[r] + 4 * group);
          for (int t = 0; t < kVectors; ++t) {
            Sums::template Add<TileForm::kValues>(&sums[r][t], steps[t], operand);
          }
        }
      }
    }
    ahead.at += kSumGroups * ahead.group_bytes;
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kVectors; ++t) {
        value[r][e + t] = Mul(Sums::template Value<TileForm::kValues>(sums[r][t], w.sum[r], 0),
                              Set(w.unit[r] * Source::kUnit));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    Source::AddTo(value[r], values, o + static_cast<ptrdiff_t>(r) * d);
  }
}

template <typename Source, int kRows = kMaxSumRows>
TQ_INLINE void SumStepRows(int rows, const StepBlock& block, const CellWeights& w, int values,
                           int d, const AheadBytes& ahead, float* o) {
  if (rows == kRows) return SumSteps<Source, kRows>(block, w, values, d, ahead, o);
  if constexpr (kRows > 1) {
    SumStepRows<Source, kRows - 1>(rows, block, w, values, d, ahead, o);
  }
}

template <typename Source>
void StepAccumulate(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  if (n <= 0) return;
  if (v.form != TileForm::kValues) return FallbackAccumulate(v, p, ld, rows, n, o);
  const int d = v.head_dim;
  const size_t cell_bytes = RowCodeBytes(v.format, d);
  const int blocks = (rows + kMaxSumRows - 1) / kMaxSumRows;
  const int last = v.first + n;
  StepBlock steps;
  CellWeights w;
  for (int cell = v.first / kTileLanes * kTileLanes; cell < last; cell += kSumCells) {
    const uint8_t* codes = v.codes + static_cast<size_t>(cell) * cell_bytes;
    const int tiles = Smaller((last - cell + kTileLanes - 1) / kTileLanes, kSumTiles);
    for (int k = 0; k < d; k += Source::kChunk) {
      const int values = Smaller(d - k, Source::kChunk);
      // Half of it while this block is unpacked, half while it is multiplied.
      AheadBytes ahead = NextBlock(codes, 4 * cell_bytes, k, values, d);
      ahead.group_bytes /= 2;
      bool unpacked = false;
      for (int b = 0, r = 0; b < blocks; ++b) {
        const int size = BlockSize(rows, blocks, b);
        if (k == 0 || blocks > 1) {
          LoadCellWeights(v.scales, p + static_cast<ptrdiff_t>(r) * ld - v.first, ld, size, cell,
                          v.first, last, &w);
        }
        if (w.tiles != 0) {
          // Several blocks of rows: all tiles, for one block may skip what another needs.
          if (!unpacked) {
            Source::UnpackBlock(codes, 4 * cell_bytes, d, k, values,
                                blocks > 1 ? (1u << tiles) - 1u : w.tiles, ahead, &steps);
            ahead.at += kSumGroups * ahead.group_bytes;
          }
          SumStepRows<Source>(size, steps, w, values, d, unpacked ? AheadBytes{codes, 0} : ahead,
                              o + static_cast<size_t>(r) * d + k);
          unpacked = true;
        }
        r += size;
      }
    }
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_STEP_KERNELS_H_
