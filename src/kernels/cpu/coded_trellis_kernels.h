// Trellis codes to steps of the alphabet, for coded_step_kernels.h:
//   1. the two parity planes, a few shifts of the path plane (a dword of it holds 32 values of a
//      cell, or, of values, 8 values of four cells);
//   2. the planes of an index turned into nibbles, by exchanging their odd and even bits and pairs;
//   3. a byte permute.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_KERNELS_H_

#include "kernels/cpu/coded_step_kernels.h"
#ifdef __AVX512F__
#include "kernels/cpu/trellis_block_avx512.h"
#else
#include "kernels/cpu/trellis_block.h"
#endif
#include "kernels/cpu/trellis_planes.h"

namespace turboquant {
namespace {

// The alphabet's steps with their offset, repeated.
template <int kBits, int kOffset>
struct AlphabetTable {
  alignas(64) uint8_t bytes[64];
  constexpr AlphabetTable() : bytes() {
    for (int i = 0; i < 64; ++i) {
      bytes[i] = static_cast<uint8_t>(kCacheTrellis<kBits>.steps[i % (2 << kBits)] + kOffset);
    }
  }
};
template <int kBits, TileForm kForm>
constexpr AlphabetTable<kBits, kStepOffset<kForm>> kAlphabetTable;

#if defined(__AVX2__) && !defined(__AVX512F__)
// A permute knows 16 entries. Of 32 steps those of the upper half are looked up, with the index
// mirrored for the lower half, and get their sign.
struct UpperHalf {
  alignas(64) uint8_t bytes[64];
  constexpr UpperHalf() : bytes() {
    for (int i = 0; i < 64; ++i) {
      bytes[i] = static_cast<uint8_t>(kCacheTrellis<4>.steps[16 + i % 16]);
    }
  }
  static constexpr bool Serves() {
    for (int i = 0; i < 16; ++i) {
      const int step = kCacheTrellis<4>.steps[16 + i];
      if (step < 0 || step != -kCacheTrellis<4>.steps[15 - i]) return false;
    }
    return true;
  }
};
constexpr UpperHalf kUpperHalf;
static_assert(UpperHalf::Serves());

template <int kOffset, int kFrom = 0>
TQ_INLINE void LookupHalves(const ByteTable& table, const IntVec (&idx)[8], IntVec lower,
                            IntVec (&steps)[8]) {
  steps[kFrom] = OddSteps<kOffset>(LookupLow<4>(table, idx[kFrom]), ShiftLeft<7 - kFrom>(lower));
  if constexpr (kFrom < 7) LookupHalves<kOffset, kFrom + 1>(table, idx, lower, steps);
}

// Steps of the values e of every byte of the planes.
template <int kBits, TileForm kForm>
TQ_INLINE void LookupPlanes(const IntVec (&plane)[kBits + 1], IntVec (&steps)[8]) {
  IntVec idx[8];
  if constexpr (kBits == 4) {
    const IntVec lower = Xor(plane[4], SetInt(-1));
    const IntVec mirrored[4] = {Xor(plane[0], lower), Xor(plane[1], lower), Xor(plane[2], lower),
                                Xor(plane[3], lower)};
    IndexBytes<3>(mirrored, idx);
    LookupHalves<kStepOffset<kForm>>(LoadByteTable(kUpperHalf.bytes), idx, lower, steps);
  } else {
    const IndexTable<kBits + 1> table(kAlphabetTable<kBits, kForm>.bytes);
    IndexBytes<kBits>(plane, idx);
    for (int e = 0; e < 8; ++e) steps[e] = table[idx[e]];
  }
}
#else
// Steps of the values e of every byte of the planes.
template <int kBits, TileForm kForm>
TQ_INLINE void LookupPlanes(const IntVec (&plane)[kBits + 1], IntVec (&steps)[8]) {
  const IndexTable<kBits + 1> table(kAlphabetTable<kBits, kForm>.bytes);
  IntVec idx[8];
  IndexBytes<kBits>(plane, idx);
  for (int e = 0; e < 8; ++e) steps[e] = table[idx[e]];
}
#endif

// A tile of keys: dword t of column 8 w + e has the values 32 w + e, + 8, + 16, + 24 of cell t. d
// is a multiple of 32.
template <int kBits>
TQ_INLINE void UnpackKeyTile(const uint8_t* tile, int d, uint8_t* steps) {
  constexpr TrellisView kTrellis = kCacheTrellis<kBits>;
  const size_t plane_bytes = 2 * static_cast<size_t>(d);
  const size_t ahead = kAheadCells / kTileLanes * kBits * plane_bytes;
  for (int lane = 0; lane < kTileLanes; lane += kLanes) {
    IntVec before = ZeroInt();
    for (int w = 0; w < d / 32; ++w) {
      const uint8_t* at = tile + 64 * static_cast<size_t>(w) + 4 * lane;
      const IntVec path = LoadCodes(at);
      IntVec plane[kBits + 1];
      plane[0] = ParityOf<kTrellis.h1, 32>(path, before);
      plane[1] = ParityOf<kTrellis.h0, 32>(path, before);
      for (int p = 1; p < kBits; ++p) plane[1 + p] = LoadCodes(at + p * plane_bytes);
      if (lane == 0) {
        for (int p = 0; p < kBits; ++p) __builtin_prefetch(at + p * plane_bytes + ahead, 0, 2);
      }
      IntVec step[8];
      LookupPlanes<kBits, TileForm::kKeys>(plane, step);
      for (int e = 0; e < 8; ++e) {
        StoreCodes(steps + 512 * static_cast<size_t>(w) + 64 * e + 4 * lane, step[e]);
      }
      before = path;
    }
  }
}

// Bit `bit` of a byte in the parity of value i of this byte (kDistance = 0) or of the byte behind
// it (kDistance = 1).
template <unsigned kPolynomial, int kDistance>
constexpr bool InParity(int i, int bit) {
  const int delay = i - bit + 8 * kDistance;
  return delay >= 0 && delay <= kTrellisMaxMemory && ((kPolynomial >> delay) & 1u) != 0;
}

// The parities of the eight values of every byte. `before` holds the bytes in front.
#ifdef __GFNI__
template <unsigned kPolynomial, int kDistance>
constexpr uint64_t ParityMatrix() {  // row i in byte 7 - i
  uint64_t matrix = 0;
  for (int i = 0; i < 8; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      if (InParity<kPolynomial, kDistance>(i, bit)) matrix |= uint64_t{1} << (8 * (7 - i) + bit);
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
#else
// What one nibble of a byte contributes.
template <unsigned kPolynomial, int kDistance, bool kHigh>
struct NibbleParity {
  alignas(64) uint8_t bytes[64];
  constexpr NibbleParity() : bytes() {
    for (int n = 0; n < 64; ++n) {
      for (int i = 0; i < 8; ++i) {
        unsigned parity = 0;
        for (int bit = 0; bit < 4; ++bit) {
          const bool counts = InParity<kPolynomial, kDistance>(i, bit + (kHigh ? 4 : 0));
          parity ^= counts ? static_cast<unsigned>(n) >> bit & 1u : 0u;
        }
        bytes[n] = static_cast<uint8_t>(bytes[n] | parity << i);
      }
    }
  }
  constexpr bool Zero() const {
    for (const uint8_t byte : bytes) {
      if (byte != 0) return false;
    }
    return true;
  }
};
template <unsigned kPolynomial, int kDistance, bool kHigh>
constexpr NibbleParity<kPolynomial, kDistance, kHigh> kNibbleParity;

template <unsigned kPolynomial>
TQ_INLINE IntVec ParityOfBytes(IntVec path, IntVec before) {
  const auto table = [](const auto& parity) { return LoadByteTable(parity.bytes); };
  IntVec parity = Xor(LookupLow<4>(table(kNibbleParity<kPolynomial, 0, false>), path),
                      LookupHigh<4>(table(kNibbleParity<kPolynomial, 0, true>), path));
  parity = Xor(parity, LookupHigh<4>(table(kNibbleParity<kPolynomial, 1, true>), before));
  if constexpr (!kNibbleParity<kPolynomial, 1, false>.Zero()) {
    parity = Xor(parity, LookupLow<4>(table(kNibbleParity<kPolynomial, 1, false>), before));
  }
  return parity;
}
#endif

// Steps of byte positions of values: load(offset, delayed) gives the dwords `offset` bytes behind
// those of the path, or, if delayed, of the positions in front of them.
template <int kBits, typename LoadPositions>
TQ_INLINE void UnpackValues(int d, const LoadPositions& load, IntVec (&step)[8]) {
  constexpr TrellisView kTrellis = kCacheTrellis<kBits>;
  const IntVec path = load(0, false);
  const IntVec before = load(0, true);
  IntVec plane[kBits + 1];
  plane[0] = ParityOfBytes<kTrellis.h1>(path, before);
  plane[1] = ParityOfBytes<kTrellis.h0>(path, before);
  for (int p = 1; p < kBits; ++p) plane[1 + p] = load(p * (d / 2), false);
  LookupPlanes<kBits, TileForm::kValues>(plane, step);
}

// What coded_step_kernels.h asks of a format; how values lie in a block is said by the BlockTurn of
// trellis_block.h or trellis_block_avx512.h.
template <int kBits>
struct TrellisSteps : BlockTurn {
  static constexpr int kBytes = 1;
  static constexpr int kChunk = 8 * kLanes;
  static constexpr bool kTurned = true;
  static constexpr float kUnit = kCacheTrellis<kBits>.unit;

  // The planes of keys are whole dwords.
  static TQ_INLINE bool Serves(int d) { return d % 32 == 0; }

  static TQ_INLINE void UnpackKeys(const uint8_t* tile, int d, uint8_t* steps) {
    UnpackKeyTile<kBits>(tile, d, steps);
  }

  static void UnpackBlock(const uint8_t* codes, size_t group_bytes, int d, int first, int values,
                          unsigned tiles, const AheadBytes& ahead, StepBlock* block) {
    for (int tile = 0; tile < kSumTiles; ++tile) {
      if ((tiles >> tile & 1u) == 0) continue;
      ahead.Ask(4 * tile, 4);
      BlockTurn::UnpackGroups(
          codes, group_bytes, first / 8, values / 8, 4 * tile, block,
          [d](const auto& load, IntVec(&step)[8]) { UnpackValues<kBits>(d, load, step); });
    }
  }
};

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_KERNELS_H_
