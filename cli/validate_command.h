// turboquant validate: every codec measured against theory.
#ifndef TURBOQUANT_CLI_VALIDATE_COMMAND_H_
#define TURBOQUANT_CLI_VALIDATE_COMMAND_H_

#include <string>

namespace turboquant {

struct ValidateOptions {
  int rows = 100000;
  int threads = 0;  // 0: all of the machine
  bool no_timing = false;
  bool json = false;
  bool csv = false;
  std::string svg;  // path; empty: none
};

// Returns the exit code: kExitFailure if any figure is off its bound.
int ValidateCommand(const ValidateOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_VALIDATE_COMMAND_H_
