// What the tests of the C interface share.
#ifndef TURBOQUANT_TESTS_CAPI_CAPI_FIXTURE_H_
#define TURBOQUANT_TESTS_CAPI_CAPI_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/rng.h"
#include "turboquant/turboquant.h"

namespace turboquant::testing {

inline std::vector<float> NormalValues(size_t n, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<float> values(n);
  for (float& v : values) v = static_cast<float>(random.Normal());
  return values;
}

// True if the status is as expected and the message has the word that names the fault or remedy.
inline ::testing::AssertionResult Fails(tq_status status, tq_status expected, const char* word) {
  const std::string message = tq_last_error();
  if (status != expected) {
    return ::testing::AssertionFailure()
           << "status " << status << " (" << tq_status_name(status) << "), message: " << message;
  }
  if (message.find(word) == std::string::npos) {
    return ::testing::AssertionFailure() << "'" << word << "' is not in: " << message;
  }
  return ::testing::AssertionSuccess();
}

// Counts blocks, checks that they come back as they went, and fails on demand.
class CountingAllocator {
 public:
  CountingAllocator() {
    allocator_.struct_size = sizeof(allocator_);
    allocator_.context = this;
    allocator_.allocate = [](void* self, size_t bytes, size_t alignment) {
      return static_cast<CountingAllocator*>(self)->Allocate(bytes, alignment);
    };
    allocator_.deallocate = [](void* self, void* block, size_t bytes, size_t alignment) {
      static_cast<CountingAllocator*>(self)->Free(block, bytes, alignment);
    };
    options_ = {sizeof(options_), &allocator_, nullptr};
  }
  ~CountingAllocator() { EXPECT_TRUE(live_.empty()) << live_.size() << " blocks leaked"; }

  const tq_allocator* allocator() const { return &allocator_; }
  const tq_options* options() const { return &options_; }
  size_t live_blocks() const { return live_.size(); }
  size_t allocations() const { return allocations_; }
  size_t largest() const { return largest_; }
  // The allocation after so many more fails, and every later one.
  void FailAfter(size_t allocations) { fail_at_ = allocations_ + allocations; }
  void NeverFail() { fail_at_ = static_cast<size_t>(-1); }

 private:
  void* Allocate(size_t bytes, size_t alignment) {
    if (allocations_ >= fail_at_) return nullptr;
    ++allocations_;
    largest_ = std::max(largest_, bytes);
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void* block =
        std::aligned_alloc(std::max(alignment, sizeof(void*)), std::max(rounded, sizeof(void*)));
    live_[block] = {bytes, alignment};
    return block;
  }
  void Free(void* block, size_t bytes, size_t alignment) {
    const auto found = live_.find(block);
    ASSERT_NE(found, live_.end()) << "freed twice or never allocated";
    EXPECT_EQ(found->second, std::make_pair(bytes, alignment));
    live_.erase(found);
    std::free(block);
  }

  tq_allocator allocator_{};
  tq_options options_{};
  std::map<void*, std::pair<size_t, size_t>> live_;
  size_t allocations_ = 0;
  size_t largest_ = 0;
  size_t fail_at_ = static_cast<size_t>(-1);
};

// Keeps what the library says.
class LogKeeper {
 public:
  explicit LogKeeper(tq_log_level level)
      : logger_{sizeof(logger_), this, level,
                [](void* self, tq_log_level at, const char* message) {
                  static_cast<LogKeeper*>(self)->lines_.emplace_back(at, message);
                }},
        options_{sizeof(options_), nullptr, &logger_} {}

  const tq_logger* logger() const { return &logger_; }
  const tq_options* options() const { return &options_; }
  const std::vector<std::pair<tq_log_level, std::string>>& lines() const { return lines_; }

 private:
  tq_logger logger_;
  tq_options options_;
  std::vector<std::pair<tq_log_level, std::string>> lines_;
};

}  // namespace turboquant::testing

#endif  // TURBOQUANT_TESTS_CAPI_CAPI_FIXTURE_H_
