// Runs every case of the conformance matrix on the GPU: codes bit-exact to the scalar truth,
// attention, decoding and inner products against a double reference.
//
//   cuda_conformance [--list] [--every N] [--cudnn libcudnn.so.9, or its folder] [FILTER]
//
// --cudnn: prefill with windows by cuDNN too. Exit code 0: all passed, 1: not, 3: no GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/attention_reference.h"
#include "kernels/cuda/int8_config.h"
#include "tests/cuda/cuda_case.h"
#include "tests/cuda/device_buffer.h"
#include "tests/cuda/prefill_conformance.h"

namespace turboquant::cuda {
namespace {

constexpr double kTolerance = 1e-3;
constexpr uint64_t kKeySeed = 11, kValueSeed = 12;

// The tensors of a case on the device, and the parameters that point to them.
struct DeviceCase {
  DeviceCase(const CudaCase& c, const CudaTensors& t)
      : records(t.records),
        k_rows(t.k_rows),
        v_rows(t.v_rows),
        exact_k(t.exact_k),
        exact_v(t.exact_v),
        q(t.q),
        page_table(t.page_table),
        mean_table(t.mean_table),
        exact_len(t.exact_len),
        exact_position(t.exact_position),
        total_len(t.total_len),
        coded_len(t.coded_len),
        means(t.means),
        tree_mask(t.tree_mask),
        sink_logits(t.sink_logits),
        mix_k(MixOf(t.k_rotation)),
        mix_v(MixOf(t.v_rotation)) {
    params = HostAttention(c, t);
    params.cache.records = records.get();
    params.cache.page_table = page_table.get();
    params.cache.means = means.get();
    params.cache.mean_table = mean_table.get();
    params.cache.k_rotation.mix = mix_k.get();
    params.cache.v_rotation.mix = mix_v.get();
    params.q = q.get();
    params.coded_len = coded_len.get();
    params.total_len = total_len.get();
    params.exact.k = exact_k.get();
    params.exact.v = exact_v.get();
    params.exact_len = exact_len.get();
    params.exact_position = exact_position.get();
    params.tree_mask = tree_mask.get();
    params.sinks = sink_logits.get();
  }

  static std::vector<float> MixOf(const tq_cuda_rotation& r) {
    return r.mix == nullptr ? std::vector<float>() : std::vector<float>(r.mix, r.mix + r.m * r.m);
  }

  DeviceBuffer<uint8_t> records, k_rows, v_rows, exact_k, exact_v, q;
  DeviceBuffer<int32_t> page_table, mean_table, exact_len, exact_position, total_len, coded_len;
  DeviceBuffer<uint16_t> means;
  DeviceBuffer<uint32_t> tree_mask;
  DeviceBuffer<float> sink_logits, mix_k, mix_v;
  tq_cuda_attention params;
};

struct Verdict {
  bool ok = true;
  std::string text;

