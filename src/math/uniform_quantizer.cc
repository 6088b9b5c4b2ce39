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

namespace {

// Half of the derivative of the distortion, falling to rising at its minimum. Moving a threshold
// changes nothing to first order: both neighbours are as far away.
double Slope(int bits, double step) {
  const int half = 1 << (bits - 1);
  double sum = 0;
  for (int i = 0; i < half; ++i) {
    const double a = i * step;
    const double c = (i + 0.5) * step;
    double error = Density(a) - c * Tail(a);  // the integral of (u - c) f over the cell
    if (i + 1 < half) {
      const double b = (i + 1) * step;
      error -= Density(b) - c * Tail(b);
    }
    sum -= (i + 0.5) * error;
  }
  return sum;
}

}  // namespace

double OptimalUniformStep(int bits) {
  // By bisection of the slope, not by comparing distortions, which are flat at the minimum: the
  // step is a part of a format and must round to the same float everywhere.
  double low = 1e-3;
  double high = 4.0;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    (Slope(bits, middle) < 0 ? low : high) = middle;
  }
  return low;
}

}  // namespace turboquant
