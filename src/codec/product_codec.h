// The scalar truth of turbo2q / turbo3q / turbo4q, the paper's product form (TurboQuant,
// arXiv 2504.19874, algorithm 2): scalar codes of b - 1 bits, then one bit a coordinate for the
// residual, a quantised Johnson-Lindenstrauss projection (QJL, arXiv 2406.03482).
//
// With y the rotated row, s c its decoded codes (s as stored, rounded to fp16):
//   r = y - s c        gamma = |r|, rounded to fp16       sigma_i = +1 where (S r)_i > 0, else -1
//   y~ = s c + gamma k S^T sigma        <q, y>~ = s <q, c> + gamma k <S q, sigma>
// k makes it unbiased: E over S of k S^T sigma = r / |r|.
//   S orthogonal, Haar:  k = 1 / (d E|u_1|), u uniform on the sphere
//                          = sqrt(pi) Gamma((d + 1) / 2) / (d Gamma(d / 2))
//                          = sqrt(pi / (2 d)) (1 - 1 / (4 d) + ...)
//   S Gaussian:          k = sqrt(pi / 2) / d          (the paper's)
// d times the variance of <q, y>~, |q| = 1, |y| = 1, is (pi/2 - 1) D and (pi/2) D, with D the
// distortion of the b - 1 bit codes. As an orthogonal S serves a second Walsh-Hadamard rotation
// with its own signs (or a dense one with rotation=haar).
//
// Bytes: fp16 s, fp16 gamma, codes of b - 1 bits, signs (bit 1: +1) laid out as 1-bit codes.
#ifndef TURBOQUANT_CODEC_PRODUCT_CODEC_H_
#define TURBOQUANT_CODEC_PRODUCT_CODEC_H_

#include <cmath>

#include "codec/codebook.h"

namespace turboquant {

// k of an orthogonal and of a Gaussian S.
inline float OrthogonalSignFactor(int d) {
  constexpr double kRootPi = 1.7724538509055160273;
  // Gamma((d + 1) / 2) / Gamma(d / 2) from d = 1 or 2 upwards in twos; lgamma would write a global.
  double ratio = d % 2 == 1 ? 1 / kRootPi : kRootPi / 2;
  for (int n = d % 2 == 1 ? 1 : 2; n < d; n += 2) ratio *= (n + 1.0) / n;
  return static_cast<float>(kRootPi / d * ratio);
}

inline float GaussianSignFactor(int d) {
  return static_cast<float>(std::sqrt(0.5 * 3.14159265358979323846) / d);
}

// The signs are codes of one bit: code 1 where the value is above 0.
inline constexpr float kSigns[] = {-1.0f, 1.0f};
inline constexpr float kSignThreshold[] = {0.0f};
inline constexpr CodebookView kSignBook = {1, kSigns, kSignThreshold};

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_PRODUCT_CODEC_H_
