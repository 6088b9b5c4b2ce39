// The 16-lane vector of the AVX-512 translation unit (F, BW, DQ, VL, VBMI, VBMI2, VNNI,
// GFNI).
//
// The rule of src/kernels/cpu: a translation unit compiled with instruction-set flags must not
// define a symbol that the linker could pick for another one. So everything here and in the
// *_kernels.h beside it lives in an anonymous namespace, includes no header whose inline functions
// it calls, and uses no standard template. tests/kernels checks the object files for weak symbols.
//
// vec_avx2.h has the same names for 8 lanes, vec_neon.h for 4; the kernels are written once against
// them.
#ifndef TURBOQUANT_KERNELS_CPU_VEC_AVX512_H_
#define TURBOQUANT_KERNELS_CPU_VEC_AVX512_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define TQ_INLINE inline __attribute__((always_inline))

namespace turboquant {
namespace {

constexpr int kLanes = 16;
constexpr int kRegisters = 32;

using FloatVec = __m512;
using IntVec = __m512i;

// The first `count` lanes, 0 <= count <= 16.
TQ_INLINE __mmask16 FirstLanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

TQ_INLINE FloatVec Zero() { return _mm512_setzero_ps(); }
TQ_INLINE FloatVec Set(float x) { return _mm512_set1_ps(x); }
TQ_INLINE FloatVec Load(const float* p) { return _mm512_loadu_ps(p); }
TQ_INLINE void Store(float* p, FloatVec v) { _mm512_storeu_ps(p, v); }
// Lanes beyond count are not touched in memory; loaded lanes beyond count are zero.
TQ_INLINE FloatVec LoadFirst(const float* p, int count) {
  return _mm512_maskz_loadu_ps(FirstLanes(count), p);
}
TQ_INLINE void StoreFirst(float* p, FloatVec v, int count) {
  _mm512_mask_storeu_ps(p, FirstLanes(count), v);
}
// Lanes [first, last) alone, 0 <= first, last <= kLanes; nothing if last <= first.
TQ_INLINE __mmask16 LanesBetween(int first, int last) {
  return static_cast<__mmask16>(FirstLanes(last) & ~FirstLanes(first));
}
TQ_INLINE FloatVec LoadBetween(const float* p, int first, int last) {
  return _mm512_maskz_loadu_ps(LanesBetween(first, last), p);
}
TQ_INLINE void StoreBetween(float* p, FloatVec v, int first, int last) {
  _mm512_mask_storeu_ps(p, LanesBetween(first, last), v);
}

TQ_INLINE FloatVec Add(FloatVec a, FloatVec b) { return _mm512_add_ps(a, b); }
TQ_INLINE FloatVec Sub(FloatVec a, FloatVec b) { return _mm512_sub_ps(a, b); }
TQ_INLINE FloatVec Mul(FloatVec a, FloatVec b) { return _mm512_mul_ps(a, b); }
TQ_INLINE FloatVec Div(FloatVec a, FloatVec b) { return _mm512_div_ps(a, b); }
TQ_INLINE FloatVec Max(FloatVec a, FloatVec b) { return _mm512_max_ps(a, b); }
TQ_INLINE FloatVec Fma(FloatVec a, FloatVec b, FloatVec c) { return _mm512_fmadd_ps(a, b, c); }
TQ_INLINE FloatVec Round(FloatVec a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
TQ_INLINE FloatVec AndNotSign(FloatVec a) { return _mm512_abs_ps(a); }
TQ_INLINE FloatVec CopySign(FloatVec magnitude, FloatVec sign) {
  const IntVec mask = _mm512_set1_epi32(INT32_MIN);
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(mask, _mm512_castps_si512(sign),
                                                       _mm512_castps_si512(magnitude), 0xCA));
}
// 2^n of integral n in [-126, 127].
TQ_INLINE FloatVec PowerOfTwo(FloatVec n) {
  const IntVec biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
// x * 2^n, x in [0.5, 2), n the integer that the lowest bits of `shifted` hold; -126 <= n <= 127.
TQ_INLINE FloatVec AddToExponent(FloatVec x, FloatVec shifted) {
  return _mm512_castsi512_ps(_mm512_add_epi32(
      _mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}
// v where a > b, else 0.
TQ_INLINE FloatVec WhereGreater(FloatVec a, FloatVec b, FloatVec v) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), v);
}
TQ_INLINE bool AnyGreater(FloatVec a, FloatVec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}
TQ_INLINE bool AnyNonZero(FloatVec a) {
  return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
}

// Lane l takes lane l ^ kStride.
template <int kStride>
TQ_INLINE FloatVec SwapLanes(FloatVec v) {
  if constexpr (kStride == 1) return _mm512_permute_ps(v, 0xB1);
  if constexpr (kStride == 2) return _mm512_permute_ps(v, 0x4E);
  if constexpr (kStride == 4) return _mm512_shuffle_f32x4(v, v, 0xB1);
  if constexpr (kStride == 8) return _mm512_shuffle_f32x4(v, v, 0x4E);
}
// +1 in lanes whose bit kStride is clear, -1 in the others.
template <int kStride>
TQ_INLINE FloatVec ButterflySigns() {
  constexpr __mmask16 kHigh = kStride == 1   ? 0xAAAA
                              : kStride == 2 ? 0xCCCC
                              : kStride == 4 ? 0xF0F0
                                             : 0xFF00;
  return _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), kHigh, _mm512_set1_ps(-1.0f));
}

