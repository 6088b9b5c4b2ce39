// The double reference of the CUDA kernels against attention written out over decoded rows.
#include "kernels/cuda/attention_reference.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/cuda/cuda_case.h"

namespace turboquant::cuda {
namespace {

TEST(AttentionReference, AgreesWithAttentionOverPlainRows) {
  CudaCase c;
  c.coded_len = {70};
  c.tail = {9};
  c.sinks = 2;
  c.dtype = TQ_CUDA_F32;
  const Rotation k(c.head_dim, 1), v(c.head_dim, 2);
  CudaTensors t = DrawTensors(c, k, v, 4);
  FillRecords(c, &t, k, v);
  const tq_cuda_attention p = HostAttention(c, t);
  const ReferenceOutput got = AttendReference(p);
  const int d = c.head_dim;

  for (int head = 0; head < c.kv_heads * c.group; ++head) {
    const int kv = head / c.group;
    std::vector<double> out(static_cast<size_t>(d));
    double sum = 0;
    const auto add = [&](const float* key, const float* value) {
      double s = 0;
      for (int i = 0; i < d; ++i)
        s += double{key[i]} * LoadValue(t.q.data(), c.dtype, head * d + i);
      const double w = std::exp(s * p.scale);
      sum += w;
      for (int i = 0; i < d; ++i) out[static_cast<size_t>(i)] += w * value[i];
    };
    std::vector<float> key(static_cast<size_t>(d)), value(static_cast<size_t>(d));
    for (int token = 0; token < c.coded_len[0]; ++token) {
      uint8_t codes[kMaxTileHeadDim];
      uint16_t scale;
      EncodeOnHost(c, t, k, false, 0, token, kv, codes, &scale);
      DecodeRotatedRow(4, codes, scale, d, key.data());
      Unrotate(k.view(), key.data(), key.data());
      EncodeOnHost(c, t, v, true, 0, token, kv, codes, &scale);
      DecodeRotatedRow(4, codes, scale, d, value.data());
      Unrotate(v.view(), value.data(), value.data());
      add(key.data(), value.data());
    }
    for (int token = 0; token < 11; ++token) {
      for (int i = 0; i < d; ++i) {
        const int64_t at = (int64_t{token} * c.kv_heads + kv) * d + i;
        key[static_cast<size_t>(i)] =
            static_cast<float>(LoadValue(t.exact_k.data(), TQ_CUDA_BF16, at));
        value[static_cast<size_t>(i)] =
            static_cast<float>(LoadValue(t.exact_v.data(), TQ_CUDA_BF16, at));
      }
      add(key.data(), value.data());
    }
    double error = 0, norm = 0;
    for (int i = 0; i < d; ++i) {
      const double want = out[static_cast<size_t>(i)] / sum;
      const double e = got.out[static_cast<size_t>(head * d + i)] - want;
      error += e * e;
      norm += want * want;
    }
    EXPECT_LT(std::sqrt(error / norm), 1e-5);
    EXPECT_NEAR(got.lse[static_cast<size_t>(head)], std::log(sum), 1e-5);
  }
}

TEST(AttentionReference, MasksAndSinksTakeEffect) {
  CudaCase c;
  c.q_len = 3;
  c.coded_len = {40};
  const Rotation k(c.head_dim, 1), v(c.head_dim, 2);
  CudaTensors t = DrawTensors(c, k, v, 4);
  FillRecords(c, &t, k, v);
  tq_cuda_attention p = HostAttention(c, t);
  const ReferenceOutput plain = AttendReference(p);
  const std::vector<float> sinks(static_cast<size_t>(c.kv_heads * c.group), 50.0f);
  p.sinks = sinks.data();
  const ReferenceOutput drained = AttendReference(p);
  EXPECT_LT(std::fabs(drained.out[0]), 1e-12);
  EXPECT_NEAR(drained.lse[0], 50.0, 1e-6);
  p.sinks = nullptr;
  p.window = 1;  // each query sees its own token alone: the output is that value
  const ReferenceOutput one = AttendReference(p);
  double difference = 0;
  for (size_t i = 0; i < one.out.size(); ++i) difference += std::fabs(one.out[i] - plain.out[i]);
  EXPECT_GT(difference, 1.0);
  uint8_t codes[kMaxTileHeadDim];
  uint16_t scale;
  EncodeOnHost(c, t, v, true, 0, 37, 0, codes, &scale);
  std::vector<float> value(static_cast<size_t>(c.head_dim));
  DecodeRotatedRow(4, codes, scale, c.head_dim, value.data());
  Unrotate(v.view(), value.data(), value.data());
  for (int i = 0; i < c.head_dim; ++i) {
    EXPECT_NEAR(one.out[static_cast<size_t>(i)], value[static_cast<size_t>(i)], 1e-5);
  }
}

}  // namespace
}  // namespace turboquant::cuda
