// Launches a kernel. The host tests have the same function (tests/cuda/emulation).
#ifndef TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_
#define TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_

#include <cuda_runtime.h>

namespace turboquant::cuda {

template <auto kKernel, class Args>
cudaError_t LaunchKernel(dim3 grid, int threads, int dynamic_bytes, cudaStream_t stream,
                         const Args& args) {
  const cudaError_t set =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_bytes);
  if (set != cudaSuccess) return set;
  kKernel<<<grid, threads, dynamic_bytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_
