// Products of unsigned and signed bytes (vpdpbusd of AVX-512 VNNI and AVX-VNNI), for dots_avx512.h
// and dots_avxvnni.h. Queries are 128 high + low, both signed; weights 256 high + low, both
// unsigned. The unsigned factor is the step of keys, with an offset, and the weight of values.
#ifndef TURBOQUANT_KERNELS_CPU_DOTS_OF_BYTES_H_
#define TURBOQUANT_KERNELS_CPU_DOTS_OF_BYTES_H_

#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

template <TileForm kForm>
constexpr int kStepOffset = kForm == TileForm::kKeys ? 128 : 0;

constexpr float kWeightSteps = 65024;  // 254 * 256: the largest weight

// ---- products ----

struct Operand {
  IntVec high;
  IntVec low;
};
TQ_INLINE IntVec SetDword(const uint8_t* p) {
  int32_t value;
  memcpy(&value, p, 4);
  return SetInt(value);
}
TQ_INLINE Operand LoadOperand(const uint8_t* first, const uint8_t* second) {
  return {SetDword(first), SetDword(second)};
}

struct Steps {
  IntVec bytes;
};
TQ_INLINE Steps StepsOf(IntVec bytes) { return {bytes}; }

struct Sum {
  IntVec high;
  IntVec low;
};
TQ_INLINE Sum ZeroSum() { return {ZeroInt(), ZeroInt()}; }

template <TileForm kForm>
TQ_INLINE void AddProducts(Sum* sum, const Steps& steps, const Operand& operand) {
  if constexpr (kForm == TileForm::kKeys) {
    sum->high = AddDots(sum->high, steps.bytes, operand.high);
    sum->low = AddDots(sum->low, steps.bytes, operand.low);
  } else {
    sum->high = AddDots(sum->high, operand.high, steps.bytes);
    sum->low = AddDots(sum->low, operand.low, steps.bytes);
  }
}
// Still with the offsets of the steps. May wrap where the sum without them does not.
template <TileForm kForm>
TQ_INLINE IntVec Total(const Sum& sum) {
  return AddInts(ShiftLeft < kForm == TileForm::kKeys ? 7 : 8 > (sum.high), sum.low);
}

// ---- products with steps of two bytes, 128 high + low ----

// What the table of low bytes holds: this times low, plus kStepOffset.
template <TileForm kForm>
constexpr int kLowFactor = kForm == TileForm::kKeys ? 1 : 2;

struct WideSum {
  IntVec high;
  IntVec low;
};
TQ_INLINE WideSum ZeroWideSum() { return {ZeroInt(), ZeroInt()}; }

// Keys: high by high; high by low and low by high. (128 high + low) (256 w + w') = 128 (256 high w
// + high w' + 2 low w) + low w'. What is left, low by low, is below the rounding.
template <TileForm kForm>
TQ_INLINE void AddWideProducts(WideSum* sum, const Steps& high, const Steps& low,
                               const Operand& operand) {
  if constexpr (kForm == TileForm::kKeys) {
    sum->high = AddDots(sum->high, high.bytes, operand.high);
    sum->low = AddDots(sum->low, high.bytes, operand.low);
    sum->low = AddDots(sum->low, low.bytes, operand.high);
  } else {
    sum->high = AddDots(sum->high, operand.high, high.bytes);
    sum->low = AddDots(sum->low, operand.low, high.bytes);
    sum->low = AddDots(sum->low, operand.high, low.bytes);
  }
}
// Without the offsets of the steps; `sum` and `sum_first` are those of the query or the weights.
template <TileForm kForm>
TQ_INLINE FloatVec WideTotal(const WideSum& sum, int total, int total_first) {
  if constexpr (kForm == TileForm::kKeys) {
    const int total_low = total - 128 * total_first;
    const IntVec high = SubInts(sum.high, SetInt(128 * total_first));
    const IntVec low = SubInts(sum.low, SetInt(128 * (total_first + total_low)));
    return Fma(ToFloats(high), Set(16384.0f), Mul(ToFloats(low), Set(128.0f)));
  } else {
    return Mul(ToFloats(AddInts(ShiftLeft<8>(sum.high), sum.low)), Set(128.0f));
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_DOTS_OF_BYTES_H_
