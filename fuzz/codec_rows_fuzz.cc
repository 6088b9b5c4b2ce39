// Differential: rows of any floats and rows of any bytes, through every kernel table and the scalar
// truth. Same bytes, same floats, nothing but zeros for what cannot be coded.
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fp16.h"
#include "codec/codec.h"
#include "fuzz_input.h"
#include "kernels/kernel_api.h"
#include "kernels/row_coder.h"

namespace turboquant {
namespace {

using fuzz::Input;
using fuzz::Require;

constexpr size_t kRows = 5;

// Codecs are kept: making one takes longer than a thousand rows.
const Codec& CodecOf(const std::string& spec, int d) {
  static std::map<std::pair<std::string, int>, std::unique_ptr<Codec>> codecs;
  std::unique_ptr<Codec>& codec = codecs[{spec, d}];
  if (codec == nullptr) {
    auto made = Codec::Create(spec, d);
    Require(made.ok(), spec + ": " + made.status().message());
    codec = std::move(made.value());
  }
  return *codec;
}

const Codec& ChooseCodec(Input* input) {
  const char* const kSpecs[] = {"turbo1",
                                "turbo2",
                                "turbo3",
                                "turbo4",
                                "turbo8",
                                "turbo2t",
                                "turbo3t",
                                "turbo4t",
                                "turbo2q",
                                "turbo3q",
                                "turbo2.5",
                                "turbo3.5",
                                "uniform3",
                                "kivi2:group=16",
                                "nf4:group=16",
                                "f16",
                                "turbo2t:states=4",
                                "turbo3t:states=16",
                                "turbo4t:states=256",
                                "turbo3:scale=unbiased",
                                "turbo3t:scale=matched",
                                "turbo3:codebook=beta"};
  constexpr int kDims[] = {16, 48, 64, 80, 128, 192};
  const std::string spec = kSpecs[input->Byte() % std::size(kSpecs)];
  return CodecOf(spec, kDims[input->Byte() % std::size(kDims)]);
}

// Values by kind: any bits, small whole numbers (ties), numbers near one, one magnitude, mostly
// zero.
float Value(int kind, Input* input) {
  const uint32_t word = input->Word();
  switch (kind % 5) {
    case 0:
      return BitsToFloat(word);
    case 1:
      return static_cast<float>(word % 5) - 2.0f;
    case 2:
      return static_cast<float>(static_cast<int32_t>(word)) * 0x1p-31f;
    case 3:
      return BitsToFloat((word & 0x80000000u) | 0x3F800000u);
    default:
      return word % 29 == 0 ? BitsToFloat((word & 0x80FFFFFFu) | 0x3F000000u) : 0.0f;
  }
}

bool SameFloats(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    // Of NaNs only that they are: arithmetic does not say which.
    if (FloatBits(a[i]) != FloatBits(b[i]) && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  }
  return true;
}

}  // namespace
}  // namespace turboquant

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace turboquant;
  Input input(data, size);
  const Codec& codec = ChooseCodec(&input);
  const size_t d = static_cast<size_t>(codec.head_dim());
  const size_t stride = codec.row_bytes();
  const std::string name = codec.spec_text() + ", head_dim " + std::to_string(d);

  std::vector<float> x(kRows * d);
  for (size_t j = 0; j < kRows; ++j) {
    const int kind = input.Byte();
    for (size_t i = 0; i < d; ++i) x[j * d + i] = Value(kind, &input);
  }
  std::vector<uint8_t> rows(kRows * stride);
  std::vector<float> decoded(kRows * d);
  std::vector<uint8_t> valid_rows(kRows);
  size_t invalid = 0;
  for (size_t j = 0; j < kRows; ++j) {
    const bool valid = codec.Encode(x.data() + j * d, rows.data() + j * stride);
    invalid += valid ? 0 : 1;
    valid_rows[j] = valid ? 1 : 0;
    codec.Decode(rows.data() + j * stride, decoded.data() + j * d);
    for (size_t i = 0; i < d; ++i) {
      Require(std::isfinite(decoded[j * d + i]), name + ": decodes to what is no number");
      Require(valid || decoded[j * d + i] == 0.0f, name + ": a refused row is not zero");
    }
  }
  std::vector<uint8_t> any(rows.size());
  for (uint8_t& byte : any) byte = input.Byte();
  std::vector<float> any_decoded(kRows * d);
  for (size_t j = 0; j < kRows; ++j) {
    codec.Decode(any.data() + j * stride, any_decoded.data() + j * d);
  }

  for (const KernelTable* table : AllKernels()) {
    if (table == nullptr) continue;
    const RowCoder coder(codec, *table);
    std::vector<uint8_t> mine(rows.size(), 0xA5);
    std::vector<float> back(decoded.size());
    std::vector<uint8_t> mine_valid(kRows, 7);
    const size_t mine_invalid = coder.Encode(x.data(), kRows, mine.data(), mine_valid.data());
    Require(mine_invalid == invalid && mine_valid == valid_rows,
            name + ": refused rows on " + std::string(table->name));
    Require(mine == rows, name + ": bytes of " + std::string(table->name));
    coder.Decode(rows.data(), kRows, back.data());
    Require(SameFloats(back, decoded), name + ": floats of " + std::string(table->name));
    coder.Decode(any.data(), kRows, back.data());
    Require(SameFloats(back, any_decoded),
            name + ": floats of any bytes on " + std::string(table->name));
  }
  return 0;
}
