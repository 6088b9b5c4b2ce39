// Products of bytes with AVX-512 VNNI and VBMI: what the kernels on codes (coded_byte_kernels.h,
// coded_step_kernels.h) are written against. dots_avx2.h and dots_neon_dotprod.h have the same
// names.
//
//   ByteTable  64 bytes that repeat; codes pick signed steps k of the centroid grid from it
//              (centroid = unit * k, docs/adr/0005), plus kStepOffset
//   Steps      four steps a lane, ready to be multiplied
//   Operand    four values of a query row, or the weights of four cells, in two pieces; the same
//              in every lane
//   Sum        the products so far
//
// vec_avx512.h must come first; the linking rule is there.
#ifndef TURBOQUANT_KERNELS_CPU_DOTS_AVX512_H_
#define TURBOQUANT_KERNELS_CPU_DOTS_AVX512_H_

#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

// Vectors of cells that meet a block of query rows at once: enough independent sums to hide the
// latency of the dot product, and every operand is loaded once for all of them.
constexpr int kMaxScoreRows = 6;
template <int kRows>
constexpr int kScoreVectors = kRows == 1 ? 4 : 2;

// Query rows that share the unpacking of values, and vectors of values that stay in registers.
constexpr int kMaxSumRows = 6;
template <int kRows>
constexpr int kSumVectors = kRows <= 3 ? 4 : 2;
// The same for steps of two bytes.
template <int kRows>
constexpr int kWideScoreVectors = kScoreVectors<kRows>;
template <int kRows>
constexpr int kWideSumVectors = kSumVectors<kRows>;

TQ_INLINE IntVec LoadCodes(const uint8_t* p) { return _mm512_loadu_si512(p); }
// Dwords [0, count) of p; the others are not read and zero.
TQ_INLINE IntVec LoadCodesFirst(const uint8_t* p, int count) {
  return _mm512_maskz_loadu_epi32(FirstLanes(count), p);
}
// Eight dwords each.
TQ_INLINE IntVec LoadCodesHalves(const uint8_t* p0, const uint8_t* p1) {
  const __m256i half0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p0));
  const __m256i half1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p1));
  return _mm512_inserti64x4(_mm512_castsi256_si512(half0), half1, 1);
}

// ---- lookup ----

struct ByteTable {
  IntVec bytes;
};
TQ_INLINE ByteTable LoadByteTable(const uint8_t* bytes) { return {_mm512_load_si512(bytes)}; }
// The table has 64 entries: index bits above the code do not matter.
TQ_INLINE IntVec LookupBytes(const ByteTable& table, IntVec idx) {
  return _mm512_permutexvar_epi8(idx, table.bytes);
}
// Codes of kBits bits in the low or the high nibbles, with fewer than 4 bits as LowPairs or
// JoinTriples left them.
template <int kBits>
TQ_INLINE IntVec LookupLow(const ByteTable& table, IntVec v) {
  return LookupBytes(table, v);
}
template <int kBits>
TQ_INLINE IntVec LookupHigh(const ByteTable& table, IntVec v) {
  return LookupBytes(table, ShiftRight<4>(v));
}
TQ_INLINE IntVec LowPairs(IntVec v) { return v; }
// Bit 2 of every nibble of high above the low pairs.
TQ_INLINE IntVec JoinTriples(IntVec high, IntVec low) { return SelectBits<0x44444444>(high, low); }

// 2^kBits entries, repeated in `bytes`; other index bits may be anything.
template <int kBits>
struct IndexTable {
  ByteTable table;
  TQ_INLINE explicit IndexTable(const uint8_t* bytes) : table(LoadByteTable(bytes)) {}
  TQ_INLINE IntVec operator[](IntVec idx) const { return LookupBytes(table, idx); }
};

// Two bytes for each of 256 codes; the tables have the offset of the steps.
struct WideParts {
  alignas(64) uint8_t bytes[2][256];
  constexpr WideParts(const uint8_t* high, const uint8_t* low, int /*offset*/) : bytes() {
    for (int i = 0; i < 256; ++i) {
      bytes[0][i] = high[i];
      bytes[1][i] = low[i];
    }
  }
};
struct WideLookup {
  IntVec part[2][4];
  TQ_INLINE WideLookup(const WideParts& parts, int /*offset*/) {
    for (int p = 0; p < 2; ++p) {
      for (int i = 0; i < 4; ++i) part[p][i] = _mm512_load_si512(parts.bytes[p] + 64 * i);
    }
  }
  TQ_INLINE void Look(IntVec codes, IntVec* high, IntVec* low) const {
    const __mmask64 upper = _mm512_movepi8_mask(codes);
    *high = LookPart(part[0], codes, upper);
    *low = LookPart(part[1], codes, upper);
  }
  static TQ_INLINE IntVec LookPart(const IntVec (&part)[4], IntVec codes, __mmask64 upper) {
    return _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(part[0], codes, part[1]), upper,
                                _mm512_permutex2var_epi8(part[2], codes, part[3]));
  }
};

}  // namespace
}  // namespace turboquant

#include "kernels/cpu/dots_of_bytes.h"

namespace turboquant {
namespace {

// ---- operands ----

// kLanes query integers, |value| <= 127 * 128, to kLanes bytes at each of both places. Returns
// those of the first, as integers.
TQ_INLINE IntVec StoreQuery(IntVec value, uint8_t* first, uint8_t* second) {
  const IntVec high = _mm512_srai_epi32(AddInts(value, SetInt(64)), 7);
  const IntVec low = SubInts(value, ShiftLeft<7>(high));
  StoreBytes(first, high);
  StoreBytes(second, low);
  return high;
}

// The pieces of 32 values in turned order (coded_tiles.h).
TQ_INLINE void TurnBytes(const uint8_t* from, uint8_t* to) {
  const __m256i order =
      _mm256_setr_epi8(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27, 4, 12, 20, 28, 5,
                       13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31);
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutexvar_epi8(order, bytes));
}
TQ_INLINE void TurnQuery(const uint8_t* first, const uint8_t* second, uint8_t* turned_first,
                         uint8_t* turned_second) {
  TurnBytes(first, turned_first);
  TurnBytes(second, turned_second);
}

// 4 * kLanes weight integers to as many bytes at each of both places. The packs leave dword i of
// vector t in lane 4 i + t.
TQ_INLINE void StoreWeights(const IntVec* value, uint8_t* first, uint8_t* second) {
  const IntVec words0 = _mm512_packus_epi32(value[0], value[1]);
  const IntVec words1 = _mm512_packus_epi32(value[2], value[3]);
  const IntVec byte = _mm512_set1_epi16(255);
  const IntVec high =
      _mm512_packus_epi16(_mm512_srli_epi16(words0, 8), _mm512_srli_epi16(words1, 8));
  const IntVec low =
      _mm512_packus_epi16(_mm512_and_si512(words0, byte), _mm512_and_si512(words1, byte));
  const IntVec order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_store_si512(first, _mm512_permutexvar_epi32(order, high));
  _mm512_store_si512(second, _mm512_permutexvar_epi32(order, low));
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_DOTS_AVX512_H_
