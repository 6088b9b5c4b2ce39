// The turboquant command from outside, with shell scripts in the place of llama.cpp's tools: what
// it starts, in which environment, what it prints and with which code it ends.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "cli/process.h"
#include "gguf_builder.h"

namespace turboquant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// Logs its arguments and environment, then speaks like llama-completion with or without the
// plugin. FAKE_MODE makes it misbehave.
constexpr char kFakeTool[] = R"sh(#!/bin/sh
{
  echo "tool=$(basename "$0") plugin=${GGML_BACKEND_PATH-unset} kv=${TURBOQUANT_KV-unset}"
  for a in "$@"; do echo "arg=$a"; done
} >> "$FAKE_LOG"
case "$*" in *--version*) echo "version: 9.9 (build 7, commit abc)" >&2; exit 0;; esac
case "$(basename "$0")" in llama-server) echo "server up"; exit 7;; esac
if [ -n "${GGML_BACKEND_PATH-}" ]; then
  case "${FAKE_MODE-}" in
    refuse)
      echo "turboquant: ggml 9.9 has another layout than this plugin knows" >&2
      echo "load_backend: backend $GGML_BACKEND_PATH is not supported on this system" >&2;;
    silent) ;;
    crash) echo "something broke here" >&2; kill -SEGV $$;;
    fail) echo "error: out of memory" >&2; exit 9;;
    interrupt) exit 130;;
    none)
      echo "load_backend: loaded turboquant backend from $GGML_BACKEND_PATH" >&2
      echo "turboquant: 0 of 4 KV layers compressed ($TURBOQUANT_KV), 90.0 MiB instead of 90.0 MiB" >&2;;
    *)
      echo "load_backend: loaded turboquant backend from $GGML_BACKEND_PATH" >&2
      case "$*" in *--list-devices*) exit 0;; esac
      echo "turboquant: 4 of 4 KV layers compressed ($TURBOQUANT_KV), 20.0 MiB instead of 80.0 MiB" >&2;;
  esac
else
  echo "llama_kv_cache: CPU KV buffer size = 80.00 MiB" >&2
fi
printf 'Hello'
sleep 0.05
printf ' world'
echo "common_perf_print: prompt eval time = 100.00 ms / 50 tokens (x)" >&2
echo "common_perf_print:        eval time = 200.00 ms / 30 runs (x)" >&2
)sh";

class EndToEnd : public testing::Test {
 protected:
  void SetUp() override {
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    dir_ = fs::path(testing::TempDir()) / ("tq_cli_" + std::to_string(getpid()) + "_" + name);
    fs::create_directories(dir_ / "bin");
    for (const char* tool : {"llama-completion", "llama-cli", "llama-server"}) {
      WriteTool(dir_ / "bin" / tool);
    }
    Write(dir_ / "libggml-turboquant.so", "not really a library");
    Write(dir_ / "m.gguf", SmallModel().Build(kSmallModelData));
    environment_ = {{"HOME", dir_.string()},
                    {"TURBOQUANT_CACHE", (dir_ / "cache").string()},
                    {"TURBOQUANT_PLUGIN", (dir_ / "libggml-turboquant.so").string()},
                    {"TURBOQUANT_LLAMA_BIN", (dir_ / "bin").string()},
                    {"TURBOQUANT_KV", std::nullopt},
                    {"GGML_BACKEND_PATH", std::nullopt},
                    {"XDG_CACHE_HOME", std::nullopt},
                    {"FAKE_LOG", (dir_ / "log").string()},
                    {"FAKE_MODE", std::nullopt},
                    {"PATH", "/usr/bin:/bin"}};
  }
  void TearDown() override { fs::remove_all(dir_); }

  static void Write(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static void WriteTool(const fs::path& path) {
    Write(path, kFakeTool);
    chmod(path.c_str(), 0755);
  }

  ProcessResult Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), TURBOQUANT_COMMAND);
    const auto result = RunCaptured(arguments, environment_);
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? result.value() : ProcessResult{};
  }
  std::string Model() const { return (dir_ / "m.gguf").string(); }
  std::string Plugin() const { return (dir_ / "libggml-turboquant.so").string(); }

  // Lines the fake tools logged.
  std::vector<std::string> Log() const {
    std::vector<std::string> lines;
    std::ifstream in(dir_ / "log");
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  bool Logged(const std::string& line) const {
    const auto lines = Log();
    return std::find(lines.begin(), lines.end(), line) != lines.end();
  }

  fs::path dir_;
  EnvironmentChanges environment_;
};

