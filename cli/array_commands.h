// turboquant encode, decode, inspect, codebook: arrays in files, compressed and back.
#ifndef TURBOQUANT_CLI_ARRAY_COMMANDS_H_
#define TURBOQUANT_CLI_ARRAY_COMMANDS_H_

#include <string>

#include "cli/array_input.h"

namespace turboquant {

struct EncodeOptions {
  std::string input;
  std::string output;
  std::string codec = "turbo4";
  int head_dim = 0;  // 0: the largest that fits
  RawOptions raw;
  int threads = 0;  // 0: all of the machine
  bool json = false;
};

struct DecodeOptions {
  std::string input;
  std::string output;
  std::string type = "f32";
  bool raw = false;  // values alone, no NPY header
  int threads = 0;
  bool json = false;
};

struct InspectOptions {
  std::string input;
  RawOptions raw;
  int threads = 0;
  bool json = false;
};

struct CodebookOptions {
  int bits = 3;
  int dim = 0;  // 0: N(0, 1)
  bool grid = false;
  bool json = false;
  bool csv = false;
};

// Each returns the exit code.
int EncodeCommand(const EncodeOptions& options);
int DecodeCommand(const DecodeOptions& options);
int InspectCommand(const InspectOptions& options);
int CodebookCommand(const CodebookOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_ARRAY_COMMANDS_H_
