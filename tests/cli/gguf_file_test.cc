// The GGUF reader: what it reads, and that no damaged file gets past it or hurts it.
#include "model/gguf_file.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>

#include "base/rng.h"
#include "gguf_builder.h"

namespace turboquant {
namespace {

Result<GgufModel> Read(const std::string& bytes) {
  std::istringstream in(bytes);
  return ReadGguf(in, bytes.size(), "m.gguf");
}

std::string MessageOf(const std::string& bytes) {
  const auto model = Read(bytes);
  EXPECT_FALSE(model.ok());
  return model.ok() ? "" : model.status().message();
}

StatusCode CodeOf(const std::string& bytes) {
  const auto model = Read(bytes);
  return model.ok() ? StatusCode::kOk : model.status().code();
}

TEST(GgufFile, ReadsTheShapeOfAModel) {
  const std::string bytes = SmallModel().Build(kSmallModelData);
  const auto model = Read(bytes);
  ASSERT_TRUE(model.ok()) << model.status().message();
  const GgufModel& m = model.value();
  EXPECT_EQ(m.version, 3u);
  EXPECT_EQ(m.architecture, "llama");
  EXPECT_EQ(m.name, "tiny");
  EXPECT_TRUE(m.has_chat_template);
  EXPECT_EQ(m.block_count, 4u);
  EXPECT_EQ(m.context_length, 2048u);
  EXPECT_EQ(m.embedding_length, 512u);
  EXPECT_EQ(m.sliding_window, 0u);
  EXPECT_EQ(m.head_count, std::vector<uint32_t>(4, 8));
  EXPECT_EQ(m.head_count_kv, std::vector<uint32_t>(4, 2));
  EXPECT_EQ(m.key_length, 64u);  // embedding_length / head_count
  EXPECT_EQ(m.value_length, 64u);
  EXPECT_EQ(m.kv_layers(), 4u);
  EXPECT_EQ(m.tensor_count, 2u);
  EXPECT_EQ(m.file_bytes, bytes.size());
  EXPECT_EQ(m.needed_bytes, bytes.size());
  EXPECT_TRUE(CheckHasKvCache(m, "m.gguf").ok());
}

TEST(GgufFile, ReadsExplicitLengthsWindowsAndHeadsPerLayer) {
  GgufBuilder b;
  b.String("general.architecture", "hybrid")
      .Number("hybrid.block_count", 3)
      .Number("hybrid.embedding_length", 1024)
      .Number("hybrid.attention.key_length", 192)
      .Number("hybrid.attention.value_length", 128)
      .Number("hybrid.attention.sliding_window", 512)
      .Number("hybrid.attention.head_count", 16)
      .Numbers("hybrid.attention.head_count_kv", {0, 4, 0});
  const auto model = Read(b.Build(0));
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model.value().key_length, 192u);
  EXPECT_EQ(model.value().value_length, 128u);
  EXPECT_EQ(model.value().sliding_window, 512u);
  EXPECT_EQ(model.value().head_count_kv, (std::vector<uint32_t>{0, 4, 0}));
  EXPECT_EQ(model.value().kv_layers(), 1u);
  EXPECT_FALSE(model.value().has_chat_template);
}

TEST(GgufFile, KvHeadsDefaultToQueryHeads) {
  GgufBuilder b;
  b.String("general.architecture", "gpt2")
      .Number("gpt2.block_count", 2)
      .Number("gpt2.embedding_length", 768)
      .Number("gpt2.attention.head_count", 12);
  const auto model = Read(b.Build(0));
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(model.value().head_count_kv, std::vector<uint32_t>(2, 12));
}

TEST(GgufFile, SaysThatARecurrentModelHasNoCache) {
  for (const uint32_t kv_heads : {0u, 8u}) {  // some recurrent models carry a kv head count
    GgufBuilder b;
    b.String("general.architecture", "mamba")
        .Number("mamba.block_count", 2)
        .Number("mamba.attention.head_count", 0)
        .Number("mamba.attention.head_count_kv", kv_heads);
    const auto model = Read(b.Build(0));
    ASSERT_TRUE(model.ok());
    const Status status = CheckHasKvCache(model.value(), "m.gguf");
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find("mamba"), std::string::npos);
    EXPECT_NE(status.message().find("no KV cache"), std::string::npos);
  }
}

TEST(GgufFile, EveryPrefixIsRefused) {
  const std::string bytes = SmallModel().Build(kSmallModelData);
  for (size_t n = 0; n < bytes.size(); ++n) {
    const auto model = Read(bytes.substr(0, n));
    ASSERT_FALSE(model.ok()) << n;
    EXPECT_EQ(model.status().code(), StatusCode::kCorrupt) << n;
    EXPECT_NE(model.status().message().find("m.gguf"), std::string::npos) << n;
    EXPECT_NE(model.status().message().find("download it again"), std::string::npos) << n;
  }
}

