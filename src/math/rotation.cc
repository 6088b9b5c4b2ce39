#include "math/rotation.h"

#include <cmath>
#include <cstddef>

#include "base/rng.h"

namespace turboquant {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kMaxBlocks = 64;  // m is odd and at most 63

// cos(pi r / (2 m)), with the argument folded into the first quadrant while it is an integer: the
// zeros are exact and the values symmetric on every platform.
double QuarterCos(int r, int m) {
  r %= 4 * m;
  if (r > 2 * m) r = 4 * m - r;
  if (r == m) return 0.0;
  return r < m ? std::cos(kPi * r / (2.0 * m)) : -std::cos(kPi * (2 * m - r) / (2.0 * m));
}

// The n-point butterflies of every block, in place.
void Butterflies(const RotationView& r, float* x) {
  for (int h = 1; h < r.n; h *= 2) {
    for (int start = 0; start < r.head_dim; start += 2 * h) {
      for (int i = start; i < start + h; ++i) {
        const float a = x[i];
        const float b = x[i + h];
        x[i] = a + b;
        x[i + h] = a - b;
      }
    }
  }
}

// out[i] = sum over j ascending of matrix(i, j) * in[j] across the m blocks, at every position.
void Mix(const RotationView& r, bool transpose, float* x) {
  float column[kMaxBlocks];
  for (int b = 0; b < r.n; ++b) {
    for (int a = 0; a < r.m; ++a) column[a] = x[a * r.n + b];
    for (int i = 0; i < r.m; ++i) {
      float sum = 0.0f;
      for (int j = 0; j < r.m; ++j) {
        sum = sum + r.mix[transpose ? j * r.m + i : i * r.m + j] * column[j];
      }
      x[i * r.n + b] = sum;
    }
  }
}

}  // namespace

Rotation::Rotation(int head_dim, uint64_t seed) : head_dim_(head_dim), m_(head_dim), n_(1) {
  while (m_ % 2 == 0 && m_ > 0) {
    m_ /= 2;
    n_ *= 2;
  }
  norm_ = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n_)));
  SplitMix64 random(seed);
  signs_.resize(static_cast<size_t>(head_dim));
  for (float& sign : signs_) sign = (random.Next() >> 63) != 0 ? -1.0f : 1.0f;
  if (m_ == 1) return;
  mix_.resize(static_cast<size_t>(m_) * m_);
  for (int i = 0; i < m_; ++i) {
    const double weight = std::sqrt((i == 0 ? 1.0 : 2.0) / m_);
    for (int j = 0; j < m_; ++j) {
      mix_[static_cast<size_t>(i) * m_ + j] =
          static_cast<float>(weight * QuarterCos((2 * j + 1) * i, m_));
    }
  }
}

void Rotate(const RotationView& r, const float* in, float* out) {
  for (int i = 0; i < r.head_dim; ++i) out[i] = in[i] * r.signs[i];
  Butterflies(r, out);
  for (int i = 0; i < r.head_dim; ++i) out[i] = out[i] * r.norm;
  if (r.m > 1) Mix(r, /*transpose=*/false, out);
}

void Unrotate(const RotationView& r, const float* in, float* out) {
  if (out != in) {
    for (int i = 0; i < r.head_dim; ++i) out[i] = in[i];
  }
  if (r.m > 1) Mix(r, /*transpose=*/true, out);
  Butterflies(r, out);
  for (int i = 0; i < r.head_dim; ++i) out[i] = out[i] * r.norm * r.signs[i];
}

}  // namespace turboquant
