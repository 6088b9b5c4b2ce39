// Codes to steps for coded_tile_kernels.h: where the products are made in a matrix unit, plain
// codes are unpacked into memory like those of the other formats (coded_step_kernels.h, which says
// what a source of steps is).
//
// Values here come in passes over `kPass` units of a row (values, or byte positions of codes), four
// vectors of steps, and half a block of cells.
//   Units       of a row
//   Unpack      as UnpackBlock, one half of the block that starts at `codes`
//   AddSums     adds unit * sums to row o
#ifndef TURBOQUANT_KERNELS_CPU_CODED_TILE_STEPS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_TILE_STEPS_H_

#include "kernels/cpu/coded_byte_kernels.h"
#include "kernels/cpu/coded_step_kernels.h"
#include "kernels/cpu/coded_wide_kernels.h"

namespace turboquant {
namespace {

constexpr int kHalfCells = kSumCells / 2;  // what a tile of weights holds
constexpr int kPassVectors = 4;            // a pass has no more

template <int kBits>
struct ByteSteps {
  static constexpr int kBytes = 1;
  static constexpr bool kTurned = false;
  static constexpr int kSide = kPlanes<kBits>;
  static constexpr int kPass = 4 / kSide * kLanes;
  static float Unit() { return UnitOf<kBits>(); }

  static TQ_INLINE bool ServesKeys(const CodedTiles& k) { return FastScores(k); }
  static TQ_INLINE bool ServesValues(const CodedTiles& v) { return FastSums(v); }

  static TQ_INLINE void StoreNibbles(const ByteTable& table, IntVec word, uint8_t* low,
                                     uint8_t* high) {
    StoreCodes(low, LookupLow<kBits>(table, word));
    StoreCodes(high, LookupHigh<kBits>(table, word));
  }

  static TQ_INLINE void UnpackKeys(const uint8_t* tile, int d, uint8_t* steps) {
    const ByteTable table = LoadByteTable(kStepTable<kBits, TileForm::kKeys>.bytes);
    const size_t ahead = kAheadCells / kTileLanes * static_cast<size_t>(2 * kBits * d);
    const size_t plane = static_cast<size_t>(16 * (d / kSide));  // bytes of its codes or steps
    if constexpr (kBits == 3) {
#pragma GCC unroll 16
      for (size_t i = 0; i < plane / 2; i += 64) {
        const IntVec high = LoadCodes(tile + plane + i);
        __builtin_prefetch(tile + plane + i + ahead);
        UnpackTriples(table, LoadCodes(tile + i), high, plane, steps + i);
        UnpackTriples(table, LoadCodes(tile + plane / 2 + i), ShiftRight<1>(high), plane,
                      steps + plane / 2 + i);
        __builtin_prefetch(tile + i + ahead);
        __builtin_prefetch(tile + plane / 2 + i + ahead);
      }
      return;
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < plane; i += 64) {
      const IntVec word = LoadCodes(tile + i);
      __builtin_prefetch(tile + i + ahead);
      if constexpr (kBits == 4) {
        StoreNibbles(table, word, steps + i, steps + plane + i);
      } else {
        StoreNibbles(table, LowPairs(word), steps + i, steps + 2 * plane + i);
        StoreNibbles(table, LowPairs(ShiftRight<2>(word)), steps + plane + i,
                     steps + 3 * plane + i);
      }
    }
  }

  static TQ_INLINE void UnpackTriples(const ByteTable& table, IntVec low, IntVec high, size_t plane,
                                      uint8_t* steps) {
    StoreNibbles(table, JoinTriples(ShiftLeft<2>(high), low), steps, steps + 2 * plane);
    StoreNibbles(table, JoinTriples(high, ShiftRight<2>(low)), steps + plane, steps + 3 * plane);
  }

  static TQ_INLINE int Units(int d) { return d / kSide; }

  static TQ_INLINE void Unpack(const uint8_t* codes, int half, size_t group_bytes, int d, int first,
                               int positions, unsigned tiles, StepBlock* block) {
    if (positions == kPass) {
      UnpackPass<true>(codes, half, group_bytes, d, first, positions, tiles, block);
    } else {
      UnpackPass<false>(codes, half, group_bytes, d, first, positions, tiles, block);
    }
  }

