#include "cli/report_table.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "cli/locate.h"

namespace turboquant {

std::string FormatTable(const std::vector<std::vector<std::string>>& rows, bool color) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < rows[r].size(); ++c) {
      line += c == 0 ? fmt::format("{:<{}}", rows[r][c], widths[c])
                     : fmt::format("  {:>{}}", rows[r][c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += color && r == 0 ? "\033[1m" + line + "\033[0m\n" : line + "\n";
  }
  return text;
}

bool UseColor(int fd) { return isatty(fd) == 1 && Environment("NO_COLOR").empty(); }

void Note(const std::string& text) {
  const bool color = UseColor(STDERR_FILENO);
  fmt::print(stderr, "{}[turboquant] {}{}\n", color ? "\033[2m" : "", text, color ? "\033[0m" : "");
}

void PrintError(const std::string& text) {
  const bool color = UseColor(STDERR_FILENO);
  fmt::print(stderr, "{}turboquant: error:{} {}\n", color ? "\033[1;31m" : "",
             color ? "\033[0m" : "", text);
}

}  // namespace turboquant
