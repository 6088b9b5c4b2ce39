// Running other programs: streamed capture, and replacing this process.
#ifndef TURBOQUANT_CLI_PROCESS_H_
#define TURBOQUANT_CLI_PROCESS_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace turboquant {

// Variables to set (value) or to remove (nullopt) in a child's environment.
using EnvironmentChanges = std::map<std::string, std::optional<std::string>>;

struct ProcessResult {
  int exit_code = 0;  // 128 + n when signal n ended the child
  int signal = 0;
  std::string out;
  std::string err;
};

// Runs argv with stdin closed and waits. on_out, if set, sees stdout as it comes. While the child
// runs SIGINT is left to it, so that a Ctrl-C ends the child and then this call returns.
Result<ProcessResult> RunCaptured(const std::vector<std::string>& argv,
                                  const EnvironmentChanges& environment,
                                  const std::function<void(std::string_view)>& on_out = nullptr);

// Becomes argv. Returns only on failure.
Status ReplaceProcess(const std::vector<std::string>& argv, const EnvironmentChanges& environment);

// The last `lines` lines of a text, for error messages.
std::string LastLines(std::string_view text, int lines);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_PROCESS_H_
