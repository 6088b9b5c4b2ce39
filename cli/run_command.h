// turboquant run: text from a stock llama.cpp whose KV cache is compressed.
#ifndef TURBOQUANT_CLI_RUN_COMMAND_H_
#define TURBOQUANT_CLI_RUN_COMMAND_H_

#include <optional>
#include <string>
#include <vector>

namespace turboquant {

struct RunOptions {
  std::string model;              // -m; empty: `passthrough` is a whole command of a llama.cpp tool
  std::string prompt;             // -p
  std::string prompt_file;        // -f
  std::optional<std::string> kv;  // --kv; else TURBOQUANT_KV; else the default policy
  int predict = 128;
  int context = 4096;
  int threads = 0;  // 0: llama.cpp's choice
  double temperature = 0;
  int seed = 1;
  std::string llama_bin;
  bool no_compare = false;
  bool json = false;
  std::vector<std::string> passthrough;  // behind --
};

// Returns the exit code.
int RunCommand(const RunOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_RUN_COMMAND_H_
