// The byte tables by which PRMT turns tile nibbles into the codebook's int8 steps
// (codec/codebook.h: centroid = unit * step, docs/adr/0005). Exact.
#ifndef TURBOQUANT_KERNELS_CUDA_BYTE_TABLES_H_
#define TURBOQUANT_KERNELS_CUDA_BYTE_TABLES_H_

#include <cstdint>

#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

// By the number of entries. Up to 8: the step of nibble n is byte n of `a`. 16: it is
// a[n] + b[n ^ 8], where PRMT makes of an entry of 8 and more the sign (0 or -1) of entry n - 8. 32
// (coded_row.cuh): `a` to `d` hold 8 entries each; the step is what Below gives plus what Above
// does.
struct ByteTables {
  float unit;
  uint32_t a[2];
  uint32_t b[2];
  uint32_t c[2];
  uint32_t d[2];
};

// Of turbo2, turbo3, turbo4 in fragments, whose 4-bit nibbles are sign and magnitude.
ByteTables MakeByteTables(int bits);

// Of codes in canonical rows (ascending), and of trellis formats. Of turbo8 the unit alone: its
// centroids are no bytes but two each (WideStepOf).
ByteTables MakeRowTables(TileFormat format);

// A centroid of turbo8 is 128 high + low units, rounded (docs/adr/0007).
struct WideStep {
  int high, low;  // bytes
};

inline constexpr int kLargestWideStep = 127 * 128;

// per_unit: units in 1.
TQ_HD inline WideStep WideStepOf(float centroid, float per_unit) {
  const float x = centroid * per_unit;
  const int v = static_cast<int>(x < 0.0f ? x - 0.5f : x + 0.5f);
  const int high = (v + 64 + (128 << 7)) / 128 - 128;
  return {high, v - 128 * high};
}

// What the tables of up to 16 entries give for a nibble (tests).
int LookUp(const ByteTables& tables, int bits, int nibble);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_BYTE_TABLES_H_
