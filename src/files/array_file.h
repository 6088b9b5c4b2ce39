// Arrays of floats in files: NPY (numpy.lib.format, versions 1 to 3) and raw values without header.
#ifndef TURBOQUANT_FILES_ARRAY_FILE_H_
#define TURBOQUANT_FILES_ARRAY_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace turboquant {

enum class FloatType : uint8_t { kF32, kF16, kF64 };

// "f32", "f16", "f64".
std::string_view FloatTypeName(FloatType type);
Result<FloatType> ParseFloatType(std::string_view name);
size_t FloatBytes(FloatType type);

// A view of values somewhere in memory, any alignment, little-endian, last dimension contiguous.
struct ArrayView {
  FloatType type = FloatType::kF32;
  std::vector<uint64_t> shape;
  const uint8_t* data = nullptr;

  uint64_t values() const;
  // n values from index `first` on, as float.
  void Read(uint64_t first, size_t n, float* out) const;
};

// Errors: Corrupt (no NPY, cut off), Unsupported (Fortran order, not little-endian float; each with
// the line of Python that helps).
Result<ArrayView> ParseNpy(std::span<const uint8_t> bytes);
bool LooksLikeNpy(std::span<const uint8_t> bytes);

// All bytes as values in vectors of `width`. Error: they are no whole number of vectors.
Result<ArrayView> RawArray(std::span<const uint8_t> bytes, FloatType type, uint64_t width);

// The NPY header (version 1) of a dense array; its length is a multiple of 64.
std::vector<uint8_t> NpyHeader(FloatType type, const std::vector<uint64_t>& shape);

// n floats to `type` at out. f16: rounded to nearest, ties to even.
void WriteFloats(FloatType type, const float* values, size_t n, uint8_t* out);

}  // namespace turboquant

#endif  // TURBOQUANT_FILES_ARRAY_FILE_H_
