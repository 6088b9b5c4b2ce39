// The codecs behind Codec::Create: each binds the scalar truth of its header to the interface.
#include "codec/codec_family.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/fp16.h"
#include "codec/codec.h"
#include "codec/product_codec.h"
#include "codec/scalar_codec.h"
#include "codec/trellis_codec.h"
#include "math/lloyd_max.h"
#include "math/uniform_quantizer.h"

namespace turboquant {
namespace {

// A codebook with its own numbers, or one of the tables.
class Codebook {
 public:
  static Result<Codebook> Gauss(int bits) { return Codebook(GaussCodebook(bits)); }

  static Result<Codebook> Beta(int bits, int d) {
    const Result<LloydMaxCodebook> solved = SolveLloydMax(bits, d);
    if (!solved.ok()) return solved.status();
    return Codebook(bits, solved.value().centroids, solved.value().thresholds);
  }

  static Result<Codebook> Uniform(int bits) {
    const double step = OptimalUniformStep(bits);
    const int levels = 1 << bits;
    std::vector<double> centroids;
    std::vector<double> thresholds;
    for (int i = 0; i < levels; ++i) centroids.push_back((i - 0.5 * (levels - 1)) * step);
    for (int i = 1; i < levels; ++i) thresholds.push_back((i - 0.5 * levels) * step);
    return Codebook(bits, centroids, thresholds);
  }

  // Of the codes of `bits` that the spec asks for, for a group of d rotated values.
  static Result<Codebook> Of(const CodecSpec& spec, int bits, int d) {
    if (spec.entry->family == CodecFamily::kUniform) return Uniform(bits);
    return spec.codebook == CodebookKind::kBeta ? Beta(bits, d) : Gauss(bits);
  }

  CodebookView view() const {
    return centroids_.empty() ? table_
                              : CodebookView{table_.bits, centroids_.data(), thresholds_.data()};
  }

 private:
  explicit Codebook(const CodebookView& table) : table_(table) {}
  Codebook(int bits, const std::vector<double>& centroids, const std::vector<double>& thresholds)
      : table_{bits, nullptr, nullptr},
        centroids_(centroids.begin(), centroids.end()),
        thresholds_(thresholds.begin(), thresholds.end()) {}

  CodebookView table_;
  std::vector<float> centroids_;
  std::vector<float> thresholds_;
};

// What a scale is fitted to: <y,c> and <c,c> over the coded parts of a row.
struct ScaleSums {
  float dot[16] = {0};
  float norm[16] = {0};

  uint16_t Half(ScaleRule rule, float energy, int d) {
    return ScaleToHalf(FitScale(rule, energy, FoldLanes(dot), FoldLanes(norm), d));
  }
};

// Codes y[n], which stands at `first` of the row, into zeroed bytes.
void Quantize(const RowOps& ops, const CodebookView& book, const float* y, int n, int first,
              float inverse_rms, uint8_t* codes, ScaleSums* sums) {
  if (n % 16 == 0 && first % 16 == 0) {
    ops.quantize(book, y, n, inverse_rms, codes, sums->dot, sums->norm);
  } else {
    QuantizeValues(book, y, n, first, inverse_rms, codes, sums->dot, sums->norm);
  }
}

// The other way: scale times the centroid of each code.
void Dequantize(const RowOps& ops, const CodebookView& book, const uint8_t* codes, float scale,
                int n, float* y) {
  (n % 16 == 0 ? ops.dequantize : DequantizeValues)(book, codes, scale, n, y);
}

// Codes a whole row or group y[d] of known energy into zeroed bytes. Returns its scale; what has no
// usable energy keeps codes and scale 0.
uint16_t EncodeGroup(const RowOps& ops, const CodebookView& book, ScaleRule rule, const float* y,
                     int d, const RowEnergy& energy, uint8_t* codes) {
  if (energy.kind != RowKind::kUsable) return 0;
  ScaleSums sums;
  Quantize(ops, book, y, d, 0, energy.inverse_rms, codes, &sums);
  return sums.Half(rule, energy.energy, d);
}

// <q, c>: the scale is a factor of the whole sum.
float CodeDot(const RowOps& ops, const CodebookView& book, const float* q, const uint8_t* codes,
              int d) {
  float c[kMaxHeadDim];
  ops.dequantize(book, codes, 1.0f, d, c);
  return ops.dot(q, c, d);
}

bool UnbiasedScale(const CodecSpec& spec) {
  return spec.scale == ScaleRule::kUnbiased && spec.rotation != RotationKind::kNone;
}

// fp16 scale, codes.
class ScalarCodec : public Codec {
 public:
  static Result<CodecPtr> Make(const CodecSpec& spec, int d) {
    const Result<Codebook> book = Codebook::Of(spec, spec.entry->bits, d);
    if (!book.ok()) return book.status();
    return CodecPtr(new ScalarCodec(spec, d, book.value()));
  }

