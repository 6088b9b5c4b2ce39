// What the stock llama.cpp tools and our plugin say on stderr, as numbers.
#ifndef TURBOQUANT_CLI_LLAMA_LOG_H_
#define TURBOQUANT_CLI_LLAMA_LOG_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace turboquant {

// "prompt eval time = 69.01 ms / 17 tokens (...)" and "eval time = 218.87 ms / 39 runs (...)".
struct PerfLine {
  double milliseconds = 0;
  int tokens = 0;
  double tokens_per_second() const { return milliseconds > 0 ? 1000.0 * tokens / milliseconds : 0; }
};

// "turboquant: 30 of 30 KV layers compressed (k=turbo4,...), 26.4 MiB instead of 90.0 MiB"
struct CompressionLine {
  int layers_compressed = 0;
  int layers_total = 0;
  std::string policy;
  double mib = 0;
  double f16_mib = 0;
};

struct LlamaLog {
  std::optional<PerfLine> prompt;
  std::optional<PerfLine> generation;
  std::optional<CompressionLine> compression;  // the last one
  std::vector<CompressionLine> compressions;   // one for each context
  std::optional<double> kv_buffer_mib;         // llama.cpp's own "KV buffer size", summed
  std::vector<std::string> plugin_lines;       // everything behind "turboquant: "
  std::optional<bool> plugin_loaded;           // ggml said that it loaded (or not) the plugin
  std::string load_error;                      // ggml's sentence when it did not
};

// plugin_path: the file whose loading is looked for; may be empty.
LlamaLog ParseLlamaLog(std::string_view text, std::string_view plugin_path = {});

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_LLAMA_LOG_H_
