// Encode and decode of the trellis codecs, on the vectors of the including translation unit (one of
// vec_*.h, then codec_kernels.h, must come first; the linking rule is in vec_avx512.h).
//
// Bit-exact to codec/trellis_codec.h. Encoding: lanes are states. A register holds the states of as
// many rows as fit, several registers those of one row with more states. A step of the search is
// two permutations of the costs (state n comes from n / 2 and n / 2 + half), two additions and a
// minimum; its decisions are a bit mask. What surrounds it, the distances to the alphabet, the
// bit planes and the scale, has values in its lanes.
#ifndef TURBOQUANT_KERNELS_CPU_TRELLIS_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_TRELLIS_KERNELS_H_

#include <string.h>

#include "codec/format.h"
#include "codec/trellis.h"
#include "kernels/kernel_api.h"

namespace turboquant {
namespace {

// Value t of a row, in the order in which StoreQuads leaves quads of floats.
TQ_INLINE size_t QuadAt(int t) {
  const int lane = t % kLanes;
  return static_cast<size_t>(t / kLanes * 4 * kLanes + lane % 4 * kLanes + lane / 4 * 4);
}

// What the search needs of a row: the distance of every value to each subset, as quads, and the
// refinement that reaches it, in nibble s of the value's word.
struct Distances {
  alignas(64) float metric[4 * kMaxHeadDim];
  alignas(64) uint32_t refinement[kMaxHeadDim];
};

template <int kBits>
void MeasureDistances(const float* alphabet, const float* y, int d, float inverse_rms,
                      Distances* out) {
  constexpr int kChoices = 1 << (kBits - 1);
  const FloatVec inverse = Set(inverse_rms);
  for (int i = 0; i < d; i += kLanes) {
    const FloatVec u = Mul(Load(y + i), inverse);
    FloatVec least[4];
    IntVec refinement = ZeroInt();
    for (int s = 0; s < 4; ++s) {
      FloatVec e = Sub(u, Set(alphabet[s]));
      least[s] = Mul(e, e);
      IntVec choice = ZeroInt();
      for (int r = 1; r < kChoices; ++r) {
        e = Sub(u, Set(alphabet[4 * r + s]));
        e = Mul(e, e);
        choice = WhereLess(e, least[s], r << (4 * s), choice);
        least[s] = Min(e, least[s]);
      }
      refinement = Or(refinement, choice);
    }
    StoreQuads(least, out->metric + 4 * i);
    StoreInt(out->refinement + i, refinement);
  }
}

// ---- search ----

// Shape of the search with 2^kMemory states.
template <int kMemory>
struct Search {
  static constexpr int kStates = 1 << kMemory;
  static constexpr int kSpan = kStates < kLanes ? kStates : kLanes;  // lanes of one row
  static constexpr int kRuns = kLanes / kSpan;                       // rows of one register
  static constexpr int kVecs = kStates / kSpan;                      // registers of one row
  // Registers searched at once: the steps of one depend on each other, so that more of them hide
  // its latency.
  static constexpr int kChains = kVecs == 1 ? 2 : 1;
  static constexpr int kRows = kRuns * kChains;  // rows of a pass
  // The decisions of a step: one bit a lane, a register's in whole bytes.
  static constexpr int kMaskBits = kLanes < 8 ? 8 : kLanes;
  static constexpr int kStepBytes = kChains * kVecs * kMaskBits / 8;

