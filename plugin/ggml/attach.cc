// Entry point of libggml-turboquant.so: attach to the CPU device of the ggml that loads us.
//
// No device is added. The functions of the existing CPU device, its buffer type and its backends are
// wrapped, and only tensors named cache_k_l<N> / cache_v_l<N> are taken over; device names, weight
// repacking and thread pools stay as they are (docs/adr/0004).
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "ggml_abi.h"
#include "graph_run.h"
#include "host.h"
#include "kv_buffer.h"
#include "log.h"
#include "options_env.h"

namespace turboquant::ggml {
namespace {

struct Attached {
  Host host;
  PluginOptions options;
  Backend* (*init_backend)(Device*, const char*) = nullptr;
  bool (*supports_op)(Device*, const Tensor*) = nullptr;
  bool (*supports_buft)(Device*, BufferType*) = nullptr;

  struct Hooked {
    void (*free)(Backend*);
    GraphRun::Compute compute;
    std::unique_ptr<GraphRun> run;
  };
  std::mutex mutex;
  std::unordered_map<Backend*, Hooked> backends;
  bool done = false;
};

Attached& A() {
  static Attached* attached = new Attached;  // outlives the host's exit handlers
  return *attached;
}

void FreeBackend(Backend* backend) {
  void (*original)(Backend*) = nullptr;
  {
    std::lock_guard<std::mutex> lock(A().mutex);
    auto it = A().backends.find(backend);
    if (it == A().backends.end()) return;
    original = it->second.free;
    A().backends.erase(it);
  }
  original(backend);
}

int ComputeGraph(Backend* backend, Graph* graph) {
  Attached::Hooked* hooked = nullptr;
  {
    std::lock_guard<std::mutex> lock(A().mutex);
    auto it = A().backends.find(backend);
    if (it == A().backends.end()) return kStatusFailed;
    hooked = &it->second;  // node-based map: stays put until the backend is freed
  }
  return hooked->run->Run(backend, graph, hooked->compute);
}

Backend* InitBackend(Device* device, const char* params) {
  Backend* backend = A().init_backend(device, params);
  if (backend == nullptr) return nullptr;
  try {
    void** words = Words(backend);
    const int compute = A().host.layout.backend_compute;
    Attached::Hooked hooked;
    hooked.free = reinterpret_cast<void (*)(Backend*)>(words[slot::kBackendFree]);
    hooked.compute = reinterpret_cast<GraphRun::Compute>(words[compute]);
    hooked.run = std::make_unique<GraphRun>(A().host, *A().options.kernels);
    std::lock_guard<std::mutex> lock(A().mutex);
    A().backends.emplace(backend, std::move(hooked));
    words[slot::kBackendFree] = reinterpret_cast<void*>(FreeBackend);
    words[compute] = reinterpret_cast<void*>(ComputeGraph);
    return backend;
  } catch (const std::exception& e) {
    // Without our hook this backend could not read a compressed cache.
    LogError(std::string("backend not started: ") + e.what());
    A().host.fn.ggml_backend_free(backend);
    return nullptr;
  }
}

// The scheduler asks about every node when it reserves a graph, right after the cache was made:
// early enough to learn head sizes before the first row, and a good time to report.
bool SupportsOp(Device* device, const Tensor* node) {
  const Ops& op = A().host.op;
  if (node->op == op.flash_attn || node->op == op.set_rows) {
    try {
      GraphRun::LearnShapes(A().host, node);
      if (node->op == op.set_rows && KvTensorOf(node) != nullptr) ReportNewCaches();
    } catch (const std::exception& e) {
      LogError(std::string("head size not learned: ") + e.what());
    }
  }
  return A().supports_op(device, node);
}

bool SupportsBuft(Device* device, BufferType* type) {
  return type == KvBufferType() || A().supports_buft(device, type);
}

// The registry wants something to register: a backend without devices.
struct RegTable {
  int api_version;
  const char* (*get_name)(Reg*);
  size_t (*get_device_count)(Reg*);
  Device* (*get_device)(Reg*, size_t);
  void* (*get_proc_address)(Reg*, const char*);
  void* context;
};
RegTable g_reg = {
    2,
    [](Reg*) { return "TurboQuant"; },
    [](Reg*) { return size_t{0}; },
    [](Reg*, size_t) { return static_cast<Device*>(nullptr); },
    [](Reg*, const char*) { return static_cast<void*>(nullptr); },
    nullptr,
};

// One line on failure; the host goes on with its f16 cache.
Reg* Attach(void* caller) {
  if (A().done) return reinterpret_cast<Reg*>(&g_reg);  // load_all may run twice
  Result<PluginOptions> options = ReadOptions();
  if (!options.ok()) {
    LogError(options.status().message() + "; the KV cache stays f16");
    return nullptr;
  }
  SetLogLevel(options.value().log);
  Host host;
  if (Status s = FindHost(caller, &host); !s.ok()) {
    LogError(s.message());
    // With the CPU backend still to come the host may ask again.
    return s.code() == StatusCode::kNotFound ? reinterpret_cast<Reg*>(&g_reg) : nullptr;
  }
  A().host = host;
  A().options = options.value();
  g_reg.api_version = host.layout.api_version;
  HookBuffers(A().host, A().options);
  void** words = Words(host.cpu);
  A().init_backend =
      reinterpret_cast<Backend* (*)(Device*, const char*)>(words[slot::kDeviceInitBackend]);
  A().supports_op =
      reinterpret_cast<bool (*)(Device*, const Tensor*)>(words[slot::kDeviceSupportsOp]);
  A().supports_buft =
      reinterpret_cast<bool (*)(Device*, BufferType*)>(words[slot::kDeviceSupportsBuft]);
  words[slot::kDeviceInitBackend] = reinterpret_cast<void*>(InitBackend);
  words[slot::kDeviceSupportsOp] = reinterpret_cast<void*>(SupportsOp);
  words[slot::kDeviceSupportsBuft] = reinterpret_cast<void*>(SupportsBuft);
  A().done = true;
  if (LogEnabled(LogLevel::kDebug)) {
    Log(LogLevel::kDebug, std::string("attached to ggml ") + host.fn.ggml_version() + ", kernels " +
                              std::string(options.value().kernels->name) + ", " +
                              options.value().policy.ToString());
  }
  return reinterpret_cast<Reg*>(&g_reg);
}

}  // namespace
}  // namespace turboquant::ggml

extern "C" __attribute__((visibility("default"))) void* ggml_backend_init() {
  try {
    return turboquant::ggml::Attach(__builtin_return_address(0));
  } catch (const std::exception& e) {
    turboquant::LogError(std::string("not attached: ") + e.what() + "; the KV cache stays f16");
    return nullptr;
  }
}
