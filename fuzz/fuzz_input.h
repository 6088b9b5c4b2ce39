// What the fuzz targets share: reading the input, and how they fail.
#ifndef TURBOQUANT_FUZZ_FUZZ_INPUT_H_
#define TURBOQUANT_FUZZ_FUZZ_INPUT_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

// The interface of libFuzzer, and of driver.cc where there is none.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace turboquant::fuzz {

// Bytes in order; past the end they start again, of an empty input they are zero.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t Byte() { return size_ == 0 ? uint8_t{0} : data_[at_++ % size_]; }
  uint32_t Word() {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word = word << 8 | Byte();
    return word;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

// Ends the program: the input that led here is what a fuzzer looks for.
inline void Require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what.c_str());
  std::abort();
}

}  // namespace turboquant::fuzz

#endif  // TURBOQUANT_FUZZ_FUZZ_INPUT_H_
