#include "kvcache/policy.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace turboquant {
namespace {

Policy Parsed(const std::string& text) {
  const auto policy = Policy::Parse(text);
  EXPECT_TRUE(policy.ok()) << text << ": " << policy.status().message();
  return policy.ok() ? policy.value() : Policy{};
}

std::string Refusal(const std::string& text) {
  const auto policy = Policy::Parse(text);
  EXPECT_FALSE(policy.ok()) << text;
  if (policy.ok()) return "";
  EXPECT_EQ(policy.status().code(), StatusCode::kInvalidArgument);
  return policy.status().message();
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Policy, DefaultIsBalanced) {
  EXPECT_EQ(Policy{}.ToString(), "k=turbo4,v=turbo3,sink=4,tail=128,center=on,page=256,swa=f16");
  EXPECT_EQ(Parsed("balanced"), Policy{});
}

TEST(Policy, Presets) {
  EXPECT_EQ(Parsed("quality").ToString(),
            "k=turbo4,v=turbo4,sink=4,tail=128,center=on,page=256,swa=f16");
  EXPECT_EQ(Parsed("small").ToString(),
            "k=turbo3,v=turbo3,sink=4,tail=128,center=on,page=256,swa=f16");
}

TEST(Policy, EveryKey) {
  const Policy policy = Parsed("k=turbo2,v=f16,sink=0,tail=4096,center=off,page=64,swa=auto");
  EXPECT_EQ(policy.k, Format::kTurbo2);
  EXPECT_EQ(policy.v, Format::kF16);
  EXPECT_EQ(policy.sink, 0);
  EXPECT_EQ(policy.tail, 4096);
  EXPECT_FALSE(policy.center);
  EXPECT_EQ(policy.page, 64);
  EXPECT_TRUE(policy.compress_swa);
}

TEST(Policy, PartialTextKeepsTheDefaults) {
  Policy expected;
  expected.tail = 7;
  EXPECT_EQ(Parsed("tail=7"), expected);
}

TEST(Policy, BareFormatSetsBothSidesAlone) {
  const Policy policy = Parsed("tail=9,turbo2");
  EXPECT_EQ(policy.k, Format::kTurbo2);
  EXPECT_EQ(policy.v, Format::kTurbo2);
  EXPECT_EQ(policy.tail, 9);
  EXPECT_TRUE(Parsed("f16").pass_through());
  EXPECT_FALSE(Parsed("f16,v=turbo4").pass_through());
  EXPECT_FALSE(Parsed("f16,k=turbo4").pass_through());
}

TEST(Policy, BarePresetSetsEverything) {
  EXPECT_EQ(Parsed("tail=9,sink=1,center=off,page=64,swa=auto,small"), Parsed("small"));
  EXPECT_EQ(Parsed("small,tail=9").tail, 9);
  EXPECT_EQ(Parsed("quality,v=turbo2").v, Format::kTurbo2);
}

TEST(Policy, LaterWordsWin) {
  EXPECT_EQ(Parsed("tail=1,tail=2,tail=3").tail, 3);
  EXPECT_EQ(Parsed("k=turbo2,turbo4").k, Format::kTurbo4);
  EXPECT_EQ(Parsed("turbo4,k=turbo2").k, Format::kTurbo2);
}

TEST(Policy, BlanksAreIgnored) {
  EXPECT_EQ(Parsed("  k = turbo2 ,\tv=turbo4 , tail =\n 5 "), Parsed("k=turbo2,v=turbo4,tail=5"));
  EXPECT_EQ(Parsed(" small "), Parsed("small"));
}

TEST(Policy, EveryPolicyPrintsAndParsesBack) {
  int count = 0;
  for (Format k : kFormats) {
    for (Format v : kFormats) {
      for (int sink : {0, 1, 64}) {
        for (int tail : {0, 33, 4096}) {
          for (int page : {64, 128, 256, 512, 1024, 2048, 4096}) {
            for (int flags = 0; flags < 4; ++flags) {
              const Policy policy{k, v, sink, tail, flags % 2 == 1, page, flags / 2 == 1};
              const auto back = Policy::Parse(policy.ToString());
              ASSERT_TRUE(back.ok()) << policy.ToString();
              ASSERT_EQ(back.value(), policy) << policy.ToString();
              ASSERT_EQ(back.value().ToString(), policy.ToString());
              ++count;
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(count, std::size(kFormats) * std::size(kFormats) * 3 * 3 * 7 * 4);
}

// Each refusal names the offending word, what is allowed and an example, in one sentence.
TEST(Policy, RefusalsNameTheWordTheAllowedAndAnExample) {
  const struct {
    const char* text;
    const char* word;
    std::vector<const char*> allowed;
  } kCases[] = {
      {"k=turbo5", "'k=turbo5'", {"turbo2", "turbo3", "turbo4", "f16"}},
      {"v=", "'v='", {"turbo2", "turbo3", "turbo4", "f16"}},
      {"v=turbo3x", "'v=turbo3x'", {"turbo3"}},
      {"K=turbo3", "'K=turbo3'", {"k, v, sink, tail, center, page and swa"}},
      {"k=q8_0", "'k=q8_0'", {"f16"}},
      {"sink=65", "'sink=65'", {"0 to 64"}},
      {"sink=-1", "'sink=-1'", {"0 to 64"}},
      {"sink=", "'sink='", {"0 to 64"}},
      {"sink=4 4", "'sink=4 4'", {"0 to 64"}},
      {"tail=4097", "'tail=4097'", {"0 to 4096"}},
      {"tail=12x", "'tail=12x'", {"0 to 4096"}},
      {"tail=+12", "'tail=+12'", {"0 to 4096"}},
      {"tail=0x10", "'tail=0x10'", {"0 to 4096"}},
      {"tail=1.5", "'tail=1.5'", {"0 to 4096"}},
      {"tail=4294967297", "'tail=4294967297'", {"0 to 4096"}},
      {"tail=99999999999999999999999", "'tail=99999999999999999999999'", {"0 to 4096"}},
      {"tail==1", "'tail==1'", {"0 to 4096"}},
      {"page=0", "'page=0'", {"power of two", "64 to 4096"}},
      {"page=32", "'page=32'", {"64 to 4096"}},
      {"page=96", "'page=96'", {"power of two"}},
      {"page=8192", "'page=8192'", {"64 to 4096"}},
      {"center=yes", "'center=yes'", {"on or off"}},
      {"center=", "'center='", {"on or off"}},
      {"swa=turbo3", "'swa=turbo3'", {"f16 or auto"}},
      {"guard=2", "'guard=2'", {"k, v, sink, tail, center, page and swa"}},
      {"=3", "'=3'", {"k, v, sink, tail, center, page and swa"}},
      {"turbo5", "'turbo5'", {"quality", "balanced", "small", "turbo4", "f16", "key=value"}},
      {"Small", "'Small'", {"small"}},
      {"tail", "'tail'", {"key=value"}},
      {"small tail=3", "'small tail=3'", {"tail"}},
      {"turbo3;tail=3", "'turbo3;tail=3'", {"k, v, sink"}},
      {"tail=3,center=maybe", "'center=maybe'", {"on or off"}},
  };
  for (const auto& c : kCases) {
    const std::string message = Refusal(c.text);
    EXPECT_TRUE(Contains(message, c.word)) << c.text << ": " << message;
    for (const char* allowed : c.allowed) {
      EXPECT_TRUE(Contains(message, allowed)) << c.text << ": " << message;
    }
    EXPECT_TRUE(Contains(message, "e.g. ")) << c.text << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_EQ(message.back(), '.') << message;
  }
}

// The example of a message is itself a policy.
TEST(Policy, ExamplesInRefusalsParse) {
  for (const char* text :
       {"k=1", "v=1", "sink=x", "tail=x", "page=x", "center=x", "swa=x", "x", "x=1", "", ","}) {
    const std::string message = Refusal(text);
    const size_t at = message.rfind("e.g. ");
    ASSERT_NE(at, std::string::npos) << message;
    Parsed(message.substr(at + 5, message.size() - at - 6));
  }
}

TEST(Policy, EmptyWordsAreRefused) {
  for (const char* text :
       {"", " ", ",", "turbo3,", ",turbo3", "turbo3,,tail=1", "turbo3, ,tail=1"}) {
    EXPECT_TRUE(Contains(Refusal(text), "empty word")) << text;
  }
}

TEST(Policy, LongAndUnprintableWordsStayReadable) {
  const std::string message = Refusal(std::string(100000, 'x') + "\x1b[31m");
  EXPECT_LT(message.size(), 300u);
  EXPECT_FALSE(Contains(Refusal("k=\x1b[31m"), "\x1b"));
  EXPECT_TRUE(Contains(Refusal(std::string("tail=1\0", 7)), "'tail=1?'"));
}

}  // namespace
}  // namespace turboquant