  void Expect(bool condition, const std::string& what) {
    if (condition) return;
    ok = false;
    if (text.size() < 300) text += " FAILED: " + what + ";";
  }
};

// Codes rows [first, first + n) of every sequence (those it has).
void EncodeSome(const CudaCase& c, const CudaTensors& t, const DeviceCase& device, int first, int n,
                Verdict* verdict) {
  std::vector<int32_t> first_token, num_rows;
  for (const int len : c.coded_len) {
    first_token.push_back(std::min(first, len));
    num_rows.push_back(std::clamp(len - first, 0, n));
  }
  const size_t row_bytes = static_cast<size_t>(c.kv_heads) * c.head_dim * DtypeBytes(c.dtype);
  const DeviceBuffer<int32_t> first_device(first_token), num_device(num_rows);
  // Source row i is coded token first + i.
  tq_cuda_encode_params p{};
  p.cache = device.params.cache;
  p.batch = static_cast<int32_t>(c.coded_len.size());
  p.rows.k = device.k_rows.get() + static_cast<size_t>(first) * row_bytes;
  p.rows.v = device.v_rows.get() + static_cast<size_t>(first) * row_bytes;
  p.rows.dtype = c.dtype;
  p.rows.head_stride = c.head_dim;
  p.rows.token_stride = int64_t{c.kv_heads} * c.head_dim;
  p.rows.sequence_stride = p.rows.token_stride * t.max_coded;
  p.first_token = first_device.get();
  p.num_rows = num_device.get();
  p.max_rows = n;
  // Sequences shorter than `first` read nothing; the others start at `first`.
  verdict->Expect(tq_cuda_encode(&p, nullptr) == TQ_CUDA_OK, "encode refused");
  CheckCuda(cudaDeviceSynchronize(), "encode");
}

void CheckCodes(const CudaCase& c, const CudaTensors& t, const std::vector<uint8_t>& records,
                const Rotation& k, const Rotation& v, Verdict* verdict) {
  uint8_t want[kMaxTileHeadDim], got[kMaxTileHeadDim];
  uint16_t want_scale, got_scale;
  int wrong = 0;
  std::string first;
  for (int b = 0; b < static_cast<int>(c.coded_len.size()); ++b) {
    for (int token = 0; token < c.coded_len[static_cast<size_t>(b)]; ++token) {
      const size_t page =
          static_cast<size_t>(t.page_table[static_cast<size_t>(b * t.pages + token / kTileTokens)]);
      for (int head = 0; head < c.kv_heads; ++head) {
        const uint8_t* record = records.data() + (page * c.kv_heads + head) * t.layout.bytes;
        for (const bool value_side : {false, true}) {
          const int bits = value_side ? t.layout.v.bits : t.layout.k.bits;
          EncodeOnHost(c, t, value_side ? v : k, value_side, b, token, head, want, &want_scale);
          LoadTileRow(t.layout, record, value_side, token % kTileTokens, got, &got_scale);
          const size_t bytes = static_cast<size_t>(bits * c.head_dim / 8);
          if (got_scale == want_scale && std::memcmp(got, want, bytes) == 0) continue;
          if (wrong++ > 0) continue;
          first = "sequence " + std::to_string(b) + " token " + std::to_string(token) + " head " +
                  std::to_string(head) + (value_side ? " value" : " key") +
                  (got_scale == want_scale ? ", codes" : ", scale");
        }
      }
    }
  }
  verdict->Expect(wrong == 0,
                  std::to_string(wrong) + " rows differ from the scalar truth, first " + first);
}

// Largest relative L2 error over the rows, infinite for NaN.
double WorstRow(const std::vector<float>& got, const std::vector<double>& want, size_t width) {
  double worst = 0;
  for (size_t row = 0; row < want.size() / width; ++row) {
    double error = 0, norm = 0;
    for (size_t i = row * width; i < (row + 1) * width; ++i) {
      error += (got[i] - want[i]) * (got[i] - want[i]);
      norm += want[i] * want[i];
    }
    const double relative = norm > 0 ? std::sqrt(error / norm) : error > 0 ? 1e30 : 0.0;
    worst = relative >= worst ? relative : std::isnan(error) ? 1e30 : worst;
  }
  return worst;
}

double WorstLse(const std::vector<float>& got, const std::vector<double>& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isinf(want[i]) && got[i] == want[i]) continue;
    const double e = std::fabs(got[i] - want[i]) / std::max(1.0, std::fabs(want[i]));
    worst = e >= worst ? e : std::isnan(e) ? 1e30 : worst;
  }
  return worst;
}

struct RunResult {
  std::vector<float> out, lse;
};

