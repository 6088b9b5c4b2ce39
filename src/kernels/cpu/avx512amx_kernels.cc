// Attention on codes for AVX-512 with AMX-INT8; all else is that of avx512_kernels.cc. Compiled
// with the instruction-set flags of that one; what that forbids is said in vec_avx512.h.
#if defined(__GNUC__)
// The codec and the products of bytes come along for their parts; their entries stay with the other
// table.
#pragma GCC diagnostic ignored "-Wunused-function"
#if !defined(__clang__)
// GCC 12's own AVX-512 headers pass deliberately undefined registers (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#endif

#include "kernels/cpu/vec_avx512.h"
// The vector comes first: the kernels are written against its names.
#include "kernels/cpu/codec_kernels.h"
// Then products of codes.
#include "kernels/cpu/dots_avx512.h"
// Then what builds on the codec and on them.
#include "kernels/cpu/coded_byte_kernels.h"
#include "kernels/cpu/coded_trellis_kernels.h"
#include "kernels/cpu/coded_wide_kernels.h"
// And the tiles on all of it.
#include "kernels/cpu/coded_tile_kernels.h"
#include "kernels/cpu/cpu_tables.h"

namespace turboquant {
namespace {

// Calls with less work than this are faster in the vector unit (docs/adr/0009): to make the matrix
// unit ready takes 50 ns, and it takes as long for one query row as for eight.
constexpr int kFewestCells = 64;
template <typename Source>
constexpr int kFewestScoreRows = Source::kBytes == 1 ? 4 : 2;
constexpr int kFewestSumRows = 7;

template <typename Source>
void ScoresOf(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out, int ld) {
  if (!Source::ServesKeys(k) || rows < kFewestScoreRows<Source> || n < kFewestCells) {
    return kAvx512KernelTable.coded_scores(k, prepared, rows, n, out, ld);
  }
  TileScores<Source>(k, prepared, rows, n, out, ld);
}
template <typename Source>
void AccumulateOf(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  if (!Source::ServesValues(v) || rows < kFewestSumRows || n < kFewestCells) {
    return kAvx512KernelTable.coded_accumulate(v, p, ld, rows, n, o);
  }
  TileAccumulate<Source>(v, p, ld, rows, n, o);
}

void TileScoresKernel(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                      int ld) {
  switch (k.format) {
    case Format::kTurbo2:
      return ScoresOf<ByteSteps<2>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo3:
      return ScoresOf<ByteSteps<3>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo4:
      return ScoresOf<ByteSteps<4>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo2t:
      return ScoresOf<ValueSteps<TrellisSteps<2>>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo3t:
      return ScoresOf<ValueSteps<TrellisSteps<3>>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo4t:
      return ScoresOf<ValueSteps<TrellisSteps<4>>>(k, prepared, rows, n, out, ld);
    case Format::kTurbo8:
      return ScoresOf<ValueSteps<WideSteps>>(k, prepared, rows, n, out, ld);
    default:
      return kAvx512KernelTable.coded_scores(k, prepared, rows, n, out, ld);
  }
}

void TileAccumulateKernel(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  switch (v.format) {
    case Format::kTurbo2:
      return AccumulateOf<ByteSteps<2>>(v, p, ld, rows, n, o);
    case Format::kTurbo3:
      return AccumulateOf<ByteSteps<3>>(v, p, ld, rows, n, o);
    case Format::kTurbo4:
      return AccumulateOf<ByteSteps<4>>(v, p, ld, rows, n, o);
    case Format::kTurbo2t:
      return AccumulateOf<ValueSteps<TrellisSteps<2>>>(v, p, ld, rows, n, o);
    case Format::kTurbo3t:
      return AccumulateOf<ValueSteps<TrellisSteps<3>>>(v, p, ld, rows, n, o);
    case Format::kTurbo4t:
      return AccumulateOf<ValueSteps<TrellisSteps<4>>>(v, p, ld, rows, n, o);
    case Format::kTurbo8:
      return AccumulateOf<ValueSteps<WideSteps>>(v, p, ld, rows, n, o);
    default:
      return kAvx512KernelTable.coded_accumulate(v, p, ld, rows, n, o);
  }
}

void PrepareKernel(const float* q, int head_dim, int rows, uint8_t* prepared) {
  kAvx512KernelTable.prepare_queries(q, head_dim, rows, prepared);
}

}  // namespace

constexpr CodedKernels kAvx512AmxKernels = {
    .prepare_queries = PrepareKernel,
    .coded_scores = TileScoresKernel,
    .coded_accumulate = TileAccumulateKernel,
};

}  // namespace turboquant
