// Products of steps and queries or weights with AVX2, and with AVX-VNNI where the translation unit
// has it. Names and meaning are those of dots_avx512.h.
//
// AVX2 multiplies bytes by vpmaddubsw alone, whose 16-bit sums saturate: queries in two pieces
// would take six instructions for 32 codes. Steps widened to words (two instructions, shared by all
// query rows) meet queries of 15 bits in one piece with four, or two with AVX-VNNI. The sums of a
// query row take half the registers then, so two vectors of cells share every operand.
//
// An operand's pieces are the words of values 0 and 2, and of 1 and 3, of each four.
#ifndef TURBOQUANT_KERNELS_CPU_DOTS_AVX2_H_
#define TURBOQUANT_KERNELS_CPU_DOTS_AVX2_H_

#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

template <TileForm kForm>
constexpr int kStepOffset = 128;

// 128 cells of it at the largest step (254) stay below 2^31.
constexpr float kWeightSteps = 32512;

constexpr int kMaxScoreRows = 4;
template <int kRows>
constexpr int kScoreVectors = kRows == 1 ? 4 : 2;
constexpr int kMaxSumRows = 4;
template <int kRows>
constexpr int kSumVectors = kRows <= 2 ? 4 : 2;

TQ_INLINE IntVec LoadCodes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
TQ_INLINE IntVec LoadCodesFirst(const uint8_t* p, int count) {
  return _mm256_maskload_epi32(reinterpret_cast<const int*>(p), FirstLanes(count));
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
  ByteTable low;
  ByteTable high;  // entries 16..31
  TQ_INLINE explicit IndexTable(const uint8_t* bytes)
      : low(LoadByteTable(bytes)), high(LoadByteTable(bytes + 16)) {}
  TQ_INLINE IntVec operator[](IntVec idx) const {
    static_assert(kBits <= 5);
    if constexpr (kBits <= 4) return LookupLow<4>(low, idx);
    const IntVec five = AndDwords(idx, 0x1F1F1F1Fu);
    const IntVec below = _mm256_add_epi8(five, _mm256_set1_epi8(0x70));  // bit 7 from 16 on
    const IntVec above = _mm256_sub_epi8(five, _mm256_set1_epi8(16));    // bit 7 below 16
    return Or(_mm256_shuffle_epi8(low.bytes, below), _mm256_shuffle_epi8(high.bytes, above));
  }
};

// The tables (steps of 256 codes, with kOffset) are odd functions of code - 127.5: 128 entries, in
// eight parts, and the sign. Each part serves all indices that are not below its first one, so it
// holds the difference (exclusive or) to the part before.
struct WideParts {
  alignas(16) uint8_t bytes[2][8][16];
  constexpr WideParts(const uint8_t* high, const uint8_t* low, int offset) : bytes() {
    for (int i = 0; i < 128; ++i) {
      for (int p = 0; p < 2; ++p) {
        const uint8_t* table = p == 0 ? high : low;
        const int entry = table[128 + i] - offset;
        const int before = i < 16 ? 0 : table[128 + i - 16] - offset;
        bytes[p][i / 16][i % 16] = static_cast<uint8_t>(entry ^ before);
      }
    }
  }
};
struct WideLookup {
  const WideParts& parts;
  IntVec offset;
  TQ_INLINE WideLookup(const WideParts& from, int step_offset)
      : parts(from), offset(_mm256_set1_epi8(static_cast<char>(step_offset))) {}
  TQ_INLINE void Look(IntVec codes, IntVec* high, IntVec* low) const {
    const IntVec centred = Xor(codes, _mm256_set1_epi8(-128));
    IntVec idx = Xor(centred, _mm256_cmpgt_epi8(ZeroInt(), centred));
    const IntVec sign = Or(centred, _mm256_set1_epi8(1));
    IntVec sum[2] = {ZeroInt(), ZeroInt()};
    for (int i = 0; i < 8; ++i) {
      for (int p = 0; p < 2; ++p) {
        sum[p] = Xor(sum[p], _mm256_shuffle_epi8(LoadByteTable(parts.bytes[p][i]).bytes, idx));
      }
      idx = _mm256_sub_epi8(idx, _mm256_set1_epi8(16));
    }
    *high = _mm256_add_epi8(_mm256_sign_epi8(sum[0], sign), offset);
    *low = _mm256_add_epi8(_mm256_sign_epi8(sum[1], sign), offset);
  }
};

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
  return {AndDwords(bytes, 0x00FF00FFu), _mm256_srli_epi16(bytes, 8)};
}

struct Sum {
  IntVec whole;
};
TQ_INLINE Sum ZeroSum() { return {ZeroInt()}; }

// sum + two products of signed words a lane. Of the intrinsics, compilers put the sums into memory.
TQ_INLINE IntVec AddWordDots(IntVec sum, IntVec a, IntVec b) {
#ifdef __AVXVNNI__
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
#else
  IntVec products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
  return sum;
#endif
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

// ---- products with steps of two bytes, 128 high + low ----

template <TileForm>
constexpr int kLowFactor = 1;
template <int kRows>
constexpr int kWideScoreVectors = kRows == 1 ? 2 : 1;
template <int kRows>
constexpr int kWideSumVectors = kRows <= 2 ? 2 : 1;

struct WideSum {
  Sum high;
  Sum low;
};
TQ_INLINE WideSum ZeroWideSum() { return {ZeroSum(), ZeroSum()}; }
template <TileForm kForm>
TQ_INLINE void AddWideProducts(WideSum* sum, const Steps& high, const Steps& low,
                               const Operand& operand) {
  AddProducts<kForm>(&sum->high, high, operand);
  AddProducts<kForm>(&sum->low, low, operand);
}
template <TileForm>
TQ_INLINE FloatVec WideTotal(const WideSum& sum, int total, int) {
  const IntVec offset = SetInt(static_cast<int>(128u * static_cast<unsigned>(total)));
  return Fma(ToFloats(SubInts(sum.high.whole, offset)), Set(128.0f),
             ToFloats(SubInts(sum.low.whole, offset)));
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
