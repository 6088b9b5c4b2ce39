// Exit codes of the turboquant command.
#ifndef TURBOQUANT_CLI_EXIT_CODE_H_
#define TURBOQUANT_CLI_EXIT_CODE_H_

#include "base/status.h"

namespace turboquant {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;      // something is missing, damaged or failed
inline constexpr int kExitUsage = 2;        // the command line or a policy makes no sense
inline constexpr int kExitUnsupported = 3;  // valid, but this model, host or machine cannot do it
inline constexpr int kExitInterrupted = 130;

// Version of every JSON document the command prints.
inline constexpr int kJsonSchemaVersion = 1;

inline int ExitCodeOf(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return kExitOk;
    case StatusCode::kInvalidArgument:
      return kExitUsage;
    case StatusCode::kUnsupported:
      return kExitUnsupported;
    default:
      return kExitFailure;
  }
}

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_EXIT_CODE_H_