 protected:
  void EncodeRotatedWith(const RowOps& ops, const float* y, const RowEnergy& energy,
                         uint8_t* row) const override {
    StoreHalf(EncodeGroup(ops, book_.view(), spec_.scale, y, head_dim_, energy, row + 2), row);
  }
  void DecodeRotatedWith(const RowOps& ops, const uint8_t* row, float* y) const override {
    ops.dequantize(book_.view(), row + 2, HalfToFloat(LoadHalf(row)), head_dim_, y);
  }
  float InnerProductWith(const RowOps& ops, const float* prepared,
                         const uint8_t* row) const override {
    return HalfToFloat(LoadHalf(row)) * CodeDot(ops, book_.view(), prepared, row + 2, head_dim_);
  }

 private:
  ScalarCodec(const CodecSpec& spec, int d, Codebook book)
      : Codec(
            spec, d, MakeRowMap(spec.rotation, d, spec.seed),
            {2 + PlaneBytes(spec.entry->bits, d), 1, UnbiasedScale(spec), static_cast<size_t>(d)}),
        book_(std::move(book)) {}

  Codebook book_;
};

// fp16 scale, fp16 residual norm, codes of one bit less, signs.
class ProductCodec : public Codec {
 public:
  static Result<CodecPtr> Make(const CodecSpec& spec, int d) {
    const Result<Codebook> book = Codebook::Of(spec, spec.entry->bits - 1, d);
    if (!book.ok()) return book.status();
    return CodecPtr(new ProductCodec(spec, d, book.value()));
  }

 protected:
  void EncodeRotatedWith(const RowOps& ops, const float* y, const RowEnergy& energy,
                         uint8_t* row) const override {
    const uint16_t scale =
        EncodeGroup(ops, book_.view(), spec_.scale, y, head_dim_, energy, row + 4);
    float decoded[kMaxHeadDim];
    float residual[kMaxHeadDim];
    float projected[kMaxHeadDim];
    ops.dequantize(book_.view(), row + 4, HalfToFloat(scale), head_dim_, decoded);
    for (int i = 0; i < head_dim_; ++i) residual[i] = y[i] - decoded[i];
    projection_->Forward(residual, projected, ops);
    ScaleSums unused;
    Quantize(ops, kSignBook, projected, head_dim_, 0, 1.0f, row + signs_, &unused);
    StoreHalf(scale, row);
    StoreHalf(ScaleToHalf(sqrtf(ops.dot(residual, residual, head_dim_))), row + 2);
  }
  void DecodeRotatedWith(const RowOps& ops, const uint8_t* row, float* y) const override {
    float sign[kMaxHeadDim];
    float projected[kMaxHeadDim];
    ops.dequantize(kSignBook, row + signs_, 1.0f, head_dim_, sign);
    projection_->Backward(sign, projected, ops);
    ops.dequantize(book_.view(), row + 4, HalfToFloat(LoadHalf(row)), head_dim_, y);
    const float gamma = HalfToFloat(LoadHalf(row + 2)) * factor_;
    for (int i = 0; i < head_dim_; ++i) y[i] = y[i] + gamma * projected[i];
  }
  void PrepareQueryWith(const RowOps& ops, const float* query, float* prepared) const override {
    map_->Forward(query, prepared, ops);
    projection_->Forward(prepared, prepared + head_dim_, ops);
  }
  float InnerProductWith(const RowOps& ops, const float* prepared,
                         const uint8_t* row) const override {
    const float s = HalfToFloat(LoadHalf(row));
    const float gamma = HalfToFloat(LoadHalf(row + 2)) * factor_;
    return s * CodeDot(ops, book_.view(), prepared, row + 4, head_dim_) +
           gamma * CodeDot(ops, kSignBook, prepared + head_dim_, row + signs_, head_dim_);
  }

