// The scalar truth of turbo2 / turbo3 / turbo4: what every SIMD and CUDA kernel must reproduce
// bit for bit. Inline, host and device.
//
// A rotated row y[d] is stored as d codes and one scale:
//   rms   = sqrt(sum y^2 / d)                      (sums in the fixed 16-lane order of Sum16)
//   code  = index of the Lloyd-Max cell of N(0,1) that holds y_i / rms
//   scale = <y, c> / <c, c>, c = the row's centroids: the least-squares scale, rounded to fp16
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
TQ_HD inline int LoadCode(int bits, const uint8_t* codes, int d, int i) {
  if (bits == 4) {
    const int half = d / 2;
    return i < half ? codes[i] & 15 : codes[i - half] >> 4;
  }
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
  const int quarter = d / 4;
  codes[i % quarter] |= static_cast<uint8_t>((code & 3) << (2 * (i / quarter)));
  if (bits == 3) {
    const int eighth = d / 8;
    codes[quarter + i % eighth] |= static_cast<uint8_t>((code >> 2) << (i / eighth));
  }
}

// Number of thresholds t with u > t, i.e. a value exactly on a threshold takes the lower cell.
TQ_HD inline int NearestCode(int bits, float u) {
  const float* thresholds = Thresholds(bits);
  int code = 0;
  for (int t = 0; t < (1 << bits) - 1; ++t) code += u > thresholds[t] ? 1 : 0;
  return code;
}

// Encodes one rotated row y[d]; writes CodeBytes and the fp16 scale. Returns false if y has NaN or
// Inf or its energy is beyond float (the row is then stored as zeros).
TQ_HD inline bool EncodeRotatedRow(int bits, const float* y, int d, uint8_t* codes,
                                   uint16_t* scale) {
  const int code_bytes = bits * d / 8;
  for (int j = 0; j < code_bytes; ++j) codes[j] = 0;
  *scale = 0;
  float lane[16] = {0};
  for (int i = 0; i < d; ++i) lane[i % 16] = lane[i % 16] + y[i] * y[i];
  const float energy = FoldLanes(lane);
  if (!(energy <= 3.4028234e38f)) return false;
  if (energy <= 0.0f) return true;
  const float inverse_rms = 1.0f / sqrtf(energy / static_cast<float>(d));
  if (!(inverse_rms <= 3.4028234e38f)) return true;  // below the smallest float: zeros
  const float* centroids = Centroids(bits);
  float dot[16] = {0};
  float norm[16] = {0};
  for (int i = 0; i < d; ++i) {
    const int code = NearestCode(bits, y[i] * inverse_rms);
    const float c = centroids[code];
    dot[i % 16] = dot[i % 16] + y[i] * c;
    norm[i % 16] = norm[i % 16] + c * c;
    StoreCode(bits, codes, d, i, code);
  }
  float s = FoldLanes(dot) / FoldLanes(norm);
  if (s > kHalfMax) s = kHalfMax;
  *scale = FloatToHalf(s);
  return true;
}

// Decodes one row into rotated coordinates.
TQ_HD inline void DecodeRotatedRow(int bits, const uint8_t* codes, uint16_t scale, int d,
                                   float* y) {
  const float s = HalfToFloat(scale);
  const float* centroids = Centroids(bits);
  for (int i = 0; i < d; ++i) y[i] = s * centroids[LoadCode(bits, codes, d, i)];
}

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_SCALAR_CODEC_H_
