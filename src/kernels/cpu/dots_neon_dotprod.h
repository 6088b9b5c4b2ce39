// Products of bytes with the dot product of 64-bit Arm (sdot). Names and meaning are those of
// dots_avx512.h. Both factors are signed: steps have no offset, queries are 128 high + low, weights
// 256 high + low with -128 <= low < 128.
#ifndef TURBOQUANT_KERNELS_CPU_DOTS_NEON_DOTPROD_H_
#define TURBOQUANT_KERNELS_CPU_DOTS_NEON_DOTPROD_H_

#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

template <TileForm>
constexpr int kStepOffset = 0;

constexpr float kWeightSteps = 32512;  // 127 * 256

constexpr int kMaxScoreRows = 6;
template <int kRows>
constexpr int kScoreVectors = kRows == 1 ? 4 : 2;
constexpr int kMaxSumRows = 6;
template <int kRows>
constexpr int kSumVectors = kRows <= 3 ? 4 : 2;

TQ_INLINE IntVec LoadCodes(const uint8_t* p) { return vreinterpretq_u32_u8(vld1q_u8(p)); }
TQ_INLINE IntVec LoadCodesFirst(const uint8_t* p, int count) {
  if (count == kLanes) return LoadCodes(p);
  uint32_t words[kLanes] = {0};
  memcpy(words, p, 4 * static_cast<size_t>(count));
  return LoadInt(words);
}
TQ_INLINE IntVec DwordsBefore(IntVec v) { return vextq_u32(vdupq_n_u32(0), v, 3); }
TQ_INLINE IntVec LoadCodesHalves(const uint8_t* p0, const uint8_t* /*p1*/) { return LoadCodes(p0); }

TQ_INLINE uint8x16_t BytesOf(IntVec v) { return vreinterpretq_u8_u32(v); }
TQ_INLINE int8x16_t SignedBytesOf(IntVec v) { return vreinterpretq_s8_u32(v); }

// ---- lookup ----

struct ByteTable {
  uint8x16_t bytes;
};
TQ_INLINE ByteTable LoadByteTable(const uint8_t* bytes) { return {vld1q_u8(bytes)}; }
TQ_INLINE IntVec LookupBytes(uint8x16_t table, uint8x16_t idx) {
  return vreinterpretq_u32_u8(vqtbl1q_u8(table, idx));
}
template <int kBits>
TQ_INLINE IntVec LookupLow(const ByteTable& table, IntVec v) {
  return LookupBytes(table.bytes, vandq_u8(BytesOf(v), vdupq_n_u8(15)));
}
template <int kBits>
TQ_INLINE IntVec LookupHigh(const ByteTable& table, IntVec v) {
  return LookupBytes(table.bytes, vshrq_n_u8(BytesOf(v), 4));
}
TQ_INLINE IntVec LowPairs(IntVec v) { return v; }
TQ_INLINE IntVec JoinTriples(IntVec high, IntVec low) { return SelectBits<0x44444444>(high, low); }

template <int kBits>
struct IndexTable {
  uint8x16x2_t entries;
  TQ_INLINE explicit IndexTable(const uint8_t* bytes)
      : entries{{vld1q_u8(bytes), vld1q_u8(bytes + 16)}} {}
  TQ_INLINE IntVec operator[](IntVec idx) const {
    static_assert(kBits <= 5);
    const uint8x16_t five = vandq_u8(BytesOf(idx), vdupq_n_u8(31));
    return vreinterpretq_u32_u8(vqtbl2q_u8(entries, five));
  }
};

// The tables are odd functions of code - 127.5: 128 entries and the sign.
struct WideParts {
  alignas(16) uint8_t bytes[2][128];
  constexpr WideParts(const uint8_t* high, const uint8_t* low, int /*offset*/) : bytes() {
    for (int i = 0; i < 128; ++i) {
      bytes[0][i] = high[128 + i];
      bytes[1][i] = low[128 + i];
    }
  }
};
struct WideLookup {
  uint8x16x4_t part[2][2];
  TQ_INLINE WideLookup(const WideParts& parts, int /*offset*/) {
    for (int p = 0; p < 2; ++p) {
      for (int h = 0; h < 2; ++h) part[p][h] = vld1q_u8_x4(parts.bytes[p] + 64 * h);
    }
  }
  TQ_INLINE void Look(IntVec codes, IntVec* high, IntVec* low) const {
    const int8x16_t centred = veorq_s8(SignedBytesOf(codes), vdupq_n_s8(-128));
    const int8x16_t negative = vshrq_n_s8(centred, 7);
    const uint8x16_t idx = vreinterpretq_u8_s8(veorq_s8(centred, negative));
    *high = LookPart(part[0], idx, negative);
    *low = LookPart(part[1], idx, negative);
  }
  static TQ_INLINE IntVec LookPart(const uint8x16x4_t (&part)[2], uint8x16_t idx,
                                   int8x16_t negative) {
    const uint8x16_t below = vqtbl4q_u8(part[0], idx);
    const uint8x16_t entry = vqtbx4q_u8(below, part[1], vsubq_u8(idx, vdupq_n_u8(64)));
    const int8x16_t turned = veorq_s8(vreinterpretq_s8_u8(entry), negative);
    return vreinterpretq_u32_s8(vsubq_s8(turned, negative));
  }
};

