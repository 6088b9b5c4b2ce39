// The 4-lane vector of 64-bit Arm (NEON, part of the base architecture). Names, meaning and the
// linking rule are those of vec_avx512.h.
#ifndef TURBOQUANT_KERNELS_CPU_VEC_NEON_H_
#define TURBOQUANT_KERNELS_CPU_VEC_NEON_H_

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TQ_INLINE inline __attribute__((always_inline))

namespace turboquant {
namespace {

constexpr int kLanes = 4;
constexpr int kRegisters = 32;

using FloatVec = float32x4_t;
using IntVec = uint32x4_t;

TQ_INLINE FloatVec Zero() { return vdupq_n_f32(0.0f); }
TQ_INLINE FloatVec Set(float x) { return vdupq_n_f32(x); }
TQ_INLINE FloatVec Load(const float* p) { return vld1q_f32(p); }
TQ_INLINE void Store(float* p, FloatVec v) { vst1q_f32(p, v); }
TQ_INLINE FloatVec LoadFirst(const float* p, int count) {
  if (count >= kLanes) return Load(p);
  float copy[kLanes] = {0.0f};
  for (int i = 0; i < count; ++i) copy[i] = p[i];
  return Load(copy);
}
TQ_INLINE void StoreFirst(float* p, FloatVec v, int count) {
  if (count >= kLanes) return Store(p, v);
  float copy[kLanes];
  Store(copy, v);
  for (int i = 0; i < count; ++i) p[i] = copy[i];
}
TQ_INLINE FloatVec LoadBetween(const float* p, int first, int last) {
  if (first == 0 && last >= kLanes) return Load(p);
  float copy[kLanes] = {0.0f};
  for (int i = first; i < last; ++i) copy[i] = p[i];
  return Load(copy);
}
TQ_INLINE void StoreBetween(float* p, FloatVec v, int first, int last) {
  if (first == 0 && last >= kLanes) return Store(p, v);
  float copy[kLanes];
  Store(copy, v);
  for (int i = first; i < last; ++i) p[i] = copy[i];
}

TQ_INLINE FloatVec Add(FloatVec a, FloatVec b) { return vaddq_f32(a, b); }
TQ_INLINE FloatVec Sub(FloatVec a, FloatVec b) { return vsubq_f32(a, b); }
TQ_INLINE FloatVec Mul(FloatVec a, FloatVec b) { return vmulq_f32(a, b); }
TQ_INLINE FloatVec Div(FloatVec a, FloatVec b) { return vdivq_f32(a, b); }
TQ_INLINE FloatVec Max(FloatVec a, FloatVec b) { return vmaxq_f32(a, b); }
TQ_INLINE FloatVec Min(FloatVec a, FloatVec b) { return vminq_f32(a, b); }
TQ_INLINE FloatVec Fma(FloatVec a, FloatVec b, FloatVec c) { return vfmaq_f32(c, a, b); }
TQ_INLINE FloatVec Round(FloatVec a) { return vrndnq_f32(a); }
TQ_INLINE FloatVec AndNotSign(FloatVec a) { return vabsq_f32(a); }
TQ_INLINE FloatVec CopySign(FloatVec magnitude, FloatVec sign) {
  return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
}
TQ_INLINE FloatVec PowerOfTwo(FloatVec n) {
  const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
  return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
}
TQ_INLINE FloatVec AddToExponent(FloatVec x, FloatVec shifted) {
  return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(x),
                                         vshlq_n_u32(vreinterpretq_u32_f32(shifted), 23)));
}
TQ_INLINE FloatVec WhereGreater(FloatVec a, FloatVec b, FloatVec v) {
  return vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(a, b), vreinterpretq_u32_f32(v)));
}
TQ_INLINE bool AnyGreater(FloatVec a, FloatVec b) { return vmaxvq_u32(vcgtq_f32(a, b)) != 0; }
TQ_INLINE bool AnyNonZero(FloatVec a) { return vminvq_u32(vceqzq_f32(a)) == 0; }

