// src/kernels/cuda/kernel_launch.cuh in plain C++.
#ifndef TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_
#define TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_

#include "cuda_runtime.h"

namespace turboquant::cuda {

template <auto kKernel, class Args>
cudaError_t LaunchKernel(dim3 grid, int threads, int dynamic_bytes, cudaStream_t,
                         const Args& args) {
  return emulation::Launch(grid, threads, static_cast<size_t>(dynamic_bytes),
                           [&] { kKernel(args); })
             ? cudaSuccess
             : cudaErrorInvalidValue;
}

template <auto kKernel, class Args>
cudaError_t LaunchKernelEarly(dim3 grid, int threads, int dynamic_bytes, cudaStream_t stream,
                              const Args& args) {
  return LaunchKernel<kKernel>(grid, threads, dynamic_bytes, stream, args);
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_KERNEL_LAUNCH_CUH_
