// What the files behind Codec::Create share. Not for users of Codec.
#ifndef TURBOQUANT_CODEC_CODEC_FAMILY_H_
#define TURBOQUANT_CODEC_CODEC_FAMILY_H_

#include <cstddef>
#include <memory>

#include "base/status.h"
#include "codec/codec.h"

namespace turboquant {

using CodecPtr = std::unique_ptr<Codec>;

// The codecs of kAffine, kNormal, kBlock and kHalf.
Result<CodecPtr> MakeGroupCodec(const CodecSpec& spec, int head_dim);

// Bytes of n codes; bits * n is a multiple of 8.
constexpr size_t PlaneBytes(int bits, int n) { return static_cast<size_t>(bits) * n / 8; }

}  // namespace turboquant

#endif  // TURBOQUANT_CODEC_CODEC_FAMILY_H_
