// How far a decoded row is from the row: the sums behind every figure of distortion.
#ifndef TURBOQUANT_EVAL_ROW_ERROR_H_
#define TURBOQUANT_EVAL_ROW_ERROR_H_

namespace turboquant {

struct RowError {
  double error = 0;   // |x - x~|^2
  double energy = 0;  // |x|^2
  double relative() const { return error / energy; }
};

inline RowError MeasureRowError(const float* x, const float* decoded, int d) {
  RowError sums;
  for (int i = 0; i < d; ++i) {
    const double miss = static_cast<double>(x[i]) - decoded[i];
    sums.error += miss * miss;
    sums.energy += static_cast<double>(x[i]) * x[i];
  }
  return sums;
}

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_ROW_ERROR_H_
