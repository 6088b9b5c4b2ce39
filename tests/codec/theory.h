// What a codec's distortion must be, derived here from the density of a row's coordinates.
//
// In units of the row's rms, with A = <u,c>/d and B = <c,c>/d over a row uniform on the sphere of
// radius sqrt(d), the relative distortion of the four scales is
//   least squares 1 - A^2/B,   norm 1 - 2A + B,   matched 2 - 2A/sqrt(B),   unbiased B/A^2 - 1.
// Its expectation follows to second order from the means of A and B (one-dimensional integrals over
// the exact marginal) and their covariance. To leading order that is what it is for independent
// coordinates, less what each shares with u^2: holding |u|^2 = d removes it.
#ifndef TURBOQUANT_TESTS_CODEC_THEORY_H_
#define TURBOQUANT_TESTS_CODEC_THEORY_H_

#include <cmath>
#include <vector>

#include "codec/codebook.h"
#include "codec/scalar_codec.h"
#include "tests/codec/reference.h"

namespace turboquant::testing {

// E[g(u, code of u)] with the cells given by thresholds halfway between the centroids.
struct CodeMoments {
  double a, b;                                       // means of u c and c c, exact marginal
  double uc, cc, uc_uc, uc_cc, cc_cc, uc_uu, cc_uu;  // Gaussian: means, and covariances
};

inline CodeMoments MomentsOf(const float* centroids, int levels, int d) {
  const auto sphere = [d](double u) { return SphereDensity(u, d); };
  const auto mean = [&](auto g) { return CodeExpectation(centroids, levels, GaussDensity, g); };
  CodeMoments m;
  m.a = CodeExpectation(centroids, levels, sphere, [](double u, double c) { return u * c; });
  m.b = CodeExpectation(centroids, levels, sphere, [](double, double c) { return c * c; });
  m.uc = mean([](double u, double c) { return u * c; });
  m.cc = mean([](double, double c) { return c * c; });
  m.uc_uc = mean([](double u, double c) { return u * c * u * c; }) - m.uc * m.uc;
  m.uc_cc = mean([](double u, double c) { return u * c * c * c; }) - m.uc * m.cc;
  m.cc_cc = mean([](double, double c) { return c * c * c * c; }) - m.cc * m.cc;
  m.uc_uu = mean([](double u, double c) { return u * c * (u * u - 1); });
  m.cc_uu = mean([](double u, double c) { return c * c * (u * u - 1); });
  return m;
}

// Of a row of which every part has the same number of coordinates, coded with parts[i].
inline double ExpectedDistortion(const std::vector<CodeMoments>& parts, int d, ScaleRule rule) {
  double a = 0, b = 0, aa = 0, ab = 0, bb = 0, au = 0, bu = 0;
  for (const CodeMoments& m : parts) {
    const double share = 1.0 / static_cast<double>(parts.size());
    a += share * m.a;
    b += share * m.b;
    aa += share * m.uc_uc;
    ab += share * m.uc_cc;
    bb += share * m.cc_cc;
    au += share * m.uc_uu;
    bu += share * m.cc_uu;
  }
  aa = (aa - au * au / 2) / d;
  ab = (ab - au * bu / 2) / d;
  bb = (bb - bu * bu / 2) / d;
  switch (rule) {
    case ScaleRule::kNorm:
      return 1 - 2 * a + b;
    case ScaleRule::kMatched:
      return 2 - 2 * a / std::sqrt(b) * (1 - ab / (2 * a * b) + 3 * bb / (8 * b * b));
    case ScaleRule::kUnbiased:
      return b / (a * a) * (1 - 2 * ab / (a * b) + 3 * aa / (a * a)) - 1;
    default:
      return 1 - a * a / b * (1 + aa / (a * a) - 2 * ab / (a * b) + bb / (b * b));
  }
}

inline double ExpectedDistortion(int bits, int d, ScaleRule rule = ScaleRule::kLeastSquares) {
  return ExpectedDistortion({MomentsOf(Centroids(bits), 1 << bits, d)}, d, rule);
}

}  // namespace turboquant::testing

#endif  // TURBOQUANT_TESTS_CODEC_THEORY_H_
