#include "files/array_file.h"

#include <charconv>
#include <cstring>
#include <limits>
#include <optional>

#include "base/fp16.h"

namespace turboquant {
namespace {

constexpr char kNpyMagic[] = "\x93NUMPY";
constexpr size_t kNpyMagicBytes = 6;
constexpr size_t kMaxDims = 32;  // numpy's own limit

// The text behind `'key':` in a Python dict literal; empty if there is none.
std::string_view DictValue(std::string_view dict, std::string_view key) {
  for (const char quote : {'\'', '"'}) {
    const std::string name = quote + std::string(key) + quote;
    size_t at = dict.find(name);
    if (at == std::string_view::npos) continue;
    at = dict.find_first_not_of(' ', at + name.size());
    if (at == std::string_view::npos || dict[at] != ':') return {};
    at = dict.find_first_not_of(' ', at + 1);
    return at == std::string_view::npos ? std::string_view() : dict.substr(at);
  }
  return {};
}

// "(3, 128)", "(128,)": the numbers, or nothing if it is something else.
std::optional<std::vector<uint64_t>> ParseShape(std::string_view text) {
  if (text.empty() || text[0] != '(') return std::nullopt;
  std::vector<uint64_t> shape;
  size_t at = 1;
  while (true) {
    at = text.find_first_not_of(' ', at);
    if (at == std::string_view::npos) return std::nullopt;
    if (text[at] == ')') return shape;
    uint64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
    if (error != std::errc() || shape.size() == kMaxDims) return std::nullopt;
    shape.push_back(value);
    at = text.find_first_not_of(' ', static_cast<size_t>(stop - text.data()));
    if (at == std::string_view::npos || (text[at] != ',' && text[at] != ')')) return std::nullopt;
    if (text[at] == ',') ++at;
  }
}

std::optional<FloatType> ParseDescr(std::string_view text) {
  for (const char quote : {'\'', '"'}) {
    const auto is = [&](std::string_view name) {
      return text.size() > name.size() + 1 && text[0] == quote &&
             text.substr(1, name.size()) == name && text[name.size() + 1] == quote;
    };
    if (is("<f4")) return FloatType::kF32;
    if (is("<f2")) return FloatType::kF16;
    if (is("<f8")) return FloatType::kF64;
  }
  return std::nullopt;
}

// The product of the dimensions times `bytes`, or nothing beyond 2^63.
std::optional<uint64_t> TotalBytes(const std::vector<uint64_t>& shape, uint64_t bytes) {
  constexpr uint64_t kMost = uint64_t{1} << 63;
  uint64_t total = bytes;
  for (uint64_t n : shape) {
    if (n == 0) return 0;
    if (total > kMost / n) return std::nullopt;
    total *= n;
  }
  return total;
}

}  // namespace

std::string_view FloatTypeName(FloatType type) {
  return type == FloatType::kF32 ? "f32" : type == FloatType::kF16 ? "f16" : "f64";
}

Result<FloatType> ParseFloatType(std::string_view name) {
  for (FloatType type : {FloatType::kF32, FloatType::kF16, FloatType::kF64}) {
    if (FloatTypeName(type) == name) return type;
  }
  return InvalidArgument("unknown float type '" + std::string(name.substr(0, 20)) +
                         "': use f32, f16 or f64.");
}

size_t FloatBytes(FloatType type) {
  return type == FloatType::kF32 ? 4 : type == FloatType::kF16 ? 2 : 8;
}

uint64_t ArrayView::values() const {
  uint64_t total = 1;
  for (uint64_t n : shape) total *= n;
  return total;
}

void ArrayView::Read(uint64_t first, size_t n, float* out) const {
  if (n == 0) return;  // `out` and `data` may be null then, which memcpy does not take
  const uint8_t* from = data + first * FloatBytes(type);
  if (type == FloatType::kF32) {
    std::memcpy(out, from, 4 * n);
    return;
  }
  for (size_t i = 0; i < n; ++i) {
    if (type == FloatType::kF16) {
      uint16_t half;
      std::memcpy(&half, from + 2 * i, 2);
      out[i] = HalfToFloat(half);
    } else {
      double value;
      std::memcpy(&value, from + 8 * i, 8);
      out[i] = static_cast<float>(value);
    }
  }
}

bool LooksLikeNpy(std::span<const uint8_t> bytes) {
  return bytes.size() >= kNpyMagicBytes &&
         std::memcmp(bytes.data(), kNpyMagic, kNpyMagicBytes) == 0;
}

Result<ArrayView> ParseNpy(std::span<const uint8_t> bytes) {
  if (!LooksLikeNpy(bytes)) return Corrupt("this is not an NPY file: it does not start as one.");
  const int version = bytes.size() > 6 ? bytes[6] : 0;
  const size_t length_bytes = version == 1 ? 2 : 4;
  const size_t start = 8 + length_bytes;
  if (version < 1 || version > 3) {
    return Unsupported("this NPY file has format version " + std::to_string(version) +
                       "; versions 1 to 3 are known.");
  }
  if (bytes.size() < start) return Corrupt("this NPY file is cut off within its header.");
  uint64_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) length |= uint64_t{bytes[8 + i]} << (8 * i);
  if (length > bytes.size() - start) return Corrupt("this NPY file is cut off within its header.");
  const std::string_view dict(reinterpret_cast<const char*>(bytes.data()) + start, length);
  const std::optional<FloatType> type = ParseDescr(DictValue(dict, "descr"));
  if (!type) {
    return Unsupported(
        "this NPY file does not hold little-endian floats of 2, 4 or 8 bytes; convert "
        "it with numpy: np.save(path, array.astype('<f4')).");
  }
  const std::optional<std::vector<uint64_t>> shape = ParseShape(DictValue(dict, "shape"));
  const std::optional<uint64_t> total =
      shape ? TotalBytes(*shape, FloatBytes(*type)) : std::nullopt;
  if (!total) return Corrupt("the header of this NPY file has no usable shape.");
  const std::string_view order = DictValue(dict, "fortran_order");
  if (order.substr(0, 5) != "False" && shape->size() > 1) {
    return Unsupported(
        "this NPY file is in Fortran order; convert it with numpy: np.save(path, "
        "np.ascontiguousarray(array)).");
  }
  if (bytes.size() - start - length < *total) {
    return Corrupt("this NPY file is cut off: " + std::to_string(bytes.size() - start - length) +
                   " of " + std::to_string(*total) + " bytes of values.");
  }
  return ArrayView{*type, *shape, bytes.data() + start + length};
}

