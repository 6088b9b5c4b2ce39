#include "kvcache/row_store.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/fp16.h"
#include "kvcache/state_row.h"

namespace turboquant {
namespace {

constexpr int kMeanRows = 128;     // a mean is taken from at most so many rows
constexpr int kMaxBatch = 4;        // rows of one EncodeJob
constexpr int kMeanLeastRows = 32; // and at least so many, else the page before lends its own

size_t Align(size_t n) { return (n + 63) & ~size_t{63}; }

bool FiniteRow(const uint16_t* values, int n) {
  for (int i = 0; i < n; ++i) {
    if ((values[i] & 0x7C00u) == 0x7C00u) return false;
  }
  return true;
}

}  // namespace

struct RowStore::Header {
  uint32_t next_slot;        // ring position, 0..tail-1
  uint32_t reserved;
  uint64_t non_finite_rows;  // written atomically by EncodeJob
};

bool SupportedShape(const StoreShape& s) {
  return IsCoded(s.format) && SupportedHeadDim(s.head_dim) && s.width > 0 &&
         s.width % s.head_dim == 0 && s.cells > 0 && s.mean_capacity() < 65535 &&
         StateRowBytes(s) <= 2 * static_cast<size_t>(s.width);
}

size_t RowStore::BlockBytes(const StoreShape& s) {
  const size_t cells = s.cells;
  const size_t pages = (cells + s.page - 1) / s.page;
  const size_t means = s.mean_capacity();
  const size_t slots = s.sink + s.tail;
  size_t bytes = Align(sizeof(Header)) + Align(slots * 4);
  if (means > 0) {
    bytes += Align(means * 4) + Align(pages * 2) + Align(cells * 2) +
             Align(means * (s.width / 16) * 2) + Align(means * s.width);
  }
  const size_t rows = TilesBytes(1, s.cells) * s.heads();
  bytes += Align(slots * s.width * 2) + Align(rows * 2) +
           Align(rows * CodeBytes(s.format, s.head_dim));
  return bytes;
}

void RowStore::Bind(const StoreShape& shape, uint8_t* block, const Rotation* rotation,
                    uint32_t seed, const KernelTable* kernels) {
  shape_ = shape;
  block_ = block;
  rotation_ = rotation;
  seed_ = seed;
  kernels_ = kernels;
  code_bytes_ = CodeBytes(shape.format, shape.head_dim);
  uint8_t* at = block;
  auto take = [&](size_t bytes) {
    uint8_t* here = at;
    at += Align(bytes);
    return here;
  };
  const size_t cells = shape.cells;
  const size_t pages = (cells + shape.page - 1) / shape.page;
  const size_t means = shape.mean_capacity();
  header_ = reinterpret_cast<Header*>(take(sizeof(Header)));
  slot_cell_ = reinterpret_cast<int32_t*>(take(static_cast<size_t>(slots()) * 4));
  if (means > 0) {
    mean_refs_ = reinterpret_cast<uint32_t*>(take(means * 4));
    page_mean_ = reinterpret_cast<uint16_t*>(take(pages * 2));
    cell_mean_ = reinterpret_cast<uint16_t*>(take(cells * 2));
    mean_sizes_ = reinterpret_cast<uint16_t*>(take(means * (shape.width / 16) * 2));
    mean_steps_ = reinterpret_cast<int8_t*>(take(means * shape.width));
  }
  window_ = reinterpret_cast<uint16_t*>(take(static_cast<size_t>(slots()) * shape.width * 2));
  const size_t rows = tile_cells() * shape.heads();
  scales_ = reinterpret_cast<uint16_t*>(take(rows * 2));
  codes_ = take(rows * code_bytes_);
}

uint64_t RowStore::non_finite_rows() const {
  return __atomic_load_n(&header_->non_finite_rows, __ATOMIC_RELAXED);
}

void RowStore::Clear() { std::memset(block_, 0, BlockBytes(shape_)); }

void RowStore::CopyBlock(const RowStore& from) {
  if (from.block_ != block_) std::memcpy(block_, from.block_, BlockBytes(shape_));
}

// ---------------------------------------------------------------------------------- means

void RowStore::MeanValues(int mean, int first, int n, float* out) const {
  if (mean == 0) {
    std::fill_n(out, n, 0.0f);
    return;
  }
  const size_t at = static_cast<size_t>(mean - 1) * shape_.width + first;
  for (int i = 0; i < n; ++i) {
    out[i] = HalfToFloat(mean_sizes_[(at + i) / 16]) * mean_steps_[at + i];
  }
}

void RowStore::ReleaseCell(int cell) {
  if (cell_mean_ == nullptr || cell_mean_[cell] == 0) return;
  const int index = cell_mean_[cell] - 1;
  cell_mean_[cell] = 0;
  if (--mean_refs_[index] != 0) return;
  // No coded row refers to it any more: pages that still hold it choose anew.
  const int pages = (shape_.cells + shape_.page - 1) / shape_.page;
  for (int p = 0; p < pages; ++p) {
    if (page_mean_[p] == index + 1) page_mean_[p] = 0;
  }
}

int RowStore::AllocateMean() {
  const int capacity = shape_.mean_capacity();
  for (int i = 0; i < capacity; ++i) {
    if (mean_refs_[i] != 0) continue;
    bool held = false;  // chosen for a page, but no row coded with it yet
    const int pages = (shape_.cells + shape_.page - 1) / shape_.page;
    for (int p = 0; p < pages && !held; ++p) held = page_mean_[p] == i + 1;
    if (!held) return i;
  }
  return -1;
}

void RowStore::QuantiseMean(int index, const float* mean) {
  const auto limit = static_cast<float>(MeanStepLimit(shape_.format));
  for (int g = 0; g < shape_.width / 16; ++g) {
    float largest = 0.0f;
    for (int i = 0; i < 16; ++i) largest = std::max(largest, std::fabs(mean[16 * g + i]));
    const uint16_t size = FloatToHalf(std::min(largest / limit, kHalfMax));
    const float step = HalfToFloat(size);
    mean_sizes_[static_cast<size_t>(index) * (shape_.width / 16) + g] = size;
    for (int i = 0; i < 16; ++i) {
      const float steps = step > 0.0f ? std::nearbyint(mean[16 * g + i] / step) : 0.0f;
      mean_steps_[static_cast<size_t>(index) * shape_.width + 16 * g + i] =
          static_cast<int8_t>(std::clamp(steps, -limit, limit));
    }
  }
}

// The mean of the rows at hand (window and appended) of a page, sinks left out; false if fewer than
// `least`.
bool RowStore::MeanFromRows(int page, int least, float* mean) const {
  std::fill_n(mean, shape_.width, 0.0f);
  std::vector<float> row(shape_.width);
  int count = 0;
  auto add = [&](int cell, const uint16_t* values) {
    if (cell < shape_.sink || cell / shape_.page != page || count >= kMeanRows) return;
    if (!FiniteRow(values, shape_.width)) return;
    kernels_->half_to_float(values, row.data(), shape_.width);
    for (int i = 0; i < shape_.width; ++i) mean[i] += row[i];
    ++count;
  };
  for (const Job& job : jobs_) add(job.cell, job.values);
  for (int t = 0; t < shape_.tail; ++t) {  // oldest first
    const int slot = shape_.sink + (header_->next_slot + t) % shape_.tail;
    if (slot_cell_[slot] != 0) add(slot_cell_[slot] - 1, slot_row_[slot]);
  }
  if (count < std::max(least, 1)) return false;
  for (int i = 0; i < shape_.width; ++i) mean[i] /= static_cast<float>(count);
  return true;
}

// The mean (1 + index, 0: none) for a row that is about to be encoded into `cell`.
int RowStore::MeanForCell(int cell) {
  const int page = cell / shape_.page;
  if (page_mean_[page] != 0) return page_mean_[page];
  std::vector<float> mean(shape_.width);
  if (MeanFromRows(page, kMeanLeastRows, mean.data())) {
    const int index = AllocateMean();
    if (index >= 0) {
      QuantiseMean(index, mean.data());
      page_mean_[page] = static_cast<uint16_t>(index + 1);
      return index + 1;
    }
  }
  // Too few rows, or no room: any mean is exact, the page before has the nearest one. It stays this
  // page's, so that a restored page goes on as the saved one would have.
  for (int p = page - 1; p >= 0 && page_mean_[page] == 0; --p) page_mean_[page] = page_mean_[p];
  return page_mean_[page];
}

int RowStore::InstallMean(const int8_t* steps, const uint16_t* step_sizes) {
  const int capacity = shape_.mean_capacity();
  const size_t groups = shape_.width / 16;
  for (int i = 0; i < capacity; ++i) {
    if (mean_refs_[i] != 0 &&
        std::memcmp(mean_steps_ + static_cast<size_t>(i) * shape_.width, steps, shape_.width) == 0 &&
        std::memcmp(mean_sizes_ + i * groups, step_sizes, groups * 2) == 0) {
      return i + 1;
    }
  }
  const int index = AllocateMean();
  if (index < 0) return 0;
  std::memcpy(mean_steps_ + static_cast<size_t>(index) * shape_.width, steps, shape_.width);
  std::memcpy(mean_sizes_ + index * groups, step_sizes, groups * 2);
  return index + 1;
}

// ---------------------------------------------------------------------------------- writing

int RowStore::FindSlot(int cell) const {
  if (cell < shape_.sink) return slot_cell_[cell] == cell + 1 ? cell : -1;
  for (int s = shape_.sink; s < slots(); ++s) {
    if (slot_cell_[s] == cell + 1) return s;
  }
  return -1;
}

void RowStore::PlanCell(int cell, const uint16_t* values) {
  ReleaseCell(cell);
  if (cell < shape_.sink) {
    slot_cell_[cell] = cell + 1;
    slot_row_[cell] = values;
    return;
  }
  const int held = FindSlot(cell);
  if (held >= 0) {
    slot_row_[held] = values;
    return;
  }
  if (cell <= highest_cell_) {
    // The row may have passed through the window within this very append.
    for (Job& job : jobs_) {
      if (job.cell == cell) {
        job.values = values;
        return;
      }
    }
  }
  highest_cell_ = std::max(highest_cell_, cell);
  if (shape_.tail == 0) {
    jobs_.push_back({cell, values, 0});
    return;
  }
  const int slot = shape_.sink + static_cast<int>(header_->next_slot);
  if (slot_cell_[slot] != 0) jobs_.push_back({slot_cell_[slot] - 1, slot_row_[slot], 0});
  slot_cell_[slot] = cell + 1;
  slot_row_[slot] = values;
  header_->next_slot = (header_->next_slot + 1) % shape_.tail;
}

void RowStore::StartPlan() {
  jobs_.clear();
  moves_.clear();
  highest_cell_ = -1;
  slot_row_.resize(slots());
  for (int s = 0; s < slots(); ++s) slot_row_[s] = slot_values(s);
}

void RowStore::ChooseMeans() {
  if (cell_mean_ == nullptr) return;
  for (Job& job : jobs_) {
    job.mean = MeanForCell(job.cell);
    cell_mean_[job.cell] = static_cast<uint16_t>(job.mean);
    if (job.mean != 0) ++mean_refs_[job.mean - 1];
  }
}

void RowStore::PlanAppend(const NewRow* rows, int n) {
  StartPlan();
  for (int i = 0; i < n; ++i) {
    if (rows[i].cell >= 0 && rows[i].cell < shape_.cells) PlanCell(rows[i].cell, rows[i].values);
  }
  ChooseMeans();
  for (int s = 0; s < slots(); ++s) {
    if (slot_row_[s] != slot_values(s)) moves_.push_back({s, slot_row_[s]});
  }
}

void RowStore::EncodeJob(int job_index) {
  const int d = shape_.head_dim;
  const int heads = shape_.heads();
  const int first = job_index * batch();
  const int n = std::min(batch(), rows_to_encode() - first);
  float rows[kMaxBatch * kMaxHeadDim];
  float mean[kMaxHeadDim];
  for (int j = 0; j < n; ++j) {
    const Job& job = jobs_[(first + j) / heads];
    const int head = (first + j) % heads;
    float* row = rows + static_cast<size_t>(j) * d;
    kernels_->half_to_float(job.values + static_cast<size_t>(head) * d, row, d);
    if (job.mean == 0) continue;
    MeanValues(job.mean, head * d, d, mean);
    for (int i = 0; i < d; ++i) row[i] -= mean[i];
  }
  uint8_t codes[kMaxBatch * kMaxHeadDim];
  uint16_t scales[kMaxBatch];
  const int invalid = EncodeFormatRows(*kernels_, shape_.format, rotation_->view(), rows, n, codes,
                                       scales);
  for (int j = 0; j < n; ++j) {
    const int cell = jobs_[(first + j) / heads].cell;
    const int head = (first + j) % heads;
    StoreCodes(head, cell, codes + j * code_bytes_);
    *scale(head, cell) = scales[j];
  }
  if (invalid > 0) __atomic_fetch_add(&header_->non_finite_rows, invalid, __ATOMIC_RELAXED);
}

void RowStore::CommitAppend() {
  for (const Move& move : moves_) {
    std::memcpy(slot_values(move.slot), move.values, static_cast<size_t>(shape_.width) * 2);
  }
  jobs_.clear();
  moves_.clear();
}

void RowStore::Append(const NewRow* rows, int n) {
  PlanAppend(rows, n);
  for (int j = 0; j < jobs(); ++j) EncodeJob(j);
  CommitAppend();
}

void RowStore::Rewrite(const NewRow* rows, int n) {
  StartPlan();
  std::vector<NewRow> coded;
  for (int i = 0; i < n; ++i) {
    const int slot = FindSlot(rows[i].cell);
    if (slot >= 0) {
      std::memcpy(slot_values(slot), rows[i].values, static_cast<size_t>(shape_.width) * 2);
    } else {
      coded.push_back(rows[i]);
    }
  }
  // A mean that loses its last coded row here is free: its page is centred anew.
  if (cell_mean_ != nullptr) {
    for (const NewRow& row : coded) ReleaseCell(row.cell);
  }
  for (const NewRow& row : coded) jobs_.push_back({row.cell, row.values, 0});
  ChooseMeans();
  for (int j = 0; j < jobs(); ++j) EncodeJob(j);
  jobs_.clear();
}

// ---------------------------------------------------------------------------------- reading

const uint16_t* RowStore::ExactRow(int cell) const {
  const int slot = FindSlot(cell);
  return slot < 0 ? nullptr : slot_values(slot);
}

void RowStore::ListExact(std::vector<NewRow>* rows) const {
  rows->clear();
  for (int s = 0; s < shape_.sink; ++s) {
    if (slot_cell_[s] != 0) rows->push_back({slot_cell_[s] - 1, slot_values(s)});
  }
  const auto list = [&](int first, int last) {  // of the tail
    for (int slot = shape_.sink + first; slot < shape_.sink + last; ++slot) {
      if (slot_cell_[slot] != 0) rows->push_back({slot_cell_[slot] - 1, slot_values(slot)});
    }
  };
  const int oldest = static_cast<int>(header_->next_slot);
  list(oldest, shape_.tail);
  list(0, oldest);
}

bool RowStore::EmptyCell(int cell) const {
  if (FindSlot(cell) >= 0 || (cell_mean_ != nullptr && cell_mean_[cell] != 0)) return false;
  for (int h = 0; h < shape_.heads(); ++h) {
    if (*scale(h, cell) != 0) return false;
  }
  return true;
}

void RowStore::ReadRow(int cell, float* out) const {
  if (const uint16_t* exact = ExactRow(cell)) {
    kernels_->half_to_float(exact, out, shape_.width);
    return;
  }
  const int d = shape_.head_dim;
  float mean[kMaxHeadDim];
  for (int h = 0; h < shape_.heads(); ++h) {
    float* head = out + static_cast<size_t>(h) * d;
    uint8_t codes[kMaxHeadDim];
    LoadCodes(h, cell, codes);
    DecodeFormatRows(*kernels_, shape_.format, d, codes, scale(h, cell), 1, head);
    kernels_->unrotate(rotation_->view(), head, head);
    if (cell_mean_ == nullptr || cell_mean_[cell] == 0) continue;
    MeanValues(cell_mean_[cell], h * d, d, mean);
    for (int i = 0; i < d; ++i) head[i] += mean[i];
  }
}

void RowStore::ReadRow(int cell, uint16_t* out) const {
  if (const uint16_t* exact = ExactRow(cell)) {
    std::memcpy(out, exact, static_cast<size_t>(shape_.width) * 2);
    return;
  }
  std::vector<float> row(shape_.width);
  ReadRow(cell, row.data());
  kernels_->float_to_half(row.data(), out, shape_.width);
}

Side RowStore::CodedSide(int first_cell) const {
  Side s;
  s.format = shape_.format;
  s.head_dim = shape_.head_dim;
  s.codes = tiles(0);
  s.head_code_stride = tile_cells() * code_bytes_;
  s.scales = scale(0, 0);
  s.head_scale_stride = tile_cells();
  s.form = shape_.form;
  s.first_cell = first_cell;
  s.rotation = rotation_->view();
  if (cell_mean_ != nullptr) {
    s.means = {shape_.mean_capacity(), shape_.width, mean_steps_, mean_sizes_, mean_refs_,
               cell_mean_ + first_cell};
  }
  return s;
}

// ---------------------------------------------------------------------------------- moving

void RowStore::ExportRow(int cell, uint8_t* record) const {
  if (const uint16_t* exact = ExactRow(cell)) {
    std::memcpy(record, exact, static_cast<size_t>(shape_.width) * 2);
    return;
  }
  const int mean = cell_mean_ == nullptr ? 0 : cell_mean_[cell];
  std::memset(record, 0, static_cast<size_t>(shape_.width) * 2);
  if (EmptyCell(cell)) return;  // decodes to zeros: the plain row says the same
  StateRow row;
  row.format = shape_.format;
  row.head_dim = shape_.head_dim;
  row.width = shape_.width;
  row.seed = seed_;
  const size_t index = mean > 0 ? static_cast<size_t>(mean - 1) : 0;
  uint8_t* at = WriteStateRowHeader(
      row, mean != 0 ? mean_steps_ + index * shape_.width : nullptr,
      mean != 0 ? mean_sizes_ + index * (shape_.width / 16) : nullptr, record);
  for (int h = 0; h < shape_.heads(); ++h) {
    std::memcpy(at, scale(h, cell), 2);
    LoadCodes(h, cell, at + 2);
    at += 2 + code_bytes_;
  }
  SealStateRow(row, record);
}

// Installs a coded record, or decodes one that is foreign into `transcoded` (left empty otherwise).
Status RowStore::ImportRecord(int cell, const uint8_t* record, std::vector<uint16_t>* transcoded) {
  transcoded->clear();
  StateRow row;
  if (Status s = ParseStateRow(record, shape_.width, &row); !s.ok()) return s;
  int mean = 0;
  bool native = row.format == shape_.format && row.head_dim == shape_.head_dim && row.seed == seed_;
  if (!native) {
    ++foreign_rows_;
    foreign_format_ = row.format;
  }
  if (native && row.mean != nullptr) {
    std::vector<int8_t> steps(shape_.width);
    std::vector<uint16_t> sizes(shape_.width / 16);
    LoadStateRowMean(row, steps.data(), sizes.data());
    mean = shape_.center ? InstallMean(steps.data(), sizes.data()) : 0;
    native = mean != 0;
  }
  if (!native) {
    transcoded->resize(shape_.width);
    DecodeStateRow(row, *kernels_, transcoded->data());
    return OkStatus();
  }
  ReleaseCell(cell);
  const int slot = FindSlot(cell);
  if (slot >= 0) slot_cell_[slot] = 0;
  const uint8_t* at = row.rows;
  for (int h = 0; h < shape_.heads(); ++h) {
    std::memcpy(scale(h, cell), at, 2);
    StoreCodes(h, cell, at + 2);
    at += 2 + code_bytes_;
  }
  if (mean != 0) {
    cell_mean_[cell] = static_cast<uint16_t>(mean);
    ++mean_refs_[mean - 1];
    // Rows that follow in this page had best use it too.
    if (page_mean_[cell / shape_.page] == 0) page_mean_[cell / shape_.page] = cell_mean_[cell];
  }
  return OkStatus();
}

Status RowStore::ImportRows(int first_cell, int n, const uint8_t* records) {
  Status first_error;
  const size_t bytes = static_cast<size_t>(shape_.width) * 2;
  std::vector<std::vector<uint16_t>> kept;  // owns rows until they are appended
  std::vector<NewRow> plain;
  std::vector<uint16_t> transcoded;
  for (int i = 0; i < n; ++i) {
    const uint8_t* record = records + i * bytes;
    if (IsStateRow(record, shape_.width)) {
      Status s = ImportRecord(first_cell + i, record, &transcoded);
      if (s.ok() && transcoded.empty()) continue;
      if (!s.ok()) {
        if (first_error.ok()) first_error = s;
        transcoded.assign(shape_.width, 0);
      }
      kept.push_back(transcoded);
    } else {
      kept.emplace_back(shape_.width);
      std::memcpy(kept.back().data(), record, bytes);
    }
    plain.push_back({first_cell + i, kept.back().data()});
  }
  if (!plain.empty()) Append(plain.data(), static_cast<int>(plain.size()));
  return first_error;
}

}  // namespace turboquant
