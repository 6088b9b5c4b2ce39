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
#include "codec/fractional_codec.h"
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

  float InnerProduct(const float* prepared, const uint8_t* row) const override {
    return HalfToFloat(LoadHalf(row)) * CodeDot(book_.view(), prepared, row + 2, head_dim_);
  }
  void DecodeRotated(const uint8_t* row, float* y) const override {
    DecodeRotatedRow(book_.view(), row + 2, LoadHalf(row), head_dim_, y);
  }

 protected:
  void EncodeRotated(const float* y, const RowEnergy&, uint8_t* row) const override {
    uint16_t scale;
    EncodeRotatedRow(book_.view(), spec_.scale, y, head_dim_, row + 2, &scale);
    StoreHalf(scale, row);
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

  void PrepareQuery(const float* query, float* prepared) const override {
    map_->Forward(query, prepared);
    projection_->Forward(prepared, prepared + head_dim_);
  }
  float InnerProduct(const float* prepared, const uint8_t* row) const override {
    const float s = HalfToFloat(LoadHalf(row));
    const float gamma = HalfToFloat(LoadHalf(row + 2)) * factor_;
    return s * CodeDot(book_.view(), prepared, row + 4, head_dim_) +
           gamma * SignDot(prepared + head_dim_, row + signs_, head_dim_);
  }
  void DecodeRotated(const uint8_t* row, float* y) const override {
    float sign[kMaxHeadDim];
    float projected[kMaxHeadDim];
    for (int i = 0; i < head_dim_; ++i) sign[i] = LoadSign(row + signs_, head_dim_, i);
    projection_->Backward(sign, projected);
    DecodeRotatedRow(book_.view(), row + 4, LoadHalf(row), head_dim_, y);
    const float gamma = HalfToFloat(LoadHalf(row + 2)) * factor_;
    for (int i = 0; i < head_dim_; ++i) y[i] = y[i] + gamma * projected[i];
  }

 protected:
  void EncodeRotated(const float* y, const RowEnergy&, uint8_t* row) const override {
    uint16_t scale;
    EncodeRotatedRow(book_.view(), spec_.scale, y, head_dim_, row + 4, &scale);
    float residual[kMaxHeadDim];
    float projected[kMaxHeadDim];
    const uint16_t gamma = ProductResidual(book_.view(), y, head_dim_, row + 4, scale, residual);
    projection_->Forward(residual, projected);
    StoreSigns(projected, head_dim_, row + signs_);
    StoreHalf(scale, row);
    StoreHalf(gamma, row + 2);
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

// fp16 scale, codes of both halves.
class HalvesCodec : public Codec {
 public:
  static Result<CodecPtr> Make(const CodecSpec& spec, int d) {
    const Result<Codebook> head = Codebook::Of(spec, spec.entry->bits + 1, d);
    const Result<Codebook> tail = Codebook::Of(spec, spec.entry->bits, d);
    if (!head.ok()) return head.status();
    if (!tail.ok()) return tail.status();
    return CodecPtr(new HalvesCodec(spec, d, head.value(), tail.value()));
  }

  void DecodeRotated(const uint8_t* row, float* y) const override {
    DecodeHalves(head_.view(), tail_.view(), row + 2, LoadHalf(row), head_dim_, y);
  }

 protected:
  void EncodeRotated(const float* y, const RowEnergy& energy, uint8_t* row) const override {
    StoreHalf(EncodeHalves(head_.view(), tail_.view(), spec_.scale, y, head_dim_, energy, row + 2),
              row);
  }

 private:
  HalvesCodec(const CodecSpec& spec, int d, Codebook head, Codebook tail)
      : Codec(spec, d, MakeRowMap(spec.rotation, d, spec.seed),
              {2 + PlaneBytes(2 * spec.entry->bits + 1, d / 2), 1, UnbiasedScale(spec),
               static_cast<size_t>(d)}),
        head_(std::move(head)),
        tail_(std::move(tail)) {}

  Codebook head_;
  Codebook tail_;
};

// Two fp16 scales, codes of the outlier channels, codes of the others.
class OutlierCodec : public Codec {
 public:
  static Result<CodecPtr> Make(CodecSpec spec, int d) {
    std::vector<int> channels = spec.channels;
    if (channels.empty()) {
      channels.resize(static_cast<size_t>(std::max(16, d / 64 * 16)));
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

  void DecodeRotated(const uint8_t* row, float* y) const override {
    DecodeRotatedRow(head_.view(), row + 4, LoadHalf(row), outliers_, y);
    DecodeRotatedRow(tail_.view(), row + tail_codes_, LoadHalf(row + 2), head_dim_ - outliers_,
                     y + outliers_);
  }

 protected:
  void EncodeRotated(const float* y, const RowEnergy&, uint8_t* row) const override {
    uint16_t scale;
    EncodeRotatedRow(head_.view(), spec_.scale, y, outliers_, row + 4, &scale);
    StoreHalf(scale, row);
    EncodeRotatedRow(tail_.view(), spec_.scale, y + outliers_, head_dim_ - outliers_,
                     row + tail_codes_, &scale);
    StoreHalf(scale, row + 2);
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

  void DecodeRotated(const uint8_t* row, float* y) const override {
    DecodeTrellisRow(trellis_, row + 2, LoadHalf(row), head_dim_, y);
  }

 protected:
  void EncodeRotated(const float* y, const RowEnergy&, uint8_t* row) const override {
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
