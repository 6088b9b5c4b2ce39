// CUDA C++ on the host, as far as the kernels need it: threads of a CTA are fibers of one
// thread, what a warp does together happens when its last lane arrives. A kernel that is compiled
// against the headers of this folder instead of CUDA's runs in the tests, without a GPU. It finds
// wrong indices, masks and barriers, not races within a warp.
#ifndef TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_EMULATION_H_
#define TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_EMULATION_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) int4 {
  int32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

namespace emulation {

inline constexpr int kWarp = 32;

extern dim3 thread_index, block_index, grid_size;

// Runs kernel() once for every thread of every CTA. Dynamic shared memory is filled with NaN.
// False: a thread waits for others that never come (or too many threads, or too much shared
// memory).
bool Launch(dim3 grid, int threads, size_t dynamic_bytes, const std::function<void()>& kernel);

uint8_t* DynamicBytes();

void WaitForBlock();

// Every lane of the warp brings its `slot`; when all are there, `act` gets the slots of all lanes,
// once, before any lane goes on.
void WithWarp(void* slot, void (*act)(void** slots));

// The copies of CopyAsync16 and CopyAsync4: done at the latest possible time, when they are waited
// for.
void QueueCopy(void* to, const void* from, size_t bytes, bool there);
void CommitCopies();
void WaitCopies(int pending);

}  // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define gridDim emulation::grid_size

inline void __syncthreads() { emulation::WaitForBlock(); }
inline bool __syncthreads_or(bool mine) {
  static bool any;
  emulation::WaitForBlock();
  any = false;
  emulation::WaitForBlock();
  any = any || mine;
  emulation::WaitForBlock();
  return any;
}
inline void __syncwarp() {
  emulation::WithWarp(nullptr, [](void**) {});
}

template <typename T>
T __ldg(const T* from) {
  return *from;
}

template <typename T>
T ShuffleFrom(T value, int source) {
  struct Slot {
    T value;
    int source;
    T result;
  } slot{value, source, {}};
  emulation::WithWarp(&slot, [](void** slots) {
    for (int i = 0; i < emulation::kWarp; ++i) {
      Slot* mine = static_cast<Slot*>(slots[i]);
      mine->result = static_cast<Slot*>(slots[mine->source])->value;
    }
  });
  return slot.result;
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return ShuffleFrom(value, static_cast<int>(threadIdx.x % emulation::kWarp) ^ mask);
}

template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  return ShuffleFrom(value, source);
}

inline bool __any_sync(unsigned, bool mine) {
  int any = mine ? 1 : 0;
  for (int h = 1; h < emulation::kWarp; h *= 2) any |= __shfl_xor_sync(0u, any, h);
  return any != 0;
}
inline bool __all_sync(unsigned all, bool mine) { return !__any_sync(all, !mine); }

template <typename T>
T atomicAdd(T* to, T value) {
  const T old = *to;
  *to += value;
  return old;
}

inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }

inline uint32_t __float_as_uint(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

inline float __uint_as_float(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

#endif  // TURBOQUANT_TESTS_CUDA_EMULATION_CUDA_EMULATION_H_