TQ_INLINE float MaxOfLanes(FloatVec v) {
  v = Max(v, SwapLanes<8>(v));
  v = Max(v, SwapLanes<4>(v));
  v = Max(v, SwapLanes<2>(v));
  v = Max(v, SwapLanes<1>(v));
  return _mm512_cvtss_f32(v);
}

// The sixteen running sums of the codec and their fold, in the order of FoldLanes.
struct Sum16 {
  FloatVec part[1];
};
TQ_INLINE float Fold(const Sum16& sum) {
  FloatVec v = sum.part[0];
  v = Add(v, SwapLanes<8>(v));
  v = Add(v, SwapLanes<4>(v));
  v = Add(v, SwapLanes<2>(v));
  v = Add(v, SwapLanes<1>(v));
  return _mm512_cvtss_f32(v);
}

// out[t] = the sum of the lanes of v[t].
TQ_INLINE void FoldFour(const FloatVec (&v)[4], float* out) {
  const FloatVec pair01 = Add(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const FloatVec pair23 = Add(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  const __m512d low = _mm512_castps_pd(pair01);
  const __m512d high = _mm512_castps_pd(pair23);
  FloatVec quad = Add(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                      _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
  quad = Add(quad, SwapLanes<8>(quad));
  quad = Add(quad, SwapLanes<4>(quad));
  _mm_storeu_ps(out, _mm512_castps512_ps128(quad));
}

TQ_INLINE IntVec LoadInt(const uint32_t* p) { return _mm512_loadu_si512(p); }
TQ_INLINE void StoreInt(uint32_t* p, IntVec v) { _mm512_storeu_si512(p, v); }
// sum + four products a lane of unsigned and signed bytes. Of the intrinsic, compilers make copies
// of the sum that take the ports of the dot products.
TQ_INLINE IntVec AddDots(IntVec sum, IntVec unsigned_bytes, IntVec signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
  return sum;
}
TQ_INLINE IntVec ZeroInt() { return _mm512_setzero_si512(); }
template <int kBits>
TQ_INLINE IntVec ShiftRight(IntVec v) {
  return _mm512_srli_epi32(v, kBits);
}
template <int kBits>
TQ_INLINE IntVec ShiftLeft(IntVec v) {
  return _mm512_slli_epi32(v, kBits);
}
TQ_INLINE IntVec ShiftRightBy(IntVec v, int bits) {
  return _mm512_srl_epi32(v, _mm_cvtsi32_si128(bits));
}
TQ_INLINE IntVec ShiftRightEach(IntVec v, IntVec bits) { return _mm512_srlv_epi32(v, bits); }
// v shifted left, with the upper bits of `before` behind it.
template <int kBits>
TQ_INLINE IntVec ShiftLeftInto(IntVec v, IntVec before) {
  return _mm512_shldi_epi32(v, before, kBits);
}
TQ_INLINE IntVec Xor(IntVec a, IntVec b) { return _mm512_xor_si512(a, b); }
TQ_INLINE IntVec SetInt(int x) { return _mm512_set1_epi32(x); }
TQ_INLINE IntVec AddInts(IntVec a, IntVec b) { return _mm512_add_epi32(a, b); }
TQ_INLINE IntVec SubInts(IntVec a, IntVec b) { return _mm512_sub_epi32(a, b); }
TQ_INLINE int SumOfInts(IntVec v) { return _mm512_reduce_add_epi32(v); }
TQ_INLINE bool AnyNonZeroInt(IntVec v) { return _mm512_test_epi32_mask(v, v) != 0; }
// To the nearest integer, and back.
TQ_INLINE IntVec ToInts(FloatVec v) { return _mm512_cvtps_epi32(v); }
TQ_INLINE FloatVec ToFloats(IntVec v) { return _mm512_cvtepi32_ps(v); }
// Bits of a where the mask is set, of b elsewhere.
template <uint32_t kMask>
TQ_INLINE IntVec SelectBits(IntVec a, IntVec b) {
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(static_cast<int>(kMask)), a, b, 0xCA);
}
// idx + step in lanes where u > t.
TQ_INLINE IntVec AddWhereGreater(IntVec idx, FloatVec u, FloatVec t, int step) {
  return _mm512_mask_add_epi32(idx, _mm512_cmp_ps_mask(u, t, _CMP_GT_OQ), idx,
                               _mm512_set1_epi32(step));
}

// Bytes p0[0..7], p1[0..7], one a lane.
TQ_INLINE IntVec LoadBytes(const uint8_t* p0, const uint8_t* p1) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p0));
  const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p1));
  return _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high));
}
TQ_INLINE IntVec LoadBytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// low in lanes 0..7, high in lanes 8..15.
TQ_INLINE IntVec SetHalves(int low, int high) {
  return _mm512_inserti32x8(_mm512_set1_epi32(low), _mm256_set1_epi32(high), 1);
}
TQ_INLINE void StoreBytes(uint8_t* p, IntVec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}

