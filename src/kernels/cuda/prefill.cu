// Prefill on the GPU: the kernels' instances and the C functions.
#include <cstring>

#include "kernels/cuda/prefill_run.cuh"

namespace turboquant::cuda {
namespace {

bool LaunchKernel(PrefillKernel kernel, dim3 grid, int threads, int bytes, const PrefillArgs& args,
                  cudaStream_t stream) {
  if (bytes > 48 * 1024 && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                bytes) != cudaSuccess) {
    return false;
  }
  kernel<<<grid, static_cast<unsigned>(threads), static_cast<size_t>(bytes), stream>>>(args);
  return cudaGetLastError() == cudaSuccess;
}

}  // namespace
}  // namespace turboquant::cuda

extern "C" {

tq_cuda_status tq_cuda_plan_prefill(const tq_cuda_prefill_params* params,
                                    tq_cuda_prefill_plan* plan, char* reason, size_t reason_bytes) {
  if (params == nullptr || plan == nullptr) return TQ_CUDA_INVALID;
  const char* why = turboquant::cuda::WhyPrefillUnsupported(*params);
  if (reason != nullptr && reason_bytes > 0) {
    std::strncpy(reason, why != nullptr ? why : "", reason_bytes - 1);
    reason[reason_bytes - 1] = '\0';
  }
  if (why != nullptr) return TQ_CUDA_UNSUPPORTED;
  *plan = turboquant::cuda::PlanPrefill(*params, params->dense != nullptr);
  if (plan->dense_rows > 0) {
    size_t bytes = 0;
    if (turboquant::cuda::PrepareDense(params->dense, *params, *plan, true, &bytes)) {
      turboquant::cuda::SetDenseBytes(*params, bytes, plan);
    } else {
      *plan = turboquant::cuda::PlanPrefill(*params, false);
    }
  }
  return TQ_CUDA_OK;
}

tq_cuda_status tq_cuda_prefill(const tq_cuda_prefill_plan* plan,
                               const tq_cuda_prefill_params* params, void* workspace,
                               void* stream) {
  using namespace turboquant::cuda;  // NOLINT(google-build-using-namespace)
  if (plan == nullptr || params == nullptr || workspace == nullptr ||
      reinterpret_cast<uintptr_t>(workspace) % 256 != 0 ||
      WhyPrefillUnsupported(*params) != nullptr) {
    return TQ_CUDA_INVALID;
  }
  const bool dense = plan->dense_rows > 0;
  tq_cuda_prefill_plan mine = PlanPrefill(*params, dense);
  SetDenseBytes(*params, plan->dense_bytes, &mine);
  size_t bytes = 0;
  if (mine.window_tokens != plan->window_tokens || mine.chunk_tokens != plan->chunk_tokens ||
      mine.dense_rows != plan->dense_rows || mine.workspace_bytes != plan->workspace_bytes ||
      !ValidPrefillPointers(*params, mine) ||
      (dense &&
       (params->dense == nullptr || !PrepareDense(params->dense, *params, mine, false, &bytes) ||
        bytes != plan->dense_bytes))) {
    return TQ_CUDA_INVALID;
  }
  PrefillArgs args = MakePrefillArgs(mine, *params, workspace);
  void* dense_workspace =
      static_cast<uint8_t*>(workspace) + PrefillWorkspaceOf(*params, mine).dense;
  bool ok = false;
  WithHeadDim(params->cache.head_dim, [&](auto dim) {
    ok = RunPrefill<dim.value>(
        mine, &args,
        [&](PrefillKernel kernel, dim3 grid, int threads, int bytes, const PrefillArgs& with) {
          return LaunchKernel(kernel, grid, threads, bytes, with,
                              static_cast<cudaStream_t>(stream));
        },
        [&](const DenseCall& call) {
          return RunDense(params->dense, call, dense_workspace, stream);
        });
  });
  return ok ? TQ_CUDA_OK : TQ_CUDA_FAILED;
}

}  // extern "C"
