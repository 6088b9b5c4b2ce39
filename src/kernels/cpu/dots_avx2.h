// Products of steps and queries or weights with AVX2. Names and meaning are those of dots_avx512.h.
//
// AVX2 multiplies bytes by vpmaddubsw alone, whose 16-bit sums saturate: queries in two pieces
// would take six instructions for 32 codes. Steps widened to words (two instructions, shared by all
// query rows) meet queries of 15 bits in one piece with four. The sums of a query row take half the
// registers then, so two vectors of cells share every operand.
//
// An operand's pieces are the words of values 0 and 2, and of 1 and 3, of each four.
#ifndef TURBOQUANT_KERNELS_CPU_DOTS_AVX2_H_
#define TURBOQUANT_KERNELS_CPU_DOTS_AVX2_H_

#include "kernels/cpu/lookup_avx2.h"

namespace turboquant {
namespace {

template <TileForm kForm>
constexpr int kStepOffset = 0;

// 128 cells of it at the largest step (126) stay below 2^31.
constexpr float kWeightSteps = 32512;

constexpr int kMaxScoreRows = 4;
template <int kRows>
constexpr int kScoreVectors = kRows == 1 ? 4 : 2;
constexpr int kMaxSumRows = 6;
template <int kRows>
constexpr int kSumVectors = kRows == 1   ? 4
                            : kRows <= 4 ? 2
                                         : 1;

// ---- products ----

struct Operand {
  IntVec even;
  IntVec odd;
};
TQ_INLINE IntVec SetDword(const uint8_t* p) {
  int32_t value;
  memcpy(&value, p, 4);
  return _mm256_set1_epi32(value);
}
TQ_INLINE Operand LoadOperand(const uint8_t* first, const uint8_t* second) {
  return {SetDword(first), SetDword(second)};
}

struct Steps {
  IntVec even;
  IntVec odd;
};
TQ_INLINE Steps StepsOf(IntVec bytes) {
  return {_mm256_maddubs_epi16(_mm256_set1_epi16(1), bytes), _mm256_srai_epi16(bytes, 8)};
}

struct Sum {
  IntVec whole;
};
TQ_INLINE Sum ZeroSum() { return {ZeroInt()}; }

// sum + two products of signed words a lane. Of the intrinsics, compilers put the sums into memory.
TQ_INLINE IntVec AddWordDots(IntVec sum, IntVec a, IntVec b) {
  IntVec products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
  return sum;
}
template <TileForm>
TQ_INLINE void AddProducts(Sum* sum, const Steps& steps, const Operand& operand) {
  sum->whole = AddWordDots(sum->whole, steps.even, operand.even);
  sum->whole = AddWordDots(sum->whole, steps.odd, operand.odd);
}
template <TileForm>
TQ_INLINE IntVec Total(const Sum& sum) {
  return sum.whole;
}

// ---- operands ----

// Words 0, 2, 1, 3 of every four dwords, then nothing.
TQ_INLINE IntVec PairWords(IntVec v) {
  const __m256i order = _mm256_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                         0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
  return _mm256_shuffle_epi8(v, order);
}

TQ_INLINE IntVec StoreQuery(IntVec value, uint8_t* first, uint8_t* second) {
  const IntVec words = PairWords(value);
  const __m128i pieces =  // even, even, odd, odd
      _mm_unpacklo_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(first), pieces);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(second), _mm_unpackhi_epi64(pieces, pieces));
  return ZeroInt();  // nobody asks
}

TQ_INLINE IntVec JoinHalves(IntVec v) {  // words of both halves, in turns
  const __m128i low = _mm256_castsi256_si128(v);
  const __m128i high = _mm256_extracti128_si256(v, 1);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(low, high)),
                                 _mm_unpackhi_epi16(low, high), 1);
}
TQ_INLINE void TurnQuery(const uint8_t* first, const uint8_t* second, uint8_t* turned_first,
                         uint8_t* turned_second) {
  const IntVec even = LoadCodes(first);
  const IntVec odd = LoadCodes(second);
  // Words 0..7 and 16..23; 8..15 and 24..31.
  StoreInt(reinterpret_cast<uint32_t*>(turned_first), JoinHalves(_mm256_unpacklo_epi16(even, odd)));
  StoreInt(reinterpret_cast<uint32_t*>(turned_second),
           JoinHalves(_mm256_unpackhi_epi16(even, odd)));
}

TQ_INLINE void StoreWeights(const IntVec* value, uint8_t* first, uint8_t* second) {
  const IntVec low = _mm256_unpacklo_epi32(PairWords(value[0]), PairWords(value[1]));
  const IntVec high = _mm256_unpacklo_epi32(PairWords(value[2]), PairWords(value[3]));
  const IntVec order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(first),
                      _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi64(low, high), order));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(second),
                      _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi64(low, high), order));
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_DOTS_AVX2_H_
