// The PTX instructions that CUDA C++ has no name for, and the page ring built on them.
#ifndef TURBOQUANT_KERNELS_CUDA_PTX_CUH_
#define TURBOQUANT_KERNELS_CUDA_PTX_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace turboquant::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ uint32_t Prmt(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t d;
  asm("prmt.b32 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}

// x >> 16 on the multiplier pipe (`one_shifted` is 0x100 and must be opaque to the compiler): the
// logic pipe, which PRMT needs, is the narrow one.
__device__ __forceinline__ uint32_t HighHalf(uint32_t x, uint32_t one_shifted) {
  uint32_t d;
  asm("dp2a.lo.u32.u32 %0,%1,%2,0;" : "=r"(d) : "r"(x), "r"(one_shifted));
  return d;
}

// add + the sum of products of unsigned bytes, on the multiplier pipe as well. With one factor that
// is a power of two: a byte of x at its place in an address.
__device__ __forceinline__ uint32_t ByteProduct(uint32_t x, uint32_t factors, uint32_t add) {
  uint32_t d;
  asm("dp4a.u32.u32 %0,%1,%2,%3;" : "=r"(d) : "r"(x), "r"(factors), "r"(add));
  return d;
}

// c += a b, m16n8k32, a and b of signed bytes.
__device__ __forceinline__ void MmaSigned(int (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same with unsigned bytes in b.
__device__ __forceinline__ void MmaUnsigned(int (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b, m16n8k16, fp16 in, fp32 out.
__device__ __forceinline__ void MmaHalf(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint4 LoadShared16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address));
  return v;
}

__device__ __forceinline__ uint2 LoadShared8(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1},[%2];" : "=r"(v.x), "=r"(v.y) : "r"(address));
  return v;
}
__device__ __forceinline__ uint32_t LoadShared4(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0,[%1];" : "=r"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ uint32_t LoadShared2(uint32_t address) {
  uint16_t v;
  asm volatile("ld.shared.u16 %0,[%1];" : "=h"(v) : "r"(address));
  return v;
}

// The upper word of {high, low} << n; n is taken modulo 32.
__device__ __forceinline__ uint32_t FunnelLeft(uint32_t low, uint32_t high, int n) {
  return __funnelshift_l(low, high, static_cast<uint32_t>(n));
}

// Words of read-only memory if `there`; else they stay. Nothing waits for them before their use.
__device__ __forceinline__ void LoadIf(const void* from, bool there, uint32_t* w) {
  asm volatile("{.reg .pred P;\nsetp.ne.s32 P,%2,0;\n@P ld.global.nc.b32 %0,[%1];}"
               : "+r"(*w)
               : "l"(from), "r"(there ? 1 : 0));
}
__device__ __forceinline__ void LoadIf(const void* from, bool there, uint32_t* w0, uint32_t* w1) {
  asm volatile("{.reg .pred P;\nsetp.ne.s32 P,%3,0;\n@P ld.global.nc.v2.b32 {%0,%1},[%2];}"
               : "+r"(*w0), "+r"(*w1)
               : "l"(from), "r"(there ? 1 : 0));
}

// A store that the compiler leaves alone.
__device__ __forceinline__ void StoreShared(uint32_t address, uint32_t word) {
  asm volatile("st.shared.u32 [%0],%1;" ::"r"(address), "r"(word));
}

// Memory that other CTAs write or read during this launch, past L1. No order among accesses.
__device__ __forceinline__ float4 LoadRelaxed(const float4* p) {
  float4 v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0,%1,%2,%3},[%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ float LoadRelaxed(const float* p) {
  float v;
  asm volatile("ld.relaxed.gpu.global.f32 %0,[%1];" : "=f"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void StoreRelaxed(float4* p, const float4& v) {
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0],{%1,%2,%3,%4};" ::"l"(p), "f"(v.x), "f"(v.y),
               "f"(v.z), "f"(v.w)
               : "memory");
}
__device__ __forceinline__ void StoreRelaxed(float* p, float v) {
  asm volatile("st.relaxed.gpu.global.f32 [%0],%1;" ::"l"(p), "f"(v) : "memory");
}

// 1 on the counter, ordered after this thread's writes and before its reads; the old value.
__device__ __forceinline__ int TakeTicket(int* counter) {
  int old;
  asm volatile("atom.add.acq_rel.gpu.s32 %0,[%1],1;" : "=r"(old) : "l"(counter) : "memory");
  return old;
}

// A warp's own ring of pages in shared memory. Request and Wait are called by the whole warp.
// Between two calls of Wait there is exactly one of Request or Skip. kSlots: requests in flight,
// each with a barrier of its own.
template <int kSlots>
class PageRing {
 public:
  // `barriers`: shared memory for kSlots 8-byte barriers.
  __device__ __forceinline__ PageRing(uint32_t barriers, int lane)
      : barriers_(barriers), lane_(lane) {
#if __CUDA_ARCH__ >= 900
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0,1.0;" : "=l"(policy_));
    if (lane == 0) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0],1;" ::"r"(barriers + 8 * s) : "memory");
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
  }

  // Brings up to three pieces to shared memory; those of 0 bytes are left out.
  __device__ __forceinline__ void Request(int slot, uint32_t to0, const void* from0, int bytes0,
                                          uint32_t to1 = 0, const void* from1 = nullptr,
                                          int bytes1 = 0, uint32_t to2 = 0,
                                          const void* from2 = nullptr, int bytes2 = 0) const {
#if __CUDA_ARCH__ >= 900
    if (lane_ == 0) {
      const uint32_t barrier = barriers_ + 8 * slot;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(barrier),
                   "r"(bytes0 + bytes1 + bytes2)
                   : "memory");
      Bulk(to0, from0, bytes0, barrier);
      if (bytes1 > 0) Bulk(to1, from1, bytes1, barrier);
      if (bytes2 > 0) Bulk(to2, from2, bytes2, barrier);
    }
#else
    Copy(to0, from0, bytes0);
    Copy(to1, from1, bytes1);
    Copy(to2, from2, bytes2);
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }

  __device__ __forceinline__ void Skip() const {
#if __CUDA_ARCH__ < 900
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }

  __device__ __forceinline__ void Wait(int slot, uint32_t parity) const {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred P;\nWAIT_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 P,[%0],%1;\n"
        "@P bra.uni DONE_%=;\nbra.uni WAIT_%=;\nDONE_%=:\n}" ::"r"(barriers_ + 8 * slot),
        "r"(parity)
        : "memory");
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(kSlots - 1) : "memory");
    __syncwarp();
#endif
  }

 private:
#if __CUDA_ARCH__ >= 900
  __device__ __forceinline__ void Bulk(uint32_t to, const void* from, int bytes,
                                       uint32_t barrier) const {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0],[%1],%2,[%3],%4;" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "l"(policy_)
        : "memory");
  }
#else
  __device__ __forceinline__ void Copy(uint32_t to, const void* from, int bytes) const {
    for (int i = lane_ * 16; i < bytes; i += 512) {
      asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(to + i),
                   "l"(static_cast<const uint8_t*>(from) + i)
                   : "memory");
    }
  }
#endif

  uint32_t barriers_;
  int lane_;
#if __CUDA_ARCH__ >= 900
  uint64_t policy_;
#endif
};

// Holds back until the kernel before this one in the stream is done, if this one was launched
// early.
__device__ __forceinline__ void WaitForKernelBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the next kernel of the stream may be launched early.
__device__ __forceinline__ void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_PTX_CUH_
