// The centroids of turbo8 in shared memory, as two bytes each (byte_tables.h).
//
// Codes are random, so every lane has a table in a bank of its own: entry c of lane l is word
// 32 c + l. A code takes one product for its address, one load that never waits for another lane's,
// and one PRMT: bytes of 4 entries go to a word of high and a word of low bytes.
#ifndef TURBOQUANT_KERNELS_CUDA_CENTROID_TABLE_CUH_
#define TURBOQUANT_KERNELS_CUDA_CENTROID_TABLE_CUH_

#include "codec/codebook.h"
#include "kernels/cuda/byte_tables.h"
#include "kernels/cuda/ptx.cuh"

namespace turboquant::cuda {

class CentroidTable {
 public:
  // By all threads of a CTA; TableBytes() of memory.
  static __device__ __forceinline__ void Fill(uint8_t* memory, float unit, int thread,
                                              int threads) {
    constexpr int kPieces = 8;  // of an entry, 16 bytes
    const float per_unit = 1.0f / unit;
    for (int i = thread; i < 256 * kPieces; i += threads) {
      const WideStep step = WideStepOf(Centroids(8)[i / kPieces], per_unit);
      const uint32_t word =
          static_cast<uint32_t>(step.high & 255) | static_cast<uint32_t>(step.low & 255) << 8;
      reinterpret_cast<uint4*>(memory)[i] = make_uint4(word, word, word, word);
    }
  }

  // high_half: 0x100, opaque to the compiler (HighHalf).
  __device__ __forceinline__ void Bind(uint32_t address, uint32_t high_half, int lane) {
    mine_ = address + 4 * lane;
    const uint32_t stride = high_half >> 1;
#pragma unroll
    for (int i = 0; i < 4; ++i) strides_[i] = stride << (8 * i);
  }

  // Of four codes, each byte `bi` of word wi: the high bytes of their centroids, and the low ones.
  __device__ __forceinline__ void LookUp(uint32_t w0, int b0, uint32_t w1, int b1, uint32_t w2,
                                         int b2, uint32_t w3, int b3, uint32_t* high,
                                         uint32_t* low) const {
    const uint32_t e0 = Entry(w0, b0), e1 = Entry(w1, b1), e2 = Entry(w2, b2), e3 = Entry(w3, b3);
    const uint32_t two = Prmt(e0, e1, 0x5140u), more = Prmt(e2, e3, 0x5140u);
    *high = Prmt(two, more, 0x5410u);
    *low = Prmt(two, more, 0x7632u);
  }

 private:
  __device__ __forceinline__ uint32_t Entry(uint32_t word, int byte) const {
    return LoadShared4(ByteProduct(word, strides_[byte], mine_));
  }

  uint32_t mine_;
  uint32_t strides_[4];
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_CENTROID_TABLE_CUH_
