#include <dlfcn.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/cudnn_graph.h"

namespace turboquant::cuda {
namespace {

// Attention of 9.10.0 and 9.10.1 has known faults.
constexpr size_t kLeastVersion = 91002;

enum Id : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kLse,
  kScale,
  kRowCount,
  kKeyCount,
  kMasked,
  kFirstVirtual
};

constexpr int64_t kOne[4] = {1, 1, 1, 1};

template <typename F>
bool Find(void* library, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

std::string CudnnApi::Load(const char* path) {
  constexpr const char* kName = "libcudnn.so.9";
  std::string file = path != nullptr && path[0] != '\0' ? path : kName;
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr && path != nullptr && path[0] != '\0') {
    file = file + "/" + kName;
    library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    return "cuDNN 9 was not found as " + file +
           "; install it, or name the folder of libcudnn.so.9 (PyTorch has one: nvidia/cudnn/lib).";
  }
  // It stays loaded: graphs and handles of others may hold on to it.
  if (!Find(library, "cudnnGetVersion", &version) || !Find(library, "cudnnCreate", &create) ||
      !Find(library, "cudnnDestroy", &destroy) || !Find(library, "cudnnSetStream", &set_stream) ||
      !Find(library, "cudnnBackendCreateDescriptor", &create_descriptor) ||
      !Find(library, "cudnnBackendDestroyDescriptor", &destroy_descriptor) ||
      !Find(library, "cudnnBackendSetAttribute", &set_attribute) ||
      !Find(library, "cudnnBackendGetAttribute", &get_attribute) ||
      !Find(library, "cudnnBackendFinalize", &finalize) ||
      !Find(library, "cudnnBackendExecute", &execute)) {
    return file + " is not a whole cuDNN 9: a function is missing.";
  }
  if (version() < kLeastVersion) {
    return file + " is older than cuDNN 9.10.2; install a newer one.";
  }
  return "";
}

// Makes descriptors; remembers whether any step failed.
class CudnnAttention::Builder {
 public:
  Builder(const CudnnApi& api, std::vector<cudnnBackendDescriptor_t>* owned)
      : api_(api), owned_(*owned) {}

  bool ok() const { return ok_; }

  cudnnBackendDescriptor_t Make(cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t d = nullptr;
    Check(api_.create_descriptor(type, &d));
    if (d != nullptr) owned_.push_back(d);
    return d;
  }

  void Set(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
           cudnnBackendAttributeType_t type, const void* values, int64_t count = 1) {
    if (ok_) Check(api_.set_attribute(d, name, type, count, values));
  }
  void Set(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
           cudnnBackendDescriptor_t value) {
    Set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, &value);
  }

  cudnnBackendDescriptor_t Finish(cudnnBackendDescriptor_t d) {
    if (ok_) Check(api_.finalize(d));
    return d;
  }

