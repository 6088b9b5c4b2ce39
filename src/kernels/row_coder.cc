#include "kernels/row_coder.h"

#include <algorithm>
#include <cstring>

#include "base/fp16.h"
#include "codec/format.h"
#include "codec/scalar_codec.h"

namespace turboquant {
namespace {

constexpr size_t kScaleBytes = 2;  // in front of the codes
constexpr size_t kBatchRows = 16;  // a whole number of every table's trellis passes

}  // namespace

RowCoder::Path RowCoder::PathOf(const CodecSpec& spec) {
  if (spec.rotation != RotationKind::kHadamard) return Path::kSteps;
  if (spec.entry->family == CodecFamily::kTrellis) return Path::kTrellis;
  const bool tables =
      spec.scale == ScaleRule::kLeastSquares && spec.codebook == CodebookKind::kGauss;
  return spec.entry->family == CodecFamily::kScalar && tables ? Path::kScalar : Path::kSteps;
}

RowCoder::RowCoder(const Codec& codec, const KernelTable& table)
    : codec_(codec),
      table_(table),
      ops_{table.rotate,   table.unrotate,   table.measure,
           table.quantize, table.dequantize, table.dot},
      path_(PathOf(codec.spec())),
      rotation_(codec.head_dim(), codec.spec().seed) {
  if (path_ == Path::kTrellis) trellis_ = TrellisOf(codec.spec());
}

bool RowCoder::accelerated() const {
  const CodecSpec& spec = codec_.spec();
  if (path_ != Path::kSteps) return true;
  return spec.rotation != RotationKind::kHaar && spec.projection != ProjectionKind::kGaussian &&
         spec.entry->family != CodecFamily::kTrellis && spec.entry->family <= CodecFamily::kUniform;
}

size_t RowCoder::Encode(const float* x, size_t n, uint8_t* rows, uint8_t* valid) const {
  if (path_ == Path::kTrellis) return EncodeTrellis(x, n, rows, valid);
  const size_t d = static_cast<size_t>(codec_.head_dim());
  const int bits = codec_.spec().entry->bits;
  size_t invalid = 0;
  for (size_t j = 0; j < n; ++j, rows += codec_.row_bytes()) {
    bool usable;
    if (path_ == Path::kScalar) {
      uint16_t scale;
      usable =
          table_.encode(bits, rotation_.view(), x + j * d, nullptr, rows + kScaleBytes, &scale);
      StoreHalf(scale, rows);
    } else {
      usable = codec_.Encode(x + j * d, rows, ops_);
    }
    invalid += usable ? 0 : 1;
    if (valid != nullptr) valid[j] = usable ? 1 : 0;
  }
  return invalid;
}

size_t RowCoder::EncodeTrellis(const float* x, size_t n, uint8_t* rows, uint8_t* valid) const {
  const size_t d = static_cast<size_t>(codec_.head_dim());
  const size_t plane_bytes = codec_.row_bytes() - kScaleBytes;
  uint8_t planes[kBatchRows * kMaxHeadDim / 2];
  uint16_t scales[kBatchRows];
  size_t invalid = 0;
  for (size_t j = 0; j < n; j += kBatchRows) {
    const size_t count = std::min(kBatchRows, n - j);
    const auto encode = [&](size_t at, size_t number) {
      return static_cast<size_t>(table_.encode_trellis(trellis_, rotation_.view(), x + (j + at) * d,
                                                       nullptr, static_cast<int>(number),
                                                       planes + at * plane_bytes, scales + at));
    };
    const size_t refused = encode(0, count);
    invalid += refused;
    for (size_t i = 0; valid != nullptr && i < count; ++i) {
      // Which ones, is only asked where there are any.
      valid[j + i] = refused == 0 || encode(i, 1) == 0 ? 1 : 0;
    }
    for (size_t i = 0; i < count; ++i, rows += codec_.row_bytes()) {
      const uint8_t* path = planes + i * plane_bytes;
      if (codec_.spec().scale != ScaleRule::kLeastSquares) {
        scales[i] = TrellisScale(x + (j + i) * d, path);
      }
      StoreHalf(scales[i], rows);
      std::memcpy(rows + kScaleBytes, path, plane_bytes);
    }
  }
  return invalid;
}

// The scale of another rule than the kernel's, for a row whose path is found: the search does not
// depend on it.
uint16_t RowCoder::TrellisScale(const float* x, const uint8_t* planes) const {
  constexpr uint16_t kOne = 0x3C00;
  const int d = codec_.head_dim();
  float y[kMaxHeadDim];
  float c[kMaxHeadDim];
  ops_.rotate(rotation_.view(), x, y);
  const RowEnergy row = ops_.measure(y, d);
  if (row.kind != RowKind::kUsable) return 0;
  table_.decode_trellis(trellis_, d, planes, &kOne, 1, c);
  return ScaleToHalf(
      FitScale(codec_.spec().scale, row.energy, ops_.dot(y, c, d), ops_.dot(c, c, d), d));
}

void RowCoder::DecodeRotated(const uint8_t* rows, size_t n, float* y) const {
  const int d = codec_.head_dim();
  for (size_t j = 0; j < n; ++j, rows += codec_.row_bytes(), y += d) {
    if (path_ == Path::kTrellis) {
      const uint16_t scale = LoadHalf(rows);
      table_.decode_trellis(trellis_, d, rows + kScaleBytes, &scale, 1, y);
    } else {
      codec_.DecodeRotated(rows, y, ops_);
    }
  }
}

void RowCoder::Decode(const uint8_t* rows, size_t n, float* x) const {
  float y[kMaxHeadDim];
  for (size_t j = 0; j < n; ++j, rows += codec_.row_bytes(), x += codec_.head_dim()) {
    DecodeRotated(rows, 1, y);
    codec_.Unrotate(y, x, ops_);
  }
}

void RowCoder::InnerProducts(const float* query, const uint8_t* rows, size_t n,
                             float* scores) const {
  if (path_ != Path::kTrellis) return codec_.InnerProducts(query, rows, n, scores, ops_);
  float prepared[kMaxHeadDim];
  float y[kMaxHeadDim];
  codec_.PrepareQuery(query, prepared, ops_);
  for (size_t j = 0; j < n; ++j) {
    DecodeRotated(rows + j * codec_.row_bytes(), 1, y);
    scores[j] = ops_.dot(prepared, y, codec_.head_dim());
  }
}

}  // namespace turboquant
