// The command line of turboquant bench.
#ifndef TURBOQUANT_CLI_BENCH_OPTIONS_H_
#define TURBOQUANT_CLI_BENCH_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/bench_command.h"

namespace turboquant {

extern const char kBenchDescription[];

struct BenchArguments {
  BenchKernelsOptions kernels;
  BenchAttentionOptions attention;
  BenchEndToEndOptions end_to_end;
  BenchOutput output;
  CLI::App* app = nullptr;  // of bench; its modes are below it
};

void AddBench(CLI::App* app, BenchArguments* arguments);

// Runs the mode that was named, or shows what there is. Returns the exit code.
int BenchCommand(const BenchArguments& arguments);

// The command line for a record: words quoted where a shell needs it, folders left out.
std::string CommandLineText(const std::vector<std::string>& arguments);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_BENCH_OPTIONS_H_
