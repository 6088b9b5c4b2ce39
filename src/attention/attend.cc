#include "attention/attend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/fp16.h"
#include "codec/format.h"

namespace turboquant {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
constexpr int kTile = 256;          // cells of one inner step for few query rows
constexpr int kMoreRowsTile = 128;  // for more: logits of kTileRows stay in the first-level cache
constexpr int kFewRows = 16;        // up to so many query rows, exact rows are read as they are
constexpr int kExactChunk = 32;     // exact rows of one work item for few query rows
constexpr int kDirectRows = 129;    // from so many query rows on, items own whole query tiles
constexpr int kTileRows = 48;       // query rows of such a tile

// Cells of one work item: about 32 items a head, so that threads share them evenly, and never so
// few that their states cost as much as their rows.
int ChunkCells(int cells) {
  const int even = (cells / 32 + kTile - 1) / kTile * kTile;
  return std::clamp(even, kTile, 2048);
}

// Floats of a thread that stay allocated, 64-byte aligned whatever the vector's own alignment.
class Scratch {
 public:
  float* Get(size_t floats) {
    if (floats_.size() < floats + 16) floats_.resize(floats + 16);
    return Aligned(floats_);
  }
  static float* Aligned(std::vector<float>& floats) {
    const auto address = reinterpret_cast<uintptr_t>(floats.data());
    return reinterpret_cast<float*>((address + 63) & ~uintptr_t{63});
  }

 private:
  std::vector<float> floats_;
};

size_t RoundUp(size_t floats) { return (floats + 15) & ~size_t{15}; }

// The cells of exact rows [first, first + n) follow each other.
bool Consecutive(const ExactRow* rows, int n) {
  for (int j = 1; j < n; ++j) {
    if (rows[j].cell != rows[0].cell + j) return false;
  }
  return true;
}

// Exact rows lie apart and were last used a token ago: asked for one by one they would be waited
// for one by one.
void Prefetch(const uint16_t* row, int values) {
  for (int i = 0; i < values; i += 32) __builtin_prefetch(row + i);
}

CodedTiles TilesAt(const Side& s, int kv_head, int cell) {
  return {s.format,
          s.head_dim,
          s.codes + kv_head * s.head_code_stride,
          s.scales + kv_head * s.head_scale_stride,
          s.first_cell + cell,
          s.form};
}

}  // namespace

// What one step over `cells` cells works on.
struct AttentionRun::Tile {
  int cells;  // capacity
  int rows;
  bool row_bias;          // masks differ between the heads of a group
  float* s;               // [rows][cells]: logits, then weights
  float* bias;            // [rows or tokens][cells]
  float* dense;           // [cells][head_dim]: rows that are not coded
  float* m;               // [rows], state of the rows so far
  float* l;               // [rows]
  float* o;               // [rows][v.head_dim]
  const float** bias_of;  // per bias row: its biases, null: all zero
  float* factor;          // [rows], of the softmax, for what o holds
  float* mean_logit;      // [rows], of the mean below
  int mean = 0;           // 1 + index, 0: none yet
  const uint16_t* half[kTile];
};

AttentionRun::States AttentionRun::StatesAt(float* at, int rows, int segments) {
  const size_t states = RoundUp(static_cast<size_t>(rows) * segments);
  return {at, at + states, at + 2 * states, segments};
}

size_t AttentionRun::StatesFloats(int rows, int segments, int v_dim) {
  const size_t states = static_cast<size_t>(rows) * segments;
  return 2 * RoundUp(states) + RoundUp(states * v_dim);
}

AttentionRun::States AttentionRun::StatesOf(const Layout& l, const AttentionProblem& p,
                                            int kv_head) {
  const size_t floats = StatesFloats(l.rows, l.segments, p.v.head_dim);
  return StatesAt(Scratch::Aligned(workspace_) + l.partial + kv_head * floats, l.rows, l.segments);
}

