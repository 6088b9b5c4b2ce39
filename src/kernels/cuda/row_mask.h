// Which tokens a query row sees: causal or tree mask among the newest tokens, sliding window.
// Host and device.
//
// Positions count from the start of a sequence. The q_len query tokens are the last q_len of its
// `total` tokens: query token i has position total - q_len + i. Tokens in front of them are seen by
// all; bit j of `tree` says whether query token i sees the token at total - q_len + j.
#ifndef TURBOQUANT_KERNELS_CUDA_ROW_MASK_H_
#define TURBOQUANT_KERNELS_CUDA_ROW_MASK_H_

#include <cstdint>

#include "base/host_device.h"

namespace turboquant::cuda {

inline constexpr int kMaxQueryTokens = 16;

struct RowMask {
  int first_query;  // total - q_len
  int begin;        // first position inside the window
  uint32_t tree;

  TQ_HD bool Sees(int position) const {
    const int j = position - first_query;
    if (j >= kMaxQueryTokens) return false;
    return position >= begin && (j < 0 || ((tree >> j) & 1u) != 0);
  }
};

// window 0: none. Otherwise a query at position p sees (p - window, p].
TQ_HD inline RowMask MakeRowMask(int total, int q_len, int query, int window,
                                 const uint32_t* tree) {
  RowMask m;
  m.first_query = total - q_len;
  m.begin = window > 0 ? m.first_query + query - window + 1 : 0;
  m.tree = tree != nullptr ? *tree : (2u << query) - 1u;
  return m;
}

}  // namespace turboquant::cuda

#endif  // TURBOQUANT_KERNELS_CUDA_ROW_MASK_H_