// A table of 2^kBits floats looked up by the low bits of every lane; higher bits do not matter.
struct Table {
  FloatVec entries;
};
template <int kBits>
TQ_INLINE Table LoadTable(const float* entries) {
  if constexpr (kBits == 1) {
    return {_mm512_castpd_ps(_mm512_set1_pd(
        _mm_cvtsd_f64(_mm_castps_pd(_mm_setr_ps(entries[0], entries[1], 0.0f, 0.0f)))))};
  }
  if constexpr (kBits == 2) return {_mm512_broadcast_f32x4(_mm_loadu_ps(entries))};
  if constexpr (kBits == 3) return {_mm512_broadcast_f32x8(_mm256_loadu_ps(entries))};
  if constexpr (kBits == 4) return {_mm512_loadu_ps(entries)};
}
// The same of `count` entries, the rest zero; here the higher index bits must be clear.
TQ_INLINE Table LoadShortTable(const float* entries, int count) {
  return {LoadFirst(entries, count)};
}
template <int kBits>
TQ_INLINE FloatVec Lookup(const Table& table, IntVec idx) {
  return _mm512_permutexvar_ps(idx, table.entries);
}
TQ_INLINE Table Scale(const Table& table, float s) { return {Mul(table.entries, Set(s))}; }

// Entry idx of a table in memory.
TQ_INLINE FloatVec Gather(const float* entries, IntVec idx) {
  return _mm512_i32gather_ps(idx, entries, sizeof(float));
}
// Of 32 entries, 16 in each table.
TQ_INLINE FloatVec Lookup32(const Table& low, const Table& high, IntVec idx) {
  return _mm512_permutex2var_ps(low.entries, idx, high.entries);
}

// One value, rounded like a lane. sqrtf would set errno through a call.
TQ_INLINE float SquareRoot(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
TQ_INLINE uint16_t ToHalf(float x) {
  return static_cast<uint16_t>(
      _mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}
TQ_INLINE float FromHalf(uint16_t x) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(x))); }

TQ_INLINE FloatVec HalfLoad(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
TQ_INLINE FloatVec HalfLoadFirst(const uint16_t* p, int count) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FirstLanes(count), p));
}
TQ_INLINE void HalfStore(uint16_t* p, FloatVec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TQ_INLINE void HalfStoreFirst(uint16_t* p, FloatVec v, int count) {
  _mm256_mask_storeu_epi16(p, FirstLanes(count),
                           _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// Four dwords of each of kLanes rows, turned: lane t of column[c] is dword c of rows[t] + offset.
TQ_INLINE void TransposeDwords(const uint8_t* const* rows, size_t offset, IntVec column[4]) {
  IntVec row[4];
  for (int i = 0; i < 4; ++i) {
    const auto quad = [&](int t) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[t] + offset));
    };
    row[i] = _mm512_castsi128_si512(quad(i));
    row[i] = _mm512_inserti32x4(row[i], quad(i + 4), 1);
    row[i] = _mm512_inserti32x4(row[i], quad(i + 8), 2);
    row[i] = _mm512_inserti32x4(row[i], quad(i + 12), 3);
  }
  const IntVec low01 = _mm512_unpacklo_epi32(row[0], row[1]);
  const IntVec high01 = _mm512_unpackhi_epi32(row[0], row[1]);
  const IntVec low23 = _mm512_unpacklo_epi32(row[2], row[3]);
  const IntVec high23 = _mm512_unpackhi_epi32(row[2], row[3]);
  column[0] = _mm512_unpacklo_epi64(low01, low23);
  column[1] = _mm512_unpackhi_epi64(low01, low23);
  column[2] = _mm512_unpacklo_epi64(high01, high23);
  column[3] = _mm512_unpackhi_epi64(high01, high23);
}

