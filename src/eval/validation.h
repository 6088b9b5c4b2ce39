// Measures every codec against theory: what `turboquant validate` runs.
//
// All random numbers come from fixed seeds, so figures are the same on every machine and for any
// number of threads; only times differ.
#ifndef TURBOQUANT_EVAL_VALIDATION_H_
#define TURBOQUANT_EVAL_VALIDATION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"

namespace turboquant {

struct ValidationOptions {
  int rows = 100000;  // of a distortion cell, 1000 .. 10^7; slower measurements take a share
  int threads = 1;
  bool timing = true;
  // Called from any thread, one at a time, with the share of the work that is done, 0 .. 1.
  std::function<void(double done, const std::string& what)> progress;
};

// One figure against its bound.
struct ValidationCheck {
  // "lloyd-max", "distortion", "codebook" (distortion with the Gaussian table over that with the
  // exact one), "inner product", "slope", "projection", "projection bias", "shannon"
  std::string group;
  std::string subject;  // a codec's spec, or "3 bits"
  int head_dim = 0;
  uint64_t samples = 0;
  double measured = 0;
  double expected = 0;  // theory; 0: there is none, only the bounds
  double low = 0;       // what it must be within
  double high = 0;
  bool ok() const { return measured >= low && measured <= high; }
};

// One codec in the plane of rate and distortion.
struct RatePoint {
  std::string spec;
  std::string family;  // "scalar", "trellis", "product", ...
  int head_dim = 0;
  uint64_t samples = 0;
  double bits_per_value = 0;  // everything stored
  double distortion = 0;      // E |x - x~|^2 / |x|^2
  double shannon = 0;         // 4^-bits_per_value
  double bias = 0;            // 1 - slope of estimated over true inner products
  double encode_ns = 0;       // a row, fastest kernels, one thread, median; 0: not measured
  double decode_ns = 0;
  double inner_product_ns = 0;
};

struct ValidationResult {
  std::vector<ValidationCheck> checks;
  std::vector<RatePoint> rate;
  double seconds = 0;
  int threads = 0;
  int rows = 0;
  bool ok() const;
};

inline constexpr int kValidationDims[] = {64, 80, 128, 256, 576};
inline constexpr int kRateDim = 128;

Result<ValidationResult> Validate(const ValidationOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_VALIDATION_H_
