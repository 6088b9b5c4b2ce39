#include "cli/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "cli/report_table.h"

namespace turboquant {
namespace {

constexpr int kBarWidth = 32;
constexpr double kSilentSeconds = 2;  // short work says nothing but its result
constexpr auto kInterval = std::chrono::milliseconds(80);

}  // namespace

Progress::Progress(std::string title)
    : title_(std::move(title)), terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::Update(double done, const std::string& what) {
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (!terminal_) {
    const int quarter = static_cast<int>(done * 4);
    if (quarter > last_quarter_) {
      last_quarter_ = quarter;
      if (seconds < kSilentSeconds) return;
      Note(fmt::format("{}: {} %, {:.1f} s", title_, quarter * 25, seconds));
    }
    return;
  }
  if (now - last_ < kInterval && done < 1) return;
  last_ = now;
  shown_ = true;
  // Eighths of a cell make the bar move smoothly.
  const int eighths = static_cast<int>(std::clamp(done, 0.0, 1.0) * kBarWidth * 8);
  std::string bar;
  for (int i = 0; i < eighths / 8; ++i) bar += "█";
  constexpr const char* kParts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  bar += kParts[eighths % 8];
  const int empty = kBarWidth - eighths / 8 - (eighths % 8 > 0 ? 1 : 0);
  const double left = done > 0.02 ? seconds / done - seconds : 0;
  fmt::print(stderr, "\r\033[K{} ▕{}{:{}}▏ {:3.0f} %  {:.0f} s left  {:.30}", title_, bar, "",
             empty, done * 100, left, what);
  std::fflush(stderr);
}

void Progress::Finish() {
  if (shown_) fmt::print(stderr, "\r\033[K");
  shown_ = false;
}

}  // namespace turboquant
