#include "cli/llama_run.h"

#include <fmt/core.h>

namespace turboquant {
namespace {

constexpr int kShownErrorLines = 12;

}  // namespace

EnvironmentChanges CompressedEnvironment(const std::string& plugin, const std::string& policy) {
  return {{"GGML_BACKEND_PATH", plugin}, {"TURBOQUANT_KV", policy}};
}

EnvironmentChanges StockEnvironment() {
  return {{"GGML_BACKEND_PATH", std::nullopt}, {"TURBOQUANT_KV", std::nullopt}};
}

Status CheckExit(const std::string& tool, const ProcessResult& process) {
  if (process.exit_code == 0) return OkStatus();
  const std::string how = process.signal != 0
                              ? fmt::format("was ended by signal {}", process.signal)
                              : fmt::format("failed with exit code {}", process.exit_code);
  return {StatusCode::kInternal, fmt::format("{} {}; its last words were:\n{}", tool, how,
                                             LastLines(process.err, kShownErrorLines))};
}

Status CheckCompressed(const LlamaLog& log) {
  if (log.compression && log.compression->layers_compressed > 0) return OkStatus();
  std::string reason = "the plugin said nothing; check the setup with 'turboquant doctor'";
  if (!log.plugin_lines.empty()) {
    reason = log.plugin_lines.back();
  } else if (!log.load_error.empty()) {
    reason = log.load_error + "; 'turboquant doctor' shows which files are used";
  }
  return Unsupported("the KV cache was NOT compressed: " + reason);
}

}  // namespace turboquant
