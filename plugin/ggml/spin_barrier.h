// A barrier inside one custom op. The host runs an op on all its threads at once and waits for them
// between nodes in the same way. A few hundred nanoseconds matter here, so it spins first; on a busy
// machine, where a thread may be off its core for milliseconds, it then sleeps and leaves its core.
#ifndef TURBOQUANT_PLUGIN_GGML_SPIN_BARRIER_H_
#define TURBOQUANT_PLUGIN_GGML_SPIN_BARRIER_H_

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
      round_.notify_all();
      return;
    }
    for (int spins = 0; spins < kSpins; ++spins) {
      if (round_.load(std::memory_order_acquire) != round) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    round_.wait(round, std::memory_order_acquire);
  }

 private:
  static constexpr int kSpins = 4000;  // about 50 us
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

}  // namespace turboquant

#endif  // TURBOQUANT_PLUGIN_GGML_SPIN_BARRIER_H_
