// Progress of long work, on stderr: a bar on a terminal, elsewhere a line at each quarter
// of what takes longer than two seconds.
#ifndef TURBOQUANT_CLI_PROGRESS_H_
#define TURBOQUANT_CLI_PROGRESS_H_

#include <chrono>
#include <string>

namespace turboquant {

class Progress {
 public:
  explicit Progress(std::string title);
  ~Progress() { Finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // done in [0, 1]; `what`: what is worked on. One thread at a time.
  void Update(double done, const std::string& what);
  // Removes the bar.
  void Finish();

 private:
  using Clock = std::chrono::steady_clock;

  std::string title_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_{};
  int last_quarter_ = 0;
};

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_PROGRESS_H_
