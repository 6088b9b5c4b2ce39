// Whether this machine can run the library, and if not, what to do about it.
#include <cuda_runtime.h>

#include <cstdio>

#include "kernels/cuda/cuda_api.h"

namespace {

__global__ void Probe() {}

// The major and minor version in one of CUDA's version numbers.
int Major(int version) { return version / 1000; }
int Minor(int version) { return version % 1000 / 10; }

// Fills reason; nothing where all is well.
tq_cuda_status CheckDevice(char* reason, size_t bytes) {
  int driver = 0, count = 0;
  cudaDriverGetVersion(&driver);
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver && driver == 0) {
    std::snprintf(reason, bytes,
                  "There is no NVIDIA driver (libcuda.so.1): install one that serves CUDA %d.%d.",
                  Major(CUDART_VERSION), Minor(CUDART_VERSION));
    return TQ_CUDA_UNSUPPORTED;
  }
  if (error == cudaErrorInsufficientDriver) {
    std::snprintf(reason, bytes, "The NVIDIA driver serves CUDA %d.%d: update it, %d.%d is needed.",
                  Major(driver), Minor(driver), Major(CUDART_VERSION), Minor(CUDART_VERSION));
    return TQ_CUDA_UNSUPPORTED;
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    std::snprintf(reason, bytes, "There is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it.");
    return TQ_CUDA_UNSUPPORTED;
  }
  tq_cuda_device device{};
  const tq_cuda_status status = tq_cuda_query_device(&device);
  if (error != cudaSuccess || status == TQ_CUDA_FAILED) {
    std::snprintf(reason, bytes, "The CUDA driver failed: %s.",
                  cudaGetErrorString(error != cudaSuccess ? error : cudaPeekAtLastError()));
    return TQ_CUDA_FAILED;
  }
  if (status != TQ_CUDA_OK) {
    std::snprintf(reason, bytes, "The GPU has compute capability %d.%d: 8.0 or more is needed.",
                  device.compute_capability / 10, device.compute_capability % 10);
    return TQ_CUDA_UNSUPPORTED;
  }
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, Probe) != cudaSuccess) {
    cudaGetLastError();
    std::snprintf(reason, bytes,
                  "This build has no code for compute capability %d.%d: build it with "
                  "-DTURBOQUANT_CUDA_ARCHITECTURES=%d-real.",
                  device.compute_capability / 10, device.compute_capability % 10,
                  device.compute_capability);
    return TQ_CUDA_UNSUPPORTED;
  }
  return TQ_CUDA_OK;
}

}  // namespace

extern "C" tq_cuda_status tq_cuda_check_device(char* reason, size_t reason_bytes) {
  char text[200] = "";
  const tq_cuda_status status = CheckDevice(text, sizeof(text));
  if (reason != nullptr && reason_bytes > 0) std::snprintf(reason, reason_bytes, "%s", text);
  return status;
}
