// The prefill kernels themselves, run on the host against the double reference.
#include <gtest/gtest.h>

#include <cmath>

#include "cuda_emulation.h"
#include "kernels/cuda/prefill_reference.h"
#include "kernels/cuda/prefill_run.cuh"
#include "tests/cuda/prefill_case.h"

namespace turboquant::cuda {

void PrintTo(const PrefillCase& c, std::ostream* to) { *to << c.base.name; }

namespace {

class PrefillEmulated : public ::testing::TestWithParam<PrefillCase> {};

// What cuDNN computes, in double from the same fp16 rows.
bool DenseAttention(const DenseCall& c) {
  const auto* q = static_cast<const uint16_t*>(c.q);
  const auto* k = static_cast<const uint16_t*>(c.k);
  const auto* v = static_cast<const uint16_t*>(c.v);
  const size_t m = static_cast<size_t>(c.rows), heads = static_cast<size_t>(c.heads);
  const size_t d = static_cast<size_t>(c.head_dim), n = static_cast<size_t>(c.keys);
  const size_t count = c.masked ? static_cast<size_t>(*c.key_count) : n;
  if (c.masked && (*c.row_count != c.rows || count >= n)) return false;
  // What is read of the keys that do not count.
  for (size_t i = 0; i < heads * n * d; ++i) {
    const size_t key = i / d % n;
    if (key < (count + 255) / 256 * 256 && !std::isfinite(HalfToFloat(k[i]) + HalfToFloat(v[i]))) {
      return false;
    }
  }
  std::vector<double> weights(count), sum(d);
  for (size_t i = 0; i < m * heads; ++i) {
    const size_t row = i / heads, head = i % heads;
    double most = -INFINITY, total = 0;
    for (size_t j = 0; j < count; ++j) {
      weights[j] = 0;
      for (size_t e = 0; e < d; ++e) {
        weights[j] +=
            static_cast<double>(HalfToFloat(q[i * d + e])) * HalfToFloat(k[(head * n + j) * d + e]);
      }
      weights[j] *= c.scale;
      most = std::max(most, weights[j]);
    }
    std::fill(sum.begin(), sum.end(), 0.0);
    for (size_t j = 0; j < count; ++j) {
      const double w = std::exp(weights[j] - most);
      total += w;
      for (size_t e = 0; e < d; ++e) sum[e] += w * HalfToFloat(v[(head * n + j) * d + e]);
    }
    for (size_t e = 0; e < d; ++e) {
      static_cast<uint16_t*>(c.out)[(head * m + row) * d + e] =
          FloatToHalf(static_cast<float>(sum[e] / total));
    }
    c.lse[head * m + row] = static_cast<float>(most + std::log(total));
  }
  return true;
}

void Check(const PrefillCase& c, bool dense) {
  const Rotation k(c.base.head_dim, 11), v(c.base.head_dim, 12);
  const PrefillTensors t = DrawPrefill(c, k, v, 5);
  tq_cuda_prefill_params p = HostPrefill(c, t);
  ASSERT_EQ(WhyPrefillUnsupported(p), nullptr);
  p.dense_least = 1;
  const tq_cuda_prefill_plan plan = PlanPrefill(p, dense);
  EXPECT_EQ(plan.dense_rows > 0, dense && c.dense_calls > 0);
  int calls = 0;
  const size_t d = static_cast<size_t>(c.base.head_dim);
  const size_t heads = static_cast<size_t>(c.base.kv_heads) * c.base.group;
  const size_t rows = static_cast<size_t>(t.chunk_tokens) * heads;
  // NaN everywhere: what is used must have been written.
  std::vector<uint8_t> workspace(plan.workspace_bytes + 256, 0xFF);
  std::vector<float> lse(rows, NAN);
  std::vector<uint8_t> out(rows * d * DtypeBytes(c.out_dtype), 0xFF);
  p.out = out.data();
  p.lse = lse.data();
  void* at = workspace.data() + (256 - reinterpret_cast<uintptr_t>(workspace.data()) % 256);
  PrefillArgs args = MakePrefillArgs(plan, p, at);
  bool ok = false;
  WithHeadDim(c.base.head_dim, [&](auto dim) {
    ok = RunPrefill<dim.value>(
        plan, &args,
        [](PrefillKernel kernel, dim3 grid, int threads, int bytes, const PrefillArgs& with) {
          return emulation::Launch(grid, threads, static_cast<size_t>(bytes),
                                   [&] { kernel(with); });
        },
        [&](const DenseCall& call) {
          ++calls;
          return DenseAttention(call);
        });
  });
  ASSERT_TRUE(ok);
  EXPECT_EQ(calls, dense ? c.dense_calls : 0);

  const std::vector<int> tokens = SampleTokens(c, 12);
  const ReferenceOutput want = PrefillReference(p, tokens);
  double worst = 0, worst_lse = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (size_t head = 0; head < heads; ++head) {
      const size_t row = static_cast<size_t>(tokens[i]) * heads + head;
      double error = 0, norm = 0;
      for (size_t j = 0; j < d; ++j) {
        const double x = want.out[(i * heads + head) * d + j];
        const double e =
            LoadAs(c.out_dtype, out.data() + (row * d + j) * DtypeBytes(c.out_dtype)) - x;
        error += e * e;
        norm += x * x;
      }
      ASSERT_FALSE(std::isnan(error)) << "token " << tokens[i] << " head " << head;
      worst = std::max(worst, std::sqrt(error / norm));
      const double x = want.lse[i * heads + head];
      worst_lse = std::max(worst_lse, std::fabs(lse[row] - x) / std::max(1.0, std::fabs(x)));
    }
  }
  // Rotated queries, values and weights are rounded to 11 bits: docs/CUDA.md.
  EXPECT_LE(worst, 2e-3);
  EXPECT_LE(worst_lse, 2e-3);
}

TEST_P(PrefillEmulated, AgreesWithTheDoubleReference) { Check(GetParam(), false); }

TEST_P(PrefillEmulated, AgreesWithTheDoubleReferenceWhenWindowsAreAttendedElsewhere) {
  if (GetParam().dense_calls == 0) return;
  Check(GetParam(), true);
}

INSTANTIATE_TEST_SUITE_P(All, PrefillEmulated, ::testing::ValuesIn(PrefillCases(true)),
                         [](const auto& info) {
                           std::string name = info.param.base.name.substr(8);
                           for (char& x : name) {
                             if (std::isalnum(static_cast<unsigned char>(x)) == 0) x = '_';
                           }
                           return name;
                         });

TEST(CudaEmulation, SeesThreadsThatWaitForNobody) {
  EXPECT_FALSE(emulation::Launch(dim3(1), 64, 0, [] {
    if (threadIdx.x < 32) __syncthreads();
  }));
  EXPECT_TRUE(emulation::Launch(dim3(2), 64, 0, [] { __syncthreads(); }));
}

}  // namespace
}  // namespace turboquant::cuda
