// Rows to encode in the kernel tests, of all kinds that a codec treats in its own way.
#ifndef TURBOQUANT_TESTS_KERNELS_TEST_ROWS_H_
#define TURBOQUANT_TESTS_KERNELS_TEST_ROWS_H_

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "base/fp16.h"
#include "base/rng.h"
#include "math/rotation.h"

namespace turboquant {

// Rows that a case encodes. TURBOQUANT_TEST_ROWS=n says otherwise: 60000 makes 1e7 in all of
// codec_kernels_test.cc.
inline int RowsPerCase(int standard) {
  const char* rows = std::getenv("TURBOQUANT_TEST_ROWS");
  return rows != nullptr ? std::atoi(rows) : standard;
}

// Rows of many kinds; `kind` cycles through them.
inline void FillRow(int kind, const RotationView& r, SplitMix64* random, float* x) {
  const int d = r.head_dim;
  const auto position = [&] { return static_cast<int>(random->Next() % static_cast<uint64_t>(d)); };
  const auto fill = [&](float magnitude) {
    for (int i = 0; i < d; ++i) x[i] = magnitude * static_cast<float>(random->Normal());
  };
  const auto clear = [&] {
    for (int i = 0; i < d; ++i) x[i] = 0.0f;
  };
  const float magnitude = std::pow(10.0f, static_cast<float>(random->Uniform() * 60 - 30));
  switch (kind % 16) {
    case 0:
      return clear();
    case 1:  // subnormal
      for (int i = 0; i < d; ++i) x[i] = BitsToFloat(static_cast<uint32_t>(random->Next() >> 41));
      return;
    case 2:  // one value
      clear();
      x[position()] = magnitude;
      return;
    case 3:  // one rotated coordinate: every other one is (nearly) zero
      clear();
      x[position()] = magnitude;
      return Unrotate(r, x, x);
    case 4:
      fill(magnitude);
      x[position()] = std::numeric_limits<float>::quiet_NaN();
      return;
    case 5:
      fill(magnitude);
      x[position()] = (random->Next() & 1) != 0 ? INFINITY : -INFINITY;
      return;
    case 6:  // sums of small integers: rotated coordinates exactly zero, on the middle threshold
      for (int i = 0; i < d; ++i) x[i] = static_cast<float>(random->Next() % 5) - 2.0f;
      return;
    case 7:  // energy near and beyond the largest float
      return fill(std::pow(10.0f, static_cast<float>(16.0 + 3.0 * random->Uniform())));
    case 8:
      for (int i = 0; i < d; ++i) x[i] = (random->Next() & 1) != 0 ? FLT_MAX : -FLT_MAX;
      return;
    case 9:  // energy near and below the smallest float
      return fill(std::pow(10.0f, static_cast<float>(-24.0 + 4.0 * random->Uniform())));
    case 10:  // scale near and beyond the largest half
      return fill(65504.0f * (0.5f + static_cast<float>(random->Uniform())));
    case 11:
      for (int i = 0; i < d; ++i) x[i] = magnitude;
      return;
    default:
      return fill(random->Next() % 2 == 0 ? 1.0f : magnitude);
  }
}

}  // namespace turboquant

#endif  // TURBOQUANT_TESTS_KERNELS_TEST_ROWS_H_
