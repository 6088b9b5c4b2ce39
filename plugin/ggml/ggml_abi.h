// What this plugin knows of ggml's binary interface.
//
// The plugin links no ggml and includes none of its headers: builds of ggml differ in vtable sizes
// and op numbers under one API version. These are our own declarations of the parts that have been
// stable; host.cc compares them with the live objects of the process and refuses on any difference.
#ifndef TURBOQUANT_PLUGIN_GGML_GGML_ABI_H_
#define TURBOQUANT_PLUGIN_GGML_GGML_ABI_H_

#include <cstddef>
#include <cstdint>

namespace turboquant::ggml {

// Tensor types that may meet a KV cache (ggml's numbers, checked by name at load).
inline constexpr int kTypeF32 = 0;
inline constexpr int kTypeF16 = 1;
inline constexpr int kTypeI32 = 26;
inline constexpr int kTypeI64 = 27;

inline constexpr int kStatusSuccess = 0;
inline constexpr int kStatusFailed = -1;
inline constexpr int kStatusAllocFailed = -2;
inline constexpr int kDeviceTypeCpu = 0;
inline constexpr int kAllTasks = -1;  // a custom op runs on every thread

struct Buffer;      // ggml_backend_buffer: void* iface[n], then buft
struct BufferType;  // ggml_backend_buffer_type: six functions, then device and context
struct Backend;     // ggml_backend: guid, void* iface[n], device, context
struct Device;      // ggml_backend_device: fifteen functions, then reg and context
struct Reg;         // ggml_backend_reg: int api_version, three functions, context
struct Graph;       // ggml_cgraph
struct Context;     // ggml_context

struct Tensor {  // ggml_tensor
  int type;
  Buffer* buffer;
  int64_t ne[4];
  size_t nb[4];
  int op;
  int32_t op_params[16];
  int32_t flags;
  Tensor* src[10];
  Tensor* view_src;
  size_t view_offs;
  void* data;
  char name[64];
  void* extra;
  char padding[8];
};

struct TypeTraits {  // ggml_type_traits, its leading members
  const char* type_name;
  int64_t blck_size;
  int64_t blck_size_interleave;
  size_t type_size;
  bool is_quantized;
  void (*to_float)(const void* x, float* y, int64_t k);
};

struct InitParams {  // ggml_init_params
  size_t mem_size;
  void* mem_buffer;
  bool no_alloc;
};

using CustomOp = void (*)(Tensor* dst, int ith, int nth, void* userdata);

struct CustomOpParams {  // ggml_custom_op_params
  CustomOp fun;
  int n_tasks;
  void* userdata;
};

// Slots of the vtables that this plugin reads or replaces.
namespace slot {
inline constexpr int kBuftGetName = 0;
inline constexpr int kBuftAllocBuffer = 1;
inline constexpr int kBuftGetAllocSize = 4;
inline constexpr int kBuftIsHost = 5;
inline constexpr int kBuftFunctions = 6;
inline constexpr int kBuftDevice = 6;
inline constexpr int kBuftWords = 8;

inline constexpr int kBufferFree = 0;
inline constexpr int kBufferInitTensor = 2;
inline constexpr int kBufferMemsetTensor = 3;
inline constexpr int kBufferSetTensor = 4;
inline constexpr int kBufferGetTensor = 5;
// cpy_tensor and clear follow two 2-d copies in newer builds: Layout::buffer_copy, buffer_clear.

inline constexpr int kBackendFree = 2;  // after the guid and get_name

inline constexpr int kDeviceInitBackend = 5;
inline constexpr int kDeviceSupportsOp = 9;
inline constexpr int kDeviceSupportsBuft = 10;
inline constexpr int kDeviceFunctions = 15;
}  // namespace slot

inline void** Words(void* object) { return static_cast<void**>(object); }

}  // namespace turboquant::ggml

#endif  // TURBOQUANT_PLUGIN_GGML_GGML_ABI_H_
