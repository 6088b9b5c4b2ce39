// The few calls of the CUDA driver that a measurement needs: memory, copies, a stream, graphs and
// events. The driver is loaded when it is asked for; nothing here needs a toolkit to be built.
#ifndef TURBOQUANT_EVAL_CUDA_DRIVER_H_
#define TURBOQUANT_EVAL_CUDA_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace turboquant {

struct CudaDriverFunctions;

// The first GPU, current in this thread. Every failed call is remembered: the first one is
// status().
class CudaDriver {
 public:
  // Unsupported without a driver or a GPU.
  static Result<std::unique_ptr<CudaDriver>> Open();
  ~CudaDriver();
  CudaDriver(const CudaDriver&) = delete;
  CudaDriver& operator=(const CudaDriver&) = delete;

  const std::string& device_name() const { return name_; }
  size_t free_bytes();
  const Status& status() const { return status_; }

  // Zeroed memory that lives as long as the driver; null if there is none.
  void* Allocate(size_t bytes);
  void FreeAll();

  template <typename T>
  T* Upload(const std::vector<T>& values) {
    void* to = Allocate(values.size() * sizeof(T));
    CopyIn(to, values.data(), values.size() * sizeof(T));
    return static_cast<T*>(to);
  }
  template <typename T>
  std::vector<T> Download(const void* from, size_t n) {
    std::vector<T> values(n);
    CopyOut(values.data(), from, n * sizeof(T));
    return values;
  }
  void CopyOnDevice(void* to, const void* from, size_t bytes);  // in the stream
  void Wait();

  void* stream() const { return stream_; }

  // Seconds of one of `launches` launches, measured by events around a graph of all of them: one
  // value a replay, after two that do not count. launch(i) puts launch i on the stream.
  std::vector<double> TimeGraph(int launches, int replays, const std::function<void(int)>& launch);

 private:
  CudaDriver();

  void CopyIn(void* to, const void* from, size_t bytes);
  void CopyOut(void* to, const void* from, size_t bytes);
  bool Check(int result, const char* what);

  std::unique_ptr<CudaDriverFunctions> f_;
  std::string name_;
  Status status_;
  int device_ = 0;
  bool retained_ = false;
  void* stream_ = nullptr;
  std::vector<void*> memory_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_CUDA_DRIVER_H_
