// Trellis codes to steps of the alphabet (AVX-512 VBMI, VBMI2 and GFNI), for coded_step_kernels.h:
//   1. the two parity planes, a few shifts of the path plane (a dword of it holds 32 values of a
//      cell, or, of values, 8 values of four cells);
//   2. the planes of an index turned into nibbles, by exchanging their odd and even bits and pairs;
//   3. a byte permute.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_KERNELS_H_

#include "kernels/cpu/coded_step_kernels.h"
#include "kernels/cpu/trellis_planes.h"

namespace turboquant {
namespace {

// The alphabet's steps plus kOffset, repeated: index bits above the code do not matter.
template <int kBits, int kOffset>
struct AlphabetTable {
  alignas(64) uint8_t bytes[64];
  constexpr AlphabetTable() : bytes() {
    for (int i = 0; i < 64; ++i) {
      bytes[i] = static_cast<uint8_t>(kCacheTrellis<kBits>.steps[i % (2 << kBits)] + kOffset);
    }
  }
};
template <int kBits, int kOffset>
constexpr AlphabetTable<kBits, kOffset> kAlphabetTable;

template <int kBits, int kOffset>
TQ_INLINE void LookupIndices(const IntVec (&idx)[8], IntVec (&steps)[8]) {
  const IntVec table = _mm512_load_si512(kAlphabetTable<kBits, kOffset>.bytes);
  for (int e = 0; e < 8; ++e) steps[e] = LookupBytes(table, idx[e]);
}

// ---- keys ----

// The path delayed by kDelay values: dwords of 32 values, `before` the dword in front.
template <int kDelay>
TQ_INLINE IntVec Delayed(IntVec path, IntVec before) {
  if constexpr (kDelay == 0) return path;
  return _mm512_shldi_epi32(path, before, kDelay);
}

// The parity of the bits of the polynomial, for every value.
template <unsigned kPolynomial, int kDelay = 0>
TQ_INLINE IntVec ParityOfDwords(IntVec path, IntVec before) {
  constexpr unsigned kRest = kPolynomial >> 1;
  if constexpr ((kPolynomial & 1u) == 0) {
    return ParityOfDwords<kRest, kDelay + 1>(path, before);
  } else if constexpr (kRest == 0) {
    return Delayed<kDelay>(path, before);
  } else {
    return _mm512_xor_si512(Delayed<kDelay>(path, before),
                            ParityOfDwords<kRest, kDelay + 1>(path, before));
  }
}

// Steps + 128 of a tile of keys: vector 8 w + e has in lane t the values 32 w + e, + 8, + 16, + 24
// of cell t. d is a multiple of 32.
template <int kBits>
TQ_INLINE void UnpackKeyTile(const uint8_t* tile, int d, uint8_t* steps) {
  constexpr TrellisView kTrellis = kCacheTrellis<kBits>;
  const size_t plane_bytes = 2 * static_cast<size_t>(d);
  IntVec before = ZeroInt();
  for (int w = 0; w < d / 32; ++w) {
    const uint8_t* at = tile + 64 * static_cast<size_t>(w);
    const IntVec path = LoadCodes(at);
    IntVec plane[kBits + 1];
    plane[0] = ParityOfDwords<kTrellis.h1>(path, before);
    plane[1] = ParityOfDwords<kTrellis.h0>(path, before);
    for (int p = 1; p < kBits; ++p) plane[1 + p] = LoadCodes(at + p * plane_bytes);
    IntVec idx[8];
    IntVec step[8];
    IndexBytes<kBits>(plane, idx);
    LookupIndices<kBits, 128>(idx, step);
    for (int e = 0; e < 8; ++e) {
      _mm512_store_si512(steps + 512 * static_cast<size_t>(w) + 64 * e, step[e]);
    }
    before = path;
  }
}

// ---- values ----

// The contribution of one byte to the parities of its eight values (kDistance = 0), or of the eight
// values behind them (kDistance = 1), as a matrix of bits: row i in byte 7 - i.
template <unsigned kPolynomial, int kDistance>
constexpr uint64_t ParityMatrix() {
  uint64_t matrix = 0;
  for (int i = 0; i < 8; ++i) {
    for (int k = 0; k <= kTrellisMaxMemory; ++k) {
      const int bit = i - k + 8 * kDistance;
      if (((kPolynomial >> k) & 1u) != 0 && bit >= 0 && bit < 8) {
        matrix ^= uint64_t{1} << (8 * (7 - i) + bit);
      }
    }
  }
  return matrix;
}

template <unsigned kPolynomial>
TQ_INLINE IntVec ParityOfBytes(IntVec path, IntVec before) {
  const IntVec own = _mm512_set1_epi64(static_cast<int64_t>(ParityMatrix<kPolynomial, 0>()));
  const IntVec carried = _mm512_set1_epi64(static_cast<int64_t>(ParityMatrix<kPolynomial, 1>()));
  return _mm512_xor_si512(_mm512_gf2p8affine_epi64_epi8(path, own, 0),
                          _mm512_gf2p8affine_epi64_epi8(before, carried, 0));
}

// Steps of the values in byte positions [position, position + count) of one group of four cells,
// or, if count <= 8, of two groups side by side in the halves of a vector: lanes of step[e] are the
// values 8 position + e.
template <int kBits, bool kTwoGroups>
TQ_INLINE void UnpackValues(const uint8_t* group, const uint8_t* group2, int d, int position,
                            __mmask16 lanes, IntVec (&step)[8]) {
  constexpr TrellisView kTrellis = kCacheTrellis<kBits>;
  const auto load = [&](__mmask16 mask, ptrdiff_t offset) {
    if constexpr (kTwoGroups) {
      const auto half = static_cast<__mmask8>(mask);
      return _mm512_inserti64x4(
          _mm512_castsi256_si512(_mm256_maskz_loadu_epi32(half, group + offset)),
          _mm256_maskz_loadu_epi32(half, group2 + offset), 1);
    } else {
      return _mm512_maskz_loadu_epi32(mask, group + offset);
    }
  };
  const ptrdiff_t at = 4 * static_cast<ptrdiff_t>(position);
  const ptrdiff_t plane_bytes = d / 2;
  const IntVec path = load(lanes, at);
  const IntVec before = load(static_cast<__mmask16>(position == 0 ? lanes & ~1u : lanes), at - 4);
  IntVec plane[kBits + 1];
  plane[0] = ParityOfBytes<kTrellis.h1>(path, before);
  plane[1] = ParityOfBytes<kTrellis.h0>(path, before);
  for (int p = 1; p < kBits; ++p) plane[1 + p] = load(lanes, at + p * plane_bytes);
  IntVec idx[8];
  IndexBytes<kBits>(plane, idx);
  LookupIndices<kBits, 0>(idx, step);
}

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

// What coded_step_kernels.h asks of a format.
template <int kBits>
struct TrellisSteps {
  static constexpr int kBytes = 1;
  static constexpr int kChunk = 128;
  static constexpr bool kTurned = true;
  static constexpr float kUnit = kCacheTrellis<kBits>.unit;

