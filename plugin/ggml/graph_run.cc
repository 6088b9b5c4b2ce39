#include "graph_run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>

#include "base/fp16.h"
#include "kv_buffer.h"
#include "log.h"

namespace turboquant::ggml {
namespace {

constexpr int kManyRows = 64;   // written at once: soon there is memory to be given huge pages
constexpr int kSerialRows = 8;  // fewer rows than this are written by one thread, without a barrier

// Rows of a tensor that is not ours, as f32.
struct PlainRows {
  const char* base;
  size_t row_stride, head_stride;
  int head_dim;
  const TypeTraits* traits;
  bool is_float;
};

void LoadPlainRows(const void* context, int kv_head, int cell, int n, float* out) {
  const auto& rows = *static_cast<const PlainRows*>(context);
  for (int j = 0; j < n; ++j) {
    const char* row = rows.base + (cell + j) * rows.row_stride + kv_head * rows.head_stride;
    float* to = out + static_cast<size_t>(j) * rows.head_dim;
    if (rows.is_float) {
      std::memcpy(to, row, rows.head_dim * sizeof(float));
    } else {
      rows.traits->to_float(row, to, rows.head_dim);
    }
  }
}

// A view [head_dim, n_kv, heads, streams] of whole cells of a compressed cache, as attention makes it.
bool IsRowsView(const Tensor* view, const KvTensor& cache, int64_t heads_dim) {
  const size_t row = static_cast<size_t>(cache.width()) * 2;
  return view->nb[0] == 2 && view->nb[1] == row && view->view_offs % row == 0 &&
         (view->ne[2] == 1 || view->nb[2] == static_cast<size_t>(heads_dim) * 2) &&
         view->ne[2] * heads_dim == cache.width() &&
         (view->ne[3] == 1 || view->nb[3] == row * cache.cells()) &&
         view->view_offs / row % cache.cells() + view->ne[1] <= static_cast<size_t>(cache.cells()) &&
         view->view_offs / row / cache.cells() + view->ne[3] <=
             static_cast<size_t>(cache.streams());
}

}  // namespace

struct GraphRun::Task {
  enum Kind { kSetRows, kAttention, kGeneric };
  Kind kind;
  GraphRun* run;
  Tensor* node;
  // What the node was.
  int op;
  int32_t op_params[16];
  // kSetRows: cache. kAttention: k and v (null: plain). kGeneric: the caches it touches.
  KvTensor* k = nullptr;
  KvTensor* v = nullptr;
  bool shared = false;      // v is a view of k's rows
  bool transposed = false;  // SET_ROWS of single elements
  struct Touched {
    KvTensor* cache;
    int first, last;  // rows
    bool written;
  };
  std::vector<Touched> touched;
  std::vector<PlainRows> plain;  // per stream: K rows, then V rows
};

GraphRun::GraphRun(const Host& host, const KernelTable& kernels)
    : host_(host), kernels_(kernels), attention_(kernels) {}

GraphRun::~GraphRun() = default;

// ---------------------------------------------------------------------------------- planning

void GraphRun::LearnShapes(const Host& host, const Tensor* node) {
  if (node->op == host.op.set_rows) {  // without flash attention V is written value by value
    KvTensor* cache = KvTensorOf(node);
    if (cache != nullptr && node->ne[0] == 1 && cache->width() != 1) cache->set_transposed();
    return;
  }
  if (node->op != host.op.flash_attn) return;
  KvTensor* k = KvTensorOf(node->src[1]);
  KvTensor* v = KvTensorOf(node->src[2]);
  const bool shared = v != nullptr && v == k;
  if (k != nullptr) k->Bind(static_cast<int>(node->src[1]->ne[0]), shared);
  if (v != nullptr && !shared) v->Bind(static_cast<int>(node->src[2]->ne[0]), false);
}

// A task without a trace of the one that was here in the graph before.
GraphRun::Task& GraphRun::NewTask() {
  if (num_tasks_ == tasks_.size()) tasks_.emplace_back();
  Task& task = tasks_[num_tasks_++];
  task.k = task.v = nullptr;
  task.shared = task.transposed = false;
  task.touched.clear();
  task.plain.clear();
  return task;
}

void GraphRun::Replace(Tensor* node, CustomOp fun, Task* task) {
  node->op = host_.op.custom;
  CustomOpParams params;
  std::memset(&params, 0, sizeof(params));
  params.fun = fun;
  params.n_tasks = kAllTasks;
  params.userdata = task;
  std::memset(node->op_params, 0, sizeof(node->op_params));
  std::memcpy(node->op_params, &params, sizeof(params));
}

bool GraphRun::PlanSetRows(Tensor* node) {
  KvTensor* cache = KvTensorOf(node);
  const Tensor* rows = node->src[0];
  const Tensor* ids = node->src[1];
  if (cache == nullptr || KvTensorOf(rows) != nullptr || KvTensorOf(ids) != nullptr) return false;
  if ((rows->type != kTypeF32 && rows->type != kTypeF16) ||
      (ids->type != kTypeI64 && ids->type != kTypeI32) || ids->ne[1] != 1 || ids->ne[2] != 1 ||
      rows->ne[2] != 1 || rows->ne[3] != 1) {
    return false;
  }
  const size_t element = rows->type == kTypeF32 ? 4 : 2;
  if (rows->nb[0] != element || ids->nb[0] != (ids->type == kTypeI64 ? 8u : 4u)) return false;
  const bool transposed = node->ne[0] == 1 && cache->width() != 1;
  if (transposed) {
    if (rows->ne[0] != 1 || rows->ne[1] % cache->width() != 0) return false;
    cache->set_transposed();
  } else if (node->ne[0] != cache->width() || rows->ne[0] != cache->width() ||
             node->view_offs % (static_cast<size_t>(cache->width()) * 2) != 0) {
    return false;
  }
  Task& task = NewTask();
  task.kind = Task::kSetRows;
  task.k = cache;
  task.transposed = transposed;
  return true;
}

bool GraphRun::PlanAttention(Tensor* node) {
  LearnShapes(host_, node);
  const Tensor* q = node->src[0];
  const Tensor* k = node->src[1];
  const Tensor* v = node->src[2];
  const Tensor* mask = node->src[3];
  KvTensor* kc = KvTensorOf(k);
  KvTensor* vc = KvTensorOf(v);
  if (kc == nullptr && vc == nullptr) return false;
  if (q->type != kTypeF32 || q->nb[0] != 4 || node->type != kTypeF32 || k->ne[2] == 0 ||
      q->ne[2] % k->ne[2] != 0 || v->ne[2] != k->ne[2] || v->ne[1] != k->ne[1] ||
      q->ne[3] != k->ne[3] || v->ne[3] != k->ne[3] || k->ne[0] > kMaxHeadDim ||
      v->ne[0] > kMaxHeadDim) {
    return false;
  }
  if (mask != nullptr && (mask->type != kTypeF16 || mask->nb[0] != 2 || mask->ne[0] < k->ne[1] ||
                          (mask->ne[2] != 1 && mask->ne[2] != q->ne[2]) ||
                          (mask->ne[3] != 1 && mask->ne[3] != q->ne[3]))) {
    return false;
  }
  const bool shared = kc != nullptr && kc == vc;
  if (kc != nullptr && !IsRowsView(k, *kc, k->ne[0])) return false;
  if (shared) {  // the first values of every key row; one head
    if (v->ne[2] != 1 || v->nb[1] != k->nb[1] || v->view_offs != k->view_offs) return false;
  } else if (vc != nullptr && !IsRowsView(v, *vc, v->ne[0])) {
    return false;
  }
  if (kc != nullptr && vc != nullptr && !shared && kc->cells() != vc->cells()) return false;
  Task& task = NewTask();
  task.kind = Task::kAttention;
  task.k = kc;
  task.v = vc;
  task.shared = shared;
  // Sides that are not ours (say -ctk q8_0) are read through their type's own conversion.
  for (const Tensor* side : {k, v}) {
    const bool plain = side == k ? kc == nullptr : vc == nullptr;
    if (!plain) continue;
    const TypeTraits* traits = host_.fn.ggml_get_type_traits(side->type);
    if (side->type != kTypeF32 && (traits == nullptr || traits->to_float == nullptr)) {
      --num_tasks_;
      return false;
    }
    for (int64_t s = 0; s < side->ne[3]; ++s) {
      task.plain.push_back({static_cast<const char*>(side->data) + s * side->nb[3], side->nb[1],
                            side->nb[2], static_cast<int>(side->ne[0]), traits,
                            side->type == kTypeF32});
    }
  }
  return true;
}

// Any other operation on a cache: its rows appear as f16 at their addresses while it runs.
bool GraphRun::PlanGeneric(Tensor* node) {
  bool any = KvTensorOf(node) != nullptr;
  for (const Tensor* src : node->src) any = any || KvTensorOf(src) != nullptr;
  if (!any) return false;
  Task& task = NewTask();
  task.kind = Task::kGeneric;
  auto touch = [&](const Tensor* t, bool written) {
    KvTensor* cache = KvTensorOf(t);
    if (cache == nullptr) return;
    // The row span of the view. A transposed view touches every column, so all cells below its end.
    size_t last_byte = t->view_src != nullptr ? t->view_offs : 0;
    const size_t first_byte = last_byte;
    for (int d = 0; d < 4; ++d) last_byte += (t->ne[d] - 1) * t->nb[d];
    const size_t row = static_cast<size_t>(cache->width()) * 2;
    int first = static_cast<int>(first_byte / row);
    int last = static_cast<int>(last_byte / row) + 1;
    if (cache->transposed()) {
      const int cells = cache->cells();
      const size_t stream_bytes = row * cells;
      first = static_cast<int>(first_byte / stream_bytes) * cells;
      last = (static_cast<int>(last_byte / stream_bytes) + 1) * cells;
    }
    for (Task::Touched& other : task.touched) {
      if (other.cache != cache) continue;
      other.first = std::min(other.first, first);
      other.last = std::max(other.last, last);
      other.written |= written;
      return;
    }
    task.touched.push_back({cache, first, last, written});
  };
  for (const Tensor* src : node->src) {
    if (src != nullptr) touch(src, false);
  }
  touch(node, true);
  return true;
}

bool GraphRun::PlanNode(Tensor* node) {
  const Ops& op = host_.op;
  if (op.moves_no_data(node->op)) return false;
  if (node->op == op.set_rows && PlanSetRows(node)) return true;
  if (node->op == op.flash_attn && PlanAttention(node)) return true;
  return PlanGeneric(node);
}

int GraphRun::Run(Backend* backend, Graph* graph, Compute compute) {
  ReportNewCaches();
  SettlePages();
  num_tasks_ = 0;
  bool generic = false;
  int status = kStatusFailed;
  try {
    const int n = host_.fn.ggml_graph_n_nodes(graph);
    Tensor** nodes = host_.fn.ggml_graph_nodes(graph);
    for (int i = 0; i < n; ++i) {
      if (!PlanNode(nodes[i])) continue;
      Task& task = tasks_[num_tasks_ - 1];
      task.run = this;
      task.node = nodes[i];
      task.op = nodes[i]->op;
      std::memcpy(task.op_params, nodes[i]->op_params, sizeof(task.op_params));
      generic |= task.kind == Task::kGeneric;
      if (task.kind == Task::kSetRows && task.node->src[0]->ne[1] >= kManyRows) SettlePagesSoon();
    }
    if (num_tasks_ == 0) return compute(backend, graph);
    for (size_t i = 0; i < num_tasks_; ++i) {
      Task& task = tasks_[i];
      if (task.kind == Task::kSetRows) Replace(task.node, SetRowsOp, &task);
      if (task.kind == Task::kAttention) Replace(task.node, AttentionOp, &task);
    }
    status = generic ? RunExpanded(backend, graph, compute) : compute(backend, graph);
  } catch (const std::exception& e) {
    LogError(std::string("graph not computed: ") + e.what());
  }
  for (size_t i = 0; i < num_tasks_; ++i) {
    const Task& task = tasks_[i];
    task.node->op = task.op;
    std::memcpy(task.node->op_params, task.op_params, sizeof(task.op_params));
  }
  try {
    FlushAll();
  } catch (const std::exception& e) {
    LogError(std::string("rows not stored: ") + e.what());
    status = kStatusFailed;
  }
  return status;
}

// The same nodes with a load step in front of, and a store step behind, every generic one.
int GraphRun::RunExpanded(Backend* backend, Graph* graph, Compute compute) {
  const int n = host_.fn.ggml_graph_n_nodes(graph);
  Tensor** nodes = host_.fn.ggml_graph_nodes(graph);
  const size_t capacity = n + 2 * num_tasks_;
  Context* context = host_.fn.ggml_init(
      {host_.fn.ggml_graph_overhead_custom(capacity, false) +
           2 * num_tasks_ * host_.fn.ggml_tensor_overhead() + 4096,
       nullptr, true});
  if (context == nullptr) return kStatusAllocFailed;
  Graph* expanded = host_.fn.ggml_new_graph_custom(context, capacity, false);
  static float unused[4];  // what the inserted nodes "compute"
  auto insert = [&](Task& task, CustomOp fun) {
    Tensor* node = host_.fn.ggml_new_tensor_4d(context, kTypeF32, 1, 1, 1, 1);
    node->data = unused;
    node->flags = task.node->flags;
    Replace(node, fun, &task);
    host_.fn.ggml_graph_add_node(expanded, node);
  };
  size_t next = 0;
  for (int i = 0; i < n; ++i) {
    Task* task = next < num_tasks_ && tasks_[next].node == nodes[i] ? &tasks_[next++] : nullptr;
    const bool generic = task != nullptr && task->kind == Task::kGeneric;
    if (generic) insert(*task, LoadOp);
    host_.fn.ggml_graph_add_node(expanded, nodes[i]);
    if (generic) insert(*task, StoreOp);
  }
  const int status = compute(backend, expanded);
  host_.fn.ggml_free(context);
  return status;
}

// ---------------------------------------------------------------------------------- writing

GraphRun::Pending* GraphRun::PendingOf(const KvTensor* cache) {
  for (auto& p : pending_) {
    if (p->cache == cache && p->rows > 0) return p.get();
  }
  return nullptr;
}

GraphRun::Pending* GraphRun::StartPending(KvTensor* cache, int rows) {
  // A second write to a cache comes after the first; a write to another layer means that the layer
  // before has no attention that would flush it.
  for (auto& p : pending_) {
    if (p->rows > 0 && (p->cache == cache || p->cache->layer() != cache->layer())) Flush(p.get());
  }
  Pending* free = nullptr;
  for (auto& p : pending_) {
    if (p->rows == 0) free = p.get();
  }
  if (free == nullptr) free = pending_.emplace_back(std::make_unique<Pending>()).get();
  free->cache = cache;
  free->rows = rows;
  free->cells.resize(rows);
  if (free->values.size() < static_cast<size_t>(rows) * cache->width()) {
    free->values.resize(static_cast<size_t>(rows) * cache->width());
  }
  return free;
}

void GraphRun::SetRowsOp(Tensor*, int ith, int nth, void* task) {
  auto* t = static_cast<Task*>(task);
  t->run->SetRows(*t, ith, nth);
}

void GraphRun::CopyRow(const Task& task, Pending* pending, int row) {
  const Tensor* rows = task.node->src[0];
  const Tensor* ids = task.node->src[1];
  KvTensor* cache = task.k;
  const int width = cache->width();
  auto id = [&](int64_t i) -> int64_t {
    return ids->type == kTypeI64 ? static_cast<const int64_t*>(ids->data)[i]
                                 : static_cast<const int32_t*>(ids->data)[i];
  };
  uint16_t* to = pending->values.data() + static_cast<size_t>(row) * width;
  const auto* data = static_cast<const char*>(rows->data);
  if (task.transposed) {  // element j of token t: row t * width + j, at j * cells + cell
    const int64_t first = id(static_cast<int64_t>(row) * width);
    const int64_t per_stream = static_cast<int64_t>(cache->cells()) * width;
    pending->cells[row] = first / per_stream * cache->cells() + first % cache->cells();
    for (int j = 0; j < width; ++j) {
      const char* value = data + (static_cast<size_t>(row) * width + j) * rows->nb[1];
      if (rows->type == kTypeF32) {
        float f;
        std::memcpy(&f, value, 4);
        to[j] = FloatToHalf(f);
      } else {
        std::memcpy(to + j, value, 2);
      }
    }
    return;
  }
  pending->cells[row] =
      static_cast<int64_t>(task.node->view_offs / (static_cast<size_t>(width) * 2)) + id(row);
  const char* from = data + row * rows->nb[1];
  if (rows->type == kTypeF32) {
    kernels_.float_to_half(reinterpret_cast<const float*>(from), to, width);
  } else {
    std::memcpy(to, from, static_cast<size_t>(width) * 2);
  }
}

void GraphRun::SetRows(const Task& task, int ith, int nth) {
  const Tensor* rows = task.node->src[0];
  const int n =
      static_cast<int>(task.transposed ? rows->ne[1] / task.k->width() : rows->ne[1]);
  if (n == 0) return;
  if (n < kSerialRows) {
    if (ith != 0) return;
    Pending* pending = StartPending(task.k, n);
    for (int row = 0; row < n; ++row) CopyRow(task, pending, row);
    return;
  }
  if (ith == 0) StartPending(task.k, n);
  barrier_.Wait(nth);
  Pending* pending = PendingOf(task.k);
  for (int row = ith; row < n; row += nth) CopyRow(task, pending, row);
}

// Splits pending rows by stream and plans their way into the stores.
void GraphRun::PlanFlush(Pending* pending) {
  Pending& p = *pending;
  KvTensor& cache = *p.cache;
  cache.Touch();
  cache.EnsureBound(nullptr);
  p.by_stream.resize(cache.streams());
  for (auto& rows : p.by_stream) rows.clear();
  for (int row = 0; row < p.rows; ++row) {
    const int64_t stream = p.cells[row] / cache.cells();
    if (stream < 0 || stream >= cache.streams()) continue;
    p.by_stream[stream].push_back({static_cast<int>(p.cells[row] % cache.cells()),
                                   p.values.data() + static_cast<size_t>(row) * cache.width()});
  }
  if (cache.is_plain()) {
    cache.WritePlain(p.by_stream);
    return;
  }
  for (int s = 0; s < cache.streams(); ++s) {
    const auto& rows = p.by_stream[s];
    if (!rows.empty()) cache.store(s).PlanAppend(rows.data(), static_cast<int>(rows.size()));
  }
}

void GraphRun::EncodeFlush(Pending* pending, int ith, int nth) {
  KvTensor& cache = *pending->cache;
  for (int s = 0; s < cache.streams() && !cache.is_plain(); ++s) {
    if (pending->by_stream[s].empty()) continue;
    RowStore& store = cache.store(s);
    for (int job = ith; job < store.jobs(); job += nth) store.EncodeJob(job);
  }
}

void GraphRun::CommitFlush(Pending* pending) {
  KvTensor& cache = *pending->cache;
  pending->rows = 0;
  if (cache.is_plain()) return;
  for (int s = 0; s < cache.streams(); ++s) {
    if (!pending->by_stream[s].empty()) cache.store(s).CommitAppend();
  }
  cache.ReportNonFinite();
}

void GraphRun::Flush(Pending* pending) {
  PlanFlush(pending);
  EncodeFlush(pending, 0, 1);
  CommitFlush(pending);
}

// What the attention that all threads have just finished leaves due. A side has a thread that plans
// and commits it; with few rows that thread encodes them too, since meeting would cost more.
void GraphRun::FlushDue(int ith, int nth) {
  const int sides = static_cast<int>(due_.size());
  for (int i = ith; i < sides; i += nth) {
    if (few_due_) {
      Flush(due_[i]);
    } else {
      PlanFlush(due_[i]);
    }
  }
  if (few_due_) return;
  barrier_.Wait(nth);
  for (Pending* p : due_) EncodeFlush(p, ith, nth);
  barrier_.Wait(nth);
  for (int i = ith; i < sides; i += nth) CommitFlush(due_[i]);
}

void GraphRun::FlushAll() {
  for (auto& p : pending_) {
    if (p->rows > 0) Flush(p.get());
  }
}

// ---------------------------------------------------------------------------------- attention

// Exact rows of one side of a stream: this chunk's, the latest first (the last write of a cell wins),
// then the window's. Returns how many are this chunk's.
size_t GraphRun::ListSide(KvTensor* side, int stream, std::vector<NewRow>* rows) {
  rows->clear();
  if (side == nullptr) return 0;
  const int64_t base = static_cast<int64_t>(stream) * side->cells();
  if (Pending* p = PendingOf(side)) {
    for (int row = p->rows - 1; row >= 0; --row) {
      const int64_t cell = p->cells[row] - base;
      if (cell < 0 || cell >= side->cells()) continue;
      rows->push_back({static_cast<int>(cell),
                       p->values.data() + static_cast<size_t>(row) * side->width()});
    }
  }
  const size_t pending = rows->size();
  side->store(stream).ListExact(&window_);
  rows->insert(rows->end(), window_.begin(), window_.end());
  return pending;
}

// Lists the rows of a stream that are held exactly on either side.
void GraphRun::ListExactRows(const Task& task, int stream, AttentionProblem* problem) {
  const Tensor* view = task.node->src[task.k != nullptr ? 1 : 2];
  KvTensor* first_side = task.k != nullptr ? task.k : task.v;
  const size_t row_bytes = static_cast<size_t>(first_side->width()) * 2;
  const int64_t first_row = static_cast<int64_t>(view->view_offs / row_bytes) +
                            static_cast<int64_t>(stream) * first_side->cells();
  const int store_index = static_cast<int>(first_row / first_side->cells());
  const int first_cell = static_cast<int>(first_row % first_side->cells());

  // In the same order on both sides unless something unusual happened.
  std::vector<NewRow>& k_rows = exact_k_;
  std::vector<NewRow>& v_rows = exact_v_;
  const size_t pending_k = ListSide(task.k, store_index, &k_rows);
  ListSide(task.shared ? nullptr : task.v, store_index, &v_rows);

  auto values_of = [&](KvTensor* side, const std::vector<NewRow>& rows, int cell, int plain_at,
                       int heads, int head_dim) -> const uint16_t* {
    for (const NewRow& row : rows) {
      if (row.cell == cell) return row.values;
    }
    decoded_rows_.emplace_back(static_cast<size_t>(heads) * head_dim);
    std::vector<uint16_t>& values = decoded_rows_.back();
    if (side != nullptr) {
      side->store(store_index).ReadRow(cell, values.data());
      return values.data();
    }
    std::vector<float> row(head_dim);
    for (int h = 0; h < heads; ++h) {
      LoadPlainRows(&task.plain[plain_at], h, cell - first_cell, 1, row.data());
      kernels_.float_to_half(row.data(), values.data() + static_cast<size_t>(h) * head_dim,
                             head_dim);
    }
    return values.data();
  };
  const int streams = static_cast<int>(task.node->src[1]->ne[3]);
  const int plain_k_at = stream;
  const int plain_v_at = task.k == nullptr ? streams + stream : stream;
  const int heads = problem->num_kv_heads;

  auto add = [&](const std::vector<NewRow>& rows, size_t pending, bool from_k) {
    for (size_t i = 0; i < rows.size(); ++i) {
      // Rising cells, whose mask lies side by side.
      if (i == pending) std::reverse(problem->exact.begin(), problem->exact.end());
      const int cell = rows[i].cell - first_cell;
      if (cell < 0 || cell >= problem->cells || problem->hidden[cell] != 0) continue;
      problem->hidden[cell] = kHalfMinusInfinity;
      ExactRow exact{cell, nullptr, nullptr};
      if (from_k) {
        exact.k = rows[i].values;
        const bool aligned = i < v_rows.size() && v_rows[i].cell == rows[i].cell;
        exact.v = task.shared ? exact.k
                  : aligned   ? v_rows[i].values
                              : values_of(task.v, v_rows, rows[i].cell, plain_v_at, heads,
                                          problem->v.head_dim);
      } else {
        exact.v = rows[i].values;
        exact.k = values_of(task.k, k_rows, rows[i].cell, plain_k_at, heads, problem->k.head_dim);
      }
      problem->exact.push_back(exact);
    }
  };
  add(k_rows, pending_k, true);
  add(v_rows, v_rows.size(), false);
}

void GraphRun::FillProblem(const Task& task, int stream, AttentionProblem* p) {
  const Tensor* node = task.node;
  const Tensor* q = node->src[0];
  const Tensor* k = node->src[1];
  const Tensor* v = node->src[2];
  const Tensor* mask = node->src[3];
  const Tensor* sinks = node->src[4];
  float params[3];  // scale, max_bias, logit softcap
  std::memcpy(params, task.op_params, sizeof(params));
  p->tokens = static_cast<int>(q->ne[1]);
  p->num_kv_heads = static_cast<int>(k->ne[2]);
  p->group = static_cast<int>(q->ne[2] / k->ne[2]);
  p->out_dim = static_cast<int>(v->ne[0]);
  p->cells = static_cast<int>(k->ne[1]);
  p->scale = params[0];
  p->softcap = params[2];
  p->slopes = params[1] > 0.0f ? slopes_.data() : nullptr;
  p->sinks = sinks != nullptr ? static_cast<const float*>(sinks->data) : nullptr;
  p->q = static_cast<const char*>(q->data) + stream * q->nb[3];
  p->q_token_stride = q->nb[1];
  p->q_head_stride = q->nb[2];
  p->out = static_cast<char*>(node->data) + stream * node->nb[3];  // [dv, heads, tokens, streams]
  p->out_head_stride = node->nb[1];
  p->out_token_stride = node->nb[2];
  if (mask != nullptr) {
    p->mask = static_cast<const char*>(mask->data) + (mask->ne[3] == 1 ? 0 : stream * mask->nb[3]);
    p->mask_token_stride = mask->nb[1];
    p->mask_head_stride = mask->ne[2] == 1 ? 0 : mask->nb[2];
  }
  auto coded = [&](KvTensor* side, const Tensor* view) {
    const size_t row = view->view_offs / (static_cast<size_t>(side->width()) * 2) +
                       static_cast<size_t>(stream) * side->cells();
    return side->store(static_cast<int>(row / side->cells()))
        .CodedSide(static_cast<int>(row % side->cells()));
  };
  auto plain = [&](const Tensor* view, const PlainRows& rows) {
    Side side;
    side.head_dim = static_cast<int>(view->ne[0]);
    side.load = LoadPlainRows;
    side.context = &rows;
    return side;
  };
  const size_t streams = k->ne[3];
  p->k = task.k != nullptr ? coded(task.k, k) : plain(k, task.plain[stream]);
  if (task.v != nullptr) {
    p->v = coded(task.v, v);
    p->v.means = MeanTable();
  } else {
    p->v = plain(v, task.plain[(task.k == nullptr ? streams : 0) + stream]);
  }
  // Only the cells of the exact rows before are hidden: a layer has as many as any other.
  for (const ExactRow& exact : p->exact) p->hidden[exact.cell] = 0;
  p->exact.clear();
  p->hidden.resize(p->cells, 0);
  ListExactRows(task, stream, p);
}

void GraphRun::PrepareAttention(const Task& task, int nth) {
  const Tensor* q = task.node->src[0];
  float max_bias;
  std::memcpy(&max_bias, &task.op_params[1], sizeof(max_bias));
  if (max_bias > 0.0f) {  // ALiBi slopes (arXiv 2108.12409) as the host computes them
    const int heads = static_cast<int>(q->ne[2]);
    const int log2_heads = 1 << static_cast<int>(std::floor(std::log2(heads)));
    const float m0 = std::pow(2.0f, -max_bias / log2_heads);
    const float m1 = std::pow(2.0f, -(max_bias / 2.0f) / log2_heads);
    slopes_.resize(heads);
    for (int h = 0; h < heads; ++h) {
      slopes_[h] = h < log2_heads ? std::pow(m0, static_cast<float>(h + 1))
                                  : std::pow(m1, static_cast<float>(2 * (h - log2_heads) + 1));
    }
  }
  decoded_rows_.clear();
  const int streams = static_cast<int>(task.node->src[1]->ne[3]);
  attention_.problems().resize(streams);
  for (int s = 0; s < streams; ++s) {
    AttentionProblem& problem = attention_.problems()[s];
    problem.mask = nullptr;
    FillProblem(task, s, &problem);
  }
  attention_.Prepare();
  share_.Start(attention_.attend_items(), nth);
  due_.clear();
  few_due_ = true;
  for (KvTensor* side : {task.k, task.shared ? nullptr : task.v}) {
    if (side == nullptr) continue;
    if (Pending* p = PendingOf(side)) {
      due_.push_back(p);
      few_due_ = few_due_ && p->rows < kSerialRows;
    }
  }
}

void GraphRun::AttentionOp(Tensor*, int ith, int nth, void* userdata) {
  const Task& task = *static_cast<Task*>(userdata);
  GraphRun& run = *task.run;
  AttentionRun& attention = run.attention_;
  if (ith == 0) run.PrepareAttention(task, nth);
  run.barrier_.Wait(nth);
  for (int i = run.share_.Take(ith); i >= 0; i = run.share_.Take(ith)) attention.AttendItem(i);
  run.barrier_.Wait(nth);
  for (int i = ith; i < attention.merge_items(); i += nth) attention.MergeItem(i);
  // The chunk's rows have been attended exactly; what the window no longer holds is encoded now.
  run.FlushDue(ith, nth);
}

// ---------------------------------------------------------------------------------- generic

void GraphRun::LoadOp(Tensor*, int ith, int nth, void* userdata) {
  Task& task = *static_cast<Task*>(userdata);
  GraphRun& run = *task.run;
  if (ith == 0) {
    for (const Task::Touched& t : task.touched) {
      if (Pending* p = run.PendingOf(t.cache)) run.Flush(p);
      t.cache->Open(t.first, t.last);
    }
  }
  run.barrier_.Wait(nth);
  for (const Task::Touched& t : task.touched) t.cache->Fill(ith, nth);
}

void GraphRun::StoreOp(Tensor*, int ith, int nth, void* userdata) {
  Task& task = *static_cast<Task*>(userdata);
  GraphRun& run = *task.run;
  for (const Task::Touched& t : task.touched) {
    if (t.written) t.cache->Scan(ith, nth);
  }
  run.barrier_.Wait(nth);
  if (ith != 0) return;
  for (const Task::Touched& t : task.touched) t.cache->Close();
}

}  // namespace turboquant::ggml
