// The 8-lane vector of the AVX2 translation unit (AVX2, FMA, F16C). Names, meaning and the linking
// rule are those of vec_avx512.h.
#ifndef TURBOQUANT_KERNELS_CPU_VEC_AVX2_H_
#define TURBOQUANT_KERNELS_CPU_VEC_AVX2_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TQ_INLINE inline __attribute__((always_inline))

namespace turboquant {
namespace {

constexpr int kLanes = 8;
constexpr int kRegisters = 16;

using FloatVec = __m256;
using IntVec = __m256i;

// A window into this gives the mask of the first `count` lanes, 0 <= count <= 8.
alignas(32) constexpr int32_t kLaneMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                0,  0,  0,  0,  0,  0,  0,  0};
TQ_INLINE __m256i FirstLanes(int count) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMasks + 8 - count));
}

TQ_INLINE FloatVec Zero() { return _mm256_setzero_ps(); }
TQ_INLINE FloatVec Set(float x) { return _mm256_set1_ps(x); }
TQ_INLINE FloatVec Load(const float* p) { return _mm256_loadu_ps(p); }
TQ_INLINE void Store(float* p, FloatVec v) { _mm256_storeu_ps(p, v); }
TQ_INLINE FloatVec LoadFirst(const float* p, int count) {
  if (count == kLanes) return Load(p);
  return _mm256_maskload_ps(p, FirstLanes(count));
}
TQ_INLINE void StoreFirst(float* p, FloatVec v, int count) {
  if (count == kLanes) return Store(p, v);
  _mm256_maskstore_ps(p, FirstLanes(count), v);
}
TQ_INLINE __m256i LanesBetween(int first, int last) {
  return _mm256_andnot_si256(FirstLanes(first), FirstLanes(last));
}
TQ_INLINE FloatVec LoadBetween(const float* p, int first, int last) {
  if (first == 0 && last == kLanes) return Load(p);
  return _mm256_maskload_ps(p, LanesBetween(first, last));
}
TQ_INLINE void StoreBetween(float* p, FloatVec v, int first, int last) {
  if (first == 0 && last == kLanes) return Store(p, v);
  _mm256_maskstore_ps(p, LanesBetween(first, last), v);
}

TQ_INLINE FloatVec Add(FloatVec a, FloatVec b) { return _mm256_add_ps(a, b); }
TQ_INLINE FloatVec Sub(FloatVec a, FloatVec b) { return _mm256_sub_ps(a, b); }
TQ_INLINE FloatVec Mul(FloatVec a, FloatVec b) { return _mm256_mul_ps(a, b); }
TQ_INLINE FloatVec Div(FloatVec a, FloatVec b) { return _mm256_div_ps(a, b); }
TQ_INLINE FloatVec Max(FloatVec a, FloatVec b) { return _mm256_max_ps(a, b); }
TQ_INLINE FloatVec Fma(FloatVec a, FloatVec b, FloatVec c) { return _mm256_fmadd_ps(a, b, c); }
TQ_INLINE FloatVec Round(FloatVec a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
TQ_INLINE FloatVec AndNotSign(FloatVec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
TQ_INLINE FloatVec CopySign(FloatVec magnitude, FloatVec sign) {
  const FloatVec mask = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_and_ps(mask, sign), _mm256_andnot_ps(mask, magnitude));
}
TQ_INLINE FloatVec PowerOfTwo(FloatVec n) {
  const IntVec biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
TQ_INLINE FloatVec AddToExponent(FloatVec x, FloatVec shifted) {
  return _mm256_castsi256_ps(_mm256_add_epi32(
      _mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
}
TQ_INLINE FloatVec WhereGreater(FloatVec a, FloatVec b, FloatVec v) {
  return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), v);
}
TQ_INLINE bool AnyGreater(FloatVec a, FloatVec b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
TQ_INLINE bool AnyNonZero(FloatVec a) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ)) != 0;
}

