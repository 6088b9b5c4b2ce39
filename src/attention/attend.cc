#include "attention/attend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/fp16.h"
#include "codec/format.h"

namespace turboquant {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
constexpr int kTile = 128;        // cells of one inner step for few query rows
constexpr int kManyRowsTile = 64; // for many: their logits stay in the first-level cache
constexpr int kChunk = 512;       // cells of one decode work item
constexpr int kDirectRows = 129;  // from so many query rows on, items own whole query tiles
constexpr int kTileRows = 96;     // query rows of such a tile
constexpr int kProjectRows = 32;
constexpr int kMeanTile = 32;

float* ThreadScratch(size_t floats) {
  thread_local std::vector<float> scratch;
  if (scratch.size() < floats + 16) scratch.resize(floats + 16);
  const auto address = reinterpret_cast<uintptr_t>(scratch.data());
  return reinterpret_cast<float*>((address + 63) & ~uintptr_t{63});
}

// Writes the bias of cells [cell, cell + n) for one query row; true if any of them is seen.
bool FillBias(const AttentionProblem& p, int token, int q_head, int cell, int n, float* bias,
              const KernelTable& kernels) {
  const char* row = p.mask == nullptr ? nullptr
                                      : p.mask + token * p.mask_token_stride +
                                            q_head * p.mask_head_stride + 2 * cell;
  return kernels.mask_bias(reinterpret_cast<const uint16_t*>(row), p.hidden.data() + cell,
                           p.slopes != nullptr ? p.slopes[q_head] : 1.0f, n, bias);
}

bool FillExactBias(const AttentionProblem& p, int token, int q_head, int first, int n, float* bias) {
  float best = kMinusInf;
  const char* row = p.mask == nullptr
                        ? nullptr
                        : p.mask + token * p.mask_token_stride + q_head * p.mask_head_stride;
  for (int j = 0; j < n; ++j) {
    float b = 0.0f;
    if (row != nullptr) {
      b = HalfToFloat(reinterpret_cast<const uint16_t*>(row)[p.exact[first + j].cell]);
      if (p.slopes != nullptr) b *= p.slopes[q_head];
    }
    bias[j] = b;
    best = std::max(best, b);
  }
  return best > kMinusInf;
}

bool SameValues(const uint16_t* x, int n) {
  return std::memcmp(x, x + 1, static_cast<size_t>(n - 1) * sizeof(x[0])) == 0;
}

// s[r][j] += <q_r, mean of cell j>, in runs of cells that share a mean.
void AddMeanLogits(const uint16_t* id, int n, const float* q_mean, int capacity, int rows, float* s,
                   int ld) {
  for (int j = 0; j < n;) {
    int end = j + 1;
    while (end < n && id[end] == id[j]) ++end;
    for (int r = 0; r < rows && id[j] != 0; ++r) {
      const float add = q_mean[static_cast<size_t>(r) * capacity + id[j] - 1];
      for (int t = j; t < end; ++t) s[static_cast<size_t>(r) * ld + t] += add;
    }
    j = end;
  }
}

CodedTiles TilesAt(const Side& s, int kv_head, int cell) {
  return {s.format, s.head_dim, s.codes + kv_head * s.head_code_stride,
          s.scales + kv_head * s.head_scale_stride, s.first_cell + cell, s.form};
}

}  // namespace

void AttentionRun::Prepare() {
  layouts_.assign(problems_.size(), Layout());
  size_t floats = 0;
  project_items_ = attend_items_ = merge_items_ = 0;
  auto take = [&](size_t n) {
    const size_t at = floats;
    floats += (n + 15) & ~size_t{15};
    return at;
  };
  for (size_t i = 0; i < problems_.size(); ++i) {
    const AttentionProblem& p = problems_[i];
    Layout& l = layouts_[i];
    l.rows = p.tokens * p.group;
    l.kd = p.k.head_dim;
    l.vd = p.v.head_dim;
    l.state = l.vd + 2;
    l.direct = l.rows >= kDirectRows;
    l.q_tokens = l.direct ? std::max(1, kTileRows / p.group) : p.tokens;
    l.q_tiles = (p.tokens + l.q_tokens - 1) / l.q_tokens;
    l.chunk = l.direct ? std::max(1, p.cells) : kChunk;
    l.chunks = (p.cells + l.chunk - 1) / l.chunk;
    const size_t all_rows = static_cast<size_t>(p.num_kv_heads) * l.rows;
    l.q_plain = take(all_rows * l.kd);
    l.prepared = PreparedQueryBytes(l.kd) / sizeof(float);
    l.q_coded = IsCoded(p.k.format) ? take(all_rows * l.prepared) : 0;
    l.q_mean = take(all_rows * p.k.means.capacity);
    // One more state per row than chunks: the exact segment.
    l.partial = l.direct ? 0 : take(all_rows * (l.chunks + 1) * l.state);
    l.first_project = project_items_;
    l.first_attend = attend_items_;
    l.first_merge = merge_items_;
    project_items_ += p.num_kv_heads * ((l.rows + kProjectRows - 1) / kProjectRows);
    attend_items_ += p.num_kv_heads * l.q_tiles * (l.direct ? 1 : l.chunks + 1);
    merge_items_ += l.direct ? 0 : p.num_kv_heads * l.rows;
  }
  if (workspace_.size() < floats + 16) workspace_.resize(floats + 16);
}

