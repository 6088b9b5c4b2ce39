// Specs: every codec and option parses, prints back as it was and bills every byte.
#include "codec/codec_spec.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "codec/codec.h"

namespace turboquant {
namespace {

std::string Canonical(const std::string& text) {
  const Result<CodecSpec> spec = ParseCodecSpec(text);
  return spec.ok() ? CodecSpecText(spec.value()) : "refused: " + spec.status().message();
}

TEST(CodecSpec, EveryNamePrintsBack) {
  EXPECT_EQ(CodecRegistry().size(), 25u);
  for (const CodecEntry& entry : CodecRegistry()) {
    const std::string name(entry.name);
    EXPECT_EQ(Canonical(name), name);
    EXPECT_FALSE(entry.summary.empty()) << name;
    const auto codec = Codec::Create(name, 128);
    ASSERT_TRUE(codec.ok()) << name << ": " << codec.status().message();
    EXPECT_EQ(codec.value()->spec_text(), name);
  }
}

// Canonical texts of every option in every family that takes it.
TEST(CodecSpec, EveryOptionPrintsBack) {
  const std::vector<std::string> kCanonical = {
      "turbo1:rotation=haar",
      "turbo2:rotation=none,seed=0",
      "turbo3:seed=18446744073709551615,scale=norm,codebook=beta",
      "turbo4:scale=matched",
      "turbo8:scale=unbiased",
      "turbo2t:states=8",
      "turbo3t:rotation=haar,seed=7,scale=unbiased,states=256",
      "turbo4t:states=4",
      "turbo2.5:codebook=beta,split=outlier",
      "turbo3.5:split=outlier,channels=0-15+40-55",
      "turbo3.5:split=outlier,channels=3+5+7-20",
      "turbo2q:projection=gaussian",
      "turbo3q:rotation=haar,scale=norm,codebook=beta,projection=gaussian",
      "turbo4q:seed=2",
      "uniform3:rotation=wht,scale=matched",
      "kivi2:rotation=wht,seed=3,group=64",
      "nf4:group=32",
      "q8_0:rotation=wht",
      "f16:rotation=haar",
  };
  for (const std::string& text : kCanonical) {
    EXPECT_EQ(Canonical(text), text);
    const auto codec = Codec::Create(text, 128);
    EXPECT_TRUE(codec.ok()) << text << ": " << codec.status().message();
  }
}

TEST(CodecSpec, OtherOrdersAndDefaultsBecomeCanonical) {
  EXPECT_EQ(Canonical("turbo3:scale=ls"), "turbo3");
  EXPECT_EQ(Canonical("turbo3:scale=norm,rotation=haar"), "turbo3:rotation=haar,scale=norm");
  EXPECT_EQ(Canonical("turbo2t:states=64"), "turbo2t");
  EXPECT_EQ(Canonical("turbo3t:states=8"), "turbo3t");
  EXPECT_EQ(Canonical("kivi2:rotation=none,group=32"), "kivi2");
  EXPECT_EQ(Canonical("nf4:group=64"), "nf4");
  EXPECT_EQ(Canonical("turbo3:seed=007"), "turbo3:seed=7");
  EXPECT_EQ(Canonical("turbo2.5:split=outlier,channels=0-7+8-15"),
            "turbo2.5:split=outlier,channels=0-15");
}

TEST(CodecSpec, DefaultsOfTheFamilies) {
  EXPECT_EQ(DefaultCodecSpec("turbo2t").states, 64);
  EXPECT_EQ(DefaultCodecSpec("turbo3t").states, 8);
  EXPECT_EQ(DefaultCodecSpec("turbo4t").states, 8);
  EXPECT_EQ(DefaultCodecSpec("turbo3q").projection, ProjectionKind::kOrthogonal);
  EXPECT_EQ(DefaultCodecSpec("turbo3").rotation, RotationKind::kHadamard);
  EXPECT_EQ(DefaultCodecSpec("turbo3").scale, ScaleRule::kLeastSquares);
  EXPECT_EQ(DefaultCodecSpec("q8_0").rotation, RotationKind::kNone);
  EXPECT_EQ(DefaultCodecSpec("turbo9").entry, nullptr);
}

// What is wrong, and what would be right.
TEST(CodecSpec, RefusalsNameTheRemedy) {
  const struct {
    const char* text;
    const char* part;
  } kWrong[] = {
      {"", "use one of turbo1, turbo2"},
      {"turbo5", "unknown codec 'turbo5'"},
      {"Turbo3", "unknown codec"},
      {"turbo3 ", "unknown codec"},
      {"turbo3:", "has no option ''"},
      {"turbo3:states=8", "it takes rotation seed scale codebook"},
      {"turbo3:rotation", "has no option 'rotation'"},
      {"turbo3:rotation=", "use wht, haar or none"},
      {"turbo3:rotation=dct", "use wht, haar or none"},
      {"turbo3:scale=eden", "use ls, norm, matched or unbiased"},
      {"turbo3:seed=-1", "seed='-1' must be a whole number below 2^64"},
      {"turbo3:seed=18446744073709551616", "below 2^64"},
      {"turbo3:seed=1x", "must be a whole number"},
      {"turbo3:seed=1,seed=2", "given twice"},
      {"turbo3:seed=1,", "has no option ''"},
      {"turbo3t:states=12", "power of two from 4 to 256"},
      {"turbo3t:states=2", "power of two from 4 to 256"},
      {"kivi2:group=8", "power of two from 16 to 512"},
      {"turbo2.5:channels=0-15", "channels needs split=outlier"},
      {"turbo2.5:split=outlier,channels=0-14", "a multiple of 16"},
      {"turbo2.5:split=outlier,channels=8-15+0-7", "ascending"},
      {"turbo2.5:split=outlier,channels=0-7+7-14", "ascending"},
      {"turbo2.5:split=outlier,channels=0-15+", "ascending"},
      {"turbo2.5:split=outlier,channels=0-9999", "ascending"},
  };
  for (const auto& [text, part] : kWrong) {
    const Result<CodecSpec> spec = ParseCodecSpec(text);
    ASSERT_FALSE(spec.ok()) << text;
    EXPECT_NE(spec.status().message().find(part), std::string::npos)
        << text << ": " << spec.status().message();
  }
}

TEST(CodecSpec, RefusesWhatAHeadDimCannotHold) {
  const struct {
    const char* text;
    int head_dim;
    const char* part;
  } kWrong[] = {
      {"turbo3", 72, "head_dim 72 is not a multiple of 16"},
      {"turbo3", 2048, "from 16 to 1024"},
      {"kivi2:group=64", 80, "which do not divide head_dim 80"},
      {"q4_0", 80, "groups of 32 values"},
      {"turbo2.5:split=outlier", 16, "split=outlier cannot divide head_dim 16"},
      {"turbo2.5:split=outlier,channels=112-127", 64, "below head_dim"},
  };
  for (const auto& [text, head_dim, part] : kWrong) {
    const auto codec = Codec::Create(text, head_dim);
    ASSERT_FALSE(codec.ok()) << text;
    EXPECT_NE(codec.status().message().find(part), std::string::npos)
        << text << ": " << codec.status().message();
  }
}

// Bytes by hand: codes, then every scale and zero point.
TEST(CodecSpec, EveryByteIsBilled) {
  const struct {
    const char* text;
    int head_dim;
    size_t codes;
    int scales;  // fp16
  } kRows[] = {
      {"turbo1", 128, 16, 1},
      {"turbo2", 128, 32, 1},
      {"turbo3", 80, 30, 1},
      {"turbo4", 576, 288, 1},
      {"turbo8", 64, 64, 1},
      {"turbo2t", 128, 32, 1},
      {"turbo3t", 80, 30, 1},
      {"turbo4t", 576, 288, 1},
      {"turbo2q", 128, 32, 2},
      {"turbo3q", 64, 24, 2},
      {"turbo4q", 80, 40, 2},
      {"turbo2.5", 128, 40, 1},
      {"turbo3.5", 80, 35, 1},
      {"turbo2.5:split=outlier", 128, 32 * 3 / 8 + 96 * 2 / 8, 2},
      {"turbo3.5:split=outlier,channels=0-63", 128, 64 * 4 / 8 + 64 * 3 / 8, 2},
      {"uniform4", 128, 64, 1},
      {"kivi2", 128, 32, 8},
      {"kivi4:group=64", 128, 64, 4},
      {"nf4", 128, 64, 2},
      {"q4_0", 128, 64, 4},
      {"q8_0", 128, 128, 4},
      {"f16", 128, 256, 0},
  };
  for (const auto& [text, head_dim, codes, scales] : kRows) {
    const auto codec = Codec::Create(text, head_dim);
    ASSERT_TRUE(codec.ok()) << text;
    const size_t bytes = codes + 2 * static_cast<size_t>(scales);
    EXPECT_EQ(codec.value()->row_bytes(), bytes) << text;
    EXPECT_EQ(codec.value()->scales_per_row(), scales) << text;
    EXPECT_EQ(codec.value()->bits_per_value(), 8.0 * static_cast<double>(bytes) / head_dim);
  }
}

}  // namespace
}  // namespace turboquant
