#include "math/uniform_quantizer.h"

#include <cmath>

namespace turboquant {
namespace {

double Density(double u) { return std::exp(-0.5 * u * u) / std::sqrt(2 * 3.14159265358979323846); }

// P(U > u).
double Tail(double u) { return 0.5 * std::erfc(u / std::sqrt(2.0)); }

}  // namespace

double UniformDistortion(int bits, double step) {
  // Over a cell [a, b) with level c: the integral of (u - c)^2 f is (1 + c^2) (Tail(a) - Tail(b))
  // + (a - 2 c) f(a) - (b - 2 c) f(b).
  const int half = 1 << (bits - 1);
  double sum = 0;
  for (int i = 0; i < half; ++i) {
    const double a = i * step;
    const double c = (i + 0.5) * step;
    double cell = (1 + c * c) * Tail(a) + (a - 2 * c) * Density(a);
    if (i + 1 < half) {
      const double b = (i + 1) * step;
      cell -= (1 + c * c) * Tail(b) + (b - 2 * c) * Density(b);
    }
    sum += cell;
  }
  return 2 * sum;
}

double OptimalUniformStep(int bits) {
  // Golden section; the distortion has one minimum.
  const double ratio = 0.5 * (std::sqrt(5.0) - 1);
  double low = 0;
  double high = 4.0 / std::sqrt(static_cast<double>(1 << bits));
  for (int i = 0; i < 80; ++i) {
    const double left = high - ratio * (high - low);
    const double right = low + ratio * (high - low);
    if (UniformDistortion(bits, left) < UniformDistortion(bits, right)) {
      high = right;
    } else {
      low = left;
    }
  }
  return 0.5 * (low + high);
}

}  // namespace turboquant
