// Codec specs: the text that names a codec, and the registry of all codecs.
//
//   spec    = name [":" option {"," option}]       e.g. turbo3   turbo2t:states=16   kivi4:group=64
//   option  = key "=" value
//
//   rotation    wht (seeded signs and Walsh-Hadamard), haar (dense, uniform), none
//   seed        of the rotation and of the projection; decimal, below 2^64
//   scale       ls (least squares), norm (the paper's), matched (norm correction),
//               unbiased (EDEN)
//   codebook    gauss (N(0, 1)), beta (the exact marginal of a row of head_dim values)
//   states      of a trellis: 4, 8, 16, 32, 64, 128 or 256
//   projection  of a product codec: orthogonal, gaussian (the paper's)
//   split       of a fractional codec: half (of the rotated coordinates), outlier (channels)
//   channels    with split=outlier, those that get one bit more, e.g. 0-15+40-55: a multiple of 16
//               of them. Left out: the first quarter of the row
//   group       values that share a scale: 16, 32, 64, 128, 256 or 512; must divide head_dim
//
// Canonical text has the options in this order and leaves out those with their default value.
#ifndef TURBOQUANT_CODEC_CODEC_SPEC_H_
#define TURBOQUANT_CODEC_CODEC_SPEC_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codec/scalar_codec.h"
#include "codec/trellis.h"

namespace turboquant {

enum class CodecFamily : uint8_t {
  kScalar,      // Lloyd-Max codes, one scale
  kProduct,     // the same with one bit less, and the signs of a projection of the residual
  kFractional,  // b bits for a part of the row, b + 1 for the other
  kTrellis,     // trellis-coded
  // For comparison only:
  kUniform,  // evenly spaced codes, one scale
  kAffine,   // evenly spaced codes between the least and the largest value of each group
  kNormal,   // NF4: 16 fixed values times the largest magnitude of each group
  kBlock,    // the 32-value blocks of ggml's q8_0 and q4_0, byte for byte
  kHalf,     // fp16
};

enum class RotationKind : uint8_t { kHadamard, kHaar, kNone };
enum class CodebookKind : uint8_t { kGauss, kBeta };
enum class ProjectionKind : uint8_t { kOrthogonal, kGaussian };
enum class SplitKind : uint8_t { kHalf, kOutlier };

struct CodecEntry {
  std::string_view name;
  CodecFamily family;
  int bits;               // of a code; fractional: of the shorter one; product: with the sign
  std::string_view keys;  // the options it takes, each followed by a space
  std::string_view summary;
};

// Every codec, in the order in which a user should read of them.
std::span<const CodecEntry> CodecRegistry();

inline constexpr uint64_t kDefaultCodecSeed = 1;

struct CodecSpec {
  const CodecEntry* entry = nullptr;  // into CodecRegistry()
  RotationKind rotation = RotationKind::kHadamard;
  uint64_t seed = kDefaultCodecSeed;
  ScaleRule scale = ScaleRule::kLeastSquares;
  CodebookKind codebook = CodebookKind::kGauss;
  int states = 8;
  ProjectionKind projection = ProjectionKind::kOrthogonal;
  SplitKind split = SplitKind::kHalf;
  std::vector<int> channels;  // ascending; empty: the first quarter
  int group = 32;
};

// The codec of that name with every option at its default; null entry: no such codec.
CodecSpec DefaultCodecSpec(std::string_view name);

Result<CodecSpec> ParseCodecSpec(std::string_view text);

// The trellis of a spec of CodecFamily::kTrellis.
TrellisView TrellisOf(const CodecSpec& spec);

// How many channels of a row split=outlier gives one bit more.
int OutlierChannels(const CodecSpec& spec, int head_dim);

// Canonical text: parses back to the same spec.
std::string CodecSpecText(const CodecSpec& spec);

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_CODEC_SPEC_H_
