// The layers that the attention bench runs over: the same random rows in an f16 cache and in a
// compressed one, and attention over each with a team of threads.
#ifndef TURBOQUANT_EVAL_ATTENTION_LAYERS_H_
#define TURBOQUANT_EVAL_ATTENTION_LAYERS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "attention/attend.h"
#include "eval/work_team.h"
#include "kvcache/policy.h"
#include "kvcache/row_store.h"

namespace turboquant {

struct LayerShape {
  int head_dim = 0;
  int num_kv_heads = 0;
  int group = 0;
  int tokens = 0;  // of the query; the newest `tokens` cells are theirs
  int cells = 0;
  int heads() const { return num_kv_heads * group; }
  int width() const { return num_kv_heads * head_dim; }
  float scale() const;
};

// Rows and queries; keys have a mean, as those of models do.
struct LayerData {
  LayerData(const LayerShape& shape, uint64_t seed);
  const uint16_t* k_row(int cell) const { return k.data() + static_cast<size_t>(cell) * width; }
  const uint16_t* v_row(int cell) const { return v.data() + static_cast<size_t>(cell) * width; }

  size_t width;
  std::vector<uint16_t> k, v;  // f16 [cells][width]
  std::vector<float> q;        // [tokens][heads][head_dim]
  std::vector<uint16_t> mask;  // f16 [tokens][cells], causal
};

// Attention over one kind of cache, held by `layers` layers.
class LayerCache {
 public:
  virtual ~LayerCache() = default;
  // Attention of one layer on `threads` threads of the team; inside WorkTeam::Run.
  virtual void Attend(int layer, int thread, int threads, WorkTeam* team) = 0;
  // [tokens][heads][head_dim], of the last call.
  virtual const std::vector<float>& out() const = 0;
  // The rows of a cell as the cache decodes them, f32 [width].
  virtual void ReadRow(int cell, float* k, float* v) const = 0;
  virtual double bytes() const = 0;  // of one layer
};

// f16 rows, each head's one behind the other. Decoding takes the table's kernels over f16 rows,
// split over (kv head, chunk of cells); prefill takes the library's own attention over rows that
// are converted a tile at a time.
std::unique_ptr<LayerCache> MakeF16Cache(const LayerShape& shape, const LayerData& data, int layers,
                                         const KernelTable& kernels);

// A compressed cache whose newest `tokens` rows are still exact, as in a graph that brings them.
std::unique_ptr<LayerCache> MakeCodedCache(const LayerShape& shape, const LayerData& data,
                                           int layers, const Policy& policy, uint64_t seed,
                                           const KernelTable& kernels);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_ATTENTION_LAYERS_H_
