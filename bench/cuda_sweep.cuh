// Every configuration of the int8 kernel with a range of splits over a table of shapes: what the
// plan's rule is set by.
#ifndef TURBOQUANT_BENCH_CUDA_SWEEP_CUH_
#define TURBOQUANT_BENCH_CUDA_SWEEP_CUH_

#include <set>

#include "bench/cuda_bench_lib.cuh"
#include "kernels/cuda/int8_config.h"

namespace turboquant::cuda {
namespace {

struct SweepResult {
  PlanChoice choice;
  int splits = 0, items = 0, config = 0;
  double us = 0, error = 0;  // error: against the reference, or 1e30 if heads differ from the first
};

class Sweep {
 public:
  Sweep(const Shape& s, const tq_cuda_device& device)
      : shape_(s),
        cache_(s, kRotateBytes),
        request_(cache_.Request(device)),
        device_(device),
        plan_(PlanAttention(request_).plan) {}

  // Column blocks that the plan's kernel has.
  int tiles() const { return plan_.row_tile / kRowsPerTile; }
  Int8Config Config(int index) const {
    return Int8ConfigOf(shape_.format_k, shape_.format_v, shape_.head_dim, tiles(), index);
  }

  // Times a plan; checks all of its output against the first plan's, and one head of it against
  // double.
  SweepResult Measure(const PlanChoice& choice, int replays) {
    const AttentionPlan p = PlanAttention(request_, choice);
    SweepResult r{choice, p.plan.splits, p.plan.num_items, p.plan.config, 0, 0};
    const DeviceBuffer<tq_cuda_item> items(p.items);
    DeviceBuffer<uint8_t> workspace(p.plan.workspace_bytes);
    workspace.Fill(0);
    // Twice: the second run finds what the first left in the workspace.
    std::vector<float> out;
    for (int i = 0; i < 2; ++i) out = cache_.Run(p.plan, items.get(), workspace.get());
    r.error = cache_.Check(out);
    if (first_.empty()) first_ = out;
    if (!Alike(out)) r.error = 1e30;
    const double bytes = Bytes();
    const int least = bytes < 2e8 ? 48 : bytes < 2e9 ? 8 : 2;
    const int launches =
        std::max(cache_.sets(), (least + cache_.sets() - 1) / cache_.sets() * cache_.sets());
    r.us = MedianTime(
        launches,
        [&](cudaStream_t stream, int k) {
          const tq_cuda_attention a = cache_.Attention(k % cache_.sets());
          tq_cuda_attend(&p.plan, &a, items.get(), workspace.get(), stream);
        },
        replays);
    return r;
  }

  double Bytes() const {
    double pages = 0;
    for (const int n : shape_.lens) pages += (n + kTileTokens - 1) / kTileTokens;
    return pages * shape_.kv_heads *
           static_cast<double>(
               tq_cuda_record_bytes(shape_.format_k, shape_.format_v, shape_.head_dim));
  }

  // Splits worth a try with a configuration.
  std::set<int> Splits(int index) const {
    const Int8Config c = Config(index);
    std::set<int> out;
    if (c.warps == 0) return out;
    const int bytes =
        c.warps * c.Pages() *
        static_cast<int>(tq_cuda_record_bytes(shape_.format_k, shape_.format_v, shape_.head_dim));
    if (bytes + 10 * 1024 > device_.smem_per_block) return out;
    const int resident = std::clamp(device_.smem_per_sm / (bytes + 6 * 1024), 1, c.ctas_per_sm);
    const int heads = static_cast<int>(shape_.lens.size()) * shape_.kv_heads * plan_.row_tiles;
    const int pages = shape_.lens[0] / kTileTokens;
    for (int ctas = 1; ctas <= resident; ++ctas)
      Add(device_.num_sms * ctas / heads, c, pages, &out);
    const int wave = device_.num_sms * resident / heads;
    for (const int n : {wave - 1, wave + 1, wave * 2, wave * 3, wave * 4}) Add(n, c, pages, &out);
    return out;
  }

 private:
  static void Add(int splits, const Int8Config& c, int pages, std::set<int>* out) {
    splits = std::clamp(splits, 1, kMaxPartials - 1);
    if (splits == 1 || pages / splits * 2 >= c.warps) out->insert(splits);
  }

