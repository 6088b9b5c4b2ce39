// Launches a kernel. The host tests have the same functions (tests/cuda/emulation).
#ifndef TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_
#define TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_

#include <cuda_runtime.h>

namespace turboquant::cuda {

// Lets the kernel have that much dynamic shared memory. More than 48 KiB, static ones included, must
// be asked for.
template <auto kKernel>
cudaError_t AllowBytes(int dynamic_bytes) {
  if (dynamic_bytes == 0) return cudaSuccess;
  return cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_bytes);
}

template <auto kKernel, class Args>
cudaError_t LaunchKernel(dim3 grid, int threads, int dynamic_bytes, cudaStream_t stream,
                         const Args& args) {
  const cudaError_t set = AllowBytes<kKernel>(dynamic_bytes);
  if (set != cudaSuccess) return set;
  kKernel<<<grid, threads, dynamic_bytes, stream>>>(args);
  return cudaGetLastError();
}

// The launch may begin while the kernel before it in the stream ends: the kernel calls
// WaitForKernelBefore ahead of its first access to memory that others write.
template <auto kKernel, class Args>
cudaError_t LaunchKernelEarly(dim3 grid, int threads, int dynamic_bytes, cudaStream_t stream,
                              const Args& args) {
  const cudaError_t set = AllowBytes<kKernel>(dynamic_bytes);
  if (set != cudaSuccess) return set;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(dynamic_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kKernel, args);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_