Result<ArrayView> RawArray(std::span<const uint8_t> bytes, FloatType type, uint64_t width) {
  if (width < 1 || width > (uint64_t{1} << 40)) {
    return InvalidArgument("raw values need the length of a vector, e.g. --dim 128.");
  }
  const uint64_t vector = width * FloatBytes(type);
  if (bytes.size() % vector != 0) {
    return Corrupt("the file has " + std::to_string(bytes.size()) +
                   " bytes, no whole number of vectors of " + std::to_string(width) + " " +
                   std::string(FloatTypeName(type)) +
                   " values; check type and length of a vector, or whether the file is cut off.");
  }
  return ArrayView{type, {bytes.size() / vector, width}, bytes.data()};
}

std::vector<uint8_t> NpyHeader(FloatType type, const std::vector<uint64_t>& shape) {
  std::string dict =
      "{'descr': '<f" + std::to_string(FloatBytes(type)) + "', 'fortran_order': False, 'shape': (";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) dict += ", ";
    dict += std::to_string(shape[i]);
  }
  dict += shape.size() == 1 ? ",), }" : "), }";
  constexpr size_t kStart = 10;
  dict.resize((kStart + dict.size() + 1 + 63) / 64 * 64 - kStart - 1, ' ');
  dict += '\n';
  std::vector<uint8_t> bytes(kStart + dict.size());
  std::memcpy(bytes.data(), kNpyMagic, kNpyMagicBytes);
  bytes[6] = 1;  // version 1.0
  bytes[8] = static_cast<uint8_t>(dict.size() & 255);
  bytes[9] = static_cast<uint8_t>(dict.size() >> 8);
  std::memcpy(bytes.data() + kStart, dict.data(), dict.size());
  return bytes;
}

void WriteFloats(FloatType type, const float* values, size_t n, uint8_t* out) {
  for (size_t i = 0; i < n; ++i) {
    if (type == FloatType::kF32) {
      std::memcpy(out + 4 * i, &values[i], 4);
    } else if (type == FloatType::kF16) {
      const uint16_t half = FloatToHalf(values[i]);
      std::memcpy(out + 2 * i, &half, 2);
    } else {
      const double wide = values[i];
      std::memcpy(out + 8 * i, &wide, 8);
    }
  }
}

}  // namespace turboquant
