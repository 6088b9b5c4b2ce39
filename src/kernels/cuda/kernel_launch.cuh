// Launches a kernel. The host tests have the same function (tests/cuda/emulation).
#ifndef TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_
#define TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_

#include <cuda_runtime.h>

namespace turboquant::cuda {

// early: the launch may begin while the kernel before it in the stream ends.
template <auto kKernel, class Args>
cudaError_t LaunchKernel(dim3 grid, int threads, int dynamic_bytes, bool early, cudaStream_t stream,
                         const Args& args) {
  const cudaError_t set =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_bytes);
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
  config.numAttrs = early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kKernel, args);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_
