// Files: a row file that was altered or cut anywhere is refused with a reason, one that was not
// decodes; NPY bytes of any kind are refused or describe values that are really there.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "codec/codec.h"
#include "files/array_file.h"
#include "files/row_file.h"
#include "fuzz_input.h"

namespace turboquant {
namespace {

using fuzz::Input;
using fuzz::Require;

// Reads everything that an opened file promises.
void ReadAll(const RowFile& file) {
  std::vector<float> row(static_cast<size_t>(file.codec().head_dim()));
  for (uint64_t i = 0; i < std::min<uint64_t>(file.rows(), 64); ++i) {
    file.codec().Decode(file.row(i), row.data());
  }
}

// A small valid file.
std::vector<uint8_t> SmallFile(Input* input) {
  const char* const kSpecs[] = {"turbo3", "turbo2t:states=4", "turbo2.5", "turbo3q", "q8_0", "f16"};
  const std::string spec = kSpecs[input->Byte() % std::size(kSpecs)];
  const std::vector<uint64_t> shape = {1u + input->Byte() % 3u, 1u + input->Byte() % 4u, 64};
  const auto plan = RowFile::Plan(spec, shape, 0);
  Require(plan.ok(), spec + " is refused");
  std::vector<uint8_t> bytes(plan.value().Bytes());
  std::vector<float> x(64);
  for (uint64_t i = 0; i < plan.value().rows(); ++i) {
    for (float& v : x) v = static_cast<float>(input->Byte()) - 100.0f;
    plan.value().codec().Encode(
        x.data(), bytes.data() + plan.value().rows_offset() + i * plan.value().codec().row_bytes());
  }
  plan.value().Seal(bytes);
  return bytes;
}

void AlteredRowFile(Input* input) {
  const std::vector<uint8_t> sound = SmallFile(input);
  std::vector<uint8_t> bytes = sound;
  for (int edits = input->Byte() % 4; edits > 0; --edits) {
    bytes[input->Word() % bytes.size()] ^= input->Byte();
  }
  const uint8_t length = input->Byte();
  if (length % 4 == 1) bytes.resize(input->Word() % bytes.size());
  if (length % 4 == 2) bytes.resize(bytes.size() + 1 + length % 70);
  const auto file = RowFile::Open(bytes);
  const bool intact = file.ok() && file.value().Verify().ok();
  Require(intact == (bytes == sound), intact ? "damage was not seen" : "a sound file is refused");
  if (!file.ok()) return Require(!file.status().message().empty(), "a refusal without a reason");
  ReadAll(file.value());  // damaged rows decode to something
}

void AnyRowFile(Input* input, size_t size) {
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = input->Byte();
  const auto file = RowFile::Open(bytes);
  if (file.ok()) ReadAll(file.value());
}

// A header made of the words of headers, then some bytes of values.
void AnyNpy(Input* input) {
  constexpr const char* kWhole = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 64), }";
  const char* const kWords[] = {"{'descr': ",  "'<f4'",
                                "'<f2'",       "'<f8'",
                                "'>f4'",       ", 'fortran_order': ",
                                "False",       "True",
                                ", 'shape': ", "(",
                                ")",           ",",
                                " ",           "}",
                                "\n",          "3",
                                "4",           "0",
                                "64",          "18446744073709551615",
                                "-1",          "'|S1'",
                                kWhole};
  std::string header;
  for (int words = input->Byte() % 24; words > 0; --words) {
    header += kWords[input->Byte() % std::size(kWords)];
  }
  std::vector<uint8_t> bytes = {0x93, 'N', 'U', 'M', 'P', 'Y'};
  const uint8_t version = input->Byte();
  bytes.push_back(version % 5);
  bytes.push_back(0);
  const size_t says = version % 16 == 7 ? input->Word() : header.size();
  bytes.push_back(static_cast<uint8_t>(says));
  bytes.push_back(static_cast<uint8_t>(says >> 8));
  if (bytes[6] > 1) bytes.insert(bytes.end(), {uint8_t{0}, uint8_t{0}});
  bytes.insert(bytes.end(), header.begin(), header.end());
  bytes.insert(bytes.end(), input->Byte() * 4u, uint8_t{0x3F});
  const auto array = ParseNpy(bytes);
  if (!array.ok()) {
    return Require(!array.status().message().empty(), "a refusal without a reason: " + header);
  }
  const ArrayView& view = array.value();
  const size_t offset = static_cast<size_t>(view.data - bytes.data());
  Require(
      offset <= bytes.size() && view.values() <= (bytes.size() - offset) / FloatBytes(view.type),
      "values beyond the file: " + header);
  std::vector<float> values(static_cast<size_t>(view.values()));
  view.Read(0, values.size(), values.data());
}

}  // namespace
}  // namespace turboquant

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace turboquant;
  fuzz::Input input(data, size);
  switch (input.Byte() % 4) {
    case 0:
      AnyRowFile(&input, size);
      break;
    case 1:
      AnyNpy(&input);
      break;
    default:
      AlteredRowFile(&input);
  }
  return 0;
}
