#include "codec/codec.h"

#include <algorithm>
#include <utility>

namespace turboquant {

bool Codec::Encode(const float* x, uint8_t* row, const RowOps& ops) const {
  float y[kMaxHeadDim];
  map_->Forward(x, y, ops);
  std::fill_n(row, row_bytes(), uint8_t{0});
  const RowEnergy energy = ops.measure(y, head_dim_);
  if (energy.kind == RowKind::kUsable) EncodeRotatedWith(ops, y, energy, row);
  return energy.kind != RowKind::kInvalid;
}

void Codec::Decode(const uint8_t* row, float* x, const RowOps& ops) const {
  float y[kMaxHeadDim];
  DecodeRotatedWith(ops, row, y);
  map_->Backward(y, x, ops);
}

void Codec::PrepareQueryWith(const RowOps& ops, const float* query, float* prepared) const {
  map_->Forward(query, prepared, ops);
}

float Codec::InnerProductWith(const RowOps& ops, const float* prepared, const uint8_t* row) const {
  float y[kMaxHeadDim];
  DecodeRotatedWith(ops, row, y);
  return ops.dot(prepared, y, head_dim_);
}

void Codec::InnerProducts(const float* query, const uint8_t* rows, size_t n, float* out,
                          const RowOps& ops) const {
  float prepared[2 * kMaxHeadDim];
  PrepareQueryWith(ops, query, prepared);
  for (size_t j = 0; j < n; ++j) out[j] = InnerProductWith(ops, prepared, rows + j * row_bytes());
}

}  // namespace turboquant
