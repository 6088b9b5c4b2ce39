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

}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CPU_TABLES_H_
