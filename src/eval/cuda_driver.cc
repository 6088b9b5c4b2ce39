#include "eval/cuda_driver.h"

#include <dlfcn.h>

#include <algorithm>

namespace turboquant {

// Declared here as the driver exports them; pointers on the device are 64-bit numbers.
struct CudaDriverFunctions {
  using Address = unsigned long long;  // NOLINT(google-runtime-int): the driver's own type

  int (*init)(unsigned);
  int (*device_get)(int*, int);
  int (*device_get_name)(char*, int, int);
  int (*context_retain)(void**, int);
  int (*context_release)(int);
  int (*context_set)(void*);
  int (*memory_info)(size_t*, size_t*);
  int (*allocate)(Address*, size_t);
  int (*free)(Address);
  int (*set_bytes)(Address, unsigned char, size_t);
  int (*copy_in)(Address, const void*, size_t);
  int (*copy_out)(void*, Address, size_t);
  int (*copy_on_device)(Address, Address, size_t, void*);
  int (*stream_create)(void**, unsigned);
  int (*stream_destroy)(void*);
  int (*stream_wait)(void*);
  int (*capture_begin)(void*, int);
  int (*capture_end)(void*, void**);
  int (*graph_instantiate)(void**, void*, unsigned long long);  // NOLINT(google-runtime-int)
  int (*graph_launch)(void*, void*);
  int (*graph_destroy)(void*);
  int (*graph_exec_destroy)(void*);
  int (*event_create)(void**, unsigned);
  int (*event_record)(void*, void*);
  int (*event_elapsed)(float*, void*, void*);
  int (*event_destroy)(void*);
  int (*error_text)(int, const char**);
};

namespace {

using Address = CudaDriverFunctions::Address;

constexpr int kCaptureOfThisThread = 1;
constexpr unsigned kStreamApart = 1;  // does not wait for the default stream

Address At(const void* p) { return reinterpret_cast<Address>(p); }

// Finds every function; the name of the first one that is missing, or null.
const char* FindFunctions(void* library, CudaDriverFunctions* f) {
  const char* missing = nullptr;
  const auto find = [&](const char* name, auto* function) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    if (*function == nullptr && missing == nullptr) missing = name;
  };
  find("cuInit", &f->init);
  find("cuDeviceGet", &f->device_get);
  find("cuDeviceGetName", &f->device_get_name);
  find("cuDevicePrimaryCtxRetain", &f->context_retain);
  find("cuDevicePrimaryCtxRelease_v2", &f->context_release);
  find("cuCtxSetCurrent", &f->context_set);
  find("cuMemGetInfo_v2", &f->memory_info);
  find("cuMemAlloc_v2", &f->allocate);
  find("cuMemFree_v2", &f->free);
  find("cuMemsetD8_v2", &f->set_bytes);
  find("cuMemcpyHtoD_v2", &f->copy_in);
  find("cuMemcpyDtoH_v2", &f->copy_out);
  find("cuMemcpyDtoDAsync_v2", &f->copy_on_device);
  find("cuStreamCreate", &f->stream_create);
  find("cuStreamDestroy_v2", &f->stream_destroy);
  find("cuStreamSynchronize", &f->stream_wait);
  find("cuStreamBeginCapture_v2", &f->capture_begin);
  find("cuStreamEndCapture", &f->capture_end);
  find("cuGraphInstantiateWithFlags", &f->graph_instantiate);
  find("cuGraphLaunch", &f->graph_launch);
  find("cuGraphDestroy", &f->graph_destroy);
  find("cuGraphExecDestroy", &f->graph_exec_destroy);
  find("cuEventCreate", &f->event_create);
  find("cuEventRecord", &f->event_record);
  find("cuEventElapsedTime", &f->event_elapsed);
  find("cuEventDestroy_v2", &f->event_destroy);
  find("cuGetErrorString", &f->error_text);
  return missing;
}

}  // namespace

CudaDriver::CudaDriver() : f_(std::make_unique<CudaDriverFunctions>()) {}

