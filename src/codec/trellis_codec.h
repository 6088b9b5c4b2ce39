// The scalar truth of turbo2t / turbo3t / turbo4t: trellis-coded quantisation with Ungerboeck's
// code in feed-forward form (M. W. Marcellin and T. R. Fischer, "Trellis coded quantization of
// memoryless and Gauss-Markov sources", 1990). Every SIMD and CUDA encoder must give these bytes.
//
// One value takes b bits: one path bit x_t and b - 1 refinement bits r_t. The path bits pass
// through a shift register: bit k of the window w_t is x_{t-k}, k = 0..m, with x_t = 0 for t < 0
// (2^m states, zero start). Two parities of the window choose one of four interleaved subsets of
// an alphabet of 2^(b+1) values, the refinement chooses within it:
//   index_t = 4 r_t + 2 parity(w_t & h0) + parity(w_t & h1)      y~_t = scale * alphabet[index_t]
// So a row decodes without state: the parity planes of the whole row are a few shifts and XORs of
// its path plane, and the index looks up 16 values (2 bits: 8; 4 bits: 32).
//
// Bytes: b planes of d / 8 bytes. Plane 0 is the path, plane 1 + p bit p of the refinement; value t
// is bit t % 8 of byte t / 8 of each plane (natural order, so that shifts of little-endian words
// move along the row).
//
// Encoding, exactly (float, no fused multiply-add; the order below is the format):
//   u_t = y_t * inverse_rms, as in the scalar codec (MeasureRow).
//   For t ascending:
//     metric of subset s: e(r) = (u_t - alphabet[4 r + s])^2; the least over r ascending, a later r
//       only if strictly less; refinement[t][s] is that r.
//     for every new state n (its newest bit is n & 1): predecessors p0 = n >> 1 and
//       p1 = p0 + 2^(m-1), whose windows are n and n + 2^m:
//       v0 = cost[p0] + metric[subset(n)],  v1 = cost[p1] + metric[subset(n + 2^m)];
//       p1 only if v1 < v0; the new cost is the smaller.
//     cost starts as 0 for state 0 and 1e30 for the others.
//   The path ends in the state of least cost, of equal ones the lowest, and is traced back.
//   The scale is fitted to the centroids chosen as in the scalar codec (sums of 16 lanes).
#ifndef TURBOQUANT_CODEC_TRELLIS_CODEC_H_
#define TURBOQUANT_CODEC_TRELLIS_CODEC_H_

#include <cstdint>

#include "base/fp16.h"
#include "base/host_device.h"
#include "codec/scalar_codec.h"
#include "codec/trellis.h"

