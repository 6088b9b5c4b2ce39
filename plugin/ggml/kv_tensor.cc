#include "kv_tensor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <tuple>

#include "kvcache/state_row.h"
#include "log.h"

namespace turboquant::ggml {
namespace {

constexpr uint32_t kSeed = 0x5451u;  // rotation of layer N: kSeed + N

StoreShape ShapeOf(int width, int cells, int head_dim, const Policy& policy, bool is_key) {
  StoreShape s;
  s.width = width;
  s.head_dim = head_dim;
  s.cells = cells;
  s.format = is_key ? policy.k : policy.v;
  s.form = is_key ? TileForm::kKeys : TileForm::kValues;
  s.sink = std::min(policy.sink, cells);
  s.tail = policy.tail;
  s.page = policy.page;
  s.center = is_key && policy.center;
  return s;
}

// The head size to reserve for: the smallest common one that fits, since every head stores a scale.
int AssumedHeadDim(int width) {
  for (int d : {64, 80, 96, 112, 48, 32, 16}) {
    if (width % d == 0) return d;
  }
  return 0;
}


size_t AlignBlock(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

}  // namespace

bool ParseCacheName(const char* name, bool* is_key, int* layer) {
  if (std::strncmp(name, "cache_k_l", 9) == 0) {
    *is_key = true;
  } else if (std::strncmp(name, "cache_v_l", 9) == 0) {
    *is_key = false;
  } else {
    return false;
  }
  const char* digits = name + 9;
  const size_t n = std::strlen(digits);
  if (n == 0 || n > 6 || std::strspn(digits, "0123456789") != n) return false;
  *layer = std::atoi(digits);
  return true;
}

size_t KvTensor::StorageBytes(const Tensor& t, const Policy& policy, bool is_key) {
  if (t.type != kTypeF16 || t.view_src != nullptr || t.ne[3] != 1) return 0;
  if (t.ne[0] > 1 << 20 || t.ne[1] > 1 << 30 || !IsCoded(is_key ? policy.k : policy.v)) return 0;
  const int width = static_cast<int>(t.ne[0]);
  const int head_dim = AssumedHeadDim(width);
  if (head_dim == 0) return 0;
  const StoreShape shape = ShapeOf(width, static_cast<int>(t.ne[1]), head_dim, policy, is_key);
  if (!SupportedShape(shape)) return 0;
  const size_t bytes = AlignBlock(RowStore::BlockBytes(shape)) * t.ne[2] + 64;
  const size_t f16 = static_cast<size_t>(t.ne[0]) * 2 * t.ne[1] * t.ne[2];
  return bytes < f16 ? bytes : 0;  // a cache hardly longer than its window gains nothing
}

KvTensor::KvTensor(const Tensor& t, const Policy& policy, const KernelTable& kernels)
    : name_(t.name),
      width_(static_cast<int>(t.ne[0])),
      cells_(static_cast<int>(t.ne[1])),
      streams_(static_cast<int>(t.ne[2])),
      policy_(policy),
      kernels_(&kernels) {
  ParseCacheName(t.name, &is_key_, &layer_);
}

KvTensor::~KvTensor() {
  if (range_ != nullptr) munmap(range_, f16_bytes());
}

bool KvTensor::Reserve(uint8_t* storage, size_t storage_bytes) {
  storage_ = reinterpret_cast<uint8_t*>(AlignBlock(reinterpret_cast<size_t>(storage)));
  storage_bytes_ = storage_bytes;
  void* range = mmap(nullptr, f16_bytes(), PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return false;
  range_ = static_cast<uint8_t*>(range);
  return true;
}

bool KvTensor::BindStores(int head_dim) {
  if (head_dim <= 0 || width_ % head_dim != 0) return false;
  StoreShape shape = ShapeOf(width_, cells_, head_dim, policy_, is_key_);
  if (shared_) shape.center = false;
  if (!SupportedShape(shape)) return false;
  const size_t block = AlignBlock(RowStore::BlockBytes(shape));
  uint8_t* base = storage_;
  if (block * streams_ > storage_bytes_ - 64) {
    own_storage_.assign(block * streams_ + 64, 0);
    base = reinterpret_cast<uint8_t*>(AlignBlock(reinterpret_cast<size_t>(own_storage_.data())));
  }
  rotation_ = std::make_unique<Rotation>(head_dim, kSeed + layer_);
  stores_.assign(streams_, RowStore());
  for (int s = 0; s < streams_; ++s) {
    stores_[s].Bind(shape, base + s * block, rotation_.get(), kSeed + layer_, kernels_);
  }
  head_dim_ = head_dim;
  return true;
}

bool KvTensor::Bind(int head_dim, bool shared) {
  if (plain_) return false;
  if (head_dim_ == head_dim && (shared_ || !shared)) return true;
  if (head_dim_ != 0) {
    shared_ |= shared;
    Rebind(head_dim);
    return !plain_;
  }
  shared_ = shared;
  if (BindStores(head_dim)) return true;
  LogInfo(name_ + ": heads of " + std::to_string(head_dim) +
          " values cannot be coded, this tensor stays f16");
  MakePlain();
  return false;
}

// The head size was assumed when a state arrived before the first graph, and was wrong: move the
// rows over as values.
void KvTensor::Rebind(int head_dim) {
  std::vector<std::vector<uint16_t>> values(streams_);
  std::vector<std::vector<int>> written(streams_);
  for (int s = 0; s < streams_; ++s) {
    for (int c = 0; c < cells_; ++c) {
      if (stores_[s].EmptyCell(c)) continue;
      written[s].push_back(c);
      values[s].resize(values[s].size() + width_);
      stores_[s].ReadRow(c, values[s].data() + values[s].size() - width_);
    }
    stores_[s].Clear();
  }
  own_storage_.clear();
  if (!BindStores(head_dim)) {
    head_dim_ = 0;
    MakePlain();
    for (int s = 0; s < streams_; ++s) {
      for (size_t i = 0; i < written[s].size(); ++i) {
        std::memcpy(range_ + (static_cast<size_t>(s) * cells_ + written[s][i]) * width_ * 2,
                    values[s].data() + i * width_, static_cast<size_t>(width_) * 2);
      }
    }
    return;
  }
  for (int s = 0; s < streams_; ++s) {
    std::vector<NewRow> rows;
    for (size_t i = 0; i < written[s].size(); ++i) {
      rows.push_back({written[s][i], values[s].data() + i * width_});
    }
    stores_[s].Append(rows.data(), static_cast<int>(rows.size()));
  }
  Touch();
}

void KvTensor::MakePlain() {
  if (mprotect(range_, f16_bytes(), PROT_READ | PROT_WRITE) != 0) {
    LogError(name_ + ": no memory for a plain f16 tensor; its rows are lost");
    return;
  }
  plain_ = true;
}

void KvTensor::WritePlain(const std::vector<std::vector<NewRow>>& by_stream) {
  auto* values = reinterpret_cast<uint16_t*>(range_);
  for (int s = 0; s < streams_; ++s) {
    uint16_t* stream = values + static_cast<size_t>(s) * cells_ * width_;
    for (const NewRow& row : by_stream[s]) {
      for (int j = 0; j < width_; ++j) {
        const size_t at = transposed_ ? static_cast<size_t>(j) * cells_ + row.cell
                                      : static_cast<size_t>(row.cell) * width_ + j;
        stream[at] = row.values[j];
      }
    }
  }
}

void KvTensor::EnsureBound(const uint8_t* record) {
  if (head_dim_ != 0 || plain_) return;
  StateRow row;
  int head_dim = AssumedHeadDim(width_);
  if (record != nullptr && IsStateRow(record, width_) && ParseStateRow(record, width_, &row).ok()) {
    head_dim = row.head_dim;
  }
  Bind(head_dim, shared_);
}

void KvTensor::Cleared() {
  arriving_.clear();
  std::fill(own_storage_.begin(), own_storage_.end(), 0);
  if (plain_) std::memset(range_, 0, f16_bytes());
  Touch();
}

void KvTensor::ReportNonFinite() {
  if (reported_non_finite_) return;
  for (const RowStore& store : stores_) {
    if (store.non_finite_rows() == 0) continue;
    reported_non_finite_ = true;
    LogError(name_ + ": a row held NaN or Inf and is stored as zeros; the model's output was "
                     "already broken at that token");
    return;
  }
}

// A file has such rows for every layer and side: one line for a kind of row is enough.
void KvTensor::ReportForeign(const RowStore& store) {
  if (store.foreign_rows() == 0) return;
  const Format ours = store.shape().format;
  using Kind = std::tuple<bool, Format, Format>;
  static std::mutex mutex;
  static std::set<Kind> reported;
  std::lock_guard<std::mutex> lock(mutex);
  if (!reported.insert(Kind(is_key_, store.foreign_format(), ours)).second) return;
  LogInfo(std::string("a state holds ") + (is_key_ ? "keys" : "values") + " coded as " +
          std::string(FormatName(store.foreign_format())) + "; they are decoded and coded again as " +
          std::string(FormatName(ours)) + ", which costs some precision");
}

// ------------------------------------------------------------------------------- host's bytes

void KvTensor::ImportRows(int stream, int cell, int n, const uint8_t* records) {
  if (Status s = stores_[stream].ImportRows(cell, n, records); !s.ok()) {
    LogError(name_ + ": " + s.message() + " (the damaged rows read as zeros)");
  }
  ReportForeign(stores_[stream]);
  Touch();
}

void KvTensor::GetBytes(size_t offset, void* data, size_t size, bool rows) {
  if (plain_) {
    std::memcpy(data, range_ + offset, size);
    return;
  }
  if (head_dim_ == 0) {  // nothing was ever written
    std::memset(data, 0, size);
    return;
  }
  if (transposed_) {
    GetTransposed(offset / 2, static_cast<uint16_t*>(data), size / 2);
    return;
  }
  const size_t row_bytes = static_cast<size_t>(width_) * 2;
  auto* out = static_cast<uint8_t*>(data);
  if (!rows || offset % row_bytes != 0 || size % row_bytes != 0) {
    ReadValues(offset, out, size);
    return;
  }
  for (size_t row = offset / row_bytes; size > 0; ++row, out += row_bytes, size -= row_bytes) {
    stores_[row / cells_].ExportRow(static_cast<int>(row % cells_), out);
  }
}

void KvTensor::SetBytes(size_t offset, const void* data, size_t size, bool rows) {
  if (plain_) {
    std::memcpy(range_ + offset, data, size);
    return;
  }
  const auto* in = static_cast<const uint8_t*>(data);
  const size_t row_bytes = static_cast<size_t>(width_) * 2;
  const bool whole = offset % row_bytes == 0 && size % row_bytes == 0 && !transposed_;
  EnsureBound(whole && size > 0 ? in : nullptr);
  if (plain_) {
    std::memcpy(range_ + offset, data, size);
    return;
  }
  if (transposed_) {
    SetTransposed(offset / 2, static_cast<const uint16_t*>(data), size / 2);
    return;
  }
  if (!rows || !whole) {
    WriteValues(offset, in, size);
    return;
  }
  size_t row = offset / row_bytes;
  for (size_t left = size / row_bytes; left > 0;) {
    const int cell = static_cast<int>(row % cells_);
    const int n = static_cast<int>(std::min<size_t>(left, cells_ - cell));
    ImportRows(static_cast<int>(row / cells_), cell, n, in);
    in += n * row_bytes;
    row += n;
    left -= n;
  }
}

void KvTensor::ReadValues(size_t offset, uint8_t* data, size_t size) {
  const size_t row_bytes = static_cast<size_t>(width_) * 2;
  std::vector<uint16_t> values(width_);
  while (size > 0) {
    const size_t row = offset / row_bytes;
    const size_t at = offset % row_bytes;
    const size_t n = std::min(size, row_bytes - at);
    stores_[row / cells_].ReadRow(static_cast<int>(row % cells_), values.data());
    std::memcpy(data, reinterpret_cast<uint8_t*>(values.data()) + at, n);
    data += n;
    offset += n;
    size -= n;
  }
}

void KvTensor::WriteValues(size_t offset, const uint8_t* data, size_t size) {
  const size_t row_bytes = static_cast<size_t>(width_) * 2;
  std::vector<uint16_t> values(width_);
  while (size > 0) {
    const size_t row = offset / row_bytes;
    const int cell = static_cast<int>(row % cells_);
    const size_t at = offset % row_bytes;
    const size_t n = std::min(size, row_bytes - at);
    if (n < row_bytes) stores_[row / cells_].ReadRow(cell, values.data());
    std::memcpy(reinterpret_cast<uint8_t*>(values.data()) + at, data, n);
    const NewRow written{cell, values.data()};
    stores_[row / cells_].Append(&written, 1);
    data += n;
    offset += n;
    size -= n;
  }
  Touch();
}

// Without flash attention the host keeps V transposed: element (cell, j) of a stream lies at
// j * cells + cell. Its state then moves columns; element j of a cell's state row travels as the
// value of column j, so the rows stay exact here too.
void KvTensor::GetTransposed(size_t element, uint16_t* data, size_t n) {
  const size_t per_stream = static_cast<size_t>(cells_) * width_;
  const size_t row_bytes = static_cast<size_t>(width_) * 2;
  while (n > 0) {
    const int stream = static_cast<int>(element / per_stream);
    const int column = static_cast<int>(element % per_stream / cells_);
    const int cell = static_cast<int>(element % cells_);
    const int count = static_cast<int>(std::min<size_t>(n, cells_ - cell));
    // One export serves all columns of a range, which the host asks for one after the other.
    if (exported_.version != version_ || exported_.stream != stream || exported_.cell != cell ||
        exported_.records.size() != count * row_bytes) {
      exported_.records.resize(count * row_bytes);
      for (int i = 0; i < count; ++i) {
        stores_[stream].ExportRow(cell + i, exported_.records.data() + i * row_bytes);
      }
      exported_.version = version_;
      exported_.stream = stream;
      exported_.cell = cell;
    }
    for (int i = 0; i < count; ++i) {
      std::memcpy(data + i, exported_.records.data() + i * row_bytes + 2 * column, 2);
    }
    data += count;
    element += count;
    n -= count;
  }
}

void KvTensor::SetTransposed(size_t element, const uint16_t* data, size_t n) {
  const size_t per_stream = static_cast<size_t>(cells_) * width_;
  const size_t row_bytes = static_cast<size_t>(width_) * 2;
  while (n > 0) {
    const int stream = static_cast<int>(element / per_stream);
    const int column = static_cast<int>(element % per_stream / cells_);
    const int cell = static_cast<int>(element % cells_);
    const int count = static_cast<int>(std::min<size_t>(n, cells_ - cell));
    std::vector<uint8_t>& records = arriving_[{stream, cell}];
    if (records.size() != count * row_bytes) records.assign(count * row_bytes, 0);
    for (int i = 0; i < count; ++i) {
      std::memcpy(records.data() + i * row_bytes + 2 * column, data + i, 2);
    }
    if (column == width_ - 1) {  // the last column completes the rows
      ImportRows(stream, cell, count, records.data());
      arriving_.erase({stream, cell});
    }
    data += count;
    element += count;
    n -= count;
  }
}

void KvTensor::CopyFrom(KvTensor& source, size_t source_offset, size_t offset, size_t size) {
  if (source.head_dim_ != 0 && head_dim_ == 0 && !plain_) Bind(source.head_dim_, source.shared_);
  transposed_ = source.transposed_;
  const size_t stream_bytes = static_cast<size_t>(width_) * 2 * cells_;
  const bool streams = !plain_ && !source.plain_ && head_dim_ != 0 &&
                       source.head_dim_ == head_dim_ && source.width_ == width_ &&
                       source.cells_ == cells_ && source.layer_ == layer_ &&
                       source_offset % stream_bytes == 0 && offset % stream_bytes == 0 &&
                       size % stream_bytes == 0;
  if (!streams) {
    std::vector<uint8_t> bytes(size);
    source.GetBytes(source_offset, bytes.data(), size, true);
    SetBytes(offset, bytes.data(), size, true);
    return;
  }
  for (size_t s = 0; s < size / stream_bytes; ++s) {
    stores_[offset / stream_bytes + s].CopyBlock(source.stores_[source_offset / stream_bytes + s]);
  }
  Touch();
}

// ------------------------------------------------------------------------------- direct access

void KvTensor::Open(int first, int last) {
  open_first_ = first;
  open_last_ = last;
  changed_.assign(last - first, 0);
  EnsureBound(nullptr);
  if (!plain_ && mprotect(range_, f16_bytes(), PROT_READ | PROT_WRITE) != 0) {
    LogError(name_ + ": the system refuses memory for an operation on the whole cache");
  }
}

void KvTensor::GatherRow(int row, uint16_t* out) const {
  const auto* values = reinterpret_cast<const uint16_t*>(range_);
  if (!transposed_) {
    std::memcpy(out, values + static_cast<size_t>(row) * width_, static_cast<size_t>(width_) * 2);
    return;
  }
  const uint16_t* stream = values + static_cast<size_t>(row / cells_) * cells_ * width_;
  for (int j = 0; j < width_; ++j) out[j] = stream[static_cast<size_t>(j) * cells_ + row % cells_];
}

void KvTensor::Fill(int ith, int nth) {
  if (plain_) return;
  auto* values = reinterpret_cast<uint16_t*>(range_);
  std::vector<uint16_t> row_values(width_);
  for (int row = open_first_ + ith; row < open_last_; row += nth) {
    const int cell = row % cells_;
    const RowStore& store = stores_[row / cells_];
    if (!transposed_) {
      store.ReadRow(cell, values + static_cast<size_t>(row) * width_);
      continue;
    }
    store.ReadRow(cell, row_values.data());
    uint16_t* stream = values + static_cast<size_t>(row / cells_) * cells_ * width_;
    for (int j = 0; j < width_; ++j) stream[static_cast<size_t>(j) * cells_ + cell] = row_values[j];
  }
}

// A row whose values are what it decodes to was not changed and keeps its codes.
void KvTensor::Scan(int ith, int nth) {
  if (plain_) return;
  std::vector<uint16_t> before(width_), after(width_);
  for (int row = open_first_ + ith; row < open_last_; row += nth) {
    stores_[row / cells_].ReadRow(row % cells_, before.data());
    GatherRow(row, after.data());
    changed_[row - open_first_] =
        std::memcmp(before.data(), after.data(), static_cast<size_t>(width_) * 2) != 0;
  }
}

void KvTensor::Close() {
  if (plain_) return;
  for (int s = 0; s < streams_; ++s) {
    std::vector<int> cells;
    for (int row = std::max(open_first_, s * cells_);
         row < std::min(open_last_, (s + 1) * cells_); ++row) {
      if (changed_[row - open_first_]) cells.push_back(row % cells_);
    }
    if (cells.empty()) continue;
    std::vector<uint16_t> values(cells.size() * width_);
    std::vector<NewRow> rows;
    for (size_t i = 0; i < cells.size(); ++i) {
      GatherRow(s * cells_ + cells[i], values.data() + i * width_);
      rows.push_back({cells[i], values.data() + i * width_});
    }
    stores_[s].Rewrite(rows.data(), static_cast<int>(rows.size()));
    Touch();
  }
  madvise(range_, f16_bytes(), MADV_DONTNEED);
  mprotect(range_, f16_bytes(), PROT_NONE);
}

}  // namespace turboquant::ggml
