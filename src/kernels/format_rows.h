// Canonical rows of a cache format on the kernels of a table: one call whatever the codec.
#ifndef TURBOQUANT_KERNELS_FORMAT_ROWS_H_
#define TURBOQUANT_KERNELS_FORMAT_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "codec/format.h"
#include "codec/trellis.h"
#include "kernels/kernel_api.h"

namespace turboquant {

// Rows that encode best in one call: trellis codes are searched side by side.
constexpr int EncodeBatch(Format f) { return IsTrellis(f) ? 4 : 1; }

inline TrellisView FormatTrellis(Format f) { return Trellis(IndexBits(f), TrellisMemory(f)); }

// x[n][head_dim] -> n * CodeBytes(f, head_dim) bytes and n scales. Returns how many rows hold NaN
// or Inf; they are stored as zeros. f is coded.
inline int EncodeFormatRows(const KernelTable& kernels, Format f, const RotationView& r,
                            const float* x, int n, uint8_t* codes, uint16_t* scales) {
  if (IsTrellis(f)) {
    return kernels.encode_trellis(FormatTrellis(f), r, x, nullptr, n, codes, scales);
  }
  int invalid = 0;
  for (int j = 0; j < n; ++j) {
    const bool finite = kernels.encode(IndexBits(f), r, x + static_cast<size_t>(j) * r.head_dim,
                                       nullptr, codes + j * CodeBytes(f, r.head_dim), scales + j);
    invalid += finite ? 0 : 1;
  }
  return invalid;
}

// The way back, into rotated coordinates out[n][head_dim].
inline void DecodeFormatRows(const KernelTable& kernels, Format f, int head_dim,
                             const uint8_t* codes, const uint16_t* scales, int n, float* out) {
  if (IsTrellis(f)) {
    kernels.decode_trellis(FormatTrellis(f), head_dim, codes, scales, n, out);
  } else {
    kernels.decode({IndexBits(f), head_dim, codes, scales}, n, out);
  }
}

}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_FORMAT_ROWS_H_