// ---- trellis search: lanes are states, runs of kSpan lanes belong to one row ----

// Lane n of a run takes lane n / 2 of its run (PairLow) or kSpan / 2 + n / 2 (PairHigh).
template <int kSpan>
TQ_INLINE FloatVec PairLow(FloatVec v) {
  if constexpr (kSpan == 4) return _mm512_unpacklo_ps(v, v);
  const IntVec idx = kSpan == 8
                         ? _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11)
                         : _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_permutexvar_ps(idx, v);
}
template <int kSpan>
TQ_INLINE FloatVec PairHigh(FloatVec v) {
  if constexpr (kSpan == 4) return _mm512_unpackhi_ps(v, v);
  const IntVec idx =
      kSpan == 8 ? _mm512_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7, 12, 12, 13, 13, 14, 14, 15, 15)
                 : _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
  return _mm512_permutexvar_ps(idx, v);
}
// Four floats at rows[i] + at, repeated over the run of row i.
template <int kRuns>
TQ_INLINE FloatVec LoadQuads(const float* const* rows, size_t at) {
  FloatVec v = _mm512_broadcast_f32x4(_mm_loadu_ps(rows[0] + at));
  if constexpr (kRuns == 2) v = _mm512_mask_broadcast_f32x4(v, 0xFF00, _mm_loadu_ps(rows[1] + at));
  if constexpr (kRuns == 4) {
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[1] + at), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[2] + at), 2);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[3] + at), 3);
  }
  return v;
}
// Every lane takes the float of its quad that choice (0..3, made ready once) names.
TQ_INLINE IntVec QuadChoice(IntVec choice) { return choice; }
TQ_INLINE FloatVec InQuad(FloatVec v, IntVec choice) { return _mm512_permutevar_ps(v, choice); }
TQ_INLINE FloatVec Min(FloatVec a, FloatVec b) { return _mm512_min_ps(a, b); }
TQ_INLINE IntVec Or(IntVec a, IntVec b) { return _mm512_or_si512(a, b); }
// value in lanes where a < b, old in the others.
TQ_INLINE IntVec WhereLess(FloatVec a, FloatVec b, int value, IntVec old) {
  return _mm512_mask_mov_epi32(old, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), _mm512_set1_epi32(value));
}
// Bit l of the bytes at `to` says a < b in lane l.
TQ_INLINE void StoreLess(uint8_t* to, FloatVec a, FloatVec b) {
  const __mmask16 less = _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
  __builtin_memcpy(to, &less, sizeof(less));
}
// to[c * kLanes + 4 g + s] = lane 4 g + c of v[s].
TQ_INLINE void StoreQuads(const FloatVec (&v)[4], float* to) {
  const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1]));
  const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
  const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3]));
  const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
  Store(to, _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)));
  Store(to + kLanes, _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)));
  Store(to + 2 * kLanes, _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)));
  Store(to + 3 * kLanes, _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)));
}

// ---- bit planes: 64 values at a time ----

// byte[t] = sum over p < count of bit t of planes[p], times 2^p.
TQ_INLINE void ExpandPlanes(const uint64_t* planes, int count, uint8_t byte[64]) {
  IntVec v = _mm512_setzero_si512();
  for (int p = 0; p < count; ++p) {
    v = _mm512_or_si512(
        v, _mm512_maskz_mov_epi8(planes[p], _mm512_set1_epi8(static_cast<char>(1 << p))));
  }
  _mm512_storeu_si512(byte, v);
}
// Bit t of the result is bit `bit` of byte[t].
TQ_INLINE uint64_t PlaneOfBytes(const uint8_t byte[64], int bit) {
  return _mm512_test_epi8_mask(_mm512_loadu_si512(byte),
                               _mm512_set1_epi8(static_cast<char>(1 << bit)));
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_VEC_AVX512_H_
