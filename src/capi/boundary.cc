#include "capi/boundary.h"

#include <cstdint>
#include <cstdio>
#include <string_view>

#define TQ_TEXT_OF(x) #x
#define TQ_TEXT(x) TQ_TEXT_OF(x)

// The header and the build state the version once each.
static_assert(
    std::string_view(TURBOQUANT_VERSION) ==
    TQ_TEXT(TQ_VERSION_MAJOR) "." TQ_TEXT(TQ_VERSION_MINOR) "." TQ_TEXT(TQ_VERSION_PATCH));

namespace turboquant::capi {
namespace {

// No destructor and no allocation: usable when memory is short and when a thread ends.
thread_local char last_error[512] = "";

constexpr size_t kBufferAlignment = 64;

void* NewBlock(void*, size_t bytes, size_t alignment) {
  return ::operator new(bytes, std::align_val_t(alignment), std::nothrow);
}

void DeleteBlock(void*, void* block, size_t, size_t alignment) {
  ::operator delete(block, std::align_val_t(alignment));
}

}  // namespace

tq_status Fail(tq_status status, const char* message) noexcept {
  std::snprintf(last_error, sizeof(last_error), "%s", message);
  return status;
}

tq_status Fail(const Status& status) noexcept {
  return Fail(static_cast<tq_status>(status.code()), status.message().c_str());
}

tq_status FailNull(const char* name) noexcept {
  std::snprintf(last_error, sizeof(last_error), "%s must not be NULL.", name);
  return TQ_ERROR_INVALID_ARGUMENT;
}

tq_status FailSmall(const char* what, size_t have, size_t need, const char* unit) noexcept {
  std::snprintf(last_error, sizeof(last_error), "%s has %zu %s, %zu are needed.", what, have, unit,
                need);
  return TQ_ERROR_BUFFER_TOO_SMALL;
}

tq_status FailOutOfMemory(size_t bytes) noexcept {
  std::snprintf(last_error, sizeof(last_error),
                "the allocator has no %zu bytes; free memory or ask for less capacity.", bytes);
  return TQ_ERROR_OUT_OF_MEMORY;
}

tq_status ReadStruct(const void* from, size_t least, void* to, size_t size,
                     const char* name) noexcept {
  size_t theirs;
  std::memcpy(&theirs, from, sizeof(theirs));
  if (theirs < least) {
    std::snprintf(last_error, sizeof(last_error),
                  "struct_size of %s is %zu, it must be at least %zu: set it to sizeof.", name,
                  theirs, least);
    return TQ_ERROR_INVALID_ARGUMENT;
  }
  // A newer caller's fields that we do not know are harmless only while they are zero.
  const auto* bytes = static_cast<const unsigned char*>(from);
  for (size_t i = size; i < theirs; ++i) {
    if (bytes[i] == 0) continue;
    std::snprintf(last_error, sizeof(last_error),
                  "%s uses a field that version %s of the library does not know: use a newer one.",
                  name, tq_version_string());
    return TQ_ERROR_UNSUPPORTED;
  }
  std::memset(to, 0, size);
  std::memcpy(to, from, std::min(theirs, size));
  return TQ_OK;
}

Memory::Memory() : context_(nullptr), allocate_(NewBlock), deallocate_(DeleteBlock) {}

tq_status Memory::Read(const tq_allocator* from, Memory* to) noexcept {
  if (from == nullptr) return TQ_OK;
  tq_allocator allocator;
  const tq_status status = ReadStruct(from, &allocator, "tq_allocator");
  if (status != TQ_OK) return status;
  if (allocator.allocate == nullptr) return FailNull("allocate of tq_allocator");
  if (allocator.deallocate == nullptr) return FailNull("deallocate of tq_allocator");
  to->context_ = allocator.context;
  to->allocate_ = allocator.allocate;
  to->deallocate_ = allocator.deallocate;
  return TQ_OK;
}

void* Memory::Allocate(size_t bytes, size_t alignment) const noexcept {
  return allocate_(context_, bytes, alignment);
}

void Memory::Free(void* block, size_t bytes, size_t alignment) const noexcept {
  if (block != nullptr) deallocate_(context_, block, bytes, alignment);
}

tq_status Memory::NewBuffer(size_t bytes, tq_buffer* buffer) const noexcept {
  void* data = Allocate(bytes, kBufferAlignment);
  if (data == nullptr) return FailOutOfMemory(bytes);
  *buffer = {data, bytes, {context_, nullptr, nullptr}};
  std::memcpy(&buffer->reserved[1], &deallocate_, sizeof(deallocate_));
  return TQ_OK;
}

void Memory::FreeBuffer(tq_buffer* buffer) noexcept {
  if (buffer == nullptr) return;
  if (buffer->data != nullptr) {
    void (*deallocate)(void*, void*, size_t, size_t);
    std::memcpy(&deallocate, &buffer->reserved[1], sizeof(deallocate));
    deallocate(buffer->reserved[0], buffer->data, buffer->size, kBufferAlignment);
  }
  *buffer = TQ_BUFFER_INIT;
}

tq_status Logger::Read(const tq_logger* from, Logger* to) noexcept {
  if (from == nullptr) return TQ_OK;
  tq_logger logger;
  const tq_status status = ReadStruct(from, &logger, "tq_logger");
  if (status != TQ_OK) return status;
  if (logger.log == nullptr) return FailNull("log of tq_logger");
  to->context_ = logger.context;
  to->level_ = logger.level;
  to->log_ = logger.log;
  return TQ_OK;
}

tq_status ReadCallbacks(const tq_allocator* allocator, const tq_logger* logger, Memory* memory,
                        Logger* log) noexcept {
  const tq_status status = Memory::Read(allocator, memory);
  return status == TQ_OK ? Logger::Read(logger, log) : status;
}

tq_status ReadOptions(const tq_options* options, Memory* memory, Logger* log) noexcept {
  if (options == nullptr) return TQ_OK;
  tq_options read;
  const tq_status status = ReadStruct(options, &read, "tq_options");
  return status == TQ_OK ? ReadCallbacks(read.allocator, read.logger, memory, log) : status;
}

}  // namespace turboquant::capi

using turboquant::capi::last_error;

int32_t tq_version(void) { return TQ_VERSION; }

const char* tq_version_string(void) { return TURBOQUANT_VERSION; }

const char* tq_last_error(void) { return last_error; }

const char* tq_status_name(tq_status status) {
  switch (status) {
    case TQ_OK:
      return "ok";
    case TQ_ERROR_INVALID_ARGUMENT:
      return "invalid argument";
    case TQ_ERROR_UNSUPPORTED:
      return "unsupported";
    case TQ_ERROR_CORRUPT:
      return "corrupt";
    case TQ_ERROR_OUT_OF_MEMORY:
      return "out of memory";
    case TQ_ERROR_NOT_FOUND:
      return "not found";
    case TQ_ERROR_INTERNAL:
      return "internal error";
    case TQ_ERROR_BUFFER_TOO_SMALL:
      return "buffer too small";
    default:
      return "unknown status";
  }
}

void tq_buffer_free(tq_buffer* buffer) { turboquant::capi::Memory::FreeBuffer(buffer); }
