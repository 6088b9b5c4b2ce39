// The online softmax on the vectors of the including translation unit (one of vec_*.h must
// come first; the linking rule is in vec_avx512.h).
#ifndef TURBOQUANT_KERNELS_CPU_SOFTMAX_KERNEL_H_
#define TURBOQUANT_KERNELS_CPU_SOFTMAX_KERNEL_H_

#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

// Below this exp is not a normal float; it counts as zero, so that no subnormal is ever made.
constexpr float kExpUnderflow = -87.33654f;

// The degree-4 minimax g of exp(r) = 1 + r + r^2 g(r) on |r| <= ln(2) / 2, relative error of exp
// 3.1e-9 before rounding.
TQ_INLINE FloatVec ExpTail(FloatVec r) {
  FloatVec g = Set(1.38144672e-3f);
  g = Fma(g, r, Set(8.36878084e-3f));
  g = Fma(g, r, Set(4.16683927e-2f));
  g = Fma(g, r, Set(1.66665196e-1f));
  return Fma(g, r, Set(0.49999994f));
}

// exp of x <= 0, also of -inf. The relative error is that of a few roundings and 2.8e-9 |x|, that
// of ln 2 in one float.
TQ_INLINE FloatVec ExpNegative(FloatVec x) {
  // Added to this, a small float is rounded to an integer, which then stands in the lowest bits.
  const FloatVec rounder = Set(12582912.0f);
  const FloatVec shifted = Fma(x, Set(1.44269504f), rounder);
  const FloatVec r = Fma(Sub(shifted, rounder), Set(-0.69314718f), x);
  const FloatVec one = Set(1.0f);
  const FloatVec power = Fma(Fma(ExpTail(r), r, one), r, one);
  return WhereGreater(x, Set(kExpUnderflow), AddToExponent(power, shifted));
}

// tanh(|x|) = (1 - exp(-2|x|)) / (1 + exp(-2|x|)), the numerator without cancellation near zero.
TQ_INLINE FloatVec Tanh(FloatVec x) {
  const FloatVec y = Max(Mul(AndNotSign(x), Set(-2.0f)), Set(-40.0f));
  const FloatVec n = Round(Mul(y, Set(1.44269504f)));
  // ln 2 in two parts, the first of few enough bits that n times it is exact.
  FloatVec r = Fma(n, Set(-0.693359375f), y);
  r = Fma(n, Set(2.12194440e-4f), r);
  const FloatVec power = PowerOfTwo(n);
  const FloatVec fraction = Fma(Mul(r, r), ExpTail(r), r);
  const FloatVec minus_one = Fma(power, fraction, Sub(power, Set(1.0f)));  // exp(y) - 1
  return CopySign(Div(minus_one, Add(minus_one, Set(2.0f))), x);
}

bool SameValuesKernel(const uint16_t* x, int n) {
  constexpr int kValues = 2 * kLanes;  // of a vector
  const IntVec first = SetInt(static_cast<int>(x[0] * 0x10001u));
  IntVec differ = ZeroInt();
  int j = 0;
  for (; j + kValues <= n; j += kValues) {
    differ = Or(differ, Xor(LoadInt(reinterpret_cast<const uint32_t*>(x + j)), first));
  }
  bool same = !AnyNonZeroInt(differ);
  for (; j < n; ++j) same &= x[j] == x[0];
  return same;
}

bool MaskBiasKernel(const uint16_t* mask, const uint16_t* hidden, float slope, int n, float* bias) {
  const FloatVec nothing = Set(-__builtin_inff());
  const FloatVec factor = Set(slope);
  FloatVec top = nothing;
  int j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    FloatVec b = HalfLoad(hidden + j);
    if (mask != nullptr) b = Fma(HalfLoad(mask + j), factor, b);
    Store(bias + j, b);
    top = Max(top, b);
  }
  bool seen = AnyGreater(top, nothing);
  if (j < n) {
    FloatVec b = HalfLoadFirst(hidden + j, n - j);
    if (mask != nullptr) b = Fma(HalfLoadFirst(mask + j, n - j), factor, b);
    StoreFirst(bias + j, b, n - j);
    for (; j < n; ++j) seen |= bias[j] > -__builtin_inff();
  }
  return seen;
}

