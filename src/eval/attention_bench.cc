#include "eval/attention_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>

#include "codec/format.h"
#include "eval/attention_layers.h"

namespace turboquant {
namespace {

constexpr double kLayersBytes = 256.0 * (1 << 20);  // of all layers' f16 rows together
constexpr int kMostLayers = 32;

double Difference(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double off = static_cast<double>(got[i]) - want[i];
    error += off * off;
    norm += static_cast<double>(want[i]) * want[i];
  }
  return std::sqrt(error / norm);
}

// Relative L2 error of some tokens' outputs against double over the rows as the cache decodes them.
double ErrorAgainstDouble(const LayerShape& shape, const LayerData& data, const LayerCache& cache) {
  const size_t d = shape.head_dim;
  const size_t width = data.width;
  std::vector<float> k(shape.cells * width);
  std::vector<float> v(shape.cells * width);
  for (int j = 0; j < shape.cells; ++j) cache.ReadRow(j, &k[j * width], &v[j * width]);
  double error = 0;
  double norm = 0;
  std::vector<double> logits(shape.cells);
  std::vector<double> want(d);
  for (int t : {0, shape.tokens / 2, shape.tokens - 1}) {
    const int seen = shape.cells - shape.tokens + t + 1;
    for (int h = 0; h < shape.heads(); ++h) {
      const size_t row = (static_cast<size_t>(t) * shape.heads() + h) * d;
      const size_t head = h / shape.group * d;
      double most = -std::numeric_limits<double>::infinity();
      for (int j = 0; j < seen; ++j) {
        double dot = 0;
        for (size_t i = 0; i < d; ++i) {
          dot += static_cast<double>(data.q[row + i]) * k[j * width + head + i];
        }
        logits[j] = dot * shape.scale();
        most = std::max(most, logits[j]);
      }
      double sum = 0;
      std::fill(want.begin(), want.end(), 0.0);
      for (int j = 0; j < seen; ++j) {
        const double weight = std::exp(logits[j] - most);
        sum += weight;
        for (size_t i = 0; i < d; ++i) want[i] += weight * v[j * width + head + i];
      }
      for (size_t i = 0; i < d; ++i) {
        const double off = cache.out()[row + i] - want[i] / sum;
        error += off * off;
        norm += want[i] / sum * (want[i] / sum);
      }
    }
  }
  return std::sqrt(error / norm);
}

struct Cell {
  AttentionFigure figure;
  LayerCache* cache = nullptr;
  size_t calls = 1;
  int next_layer = 0;
  std::vector<double> samples;
};

class Bench {
 public:
  explicit Bench(const AttentionBenchOptions& options)
      : options_(options),
        team_(*std::max_element(options.threads.begin(), options.threads.end())) {}

  Result<AttentionBenchResult> Run() {
    const auto start = std::chrono::steady_clock::now();
    const double steps = static_cast<double>(options_.tokens.size() * options_.cells.size());
    double done = 0;
    for (int tokens : options_.tokens) {
      for (int cells : options_.cells) {
        first_ = done / steps;
        share_ = 1 / steps;
        done += 1;
        if (tokens >= cells) continue;
        if (Status s = Measure(tokens, cells); !s.ok()) return s;
      }
    }
    result_.machine = ThisMachine();
    result_.pinned = team_.pinned();
    result_.table = options_.kernels->name;
    result_.head_dim = options_.head_dim;
    result_.num_kv_heads = options_.num_kv_heads;
    result_.group = options_.group;
    result_.rounds = options_.rounds;
    result_.seed = options_.seed;
    result_.processor_share = team_.processor_share();
    result_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (result_.figures.empty()) {
      return InvalidArgument("nothing to measure: every number of tokens needs more cells than it");
    }
    return std::move(result_);
  }

