#include "kvcache/state_row.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/fp16.h"
#include "kernels/format_rows.h"
#include "kvcache/row_store.h"

namespace turboquant {
namespace {

// Read as f16 the magic is two NaNs with payloads no arithmetic produces, so a plain row of finite
// values can never be taken for a record.
constexpr uint16_t kMagic[2] = {0x7E51, 0xFE3B};
constexpr uint8_t kVersion = 1;
constexpr uint8_t kHasMean = 1;

struct RecordHeader {
  uint16_t magic[2];
  uint32_t checksum;  // XXH32 of everything behind it, up to the record's end
  uint8_t version;
  uint8_t format;
  uint8_t flags;
  uint8_t reserved;
  uint16_t head_dim;
  uint16_t width16;  // width / 16
  uint32_t seed;
};
static_assert(sizeof(RecordHeader) == 20);
constexpr size_t kChecked = 8;  // the checksum covers the record from here

// A byte a step, or two steps a byte: the first in the low half, each plus 8.
bool HalfByteSteps(Format format) { return MeanStepLimit(format) < 8; }

size_t MeanStepBytes(Format format, int width) {
  return static_cast<size_t>(HalfByteSteps(format) ? width / 2 : width);
}

size_t RecordBytes(Format format, int head_dim, int width, bool mean) {
  return sizeof(RecordHeader) + (mean ? width / 16 * 2 + MeanStepBytes(format, width) : 0) +
         static_cast<size_t>(width / head_dim) * RowBytes(format, head_dim);
}

RecordHeader ReadHeader(const uint8_t* record) {
  RecordHeader h;
  std::memcpy(&h, record, sizeof(h));
  return h;
}

bool PlausibleHeader(const RecordHeader& h, int width) {
  if (h.version != kVersion || (h.flags & ~kHasMean) != 0 || h.reserved != 0) return false;
  if (!KnownFormat(h.format) || !IsCoded(static_cast<Format>(h.format))) return false;
  if (h.width16 * 16 != width || !SupportedHeadDim(h.head_dim) || width % h.head_dim != 0) {
    return false;
  }
  return RecordBytes(static_cast<Format>(h.format), h.head_dim, width, (h.flags & kHasMean) != 0) <=
         static_cast<size_t>(width) * 2;
}

uint32_t Checksum(const uint8_t* record, const RecordHeader& h, int width) {
  const size_t bytes =
      RecordBytes(static_cast<Format>(h.format), h.head_dim, width, (h.flags & kHasMean) != 0);
  return XXH32(record + kChecked, bytes - kChecked, 0);
}

}  // namespace

size_t StateRowBytes(const StoreShape& s) {
  return RecordBytes(s.format, s.head_dim, s.width, s.center);
}

uint8_t* WriteStateRowHeader(const StateRow& row, const int8_t* mean_steps,
                             const uint16_t* mean_sizes, uint8_t* record) {
  RecordHeader h{};
  h.version = kVersion;
  h.format = static_cast<uint8_t>(row.format);
  h.flags = mean_steps != nullptr ? kHasMean : 0;
  h.head_dim = static_cast<uint16_t>(row.head_dim);
  h.width16 = static_cast<uint16_t>(row.width / 16);
  h.seed = row.seed;
  std::memcpy(record, &h, sizeof(h));
  uint8_t* at = record + sizeof(h);
  if (mean_steps == nullptr) return at;
  std::memcpy(at, mean_sizes, row.width / 16 * 2);
  at += row.width / 16 * 2;
  if (HalfByteSteps(row.format)) {
    for (int i = 0; i < row.width; i += 2) {
      at[i / 2] = static_cast<uint8_t>((mean_steps[i] + 8) | (mean_steps[i + 1] + 8) << 4);
    }
  } else {
    std::memcpy(at, mean_steps, row.width);
  }
  return at + MeanStepBytes(row.format, row.width);
}

void SealStateRow(const StateRow& row, uint8_t* record) {
  RecordHeader h = ReadHeader(record);
  h.magic[0] = kMagic[0];
  h.magic[1] = kMagic[1];
  h.checksum = Checksum(record, h, row.width);
  std::memcpy(record, &h, sizeof(h));
}

bool IsStateRow(const uint8_t* record, int width) {
  const RecordHeader h = ReadHeader(record);
  if (h.magic[0] == kMagic[0] || h.magic[1] == kMagic[1]) return true;
  return PlausibleHeader(h, width) && Checksum(record, h, width) == h.checksum;
}

Status ParseStateRow(const uint8_t* record, int width, StateRow* row) {
  const RecordHeader h = ReadHeader(record);
  if (!PlausibleHeader(h, width)) {
    if (h.version != kVersion) {
      return Corrupt("state row has version " + std::to_string(h.version) + ", this build reads " +
                     std::to_string(kVersion) + "; use the turboquant that wrote it");
    }
    return Corrupt("state row has an impossible header; the state is damaged, discard it");
  }
  if (h.magic[0] != kMagic[0] || h.magic[1] != kMagic[1] || Checksum(record, h, width) != h.checksum) {
    return Corrupt("state row fails its checksum; the state is damaged, discard it");
  }
  row->format = static_cast<Format>(h.format);
  row->head_dim = h.head_dim;
  row->width = width;
  row->seed = h.seed;
  const uint8_t* at = record + sizeof(h);
  row->mean = nullptr;
  if (h.flags & kHasMean) {
    row->mean = at;
    at += width / 16 * 2 + MeanStepBytes(row->format, width);
  }
  row->rows = at;
  return OkStatus();
}

void LoadStateRowMean(const StateRow& row, int8_t* steps, uint16_t* sizes) {
  std::memcpy(sizes, row.mean, row.width / 16 * 2);
  const uint8_t* at = row.mean + row.width / 16 * 2;
  if (!HalfByteSteps(row.format)) {
    std::memcpy(steps, at, row.width);
    return;
  }
  for (int i = 0; i < row.width; ++i) {
    steps[i] = static_cast<int8_t>(((at[i / 2] >> (i % 2 * 4)) & 15) - 8);
  }
}

void DecodeStateRow(const StateRow& row, const KernelTable& kernels, uint16_t* out) {
  const Rotation rotation(row.head_dim, row.seed);
  const int d = row.head_dim;
  std::vector<float> values(row.width);
  const uint8_t* at = row.rows;
  for (int h = 0; h < row.width / d; ++h) {
    float* head = values.data() + static_cast<size_t>(h) * d;
    uint16_t scale;
    std::memcpy(&scale, at, 2);
    DecodeFormatRows(kernels, row.format, d, at + 2, &scale, 1, head);
    kernels.unrotate(rotation.view(), head, head);
    at += RowBytes(row.format, d);
  }
  if (row.mean != nullptr) {
    std::vector<int8_t> steps(row.width);
    std::vector<uint16_t> sizes(row.width / 16);
    LoadStateRowMean(row, steps.data(), sizes.data());
    for (int i = 0; i < row.width; ++i) values[i] += HalfToFloat(sizes[i / 16]) * steps[i];
  }
  kernels.float_to_half(values.data(), out, row.width);
}

}  // namespace turboquant
