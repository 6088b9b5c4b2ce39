// What the commands that start llama.cpp's tools share: the environment with and without the
// plugin, and what to say when a tool fails or did not compress.
#ifndef TURBOQUANT_CLI_LLAMA_RUN_H_
#define TURBOQUANT_CLI_LLAMA_RUN_H_

#include <string>

#include "base/status.h"
#include "cli/llama_log.h"
#include "cli/process.h"

namespace turboquant {

EnvironmentChanges CompressedEnvironment(const std::string& plugin, const std::string& policy);
EnvironmentChanges StockEnvironment();

// A failed tool's last words; ok if it ended with 0.
Status CheckExit(const std::string& tool, const ProcessResult& process);

// Ok if the log says that layers were compressed; else why not, as far as it tells.
Status CheckCompressed(const LlamaLog& log);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_LLAMA_RUN_H_