// ---- products ----

struct Operand {
  int8x16_t high;
  int8x16_t low;
};
TQ_INLINE int8x16_t SetDword(const uint8_t* p) {
  int32_t value;
  memcpy(&value, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(value));
}
TQ_INLINE Operand LoadOperand(const uint8_t* first, const uint8_t* second) {
  return {SetDword(first), SetDword(second)};
}

struct Steps {
  int8x16_t bytes;
};
TQ_INLINE Steps StepsOf(IntVec bytes) { return {SignedBytesOf(bytes)}; }

struct Sum {
  int32x4_t high;
  int32x4_t low;
};
TQ_INLINE Sum ZeroSum() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
template <TileForm>
TQ_INLINE void AddProducts(Sum* sum, const Steps& steps, const Operand& operand) {
  sum->high = vdotq_s32(sum->high, steps.bytes, operand.high);
  sum->low = vdotq_s32(sum->low, steps.bytes, operand.low);
}
template <TileForm kForm>
TQ_INLINE IntVec Total(const Sum& sum) {
  constexpr int kShift = kForm == TileForm::kKeys ? 7 : 8;
  return vreinterpretq_u32_s32(vaddq_s32(vshlq_n_s32(sum.high, kShift), sum.low));
}

// ---- products with steps of two bytes, 128 high + low ----

template <TileForm kForm>
constexpr int kLowFactor = kForm == TileForm::kKeys ? 1 : 2;
template <int kRows>
constexpr int kWideScoreVectors = kScoreVectors<kRows>;
template <int kRows>
constexpr int kWideSumVectors = kSumVectors<kRows>;

struct WideSum {
  int32x4_t high;
  int32x4_t low;
};
TQ_INLINE WideSum ZeroWideSum() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
template <TileForm>
TQ_INLINE void AddWideProducts(WideSum* sum, const Steps& high, const Steps& low,
                               const Operand& operand) {
  sum->high = vdotq_s32(sum->high, high.bytes, operand.high);
  sum->low = vdotq_s32(sum->low, high.bytes, operand.low);
  sum->low = vdotq_s32(sum->low, low.bytes, operand.high);
}
template <TileForm kForm>
TQ_INLINE FloatVec WideTotal(const WideSum& sum, int, int) {
  constexpr float kHigh = kForm == TileForm::kKeys ? 16384.0f : 32768.0f;
  return Fma(vcvtq_f32_s32(sum.high), Set(kHigh), Mul(vcvtq_f32_s32(sum.low), Set(128.0f)));
}

// ---- operands ----

TQ_INLINE IntVec StoreQuery(IntVec value, uint8_t* first, uint8_t* second) {
  const int32x4_t signed_value = vreinterpretq_s32_u32(value);
  const int32x4_t high = vrshrq_n_s32(signed_value, 7);
  StoreBytes(first, vreinterpretq_u32_s32(high));
  StoreBytes(second, vreinterpretq_u32_s32(vsubq_s32(signed_value, vshlq_n_s32(high, 7))));
  return ZeroInt();  // nobody asks
}

TQ_INLINE void TurnBytes(const uint8_t* from, uint8_t* to) {
  uint8x8x4_t rows;
  for (int i = 0; i < 4; ++i) rows.val[i] = vld1_u8(from + 8 * i);
  vst4_u8(to, rows);
}
TQ_INLINE void TurnQuery(const uint8_t* first, const uint8_t* second, uint8_t* turned_first,
                         uint8_t* turned_second) {
  TurnBytes(first, turned_first);
  TurnBytes(second, turned_second);
}

TQ_INLINE void StoreWeights(const IntVec* value, uint8_t* first, uint8_t* second) {
  for (int i = 0; i < 4; ++i) {
    const int32x4_t weight = vreinterpretq_s32_u32(value[i]);
    const int32x4_t high = vrshrq_n_s32(weight, 8);
    StoreBytes(first + 4 * i, vreinterpretq_u32_s32(high));
    StoreBytes(second + 4 * i, vreinterpretq_u32_s32(vsubq_s32(weight, vshlq_n_s32(high, 8))));
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_DOTS_NEON_DOTPROD_H_