  // The planes of keys are whole dwords.
  static TQ_INLINE bool Serves(int d) { return d % 32 == 0; }

  static TQ_INLINE void UnpackKeys(const uint8_t* tile, int d, uint8_t* steps) {
    UnpackKeyTile<kBits>(tile, d, steps);
  }

  static void UnpackBlock(const uint8_t* codes, size_t group_bytes, int d, int first, int values,
                          unsigned tiles, StepBlock* block) {
    const int position = first / 8;
    const int count = values / 8;
    const __mmask16 lanes = FirstLanes(count);
    IntVec step[8];
    for (int tile = 0; tile < kSumTiles; ++tile) {
      if ((tiles >> tile & 1u) == 0) continue;
      if (count > 8) {
        for (int group = 4 * tile; group < 4 * tile + 4; ++group) {
          const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes;
          UnpackValues<kBits, false>(at, at, d, position, lanes, step);
          for (int e = 0; e < 8; ++e) {
            _mm512_store_si512(block->steps + 512 * group + 64 * e, step[e]);
          }
        }
        continue;
      }
      for (int group = 4 * tile; group < 4 * tile + 4; group += 2) {
        const uint8_t* at = codes + static_cast<size_t>(group) * group_bytes;
        UnpackValues<kBits, true>(at, at + group_bytes, d, position, lanes, step);
        uint8_t* to = block->steps + 256 * group;
        for (int e = 0; e < 8; ++e) {
          uint8_t* half = to + 64 * (e % 4) + 32 * (e / 4);
          _mm256_store_si256(reinterpret_cast<__m256i*>(half), _mm512_castsi512_si256(step[e]));
          _mm256_store_si256(reinterpret_cast<__m256i*>(half + 256),
                             _mm512_extracti64x4_epi64(step[e], 1));
        }
      }
    }
  }

  static TQ_INLINE int Vectors(int values) { return values > 64 ? 8 : 4; }

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

#endif  // TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_KERNELS_H_
