#include "attention/attend_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace turboquant {
namespace {

constexpr size_t kTile = 64;  // rows of one step of the softmax

}  // namespace

void AttendRows(const RowsAttention& a, const KernelTable& kernels) {
  const int d = a.v_codec->head_dim();
  std::vector<float> prepared(a.k_codec->query_size());
  a.k_codec->PrepareQuery(a.query, prepared.data());
  for (float& value : prepared) value *= a.scale;
  std::vector<float> values(kTile * d);
  std::vector<float> sum(d, 0.0f);
  float logits[kTile];
  float m = -std::numeric_limits<float>::infinity();
  float l = 0.0f;
  for (size_t first = 0; first < a.n; first += kTile) {
    const size_t n = std::min(kTile, a.n - first);
    for (size_t j = 0; j < n; ++j) {
      logits[j] =
          a.k_codec->InnerProduct(prepared.data(), a.k_rows + (first + j) * a.k_codec->row_bytes());
      if (a.bias != nullptr) logits[j] += a.bias[first + j];
      a.v_codec->DecodeRotated(a.v_rows + (first + j) * a.v_codec->row_bytes(), &values[j * d]);
    }
    if (a.weights != nullptr) std::copy_n(logits, n, a.weights + first);
    float decay;
    kernels.softmax({.s = logits,
                     .ld = static_cast<int>(kTile),
                     .rows = 1,
                     .n = static_cast<int>(n),
                     .m = &m,
                     .l = &l,
                     .factor = &decay});
    if (decay != 1.0f) {
      for (float& value : sum) value *= decay;
    }
    kernels.dense_accumulate(values.data(), d, logits, static_cast<int>(kTile), 1,
                             static_cast<int>(n), sum.data());
  }
  const float inverse = l > 0.0f ? 1.0f / l : 0.0f;
  for (float& value : sum) value *= inverse;
  a.v_codec->Unrotate(sum.data(), a.out);
  if (a.weights == nullptr) return;
  for (size_t j = 0; j < a.n; ++j) {
    a.weights[j] = l > 0.0f ? std::exp(a.weights[j] - m) * inverse : 0.0f;
  }
}

}  // namespace turboquant
