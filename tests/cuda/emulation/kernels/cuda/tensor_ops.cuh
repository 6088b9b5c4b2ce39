// src/kernels/cuda/tensor_ops.cuh in plain C++.
#ifndef TURBOQUANT_KERNELS_CUDA_TENSOR_OPS_CUH_
#define TURBOQUANT_KERNELS_CUDA_TENSOR_OPS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/ptx.cuh"

namespace turboquant::cuda {

inline uint8_t* DynamicShared() { return emulation::DynamicBytes(); }

// Lane 4 g + t gets elements 2 t and 2 t + 1 of row g of every matrix, or of column g.
template <bool kTransposed>
void LoadMatricesEmulated(uint32_t address, uint32_t (&r)[4]) {
  struct Slot {
    uint32_t address;
    uint32_t* r;
  } slot{address, r};
  emulation::WithWarp(&slot, [](void** slots) {
    for (int lane = 0; lane < 32; ++lane) {
      Slot* mine = static_cast<Slot*>(slots[lane]);
      for (int i = 0; i < 4; ++i) {
        uint16_t two[2];
        for (int e = 0; e < 2; ++e) {
          const int other = lane % 4 * 2 + e;
          const int row = kTransposed ? other : lane / 4, column = kTransposed ? lane / 4 : other;
          const Slot* from = static_cast<const Slot*>(slots[8 * i + row]);
          std::memcpy(&two[e], emulation::DynamicBytes() + from->address + 2 * column, 2);
        }
        mine->r[i] = two[0] | static_cast<uint32_t>(two[1]) << 16;
      }
    }
  });
}

inline void LoadMatrices(uint32_t address, uint32_t (&r)[4]) {
  LoadMatricesEmulated<false>(address, r);
}

inline void LoadMatricesTransposed(uint32_t address, uint32_t (&r)[4]) {
  LoadMatricesEmulated<true>(address, r);
}

inline void MmaBfloat(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaEmulated<BfloatToFloat>(c, a, b0, b1);
}

inline void CopyAsync16(uint32_t to, const void* from, bool there) {
  emulation::QueueCopy(emulation::DynamicBytes() + to, from, 16, there);
}

inline void CopyAsync4(uint32_t to, const void* from) {
  emulation::QueueCopy(emulation::DynamicBytes() + to, from, 4, true);
}

inline void CommitCopies() { emulation::CommitCopies(); }

template <int pending>
void WaitCopies() {
  emulation::WaitCopies(pending);
}

inline uint32_t PackHalves(float low, float high) {
  return FloatToHalf(low) | static_cast<uint32_t>(FloatToHalf(high)) << 16;
}

inline uint32_t PackBfloats(float low, float high) {
  return FloatToBfloat(low) | static_cast<uint32_t>(FloatToBfloat(high)) << 16;
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_TENSOR_OPS_CUH_
