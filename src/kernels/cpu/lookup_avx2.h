// Byte tables and loads of codes with AVX2, for dots_avx2.h and dots_avxvnni.h. Names and meaning
// are those of dots_avx512.h.
#ifndef TURBOQUANT_KERNELS_CPU_LOOKUP_AVX2_H_
#define TURBOQUANT_KERNELS_CPU_LOOKUP_AVX2_H_

#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

TQ_INLINE IntVec LoadCodes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
TQ_INLINE IntVec LoadCodesFirst(const uint8_t* p, int count) {
  if (count == kLanes) return LoadCodes(p);
  return _mm256_maskload_epi32(reinterpret_cast<const int*>(p), FirstLanes(count));
}
// The dword in front of each; in front of the first, zero.
TQ_INLINE IntVec DwordsBefore(IntVec v) {
  const IntVec turned = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6));
  return _mm256_blend_epi32(turned, ZeroInt(), 1);
}
TQ_INLINE IntVec LoadCodesHalves(const uint8_t* p0, const uint8_t* /*p1*/) { return LoadCodes(p0); }

// ---- lookup ----

struct ByteTable {
  IntVec bytes;
};
TQ_INLINE ByteTable LoadByteTable(const uint8_t* bytes) {
  return {_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)))};
}
// vpshufb looks at bits 0..3 of an index, and gives zero if bit 7 is set.
TQ_INLINE IntVec AndDwords(IntVec v, uint32_t mask) {
  return _mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(mask)));
}
template <int kBits>
TQ_INLINE IntVec LookupLow(const ByteTable& table, IntVec v) {
  return _mm256_shuffle_epi8(table.bytes, kBits == 4 ? AndDwords(v, 0x0F0F0F0Fu) : v);
}
template <int kBits>
TQ_INLINE IntVec LookupHigh(const ByteTable& table, IntVec v) {
  return LookupLow<kBits>(table, ShiftRight<4>(v));
}
TQ_INLINE IntVec LowPairs(IntVec v) { return AndDwords(v, 0x33333333u); }
TQ_INLINE IntVec JoinTriples(IntVec high, IntVec low) {
  return _mm256_or_si256(AndDwords(high, 0x44444444u), LowPairs(low));
}

template <int kBits>
struct IndexTable {
  ByteTable table;
  TQ_INLINE explicit IndexTable(const uint8_t* bytes) : table(LoadByteTable(bytes)) {}
  TQ_INLINE IntVec operator[](IntVec idx) const {
    static_assert(kBits <= 4);  // more: OddSteps
    return LookupLow<4>(table, idx);
  }
};

// Steps that are an odd function of their index: the magnitudes, negative where bit 7 of `lower` is
// set.
template <int kOffset>
TQ_INLINE IntVec OddSteps(IntVec magnitude, IntVec lower) {
  const IntVec step = _mm256_sign_epi8(magnitude, Or(lower, _mm256_set1_epi8(1)));
  return kOffset == 0 ? step : _mm256_add_epi8(step, _mm256_set1_epi8(static_cast<char>(kOffset)));
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_LOOKUP_AVX2_H_
