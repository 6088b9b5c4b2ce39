// The codecs of groups of values behind Codec::Create; their bytes are in baseline_codec.h.
#include <string>

#include "base/fp16.h"
#include "codec/baseline_codec.h"
#include "codec/codec.h"
#include "codec/codec_family.h"

namespace turboquant {
namespace {

// The codecs of groups: affine, NF4 and ggml's blocks; f16 is a group of one value.
class GroupCodec : public Codec {
 public:
  static Result<CodecPtr> Make(const CodecSpec& spec, int d) {
    const CodecFamily family = spec.entry->family;
    const int group = family == CodecFamily::kBlock  ? kBlockValues
                      : family == CodecFamily::kHalf ? 1
                                                     : spec.group;
    if (d % group != 0) {
      return InvalidArgument(std::string(spec.entry->name) + " codes groups of " +
                             std::to_string(group) + " values, which do not divide head_dim " +
                             std::to_string(d) +
                             (family == CodecFamily::kBlock ? "." : ": choose a smaller group."));
    }
    const int scales = family == CodecFamily::kAffine ? 2 : family == CodecFamily::kHalf ? 0 : 1;
    return CodecPtr(new GroupCodec(spec, d, group, scales));
  }

 protected:
  void DecodeRotatedWith(const RowOps&, const uint8_t* row, float* y) const override {
    const int bits = spec_.entry->bits;
    for (int i = 0; i < head_dim_; i += group_, row += group_bytes_) {
      switch (spec_.entry->family) {
        case CodecFamily::kAffine:
          DecodeAffineGroup(bits, row, group_, y + i);
          break;
        case CodecFamily::kNormal:
          DecodeNormalGroup(row, group_, y + i);
          break;
        case CodecFamily::kBlock:
          DecodeBlock(bits, row, y + i);
          break;
        default:
          y[i] = HalfToFloat(LoadHalf(row));
      }
    }
  }

  void EncodeRotatedWith(const RowOps&, const float* y, const RowEnergy&,
                         uint8_t* row) const override {
    const int bits = spec_.entry->bits;
    for (int i = 0; i < head_dim_; i += group_, row += group_bytes_) {
      switch (spec_.entry->family) {
        case CodecFamily::kAffine:
          EncodeAffineGroup(bits, y + i, group_, row);
          break;
        case CodecFamily::kNormal:
          EncodeNormalGroup(y + i, group_, row);
          break;
        case CodecFamily::kBlock:
          EncodeBlock(bits, y + i, row);
          break;
        default:
          StoreHalf(ScaleToHalf(y[i]), row);
      }
    }
  }

 private:
  GroupCodec(const CodecSpec& spec, int d, int group, int scales)
      : Codec(spec, d, MakeRowMap(spec.rotation, d, spec.seed),
              {d / group * (2 * static_cast<size_t>(scales) + PlaneBytes(spec.entry->bits, group)),
               d / group * scales, false, static_cast<size_t>(d)}),
        group_(group),
        group_bytes_(2 * static_cast<size_t>(scales) + PlaneBytes(spec.entry->bits, group)) {}

  int group_;
  size_t group_bytes_;
};

}  // namespace

Result<CodecPtr> MakeGroupCodec(const CodecSpec& spec, int head_dim) {
  return GroupCodec::Make(spec, head_dim);
}

}  // namespace turboquant
