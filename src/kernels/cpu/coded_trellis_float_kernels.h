// Scores and weighted sums on trellis codes in f32, for instruction sets without dot products of
// bytes. coded_float_kernels.h comes first. Scores: lanes are cells; sums: lanes are byte positions
// of a plane, eight values each. The indices of a tile, or of a block of cells, go into first-level
// cache once and meet all query rows there.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_FLOAT_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_FLOAT_KERNELS_H_

#include "kernels/cpu/coded_float_kernels.h"
#include "kernels/cpu/trellis_planes.h"

namespace turboquant {
namespace {

// ---- scores ----

// Index bytes of a tile: word 16 (8 w + e) + t has in byte b that of value 32 w + e + 8 b of cell
// t.
template <int kBits>
void UnpackKeyTile(const uint8_t* tile, int d, uint32_t* indices) {
  constexpr TrellisView kTrellis = kCacheTrellis<kBits>;
  const size_t plane_bytes = 2 * static_cast<size_t>(d);
  for (int g = 0; g < kVecsOfTile; ++g) {
    IntVec before = ZeroInt();
    for (int w = 0; w < d / 32; ++w) {
      const uint8_t* at = tile + 64 * static_cast<size_t>(w) + 4 * static_cast<size_t>(g) * kLanes;
      const IntVec path = LoadCodes(at);
      IntVec plane[kBits + 1];
      plane[0] = ParityOf<kTrellis.h1, 32>(path, before);
      plane[1] = ParityOf<kTrellis.h0, 32>(path, before);
      for (int p = 1; p < kBits; ++p) plane[1 + p] = LoadCodes(at + p * plane_bytes);
      IntVec idx[8];
      IndexBytes<kBits>(plane, idx);
      for (int e = 0; e < 8; ++e) StoreInt(indices + 16 * (8 * w + e) + g * kLanes, idx[e]);
      before = path;
    }
  }
}

template <int kBits, int kRows, int kByte = 0>
TQ_INLINE void ScoreBytes(const ScaledAlphabet<kBits>& alphabet, const IntVec (&word)[kVecsOfTile],
                          const Query (&q)[kRows], int at, ScoreSums<kRows>* sums) {
  FloatVec c[kVecsOfTile];
  for (int g = 0; g < kVecsOfTile; ++g) c[g] = alphabet[ShiftRight<8 * kByte>(word[g])];
  for (int r = 0; r < kRows; ++r) {
    const FloatVec value = Set(q[r].value[at + 8 * kByte]);
    for (int g = 0; g < kVecsOfTile; ++g) sums->sum[r][g] = Fma(c[g], value, sums->sum[r][g]);
  }
  if constexpr (kByte < 3) ScoreBytes<kBits, kRows, kByte + 1>(alphabet, word, q, at, sums);
}

// One tile. Cell j goes to out[j]; only cells [begin, end) are stored.
template <int kBits, int kRows>
void ScoreIndices(const uint32_t* indices, const uint16_t* scales, int d, const uint8_t* prepared,
                  int row, int begin, int end, float* out, int ld) {
  const ScaledAlphabet<kBits> alphabet(kCacheTrellis<kBits>.alphabet, 1.0f);
  Query q[kRows];
  ScoreSums<kRows> sums;
  for (int r = 0; r < kRows; ++r) {
    q[r] = QueryAt(prepared, d, row + r);
    for (int g = 0; g < kVecsOfTile; ++g) sums.sum[r][g] = Zero();
  }
  for (int i = 0; i < d / 4; ++i) {
    IntVec word[kVecsOfTile];
    for (int g = 0; g < kVecsOfTile; ++g) word[g] = LoadInt(indices + 16 * i + g * kLanes);
    ScoreBytes<kBits, kRows>(alphabet, word, q, i / 8 * 32 + i % 8, &sums);
  }
  for (int r = 0; r < kRows; ++r) {
    alignas(64) float score[kTileLanes];
    for (int g = 0; g < kVecsOfTile; ++g) {
      Store(score + g * kLanes, Mul(sums.sum[r][g], HalfLoad(scales + g * kLanes)));
    }
    memcpy(out + static_cast<ptrdiff_t>(r) * ld + begin, score + begin,
           static_cast<size_t>(end - begin) * sizeof(float));
  }
}

template <int kBits, int kRows = kMaxScoreRows>
TQ_INLINE void ScoreIndexRows(int rows, const uint32_t* indices, const uint16_t* scales, int d,
                              const uint8_t* prepared, int row, int begin, int end, float* out,
                              int ld) {
  if (rows == kRows) {
    return ScoreIndices<kBits, kRows>(indices, scales, d, prepared, row, begin, end, out, ld);
  }
  if constexpr (kRows > 1) {
    ScoreIndexRows<kBits, kRows - 1>(rows, indices, scales, d, prepared, row, begin, end, out, ld);
  }
}

template <int kBits>
void TrellisScores(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                   int ld) {
  if (n <= 0) return;
  const int d = k.head_dim;
  if (k.form != TileForm::kKeys || d % 32 != 0) {  // the planes are not whole dwords
    return FallbackScores(k, prepared, rows, n, out, ld);
  }
  alignas(64) uint32_t indices[4 * kMaxHeadDim];
  const size_t tile_bytes = static_cast<size_t>(2 * kBits * d);
  const int blocks = (rows + kMaxScoreRows - 1) / kMaxScoreRows;
  int tile = k.first / kTileLanes;
  for (int j = -(k.first % kTileLanes); j < n; j += kTileLanes, ++tile) {
    const uint8_t* at = k.codes + static_cast<size_t>(tile) * tile_bytes;
    PrefetchBytes(at + 4 * tile_bytes, tile_bytes);
    UnpackKeyTile<kBits>(at, d, indices);
    for (int b = 0, r = 0; b < blocks; ++b) {
      const int size = BlockSize(rows, blocks, b);
      ScoreIndexRows<kBits>(size, indices, k.scales + static_cast<size_t>(tile) * kTileLanes, d,
                            prepared, r, Larger(-j, 0), Smaller(n - j, kTileLanes),
                            out + static_cast<ptrdiff_t>(r) * ld + j, ld);
      r += size;
    }
  }
}

// ---- weighted sums ----

constexpr int kBlockGroups = kSumCells / 4;
constexpr int kTrellisSumRows = 2;  // query rows whose sums of four vectors fit the registers

// Index bytes of a block of cells and kLanes byte positions: word (8 group + e) kLanes + p has in
// byte t that of value 8 p + e of cell t of the group.
struct IndexBlock {
  alignas(64) uint32_t words[kBlockGroups * 8 * kLanes];
};

// Words [0, count) of `at`, the others zero; word 0 is zero too, and not read, if `skip`.
TQ_INLINE IntVec LoadWords(const uint8_t* at, int count, bool skip) {
  if (count == kLanes && !skip) return LoadCodes(at);
  alignas(64) uint32_t words[kLanes] = {0};
  const int first = skip ? 1 : 0;
  memcpy(words + first, at + 4 * first, 4 * static_cast<size_t>(count - first));
  return LoadInt(words);
}

// Byte positions [position, position + count).
template <int kBits>
void UnpackValueBlock(const uint8_t* codes, size_t group_bytes, int d, int position, int count,
                      unsigned groups, IndexBlock* block) {
  constexpr TrellisView kTrellis = kCacheTrellis<kBits>;
  const size_t plane_bytes = static_cast<size_t>(d / 2);
  for (int group = 0; group < kBlockGroups; ++group) {
    if ((groups >> group & 1u) == 0) continue;
    const uint8_t* at =
        codes + static_cast<size_t>(group) * group_bytes + 4 * static_cast<size_t>(position);
    const IntVec path = LoadWords(at, count, false);
    const IntVec before = LoadWords(at - 4, count, position == 0);
    IntVec plane[kBits + 1];
    plane[0] = ParityOf<kTrellis.h1, 8>(path, before);
    plane[1] = ParityOf<kTrellis.h0, 8>(path, before);
    for (int p = 1; p < kBits; ++p) plane[1 + p] = LoadWords(at + p * plane_bytes, count, false);
    IntVec idx[8];
    IndexBytes<kBits>(plane, idx);
    for (int e = 0; e < 8; ++e) StoreInt(block->words + (8 * group + e) * kLanes, idx[e]);
  }
}

template <int kBits, int kRows, int kToken = 0>
TQ_INLINE void AddIndexTokens(const ScaledAlphabet<kBits>& alphabet, const IntVec (&word)[4],
                              const FloatWeights& w, int cell, FloatVec (&sum)[kRows][4]) {
  FloatVec weight[kRows];
  for (int r = 0; r < kRows; ++r) weight[r] = Set(w.weight[r][cell + kToken]);
  for (int e = 0; e < 4; ++e) {
    const FloatVec c = alphabet[ShiftRight<8 * kToken>(word[e])];
    for (int r = 0; r < kRows; ++r) sum[r][e] = Fma(weight[r], c, sum[r][e]);
  }
  if constexpr (kToken < 3) {
    AddIndexTokens<kBits, kRows, kToken + 1>(alphabet, word, w, cell, sum);
  }
}

// Adds one block to values 8 p + half .. 8 p + half + 3 of `count` positions p from o on.
template <int kBits, int kRows>
void SumIndices(const IndexBlock& block, int half, int count, const FloatWeights& w, int d,
                float* o) {
  const ScaledAlphabet<kBits> alphabet(kCacheTrellis<kBits>.alphabet, 1.0f);
  FloatVec sum[kRows][4];
  for (int r = 0; r < kRows; ++r) {
    for (int e = 0; e < 4; ++e) sum[r][e] = Zero();
  }
  for (int group = 0; group < kBlockGroups; ++group) {
    if ((w.groups >> group & 1u) == 0) continue;
    IntVec word[4];
    for (int e = 0; e < 4; ++e) {
      word[e] = LoadInt(block.words + (8 * group + half + e) * kLanes);
    }
    AddIndexTokens<kBits, kRows>(alphabet, word, w, 4 * group, sum);
  }
  for (int r = 0; r < kRows; ++r) {
    alignas(64) float lanes[4][kLanes];
    for (int e = 0; e < 4; ++e) Store(lanes[e], sum[r][e]);
    float* to = o + static_cast<ptrdiff_t>(r) * d + half;
    for (int p = 0; p < count; ++p) {
      for (int e = 0; e < 4; ++e) to[8 * p + e] += lanes[e][p];
    }
  }
}

template <int kBits>
void TrellisAccumulate(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  if (n <= 0) return;
  if (v.form != TileForm::kValues) return FallbackAccumulate(v, p, ld, rows, n, o);
  const int d = v.head_dim;
  const size_t cell_bytes = static_cast<size_t>(kBits * d / 8);
  const int last = v.first + n;
  IndexBlock block;
  FloatWeights w;
  for (int cell = v.first / kTileLanes * kTileLanes; cell < last; cell += kSumCells) {
    const uint8_t* codes = v.codes + static_cast<size_t>(cell) * cell_bytes;
    PrefetchBytes(codes + kSumCells * cell_bytes, kSumCells * cell_bytes);
    const int tiles = Smaller((last - cell + kTileLanes - 1) / kTileLanes, kSumCells / kTileLanes);
    const unsigned all = (1u << (4 * tiles)) - 1u;  // for one row may skip what another needs
    for (int k = 0; k < d / 8; k += kLanes) {
      const int count = Smaller(d / 8 - k, kLanes);
      bool unpacked = false;
      for (int r = 0; r < rows; r += kTrellisSumRows) {
        const int size = Smaller(rows - r, kTrellisSumRows);
        if (k == 0 || rows > kTrellisSumRows) {
          LoadFloatWeights(v.scales, p + static_cast<ptrdiff_t>(r) * ld - v.first, ld, size, cell,
                           v.first, last, &w);
        }
        if (w.groups == 0) continue;
        if (!unpacked) {
          UnpackValueBlock<kBits>(codes, 4 * cell_bytes, d, k, count,
                                  rows > kTrellisSumRows ? all : w.groups, &block);
        }
        unpacked = true;
        float* to = o + static_cast<ptrdiff_t>(r) * d + 8 * k;
        for (int half = 0; half < 8; half += 4) {
          if (size == 2) {
            SumIndices<kBits, 2>(block, half, count, w, d, to);
          } else {
            SumIndices<kBits, 1>(block, half, count, w, d, to);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_TRELLIS_FLOAT_KERNELS_H_
