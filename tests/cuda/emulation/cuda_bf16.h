// CUDA's header of this name, emulated.
#ifndef TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_BF16_H_
#define TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_BF16_H_

#include "cuda_emulation.h"
#include "kernels/cuda/tile_layout.h"

struct alignas(4) __nv_bfloat162 {
  uint16_t x, y;
};

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {turboquant::cuda::FloatToBfloat(x), turboquant::cuda::FloatToBfloat(y)};
}

#endif  // TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_BF16_H_
