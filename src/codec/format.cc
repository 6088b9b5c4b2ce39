#include "codec/format.h"

#include <string>

namespace turboquant {

bool SupportedHeadDim(int head_dim) {
  if (head_dim < kMinHeadDim || head_dim > kMaxHeadDim || head_dim % 16 != 0) return false;
  int odd = head_dim;
  while (odd % 2 == 0) odd /= 2;
  return odd <= 63;
}

std::string_view FormatName(Format f) {
  switch (f) {
    case Format::kF16:
      return "f16";
    case Format::kTurbo2:
      return "turbo2";
    case Format::kTurbo3:
      return "turbo3";
    case Format::kTurbo4:
      return "turbo4";
  }
  return "unknown";
}

Result<Format> ParseFormat(std::string_view name) {
  for (Format f : {Format::kTurbo2, Format::kTurbo3, Format::kTurbo4, Format::kF16}) {
    if (name == FormatName(f)) return f;
  }
  return InvalidArgument("unknown format '" + std::string(name.substr(0, 40)) +
                         "': use turbo2, turbo3, turbo4 or f16, e.g. turbo3.");
}

}  // namespace turboquant