  // Bit of state n of row `row` among the decisions of a step.
  static constexpr int DecisionBit(int row, int n) {
    const int lane = row % kRuns * kSpan + n % kSpan;
    return (row / kRuns * kVecs + n / kSpan) * kMaskBits + lane;
  }
};

// The paths of least cost of S::kRows rows: decisions[t * kStepBytes ..] and the final costs.
template <typename S>
void SearchPaths(const uint8_t* subset, const float* const* metrics, int d, uint8_t* decisions,
                 float (*final)[S::kStates]) {
  IntVec choice[S::kVecs];
  FloatVec cost[S::kChains][S::kVecs];
  alignas(64) float start[kLanes];
  alignas(64) uint32_t choices[kLanes];
  for (int j = 0; j < S::kVecs; ++j) {
    for (int l = 0; l < kLanes; ++l) {
      const int n = j * kLanes + l % S::kSpan;
      choices[l] = subset[n];
      start[l] = n == 0 ? 0.0f : 1e30f;
    }
    choice[j] = QuadChoice(LoadInt(choices));
    for (int c = 0; c < S::kChains; ++c) cost[c][j] = Load(start);
  }
  for (int t = 0; t < d; ++t) {
    const size_t at = QuadAt(t);
    uint8_t* mask = decisions + static_cast<size_t>(t) * S::kStepBytes;
    for (int c = 0; c < S::kChains; ++c) {
      // The branch from the upper predecessor carries the subset two away (Ungerboeck's rule).
      const FloatVec lower = LoadQuads<S::kRuns>(metrics + c * S::kRuns, at);
      const FloatVec upper = SwapLanes<2>(lower);
      FloatVec next[S::kVecs];
      for (int j = 0; j < S::kVecs; ++j) {
        const FloatVec& from0 = cost[c][j / 2];
        const FloatVec& from1 = cost[c][S::kVecs / 2 + j / 2];
        const FloatVec p0 = j % 2 == 0 ? PairLow<S::kSpan>(from0) : PairHigh<S::kSpan>(from0);
        const FloatVec p1 =
            j % 2 == 0 && S::kVecs > 1 ? PairLow<S::kSpan>(from1) : PairHigh<S::kSpan>(from1);
        const FloatVec v0 = Add(p0, InQuad(lower, choice[j]));
        const FloatVec v1 = Add(p1, InQuad(upper, choice[j]));
        StoreLess(mask, v1, v0);
        mask += S::kMaskBits / 8;
        next[j] = Min(v1, v0);
      }
      for (int j = 0; j < S::kVecs; ++j) cost[c][j] = next[j];
    }
  }
  for (int c = 0; c < S::kChains; ++c) {
    for (int j = 0; j < S::kVecs; ++j) {
      alignas(64) float lanes[kLanes];
      Store(lanes, cost[c][j]);
      for (int l = 0; l < kLanes; ++l) {
        final[c * S::kRuns + l / S::kSpan][j * kLanes + l % S::kSpan] = lanes[l];
      }
    }
  }
}

// Follows the best path of a row back: byte t is the alphabet index of value t, its path bit in
// bit 7.
template <typename S>
void TraceBack(const uint8_t* subset, const uint8_t* decisions, const float* final, int row,
               const uint32_t* refinement, int d, uint8_t* bytes) {
  unsigned state = 0;
  for (unsigned n = 1; n < S::kStates; ++n) state = final[n] < final[state] ? n : state;
  constexpr int kRowBytes = S::kVecs * S::kMaskBits / 8;
  const uint8_t* step = decisions + row / S::kRuns * kRowBytes;
  const int first = row % S::kRuns * S::kSpan;
  for (int t = d - 1; t >= 0; --t) {
    const uint8_t* mask = step + static_cast<size_t>(t) * S::kStepBytes;
    unsigned upper;
    if constexpr (kRowBytes <= 8 && kLanes >= 8) {
      uint64_t word = 0;
      memcpy(&word, mask, kRowBytes);
      upper = static_cast<unsigned>(word >> (static_cast<unsigned>(first) + state)) & 1u;
    } else {
      const int bit = S::DecisionBit(row % S::kRuns, static_cast<int>(state));
      upper = (mask[bit / 8] >> (bit % 8)) & 1u;
    }
    const unsigned s = subset[state + upper * S::kStates];
    const unsigned r = (refinement[t] >> (4 * s)) & 15u;
    bytes[t] = static_cast<uint8_t>(s | r << 2 | (state & 1u) << 7);
    state = state / 2 + upper * (S::kStates / 2);
  }
}

// ---- bit planes ----

// Bytes as TraceBack leaves them, zero up to a multiple of 64, to `bits` planes of d / 8 bytes.
TQ_INLINE void StorePlanes(int bits, const uint8_t* bytes, int d, uint8_t* planes) {
  const int plane_bytes = d / 8;
  for (int p = 0; p < bits; ++p) {
    for (int i = 0; i < d; i += 64) {
      const uint64_t word = PlaneOfBytes(bytes + i, p == 0 ? 7 : 1 + p);
      const int rest = plane_bytes - i / 8;
      memcpy(planes + p * plane_bytes + i / 8, &word, rest < 8 ? static_cast<size_t>(rest) : 8);
    }
  }
}

// The alphabet index of every value, one a byte, zero up to a multiple of 64: two parities of the
// path plane and the refinement. What a table of 2^(bits + 1) bytes is looked up with.
TQ_INLINE void LoadTrellisIndices(const TrellisView& trellis, const uint8_t* planes, int d,
                                  uint8_t* bytes) {
  const int plane_bytes = d / 8;
  uint64_t before = 0;  // the path's word before this one
  for (int i = 0; i < d; i += 64) {
    const int rest = plane_bytes - i / 8;
    const size_t size = rest < 8 ? static_cast<size_t>(rest) : 8;
    uint64_t path = 0;
    memcpy(&path, planes + i / 8, size);
    uint64_t index[5] = {0};
    for (int k = 0; k <= trellis.memory; ++k) {
      // The path, k values later; bits come over from the word before.
      const uint64_t late = k == 0 ? path : path << k | before >> (64 - k);
      if (((trellis.h1 >> k) & 1u) != 0) index[0] ^= late;
      if (((trellis.h0 >> k) & 1u) != 0) index[1] ^= late;
    }
    for (int p = 1; p < trellis.bits; ++p) {
      memcpy(&index[1 + p], planes + p * plane_bytes + i / 8, size);
    }
    ExpandPlanes(index, trellis.bits + 1, bytes + i);
    before = path;
  }
}

// The alphabet of 2^(kBits + 1) entries, times a factor.
template <int kBits>
struct ScaledAlphabet {
  TQ_INLINE ScaledAlphabet(const float* entries, float factor) {
    constexpr int kIndexBits = kBits < 4 ? kBits + 1 : 4;
    for (int i = 0; i < kTables; ++i) {
      table_[i] = Scale(LoadTable<kIndexBits>(entries + 16 * i), factor);
    }
  }
  TQ_INLINE FloatVec operator[](IntVec idx) const {
    if constexpr (kBits == 4) {
      return Lookup32(table_[0], table_[kTables - 1], idx);
    } else {
      return Lookup<kBits + 1>(table_[0], idx);
    }
  }

