#include "eval/attention_layers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/fp16.h"
#include "base/rng.h"
#include "math/rotation.h"

namespace turboquant {
namespace {

constexpr int kTile = 128;           // cells of one inner step
constexpr int kChunk = 512;          // cells of one work item
constexpr int kMostDecodeRows = 16;  // query rows of a kv head up to which f16 decodes
constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

void FillProblem(const LayerShape& shape, const LayerData& data, float* out, AttentionProblem* p) {
  p->tokens = shape.tokens;
  p->num_kv_heads = shape.num_kv_heads;
  p->group = shape.group;
  p->out_dim = shape.head_dim;
  p->cells = shape.cells;
  p->scale = shape.scale();
  p->q = reinterpret_cast<const char*>(data.q.data());
  p->q_head_stride = shape.head_dim * sizeof(float);
  p->q_token_stride = p->q_head_stride * shape.heads();
  p->out = reinterpret_cast<char*>(out);
  p->out_head_stride = p->q_head_stride;
  p->out_token_stride = p->q_token_stride;
  p->mask = reinterpret_cast<const char*>(data.mask.data());
  p->mask_token_stride = static_cast<size_t>(shape.cells) * sizeof(uint16_t);
  p->hidden.assign(shape.cells, 0);
}

// As the plugin shares the items of a run among the host's threads.
void RunTogether(AttentionRun* run, int thread, int threads, WorkTeam* team) {
  if (thread == 0) run->Prepare();
  team->Barrier();
  const int64_t items = run->attend_items();
  for (int64_t i = items * thread / threads; i < items * (thread + 1) / threads; ++i) {
    run->AttendItem(static_cast<int>(i));
  }
  team->Barrier();
  for (int i = thread; i < run->merge_items(); i += threads) run->MergeItem(i);
  team->Barrier();
}

class F16Cache : public LayerCache {
 public:
  F16Cache(const LayerShape& shape, const LayerData& data, int layers, const KernelTable& kernels)
      : shape_(shape), data_(data), kernels_(kernels), run_(kernels) {
    const size_t d = shape.head_dim;
    out_.resize(data.q.size());
    layers_.resize(layers);
    for (Layer& layer : layers_) {
      layer.cache = this;
      layer.k.resize(data.k.size());
      layer.v.resize(data.v.size());
      for (int h = 0; h < shape.num_kv_heads; ++h) {
        for (int c = 0; c < shape.cells; ++c) {
          const size_t to = (static_cast<size_t>(h) * shape.cells + c) * d;
          std::copy_n(data.k_row(c) + h * d, d, layer.k.data() + to);
          std::copy_n(data.v_row(c) + h * d, d, layer.v.data() + to);
        }
      }
    }
    // Queries as the kernels want them: those of a kv head together, scaled.
    rows_ = shape.tokens * shape.group;
    q_.resize(data.q.size());
    for (int t = 0; t < shape.tokens; ++t) {
      for (int h = 0; h < shape.heads(); ++h) {
        const int row = t * shape.group + h % shape.group;
        const size_t to = (static_cast<size_t>(h / shape.group) * rows_ + row) * d;
        const size_t from = (static_cast<size_t>(t) * shape.heads() + h) * d;
        for (size_t i = 0; i < d; ++i) q_[to + i] = data.q[from + i] * shape.scale();
      }
    }
    chunks_ = (shape.cells + kChunk - 1) / kChunk;
    states_.resize(static_cast<size_t>(shape.num_kv_heads) * chunks_ * rows_ * (d + 2));
  }

