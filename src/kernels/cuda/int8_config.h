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

constexpr int StageBytes(int k_bits, int v_bits, int head_dim, bool extras) {
  // The record, and room for the page's key mean (fp16).
  return (k_bits + v_bits) * head_dim * kTileTokens / 8 + 4 * kTileTokens +
         (extras ? 2 * head_dim : 0);
}

// tiles: column blocks (1 or 2).
constexpr Int8Config Int8ConfigOf(int k_bits, int v_bits, int head_dim, int tiles, int index) {
  const bool same = k_bits == v_bits;
  if (!same && !(k_bits == 4 && v_bits == 3)) return {0, 0, 0};
  if (k_bits < 2 || k_bits > 4) return {0, 0, 0};
  const bool large = k_bits + v_bits >= 7;
  const bool slim = index == kSlimConfig;
  if (index == kWideLongConfig || index == kSlimLongConfig) {
    if (head_dim != 128 || tiles != 1) return {0, 0, 0};
    if (index == kSlimLongConfig) return {4, 0, 4};
    return large ? Int8Config{12, 0, 1} : Int8Config{16, 0, 1};
  }
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

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_INT8_CONFIG_H_
