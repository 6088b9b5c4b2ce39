// Small text tables and messages for the terminal.
#ifndef TURBOQUANT_CLI_REPORT_TABLE_H_
#define TURBOQUANT_CLI_REPORT_TABLE_H_

#include <string>
#include <vector>

namespace turboquant {

// Rows of cells with columns aligned: the first to the left, the others to the right. The first
// row is the heading.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows, bool color);

// True if a stream may carry colour: it is a terminal and NO_COLOR is unset or empty.
bool UseColor(int fd);

// Progress and failures, on stderr.
void Note(const std::string& text);
void PrintError(const std::string& text);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_REPORT_TABLE_H_
