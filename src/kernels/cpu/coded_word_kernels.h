// Scores and weighted sums on 8-bit codes with vectors of 256 bits: codes become steps of a signed
// word, a tile or a block at a time, into first-level cache, where they meet the words of all query
// rows or weights. coded_byte_kernels.h comes first.
//
// A product of words has 29 bits. Queries and weights are therefore as large as they can be without
// a sum of 2^31: of 15 bits where one value stands out, of fewer where many are alike, so that
// their rounding is as small beside their sum (docs/adr/0007).
#ifndef TURBOQUANT_KERNELS_CPU_CODED_WORD_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_WORD_KERNELS_H_

#include "codec/codebook.h"
#include "kernels/cpu/coded_byte_kernels.h"

namespace turboquant {
namespace {

constexpr float kWordSteps = 16241;  // the largest step
constexpr float kWordUnit = kCentroids8[255] / kWordSteps;

constexpr float kLargestWord = 32512;  // a weight; of queries kQuerySteps
// Of the magnitudes that meet steps in one sum, rounded: 2^31 / kWordSteps, less half a unit for
// each of up to 128.
constexpr float kWordSum = 132000;
static_assert((static_cast<double>(kWordSum) + 64) * static_cast<double>(kWordSteps) < 0x1p31);
constexpr int kWordRun = 256;  // values of a query that do

// Two words of every dword of `v` lie in lane 0, 1, 4 or 5 of one vector, the other two in lane 2,
// 3, 6 or 7: the larger of both sums. Values i with i % 4 < 2 meet in one sum, the others in
// another.
TQ_INLINE float LargerHalf(FloatVec sums) {
  const FloatVec pairs = Add(sums, SwapLanes<1>(sums));
  return MaxOfLanes(Add(pairs, SwapLanes<4>(pairs)));
}

// The word for the largest magnitude where those that meet in one sum have this sum. A whole
// number: weights that are all alike have no rounding.
TQ_INLINE float WordsOfLargest(float largest, float sum, float most) {
  const float words = largest * kWordSum < sum * most ? largest / sum * kWordSum : most;
  return static_cast<float>(static_cast<int>(words));
}

// Eight words of each.
TQ_INLINE void StoreWords(int16_t* to, IntVec v0, IntVec v1) {
  const IntVec words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v0, v1), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
}

// ---- codes to steps ----

// The magnitude of the step of code x and, with the other sign, of 255 - x, x < 128, in eight parts
// of 16. A part serves all codes that are not below its first one, so it holds the difference
// (exclusive or) to the part before.
struct WordParts {
  alignas(16) uint8_t bytes[2][8][16];
  static constexpr int Step(int x) {
    return -static_cast<int>(kCentroids8[255 - x] / kCentroids8[255] * kWordSteps + 0.5f);
  }
  constexpr WordParts() : bytes() {
    for (int x = 0; x < 128; ++x) {
      const int differ = Step(x) ^ (x < 16 ? 0 : Step(x - 16));
      bytes[0][x / 16][x % 16] = static_cast<uint8_t>(differ & 255);
      bytes[1][x / 16][x % 16] = static_cast<uint8_t>(differ >> 8 & 255);
    }
  }
};
constexpr WordParts kWordParts;

// kVectors vectors of codes to twice as many of steps: those of the dwords 0, 1, 4 and 5 of a
// vector, then those of the others.
template <int kVectors>
TQ_INLINE void StepsOfCodes(const uint8_t* codes, int16_t* steps) {
  IntVec idx[kVectors];
  IntVec low[kVectors];
  IntVec high[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const IntVec code = LoadCodes(codes + 32 * v);
    idx[v] = Xor(code, _mm256_cmpgt_epi8(ZeroInt(), code));
  }
  for (int i = 0; i < 8; ++i) {
    const ByteTable low_part = LoadByteTable(kWordParts.bytes[0][i]);
    const ByteTable high_part = LoadByteTable(kWordParts.bytes[1][i]);
    for (int v = 0; v < kVectors; ++v) {
      const IntVec low_bytes = _mm256_shuffle_epi8(low_part.bytes, idx[v]);
      const IntVec high_bytes = _mm256_shuffle_epi8(high_part.bytes, idx[v]);
      low[v] = i == 0 ? low_bytes : Xor(low[v], low_bytes);
      high[v] = i == 0 ? high_bytes : Xor(high[v], high_bytes);
      idx[v] = _mm256_sub_epi8(idx[v], _mm256_set1_epi8(16));
      asm("" : "+x"(low[v]), "+x"(high[v]), "+x"(idx[v]));  // in this order: fewer registers
    }
  }
  const IntVec one = _mm256_set1_epi8(1);
  for (int v = 0; v < kVectors; ++v) {
    const IntVec code = LoadCodes(codes + 32 * v);
    auto* to = reinterpret_cast<__m256i*>(steps + 32 * v);
    _mm256_store_si256(to, _mm256_sign_epi16(_mm256_unpacklo_epi8(low[v], high[v]),
                                             _mm256_unpacklo_epi8(one, code)));
    _mm256_store_si256(to + 1, _mm256_sign_epi16(_mm256_unpackhi_epi8(low[v], high[v]),
                                                 _mm256_unpackhi_epi8(one, code)));
  }
}

TQ_INLINE void UnpackWords(const uint8_t* codes, int count, int16_t* steps) {
  int i = 0;
  for (; i + 2 <= count; i += 2) StepsOfCodes<2>(codes + 32 * i, steps + 32 * i);
  if (i < count) StepsOfCodes<1>(codes + 32 * i, steps + 32 * i);
}

// ---- products ----

// Query rows or cells that meet the steps at once, with two sums a vector of eight.
template <int kRows>
constexpr int kWordVectors = kRows <= 3 ? 2 : 1;
constexpr int kMaxWordRows = 6;

template <int kRows, int kVectors>
struct WordSums {
  IntVec first[kRows][kVectors];
  IntVec second[kRows][kVectors];

