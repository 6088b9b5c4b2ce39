#include "cli/locate.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

namespace turboquant {
namespace {

namespace fs = std::filesystem;

constexpr char kPluginName[] = "libggml-turboquant.so";

bool IsExecutable(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0;
}

bool IsFile(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

std::string Absolute(const fs::path& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  return (error ? path : absolute).lexically_normal().string();
}

// Where tools/setup puts things; the same rule as there.
fs::path CacheDir() {
  if (const std::string cache = Environment("TURBOQUANT_CACHE"); !cache.empty()) return cache;
  if (const std::string xdg = Environment("XDG_CACHE_HOME"); !xdg.empty()) {
    return fs::path(xdg) / "turboquant";
  }
  return fs::path(Environment("HOME")) / ".cache" / "turboquant";
}

Result<std::string> InNamedFolder(const std::string& folder, const std::string& name,
                                  const std::string& origin) {
  const fs::path path = fs::path(folder) / name;
  if (IsExecutable(path)) return Absolute(path);
  return NotFound("there is no " + name + " in '" + folder + "' (" + origin +
                  "); name the folder that holds llama.cpp's tools");
}

}  // namespace

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

Result<std::string> FindLlamaTool(const std::string& name, const std::string& llama_bin) {
  if (name.find('/') != std::string::npos) {
    if (IsExecutable(name)) return Absolute(name);
    return NotFound("'" + name + "' is not an executable file; check the path");
  }
  if (!llama_bin.empty()) return InNamedFolder(llama_bin, name, "--llama-bin");
  if (const std::string folder = Environment("TURBOQUANT_LLAMA_BIN"); !folder.empty()) {
    return InNamedFolder(folder, name, "TURBOQUANT_LLAMA_BIN");
  }
  const fs::path cached = CacheDir() / "llama.cpp" / "bin" / name;
  if (IsExecutable(cached)) return Absolute(cached);
  const std::string path = Environment("PATH");
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find(':', start), path.size());
    const fs::path candidate = fs::path(path.substr(start, end - start)) / name;
    if (end > start && IsExecutable(candidate)) return Absolute(candidate);
    start = end + 1;
  }
  return NotFound("no " + name +
                  " found: build llama.cpp with tools/setup/llama_cpp, or name the folder of your "
                  "llama.cpp tools with --llama-bin or TURBOQUANT_LLAMA_BIN");
}

Result<std::string> FindCompletionTool(const std::string& llama_bin) {
  Result<std::string> tool = FindLlamaTool("llama-completion", llama_bin);
  if (tool.ok()) return tool;
  Result<std::string> older = FindLlamaTool("llama-cli", llama_bin);
  return older.ok() ? older : tool;
}

Result<std::string> FindPlugin() {
  if (const std::string named = Environment("TURBOQUANT_PLUGIN"); !named.empty()) {
    if (IsFile(named)) return Absolute(named);
    return NotFound("there is no plugin at '" + named +
                    "' (TURBOQUANT_PLUGIN); correct the variable or unset it");
  }
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  const fs::path here = self.parent_path();
  const std::vector<std::string> places = {
      "../plugin/ggml",           "../lib",   "../lib/x86_64-linux-gnu",
      "../lib/aarch64-linux-gnu", "../lib64", "."};
  for (const std::string& place : places) {
    const fs::path candidate = here / place / kPluginName;
    if (IsFile(candidate)) return Absolute(candidate);
  }
  return NotFound(std::string("no ") + kPluginName + " found beside '" + self.string() +
                  "': build or install the plugin (make build), or set TURBOQUANT_PLUGIN to its "
                  "path");
}

GgmlVersion FindGgmlVersion(const std::string& tool_path) {
  GgmlVersion result;
  std::error_code error;
  const fs::path real = fs::canonical(tool_path, error);
  const fs::path bin = (error ? fs::path(tool_path) : real).parent_path();
  for (const char* place :
       {".", "../lib", "../lib/x86_64-linux-gnu", "../lib/aarch64-linux-gnu", "../lib64"}) {
    for (const char* name : {"libggml-base.so.0", "libggml-base.so"}) {
      const fs::path library = (bin / place / name).lexically_normal();
      if (!fs::exists(library, error)) continue;
      void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle == nullptr) continue;
      using TextFunction = const char* (*)();
      const auto version = reinterpret_cast<TextFunction>(dlsym(handle, "ggml_version"));
      const auto commit = reinterpret_cast<TextFunction>(dlsym(handle, "ggml_commit"));
      if (version != nullptr) {
        result.version = version();
        result.commit = commit != nullptr ? commit() : "";
        if (result.commit == "unknown") result.commit.clear();
        result.library = library.string();
      }
      dlclose(handle);
      if (!result.version.empty()) return result;
    }
  }
  return result;
}

}  // namespace turboquant
