// turboquant doctor: is the KV cache compressed on this machine, and if not, why.
#ifndef TURBOQUANT_CLI_DOCTOR_COMMAND_H_
#define TURBOQUANT_CLI_DOCTOR_COMMAND_H_

#include <optional>
#include <string>

namespace turboquant {

struct DoctorOptions {
  std::string model;
  std::optional<std::string> kv;
  std::string llama_bin;
  bool json = false;
};

// Returns the exit code: 0 only if compression is active (without a model: the plugin loads).
int DoctorCommand(const DoctorOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_DOCTOR_COMMAND_H_