void AttentionRun::Prepare() {
  static std::atomic<uint64_t> serial{0};
  serial_ = serial.fetch_add(1, std::memory_order_relaxed) + 1;
  layouts_.assign(problems_.size(), Layout());
  size_t floats = 0;
  attend_items_ = merge_items_ = 0;
  for (size_t i = 0; i < problems_.size(); ++i) {
    const AttentionProblem& p = problems_[i];
    Layout& l = layouts_[i];
    l.rows = p.tokens * p.group;
    l.direct = l.rows >= kDirectRows;
    l.first_attend = attend_items_;
    l.first_merge = merge_items_;
    if (l.direct) {
      l.q_tokens = std::max(1, kTileRows / p.group);
      l.q_tiles = (p.tokens + l.q_tokens - 1) / l.q_tokens;
      attend_items_ += p.num_kv_heads * l.q_tiles;
      continue;
    }
    l.chunk = ChunkCells(p.cells);
    l.chunks = (p.cells + l.chunk - 1) / l.chunk;
    l.segments = l.chunks + (static_cast<int>(p.exact.size()) + kExactChunk - 1) / kExactChunk;
    l.partial = floats;
    floats += p.num_kv_heads * StatesFloats(l.rows, l.segments, p.v.head_dim);
    attend_items_ += p.num_kv_heads * l.segments;
    merge_items_ += p.num_kv_heads * l.rows;
  }
  if (workspace_.size() < floats + 16) workspace_.resize(floats + 16);
}

int AttentionRun::ProblemOf(int item, int Layout::*first) const {
  size_t i = problems_.size() - 1;
  // Problems without items share their first item with the next one.
  while (layouts_[i].*first > item || (first == &Layout::first_merge && layouts_[i].direct)) --i;
  return static_cast<int>(i);
}

// A thread keeps its latest rows: neighbouring items are segments of the same ones.
AttentionRun::Queries AttentionRun::Project(const Span& span) const {
  struct Latest {
    uint64_t serial = 0;
    int problem = 0, kv_head = 0, token0 = 0;
    Scratch scratch;
  };
  thread_local Latest latest;
  const AttentionProblem& p = problems_[span.problem];
  const int d = p.k.head_dim;
  const int rows = (span.token1 - span.token0) * p.group;
  const bool coded = IsCoded(p.k.format);
  const size_t plain = RoundUp(static_cast<size_t>(rows) * d);
  const size_t prepared = coded ? rows * PreparedQueryBytes(d) / sizeof(float) : 0;
  Queries q;
  float* to = latest.scratch.Get(plain + prepared);
  q.plain = to;
  q.prepared = reinterpret_cast<const uint8_t*>(to + plain);
  if (latest.serial == serial_ && latest.problem == span.problem &&
      latest.kv_head == span.kv_head && latest.token0 == span.token0) {
    return q;
  }
  latest.serial = serial_;
  latest.problem = span.problem;
  latest.kv_head = span.kv_head;
  latest.token0 = span.token0;
  float rotated[kMaxHeadDim];
  for (int r = 0; r < rows; ++r, to += d) {
    const auto* from =
        reinterpret_cast<const float*>(p.q + (span.token0 + r / p.group) * p.q_token_stride +
                                       (span.kv_head * p.group + r % p.group) * p.q_head_stride);
    for (int i = 0; i < d; ++i) to[i] = from[i] * p.scale;
    if (!coded) continue;
    kernels_->rotate(p.k.rotation, to, rotated);
    kernels_->prepare_queries(rotated, d, 1,
                              const_cast<uint8_t*>(q.prepared) + r * PreparedQueryBytes(d));
  }
  return q;
}

