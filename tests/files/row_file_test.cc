// Row files: layout byte by byte, many chunks, headers that lie. Damage to every byte of a small
// one is in tests/capi.
#include "files/row_file.h"

#define XXH_INLINE_ALL
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>

#include "base/rng.h"

namespace turboquant {
namespace {

struct Made {
  RowFile plan;
  std::vector<uint8_t> bytes;
};

Made Make(const char* spec, const std::vector<uint64_t>& shape, int head_dim = 0) {
  auto plan = RowFile::Plan(spec, shape, head_dim);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  Made made{std::move(plan.value()), {}};
  made.bytes.resize(made.plan.Bytes());
  const Codec& codec = made.plan.codec();
  SplitMix64 random(1);
  std::vector<float> x(codec.head_dim());
  for (uint64_t i = 0; i < made.plan.rows(); ++i) {
    for (float& v : x) v = static_cast<float>(random.Normal());
    codec.Encode(x.data(), made.bytes.data() + made.plan.rows_offset() + i * codec.row_bytes());
  }
  made.plan.Seal(made.bytes);
  return made;
}

template <typename T>
T At(const std::vector<uint8_t>& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

template <typename T>
void Put(T value, size_t offset, std::vector<uint8_t>* bytes) {
  std::memcpy(bytes->data() + offset, &value, sizeof(value));
}

void SealHeader(std::vector<uint8_t>* bytes) {
  Put(XXH3_64bits(bytes->data() + 24, At<uint32_t>(*bytes, 12) - 24), 16, bytes);
}

TEST(RowFile, LayoutIsThatOfTheDocument) {
  const Made made = Make("turbo3:seed=7", {2, 3, 128}, 64);
  const auto& b = made.bytes;
  EXPECT_EQ(std::string(b.begin(), b.begin() + 8), "\x89TQROW\n\x1A");
  EXPECT_EQ(At<uint32_t>(b, 8), 1u);
  EXPECT_EQ(At<uint32_t>(b, 12), 128u);  // 112 + 13 bytes of spec
  EXPECT_EQ(At<uint64_t>(b, 16), XXH3_64bits(b.data() + 24, 128 - 24));
  EXPECT_EQ(At<uint32_t>(b, 24), 64u);
  EXPECT_EQ(At<uint32_t>(b, 28), 26u);
  EXPECT_EQ(At<uint64_t>(b, 32), 65536u);
  EXPECT_EQ(At<uint32_t>(b, 40), 3u);
  EXPECT_EQ(At<uint32_t>(b, 44), 13u);
  EXPECT_EQ(At<uint64_t>(b, 48), 2u);
  EXPECT_EQ(At<uint64_t>(b, 56), 3u);
  EXPECT_EQ(At<uint64_t>(b, 64), 128u);
  EXPECT_EQ(At<uint64_t>(b, 72), 0u);
  EXPECT_EQ(std::string(b.begin() + 112, b.begin() + 125), "turbo3:seed=7");
  EXPECT_EQ(b.size(), 128u + 12 * 26 + 8 + 8);
  EXPECT_EQ(At<uint64_t>(b, 128 + 12 * 26), XXH3_64bits(b.data() + 128, 12 * 26));
  EXPECT_EQ(At<uint64_t>(b, b.size() - 8), XXH3_64bits(b.data() + b.size() - 16, 8));
  const auto opened = RowFile::Open(b);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(opened.value().shape(), (std::vector<uint64_t>{2, 3, 128}));
  EXPECT_EQ(opened.value().rows_per_vector(), 2u);
  EXPECT_EQ(opened.value().vectors(), 6u);
  EXPECT_EQ(opened.value().row(3), b.data() + 128 + 3 * 26);
}

TEST(RowFile, DamageAmongManyChunksIsLocated) {
  const Made made = Make("turbo1", {140000, 16});
  EXPECT_EQ(made.plan.chunks(), 3u);
  std::vector<uint8_t> bytes = made.bytes;
  bytes[made.plan.rows_offset() + 70000 * made.plan.codec().row_bytes()] ^= 1;
  const auto file = RowFile::Open(bytes);
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file.value().ChunkIsIntact(0));
  EXPECT_FALSE(file.value().ChunkIsIntact(1));
  EXPECT_TRUE(file.value().ChunkIsIntact(2));
  EXPECT_NE(file.value().Verify().message().find("rows 65536 to 131071"), std::string::npos);
  EXPECT_TRUE(RowFile::Open(made.bytes).value().Verify().ok());
}

// Headers with a right checksum and wrong contents: a writer's bug, or an attack.
TEST(RowFile, HeadersThatLieAreRefused) {
  const Made made = Make("turbo3", {4, 64});
  const auto refused = [&](const char* what, auto change, const char* word) {
    std::vector<uint8_t> bytes = made.bytes;
    change(&bytes);
    SealHeader(&bytes);
    const auto file = RowFile::Open(bytes);
    ASSERT_FALSE(file.ok()) << what;
    EXPECT_NE(file.status().message().find(word), std::string::npos) << file.status().message();
  };
  refused(
      "no dims", [](auto* b) { Put<uint32_t>(0, 40, b); }, "impossible");
  refused(
      "nine dims", [](auto* b) { Put<uint32_t>(9, 40, b); }, "impossible");
  refused(
      "no chunk", [](auto* b) { Put<uint64_t>(0, 32, b); }, "impossible");
  refused(
      "chunks of 2^64", [](auto* b) { Put<uint64_t>(~uint64_t{0}, 32, b); }, "impossible");
  refused(
      "zero dim", [](auto* b) { Put<uint64_t>(0, 48, b); }, "impossible");
  refused(
      "2^63 vectors", [](auto* b) { Put<uint64_t>(uint64_t{1} << 63, 48, b); }, "impossible");
  refused(
      "more rows", [](auto* b) { Put<uint64_t>(5, 48, b); }, "cut off");
  refused(
      "fewer rows", [](auto* b) { Put<uint64_t>(3, 48, b); }, "too many bytes");
  refused(
      "width", [](auto* b) { Put<uint64_t>(65, 56, b); }, "impossible");
  refused(
      "row bytes", [](auto* b) { Put<uint32_t>(27, 28, b); }, "impossible");
  refused(
      "head_dim", [](auto* b) { Put<uint32_t>(63, 24, b); }, "needs the codec");
  refused(
      "head_dim of 2^32 - 1", [](auto* b) { Put<uint32_t>(~0u, 24, b); }, "needs the codec");
  refused(
      "spec", [](auto* b) { (*b)[117] = '9'; }, "needs the codec 'turbo9'");
}

TEST(RowFile, HeadDimIsTheLargestDivisor) {
  EXPECT_EQ(ChooseHeadDim(64).value(), 64);
  EXPECT_EQ(ChooseHeadDim(1536).value(), 768);
  EXPECT_EQ(ChooseHeadDim(3072).value(), 1024);
  EXPECT_EQ(ChooseHeadDim(16 * 67).value(), 16);  // 67 is prime and too odd for one rotation
  EXPECT_EQ(ChooseHeadDim(16).value(), 16);
  for (uint64_t width : {1, 15, 100, 200}) {
    EXPECT_FALSE(ChooseHeadDim(width).ok()) << width;
  }
  EXPECT_NE(ChooseHeadDim(200).status().message().find("208 values"), std::string::npos);
}

}  // namespace
}  // namespace turboquant
