// Which kernel serves which format: the entries coded_scores and coded_accumulate of a table. The
// kernels of the formats come first: those in integers (coded_byte_kernels.h, coded_step_kernels.h,
// coded_word_kernels.h) or those on f32 (coded_float_kernels.h, coded_trellis_float_kernels.h).
#ifndef TURBOQUANT_KERNELS_CPU_CODED_FORMAT_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_FORMAT_KERNELS_H_

#include "kernels/cpu/coded_tiles.h"

namespace turboquant {
namespace {

#ifdef TURBOQUANT_KERNELS_CPU_CODED_STEP_KERNELS_H_
template <int kBits>
void TrellisScores(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                   int ld) {
  StepScores<TrellisSteps<kBits>>(k, prepared, rows, n, out, ld);
}
template <int kBits>
void TrellisAccumulate(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  StepAccumulate<TrellisSteps<kBits>>(v, p, ld, rows, n, o);
}
#endif

void FormatScoresKernel(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                        int ld) {
  switch (k.format) {
    case Format::kTurbo2t:
      return TrellisScores<2>(k, prepared, rows, n, out, ld);
    case Format::kTurbo3t:
      return TrellisScores<3>(k, prepared, rows, n, out, ld);
    case Format::kTurbo4t:
      return TrellisScores<4>(k, prepared, rows, n, out, ld);
    case Format::kTurbo8:
#if defined(TURBOQUANT_KERNELS_CPU_CODED_WORD_KERNELS_H_)
      return WordScores(k, prepared, rows, n, out, ld);
#elif defined(TURBOQUANT_KERNELS_CPU_CODED_WIDE_KERNELS_H_)
      return StepScores<WideSteps>(k, prepared, rows, n, out, ld);
#else
      return FallbackScores(k, prepared, rows, n, out, ld);
#endif
    default:
      return CodedScoresKernel(k, prepared, rows, n, out, ld);
  }
}

void FormatAccumulateKernel(const CodedTiles& v, const float* p, int ld, int rows, int n,
                            float* o) {
  switch (v.format) {
    case Format::kTurbo2t:
      return TrellisAccumulate<2>(v, p, ld, rows, n, o);
    case Format::kTurbo3t:
      return TrellisAccumulate<3>(v, p, ld, rows, n, o);
    case Format::kTurbo4t:
      return TrellisAccumulate<4>(v, p, ld, rows, n, o);
    case Format::kTurbo8:
#if defined(TURBOQUANT_KERNELS_CPU_CODED_WORD_KERNELS_H_)
      return WordAccumulate(v, p, ld, rows, n, o);
#elif defined(TURBOQUANT_KERNELS_CPU_CODED_WIDE_KERNELS_H_)
      return StepAccumulate<WideSteps>(v, p, ld, rows, n, o);
#else
      return FallbackAccumulate(v, p, ld, rows, n, o);
#endif
    default:
      return CodedAccumulateKernel(v, p, ld, rows, n, o);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_FORMAT_KERNELS_H_
