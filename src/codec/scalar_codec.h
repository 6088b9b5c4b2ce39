// The scalar truth of turbo1 / turbo2 / turbo3 / turbo4 / turbo8: what every SIMD and CUDA kernel
// must reproduce bit for bit. Inline, host and device. The other codecs are built of its parts.
//
// A rotated row y[d] is stored as d codes and one scale:
//   rms   = sqrt(sum y^2 / d)                      (sums in the fixed 16-lane order of Sum16)
//   code  = index of the Lloyd-Max cell of N(0,1) that holds y_i / rms
//   scale = <y, c> / <c, c>, c = the row's centroids: the least-squares scale, rounded to fp16
//           (other rules: ScaleRule)
//   decode: y~_i = scale * centroid[code_i]
// A row whose energy is zero, not finite or beyond float stores zero codes of scale +0 and decodes
// to zeros; encode says so by returning false for the last two. |scale| is clamped to 65504.
#ifndef TURBOQUANT_CODEC_SCALAR_CODEC_H_
#define TURBOQUANT_CODEC_SCALAR_CODEC_H_

#include <cmath>
#include <cstdint>

#include "base/fp16.h"
#include "base/host_device.h"
#include "codec/codebook.h"
#include "codec/row_energy.h"

namespace turboquant {

// Fixed-order sum: lane l collects terms l, l + 16, l + 32, ... ascending; lanes fold by halves
// (l += l + 8, + 4, + 2, + 1). SIMD kernels of any width <= 16 reproduce it exactly.
TQ_HD inline float FoldLanes(float lane[16]) {
  for (int width = 8; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] = lane[l] + lane[l + width];
  }
  return lane[0];
}

// Position of code i inside the code bytes: planes of d/4 (or d/2, d/8) bytes, so that a shift and
// a mask of consecutive bytes give consecutive coordinates.
//   4 bits: byte j = code[j] | code[j + d/2] << 4                      (d/2 bytes)
//   2 bits: byte j = code[j] | code[j + d/4] << 2 | ... << 6           (d/4 bytes)
//   3 bits: the low two bits as the 2-bit layout (d/4 bytes), then the high bits:
//           byte j = sum over t < 8 of high[j + t d/8] << t            (d/8 bytes)
//   1 bit:  byte j = sum over t < 8 of code[j + t d/8] << t            (d/8 bytes)
//   8 bits: byte j = code[j]                                           (d bytes)
// d is a multiple of 8 (a group of values may be shorter than a row).
TQ_HD inline int LoadCode(int bits, const uint8_t* codes, int d, int i) {
  if (bits == 4) {
    const int half = d / 2;
    return i < half ? codes[i] & 15 : codes[i - half] >> 4;
  }
  if (bits == 8) return codes[i];
  if (bits == 1) return (codes[i % (d / 8)] >> (i / (d / 8))) & 1;
  const int quarter = d / 4;
  int code = (codes[i % quarter] >> (2 * (i / quarter))) & 3;
  if (bits == 3) {
    const int eighth = d / 8;
    code |= ((codes[quarter + i % eighth] >> (i / eighth)) & 1) << 2;
  }
  return code;
}

// ORs code i into zeroed bytes.
TQ_HD inline void StoreCode(int bits, uint8_t* codes, int d, int i, int code) {
  if (bits == 4) {
    const int half = d / 2;
    codes[i % half] |= static_cast<uint8_t>(code << (i < half ? 0 : 4));
    return;
  }
  if (bits == 8) {
    codes[i] |= static_cast<uint8_t>(code);
    return;
  }
  if (bits == 1) {
    codes[i % (d / 8)] |= static_cast<uint8_t>(code << (i / (d / 8)));
    return;
  }
  const int quarter = d / 4;
  codes[i % quarter] |= static_cast<uint8_t>((code & 3) << (2 * (i / quarter)));
  if (bits == 3) {
    const int eighth = d / 8;
    codes[quarter + i % eighth] |= static_cast<uint8_t>((code >> 2) << (i / eighth));
  }
}

// Number of thresholds t with u > t, i.e. a value exactly on a threshold takes the lower cell.
TQ_HD inline int NearestCode(const CodebookView& book, float u) {
  int code = 0;
  for (int step = 1 << (book.bits - 1); step > 0; step /= 2) {
    if (u > book.thresholds[code + step - 1]) code += step;
  }
  return code;
}

TQ_HD inline int NearestCode(int bits, float u) { return NearestCode(GaussCodebook(bits), u); }

// What the stored scale s of codes c of a row y is. Only the encoder knows it.
enum class ScaleRule : uint8_t {
  kLeastSquares,  // <y,c> / <c,c>: least |y - s c|
  kNorm,          // |y| / sqrt(d): the paper's (S = 1)
  kMatched,       // |y| / |c|: the decoded row has the norm of y ("norm correction")
  kUnbiased,      // |y|^2 / <y,c>: E<q, s c> = <q, y> over random rotations (EDEN)
};

