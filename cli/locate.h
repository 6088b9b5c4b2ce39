// Where the stock llama.cpp tools and our plugin are.
#ifndef TURBOQUANT_CLI_LOCATE_H_
#define TURBOQUANT_CLI_LOCATE_H_

#include <string>

#include "base/status.h"

namespace turboquant {

// Value of an environment variable; empty if unset.
std::string Environment(const char* name);

// Absolute path of a llama.cpp tool ("llama-server"; a name with a slash is taken as a path).
// Searched in: llama_bin (from --llama-bin), TURBOQUANT_LLAMA_BIN, the build of tools/setup in
// the cache, PATH. A folder that was named explicitly is not passed over: if the tool is not in
// it, that is the error.
Result<std::string> FindLlamaTool(const std::string& name, const std::string& llama_bin);

// The tool that generates text from a prompt: llama-completion, or llama-cli in older llama.cpp.
Result<std::string> FindCompletionTool(const std::string& llama_bin);

// Absolute path of libggml-turboquant.so: TURBOQUANT_PLUGIN, else beside this executable (build
// tree: ../plugin/ggml; installed: ../lib, ../lib/<multiarch>, ../lib64).
Result<std::string> FindPlugin();

// Version of the ggml that lies beside a tool, as the library itself says.
struct GgmlVersion {
  std::string version;  // "0.25.3"; empty if not found
  std::string commit;
  std::string library;
};
GgmlVersion FindGgmlVersion(const std::string& tool_path);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_LOCATE_H_