  void Attend(int layer, int thread, int threads, WorkTeam* team) override {
    if (rows_ <= kMostDecodeRows) {
      const int64_t items = static_cast<int64_t>(shape_.num_kv_heads) * chunks_;
      for (int64_t i = items * thread / threads; i < items * (thread + 1) / threads; ++i) {
        AttendChunk(layers_[layer], static_cast<int>(i) / chunks_, static_cast<int>(i) % chunks_);
      }
      team->Barrier();
      for (int i = thread; i < shape_.heads() * shape_.tokens; i += threads) Merge(i);
      team->Barrier();
      return;
    }
    if (thread == 0) {
      run_.problems().assign(1, AttentionProblem());
      AttentionProblem& p = run_.problems()[0];
      FillProblem(shape_, data_, out_.data(), &p);
      p.k.head_dim = p.v.head_dim = shape_.head_dim;
      p.k.context = p.v.context = &layers_[layer];
      p.k.load = [](const void* context, int kv_head, int cell, int n, float* out) {
        const auto& from = *static_cast<const Layer*>(context);
        from.cache->Load(from.k, kv_head, cell, n, out);
      };
      p.v.load = [](const void* context, int kv_head, int cell, int n, float* out) {
        const auto& from = *static_cast<const Layer*>(context);
        from.cache->Load(from.v, kv_head, cell, n, out);
      };
    }
    RunTogether(&run_, thread, threads, team);
  }

  const std::vector<float>& out() const override { return out_; }
  void ReadRow(int cell, float* k, float* v) const override {
    kernels_.half_to_float(data_.k_row(cell), k, data_.width);
    kernels_.half_to_float(data_.v_row(cell), v, data_.width);
  }
  double bytes() const override { return static_cast<double>(data_.k.size() + data_.v.size()) * 2; }

 private:
  struct Layer {
    const F16Cache* cache;
    std::vector<uint16_t> k, v;  // [heads][cells][head_dim]
  };

  void Load(const std::vector<uint16_t>& rows, int kv_head, int cell, int n, float* out) const {
    const size_t d = shape_.head_dim;
    kernels_.half_to_float(rows.data() + (static_cast<size_t>(kv_head) * shape_.cells + cell) * d,
                           out, n * d);
  }

  float* State(int kv_head, int chunk, int row) {
    return states_.data() +
           ((static_cast<size_t>(kv_head) * chunks_ + chunk) * rows_ + row) * (shape_.head_dim + 2);
  }

  // (m, l, o) of one chunk for all query rows of its kv head.
  void AttendChunk(const Layer& layer, int kv_head, int chunk) {
    const int d = shape_.head_dim;
    float s[kMostDecodeRows * kTile];
    float o[kMostDecodeRows * kMaxHeadDim] = {};
    float bias[kTile];
    const uint16_t* k[kTile];
    const uint16_t* v[kTile];
    float m[kMostDecodeRows];
    float l[kMostDecodeRows] = {};
    std::fill_n(m, rows_, kMinusInf);
    const int end = std::min(shape_.cells, (chunk + 1) * kChunk);
    for (int c = chunk * kChunk; c < end; c += kTile) {
      const int n = std::min(kTile, end - c);
      const size_t at = (static_cast<size_t>(kv_head) * shape_.cells + c) * d;
      for (int j = 0; j < n; ++j) {
        k[j] = layer.k.data() + at + static_cast<size_t>(j) * d;
        v[j] = layer.v.data() + at + static_cast<size_t>(j) * d;
      }
      kernels_.half_scores(k, d, q_.data() + static_cast<size_t>(kv_head) * rows_ * d, rows_, n, s,
                           kTile);
      for (int r = 0; r < rows_; ++r) {
        const int token = r / shape_.group;
        if (r % shape_.group == 0) {
          kernels_.half_to_float(data_.mask.data() + static_cast<size_t>(token) * shape_.cells + c,
                                 bias, n);
        }
        float factor;
        const float* biases = bias;
        kernels_.softmax({.s = s + r * kTile,
                          .ld = kTile,
                          .rows = 1,
                          .n = n,
                          .bias = &biases,
                          .m = &m[r],
                          .l = &l[r],
                          .factor = &factor});
        if (factor == 1.0f) continue;
        for (int i = 0; i < d; ++i) o[r * d + i] *= factor;
      }
      kernels_.half_accumulate(v, d, s, kTile, rows_, n, o);
    }
    for (int r = 0; r < rows_; ++r) {
      float* state = State(kv_head, chunk, r);
      state[0] = m[r];
      state[1] = l[r];
      std::copy_n(o + r * d, d, state + 2);
    }
  }

