// How the bench commands print what they found.
#ifndef TURBOQUANT_CLI_BENCH_OUTPUT_H_
#define TURBOQUANT_CLI_BENCH_OUTPUT_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "cli/bench_command.h"
#include "kvcache/policy.h"
#include "report/bench_report.h"

namespace turboquant {

BenchProvenance ProvenanceOf(const BenchOutput& output);

// What --kv named, or the caches that are measured without it.
std::vector<std::string> BenchSpecs(const std::vector<std::string>& named);
Result<std::vector<Policy>> ParsePolicies(const std::vector<std::string>& specs);

// Says what is wrong; returns the exit code.
int FailBench(const Status& status);

// Prints the report in the chosen format and writes the plot; returns the exit code.
int PrintBench(const BenchOutput& output, const BenchProvenance& provenance,
               const BenchReport& report);

// Ends a bench that could not write its plot before it spends its time: the file can be opened.
Status CheckWritable(const std::string& path);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_BENCH_OUTPUT_H_
