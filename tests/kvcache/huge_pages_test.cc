// Huge pages come to memory that is in use, nowhere else, and change nothing in it.
#include "base/huge_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

namespace turboquant {
namespace {

constexpr size_t kPiece = size_t{2} << 20;
constexpr size_t kPieces = 5;
constexpr size_t kBytes = (kPieces + 2) * kPiece;

class HugePagesTest : public testing::Test {
 protected:
  void SetUp() override {
    // Between pieces without access, so that the system lists it apart from its neighbours.
    reserved_ = mmap(nullptr, kBytes + 2 * kPiece, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(reserved_, MAP_FAILED);
    mapping_ = static_cast<uint8_t*>(reserved_) + kPiece;
    ASSERT_EQ(mprotect(mapping_, kBytes, PROT_READ | PROT_WRITE), 0);
    const auto address = reinterpret_cast<uintptr_t>(mapping_);
    base_ = reinterpret_cast<uint8_t*>((address + kPiece - 1) / kPiece * kPiece);
    std::memset(base_, 1, kPiece);
    if (HugeBytes() != 0) GTEST_SKIP() << "all pages are huge on this system";
    constexpr int kCollapse = 25;  // MADV_COLLAPSE
    if (madvise(base_, kPiece, kCollapse) != 0) GTEST_SKIP() << "no huge pages on request here";
    ASSERT_EQ(madvise(base_, kPiece, MADV_DONTNEED), 0);
    ASSERT_EQ(HugeBytes(), 0u);
  }
  void TearDown() override { munmap(reserved_, kBytes + 2 * kPiece); }

  uint8_t* piece(size_t i) const { return base_ + i * kPiece; }

  // Of this test's mapping.
  size_t HugeBytes() const { return Field("AnonHugePages:"); }
  size_t ResidentBytes() const { return Field("Rss:"); }

 private:
  size_t Field(const std::string& name) const {
    std::ifstream maps("/proc/self/smaps");
    const auto first = reinterpret_cast<uintptr_t>(mapping_);
    bool ours = false;
    size_t bytes = 0;
    for (std::string line; std::getline(maps, line);) {
      std::istringstream words(line);
      std::string word;
      words >> word;
      if (word.find('-') != std::string::npos && word.back() != ':') {
        const uintptr_t begin = std::strtoull(word.c_str(), nullptr, 16);
        ours = begin >= first && begin < first + kBytes;
      } else if (ours && word == name) {
        size_t kilobytes = 0;
        words >> kilobytes;
        bytes += kilobytes * 1024;
      }
    }
    return bytes;
  }

  void* reserved_ = nullptr;
  uint8_t* mapping_ = nullptr;  // kBytes
  uint8_t* base_ = nullptr;
};

TEST_F(HugePagesTest, OnlyWhatIsInUse) {
  // The first and the last piece are not all its own.
  HugePages pages(piece(0) + 100, kPieces * kPiece - 200);
  EXPECT_EQ(pages.Settle(), 0);
  EXPECT_EQ(ResidentBytes(), 0u);

  const auto fill = [&](size_t i, size_t bytes) {
    for (size_t b = 0; b < bytes; b += 64) piece(i)[b] = static_cast<uint8_t>(b / 64 + i);
  };
  fill(0, kPiece);
  fill(1, kPiece);
  fill(2, kPiece / 2);
  fill(3, kPiece - 8 * 4096);
  fill(4, kPiece);
  const size_t resident = ResidentBytes();
  EXPECT_EQ(pages.Settle(), 2);  // 1 and 3; 0 and 4 belong to others too
  EXPECT_EQ(HugeBytes(), 2 * kPiece);
  EXPECT_EQ(ResidentBytes(), resident + 8 * 4096);
  for (const size_t i : {1, 3}) {
    for (size_t b = 0; b < kPiece - 8 * 4096; b += 64) {
      ASSERT_EQ(piece(i)[b], static_cast<uint8_t>(b / 64 + i));
    }
  }

  // What has filled since, in the memory asked for.
  fill(2, kPiece);
  EXPECT_EQ(pages.Settle(piece(0), 2 * kPiece), 0);
  EXPECT_EQ(pages.Settle(piece(3), 5 * kPiece), 0);
  EXPECT_EQ(pages.Settle(piece(3) - 1, 1), 1);
  EXPECT_EQ(HugeBytes(), 3 * kPiece);
  EXPECT_EQ(pages.Settle(), 0);
}

TEST_F(HugePagesTest, AgainAfterTheMemoryWasGivenBack) {
  HugePages pages(piece(0), kPieces * kPiece);
  std::memset(piece(1), 1, 2 * kPiece);
  EXPECT_EQ(pages.Settle(), 2);
  ASSERT_EQ(madvise(piece(0), kPieces * kPiece, MADV_DONTNEED), 0);
  pages.Forget();
  EXPECT_EQ(pages.Settle(), 0);
  EXPECT_EQ(ResidentBytes(), 0u);
  std::memset(piece(2), 1, kPiece);
  EXPECT_EQ(pages.Settle(), 1);
  EXPECT_EQ(HugeBytes(), kPiece);
}

TEST(HugePages, MemoryTooSmallForOne) {
  static uint8_t memory[4096];
  HugePages pages(memory, sizeof(memory));
  EXPECT_EQ(pages.Settle(), 0);
  EXPECT_EQ(HugePages(nullptr, 0).Settle(), 0);
}

}  // namespace
}  // namespace turboquant
