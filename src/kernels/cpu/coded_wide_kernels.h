// 8-bit codes to steps of two bytes (AVX-512 VBMI), for coded_step_kernels.h. The 256 centroids
// have no byte grid; in 15 bits they are off by 3e-5 of the largest (docs/adr/0007).
#ifndef TURBOQUANT_KERNELS_CPU_CODED_WIDE_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_WIDE_KERNELS_H_

#include "codec/codebook.h"
#include "kernels/cpu/coded_step_kernels.h"

namespace turboquant {
namespace {

constexpr float kWideSteps = 16256;  // 127 * 128: the largest |128 high + low|, -64 <= low < 64

// The bytes of all 256 steps: high + offset, low * factor + offset.
struct WideTable {
  alignas(64) uint8_t high[256];
  alignas(64) uint8_t low[256];
  constexpr WideTable(int offset, int factor) : high(), low() {
    for (int i = 0; i < 256; ++i) {
      const float x = kCentroids8[i] / kCentroids8[255] * kWideSteps;
      const int step = static_cast<int>(x < 0 ? x - 0.5f : x + 0.5f);
      const int top = (step + 64 + 16384) / 128 - 128;
      high[i] = static_cast<uint8_t>(top + offset);
      low[i] = static_cast<uint8_t>((step - 128 * top) * factor + offset);
    }
  }
};
constexpr WideTable kWideKeys(128, 1);
constexpr WideTable kWideValues(0, 2);

struct WideLookup {
  IntVec part[4];
  TQ_INLINE explicit WideLookup(const uint8_t* bytes) {
    for (int i = 0; i < 4; ++i) part[i] = _mm512_load_si512(bytes + 64 * i);
  }
  TQ_INLINE IntVec operator[](IntVec idx) const {
    const __mmask64 upper = _mm512_movepi8_mask(idx);
    return _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(part[0], idx, part[1]), upper,
                                _mm512_permutex2var_epi8(part[2], idx, part[3]));
  }
};

// What coded_step_kernels.h asks of a format.
struct WideSteps {
  static constexpr int kBytes = 2;
  static constexpr int kChunk = 64;
  static constexpr bool kTurned = false;
  static constexpr float kUnit = kCentroids8[255] / kWideSteps;

  static TQ_INLINE bool Serves(int) { return true; }

  static TQ_INLINE void UnpackKeys(const uint8_t* tile, int d, uint8_t* steps) {
    const WideLookup high(kWideKeys.high);
    const WideLookup low(kWideKeys.low);
    const size_t plane = 16 * static_cast<size_t>(d);
    for (size_t i = 0; i < plane; i += 64) {
      const IntVec idx = LoadCodes(tile + i);
      _mm512_store_si512(steps + i, high[idx]);
      _mm512_store_si512(steps + plane + i, low[idx]);
    }
  }

  static void UnpackBlock(const uint8_t* codes, size_t group_bytes, int, int first, int values,
                          unsigned tiles, StepBlock* block) {
    const WideLookup high(kWideValues.high);
    const WideLookup low(kWideValues.low);
    const int vectors = Vectors(values);
    for (int group = 0; group < kSumGroups; ++group) {
      if ((tiles >> (group / 4) & 1u) == 0) continue;
      const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes + 4 * first;
      uint8_t* to = block->steps + 128 * vectors * group;
      for (int e = 0; e < values / 16; ++e) {
        const IntVec idx = LoadCodes(at + 64 * e);
        _mm512_store_si512(to + 64 * e, high[idx]);
        _mm512_store_si512(to + 64 * (vectors + e), low[idx]);
      }
    }
  }

  // A whole number of passes of SumSteps; vectors beyond the values hold anything.
  static TQ_INLINE int Vectors(int) { return 4; }

  static TQ_INLINE void AddTo(FloatVec (&value)[8], int values, float* o) {
    for (int e = 0; e < values / 16; ++e) Store(o + 16 * e, Add(Load(o + 16 * e), value[e]));
  }
};

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_WIDE_KERNELS_H_