// Sets the biases of all rows for cells (or exact rows) [cell, cell + n); false if no row sees any.
bool AttentionRun::FillBias(const Span& span, int cell, int n, Tile* tile) const {
  const AttentionProblem& p = problems_[span.problem];
  const int bias_rows = tile->row_bias ? tile->rows : span.token1 - span.token0;
  const ExactRow* exact = span.exact ? p.exact.data() + cell : nullptr;
  const bool run = exact == nullptr || Consecutive(exact, n);
  const auto all_zero = [this, n](const uint16_t* x) {
    return x[0] == 0 && kernels_->same_values(x, n);
  };
  const int first = exact != nullptr ? exact->cell : cell;
  static constexpr uint16_t kShown[kTile] = {};
  const uint16_t* hidden = exact != nullptr ? kShown : p.hidden.data() + cell;
  const bool shown = exact != nullptr || all_zero(hidden);
  // A layer's codes have thrown these out of the caches since the layer before read them.
  const int ahead = exact != nullptr ? 0 : std::min(n, p.cells - cell - n);
  Prefetch(hidden + n, ahead);
  if (p.k.means.capacity > 0) Prefetch(p.k.means.cell_mean + cell + n, ahead);
  bool seen = false;
  uint16_t gathered[kTile];
  for (int b = 0; b < bias_rows; ++b) {
    const int token = span.token0 + (tile->row_bias ? b / p.group : b);
    const int q_head = span.kv_head * p.group + (tile->row_bias ? b % p.group : 0);
    const uint16_t* mask = nullptr;
    if (p.mask != nullptr) {
      const auto* row = reinterpret_cast<const uint16_t*>(p.mask + token * p.mask_token_stride +
                                                          q_head * p.mask_head_stride);
      mask = row + first;
      Prefetch(mask + n, ahead);
      if (!run) {
        for (int j = 0; j < n; ++j) gathered[j] = row[exact[j].cell];
        mask = gathered;
      }
    }
    if (shown && (mask == nullptr || all_zero(mask))) {
      tile->bias_of[b] = nullptr;
      seen = true;
      continue;
    }
    float* to = tile->bias + static_cast<size_t>(b) * tile->cells;
    tile->bias_of[b] = to;
    seen |= kernels_->mask_bias(mask, hidden, p.slopes != nullptr ? p.slopes[q_head] : 1.0f, n, to);
  }
  return seen;
}

void AttentionRun::Scores(const Span& span, const Queries& q, int cell, int n, Tile* tile) const {
  const AttentionProblem& p = problems_[span.problem];
  const int d = p.k.head_dim;
  if (!span.exact && IsCoded(p.k.format)) {
    kernels_->coded_scores(TilesAt(p.k, span.kv_head, cell), q.prepared, tile->rows, n, tile->s,
                           tile->cells);
    return;
  }
  if (span.exact && tile->rows <= kFewRows) {
    for (int j = 0; j < n; ++j) {
      tile->half[j] = p.exact[cell + j].k + span.kv_head * d;
      Prefetch(tile->half[j], d);
    }
    for (int j = 0; j < n; ++j) {
      Prefetch(p.exact[cell + j].v + span.kv_head * p.v.head_dim, p.v.head_dim);
    }
    kernels_->half_scores(tile->half, d, q.plain, tile->rows, n, tile->s, tile->cells);
    return;
  }
  if (span.exact) {
    for (int j = 0; j < n; ++j) {
      kernels_->half_to_float(p.exact[cell + j].k + span.kv_head * d,
                              tile->dense + static_cast<size_t>(j) * d, d);
    }
  } else {
    p.k.load(p.k.context, span.kv_head, cell, n, tile->dense);
  }
  kernels_->dense_scores(tile->dense, d, q.plain, tile->rows, n, tile->s, tile->cells);
}

// Adds to the logits of coded cells what the means of their keys give. True if all cells have one
// mean: then tile->mean_logit is still to be added.
bool AttentionRun::AddMeans(const Span& span, const Queries& q, int cell, int n, Tile* tile) const {
  const AttentionProblem& p = problems_[span.problem];
  const MeanTable& means = p.k.means;
  const auto know = [&](uint16_t id) {
    if (tile->mean == id) return;
    const int d = p.k.head_dim;
    const size_t at = static_cast<size_t>(id - 1) * means.width + span.kv_head * d;
    kernels_->mean_logits(means.steps + at, means.step_sizes + at / 16, d, q.plain, tile->rows,
                          tile->mean_logit);
    tile->mean = id;
  };
  const uint16_t* id = means.cell_mean + cell;
  if (kernels_->same_values(id, n)) {
    if (id[0] != 0) know(id[0]);
    return id[0] != 0;
  }
  for (int j = 0; j < n;) {
    int end = j + 1;
    while (end < n && id[end] == id[j]) ++end;
    if (id[j] != 0) know(id[j]);
    for (int r = 0; r < tile->rows && id[j] != 0; ++r) {
      float* s = tile->s + static_cast<size_t>(r) * tile->cells;
      for (int t = j; t < end; ++t) s[t] += tile->mean_logit[r];
    }
    j = end;
  }
  return false;
}