TEST(GgufFile, EveryByteFlipIsRefusedOrReadsAsAWholeFile) {
  const std::string bytes = SmallModel().Build(kSmallModelData);
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const int mask : {0x01, 0x10, 0x80, 0xff}) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ mask);
      const auto model = Read(damaged);
      if (model.ok()) {
        EXPECT_LE(model.value().needed_bytes, damaged.size()) << i;
        EXPECT_LE(model.value().head_count.size(), 4096u) << i;
      } else {
        EXPECT_FALSE(model.status().message().empty()) << i;
        EXPECT_EQ(model.status().message().find('\n'), std::string::npos) << i;
      }
    }
  }
}

TEST(GgufFile, RandomTailsDoNoHarm) {
  const std::string bytes = SmallModel().Build(kSmallModelData);
  SplitMix64 rng(7);
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = bytes;
    const size_t start = 8 + rng.Next() % (bytes.size() - 8);
    for (size_t i = start; i < std::min(bytes.size(), start + 16); ++i) {
      damaged[i] = static_cast<char>(rng.Next());
    }
    const auto model = Read(damaged);
    EXPECT_TRUE(!model.ok() || model.value().needed_bytes <= damaged.size());
  }
}

TEST(GgufFile, EveryKindOfDamageHasItsOwnSentence) {
  std::set<std::string> messages;
  const auto expect = [&](const std::string& bytes, StatusCode code, const std::string& part) {
    const std::string message = MessageOf(bytes);
    EXPECT_EQ(CodeOf(bytes), code) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_TRUE(messages.insert(message).second) << "said twice: " << message;
  };
  expect("", StatusCode::kCorrupt, "empty");
  expect("PK\x03\x04 a zip file, not a model", StatusCode::kCorrupt, "not a GGUF model file");

  const std::string whole = SmallModel().Build(kSmallModelData);
  expect(whole.substr(0, 300), StatusCode::kCorrupt, "metadata ends");
  expect(whole.substr(0, whole.size() - 1), StatusCode::kCorrupt, "its tensors need");

  GgufBuilder old = SmallModel();
  old.version = 1;
  expect(old.Build(kSmallModelData), StatusCode::kUnsupported, "GGUF version 1");
  old.version = 0x03000000;
  expect(old.Build(kSmallModelData), StatusCode::kUnsupported, "big-endian");

  std::string lie = whole;
  std::memset(lie.data() + 8, 0x7f, 8);  // tensor count
  expect(lie, StatusCode::kCorrupt, "more than its");

  expect(SmallModel().Number("general.alignment", 48).Build(kSmallModelData), StatusCode::kCorrupt,
         "alignment");
  expect(SmallModel().Raw("general.odd", 77, "xxxx").Build(kSmallModelData), StatusCode::kCorrupt,
         "unknown type 77");
  expect(SmallModel().Tensor("five", {1, 1, 1, 1, 1}, 0, 0).Build(kSmallModelData),
         StatusCode::kCorrupt, "5 dimensions");
  expect(SmallModel().Tensor("huge", {1ull << 40, 1ull << 40}, 0, 0).Build(kSmallModelData),
         StatusCode::kCorrupt, "impossible size");
  expect(SmallModel().Tensor("odd", {33}, 8, 0).Build(kSmallModelData), StatusCode::kCorrupt,
         "'odd' has an impossible size");
  expect(SmallModel()
             .Number("llama.block_count2", 1)
             .Tensor("far", {4}, 0, UINT64_MAX - 4)
             .Build(kSmallModelData),
         StatusCode::kCorrupt, "'far'");
  expect(GgufBuilder().Number("llama.block_count", 1).Build(0), StatusCode::kCorrupt,
         "architecture");
  expect(GgufBuilder()
             .String("general.architecture", "llama")
             .Number("llama.block_count", 1u << 30)
             .Build(0),
         StatusCode::kCorrupt, "layers");
}

TEST(GgufFile, HonoursTheAlignmentOfTheFile) {
  const GgufBuilder b = SmallModel().Number("general.alignment", 256);
  EXPECT_TRUE(Read(b.Build(kSmallModelData, 256)).ok());
  EXPECT_FALSE(Read(b.Build(kSmallModelData - 1, 256)).ok());
}

TEST(GgufFile, NamesMissingFilesAndFolders) {
  const auto missing = ReadGgufFile("/nonexistent/m.gguf");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("does not exist"), std::string::npos);
  const auto folder = ReadGgufFile("/");
  ASSERT_FALSE(folder.ok());
  EXPECT_NE(folder.status().message().find("is a folder"), std::string::npos);
}

TEST(GgufFile, ReadsFromDisk) {
  const std::string path = testing::TempDir() + "/gguf_file_test.gguf";
  std::ofstream(path, std::ios::binary) << SmallModel().Build(kSmallModelData);
  const auto model = ReadGgufFile(path);
  EXPECT_TRUE(model.ok()) << model.status().message();
  std::remove(path.c_str());
}

}  // namespace
}  // namespace turboquant