template <int kStride>
TQ_INLINE FloatVec SwapLanes(FloatVec v) {
  if constexpr (kStride == 1) return vrev64q_f32(v);
  if constexpr (kStride == 2) return vextq_f32(v, v, 2);
}
template <int kStride>
TQ_INLINE FloatVec ButterflySigns() {
  const float signs[2][kLanes] = {{1.0f, -1.0f, 1.0f, -1.0f}, {1.0f, 1.0f, -1.0f, -1.0f}};
  return Load(signs[kStride - 1]);
}

TQ_INLINE float MaxOfLanes(FloatVec v) { return vmaxvq_f32(v); }

struct Sum16 {
  FloatVec part[4];
};
TQ_INLINE float Fold(const Sum16& sum) {
  FloatVec v = Add(Add(sum.part[0], sum.part[2]), Add(sum.part[1], sum.part[3]));
  v = Add(v, SwapLanes<2>(v));
  v = Add(v, SwapLanes<1>(v));
  return vgetq_lane_f32(v, 0);
}
// out[t] = the sum of the lanes of v[t].
TQ_INLINE void FoldFour(const FloatVec (&v)[4], float* out) {
  vst1q_f32(out, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
}

TQ_INLINE IntVec LoadInt(const uint32_t* p) { return vld1q_u32(p); }
TQ_INLINE void StoreInt(uint32_t* p, IntVec v) { vst1q_u32(p, v); }
TQ_INLINE IntVec ZeroInt() { return vdupq_n_u32(0); }
template <int kBits>
TQ_INLINE IntVec ShiftRight(IntVec v) {
  if constexpr (kBits == 0) return v;
  return vshrq_n_u32(v, kBits == 0 ? 1 : kBits);
}
template <int kBits>
TQ_INLINE IntVec ShiftLeft(IntVec v) {
  return vshlq_n_u32(v, kBits);
}
TQ_INLINE IntVec ShiftRightBy(IntVec v, int bits) { return vshlq_u32(v, vdupq_n_s32(-bits)); }
TQ_INLINE IntVec ShiftRightEach(IntVec v, IntVec bits) {
  return vshlq_u32(v, vnegq_s32(vreinterpretq_s32_u32(bits)));
}
template <uint32_t kMask>
TQ_INLINE IntVec SelectBits(IntVec a, IntVec b) {
  return vbslq_u32(vdupq_n_u32(kMask), a, b);
}
TQ_INLINE IntVec AddWhereGreater(IntVec idx, FloatVec u, FloatVec t, int step) {
  return vaddq_u32(idx, vandq_u32(vcgtq_f32(u, t), vdupq_n_u32(static_cast<uint32_t>(step))));
}
template <int kBits>
TQ_INLINE IntVec ShiftLeftInto(IntVec v, IntVec before) {
  return vsliq_n_u32(vshrq_n_u32(before, 32 - kBits), v, kBits);
}
TQ_INLINE IntVec SetInt(int x) { return vdupq_n_u32(static_cast<uint32_t>(x)); }
TQ_INLINE IntVec AddInts(IntVec a, IntVec b) { return vaddq_u32(a, b); }
TQ_INLINE IntVec SubInts(IntVec a, IntVec b) { return vsubq_u32(a, b); }
TQ_INLINE int SumOfInts(IntVec v) { return static_cast<int>(vaddvq_u32(v)); }
TQ_INLINE bool AnyNonZeroInt(IntVec v) { return vmaxvq_u32(v) != 0; }
TQ_INLINE IntVec ToInts(FloatVec v) { return vreinterpretq_u32_s32(vcvtnq_s32_f32(v)); }
TQ_INLINE FloatVec ToFloats(IntVec v) { return vcvtq_f32_s32(vreinterpretq_s32_u32(v)); }
TQ_INLINE IntVec Or(IntVec a, IntVec b) { return vorrq_u32(a, b); }
TQ_INLINE IntVec Xor(IntVec a, IntVec b) { return veorq_u32(a, b); }

TQ_INLINE IntVec LoadBytes(const uint8_t* p) {
  uint32_t word;
  memcpy(&word, p, sizeof(word));
  return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(word))));
}
// Four lanes need the first four bytes (and shift) alone.
TQ_INLINE IntVec LoadBytes(const uint8_t* p0, const uint8_t* /*p1*/) { return LoadBytes(p0); }
TQ_INLINE IntVec SetHalves(int low, int /*high*/) {
  return vdupq_n_u32(static_cast<uint32_t>(low));
}
TQ_INLINE void StoreBytes(uint8_t* p, IntVec v) {
  const uint16x4_t words = vmovn_u32(v);
  const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
  const uint32_t word = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
  memcpy(p, &word, sizeof(word));
}

