// Versions, structures of other versions, callbacks, messages.
#include <cstring>
#include <thread>

#include "capi_fixture.h"

namespace turboquant::testing {
namespace {

TEST(CApiBoundary, VersionIsThatOfTheHeader) {
  EXPECT_EQ(tq_version(), TQ_VERSION);
  EXPECT_STREQ(tq_version_string(), "0.1.0");
}

TEST(CApiBoundary, StatusesHaveNames) {
  EXPECT_STREQ(tq_status_name(TQ_OK), "ok");
  for (tq_status s = TQ_ERROR_INVALID_ARGUMENT; s <= TQ_ERROR_BUFFER_TOO_SMALL; ++s) {
    EXPECT_STRNE(tq_status_name(s), "unknown status") << s;
  }
  EXPECT_STREQ(tq_status_name(-3), "unknown status");
  EXPECT_STREQ(tq_status_name(99), "unknown status");
}

TEST(CApiBoundary, TheMessageBelongsToItsThreadAndOutlivesSuccess) {
  EXPECT_NE(tq_codec_create("nonsense", 64, nullptr, nullptr), TQ_OK);
  const std::string mine = tq_last_error();
  std::string theirs = "unset";
  std::thread([&] { theirs = tq_last_error(); }).join();
  EXPECT_EQ(theirs, "");
  tq_codec* codec = nullptr;
  ASSERT_EQ(tq_codec_create("turbo3", 64, nullptr, &codec), TQ_OK);
  EXPECT_EQ(tq_last_error(), mine);
  tq_codec_destroy(codec);
}

TEST(CApiBoundary, AnOlderCallersStructureIsTooShortToBeOne) {
  tq_options options = TQ_OPTIONS_INIT;
  options.struct_size = 0;
  tq_codec* codec = nullptr;
  EXPECT_TRUE(Fails(tq_codec_create("turbo3", 64, &options, &codec), TQ_ERROR_INVALID_ARGUMENT,
                    "struct_size of tq_options is 0"));
  EXPECT_EQ(codec, nullptr);
  options.struct_size = sizeof(options) - 1;
  EXPECT_TRUE(Fails(tq_codec_create("turbo3", 64, &options, &codec), TQ_ERROR_INVALID_ARGUMENT,
                    "struct_size"));
}

TEST(CApiBoundary, ANewerCallersStructureWorksWhileItsNewFieldsAreZero) {
  struct {
    tq_options known;
    uint64_t newer;
  } options = {TQ_OPTIONS_INIT, 0};
  options.known.struct_size = sizeof(options);
  tq_codec* codec = nullptr;
  EXPECT_EQ(tq_codec_create("turbo3", 64, &options.known, &codec), TQ_OK) << tq_last_error();
  tq_codec_destroy(codec);
  options.newer = 1;
  EXPECT_TRUE(Fails(tq_codec_create("turbo3", 64, &options.known, &codec), TQ_ERROR_UNSUPPORTED,
                    "use a newer one"));
  EXPECT_EQ(codec, nullptr);
}

TEST(CApiBoundary, AStructureToFillIsFilledAsFarAsItReaches) {
  tq_codec* codec = nullptr;
  ASSERT_EQ(tq_codec_create("turbo3", 128, nullptr, &codec), TQ_OK);
  tq_codec_info info;
  std::memset(&info, 0x5A, sizeof(info));
  info.struct_size = offsetof(tq_codec_info, bits_per_value);  // an older, shorter one
  ASSERT_EQ(tq_codec_get_info(codec, &info), TQ_OK);
  EXPECT_EQ(info.row_bytes, 50u);
  EXPECT_EQ(info.struct_size, offsetof(tq_codec_info, bits_per_value));
  EXPECT_EQ(info.head_dim, 0x5A5A5A5A) << "wrote beyond struct_size";
  info.struct_size = 0;
  EXPECT_TRUE(Fails(tq_codec_get_info(codec, &info), TQ_ERROR_INVALID_ARGUMENT, "struct_size"));
  EXPECT_TRUE(Fails(tq_codec_get_info(codec, nullptr), TQ_ERROR_INVALID_ARGUMENT, "info"));
  tq_codec_destroy(codec);
}

TEST(CApiBoundary, CallbacksMustBeComplete) {
  tq_allocator allocator = {sizeof(allocator), nullptr, nullptr, nullptr};
  tq_options options = {sizeof(options), &allocator, nullptr};
  tq_codec* codec = nullptr;
  EXPECT_TRUE(Fails(tq_codec_create("turbo3", 64, &options, &codec), TQ_ERROR_INVALID_ARGUMENT,
                    "allocate of tq_allocator"));
  tq_logger logger = {sizeof(logger), nullptr, TQ_LOG_INFO, nullptr};
  options = {sizeof(options), nullptr, &logger};
  EXPECT_TRUE(Fails(tq_codec_create("turbo3", 64, &options, &codec), TQ_ERROR_INVALID_ARGUMENT,
                    "log of tq_logger"));
}

TEST(CApiBoundary, TheLoggerHearsItsLevelsOnly) {
  LogKeeper all(TQ_LOG_INFO);
  LogKeeper warnings(TQ_LOG_WARNING);
  std::vector<float> x(2 * 64, 1.0f);
  x[70] = std::numeric_limits<float>::quiet_NaN();
  for (const LogKeeper* keeper : {&all, &warnings}) {
    tq_codec* codec = nullptr;
    ASSERT_EQ(tq_codec_create("turbo3", 64, keeper->options(), &codec), TQ_OK);
    std::vector<uint8_t> rows(2 * 26);
    EXPECT_EQ(tq_codec_encode(codec, x.data(), 2, rows.data(), rows.size(), nullptr), TQ_OK);
    tq_codec_destroy(codec);
  }
  ASSERT_EQ(all.lines().size(), 2u);
  EXPECT_EQ(all.lines()[0].first, TQ_LOG_INFO);
  EXPECT_NE(all.lines()[0].second.find("turbo3"), std::string::npos);
  ASSERT_EQ(warnings.lines().size(), 1u);
  EXPECT_EQ(warnings.lines()[0].first, TQ_LOG_WARNING);
  EXPECT_NE(warnings.lines()[0].second.find("1 of 2 rows"), std::string::npos);
}

TEST(CApiBoundary, EmptyBuffersAndNullHandlesAreFreedWithoutHarm) {
  tq_buffer buffer = TQ_BUFFER_INIT;
  tq_buffer_free(&buffer);
  tq_buffer_free(nullptr);
  tq_codec_destroy(nullptr);
  tq_estimator_destroy(nullptr);
  tq_cache_destroy(nullptr);
}

}  // namespace
}  // namespace turboquant::testing
