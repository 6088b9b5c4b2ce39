// Hands the items of one phase to the threads of a custom op: a run of neighbours to each, whose
// memory then streams, and what is left of a slow thread's run to those that are done.
#ifndef TURBOQUANT_PLUGIN_GGML_WORK_SHARE_H_
#define TURBOQUANT_PLUGIN_GGML_WORK_SHARE_H_

#include <atomic>
#include <cstdint>
#include <memory>

namespace turboquant {

class WorkShare {
 public:
  // On one thread, before all meet.
  void Start(int items, int threads) {
    if (threads > capacity_) {
      runs_ = std::make_unique<Run[]>(threads);
      capacity_ = threads;
    }
    threads_ = threads;
    for (int t = 0; t < threads; ++t) {
      const auto bound = [&](int i) { return static_cast<int>(int64_t{items} * i / threads); };
      runs_[t].next.store(bound(t), std::memory_order_relaxed);
      runs_[t].end = bound(t + 1);
    }
  }

  // The next item for thread `ith`; -1 when all are taken.
  int Take(int ith) {
    for (int t = 0; t < threads_; ++t) {
      Run& run = runs_[(ith + t) % threads_];
      if (run.next.load(std::memory_order_relaxed) >= run.end) continue;
      const int item = run.next.fetch_add(1, std::memory_order_relaxed);
      if (item < run.end) return item;
    }
    return -1;
  }

 private:
  struct alignas(64) Run {
    std::atomic<int> next{0};
    int end = 0;
  };
  std::unique_ptr<Run[]> runs_;
  int capacity_ = 0;
  int threads_ = 0;
};

}  // namespace turboquant

#endif  // TURBOQUANT_PLUGIN_GGML_WORK_SHARE_H_
