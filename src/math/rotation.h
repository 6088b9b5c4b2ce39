// Rotation: the seeded orthogonal map that spreads a row's energy evenly over its coordinates
// before scalar quantisation (TurboQuant, arXiv 2504.19874, section 3.1).
//
//   R x = norm * (M (x) H) (signs . x),   head_dim = m * n, m odd, n = 2^k
//
// H is the n-point Walsh-Hadamard butterfly (natural order), M an orthonormal m x m DCT-II matrix
// acting across the m blocks of n values, signs random +-1: sign i is -1 where the top bit of the
// i-th draw of SplitMix64(seed) is set. Never padded, orthogonal for every head_dim. Coordinate i =
// a * n + b has block index a < m and position b < n.
//
// The order of operations below is part of the format: codes are bit-exact on every kernel only if
// every kernel adds in this order (no fused multiply-add).
#ifndef TURBOQUANT_MATH_ROTATION_H_
#define TURBOQUANT_MATH_ROTATION_H_

#include <cstdint>
#include <vector>

namespace turboquant {

// Plain pointers into a Rotation, for kernels.
struct RotationView {
  int head_dim;
  int m;               // odd part of head_dim
  int n;               // power-of-two part
  float norm;          // 1 / sqrt(n), rounded to float
  const float* signs;  // [head_dim] of +-1
  const float* mix;    // [m][m] row-major orthonormal; null when m == 1
};

class Rotation {
 public:
  // head_dim must satisfy SupportedHeadDim. The same (head_dim, seed) gives the same map
  // everywhere.
  Rotation(int head_dim, uint64_t seed);

  RotationView view() const {
    return {head_dim_, m_, n_, norm_, signs_.data(), mix_.empty() ? nullptr : mix_.data()};
  }
  int head_dim() const { return head_dim_; }

 private:
  int head_dim_;
  int m_;
  int n_;
  float norm_;
  std::vector<float> signs_;
  std::vector<float> mix_;
};

// The scalar truth. in and out are [head_dim]; they may be the same array.
//
// Rotate:   x . signs; butterflies of stride h = 1, 2, 4, ..., n/2 inside every block:
//           (a, b) -> (a + b, a - b); times norm; then, if m > 1, for every position b:
//           out[a'] = sum over a = 0..m-1, ascending, of mix[a'][a] * in[a] (mul, then add,
//           starting from 0).
// Unrotate: the transpose: if m > 1 out[a] = sum over a' ascending of mix[a'][a] * in[a']; then the
//           same butterflies; times norm; times signs.
void Rotate(const RotationView& r, const float* in, float* out);
void Unrotate(const RotationView& r, const float* in, float* out);

}  // namespace turboquant

#endif  // TURBOQUANT_MATH_ROTATION_H_