Result<std::unique_ptr<CudaDriver>> CudaDriver::Open() {
  // Never unloaded: its threads outlive any user.
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    return Unsupported("there is no NVIDIA driver here (libcuda.so.1 cannot be loaded)");
  }
  std::unique_ptr<CudaDriver> driver(new CudaDriver);
  if (const char* missing = FindFunctions(library, driver->f_.get()); missing != nullptr) {
    return Unsupported(std::string("the NVIDIA driver is too old: it has no ") + missing);
  }
  CudaDriverFunctions& f = *driver->f_;
  void* context = nullptr;
  char name[128] = "";
  const bool ready = driver->Check(f.init(0), "starting the driver") &&
                     driver->Check(f.device_get(&driver->device_, 0), "finding a GPU") &&
                     driver->Check(f.device_get_name(name, sizeof(name) - 1, driver->device_),
                                   "asking the GPU's name") &&
                     driver->Check(f.context_retain(&context, driver->device_), "using the GPU");
  driver->retained_ = context != nullptr;
  if (ready && driver->Check(f.context_set(context), "using the GPU")) {
    driver->Check(f.stream_create(&driver->stream_, kStreamApart), "creating a stream");
  }
  driver->name_ = name;
  if (!driver->status_.ok()) return driver->status_;
  return driver;
}

CudaDriver::~CudaDriver() {
  FreeAll();
  if (stream_ != nullptr) f_->stream_destroy(stream_);
  if (retained_) f_->context_release(device_);
}

bool CudaDriver::Check(int result, const char* what) {
  if (result == 0) return true;
  if (!status_.ok()) return false;
  const char* text = nullptr;
  f_->error_text(result, &text);
  status_ = Unsupported(std::string(what) + " failed on the GPU: " +
                        (text != nullptr ? text : "error " + std::to_string(result)));
  return false;
}

size_t CudaDriver::free_bytes() {
  size_t free = 0;
  size_t total = 0;
  Check(f_->memory_info(&free, &total), "asking for free memory");
  return free;
}

void* CudaDriver::Allocate(size_t bytes) {
  Address at = 0;
  if (!Check(f_->allocate(&at, std::max<size_t>(bytes, 256)), "allocating memory")) return nullptr;
  void* memory = reinterpret_cast<void*>(at);
  memory_.push_back(memory);
  Check(f_->set_bytes(at, 0, std::max<size_t>(bytes, 256)), "clearing memory");
  return memory;
}

void CudaDriver::FreeAll() {
  for (void* p : memory_) f_->free(At(p));
  memory_.clear();
}

void CudaDriver::CopyIn(void* to, const void* from, size_t bytes) {
  if (to == nullptr || bytes == 0) return;
  Check(f_->copy_in(At(to), from, bytes), "copying to the GPU");
}

void CudaDriver::CopyOut(void* to, const void* from, size_t bytes) {
  if (from == nullptr || bytes == 0) return;
  Check(f_->copy_out(to, At(from), bytes), "copying from the GPU");
}

void CudaDriver::CopyOnDevice(void* to, const void* from, size_t bytes) {
  Check(f_->copy_on_device(At(to), At(from), bytes, stream_), "copying on the GPU");
}

void CudaDriver::Wait() { Check(f_->stream_wait(stream_), "running"); }

std::vector<double> CudaDriver::TimeGraph(int launches, int replays,
                                          const std::function<void(int)>& launch) {
  std::vector<double> seconds;
  void* graph = nullptr;
  void* exec = nullptr;
  void* begin = nullptr;
  void* end = nullptr;
  if (!Check(f_->capture_begin(stream_, kCaptureOfThisThread), "capturing")) return seconds;
  for (int i = 0; i < launches; ++i) launch(i);
  const bool ready = Check(f_->capture_end(stream_, &graph), "capturing") &&
                     Check(f_->graph_instantiate(&exec, graph, 0), "preparing a graph") &&
                     Check(f_->event_create(&begin, 0), "creating an event") &&
                     Check(f_->event_create(&end, 0), "creating an event");
  for (int i = -2; ready && i < replays; ++i) {
    float milliseconds = 0;
    const bool ran = Check(f_->event_record(begin, stream_), "recording an event") &&
                     Check(f_->graph_launch(exec, stream_), "launching a graph") &&
                     Check(f_->event_record(end, stream_), "recording an event") &&
                     Check(f_->stream_wait(stream_), "running") &&
                     Check(f_->event_elapsed(&milliseconds, begin, end), "reading the time");
    if (!ran) break;
    if (i >= 0) seconds.push_back(1e-3 * milliseconds / launches);
  }
  if (end != nullptr) f_->event_destroy(end);
  if (begin != nullptr) f_->event_destroy(begin);
  if (exec != nullptr) f_->graph_exec_destroy(exec);
  if (graph != nullptr) f_->graph_destroy(graph);
  return seconds;
}

}  // namespace turboquant
