// The online softmax, and what makes its logits, against double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/fp16.h"
#include "base/rng.h"
#include "guarded_buffer.h"
#include "kernel_cases.h"

namespace turboquant {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kExpError = 2e-7;       // relative error of one exponential near zero
constexpr double kExpSlope = 3e-9;       // and how it grows with the distance
constexpr double kUnderflow = 1.18e-38;  // weights below the smallest normal float may be zero

struct State {
  float m = -kInfinity;
  float l = 0.0f;
};

class SoftmaxTest : public testing::TestWithParam<const KernelTable*> {
 protected:
  // Runs one block and checks it against double. `cap_error`: how far the capped logits may be off.
  void Check(const std::vector<float>& logits, const std::vector<float>& bias, float softcap,
             State* state, float add = 0.0f) {
    const size_t n = logits.size();
    GuardedBuffer<float> s(n);
    GuardedBuffer<float> b(bias.size());
    std::copy(logits.begin(), logits.end(), s.data());
    std::copy(bias.begin(), bias.end(), b.data());
    const State before = *state;
    const float* biases = b.data();
    float factor;
    GetParam()->softmax({.s = s.data(),
                         .ld = static_cast<int>(n),
                         .rows = 1,
                         .n = static_cast<int>(n),
                         .add = &add,
                         .bias = bias.empty() ? nullptr : &biases,
                         .softcap = softcap,
                         .m = &state->m,
                         .l = &state->l,
                         .factor = &factor});
    ASSERT_TRUE(s.front_intact());

    // Without a cap the logits are single float operations, equal in every table.
    std::vector<float> x(n);
    float top = before.m;
    double cap_error = 0;
    for (size_t j = 0; j < n; ++j) {
      x[j] = logits[j] + add;
      if (softcap > 0) {
        x[j] = static_cast<float>(softcap * std::tanh(static_cast<double>(x[j]) / softcap));
        cap_error = 8 * 0x1.0p-24 * softcap;
      }
      if (!bias.empty()) x[j] += bias[j];
      top = std::max(top, x[j]);
    }
    if (top == -kInfinity) {
      for (size_t j = 0; j < n; ++j) ASSERT_EQ(s[j], 0.0f);
      ASSERT_EQ(factor, 1.0f);
      ASSERT_EQ(state->m, -kInfinity);
      ASSERT_EQ(state->l, before.l);
      return;
    }
    ASSERT_NEAR(state->m, top, cap_error);
    const double error = kExpError + 2 * cap_error;
    // A weight that is not a normal float may be zero, so no distance counts beyond 88.
    const auto error_of = [&](float logit) {
      return error + kExpSlope * std::min(88.0, static_cast<double>(top) - logit);
    };
    double sum = 0;
    for (size_t j = 0; j < n; ++j) {
      const double want = std::exp(static_cast<double>(x[j] - top));
      ASSERT_NEAR(s[j], want, want * error_of(x[j]) + kUnderflow) << "n " << n << " j " << j;
      if (x[j] == -kInfinity) {
        ASSERT_EQ(s[j], 0.0f);
      }
      sum += want;
    }
    const double want_factor = std::exp(static_cast<double>(before.m - top));
    ASSERT_NEAR(factor, want_factor, want_factor * error_of(before.m) + kUnderflow);
    if (before.m == top) {
      ASSERT_EQ(factor, 1.0f);
    }
    sum += before.l * want_factor;
    const double sum_error = error_of(top - 88.0f) + (n + 2) * 0x1.0p-24;
    ASSERT_NEAR(state->l, sum, sum * sum_error + kUnderflow * (n + 1));
  }
};

TEST_P(SoftmaxTest, EveryLengthWithBiasCapAndState) {
  SplitMix64 random(3);
  for (const float softcap : {0.0f, 30.0f}) {
    for (const bool biased : {false, true}) {
      State state;
      for (size_t n = 0; n <= 130; ++n) {
        if (n % 10 == 0) state = State();
        std::vector<float> s(n);
        std::vector<float> bias(biased ? n : 0);
        for (float& v : s) v = static_cast<float>(8 * random.Normal());
        for (float& v : bias) {
          v = random.Next() % 3 == 0 ? -kInfinity : static_cast<float>(random.Normal());
        }
        Check(s, bias, softcap, &state, n % 3 == 0 ? 0.0f : static_cast<float>(random.Normal()));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(SoftmaxTest, MaskedBlocks) {
  for (const size_t n : {1, 7, 16, 40, 64}) {
    State state;
    const std::vector<float> hidden(n, -kInfinity);
    const std::vector<float> seen(n, 1.5f);
    Check(hidden, {}, 0.0f, &state);  // nothing seen yet
    Check(seen, hidden, 0.0f, &state);
    Check(seen, hidden, 20.0f, &state);
    Check(seen, {}, 0.0f, &state);
    Check(hidden, {}, 0.0f, &state);  // nothing new: the state stays
    Check(seen, hidden, 0.0f, &state);
    std::vector<float> last = hidden;
    last.back() = 3.0f;
    Check(last, {}, 0.0f, &state);
    if (HasFatalFailure()) return;
  }
}

TEST_P(SoftmaxTest, HugeValues) {
  for (const size_t n : {5, 16, 37}) {
    for (const float huge : {1e4f, 1e30f, 3e38f}) {
      State state;
      std::vector<float> s(n);
      for (size_t j = 0; j < n; ++j) s[j] = j % 3 == 0 ? huge : j % 3 == 1 ? -huge : 0.0f;
      Check(s, {}, 0.0f, &state);
      Check(s, {}, 50.0f, &state);
      Check(std::vector<float>(n, -huge), {}, 0.0f, &state);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(SoftmaxTest, ExponentialSweep) {
  std::vector<float> s;
  for (double x = -88.5; x <= 0; x += 1e-3 + 1e-7) s.push_back(static_cast<float>(x));
  for (double x = 1e-30; x < 1; x *= 1.37) s.push_back(static_cast<float>(-x));
  for (const float x : {-1e2f, -1e3f, -1e10f, -3e38f, -kInfinity, -0.0f, 0.0f}) s.push_back(x);
  State state;
  Check(s, {}, 0.0f, &state);
}

// With one logit the new maximum is the capped logit itself.
TEST_P(SoftmaxTest, CapIsRelativelyAccurate) {
  for (const float softcap : {1.0f, 30.0f}) {
    for (double x = 1e-20; x < 1e6; x *= 1.01) {
      for (const double sign : {-1.0, 1.0}) {
        float s = static_cast<float>(sign * x);
        const double want = softcap * std::tanh(static_cast<double>(s) / softcap);
        State state;
        float factor;
        GetParam()->softmax({.s = &s,
                             .ld = 1,
                             .rows = 1,
                             .n = 1,
                             .softcap = softcap,
                             .m = &state.m,
                             .l = &state.l,
                             .factor = &factor});
        ASSERT_NEAR(state.m, want, 4e-7 * std::fabs(want)) << x;
      }
    }
  }
}

// A row is the same whatever rows stand beside it.
TEST_P(SoftmaxTest, RowsAreIndependent) {
  SplitMix64 random(7);
  for (const int rows : {1, 2, 3, 4, 5, 8, 11}) {
    for (const int n : {1, 15, 16, 40, 64, 131}) {
      for (const int rows_per_bias : {1, 3}) {
        const int ld = n + 5;
        std::vector<float> s(static_cast<size_t>(rows) * ld, 77.0f);
        std::vector<std::vector<float>> bias((rows + rows_per_bias - 1) / rows_per_bias);
        std::vector<const float*> biases;
        for (size_t b = 0; b < bias.size(); ++b) {
          bias[b].resize(n);
          for (float& v : bias[b]) v = random.Next() % 3 == 0 ? -kInfinity : 1.0f;
          if (b % 4 == 2) std::fill(bias[b].begin(), bias[b].end(), -kInfinity);
          biases.push_back(b % 2 == 1 ? nullptr : bias[b].data());
        }
        std::vector<float> m(rows);
        std::vector<float> l(rows);
        std::vector<float> add(rows);
        std::vector<float> factor(rows, -1.0f);
        for (int r = 0; r < rows; ++r) {
          for (int j = 0; j < n; ++j) s[r * ld + j] = static_cast<float>(4 * random.Normal());
          m[r] = r % 3 == 0 ? -kInfinity : static_cast<float>(6 * random.Normal());
          l[r] = r % 3 == 0 ? 0.0f : 2.0f;
          add[r] = static_cast<float>(random.Normal());
        }
        std::vector<float> alone = s;
        std::vector<float> alone_m = m;
        std::vector<float> alone_l = l;
        GetParam()->softmax({.s = s.data(),
                             .ld = ld,
                             .rows = rows,
                             .n = n,
                             .add = add.data(),
                             .bias = biases.data(),
                             .rows_per_bias = rows_per_bias,
                             .m = m.data(),
                             .l = l.data(),
                             .factor = factor.data()});
        for (int r = 0; r < rows; ++r) {
          float want_factor;
          GetParam()->softmax({.s = &alone[r * ld],
                               .ld = ld,
                               .rows = 1,
                               .n = n,
                               .add = &add[r],
                               .bias = &biases[r / rows_per_bias],
                               .m = &alone_m[r],
                               .l = &alone_l[r],
                               .factor = &want_factor});
          ASSERT_EQ(factor[r], want_factor) << r << " of " << rows << " n " << n;
          ASSERT_EQ(m[r], alone_m[r]);
          ASSERT_EQ(l[r], alone_l[r]);
        }
        ASSERT_EQ(s, alone) << rows << " rows, n " << n;
      }
    }
  }
}

TEST_P(SoftmaxTest, MeanLogits) {
  SplitMix64 random(5);
  for (const int d : {16, 64, 80, 128, 576}) {
    std::vector<int8_t> steps(d);
    std::vector<uint16_t> sizes(d / 16);
    for (int8_t& step : steps) step = static_cast<int8_t>(random.Next() % 255 - 127);
    steps[0] = -127;
    steps[d - 1] = 127;
    for (uint16_t& size : sizes) {
      size = FloatToHalf(static_cast<float>(0.02 * std::fabs(random.Normal())));
    }
    sizes[0] = 1;  // the smallest half
    for (const int rows : {1, 2, 3, 4, 5, 9, 33}) {
      GuardedBuffer<int8_t> guarded_steps(steps.size());
      std::copy(steps.begin(), steps.end(), guarded_steps.data());
      GuardedBuffer<uint16_t> guarded_sizes(sizes.size());
      std::copy(sizes.begin(), sizes.end(), guarded_sizes.data());
      GuardedBuffer<float> q(static_cast<size_t>(rows) * d);
      for (size_t i = 0; i < static_cast<size_t>(rows) * d; ++i) {
        q[i] = static_cast<float>(random.Normal());
      }
      GuardedBuffer<float> out(rows);
      GetParam()->mean_logits(guarded_steps.data(), guarded_sizes.data(), d, q.data(), rows,
                              out.data());
      ASSERT_TRUE(out.front_intact());
      for (int r = 0; r < rows; ++r) {
        double want = 0;
        double magnitude = 0;
        for (int i = 0; i < d; ++i) {
          const double term = static_cast<double>(q[static_cast<size_t>(r) * d + i]) * steps[i] *
                              HalfToFloat(sizes[i / 16]);
          want += term;
          magnitude += std::fabs(term);
        }
        ASSERT_NEAR(out[r], want, 2e-6 * magnitude) << "d " << d << " rows " << rows;
      }
    }
  }
}

TEST_P(SoftmaxTest, SameValues) {
  for (size_t n = 1; n <= 150; ++n) {
    GuardedBuffer<uint16_t> x(n);
    for (const uint16_t value : {0, 1, 0x8000, 0xffff}) {
      std::fill_n(x.data(), n, value);
      ASSERT_TRUE(GetParam()->same_values(x.data(), static_cast<int>(n))) << n;
      for (size_t j = 0; j < n && n > 1; ++j) {
        for (const uint16_t bit : {0x0001, 0x8000}) {
          x[j] = value ^ bit;
          ASSERT_FALSE(GetParam()->same_values(x.data(), static_cast<int>(n))) << n << " at " << j;
        }
        x[j] = value;
      }
    }
  }
}

TEST_P(SoftmaxTest, MaskBias) {
  SplitMix64 random(9);
  for (const bool masked : {false, true}) {
    for (size_t n = 0; n <= 70; ++n) {
      GuardedBuffer<uint16_t> mask(n);
      GuardedBuffer<uint16_t> hidden(n);
      GuardedBuffer<float> bias(n);
      for (int seen = 0; seen < 3; ++seen) {  // none, the last cell alone, some
        bool want_seen = false;
        for (size_t j = 0; j < n; ++j) {
          const bool hide = seen == 0 || (seen == 1 && j + 1 < n) || random.Next() % 2 == 0;
          const bool by_mask = masked && random.Next() % 2 == 0;
          hidden[j] = hide && !by_mask ? kHalfMinusInfinity : 0;
          mask[j] = hide && by_mask ? kHalfMinusInfinity
                                    : FloatToHalf(static_cast<float>(random.Normal()));
          want_seen = want_seen || !hide;
        }
        const bool got = GetParam()->mask_bias(masked ? mask.data() : nullptr, hidden.data(), 0.5f,
                                               static_cast<int>(n), bias.data());
        ASSERT_EQ(got, want_seen) << "n " << n;
        for (size_t j = 0; j < n; ++j) {
          const float want = HalfToFloat(hidden[j]) + (masked ? 0.5f * HalfToFloat(mask[j]) : 0.0f);
          ASSERT_EQ(bias[j], want) << "n " << n << " j " << j;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, SoftmaxTest, testing::ValuesIn(AvailableTables()), TableName);

}  // namespace
}  // namespace turboquant
