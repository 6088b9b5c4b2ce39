// What the energy of a row says of it, apart from the functions that measure it: kernels have their
// own.
#ifndef TURBOQUANT_CODEC_ROW_ENERGY_H_
#define TURBOQUANT_CODEC_ROW_ENERGY_H_

#include <cstdint>

namespace turboquant {

// Whether it can be coded.
enum class RowKind : uint8_t {
  kUsable,
  kZero,     // no energy, or too little for 1 / rms to be a float: stored as zeros
  kInvalid,  // NaN, Inf or an energy beyond float: stored as zeros, and reported
};

struct RowEnergy {
  RowKind kind;
  float energy;       // sum of squares
  float inverse_rms;  // what values are multiplied by before they are compared with thresholds
};

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_ROW_ENERGY_H_
