// Attention of one query over rows of any codec, in rotated space. For caches of scalar formats
// there is attend.h, which is faster; this is for everything a Codec can code.
#ifndef TURBOQUANT_ATTENTION_ATTEND_ROWS_H_
#define TURBOQUANT_ATTENTION_ATTEND_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "codec/codec.h"
#include "kernels/kernel_api.h"

namespace turboquant {

struct RowsAttention {
  const Codec* k_codec = nullptr;
  const uint8_t* k_rows = nullptr;
  const Codec* v_codec = nullptr;
  const uint8_t* v_rows = nullptr;
  size_t n = 0;                  // rows of each side
  const float* query = nullptr;  // [k head_dim]
  const float* bias = nullptr;   // [n], added to the logits; null: none
  float scale = 1.0f;
  float* out = nullptr;      // [v head_dim]
  float* weights = nullptr;  // [n], the softmax weights; null: not wanted
};

// out = sum over j of w_j v_j, w = softmax(scale * InnerProduct(query, k_j) + bias_j). Without
// rows, or with a bias of -inf throughout, out and weights are zeros.
void AttendRows(const RowsAttention& attention, const KernelTable& kernels);

}  // namespace turboquant

#endif  // TURBOQUANT_ATTENTION_ATTEND_ROWS_H_
