#include "base/huge_pages.h"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>

namespace turboquant {
namespace {

constexpr size_t kPiece = size_t{2} << 20;
constexpr size_t kSmallest = 4096;  // page

#ifdef __linux__

constexpr int kCollapse = 25;  // MADV_COLLAPSE of Linux 6.1, which older headers do not know

bool InUse(uintptr_t piece) {
  unsigned char present[kPiece / kSmallest];
  if (mincore(reinterpret_cast<void*>(piece), kPiece, present) != 0) return false;
  const size_t pages = kPiece / static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto used = std::count_if(present, present + pages, [](unsigned char p) { return p & 1; });
  return static_cast<size_t>(used) >= pages - pages / 16;
}

bool MakeHuge(uintptr_t first, size_t bytes) {
  return madvise(reinterpret_cast<void*>(first), bytes, kCollapse) == 0;
}

#else

bool InUse(uintptr_t) { return false; }
bool MakeHuge(uintptr_t, size_t) { return false; }

#endif

}  // namespace

HugePages::HugePages(void* memory, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  first_ = (address + kPiece - 1) / kPiece * kPiece;
  const uintptr_t last = (address + bytes) / kPiece * kPiece;
  if (last > first_) settled_.assign((last - first_) / kPiece, false);
}

int HugePages::Settle() { return SettlePieces(0, settled_.size()); }

int HugePages::Settle(const void* memory, size_t bytes) {
  const auto begin = std::max(reinterpret_cast<uintptr_t>(memory), first_);
  const uintptr_t end =
      std::min(reinterpret_cast<uintptr_t>(memory) + bytes, first_ + settled_.size() * kPiece);
  if (begin >= end) return 0;
  return SettlePieces((begin - first_) / kPiece, (end - first_ + kPiece - 1) / kPiece);
}

// Pieces [first, last).
int HugePages::SettlePieces(size_t first, size_t last) {
  int made = 0;
  const auto ready = [&](size_t i) {
    return i < last && !settled_[i] && InUse(first_ + i * kPiece);
  };
  for (size_t i = first; i < last; ++i) {
    const size_t begin = i;
    while (ready(i)) settled_[i++] = true;
    if (i == begin) continue;
    // The system waits for all processors once a call, so neighbours go together.
    if (MakeHuge(first_ + begin * kPiece, (i - begin) * kPiece))
      made += static_cast<int>(i - begin);
  }
  return made;
}

void HugePages::Forget() { std::fill(settled_.begin(), settled_.end(), false); }

}  // namespace turboquant
