// Trellises: generator polynomials and trained alphabets by bits per value and number of states.
//
// The polynomials are Ungerboeck's (1982, table I; octal). The alphabets are trained by
// tools/make_trellis into the generated trellis_tables.inc, checked by retraining in the tests.
// They lie on a byte grid like the centroids of the scalar codecs (docs/adr/0005): 0.2 % more
// distortion at most.
#ifndef TURBOQUANT_CODEC_TRELLIS_H_
#define TURBOQUANT_CODEC_TRELLIS_H_

#include <cstdint>

#include "base/host_device.h"

namespace turboquant {

inline constexpr int kTrellisMinMemory = 2;  // 4 states
inline constexpr int kTrellisMaxMemory = 8;  // 256 states
inline constexpr int kTrellisMaxStates = 1 << kTrellisMaxMemory;

// Defines kTrellisAlphabets2/3/4, a row of 2^(bits + 1) values, ascending and symmetric about 0,
// for every memory from kTrellisMinMemory to kTrellisMaxMemory; and kTrellisUnits, kTrellisSteps,
// whose products they are (|steps| <= 126).
#define TQ_TRELLIS_TABLE inline constexpr
#include "codec/trellis_tables.inc"
#undef TQ_TRELLIS_TABLE

#ifdef __CUDACC__
// The same tables where device code can take their address.
namespace trellis_device {
#define TQ_TRELLIS_TABLE [[maybe_unused]] static __device__ const
#include "codec/trellis_tables.inc"
#undef TQ_TRELLIS_TABLE
}  // namespace trellis_device
#endif

struct TrellisView {
  int bits;     // of one value: 2, 3 or 4
  int memory;   // 2^memory states
  unsigned h0;  // polynomials over the window: the high and the low bit of the subset
  unsigned h1;
  const float* alphabet;     // [2^(bits + 1)], ascending; entry 4 r + s is the r-th of subset s
  const signed char* steps;  // alphabet[i] = unit * steps[i]
  float unit;
};

TQ_HD inline int TrellisParity(unsigned v) {
  v ^= v >> 8;
  v ^= v >> 4;
  return static_cast<int>((0x6996u >> (v & 15u)) & 1u);
}

// The subset (0..3) of a window of memory + 1 path bits, the newest in bit 0.
TQ_HD inline uint8_t TrellisSubset(const TrellisView& trellis, int window) {
  const unsigned w = static_cast<unsigned>(window);
  return static_cast<uint8_t>(2 * TrellisParity(w & trellis.h0) + TrellisParity(w & trellis.h1));
}

// bits in {2, 3, 4}, memory in [kTrellisMinMemory, kTrellisMaxMemory].
TQ_HD constexpr TrellisView Trellis(int bits, int memory) {
  constexpr unsigned kHigh[] = {05, 013, 023, 045, 0103, 0235, 0515};
  constexpr unsigned kLow[] = {02, 04, 04, 010, 024, 0126, 0362};
  const int row = memory - kTrellisMinMemory;
#ifdef __CUDA_ARCH__
#define TQ_TRELLIS_OF(table, i) trellis_device::table[i]
#else
#define TQ_TRELLIS_OF(table, i) table[i]
#endif
  TrellisView view{bits, memory, kHigh[row], kLow[row], nullptr, nullptr, 0.0f};
  if (bits == 2) {
    view.alphabet = TQ_TRELLIS_OF(kTrellisAlphabets2, row);
    view.steps = TQ_TRELLIS_OF(kTrellisSteps2, row);
    view.unit = TQ_TRELLIS_OF(kTrellisUnits2, row);
  } else if (bits == 3) {
    view.alphabet = TQ_TRELLIS_OF(kTrellisAlphabets3, row);
    view.steps = TQ_TRELLIS_OF(kTrellisSteps3, row);
    view.unit = TQ_TRELLIS_OF(kTrellisUnits3, row);
  } else {
    view.alphabet = TQ_TRELLIS_OF(kTrellisAlphabets4, row);
    view.steps = TQ_TRELLIS_OF(kTrellisSteps4, row);
    view.unit = TQ_TRELLIS_OF(kTrellisUnits4, row);
  }
#undef TQ_TRELLIS_OF
  return view;
}

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_TRELLIS_H_
