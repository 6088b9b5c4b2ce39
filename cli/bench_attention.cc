// turboquant bench attention.
#include <algorithm>

#include "base/parallel.h"
#include "cli/bench_command.h"
#include "cli/bench_output.h"
#include "cli/progress.h"
#include "eval/attention_bench.h"
#include "eval/kernel_bench.h"

namespace turboquant {

int BenchAttentionCommand(const BenchAttentionOptions& options) {
  if (options.device == "cuda") return BenchCudaAttentionCommand(options);
  AttentionBenchOptions run;
  if (!options.table.empty()) {
    const Result<const KernelTable*> table = FindTable(options.table);
    if (!table.ok()) return FailBench(table.status());
    run.kernels = table.value();
  }
  run.names = BenchSpecs(options.kv);
  const auto policies = ParsePolicies(run.names);
  if (!policies.ok()) return FailBench(policies.status());
  run.policies = policies.value();
  run.head_dim = options.head_dim;
  if (options.kv_heads > 0) run.num_kv_heads = options.kv_heads;
  if (options.group > 0) run.group = options.group;
  if (options.quick) {
    run.tokens = {1, 128};
    run.cells = {1024, 4096};
    run.rounds = 3;
  }
  if (!options.tokens.empty()) run.tokens = options.tokens;
  if (!options.cells.empty()) run.cells = options.cells;
  if (options.rounds > 0) run.rounds = options.rounds;
  if (options.sample_ms > 0) run.sample_seconds = 1e-3 * options.sample_ms;
  run.threads = options.threads;
  if (run.threads.empty()) {
    run.threads = {1};
    if (HardwareThreads() > 1) run.threads.push_back(2);
  }
  if (Status s = CheckWritable(options.output.svg); !s.ok()) return FailBench(s);

  Progress progress("bench attention");
  run.progress = [&](double done, const std::string& what) { progress.Update(done, what); };
  const Result<AttentionBenchResult> result = BenchAttention(run);
  progress.Finish();
  if (!result.ok()) return FailBench(result.status());
  const BenchProvenance provenance = ProvenanceOf(options.output);
  return PrintBench(options.output, provenance, ReportAttention(provenance, result.value()));
}

}  // namespace turboquant
