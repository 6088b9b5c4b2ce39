// turboquant bench kernels.
#include <algorithm>

#include "base/parallel.h"
#include "cli/bench_command.h"
#include "cli/bench_output.h"
#include "cli/progress.h"
#include "eval/kernel_bench.h"

namespace turboquant {
namespace {

Result<std::vector<const KernelTable*>> Tables(const std::vector<std::string>& names) {
  std::vector<const KernelTable*> tables;
  for (const std::string& name : names) {
    const Result<const KernelTable*> table = FindTable(name);
    if (!table.ok()) return table.status();
    tables.push_back(table.value());
  }
  return tables;
}

Result<std::vector<Format>> Formats(const std::vector<std::string>& names) {
  std::vector<Format> formats;
  for (const std::string& name : names) {
    const Result<Format> format = ParseFormat(name);
    if (!format.ok()) return format.status();
    if (!IsCoded(format.value())) continue;  // f16 comes along anyway
    formats.push_back(format.value());
  }
  return formats;
}

}  // namespace

int BenchKernelsCommand(const BenchKernelsOptions& options) {
  KernelBenchOptions run;
  if (!options.tables.empty()) {
    const auto tables = Tables(options.tables);
    if (!tables.ok()) return FailBench(tables.status());
    run.tables = tables.value();
  }
  if (!options.formats.empty()) {
    const auto formats = Formats(options.formats);
    if (!formats.ok()) return FailBench(formats.status());
    run.formats = formats.value();
  }
  run.head_dims = options.quick ? std::vector<int>{128} : std::vector<int>{64, 128};
  if (!options.head_dims.empty()) run.head_dims = options.head_dims;
  run.groups = options.quick ? std::vector<int>{4} : std::vector<int>{1, 4};
  if (!options.groups.empty()) run.groups = options.groups;
  run.threads = options.threads > 0 ? options.threads : std::min(2, HardwareThreads());
  run.rounds = options.rounds > 0 ? options.rounds : options.quick ? 5 : 9;
  run.sample_seconds = 1e-3 * (options.sample_ms > 0 ? options.sample_ms : options.quick ? 1 : 3);
  run.memory_bytes = static_cast<size_t>(options.memory_mib) << 20;
  if (Status s = CheckWritable(options.output.svg); !s.ok()) return FailBench(s);

  Progress progress("bench kernels");
  run.progress = [&](double done, const std::string& what) { progress.Update(done, what); };
  const Result<KernelBenchResult> result = BenchKernels(run);
  progress.Finish();
  if (!result.ok()) return FailBench(result.status());
  const BenchProvenance provenance = ProvenanceOf(options.output);
  return PrintBench(options.output, provenance, ReportKernels(provenance, result.value()));
}

}  // namespace turboquant
