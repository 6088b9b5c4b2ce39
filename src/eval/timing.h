// Repeated times of one thing, as the few numbers that are reported of them.
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
  double lower = 0;  // quartiles
  double upper = 0;
  int rounds = 0;

  // Half of the rounds lie within this share of the median or so; one bad round does not move it.
  double spread() const { return median > 0 ? (upper - lower) / 2 / median : 0; }
  Timing operator*(double factor) const {
    return {median * factor, min * factor, max * factor, lower * factor, upper * factor, rounds};
  }
};

// The value below which a share of the sorted samples lies, between neighbours in proportion.
inline double Quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

inline Timing Summarise(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {Quantile(samples, 0.5),  samples.front(),         samples.back(),
          Quantile(samples, 0.25), Quantile(samples, 0.75), static_cast<int>(samples.size())};
}

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_TIMING_H_
