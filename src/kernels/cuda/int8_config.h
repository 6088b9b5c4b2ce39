// Which shapes the int8 kernel is built for, and with how many warps and stages. Shared by the plan
// (host) and the kernel instances.
#ifndef TURBOQUANT_KERNELS_CUDA_INT8_CONFIG_H_
#define TURBOQUANT_KERNELS_CUDA_INT8_CONFIG_H_

#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

// Longer items than this are better cut up among the slim configuration's more warps: a warp's own
// latency, not memory, is then the limit.
inline constexpr int kMostWidePages = 160;
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

// Configurations by index: kWide is for one CTA an SM, kSlim for many items; those above are built
// for plain rows of head_dim 128 alone.
inline constexpr int kWideConfig = 0, kSlimConfig = 1;
inline constexpr int kInt8Configs = 10;

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
  if (index > kSlimConfig) {
    if (head_dim != 128 || tiles != 1 || !same) return {0, 0, 0};
    constexpr Int8Config kFour[] = {{4, 2, 2}, {8, 0, 2},  {16, 0, 1}, {12, 2, 1},
                                    {8, 3, 1}, {12, 0, 1}, {6, 2, 2},  {4, 0, 4}};
    constexpr Int8Config kLess[] = {{8, 2, 1}, {8, 0, 2},  {16, 0, 1}, {12, 2, 1},
                                    {8, 3, 1}, {16, 2, 1}, {4, 2, 3},  {4, 0, 4}};
    return k_bits == 4 ? kFour[index - 2] : kLess[index - 2];
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
