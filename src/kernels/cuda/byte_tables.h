// The byte tables by which PRMT turns tile nibbles into the codebook's int8 steps
// (codec/codebook.h: centroid = unit * step, docs/adr/0005). Exact.
#ifndef TURBOQUANT_KERNELS_CUDA_BYTE_TABLES_H_
#define TURBOQUANT_KERNELS_CUDA_BYTE_TABLES_H_

#include <cstdint>

namespace turboquant::cuda {

// Bits 2 and 3: the step of nibble n is byte n of `a`. 4 bits: it is a[n] + b[n ^ 8], where PRMT
// makes of an entry of 8 and more the sign (0 or -1) of entry n - 8.
struct ByteTables {
  float unit;
  uint32_t a[2];
  uint32_t b[2];
};

// bits in {2, 3, 4}.
ByteTables MakeByteTables(int bits);

// What the tables give for a nibble (tests).
int LookUp(const ByteTables& tables, int bits, int nibble);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_BYTE_TABLES_H_
