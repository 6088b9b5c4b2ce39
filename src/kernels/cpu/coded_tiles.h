// What the coded kernels of every instruction set share: prepared queries, and the slow way, for
// every format: decode some rows to f32, then dense products. It serves the few shapes whose planes
// do not split into whole vectors, tiles of the other form, and formats without a kernel of their
// own.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_TILES_H_
#define TURBOQUANT_KERNELS_CPU_CODED_TILES_H_

#include <string.h>

#include "kernels/cpu/codec_kernels.h"
#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/trellis_kernels.h"
#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

constexpr int kTileLanes = 16;  // cells of one tile (kernels/tile_layout.h)

// One prepared query row, as views into its bytes (kernel_api.h). Pieces are what an Operand is
// loaded from, d bytes each: those of values 4 i .. 4 i + 3 lie at 4 i. Turned: at 32 w + 4 e those
// of values 32 w + e, + 8, + 16, + 24.
struct Query {
  const float* value;
  const uint8_t* first;
  const uint8_t* second;
  const uint8_t* turned_first;
  const uint8_t* turned_second;
  float unit;
  int32_t sum;        // of the integers
  int32_t sum_first;  // of the first pieces, where those are bytes
};

TQ_INLINE size_t QueryStride(int d) {  // PreparedQueryBytes
  return (static_cast<size_t>(d) * 8 + 12 + 63) / 64 * 64;
}

TQ_INLINE Query QueryAt(const uint8_t* prepared, int d, int row) {
  const uint8_t* at = prepared + static_cast<size_t>(row) * QueryStride(d);
  Query query;
  query.value = reinterpret_cast<const float*>(at);
  query.first = at + 4 * static_cast<size_t>(d);
  query.second = query.first + d;
  query.turned_first = query.second + d;
  query.turned_second = query.turned_first + d;
  const uint8_t* numbers = query.turned_second + d;
  memcpy(&query.unit, numbers, sizeof(float));
  memcpy(&query.sum, numbers + 4, sizeof(int32_t));
  memcpy(&query.sum_first, numbers + 8, sizeof(int32_t));
  return query;
}

// True if the planes of such keys are whole dwords; of such values, whole runs of eight bytes.
TQ_INLINE bool FastScores(const CodedTiles& k) {
  return k.form == TileForm::kKeys && (k.format != Format::kTurbo3 || k.head_dim % 32 == 0);
}
TQ_INLINE bool FastSums(const CodedTiles& v) {
  return v.form == TileForm::kValues && (v.format != Format::kTurbo3 || v.head_dim % 64 == 0);
}

constexpr int kFallbackCells = 16;

TQ_INLINE size_t RowCodeBytes(Format format, int d) {  // CodeBytes
  return static_cast<size_t>((static_cast<int>(format) & 15) * d / 8);
}

// Cells [first, first + count) of a tile as canonical rows.
void GatherRows(const CodedTiles& x, int first, int count, size_t stride, uint8_t* rows) {
  const size_t dwords = stride / 4 * 4;
  for (int j = 0; j < count; ++j) {
    const size_t cell = static_cast<size_t>(first + j);
    uint8_t* row = rows + static_cast<size_t>(j) * stride;
    if (x.form == TileForm::kKeys) {
      const uint8_t* tile = x.codes + cell / kTileLanes * kTileLanes * stride;
      const size_t lane = cell % kTileLanes;
      for (size_t b = 0; b < dwords; b += 4) memcpy(row + b, tile + b * kTileLanes + 4 * lane, 4);
      memcpy(row + dwords, tile + kTileLanes * dwords + lane * (stride - dwords), stride - dwords);
    } else {
      const uint8_t* group = x.codes + cell / 4 * 4 * stride + cell % 4;
      for (size_t b = 0; b < stride; ++b) row[b] = group[4 * b];
    }
  }
}

template <Format kFormat>
void DecodeCells(const uint8_t* rows, const uint16_t* scales, int d, int n, float* out) {
  constexpr int kBits = IndexBits(kFormat);
  if constexpr (IsTrellis(kFormat)) {
    static constexpr TrellisView kTrellis = Trellis(kBits, TrellisMemory(kFormat));
    DecodeTrellisOf<kBits>(kTrellis, d, rows, scales, n, out);
  } else {
    DecodeRows<kBits>(rows, scales, d, n, out);
  }
}

void GatherDecode(const CodedTiles& x, int first, int count, float* out) {
  const size_t stride = RowCodeBytes(x.format, x.head_dim);
  uint8_t rows[kFallbackCells * kMaxHeadDim];
  GatherRows(x, first, count, stride, rows);
  const uint16_t* scales = x.scales + first;
  switch (x.format) {
    case Format::kTurbo2:
      return DecodeCells<Format::kTurbo2>(rows, scales, x.head_dim, count, out);
    case Format::kTurbo3:
      return DecodeCells<Format::kTurbo3>(rows, scales, x.head_dim, count, out);
    case Format::kTurbo2t:
      return DecodeCells<Format::kTurbo2t>(rows, scales, x.head_dim, count, out);
    case Format::kTurbo3t:
      return DecodeCells<Format::kTurbo3t>(rows, scales, x.head_dim, count, out);
    case Format::kTurbo4t:
      return DecodeCells<Format::kTurbo4t>(rows, scales, x.head_dim, count, out);
    case Format::kTurbo8:
      return DecodeCells<Format::kTurbo8>(rows, scales, x.head_dim, count, out);
    default:
      return DecodeCells<Format::kTurbo4>(rows, scales, x.head_dim, count, out);
  }
}

void FallbackScores(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                    int ld) {
  alignas(64) float x[kFallbackCells * kMaxHeadDim];
  for (int j = 0; j < n; j += kFallbackCells) {
    const int count = Smaller(n - j, kFallbackCells);
    GatherDecode(k, k.first + j, count, x);
    for (int r = 0; r < rows; ++r) {
      DenseScoresKernel(x, k.head_dim, QueryAt(prepared, k.head_dim, r).value, 1, count,
                        out + static_cast<size_t>(r) * ld + j, ld);
    }
  }
}

void FallbackAccumulate(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  alignas(64) float x[kFallbackCells * kMaxHeadDim];
  for (int j = 0; j < n; j += kFallbackCells) {
    const int count = Smaller(n - j, kFallbackCells);
    bool used = false;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < count; ++i) used |= p[static_cast<ptrdiff_t>(r) * ld + j + i] != 0.0f;
    }
    if (!used) continue;
    GatherDecode(v, v.first + j, count, x);
    DenseAccumulateKernel(x, v.head_dim, p + j, ld, rows, count, o);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_TILES_H_
