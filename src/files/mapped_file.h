// Files as memory: a whole file to read, and a file written in place that appears only when it is
// complete.
#ifndef TURBOQUANT_FILES_MAPPED_FILE_H_
#define TURBOQUANT_FILES_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace turboquant {

class MappedFile {
 public:
  // Errors: NotFound with the system's reason; InvalidArgument for what is not a regular file.
  static Result<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  const uint8_t* data_;
  size_t size_;
};

class MappedOutput {
 public:
  // Reserves `size` > 0 bytes on the disk under a temporary name beside `path`; fails now, not
  // later, when the disk is full.
  static Result<std::unique_ptr<MappedOutput>> Create(const std::string& path, size_t size);
  // Without Commit nothing remains.
  ~MappedOutput();
  MappedOutput(const MappedOutput&) = delete;
  MappedOutput& operator=(const MappedOutput&) = delete;

  std::span<uint8_t> bytes() { return {data_, size_}; }
  // Gives the file its name, in place of any other of that name.
  Status Commit();

 private:
  MappedOutput(std::string path, std::string temporary, uint8_t* data, size_t size)
      : path_(std::move(path)), temporary_(std::move(temporary)), data_(data), size_(size) {}

  std::string path_;
  std::string temporary_;  // empty once committed
  uint8_t* data_;
  size_t size_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_FILES_MAPPED_FILE_H_
