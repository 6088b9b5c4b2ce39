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
            const uint8_t* from = delayed && position > 0 ? at - 4 : at + offset;
            const IntVec dwords = LoadCodesFirst(from, count);
            return delayed && position == 0 ? DwordsBefore(dwords) : dwords;
          },
          step);
      for (int e = 0; e < 8; ++e)
        StoreCodes(block->steps + kVectorBytes * (8 * group + e), step[e]);
    }
  }

  static TQ_INLINE void AddTo(FloatVec (&value)[8], int values, float* o) {
    typedef float Quad __attribute__((vector_size(16)));
    for (int half = 0; half < 2; ++half) {
      const FloatVec four[4] = {value[4 * half], value[4 * half + 1], value[4 * half + 2],
                                value[4 * half + 3]};
      alignas(4 * kLanes) float turned[4 * kLanes];
      StoreQuads(four, turned);
      for (int p = 0; p < values / 8; ++p) {
        Quad sum;
        Quad mine;
        float* to = o + 8 * p + 4 * half;
        memcpy(&sum, to, sizeof(sum));
        memcpy(&mine, turned + p % 4 * kLanes + p / 4 * 4, sizeof(mine));
        sum += mine;
        memcpy(to, &sum, sizeof(sum));
      }
    }
  }
};

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_TRELLIS_BLOCK_H_
