// The tables of the instruction-set translation units.
//
// Data, not functions: the dispatcher may take their address on any machine, because nothing
// compiled with AVX flags runs before the CPU has been asked.
#ifndef TURBOQUANT_KERNELS_CPU_CPU_TABLES_H_
#define TURBOQUANT_KERNELS_CPU_CPU_TABLES_H_

#include "kernels/kernel_api.h"

namespace turboquant {

extern const KernelTable kAvx2KernelTable;
extern const KernelTable kAvx512KernelTable;
extern const KernelTable kNeonKernelTable;

// What an extension of a table's instruction set does better.
struct CodedKernels {
  void (*prepare_queries)(const float* q, int head_dim, int rows, uint8_t* prepared);
  void (*coded_scores)(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                       int ld);
  void (*coded_accumulate)(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o);
};
extern const CodedKernels kAvxVnniKernels;      // beside kAvx2KernelTable
extern const CodedKernels kAvx512AmxKernels;    // beside kAvx512KernelTable
extern const CodedKernels kNeonDotprodKernels;  // beside kNeonKernelTable

}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CPU_TABLES_H_
