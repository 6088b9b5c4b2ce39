// turboquant search: nearest neighbours by inner product over compressed vectors.
#ifndef TURBOQUANT_CLI_SEARCH_COMMAND_H_
#define TURBOQUANT_CLI_SEARCH_COMMAND_H_

#include <string>

#include "cli/array_input.h"

namespace turboquant {

struct SearchOptions {
  std::string base;     // .tq
  std::string queries;  // NPY or raw
  std::string exact;    // the vectors before compression, NPY or raw; empty: no comparison
  RawOptions raw;       // of queries and exact
  int k = 10;
  int show = 3;  // queries whose neighbours are printed
  int threads = 0;
  bool json = false;
};

// Returns the exit code.
int SearchCommand(const SearchOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_SEARCH_COMMAND_H_
