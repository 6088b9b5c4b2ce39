// Products of bytes with AVX-VNNI. Names and meaning are those of dots_avx512.h.
#ifndef TURBOQUANT_KERNELS_CPU_DOTS_AVXVNNI_H_
#define TURBOQUANT_KERNELS_CPU_DOTS_AVXVNNI_H_

#include "kernels/cpu/lookup_avx2.h"

namespace turboquant {
namespace {

// A row has two sums a vector, and there are 16 registers.
constexpr int kMaxScoreRows = 6;
template <int kRows>
constexpr int kScoreVectors = kRows == 1   ? 4
                              : kRows <= 3 ? 2
                                           : 1;
constexpr int kMaxSumRows = 6;
template <int kRows>
constexpr int kSumVectors = kRows == 1   ? 4
                            : kRows <= 3 ? 2
                                         : 1;

// sum + four products a lane of unsigned and signed bytes (vec_avx512.h).
TQ_INLINE IntVec AddDots(IntVec sum, IntVec unsigned_bytes, IntVec signed_bytes) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(unsigned_bytes), "x"(signed_bytes));
  return sum;
}
// sum + two products a lane of signed words.
TQ_INLINE IntVec AddWordDots(IntVec sum, IntVec a, IntVec b) {
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}

}  // namespace
}  // namespace turboquant

#include "kernels/cpu/dots_of_bytes.h"

namespace turboquant {
namespace {

// ---- operands ----

TQ_INLINE IntVec StoreQuery(IntVec value, uint8_t* first, uint8_t* second) {
  const IntVec high = _mm256_srai_epi32(AddInts(value, SetInt(64)), 7);
  const IntVec low = SubInts(value, ShiftLeft<7>(high));
  // Bytes of both halves side by side, in 64 bits.
  const IntVec bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(high, high), _mm256_packs_epi32(low, low));
  const __m128i pieces =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(first), pieces);
  const __m128i rest =
      _mm_unpackhi_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(second), rest);
  return high;
}

TQ_INLINE void TurnBytes(const uint8_t* from, uint8_t* to) {
  const __m256i quarter =  // of each half: bytes 0, 8, 1, 9, ...
      _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 0, 8, 1, 9, 2, 10, 3,
                       11, 4, 12, 5, 13, 6, 14, 7, 15);
  const IntVec pairs = _mm256_shuffle_epi8(LoadCodes(from), quarter);
  const __m128i low = _mm256_castsi256_si128(pairs);
  const __m128i high = _mm256_extracti128_si256(pairs, 1);
  StoreInt(reinterpret_cast<uint32_t*>(to),
           _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(low, high)),
                                   _mm_unpackhi_epi16(low, high), 1));
}
TQ_INLINE void TurnQuery(const uint8_t* first, const uint8_t* second, uint8_t* turned_first,
                         uint8_t* turned_second) {
  TurnBytes(first, turned_first);
  TurnBytes(second, turned_second);
}

// The packs leave dword i of vector t in dword t of half i.
TQ_INLINE void StoreWeights(const IntVec* value, uint8_t* first, uint8_t* second) {
  const IntVec words0 = _mm256_packus_epi32(value[0], value[1]);
  const IntVec words1 = _mm256_packus_epi32(value[2], value[3]);
  const IntVec byte = _mm256_set1_epi16(255);
  const IntVec high =
      _mm256_packus_epi16(_mm256_srli_epi16(words0, 8), _mm256_srli_epi16(words1, 8));
  const IntVec low =
      _mm256_packus_epi16(_mm256_and_si256(words0, byte), _mm256_and_si256(words1, byte));
  const IntVec order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  StoreInt(reinterpret_cast<uint32_t*>(first), _mm256_permutevar8x32_epi32(high, order));
  StoreInt(reinterpret_cast<uint32_t*>(second), _mm256_permutevar8x32_epi32(low, order));
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_DOTS_AVXVNNI_H_