  cudnnBackendDescriptor_t Tensor(int64_t id, cudnnDataType_t type, const int64_t (&size)[4],
                                  const int64_t (&stride)[4], bool by_value = false) {
    cudnnBackendDescriptor_t t = Make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const bool is_virtual = id >= kFirstVirtual;
    const int64_t alignment = 16;
    Set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, &id);
    Set(t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, &type);
    Set(t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, size, 4);
    Set(t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, stride, 4);
    Set(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, &alignment);
    Set(t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, &is_virtual);
    Set(t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, &by_value);
    return Finish(t);
  }

  cudnnBackendDescriptor_t Virtual(cudnnDataType_t type, const int64_t (&size)[4]) {
    const int64_t stride[4] = {size[1] * size[2] * size[3], size[2] * size[3], size[3], 1};
    return Tensor(next_id_++, type, size, stride);
  }

  // y = mode(x, b), or x where t, else b. b and t may be null.
  void Pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t type, cudnnBackendDescriptor_t x,
                 cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t y,
                 cudnnBackendDescriptor_t t = nullptr, int64_t axis = -1) {
    cudnnBackendDescriptor_t what = Make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    Set(what, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, &mode);
    Set(what, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, &type);
    if (axis >= 0) Set(what, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, &axis);
    Finish(what);
    cudnnBackendDescriptor_t op = Make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    Set(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, what);
    Set(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b != nullptr) Set(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    if (t != nullptr) Set(op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    Set(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    operations_.push_back(Finish(op));
  }

  void Reduce(cudnnReduceTensorOp_t how, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y) {
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t what = Make(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    Set(what, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, &how);
    Set(what, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, &type);
    Finish(what);
    cudnnBackendDescriptor_t op = Make(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    Set(op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, what);
    Set(op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    Set(op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    operations_.push_back(Finish(op));
  }

  // m, n, k: tensors with the part of that extent which counts; null: all of it.
  void Multiply(cudnnBackendDescriptor_t a, cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t c,
                cudnnBackendDescriptor_t m, cudnnBackendDescriptor_t n,
                cudnnBackendDescriptor_t k) {
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const double padding = 0.0;
    cudnnBackendDescriptor_t what = Make(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    Set(what, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, &type);
    if (n != nullptr) Set(what, CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, &padding);
    Finish(what);
    cudnnBackendDescriptor_t op = Make(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    Set(op, CUDNN_ATTR_OPERATION_MATMUL_DESC, what);
    Set(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    Set(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    Set(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    if (m != nullptr) Set(op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m);
    if (n != nullptr) Set(op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n);
    if (k != nullptr) Set(op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k);
    operations_.push_back(Finish(op));
  }

  // Minus infinity where a row or a key does not count.
  cudnnBackendDescriptor_t Mask(cudnnBackendDescriptor_t x, const int64_t (&size)[4],
                                cudnnBackendDescriptor_t row_count,
                                cudnnBackendDescriptor_t key_count) {
    constexpr cudnnDataType_t kInt = CUDNN_DATA_INT32, kBool = CUDNN_DATA_BOOLEAN;
    const auto minus_infinity = Tensor(kMasked, CUDNN_DATA_FLOAT, kOne, kOne, true);
    const auto row = Virtual(kInt, size), key = Virtual(kInt, size);
    const auto row_counts = Virtual(kBool, size), key_counts = Virtual(kBool, size);
    const auto counts = Virtual(kBool, size), masked = Virtual(CUDNN_DATA_FLOAT, size);
    Pointwise(CUDNN_POINTWISE_GEN_INDEX, kInt, x, nullptr, row, nullptr, 2);
    Pointwise(CUDNN_POINTWISE_GEN_INDEX, kInt, x, nullptr, key, nullptr, 3);
    Pointwise(CUDNN_POINTWISE_CMP_LT, kBool, row, row_count, row_counts);
    Pointwise(CUDNN_POINTWISE_CMP_LT, kBool, key, key_count, key_counts);
    Pointwise(CUDNN_POINTWISE_LOGICAL_AND, kBool, row_counts, key_counts, counts);
    Pointwise(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, x, minus_infinity, masked, counts);
    return masked;
  }

  // The operations of attention, which cuDNN recognises and runs as one kernel.
  void AddAttention(const CudnnShape& s) {
    const int64_t h = s.heads, m = s.rows, n = s.keys, d = s.head_dim;
    constexpr cudnnDataType_t kFloat = CUDNN_DATA_FLOAT, kHalf = CUDNN_DATA_HALF;
    const int64_t per_row[4] = {1, h, m, 1}, logits[4] = {1, h, m, n};
    const auto q = Tensor(kQ, kHalf, {1, h, m, d}, {m * h * d, d, h * d, 1});
    const auto k = Tensor(kK, kHalf, {1, h, d, n}, {h * n * d, n * d, 1, d});
    const auto v = Tensor(kV, kHalf, {1, h, n, d}, {h * n * d, n * d, d, 1});
    const auto out = Tensor(kOut, kHalf, {1, h, m, d}, {h * m * d, m * d, d, 1});
    const auto lse = Tensor(kLse, kFloat, per_row, {h * m, m, 1, 1});
    const auto scale = Tensor(kScale, kFloat, kOne, kOne, true);
    cudnnBackendDescriptor_t row_count = nullptr, key_count = nullptr;
    if (s.masked) {
      row_count = Tensor(kRowCount, CUDNN_DATA_INT32, kOne, kOne);
      key_count = Tensor(kKeyCount, CUDNN_DATA_INT32, kOne, kOne);
    }
    const auto product = Virtual(kFloat, logits);
    auto logit = Virtual(kFloat, logits);
    Multiply(q, k, product, row_count, key_count, nullptr);
    Pointwise(CUDNN_POINTWISE_MUL, kFloat, product, scale, logit);
    if (s.masked) logit = Mask(logit, logits, row_count, key_count);
    const auto most = Virtual(kFloat, per_row), sum = Virtual(kFloat, per_row);
    const auto less = Virtual(kFloat, logits), weights = Virtual(kFloat, logits);
    const auto log = Virtual(kFloat, per_row);
    const auto shares = Virtual(kHalf, logits);
    Reduce(CUDNN_REDUCE_TENSOR_MAX, logit, most);
    Pointwise(CUDNN_POINTWISE_SUB, kFloat, logit, most, less);
    Pointwise(CUDNN_POINTWISE_EXP, kFloat, less, nullptr, weights);
    Reduce(CUDNN_REDUCE_TENSOR_ADD, weights, sum);
    Pointwise(CUDNN_POINTWISE_LOG, kFloat, sum, nullptr, log);
    Pointwise(CUDNN_POINTWISE_ADD, kFloat, most, log, lse);
    Pointwise(CUDNN_POINTWISE_DIV, kFloat, weights, sum, shares);
    Multiply(shares, v, out, row_count, nullptr, key_count);
  }

  // The first of cuDNN's choices for the operations that it can compile; null: none.
  cudnnBackendDescriptor_t Plan(cudnnHandle_t handle) {
    cudnnBackendDescriptor_t graph = Make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    Set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations_.data(),
        static_cast<int64_t>(operations_.size()));
    Set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, &handle);
    Finish(graph);
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cudnnBackendDescriptor_t choice = Make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    Set(choice, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    Set(choice, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, &mode);
    Finish(choice);
    constexpr int64_t kMost = 8;
    cudnnBackendDescriptor_t found[kMost];
    for (auto& config : found) config = Make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    int64_t count = 0;
    if (!ok_ ||
        api_.get_attribute(choice, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                           kMost, &count, found) != CUDNN_STATUS_SUCCESS) {
      return nullptr;
    }
    for (int64_t i = 0; i < count && i < kMost; ++i) {
      ok_ = true;
      cudnnBackendDescriptor_t plan = Make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      Set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, &handle);
      Set(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, found[i]);
      Finish(plan);
      if (ok_) return plan;
    }
    return nullptr;
  }

 private:
  void Check(cudnnStatus_t status) { ok_ = ok_ && status == CUDNN_STATUS_SUCCESS; }

  const CudnnApi& api_;
  std::vector<cudnnBackendDescriptor_t>& owned_;
  std::vector<cudnnBackendDescriptor_t> operations_;
  int64_t next_id_ = kFirstVirtual;
  bool ok_ = true;
};

CudnnAttention::~CudnnAttention() {
  for (size_t i = owned_.size(); i > 0; --i) api_->destroy_descriptor(owned_[i - 1]);
}

bool CudnnAttention::Build(const CudnnApi& api, cudnnHandle_t handle, const CudnnShape& shape) {
  api_ = &api;
  shape_ = shape;
  Builder builder(api, &owned_);
  builder.AddAttention(shape);
  plan_ = builder.ok() ? builder.Plan(handle) : nullptr;
  if (plan_ == nullptr) return false;
  int64_t bytes = 0, count = 0;
  if (api.get_attribute(plan_, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                        &count, &bytes) != CUDNN_STATUS_SUCCESS) {
    return false;
  }
  workspace_bytes_ = static_cast<size_t>(bytes);
  return true;
}

bool CudnnAttention::Run(cudnnHandle_t handle, const DenseCall& call, void* workspace) const {
  float scale = call.scale, minus_infinity = -std::numeric_limits<float>::infinity();
  const int64_t ids[] = {kQ, kK, kV, kOut, kLse, kScale, kRowCount, kKeyCount, kMasked};
  void* const pointers[] = {call.q, call.k,         call.v,         call.out,       call.lse,
                            &scale, call.row_count, call.key_count, &minus_infinity};
  const int64_t count = shape_.masked ? 9 : 6;
  cudnnBackendDescriptor_t pack = nullptr;
  if (api_->create_descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack) !=
      CUDNN_STATUS_SUCCESS) {
    return false;
  }
  const auto set = [&](cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                       int64_t n, const void* values) {
    return api_->set_attribute(pack, name, type, n, values) == CUDNN_STATUS_SUCCESS;
  };
  const bool ok =
      set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids) &&
      set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers) &&
      set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace) &&
      api_->finalize(pack) == CUDNN_STATUS_SUCCESS &&
      api_->execute(handle, plan_, pack) == CUDNN_STATUS_SUCCESS;
  api_->destroy_descriptor(pack);
  return ok;
}

}  // namespace turboquant::cuda
