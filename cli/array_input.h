// Arrays on the command line: NPY files, or raw floats with the options that describe them.
#ifndef TURBOQUANT_CLI_ARRAY_INPUT_H_
#define TURBOQUANT_CLI_ARRAY_INPUT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "files/array_file.h"
#include "files/mapped_file.h"
#include "files/row_file.h"

namespace turboquant {

struct RawOptions {
  std::string type;  // f32, f16, f64; empty: the file is NPY
  uint64_t dim = 0;  // values of a vector
};

// A file and the array in it.
struct ArrayInput {
  std::unique_ptr<MappedFile> file;
  ArrayView array;
};

// The message names the path. Errors: no file, damaged, of a kind we do not read, empty.
Result<ArrayInput> OpenArray(const std::string& path, const RawOptions& raw);

struct RowFileInput {
  std::unique_ptr<MappedFile> file;
  RowFile rows;
};

// Header and size are checked, rows are not.
Result<RowFileInput> OpenRowFile(const std::string& path);

// "1000 x 32 x 128".
std::string ShapeText(const std::vector<uint64_t>& shape);
// "12.3 MiB", "512 bytes".
std::string BytesText(double bytes);
// "1.23 million", "123456".
std::string CountText(double count);

// The status with "PATH: " in front of its message.
Status About(const std::string& path, const Status& status);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_ARRAY_INPUT_H_
