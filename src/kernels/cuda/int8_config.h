// Which shapes the int8 kernel is built for, and with how many warps and stages. Shared by the plan
// (host) and the kernel instances.
#ifndef TURBOQUANT_KERNELS_CUDA_INT8_CONFIG_H_
#define TURBOQUANT_KERNELS_CUDA_INT8_CONFIG_H_

#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

// Query rows of one tensor-core column block: 4 rows x {high, low} byte.
inline constexpr int kRowsPerTile = 4;
inline constexpr int kMaxPartials = 64;
inline constexpr int kExactRowsPerItem = 256;

struct Int8Config {
  int warps;   // 0: not built
  int stages;  // pages in flight a warp; 0: one, whose keys and values are asked for apart
  int ctas_per_sm;

  constexpr int Pages() const { return stages > 0 ? stages : 1; }
  constexpr int Barriers() const { return stages > 0 ? stages : 2; }
};

// Configurations by index. Few sequences and heads: one CTA of many warps an SM (wide), whose warps
// ask for keys and values apart when their items are long. Many: more and smaller CTAs. Those of
// long items are built for plain rows of head_dim 128 alone; other shapes run the one beside them.
// Chosen by bench/cuda_sweep.cuh.
inline constexpr int kWideConfig = 0, kSlimConfig = 1, kWideLongConfig = 2, kSlimLongConfig = 3;
inline constexpr int kInt8Configs = 4;

// The configuration that serves every shape in place of one that does not.
constexpr int CommonConfig(int index) {
  return index == kWideLongConfig ? kWideConfig : index == kSlimLongConfig ? kSlimConfig : index;
}

// Configurations of long items have no instance with key means and softcap, the others serve both.
constexpr bool IsPlain(int index) { return index != CommonConfig(index); }

// Pairs of scalar formats that are served by one configuration, at the head dims of fragments.
constexpr bool IsRarePair(int k_format, int v_format) {
  return (k_format == 4 && v_format == 2) || (k_format == 3 && v_format == 2) ||
         (k_format == 3 && v_format == 4);
}

// Pairs of formats that the int8 kernel is built for.
constexpr bool Int8Pair(int k_format, int v_format) {
  const TileFormat k = TileFormatOf(k_format), v = TileFormatOf(v_format);
  if (k.bits == 8) return v_format == 8 || v_format == 4 || v_format == 3;
  if (k.bits < 2 || k.bits > 4 || v.bits > 4 || k.trellis != v.trellis) return false;
  return k.bits == v.bits || (k.bits == 4 && v.bits == 3) || IsRarePair(k_format, v_format);
}

constexpr int RecordBytes(int k_format, int v_format, int head_dim) {
  return (TileFormatOf(k_format).bits + TileFormatOf(v_format).bits) * head_dim * kTileTokens / 8 +
         4 * kTileTokens;
}

// The record, and room for the page's key mean (fp16).
constexpr int StageBytes(int k_format, int v_format, int head_dim, bool extras) {
  return RecordBytes(k_format, v_format, head_dim) + (extras ? 2 * head_dim : 0);
}

// Bytes of the table of turbo8's centroids (centroid_table.cuh): a copy for each bank.
constexpr int TableBytes(int k_format) { return k_format == 8 ? 256 * 32 * 4 : 0; }

// turbo8 keys: as many warps as pages fit beside the table, in two CTAs if these have four each.
constexpr Int8Config ByteConfigOf(int k_format, int v_format, int head_dim, int tiles, int index) {
  if (tiles > (head_dim == 128 ? 2 : 1)) return {0, 0, 0};
  const int rest = TableBytes(k_format) + 10 * 1024;  // and static memory
  const int stage = StageBytes(k_format, v_format, head_dim, true);
  const int of_half = (113 * 1024 - rest) / stage, of_all = (226 * 1024 - rest) / stage;
  if (index == kWideConfig && head_dim == 128 && tiles == 1)
    return {of_all < 12 ? of_all : 12, 0, 1};
  if (index != kSlimConfig) return {0, 0, 0};
  if (of_half < 4) return {of_all < 8 ? of_all : 8, 0, 1};
  return {tiles == 2 ? 4 : of_half < 6 ? of_half : 6, 0, 2};
}

