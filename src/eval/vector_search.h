// Nearest neighbours by inner product: over compressed rows, and exactly beside it (the second use
// of TurboQuant, arXiv 2504.19874).
#ifndef TURBOQUANT_EVAL_VECTOR_SEARCH_H_
#define TURBOQUANT_EVAL_VECTOR_SEARCH_H_

#include <cstdint>
#include <vector>

#include "files/array_file.h"
#include "files/row_file.h"
#include "kernels/kernel_api.h"

namespace turboquant {

struct Neighbour {
  uint64_t index = 0;  // of the vector
  float score = 0;     // inner product, estimated or exact

  bool operator==(const Neighbour&) const = default;
};

struct SearchResult {
  // For each query at most k, best first; of equal scores the lower index first.
  std::vector<std::vector<Neighbour>> neighbours;
  double seconds = 0;
};

// The k vectors of greatest inner product with each of the queries, queries[n][width]; width is the
// last dimension of the file or array, a multiple of 16. Scores that are NaN never count. Rows are
// decoded once for all queries, in rotated space, tile by tile; nothing else is held in memory.
SearchResult SearchRows(const RowFile& file, const std::vector<float>& queries, int k, int threads,
                        const KernelTable& kernels = BestKernels());
SearchResult SearchArray(const ArrayView& array, const std::vector<float>& queries, int k,
                         int threads, const KernelTable& kernels = BestKernels());

struct Recall {
  double at_k = 0;       // mean share of the exact k that are among the k found
  double best_at_k = 0;  // share of queries whose exact best is among the k found
  double best_at_1 = 0;  // ... is the best found
};
Recall CompareSearches(const SearchResult& found, const SearchResult& exact);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_VECTOR_SEARCH_H_