// Logits to weights.
void AttentionRun::Softmax(const Span& span, const Queries& q, int cell, int n, Tile* tile) const {
  const AttentionProblem& p = problems_[span.problem];
  const bool centred = !span.exact && IsCoded(p.k.format) && p.k.means.capacity > 0;
  const bool add = centred && AddMeans(span, q, cell, n, tile);
  kernels_->softmax({.s = tile->s,
                     .ld = tile->cells,
                     .rows = tile->rows,
                     .n = n,
                     .add = add ? tile->mean_logit : nullptr,
                     .bias = tile->bias_of,
                     .rows_per_bias = tile->row_bias ? 1 : p.group,
                     .softcap = p.softcap,
                     .m = tile->m,
                     .l = tile->l,
                     .factor = tile->factor});
  const int vd = p.v.head_dim;
  for (int r = 0; r < tile->rows; ++r) {
    if (tile->factor[r] == 1.0f) continue;
    float* o = tile->o + static_cast<size_t>(r) * vd;
    for (int d = 0; d < vd; ++d) o[d] *= tile->factor[r];
  }
}

void AttentionRun::Accumulate(const Span& span, int cell, int n, Tile* tile) const {
  const AttentionProblem& p = problems_[span.problem];
  const int d = p.v.head_dim;
  if (!span.exact && IsCoded(p.v.format)) {
    kernels_->coded_accumulate(TilesAt(p.v, span.kv_head, cell), tile->s, tile->cells, tile->rows,
                               n, tile->o);
    return;
  }
  if (span.exact && tile->rows <= kFewRows) {
    for (int j = 0; j < n; ++j) tile->half[j] = p.exact[cell + j].v + span.kv_head * d;
    kernels_->half_accumulate(tile->half, d, tile->s, tile->cells, tile->rows, n, tile->o);
    return;
  }
  if (span.exact) {
    for (int j = 0; j < n; ++j) {
      kernels_->half_to_float(p.exact[cell + j].v + span.kv_head * d,
                              tile->dense + static_cast<size_t>(j) * d, d);
    }
  } else {
    p.v.load(p.v.context, span.kv_head, cell, n, tile->dense);
  }
  kernels_->dense_accumulate(tile->dense, d, tile->s, tile->cells, tile->rows, n, tile->o);
}

// Attends the rows of the span to its cells and writes their states.
void AttentionRun::Attend(const Span& span, const States& states) const {
  thread_local Scratch scratch;
  thread_local std::vector<const float*> bias_of;
  const AttentionProblem& p = problems_[span.problem];
  const int vd = p.v.head_dim;
  Tile tile;
  tile.rows = (span.token1 - span.token0) * p.group;
  tile.cells = tile.rows <= kFewRows ? kTile : kMoreRowsTile;
  tile.row_bias = p.slopes != nullptr || p.mask_head_stride != 0;
  const size_t bias_rows = tile.row_bias ? tile.rows : span.token1 - span.token0;
  if (bias_of.size() < bias_rows) bias_of.resize(bias_rows);
  tile.bias_of = bias_of.data();
  const size_t logits = static_cast<size_t>(tile.rows) * tile.cells;
  const size_t dense = static_cast<size_t>(tile.cells) * std::max(p.k.head_dim, vd);
  const size_t sums = static_cast<size_t>(tile.rows) * vd;
  tile.s = scratch.Get(logits + bias_rows * tile.cells + dense + sums + 4 * tile.rows);
  tile.bias = tile.s + logits;
  tile.dense = tile.bias + bias_rows * tile.cells;
  tile.o = tile.dense + dense;
  tile.m = tile.o + sums;
  tile.l = tile.m + tile.rows;
  tile.factor = tile.l + tile.rows;
  tile.mean_logit = tile.factor + tile.rows;
  std::fill_n(tile.o, sums, 0.0f);
  std::fill_n(tile.m, tile.rows, kMinusInf);
  std::fill_n(tile.l, tile.rows, 0.0f);

  Queries q;
  for (int c = span.begin; c < span.end; c += tile.cells) {
    const int n = std::min(tile.cells, span.end - c);
    if (!FillBias(span, c, n, &tile)) continue;
    if (q.plain == nullptr) q = Project(span);  // nothing was seen before
    Scores(span, q, c, n, &tile);
    Softmax(span, q, c, n, &tile);
    Accumulate(span, c, n, &tile);
  }
  for (int r = 0; r < tile.rows; ++r) {
    const size_t at = static_cast<size_t>(r) * states.segments;
    states.m[at] = tile.m[r];
    states.l[at] = tile.l[r];
    std::memcpy(states.o + at * vd, tile.o + static_cast<size_t>(r) * vd, vd * sizeof(float));
  }
}

