#include "eval/cuda_attention_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "base/fp16.h"
#include "base/rng.h"
#include "codec/format.h"
#include "eval/cuda_driver.h"
#include "kernels/format_rows.h"
#include "kernels/kernel_api.h"
#include "math/rotation.h"

namespace turboquant {
namespace {

constexpr int kPageTokens = 64;
constexpr double kErrorBound = 1e-3;
constexpr int kLaunches = 20;  // in one graph
constexpr int kMostSets = 64;
constexpr size_t kCopyBytes = size_t{256} << 20;

tq_cuda_rotation RotationOf(const Rotation& rotation, CudaDriver* driver) {
  const RotationView view = rotation.view();
  tq_cuda_rotation r{};
  r.m = view.m;
  r.n = view.n;
  r.norm = view.norm;
  for (int i = 0; i < view.head_dim; ++i) {
    if (view.signs[i] < 0) r.negative[i / 32] |= 1u << (i % 32);
  }
  if (view.m > 1) {
    r.mix = driver->Upload(std::vector<float>(view.mix, view.mix + view.m * view.m));
  }
  return r;
}

// Rows of f16, the same for every sequence: the time does not depend on them, and drawing takes
// long.
struct Rows {
  Rows(int n, int width, uint64_t seed) : k(static_cast<size_t>(n) * width), v(k.size()) {
    SplitMix64 random(seed);
    for (auto* side : {&k, &v}) {
      for (uint16_t& x : *side) x = FloatToHalf(static_cast<float>(random.Normal()));
    }
  }
  std::vector<uint16_t> k, v;  // [token][kv head][head_dim]
};

// Attention of one sequence in double over rows that the CPU has coded.
class Reference {
 public:
  Reference(const CudaAttentionOptions& options, const Policy& policy, const Rotation& rotation)
      : options_(options), policy_(policy), rotation_(rotation) {}

  // q [heads][head_dim], out the same.
  std::vector<double> Attend(const Rows& rows, int cells, const uint16_t* q, float scale) const {
    const int d = options_.head_dim;
    const int heads = options_.num_kv_heads * options_.group;
    std::vector<double> out(static_cast<size_t>(heads) * d);
    std::vector<float> k(static_cast<size_t>(cells) * d);
    std::vector<float> v(k.size());
    std::vector<float> query(d);
    std::vector<float> mean(d);
    std::vector<double> weights(cells);
    for (int h = 0; h < heads; ++h) {
      const int kv_head = h / options_.group;
      if (h % options_.group == 0) {
        Decode(policy_.k, rows.k, kv_head, cells, k.data());
        Decode(policy_.v, rows.v, kv_head, cells, v.data());
      }
      for (int i = 0; i < d; ++i) query[i] = HalfToFloat(q[static_cast<size_t>(h) * d + i]);
      Rotate(rotation_.view(), query.data(), query.data());
      double most = -std::numeric_limits<double>::infinity();
      for (int j = 0; j < cells; ++j) {
        double dot = 0;
        for (int i = 0; i < d; ++i) {
          dot += static_cast<double>(query[i]) * k[static_cast<size_t>(j) * d + i];
        }
        weights[j] = dot * scale;
        most = std::max(most, weights[j]);
      }
      std::vector<double> o(d);
      double sum = 0;
      for (int j = 0; j < cells; ++j) {
        const double w = std::exp(weights[j] - most);
        sum += w;
        for (int i = 0; i < d; ++i) o[i] += w * v[static_cast<size_t>(j) * d + i];
      }
      for (int i = 0; i < d; ++i) mean[i] = static_cast<float>(o[i] / sum);
      Unrotate(rotation_.view(), mean.data(), mean.data());
      for (int i = 0; i < d; ++i) out[static_cast<size_t>(h) * d + i] = mean[i];
    }
    return out;
  }

