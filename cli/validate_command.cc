#include "cli/validate_command.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <map>
#include <vector>

#include "base/parallel.h"
#include "cli/exit_code.h"
#include "cli/progress.h"
#include "cli/report_table.h"
#include "eval/codec_theory.h"
#include "eval/validation.h"
#include "report/validation_report.h"

namespace turboquant {
namespace {

using Rows = std::vector<std::vector<std::string>>;

void Print(const std::string& title, const Rows& rows) {
  const bool color = UseColor(STDOUT_FILENO);
  fmt::print("{}{}{}\n{}\n", color ? "\033[1;36m" : "", title, color ? "\033[0m" : "",
             FormatTable(rows, color));
}

// A figure and how far it is from theory, where there is one.
std::string OffTheory(const ValidationCheck& check) {
  const std::string figure = fmt::format("{:.3g}", check.measured);
  const char* off = check.ok() ? "" : " OFF";
  if (check.expected == 0) return figure + off;
  return fmt::format("{} {:+.2f}%{}", figure, 100 * (check.measured / check.expected - 1), off);
}

// A ratio as the percentage above 1, and what theory says.
std::string Gain(const ValidationCheck& check) {
  return fmt::format("{:+.3f}% ({:+.3f}%){}", 100 * (check.measured - 1),
                     100 * (check.expected - 1), check.ok() ? "" : " OFF");
}

// Subjects down, head_dims across.
Rows ByDim(const std::vector<ValidationCheck>& checks, const std::string& group,
           const std::string& heading,
           std::string (*cell_text)(const ValidationCheck&) = OffTheory) {
  std::vector<std::string> subjects;
  std::vector<int> dims;
  std::map<std::pair<std::string, int>, std::string> cells;
  for (const ValidationCheck& c : checks) {
    if (c.group != group) continue;
    if (std::find(subjects.begin(), subjects.end(), c.subject) == subjects.end()) {
      subjects.push_back(c.subject);
    }
    if (std::find(dims.begin(), dims.end(), c.head_dim) == dims.end()) dims.push_back(c.head_dim);
    cells[{c.subject, c.head_dim}] = cell_text(c);
  }
  std::sort(dims.begin(), dims.end());
  Rows rows = {{heading}};
  for (int d : dims) rows[0].push_back(fmt::format("d={}", d));
  for (const std::string& subject : subjects) {
    rows.push_back({subject});
    for (int d : dims) {
      const auto cell = cells.find({subject, d});
      rows.back().push_back(cell == cells.end() ? "-" : cell->second);
    }
  }
  return rows;
}

Rows RateTable(const ValidationResult& result) {
  const bool timed = !result.rate.empty() && result.rate.front().encode_ns > 0;
  Rows rows = {{"codec", "bits/value", "distortion", "Shannon", "dB above", "bias"}};
  if (timed) rows[0].insert(rows[0].end(), {"encode ns", "decode ns", "dot ns"});
  for (const RatePoint& p : result.rate) {
    rows.push_back({p.spec, fmt::format("{:.3f}", p.bits_per_value),
                    fmt::format("{:.3g}", p.distortion), fmt::format("{:.3g}", p.shannon),
                    fmt::format("{:.2f}", DecibelsAboveShannon(p)),
                    fmt::format("{:+.4f}", p.bias)});
    if (!timed) continue;
    for (double ns : {p.encode_ns, p.decode_ns, p.inner_product_ns}) {
      rows.back().push_back(fmt::format("{:.0f}", ns));
    }
  }
  return rows;
}

void PrintResult(const ValidationResult& result) {
  Print("Lloyd-Max quantisers: E(u - c)^2, and how far from the exact integral (bound 1 %)",
        ByDim(result.checks, "lloyd-max", "codebook"));
  Print(
      "Codecs through bytes: E|x - x~|^2 / |x|^2, and how far from theory (bound 1 %, product 2 %)",
      ByDim(result.checks, "distortion", "codec"));
  Print(
      "What the exact (Beta) codebook would save: distortion of the Gaussian table over it, "
      "measured "
      "(theory)",
      ByDim(result.checks, "codebook", "codebook", Gain));
  Print("Inner products: head_dim x variance for unit vectors, and how far from theory (bound 6 %)",
        ByDim(result.checks, "inner product", "codec"));
  Print("Slope of estimated over true inner products; 1 is unbiased (bound 0.005)",
        ByDim(result.checks, "slope", "codec"));
  Print("Sign projection alone (Johnson-Lindenstrauss): variance of unit vectors (bound 6 %)",
        ByDim(result.checks, "projection", "projection"));
  Print(fmt::format("Rate and distortion, rows of {} values; times of one row on one thread",
                    kRateDim),
        RateTable(result));
  int off = 0;
  for (const ValidationCheck& c : result.checks) {
    if (c.ok()) continue;
    ++off;
    PrintError(fmt::format("{} of {}, d={}: {:.6g} is not in [{:.6g}, {:.6g}]", c.group, c.subject,
                           c.head_dim, c.measured, c.low, c.high));
  }
  fmt::print("{} of {} figures within their bounds; {} rows a cell, {:.1f} s on {} threads\n",
             result.checks.size() - off, result.checks.size(), result.rows, result.seconds,
             result.threads);
}

}  // namespace

int ValidateCommand(const ValidateOptions& options) {
  ValidationOptions run;
  run.rows = options.rows;
  run.threads = options.threads > 0 ? options.threads : HardwareThreads();
  run.timing = !options.no_timing;
  Progress progress("validate");
  run.progress = [&](double done, const std::string& what) { progress.Update(done, what); };
  const Result<ValidationResult> result = Validate(run);
  progress.Finish();
  if (!result.ok()) {
    PrintError(result.status().message());
    return ExitCodeOf(result.status());
  }
  if (!options.svg.empty()) {
    std::ofstream out(options.svg, std::ios::binary);
    out << ValidationSvg(result.value());
    if (!out.flush()) {
      PrintError("cannot write " + options.svg + "; check the folder and the free space");
      return kExitFailure;
    }
  }
  if (options.json) {
    fmt::print("{}", ValidationJson(result.value()));
  } else if (options.csv) {
    fmt::print("{}", ValidationCsv(result.value()));
  } else {
    PrintResult(result.value());
  }
  return result.value().ok() ? kExitOk : kExitFailure;
}

}  // namespace turboquant
