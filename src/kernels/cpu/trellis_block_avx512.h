// How unpacked trellis values lie in a block (coded_step_kernels.h), for vectors of 16 lanes:
// vector e of a group has in lane p the values 8 p + e of its four cells; of up to 64 values,
// vector e % 4 has them in the half e / 4.
#ifndef TURBOQUANT_KERNELS_CPU_TRELLIS_BLOCK_AVX512_H_
#define TURBOQUANT_KERNELS_CPU_TRELLIS_BLOCK_AVX512_H_

#include "kernels/cpu/coded_step_kernels.h"

namespace turboquant {
namespace {

// Lanes of v[e] are values e of 16 byte positions; becomes out[m] = values 16 m .. 16 m + 15.
TQ_INLINE void TurnPositions(const FloatVec (&v)[8], FloatVec (&out)[8]) {
  __m512d quad[2][4];  // [e / 4][j]: four values of positions j, 4 + j, 8 + j, 12 + j
  for (int h = 0; h < 2; ++h) {
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(v[4 * h], v[4 * h + 1]));
    const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(v[4 * h], v[4 * h + 1]));
    const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(v[4 * h + 2], v[4 * h + 3]));
    const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(v[4 * h + 2], v[4 * h + 3]));
    quad[h][0] = _mm512_unpacklo_pd(low01, low23);
    quad[h][1] = _mm512_unpackhi_pd(low01, low23);
    quad[h][2] = _mm512_unpacklo_pd(high01, high23);
    quad[h][3] = _mm512_unpackhi_pd(high01, high23);
  }
  for (int j = 0; j < 4; j += 2) {
    // Quads of positions p and p + 1, p = j, 4 + j, ...: pairs of lanes, then the pairs apart.
    const __m512d a = _mm512_shuffle_f64x2(quad[0][j], quad[1][j], 0x44);
    const __m512d b = _mm512_shuffle_f64x2(quad[0][j + 1], quad[1][j + 1], 0x44);
    const __m512d c = _mm512_shuffle_f64x2(quad[0][j], quad[1][j], 0xEE);
    const __m512d e = _mm512_shuffle_f64x2(quad[0][j + 1], quad[1][j + 1], 0xEE);
    out[j / 2] = _mm512_castpd_ps(_mm512_shuffle_f64x2(a, b, 0x88));
    out[j / 2 + 2] = _mm512_castpd_ps(_mm512_shuffle_f64x2(a, b, 0xDD));
    out[j / 2 + 4] = _mm512_castpd_ps(_mm512_shuffle_f64x2(c, e, 0x88));
    out[j / 2 + 6] = _mm512_castpd_ps(_mm512_shuffle_f64x2(c, e, 0xDD));
  }
}

struct BlockTurn {
  static TQ_INLINE int Vectors(int values) { return values > 64 ? 8 : 4; }

  // `count` byte positions from `position` on, of the four groups of a tile; up to 8 positions of
  // two groups side by side.
  template <typename Unpack>
  static TQ_INLINE void UnpackGroups(const uint8_t* codes, size_t group_bytes, int position,
                                     int count, int first_group, StepBlock* block,
                                     const Unpack& unpack) {
    const __mmask16 lanes = FirstLanes(count);
    const __mmask16 behind = static_cast<__mmask16>(position == 0 ? lanes & ~1u : lanes);
    IntVec step[8];
    if (count > 8) {
      for (int group = first_group; group < first_group + 4; ++group) {
        const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes + 4 * position;
        unpack(
            [=](ptrdiff_t offset, bool delayed) {
              return delayed ? _mm512_maskz_loadu_epi32(behind, at - 4)
                             : _mm512_maskz_loadu_epi32(lanes, at + offset);
            },
            step);
        for (int e = 0; e < 8; ++e) StoreCodes(block->steps + 512 * group + 64 * e, step[e]);
      }
      return;
    }
    for (int group = first_group; group < first_group + 4; group += 2) {
      const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes + 4 * position;
      unpack(
          [=](ptrdiff_t offset, bool delayed) {
            const auto mask = static_cast<__mmask8>(delayed ? behind : lanes);
            const uint8_t* from = at + (delayed ? -4 : offset);
            return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi32(mask, from)),
                                      _mm256_maskz_loadu_epi32(mask, from + group_bytes), 1);
          },
          step);
      uint8_t* to = block->steps + 256 * group;
      for (int e = 0; e < 8; ++e) {
        uint8_t* half = to + 64 * (e % 4) + 32 * (e / 4);
        _mm256_store_si256(reinterpret_cast<__m256i*>(half), _mm512_castsi512_si256(step[e]));
        _mm256_store_si256(reinterpret_cast<__m256i*>(half + 256),
                           _mm512_extracti64x4_epi64(step[e], 1));
      }
    }
  }

  static TQ_INLINE void AddTo(FloatVec (&value)[8], int values, float* o) {
    if (values <= 64) {  // bring both halves to the lower one
      for (int e = 0; e < 4; ++e) value[4 + e] = _mm512_shuffle_f32x4(value[e], value[e], 0x0E);
    }
    FloatVec turned[8];
    TurnPositions(value, turned);
    for (int m = 0; m < values / 16; ++m) {
      Store(o + 16 * m, Add(Load(o + 16 * m), turned[m]));
    }
  }
};

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_TRELLIS_BLOCK_AVX512_H_
