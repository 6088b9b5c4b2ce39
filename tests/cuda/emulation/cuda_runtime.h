// CUDA's header of this name, emulated.
#ifndef TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_RUNTIME_H_
#define TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_RUNTIME_H_

#include "cuda_emulation.h"

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
using cudaStream_t = void*;

#endif  // TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_RUNTIME_H_
