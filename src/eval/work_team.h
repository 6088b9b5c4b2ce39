// WorkTeam: a few threads that stay, each on a processor of its own where the system allows it, for
// measurements that must not contain the start of a thread.
#ifndef TURBOQUANT_EVAL_WORK_TEAM_H_
#define TURBOQUANT_EVAL_WORK_TEAM_H_

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace turboquant {

class WorkTeam {
 public:
  // At least one thread; the calling one is thread 0. Fewer than asked for if the system gives
  // none.
  explicit WorkTeam(int threads);
  ~WorkTeam();
  WorkTeam(const WorkTeam&) = delete;
  WorkTeam& operator=(const WorkTeam&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // Every thread sits on a processor of its own.
  bool pinned() const { return pinned_; }

  // Calls work(thread) on the first `threads` threads and returns when all are done. `work` must
  // not throw. Threads that have nothing to do sleep.
  void Run(int threads, const std::function<void(int thread)>& work);

  // Inside Run: waits until all its threads are here.
  void Barrier();

  // Runs `work` on the first `threads` threads, started together, and returns the seconds from the
  // first start to the last end.
  double Time(int threads, const std::function<void(int thread)>& work);

  // Of all Time() so far: processor time over the time of the clock. Well below 1: others use the
  // machine, and the times are too long.
  double processor_share() const { return wall_ > 0 ? processor_ / wall_ : 1; }

 private:
  void Loop(int thread);

  std::vector<std::thread> workers_;
  std::vector<int> old_processors_;  // where this thread might run before
  bool pinned_ = false;
  const std::function<void(int)>* work_ = nullptr;
  int active_ = 0;
  std::atomic<uint32_t> generation_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> waiting_{0};
  std::atomic<uint32_t> phase_{0};
  double processor_ = 0;
  double wall_ = 0;
};

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_WORK_TEAM_H_
