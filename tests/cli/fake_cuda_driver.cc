// Stands in for the NVIDIA driver: device memory is the host's, work is done when it is launched,
// and a graph takes a millisecond or a little more, whatever it holds.
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

using Address = unsigned long long;  // NOLINT(google-runtime-int): the driver's own type

struct Stream {
  int replays = 0;
};
Stream g_stream;

void* At(Address a) { return reinterpret_cast<void*>(a); }

}  // namespace

#define TQ_FAKE __attribute__((visibility("default")))

extern "C" {

TQ_FAKE int cuInit(unsigned) { return std::getenv("FAKE_NO_GPU") != nullptr ? 100 : 0; }
TQ_FAKE int cuDeviceGet(int* device, int) { return *device = 0; }
TQ_FAKE int cuDeviceGetName(char* name, int n, int) {
  std::strncpy(name, "Paper GPU", static_cast<size_t>(n));
  return 0;
}
TQ_FAKE int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &g_stream;
  return 0;
}
TQ_FAKE int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
TQ_FAKE int cuCtxSetCurrent(void*) { return 0; }
TQ_FAKE int cuMemGetInfo_v2(size_t* free, size_t* total) {
  *free = *total = size_t{64} << 20;
  return 0;
}
TQ_FAKE int cuMemAlloc_v2(Address* at, size_t bytes) {
  void* p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  *at = reinterpret_cast<Address>(p);
  return p == nullptr ? 2 : 0;
}
TQ_FAKE int cuMemFree_v2(Address at) {
  std::free(At(at));
  return 0;
}
TQ_FAKE int cuMemsetD8_v2(Address at, unsigned char value, size_t bytes) {
  std::memset(At(at), value, bytes);
  return 0;
}
TQ_FAKE int cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
  std::memcpy(At(to), from, bytes);
  return 0;
}
TQ_FAKE int cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
  std::memcpy(to, At(from), bytes);
  return 0;
}
TQ_FAKE int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void*) {
  std::memcpy(At(to), At(from), bytes);
  return 0;
}
TQ_FAKE int cuStreamCreate(void** stream, unsigned) {
  *stream = &g_stream;
  return 0;
}
TQ_FAKE int cuStreamDestroy_v2(void*) { return 0; }
TQ_FAKE int cuStreamSynchronize(void*) { return 0; }
TQ_FAKE int cuStreamBeginCapture_v2(void*, int) { return 0; }
TQ_FAKE int cuStreamEndCapture(void*, void** graph) {
  *graph = &g_stream;
  return 0;
}
TQ_FAKE int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
  *exec = graph;
  return 0;
}
TQ_FAKE int cuGraphLaunch(void*, void*) {
  ++g_stream.replays;
  return 0;
}
TQ_FAKE int cuGraphDestroy(void*) { return 0; }
TQ_FAKE int cuGraphExecDestroy(void*) { return 0; }
TQ_FAKE int cuEventCreate(void** event, unsigned) {
  *event = &g_stream;
  return 0;
}
TQ_FAKE int cuEventRecord(void*, void*) { return 0; }
TQ_FAKE int cuEventElapsedTime(float* milliseconds, void*, void*) {
  *milliseconds = 1.0f + 0.01f * static_cast<float>(g_stream.replays % 3);
  return 0;
}
TQ_FAKE int cuEventDestroy_v2(void*) { return 0; }
TQ_FAKE int cuGetErrorString(int error, const char** text) {
  *text = error == 100 ? "no CUDA-capable device is detected" : "out of paper";
  return 0;
}

}  // extern "C"