 private:
  ProductCodec(const CodecSpec& spec, int d, Codebook book)
      : Codec(spec, d, MakeRowMap(spec.rotation, d, spec.seed),
              {4 + PlaneBytes(spec.entry->bits, d), 2, true, 2 * static_cast<size_t>(d)}),
        book_(std::move(book)),
        signs_(4 + PlaneBytes(spec.entry->bits - 1, d)) {
    const uint64_t seed = DeriveSeed(spec.seed, 0);
    if (spec.projection == ProjectionKind::kGaussian) {
      projection_ = MakeGaussianMap(d, seed);
      factor_ = GaussianSignFactor(d);
    } else {
      projection_ = MakeRowMap(
          spec.rotation == RotationKind::kHaar ? RotationKind::kHaar : RotationKind::kHadamard, d,
          seed);
      factor_ = OrthogonalSignFactor(d);
    }
  }

  Codebook book_;
  size_t signs_;  // offset
  std::unique_ptr<RowMap> projection_;
  float factor_;
};

// fp16 scale, codes of b + 1 bits of the first d/2 rotated coordinates, codes of b bits of the
// rest. A rotation makes all coordinates alike, so it does not matter which get more: D = (D(b) +
// D(b+1)) / 2. One scale for both parts: each part's best scale is 1 in units of the row's rms,
// since Lloyd-Max centroids are the means of their cells (<y, c> = <c, c> in expectation whatever
// the width); fitting the parts apart would gain O(1/d) of the distortion and cost 16 / d bits a
// value.
class HalvesCodec : public Codec {
 public:
  static Result<CodecPtr> Make(const CodecSpec& spec, int d) {
    const Result<Codebook> head = Codebook::Of(spec, spec.entry->bits + 1, d);
    const Result<Codebook> tail = Codebook::Of(spec, spec.entry->bits, d);
    if (!head.ok()) return head.status();
    if (!tail.ok()) return tail.status();
    return CodecPtr(new HalvesCodec(spec, d, head.value(), tail.value()));
  }

 protected:
  void EncodeRotatedWith(const RowOps& ops, const float* y, const RowEnergy& energy,
                         uint8_t* row) const override {
    const int half = head_dim_ / 2;
    ScaleSums sums;
    Quantize(ops, head_.view(), y, half, 0, energy.inverse_rms, row + 2, &sums);
    Quantize(ops, tail_.view(), y + half, half, half, energy.inverse_rms, row + tail_codes_, &sums);
    StoreHalf(sums.Half(spec_.scale, energy.energy, head_dim_), row);
  }
  void DecodeRotatedWith(const RowOps& ops, const uint8_t* row, float* y) const override {
    const int half = head_dim_ / 2;
    const float scale = HalfToFloat(LoadHalf(row));
    Dequantize(ops, head_.view(), row + 2, scale, half, y);
    Dequantize(ops, tail_.view(), row + tail_codes_, scale, half, y + half);
  }

 private:
  HalvesCodec(const CodecSpec& spec, int d, Codebook head, Codebook tail)
      : Codec(spec, d, MakeRowMap(spec.rotation, d, spec.seed),
              {2 + PlaneBytes(2 * spec.entry->bits + 1, d / 2), 1, UnbiasedScale(spec),
               static_cast<size_t>(d)}),
        head_(std::move(head)),
        tail_(std::move(tail)),
        tail_codes_(2 + PlaneBytes(spec.entry->bits + 1, d / 2)) {}

  Codebook head_;
  Codebook tail_;
  size_t tail_codes_;  // offset
};

// The paper's split (section 4.3): chosen channels take b + 1 bits, the others b; both groups are
// rotated, normalised and scaled on their own, since here they differ in size. A quarter of the
// channels at 3 bits makes 2.25 bits of codes; with two scales that is 2.5 at d = 128.
// fp16 scale of the outliers, fp16 scale of the others, codes of the outliers, codes of the others.
class OutlierCodec : public Codec {
 public:
  static Result<CodecPtr> Make(CodecSpec spec, int d) {
    std::vector<int> channels = spec.channels;
    if (channels.empty()) {
      channels.resize(static_cast<size_t>(OutlierChannels(spec, d)));
      std::iota(channels.begin(), channels.end(), 0);
    }
    const int outliers = static_cast<int>(channels.size());
    if (channels.back() >= d || !SupportedHeadDim(outliers) || !SupportedHeadDim(d - outliers)) {
      return InvalidArgument(
          "split=outlier cannot divide head_dim " + std::to_string(d) + " into " +
          std::to_string(outliers) +
          " outlier channels and the rest: both must be multiples of 16 whose odd part is at most "
          "63, and every channel below head_dim.");
    }
    const Result<Codebook> head = Codebook::Of(spec, spec.entry->bits + 1, outliers);
    const Result<Codebook> tail = Codebook::Of(spec, spec.entry->bits, d - outliers);
    if (!head.ok()) return head.status();
    if (!tail.ok()) return tail.status();
    return CodecPtr(new OutlierCodec(spec, d, channels, head.value(), tail.value()));
  }