namespace turboquant {

// Scratch of one encoder: 36 KiB, uninitialised.
struct TrellisScratch {
  uint8_t from_upper[1024][kTrellisMaxStates / 8];  // bit n: state n was reached from p1
  uint8_t refinement[1024][4];
};

TQ_HD inline int GetBit(const uint8_t* plane, int t) { return (plane[t / 8] >> (t % 8)) & 1; }

TQ_HD inline void OrBit(uint8_t* plane, int t, int bit) {
  plane[t / 8] = static_cast<uint8_t>(plane[t / 8] | (bit << (t % 8)));
}

// Viterbi: the alphabet indices of least squared distance from y * inverse_rms that the trellis
// allows, into zeroed planes. d <= 1024, a multiple of 8.
TQ_HD inline void SearchTrellis(const TrellisView& trellis, const float* y, int d,
                                float inverse_rms, TrellisScratch* scratch, uint8_t* planes) {
  const int states = 1 << trellis.memory;
  const int half = states / 2;
  const int choices = 1 << (trellis.bits - 1);
  uint8_t subset[2 * kTrellisMaxStates];
  for (int w = 0; w < 2 * states; ++w) subset[w] = TrellisSubset(trellis, w);
  float costs[2][kTrellisMaxStates];
  float* cost = costs[0];
  float* next = costs[1];
  for (int n = 0; n < states; ++n) cost[n] = n == 0 ? 0.0f : 1e30f;
  for (int t = 0; t < d; ++t) {
    const float u = y[t] * inverse_rms;
    float metric[4];
    for (int s = 0; s < 4; ++s) {
      float e = u - trellis.alphabet[s];
      metric[s] = e * e;
      scratch->refinement[t][s] = 0;
      for (int r = 1; r < choices; ++r) {
        e = u - trellis.alphabet[4 * r + s];
        e = e * e;
        if (e < metric[s]) {
          metric[s] = e;
          scratch->refinement[t][s] = static_cast<uint8_t>(r);
        }
      }
    }
    for (int j = 0; j < states; j += 8) {
      unsigned upper = 0;
      for (int n = j; n < j + 8 && n < states; ++n) {
        const float v0 = cost[n >> 1] + metric[subset[n]];
        const float v1 = cost[(n >> 1) + half] + metric[subset[n + states]];
        upper |= (v1 < v0 ? 1u : 0u) << (n - j);
        next[n] = v1 < v0 ? v1 : v0;
      }
      scratch->from_upper[t][j / 8] = static_cast<uint8_t>(upper);
    }
    float* swap = cost;
    cost = next;
    next = swap;
  }
  int state = 0;
  for (int n = 1; n < states; ++n) state = cost[n] < cost[state] ? n : state;
  for (int t = d - 1; t >= 0; --t) {
    const int upper = GetBit(scratch->from_upper[t], state);
    const int r = scratch->refinement[t][subset[state + upper * states]];
    OrBit(planes, t, state & 1);
    for (int p = 0; p < trellis.bits - 1; ++p) OrBit(planes + (1 + p) * (d / 8), t, (r >> p) & 1);
    state = (state >> 1) + upper * half;
  }
}

// The alphabet index of value t, from the path bits t - m .. t.
TQ_HD inline int LoadTrellisIndex(const TrellisView& trellis, const uint8_t* planes, int d, int t) {
  int window = 0;
  for (int k = 0; k <= trellis.memory && k <= t; ++k) window |= GetBit(planes, t - k) << k;
  int index = TrellisSubset(trellis, window);
  for (int p = 0; p < trellis.bits - 1; ++p) {
    index |= GetBit(planes + (1 + p) * (d / 8), t) << (2 + p);
  }
  return index;
}

// Encodes one rotated row y[d] into bits * d / 8 bytes and the fp16 scale. Returns false if y has
// NaN or Inf or its energy is beyond float (the row is then stored as zeros, which decode to 0).
TQ_HD inline bool EncodeTrellisRow(const TrellisView& trellis, ScaleRule rule, const float* y,
                                   int d, TrellisScratch* scratch, uint8_t* planes,
                                   uint16_t* scale) {
  for (int j = 0; j < trellis.bits * d / 8; ++j) planes[j] = 0;
  *scale = 0;
  const RowEnergy row = MeasureRow(y, d);
  if (row.kind != RowKind::kUsable) return row.kind == RowKind::kZero;
  SearchTrellis(trellis, y, d, row.inverse_rms, scratch, planes);
  float dot[16] = {0};
  float norm[16] = {0};
  for (int t = 0; t < d; ++t) {
    const float c = trellis.alphabet[LoadTrellisIndex(trellis, planes, d, t)];
    dot[t % 16] = dot[t % 16] + y[t] * c;
    norm[t % 16] = norm[t % 16] + c * c;
  }
  *scale = ScaleToHalf(FitScale(rule, row.energy, FoldLanes(dot), FoldLanes(norm), d));
  return true;
}

// Decodes one row into rotated coordinates.
TQ_HD inline void DecodeTrellisRow(const TrellisView& trellis, const uint8_t* planes,
                                   uint16_t scale, int d, float* y) {
  const float s = HalfToFloat(scale);
  for (int t = 0; t < d; ++t) {
    y[t] = s * trellis.alphabet[LoadTrellisIndex(trellis, planes, d, t)];
  }
}

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_TRELLIS_CODEC_H_
