// A dense random rotation, uniform over the orthogonal group (Haar measure): the paper's rotation
// (TurboQuant, arXiv 2504.19874, section 3.1), d^2 operations a row where the Walsh-Hadamard
// rotation takes d log d. Also a matrix of independent N(0, 1) entries, the paper's projection.
#ifndef TURBOQUANT_MATH_HAAR_H_
#define TURBOQUANT_MATH_HAAR_H_

#include <cstdint>
#include <vector>

namespace turboquant {

// d x d, row-major.
class DenseMatrix {
 public:
  // Entries drawn row by row from SplitMix64(seed).Normal(), rounded to float.
  static DenseMatrix Gaussian(int d, uint64_t seed);
  // The Q of the QR decomposition with positive diagonal of R of the transpose of the same
  // matrix: its rows, made orthonormal one after the other in double, rounded to float.
  static DenseMatrix Haar(int d, uint64_t seed);

  int d() const { return d_; }
  const float* data() const { return values_.data(); }

  // out[i] = sum over j of (i, j) * in[j]: 16 lanes, term j to lane j % 16, folded by halves. in
  // and out do not overlap.
  void Multiply(const float* in, float* out) const;
  // out[j] = sum over i ascending of (i, j) * in[i].
  void MultiplyTransposed(const float* in, float* out) const;

 private:
  explicit DenseMatrix(int d) : d_(d) {}

  int d_;
  std::vector<float> values_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_MATH_HAAR_H_
