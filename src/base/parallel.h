// ParallelFor: independent items on a few threads, for work that takes milliseconds and more.
#ifndef TURBOQUANT_BASE_PARALLEL_H_
#define TURBOQUANT_BASE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace turboquant {

// Threads of this machine, at least 1.
inline int HardwareThreads() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// Calls work(i) once for every i in [0, n), in any order, on at most `threads` threads, this one
// included; with fewer where the system gives none. `work` must not throw.
template <typename Work>
void ParallelFor(size_t n, int threads, const Work& work) {
  std::atomic<size_t> next{0};
  const auto run = [&] {
    for (size_t i = next++; i < n; i = next++) work(i);
  };
  std::vector<std::thread> team;
  try {
    for (size_t t = 1; t < std::min(n, static_cast<size_t>(std::max(threads, 1))); ++t) {
      team.emplace_back(run);
    }
  } catch (const std::system_error&) {  // no more threads: those there are do the work
  }
  run();
  for (std::thread& thread : team) thread.join();
}

}  // namespace turboquant

#endif  // TURBOQUANT_BASE_PARALLEL_H_
