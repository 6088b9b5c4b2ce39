#include "files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace turboquant {
namespace {

Status SystemError(const std::string& what, const std::string& path, int error) {
  return NotFound("cannot " + what + " " + path + ": " + std::strerror(error) + ".");
}

}  // namespace

Result<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SystemError("open", path, errno);
  struct stat status;
  const bool known = fstat(fd, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    close(fd);
    return InvalidArgument(path + " is not a regular file; copy its content into one.");
  }
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) {
    close(fd);
    return std::unique_ptr<MappedFile>(new MappedFile(nullptr, 0));
  }
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  if (data == MAP_FAILED) return SystemError("read", path, error);
  return std::unique_ptr<MappedFile>(new MappedFile(static_cast<const uint8_t*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

Result<std::unique_ptr<MappedOutput>> MappedOutput::Create(const std::string& path, size_t size) {
  const std::string temporary = path + "." + std::to_string(getpid()) + ".part";
  const int fd = open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return SystemError("write", path, errno);
  const int full = posix_fallocate(fd, 0, static_cast<off_t>(size));
  void* data =
      full == 0 ? mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  const int error = full != 0 ? full : errno;
  close(fd);
  if (data == MAP_FAILED) {
    unlink(temporary.c_str());
    return SystemError("write " + std::to_string(size) + " bytes to", path, error);
  }
  return std::unique_ptr<MappedOutput>(
      new MappedOutput(path, temporary, static_cast<uint8_t*>(data), size));
}

MappedOutput::~MappedOutput() {
  munmap(data_, size_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

Status MappedOutput::Commit() {
  if (msync(data_, size_, MS_SYNC) != 0) return SystemError("write", path_, errno);
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return SystemError("write", path_, errno);
  }
  temporary_.clear();
  return OkStatus();
}

}  // namespace turboquant
