// Runs a fuzz target without libFuzzer: inputs drawn from a seed, the same ones every time.
//
//   codec_rows_fuzz [--inputs N] [--first K] [--seconds S]      as many as there are in 10 seconds
//
// Input k depends on k alone. When the target ends the program, the last line names the input;
// --first K --inputs 1 runs it again.
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/rng.h"
#include "fuzz_input.h"

namespace {

volatile std::sig_atomic_t g_input = 0;

void NameInput(int) {
  std::fprintf(stderr, "input %ld\n", static_cast<long>(g_input));
  std::_Exit(1);
}

std::vector<uint8_t> InputOf(uint64_t k) {
  turboquant::SplitMix64 random(k * 0x9E3779B97F4A7C15ull + 1);
  std::vector<uint8_t> input(random.Next() % (random.Next() % 4 == 0 ? 4096 : 48));
  const uint64_t kind = random.Next() % 3;
  for (uint8_t& byte : input) {
    const uint64_t draw = random.Next();
    byte = static_cast<uint8_t>(kind == 0 ? draw : kind == 1 ? draw % 64 : draw % 3 * 127);
  }
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  long inputs = std::numeric_limits<long>::max() / 2;
  long first = 0;
  double seconds = 10;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--inputs") == 0) inputs = std::atol(argv[i + 1]);
    if (std::strcmp(argv[i], "--first") == 0) first = std::atol(argv[i + 1]);
    if (std::strcmp(argv[i], "--seconds") == 0) seconds = std::atof(argv[i + 1]);
  }
  std::signal(SIGABRT, NameInput);
  std::signal(SIGSEGV, NameInput);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  long k = first;
  for (; k < first + inputs && elapsed() < seconds; ++k) {
    g_input = static_cast<std::sig_atomic_t>(k);
    const std::vector<uint8_t> input = InputOf(static_cast<uint64_t>(k));
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld inputs, %.1f s\n", k - first, elapsed());
  return 0;
}
