// TQ_HD marks the scalar truth: inline functions that the CPU and a CUDA kernel compile alike.
#ifndef TURBOQUANT_BASE_HOST_DEVICE_H_
#define TURBOQUANT_BASE_HOST_DEVICE_H_

#ifdef __CUDACC__
#define TQ_HD __host__ __device__
#else
#define TQ_HD
#endif

#endif  // TURBOQUANT_BASE_HOST_DEVICE_H_