// Runs the plan; a second time through a graph replayed twice, which must give the same bits.
void CheckAttention(const CudaCase& c, const CudaTensors& t, const DeviceCase& device,
                    const tq_cuda_device& gpu, const ReferenceOutput& reference, Verdict* verdict) {
  const tq_cuda_plan_request request = PlanRequest(c, t, gpu);
  char reason[200] = "";
  verdict->Expect(tq_cuda_supports(&request, reason, sizeof(reason)) == TQ_CUDA_OK, reason);
  tq_cuda_plan plan{};
  int32_t n = 0;
  verdict->Expect(tq_cuda_plan_attention(&request, &plan, nullptr, &n) == TQ_CUDA_OK, "plan");
  if (!verdict->ok) return;
  std::vector<tq_cuda_item> items(static_cast<size_t>(n));
  tq_cuda_plan_attention(&request, &plan, items.data(), &n);
  const DeviceBuffer<tq_cuda_item> device_items(items);
  DeviceBuffer<uint8_t> workspace(plan.workspace_bytes);
  workspace.Fill(0);
  DeviceBuffer<float> out(reference.out.size()), lse(reference.lse.size());
  tq_cuda_attention p = device.params;
  p.out = out.get();
  p.lse = lse.get();

  cudaStream_t stream;
  CheckCuda(cudaStreamCreate(&stream), "stream");
  const auto run = [&] {
    verdict->Expect(
        tq_cuda_attend(&plan, &p, device_items.get(), workspace.get(), stream) == TQ_CUDA_OK,
        "attend refused");
  };
  out.Fill(0xFF);
  lse.Fill(0xFF);
  run();
  CheckCuda(cudaStreamSynchronize(stream), c.name.c_str());
  const RunResult first{out.Download(), lse.Download()};

  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  run();
  CheckCuda(cudaStreamEndCapture(stream, &graph), "capture end");
  CheckCuda(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  out.Fill(0xFF);
  lse.Fill(0xFF);
  CheckCuda(cudaDeviceSynchronize(), "fill");
  for (int i = 0; i < 2; ++i) CheckCuda(cudaGraphLaunch(exec, stream), "replay");
  CheckCuda(cudaStreamSynchronize(stream), c.name.c_str());
  const RunResult again{out.Download(), lse.Download()};
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);

  const double error = WorstRow(first.out, reference.out, static_cast<size_t>(c.head_dim));
  const double lse_error = WorstLse(first.lse, reference.lse);
  char line[200];
  std::snprintf(line, sizeof(line), "%s items %4d splits %2d error %.1e lse %.1e",
                plan.path == TQ_CUDA_PATH_INT8 ? "int8" : "pair", plan.num_items,
                plan.uniform ? plan.splits : 0, error, lse_error);
  verdict->text = line + verdict->text;
  verdict->Expect(error <= kTolerance, "output");
  verdict->Expect(lse_error <= kTolerance, "log-sum-exp");
  verdict->Expect(std::memcmp(first.out.data(), again.out.data(), first.out.size() * 4) == 0 &&
                      std::memcmp(first.lse.data(), again.lse.data(), first.lse.size() * 4) == 0,
                  "a replay gives other bits");
}

// The same plan with other configurations and pages claimed at run time. All in one workspace.
void CheckVariants(const CudaCase& c, const CudaTensors& t, const DeviceCase& device,
                   const tq_cuda_device& gpu, const ReferenceOutput& reference, Verdict* verdict) {
  const tq_cuda_plan_request request = PlanRequest(c, t, gpu);
  const AttentionPlan base = PlanAttention(request);
  if (base.plan.path != TQ_CUDA_PATH_INT8) return;
  const DeviceBuffer<tq_cuda_item> items(base.items);
  DeviceBuffer<uint8_t> workspace(base.plan.workspace_bytes);
  workspace.Fill(0);
  DeviceBuffer<float> out(reference.out.size()), lse(reference.lse.size());
  tq_cuda_attention p = device.params;
  p.out = out.get();
  p.lse = lse.get();
  const auto run = [&](const tq_cuda_plan& plan) {
    out.Fill(0xFF);
    verdict->Expect(tq_cuda_attend(&plan, &p, items.get(), workspace.get(), nullptr) == TQ_CUDA_OK,
                    "variant");
    CheckCuda(cudaDeviceSynchronize(), c.name.c_str());
    return out.Download();
  };
  tq_cuda_plan plan = base.plan;
  for (int config = 0; config < kInt8Configs; ++config) {
    plan.config = config;
    for (const int dynamic : {0, 1}) {
      plan.dynamic = dynamic;
      const double error = WorstRow(run(plan), reference.out, static_cast<size_t>(c.head_dim));
      verdict->Expect(error <= kTolerance, "configuration " + std::to_string(config) +
                                               (dynamic != 0 ? " with claimed pages" : ""));
    }
  }
}