  template <bool kWhole>
  static TQ_INLINE void UnpackPass(const uint8_t* codes, int half, size_t group_bytes, int d,
                                   int first, int positions, unsigned tiles, StepBlock* block) {
    constexpr int kChunks = kPass / kLanes;
    const ByteTable table = LoadByteTable(kStepTable<kBits, TileForm::kValues>.bytes);
    // The next block's lines are asked for in their order, whatever place of this one is read.
    const int passes = (Units(d) + kPass - 1) / kPass;
    const size_t share = group_bytes / static_cast<size_t>(passes);
    const int visits = first / kPass * (kHalfCells / 4);
    codes += static_cast<size_t>(half) * kHalfCells / 4 * group_bytes;
    const uint8_t* next = codes + kSumCells / 4 * group_bytes + static_cast<size_t>(visits) * share;
    const HighRuns runs = kBits == 3 ? HighRunsAt(d, first) : HighRuns{0, 0, ZeroInt()};
    for (int tile = 0; tile < kHalfCells / kTileLanes; ++tile) {
      if ((tiles >> tile & 1u) == 0) continue;
#pragma GCC unroll 4
      for (int group = 4 * tile; group < 4 * tile + 4; ++group) {
        const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes;
        uint8_t* to = block->steps + kPassVectors * kVectorBytes * group;
        for (int c = 0; c < kChunks; ++c) {
          const int k = c * kLanes;
          const int count = kWhole ? kLanes : Smaller(positions - k, kLanes);
          if (count <= 0) break;
          IntVec bytes[kSide];
          LoadStepPlanes<kBits, 0, kSide>(at, first + k, count, runs, table, bytes);
          for (int t = 0; t < kSide; ++t) {
            StoreCodes(to + kVectorBytes * (c * kSide + t), bytes[t]);
          }
        }
        for (size_t b = 0; b < share; b += 64) {
          __builtin_prefetch(next + static_cast<size_t>(group) * share + b);
        }
      }
    }
  }

  static TQ_INLINE void AddSums(const FloatVec (&sum)[kPassVectors], float unit, int d, int first,
                                int positions, float* o) {
    for (int k = 0; k < positions; k += kLanes) {
      const int count = Smaller(positions - k, kLanes);
      for (int t = 0; t < kSide; ++t) {
        float* to = o + t * (d / kSide) + first + k;
        const FloatVec before = LoadFirst(to, count);
        StoreFirst(to, Fma(sum[k / kLanes * kSide + t], Set(unit), before), count);
      }
    }
  }
};

// The sources of coded_step_kernels.h.
template <typename Source>
struct ValueSteps : Source {
  static constexpr int kPass = 64;
  static float Unit() { return Source::kUnit; }

  static TQ_INLINE bool ServesKeys(const CodedTiles& k) {
    return k.form == TileForm::kKeys && Source::Serves(k.head_dim);
  }
  static TQ_INLINE bool ServesValues(const CodedTiles& v) { return v.form == TileForm::kValues; }

  static TQ_INLINE int Units(int d) { return d; }
  static TQ_INLINE void Unpack(const uint8_t* codes, int half, size_t group_bytes, int d, int first,
                               int values, unsigned tiles, StepBlock* block) {
    const AheadBytes ahead = NextBlock(codes, group_bytes, first, values, d);
    const size_t groups = static_cast<size_t>(half) * kHalfCells / 4;
    Source::UnpackBlock(codes + groups * group_bytes, group_bytes, d, first, values, tiles,
                        {ahead.at + groups * ahead.group_bytes, ahead.group_bytes}, block);
  }
  static TQ_INLINE void AddSums(const FloatVec (&sum)[kPassVectors], float unit, int d, int first,
                                int values, float* o) {
    FloatVec value[8];
    for (int e = 0; e < kPassVectors; ++e) value[e] = Mul(sum[e], Set(unit));
    Source::AddTo(value, values, o + first);
  }
};

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_TILE_STEPS_H_