// tbl looks bytes up: a float of a table is four of them.
struct Table {
  FloatVec entries[4];
};
template <int kBits>
TQ_INLINE Table LoadTable(const float* entries) {
  static_assert(kBits <= 4);
  Table table;
  for (int i = 0; i < 4; ++i) {
    const int at = 4 * i < 1 << kBits ? 4 * i : 0;
    table.entries[i] = LoadFirst(entries + at, (1 << kBits) - at);
  }
  return table;
}
TQ_INLINE Table LoadShortTable(const float* entries, int count) {
  Table table;
  for (int i = 0; i < 4; ++i) {
    const int rest = count - 4 * i;
    table.entries[i] = rest > 0 ? LoadFirst(entries + 4 * i, rest) : Zero();
  }
  return table;
}
// The bytes of the float of every index.
template <int kBits>
TQ_INLINE uint8x16_t BytesOfFloat(IntVec idx) {
  const IntVec low = vandq_u32(idx, vdupq_n_u32((1u << kBits) - 1u));
  return vreinterpretq_u8_u32(vmlaq_n_u32(vdupq_n_u32(0x03020100u), low, 0x04040404u));
}
template <int kBits>
TQ_INLINE FloatVec Lookup(const Table& table, IntVec idx) {
  const uint8x16_t at = BytesOfFloat<kBits>(idx);
  const auto bytes = [&table](int i) { return vreinterpretq_u8_f32(table.entries[i]); };
  if constexpr (kBits <= 2) return vreinterpretq_f32_u8(vqtbl1q_u8(bytes(0), at));
  if constexpr (kBits == 3) {
    return vreinterpretq_f32_u8(vqtbl2q_u8(uint8x16x2_t{{bytes(0), bytes(1)}}, at));
  }
  return vreinterpretq_f32_u8(
      vqtbl4q_u8(uint8x16x4_t{{bytes(0), bytes(1), bytes(2), bytes(3)}}, at));
}
TQ_INLINE FloatVec Lookup32(const Table& low, const Table& high, IntVec idx) {
  const IntVec upper = vtstq_u32(idx, vdupq_n_u32(16));
  return vbslq_f32(upper, Lookup<4>(high, idx), Lookup<4>(low, idx));
}
TQ_INLINE Table Scale(const Table& table, float s) {
  Table scaled;
  for (int i = 0; i < 4; ++i) scaled.entries[i] = Mul(table.entries[i], Set(s));
  return scaled;
}
TQ_INLINE FloatVec Gather(const float* entries, IntVec idx) {
  uint32_t at[kLanes];
  StoreInt(at, idx);
  const float values[kLanes] = {entries[at[0]], entries[at[1]], entries[at[2]], entries[at[3]]};
  return Load(values);
}

TQ_INLINE float SquareRoot(float x) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0); }
TQ_INLINE FloatVec HalfLoad(const uint16_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
TQ_INLINE void HalfStore(uint16_t* p, FloatVec v) {
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
TQ_INLINE FloatVec HalfLoadFirst(const uint16_t* p, int count) {
  uint16_t copy[kLanes] = {0};
  memcpy(copy, p, sizeof(uint16_t) * static_cast<size_t>(count));
  return HalfLoad(copy);
}
TQ_INLINE void HalfStoreFirst(uint16_t* p, FloatVec v, int count) {
  uint16_t copy[kLanes];
  HalfStore(copy, v);
  memcpy(p, copy, sizeof(uint16_t) * static_cast<size_t>(count));
}
TQ_INLINE uint16_t ToHalf(float x) {
  return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(Set(x))), 0);
}
TQ_INLINE float FromHalf(uint16_t x) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(x))), 0);
}