constexpr char kDefaultPolicy[] = "k=turbo4,v=turbo3,sink=4,tail=128,center=on,page=256,swa=f16";

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(EndToEnd, RunShowsTextThenTheTable) {
  const auto run = Run({"run", "-m", Model(), "-p", "Hi there", "-n", "30", "-c", "512"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out.rfind("Hello world\n", 0), 0u) << run.out;
  for (const char* part : {"20.0", "80.0", "4.00x smaller", "4.00 ", "4 of 4", "500.0", "150.0",
                           "1.00x as fast", "text: the same as with f16"}) {
    EXPECT_TRUE(Has(run.out, part)) << part << "\n" << run.out;
  }
  EXPECT_TRUE(Logged("tool=llama-completion plugin=" + Plugin() + " kv=" + kDefaultPolicy));
  EXPECT_TRUE(Logged("tool=llama-completion plugin=unset kv=unset"));
  for (const char* argument : {"arg=Hi there", "arg=30", "arg=512", "arg=-st", "arg=--temp"}) {
    EXPECT_TRUE(Logged(argument)) << argument;
  }
  EXPECT_FALSE(Has(run.out, "\033")) << "colour on a pipe";
}

TEST_F(EndToEnd, NoCompareRunsOnce) {
  const auto run = Run({"run", "-m", Model(), "-p", "x", "--no-compare"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_FALSE(Logged("tool=llama-completion plugin=unset kv=unset"));
  EXPECT_TRUE(Has(run.out, "80.0")) << "f16 MiB as the plugin says";
}

TEST_F(EndToEnd, FlagsBehindTwoDashesReachLlama) {
  const auto run =
      Run({"run", "-m", Model(), "-p", "x", "--no-compare", "--", "-ub", "32", "--", "--help"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(Logged("arg=-ub"));
  EXPECT_TRUE(Logged("arg=--"));
  EXPECT_TRUE(Logged("arg=--help"));
}

TEST_F(EndToEnd, ModelsWithoutChatTemplateContinueThePrompt) {
  GgufBuilder base;
  base.String("general.architecture", "llama")
      .Number("llama.block_count", 1)
      .Number("llama.attention.head_count", 2);
  Write(dir_ / "m.gguf", base.Build(0));
  EXPECT_EQ(Run({"run", "-m", Model(), "-p", "x"}).exit_code, 0);
  EXPECT_TRUE(Logged("arg=-no-cnv"));
  EXPECT_FALSE(Logged("arg=-st"));
}

TEST_F(EndToEnd, JsonHoldsEverything) {
  const auto run = Run({"run", "-m", Model(), "-p", "x", "--kv", "turbo2", "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json json = Json::parse(run.out);
  EXPECT_EQ(json["schema_version"], 1);
  EXPECT_EQ(json["command"], "run");
  EXPECT_EQ(json["policy"], "k=turbo2,v=turbo2,sink=4,tail=128,center=on,page=256,swa=f16");
  EXPECT_EQ(json["model"]["layers"], 4);
  ASSERT_EQ(json["runs"].size(), 2u);
  EXPECT_EQ(json["runs"][0]["text"], "Hello world");
  EXPECT_EQ(json["runs"][0]["kv_mib"], 20.0);
  EXPECT_EQ(json["runs"][0]["bits_per_value"], 4.0);
  EXPECT_EQ(json["runs"][1]["kv_mib"], 80.0);
  EXPECT_EQ(json["runs"][1]["generation"]["tokens_per_second"], 150.0);
  EXPECT_EQ(json["same_text"], true);
}

TEST_F(EndToEnd, PolicyComesFromFlagThenEnvironment) {
  environment_["TURBOQUANT_KV"] = "turbo3,tail=0";
  Run({"run", "-m", Model(), "-p", "x", "--no-compare"});
  EXPECT_TRUE(Logged("tool=llama-completion plugin=" + Plugin() +
                     " kv=k=turbo3,v=turbo3,sink=4,tail=0,center=on,page=256,swa=f16"));
  Run({"run", "-m", Model(), "-p", "x", "--no-compare", "--kv", "turbo4"});
  EXPECT_TRUE(Logged("tool=llama-completion plugin=" + Plugin() +
                     " kv=k=turbo4,v=turbo4,sink=4,tail=128,center=on,page=256,swa=f16"));
}

TEST_F(EndToEnd, AnyToolRunsInTheRightEnvironmentAndItsExitCodePasses) {
  const auto run = Run({"run", "--kv", "turbo3", "--", "llama-server", "-m", "x y.gguf"});
  EXPECT_EQ(run.exit_code, 7);
  EXPECT_EQ(run.out, "server up\n");
  EXPECT_TRUE(Logged("tool=llama-server plugin=" + Plugin() +
                     " kv=k=turbo3,v=turbo3,sink=4,tail=128,center=on,page=256,swa=f16"));
  EXPECT_TRUE(Logged("arg=x y.gguf"));
}

TEST_F(EndToEnd, AModelWithoutPromptOpensTheChat) {
  EXPECT_EQ(Run({"run", "-m", Model()}).exit_code, 0);
  EXPECT_TRUE(Logged("tool=llama-cli plugin=" + Plugin() + " kv=" + kDefaultPolicy));
}

TEST_F(EndToEnd, OlderReleasesWithoutCompletionUseLlamaCli) {
  fs::remove(dir_ / "bin" / "llama-completion");
  EXPECT_EQ(Run({"run", "-m", Model(), "-p", "x", "--no-compare"}).exit_code, 0);
  EXPECT_TRUE(Logged("tool=llama-cli plugin=" + Plugin() + " kv=" + kDefaultPolicy));
}

TEST_F(EndToEnd, ToolsAreSearchedInOrder) {
  fs::create_directories(dir_ / "flag");
  fs::create_directories(dir_ / "cache" / "llama.cpp" / "bin");
  fs::create_directories(dir_ / "path");
  const auto tool_used = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"run", "-m", Model(), "-p", "x", "--no-compare", "--json"});
    std::rotate(arguments.begin(), arguments.end() - 7, arguments.end());
    const auto run = Run(arguments);
    return run.exit_code == 0 ? Json::parse(run.out)["tool"].get<std::string>() : run.err;
  };
  for (const char* folder : {"flag", "cache/llama.cpp/bin", "path"}) {
    WriteTool(dir_ / folder / "llama-completion");
  }
  environment_["PATH"] = (dir_ / "path").string() + ":/usr/bin:/bin";
  EXPECT_EQ(tool_used({"--llama-bin", (dir_ / "flag").string()}),
            (dir_ / "flag/llama-completion").string());
  EXPECT_EQ(tool_used({}), (dir_ / "bin/llama-completion").string());
  environment_["TURBOQUANT_LLAMA_BIN"] = std::nullopt;
  EXPECT_EQ(tool_used({}), (dir_ / "cache/llama.cpp/bin/llama-completion").string());
  fs::remove_all(dir_ / "cache");
  EXPECT_EQ(tool_used({}), (dir_ / "path/llama-completion").string());
  fs::remove_all(dir_ / "path");
  EXPECT_TRUE(Has(tool_used({}), "no llama-completion found"));
}

// One line of a failure: its code, a part of its sentence; nothing on stdout.
struct Failure {
  std::vector<std::string> arguments;
  int exit_code;
  std::string part;
};

TEST_F(EndToEnd, EveryMistakeHasItsOwnMessageAndCode) {
  const std::string whole = SmallModel().Build(kSmallModelData);
  Write(dir_ / "cut.gguf", whole.substr(0, whole.size() - 40));
  Write(dir_ / "head.gguf", whole.substr(0, 300));
  Write(dir_ / "text.gguf", "this is not a model\n");
  Write(dir_ / "empty.gguf", "");
  GgufBuilder mamba;
  mamba.String("general.architecture", "mamba").Number("mamba.block_count", 2);
  Write(dir_ / "mamba.gguf", mamba.Build(0));
  GgufBuilder old = SmallModel();
  old.version = 1;
  Write(dir_ / "old.gguf", old.Build(kSmallModelData));

  const auto model = [&](const char* name) { return (dir_ / name).string(); };
  const std::vector<Failure> failures = {
      {{"run", "-m", model("none.gguf"), "-p", "x"}, 1, "does not exist"},
      {{"run", "-m", dir_.string(), "-p", "x"}, 1, "is a folder"},
      {{"run", "-m", model("cut.gguf"), "-p", "x"}, 1, "its tensors need"},
      {{"run", "-m", model("head.gguf"), "-p", "x"}, 1, "metadata ends"},
      {{"run", "-m", model("text.gguf"), "-p", "x"}, 1, "not a GGUF model file"},
      {{"run", "-m", model("empty.gguf"), "-p", "x"}, 1, "is empty"},
      {{"run", "-m", model("mamba.gguf"), "-p", "x"}, 3, "no KV cache to compress"},
      {{"run", "-m", model("old.gguf"), "-p", "x"}, 3, "GGUF version 1"},
      {{"run", "-m", Model(), "-p", "x", "--kv", "turbo9"}, 2, "'turbo9'"},
      {{"run", "-m", Model(), "-p", "x", "--kv", "turbo4,tail=many"}, 2, "tail"},
      {{"run", "-m", Model(), "-p", "x", "-n", "lots"}, 2, "lots"},
      {{"run", "-m", Model(), "-p", "x", "--llama-bin", "/nonexistent"}, 1, "--llama-bin"},
      {{"run", "-m", Model(), "-p", "x", "-f", Model()}, 2, "excludes"},
      {{"run", "-m", Model(), "--json"}, 2, "needs a prompt"},
      {{"run"}, 2, "nothing to run"},
      {{"run", "--no-such-flag"}, 2, "--no-such-flag"},
      {{"run", "-p", "x", "--", "llama-server"}, 2, "need a model"},
      {{"run", "--", "llama-nothing"}, 1, "llama-nothing"},
      {{"run", "--", "./not/there"}, 1, "not an executable file"},
      {{"doctor", "--", "x"}, 2, "only for turboquant run"},
      {{"frobnicate"}, 2, "unknown command 'frobnicate'"},
  };
  std::set<std::string> messages;
  for (const Failure& failure : failures) {
    const auto run = Run(failure.arguments);
    EXPECT_EQ(run.exit_code, failure.exit_code) << run.err;
    EXPECT_TRUE(Has(run.err, failure.part)) << "wanted: " << failure.part << "\n" << run.err;
    EXPECT_TRUE(Has(run.err, "turboquant: error: ")) << run.err;
    EXPECT_EQ(run.out, "") << run.err;
    EXPECT_TRUE(messages.insert(run.err).second) << "said twice: " << run.err;
  }
}

TEST_F(EndToEnd, BadPolicyInTheEnvironmentNamesTheVariable) {
  environment_["TURBOQUANT_KV"] = "turbo9";
  const auto run = Run({"run", "-m", Model(), "-p", "x"});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_TRUE(Has(run.err, "TURBOQUANT_KV")) << run.err;
}

TEST_F(EndToEnd, MissingPluginNamesTheRemedy) {
  environment_["TURBOQUANT_PLUGIN"] = (dir_ / "gone.so").string();
  auto run = Run({"run", "-m", Model(), "-p", "x"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(Has(run.err, "gone.so")) << run.err;
  EXPECT_TRUE(Has(run.err, "TURBOQUANT_PLUGIN")) << run.err;
  run = Run({"run", "--", "llama-server"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(Log().empty()) << "a tool was started without the plugin";
}

TEST_F(EndToEnd, AnUncompressedRunIsAnError) {
  for (const auto& [mode, part] : std::vector<std::pair<std::string, std::string>>{
           {"refuse", "another layout"}, {"silent", "doctor"}, {"none", "0 of 4"}}) {
    environment_["FAKE_MODE"] = mode;
    const auto run = Run({"run", "-m", Model(), "-p", "x"});
    EXPECT_EQ(run.exit_code, 3) << mode;
    EXPECT_TRUE(Has(run.err, "NOT compressed")) << run.err;
    EXPECT_TRUE(Has(run.err, part)) << run.err;
  }
}

TEST_F(EndToEnd, F16NeedsNoCompression) {
  environment_["FAKE_MODE"] = "silent";
  EXPECT_EQ(Run({"run", "-m", Model(), "-p", "x", "--kv", "f16"}).exit_code, 0);
}

TEST_F(EndToEnd, FailingToolsShowTheirLastWords) {
  environment_["FAKE_MODE"] = "fail";
  auto run = Run({"run", "-m", Model(), "-p", "x"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(Has(run.err, "exit code 9")) << run.err;
  EXPECT_TRUE(Has(run.err, "out of memory")) << run.err;
  environment_["FAKE_MODE"] = "crash";
  run = Run({"run", "-m", Model(), "-p", "x"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(Has(run.err, "signal 11")) << run.err;
  EXPECT_TRUE(Has(run.err, "something broke here")) << run.err;
  environment_["FAKE_MODE"] = "interrupt";
  EXPECT_EQ(Run({"run", "-m", Model(), "-p", "x"}).exit_code, 130);
}

TEST_F(EndToEnd, DoctorSaysWhatIsActive) {
  auto run = Run({"doctor"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(Has(run.out, "9.9 (build 7, commit abc)")) << run.out;
  EXPECT_TRUE(Has(run.out, "ready: the plugin loads")) << run.out;
  EXPECT_TRUE(Has(run.out, kDefaultPolicy)) << run.out;
  run = Run({"doctor", "-m", Model()});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(Has(run.out, "4 of 4 layers compressed")) << run.out;
  EXPECT_TRUE(Has(run.out, "compression is active")) << run.out;
}

TEST_F(EndToEnd, DoctorJson) {
  const auto run = Run({"doctor", "-m", Model(), "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json json = Json::parse(run.out);
  EXPECT_EQ(json["schema_version"], 1);
  EXPECT_EQ(json["active"], true);
  EXPECT_EQ(json["plugin"]["loads"], true);
  EXPECT_EQ(json["kv_cache"]["layers_compressed"], 4);
  EXPECT_TRUE((std::set<std::string>{"scalar", "avx2", "avxvnni", "avx512", "avx512amx"}.contains(
      json["kernels"].get<std::string>())));
}

TEST_F(EndToEnd, DoctorSaysWhyNot) {
  environment_["FAKE_MODE"] = "refuse";
  auto run = Run({"doctor"});
  EXPECT_EQ(run.exit_code, 3);
  EXPECT_TRUE(Has(run.err, "another layout")) << run.err;
  EXPECT_TRUE(Has(run.out, "DOES NOT LOAD")) << run.out;
  environment_["FAKE_MODE"] = "silent";
  run = Run({"doctor", "--json"});
  EXPECT_EQ(run.exit_code, 3);
  EXPECT_TRUE(Has(Json::parse(run.out)["error"], "did not look at GGML_BACKEND_PATH"));
  environment_["FAKE_MODE"] = "none";
  EXPECT_EQ(Run({"doctor", "-m", Model()}).exit_code, 3);
  environment_["FAKE_MODE"] = std::nullopt;
  EXPECT_EQ(Run({"doctor", "--kv", "nonsense"}).exit_code, 2);
  EXPECT_EQ(Run({"doctor", "--kv", "f16"}).exit_code, 1);
  run = Run({"doctor", "-m", (dir_ / "none.gguf").string()});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(Has(run.err, "does not exist")) << run.err;
  EXPECT_TRUE(Has(run.out, Plugin() + "  not tried")) << run.out;
  environment_["TURBOQUANT_PLUGIN"] = "/gone.so";
  EXPECT_EQ(Run({"doctor"}).exit_code, 1);
  environment_["TURBOQUANT_LLAMA_BIN"] = "/gone";
  run = Run({"doctor"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(Has(run.out, "not found")) << run.out;
}

TEST_F(EndToEnd, HelpAndVersion) {
  auto run = Run({"--version"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_TRUE(Has(run.out, "turboquant ")) << run.out;
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{},
                                                    {"--help"},
                                                    {"run", "--help"},
                                                    {"doctor", "--help"},
                                                    {"encode", "--help"}}) {
    run = Run(arguments);
    EXPECT_EQ(run.exit_code, 0);
    EXPECT_TRUE(Has(run.out, "Exit codes")) << run.out;
    // A SPEC is a policy here and a codec there.
    const bool codec = !arguments.empty() && arguments[0] == "encode";
    EXPECT_EQ(Has(run.out, "k=turbo4"), !codec) << run.out;
    EXPECT_EQ(Has(run.out, "projection="), codec) << run.out;
  }
}

TEST_F(EndToEnd, AnotherPluginIsReplacedAloud) {
  environment_["GGML_BACKEND_PATH"] = "/other.so";
  const auto run = Run({"run", "-m", Model(), "-p", "x"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_TRUE(Has(run.err, "/other.so is replaced")) << run.err;
  EXPECT_TRUE(Logged("tool=llama-completion plugin=unset kv=unset"));
}

}  // namespace
}  // namespace turboquant
