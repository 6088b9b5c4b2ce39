#include "cli/llama_log.h"

#include <cstdio>
#include <cstring>

namespace turboquant {
namespace {

constexpr std::string_view kPluginMark = "turboquant: ";

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// The number behind the first `mark`; nothing if there is none.
std::optional<double> NumberAfter(const std::string& line, std::string_view mark) {
  const size_t at = line.find(mark);
  double value = 0;
  if (at == std::string::npos || std::sscanf(line.c_str() + at + mark.size(), "%lf", &value) != 1) {
    return std::nullopt;
  }
  return value;
}

std::optional<PerfLine> ParsePerf(const std::string& line) {
  PerfLine perf;
  const size_t at = line.find("eval time =");
  if (at == std::string::npos || std::sscanf(line.c_str() + at, "eval time = %lf ms / %d",
                                             &perf.milliseconds, &perf.tokens) != 2) {
    return std::nullopt;
  }
  return perf;
}

std::optional<CompressionLine> ParseCompression(const std::string& line) {
  CompressionLine result;
  int policy_at = 0;
  if (std::sscanf(line.c_str(), "%d of %d KV layers compressed (%n", &result.layers_compressed,
                  &result.layers_total, &policy_at) != 2 ||
      policy_at == 0) {
    return std::nullopt;
  }
  const size_t close = line.find(')', policy_at);
  if (close == std::string::npos) return std::nullopt;
  result.policy = line.substr(policy_at, close - policy_at);
  if (std::sscanf(line.c_str() + close, "), %lf MiB instead of %lf MiB", &result.mib,
                  &result.f16_mib) != 2) {
    return std::nullopt;
  }
  return result;
}

void ParseLine(const std::string& line, std::string_view plugin_path, LlamaLog* log) {
  if (const size_t at = line.find(kPluginMark); at != std::string::npos) {
    const std::string said = line.substr(at + kPluginMark.size());
    log->plugin_lines.push_back(said);
    if (const auto compression = ParseCompression(said)) {
      log->compression = compression;
      log->compressions.push_back(*compression);
    }
    return;
  }
  if (!plugin_path.empty() && Contains(line, plugin_path)) {
    if (Contains(line, ": loaded ")) {
      log->plugin_loaded = true;
    } else if (Contains(line, "failed") || Contains(line, "not supported")) {
      log->plugin_loaded = false;
      const size_t at = line.find("load_backend: ");
      log->load_error = at == std::string::npos ? line : line.substr(at + 14);
    }
    return;
  }
  if (Contains(line, "prompt eval time")) {
    log->prompt = ParsePerf(line);
  } else if (Contains(line, " eval time")) {
    log->generation = ParsePerf(line);
  } else if (const auto mib = NumberAfter(line, "KV buffer size =")) {
    log->kv_buffer_mib = log->kv_buffer_mib.value_or(0) + *mib;
  }
}

}  // namespace

LlamaLog ParseLlamaLog(std::string_view text, std::string_view plugin_path) {
  LlamaLog log;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string line(text.substr(0, end));
    if (!line.empty() && line.back() == '\r') line.pop_back();
    ParseLine(line, plugin_path, &log);
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return log;
}

}  // namespace turboquant
