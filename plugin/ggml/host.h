// The host's ggml as found in this process: functions resolved by name, layouts learned from live
// objects, op numbers learned by building one node of each kind.
#ifndef TURBOQUANT_PLUGIN_GGML_HOST_H_
#define TURBOQUANT_PLUGIN_GGML_HOST_H_

#include <string>

#include "base/status.h"
#include "ggml_abi.h"

namespace turboquant::ggml {

// Functions of libggml-base and libggml, resolved from whoever loaded this plugin.
struct Functions {
  const char* (*ggml_version)();
  const char* (*ggml_op_name)(int op);
  const char* (*ggml_type_name)(int type);
  size_t (*ggml_nbytes)(const Tensor*);
  size_t (*ggml_tensor_overhead)();
  const TypeTraits* (*ggml_get_type_traits)(int type);
  int (*ggml_graph_n_nodes)(Graph*);
  Tensor** (*ggml_graph_nodes)(Graph*);
  Graph* (*ggml_new_graph_custom)(Context*, size_t size, bool grads);
  void (*ggml_graph_add_node)(Graph*, Tensor*);
  size_t (*ggml_graph_overhead_custom)(size_t size, bool grads);
  Context* (*ggml_init)(InitParams);
  void (*ggml_free)(Context*);
  Tensor* (*ggml_set_name)(Tensor*, const char*);
  Tensor* (*ggml_new_tensor_4d)(Context*, int type, int64_t, int64_t, int64_t, int64_t);
  Tensor* (*ggml_view_2d)(Context*, Tensor*, int64_t, int64_t, size_t nb1, size_t offset);
  Tensor* (*ggml_reshape_2d)(Context*, Tensor*, int64_t, int64_t);
  Tensor* (*ggml_permute)(Context*, Tensor*, int, int, int, int);
  Tensor* (*ggml_transpose)(Context*, Tensor*);
  Tensor* (*ggml_flash_attn_ext)(Context*, Tensor* q, Tensor* k, Tensor* v, Tensor* mask,
                                 float scale, float max_bias, float softcap);
  Tensor* (*ggml_set_rows)(Context*, Tensor* dst, Tensor* rows, Tensor* ids);
  Tensor* (*ggml_custom_4d)(Context*, int type, int64_t, int64_t, int64_t, int64_t, Tensor** args,
                            int n_args, CustomOp fun, int n_tasks, void* userdata);
  BufferType* (*ggml_backend_cpu_buffer_type)();
  Buffer* (*ggml_backend_buft_alloc_buffer)(BufferType*, size_t);
  BufferType* (*ggml_backend_buffer_get_type)(Buffer*);
  void* (*ggml_backend_buffer_get_base)(Buffer*);
  void (*ggml_backend_buffer_free)(Buffer*);
  Device* (*ggml_backend_dev_by_type)(int type);
  Backend* (*ggml_backend_dev_init)(Device*, const char* params);
  Reg* (*ggml_backend_dev_backend_reg)(Device*);
  void (*ggml_backend_free)(Backend*);
};

// Where things are in this host's structs, in words of eight bytes.
struct Layout {
  int api_version = 0;
  int buffer_buft = 0;      // word of ggml_backend_buffer that holds its type = number of functions
  int buffer_copy = 0;      // cpy_tensor
  int buffer_clear = 0;
  int backend_compute = 0;  // word of ggml_backend that holds graph_compute
};

struct Ops {
  int none, view, reshape, permute, transpose, flash_attn, set_rows, custom;
  bool moves_no_data(int op) const {
    return op == none || op == view || op == reshape || op == permute || op == transpose;
  }
};

struct Host {
  Functions fn;
  Layout layout;
  Ops op;
  Device* cpu = nullptr;
  // False when the host's ggml carries C asserts: it would abort on a cache smaller than declared.
  bool may_shrink = true;
};

// Resolves, learns and checks. `caller` is an address inside the library that called us. Fails with
// one sentence that names what differs. kNotFound: no CPU backend is loaded yet, call again later.
Status FindHost(void* caller, Host* host);

}  // namespace turboquant::ggml

#endif  // TURBOQUANT_PLUGIN_GGML_HOST_H_
