// Files: what is not committed is not there, what is replaced was complete.
#include "files/mapped_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace turboquant {
namespace {

namespace fs = std::filesystem;

class MappedFiles : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::path(testing::TempDir()) /
           ("tq_files_" + std::to_string(getpid()) + "_" +
            testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string Path(const char* name) const { return (dir_ / name).string(); }
  static std::string Read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  size_t Files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(dir_), {}));
  }

  fs::path dir_;
};

TEST_F(MappedFiles, AnOutputAppearsWhenItIsCommitted) {
  std::ofstream(Path("a")) << "old";
  {
    auto output = MappedOutput::Create(Path("a"), 5);
    ASSERT_TRUE(output.ok());
    std::copy_n("hello", 5, output.value()->bytes().begin());
    EXPECT_EQ(Read(Path("a")), "old");
    EXPECT_TRUE(output.value()->Commit().ok());
  }
  EXPECT_EQ(Read(Path("a")), "hello");
  EXPECT_EQ(Files(), 1u);
  { ASSERT_TRUE(MappedOutput::Create(Path("b"), 5).ok()); }
  EXPECT_EQ(Files(), 1u) << "an abandoned output was left behind";
}

TEST_F(MappedFiles, ReadsWhatIsThereAndSaysWhatIsNot) {
  std::ofstream(Path("a")) << "hello";
  const auto file = MappedFile::Open(Path("a"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(std::string(file.value()->bytes().begin(), file.value()->bytes().end()), "hello");
  std::ofstream(Path("empty")).flush();
  ASSERT_TRUE(MappedFile::Open(Path("empty")).ok());
  EXPECT_TRUE(MappedFile::Open(Path("empty")).value()->bytes().empty());
  EXPECT_EQ(MappedFile::Open(Path("none")).status().code(), StatusCode::kNotFound);
  EXPECT_NE(MappedFile::Open(Path("none")).status().message().find("No such file"),
            std::string::npos);
  EXPECT_EQ(MappedFile::Open(dir_.string()).status().code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(MappedOutput::Create(Path("no/such/folder"), 5).ok());
  EXPECT_FALSE(MappedOutput::Create(Path("huge"), size_t{1} << 62).ok());
  EXPECT_EQ(Files(), 2u);
}

}  // namespace
}  // namespace turboquant
