#include "codec/row_ops.h"

#include "codec/scalar_codec.h"

namespace turboquant {
namespace {

void Quantize(const CodebookView& book, const float* y, int n, float inverse_rms, uint8_t* codes,
              float* dot, float* norm) {
  QuantizeValues(book, y, n, 0, inverse_rms, codes, dot, norm);
}

constexpr RowOps kScalar = {Rotate, Unrotate, MeasureRow, Quantize, DequantizeValues, Dot16};

}  // namespace

const RowOps& ScalarRowOps() { return kScalar; }

}  // namespace turboquant
