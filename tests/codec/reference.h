// What the codec tests compare against, derived here from the definitions and from no line of src.
#ifndef TURBOQUANT_TESTS_CODEC_REFERENCE_H_
#define TURBOQUANT_TESTS_CODEC_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "base/rng.h"

namespace turboquant::testing {

inline constexpr int kHeadDims[] = {64, 80, 96, 112, 128, 192, 256, 512, 576};

// The integral of f over [lo, hi] by Simpson's rule.
template <typename F>
double Integral(F f, double lo, double hi, int intervals = 200) {
  const double h = (hi - lo) / intervals;
  double sum = f(lo) + f(hi);
  for (int i = 1; i < intervals; ++i) sum += f(lo + i * h) * (i % 2 == 1 ? 4 : 2);
  return sum * h / 3;
}

inline double GaussDensity(double u) {
  return std::exp(-0.5 * u * u) / std::sqrt(2 * 3.14159265358979323846);
}

// sqrt(d) times one coordinate of a uniform point of the unit sphere of R^d.
inline double SphereDensity(double u, int d) {
  const double base = 1 - u * u / d;
  if (base <= 0) return 0;
  const double log_scale = std::lgamma(0.5 * d) - std::lgamma(0.5 * (d - 1)) -
                           0.5 * std::log(3.14159265358979323846 * d);
  return std::exp(log_scale + 0.5 * (d - 3) * std::log(base));
}

// E[g(u, centroid of u)] under a density, cell by cell so that every piece is smooth.
template <typename Density, typename G>
double CodeExpectation(const float* centroids, int levels, Density density, G g) {
  double sum = 0;
  for (int i = 0; i < levels; ++i) {
    const double c = centroids[i];
    const double lo = i == 0 ? -9.0 : 0.5 * (c + centroids[i - 1]);
    const double hi = i + 1 == levels ? 9.0 : 0.5 * (c + centroids[i + 1]);
    sum += Integral([&](double u) { return density(u) * g(u, c); }, lo, hi);
  }
  return sum;
}

// n values, a sample of N(0, 1), divided by their norm: uniform on the unit sphere.
inline std::vector<float> UnitRow(int n, SplitMix64* random) {
  std::vector<double> x(n);
  double energy = 0;
  for (double& v : x) {
    v = random->Normal();
    energy += v * v;
  }
  std::vector<float> row(n);
  for (int i = 0; i < n; ++i) row[i] = static_cast<float>(x[i] / std::sqrt(energy));
  return row;
}

// The row of the golden bytes: exact in binary32, with a few large channels.
inline std::vector<float> GoldenInput(int d) {
  std::vector<float> x(d);
  for (int i = 0; i < d; ++i) {
    x[i] = static_cast<float>((37 * i + 11) % 101 - 50) / 16 * (i % 29 == 3 ? 8 : 1);
  }
  return x;
}

inline std::string Hex(const std::vector<uint8_t>& bytes) {
  std::string text;
  for (uint8_t b : bytes) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

inline double Norm(const std::vector<float>& x) {
  double energy = 0;
  for (float v : x) energy += static_cast<double>(v) * v;
  return std::sqrt(energy);
}

}  // namespace turboquant::testing

#endif  // TURBOQUANT_TESTS_CODEC_REFERENCE_H_
