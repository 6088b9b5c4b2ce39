#include "eval/vector_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <functional>

#include "base/parallel.h"
#include "kernels/row_coder.h"

namespace turboquant {
namespace {

constexpr uint64_t kTile = 64;  // vectors whose values are held at a time
constexpr uint64_t kVectorsOfJob = 2048;

bool Better(const Neighbour& a, const Neighbour& b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// The best k of what was offered: a heap whose front is the worst of them.
class Best {
 public:
  void Offer(const Neighbour& candidate, size_t k) {
    if (std::isnan(candidate.score)) return;
    if (heap_.size() < k) {
      heap_.push_back(candidate);
      std::push_heap(heap_.begin(), heap_.end(), Better);
    } else if (Better(candidate, heap_.front())) {
      std::pop_heap(heap_.begin(), heap_.end(), Better);
      heap_.back() = candidate;
      std::push_heap(heap_.begin(), heap_.end(), Better);
    }
  }
  const std::vector<Neighbour>& all() const { return heap_; }

 private:
  std::vector<Neighbour> heap_;
};

// Vectors in parts of `part` values, [part][vector][value], so that one dense product does a part.
struct Source {
  uint64_t vectors = 0;
  int part = 0;   // values
  int parts = 0;  // of a vector
  // Writes vectors [first, first + n) as [parts][n][part].
  std::function<void(uint64_t first, uint64_t n, float* out)> load;
};

SearchResult Search(const Source& source, const std::vector<float>& queries, int k, int threads,
                    const KernelTable& kernels) {
  const auto start = std::chrono::steady_clock::now();
  const size_t width = static_cast<size_t>(source.part) * source.parts;
  const size_t n_queries = queries.size() / width;
  // The same order for queries: [parts][query][part].
  std::vector<float> ordered(queries.size());
  for (size_t q = 0; q < n_queries; ++q) {
    for (int p = 0; p < source.parts; ++p) {
      std::copy_n(&queries[q * width + static_cast<size_t>(p) * source.part], source.part,
                  &ordered[(p * n_queries + q) * source.part]);
    }
  }
  const uint64_t jobs = (source.vectors + kVectorsOfJob - 1) / kVectorsOfJob;
  std::vector<std::vector<Best>> best(jobs);
  ParallelFor(jobs, threads, [&](size_t job) {
    best[job].resize(n_queries);
    std::vector<float> tile(kTile * width), scores(n_queries * kTile), part(n_queries * kTile);
    const uint64_t end = std::min(source.vectors, (job + 1) * kVectorsOfJob);
    for (uint64_t first = job * kVectorsOfJob; first < end; first += kTile) {
      const uint64_t n = std::min(kTile, end - first);
      source.load(first, n, tile.data());
      std::fill(scores.begin(), scores.end(), 0.0f);
      for (int p = 0; p < source.parts; ++p) {
        kernels.dense_scores(&tile[p * n * source.part], source.part,
                             &ordered[p * n_queries * source.part], static_cast<int>(n_queries),
                             static_cast<int>(n), part.data(), static_cast<int>(kTile));
        for (size_t q = 0; q < n_queries; ++q) {
          for (uint64_t j = 0; j < n; ++j) scores[q * kTile + j] += part[q * kTile + j];
        }
      }
      for (size_t q = 0; q < n_queries; ++q) {
        for (uint64_t j = 0; j < n; ++j) {
          best[job][q].Offer({first + j, scores[q * kTile + j]}, static_cast<size_t>(k));
        }
      }
    }
  });
  SearchResult result;
  result.neighbours.resize(n_queries);
  for (size_t q = 0; q < n_queries; ++q) {
    Best merged;
    for (const auto& of_job : best) {
      for (const Neighbour& neighbour : of_job[q].all()) {
        merged.Offer(neighbour, static_cast<size_t>(k));
      }
    }
    result.neighbours[q] = merged.all();
    std::sort(result.neighbours[q].begin(), result.neighbours[q].end(), Better);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

// The largest part that divides the width and that the kernels take; 0: none.
int DensePart(uint64_t width) {
  for (int part = 1024; part >= 16; part -= 16) {
    if (width % static_cast<uint64_t>(part) == 0) return part;
  }
  return 0;
}

}  // namespace

SearchResult SearchRows(const RowFile& file, const std::vector<float>& queries, int k, int threads,
                        const KernelTable& kernels) {
  const RowCoder coder(file.codec(), kernels);
  Source source;
  source.vectors = file.vectors();
  source.part = file.codec().head_dim();
  source.parts = static_cast<int>(file.rows_per_vector());
  source.load = [&](uint64_t first, uint64_t n, float* out) {
    for (uint64_t j = 0; j < n; ++j) {
      for (int p = 0; p < source.parts; ++p) {
        coder.DecodeRotated(file.row((first + j) * source.parts + p), 1,
                            out + (p * n + j) * source.part);
      }
    }
  };
  std::vector<float> rotated(queries.size());
  for (size_t at = 0; at < queries.size(); at += source.part) {
    file.codec().Rotate(&queries[at], &rotated[at], coder.ops());
  }
  return Search(source, rotated, k, threads, kernels);
}

SearchResult SearchArray(const ArrayView& array, const std::vector<float>& queries, int k,
                         int threads, const KernelTable& kernels) {
  const uint64_t width = array.shape.back();
  Source source;
  source.vectors = array.values() / width;
  source.part = DensePart(width);
  source.parts = static_cast<int>(width / source.part);
  source.load = [&](uint64_t first, uint64_t n, float* out) {
    for (uint64_t j = 0; j < n; ++j) {
      for (int p = 0; p < source.parts; ++p) {
        array.Read((first + j) * width + static_cast<uint64_t>(p) * source.part, source.part,
                   out + (p * n + j) * source.part);
      }
    }
  };
  return Search(source, queries, k, threads, kernels);
}

Recall CompareSearches(const SearchResult& found, const SearchResult& exact) {
  Recall recall;
  const size_t n = exact.neighbours.size();
  for (size_t q = 0; q < n; ++q) {
    const auto& got = found.neighbours[q];
    const auto& want = exact.neighbours[q];
    if (want.empty()) continue;
    const auto has = [&](uint64_t index) {
      return std::any_of(got.begin(), got.end(),
                         [index](const Neighbour& g) { return g.index == index; });
    };
    const auto hits =
        std::count_if(want.begin(), want.end(), [&](const Neighbour& w) { return has(w.index); });
    recall.at_k += static_cast<double>(hits) / static_cast<double>(want.size());
    recall.best_at_k += has(want[0].index) ? 1 : 0;
    recall.best_at_1 += !got.empty() && got[0].index == want[0].index ? 1 : 0;
  }
  if (n > 0) {
    recall.at_k /= static_cast<double>(n);
    recall.best_at_k /= static_cast<double>(n);
    recall.best_at_1 /= static_cast<double>(n);
  }
  return recall;
}

}  // namespace turboquant
