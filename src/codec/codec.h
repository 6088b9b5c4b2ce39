// Codec: one interface over every codec of the family, created from a spec string.
//
//   auto codec = Codec::Create("turbo3t:states=16", 128);
//   codec.value()->Encode(x, row);          // row_bytes() bytes, everything billed
//   codec.value()->Decode(row, x);
//   codec.value()->InnerProducts(query, rows, n, scores);
//
// A codec is immutable after creation and may be used from any number of threads. Rows are
// independent. Encoding and decoding allocate nothing.
//
// Rows that cannot be coded: one of zero energy, or so small that its energy or 1 / rms is no
// float, is stored as zero bytes and decodes to zeros; one with NaN or Inf, or whose energy is
// beyond float, is stored the same way and Encode returns false. Scales beyond fp16 are clamped to
// 65504 and those below its smallest subnormal become 0.
#ifndef TURBOQUANT_CODEC_CODEC_H_
#define TURBOQUANT_CODEC_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "codec/codec_spec.h"
#include "codec/format.h"
#include "codec/row_map.h"
#include "codec/row_ops.h"
#include "codec/scalar_codec.h"

namespace turboquant {

class Codec {
 public:
  // `spec` as codec_spec.h has it; head_dim as SupportedHeadDim.
  static Result<std::unique_ptr<Codec>> Create(std::string_view spec, int head_dim);
  static Result<std::unique_ptr<Codec>> Create(const CodecSpec& spec, int head_dim);
  virtual ~Codec() = default;
  Codec(const Codec&) = delete;
  Codec& operator=(const Codec&) = delete;

  // Parses back to the same codec; options with their default value are left out.
  std::string spec_text() const { return CodecSpecText(spec_); }
  const CodecSpec& spec() const { return spec_; }
  int head_dim() const { return head_dim_; }
  // Everything stored for one row: codes, scales, zero points.
  size_t row_bytes() const { return layout_.row_bytes; }
  double bits_per_value() const { return 8.0 * static_cast<double>(row_bytes()) / head_dim_; }
  // fp16 numbers in a row, scales and zero points.
  int scales_per_row() const { return layout_.scales; }
  // True if E InnerProduct(q, x) = <q, x> over the codec's random rotation (or projection), and so
  // for Decode. Without a random map (rotation=none) no codec is.
  bool unbiased() const { return layout_.unbiased; }

  // x[head_dim] -> row[row_bytes()], every byte written. False: see above. `ops` decides how fast
  // this goes and nothing else, here and below.
  bool Encode(const float* x, uint8_t* row, const RowOps& ops = ScalarRowOps()) const;
  void Decode(const uint8_t* row, float* x, const RowOps& ops = ScalarRowOps()) const;

  // Estimates of <query, x_j> for n consecutive rows, in rotated space.
  void InnerProducts(const float* query, const uint8_t* rows, size_t n, float* out,
                     const RowOps& ops = ScalarRowOps()) const;

  // The same in steps, for attention: the query is mapped once and rows are never mapped back;
  // weighted sums of DecodeRotated rows are, once, by Unrotate.
  size_t query_size() const { return layout_.query_size; }
  void PrepareQuery(const float* query, float* prepared, const RowOps& ops = ScalarRowOps()) const {
    PrepareQueryWith(ops, query, prepared);
  }
  float InnerProduct(const float* prepared, const uint8_t* row,
                     const RowOps& ops = ScalarRowOps()) const {
    return InnerProductWith(ops, prepared, row);
  }
  void DecodeRotated(const uint8_t* row, float* y, const RowOps& ops = ScalarRowOps()) const {
    DecodeRotatedWith(ops, row, y);
  }
  // Where DecodeRotated rows live: <x, Decode(row)> = <Rotate(x), DecodeRotated(row)>.
  void Rotate(const float* x, float* y, const RowOps& ops = ScalarRowOps()) const {
    map_->Forward(x, y, ops);
  }
  void Unrotate(const float* y, float* x, const RowOps& ops = ScalarRowOps()) const {
    map_->Backward(y, x, ops);
  }

 protected:
  struct Layout {
    size_t row_bytes;
    int scales;
    bool unbiased;
    size_t query_size;  // floats of a prepared query
  };

  Codec(CodecSpec spec, int head_dim, std::unique_ptr<RowMap> map, const Layout& layout)
      : spec_(std::move(spec)), head_dim_(head_dim), map_(std::move(map)), layout_(layout) {}

  // row is zeroed; y[head_dim] is mapped and of RowKind::kUsable.
  virtual void EncodeRotatedWith(const RowOps& ops, const float* y, const RowEnergy& energy,
                                 uint8_t* row) const = 0;
  virtual void DecodeRotatedWith(const RowOps& ops, const uint8_t* row, float* y) const = 0;
  virtual void PrepareQueryWith(const RowOps& ops, const float* query, float* prepared) const;
  virtual float InnerProductWith(const RowOps& ops, const float* prepared,
                                 const uint8_t* row) const;

  CodecSpec spec_;
  int head_dim_;
  std::unique_ptr<RowMap> map_;
  Layout layout_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_CODEC_H_
