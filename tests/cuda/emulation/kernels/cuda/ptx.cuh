// The functions of src/kernels/cuda/ptx.cuh that the prefill kernels use, in plain C++.
#ifndef TURBOQUANT_KERNELS_CUDA_PTX_CUH_
#define TURBOQUANT_KERNELS_CUDA_PTX_CUH_

#include "base/fp16.h"
#include "cuda_emulation.h"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(static_cast<const uint8_t*>(p) - emulation::DynamicBytes());
}

inline float Exp2(float x) { return std::exp2(x); }
inline float Reciprocal(float x) { return 1.0f / x; }

// c += a b, m16n8k16: element (g + 8 i, 2 t + e) of c, by the fragments' definition in the PTX ISA.
template <float (*kToFloat)(uint16_t)>
void MmaEmulated(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Slot {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
  } slot{c, a, {b0, b1}};
  emulation::WithWarp(&slot, [](void** slots) {
    const auto value = [](uint32_t word, int half) {
      return kToFloat(static_cast<uint16_t>(word >> (16 * half)));
    };
    float x[16][16], y[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Slot* s = static_cast<const Slot*>(slots[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        for (int e = 0; e < 2; ++e) x[g + 8 * (i % 2)][2 * t + e + 8 * (i / 2)] = value(s->a[i], e);
      }
      for (int i = 0; i < 2; ++i) {
        for (int e = 0; e < 2; ++e) y[2 * t + e + 8 * i][g] = value(s->b[i], e);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      Slot* s = static_cast<Slot*>(slots[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += x[g + 8 * (i / 2)][k] * y[k][2 * t + i % 2];
        s->c[i] += sum;
      }
    }
  });
}

inline void MmaHalf(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaEmulated<HalfToFloat>(c, a, b0, b1);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_PTX_CUH_
