#include "cli/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

extern char** environ;

namespace turboquant {
namespace {

Status SystemError(const std::string& what, int error) {
  return {StatusCode::kInternal, what + ": " + std::strerror(error)};
}

std::vector<std::string> ChangedEnvironment(const EnvironmentChanges& changes) {
  std::vector<std::string> result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!changes.contains(text.substr(0, text.find('=')))) result.push_back(text);
  }
  for (const auto& [name, value] : changes) {
    if (value) result.push_back(name + "=" + *value);
  }
  return result;
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Both ends of a pipe, closed on destruction and in children.
struct Pipe {
  int read_end = -1;
  int write_end = -1;

  ~Pipe() {
    CloseRead();
    CloseWrite();
  }
  bool Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read_end = ends[0];
    write_end = ends[1];
    return true;
  }
  void CloseRead() { Close(&read_end); }
  void CloseWrite() { Close(&write_end); }

 private:
  static void Close(int* fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
  }
};

// Ignores SIGINT and SIGQUIT for its lifetime.
class IgnoreInterrupts {
 public:
  IgnoreInterrupts() {
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGINT, &ignore, &old_int_);
    sigaction(SIGQUIT, &ignore, &old_quit_);
  }
  ~IgnoreInterrupts() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGQUIT, &old_quit_, nullptr);
  }
  // In the child: back to what was.
  void Restore() const {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGQUIT, &old_quit_, nullptr);
  }

 private:
  struct sigaction old_int_ = {};
  struct sigaction old_quit_ = {};
};

// Copies what is readable on fd; false at its end.
bool Drain(int fd, std::string* out, const std::function<void(std::string_view)>& on_data) {
  std::array<char, 16384> buffer;
  const ssize_t n = read(fd, buffer.data(), buffer.size());
  if (n < 0) return errno == EINTR;
  if (n == 0) return false;
  const std::string_view data(buffer.data(), static_cast<size_t>(n));
  out->append(data);
  if (on_data) on_data(data);
  return true;
}

}  // namespace

Result<ProcessResult> RunCaptured(const std::vector<std::string>& argv,
                                  const EnvironmentChanges& environment,
                                  const std::function<void(std::string_view)>& on_out) {
  // Everything that allocates happens before fork.
  const std::vector<std::string> variables = ChangedEnvironment(environment);
  const std::vector<char*> envp = Pointers(variables);
  const std::vector<char*> args = Pointers(argv);
  Pipe out;
  Pipe err;
  Pipe failure;  // carries errno if exec fails
  if (!out.Open() || !err.Open() || !failure.Open()) return SystemError("no pipe", errno);

  const IgnoreInterrupts ignore;
  const pid_t child = fork();
  if (child < 0) return SystemError("cannot start " + argv[0], errno);
  if (child == 0) {
    ignore.Restore();
    const int null = open("/dev/null", O_RDONLY);
    if (null >= 0) dup2(null, STDIN_FILENO);
    dup2(out.write_end, STDOUT_FILENO);
    dup2(err.write_end, STDERR_FILENO);
    execve(args[0], args.data(), envp.data());
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(failure.write_end, &error, sizeof(error));
    _exit(127);
  }
  out.CloseWrite();
  err.CloseWrite();
  failure.CloseWrite();

  ProcessResult result;
  while (out.read_end >= 0 || err.read_end >= 0) {
    std::array<pollfd, 2> waits = {{{out.read_end, POLLIN, 0}, {err.read_end, POLLIN, 0}}};
    if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) break;
    if (waits[0].revents != 0 && !Drain(out.read_end, &result.out, on_out)) out.CloseRead();
    if (waits[1].revents != 0 && !Drain(err.read_end, &result.err, nullptr)) err.CloseRead();
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  int exec_error = 0;
  if (read(failure.read_end, &exec_error, sizeof(exec_error)) == sizeof(exec_error)) {
    return SystemError("cannot start " + argv[0], exec_error);
  }
  if (WIFSIGNALED(status)) {
    result.signal = WTERMSIG(status);
    result.exit_code = 128 + result.signal;
  } else {
    result.exit_code = WEXITSTATUS(status);
  }
  return result;
}

Status ReplaceProcess(const std::vector<std::string>& argv, const EnvironmentChanges& environment) {
  const std::vector<std::string> variables = ChangedEnvironment(environment);
  const std::vector<char*> envp = Pointers(variables);
  const std::vector<char*> args = Pointers(argv);
  execve(args[0], args.data(), envp.data());
  return SystemError("cannot start " + argv[0], errno);
}

std::string LastLines(std::string_view text, int lines) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  size_t start = text.size();
  for (int i = 0; i < lines && start != std::string_view::npos && start > 0; ++i) {
    start = text.rfind('\n', start - 1);
  }
  if (start == std::string_view::npos || start == 0) return std::string(text);
  return std::string(text.substr(start + 1));
}

}  // namespace turboquant
