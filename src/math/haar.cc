#include "math/haar.h"

#include <cmath>
#include <cstddef>

#include "base/rng.h"

namespace turboquant {
namespace {

std::vector<double> GaussianEntries(int d, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<double> entries(static_cast<size_t>(d) * d);
  for (double& x : entries) x = random.Normal();
  return entries;
}

double Dot(const double* a, const double* b, int d) {
  double lane[8] = {0};
  int i = 0;
  for (; i + 8 <= d; i += 8) {
    for (int l = 0; l < 8; ++l) lane[l] += a[i + l] * b[i + l];
  }
  for (; i < d; ++i) lane[i % 8] += a[i] * b[i];
  double sum = 0;
  for (double x : lane) sum += x;
  return sum;
}

}  // namespace

DenseMatrix DenseMatrix::Gaussian(int d, uint64_t seed) {
  DenseMatrix matrix(d);
  const std::vector<double> entries = GaussianEntries(d, seed);
  matrix.values_.assign(entries.begin(), entries.end());
  return matrix;
}

DenseMatrix DenseMatrix::Haar(int d, uint64_t seed) {
  DenseMatrix matrix(d);
  std::vector<double> q = GaussianEntries(d, seed);
  for (int i = 0; i < d; ++i) {
    double* row = q.data() + static_cast<size_t>(i) * d;
    // Gram-Schmidt, twice: the second round takes off what rounding left of the first.
    for (int round = 0; round < 2; ++round) {
      for (int k = 0; k < i; ++k) {
        const double* done = q.data() + static_cast<size_t>(k) * d;
        const double share = Dot(row, done, d);
        for (int j = 0; j < d; ++j) row[j] -= share * done[j];
      }
    }
    const double inverse = 1 / std::sqrt(Dot(row, row, d));
    for (int j = 0; j < d; ++j) row[j] *= inverse;
  }
  matrix.values_.assign(q.begin(), q.end());
  return matrix;
}

void DenseMatrix::Multiply(const float* in, float* out) const {
  for (int i = 0; i < d_; ++i) {
    const float* row = values_.data() + static_cast<size_t>(i) * d_;
    float lane[16] = {0};
    for (int j = 0; j < d_; ++j) lane[j % 16] = lane[j % 16] + row[j] * in[j];
    for (int width = 8; width > 0; width /= 2) {
      for (int l = 0; l < width; ++l) lane[l] = lane[l] + lane[l + width];
    }
    out[i] = lane[0];
  }
}

void DenseMatrix::MultiplyTransposed(const float* in, float* out) const {
  for (int j = 0; j < d_; ++j) out[j] = 0.0f;
  for (int i = 0; i < d_; ++i) {
    const float* row = values_.data() + static_cast<size_t>(i) * d_;
    for (int j = 0; j < d_; ++j) out[j] = out[j] + row[j] * in[i];
  }
}

}  // namespace turboquant