  TQ_INLINE void Clear() {
    for (int r = 0; r < kRows; ++r) {
      for (int g = 0; g < kVectors; ++g) first[r][g] = second[r][g] = ZeroInt();
    }
  }
  // Vector g of steps lies g * stride behind the first; the four words of row r at words[r].
  TQ_INLINE void Add(const int16_t* steps, ptrdiff_t stride, const int16_t* words, ptrdiff_t ld) {
    IntVec step[kVectors][2];
    for (int g = 0; g < kVectors; ++g) {
      const auto* at = reinterpret_cast<const __m256i*>(steps + g * stride);
      step[g][0] = _mm256_load_si256(at);
      step[g][1] = _mm256_load_si256(at + 1);
    }
    for (int r = 0; r < kRows; ++r) {
      int64_t four;
      memcpy(&four, words + r * ld, sizeof(four));
      const IntVec operand = _mm256_set1_epi64x(four);
      for (int g = 0; g < kVectors; ++g) {
        first[r][g] = AddWordDots(first[r][g], step[g][0], operand);
        second[r][g] = AddWordDots(second[r][g], step[g][1], operand);
      }
    }
  }
  TQ_INLINE FloatVec Total(int r, int g) const {
    return _mm256_hadd_ps(ToFloats(first[r][g]), ToFloats(second[r][g]));
  }
};

// ---- scores ----

constexpr int kWordBlock = 12;  // query rows that share the unpacking of keys

struct WordQueries {
  alignas(32) int16_t words[kWordBlock * kMaxHeadDim];
  float unit[kWordBlock];
};

void LoadWordQueries(const uint8_t* prepared, int d, int first, int rows, WordQueries* out) {
  for (int r = 0; r < rows; ++r) {
    const Query q = QueryAt(prepared, d, first + r);
    FloatVec top = Zero();
    float sum = 0;
    for (int run = 0; run < d; run += kWordRun) {
      FloatVec part = Zero();
      for (int i = run; i < Smaller(d, run + kWordRun); i += kLanes) {
        const FloatVec x = AndNotSign(Load(q.value + i));
        top = Max(top, x);
        part = Add(part, x);
      }
      const float larger = LargerHalf(part);
      sum = larger > sum ? larger : sum;
    }
    const float peak = MaxOfLanes(top);
    const bool usable = peak > 1e-30f && sum < 1e38f;
    const float unit = usable ? peak / WordsOfLargest(peak, sum, kQuerySteps) : 0.0f;
    out->unit[r] = unit + 0.0f * q.unit;  // NaN if a value is not finite
    const FloatVec inverse = Set(usable ? 1.0f / unit : 0.0f);
    for (int i = 0; i < d; i += 16) {
      StoreWords(out->words + static_cast<size_t>(r) * d + i,
                 ToInts(Mul(Load(q.value + i), inverse)),
                 ToInts(Mul(Load(q.value + i + 8), inverse)));
    }
  }
}

// One unpacked tile: column i has the steps of values 4 i .. 4 i + 3, of eight cells in 32 words,
// then of the other eight. Cell j goes to out[j]; only cells [begin, end) are stored.
template <int kRows>
void ScoreWords(const int16_t* steps, const uint16_t* scales, int d, const int16_t* words,
                const float* unit, int begin, int end, float* out, int ld) {
  constexpr int kVectors = kWordVectors<kRows>;
  for (int cell = 0; cell < kTileLanes; cell += kVectors * kLanes) {
    FloatVec total[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int g = 0; g < kVectors; ++g) total[r][g] = Zero();
    }
    for (int run = 0; run < d; run += kWordRun) {
      WordSums<kRows, kVectors> sums;
      sums.Clear();
      for (int i = run; i < Smaller(d, run + kWordRun); i += 4) {
        sums.Add(steps + 16 * static_cast<size_t>(i) + 4 * cell, 32, words + i, d);
      }
      for (int r = 0; r < kRows; ++r) {
        for (int g = 0; g < kVectors; ++g) {
          total[r][g] = Add(total[r][g], sums.Total(r, g));
        }
      }
    }
    for (int g = 0; g < kVectors; ++g) {
      const int at = cell + g * kLanes;
      const int from = Larger(begin - at, 0);
      const int to = Smaller(end - at, kLanes);
      if (to <= from) continue;
      const FloatVec scale = HalfLoad(scales + at);
      for (int r = 0; r < kRows; ++r) {
        StoreBetween(out + static_cast<ptrdiff_t>(r) * ld + at,
                     Mul(Mul(total[r][g], Set(unit[r] * kWordUnit)), scale), from, to);
      }
    }
  }
}

