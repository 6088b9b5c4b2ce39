// From bit planes of trellis codes to indices of the alphabet, on the vectors of the including
// translation unit: what the kernels of coded rows share, whatever their lanes are.
#ifndef TURBOQUANT_KERNELS_CPU_TRELLIS_PLANES_H_
#define TURBOQUANT_KERNELS_CPU_TRELLIS_PLANES_H_

#include "codec/format.h"
#include "codec/trellis.h"

namespace turboquant {
namespace {

// The code that the cache uses with kBits bits a value.
template <int kBits>
constexpr TrellisView kCacheTrellis = Trellis(kBits,
                                              TrellisMemory(static_cast<Format>(16 + kBits)));

// The path delayed by kDelay values. A field of kSpan bits (a dword or a byte) holds as many
// values; `before` holds the fields in front.
template <int kSpan, int kDelay>
TQ_INLINE IntVec Delayed(IntVec path, IntVec before) {
  if constexpr (kDelay == 0) {
    return path;
  } else if constexpr (kSpan == 32) {
    return ShiftLeftInto<kDelay>(path, before);
  } else {
    constexpr uint32_t kOwn = 0x01010101u * ((0xFFu << kDelay) & 0xFFu);
    return SelectBits<kOwn>(ShiftLeft<kDelay>(path), ShiftRight<8 - kDelay>(before));
  }
}

// The parity of the bits of the polynomial, for every value.
template <unsigned kPolynomial, int kSpan, int kDelay = 0>
TQ_INLINE IntVec ParityOf(IntVec path, IntVec before) {
  constexpr unsigned kRest = kPolynomial >> 1;
  if constexpr ((kPolynomial & 1u) == 0) {
    return ParityOf<kRest, kSpan, kDelay + 1>(path, before);
  } else if constexpr (kRest == 0) {
    return Delayed<kSpan, kDelay>(path, before);
  } else {
    return Xor(Delayed<kSpan, kDelay>(path, before),
               ParityOf<kRest, kSpan, kDelay + 1>(path, before));
  }
}

// Exchanges the odd fields of kShift bits of `a` with the even ones of `b`; kEven has the even
// ones.
template <int kShift, uint32_t kEven>
TQ_INLINE void ExchangeFields(IntVec* a, IntVec* b) {
#if defined(__AVX2__) && !defined(__AVX512F__)  // a selection takes three instructions there
  const IntVec differ =
      _mm256_and_si256(Xor(ShiftRight<kShift>(*a), *b), SetInt(static_cast<int>(kEven)));
  *a = Xor(*a, ShiftLeft<kShift>(differ));
  *b = Xor(*b, differ);
#else
  const IntVec even = SelectBits<kEven>(*a, ShiftLeft<kShift>(*b));
  *b = SelectBits<kEven>(ShiftRight<kShift>(*a), *b);
  *a = even;
#endif
}

// Eight vectors of one index a byte from the planes of 8 values a byte (planes 0 and 1: the low and
// high bit of the subset, then the refinement): byte b of idx[e] is the index of value e of byte b.
// Bits above the index are left as they fall.
template <int kBits>
TQ_INLINE void IndexBytes(const IntVec (&plane)[kBits + 1], IntVec (&idx)[8]) {
  constexpr uint32_t kEvenBits = 0x55555555;
  constexpr uint32_t kEvenPairs = 0x33333333;
  idx[0] = plane[0];
  idx[1] = plane[1];
  ExchangeFields<1, kEvenBits>(&idx[0], &idx[1]);  // pairs of bits of the even values, of the odd
  if constexpr (kBits == 2) {
    constexpr uint32_t kThird = 0x44444444;
    idx[2] = SelectBits<kThird>(plane[2], ShiftRight<2>(idx[0]));
    idx[3] = SelectBits<kThird>(ShiftRight<1>(plane[2]), ShiftRight<2>(idx[1]));
    idx[0] = SelectBits<kThird>(ShiftLeft<2>(plane[2]), idx[0]);
    idx[1] = SelectBits<kThird>(ShiftLeft<1>(plane[2]), idx[1]);
  } else {
    idx[2] = plane[2];
    idx[3] = plane[3];
    ExchangeFields<1, kEvenBits>(&idx[2], &idx[3]);
    ExchangeFields<2, kEvenPairs>(&idx[0], &idx[2]);
    ExchangeFields<2, kEvenPairs>(&idx[1], &idx[3]);
  }
  for (int e = 0; e < 4; ++e) idx[4 + e] = ShiftRight<4>(idx[e]);
  if constexpr (kBits == 4) {
    constexpr uint32_t kFifth = 0x10101010;
    idx[0] = SelectBits<kFifth>(ShiftLeft<4>(plane[4]), idx[0]);
    idx[1] = SelectBits<kFifth>(ShiftLeft<3>(plane[4]), idx[1]);
    idx[2] = SelectBits<kFifth>(ShiftLeft<2>(plane[4]), idx[2]);
    idx[3] = SelectBits<kFifth>(ShiftLeft<1>(plane[4]), idx[3]);
    idx[4] = SelectBits<kFifth>(plane[4], idx[4]);
    idx[5] = SelectBits<kFifth>(ShiftRight<1>(plane[4]), idx[5]);
    idx[6] = SelectBits<kFifth>(ShiftRight<2>(plane[4]), idx[6]);
    idx[7] = SelectBits<kFifth>(ShiftRight<3>(plane[4]), idx[7]);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_TRELLIS_PLANES_H_
