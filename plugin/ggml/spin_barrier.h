// A barrier inside one custom op. The host runs an op on all its threads at once and waits for them
// between nodes in the same way; a few hundred nanoseconds matter here, a futex would not do.
#ifndef TURBOQUANT_PLUGIN_GGML_SPIN_BARRIER_H_
#define TURBOQUANT_PLUGIN_GGML_SPIN_BARRIER_H_

#include <sched.h>

#include <atomic>

namespace turboquant {

class SpinBarrier {
 public:
  // Returns once `threads` threads have called it.
  void Wait(int threads) {
    if (threads == 1) return;
    const int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
      if (spins > 20000) sched_yield();  // more threads than cores
    }
  }

  // A shared counter for handing out work; reset by one thread before a Wait.
  std::atomic<int> next{0};

 private:
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

}  // namespace turboquant

#endif  // TURBOQUANT_PLUGIN_GGML_SPIN_BARRIER_H_