void AttentionRun::ProjectItem(int item) {
  size_t i = problems_.size() - 1;
  while (layouts_[i].first_project > item) --i;
  const AttentionProblem& p = problems_[i];
  const Layout& l = layouts_[i];
  const int local = item - l.first_project;
  const int blocks = (l.rows + kProjectRows - 1) / kProjectRows;
  const int kv_head = local / blocks;
  const int row0 = local % blocks * kProjectRows;
  const int row1 = std::min(l.rows, row0 + kProjectRows);
  float* plain = Workspace(l.q_plain) + static_cast<size_t>(kv_head) * l.rows * l.kd;
  auto* coded = reinterpret_cast<uint8_t*>(Workspace(l.q_coded) +
                                           static_cast<size_t>(kv_head) * l.rows * l.prepared);
  float rotated[kMaxHeadDim];
  for (int r = row0; r < row1; ++r) {
    const auto* q = reinterpret_cast<const float*>(
        p.q + r / p.group * p.q_token_stride +
        (kv_head * p.group + r % p.group) * p.q_head_stride);
    float* to = plain + static_cast<size_t>(r) * l.kd;
    for (int d = 0; d < l.kd; ++d) to[d] = q[d] * p.scale;
    if (!IsCoded(p.k.format)) continue;
    kernels_->rotate(p.k.rotation, to, rotated);
    kernels_->prepare_queries(rotated, l.kd, 1, coded + r * l.prepared * sizeof(float));
  }
  const MeanTable& means = p.k.means;
  if (means.capacity == 0) return;
  float* rows = ThreadScratch(static_cast<size_t>(kMeanTile) * l.kd);
  const int first = kv_head * l.kd;
  float* dots = Workspace(l.q_mean) + static_cast<size_t>(kv_head) * l.rows * means.capacity;
  for (int m0 = 0; m0 < means.capacity; m0 += kMeanTile) {
    const int n = std::min(kMeanTile, means.capacity - m0);
    bool used = false;
    for (int m = 0; m < n; ++m) {
      float* row = rows + static_cast<size_t>(m) * l.kd;
      if (means.refs[m0 + m] == 0) {
        std::fill_n(row, l.kd, 0.0f);
        continue;
      }
      used = true;
      const size_t at = static_cast<size_t>(m0 + m) * means.width + first;
      for (int d = 0; d < l.kd; ++d) {
        row[d] = HalfToFloat(means.step_sizes[(at + d) / 16]) * means.steps[at + d];
      }
    }
    if (!used) continue;
    kernels_->dense_scores(rows, l.kd, plain + static_cast<size_t>(row0) * l.kd, row1 - row0, n,
                           dots + static_cast<size_t>(row0) * means.capacity + m0, means.capacity);
  }
}

