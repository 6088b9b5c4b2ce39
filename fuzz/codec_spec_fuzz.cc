// Any text: a spec is refused with a reason, or prints back to a text that means the same codec.
#include <string>
#include <string_view>

#include "codec/codec.h"
#include "codec/codec_spec.h"
#include "fuzz_input.h"

using turboquant::Codec;
using turboquant::CodecSpecText;
using turboquant::ParseCodecSpec;
using turboquant::fuzz::Require;

namespace {

// Text made of the words of specs, so that also a driver without feedback reaches every option.
std::string SpecFrom(const uint8_t* data, size_t size) {
  constexpr std::string_view kWords[] = {"turbo1",
                                         "turbo3",
                                         "turbo2t",
                                         "turbo4t",
                                         "turbo3q",
                                         "turbo2.5",
                                         "uniform4",
                                         "kivi2",
                                         "nf4",
                                         "q4_0",
                                         "f16",
                                         ":",
                                         ",",
                                         "=",
                                         "seed",
                                         "rotation",
                                         "scale",
                                         "codebook",
                                         "states",
                                         "split",
                                         "channels",
                                         "group",
                                         "haar",
                                         "wht",
                                         "none",
                                         "ls",
                                         "matched",
                                         "unbiased",
                                         "beta",
                                         "gauss",
                                         "projection",
                                         "orthogonal",
                                         "gaussian",
                                         "half",
                                         "outlier",
                                         "8",
                                         "64",
                                         "0-15",
                                         "+",
                                         "-",
                                         "40-55",
                                         "1000-1023",
                                         "256",
                                         "18446744073709551615",
                                         ":seed=1",
                                         ":states=16",
                                         ",scale=ls",
                                         ":group=64",
                                         ":split=outlier,channels="};
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    if (data[i] < std::size(kWords)) {
      text += kWords[data[i]];
    } else {
      text.push_back(static_cast<char>(data[i]));
    }
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text = SpecFrom(data, size < 64 ? size : 64);
  const auto spec = ParseCodecSpec(text);
  if (!spec.ok()) {
    Require(!spec.status().message().empty(), "a refusal without a reason: " + text);
    return 0;
  }
  const std::string canonical = CodecSpecText(spec.value());
  const auto again = ParseCodecSpec(canonical);
  Require(again.ok(), canonical + ", printed for " + text + ", is refused");
  Require(CodecSpecText(again.value()) == canonical, canonical + " prints back as another text");
  // Dense maps take too long to build here.
  if (spec.value().rotation == turboquant::RotationKind::kHaar ||
      spec.value().projection == turboquant::ProjectionKind::kGaussian ||
      spec.value().codebook == turboquant::CodebookKind::kBeta) {
    return 0;
  }
  const int head_dim = size == 0 ? 64 : 16 * (1 + data[0] % 64);
  const auto codec = Codec::Create(text, head_dim);
  if (codec.ok()) {
    Require(codec.value()->spec_text() == canonical, "the codec of " + text + " says otherwise");
  } else {
    Require(!codec.status().message().empty(), "a refusal without a reason: " + text);
  }
  return 0;
}
