// RowStore: one side (K or V) of one layer and one stream of a KV cache, in one block of memory.
//
// A written row enters the window exact (f16). When `tail` newer rows have followed it is encoded
// into its cell: encode on eviction. The first `sink` cells stay exact for ever. Keys may be
// centred: rows of a page of cells share a frozen mean, chosen when the page's first row is encoded
// from the rows at hand (docs/adr/0003). A mean never changes while a coded row refers to it.
//
// The block holds everything, bookkeeping included, without pointers: copying the block copies the
// stream, clearing it to zero empties the stream, its size is what the stream costs.
#ifndef TURBOQUANT_KVCACHE_ROW_STORE_H_
#define TURBOQUANT_KVCACHE_ROW_STORE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/attend.h"
#include "base/status.h"
#include "codec/format.h"
#include "kernels/format_rows.h"
#include "kernels/kernel_api.h"
#include "kernels/tile_layout.h"
#include "math/rotation.h"

namespace turboquant {

struct StoreShape {
  int width = 0;     // values of one cell's row, all heads: a multiple of head_dim
  int head_dim = 0;
  int cells = 0;
  Format format = Format::kTurbo4;  // coded
  TileForm form = TileForm::kKeys;  // how its codes lie in memory
  int sink = 0;
  int tail = 0;
  int page = 256;
  bool center = false;

  int heads() const { return width / head_dim; }
  // Room for the means: every page its own, and some for rows restored from other pages.
  int mean_capacity() const {
    const int pages = (cells + page - 1) / page;
    return center ? pages + pages / 4 + 8 : 0;
  }
};

// True if rows of this shape can be stored and saved (SupportedHeadDim, record fits in f16 bytes).
bool SupportedShape(const StoreShape& shape);

// A row to be appended: its cell and its f16 values (width of them).
struct NewRow {
  int cell;
  const uint16_t* values;
};

class RowStore {
 public:
  static size_t BlockBytes(const StoreShape& shape);

  // `block` has BlockBytes(shape) bytes, 64-byte aligned, zero or a former state of the same shape.
  // `rotation` outlives the store. `seed` tags saved rows with the rotation that decodes them.
  void Bind(const StoreShape& shape, uint8_t* block, const Rotation* rotation, uint32_t seed,
            const KernelTable* kernels);
  bool bound() const { return block_ != nullptr; }
  const StoreShape& shape() const { return shape_; }

  // ---- writing, in three steps so that the middle one can be shared among threads:
  // PlanAppend (one thread) -> EncodeJob x jobs() (any threads) -> CommitAppend (one thread).
  // The rows must stay valid until CommitAppend. A cell that occurs twice keeps its last row.
  void PlanAppend(const NewRow* rows, int n);
  int jobs() const { return (rows_to_encode() + batch() - 1) / batch(); }
  void EncodeJob(int job);
  void CommitAppend();
  void Append(const NewRow* rows, int n);  // the three steps on this thread

  // Rows coded so far that held NaN or Inf; they are stored as zeros.
  uint64_t non_finite_rows() const;

  // ---- reading
  // Values of one cell, f16 or f32: exact, or decoded. A cell never written reads as zeros.
  void ReadRow(int cell, uint16_t* out) const;
  void ReadRow(int cell, float* out) const;
  // The f16 values of a cell held exactly; null if it is coded.
  const uint16_t* ExactRow(int cell) const;
  // Rows held exactly, sinks in front, then oldest first. Valid until the next change.
  void ListExact(std::vector<NewRow>* rows) const;
  // True if the cell was never written, or holds a row of zeros.
  bool EmptyCell(int cell) const;
  // The coded rows as one side of an attention problem whose cell 0 is `first_cell`.
  Side CodedSide(int first_cell) const;

  // ---- moving rows bit-exactly (docs/FORMAT.md, "state row")
  // record has 2 * width bytes: the f16 values of an exact row, or a self-contained coded record.
  void ExportRow(int cell, uint8_t* record) const;
  // Imports n records into cells first_cell... Plain rows are appended like new ones. A record of
  // another format or rotation is decoded and appended. Damaged records leave a zero row behind;
  // the Status then names the first of them, all other rows are imported.
  Status ImportRows(int first_cell, int n, const uint8_t* records);
  // Rows imported so far that were coded in another way, and the format of the latest of them.
  uint64_t foreign_rows() const { return foreign_rows_; }
  Format foreign_format() const { return foreign_format_; }

