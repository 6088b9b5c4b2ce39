// Records of the CUDA cache <-> canonical rows (docs/FORMAT.md), on the host. Exact.
#ifndef TURBOQUANT_KERNELS_CUDA_TILE_CONVERT_H_
#define TURBOQUANT_KERNELS_CUDA_TILE_CONVERT_H_

#include <cstdint>

#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

// Canonical code bytes [bits * head_dim / 8] and fp16 scale of one token of one side.
void LoadTileRow(const RecordLayout& layout, const uint8_t* record, bool value_side, int token,
                 uint8_t* codes, uint16_t* scale);

// The inverse: overwrites the token's codes and scale, leaves the other tokens alone.
void StoreTileRow(const RecordLayout& layout, uint8_t* record, bool value_side, int token,
                  const uint8_t* codes, uint16_t scale);

// A row decoded into rotated coordinates, as the scalar truth decodes it.
void DecodeTileRow(const RecordLayout& layout, const uint8_t* record, bool value_side, int token,
                   float* y);

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_TILE_CONVERT_H_
