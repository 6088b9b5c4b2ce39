// Repeated times of one thing, as the three numbers that are reported of them.
#ifndef TURBOQUANT_EVAL_TIMING_H_
#define TURBOQUANT_EVAL_TIMING_H_

#include <algorithm>
#include <cstddef>
#include <vector>

namespace turboquant {

struct Timing {
  double median = 0;
  double min = 0;
  double max = 0;
  int rounds = 0;

  // Half of what lies between the fastest and the slowest round, as a share of the median.
  double spread() const { return median > 0 ? (max - min) / 2 / median : 0; }
  Timing operator*(double factor) const {
    return {median * factor, min * factor, max * factor, rounds};
  }
};

inline Timing Summarise(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const size_t n = samples.size();
  const double middle = n % 2 == 1 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
  return {middle, samples.front(), samples.back(), static_cast<int>(n)};
}

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_TIMING_H_