// Merges the states of one query row, `coded` segments and then exact ones, and writes its output.
// The m become the weights of the segments.
void AttentionRun::FinishRow(int problem, int kv_head, int row, const States& states,
                             int coded) const {
  const AttentionProblem& p = problems_[problem];
  const int vd = p.v.head_dim;
  const int q_head = kv_head * p.group + row % p.group;
  auto* out = reinterpret_cast<float*>(p.out + row / p.group * p.out_token_stride +
                                       q_head * p.out_head_stride);
  float m = p.sinks != nullptr ? p.sinks[q_head] : kMinusInf;
  float sum = p.sinks != nullptr ? 1.0f : 0.0f;
  float weights = 0.0f;
  float factor;
  kernels_->softmax({.s = states.m,
                     .ld = states.segments,
                     .rows = 1,
                     .n = states.segments,
                     .m = &m,
                     .l = &weights,
                     .factor = &factor});
  if (m == kMinusInf) {  // sees nothing: the host's convention is a zero row
    std::fill_n(out, p.out_dim, 0.0f);
    return;
  }
  sum *= factor;
  for (int s = 0; s < states.segments; ++s) sum += states.m[s] * states.l[s];
  float o[kMaxHeadDim];
  std::fill_n(o, vd, 0.0f);
  // Adds segments [first, last). False if none of them was seen.
  const auto add = [&](int first, int last) {
    const float* w = states.m;
    if (std::none_of(w + first, w + last, [](float weight) { return weight > 0.0f; })) return false;
    kernels_->dense_accumulate(states.o + static_cast<size_t>(first) * vd, vd, w + first,
                               last - first, 1, last - first, o);
    return true;
  };
  if (add(0, coded) && IsCoded(p.v.format)) kernels_->unrotate(p.v.rotation, o, o);
  add(coded, states.segments);
  const float inverse = 1.0f / sum;
  for (int d = 0; d < p.out_dim; ++d) out[d] = o[d] * inverse;
}

void AttentionRun::AttendItem(int item) {
  const int i = ProblemOf(item, &Layout::first_attend);
  const AttentionProblem& p = problems_[i];
  const Layout& l = layouts_[i];
  const int local = item - l.first_attend;
  const int num_exact = static_cast<int>(p.exact.size());
  if (!l.direct) {
    const int kv_head = local / l.segments;
    const int segment = local % l.segments;
    const bool exact = segment >= l.chunks;
    const int step = exact ? kExactChunk : l.chunk;
    const int begin = (exact ? segment - l.chunks : segment) * step;
    const int end = std::min(exact ? num_exact : p.cells, begin + step);
    Attend({i, kv_head, 0, p.tokens, exact, begin, end},
           StatesOf(l, p, kv_head).Segment(segment, p.v.head_dim));
    return;
  }
  thread_local Scratch scratch;
  const int kv_head = local / l.q_tiles;
  const int token0 = local % l.q_tiles * l.q_tokens;
  const int token1 = std::min(p.tokens, token0 + l.q_tokens);
  const int rows = (token1 - token0) * p.group;
  const int vd = p.v.head_dim;
  const States states = StatesAt(scratch.Get(StatesFloats(rows, 2, vd)), rows, 2);
  Attend({i, kv_head, token0, token1, false, 0, p.cells}, states);
  Attend({i, kv_head, token0, token1, true, 0, num_exact}, states.Segment(1, vd));
  for (int r = 0; r < rows; ++r) {
    FinishRow(i, kv_head, token0 * p.group + r, states.Row(r, vd), 1);
  }
}

void AttentionRun::MergeItem(int item) {
  const int i = ProblemOf(item, &Layout::first_merge);
  const Layout& l = layouts_[i];
  const int local = item - l.first_merge;
  const int kv_head = local / l.rows;
  const int row = local % l.rows;
  const AttentionProblem& p = problems_[i];
  FinishRow(i, kv_head, row, StatesOf(l, p, kv_head).Row(row, p.v.head_dim), l.chunks);
}

void AttentionRun::RunAll() {
  Prepare();
  for (int i = 0; i < attend_items_; ++i) AttendItem(i);
  for (int i = 0; i < merge_items_; ++i) MergeItem(i);
}

}  // namespace turboquant
