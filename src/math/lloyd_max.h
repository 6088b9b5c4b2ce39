// Lloyd-Max: the scalar quantiser of least mean squared error for a known density (S. P. Lloyd,
// "Least squares quantization in PCM", 1957/1982; J. Max, "Quantizing for minimum distortion",
// 1960). TurboQuant (arXiv 2504.19874, section 3.1) quantises every coordinate of a rotated unit
// vector with it.
//
// The optimum satisfies, for cells [t_{i-1}, t_i) with t_0 = -inf and t_N = +inf,
//   c_i = E[u | t_{i-1} < u < t_i]      (centroid)      t_i = (c_i + c_{i+1}) / 2   (nearest)
// which for a log-concave density has exactly one solution (Fleischer 1964).
#ifndef TURBOQUANT_MATH_LLOYD_MAX_H_
#define TURBOQUANT_MATH_LLOYD_MAX_H_

#include <vector>

#include "base/status.h"

namespace turboquant {

struct LloydMaxCodebook {
  std::vector<double> centroids;   // 2^bits, ascending, symmetric about 0
  std::vector<double> thresholds;  // 2^bits - 1, ascending; the middle one is exactly 0
  double distortion = 0;           // E[(u - c(u))^2]; the variance of u is 1
  double entropy = 0;              // of the index, in bits
};

// `dimension` that stands for the limit d -> infinity, N(0, 1).
inline constexpr int kGaussianMarginal = 0;

// The codebook of 2^bits levels, bits in [1, 8], for one of two densities of variance 1:
//   dimension == kGaussianMarginal   f(u) = exp(-u^2 / 2) / sqrt(2 pi)
//   dimension in [4, 65536]          f(u) ~ (1 - u^2 / d)^((d - 3) / 2), |u| <= sqrt(d): sqrt(d)
//                                    times one coordinate of a uniform point of the unit sphere
// Both conditions above hold to 1e-13 in what is returned.
Result<LloydMaxCodebook> SolveLloydMax(int bits, int dimension);

// The same quantiser with centroids on a grid of whole steps, so that integer dot products with the
// codes are exact: centroids[i] = unit * steps[i].
struct GridCodebook {
  std::vector<int> steps;          // ascending, antisymmetric, |steps| <= kMaxGridStep
  double unit = 0;
  LloydMaxCodebook book;           // its centroids and thresholds; distortion within 0.1 % of the
                                   // optimum for 2 to 4 bits of N(0, 1)
};

// Leaves room for a sum of one more in a signed byte.
inline constexpr int kMaxGridStep = 126;

// Of all peaks in [64, kMaxGridStep], the grid of least distortion: every centroid rounded to it,
// the unit refined until E[u c] = E[c^2]. bits in [1, 4]: finer codebooks do not fit a byte.
Result<GridCodebook> SolveGridCodebook(int bits, int dimension);

}  // namespace turboquant

#endif  // TURBOQUANT_MATH_LLOYD_MAX_H_