// tiles: column blocks (1, 2 or 4).
constexpr Int8Config Int8ConfigOf(int k_format, int v_format, int head_dim, int tiles, int index) {
  if (!Int8Pair(k_format, v_format)) return {0, 0, 0};
  if (k_format == 8) return ByteConfigOf(k_format, v_format, head_dim, tiles, index);
  const bool slim = index == kSlimConfig;
  if (IsRarePair(k_format, v_format)) {
    const bool rows = OrderOf(TileFormatOf(k_format), head_dim) == TileOrder::kRows;
    if (rows || !slim || tiles > (head_dim == 128 ? 2 : 1)) return {0, 0, 0};
  }
  const bool trellis = TileFormatOf(k_format).trellis;
  if (OrderOf(TileFormatOf(k_format), head_dim) == TileOrder::kRows) {
    // Unpacking costs registers and time: one configuration, warps enough to hide each other.
    if (!slim || tiles > 2 || (tiles == 2 && head_dim != 128)) return {0, 0, 0};
    if (trellis && (head_dim == 80 || head_dim == 192)) return {0, 0, 0};
    return {4, head_dim >= 192 ? 0 : 2, tiles == 2 ? 2 : 3};
  }
  const int bits = k_format + v_format;
  const bool large = bits >= 7;
  if (index == kWideLongConfig || index == kSlimLongConfig) {
    if (head_dim != 128 || tiles != 1) return {0, 0, 0};
    if (index == kSlimLongConfig) return {4, 0, 4};
    return large ? Int8Config{12, 0, 1} : Int8Config{16, 0, 1};
  }
  // As many query rows as registers hold sums of: 8 warps an SM.
  if (tiles == 4 && head_dim == 128) {
    return slim ? Int8Config{4, 2, 2} : Int8Config{8, 2, 1};
  }
  if (tiles == 2 && head_dim == 256) return slim ? Int8Config{4, 0, 2} : Int8Config{0, 0, 0};
  if (tiles == 4 && head_dim == 64) return slim ? Int8Config{4, 2, 3} : Int8Config{0, 0, 0};
  if (head_dim == 128) {
    if (tiles == 1) return slim ? Int8Config{4, 2, large ? 3 : 4} : Int8Config{8, 2, large ? 1 : 2};
    if (tiles == 2) return slim ? Int8Config{4, 2, 2} : Int8Config{8, 2, 1};
  }
  if (head_dim == 64 && tiles <= 2) return slim ? Int8Config{4, 2, 4} : Int8Config{8, 2, 2};
  if (head_dim == 256 && tiles == 1) {
    return slim ? Int8Config{large ? 3 : 4, 2, 2} : Int8Config{large ? 6 : 8, 2, 1};
  }
  return {0, 0, 0};
}

// Column blocks for a number of query rows: as few as hold them all, else the most there are.
// 0: the int8 kernel is not built for this shape.
constexpr int Int8Tiles(int k_format, int v_format, int head_dim, int rows) {
  int tiles = 0;
  for (const int n : {1, 2, 4}) {
    if (Int8ConfigOf(k_format, v_format, head_dim, n, kSlimConfig).warps == 0) continue;
    tiles = n;
    if (n * kRowsPerTile >= rows) break;
  }
  return tiles;
}

// Bytes of a column of the query: k steps are of 32 dims.
constexpr int PaddedDim(int head_dim) { return (head_dim + 31) / 32 * 32; }

// Dynamic shared memory of a CTA. After the walk over pages the ring holds: one partial a warp, the
// sum, rows by group; or the states of exact rows. The table of centroids stands behind it.
struct Int8Memory {
  int merge_floats, exact_floats, groups, table, dynamic_bytes, static_bytes;
};

constexpr Int8Memory Int8MemoryOf(const Int8Config& c, int stage_bytes, int table_bytes,
                                  int head_dim, int tiles) {
  const int rows = kRowsPerTile * tiles, quads = tiles * head_dim, threads = 32 * c.warps;
  Int8Memory m{};
  m.groups = threads > quads ? threads / quads : 1;
  m.merge_floats = c.warps * (4 * quads + rows) + 4 * quads + m.groups * rows * head_dim;
  m.exact_floats = c.warps * (4 * head_dim + 12) + rows * head_dim;
  const int floats = m.merge_floats > m.exact_floats ? m.merge_floats : m.exact_floats;
  const int ring = c.warps * c.Pages() * stage_bytes;
  m.table = ring > 4 * floats ? ring : 4 * floats;
  m.dynamic_bytes = m.table + table_bytes;
  // Queries, weights of partials, and less than 1 KiB of the rest.
  m.static_bytes = rows * (2 * PaddedDim(head_dim) + 4 * head_dim + 4 * kMaxPartials) + 1024;
  return m;
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_INT8_CONFIG_H_
