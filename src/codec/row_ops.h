// Row operations: the steps of which codecs are made, as functions. Those of the scalar truth by
// default; a kernel table has its own, which give the same bits in less time
// (kernels/row_coder.h). So a codec is written once, for every instruction set.
#ifndef TURBOQUANT_CODEC_ROW_OPS_H_
#define TURBOQUANT_CODEC_ROW_OPS_H_

#include <cstdint>

#include "codec/codebook.h"
#include "codec/row_energy.h"
#include "math/rotation.h"

namespace turboquant {

// n is a multiple of 16, and so is the place in the row of the first of the n values.
struct RowOps {
  // math/rotation.h.
  void (*rotate)(const RotationView& r, const float* in, float* out);
  void (*unrotate)(const RotationView& r, const float* in, float* out);

  // MeasureRow.
  RowEnergy (*measure)(const float* y, int n);

  // QuantizeValues: codes of y[n] * inverse_rms into zeroed bytes; adds y c and c c to 16 sums
  // each.
  void (*quantize)(const CodebookView& book, const float* y, int n, float inverse_rms,
                   uint8_t* codes, float* dot, float* norm);

  // DequantizeValues: out[i] = scale * the centroid of code i.
  void (*dequantize)(const CodebookView& book, const uint8_t* codes, float scale, int n,
                     float* out);

  // Dot16.
  float (*dot)(const float* a, const float* b, int n);
};

const RowOps& ScalarRowOps();

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_ROW_OPS_H_
