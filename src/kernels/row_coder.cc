#include "kernels/row_coder.h"

#include <algorithm>
#include <cstring>

#include "codec/format.h"
#include "codec/scalar_codec.h"
#include "codec/trellis.h"

namespace turboquant {
namespace {

constexpr size_t kScaleBytes = 2;  // in front of the codes
constexpr size_t kBatchRows = 16;  // a whole number of every table's trellis passes

}  // namespace

RowCoder::Path RowCoder::PathOf(const CodecSpec& spec) {
  if (spec.rotation != RotationKind::kHadamard || spec.scale != ScaleRule::kLeastSquares ||
      spec.codebook != CodebookKind::kGauss) {
    return Path::kCodec;
  }
  switch (spec.entry->family) {
    case CodecFamily::kScalar:
      return Path::kScalar;
    case CodecFamily::kTrellis:
      return Path::kTrellis;
    default:
      return Path::kCodec;
  }
}

RowCoder::RowCoder(const Codec& codec, const KernelTable& table)
    : codec_(codec),
      table_(table),
      path_(PathOf(codec.spec())),
      rotation_(codec.head_dim(), codec.spec().seed) {}

size_t RowCoder::Encode(const float* x, size_t n, uint8_t* rows, uint8_t* valid) const {
  if (path_ == Path::kTrellis) return EncodeTrellis(x, n, rows, valid);
  const RotationView rotation = rotation_.view();
  const size_t d = static_cast<size_t>(codec_.head_dim());
  const int bits = codec_.spec().entry->bits;
  size_t invalid = 0;
  for (size_t j = 0; j < n; ++j, rows += codec_.row_bytes()) {
    bool usable;
    if (path_ == Path::kScalar) {
      uint16_t scale;
      usable = table_.encode(bits, rotation, x + j * d, nullptr, rows + kScaleBytes, &scale);
      StoreHalf(scale, rows);
    } else {
      usable = codec_.Encode(x + j * d, rows);
    }
    invalid += usable ? 0 : 1;
    if (valid != nullptr) valid[j] = usable ? 1 : 0;
  }
  return invalid;
}

size_t RowCoder::EncodeTrellis(const float* x, size_t n, uint8_t* rows, uint8_t* valid) const {
  const TrellisView trellis = TrellisOf(codec_.spec());
  const size_t d = static_cast<size_t>(codec_.head_dim());
  const size_t plane_bytes = codec_.row_bytes() - kScaleBytes;
  uint8_t planes[kBatchRows * kMaxHeadDim / 2];
  uint16_t scales[kBatchRows];
  size_t invalid = 0;
  for (size_t j = 0; j < n; j += kBatchRows) {
    const size_t count = std::min(kBatchRows, n - j);
    const auto encode = [&](size_t at, size_t number) {
      return static_cast<size_t>(table_.encode_trellis(trellis, rotation_.view(), x + (j + at) * d,
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
      StoreHalf(scales[i], rows);
      std::memcpy(rows + kScaleBytes, planes + i * plane_bytes, plane_bytes);
    }
  }
  return invalid;
}

void RowCoder::Decode(const uint8_t* rows, size_t n, float* x) const {
  const int d = codec_.head_dim();
  float y[kMaxHeadDim];
  for (size_t j = 0; j < n; ++j, rows += codec_.row_bytes(), x += d) {
    if (path_ == Path::kCodec) {
      codec_.Decode(rows, x);
      continue;
    }
    const uint16_t scale = LoadHalf(rows);
    if (path_ == Path::kScalar) {
      table_.decode({codec_.spec().entry->bits, d, rows + kScaleBytes, &scale}, 1, y);
    } else {
      table_.decode_trellis(TrellisOf(codec_.spec()), d, rows + kScaleBytes, &scale, 1, y);
    }
    table_.unrotate(rotation_.view(), y, x);
  }
}

}  // namespace turboquant
