#include "eval/work_team.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace turboquant {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSpins = 20000;  // then others get the processor

#ifdef __linux__
std::vector<int> AllowedProcessors() {
  cpu_set_t set;
  std::vector<int> processors;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  return processors;
}

bool Restrict(const std::vector<int>& processors) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int p : processors) CPU_SET(p, &set);
  return !processors.empty() && sched_setaffinity(0, sizeof(set), &set) == 0;
}
#else
std::vector<int> AllowedProcessors() { return {}; }
bool Restrict(const std::vector<int>&) { return false; }
#endif

double ThreadSeconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace

WorkTeam::WorkTeam(int threads) : old_processors_(AllowedProcessors()) {
  threads = std::max(threads, 1);
  pinned_ = static_cast<int>(old_processors_.size()) >= threads && Restrict({old_processors_[0]});
  try {
    for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { Loop(t); });
  } catch (const std::system_error&) {  // no more threads
  }
}

WorkTeam::~WorkTeam() {
  stop_ = true;
  ++generation_;
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  if (pinned_) Restrict(old_processors_);
}

void WorkTeam::Loop(int thread) {
  if (pinned_) Restrict({old_processors_[thread]});
  uint32_t seen = 0;
  while (true) {
    generation_.wait(seen);
    seen = generation_.load();
    if (stop_) return;
    if (thread < active_) (*work_)(thread);
    if (--running_ == 0) running_.notify_one();
  }
}

void WorkTeam::Run(int threads, const std::function<void(int)>& work) {
  active_ = std::clamp(threads, 1, this->threads());
  work_ = &work;
  if (active_ > 1) {
    running_ = static_cast<int>(workers_.size());  // those without work report back as well
    ++generation_;
    generation_.notify_all();
  }
  work(0);
  for (int left = running_.load(); left != 0; left = running_.load()) running_.wait(left);
}

void WorkTeam::Barrier() {
  const uint32_t phase = phase_.load();
  if (++waiting_ == active_) {
    waiting_ = 0;
    ++phase_;
    return;
  }
  for (int spins = 0; phase_.load() == phase; ++spins) {
    if (spins >= kSpins) std::this_thread::yield();
  }
}

double WorkTeam::Time(int threads, const std::function<void(int)>& work) {
  struct Mark {
    Clock::time_point begin, end;
    double processor = 0;
  };
  threads = std::clamp(threads, 1, this->threads());
  std::vector<Mark> marks(threads);
  Run(threads, [&](int thread) {
    Barrier();
    const double processor = ThreadSeconds();
    marks[thread].begin = Clock::now();
    work(thread);
    marks[thread].end = Clock::now();
    marks[thread].processor = ThreadSeconds() - processor;
  });
  Clock::time_point begin = marks[0].begin;
  Clock::time_point end = marks[0].end;
  for (const Mark& mark : marks) {
    begin = std::min(begin, mark.begin);
    end = std::max(end, mark.end);
    processor_ += mark.processor;
    wall_ += std::chrono::duration<double>(mark.end - mark.begin).count();
  }
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace turboquant