// Decoded rows and inner products of sequence 0.
void CheckRows(const CudaCase& c, const CudaTensors& t, const DeviceCase& device,
               const std::vector<uint8_t>& records, Verdict* verdict) {
  const int n = std::min(c.coded_len[0], 200), d = c.head_dim;
  if (n == 0) return;
  const size_t values = static_cast<size_t>(c.kv_heads) * n * d;
  DeviceBuffer<float> k(values), v(values);
  tq_cuda_decode_params p{};
  p.cache = device.params.cache;
  p.num_tokens = n;
  p.k = k.get();
  p.v = v.get();
  p.dtype = TQ_CUDA_F32;
  verdict->Expect(tq_cuda_decode_rows(&p, nullptr) == TQ_CUDA_OK, "decode refused");
  CheckCuda(cudaDeviceSynchronize(), "decode");
  const std::vector<float> got_k = k.Download(), got_v = v.Download();

  constexpr int kRows = 3;
  std::vector<float> q(static_cast<size_t>(kRows) * d);
  SplitMix64 random(5);
  for (float& x : q) x = static_cast<float>(random.Normal());
  const DeviceBuffer<float> q_device(q);
  DeviceBuffer<float> scores(static_cast<size_t>(kRows) * n);
  tq_cuda_scores_params s{};
  s.cache = device.params.cache;
  s.kv_head = c.kv_heads - 1;
  s.num_tokens = n;
  s.rows = kRows;
  s.q = q_device.get();
  s.out = scores.get();
  scores.Fill(0xFF);
  verdict->Expect(tq_cuda_scores(&s, nullptr) == TQ_CUDA_OK, "scores refused");
  CheckCuda(cudaDeviceSynchronize(), "scores");
  const std::vector<float> got_scores = scores.Download();

  double row_error = 0, row_norm = 0, score_error = 0, score_norm = 0;
  for (int head = 0; head < c.kv_heads; ++head) {
    for (int token = 0; token < n; ++token) {
      const size_t page =
          static_cast<size_t>(t.page_table[static_cast<size_t>(token / kTileTokens)]);
      const uint8_t* record = records.data() + (page * c.kv_heads + head) * t.layout.bytes;
      for (const bool value_side : {false, true}) {
        float y[kMaxTileHeadDim];
        DecodeTileRow(t.layout, record, value_side, token % kTileTokens, y);
        std::vector<double> x(y, y + d);
        UnrotateDouble(value_side ? t.v_rotation : t.k_rotation, d, x.data());
        if (!value_side && c.means) {
          const int mean = t.mean_table[static_cast<size_t>(token / CudaTensors::kMeanTokens)];
          for (int i = 0; mean >= 0 && i < d; ++i) {
            x[i] += HalfToFloat(t.means[(static_cast<size_t>(mean) * c.kv_heads + head) * d + i]);
          }
        }
        const std::vector<float>& got = value_side ? got_v : got_k;
        for (int i = 0; i < d; ++i) {
          const double e = got[(static_cast<size_t>(head) * n + token) * d + i] - x[i];
          row_error += e * e;
          row_norm += x[i] * x[i];
        }
        if (value_side || head != s.kv_head) continue;
        for (int r = 0; r < kRows; ++r) {
          double dot = 0;
          for (int i = 0; i < d; ++i) dot += q[static_cast<size_t>(r * d + i)] * x[i];
          const double e = got_scores[static_cast<size_t>(r) * n + token] - dot;
          score_error += e * e;
          score_norm += dot * dot;
        }
      }
    }
  }
  verdict->Expect(std::sqrt(row_error / row_norm) <= 1e-5, "decoded rows");
  verdict->Expect(std::sqrt(score_error / score_norm) <= 5e-4,
                  "inner products " + std::to_string(std::sqrt(score_error / score_norm)));
}

