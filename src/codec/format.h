// Formats: the bytes of one row (one head vector of one token). Byte layout: docs/FORMAT.md.
//
// Everything here is a pure function of (format, head_dim); no global, no macro decides a layout.
#ifndef TURBOQUANT_CODEC_FORMAT_H_
#define TURBOQUANT_CODEC_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace turboquant {

// Ids are stored in state files: never renumber. The low four bits are the width of a code.
enum class Format : uint8_t {
  kF16 = 0,     // not compressed
  kTurbo2 = 2,  // scalar Lloyd-Max, 2 bits + one fp16 scale
  kTurbo3 = 3,
  kTurbo4 = 4,
  kTurbo8 = 8,
  kTurbo2t = 18,  // trellis, 64 states
  kTurbo3t = 19,  // trellis, 8 states
  kTurbo4t = 20,
};

// All of them, coarsest first.
inline constexpr Format kFormats[] = {Format::kTurbo2,  Format::kTurbo2t, Format::kTurbo3,
                                      Format::kTurbo3t, Format::kTurbo4,  Format::kTurbo4t,
                                      Format::kTurbo8,  Format::kF16};

inline constexpr int kMinHeadDim = 16;
inline constexpr int kMaxHeadDim = 1024;

// Bits of one code; 16 for f16.
constexpr int IndexBits(Format f) { return f == Format::kF16 ? 16 : static_cast<int>(f) & 15; }

constexpr bool IsCoded(Format f) { return f != Format::kF16; }

constexpr bool IsTrellis(Format f) { return (static_cast<int>(f) & 16) != 0; }

// Of a trellis format: 2^memory states.
constexpr int TrellisMemory(Format f) { return f == Format::kTurbo2t ? 6 : 3; }

// Bytes of the codes of one row, without its scale. head_dim % 16 == 0.
constexpr size_t CodeBytes(Format f, int head_dim) {
  return static_cast<size_t>(IndexBits(f)) * head_dim / 8;
}

// Canonical bytes of one row: fp16 scale, then codes (f16 rows: the values alone).
constexpr size_t RowBytes(Format f, int head_dim) {
  return CodeBytes(f, head_dim) + (IsCoded(f) ? 2 : 0);
}

// True if rows of this many values can be coded: a multiple of 16 in [16, 1024] whose odd part is
// at most 63 (the rotation is a dense odd-sized map (x) a Walsh-Hadamard transform).
bool SupportedHeadDim(int head_dim);

// True if a format has this id.
bool KnownFormat(int id);

// "turbo3", "f16", ...
std::string_view FormatName(Format f);
Result<Format> ParseFormat(std::string_view name);

// All names, for messages.
inline constexpr std::string_view kFormatNames =
    "turbo2, turbo3, turbo4, turbo2t, turbo3t, turbo4t, turbo8, f16";

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_FORMAT_H_
