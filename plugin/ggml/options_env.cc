#include "options_env.h"

#include <cstdlib>
#include <string>

namespace turboquant {

Result<PluginOptions> ReadOptions() {
  PluginOptions options;
  if (const char* log = std::getenv("TURBOQUANT_LOG")) {
    const std::string level = log;
    if (level == "error") {
      options.log = LogLevel::kError;
    } else if (level == "debug") {
      options.log = LogLevel::kDebug;
    } else if (level != "info" && !level.empty()) {
      return InvalidArgument("TURBOQUANT_LOG='" + level + "' is not error, info or debug");
    }
  }
  if (const char* text = std::getenv("TURBOQUANT_KV"); text != nullptr && *text != '\0') {
    Result<Policy> policy = Policy::Parse(text);
    if (!policy.ok()) {
      return Status(policy.status().code(), "TURBOQUANT_KV: " + policy.status().message());
    }
    options.policy = policy.value();
  }
  options.kernels = &BestKernels();
  if (const char* name = std::getenv("TURBOQUANT_KERNELS"); name != nullptr && *name != '\0') {
    options.kernels = FindKernels(name);
    if (options.kernels == nullptr) {
      return InvalidArgument(
          std::string("TURBOQUANT_KERNELS='") + name +
          "' is not available here; unset it, or use scalar, avx2, avxvnni, avx512 or avx512amx");
    }
  }
  return options;
}

}  // namespace turboquant
