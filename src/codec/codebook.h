// Lloyd-Max codebooks of N(0,1): centroids and thresholds by index width.
//
// The numbers live in the generated codebook_tables.inc and nowhere else (tools/make_codebooks,
// checked by regeneration in the tests).
#ifndef TURBOQUANT_CODEC_CODEBOOK_H_
#define TURBOQUANT_CODEC_CODEBOOK_H_

#include "base/host_device.h"

namespace turboquant {

// Defines kCentroids1/2/3/4/8 and kThresholds1/2/3/4/8: ascending, unit variance. Those of 2, 3
// and 4 bits lie on a byte grid, kCentroids = kCentroidUnit * kCentroidSteps (|steps| <= 126), so
// that integer kernels are exact and not an approximation of the format (docs/adr/0005).
#define TQ_CODEBOOK_TABLE inline constexpr
#include "codec/codebook_tables.inc"
#undef TQ_CODEBOOK_TABLE

#ifdef __CUDACC__
// The same tables where device code can take their address.
namespace codebook_device {
#define TQ_CODEBOOK_TABLE [[maybe_unused]] static __device__ const
#include "codec/codebook_tables.inc"
#undef TQ_CODEBOOK_TABLE
}  // namespace codebook_device
#endif

// 2^bits centroids, ascending. bits in {1, 2, 3, 4, 8}.
TQ_HD inline const float* Centroids(int bits) {
#ifdef __CUDA_ARCH__
  return bits == 2   ? codebook_device::kCentroids2
         : bits == 3 ? codebook_device::kCentroids3
         : bits == 4 ? codebook_device::kCentroids4
         : bits == 1 ? codebook_device::kCentroids1
                     : codebook_device::kCentroids8;
#else
  return bits == 2   ? kCentroids2
         : bits == 3 ? kCentroids3
         : bits == 4 ? kCentroids4
         : bits == 1 ? kCentroids1
                     : kCentroids8;
#endif
}

// 2^bits - 1 thresholds, ascending: the midpoints of neighbouring centroids.
TQ_HD inline const float* Thresholds(int bits) {
#ifdef __CUDA_ARCH__
  return bits == 2   ? codebook_device::kThresholds2
         : bits == 3 ? codebook_device::kThresholds3
         : bits == 4 ? codebook_device::kThresholds4
         : bits == 1 ? codebook_device::kThresholds1
                     : codebook_device::kThresholds8;
#else
  return bits == 2   ? kThresholds2
         : bits == 3 ? kThresholds3
         : bits == 4 ? kThresholds4
         : bits == 1 ? kThresholds1
                     : kThresholds8;
#endif
}

// centroid = CentroidUnit(bits) * CentroidSteps(bits)[code]. bits in {2, 3, 4}.
TQ_HD inline const signed char* CentroidSteps(int bits) {
#ifdef __CUDA_ARCH__
  return bits == 2   ? codebook_device::kCentroidSteps2
         : bits == 3 ? codebook_device::kCentroidSteps3
                     : codebook_device::kCentroidSteps4;
#else
  return bits == 2 ? kCentroidSteps2 : bits == 3 ? kCentroidSteps3 : kCentroidSteps4;
#endif
}

TQ_HD inline float CentroidUnit(int bits) {
#ifdef __CUDA_ARCH__
  return bits == 2   ? codebook_device::kCentroidUnit2[0]
         : bits == 3 ? codebook_device::kCentroidUnit3[0]
                     : codebook_device::kCentroidUnit4[0];
#else
  return bits == 2 ? kCentroidUnit2[0] : bits == 3 ? kCentroidUnit3[0] : kCentroidUnit4[0];
#endif
}

// The codebook of one row: the tables above, or others with the same properties (ascending,
// symmetric, unit variance, thresholds halfway).
struct CodebookView {
  int bits;
  const float* centroids;   // [2^bits]
  const float* thresholds;  // [2^bits - 1]
};

TQ_HD inline CodebookView GaussCodebook(int bits) {
  return {bits, Centroids(bits), Thresholds(bits)};
}

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_CODEBOOK_H_
