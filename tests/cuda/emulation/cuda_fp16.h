// CUDA's header of this name, emulated.
#ifndef TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_FP16_H_
#define TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_FP16_H_

#include "base/fp16.h"
#include "cuda_emulation.h"

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half h) { return turboquant::HalfToFloat(h.bits); }
inline __half __float2half(float x) { return {turboquant::FloatToHalf(x)}; }
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }

#endif  // TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_FP16_H_