 protected:
  void EncodeRotatedWith(const RowOps& ops, const float* y, const RowEnergy&,
                         uint8_t* row) const override {
    const int rest = head_dim_ - outliers_;
    StoreHalf(EncodeGroup(ops, head_.view(), spec_.scale, y, outliers_, ops.measure(y, outliers_),
                          row + 4),
              row);
    StoreHalf(EncodeGroup(ops, tail_.view(), spec_.scale, y + outliers_, rest,
                          ops.measure(y + outliers_, rest), row + tail_codes_),
              row + 2);
  }
  void DecodeRotatedWith(const RowOps& ops, const uint8_t* row, float* y) const override {
    ops.dequantize(head_.view(), row + 4, HalfToFloat(LoadHalf(row)), outliers_, y);
    ops.dequantize(tail_.view(), row + tail_codes_, HalfToFloat(LoadHalf(row + 2)),
                   head_dim_ - outliers_, y + outliers_);
  }

 private:
  OutlierCodec(const CodecSpec& spec, int d, const std::vector<int>& channels, Codebook head,
               Codebook tail)
      : Codec(spec, d, MakeSplitMap(spec.rotation, d, spec.seed, channels),
              {4 + PlaneBytes(spec.entry->bits, d) + channels.size() / 8, 2, UnbiasedScale(spec),
               static_cast<size_t>(d)}),
        head_(std::move(head)),
        tail_(std::move(tail)),
        outliers_(static_cast<int>(channels.size())),
        tail_codes_(4 + PlaneBytes(spec.entry->bits + 1, outliers_)) {}

  Codebook head_;
  Codebook tail_;
  int outliers_;
  size_t tail_codes_;  // offset
};

// fp16 scale, bit planes.
class TrellisCodec : public Codec {
 public:
  static Result<CodecPtr> Make(const CodecSpec& spec, int d) {
    return CodecPtr(new TrellisCodec(spec, d));
  }

 protected:
  // The scalar truth: kernels search many rows side by side (kernels/row_coder.h).
  void DecodeRotatedWith(const RowOps&, const uint8_t* row, float* y) const override {
    DecodeTrellisRow(trellis_, row + 2, LoadHalf(row), head_dim_, y);
  }
  void EncodeRotatedWith(const RowOps&, const float* y, const RowEnergy&,
                         uint8_t* row) const override {
    TrellisScratch scratch;
    uint16_t scale;
    EncodeTrellisRow(trellis_, spec_.scale, y, head_dim_, &scratch, row + 2, &scale);
    StoreHalf(scale, row);
  }

 private:
  TrellisCodec(const CodecSpec& spec, int d)
      : Codec(
            spec, d, MakeRowMap(spec.rotation, d, spec.seed),
            {2 + PlaneBytes(spec.entry->bits, d), 1, UnbiasedScale(spec), static_cast<size_t>(d)}),
        trellis_(TrellisOf(spec)) {}

  TrellisView trellis_;
};

}  // namespace

Result<std::unique_ptr<Codec>> Codec::Create(std::string_view text, int head_dim) {
  const Result<CodecSpec> spec = ParseCodecSpec(text);
  if (!spec.ok()) return spec.status();
  return Create(spec.value(), head_dim);
}

Result<std::unique_ptr<Codec>> Codec::Create(const CodecSpec& spec, int head_dim) {
  if (spec.entry == nullptr) return InvalidArgument("a codec spec names a codec of the registry.");
  if (!SupportedHeadDim(head_dim)) {
    return InvalidArgument("head_dim " + std::to_string(head_dim) +
                           " is not a multiple of 16 from 16 to 1024 with an odd part of at most "
                           "63.");
  }
  switch (spec.entry->family) {
    case CodecFamily::kScalar:
    case CodecFamily::kUniform:
      return ScalarCodec::Make(spec, head_dim);
    case CodecFamily::kProduct:
      return ProductCodec::Make(spec, head_dim);
    case CodecFamily::kFractional:
      return spec.split == SplitKind::kOutlier ? OutlierCodec::Make(spec, head_dim)
                                               : HalvesCodec::Make(spec, head_dim);
    case CodecFamily::kTrellis:
      return TrellisCodec::Make(spec, head_dim);
    default:
      return MakeGroupCodec(spec, head_dim);
  }
}

}  // namespace turboquant