bool RunCase(const CudaCase& c, const tq_cuda_device& gpu, uint64_t seed) {
  const Rotation k(c.head_dim, kKeySeed), v(c.head_dim, kValueSeed);
  CudaTensors t = DrawTensors(c, k, v, seed);
  Verdict verdict;
  const DeviceCase device(c, t);
  if (t.max_coded > 0) {
    // A chunk, one token, the rest: pages are filled in parts.
    const int cut = std::min(t.max_coded, t.max_coded * 2 / 5);
    if (cut > 0) EncodeSome(c, t, device, 0, cut, &verdict);
    EncodeSome(c, t, device, cut, 1, &verdict);
    if (cut + 1 < t.max_coded) EncodeSome(c, t, device, cut + 1, t.max_coded - cut - 1, &verdict);
    t.records = device.records.Download();
    CheckCodes(c, t, t.records, k, v, &verdict);
  }
  const ReferenceOutput reference = AttendReference(HostAttention(c, t));
  CheckAttention(c, t, device, gpu, reference, &verdict);
  CheckVariants(c, t, device, gpu, reference, &verdict);
  CheckRows(c, t, device, t.records, &verdict);
  std::printf("%-4s %-32s %s\n", verdict.ok ? "ok" : "FAIL", c.name.c_str(), verdict.text.c_str());
  std::fflush(stdout);
  return verdict.ok;
}

int Main(int argc, char** argv) {
  int every = 1;
  bool list = false;
  std::string filter;
  const char* cudnn = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--every") == 0 && i + 1 < argc) {
      every = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--cudnn") == 0 && i + 1 < argc) {
      cudnn = argv[++i];
    } else if (std::strcmp(argv[i], "--list") == 0) {
      list = true;
    } else {
      filter = argv[i];
    }
  }
  tq_cuda_device gpu{};
  if (!list && tq_cuda_query_device(&gpu) != TQ_CUDA_OK) {
    std::fprintf(stderr, "no CUDA device of compute capability 8.0 or more\n");
    return 3;
  }
  int failed = 0, run = 0, index = 0;
  for (const CudaCase& c : ConformanceCases()) {
    if (c.name.find(filter) == std::string::npos || index++ % every != 0) continue;
    if (list) {
      std::printf("%s\n", c.name.c_str());
      continue;
    }
    ++run;
    failed += RunCase(c, gpu, 1000 + static_cast<uint64_t>(index)) ? 0 : 1;
  }
  // Windows by cuDNN too, where it is given.
  tq_cuda_dense* dense = nullptr;
  char reason[200] = "";
  if (cudnn != nullptr &&
      tq_cuda_dense_create(cudnn, &dense, reason, sizeof(reason)) != TQ_CUDA_OK) {
    std::printf("FAIL %s\n", reason);
    ++failed;
  }
  // Fewer cases than kernels would be left of prefill: half the step.
  int prefill_index = 0;
  const int prefill_every = every / 2 + 1;
  for (const PrefillCase& c : PrefillCases(false)) {
    if (c.base.name.find(filter) == std::string::npos || prefill_index++ % prefill_every != 0) {
      continue;
    }
    if (list) {
      std::printf("%s\n", c.base.name.c_str());
      continue;
    }
    ++run;
    failed += RunPrefillCase(c, 1000 + static_cast<uint64_t>(prefill_index), nullptr) ? 0 : 1;
    if (dense == nullptr) continue;
    failed += RunPrefillCase(c, 1000 + static_cast<uint64_t>(prefill_index), dense) ? 0 : 1;
  }
  tq_cuda_dense_destroy(dense);
  std::printf("%d cases, %d failed\n", run, failed);
  return failed == 0 && (run > 0 || list) ? 0 : 1;
}

}  // namespace
}  // namespace turboquant::cuda

int main(int argc, char** argv) { return turboquant::cuda::Main(argc, argv); }
