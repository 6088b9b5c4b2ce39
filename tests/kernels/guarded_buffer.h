// An array that ends at an unreadable page: one element read or written beyond it is a fault. A
// pattern before the array shows writes in front of it.
#ifndef TURBOQUANT_TESTS_KERNELS_GUARDED_BUFFER_H_
#define TURBOQUANT_TESTS_KERNELS_GUARDED_BUFFER_H_

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace turboquant {

template <typename T>
class GuardedBuffer {
 public:
  explicit GuardedBuffer(size_t count) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = count * sizeof(T);
    mapped_ = (bytes + kFront + page - 1) / page * page + page;
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + mapped_ - page, page, PROT_NONE) != 0) abort();
    start_ = base_ + mapped_ - page - bytes;
    memset(start_ - kFront, kPattern, kFront);
  }
  ~GuardedBuffer() { munmap(base_, mapped_); }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  T* data() { return reinterpret_cast<T*>(start_); }
  const T* data() const { return reinterpret_cast<const T*>(start_); }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  size_t size() const { return count_; }

  bool front_intact() const {
    for (size_t i = 1; i <= kFront; ++i) {
      if (start_[-static_cast<ptrdiff_t>(i)] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kFront = 128;
  static constexpr uint8_t kPattern = 0xA5;
  size_t count_;
  size_t mapped_;
  uint8_t* base_;
  uint8_t* start_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_TESTS_KERNELS_GUARDED_BUFFER_H_
