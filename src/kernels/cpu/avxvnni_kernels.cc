// Attention on codes for AVX2 with AVX-VNNI; all else is that of avx2_kernels.cc. Compiled with
// instruction-set flags; what that forbids is said in vec_avx512.h.
#if defined(__GNUC__)
// The codec comes along for its decoding; its entries stay with the other table.
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

#include "kernels/cpu/vec_avx2.h"
// The vector comes first: the kernels are written against its names.
#include "kernels/cpu/codec_kernels.h"
// Then products of codes.
#include "kernels/cpu/dots_avxvnni.h"
// Then what builds on the codec and on them.
#include "kernels/cpu/coded_byte_kernels.h"
#include "kernels/cpu/coded_trellis_kernels.h"
#include "kernels/cpu/coded_word_kernels.h"
// Then the entries of the table, which name them.
#include "kernels/cpu/coded_format_kernels.h"
#include "kernels/cpu/cpu_tables.h"

namespace turboquant {

constexpr CodedKernels kAvxVnniKernels = {
    .prepare_queries = PrepareQueriesKernel,
    .coded_scores = FormatScoresKernel,
    .coded_accumulate = FormatAccumulateKernel,
};

}  // namespace turboquant
