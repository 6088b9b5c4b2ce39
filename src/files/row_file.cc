#include "files/row_file.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "codec/format.h"

namespace turboquant {
namespace {

// A line end and an end-of-file character find out transfers that meddle with text.
constexpr uint8_t kMagic[8] = {0x89, 'T', 'Q', 'R', 'O', 'W', '\n', 0x1A};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kChunkRows = 65536;
constexpr size_t kAlignment = 64;
constexpr size_t kMaxSpecBytes = 4096;
constexpr uint64_t kMaxBytes = uint64_t{1} << 62;

struct FixedHeader {
  uint8_t magic[8];
  uint32_t version;
  uint32_t rows_offset;
  uint64_t checksum;  // XXH3-64 of bytes 24 .. rows_offset - 1
  uint32_t head_dim;
  uint32_t row_bytes;
  uint64_t chunk_rows;
  uint32_t num_dims;
  uint32_t spec_bytes;
  uint64_t shape[kMaxArrayDims];
};
static_assert(sizeof(FixedHeader) == 112);
constexpr size_t kChecked = 24;  // where the checked part of the header starts

size_t RowsOffset(size_t spec_bytes) {
  return (sizeof(FixedHeader) + spec_bytes + kAlignment - 1) / kAlignment * kAlignment;
}

Status Damaged(const std::string& what) {
  return Corrupt("this row file " + what + "; get it again or compress the array anew.");
}

}  // namespace

Result<int> ChooseHeadDim(uint64_t width) {
  for (int d = kMaxHeadDim; d >= kMinHeadDim; d -= 16) {
    if (width >= static_cast<uint64_t>(d) && width % d == 0 && SupportedHeadDim(d)) return d;
  }
  return InvalidArgument(
      "vectors of " + std::to_string(width) +
      " values cannot be cut into rows: their length must have a divisor that is "
      "a multiple of 16. Append zeros up to " +
      std::to_string((width / 16 + 1) * 16) + " values.");
}

Result<RowFile> RowFile::Plan(std::string_view spec, std::vector<uint64_t> shape, int head_dim) {
  if (shape.empty() || shape.size() > kMaxArrayDims) {
    return InvalidArgument("an array to compress has 1 to " + std::to_string(kMaxArrayDims) +
                           " dimensions, this one " + std::to_string(shape.size()) + ".");
  }
  if (std::find(shape.begin(), shape.end(), 0u) != shape.end()) {
    return InvalidArgument("an array with a dimension of 0 has nothing to compress.");
  }
  if (head_dim == 0) {
    const Result<int> chosen = ChooseHeadDim(shape.back());
    if (!chosen.ok()) return chosen.status();
    head_dim = chosen.value();
  }
  auto codec = Codec::Create(spec, head_dim);
  if (!codec.ok()) return codec.status();
  RowFile file;
  file.codec_ = std::move(codec.value());
  file.shape_ = std::move(shape);
  file.chunk_rows_ = kChunkRows;
  if (Status s = file.Lay(); !s.ok()) return s;
  return file;
}

Status RowFile::Lay() {
  const auto head_dim = static_cast<uint64_t>(codec_->head_dim());
  if (shape_.back() % head_dim != 0) {
    return InvalidArgument("rows of " + std::to_string(head_dim) +
                           " values do not divide vectors of " + std::to_string(shape_.back()) +
                           "; choose a divisor of it.");
  }
  row_bytes_ = codec_->row_bytes();
  rows_offset_ = RowsOffset(codec_->spec_text().size());
  rows_ = shape_.back() / head_dim;
  const uint64_t most = kMaxBytes / std::max<uint64_t>(row_bytes_, 4 * head_dim);
  if (rows_ > most) return InvalidArgument("the array is too large.");
  for (size_t i = 0; i + 1 < shape_.size(); ++i) {
    if (shape_[i] > most / rows_) return InvalidArgument("the array is too large.");
    rows_ *= shape_[i];
  }
  return OkStatus();
}

size_t RowFile::Bytes() const { return rows_offset_ + rows_ * row_bytes_ + 8 * (chunks() + 1); }

std::vector<uint8_t> RowFile::Header() const {
  const std::string spec = codec_->spec_text();
  FixedHeader h{};
  std::memcpy(h.magic, kMagic, sizeof(kMagic));
  h.version = kVersion;
  h.rows_offset = static_cast<uint32_t>(rows_offset_);
  h.head_dim = static_cast<uint32_t>(codec_->head_dim());
  h.row_bytes = static_cast<uint32_t>(row_bytes_);
  h.chunk_rows = chunk_rows_;
  h.num_dims = static_cast<uint32_t>(shape_.size());
  h.spec_bytes = static_cast<uint32_t>(spec.size());
  std::copy(shape_.begin(), shape_.end(), h.shape);
  std::vector<uint8_t> bytes(rows_offset_, 0);
  std::memcpy(bytes.data(), &h, sizeof(h));
  std::memcpy(bytes.data() + sizeof(h), spec.data(), spec.size());
  h.checksum = XXH3_64bits(bytes.data() + kChecked, bytes.size() - kChecked);
  std::memcpy(bytes.data(), &h, sizeof(h));
  return bytes;
}

uint64_t RowFile::ChunkChecksum(const uint8_t* block, uint64_t chunk) const {
  return XXH3_64bits(block + rows_offset_ + first_row(chunk) * row_bytes_,
                     (end_row(chunk) - first_row(chunk)) * row_bytes_);
}

void RowFile::Seal(std::span<uint8_t> bytes) const {
  const std::vector<uint8_t> header = Header();
  std::memcpy(bytes.data(), header.data(), header.size());
  uint8_t* table = bytes.data() + rows_offset_ + rows_ * row_bytes_;
  for (uint64_t c = 0; c < chunks(); ++c) {
    const uint64_t checksum = ChunkChecksum(bytes.data(), c);
    std::memcpy(table + 8 * c, &checksum, 8);
  }
  const uint64_t of_table = XXH3_64bits(table, 8 * chunks());
  std::memcpy(table + 8 * chunks(), &of_table, 8);
}

Result<RowFile> RowFile::Open(std::span<const uint8_t> bytes) {
  if (!LooksLikeRowFile(bytes)) {
    return Corrupt(
        "these bytes are not a row file: they do not start with its magic; give a file "
        "that turboquant encode or tq_compress has written.");
  }
  if (bytes.size() < sizeof(FixedHeader)) return Damaged("is cut off within its header");
  FixedHeader h;
  std::memcpy(&h, bytes.data(), sizeof(h));
  if (h.version != kVersion) {
    return Unsupported("this row file has version " + std::to_string(h.version) +
                       ", this turboquant knows version " + std::to_string(kVersion) +
                       ": use a newer turboquant.");
  }
  if (h.spec_bytes > kMaxSpecBytes || h.rows_offset != RowsOffset(h.spec_bytes)) {
    return Damaged("has an altered header");
  }
  if (h.rows_offset > bytes.size()) return Damaged("is cut off within its header");
  if (h.checksum != XXH3_64bits(bytes.data() + kChecked, h.rows_offset - kChecked)) {
    return Damaged("fails the checksum of its header");
  }
  // From here on the header is what its writer wrote; a writer may still have been wrong.
  if (h.num_dims < 1 || h.num_dims > kMaxArrayDims || h.chunk_rows < 1 ||
      h.chunk_rows > kMaxBytes) {
    return Damaged("has an impossible header");
  }
  const std::string spec(reinterpret_cast<const char*>(bytes.data()) + sizeof(h), h.spec_bytes);
  auto codec = Codec::Create(spec, static_cast<int>(std::min<uint32_t>(h.head_dim, 1 << 20)));
  if (!codec.ok()) {
    return Unsupported("this row file needs the codec '" + spec + "' for rows of " +
                       std::to_string(h.head_dim) +
                       " values, which this turboquant does not have: " + codec.status().message());
  }
  RowFile file;
  file.codec_ = std::move(codec.value());
  file.shape_.assign(h.shape, h.shape + h.num_dims);
  file.chunk_rows_ = h.chunk_rows;
  file.bytes_ = bytes;
  if (std::find(file.shape_.begin(), file.shape_.end(), 0u) != file.shape_.end() ||
      !file.Lay().ok() || h.row_bytes != file.row_bytes_ || h.rows_offset != file.rows_offset_) {
    return Damaged("has an impossible header");
  }
  if (bytes.size() != file.Bytes()) {
    return Damaged((bytes.size() < file.Bytes() ? "is cut off: it has " : "has too many bytes: ") +
                   std::to_string(bytes.size()) + " of " + std::to_string(file.Bytes()) + " bytes");
  }
  const uint8_t* table = bytes.data() + file.rows_offset_ + file.rows_ * file.row_bytes_;
  uint64_t of_table;
  std::memcpy(&of_table, table + 8 * file.chunks(), 8);
  if (of_table != XXH3_64bits(table, 8 * file.chunks())) {
    return Damaged("fails the checksum of its table of checksums");
  }
  return file;
}

bool RowFile::ChunkIsIntact(uint64_t chunk) const {
  uint64_t stored;
  std::memcpy(&stored, bytes_.data() + rows_offset_ + rows_ * row_bytes_ + 8 * chunk, 8);
  return stored == ChunkChecksum(bytes_.data(), chunk);
}

Status RowFile::Verify() const {
  for (uint64_t c = 0; c < chunks(); ++c) {
    if (ChunkIsIntact(c)) continue;
    return Damaged("is altered: rows " + std::to_string(first_row(c)) + " to " +
                   std::to_string(end_row(c) - 1) + " fail their checksum");
  }
  return OkStatus();
}

bool LooksLikeRowFile(std::span<const uint8_t> bytes) {
  return bytes.size() >= sizeof(kMagic) && std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) == 0;
}

}  // namespace turboquant
