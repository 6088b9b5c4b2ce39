// turboquant bench attention --device cuda.
#include "cli/bench_command.h"
#include "cli/bench_output.h"
#include "cli/progress.h"
#include "eval/cuda_attention_bench.h"
#include "turboquant/turboquant.h"
#include "turboquant/turboquant_cuda.h"

namespace turboquant {
namespace {

// The library's own words for why there is no GPU to use.
Status LoadCuda(const std::string& path, tq_cuda_functions* cuda) {
  switch (tq_cuda_load(path.empty() ? nullptr : path.c_str(), cuda)) {
    case TQ_OK:
      return OkStatus();
    case TQ_ERROR_NOT_FOUND:
      return NotFound(tq_last_error());
    default:
      return Unsupported(tq_last_error());
  }
}

}  // namespace

int BenchCudaAttentionCommand(const BenchAttentionOptions& options) {
  CudaAttentionOptions run;
  run.names = BenchSpecs(options.kv);
  const auto policies = ParsePolicies(run.names);
  if (!policies.ok()) return FailBench(policies.status());
  run.policies = policies.value();
  for (const int tokens : options.tokens) {
    if (tokens != 1) {
      return FailBench(InvalidArgument("on the GPU one new token is measured; leave --tokens out"));
    }
  }
  run.head_dim = options.head_dim;
  if (options.kv_heads > 0) run.num_kv_heads = options.kv_heads;
  if (options.group > 0) run.group = options.group;
  run.batch = options.batch;
  if (options.quick) {
    run.cells = {4096};
    run.rounds = 3;
  }
  if (!options.cells.empty()) run.cells = options.cells;
  if (options.rounds > 0) run.rounds = options.rounds;
  if (Status s = CheckWritable(options.output.svg); !s.ok()) return FailBench(s);

  tq_cuda_functions cuda = TQ_CUDA_FUNCTIONS_INIT;
  if (Status s = LoadCuda(options.cuda_library, &cuda); !s.ok()) return FailBench(s);
  Progress progress("bench attention");
  run.progress = [&](double done, const std::string& what) { progress.Update(done, what); };
  const Result<CudaAttentionResult> result = BenchCudaAttention(cuda, run);
  progress.Finish();
  if (!result.ok()) return FailBench(result.status());
  const BenchProvenance provenance = ProvenanceOf(options.output);
  return PrintBench(options.output, provenance, ReportCudaAttention(provenance, result.value()));
}

}  // namespace turboquant