TQ_INLINE float LargestOf(const float* s, int n) {
  const int whole = n / kLanes * kLanes;
  FloatVec top = Set(-__builtin_inff());
  for (int j = 0; j < whole; j += kLanes) top = Max(top, Load(s + j));
  float largest = MaxOfLanes(top);
  for (int j = whole; j < n; ++j) largest = s[j] > largest ? s[j] : largest;
  return largest;
}

// s <- softcap * tanh((s + add) / softcap) + bias.
TQ_INLINE void AddBias(float* s, int n, float add, const float* bias, float softcap) {
  for (int j = 0; j < n; j += kLanes) {
    const int lanes = n - j < kLanes ? n - j : kLanes;
    FloatVec x = Add(LoadFirst(s + j, lanes), Set(add));
    if (softcap > 0.0f) x = Mul(Set(softcap), Tanh(Div(x, Set(softcap))));
    if (bias != nullptr) x = Add(x, LoadFirst(bias + j, lanes));
    StoreFirst(s + j, x, lanes);
  }
}

// s <- exp(s + add - peak). Returns their sum, in lanes.
TQ_INLINE FloatVec ExpRow(float* s, int n, float add, float peak) {
  const FloatVec adds = Set(add);
  const FloatVec shift = Set(peak);
  const int whole = n / kLanes * kLanes;
  const int rest = n - whole;
  FloatVec sum = Zero();
  for (int j = 0; j < whole; j += kLanes) {
    const FloatVec e = ExpNegative(Sub(Add(Load(s + j), adds), shift));
    Store(s + j, e);
    sum = Add(sum, e);
  }
  if (rest > 0) {
    const FloatVec e = ExpNegative(Sub(Add(LoadFirst(s + whole, rest), adds), shift));
    StoreFirst(s + whole, e, rest);
    sum = Add(sum, LoadFirst(s + whole, rest));
  }
  return sum;
}

// The rows of a call that go side by side, so that one's reductions run under another's
// exponentials.
constexpr int kSoftmaxRows = 4;

void SoftmaxRows(const LogitRows& x, int first, int rows) {
  const float infinity = __builtin_inff();
  float add[kSoftmaxRows];
  float peak[kSoftmaxRows];
  alignas(64) float change[kLanes] = {};
  for (int t = 0; t < rows; ++t) {
    const int r = first + t;
    float* s = x.s + static_cast<ptrdiff_t>(r) * x.ld;
    const float* bias = x.bias != nullptr ? x.bias[r / x.rows_per_bias] : nullptr;
    add[t] = x.add != nullptr ? x.add[r] : 0.0f;
    if (bias != nullptr || x.softcap > 0.0f) {
      AddBias(s, x.n, add[t], bias, x.softcap);
      add[t] = 0.0f;
    }
    // Rounding keeps order: the largest sum is that of the largest logit.
    const float top = LargestOf(s, x.n) + add[t];
    peak[t] = top > x.m[r] ? top : x.m[r];
    // Nothing visible so far: -inf - -inf must not become NaN.
    change[t] = peak[t] == -infinity ? 0.0f : x.m[r] - peak[t];
  }
  FloatVec sums[kSoftmaxRows];
  for (int t = 0; t < kSoftmaxRows; ++t) sums[t] = Zero();
  for (int t = 0; t < rows; ++t) {
    float* s = x.s + static_cast<ptrdiff_t>(first + t) * x.ld;
    sums[t] = ExpRow(s, x.n, add[t], peak[t] == -infinity ? 0.0f : peak[t]);
  }
  float sum[kSoftmaxRows];
  FoldFour(sums, sum);
  Store(change, ExpNegative(Load(change)));
  for (int t = 0; t < rows; ++t) {
    const int r = first + t;
    x.factor[r] = change[t];
    x.l[r] = x.l[r] * change[t] + sum[t];
    x.m[r] = peak[t];
  }
}

void SoftmaxKernel(const LogitRows& x) {
  for (int r = 0; r < x.rows; r += kSoftmaxRows) {
    SoftmaxRows(x, r, x.rows - r < kSoftmaxRows ? x.rows - r : kSoftmaxRows);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_SOFTMAX_KERNEL_H_
