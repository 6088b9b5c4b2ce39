// Which kernel serves which format: the entries coded_scores and coded_accumulate of a table. The
// kernels of the scalar formats (coded_byte_kernels.h or coded_float_kernels.h) come first.
#ifndef TURBOQUANT_KERNELS_CPU_CODED_FORMAT_KERNELS_H_
#define TURBOQUANT_KERNELS_CPU_CODED_FORMAT_KERNELS_H_

#include "kernels/cpu/coded_tiles.h"

namespace turboquant {
namespace {

void FormatScoresKernel(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                        int ld) {
  switch (k.format) {
    case Format::kTurbo2:
    case Format::kTurbo3:
    case Format::kTurbo4:
      return CodedScoresKernel(k, prepared, rows, n, out, ld);
#ifdef TQ_STEP_KERNELS
    case Format::kTurbo2t:
      return StepScores<TrellisSteps<2>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo3t:
      return StepScores<TrellisSteps<3>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo4t:
      return StepScores<TrellisSteps<4>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo8:
      return StepScores<WideSteps>(k, prepared, rows, n, out, ld);
#endif
    default:
      return FallbackScores(k, prepared, rows, n, out, ld);
  }
}

void FormatAccumulateKernel(const CodedTiles& v, const float* p, int ld, int rows, int n,
                            float* o) {
  switch (v.format) {
    case Format::kTurbo2:
    case Format::kTurbo3:
    case Format::kTurbo4:
      return CodedAccumulateKernel(v, p, ld, rows, n, o);
#ifdef TQ_STEP_KERNELS
    case Format::kTurbo2t:
      return StepAccumulate<TrellisSteps<2>>(v, p, ld, rows, n, o);
    case Format::kTurbo3t:
      return StepAccumulate<TrellisSteps<3>>(v, p, ld, rows, n, o);
    case Format::kTurbo4t:
      return StepAccumulate<TrellisSteps<4>>(v, p, ld, rows, n, o);
    case Format::kTurbo8:
      return StepAccumulate<WideSteps>(v, p, ld, rows, n, o);
#endif
    default:
      return FallbackAccumulate(v, p, ld, rows, n, o);
  }
}

}  // namespace
}  // namespace turboquant

#endif  // TURBOQUANT_KERNELS_CPU_CODED_FORMAT_KERNELS_H_