 private:
  // All caches and thread counts of one shape.
  Status Measure(int tokens, int cells) {
    const LayerShape shape = {options_.head_dim, options_.num_kv_heads, options_.group, tokens,
                              cells};
    const double layer_bytes = 4.0 * cells * shape.width();
    const int layers = std::clamp(static_cast<int>(kLayersBytes / layer_bytes), 1, kMostLayers);
    result_.layers.push_back(layers);
    Report(0, "preparing");
    const LayerData data(shape, options_.seed);
    std::vector<std::unique_ptr<LayerCache>> caches;
    std::vector<Cell> cells_to_time;
    std::vector<float> exact;
    for (size_t i = 0; i <= options_.policies.size(); ++i) {
      caches.push_back(i == 0 ? MakeF16Cache(shape, data, layers, *options_.kernels)
                              : MakeCodedCache(shape, data, layers, options_.policies[i - 1],
                                               options_.seed, *options_.kernels));
      Cell cell;
      cell.cache = caches.back().get();
      cell.figure.cache = i == 0 ? "f16" : options_.names[i - 1];
      cell.figure.policy = i == 0 ? "" : options_.policies[i - 1].ToString();
      cell.figure.tokens = tokens;
      cell.figure.cells = cells;
      cell.figure.cache_bytes = cell.cache->bytes();
      cell.figure.bits_per_value = 16 * cell.figure.cache_bytes / layer_bytes;
      Report(0, "checking " + cell.figure.cache);
      if (Status s = Check(shape, data, &cell, &exact); !s.ok()) return s;
      for (int threads : options_.threads) {
        cell.figure.threads = std::min(threads, team_.threads());
        cells_to_time.push_back(cell);
      }
    }
    Time(layers, &cells_to_time);
    std::stable_sort(cells_to_time.begin(), cells_to_time.end(), [](const Cell& a, const Cell& b) {
      return a.figure.threads < b.figure.threads;
    });
    for (Cell& cell : cells_to_time) {
      cell.figure.seconds = Summarise(cell.samples);
      result_.figures.push_back(std::move(cell.figure));
    }
    return OkStatus();
  }

  // exact: the f16 cache's output, which comes first.
  Status Check(const LayerShape& shape, const LayerData& data, Cell* cell,
               std::vector<float>* exact) {
    // With every number of threads: results must not depend on it.
    std::vector<float> first;
    for (int threads : options_.threads) {
      team_.Run(threads, [&](int thread) {
        cell->cache->Attend(0, thread, std::min(threads, team_.threads()), &team_);
      });
      if (first.empty()) first = cell->cache->out();
      if (first != cell->cache->out()) {
        return {StatusCode::kInternal,
                "attention over " + cell->figure.cache + " depends on the number of threads"};
      }
    }
    cell->figure.error = ErrorAgainstDouble(shape, data, *cell->cache);
    const double bound = shape.tokens * shape.group <= 64 ? kDecodeErrorBound : kPrefillErrorBound;
    if (!(cell->figure.error <= bound)) {
      return {StatusCode::kInternal,
              "attention over " + cell->figure.cache + " is wrong: relative error " +
                  std::to_string(cell->figure.error) + " against double, allowed " +
                  std::to_string(bound) + "; nothing was timed"};
    }
    if (exact->empty()) *exact = first;
    cell->figure.loss = Difference(first, *exact);
    return OkStatus();
  }

  double Sample(int layers, Cell* cell) {
    const int threads = cell->figure.threads;
    const int first = cell->next_layer;
    cell->next_layer = static_cast<int>((first + cell->calls) % layers);
    const double seconds = team_.Time(threads, [&](int thread) {
      for (size_t c = 0; c < cell->calls; ++c) {
        cell->cache->Attend(static_cast<int>((first + c) % layers), thread, threads, &team_);
      }
    });
    return seconds / static_cast<double>(cell->calls);
  }

  void Time(int layers, std::vector<Cell>* cells) {
    for (Cell& cell : *cells) {
      const double seconds = std::min(Sample(layers, &cell), Sample(layers, &cell));
      cell.calls =
          static_cast<size_t>(std::clamp(std::ceil(options_.sample_seconds / seconds), 1.0, 1e5));
    }
    const double all = static_cast<double>(cells->size()) * options_.rounds;
    double done = 0;
    for (int round = 0; round < options_.rounds; ++round) {
      for (Cell& cell : *cells) {
        Report(done++ / all, cell.figure.cache + " " + std::to_string(cell.figure.cells));
        cell.samples.push_back(Sample(layers, &cell));
      }
    }
  }

  void Report(double done, const std::string& what) const {
    if (options_.progress) options_.progress(first_ + share_ * done, what);
  }

  const AttentionBenchOptions& options_;
  WorkTeam team_;
  double first_ = 0;  // where this step begins in all of the work
  double share_ = 0;
  AttentionBenchResult result_;
};

}  // namespace

Result<AttentionBenchResult> BenchAttention(const AttentionBenchOptions& options) {
  if (!SupportedHeadDim(options.head_dim)) {
    return InvalidArgument("rows of " + std::to_string(options.head_dim) +
                           " values cannot be coded; use a multiple of 16, e.g. 64 or 128");
  }
  for (const Policy& policy : options.policies) {
    if (!IsCoded(policy.k) || !IsCoded(policy.v)) {
      return InvalidArgument("policy '" + policy.ToString() +
                             "' leaves a side at f16; f16 comes along by itself");
    }
  }
  if (options.threads.empty() || options.tokens.empty() || options.cells.empty() ||
      options.names.size() != options.policies.size()) {
    return InvalidArgument("no threads, tokens or cells to measure");
  }
  return Bench(options).Run();
}

}  // namespace turboquant
