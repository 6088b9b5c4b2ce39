// SplitMix64 (Steele, Lea, Flood 2014): the one generator behind every seeded choice, so that the
// same seed gives the same rotation on every platform.
#ifndef TURBOQUANT_BASE_RNG_H_
#define TURBOQUANT_BASE_RNG_H_

#include <cmath>
#include <cstdint>

namespace turboquant {

class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15ull;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  // Uniform in (0, 1).
  double Uniform() { return (static_cast<double>(Next() >> 11) + 0.5) * 0x1.0p-53; }

  // Standard normal, Box-Muller (one of the pair, so that draws are independent of call parity).
  double Normal() {
    const double radius = std::sqrt(-2.0 * std::log(Uniform()));
    return radius * std::cos(6.283185307179586 * Uniform());
  }

 private:
  uint64_t state_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_BASE_RNG_H_
