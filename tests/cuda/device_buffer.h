// Device memory and launch checks for the CUDA programs of tests and bench.
#ifndef TURBOQUANT_TESTS_CUDA_DEVICE_BUFFER_H_
#define TURBOQUANT_TESTS_CUDA_DEVICE_BUFFER_H_

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace turboquant::cuda {

inline void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(3);
}

template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t n) : size_(n) {
    if (n > 0) CheckCuda(cudaMalloc(&data_, n * sizeof(T)), "cudaMalloc");
  }
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size()) { Upload(host); }
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
  }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }

  T* get() const { return data_; }
  size_t size() const { return size_; }

  void Upload(const std::vector<T>& host) {
    if (host.empty()) return;
    CheckCuda(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice),
              "upload");
  }
  std::vector<T> Download() const {
    std::vector<T> host(size_);
    if (size_ > 0) {
      CheckCuda(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
                "download");
    }
    return host;
  }
  void Fill(int byte) {
    if (size_ > 0) CheckCuda(cudaMemset(data_, byte, size_ * sizeof(T)), "cudaMemset");
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_TESTS_CUDA_DEVICE_BUFFER_H_
