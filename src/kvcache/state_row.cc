#include "kvcache/state_row.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/fp16.h"
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

size_t RecordBytes(Format format, int head_dim, int width, bool mean) {
  return sizeof(RecordHeader) + (mean ? width / 16 * 2 + width : 0) +
         static_cast<size_t>(width / head_dim) * RowBytes(format, head_dim);
}

RecordHeader ReadHeader(const uint8_t* record) {
  RecordHeader h;
  std::memcpy(&h, record, sizeof(h));
  return h;
}

bool PlausibleHeader(const RecordHeader& h, int width) {
  if (h.version != kVersion || (h.flags & ~kHasMean) != 0 || h.reserved != 0) return false;
  if (h.format != 2 && h.format != 3 && h.format != 4) return false;
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

uint8_t* WriteStateRowHeader(const StateRow& row, uint8_t* record) {
  RecordHeader h{};
  h.version = kVersion;
  h.format = static_cast<uint8_t>(row.format);
  h.flags = row.mean_steps != nullptr ? kHasMean : 0;
  h.head_dim = static_cast<uint16_t>(row.head_dim);
  h.width16 = static_cast<uint16_t>(row.width / 16);
  h.seed = row.seed;
  std::memcpy(record, &h, sizeof(h));
  uint8_t* at = record + sizeof(h);
  if (row.mean_steps != nullptr) {
    std::memcpy(at, row.mean_sizes, row.width / 16 * 2);
    at += row.width / 16 * 2;
    std::memcpy(at, row.mean_steps, row.width);
    at += row.width;
  }
  return at;
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
  row->mean_steps = nullptr;
  row->mean_sizes = nullptr;
  if (h.flags & kHasMean) {
    row->mean_sizes = reinterpret_cast<const uint16_t*>(at);
    at += width / 16 * 2;
    row->mean_steps = reinterpret_cast<const int8_t*>(at);
    at += width;
  }
  row->rows = at;
  return OkStatus();
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
    kernels.decode({IndexBits(row.format), d, at + 2, &scale}, 1, head);
    kernels.unrotate(rotation.view(), head, head);
    at += RowBytes(row.format, d);
  }
  if (row.mean_steps != nullptr) {
    for (int i = 0; i < row.width; ++i) {
      uint16_t size;
      std::memcpy(&size, reinterpret_cast<const uint8_t*>(row.mean_sizes) + i / 16 * 2, 2);
      values[i] += HalfToFloat(size) * row.mean_steps[i];
    }
  }
  kernels.float_to_half(values.data(), out, row.width);
}

}  // namespace turboquant
