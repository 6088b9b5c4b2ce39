#include "host.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

namespace turboquant::ggml {
namespace {

Status Refuse(const Host& host, const std::string& what) {
  std::string version = host.fn.ggml_version != nullptr ? host.fn.ggml_version() : "unknown";
  return Unsupported("not usable with this ggml (" + version + "): " + what +
                     "; the KV cache stays f16. Use a llama.cpp listed in the README");
}

Status ResolveFunctions(void* caller, Host* host) {
  // The host may have been loaded with RTLD_LOCAL (node, Python): ask the very library that called
  // us, whose search scope includes libggml-base.
  void* library = nullptr;
  Dl_info info;
  if (dladdr(caller, &info) != 0 && info.dli_fname != nullptr) {
    library = dlopen(info.dli_fname, RTLD_NOLOAD | RTLD_NOW | RTLD_LOCAL);
  }
  std::string missing;
  auto resolve = [&](auto& slot, const char* name) {
    void* symbol = library != nullptr ? dlsym(library, name) : nullptr;
    if (symbol == nullptr) symbol = dlsym(RTLD_DEFAULT, name);
    if (symbol == nullptr && missing.empty()) missing = name;
    slot = reinterpret_cast<std::remove_reference_t<decltype(slot)>>(symbol);
  };
#define TQ_RESOLVE(name) resolve(host->fn.name, #name)
  TQ_RESOLVE(ggml_version);
  TQ_RESOLVE(ggml_op_name);
  TQ_RESOLVE(ggml_type_name);
  TQ_RESOLVE(ggml_nbytes);
  TQ_RESOLVE(ggml_tensor_overhead);
  TQ_RESOLVE(ggml_get_type_traits);
  TQ_RESOLVE(ggml_graph_n_nodes);
  TQ_RESOLVE(ggml_graph_nodes);
  TQ_RESOLVE(ggml_new_graph_custom);
  TQ_RESOLVE(ggml_graph_add_node);
  TQ_RESOLVE(ggml_graph_overhead_custom);
  TQ_RESOLVE(ggml_init);
  TQ_RESOLVE(ggml_free);
  TQ_RESOLVE(ggml_set_name);
  TQ_RESOLVE(ggml_new_tensor_4d);
  TQ_RESOLVE(ggml_view_2d);
  TQ_RESOLVE(ggml_reshape_2d);
  TQ_RESOLVE(ggml_permute);
  TQ_RESOLVE(ggml_transpose);
  TQ_RESOLVE(ggml_flash_attn_ext);
  TQ_RESOLVE(ggml_set_rows);
  TQ_RESOLVE(ggml_custom_4d);
  TQ_RESOLVE(ggml_backend_cpu_buffer_type);
  TQ_RESOLVE(ggml_backend_buft_alloc_buffer);
  TQ_RESOLVE(ggml_backend_buffer_get_type);
  TQ_RESOLVE(ggml_backend_buffer_get_base);
  TQ_RESOLVE(ggml_backend_buffer_free);
  TQ_RESOLVE(ggml_backend_dev_by_type);
  TQ_RESOLVE(ggml_backend_dev_init);
  TQ_RESOLVE(ggml_backend_dev_backend_reg);
  TQ_RESOLVE(ggml_backend_free);
#undef TQ_RESOLVE
  if (library != nullptr) dlclose(library);  // the host keeps it loaded
  if (!missing.empty()) return Refuse(*host, "symbol " + missing + " is missing");
  return OkStatus();
}

// Vtables grew in the middle without a change of the API version (ggml commit ba70f8ed, April 2026),
// so their sizes are read off live objects: the word after the last function is a known pointer.
Status LearnLayout(Host* host) {
  const Functions& fn = host->fn;
  Layout& l = host->layout;
  host->cpu = fn.ggml_backend_dev_by_type(kDeviceTypeCpu);
  if (host->cpu == nullptr) {
    return NotFound("no CPU backend is loaded yet; load turboquant after ggml's own backends");
  }
  Reg* reg = fn.ggml_backend_dev_backend_reg(host->cpu);
  std::memcpy(&l.api_version, reg, sizeof(l.api_version));
  if (l.api_version != 2) {
    return Refuse(*host, "backend API version " + std::to_string(l.api_version) + " instead of 2");
  }
  if (Words(host->cpu)[slot::kDeviceFunctions] != reg) {
    return Refuse(*host, "its device table has another layout");
  }
  BufferType* buft = fn.ggml_backend_cpu_buffer_type();
  Buffer* buffer = fn.ggml_backend_buft_alloc_buffer(buft, 64);
  if (buffer == nullptr) return Refuse(*host, "a test allocation of 64 bytes failed");
  for (int i = 0; i < 24 && l.buffer_buft == 0; ++i) {
    if (Words(buffer)[i] == buft) l.buffer_buft = i;
  }
  fn.ggml_backend_buffer_free(buffer);
  if (l.buffer_buft != 9 && l.buffer_buft != 11) {
    return Refuse(*host, "its buffer table has " + std::to_string(l.buffer_buft) + " functions");
  }
  l.buffer_copy = l.buffer_buft - 3;
  l.buffer_clear = l.buffer_buft - 2;
  Backend* backend = fn.ggml_backend_dev_init(host->cpu, nullptr);
  if (backend == nullptr) return Refuse(*host, "the CPU backend does not start");
  int device_word = 0;
  for (int i = 2; i < 32 && device_word == 0; ++i) {
    if (Words(backend)[i] == host->cpu) device_word = i;
  }
  // ... graph_compute, event_record, event_wait, graph_optimize | device
  l.backend_compute = device_word - 4;
  const bool known = device_word == 15 || device_word == 17;
  const bool filled = known && Words(backend)[l.backend_compute] != nullptr &&
                      Words(backend)[slot::kBackendFree] != nullptr;
  fn.ggml_backend_free(backend);
  if (!filled) {
    return Refuse(*host, "its backend table ends at word " + std::to_string(device_word));
  }
  return OkStatus();
}

void NoOp(Tensor*, int, int, void*) {}

// Builds one node of each kind through the public functions and compares every field we rely on.
Status CheckTensors(Host* host) {
  const Functions& fn = host->fn;
  constexpr size_t kObjectHeader = 32;  // ggml_object in front of each tensor
  if (fn.ggml_tensor_overhead() != sizeof(Tensor) + kObjectHeader) {
    return Refuse(*host, "tensors have " + std::to_string(fn.ggml_tensor_overhead()) +
                             " bytes instead of " + std::to_string(sizeof(Tensor) + kObjectHeader));
  }
  for (const auto& [type, name] : {std::pair{kTypeF32, "f32"}, std::pair{kTypeF16, "f16"},
                                   std::pair{kTypeI32, "i32"}, std::pair{kTypeI64, "i64"}}) {
    if (std::strcmp(fn.ggml_type_name(type), name) != 0) {
      return Refuse(*host, std::string("tensor type ") + name + " has another number");
    }
  }
  Context* c = fn.ggml_init({64 * fn.ggml_tensor_overhead(), nullptr, true});
  if (c == nullptr) return Refuse(*host, "a test context cannot be made");
  Tensor* q = fn.ggml_new_tensor_4d(c, kTypeF32, 64, 8, 4, 1);
  Tensor* k = fn.ggml_new_tensor_4d(c, kTypeF16, 64, 256, 2, 1);
  Tensor* v = fn.ggml_new_tensor_4d(c, kTypeF16, 64, 256, 2, 1);
  Tensor* mask = fn.ggml_new_tensor_4d(c, kTypeF16, 256, 64, 1, 1);
  Tensor* cache = fn.ggml_new_tensor_4d(c, kTypeF16, 128, 256, 1, 1);
  Tensor* rows = fn.ggml_new_tensor_4d(c, kTypeF32, 128, 8, 1, 1);
  Tensor* ids = fn.ggml_new_tensor_4d(c, kTypeI64, 8, 1, 1, 1);
  Tensor* attention = fn.ggml_flash_attn_ext(c, q, k, v, mask, 0.125f, 0.5f, 30.0f);
  Tensor* set_rows = fn.ggml_set_rows(c, cache, rows, ids);
  Tensor* view = fn.ggml_view_2d(c, cache, 128, 4, 256, 768);
  Tensor* reshape = fn.ggml_reshape_2d(c, cache, 256, 128);
  Tensor* permute = fn.ggml_permute(c, q, 0, 2, 1, 3);
  Tensor* transpose = fn.ggml_transpose(c, cache);
  int marker = 0;
  Tensor* args[] = {q};
  Tensor* custom =
      fn.ggml_custom_4d(c, kTypeF32, 1, 2, 3, 4, args, 1, NoOp, kAllTasks, &marker);
  fn.ggml_set_name(q, "cache_k_l3");

  host->op = {q->op,       view->op,      reshape->op,  permute->op,
              transpose->op, attention->op, set_rows->op, custom->op};
  std::string wrong;
  auto expect = [&](bool ok, const char* what) {
    if (!ok && wrong.empty()) wrong = what;
  };
  auto named = [&](int op, const char* name) {
    expect(std::strcmp(fn.ggml_op_name(op), name) == 0, name);
  };
  named(host->op.none, "NONE");
  named(host->op.view, "VIEW");
  named(host->op.reshape, "RESHAPE");
  named(host->op.permute, "PERMUTE");
  named(host->op.transpose, "TRANSPOSE");
  named(host->op.flash_attn, "FLASH_ATTN_EXT");
  named(host->op.set_rows, "SET_ROWS");
  named(host->op.custom, "CUSTOM");
  float fp[3];
  std::memcpy(fp, attention->op_params, sizeof(fp));
  expect(fp[0] == 0.125f && fp[1] == 0.5f && fp[2] == 30.0f, "the parameters of FLASH_ATTN_EXT");
  expect(attention->src[0] == q && attention->src[1] == k && attention->src[2] == v &&
             attention->src[3] == mask && attention->src[4] == nullptr,
         "the sources of FLASH_ATTN_EXT");
  expect(attention->ne[0] == 64 && attention->ne[1] == 4 && attention->ne[2] == 8,
         "the shape of FLASH_ATTN_EXT");
  expect(set_rows->view_src == cache && set_rows->src[0] == rows && set_rows->src[1] == ids,
         "the sources of SET_ROWS");
  expect(view->view_src == cache && view->view_offs == 768 && view->ne[1] == 4 &&
             view->nb[1] == 256,
         "the fields of VIEW");
  expect(permute->ne[1] == 4 && permute->ne[2] == 8, "the shape of PERMUTE");
  CustomOpParams params;
  std::memcpy(&params, custom->op_params, sizeof(params));
  expect(params.fun == NoOp && params.n_tasks == kAllTasks && params.userdata == &marker,
         "the parameters of CUSTOM");
  expect(std::strcmp(q->name, "cache_k_l3") == 0, "the place of a tensor's name");
  expect(fn.ggml_nbytes(cache) == 128 * 256 * 2, "the size of a tensor");
  const TypeTraits* f16 = fn.ggml_get_type_traits(kTypeF16);
  expect(f16 != nullptr && std::strcmp(f16->type_name, "f16") == 0 && f16->type_size == 2 &&
             f16->to_float != nullptr,
         "the type table");
  fn.ggml_free(c);
  if (!wrong.empty()) return Refuse(*host, "unexpected " + wrong);
  return OkStatus();
}

// A ggml built with C asserts imports __assert_fail and aborts on get_alloc_size < ggml_nbytes.
bool HasAsserts(const Host& host) {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(host.fn.ggml_backend_buft_alloc_buffer), &info) == 0) return true;
  const int fd = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true;
  struct stat st;
  bool found = true;
  if (fstat(fd, &st) == 0 && st.st_size > 0) {
    void* file = mmap(nullptr, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (file != MAP_FAILED) {
      constexpr char kName[] = "\0__assert_fail";
      found = memmem(file, st.st_size, kName, sizeof(kName)) != nullptr;
      munmap(file, st.st_size);
    }
  }
  close(fd);
  return found;
}

}  // namespace

Status FindHost(void* caller, Host* host) {
  *host = Host();
  host->fn = {};
  if (Status s = ResolveFunctions(caller, host); !s.ok()) return s;
  if (Status s = LearnLayout(host); !s.ok()) return s;
  if (Status s = CheckTensors(host); !s.ok()) return s;
  host->may_shrink = !HasAsserts(*host);
  return OkStatus();
}

}  // namespace turboquant::ggml