  void Clear();
  // Becomes a copy of a store of the same shape and rotation.
  void CopyBlock(const RowStore& from);

  // Replaces the values of coded cells after an operation of the host rewrote them (K-shift): rows
  // held exactly are overwritten in place, coded rows are encoded again. A page of which every
  // coded row is among `rows` gets a new mean, taken from the new values.
  void Rewrite(const NewRow* rows, int n);

 private:
  struct Header;  // first bytes of the block
  struct Job {
    int cell;
    const uint16_t* values;
    int mean;  // 0: none, else 1 + index
  };
  struct Move {
    int slot;
    const uint16_t* values;
  };

  int slots() const { return shape_.sink + shape_.tail; }
  // Head vectors the append in progress encodes, and how many of them one job takes.
  int rows_to_encode() const { return static_cast<int>(jobs_.size()) * shape_.heads(); }
  int batch() const { return EncodeBatch(shape_.format); }
  uint16_t* slot_values(int slot) const {
    return window_ + static_cast<size_t>(slot) * shape_.width;
  }
  int FindSlot(int cell) const;
  void StartPlan();
  void ChooseMeans();
  void PlanCell(int cell, const uint16_t* values);
  void ReleaseCell(int cell);
  int MeanForCell(int cell);
  int AllocateMean();
  int InstallMean(const int8_t* steps, const uint16_t* step_sizes);
  void QuantiseMean(int index, const float* mean);
  bool MeanFromRows(int page, int least, float* mean) const;
  void MeanValues(int mean, int first, int n, float* out) const;
  // Cells rounded up to whole tiles.
  size_t tile_cells() const { return TilesBytes(1, shape_.cells); }
  uint8_t* tiles(int head) const { return codes_ + head * tile_cells() * code_bytes_; }
  uint16_t* scale(int head, int cell) const { return scales_ + head * tile_cells() + cell; }
  void StoreCodes(int head, int cell, const uint8_t* row) {
    StoreTileRow(shape_.form, code_bytes_, cell, row, tiles(head));
  }
  void LoadCodes(int head, int cell, uint8_t* row) const {
    LoadTileRow(shape_.form, code_bytes_, cell, tiles(head), row);
  }
  Status ImportRecord(int cell, const uint8_t* record, std::vector<uint16_t>* transcoded);

  StoreShape shape_;
  size_t code_bytes_ = 0;
  uint32_t seed_ = 0;
  const Rotation* rotation_ = nullptr;
  const KernelTable* kernels_ = nullptr;

  uint8_t* block_ = nullptr;
  Header* header_ = nullptr;
  int32_t* slot_cell_ = nullptr;       // [slots]: 1 + cell, 0: empty; sinks first
  uint32_t* mean_refs_ = nullptr;      // [mean_capacity]: coded rows that use it
  uint16_t* page_mean_ = nullptr;      // [pages]: mean for the page's next rows, 1 + index, 0: none
  uint16_t* cell_mean_ = nullptr;      // [cells]
  uint16_t* mean_sizes_ = nullptr;     // [mean_capacity][width / 16]
  int8_t* mean_steps_ = nullptr;       // [mean_capacity][width]
  uint16_t* window_ = nullptr;         // [slots][width] f16
  uint16_t* scales_ = nullptr;         // [heads][tile_cells] fp16
  uint8_t* codes_ = nullptr;           // [heads][tile_cells][code_bytes] in tiles

  uint64_t foreign_rows_ = 0;
  Format foreign_format_ = Format::kF16;

  // Of the append in progress.
  std::vector<const uint16_t*> slot_row_;  // where the row of each slot lies now
  std::vector<Job> jobs_;
  std::vector<Move> moves_;
  int highest_cell_ = -1;                  // planned so far
};

}  // namespace turboquant

#endif  // TURBOQUANT_KVCACHE_ROW_STORE_H_