  // One output row from the states of its chunks.
  void Merge(int item) {
    const int d = shape_.head_dim;
    const int token = item / shape_.heads();
    const int head = item % shape_.heads();
    const int row = token * shape_.group + head % shape_.group;
    const int kv_head = head / shape_.group;
    float m = kMinusInf;
    for (int c = 0; c < chunks_; ++c) m = std::max(m, State(kv_head, c, row)[0]);
    float* out = out_.data() + static_cast<size_t>(item) * d;
    std::fill_n(out, d, 0.0f);
    float sum = 0;
    for (int c = 0; c < chunks_; ++c) {
      const float* state = State(kv_head, c, row);
      if (state[0] == kMinusInf) continue;
      const float factor = std::exp(state[0] - m);
      sum += factor * state[1];
      for (int i = 0; i < d; ++i) out[i] += factor * state[2 + i];
    }
    for (int i = 0; i < d; ++i) out[i] /= sum;
  }

  const LayerShape shape_;
  const LayerData& data_;
  const KernelTable& kernels_;
  AttentionRun run_;
  std::vector<Layer> layers_;
  std::vector<float> q_, out_, states_;
  int rows_ = 0;
  int chunks_ = 0;
};

class CodedCache : public LayerCache {
 public:
  CodedCache(const LayerShape& shape, const LayerData& data, int layers, const Policy& policy,
             uint64_t seed, const KernelTable& kernels)
      : shape_(shape),
        data_(data),
        k_rotation_(shape.head_dim, seed),
        v_rotation_(shape.head_dim, seed + 1),
        run_(kernels) {
    out_.resize(data.q.size());
    for (int i = 0; i < layers; ++i) {
      layers_.push_back(std::make_unique<Layer>());
      Layer& layer = *layers_.back();
      Bind(policy, true, k_rotation_, kernels, &layer.k_memory, &layer.k);
      Bind(policy, false, v_rotation_, kernels, &layer.v_memory, &layer.v);
      if (i == 0) {
        Fill(data.k, &layer.k);
        Fill(data.v, &layer.v);
      } else {
        layer.k.CopyBlock(layers_[0]->k);
        layer.v.CopyBlock(layers_[0]->v);
      }
    }
  }

  void Attend(int layer, int thread, int threads, WorkTeam* team) override {
    if (thread == 0) {
      run_.problems().assign(1, AttentionProblem());
      FillCodedProblem(*layers_[layer], &run_.problems()[0]);
    }
    RunTogether(&run_, thread, threads, team);
  }

  const std::vector<float>& out() const override { return out_; }

  void ReadRow(int cell, float* k, float* v) const override {
    if (cell < written()) {
      layers_[0]->k.ReadRow(cell, k);
      layers_[0]->v.ReadRow(cell, v);
      return;
    }
    for (size_t i = 0; i < data_.width; ++i) {
      k[i] = HalfToFloat(data_.k_row(cell)[i]);
      v[i] = HalfToFloat(data_.v_row(cell)[i]);
    }
  }

  double bytes() const override {
    return static_cast<double>(RowStore::BlockBytes(layers_[0]->k.shape()) +
                               RowStore::BlockBytes(layers_[0]->v.shape()));
  }

 private:
  struct Layer {
    std::vector<uint8_t> k_memory, v_memory;
    RowStore k, v;
  };

  // Cells whose rows have entered the cache; the others come with the query.
  int written() const { return shape_.cells - shape_.tokens; }

