#include "cli/bench_output.h"

#include <fmt/core.h>
#include <unistd.h>

#include <ctime>
#include <fstream>

#include "cli/build_info.h"
#include "cli/exit_code.h"
#include "cli/report_table.h"

namespace turboquant {

BenchProvenance ProvenanceOf(const BenchOutput& output) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char date[16];
  std::strftime(date, sizeof(date), "%Y-%m-%d", &utc);
  return {output.command_line, BuildVersion(), BuildCommit(), date};
}

std::vector<std::string> BenchSpecs(const std::vector<std::string>& named) {
  if (!named.empty()) return named;
  return {"turbo4", "balanced", "turbo3", "turbo2"};
}

Result<std::vector<Policy>> ParsePolicies(const std::vector<std::string>& specs) {
  std::vector<Policy> policies;
  for (const std::string& spec : specs) {
    const Result<Policy> policy = Policy::Parse(spec);
    if (!policy.ok()) return policy.status();
    policies.push_back(policy.value());
  }
  return policies;
}

int FailBench(const Status& status) {
  PrintError(status.message());
  return ExitCodeOf(status);
}

Status CheckWritable(const std::string& path) {
  if (path.empty() || std::ofstream(path, std::ios::binary | std::ios::app)) return OkStatus();
  return NotFound("cannot write " + path + "; check the folder and the permissions");
}

int PrintBench(const BenchOutput& output, const BenchProvenance& provenance,
               const BenchReport& report) {
  if (!output.svg.empty()) {
    std::ofstream out(output.svg, std::ios::binary);
    out << report.svg;
    if (!out.flush()) {
      return FailBench(
          NotFound("cannot write " + output.svg + "; check the folder and the free space"));
    }
  }
  if (output.format == "json") {
    fmt::print("{}", report.json);
  } else if (output.format == "csv") {
    fmt::print("{}", report.csv);
  } else if (output.format == "md") {
    fmt::print("{}", BenchMarkdown(provenance, report));
  } else {
    const bool color = UseColor(STDOUT_FILENO);
    for (const std::string& line : report.conditions) fmt::print("{}\n", line);
    for (const BenchTable& table : report.tables) {
      fmt::print("\n{}{}{}\n{}", color ? "\033[1;36m" : "", table.title, color ? "\033[0m" : "",
                 FormatTable(table.rows, color));
    }
    fmt::print("\n");
    for (const std::string& note : report.notes) {
      fmt::print("{}{}{}\n", color ? "\033[2m" : "", note, color ? "\033[0m" : "");
    }
  }
  return kExitOk;
}

}  // namespace turboquant
