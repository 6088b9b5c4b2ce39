// The contender of every figure: attention over a plain f16 cache, converted in the loop, with each
// instruction set's own conversion and multiply-add. Rows of one kv head lie one behind the other.
#ifndef TURBOQUANT_EVAL_F16_CONTENDER_H_
#define TURBOQUANT_EVAL_F16_CONTENDER_H_

#include <cstdint>
#include <string_view>

namespace turboquant {

// The shapes of KernelTable's coded_scores and coded_accumulate, over f16 rows x[n][head_dim];
// head_dim a multiple of 16.
struct F16Kernels {
  void (*scores)(const uint16_t* k, int head_dim, const float* q, int rows, int n, float* out,
                 int ld);
  void (*accumulate)(const uint16_t* v, int head_dim, const float* p, int ld, int rows, int n,
                     float* o);
};

// Those for the instruction set of the kernel table of this name, which this processor must have.
const F16Kernels& F16KernelsFor(std::string_view table_name);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_F16_CONTENDER_H_
