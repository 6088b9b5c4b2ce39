// The AVX2 kernels: the code is in the headers, the vector in vec_avx2.h. Compiled with
// instruction-set flags; what that forbids is said in vec_avx512.h.
#include "kernels/cpu/vec_avx2.h"
// The vector comes first: the kernels are written against its names.
#include "kernels/cpu/codec_kernels.h"
// Then products of codes.
#include "kernels/cpu/dots_avx2.h"
// Then what builds on the codec and on them.
#include "kernels/cpu/coded_byte_kernels.h"
#include "kernels/cpu/coded_trellis_kernels.h"
#include "kernels/cpu/coded_word_kernels.h"
// Then the entries of the table, which name them.
#include "kernels/cpu/coded_format_kernels.h"
#include "kernels/cpu/cpu_tables.h"
#include "kernels/cpu/mean_kernel.h"
#include "kernels/cpu/softmax_kernel.h"
#include "kernels/cpu/trellis_kernels.h"

namespace turboquant {

constexpr KernelTable kAvx2KernelTable = {
    .name = "avx2",
    .half_to_float = HalfToFloatMany,
    .float_to_half = FloatToHalfMany,
    .rotate = RotateKernel,
    .unrotate = UnrotateKernel,
    .encode = EncodeKernel,
    .decode = DecodeKernel,
    .encode_trellis = EncodeTrellisKernel,
    .decode_trellis = DecodeTrellisKernel,
    .measure = MeasureKernel,
    .quantize = QuantizeKernel,
    .dequantize = DequantizeKernel,
    .dot = DotKernel,
    .prepare_queries = PrepareQueriesKernel,
    .coded_scores = FormatScoresKernel,
    .coded_accumulate = FormatAccumulateKernel,
    .dense_scores = DenseScoresKernel,
    .dense_accumulate = DenseAccumulateKernel,
    .half_scores = HalfScoresKernel,
    .half_accumulate = HalfAccumulateKernel,
    .mean_logits = MeanLogitsKernel,
    .same_values = SameValuesKernel,
    .mask_bias = MaskBiasKernel,
    .softmax = SoftmaxKernel,
};

}  // namespace turboquant
