#include "codec/codec.h"

#include <algorithm>
#include <utility>

namespace turboquant {

float Dot16(const float* a, const float* b, int d) {
  float lane[16] = {0};
  for (int i = 0; i < d; ++i) lane[i % 16] = lane[i % 16] + a[i] * b[i];
  return FoldLanes(lane);
}

bool Codec::Encode(const float* x, uint8_t* row) const {
  float y[kMaxHeadDim];
  map_->Forward(x, y);
  std::fill_n(row, row_bytes(), uint8_t{0});
  const RowEnergy energy = MeasureRow(y, head_dim_);
  if (energy.kind == RowKind::kUsable) EncodeRotated(y, energy, row);
  return energy.kind != RowKind::kInvalid;
}

void Codec::Decode(const uint8_t* row, float* x) const {
  float y[kMaxHeadDim];
  DecodeRotated(row, y);
  map_->Backward(y, x);
}

void Codec::PrepareQuery(const float* query, float* prepared) const {
  map_->Forward(query, prepared);
}

float Codec::InnerProduct(const float* prepared, const uint8_t* row) const {
  float y[kMaxHeadDim];
  DecodeRotated(row, y);
  return Dot16(prepared, y, head_dim_);
}

void Codec::InnerProducts(const float* query, const uint8_t* rows, size_t n, float* out) const {
  float prepared[2 * kMaxHeadDim];
  PrepareQuery(query, prepared);
  for (size_t j = 0; j < n; ++j) out[j] = InnerProduct(prepared, rows + j * row_bytes());
}

}  // namespace turboquant
