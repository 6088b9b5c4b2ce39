// How the CPU keeps coded rows in memory: tiles of 16 cells of one kv head, the same bytes as the
// canonical rows in an order that lets a vector unit work on many cells at once. Every CPU kernel
// table reads the same two forms; conversion to and from canonical rows is exact.
//
//   keys:   dword c of cell t of a tile lies at 64 c + 4 t: lane = token. Bytes behind a row's last
//           whole dword follow behind the dwords, row by row.
//   values: byte b of cell t of a group of four lies at 4 b + t: a dword holds one byte position of
//           four tokens, lanes = byte positions.
#ifndef TURBOQUANT_KERNELS_TILE_LAYOUT_H_
#define TURBOQUANT_KERNELS_TILE_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace turboquant {

inline constexpr int kTileCells = 16;

enum class TileForm : uint8_t { kKeys, kValues };

// Bytes of the tiles that hold `cells` cells of rows of row_bytes code bytes.
constexpr size_t TilesBytes(size_t row_bytes, int cells) {
  return (static_cast<size_t>(cells) + kTileCells - 1) / kTileCells * kTileCells * row_bytes;
}

// Where byte b of the cell's canonical code bytes lies, from the first tile on.
constexpr size_t TileOffset(TileForm form, size_t row_bytes, int cell, size_t b) {
  const size_t j = static_cast<size_t>(cell);
  if (form == TileForm::kValues) return j / 4 * 4 * row_bytes + 4 * b + j % 4;
  const size_t tile = j / kTileCells * kTileCells * row_bytes;
  const size_t lane = j % kTileCells;
  const size_t dwords = row_bytes / 4 * 4;
  if (b < dwords) return tile + b / 4 * 64 + lane * 4 + b % 4;
  return tile + kTileCells * dwords + lane * (row_bytes - dwords) + (b - dwords);
}

// Calls copy(offset in the tiles, offset in the row, bytes) for every run of the cell's bytes.
template <typename Copy>
void ForTileRuns(TileForm form, size_t row_bytes, int cell, const Copy& copy) {
  if (form == TileForm::kValues) {
    const size_t at = TileOffset(form, row_bytes, cell, 0);
    for (size_t b = 0; b < row_bytes; ++b) copy(at + 4 * b, b, 1);
    return;
  }
  const size_t dwords = row_bytes / 4 * 4;
  const size_t at = TileOffset(form, row_bytes, cell, 0);
  for (size_t b = 0; b < dwords; b += 4) copy(at + 16 * b, b, 4);
  if (dwords < row_bytes) {
    copy(TileOffset(form, row_bytes, cell, dwords), dwords, row_bytes - dwords);
  }
}

inline void StoreTileRow(TileForm form, size_t row_bytes, int cell, const uint8_t* row,
                         uint8_t* tiles) {
  ForTileRuns(form, row_bytes, cell, [&](size_t tile, size_t b, size_t bytes) {
    std::memcpy(tiles + tile, row + b, bytes);
  });
}

inline void LoadTileRow(TileForm form, size_t row_bytes, int cell, const uint8_t* tiles,
                        uint8_t* row) {
  ForTileRuns(form, row_bytes, cell, [&](size_t tile, size_t b, size_t bytes) {
    std::memcpy(row + b, tiles + tile, bytes);
  });
}

}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_TILE_LAYOUT_H_
