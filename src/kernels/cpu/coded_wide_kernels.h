// 8-bit codes to steps of two bytes, for coded_step_kernels.h. The 256 centroids have no byte grid;
// in 15 bits they are off by 3e-5 of the largest (docs/adr/0007).
#ifndef TURBOQUANT_KERNELS_CPU_CODED_WIDE_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_WIDE_KERNELS_H_

#include "codec/codebook.h"
#include "kernels/cpu/coded_step_kernels.h"

namespace turboquant {
namespace {

// The largest |128 high + low|, -64 < low < 64. With this many no step lies half-way between two
// values of high, so that high and low are odd functions of the step.
constexpr float kWideSteps = 16241;

// The bytes of all 256 steps: high + offset, low * factor + offset.
template <TileForm kForm>
struct WideTable {
  uint8_t high[256];
  uint8_t low[256];
  constexpr WideTable() : high(), low() {
    for (int i = 0; i < 256; ++i) {
      const float x = kCentroids8[i] / kCentroids8[255] * kWideSteps;
      const int step = static_cast<int>(x < 0 ? x - 0.5f : x + 0.5f);
      const int top = (step + 64 + 16384) / 128 - 128;
      high[i] = static_cast<uint8_t>(top + kStepOffset<kForm>);
      low[i] = static_cast<uint8_t>((step - 128 * top) * kLowFactor<kForm> + kStepOffset<kForm>);
    }
  }
  constexpr bool Odd() const {
    for (int i = 0; i < 128; ++i) {
      constexpr int kTwice = 2 * kStepOffset<kForm>;
      if (static_cast<uint8_t>(high[i] + high[255 - i]) != kTwice % 256) return false;
      if (static_cast<uint8_t>(low[i] + low[255 - i]) != kTwice % 256) return false;
    }
    return true;
  }
};
template <TileForm kForm>
constexpr WideTable<kForm> kWideTable;
template <TileForm kForm>
constexpr WideParts kWideParts = WideParts(kWideTable<kForm>.high, kWideTable<kForm>.low,
                                           kStepOffset<kForm>);
static_assert(kWideTable<TileForm::kKeys>.Odd() && kWideTable<TileForm::kValues>.Odd());

template <>
struct StepSums<2> {
  using Type = WideSum;
  template <int kRows>
  static constexpr int kForScores = kWideScoreVectors<kRows>;
  template <int kRows>
  static constexpr int kForSums = kWideSumVectors<kRows>;
  static TQ_INLINE WideSum Clear() { return ZeroWideSum(); }
  template <TileForm kForm>
  static TQ_INLINE void Add(WideSum* sum, const Steps (&steps)[2], const Operand& operand) {
    AddWideProducts<kForm>(sum, steps[0], steps[1], operand);
  }
  template <TileForm kForm>
  static TQ_INLINE FloatVec Value(const WideSum& sum, int total, int total_first) {
    return WideTotal<kForm>(sum, total, total_first);
  }
};

// What coded_step_kernels.h asks of a format.
struct WideSteps {
  static constexpr int kBytes = 2;
  static constexpr int kChunk = kLanes == 4 ? 32 : 64;
  static constexpr bool kTurned = false;
  static constexpr float kUnit = kCentroids8[255] / kWideSteps;

  static TQ_INLINE bool Serves(int) { return true; }

  static TQ_INLINE void UnpackKeys(const uint8_t* tile, int d, uint8_t* steps) {
    const WideLookup lookup(kWideParts<TileForm::kKeys>, kStepOffset<TileForm::kKeys>);
    const size_t plane = 16 * static_cast<size_t>(d);
    for (size_t i = 0; i < plane; i += 4 * kLanes) {
      if (i % 64 == 0) __builtin_prefetch(tile + i + kAheadCells / kTileLanes * plane, 0, 2);
      IntVec high;
      IntVec low;
      lookup.Look(LoadCodes(tile + i), &high, &low);
      StoreCodes(steps + i, high);
      StoreCodes(steps + plane + i, low);
    }
  }

  static void UnpackBlock(const uint8_t* codes, size_t group_bytes, int, int first, int values,
                          unsigned tiles, const AheadBytes& ahead, StepBlock* block) {
    const WideLookup lookup(kWideParts<TileForm::kValues>, kStepOffset<TileForm::kValues>);
    const int vectors = Vectors(values);
    for (int group = 0; group < kSumGroups; ++group) {
      if ((tiles >> (group / 4) & 1u) == 0) continue;
      ahead.Ask(group, 1);
      const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes + 4 * first;
      uint8_t* to = block->steps + 2 * kVectorBytes * vectors * group;
      for (int e = 0; e < values / kLanes; ++e) {
        IntVec high;
        IntVec low;
        lookup.Look(LoadCodes(at + kVectorBytes * e), &high, &low);
        StoreCodes(to + kVectorBytes * e, high);
        StoreCodes(to + kVectorBytes * (vectors + e), low);
      }
    }
  }

  // A whole number of passes of SumSteps; vectors beyond the values hold anything.
  static TQ_INLINE int Vectors(int) { return kChunk / kLanes; }

  static TQ_INLINE void AddTo(FloatVec (&value)[8], int values, float* o) {
    for (int e = 0; e < values / kLanes; ++e) {
      Store(o + kLanes * e, Add(Load(o + kLanes * e), value[e]));
    }
  }
};

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_WIDE_KERNELS_H_
