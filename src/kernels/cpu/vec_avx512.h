// The 16-lane vector of the AVX-512 translation unit (F, BW, DQ, VL, VBMI).
//
// The rule of src/kernels/cpu: a translation unit compiled with instruction-set flags must not
// define a symbol that the linker could pick for another one. So everything here and in the
// *_kernels.h beside it lives in an anonymous namespace, includes no header whose inline functions
// it calls, and uses no standard template. tests/kernels checks the object files for weak symbols.
//
// vec_avx2.h has the same names for 8 lanes; the kernels are written once against them.
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

TQ_INLINE IntVec LoadInt(const uint32_t* p) { return _mm512_loadu_si512(p); }
TQ_INLINE void StoreInt(uint32_t* p, IntVec v) { _mm512_storeu_si512(p, v); }
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

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_VEC_AVX512_H_