 private:
  static constexpr int kTables = kBits == 4 ? 2 : 1;
  Table table_[kTables];
};

// ---- rows ----

template <int kBits>
TQ_INLINE uint16_t FitAlphabet(const float* alphabet, const float* y, const uint8_t* bytes, int d) {
  const ScaledAlphabet<kBits> centroids(alphabet, 1.0f);
  ScaleFit fit;
  for (int i = 0; i < d; i += 16) {
    for (int v = 0; v < kVecsOf16; ++v) {
      const int at = i + v * kLanes;
      fit.AddTerms(v, Load(y + at), centroids[LoadBytes(bytes + at)]);
    }
  }
  return fit.Half();
}

// As many rows as a pass takes.
template <int kBits, int kMemory>
void EncodeTrellisRows(const TrellisView& trellis, const uint8_t* subset, const float* const* y,
                       const float* inverse_rms, int count, int d, uint8_t* const* planes,
                       uint16_t* const* scales) {
  using S = Search<kMemory>;
  Distances distances[S::kRows];
  alignas(64) uint8_t decisions[static_cast<size_t>(kMaxHeadDim) * S::kStepBytes];
  const float* metrics[S::kRows];
  float final[S::kRows][S::kStates];
  for (int row = 0; row < S::kRows; ++row) {
    metrics[row] = distances[row < count ? row : 0].metric;  // what is left over repeats a row
    if (row < count) {
      MeasureDistances<kBits>(trellis.alphabet, y[row], d, inverse_rms[row], &distances[row]);
    }
  }
  SearchPaths<S>(subset, metrics, d, decisions, final);
  for (int row = 0; row < count; ++row) {
    alignas(64) uint8_t bytes[kMaxHeadDim];
    memset(bytes + d / 64 * 64, 0, d % 64 == 0 ? 0 : 64);
    TraceBack<S>(subset, decisions, final[row], row, distances[row].refinement, d, bytes);
    StorePlanes(kBits, bytes, d, planes[row]);
    *scales[row] = FitAlphabet<kBits>(trellis.alphabet, y[row], bytes, d);
  }
}

template <int kBits, int kMemory>
int EncodeTrellisAll(const TrellisView& trellis, const RotationView& r, const float* x,
                     const float* mean, int n, uint8_t* planes, uint16_t* scales) {
  using S = Search<kMemory>;
  const int d = r.head_dim;
  const size_t stride = static_cast<size_t>(kBits * d / 8);
  uint8_t subset[2 * S::kStates];
  for (unsigned w = 0; w < 2 * S::kStates; ++w) {
    subset[w] = static_cast<uint8_t>(2 * __builtin_parity(w & trellis.h0) +
                                     __builtin_parity(w & trellis.h1));
  }
  alignas(64) float rotated[S::kRows][kMaxHeadDim];
  const float* y[S::kRows];
  float inverse_rms[S::kRows];
  uint8_t* to[S::kRows];
  uint16_t* scale[S::kRows];
  int invalid = 0;
  int count = 0;
  for (int j = 0; j < n; ++j) {
    y[count] = rotated[count];
    to[count] = planes + static_cast<size_t>(j) * stride;
    scale[count] = scales + j;
    RotateRow(r, x + static_cast<size_t>(j) * d, mean, rotated[count]);
    const RowEnergy row = MeasureKernel(rotated[count], d);
    inverse_rms[count] = row.inverse_rms;
    if (row.kind == RowKind::kUsable) {
      ++count;
    } else {
      memset(to[count], 0, stride);
      *scale[count] = 0;
      invalid += row.kind == RowKind::kZero ? 0 : 1;
    }
    if (count == S::kRows || (count > 0 && j + 1 == n)) {
      EncodeTrellisRows<kBits, kMemory>(trellis, subset, y, inverse_rms, count, d, to, scale);
      count = 0;
    }
  }
  return invalid;
}

template <int kBits>
TQ_INLINE int EncodeTrellisOf(const TrellisView& trellis, const RotationView& r, const float* x,
                              const float* mean, int n, uint8_t* planes, uint16_t* scales) {
  switch (trellis.memory) {
    case 2:
      return EncodeTrellisAll<kBits, 2>(trellis, r, x, mean, n, planes, scales);
    case 3:
      return EncodeTrellisAll<kBits, 3>(trellis, r, x, mean, n, planes, scales);
    case 4:
      return EncodeTrellisAll<kBits, 4>(trellis, r, x, mean, n, planes, scales);
    case 5:
      return EncodeTrellisAll<kBits, 5>(trellis, r, x, mean, n, planes, scales);
    case 6:
      return EncodeTrellisAll<kBits, 6>(trellis, r, x, mean, n, planes, scales);
    case 7:
      return EncodeTrellisAll<kBits, 7>(trellis, r, x, mean, n, planes, scales);
    default:
      return EncodeTrellisAll<kBits, 8>(trellis, r, x, mean, n, planes, scales);
  }
}

int EncodeTrellisKernel(const TrellisView& trellis, const RotationView& r, const float* x,
                        const float* mean, int n, uint8_t* planes, uint16_t* scales) {
  switch (trellis.bits) {
    case 2:
      return EncodeTrellisOf<2>(trellis, r, x, mean, n, planes, scales);
    case 3:
      return EncodeTrellisOf<3>(trellis, r, x, mean, n, planes, scales);
    default:
      return EncodeTrellisOf<4>(trellis, r, x, mean, n, planes, scales);
  }
}

template <int kBits>
TQ_INLINE void DecodeTrellisOf(const TrellisView& trellis, int d, const uint8_t* planes,
                               const uint16_t* scales, int n, float* out) {
  const size_t stride = static_cast<size_t>(kBits * d / 8);
  for (int j = 0; j < n; ++j) {
    alignas(64) uint8_t bytes[kMaxHeadDim];
    LoadTrellisIndices(trellis, planes + static_cast<size_t>(j) * stride, d, bytes);
    const ScaledAlphabet<kBits> scaled(trellis.alphabet, FromHalf(scales[j]));
    float* to = out + static_cast<size_t>(j) * d;
    for (int i = 0; i < d; i += kLanes) Store(to + i, scaled[LoadBytes(bytes + i)]);
  }
}

void DecodeTrellisKernel(const TrellisView& trellis, int d, const uint8_t* planes,
                         const uint16_t* scales, int n, float* out) {
  switch (trellis.bits) {
    case 2:
      return DecodeTrellisOf<2>(trellis, d, planes, scales, n, out);
    case 3:
      return DecodeTrellisOf<3>(trellis, d, planes, scales, n, out);
    default:
      return DecodeTrellisOf<4>(trellis, d, planes, scales, n, out);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_TRELLIS_KERNELS_H_
