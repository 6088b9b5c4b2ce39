#include "codec/format.h"

#include <algorithm>
#include <string>

namespace turboquant {

bool SupportedHeadDim(int head_dim) {
  if (head_dim < kMinHeadDim || head_dim > kMaxHeadDim || head_dim % 16 != 0) return false;
  int odd = head_dim;
  while (odd % 2 == 0) odd /= 2;
  return odd <= 63;
}

bool KnownFormat(int id) {
  return std::ranges::any_of(kFormats, [id](Format f) { return static_cast<int>(f) == id; });
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
    case Format::kTurbo8:
      return "turbo8";
    case Format::kTurbo2t:
      return "turbo2t";
    case Format::kTurbo3t:
      return "turbo3t";
    case Format::kTurbo4t:
      return "turbo4t";
  }
  return "unknown";
}

Result<Format> ParseFormat(std::string_view name) {
  for (Format f : kFormats) {
    if (name == FormatName(f)) return f;
  }
  return InvalidArgument("unknown format '" + std::string(name.substr(0, 40)) + "': use one of " +
                         std::string(kFormatNames) + ", e.g. turbo3.");
}

}  // namespace turboquant