TQ_INLINE void TransposeDwords(const uint8_t* const* rows, size_t offset, IntVec column[4]) {
  IntVec row[4];
  for (int t = 0; t < 4; ++t) row[t] = vreinterpretq_u32_u8(vld1q_u8(rows[t] + offset));
  const uint64x2_t low01 = vreinterpretq_u64_u32(vzip1q_u32(row[0], row[1]));
  const uint64x2_t high01 = vreinterpretq_u64_u32(vzip2q_u32(row[0], row[1]));
  const uint64x2_t low23 = vreinterpretq_u64_u32(vzip1q_u32(row[2], row[3]));
  const uint64x2_t high23 = vreinterpretq_u64_u32(vzip2q_u32(row[2], row[3]));
  column[0] = vreinterpretq_u32_u64(vzip1q_u64(low01, low23));
  column[1] = vreinterpretq_u32_u64(vzip2q_u64(low01, low23));
  column[2] = vreinterpretq_u32_u64(vzip1q_u64(high01, high23));
  column[3] = vreinterpretq_u32_u64(vzip2q_u64(high01, high23));
}

// ---- trellis search: a run is a register ----

template <int kSpan>
TQ_INLINE FloatVec PairLow(FloatVec v) {
  static_assert(kSpan == kLanes);
  return vzip1q_f32(v, v);
}
template <int kSpan>
TQ_INLINE FloatVec PairHigh(FloatVec v) {
  static_assert(kSpan == kLanes);
  return vzip2q_f32(v, v);
}
template <int kRuns>
TQ_INLINE FloatVec LoadQuads(const float* const* rows, size_t at) {
  static_assert(kRuns == 1);
  return Load(rows[0] + at);
}
TQ_INLINE IntVec QuadChoice(IntVec choice) { return vreinterpretq_u32_u8(BytesOfFloat<2>(choice)); }
TQ_INLINE FloatVec InQuad(FloatVec v, IntVec choice) {
  return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(v), vreinterpretq_u8_u32(choice)));
}
TQ_INLINE IntVec WhereLess(FloatVec a, FloatVec b, int value, IntVec old) {
  return vbslq_u32(vcltq_f32(a, b), vdupq_n_u32(static_cast<uint32_t>(value)), old);
}
TQ_INLINE void StoreLess(uint8_t* to, FloatVec a, FloatVec b) {
  const uint32_t bit[kLanes] = {1, 2, 4, 8};
  *to = static_cast<uint8_t>(vaddvq_u32(vandq_u32(vcltq_f32(a, b), LoadInt(bit))));
}
TQ_INLINE void StoreQuads(const FloatVec (&v)[4], float* to) {
  vst4q_f32(to, float32x4x4_t{{v[0], v[1], v[2], v[3]}});
}

// Bit i % 8 of byte i.
TQ_INLINE uint8x16_t BitOfByte() { return vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u)); }
TQ_INLINE void ExpandPlanes(const uint64_t* planes, int count, uint8_t byte[64]) {
  for (int part = 0; part < 4; ++part) {
    uint8x16_t v = vdupq_n_u8(0);
    for (int p = 0; p < count; ++p) {
      const uint64_t bits = planes[p] >> (16 * part);
      const uint8x16_t spread = vcombine_u8(vdup_n_u8(static_cast<uint8_t>(bits)),
                                            vdup_n_u8(static_cast<uint8_t>(bits >> 8)));
      const uint8x16_t set = vtstq_u8(spread, BitOfByte());
      v = vorrq_u8(v, vandq_u8(set, vdupq_n_u8(static_cast<uint8_t>(1 << p))));
    }
    vst1q_u8(byte + 16 * part, v);
  }
}
TQ_INLINE uint64_t PlaneOfBytes(const uint8_t byte[64], int bit) {
  uint64_t plane = 0;
  for (int part = 0; part < 4; ++part) {
    const uint8x16_t set =
        vtstq_u8(vld1q_u8(byte + 16 * part), vdupq_n_u8(static_cast<uint8_t>(1 << bit)));
    const uint8x16_t weights = vandq_u8(set, BitOfByte());
    const uint64_t bits = vaddv_u8(vget_low_u8(weights)) |
                          static_cast<uint64_t>(vaddv_u8(vget_high_u8(weights))) << 8;
    plane |= bits << (16 * part);
  }
  return plane;
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_VEC_NEON_H_