template <int kStride>
TQ_INLINE FloatVec SwapLanes(FloatVec v) {
  if constexpr (kStride == 1) return _mm256_permute_ps(v, 0xB1);
  if constexpr (kStride == 2) return _mm256_permute_ps(v, 0x4E);
  if constexpr (kStride == 4) return _mm256_permute2f128_ps(v, v, 1);
}
template <int kStride>
TQ_INLINE FloatVec ButterflySigns() {
  constexpr int kHigh = kStride == 1 ? 0xAA : kStride == 2 ? 0xCC : 0xF0;
  return _mm256_blend_ps(_mm256_set1_ps(1.0f), _mm256_set1_ps(-1.0f), kHigh);
}

TQ_INLINE float MaxOfLanes(FloatVec v) {
  v = Max(v, SwapLanes<4>(v));
  v = Max(v, SwapLanes<2>(v));
  v = Max(v, SwapLanes<1>(v));
  return _mm256_cvtss_f32(v);
}

struct Sum16 {
  FloatVec part[2];
};
TQ_INLINE float Fold(const Sum16& sum) {
  FloatVec v = Add(sum.part[0], sum.part[1]);
  v = Add(v, SwapLanes<4>(v));
  v = Add(v, SwapLanes<2>(v));
  v = Add(v, SwapLanes<1>(v));
  return _mm256_cvtss_f32(v);
}
// out[t] = the sum of the lanes of v[t].
TQ_INLINE void FoldFour(const FloatVec (&v)[4], float* out) {
  const FloatVec quad = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(quad), _mm256_extractf128_ps(quad, 1)));
}

TQ_INLINE IntVec LoadInt(const uint32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
TQ_INLINE void StoreInt(uint32_t* p, IntVec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
}
TQ_INLINE IntVec ZeroInt() { return _mm256_setzero_si256(); }
template <int kBits>
TQ_INLINE IntVec ShiftRight(IntVec v) {
  return _mm256_srli_epi32(v, kBits);
}
template <int kBits>
TQ_INLINE IntVec ShiftLeft(IntVec v) {
  return _mm256_slli_epi32(v, kBits);
}
TQ_INLINE IntVec ShiftRightBy(IntVec v, int bits) {
  return _mm256_srl_epi32(v, _mm_cvtsi32_si128(bits));
}
TQ_INLINE IntVec ShiftRightEach(IntVec v, IntVec bits) { return _mm256_srlv_epi32(v, bits); }
template <int kBits>
TQ_INLINE IntVec ShiftLeftInto(IntVec v, IntVec before) {
  return _mm256_or_si256(ShiftLeft<kBits>(v), ShiftRight<32 - kBits>(before));
}
TQ_INLINE IntVec SetInt(int x) { return _mm256_set1_epi32(x); }
TQ_INLINE IntVec AddInts(IntVec a, IntVec b) { return _mm256_add_epi32(a, b); }
TQ_INLINE IntVec SubInts(IntVec a, IntVec b) { return _mm256_sub_epi32(a, b); }
TQ_INLINE int SumOfInts(IntVec v) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1)));
}
TQ_INLINE bool AnyNonZeroInt(IntVec v) { return _mm256_testz_si256(v, v) == 0; }
TQ_INLINE IntVec ToInts(FloatVec v) { return _mm256_cvtps_epi32(v); }
TQ_INLINE FloatVec ToFloats(IntVec v) { return _mm256_cvtepi32_ps(v); }
template <uint32_t kMask>
TQ_INLINE IntVec SelectBits(IntVec a, IntVec b) {
  const IntVec mask = _mm256_set1_epi32(static_cast<int>(kMask));
  return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
}
TQ_INLINE IntVec AddWhereGreater(IntVec idx, FloatVec u, FloatVec t, int step) {
  const IntVec greater = _mm256_castps_si256(_mm256_cmp_ps(u, t, _CMP_GT_OQ));
  return _mm256_add_epi32(idx, _mm256_and_si256(greater, _mm256_set1_epi32(step)));
}