template <int kRows = kMaxWordRows>
TQ_INLINE void ScoreWordRows(int rows, const int16_t* steps, const uint16_t* scales, int d,
                             const int16_t* words, const float* unit, int begin, int end,
                             float* out, int ld) {
  if (rows == kRows) return ScoreWords<kRows>(steps, scales, d, words, unit, begin, end, out, ld);
  if constexpr (kRows > 1) {
    ScoreWordRows<kRows - 1>(rows, steps, scales, d, words, unit, begin, end, out, ld);
  }
}

void WordScores(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out, int ld) {
  if (n <= 0) return;
  if (k.form != TileForm::kKeys) return FallbackScores(k, prepared, rows, n, out, ld);
  const int d = k.head_dim;
  const size_t tile_bytes = static_cast<size_t>(kTileLanes * d);
  WordQueries queries;
  alignas(32) int16_t steps[kTileLanes * kMaxHeadDim];
  for (int row = 0; row < rows; row += kWordBlock) {
    const int count = Smaller(rows - row, kWordBlock);
    LoadWordQueries(prepared, d, row, count, &queries);
    const int blocks = (count + kMaxWordRows - 1) / kMaxWordRows;
    int tile = k.first / kTileLanes;
    for (int j = -(k.first % kTileLanes); j < n; j += kTileLanes, ++tile) {
      const uint8_t* codes = k.codes + static_cast<size_t>(tile) * tile_bytes;
      PrefetchBytes(codes + 4 * tile_bytes, tile_bytes);
      UnpackWords(codes, d / 2, steps);
      for (int b = 0, r = 0; b < blocks; ++b) {
        const int size = BlockSize(count, blocks, b);
        ScoreWordRows(size, steps, k.scales + static_cast<size_t>(tile) * kTileLanes, d,
                      queries.words + static_cast<size_t>(r) * d, queries.unit + r, -j, n - j,
                      out + static_cast<ptrdiff_t>(row + r) * ld + j, ld);
        r += size;
      }
    }
  }
}

// ---- weighted sums ----

struct WordWeights {
  alignas(32) int16_t words[kMaxWordRows][kSumCells];
  float unit[kMaxWordRows];
  unsigned tiles;  // as in CellWeights
};

