// What every function of the C interface does at the boundary: errors as numbers and a message,
// memory and messages through the caller's callbacks, structures of other versions.
#ifndef TURBOQUANT_CAPI_BOUNDARY_H_
#define TURBOQUANT_CAPI_BOUNDARY_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include "base/status.h"
#include "turboquant/turboquant.h"

namespace turboquant::capi {

// Stores the message for tq_last_error and returns `status`. Allocates nothing.
tq_status Fail(tq_status status, const char* message) noexcept;
tq_status Fail(const Status& status) noexcept;
// "NAME must not be NULL."
tq_status FailNull(const char* name) noexcept;
// "WHAT has HAVE UNIT, NEED are needed."
tq_status FailSmall(const char* what, size_t have, size_t need, const char* unit) noexcept;
tq_status FailOutOfMemory(size_t bytes) noexcept;

// Runs f, a function that returns tq_status, and turns exceptions of the standard library into one.
template <typename F>
tq_status Guard(const F& f) noexcept {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return Fail(TQ_ERROR_OUT_OF_MEMORY, "out of memory.");
  } catch (const std::exception& error) {
    return Fail(TQ_ERROR_INTERNAL, error.what());
  } catch (...) {
    return Fail(TQ_ERROR_INTERNAL, "an exception of unknown type; callbacks must not throw.");
  }
}

// a * b, or SIZE_MAX where that is beyond size_t: no buffer is so large.
constexpr size_t Product(size_t a, size_t b) {
  return b != 0 && a > static_cast<size_t>(-1) / b ? static_cast<size_t>(-1) : a * b;
}

// Copies a structure that starts with its struct_size and comes from a caller of any version.
// `least` is the size of its first version. What the caller's version lacks becomes zero.
tq_status ReadStruct(const void* from, size_t least, void* to, size_t size,
                     const char* name) noexcept;
template <typename T>
tq_status ReadStruct(const T* from, T* to, const char* name) noexcept {
  return ReadStruct(from, sizeof(T), to, sizeof(T), name);
}

// Writes `value` into the caller's structure as far as it reaches; its struct_size stays.
template <typename T>
tq_status WriteStruct(const T& value, T* to, const char* name) noexcept {
  if (to == nullptr) return FailNull(name);
  if (to->struct_size < sizeof(size_t)) {
    return Fail(TQ_ERROR_INVALID_ARGUMENT,
                "struct_size of the structure to fill is 0; initialise it with its *_INIT macro.");
  }
  const size_t end = std::min(to->struct_size, sizeof(T));
  std::memcpy(reinterpret_cast<char*>(to) + sizeof(size_t),
              reinterpret_cast<const char*>(&value) + sizeof(size_t), end - sizeof(size_t));
  return TQ_OK;
}

// The caller's allocator, or operator new.
class Memory {
 public:
  Memory();
  static tq_status Read(const tq_allocator* from, Memory* to) noexcept;

  void* Allocate(size_t bytes, size_t alignment) const noexcept;
  void Free(void* block, size_t bytes, size_t alignment) const noexcept;

  // A handle in memory of this allocator; null without memory. T's first argument is the Memory.
  template <typename T, typename... Arguments>
  T* New(Arguments&&... arguments) const {
    void* block = Allocate(sizeof(T), alignof(T));
    return block == nullptr ? nullptr : new (block) T(*this, std::forward<Arguments>(arguments)...);
  }
  // `handle` has a member `memory` with the Memory that made it.
  template <typename T>
  static void Delete(T* handle) noexcept {
    if (handle == nullptr) return;
    const Memory memory = handle->memory;
    handle->~T();
    memory.Free(handle, sizeof(T), alignof(T));
  }

  // A buffer of `bytes` > 0 for the caller, freed by tq_buffer_free.
  tq_status NewBuffer(size_t bytes, tq_buffer* buffer) const noexcept;
  static void FreeBuffer(tq_buffer* buffer) noexcept;

 private:
  void* context_;
  void* (*allocate_)(void*, size_t, size_t);
  void (*deallocate_)(void*, void*, size_t, size_t);
};

class Logger {
 public:
  static tq_status Read(const tq_logger* from, Logger* to) noexcept;

  bool Wants(tq_log_level level) const { return log_ != nullptr && level <= level_; }
  void Log(tq_log_level level, const std::string& message) const {
    if (Wants(level)) log_(context_, level, message.c_str());
  }

 private:
  void* context_ = nullptr;
  tq_log_level level_ = TQ_LOG_ERROR;
  void (*log_)(void*, tq_log_level, const char*) = nullptr;
};

tq_status ReadCallbacks(const tq_allocator* allocator, const tq_logger* logger, Memory* memory,
                        Logger* log) noexcept;
// `options` may be null.
tq_status ReadOptions(const tq_options* options, Memory* memory, Logger* log) noexcept;

}  // namespace turboquant::capi

#endif  // TURBOQUANT_CAPI_BOUNDARY_H_
