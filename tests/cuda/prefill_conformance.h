// Cases of prefill on the GPU, for cuda_conformance.
#ifndef TURBOQUANT_TESTS_CUDA_PREFILL_CONFORMANCE_H_
#define TURBOQUANT_TESTS_CUDA_PREFILL_CONFORMANCE_H_

#include <cstdint>

#include "tests/cuda/prefill_case.h"

namespace turboquant::cuda {

// Runs the case, prints one line; false: it failed. dense: null, or attends the windows it can.
bool RunPrefillCase(const PrefillCase& c, uint64_t seed, tq_cuda_dense* dense);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_TESTS_CUDA_PREFILL_CONFORMANCE_H_