// Attends query tokens [token0, token1) of one kv head to cells (or exact rows) [cell0, cell1) and
// adds to the row states state[row][m, l, o...], which the caller has initialised.
void AttentionRun::AttendTiles(const AttentionProblem& p, const Layout& l, int kv_head, int token0,
                               int token1, int cell0, int cell1, bool exact, float* state) const {
  const int row0 = token0 * p.group;
  const int rows = (token1 - token0) * p.group;
  const int tile_cells = rows < kDirectRows / 2 ? kTile : kManyRowsTile;
  const bool coded_k = !exact && IsCoded(p.k.format);
  const bool coded_v = !exact && IsCoded(p.v.format);
  const bool row_bias = p.slopes != nullptr || p.mask_head_stride != 0;
  const size_t q_at = static_cast<size_t>(kv_head) * l.rows + row0;
  const float* q = Workspace(l.q_plain) + q_at * l.kd;
  const auto* prepared = reinterpret_cast<const uint8_t*>(Workspace(l.q_coded) + q_at * l.prepared);
  const MeanTable& means = p.k.means;
  const float* q_mean = coded_k && means.capacity > 0
                            ? Workspace(l.q_mean) +
                                  (static_cast<size_t>(kv_head) * l.rows + row0) * means.capacity
                            : nullptr;

  const int bias_rows = row_bias ? rows : token1 - token0;
  const size_t tile_floats = static_cast<size_t>(tile_cells) * std::max(l.kd, l.vd);
  float* s = ThreadScratch(static_cast<size_t>(rows) * tile_cells + static_cast<size_t>(bias_rows) * tile_cells +
                           tile_floats + static_cast<size_t>(rows) * l.vd);
  float* bias = s + static_cast<size_t>(rows) * tile_cells;
  float* tile = bias + static_cast<size_t>(bias_rows) * tile_cells;
  float* o = tile + tile_floats;  // contiguous accumulators, as the kernels want them
  for (int r = 0; r < rows; ++r) {
    std::memcpy(o + static_cast<size_t>(r) * l.vd, state + static_cast<size_t>(r) * l.state + 2,
                l.vd * sizeof(float));
  }

  for (int c = cell0; c < cell1; c += tile_cells) {
    const int n = std::min(tile_cells, cell1 - c);
    bool seen = false;
    for (int b = 0; b < bias_rows; ++b) {
      const int token = token0 + (row_bias ? b / p.group : b);
      const int q_head = kv_head * p.group + (row_bias ? b % p.group : 0);
      float* to = bias + static_cast<size_t>(b) * tile_cells;
      seen |= exact ? FillExactBias(p, token, q_head, c, n, to)
                    : FillBias(p, token, q_head, c, n, to, *kernels_);
    }
    if (!seen) continue;

    if (exact) {
      for (int j = 0; j < n; ++j) {
        kernels_->half_to_float(p.exact[c + j].k + kv_head * l.kd, tile + static_cast<size_t>(j) * l.kd,
                                l.kd);
      }
    } else if (!coded_k) {
      p.k.load(p.k.context, kv_head, c, n, tile);
    }
    if (coded_k) {
      kernels_->coded_scores(TilesAt(p.k, kv_head, c), prepared, rows, n, s, tile_cells);
    } else {
      kernels_->dense_scores(tile, l.kd, q, rows, n, s, tile_cells);
    }
    const uint16_t* id = q_mean != nullptr ? means.cell_mean + c : nullptr;
    const bool one_mean = id != nullptr && SameValues(id, n);
    if (id != nullptr && !one_mean) AddMeanLogits(id, n, q_mean, means.capacity, rows, s, tile_cells);
    for (int r = 0; r < rows; ++r) {
      float* row_state = state + static_cast<size_t>(r) * l.state;
      const float* b = bias + static_cast<size_t>(row_bias ? r : r / p.group) * tile_cells;
      const float add = one_mean && id[0] != 0
                            ? q_mean[static_cast<size_t>(r) * means.capacity + id[0] - 1]
                            : 0.0f;
      const float factor = kernels_->softmax(s + static_cast<size_t>(r) * tile_cells, n, add, b,
                                             p.softcap, &row_state[0], &row_state[1]);
      if (factor != 1.0f) {
        float* row = o + static_cast<size_t>(r) * l.vd;
        for (int d = 0; d < l.vd; ++d) row[d] *= factor;
      }
    }
    if (exact) {
      for (int j = 0; j < n; ++j) {
        kernels_->half_to_float(p.exact[c + j].v + kv_head * l.vd, tile + static_cast<size_t>(j) * l.vd,
                                l.vd);
      }
    } else if (!coded_v) {
      p.v.load(p.v.context, kv_head, c, n, tile);
    }
    if (coded_v) {
      kernels_->coded_accumulate(TilesAt(p.v, kv_head, c), s, tile_cells, rows, n, o);
    } else {
      kernels_->dense_accumulate(tile, l.vd, s, tile_cells, rows, n, o);
    }
  }
  for (int r = 0; r < rows; ++r) {
    std::memcpy(state + static_cast<size_t>(r) * l.state + 2, o + static_cast<size_t>(r) * l.vd,
                l.vd * sizeof(float));
  }
}