  void Bind(const Policy& policy, bool keys, const Rotation& rotation, const KernelTable& kernels,
            std::vector<uint8_t>* memory, RowStore* store) const {
    StoreShape s;
    s.width = shape_.width();
    s.head_dim = shape_.head_dim;
    s.cells = shape_.cells;
    s.format = keys ? policy.k : policy.v;
    s.form = keys ? TileForm::kKeys : TileForm::kValues;
    s.sink = std::min(policy.sink, shape_.cells);
    s.tail = policy.tail;
    s.page = policy.page;
    s.center = keys && policy.center;
    memory->resize(RowStore::BlockBytes(s) + 64);
    auto* block = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory->data()) + 63) &
                                             ~uintptr_t{63});
    store->Bind(s, block, &rotation, 1, &kernels);
  }

  void Fill(const std::vector<uint16_t>& values, RowStore* store) const {
    std::vector<NewRow> rows;
    for (int cell = 0; cell < written(); ++cell) {
      rows.push_back({cell, values.data() + static_cast<size_t>(cell) * data_.width});
    }
    // In chunks, as prompts come.
    for (size_t at = 0; at < rows.size(); at += kChunk) {
      store->Append(rows.data() + at, static_cast<int>(std::min(rows.size() - at, size_t{kChunk})));
    }
  }

  void FillCodedProblem(const Layer& layer, AttentionProblem* p) {
    FillProblem(shape_, data_, out_.data(), p);
    p->k = layer.k.CodedSide(0);
    p->v = layer.v.CodedSide(0);
    layer.k.ListExact(&exact_k_);
    layer.v.ListExact(&exact_v_);
    for (size_t i = 0; i < exact_k_.size(); ++i) {
      p->exact.push_back({exact_k_[i].cell, exact_k_[i].values, exact_v_[i].values});
    }
    for (int cell = written(); cell < shape_.cells; ++cell) {
      p->exact.push_back({cell, data_.k_row(cell), data_.v_row(cell)});
    }
    for (const ExactRow& row : p->exact) p->hidden[row.cell] = kHalfMinusInfinity;
  }

  const LayerShape shape_;
  const LayerData& data_;
  const Rotation k_rotation_, v_rotation_;
  AttentionRun run_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<float> out_;
  std::vector<NewRow> exact_k_, exact_v_;
};

}  // namespace

float LayerShape::scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }

LayerData::LayerData(const LayerShape& shape, uint64_t seed)
    : width(static_cast<size_t>(shape.width())) {
  SplitMix64 random(seed);
  k.resize(static_cast<size_t>(shape.cells) * width);
  v.resize(k.size());
  for (size_t i = 0; i < k.size(); ++i) {
    const double mean = 2 * std::sin(0.7 * static_cast<double>(i % width));
    k[i] = FloatToHalf(static_cast<float>(random.Normal() + mean));
    v[i] = FloatToHalf(static_cast<float>(random.Normal()));
  }
  // Logits with a deviation of about 2: some cells matter, most do not.
  q.resize(static_cast<size_t>(shape.tokens) * shape.heads() * shape.head_dim);
  for (float& x : q) x = static_cast<float>(2 * random.Normal());
  mask.assign(static_cast<size_t>(shape.tokens) * shape.cells, 0);
  for (int t = 0; t < shape.tokens; ++t) {
    for (int j = shape.cells - shape.tokens + t + 1; j < shape.cells; ++j) {
      mask[static_cast<size_t>(t) * shape.cells + j] = kHalfMinusInfinity;
    }
  }
}

std::unique_ptr<LayerCache> MakeF16Cache(const LayerShape& shape, const LayerData& data, int layers,
                                         const KernelTable& kernels) {
  return std::make_unique<F16Cache>(shape, data, layers, kernels);
}

std::unique_ptr<LayerCache> MakeCodedCache(const LayerShape& shape, const LayerData& data,
                                           int layers, const Policy& policy, uint64_t seed,
                                           const KernelTable& kernels) {
  return std::make_unique<CodedCache>(shape, data, layers, policy, seed, kernels);
}

}  // namespace turboquant
