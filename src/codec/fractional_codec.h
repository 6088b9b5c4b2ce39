// The scalar truth of turbo2.5 / turbo3.5: b + 1 bits for one part of a row and b bits for the
// other.
//
// split=half: the first d/2 rotated coordinates take b + 1 bits, the others b. A rotation makes all
// coordinates alike, so it does not matter which; D = (D(b) + D(b+1)) / 2. One scale for both
// parts: each part's best scale is 1 in units of the row's rms, since Lloyd-Max centroids are the
// means of their cells (<y, c> = <c, c> in expectation whatever the width); fitting the parts apart
// would gain O(1/d) of the distortion and cost 16 / d bits a value.
//   fp16 scale, codes of b + 1 bits of the first d/2, codes of b bits of the last d/2
//
// split=outlier, the paper's (section 4.3): chosen channels take b + 1 bits, the others b; both
// groups are rotated, normalised and scaled on their own, since here they differ in size. A quarter
// of the channels at 3 bits makes 2.25 bits of codes; with two scales that is 2.5 at d = 128.
//   fp16 scale of the outliers, fp16 scale of the others, codes of b + 1 bits, codes of b bits
#ifndef TURBOQUANT_CODEC_FRACTIONAL_CODEC_H_
#define TURBOQUANT_CODEC_FRACTIONAL_CODEC_H_

#include <cstdint>

#include "base/fp16.h"
#include "base/host_device.h"
#include "codec/scalar_codec.h"

namespace turboquant {

// Encodes y[d] of energy `row` (usable) into zeroed codes: `head` codes y[0, d/2), `tail` the rest.
// d is a multiple of 16. Returns the scale.
TQ_HD inline uint16_t EncodeHalves(const CodebookView& head, const CodebookView& tail,
                                   ScaleRule rule, const float* y, int d, const RowEnergy& row,
                                   uint8_t* codes) {
  const int half = d / 2;
  float dot[16] = {0};
  float norm[16] = {0};
  QuantizeValues(head, y, half, 0, row.inverse_rms, codes, dot, norm);
  QuantizeValues(tail, y + half, half, half, row.inverse_rms, codes + head.bits * half / 8, dot,
                 norm);
  return ScaleToHalf(FitScale(rule, row.energy, FoldLanes(dot), FoldLanes(norm), d));
}

TQ_HD inline void DecodeHalves(const CodebookView& head, const CodebookView& tail,
                               const uint8_t* codes, uint16_t scale, int d, float* y) {
  const int half = d / 2;
  DecodeRotatedRow(head, codes, scale, half, y);
  DecodeRotatedRow(tail, codes + head.bits * half / 8, scale, half, y + half);
}

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_FRACTIONAL_CODEC_H_
