#include "codec/format.h"

#include <gtest/gtest.h>

#include <string>

namespace turboquant {
namespace {

TEST(Format, BytesOfARow) {
  EXPECT_EQ(RowBytes(Format::kTurbo2, 128), 34u);
  EXPECT_EQ(RowBytes(Format::kTurbo3, 128), 50u);
  EXPECT_EQ(RowBytes(Format::kTurbo4, 128), 66u);
  EXPECT_EQ(RowBytes(Format::kF16, 128), 256u);
  EXPECT_EQ(CodeBytes(Format::kTurbo3, 16), 6u);
  EXPECT_EQ(CodeBytes(Format::kTurbo3, 1024), 384u);
}

TEST(Format, IdsAreThoseOfStoredFiles) {
  EXPECT_EQ(static_cast<int>(Format::kF16), 0);
  EXPECT_EQ(static_cast<int>(Format::kTurbo2), 2);
  EXPECT_EQ(static_cast<int>(Format::kTurbo3), 3);
  EXPECT_EQ(static_cast<int>(Format::kTurbo4), 4);
}

TEST(Format, NamesParseBack) {
  for (Format f : {Format::kF16, Format::kTurbo2, Format::kTurbo3, Format::kTurbo4}) {
    const auto parsed = ParseFormat(FormatName(f));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(parsed.value(), f);
  }
  EXPECT_EQ(FormatName(Format::kF16), "f16");
  EXPECT_EQ(FormatName(Format::kTurbo2), "turbo2");
  EXPECT_EQ(FormatName(Format::kTurbo3), "turbo3");
  EXPECT_EQ(FormatName(Format::kTurbo4), "turbo4");
  EXPECT_EQ(FormatName(static_cast<Format>(9)), "unknown");
}

TEST(Format, UnknownNamesAreRefusedWithTheAllowedOnes) {
  for (const char* name :
       {"", "turbo", "turbo1", "turbo5", "Turbo3", "turbo3 ", "f32", "unknown"}) {
    const auto parsed = ParseFormat(name);
    ASSERT_FALSE(parsed.ok()) << name;
    EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
    const std::string& message = parsed.status().message();
    EXPECT_NE(message.find("'" + std::string(name).append("'")), std::string::npos) << message;
    for (const char* allowed : {"turbo2", "turbo3", "turbo4", "f16"}) {
      EXPECT_NE(message.find(allowed), std::string::npos) << message;
    }
  }
}

TEST(Format, SupportedHeadDims) {
  for (int d : {16, 48, 64, 80, 96, 112, 128, 192, 256, 512, 576, 1008, 1024}) {
    EXPECT_TRUE(SupportedHeadDim(d)) << d;
  }
  for (int d : {-64, -16, 0, 1, 8, 15, 17, 40, 100, 120, 129, 1025, 1040, 2048, 1 << 30}) {
    EXPECT_FALSE(SupportedHeadDim(d)) << d;
  }
  // The odd part decides: 16 * 63 is the largest odd multiple that fits.
  int count = 0;
  for (int d = -2000; d <= 4000; ++d) count += SupportedHeadDim(d);
  EXPECT_EQ(count, 64);
}

}  // namespace
}  // namespace turboquant
