// The online softmax on the vectors of the including translation unit (one of vec_*.h must
// come first; the linking rule is in vec_avx512.h).
#ifndef TURBOQUANT_KERNELS_CPU_SOFTMAX_KERNEL_H_
#define TURBOQUANT_KERNELS_CPU_SOFTMAX_KERNEL_H_

#include <string.h>

namespace turboquant {
namespace {

// Below this exp is not a normal float; it counts as zero, so that no subnormal is ever made.
constexpr float kExpUnderflow = -87.33654f;

// exp(x) = 2^exponent * (1 + fraction), |fraction| <= sqrt(2) - 1; x in [kExpUnderflow, 88].
struct ExpParts {
  FloatVec exponent;
  FloatVec fraction;
};
TQ_INLINE ExpParts SplitExp(FloatVec x) {
  const FloatVec n = Round(Mul(x, Set(1.44269504f)));
  // ln 2 in two parts, the first of few enough bits that n times it is exact.
  FloatVec r = Fma(n, Set(-0.693359375f), x);
  r = Fma(n, Set(2.12194440e-4f), r);
  // r + r^2 g(r): the degree-4 minimax g of (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2, relative
  // error of exp 3.1e-9 before rounding.
  FloatVec g = Set(1.38144672e-3f);
  g = Fma(g, r, Set(8.36878084e-3f));
  g = Fma(g, r, Set(4.16683927e-2f));
  g = Fma(g, r, Set(1.66665196e-1f));
  g = Fma(g, r, Set(0.49999994f));
  return {n, Fma(Mul(r, r), g, r)};
}

// exp of x <= 0, also of -inf.
TQ_INLINE FloatVec ExpNegative(FloatVec x) {
  const FloatVec floor = Set(kExpUnderflow);
  const ExpParts e = SplitExp(Max(x, floor));
  const FloatVec power = PowerOfTwo(e.exponent);
  return WhereGreater(x, floor, Fma(power, e.fraction, power));
}

// tanh(|x|) = (1 - exp(-2|x|)) / (1 + exp(-2|x|)), the numerator without cancellation near zero.
TQ_INLINE FloatVec Tanh(FloatVec x) {
  const FloatVec y = Max(Mul(AndNotSign(x), Set(-2.0f)), Set(-40.0f));
  const ExpParts e = SplitExp(y);
  const FloatVec power = PowerOfTwo(e.exponent);
  const FloatVec minus_one = Fma(power, e.fraction, Sub(power, Set(1.0f)));  // exp(y) - 1
  return CopySign(Div(minus_one, Add(minus_one, Set(2.0f))), x);
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

// `lanes` values of s, capped and biased; lanes beyond are of no use.
TQ_INLINE FloatVec Logits(const float* s, float add, const float* bias, float softcap, int lanes) {
  const bool whole = lanes == kLanes;
  FloatVec x = Add(whole ? Load(s) : LoadFirst(s, lanes), Set(add));
  if (softcap > 0.0f) x = Mul(Set(softcap), Tanh(Div(x, Set(softcap))));
  if (bias != nullptr) x = Add(x, whole ? Load(bias) : LoadFirst(bias, lanes));
  return x;
}

float SoftmaxKernel(float* s, int n, float add, const float* bias, float softcap, float* m,
                    float* l) {
  const float infinity = __builtin_inff();
  const int whole = n / kLanes * kLanes;
  const int rest = n - whole;
  FloatVec top = Set(*m);
  if (bias != nullptr || softcap > 0.0f || add != 0.0f) {
    for (int j = 0; j < whole; j += kLanes) {
      const FloatVec x = Logits(s + j, add, bias != nullptr ? bias + j : nullptr, softcap, kLanes);
      Store(s + j, x);
      top = Max(top, x);
    }
    if (rest > 0) {
      const FloatVec x =
          Logits(s + whole, add, bias != nullptr ? bias + whole : nullptr, softcap, rest);
      StoreFirst(s + whole, x, rest);
    }
  } else {
    for (int j = 0; j < whole; j += kLanes) top = Max(top, Load(s + j));
  }
  float peak = MaxOfLanes(top);
  for (int j = whole; j < n; ++j) peak = s[j] > peak ? s[j] : peak;
  if (peak == -infinity) {  // nothing visible so far: -inf - -inf must not become NaN
    memset(s, 0, static_cast<size_t>(n) * sizeof(float));
    return 1.0f;
  }
  FloatVec sum = Zero();
  const FloatVec shift = Set(peak);
  // Logits further below the peak than this weigh zero; masked vectors skip the exponential.
  const FloatVec floor = Set(kExpUnderflow);
  for (int j = 0; j < whole; j += kLanes) {
    const FloatVec x = Sub(Load(s + j), shift);
    if (!AnyGreater(x, floor)) {
      Store(s + j, Zero());
      continue;
    }
    const FloatVec e = ExpNegative(x);
    Store(s + j, e);
    sum = Add(sum, e);
  }
  if (rest > 0) {
    const FloatVec e = ExpNegative(Sub(LoadFirst(s + whole, rest), shift));
    StoreFirst(s + whole, e, rest);
    sum = Add(sum, LoadFirst(s + whole, rest));
  }
  Sum16 total;
  total.part[0] = sum;
  for (int v = 1; v < kVecsOf16; ++v) total.part[v] = Zero();
  float factor = 1.0f;
  if (*m != peak) {
    alignas(64) float lane[kLanes];
    Store(lane, ExpNegative(Set(*m - peak)));
    factor = lane[0];
  }
  *l = *l * factor + Fold(total);
  *m = peak;
  return factor;
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_SOFTMAX_KERNEL_H_
