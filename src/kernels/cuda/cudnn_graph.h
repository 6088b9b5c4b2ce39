// Attention by cuDNN's graph API, loaded at run time. Its C interface is used directly: nothing is
// linked, nothing throws, prints or reads the environment.
#ifndef TURBOQUANT_KERNELS_CUDA_CUDNN_GRAPH_H_
#define TURBOQUANT_KERNELS_CUDA_CUDNN_GRAPH_H_

#include <cudnn_graph.h>

#include <cstddef>
#include <string>
#include <vector>

#include "kernels/cuda/prefill_dense.h"

namespace turboquant::cuda {

// The functions of libcudnn.so.9 that are used.
struct CudnnApi {
  size_t (*version)() = nullptr;
  decltype(&cudnnCreate) create = nullptr;
  decltype(&cudnnDestroy) destroy = nullptr;
  decltype(&cudnnSetStream) set_stream = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&cudnnBackendSetAttribute) set_attribute = nullptr;
  decltype(&cudnnBackendGetAttribute) get_attribute = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;

  // `path`: the library itself, a folder that holds it, or null (where the system looks). Empty: it
  // is loaded; else why not, in a sentence.
  std::string Load(const char* path);
};

// What is compiled for: the extents of a DenseCall.
struct CudnnShape {
  int head_dim, heads, rows, keys;
  bool masked;  // a mask without need costs 6 % of the time
  friend bool operator==(const CudnnShape&, const CudnnShape&) = default;
};

// softmax(q k^T) v and its log-sum-exp for one shape.
class CudnnAttention {
 public:
  CudnnAttention() = default;
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;
  ~CudnnAttention();

  // Compiles: a second for the first graph of a head_dim, less than a tenth for others. False:
  // cuDNN does not serve the shape.
  bool Build(const CudnnApi& api, cudnnHandle_t handle, const CudnnShape& shape);
  const CudnnShape& shape() const { return shape_; }
  bool ready() const { return plan_ != nullptr; }
  size_t workspace_bytes() const { return workspace_bytes_; }

  // Into the stream of the handle.
  bool Run(cudnnHandle_t handle, const DenseCall& call, void* workspace) const;

 private:
  class Builder;
  const CudnnApi* api_ = nullptr;
  CudnnShape shape_{};
  size_t workspace_bytes_ = 0;
  cudnnBackendDescriptor_t plan_ = nullptr;
  std::vector<cudnnBackendDescriptor_t> owned_;  // the plan and what it is made of
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_CUDNN_GRAPH_H_
