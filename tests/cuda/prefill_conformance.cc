#include "tests/cuda/prefill_conformance.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "kernels/cuda/prefill_reference.h"
#include "tests/cuda/device_buffer.h"

namespace turboquant::cuda {
namespace {

// Products take fp16 operands, so the error of a weight grows with the size of its logit.
double Tolerance(const PrefillCase& c) {
  return c.base.query_size > 1.0f || c.base.sink_size > 1.0f ? 3e-3 : 2e-3;
}

std::vector<float> MixOf(const tq_cuda_rotation& r) {
  return r.mix == nullptr ? std::vector<float>() : std::vector<float>(r.mix, r.mix + r.m * r.m);
}

struct Worst {
  double out = 0, lse = 0;
};

Worst Compare(const PrefillCase& c, const std::vector<uint8_t>& out, const std::vector<float>& lse,
              const std::vector<int>& tokens, const ReferenceOutput& want) {
  const size_t d = static_cast<size_t>(c.base.head_dim);
  const size_t heads = static_cast<size_t>(c.base.kv_heads) * c.base.group;
  Worst worst;
  const auto raise = [](double* most, double x) { *most = x <= *most ? *most : x == x ? x : 1e30; };
  for (size_t i = 0; i < tokens.size() * heads; ++i) {
    const size_t row = static_cast<size_t>(tokens[i / heads]) * heads + i % heads;
    double error = 0, norm = 0;
    for (size_t j = 0; j < d; ++j) {
      const double x = want.out[i * d + j];
      const double e =
          LoadAs(c.out_dtype, out.data() + (row * d + j) * DtypeBytes(c.out_dtype)) - x;
      error += e * e;
      norm += x * x;
    }
    raise(&worst.out, norm > 0 ? std::sqrt(error / norm) : error > 0 ? 1e30 : 0);
    raise(&worst.lse, std::fabs(lse[row] - want.lse[i]) / std::max(1.0, std::fabs(want.lse[i])));
  }
  return worst;
}

}  // namespace

bool RunPrefillCase(const PrefillCase& c, uint64_t seed, tq_cuda_dense* dense) {
  const Rotation k(c.base.head_dim, 11), v(c.base.head_dim, 12);
  const PrefillTensors t = DrawPrefill(c, k, v, seed);
  const tq_cuda_prefill_params host = HostPrefill(c, t);
  const DeviceBuffer<uint8_t> records(t.cache.records), q(t.q), chunk_k(t.chunk_k),
      chunk_v(t.chunk_v), exact_k(t.cache.exact_k), exact_v(t.cache.exact_v);
  const DeviceBuffer<int32_t> page_table(t.cache.page_table), mean_table(t.cache.mean_table),
      exact_position(t.cache.exact_position);
  const DeviceBuffer<uint16_t> means(t.cache.means);
  const DeviceBuffer<float> sinks(t.cache.sink_logits), mix_k(MixOf(t.cache.k_rotation)),
      mix_v(MixOf(t.cache.v_rotation));
  const size_t rows = static_cast<size_t>(t.chunk_tokens) * c.base.kv_heads * c.base.group;
  DeviceBuffer<uint8_t> out(rows * c.base.head_dim * DtypeBytes(c.out_dtype));
  DeviceBuffer<float> lse(rows);

  tq_cuda_prefill_params p = host;
  p.cache.records = records.get();
  p.cache.page_table = page_table.get();
  p.cache.means = means.get();
  p.cache.mean_table = mean_table.get();
  p.cache.k_rotation.mix = mix_k.get();
  p.cache.v_rotation.mix = mix_v.get();
  p.q = q.get();
  p.chunk_k = chunk_k.get();
  p.chunk_v = chunk_v.get();
  p.exact.k = exact_k.get();
  p.exact.v = exact_v.get();
  p.exact_position = exact_position.get();
  p.sinks = sinks.get();
  p.out = out.get();
  p.lse = lse.get();
  p.dense = dense;
  p.dense_least = 1;

  std::string failed;
  char reason[200] = "";
  tq_cuda_prefill_plan plan{};
  if (tq_cuda_plan_prefill(&p, &plan, reason, sizeof(reason)) != TQ_CUDA_OK) failed = reason;
  if (dense != nullptr && plan.dense_rows == 0) return true;  // the same as without
  // A plan made again compiles nothing and is the same.
  tq_cuda_prefill_plan again{};
  tq_cuda_plan_prefill(&p, &again, nullptr, 0);
  if (std::memcmp(&plan, &again, sizeof(plan)) != 0) failed = "a second plan differs";
  // Outputs and workspace are NaN: both must be written.
  out.Fill(0xFF);
  lse.Fill(0xFF);
  DeviceBuffer<uint8_t> workspace(plan.workspace_bytes);
  workspace.Fill(0xFF);
  cudaStream_t stream;
  CheckCuda(cudaStreamCreate(&stream), "stream");
  CheckCuda(cudaDeviceSynchronize(), "fill");
  const auto run = [&] {
    if (tq_cuda_prefill(&plan, &p, workspace.get(), stream) != TQ_CUDA_OK) failed = "refused";
  };
  run();
  CheckCuda(cudaStreamSynchronize(stream), c.base.name.c_str());
  const std::vector<uint8_t> first = out.Download();
  const std::vector<float> first_lse = lse.Download();

  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  run();
  CheckCuda(cudaStreamEndCapture(stream, &graph), "capture end");
  CheckCuda(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  out.Fill(0xFF);
  CheckCuda(cudaDeviceSynchronize(), "fill");
  CheckCuda(cudaGraphLaunch(exec, stream), "replay");
  CheckCuda(cudaStreamSynchronize(stream), c.base.name.c_str());
  if (out.Download() != first) failed = "a replay gives other bits";
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);

  const std::vector<int> tokens = SampleTokens(c, 12);
  const Worst worst = Compare(c, first, first_lse, tokens, PrefillReference(host, tokens));
  if (worst.out > Tolerance(c)) failed = "output";
  if (worst.lse > Tolerance(c)) failed = "log-sum-exp";
  std::printf("%-4s %-32s windows of %4d%s error %.1e lse %.1e %s%s\n",
              failed.empty() ? "ok" : "FAIL", c.base.name.c_str(), plan.window_tokens,
              plan.dense_rows > 0 ? " by cuDNN" : "", worst.out, worst.lse,
              failed.empty() ? "" : "FAILED: ", failed.c_str());
  std::fflush(stdout);
  return failed.empty();
}

}  // namespace turboquant::cuda