// Merges the segment states of one query row and writes its output.
void AttentionRun::FinishRow(const AttentionProblem& p, const Layout& l, int kv_head, int row,
                             const float* const* coded, int num_coded, const float* exact,
                             float* scratch) const {
  const int q_head = kv_head * p.group + row % p.group;
  float m = exact[0];
  for (int c = 0; c < num_coded; ++c) m = std::max(m, coded[c][0]);
  if (p.sinks != nullptr) m = std::max(m, p.sinks[q_head]);
  auto* out = reinterpret_cast<float*>(p.out + row / p.group * p.out_token_stride +
                                       q_head * p.out_head_stride);
  if (m == kMinusInf) {  // sees nothing: the host's convention is a zero row
    std::fill_n(out, p.out_dim, 0.0f);
    return;
  }
  float sum = p.sinks != nullptr ? std::exp(p.sinks[q_head] - m) : 0.0f;
  std::fill_n(scratch, l.vd, 0.0f);
  bool any = false;
  for (int c = 0; c < num_coded; ++c) {
    if (coded[c][0] == kMinusInf) continue;
    any = true;
    const float f = std::exp(coded[c][0] - m);
    sum += f * coded[c][1];
    for (int d = 0; d < l.vd; ++d) scratch[d] += f * coded[c][2 + d];
  }
  if (any && IsCoded(p.v.format)) kernels_->unrotate(p.v.rotation, scratch, scratch);
  if (exact[0] != kMinusInf) {
    const float f = std::exp(exact[0] - m);
    sum += f * exact[1];
    for (int d = 0; d < l.vd; ++d) scratch[d] += f * exact[2 + d];
  }
  const float inverse = 1.0f / sum;
  for (int d = 0; d < p.out_dim; ++d) out[d] = scratch[d] * inverse;
}

void AttentionRun::AttendItem(int item) {
  size_t i = problems_.size() - 1;
  while (layouts_[i].first_attend > item) --i;
  const AttentionProblem& p = problems_[i];
  const Layout& l = layouts_[i];
  int local = item - l.first_attend;
  const int num_exact = static_cast<int>(p.exact.size());
  auto reset = [&](float* state, int rows) {
    for (int r = 0; r < rows; ++r) {
      float* row = state + static_cast<size_t>(r) * l.state;
      std::fill_n(row, l.state, 0.0f);
      row[0] = kMinusInf;
    }
  };
  if (!l.direct) {
    const int segments = l.chunks + 1;
    const int kv_head = local / segments;
    const int segment = local % segments;
    float* state = Workspace(l.partial) +
                   (static_cast<size_t>(kv_head) * segments + segment) * l.rows * l.state;
    reset(state, l.rows);
    const bool exact = segment == l.chunks;
    const int begin = exact ? 0 : segment * l.chunk;
    const int end = exact ? num_exact : std::min(p.cells, begin + l.chunk);
    AttendTiles(p, l, kv_head, 0, p.tokens, begin, end, exact, state);
    return;
  }
  const int kv_head = local / l.q_tiles;
  const int token0 = local % l.q_tiles * l.q_tokens;
  const int token1 = std::min(p.tokens, token0 + l.q_tokens);
  const int rows = (token1 - token0) * p.group;
  thread_local std::vector<float> states;
  const size_t half = static_cast<size_t>(rows) * l.state;
  if (states.size() < 2 * half + l.vd) states.resize(2 * half + l.vd);
  reset(states.data(), rows);
  reset(states.data() + half, rows);
  AttendTiles(p, l, kv_head, token0, token1, 0, p.cells, false, states.data());
  AttendTiles(p, l, kv_head, token0, token1, 0, num_exact, true, states.data() + half);
  for (int r = 0; r < rows; ++r) {
    const float* coded = states.data() + static_cast<size_t>(r) * l.state;
    FinishRow(p, l, kv_head, token0 * p.group + r, &coded, 1,
              states.data() + half + static_cast<size_t>(r) * l.state, states.data() + 2 * half);
  }
}

void AttentionRun::MergeItem(int item) {
  size_t i = problems_.size() - 1;
  while (layouts_[i].first_merge > item || layouts_[i].direct) --i;
  const AttentionProblem& p = problems_[i];
  const Layout& l = layouts_[i];
  const int local = item - l.first_merge;
  const int kv_head = local / l.rows;
  const int row = local % l.rows;
  const int segments = l.chunks + 1;
  thread_local std::vector<const float*> coded;
  coded.resize(l.chunks);
  auto state_of = [&](int segment) {
    return Workspace(l.partial) +
           ((static_cast<size_t>(kv_head) * segments + segment) * l.rows + row) * l.state;
  };
  for (int c = 0; c < l.chunks; ++c) coded[c] = state_of(c);
  FinishRow(p, l, kv_head, row, coded.data(), l.chunks, state_of(l.chunks), ThreadScratch(l.vd));
}

void AttentionRun::RunAll() {
  Prepare();
  for (int i = 0; i < project_items_; ++i) ProjectItem(i);
  for (int i = 0; i < attend_items_; ++i) AttendItem(i);
  for (int i = 0; i < merge_items_; ++i) MergeItem(i);
}

}  // namespace turboquant
