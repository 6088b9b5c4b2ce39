// NPY and raw arrays: what numpy writes is read, what it could not read is not written.
#include "files/array_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>

namespace turboquant {
namespace {

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// An NPY file as numpy.save writes it: padded with blanks to a multiple of 64, then a line feed.
std::string Npy(const std::string& dict, const std::string& values, int version = 1) {
  std::string text("\x93NUMPY", 6);
  text += static_cast<char>(version);
  text += '\0';
  const size_t start = version == 1 ? 10 : 12;
  std::string header = dict;
  header.append(63 - (start + dict.size()) % 64, ' ');
  header += '\n';
  for (size_t i = 0; i < start - 8; ++i) text += static_cast<char>(header.size() >> (8 * i));
  return text + header + values;
}

std::string Dict(const std::string& descr, const std::string& shape,
                 const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}

std::string Raw(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), 4 * values.size());
}

TEST(Npy, ReadsEveryTypeShapeAndVersion) {
  const std::vector<float> values = {1, -2, 3.5, 4, 5, 6};
  for (int version : {1, 2, 3}) {
    const std::string file = Npy(Dict("<f4", "(2, 3)"), Raw(values), version);
    const auto array = ParseNpy(Bytes(file));
    ASSERT_TRUE(array.ok()) << array.status().message();
    EXPECT_EQ(array.value().shape, (std::vector<uint64_t>{2, 3}));
    EXPECT_EQ(array.value().values(), 6u);
    std::vector<float> read(4);
    array.value().Read(2, 4, read.data());
    EXPECT_EQ(read, (std::vector<float>{3.5, 4, 5, 6}));
  }
  const std::string halves = Npy(Dict("<f2", "(2,)"), std::string("\x00\x3C\x00\xC0", 4));
  const auto array = ParseNpy(Bytes(halves));
  ASSERT_TRUE(array.ok());
  float read[2];
  array.value().Read(0, 2, read);
  EXPECT_EQ(read[0], 1.0f);
  EXPECT_EQ(read[1], -2.0f);
  const double wide[] = {0.25, -8};
  const std::string doubles =
      Npy(Dict("<f8", "(1, 1, 2)"), std::string(reinterpret_cast<const char*>(wide), 16));
  ASSERT_TRUE(ParseNpy(Bytes(doubles)).ok());
  ParseNpy(Bytes(doubles)).value().Read(0, 2, read);
  EXPECT_EQ(read[0], 0.25f);
  EXPECT_EQ(read[1], -8.0f);
}

TEST(Npy, RefusesWhatItCannotReadWithTheRemedy) {
  const std::string values = Raw({1, 2, 3, 4, 5, 6});
  const struct {
    std::string file;
    StatusCode code;
    const char* word;
  } kCases[] = {
      {Npy(Dict("<f4", "(2, 3)", "True"), values), StatusCode::kUnsupported, "ascontiguousarray"},
      {Npy(Dict(">f4", "(2, 3)"), values), StatusCode::kUnsupported, "astype"},
      {Npy(Dict("<i8", "(3,)"), values), StatusCode::kUnsupported, "astype"},
      {Npy(Dict("<f4", "(2, 4)"), values), StatusCode::kCorrupt, "24 of 32 bytes"},
      {Npy(Dict("<f4", "(9223372036854775807, 9223372036854775807)"), values), StatusCode::kCorrupt,
       "shape"},
      {Npy(Dict("<f4", "(-1,)"), values), StatusCode::kCorrupt, "shape"},
      {Npy(Dict("<f4", "(2, 3"), values), StatusCode::kCorrupt, "shape"},
      {Npy(Dict("<f4", "6"), values), StatusCode::kCorrupt, "shape"},
      {Npy("{'descr': '<f4', 'fortran_order': False}", values), StatusCode::kCorrupt, "shape"},
      {Npy(Dict("<f4", "(2, 3)"), values, 9), StatusCode::kUnsupported, "version 9"},
      {"\x93NUMPX and more", StatusCode::kCorrupt, "not an NPY"},
      {"", StatusCode::kCorrupt, "not an NPY"}};
  for (const auto& c : kCases) {
    const auto array = ParseNpy(Bytes(c.file));
    ASSERT_FALSE(array.ok()) << c.word;
    EXPECT_EQ(array.status().code(), c.code) << array.status().message();
    EXPECT_NE(array.status().message().find(c.word), std::string::npos) << array.status().message();
  }
  // Cut anywhere, it is refused.
  const std::string good = Npy(Dict("<f4", "(2, 3)"), values);
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(ParseNpy(Bytes(good.substr(0, size))).ok()) << size;
  }
}

TEST(Npy, HeaderIsWhatNumpyWrites) {
  const std::vector<uint8_t> header = NpyHeader(FloatType::kF32, {3, 128});
  const std::string text(header.begin(), header.end());
  std::string expected("\x93NUMPY\x01\x00\x76\x00", 10);
  expected += "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 128), }";
  expected.append(127 - expected.size(), ' ');
  expected += '\n';
  EXPECT_EQ(text, expected);
  for (const auto& shape : std::vector<std::vector<uint64_t>>{
           {5}, {1, 2, 3, 4, 5, 6, 7, 8}, std::vector<uint64_t>(8, 12345678901234567ull)}) {
    std::vector<uint8_t> bytes = NpyHeader(FloatType::kF16, shape);
    EXPECT_EQ(bytes.size() % 64, 0u);
    if (shape.size() == 8 && shape[0] > 100) continue;  // nobody has so many values
    uint64_t values = 1;
    for (uint64_t n : shape) values *= n;
    bytes.resize(bytes.size() + 2 * values);
    const auto array = ParseNpy(bytes);
    ASSERT_TRUE(array.ok()) << array.status().message();
    EXPECT_EQ(array.value().shape, shape);
    EXPECT_EQ(array.value().type, FloatType::kF16);
  }
}

TEST(RawArray, NeedsWholeVectors) {
  const std::string bytes(48, '\0');
  EXPECT_EQ(RawArray(Bytes(bytes), FloatType::kF32, 4).value().shape,
            (std::vector<uint64_t>{3, 4}));
  EXPECT_EQ(RawArray(Bytes(bytes), FloatType::kF16, 4).value().shape,
            (std::vector<uint64_t>{6, 4}));
  EXPECT_FALSE(RawArray(Bytes(bytes), FloatType::kF32, 5).ok());
  EXPECT_FALSE(RawArray(Bytes(bytes), FloatType::kF32, 0).ok());
  EXPECT_FALSE(RawArray(Bytes(bytes), FloatType::kF32, uint64_t{1} << 62).ok());
}

TEST(FloatTypes, NamesAndBytes) {
  for (FloatType type : {FloatType::kF32, FloatType::kF16, FloatType::kF64}) {
    EXPECT_EQ(ParseFloatType(FloatTypeName(type)).value(), type);
  }
  EXPECT_NE(ParseFloatType("bf16").status().message().find("f32, f16 or f64"), std::string::npos);
  const float values[] = {1.5f, 65536.0f};
  uint8_t half[4], wide[16];
  WriteFloats(FloatType::kF16, values, 2, half);
  EXPECT_EQ(half[0] | half[1] << 8, 0x3E00);
  EXPECT_EQ(half[2] | half[3] << 8, 0x7C00);
  WriteFloats(FloatType::kF64, values, 2, wide);
  double first;
  std::memcpy(&first, wide, 8);
  EXPECT_EQ(first, 1.5);
}

}  // namespace
}  // namespace turboquant
