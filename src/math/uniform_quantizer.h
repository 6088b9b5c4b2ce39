// The evenly spaced quantiser of least mean squared error for N(0, 1) (Max 1960, table II).
#ifndef TURBOQUANT_MATH_UNIFORM_QUANTIZER_H_
#define TURBOQUANT_MATH_UNIFORM_QUANTIZER_H_

namespace turboquant {

// E (u - c(u))^2 of 2^bits levels spaced by `step`, symmetric about 0, u ~ N(0, 1).
double UniformDistortion(int bits, double step);

// The step that makes it least. bits in [1, 8].
double OptimalUniformStep(int bits);

}  // namespace turboquant

#endif  // TURBOQUANT_MATH_UNIFORM_QUANTIZER_H_