  bool Alike(const std::vector<float>& out) const {
    const size_t d = static_cast<size_t>(shape_.head_dim);
    if (out.size() != first_.size() || out.empty()) return false;
    for (size_t at = 0; at < out.size(); at += d) {
      double error = 0, norm = 0;
      for (size_t i = at; i < at + d; ++i) {
        const double e = static_cast<double>(out[i]) - first_[i];
        error += e * e;
        norm += static_cast<double>(first_[i]) * first_[i];
      }
      if (!(error <= norm * 1e-6)) return false;
    }
    return true;
  }

  Shape shape_;
  BenchCache cache_;
  tq_cuda_plan_request request_;
  tq_cuda_device device_;
  tq_cuda_plan plan_;
  std::vector<float> first_;
};

inline void AddSweepRow(const Shape& s, const SweepResult& r, const Int8Config& c, const char* what,
                        double gbps, Report* report) {
  char line[400];
  std::snprintf(line, sizeof(line),
                "{\"kind\":\"sweep\",\"what\":\"%s\",\"name\":\"%s\",\"k\":%d,\"v\":%d,"
                "\"config\":%d,\"warps\":%d,\"stages\":%d,\"ctas\":%d,\"splits\":%d,\"items\":%d,"
                "\"dynamic\":%d,\"us\":%.3f,\"gbps\":%.1f,\"error\":%.2e}",
                what, s.name.c_str(), s.format_k, s.format_v, r.config, c.warps, c.stages,
                c.ctas_per_sm, r.splits, r.items, r.choice.dynamic, r.us, gbps, r.error);
  report->Add(line);
}

inline void PrintSweepRow(const SweepResult& r, const char* what, const Int8Config& c,
                          double percent) {
  std::printf("  %-7s cfg%d w%-2d s%d x%d splits %2d items %4d%s %8.2f us %5.1f %% err %.0e\n",
              what, r.config, c.warps, c.stages, c.ctas_per_sm, r.splits, r.items,
              r.choice.dynamic != 0 ? " dyn" : "", r.us, percent, r.error);
}

// False: a plan's output is wrong.
inline bool SweepShape(const Shape& s, const tq_cuda_device& device, const Roofline& roofline,
                       Report* report) {
  Sweep sweep(s, device);
  bool ok = true;
  std::vector<SweepResult> all;
  const auto measure = [&](const char* what, const PlanChoice& choice, int replays) {
    const SweepResult r = sweep.Measure(choice, replays);
    const Int8Config c = sweep.Config(r.config);
    AddSweepRow(s, r, c, what, sweep.Bytes() / r.us * 1e-3, report);
    if (!(r.error <= 1e-3)) {
      std::printf("  WRONG: ");
      ok = false;
    }
    if (std::strcmp(what, "sweep") != 0 || !(r.error <= 1e-3)) {
      PrintSweepRow(r, what, c, 100 * sweep.Bytes() / r.us * 1e-3 / roofline.read);
    }
    return r;
  };
  std::printf("%s k%d v%d (%.1f us at read bandwidth)\n", s.name.c_str(), s.format_k, s.format_v,
              sweep.Bytes() / roofline.read * 1e-3);
  measure("plan", {}, 9);
  for (int index = 0; index < kInt8Configs; ++index) {
    for (const int splits : sweep.Splits(index)) {
      for (const int dynamic : {0, 1}) {
        all.push_back(measure("sweep", {index, splits, dynamic}, 5));
      }
    }
  }
  std::sort(all.begin(), all.end(),
            [](const SweepResult& x, const SweepResult& y) { return x.us < y.us; });
  // The best again, longer; the best without dynamic pages.
  const size_t again = std::min<size_t>(all.size(), 5);
  for (size_t i = 0; i < again; ++i) measure("best", all[i].choice, 11);
  for (const SweepResult& r : all) {
    if (r.choice.dynamic != 0) continue;
    measure("static", r.choice, 11);
    break;
  }
  std::fflush(stdout);
  return ok;
}

}  // namespace
}  // namespace turboquant::cuda

#endif  // TURBOQUANT_BENCH_CUDA_SWEEP_CUH_
