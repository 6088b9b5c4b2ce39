// How unpacked trellis values lie in a block (coded_step_kernels.h), for vectors of 4 or 8 lanes:
// vector e of a group has in lane p the values 8 p + e of its four cells.
#ifndef TURBOQUANT_KERNELS_CPU_TRELLIS_BLOCK_H_
#define TURBOQUANT_KERNELS_CPU_TRELLIS_BLOCK_H_

#include "kernels/cpu/coded_step_kernels.h"

namespace turboquant {
namespace {

struct BlockTurn {
  static TQ_INLINE int Vectors(int) { return 8; }

  // `count` byte positions from `position` on, of the four groups of a tile.
  template <typename Unpack>
  static TQ_INLINE void UnpackGroups(const uint8_t* codes, size_t group_bytes, int position,
                                     int count, int first_group, StepBlock* block,
                                     const Unpack& unpack) {
    for (int group = first_group; group < first_group + 4; ++group) {
      const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes + 4 * position;
      IntVec step[8];
      unpack(
          [=](int offset, bool delayed) {
            if (delayed) return LoadBefore(at, position, count);
            return count == kLanes ? LoadCodes(at + offset) : LoadCodesFirst(at + offset, count);
          },
          step);
      for (int e = 0; e < 8; ++e)
        StoreCodes(block->steps + kVectorBytes * (8 * group + e), step[e]);
    }
  }

  // The dwords in front of `at`, in front of position 0 zero.
  static TQ_INLINE IntVec LoadBefore(const uint8_t* at, int position, int count) {
    if (position > 0) return LoadCodesFirst(at - 4, count);
    alignas(4 * kLanes) uint32_t words[kLanes] = {0};
    memcpy(words + 1, at, 4 * static_cast<size_t>(count - 1));
    return LoadInt(words);
  }

  static TQ_INLINE void AddTo(FloatVec (&value)[8], int values, float* o) {
    alignas(4 * kLanes) float lanes[8][kLanes];
    for (int e = 0; e < 8; ++e) Store(lanes[e], value[e]);
    for (int p = 0; p < values / 8; ++p) {
      for (int e = 0; e < 8; ++e) o[8 * p + e] += lanes[e][p];
    }
  }
};

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_TRELLIS_BLOCK_H_