TQ_INLINE IntVec LoadBytes(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
// Eight lanes need the first eight bytes (and shift) alone.
TQ_INLINE IntVec LoadBytes(const uint8_t* p0, const uint8_t* /*p1*/) { return LoadBytes(p0); }
TQ_INLINE IntVec SetHalves(int low, int /*high*/) { return _mm256_set1_epi32(low); }
TQ_INLINE void StoreBytes(uint8_t* p, IntVec v) {
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

// vpermps knows 8 entries; of 16 the upper half is chosen by bit 3, moved to the blend's sign bit.
struct Table {
  FloatVec low;
  FloatVec high;
};
template <int kBits>
TQ_INLINE Table LoadTable(const float* entries) {
  if constexpr (kBits == 1) {
    const FloatVec pairs = _mm256_castpd_ps(_mm256_set1_pd(
        _mm_cvtsd_f64(_mm_castps_pd(_mm_setr_ps(entries[0], entries[1], 0.0f, 0.0f)))));
    return {pairs, pairs};
  }
  if constexpr (kBits == 2) {
    const FloatVec twice = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(entries));
    return {twice, twice};
  }
  if constexpr (kBits == 3) return {_mm256_loadu_ps(entries), _mm256_loadu_ps(entries)};
  if constexpr (kBits == 4) return {_mm256_loadu_ps(entries), _mm256_loadu_ps(entries + 8)};
}
TQ_INLINE Table LoadShortTable(const float* entries, int count) {
  const int low = count < 8 ? count : 8;
  return {LoadFirst(entries, low), LoadFirst(entries + low, count - low)};
}
template <int kBits>
TQ_INLINE FloatVec Lookup(const Table& table, IntVec idx) {
  const FloatVec low = _mm256_permutevar8x32_ps(table.low, idx);
  if constexpr (kBits < 4) return low;
  const FloatVec high = _mm256_permutevar8x32_ps(table.high, idx);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(idx, 28)));
}
TQ_INLINE Table Scale(const Table& table, float s) {
  return {Mul(table.low, Set(s)), Mul(table.high, Set(s))};
}

TQ_INLINE FloatVec Gather(const float* entries, IntVec idx) {
  return _mm256_i32gather_ps(entries, idx, sizeof(float));
}
TQ_INLINE FloatVec Lookup32(const Table& low, const Table& high, IntVec idx) {
  return _mm256_blendv_ps(Lookup<4>(low, idx), Lookup<4>(high, idx),
                          _mm256_castsi256_ps(_mm256_slli_epi32(idx, 27)));
}

TQ_INLINE float SquareRoot(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
TQ_INLINE uint16_t ToHalf(float x) {
  return static_cast<uint16_t>(
      _mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}
TQ_INLINE float FromHalf(uint16_t x) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(x))); }

TQ_INLINE FloatVec HalfLoad(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
TQ_INLINE FloatVec HalfLoadFirst(const uint16_t* p, int count) {
  uint16_t copy[8] = {0};
  memcpy(copy, p, sizeof(uint16_t) * static_cast<size_t>(count));
  return HalfLoad(copy);
}
TQ_INLINE void HalfStore(uint16_t* p, FloatVec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
TQ_INLINE void HalfStoreFirst(uint16_t* p, FloatVec v, int count) {
  uint16_t copy[8];
  HalfStore(copy, v);
  memcpy(p, copy, sizeof(uint16_t) * static_cast<size_t>(count));
}

TQ_INLINE void TransposeDwords(const uint8_t* const* rows, size_t offset, IntVec column[4]) {
  IntVec row[4];
  for (int i = 0; i < 4; ++i) {
    const auto quad = [&](int t) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[t] + offset));
    };
    row[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(quad(i)), quad(i + 4), 1);
  }
  const IntVec low01 = _mm256_unpacklo_epi32(row[0], row[1]);
  const IntVec high01 = _mm256_unpackhi_epi32(row[0], row[1]);
  const IntVec low23 = _mm256_unpacklo_epi32(row[2], row[3]);
  const IntVec high23 = _mm256_unpackhi_epi32(row[2], row[3]);
  column[0] = _mm256_unpacklo_epi64(low01, low23);
  column[1] = _mm256_unpackhi_epi64(low01, low23);
  column[2] = _mm256_unpacklo_epi64(high01, high23);
  column[3] = _mm256_unpackhi_epi64(high01, high23);
}

