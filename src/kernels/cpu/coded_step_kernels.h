// Scores and weighted sums on unpacked codes with dot products of bytes (AVX-512 VNNI), for formats
// whose way from codes to steps is longer than a permute. A chunk of steps goes into first-level
// cache once and meets all query rows there. Queries, weights and what they are multiplied with are
// those of coded_byte_kernels.h, which comes first.
//
// `Source` is the format: TrellisSteps (coded_trellis_kernels.h), WideSteps (coded_wide_kernels.h).
//   kBytes      bytes of a step: 1, or 2 for 128 high + low, each a plane of its own
//   kUnit       centroid = kUnit * step
//   kTurned     order of the unpacked key steps: that of TurnQueries, else natural
//   kChunk      values of a row that are unpacked at once, of values
//   Serves      whether keys of this head dim can be unpacked
//   UnpackKeys  one tile to steps + 128: d / 4 vectors (lanes = cells, bytes = four values), per
//               byte plane
//   UnpackBlock, Vectors, AddTo: values; vectors of lanes = values, bytes = the cells of a group
#ifndef TURBOQUANT_KERNELS_CPU_CODED_STEP_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_STEP_KERNELS_H_

#include "kernels/cpu/coded_byte_kernels.h"

namespace turboquant {
namespace {

// ---- scores ----

// Query rows in the order of the steps; turned: byte j of dword 8 w + e is that of value
// 32 w + e + 8 j.
struct StepQueries {
  alignas(64) uint8_t high[kMaxScoreRows][kMaxHeadDim];
  alignas(64) uint8_t low[kMaxScoreRows][kMaxHeadDim];
  float unit[kMaxScoreRows];
  int32_t sum[kMaxScoreRows];       // of 128 high + low
  int32_t sum_high[kMaxScoreRows];  // of high
};

struct TurnOrder {
  alignas(64) uint8_t bytes[64];
  constexpr explicit TurnOrder(bool turned) : bytes() {
    for (int i = 0; i < 64; ++i) {
      bytes[i] = static_cast<uint8_t>(turned ? i / 32 * 32 + i % 32 / 4 + i % 4 * 8 : i);
    }
  }
};
template <bool kTurned>
constexpr TurnOrder kTurnOrder = TurnOrder(kTurned);

template <bool kTurned>
void LoadQueries(const uint8_t* prepared, int d, int row, int rows, StepQueries* out) {
  const IntVec order = _mm512_load_si512(kTurnOrder<kTurned>.bytes);
  const IntVec ones = _mm512_set1_epi8(1);
  for (int r = 0; r < rows; ++r) {
    const Query q = QueryAt(prepared, d, row + r);
    IntVec sum = ZeroInt();
    for (int i = 0; i < d; i += 64) {
      const __mmask64 bytes = d - i < 64 ? (__mmask64{1} << (d - i)) - 1 : ~__mmask64{0};
      const IntVec high = _mm512_maskz_loadu_epi8(bytes, q.high + i);
      const IntVec low = _mm512_maskz_loadu_epi8(bytes, q.low + i);
      sum = AddDots(sum, ones, high);
      _mm512_store_si512(out->high[r] + i, _mm512_permutexvar_epi8(order, high));
      _mm512_store_si512(out->low[r] + i, _mm512_permutexvar_epi8(order, low));
    }
    out->unit[r] = q.unit;
    out->sum[r] = q.sum;
    out->sum_high[r] = _mm512_reduce_add_epi32(sum);
  }
}

// The products of steps and queries; sums of steps + 128 come in, and may have wrapped where the
// products themselves do not.
template <int kBytes>
TQ_INLINE FloatVec StepProducts(IntVec high, IntVec low, const StepQueries& q, int r) {
  if constexpr (kBytes == 1) {
    // |total| < 126 * 16256 * 1024 (coded_byte_kernels.h).
    const auto offset = static_cast<int>(128u * static_cast<unsigned>(q.sum[r]));
    return _mm512_cvtepi32_ps(
        _mm512_sub_epi32(_mm512_add_epi32(ShiftLeft<7>(high), low), _mm512_set1_epi32(offset)));
  } else {
    // high: high by high; low: high by low and low by high; low by low is below the rounding.
    const int sum_low = q.sum[r] - 128 * q.sum_high[r];
    const IntVec offset = _mm512_set1_epi32(128 * q.sum_high[r]);
    const IntVec offset_low = _mm512_set1_epi32(128 * (q.sum_high[r] + sum_low));
    const FloatVec top = _mm512_cvtepi32_ps(_mm512_sub_epi32(high, offset));
    const FloatVec rest = _mm512_cvtepi32_ps(_mm512_sub_epi32(low, offset_low));
    return Fma(top, Set(16384.0f), Mul(rest, Set(128.0f)));
  }
}

// Scores of kRows query rows with kGroups unpacked tiles. Cell j of the first tile goes to out[j];
// only cells [begin, end) are stored.
template <int kBytes, int kRows, int kGroups>
void ScoreSteps(const uint8_t* steps, const uint16_t* scales, int d, const StepQueries& q,
                float unit, int begin, int end, float* out, int ld) {
  const size_t plane = static_cast<size_t>(16 * d);
  IntVec high[kRows][kGroups];
  IntVec low[kRows][kGroups];
  for (int r = 0; r < kRows; ++r) {
    for (int g = 0; g < kGroups; ++g) high[r][g] = low[r][g] = ZeroInt();
  }
  for (int i = 0; i < d; i += 4) {
    IntVec step[kGroups];
    IntVec step_low[kGroups];
    for (int g = 0; g < kGroups; ++g) {
      const uint8_t* at = steps + kBytes * g * plane + 16 * static_cast<size_t>(i);
      step[g] = _mm512_load_si512(at);
      if constexpr (kBytes == 2) step_low[g] = _mm512_load_si512(at + plane);
    }
    for (int r = 0; r < kRows; ++r) {
      const IntVec q_high = SetDword(q.high[r] + i);
      const IntVec q_low = SetDword(q.low[r] + i);
      for (int g = 0; g < kGroups; ++g) {
        high[r][g] = AddDots(high[r][g], step[g], q_high);
        low[r][g] = AddDots(low[r][g], step[g], q_low);
        if constexpr (kBytes == 2) {
          low[r][g] = AddDots(low[r][g], step_low[g], q_high);
        }
      }
    }
  }
  for (int g = 0; g < kGroups; ++g) {
    const FloatVec scale = HalfLoad(scales + g * kTileLanes);
    const int first = Larger(begin - g * kTileLanes, 0);
    const int last = Smaller(end - g * kTileLanes, kTileLanes);
    if (last <= first) continue;
    const __mmask16 lanes = static_cast<__mmask16>(FirstLanes(last) & ~FirstLanes(first));
    for (int r = 0; r < kRows; ++r) {
      const FloatVec products = StepProducts<kBytes>(high[r][g], low[r][g], q, r);
      _mm512_mask_storeu_ps(out + static_cast<ptrdiff_t>(r) * ld + g * kTileLanes, lanes,
                            Mul(Mul(products, Set(q.unit[r] * unit)), scale));
    }
  }
}

template <int kBytes, int kRows = kMaxScoreRows>
TQ_INLINE void ScoreStepRows(int rows, int tiles, const uint8_t* steps, const uint16_t* scales,
                             int d, const StepQueries& q, float unit, int begin, int end,
                             float* out, int ld) {
  if (rows == kRows) {
    constexpr int kGroups = kScoreGroups<kRows>;
    const size_t tile_steps = static_cast<size_t>(16 * d * kBytes);
    int t = 0;
    for (; t + kGroups <= tiles; t += kGroups) {
      ScoreSteps<kBytes, kRows, kGroups>(steps + t * tile_steps, scales + t * kTileLanes, d, q,
                                         unit, begin - t * kTileLanes, end - t * kTileLanes,
                                         out + t * kTileLanes, ld);
    }
    for (; t < tiles; ++t) {
      ScoreSteps<kBytes, kRows, 1>(steps + t * tile_steps, scales + t * kTileLanes, d, q, unit,
                                   begin - t * kTileLanes, end - t * kTileLanes,
                                   out + t * kTileLanes, ld);
    }
    return;
  }
  if constexpr (kRows > 1) {
    ScoreStepRows<kBytes, kRows - 1>(rows, tiles, steps, scales, d, q, unit, begin, end, out, ld);
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
  StepQueries q;
  const size_t tile_bytes = kTileLanes * RowCodeBytes(k.format, d);
  const size_t tile_steps = static_cast<size_t>(16 * d * Source::kBytes);
  const int blocks = (rows + kMaxScoreRows - 1) / kMaxScoreRows;
  const int at_once = Smaller(kMaxSteps / static_cast<int>(tile_steps), 4);
  int tile = k.first / kTileLanes;
  if (blocks == 1) LoadQueries<Source::kTurned>(prepared, d, 0, rows, &q);
  for (int j = -(k.first % kTileLanes); j < n; j += at_once * kTileLanes, tile += at_once) {
    const int tiles = Smaller((n - j + kTileLanes - 1) / kTileLanes, at_once);
    const uint8_t* codes = k.codes + static_cast<size_t>(tile) * tile_bytes;
    if (tiles == at_once) PrefetchBytes(codes + at_once * tile_bytes, at_once * tile_bytes);
    for (int t = 0; t < tiles; ++t) {
      Source::UnpackKeys(codes + t * tile_bytes, d, steps + t * tile_steps);
    }
    const uint16_t* scales = k.scales + static_cast<size_t>(tile) * kTileLanes;
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      if (blocks > 1) LoadQueries<Source::kTurned>(prepared, d, r, size, &q);
      ScoreStepRows<Source::kBytes>(size, tiles, steps, scales, d, q, Source::kUnit, -j, n - j,
                                    out + static_cast<ptrdiff_t>(r) * ld + j, ld);
      r += size;
    }
  }
}

// ---- weighted sums ----

constexpr int kSumGroups = kSumCells / 4;

// Unpacked steps of one block and one chunk of values, group by group: the vectors of the high
// bytes, then, if there are two, those of twice the low ones.
struct StepBlock {
  alignas(64) uint8_t steps[kSumGroups * 512];
};

// Adds one block to kRows rows of o: the values of the chunk start at o.
template <typename Source, int kRows>
void SumSteps(const StepBlock& block, const ByteWeights& w, float unit, int values, int d,
              float* o) {
  constexpr int kPlanes = kRows <= 3 ? 4 : 2;
  const int vectors = Source::Vectors(values);
  FloatVec value[kRows][8];
  for (int e = 0; e < vectors; e += kPlanes) {
    WeightedSums<kRows, kPlanes> sums;
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kPlanes; ++t) sums.high[r][t] = sums.low[r][t] = ZeroInt();
    }
    for (int tile = 0; tile < kSumTiles; ++tile) {
      if ((w.tiles >> tile & 1u) == 0) continue;
      for (int group = 4 * tile; group < 4 * tile + 4; ++group) {
        const uint8_t* at = block.steps + 64 * (Source::kBytes * vectors * group + e);
        IntVec steps[kPlanes];
        for (int t = 0; t < kPlanes; ++t) steps[t] = _mm512_load_si512(at + 64 * t);
        AddGroup<kRows, kPlanes>(steps, w, group, &sums);
        if constexpr (Source::kBytes == 2) {
          // (128 high + low) (256 p + p') = 128 (256 high p + high p' + 2 low p) + low p', of which
          // the last is below the rounding.
          for (int t = 0; t < kPlanes; ++t) {
            const IntVec low = _mm512_load_si512(at + 64 * (vectors + t));
            for (int r = 0; r < kRows; ++r) {
              sums.low[r][t] = AddDots(sums.low[r][t], SetDword(w.high[r] + 4 * group), low);
            }
          }
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kPlanes; ++t) {
        const IntVec total = _mm512_add_epi32(ShiftLeft<8>(sums.high[r][t]), sums.low[r][t]);
        value[r][e + t] = Mul(_mm512_cvtepi32_ps(total), Set(w.unit[r] * unit));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    Source::AddTo(value[r], values, o + static_cast<ptrdiff_t>(r) * d);
  }
}

template <typename Source, int kRows = kMaxSumRows>
TQ_INLINE void SumStepRows(int rows, const StepBlock& block, const ByteWeights& w, float unit,
                           int values, int d, float* o) {
  if (rows == kRows) return SumSteps<Source, kRows>(block, w, unit, values, d, o);
  if constexpr (kRows > 1) {
    SumStepRows<Source, kRows - 1>(rows, block, w, unit, values, d, o);
  }
}

template <typename Source>
void StepAccumulate(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  if (n <= 0) return;
  if (v.form != TileForm::kValues) return FallbackAccumulate(v, p, ld, rows, n, o);
  // The weights come with the unit of a scalar format.
  const float unit = Source::kUnit / UnitOf<4>() * (Source::kBytes == 2 ? 128.0f : 1.0f);
  const int d = v.head_dim;
  const size_t cell_bytes = RowCodeBytes(v.format, d);
  const int blocks = (rows + kMaxSumRows - 1) / kMaxSumRows;
  const int last = v.first + n;
  StepBlock steps;
  ByteWeights w;
  for (int cell = v.first / kTileLanes * kTileLanes; cell < last; cell += kSumCells) {
    const uint8_t* codes = v.codes + static_cast<size_t>(cell) * cell_bytes;
    PrefetchBytes(codes + kSumCells * cell_bytes, kSumCells * cell_bytes);
    const int tiles = Smaller((last - cell + kTileLanes - 1) / kTileLanes, kSumTiles);
    for (int k = 0; k < d; k += Source::kChunk) {
      const int values = Smaller(d - k, Source::kChunk);
      bool unpacked = false;
      for (int b = 0, r = 0; b < blocks; ++b) {
        const int size = BlockSize(rows, blocks, b);
        if (k == 0 || blocks > 1) {
          LoadByteWeights<4>(v.scales, p + static_cast<ptrdiff_t>(r) * ld - v.first, ld, size, cell,
                             v.first, last, &w);
        }
        if (w.tiles != 0) {
          // Several blocks of rows: all tiles, for one block may skip what another needs.
          if (!unpacked) {
            Source::UnpackBlock(codes, 4 * cell_bytes, d, k, values,
                                blocks > 1 ? (1u << tiles) - 1u : w.tiles, &steps);
          }
          unpacked = true;
          SumStepRows<Source>(size, steps, w, unit, values, d, o + static_cast<size_t>(r) * d + k);
        }
        r += size;
      }
    }
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_STEP_KERNELS_H_
