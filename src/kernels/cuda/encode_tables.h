// The search for a code as two table lookups and one comparison: the bin of a value on an even grid
// says which threshold, if any, lies in it. Host and device.
#ifndef TURBOQUANT_KERNELS_CUDA_ENCODE_TABLES_H_
#define TURBOQUANT_KERNELS_CUDA_ENCODE_TABLES_H_

#include <cmath>
#include <cstdint>

#include "base/fp16.h"
#include "codec/codebook.h"

namespace turboquant::cuda {

inline constexpr int kBins = 136;

// Values in the bin have the code of `offset` up to the threshold and the next one above it.
struct alignas(8) QuantizeBin {
  float threshold;  // infinite: none
  uint32_t offset;  // bytes in `centroids`
};

struct alignas(8) QuantizeCentroid {
  float value, square;
};

struct QuantizeTable {
  QuantizeBin bins[kBins];
  QuantizeCentroid centroids[16];
};

// Bins are a quarter wide, so no two thresholds share one; bin k is around (k - 68) / 4. A usable
// row of d values has |u| <= sqrt(d) and a bit, so 136 of them are enough up to d = 256.
inline constexpr float kBinUnit = 0x1p-22f;  // last bit of floats in [2, 4)

// Byte offset of u's bin in `bins`: u / (1/4) is rounded into the last bits of 2 + ..., whose other
// bits are shifted out.
TQ_HD inline uint32_t BinOffset(float u) {
  return FloatBits(fmaf(u, 4 * kBinUnit, 2.0f + kBins / 2 * kBinUnit)) << 3;
}

constexpr int BinOf(float u) {
  const float quarters = 4 * u;
  return kBins / 2 + static_cast<int>(quarters + (quarters < 0 ? -0.5f : 0.5f));
}

constexpr QuantizeTable MakeQuantizeTable(int bits, const float* centroids,
                                          const float* thresholds) {
  QuantizeTable table{};
  const int count = (1 << bits) - 1;
  for (int bin = 0; bin < kBins; ++bin) {
    int below = 0;
    table.bins[bin].threshold = HUGE_VALF;
    for (int i = 0; i < count; ++i) {
      if (BinOf(thresholds[i]) < bin) ++below;
      if (BinOf(thresholds[i]) == bin) table.bins[bin].threshold = thresholds[i];
    }
    table.bins[bin].offset = static_cast<uint32_t>(below * int{sizeof(QuantizeCentroid)});
  }
  for (int i = 0; i <= count; ++i) {
    table.centroids[i] = {centroids[i], centroids[i] * centroids[i]};
  }
  return table;
}

// By bits - 2.
#ifdef __CUDACC__
static __device__ const
#else
inline constexpr
#endif
    QuantizeTable kQuantizeTables[3] = {
        MakeQuantizeTable(2, kCentroids2, kThresholds2),
        MakeQuantizeTable(3, kCentroids3, kThresholds3),
        MakeQuantizeTable(4, kCentroids4, kThresholds4),
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ENCODE_TABLES_H_
