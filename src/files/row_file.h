// Row file: an array compressed with one codec, in one self-describing block of bytes (".tq").
// Layout: docs/FORMAT.md, "Row file".
//
// The last dimension of the array is cut into rows of head_dim values; the rows of the block stand
// in the order of the array. Every byte is covered by a checksum: the header and the table of
// checksums each by one, the rows by one for each chunk of rows, so that damage is located.
#ifndef TURBOQUANT_FILES_ROW_FILE_H_
#define TURBOQUANT_FILES_ROW_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codec/codec.h"

namespace turboquant {

inline constexpr size_t kMaxArrayDims = 8;

// Values of a row for an array whose last dimension is `width`: the largest divisor that a codec
// can code, so that a scale is paid for as rarely as possible. Errors: there is none; the remedy is
// named.
Result<int> ChooseHeadDim(uint64_t width);

class RowFile {
 public:
  // How an array of this shape is stored: what Bytes() and Seal need. head_dim 0: ChooseHeadDim.
  // Errors: spec, a shape without dimensions, with too many, with a zero or beyond 2^63 bytes, a
  // head_dim that does not divide the last dimension.
  static Result<RowFile> Plan(std::string_view spec, std::vector<uint64_t> shape, int head_dim);

  // Reads header and size of a whole block, which must outlive the RowFile. Rows are not verified.
  // Errors: Corrupt, and Unsupported for a newer version.
  static Result<RowFile> Open(std::span<const uint8_t> bytes);

  const Codec& codec() const { return *codec_; }
  const std::vector<uint64_t>& shape() const { return shape_; }
  uint64_t values() const { return rows_ * static_cast<uint64_t>(codec_->head_dim()); }
  uint64_t rows() const { return rows_; }
  // Rows of one vector (of the last dimension), and vectors.
  uint64_t rows_per_vector() const { return shape_.back() / codec_->head_dim(); }
  uint64_t vectors() const { return rows_ / rows_per_vector(); }
  // Of the whole block, header and checksums included.
  size_t Bytes() const;
  double BitsPerValue() const { return 8.0 * static_cast<double>(Bytes()) / values(); }
  size_t rows_offset() const { return rows_offset_; }

  // Chunks share a checksum; the last may be shorter.
  uint64_t chunks() const { return (rows_ + chunk_rows_ - 1) / chunk_rows_; }
  uint64_t first_row(uint64_t chunk) const { return chunk * chunk_rows_; }
  uint64_t end_row(uint64_t chunk) const { return std::min(rows_, (chunk + 1) * chunk_rows_); }

  // ---- of an opened block
  const uint8_t* row(uint64_t i) const { return bytes_.data() + rows_offset_ + i * row_bytes_; }
  bool ChunkIsIntact(uint64_t chunk) const;
  // Corrupt: names the rows of the first damaged chunk.
  Status Verify() const;

  // ---- of a planned one: `bytes` are Bytes() of them, whose rows [rows_offset, ...) the caller
  // has encoded. Writes everything else.
  void Seal(std::span<uint8_t> bytes) const;

 private:
  RowFile() = default;
  Status Lay();  // sizes from codec_, shape_, chunk_rows_
  std::vector<uint8_t> Header() const;
  uint64_t ChunkChecksum(const uint8_t* block, uint64_t chunk) const;

  std::shared_ptr<const Codec> codec_;
  std::vector<uint64_t> shape_;
  uint64_t rows_ = 0;
  uint64_t chunk_rows_ = 0;
  size_t row_bytes_ = 0;
  size_t rows_offset_ = 0;
  std::span<const uint8_t> bytes_;
};

// True if the bytes start like a row file, whatever follows.
bool LooksLikeRowFile(std::span<const uint8_t> bytes);

}  // namespace turboquant

#endif  // TURBOQUANT_FILES_ROW_FILE_H_
