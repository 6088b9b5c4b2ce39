#include "cli/array_input.h"

#include <fmt/core.h>

#include <utility>

namespace turboquant {

Status About(const std::string& path, const Status& status) {
  return Status(status.code(), path + ": " + status.message());
}

Result<ArrayInput> OpenArray(const std::string& path, const RawOptions& raw) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto bytes = file.value()->bytes();
  Result<ArrayView> array = Status();
  if (!raw.type.empty()) {
    const Result<FloatType> type = ParseFloatType(raw.type);
    if (!type.ok()) return type.status();
    array = RawArray(bytes, type.value(), raw.dim);
  } else if (LooksLikeRowFile(bytes)) {
    return InvalidArgument(path +
                           " is compressed already; turboquant decode makes an NPY file of it.");
  } else if (LooksLikeNpy(bytes)) {
    array = ParseNpy(bytes);
  } else {
    return Corrupt(path + " is no NPY file; describe raw floats with --raw f32 --dim 128.");
  }
  if (!array.ok()) return About(path, array.status());
  if (array.value().shape.empty() || array.value().values() == 0) {
    return InvalidArgument(path + " holds no vectors.");
  }
  return ArrayInput{std::move(file.value()), std::move(array.value())};
}

Result<RowFileInput> OpenRowFile(const std::string& path) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  auto rows = RowFile::Open(file.value()->bytes());
  if (!rows.ok()) return About(path, rows.status());
  return RowFileInput{std::move(file.value()), std::move(rows.value())};
}

std::string ShapeText(const std::vector<uint64_t>& shape) {
  std::string text;
  for (uint64_t n : shape) text += (text.empty() ? "" : " x ") + std::to_string(n);
  return text;
}

std::string BytesText(double bytes) {
  if (bytes < 10240) return fmt::format("{:.0f} bytes", bytes);
  if (bytes < 10.0 * (1 << 20)) return fmt::format("{:.1f} KiB", bytes / 1024);
  if (bytes < 10.0 * (1 << 30)) return fmt::format("{:.1f} MiB", bytes / (1 << 20));
  return fmt::format("{:.2f} GiB", bytes / (1 << 30));
}

std::string CountText(double count) {
  if (count < 1e6) return fmt::format("{:.0f}", count);
  if (count < 1e9) return fmt::format("{:.3g} million", count / 1e6);
  return fmt::format("{:.3g} billion", count / 1e9);
}

}  // namespace turboquant
