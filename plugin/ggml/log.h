// The plugin's voice: one line at a time on stderr, each starting with "turboquant: ".
#ifndef TURBOQUANT_PLUGIN_GGML_LOG_H_
#define TURBOQUANT_PLUGIN_GGML_LOG_H_

#include <string>

namespace turboquant {

enum class LogLevel { kError = 0, kInfo = 1, kDebug = 2 };

void SetLogLevel(LogLevel level);
bool LogEnabled(LogLevel level);
void Log(LogLevel level, const std::string& line);
inline void LogError(const std::string& line) { Log(LogLevel::kError, line); }
inline void LogInfo(const std::string& line) { Log(LogLevel::kInfo, line); }

}  // namespace turboquant

#endif  // TURBOQUANT_PLUGIN_GGML_LOG_H_