TQ_INLINE void LoadWordWeights(const uint16_t* scales, const float* p, int ld, int rows, int cell,
                               int first, int last, WordWeights* w) {
  IntVec nonzero[kSumTiles];
  for (IntVec& tile : nonzero) tile = ZeroInt();
  for (int r = 0; r < rows; ++r) {
    FloatVec weight[kSumCells / kLanes];
    const float peak =
        LoadRowWeights(scales, p + static_cast<ptrdiff_t>(r) * ld, cell, first, last, weight);
    FloatVec part = Zero();
    for (const FloatVec& x : weight) part = Add(part, x);
    const float sum = LargerHalf(part);
    const bool usable = peak > 1e-30f;
    const float unit = usable ? peak / WordsOfLargest(peak, sum, kLargestWord) : 0.0f;
    w->unit[r] = unit;
    const FloatVec inverse = Set(usable ? 1.0f / unit : 0.0f);
    for (int t = 0; t < kSumCells / kLanes; t += 2) {
      const IntVec low = ToInts(Mul(weight[t], inverse));
      const IntVec high = ToInts(Mul(weight[t + 1], inverse));
      nonzero[t / 2] = Or(nonzero[t / 2], Or(low, high));
      StoreWords(w->words[r] + kLanes * t, low, high);
    }
  }
  w->tiles = 0;
  for (int t = 0; t < kSumTiles; ++t) w->tiles |= (AnyNonZeroInt(nonzero[t]) ? 1u : 0u) << t;
}

constexpr int kWordChunk = 64;  // values of a row that are unpacked at once

// Unpacked steps of one block and one chunk, group by group: eight values of four cells in 32
// words.
struct WordBlock {
  alignas(32) int16_t steps[kSumCells * kWordChunk];
};

// Adds one block to kRows rows of o: the values of the chunk start at o.
template <int kRows>
void SumWords(const WordBlock& block, const WordWeights& w, int values, int d, float* o) {
  constexpr int kVectors = kWordVectors<kRows>;
  for (int i = 0; i < values; i += kVectors * kLanes) {
    WordSums<kRows, kVectors> sums;
    sums.Clear();
    for (int tile = 0; tile < kSumTiles; ++tile) {
      if ((w.tiles >> tile & 1u) == 0) continue;
      for (int group = 4 * tile; group < 4 * tile + 4; ++group) {
        sums.Add(block.steps + static_cast<ptrdiff_t>(group) * 4 * values + 4 * i, 32,
                 w.words[0] + 4 * group, kSumCells);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int g = 0; g < kVectors; ++g) {
        float* to = o + static_cast<ptrdiff_t>(r) * d + i + g * kLanes;
        Store(to, Fma(sums.Total(r, g), Set(w.unit[r] * kWordUnit), Load(to)));
      }
    }
  }
}

template <int kRows = kMaxWordRows>
TQ_INLINE void SumWordRows(int rows, const WordBlock& block, const WordWeights& w, int values,
                           int d, float* o) {
  if (rows == kRows) return SumWords<kRows>(block, w, values, d, o);
  if constexpr (kRows > 1) SumWordRows<kRows - 1>(rows, block, w, values, d, o);
}

void WordAccumulate(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  if (n <= 0) return;
  if (v.form != TileForm::kValues) return FallbackAccumulate(v, p, ld, rows, n, o);
  const int d = v.head_dim;
  const int blocks = (rows + kMaxWordRows - 1) / kMaxWordRows;
  const int last = v.first + n;
  WordBlock steps;
  WordWeights w;
  for (int cell = v.first / kTileLanes * kTileLanes; cell < last; cell += kSumCells) {
    const uint8_t* codes = v.codes + static_cast<size_t>(cell) * d;
    PrefetchBytes(codes + static_cast<size_t>(kSumCells) * d, static_cast<size_t>(kSumCells) * d);
    const int tiles = Smaller((last - cell + kTileLanes - 1) / kTileLanes, kSumTiles);
    for (int i = 0; i < d; i += kWordChunk) {
      const int values = Smaller(d - i, kWordChunk);
      bool unpacked = false;
      for (int b = 0, r = 0; b < blocks; ++b) {
        const int size = BlockSize(rows, blocks, b);
        if (i == 0 || blocks > 1) {
          LoadWordWeights(v.scales, p + static_cast<ptrdiff_t>(r) * ld - v.first, ld, size, cell,
                          v.first, last, &w);
        }
        if (w.tiles != 0) {
          // Several blocks of rows: all tiles, for one block may skip what another needs.
          const unsigned wanted = blocks > 1 ? (1u << tiles) - 1u : w.tiles;
          for (int group = 0; !unpacked && group < kSumCells / 4; ++group) {
            if ((wanted >> (group / 4) & 1u) == 0) continue;
            UnpackWords(codes + 4 * (static_cast<size_t>(group) * d + i), values / kLanes,
                        steps.steps + static_cast<ptrdiff_t>(group) * 4 * values);
          }
          unpacked = true;
          SumWordRows(size, steps, w, values, d, o + static_cast<size_t>(r) * d + i);
        }
        r += size;
      }
    }
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_WORD_KERNELS_H_