template <int kSpan>
TQ_INLINE FloatVec PairLow(FloatVec v) {
  if constexpr (kSpan == 4) return _mm256_unpacklo_ps(v, v);
  return _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
template <int kSpan>
TQ_INLINE FloatVec PairHigh(FloatVec v) {
  if constexpr (kSpan == 4) return _mm256_unpackhi_ps(v, v);
  return _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
}
template <int kRuns>
TQ_INLINE FloatVec LoadQuads(const float* const* rows, size_t at) {
  const FloatVec v = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(rows[0] + at));
  if constexpr (kRuns == 1) return v;
  return _mm256_insertf128_ps(v, _mm_loadu_ps(rows[kRuns - 1] + at), 1);
}
TQ_INLINE IntVec QuadChoice(IntVec choice) { return choice; }
TQ_INLINE FloatVec InQuad(FloatVec v, IntVec choice) { return _mm256_permutevar_ps(v, choice); }
TQ_INLINE FloatVec Min(FloatVec a, FloatVec b) { return _mm256_min_ps(a, b); }
TQ_INLINE IntVec Or(IntVec a, IntVec b) { return _mm256_or_si256(a, b); }
TQ_INLINE IntVec Xor(IntVec a, IntVec b) { return _mm256_xor_si256(a, b); }
TQ_INLINE IntVec WhereLess(FloatVec a, FloatVec b, int value, IntVec old) {
  return _mm256_blendv_epi8(old, _mm256_set1_epi32(value),
                            _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
}
TQ_INLINE void StoreLess(uint8_t* to, FloatVec a, FloatVec b) {
  *to = static_cast<uint8_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
}
TQ_INLINE void StoreQuads(const FloatVec (&v)[4], float* to) {
  const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
  const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
  const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
  const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
  Store(to, _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)));
  Store(to + kLanes, _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)));
  Store(to + 2 * kLanes, _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)));
  Store(to + 3 * kLanes, _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23)));
}

TQ_INLINE void ExpandPlanes(const uint64_t* planes, int count, uint8_t byte[64]) {
  const __m256i spread =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i one_bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
  for (int half = 0; half < 2; ++half) {
    __m256i v = _mm256_setzero_si256();
    for (int p = 0; p < count; ++p) {
      const __m256i bits = _mm256_set1_epi32(static_cast<int>(planes[p] >> (32 * half)));
      const __m256i mine = _mm256_and_si256(_mm256_shuffle_epi8(bits, spread), one_bit);
      v = _mm256_or_si256(v, _mm256_and_si256(_mm256_cmpeq_epi8(mine, one_bit),
                                              _mm256_set1_epi8(static_cast<char>(1 << p))));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(byte + 32 * half), v);
  }
}
TQ_INLINE uint64_t PlaneOfBytes(const uint8_t byte[64], int bit) {
  const __m128i up = _mm_cvtsi32_si128(7 - bit);  // to the top of every byte
  uint64_t plane = 0;
  for (int half = 0; half < 2; ++half) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(byte + 32 * half));
    const int bits = _mm256_movemask_epi8(_mm256_sll_epi16(v, up));
    plane |= static_cast<uint64_t>(static_cast<uint32_t>(bits)) << (32 * half);
  }
  return plane;
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_VEC_AVX2_H_
