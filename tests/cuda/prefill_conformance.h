// Cases of prefill on the GPU, for cuda_conformance.
#ifndef TURBOQUANT_TESTS_CUDA_PREFILL_CONFORMANCE_H_
#define TURBOQUANT_TESTS_CUDA_PREFILL_CONFORMANCE_H_

#include <cstdint>

#include "tests/cuda/prefill_case.h"

namespace turboquant::cuda {

// Runs the case, prints one line; false: it failed.
bool RunPrefillCase(const PrefillCase& c, uint64_t seed);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_TESTS_CUDA_PREFILL_CONFORMANCE_H_