// From the sums |y|^2, <y,c>, <c,c>, each of them one Sum16 in float.
TQ_HD inline float FitScale(ScaleRule rule, float energy, float dot, float norm, int d) {
  switch (rule) {
    case ScaleRule::kNorm:
      return sqrtf(energy / static_cast<float>(d));
    case ScaleRule::kMatched:
      return sqrtf(energy / norm);
    case ScaleRule::kUnbiased:
      return dot > 0.0f ? energy / dot : 0.0f;
    default:
      return dot / norm;
  }
}

TQ_HD inline uint16_t ScaleToHalf(float s) {
  return FloatToHalf(s > kHalfMax ? kHalfMax : s < -kHalfMax ? -kHalfMax : s);
}

// fp16 in a row, little-endian.
TQ_HD inline uint16_t LoadHalf(const uint8_t* bytes) {
  return static_cast<uint16_t>(bytes[0] | (bytes[1] << 8));
}

TQ_HD inline void StoreHalf(uint16_t half, uint8_t* bytes) {
  bytes[0] = static_cast<uint8_t>(half & 255);
  bytes[1] = static_cast<uint8_t>(half >> 8);
}

// sum of a_i b_i.
TQ_HD inline float Dot16(const float* a, const float* b, int d) {
  float lane[16] = {0};
  for (int i = 0; i < d; ++i) lane[i % 16] = lane[i % 16] + a[i] * b[i];
  return FoldLanes(lane);
}

TQ_HD inline float Sum16(const float* y, int d) { return Dot16(y, y, d); }

TQ_HD inline RowEnergy MeasureRow(const float* y, int d) {
  const float energy = Sum16(y, d);
  if (!(energy <= 3.4028234e38f)) return {RowKind::kInvalid, 0.0f, 0.0f};
  if (energy <= 0.0f) return {RowKind::kZero, 0.0f, 0.0f};
  const float inverse_rms = 1.0f / sqrtf(energy / static_cast<float>(d));
  if (!(inverse_rms <= 3.4028234e38f)) return {RowKind::kZero, 0.0f, 0.0f};
  return {RowKind::kUsable, energy, inverse_rms};
}

// Codes y[n] times inverse_rms into zeroed bytes, and adds <y,c> and <c,c> to the 16 lanes of each
// sum, term i to lane (first + i) % 16: a row may be coded in parts.
TQ_HD inline void QuantizeValues(const CodebookView& book, const float* y, int n, int first,
                                 float inverse_rms, uint8_t* codes, float dot[16], float norm[16]) {
  for (int i = 0; i < n; ++i) {
    const int code = NearestCode(book, y[i] * inverse_rms);
    const float c = book.centroids[code];
    const int lane = (first + i) % 16;
    dot[lane] = dot[lane] + y[i] * c;
    norm[lane] = norm[lane] + c * c;
    StoreCode(book.bits, codes, n, i, code);
  }
}

// Encodes one rotated row y[d]; writes CodeBytes and the fp16 scale. Returns false if y has NaN or
// Inf or its energy is beyond float (the row is then stored as zeros).
TQ_HD inline bool EncodeRotatedRow(const CodebookView& book, ScaleRule rule, const float* y, int d,
                                   uint8_t* codes, uint16_t* scale) {
  const int code_bytes = book.bits * d / 8;
  for (int j = 0; j < code_bytes; ++j) codes[j] = 0;
  *scale = 0;
  const RowEnergy row = MeasureRow(y, d);
  if (row.kind != RowKind::kUsable) return row.kind == RowKind::kZero;
  float dot[16] = {0};
  float norm[16] = {0};
  QuantizeValues(book, y, d, 0, row.inverse_rms, codes, dot, norm);
  *scale = ScaleToHalf(FitScale(rule, row.energy, FoldLanes(dot), FoldLanes(norm), d));
  return true;
}

TQ_HD inline bool EncodeRotatedRow(int bits, const float* y, int d, uint8_t* codes,
                                   uint16_t* scale) {
  return EncodeRotatedRow(GaussCodebook(bits), ScaleRule::kLeastSquares, y, d, codes, scale);
}

// out[i] = scale * the centroid of code i.
TQ_HD inline void DequantizeValues(const CodebookView& book, const uint8_t* codes, float scale,
                                   int n, float* out) {
  for (int i = 0; i < n; ++i) out[i] = scale * book.centroids[LoadCode(book.bits, codes, n, i)];
}

// Decodes one row into rotated coordinates.
TQ_HD inline void DecodeRotatedRow(const CodebookView& book, const uint8_t* codes, uint16_t scale,
                                   int d, float* y) {
  DequantizeValues(book, codes, HalfToFloat(scale), d, y);
}

TQ_HD inline void DecodeRotatedRow(int bits, const uint8_t* codes, uint16_t scale, int d,
                                   float* y) {
  DecodeRotatedRow(GaussCodebook(bits), codes, scale, d, y);
}

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_SCALAR_CODEC_H_
