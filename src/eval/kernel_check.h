// Are the results of a kernel table right? Asked before anything is timed.
#ifndef TURBOQUANT_EVAL_KERNEL_CHECK_H_
#define TURBOQUANT_EVAL_KERNEL_CHECK_H_

#include <cstdint>

#include "base/status.h"
#include "codec/format.h"
#include "kernels/kernel_api.h"

namespace turboquant {

// Greatest relative L2 errors against sums in double.
inline constexpr double kKernelErrorBound = 1e-3;
inline constexpr double kF16ErrorBound = 1e-5;

struct KernelErrors {
  double scores = 0;
  double sums = 0;
};

// Encodes and decodes random rows, bit for bit the same as the scalar table, and compares scores
// and sums for `group` query heads with double. A Status names the kernel that is wrong.
Result<KernelErrors> CheckKernels(const KernelTable& table, Format format, int head_dim, int group,
                                  uint64_t seed);

// The contender: the table's own kernels over f16 rows.
Result<KernelErrors> CheckF16Kernels(const KernelTable& table, int head_dim, int group,
                                     uint64_t seed);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_KERNEL_CHECK_H_
