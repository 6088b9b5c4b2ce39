#include <cstdio>
#include <cstring>
#include <new>
#include <string>

#include "kernels/cuda/prefill_dense.h"

#if TURBOQUANT_CUDNN
#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/cuda/cudnn_graph.h"

struct tq_cuda_dense {
  turboquant::cuda::CudnnApi api;
  cudnnHandle_t handle = nullptr;
  std::vector<std::unique_ptr<turboquant::cuda::CudnnAttention>> graphs;  // also those it declined

  // Null: that shape was not met.
  const turboquant::cuda::CudnnAttention* Find(const turboquant::cuda::CudnnShape& shape) const {
    for (const auto& graph : graphs) {
      if (graph->shape() == shape) return graph.get();
    }
    return nullptr;
  }
};
#endif

namespace turboquant::cuda {
namespace {

void Say(const std::string& why, char* reason, size_t reason_bytes) {
  if (reason == nullptr || reason_bytes == 0) return;
  std::strncpy(reason, why.c_str(), reason_bytes - 1);
  reason[reason_bytes - 1] = '\0';
}

}  // namespace

#if TURBOQUANT_CUDNN

namespace {

// A guard for callers whose chunks have ever new sizes. Graphs captured by a caller may hold on to
// what a compiled one owns, so none is dropped.
constexpr size_t kMostGraphs = 512;

std::string Open(const char* cudnn, tq_cuda_dense* dense) {
  const std::string why = dense->api.Load(cudnn);
  if (!why.empty()) return why;
  return dense->api.create(&dense->handle) == CUDNN_STATUS_SUCCESS
             ? ""
             : "cuDNN could not be started on this device; see tq_cuda_check_device.";
}

}  // namespace

bool PrepareDense(tq_cuda_dense* dense, const tq_cuda_prefill_params& p,
                  const tq_cuda_prefill_plan& plan, bool compile, size_t* bytes) try {
  *bytes = 0;
  PrefillCursor cursor;
  PrefillStep step;
  while (NextCodedStep(p, plan, &cursor, &step)) {
    for (int i = 0; i < step.num_pieces; ++i) {
      const PrefillPiece& piece = step.pieces[i];
      if (piece.dense_rows == 0) continue;
      const CudnnShape shape{p.cache.head_dim, p.cache.num_kv_heads, piece.dense_rows,
                             piece.dense_keys, piece.keys < piece.dense_keys};
      const CudnnAttention* graph = dense->Find(shape);
      if (graph == nullptr && compile && dense->graphs.size() < kMostGraphs) {
        dense->graphs.push_back(std::make_unique<CudnnAttention>());
        dense->graphs.back()->Build(dense->api, dense->handle, shape);
        graph = dense->graphs.back().get();
      }
      if (graph == nullptr || !graph->ready()) return false;
      *bytes = std::max(*bytes, graph->workspace_bytes());
    }
  }
  return true;
} catch (...) {
  return false;
}

bool RunDense(tq_cuda_dense* dense, const DenseCall& call, void* workspace, void* stream) {
  const CudnnAttention* graph =
      dense->Find({call.head_dim, call.heads, call.rows, call.keys, call.masked});
  return graph != nullptr &&
         dense->api.set_stream(dense->handle, static_cast<cudaStream_t>(stream)) ==
             CUDNN_STATUS_SUCCESS &&
         graph->Run(dense->handle, call, workspace);
}

#else

bool PrepareDense(tq_cuda_dense*, const tq_cuda_prefill_params&, const tq_cuda_prefill_plan&, bool,
                  size_t*) {
  return false;
}

bool RunDense(tq_cuda_dense*, const DenseCall&, void*, void*) { return false; }

#endif

}  // namespace turboquant::cuda

extern "C" {

#if TURBOQUANT_CUDNN

tq_cuda_status tq_cuda_dense_create(const char* cudnn, tq_cuda_dense** dense, char* reason,
                                    size_t reason_bytes) try {
  if (dense == nullptr) return TQ_CUDA_INVALID;
  *dense = nullptr;
  auto made = std::make_unique<tq_cuda_dense>();
  const std::string why = turboquant::cuda::Open(cudnn, made.get());
  turboquant::cuda::Say(why, reason, reason_bytes);
  if (!why.empty()) return TQ_CUDA_UNSUPPORTED;
  *dense = made.release();
  return TQ_CUDA_OK;
} catch (...) {
  return TQ_CUDA_FAILED;
}

void tq_cuda_dense_destroy(tq_cuda_dense* dense) {
  if (dense == nullptr) return;
  dense->graphs.clear();
  dense->api.destroy(dense->handle);
  delete dense;
}

#else

tq_cuda_status tq_cuda_dense_create(const char*, tq_cuda_dense** dense, char* reason,
                                    size_t reason_bytes) {
  if (dense == nullptr) return TQ_CUDA_INVALID;
  *dense = nullptr;
  turboquant::cuda::Say(
      "This build has no cuDNN; configure it with -DTURBOQUANT_CUDNN_INCLUDE_DIR, the folder of "
      "cudnn_graph.h.",
      reason, reason_bytes);
  return TQ_CUDA_UNSUPPORTED;
}

void tq_cuda_dense_destroy(tq_cuda_dense*) {}

#endif

}  // extern "C"
