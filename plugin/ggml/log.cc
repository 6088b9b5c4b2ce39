#include "log.h"

#include <cstdio>

namespace turboquant {
namespace {
LogLevel g_level = LogLevel::kInfo;
}

void SetLogLevel(LogLevel level) { g_level = level; }
bool LogEnabled(LogLevel level) { return level <= g_level; }

void Log(LogLevel level, const std::string& line) {
  if (LogEnabled(level)) std::fprintf(stderr, "turboquant: %s\n", line.c_str());
}

}  // namespace turboquant
