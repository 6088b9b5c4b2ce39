// Status and Result: how every fallible function of turboquant reports failure.
//
// The library never aborts, prints or throws; a Status carries a code and one sentence that names
// the thing that is wrong and the remedy.
#ifndef TURBOQUANT_BASE_STATUS_H_
#define TURBOQUANT_BASE_STATUS_H_

#include <optional>
#include <string>
#include <utility>

namespace turboquant {

enum class StatusCode {
  kOk = 0,
  kInvalidArgument = 1,  // the caller passed something impossible
  kUnsupported = 2,      // valid, but this build or machine cannot do it
  kCorrupt = 3,          // stored bytes fail their checksum or contradict themselves
  kOutOfMemory = 4,
  kNotFound = 5,
  kInternal = 6,
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() { return Status(); }
inline Status InvalidArgument(std::string m) {
  return {StatusCode::kInvalidArgument, std::move(m)};
}
inline Status Unsupported(std::string m) { return {StatusCode::kUnsupported, std::move(m)}; }
inline Status Corrupt(std::string m) { return {StatusCode::kCorrupt, std::move(m)}; }
inline Status NotFound(std::string m) { return {StatusCode::kNotFound, std::move(m)}; }

// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {}        // NOLINT(google-explicit-constructor)

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  const T& value() const { return *value_; }
  T& value() { return *value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_BASE_STATUS_H_
