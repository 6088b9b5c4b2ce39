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
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }
inline __half2 __habs2(__half2 h) {
  return {{static_cast<uint16_t>(h.x.bits & 0x7FFF)}, {static_cast<uint16_t>(h.y.bits & 0x7FFF)}};
}
inline __half2 __hmax2(__half2 a, __half2 b) {
  return {__half2float(a.x) > __half2float(b.x) ? a.x : b.x,
          __half2float(a.y) > __half2float(b.y) ? a.y : b.y};
}
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }

#endif  // TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_FP16_H_
