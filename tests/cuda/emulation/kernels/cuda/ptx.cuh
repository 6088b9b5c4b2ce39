// src/kernels/cuda/ptx.cuh in plain C++.
#ifndef TURBOQUANT_KERNELS_CUDA_PTX_CUH_
#define TURBOQUANT_KERNELS_CUDA_PTX_CUH_

#include <cstdlib>
#include <map>

#include "base/fp16.h"
#include "cuda_emulation.h"
#include "kernels/cuda/tile_layout.h"

namespace turboquant::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(static_cast<const uint8_t*>(p) - emulation::DynamicBytes());
}

inline float Exp2(float x) { return std::exp2(x); }
inline float Reciprocal(float x) { return 1.0f / x; }

// c += a b, m16n8k16: element (g + 8 i, 2 t + e) of c, by the fragments' definition in the PTX ISA.
template <float (*kToFloat)(uint16_t)>
void MmaEmulated(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Slot {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
  } slot{c, a, {b0, b1}};
  emulation::WithWarp(&slot, [](void** slots) {
    const auto value = [](uint32_t word, int half) {
      return kToFloat(static_cast<uint16_t>(word >> (16 * half)));
    };
    float x[16][16], y[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Slot* s = static_cast<const Slot*>(slots[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        for (int e = 0; e < 2; ++e) x[g + 8 * (i % 2)][2 * t + e + 8 * (i / 2)] = value(s->a[i], e);
      }
      for (int i = 0; i < 2; ++i) {
        for (int e = 0; e < 2; ++e) y[2 * t + e + 8 * i][g] = value(s->b[i], e);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      Slot* s = static_cast<Slot*>(slots[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += x[g + 8 * (i / 2)][k] * y[k][2 * t + i % 2];
        s->c[i] += sum;
      }
    }
  });
}

// c += a b, m16n8k32 of bytes: k = 4 t + i of word 0 or 1 of a row, + 16 of the others.
template <typename B>
void MmaBytes(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Slot {
    int* c;
    const uint32_t* a;
    uint32_t b[2];
  } slot{c, a, {b0, b1}};
  emulation::WithWarp(&slot, [](void** slots) {
    int x[16][32], y[32][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Slot* s = static_cast<const Slot*>(slots[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        for (int e = 0; e < 4; ++e) {
          x[g + 8 * (i % 2)][4 * t + e + 16 * (i / 2)] = static_cast<int8_t>(s->a[i] >> (8 * e));
        }
      }
      for (int i = 0; i < 2; ++i) {
        for (int e = 0; e < 4; ++e) y[4 * t + e + 16 * i][g] = static_cast<B>(s->b[i] >> (8 * e));
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      Slot* s = static_cast<Slot*>(slots[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < 32; ++k) s->c[i] += x[g + 8 * (i / 2)][k] * y[k][2 * t + i % 2];
      }
    }
  });
}

inline void MmaSigned(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaBytes<int8_t>(c, a, b0, b1);
}
inline void MmaUnsigned(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaBytes<uint8_t>(c, a, b0, b1);
}

inline uint32_t Prmt(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i) & 15u;
    uint32_t byte = static_cast<uint32_t>(both >> (8 * (nibble & 7u))) & 255u;
    if ((nibble & 8u) != 0) byte = (byte & 128u) != 0 ? 255u : 0u;
    out |= byte << (8 * i);
  }
  return out;
}

inline uint32_t HighHalf(uint32_t x, uint32_t) { return x >> 16; }

inline uint32_t ByteProduct(uint32_t x, uint32_t factors, uint32_t add) {
  for (int i = 0; i < 32; i += 8) add += (x >> i & 255u) * (factors >> i & 255u);
  return add;
}

inline uint4 LoadShared16(uint32_t address) {
  uint4 v;
  std::memcpy(&v, emulation::DynamicBytes() + address, 16);
  return v;
}
template <typename T>
T LoadSharedAs(uint32_t address) {
  if (address % sizeof(T) != 0) std::abort();
  T v;
  std::memcpy(&v, emulation::DynamicBytes() + address, sizeof(T));
  return v;
}
inline uint2 LoadShared8(uint32_t address) {
  const uint64_t both = LoadSharedAs<uint64_t>(address);
  return {static_cast<uint32_t>(both), static_cast<uint32_t>(both >> 32)};
}
inline uint32_t LoadShared4(uint32_t address) { return LoadSharedAs<uint32_t>(address); }
inline uint32_t LoadShared2(uint32_t address) { return LoadSharedAs<uint16_t>(address); }
inline void StoreShared(uint32_t, uint32_t) {}

inline uint32_t FunnelLeft(uint32_t low, uint32_t high, int n) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  return static_cast<uint32_t>((both << (static_cast<unsigned>(n) % 32u)) >> 32);
}

inline void LoadIf(const void* from, bool there, uint32_t* w) {
  if (there) std::memcpy(w, from, 4);
}
inline void LoadIf(const void* from, bool there, uint32_t* w0, uint32_t* w1) {
  LoadIf(from, there, w0);
  LoadIf(static_cast<const uint8_t*>(from) + 4, there, w1);
}

template <typename T>
T LoadRelaxed(const T* p) {
  return *p;
}
template <typename T>
void StoreRelaxed(T* p, const T& v) {
  *p = v;
}
inline int TakeTicket(int* counter) { return (*counter)++; }

// Pieces come when they are waited for, and not before; their place is spoilt when they are asked
// for. A wait for nothing ends the program: the GPU would hang.
template <int kSlots>
class PageRing {
 public:
  PageRing(uint32_t barriers, int lane) : barriers_(barriers), lane_(lane) {
    if (lane == 0) {
      for (int i = 0; i < kSlots; ++i) States()[barriers + 8 * static_cast<uint32_t>(i)] = State();
    }
    __syncwarp();
  }

  void Request(int slot, uint32_t to0, const void* from0, int bytes0, uint32_t to1 = 0,
               const void* from1 = nullptr, int bytes1 = 0, uint32_t to2 = 0,
               const void* from2 = nullptr, int bytes2 = 0) const {
    if (lane_ != 0) return;
    State& state = Of(slot);
    if (state.asked) std::abort();
    state.asked = true;
    const Piece pieces[3] = {{to0, from0, bytes0}, {to1, from1, bytes1}, {to2, from2, bytes2}};
    for (int i = 0; i < 3; ++i) {
      state.pieces[i] = pieces[i];
      if (pieces[i].bytes % 16 != 0 || pieces[i].to % 16 != 0) std::abort();
      std::memset(emulation::DynamicBytes() + pieces[i].to, 0xFF,
                  static_cast<size_t>(pieces[i].bytes));
    }
  }

  void Skip() const {}

  void Wait(int slot, uint32_t parity) const {
    State& state = Of(slot);
    if (((state.phase ^ parity) & 1u) == 0) {
      if (!state.asked) std::abort();
      for (const Piece& piece : state.pieces) {
        if (piece.bytes > 0) {
          std::memcpy(emulation::DynamicBytes() + piece.to, piece.from,
                      static_cast<size_t>(piece.bytes));
        }
      }
      state.asked = false;
      ++state.phase;
    }
  }

 private:
  struct Piece {
    uint32_t to = 0;
    const void* from = nullptr;
    int bytes = 0;
  };
  struct State {
    Piece pieces[3];
    bool asked = false;
    uint32_t phase = 0;
  };
  static std::map<uint32_t, State>& States() {
    static std::map<uint32_t, State> states;
    return states;
  }
  State& Of(int slot) const { return States()[barriers_ + 8 * static_cast<uint32_t>(slot)]; }

  uint32_t barriers_;
  int lane_;
};

inline void MmaHalf(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaEmulated<HalfToFloat>(c, a, b0, b1);
}

inline void WaitForKernelBefore() {}
inline void LetNextKernelStart() {}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_PTX_CUH_