 private:
  void Decode(Format format, const std::vector<uint16_t>& rows, int kv_head, int cells,
              float* out) const {
    const int d = options_.head_dim;
    const KernelTable& kernels = BestKernels();
    const size_t width = static_cast<size_t>(options_.num_kv_heads) * d;
    std::vector<float> x(d);
    std::vector<uint8_t> codes(CodeBytes(format, d));
    uint16_t scale = 0;
    for (int j = 0; j < cells; ++j) {
      kernels.half_to_float(rows.data() + j * width + static_cast<size_t>(kv_head) * d, x.data(),
                            static_cast<size_t>(d));
      EncodeFormatRows(kernels, format, rotation_.view(), x.data(), 1, codes.data(), &scale);
      DecodeFormatRows(kernels, format, d, codes.data(), &scale, 1,
                       out + static_cast<size_t>(j) * d);
    }
  }

  const CudaAttentionOptions& options_;
  const Policy& policy_;
  const Rotation& rotation_;
};

class Bench {
 public:
  Bench(const tq_cuda_functions& cuda, const CudaAttentionOptions& options, CudaDriver* driver)
      : cuda_(cuda), options_(options), gpu_(*driver), rotation_(options.head_dim, options.seed) {}

  Result<CudaAttentionResult> Run() {
    const auto start = std::chrono::steady_clock::now();
    result_.machine = ThisMachine();
    result_.device = gpu_.device_name();
    result_.head_dim = options_.head_dim;
    result_.num_kv_heads = options_.num_kv_heads;
    result_.group = options_.group;
    result_.batch = options_.batch;
    result_.rounds = options_.rounds;
    result_.seed = options_.seed;
    if (cuda_.query_device(&result_.limits) != TQ_CUDA_OK) {
      return Unsupported("the GPU does not answer");
    }
    MeasureCopy();
    const double steps = static_cast<double>(options_.cells.size() * options_.policies.size());
    double done = 0;
    for (const int cells : options_.cells) {
      const Rows rows(cells, options_.num_kv_heads * options_.head_dim, options_.seed);
      for (size_t i = 0; i < options_.policies.size(); ++i, done += 1) {
        Report(done / steps, options_.names[i] + " " + std::to_string(cells));
        if (Status s = Measure(i, cells, rows); !s.ok()) return s;
        gpu_.FreeAll();
      }
    }
    result_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  void Report(double done, const std::string& what) const {
    if (options_.progress) options_.progress(done, what);
  }

  void MeasureCopy() {
    const size_t bytes = std::min(kCopyBytes, gpu_.free_bytes() / 4);
    void* from = gpu_.Allocate(bytes);
    void* to = gpu_.Allocate(bytes);
    const Timing time = Summarise(
        gpu_.TimeGraph(4, options_.rounds, [&](int) { gpu_.CopyOnDevice(to, from, bytes); }));
    if (time.median > 0) result_.copy_bandwidth = 2.0 * static_cast<double>(bytes) / time.median;
    gpu_.FreeAll();
  }

  // One policy and length: pages, codes, plan, check, time.
  Status Measure(size_t policy_index, int cells, const Rows& rows) {
    const Policy& policy = options_.policies[policy_index];
    const int d = options_.head_dim;
    const int heads = options_.num_kv_heads * options_.group;
    const std::vector<int32_t> lengths(static_cast<size_t>(options_.batch), cells);

    tq_cuda_plan_request request{};
    request.k_format = static_cast<int32_t>(policy.k);
    request.v_format = static_cast<int32_t>(policy.v);
    request.head_dim = d;
    request.num_kv_heads = options_.num_kv_heads;
    request.batch = options_.batch;
    request.group = options_.group;
    request.q_len = 1;
    request.coded_len = lengths.data();
    request.num_sms = result_.limits.num_sms;
    request.smem_per_block = result_.limits.smem_per_block;
    request.smem_per_sm = result_.limits.smem_per_sm;
    request.bytes_per_clock = result_.limits.bytes_per_clock;
    char reason[256] = "";
    if (cuda_.supports(&request, reason, sizeof(reason)) != TQ_CUDA_OK) return Unsupported(reason);
    tq_cuda_plan plan{};
    int32_t num_items = 0;
    if (cuda_.plan_attention(&request, &plan, nullptr, &num_items) != TQ_CUDA_OK) {
      return Unsupported("the GPU has no plan for this shape");
    }
    std::vector<tq_cuda_item> items(static_cast<size_t>(num_items));
    cuda_.plan_attention(&request, &plan, items.data(), &num_items);

    const int pages = (cells + kPageTokens - 1) / kPageTokens;
    const size_t set_bytes = cuda_.record_bytes(request.k_format, request.v_format, d) *
                             static_cast<size_t>(options_.num_kv_heads) * pages * options_.batch;
    const size_t room = gpu_.free_bytes() / 10 * 8;
    const int sets = static_cast<int>(
        std::clamp<size_t>(std::min(options_.rotate_bytes, room) / set_bytes, 1, kMostSets));

    tq_cuda_attention p{};
    p.cache.k_format = request.k_format;
    p.cache.v_format = request.v_format;
    p.cache.head_dim = d;
    p.cache.num_kv_heads = options_.num_kv_heads;
    auto* records = static_cast<uint8_t*>(gpu_.Allocate(set_bytes * static_cast<size_t>(sets)));
    p.cache.records = records;
    p.cache.page_table = gpu_.Upload(ShuffledPages(pages * options_.batch));
    p.cache.page_stride = pages;
    p.cache.k_rotation = p.cache.v_rotation = RotationOf(rotation_, &gpu_);
    if (Status s = Encode(p.cache, rows, lengths); !s.ok()) return s;
    for (int set = 1; set < sets; ++set) {
      gpu_.CopyOnDevice(records + static_cast<size_t>(set) * set_bytes, records, set_bytes);
    }

    const std::vector<uint16_t> q = Queries(heads * d);
    const size_t out_values = q.size();
    p.batch = options_.batch;
    p.group = options_.group;
    p.q_len = 1;
    p.q = gpu_.Upload(q);
    p.q_dtype = TQ_CUDA_F16;
    p.q_sequence_stride = p.q_token_stride = int64_t{heads} * d;
    p.q_head_stride = d;
    auto* out = static_cast<float*>(gpu_.Allocate(out_values * sizeof(float)));
    p.out = out;
    p.out_dtype = TQ_CUDA_F32;
    p.out_sequence_stride = p.out_token_stride = p.q_sequence_stride;
    p.out_head_stride = d;
    p.coded_len = gpu_.Upload(lengths);
    p.scale = 2.0f / std::sqrt(static_cast<float>(d));  // logits with a deviation of 2
    const tq_cuda_item* device_items = plan.uniform != 0 ? nullptr : gpu_.Upload(items);
    void* workspace = gpu_.Allocate(plan.workspace_bytes);
    if (!gpu_.status().ok()) return gpu_.status();

    tq_cuda_status launched = TQ_CUDA_OK;
    const auto attend = [&](int launch) {
      tq_cuda_attention params = p;
      params.cache.records = records + static_cast<size_t>(launch % sets) * set_bytes;
      const tq_cuda_status status =
          cuda_.attend(&plan, &params, device_items, workspace, gpu_.stream());
      if (status != TQ_CUDA_OK) launched = status;
    };
    attend(sets - 1);
    gpu_.Wait();
    if (launched != TQ_CUDA_OK) return {StatusCode::kInternal, "the GPU refused its own plan"};
    const std::vector<float> got = gpu_.Download<float>(out, out_values);
    if (!gpu_.status().ok()) return gpu_.status();

    CudaAttentionFigure figure;
    figure.cache = options_.names[policy_index];
    figure.format = std::string(FormatName(policy.k)) + "/" + std::string(FormatName(policy.v));
    figure.cells = cells;
    figure.path = plan.path == TQ_CUDA_PATH_INT8 ? "int8" : "pair";
    figure.splits = plan.uniform != 0 ? plan.splits : 0;
    const double row_pairs = static_cast<double>(cells) * options_.num_kv_heads * options_.batch;
    figure.bytes = row_pairs * static_cast<double>(RowBytes(policy.k, d) + RowBytes(policy.v, d));
    figure.bits_per_value = 8 * figure.bytes / (2 * row_pairs * d);
    figure.error = ErrorOf(policy, rows, cells, q, got, p.scale);
    if (!(figure.error <= kErrorBound)) {
      return {StatusCode::kInternal,
              "attention over " + figure.cache + " on the GPU is wrong: " + "relative error " +
                  std::to_string(figure.error) + " against double; nothing was timed"};
    }
    figure.seconds = Summarise(gpu_.TimeGraph(std::max(kLaunches, sets), options_.rounds, attend));
    if (!gpu_.status().ok()) return gpu_.status();
    result_.figures.push_back(std::move(figure));
    return OkStatus();
  }

  // Pages of a running server lie anywhere.
  std::vector<int32_t> ShuffledPages(int n) const {
    std::vector<int32_t> pages(static_cast<size_t>(n));
    SplitMix64 random(options_.seed + 1);
    for (int i = 0; i < n; ++i) {
      const auto j = static_cast<size_t>(random.Next() % static_cast<uint64_t>(i + 1));
      pages[static_cast<size_t>(i)] = pages[j];
      pages[j] = i;
    }
    return pages;
  }

  std::vector<uint16_t> Queries(int row_values) const {
    std::vector<uint16_t> q(static_cast<size_t>(row_values) * options_.batch);
    SplitMix64 random(options_.seed + 2);
    for (uint16_t& x : q) x = FloatToHalf(static_cast<float>(random.Normal()));
    return q;
  }

  Status Encode(const tq_cuda_cache& cache, const Rows& rows, const std::vector<int32_t>& lengths) {
    tq_cuda_encode_params e{};
    e.cache = cache;
    e.batch = options_.batch;
    e.rows.k = gpu_.Upload(rows.k);
    e.rows.v = gpu_.Upload(rows.v);
    e.rows.dtype = TQ_CUDA_F16;
    e.rows.sequence_stride = 0;  // every sequence codes the same rows
    e.rows.token_stride = int64_t{options_.num_kv_heads} * options_.head_dim;
    e.rows.head_stride = options_.head_dim;
    e.first_token = gpu_.Upload(std::vector<int32_t>(lengths.size(), 0));
    e.num_rows = gpu_.Upload(lengths);
    e.max_rows = lengths[0];
    if (!gpu_.status().ok()) return gpu_.status();
    const tq_cuda_status status = cuda_.encode(&e, gpu_.stream());
    if (status == TQ_CUDA_UNSUPPORTED) {
      return Unsupported("the GPU does not encode trellis formats; use turbo2, turbo3 or turbo4");
    }
    if (status != TQ_CUDA_OK) return {StatusCode::kInternal, "the GPU refused to encode"};
    gpu_.Wait();
    return gpu_.status();
  }

  double ErrorOf(const Policy& policy, const Rows& rows, int cells, const std::vector<uint16_t>& q,
                 const std::vector<float>& got, float scale) const {
    const size_t size = q.size() / static_cast<size_t>(options_.batch);
    const size_t last = q.size() - size;
    const std::vector<double> want =
        Reference(options_, policy, rotation_).Attend(rows, cells, q.data() + last, scale);
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < size; ++i) {
      error += (got[last + i] - want[i]) * (got[last + i] - want[i]);
      norm += want[i] * want[i];
    }
    return std::sqrt(error / norm);
  }

  const tq_cuda_functions& cuda_;
  const CudaAttentionOptions& options_;
  CudaDriver& gpu_;
  const Rotation rotation_;
  CudaAttentionResult result_;
};

}  // namespace

Result<CudaAttentionResult> BenchCudaAttention(const tq_cuda_functions& cuda,
                                               const CudaAttentionOptions& options) {
  for (const Policy& policy : options.policies) {
    if (!IsCoded(policy.k) || !IsCoded(policy.v)) {
      return InvalidArgument("policy '" + policy.ToString() +
                             "' leaves a side at f16, which the GPU's pages do not hold");
    }
  }
  if (!SupportedHeadDim(options.head_dim)) {
    return InvalidArgument("rows of " + std::to_string(options.head_dim) +
                           " values cannot be coded; use a multiple of 16, e.g. 64 or 128");
  }
  Result<std::unique_ptr<CudaDriver>> driver = CudaDriver::Open();
  if (!driver.ok()) return driver.status();
  return Bench(cuda, options, driver.value().get()).Run();
}

}  // namespace turboquant
