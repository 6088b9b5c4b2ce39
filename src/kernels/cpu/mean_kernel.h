// Products of query rows with a stored key mean, on the vectors of the including translation unit
// (one of vec_*.h and codec_kernels.h must come first; the linking rule is in vec_avx512.h).
#ifndef TURBOQUANT_KERNELS_CPU_MEAN_KERNEL_H_
#define TURBOQUANT_KERNELS_CPU_MEAN_KERNEL_H_

#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

// kLanes steps as floats, times 2^24: a signed byte is the upper end of a dword.
TQ_INLINE FloatVec LoadSteps(const uint8_t* steps) {
  return ToFloats(ShiftLeft<24>(LoadBytes(steps)));
}

// Products of four rows with the mean.
TQ_INLINE void FourProducts(const float* const* rows, const float* mean, int head_dim, float* out) {
  FloatVec sum[4];
  for (int r = 0; r < 4; ++r) sum[r] = Zero();
  for (int i = 0; i < head_dim; i += kLanes) {
    const FloatVec x = Load(mean + i);
    for (int r = 0; r < 4; ++r) sum[r] = Fma(Load(rows[r] + i), x, sum[r]);
  }
  FoldFour(sum, out);
}

void MeanLogitsKernel(const int8_t* steps, const uint16_t* step_sizes, int head_dim, const float* q,
                      int rows, float* out) {
  alignas(64) float mean[kMaxHeadDim];
  const auto* bytes = reinterpret_cast<const uint8_t*>(steps);
  for (int i = 0; i < head_dim; i += 16) {
    const FloatVec size = Set(FromHalf(step_sizes[i / 16]) * 0x1p-24f);
    for (int k = i; k < i + 16; k += kLanes) Store(mean + k, Mul(LoadSteps(bytes + k), size));
  }
  for (int r = 0; r < rows; r += 4) {
    const int count = rows - r < 4 ? rows - r : 4;
    const float* row[4];
    for (int t = 0; t < 4; ++t) row[t] = q + static_cast<size_t>(t < count ? r + t : r) * head_dim;
    float products[4];
    FourProducts(row, mean, head_dim, products);
    for (int t = 0; t < count; ++t) out[r + t] = products[t];
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_MEAN_KERNEL_H_
