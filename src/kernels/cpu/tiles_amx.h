// The matrix unit's tile registers (AMX-INT8): eight of 16 rows of 64 bytes. As instructions, since
// compilers' own names for them differ in what they promise about memory, and the operands are
// checked by the assembler alone: no compiler flag is needed.
//
// A product adds to C[m][n] the sum over k < 64 of A[m][k] * B[k / 4][4 n + k % 4]: rows of B are
// dwords of four bytes that meet four of a row of A, which is how tiles of cells lie in memory.
#ifndef TURBOQUANT_KERNELS_CPU_TILES_AMX_H_
#define TURBOQUANT_KERNELS_CPU_TILES_AMX_H_

#include "kernels/cpu/vec_avx512.h"

namespace turboquant {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;

// What ldtilecfg reads.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// A thread's tiles while this lives; before and after, the shapes are those the host program has
// set, or none. Hosts are known that set them once a thread and rely on them from then on.
class TileUse {
 public:
  TQ_INLINE explicit TileUse(const TileShapes& shapes) {
    asm volatile("sttilecfg %0" : "=m"(before_));
    asm volatile("ldtilecfg %0" : : "m"(shapes));
  }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;
  TQ_INLINE ~TileUse() {
    if (before_.palette != 0) {
      asm volatile("ldtilecfg %0" : : "m"(before_));
    } else {
      asm volatile("tilerelease");
    }
  }

 private:
  TileShapes before_;
};

template <int kTile>
TQ_INLINE void ClearTile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows `stride` bytes apart. All that was stored before is seen, and nothing is moved across.
template <int kTile>
TQ_INLINE void LoadTile(const void* rows, ptrdiff_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
TQ_INLINE void StoreTile(void* rows) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
               :
               : "r"(rows), "r"(static_cast<ptrdiff_t>(kTileRowBytes)), "i"(kTile)
               : "memory");
}
// Bytes of A are signed and those of B unsigned, or the other way round.
template <int kC, int kA, int kB>
TQ_INLINE void AddSignedByUnsigned() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
template <int kC, int kA, int kB>
TQ_INLINE void AddUnsignedBySigned() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_TILES_AMX_H_
