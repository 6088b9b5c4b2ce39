// Huge pages behind memory that is in use, and only there: a page of 4 KiB costs an entry of the
// address cache each, which is felt where memory is streamed; huge pages from the start would cost
// memory for what is never written.
#ifndef TURBOQUANT_BASE_HUGE_PAGES_H_
#define TURBOQUANT_BASE_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace turboquant {

class HugePages {
 public:
  // Private anonymous memory, which must outlive this. Nothing happens before Settle.
  HugePages(void* memory, size_t bytes);

  // Makes huge pages of the aligned pieces of 2 MiB of which 15 of 16 pages hold something by now,
  // among all or those that [memory, memory + bytes) touches. Their contents stay; other threads
  // may use them meanwhile. Returns how many there were. A look costs about a microsecond a piece,
  // a huge page half a millisecond and more. Where the system refuses, the memory stays as it is.
  int Settle();
  int Settle(const void* memory, size_t bytes);

  // The system has taken the pages back (MADV_DONTNEED).
  void Forget();

 private:
  int SettlePieces(size_t first, size_t last);

  uintptr_t first_ = 0;
  std::vector<bool> settled_;  // pieces that are huge pages, or cannot be
};

}  // namespace turboquant

#endif  // TURBOQUANT_BASE_HUGE_PAGES_H_
