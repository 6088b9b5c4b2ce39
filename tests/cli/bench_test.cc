// turboquant bench from outside: a shell script in the place of llama-bench, tiny sizes for the
// rest. What is started, in which order and environment, what is printed, how it ends.
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

// Logs cache, depth and plugin, then speaks like llama-bench: one context a test, each announced by
// the plugin; 100 tokens/s with f16, 50 with q8_0, 200 with the plugin, less by the round.
constexpr char kFakeBench[] = R"sh(#!/bin/sh
type=none; p=0; n=0; d=0; verbose=no
while [ $# -gt 0 ]; do
  case "$1" in
    -ctk) type=$2; shift;;
    -p) p=$2; shift;;
    -n) n=$2; shift;;
    -d) d=$2; shift;;
    -v) verbose=yes;;
  esac
  shift
done
echo "type=$type d=$d v=$verbose plugin=${GGML_BACKEND_PATH-unset} kv=${TURBOQUANT_KV-unset}" >> "$FAKE_LOG"
case "${FAKE_MODE-}" in
  fail) echo "error: no such model" >&2; exit 4;;
  garbage) echo "llama-bench 0.1"; exit 0;;
  old) echo '[{"n_prompt": 8, "avg_ts": 1.0}]'; exit 0;;
  interrupt) exit 130;;
esac
speed=100
case "$type" in q8_0) speed=50;; esac
if [ -n "${GGML_BACKEND_PATH-}" ]; then
  type=f16
  speed=200
  if [ "${FAKE_MODE-}" != silent ]; then
    for t in $p $n; do
      [ "$t" = 0 ] || echo "turboquant: 4 of 4 KV layers compressed ($TURBOQUANT_KV), $((10 + t)).0 MiB instead of 64.0 MiB" >&2
    done
  fi
elif [ "${FAKE_MODE-}" = everywhere ]; then
  echo "turboquant: 4 of 4 KV layers compressed (x), 1.0 MiB instead of 4.0 MiB" >&2
fi
if [ $verbose = yes ]; then
  case "$type" in q8_0) size=8.50;; *) size=16.00;; esac
  echo "llama_kv_cache:        CPU KV buffer size =     $size MiB" >&2
fi
sep="["
for t in "$p 0" "0 $n"; do
  set -- $t
  [ "$1$2" = 00 ] && continue
  echo "$sep {\"n_prompt\": $1, \"n_gen\": $2, \"n_depth\": $d, \"avg_ts\": $((speed + $1)).5,"
  echo " \"type_k\": \"$type\", \"type_v\": \"$type\", \"model_type\": \"llama 1M\", \"build_commit\": \"abc\"}"
  sep=","
done
echo "]"
)sh";

class Bench : public testing::Test {
 protected:
  void SetUp() override {
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    dir_ = fs::path(testing::TempDir()) / ("tq_bench_" + std::to_string(getpid()) + "_" + name);
    fs::create_directories(dir_ / "bin");
    Write(dir_ / "bin" / "llama-bench", kFakeBench);
    chmod((dir_ / "bin" / "llama-bench").c_str(), 0755);
    Write(dir_ / "libggml-turboquant.so", "not really a library");
    Write(dir_ / "m.gguf", SmallModel().Build(kSmallModelData));
    environment_ = {{"HOME", dir_.string()},
                    {"TURBOQUANT_CACHE", (dir_ / "cache").string()},
                    {"TURBOQUANT_PLUGIN", (dir_ / "libggml-turboquant.so").string()},
                    {"TURBOQUANT_LLAMA_BIN", (dir_ / "bin").string()},
                    {"TURBOQUANT_KV", std::nullopt},
                    {"GGML_BACKEND_PATH", std::nullopt},
                    {"FAKE_LOG", (dir_ / "log").string()},
                    {"FAKE_MODE", std::nullopt},
                    {"PATH", "/usr/bin:/bin"}};
  }
  void TearDown() override { fs::remove_all(dir_); }

  static void Write(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string Read(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  ProcessResult Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {TURBOQUANT_COMMAND, "bench"});
    const auto result = RunCaptured(arguments, environment_);
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? result.value() : ProcessResult{};
  }
  // Decode attention on a GPU of paper (fake_cuda_driver.cc, fake_cuda_kernels.cc).
  ProcessResult RunCuda(std::vector<std::string> more) {
    environment_["LD_LIBRARY_PATH"] = FAKE_CUDA_DRIVER_DIR;
    const std::vector<std::pair<std::string, std::string>> defaults = {
        {"--cuda-library", FAKE_CUDA_KERNELS}, {"-d", "64"}, {"-n", "90"}};
    for (const auto& [name, value] : defaults) {
      if (std::find(more.begin(), more.end(), name) == more.end()) {
        more.insert(more.end(), {name, value});
      }
    }
    more.insert(more.begin(), {"attention", "--device", "cuda", "--kv-heads", "2", "-g", "3"});
    return Run(more);
  }
  std::string Model() const { return (dir_ / "m.gguf").string(); }

  // Lines the fake tool logged, without those that asked for sizes.
  std::vector<std::string> TimedRuns() const {
    std::vector<std::string> lines;
    std::ifstream in(dir_ / "log");
    for (std::string line; std::getline(in, line);) {
      if (line.find("v=no") != std::string::npos) lines.push_back(line.substr(0, line.find(" v=")));
    }
    return lines;
  }

  fs::path dir_;
  EnvironmentChanges environment_;
};

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// What every record must say about itself.
void ExpectProvenance(const Json& json, const std::string& mode) {
  EXPECT_EQ(json["schema_version"], 1);
  EXPECT_EQ(json["command"], "bench");
  EXPECT_EQ(json["mode"], mode);
  EXPECT_EQ(json["command_line"].get<std::string>().rfind(
                "turboquant bench " + mode.substr(0, mode.find('-')), 0),
            0u);
  EXPECT_FALSE(Has(json["command_line"], "/")) << "folders of this machine in a record";
  for (const char* key : {"version", "commit", "date"}) {
    EXPECT_FALSE(json[key].get<std::string>().empty()) << key;
  }
  EXPECT_FALSE(json["device"]["cpu"].get<std::string>().empty());
  EXPECT_GE(json["device"]["threads"].get<int>(), 1);
}

const Json& FigureOf(const Json& json, const std::string& cache, const std::string& test,
                     int depth) {
  for (const Json& f : json["results"]) {
    if (f["cache"] == cache && f["test"] == test && f["depth"] == depth) return f;
  }
  ADD_FAILURE() << "no figure of " << cache << ", " << test << ", " << depth;
  static const Json none = {{"tokens_per_second", 0}};
  return none;
}

TEST_F(Bench, EndToEndTakesTurnsAndComparesWithTheFirst) {
  const auto run = Run({"e2e", "-m", Model(), "--stock", "f16,q8_0", "--kv", "turbo3,tail=0", "-d",
                        "0,64", "-p", "8", "-n", "4", "-r", "2", "-t", "1", "-o", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json json = Json::parse(run.out);
  ExpectProvenance(json, "e2e");
  EXPECT_EQ(json["conditions"]["model"], "m.gguf");
  EXPECT_EQ(json["conditions"]["model_sha256"].get<std::string>().size(), 64u);
  EXPECT_EQ(json["conditions"]["llama_cpp_commit"], "abc");
  ASSERT_EQ(json["results"].size(), 12u);  // 3 caches, 2 depths, 2 tests

  const Json& ours = FigureOf(json, "turbo3,tail=0", "generation", 64);
  EXPECT_EQ(ours["tokens_per_second"], 200.5);
  EXPECT_EQ(ours["samples"].size(), 2u);
  EXPECT_NEAR(ours["times_first"].get<double>(), 200.5 / 100.5, 1e-9);
  EXPECT_EQ(ours["kv_mib"], 14.0) << "the size of the context of this test, not of another";
  EXPECT_EQ(ours["policy"], "k=turbo3,v=turbo3,sink=4,tail=0,center=on,page=256,swa=f16");
  EXPECT_EQ(FigureOf(json, "turbo3,tail=0", "prompt", 0)["kv_mib"], 18.0);
  const Json& q8 = FigureOf(json, "q8_0", "prompt", 0);
  EXPECT_EQ(q8["tokens_per_second"], 58.5);
  EXPECT_EQ(q8["bits_per_value"], 8.5);
  EXPECT_EQ(q8["kv_mib"], 34.0);
  EXPECT_EQ(FigureOf(json, "f16", "prompt", 0)["times_first"], 1.0);

  // Each round begins with another one; ours alone sees the plugin.
  const std::string plugin = (dir_ / "libggml-turboquant.so").string();
  const std::vector<std::string> runs = TimedRuns();
  const std::vector<std::string> expected = {"type=f16 d=0",   "type=q8_0 d=0",  "type=none d=0",
                                             "type=f16 d=64",  "type=q8_0 d=64", "type=none d=64",
                                             "type=q8_0 d=0",  "type=none d=0",  "type=f16 d=0",
                                             "type=q8_0 d=64", "type=none d=64", "type=f16 d=64"};
  EXPECT_EQ(runs, expected);
  const std::string log = Read(dir_ / "log");
  EXPECT_TRUE(Has(log, "type=none d=64 v=no plugin=" + plugin + " kv=k=turbo3,v=turbo3"));
  EXPECT_FALSE(Has(log, "type=f16 d=0 v=no plugin=" + plugin));
}

TEST_F(Bench, EndToEndTableMarkdownCsvAndPlot) {
  const std::vector<std::string> arguments = {"e2e", "-m", Model(), "-d", "0,64", "-p", "8",
                                              "-n",  "0",  "-r",    "1",  "-t",   "1"};
  auto run = Run(arguments);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"Prompt, pp8", "f16", "q8_0", "balanced", "1.92x", "0.54x", "8.50"}) {
    EXPECT_TRUE(Has(run.out, part)) << part << "\n" << run.out;
  }
  EXPECT_FALSE(Has(run.out, "Generation")) << "-n 0";
  EXPECT_FALSE(Has(run.out, "\033")) << "colour on a pipe";

  auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), arguments.begin(), arguments.end());
    return Run(more);
  };
  run = with({"-o", "md"});
  EXPECT_TRUE(Has(run.out, "| cache | depth | tokens/s |")) << run.out;
  EXPECT_TRUE(Has(run.out, "\n|---|---:|"));
  EXPECT_TRUE(Has(run.out, "`turboquant bench e2e -m m.gguf")) << run.out;

  run = with({"-o", "csv", "--svg", (dir_ / "plot.svg").string()});
  std::istringstream lines(run.out);
  size_t columns = 0;
  int records = -1;
  for (std::string line; std::getline(lines, line); ++records) {
    size_t commas = 0;
    bool quoted = false;
    for (char c : line) {
      quoted ^= c == '"';
      commas += c == ',' && !quoted ? 1 : 0;
    }
    if (records < 0) columns = commas;
    EXPECT_EQ(commas, columns) << line;
  }
  EXPECT_EQ(records, 8);  // f16, q8_0, q4_0, balanced at 2 depths
  const std::string svg = Read(dir_ / "plot.svg");
  EXPECT_EQ(svg.rfind("<svg ", 0), 0u);
  for (const char* part : {"tokens a second", "tokens in the cache before", "balanced", "</svg>"}) {
    EXPECT_TRUE(Has(svg, part)) << part;
  }
}

TEST_F(Bench, NoFiguresWithoutThePlugin) {
  environment_["FAKE_MODE"] = "silent";
  auto run = Run({"e2e", "-m", Model(), "-r", "1", "-d", "0"});
  EXPECT_EQ(run.exit_code, 3);
  EXPECT_TRUE(Has(run.err, "balanced: the KV cache was NOT compressed")) << run.err;
  EXPECT_EQ(run.out, "");
  environment_["FAKE_MODE"] = "everywhere";  // ... nor where it compresses what it should not
  run = Run({"e2e", "-m", Model(), "-r", "1", "-d", "0"});
  EXPECT_EQ(run.exit_code, 3);
  EXPECT_TRUE(Has(run.err, "plugin was active in a run with llama.cpp's own cache")) << run.err;
  EXPECT_EQ(run.out, "");
}

TEST_F(Bench, EndToEndStopsWithTheTool) {
  environment_["FAKE_MODE"] = "interrupt";
  EXPECT_EQ(Run({"e2e", "-m", Model()}).exit_code, 130);
}

TEST_F(Bench, EveryMistakeHasItsOwnMessageAndCode) {
  struct Failure {
    std::string mode;
    std::vector<std::string> arguments;
    int exit_code;
    std::string part;
  };
  const std::vector<Failure> failures = {
      {"", {"e2e"}, 2, "name a model"},
      {"", {"e2e", "-m", (dir_ / "none.gguf").string()}, 1, "does not exist"},
      {"", {"e2e", "-m", Model(), "--kv", "turbo9"}, 2, "'turbo9'"},
      {"", {"e2e", "-m", Model(), "--kv", "f16"}, 2, "compresses nothing"},
      {"", {"e2e", "-m", Model(), "--stock", "q9_9"}, 2, "unknown stock cache 'q9_9'"},
      {"", {"e2e", "-m", Model(), "--stock", "f16,f16"}, 2, "named twice"},
      {"", {"e2e", "-m", Model(), "-p", "0", "-n", "0"}, 2, "nothing to measure"},
      {"", {"e2e", "-m", Model(), "--llama-bin", "/nonexistent"}, 1, "no llama-bench"},
      {"", {"e2e", "-m", Model(), "--svg", "/nonexistent/x.svg"}, 1, "cannot write"},
      {"", {"e2e", "-m", Model(), "-o", "xml"}, 2, "xml"},
      {"fail", {"e2e", "-m", Model()}, 1, "exit code 4"},
      {"garbage", {"e2e", "-m", Model()}, 3, "no list of tests"},
      {"old", {"e2e", "-m", Model()}, 3, "newer llama.cpp"},
      {"", {"kernels", "--format", "turbo9"}, 2, "turbo9"},
      {"", {"kernels", "--isa", "mmx"}, 3, "no kernels 'mmx'"},
      {"", {"kernels", "-d", "60"}, 2, "60 values"},
      {"", {"kernels", "-g", "0"}, 2, "a group of 0"},
      {"", {"kernels", "-r", "none"}, 2, "none"},
      {"", {"attention", "-d", "72"}, 2, "rows of 72"},
      {"", {"attention", "--kv", "k=turbo4,v=f16"}, 2, "at f16"},
      {"", {"attention", "--tokens", "64", "-n", "64"}, 2, "more cells"},
      {"", {"everything"}, 2, "everything"},
  };
  std::set<std::string> messages;
  for (const Failure& failure : failures) {
    environment_["FAKE_MODE"] = failure.mode;
    const auto run = Run(failure.arguments);
    EXPECT_EQ(run.exit_code, failure.exit_code) << failure.part << "\n" << run.err;
    EXPECT_TRUE(Has(run.err, failure.part)) << "wanted: " << failure.part << "\n" << run.err;
    EXPECT_TRUE(Has(run.err, "turboquant: error: ")) << run.err;
    EXPECT_EQ(run.out, "") << failure.part;
    EXPECT_TRUE(messages.insert(run.err).second) << "said twice: " << run.err;
  }
}

TEST_F(Bench, MissingPluginIsSaidBeforeAnythingRuns) {
  environment_["TURBOQUANT_PLUGIN"] = (dir_ / "gone.so").string();
  const auto run = Run({"e2e", "-m", Model()});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(Has(run.err, "gone.so")) << run.err;
  EXPECT_FALSE(fs::exists(dir_ / "log"));
}

TEST_F(Bench, AloneItShowsItsModes) {
  const auto run = Run({});
  EXPECT_EQ(run.exit_code, 0);
  for (const char* mode : {"kernels", "attention", "e2e"}) EXPECT_TRUE(Has(run.out, mode)) << mode;
}

TEST_F(Bench, KernelsOfEveryTableAndFormat) {
  const auto run =
      Run({"kernels", "-d", "64", "-g", "2", "-t", "2", "-r", "2", "--sample-ms", "0.01",
           "--memory", "8", "-o", "json", "--svg", (dir_ / "plot.svg").string()});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json json = Json::parse(run.out);
  ExpectProvenance(json, "kernels");
  EXPECT_GT(json["conditions"]["clock_hz"].get<double>(), 1e8);
  EXPECT_GT(json["conditions"]["memory_bytes_per_second_1_thread"].get<double>(), 1e7);
  std::set<std::string> seen;
  for (const Json& f : json["results"]) {
    const std::string where = f["rows_in"];
    seen.insert(f["table"].get<std::string>() + " " + f["kernel"].get<std::string>() + " " +
                f["format"].get<std::string>() + " " + where + " " +
                std::to_string(f["threads"].get<int>()));
    EXPECT_GT(f["ns_per_row"].get<double>(), 0.0);
    EXPECT_LE(f["ns_per_row_min"].get<double>(), f["ns_per_row"].get<double>());
    EXPECT_LE(f["ns_per_row"].get<double>(), f["ns_per_row_max"].get<double>());
    EXPECT_NEAR(f["rows_per_second"].get<double>() * f["ns_per_row"].get<double>(), 1e9, 1);
    EXPECT_LT(f["relative_error"].get<double>(), 1e-3);
    if (f["kernel"] == "scores") {
      EXPECT_GT(f["bound_ns_per_row"].get<double>(), 0.0);
      if (f["format"] != "f16") {
        EXPECT_GT(f["relative_error"].get<double>(), 0.0) << "never exactly what double gives";
      }
    }
    if (f["format"] == "turbo3") {
      EXPECT_EQ(f["bytes_per_row"], 26.0);
    }
  }
  for (const char* cell : {"scalar scores turbo4 cache 1", "scalar sums turbo2 cache 1",
                           "scalar encode turbo3 cache 1", "scalar decode f16 cache 1"}) {
    EXPECT_TRUE(seen.contains(cell)) << cell;
  }
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    for (const char* cell : {"avx2 scores turbo3 memory 2", "avx2 sums f16 memory 1",
                             "avx2 scores turbo2 cache 1", "avx2 encode turbo4 cache 1"}) {
      EXPECT_TRUE(seen.contains(cell)) << cell;
    }
  }
#endif
  EXPECT_TRUE(Has(Read(dir_ / "plot.svg"), "cycles for a pair of rows"));
}

TEST_F(Bench, KernelsAsATable) {
  const auto run = Run({"kernels", "--isa", "scalar", "--format", "turbo4", "-d", "64", "-g", "1",
                        "-t", "1", "-r", "1", "--sample-ms", "0.01", "--memory", "8"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"scalar: rows of 64 values, 1 query head a kv head", "scores", "sums",
                           "turbo4", "f16", "Encoding and decoding", "bit for bit"}) {
    EXPECT_TRUE(Has(run.out, part)) << part << "\n" << run.out;
  }
  EXPECT_FALSE(Has(run.out, "turbo2")) << "a format that was not asked for";
}

TEST_F(Bench, AttentionOfOneLayer) {
  const auto run = Run({"attention",
                        "-d",
                        "64",
                        "--kv-heads",
                        "2",
                        "-g",
                        "3",
                        "-n",
                        "300,600",
                        "--tokens",
                        "1,40",
                        "-t",
                        "1,2",
                        "-r",
                        "2",
                        "--sample-ms",
                        "0.01",
                        "--kv",
                        "turbo4",
                        "--kv",
                        "turbo2,tail=0,sink=0",
                        "-o",
                        "json",
                        "--svg",
                        (dir_ / "plot.svg").string()});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json json = Json::parse(run.out);
  ExpectProvenance(json, "attention");
  ASSERT_EQ(json["results"].size(), 24u);  // 3 caches, 2 cells, 2 tokens, 2 threads
  for (const Json& f : json["results"]) {
    EXPECT_GT(f["microseconds"].get<double>(), 0.0);
    EXPECT_LT(f["relative_error"].get<double>(), 5e-3);
    const double loss = f["loss_against_f16"];
    const double bits = f["bits_per_value"];
    if (f["cache"] == "f16") {
      EXPECT_EQ(loss, 0.0);
      EXPECT_EQ(bits, 16.0);
      EXPECT_EQ(f["times_f16"], 1.0);
    } else if (f["cache"] == "turbo4") {
      EXPECT_GT(loss, 0.0);
      EXPECT_LT(loss, 0.5);
    } else {
      EXPECT_LT(bits, 4.0);
      EXPECT_GT(loss, 0.05) << "two bits are not that good";
    }
  }
  EXPECT_TRUE(Has(Read(dir_ / "plot.svg"), "cells of the cache"));
}

TEST_F(Bench, AttentionOnAGpu) {
  const auto run =
      RunCuda({"--batch", "2", "-n", "90,130", "--kv", "turbo4", "--kv", "k=turbo3,v=turbo2", "-r",
               "5", "-o", "json", "--svg", (dir_ / "plot.svg").string()});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json json = Json::parse(run.out);
  ExpectProvenance(json, "attention-cuda");
  EXPECT_EQ(json["conditions"]["gpu"], "Paper GPU");
  EXPECT_GT(json["conditions"]["copy_bytes_per_second"].get<double>(), 0.0);
  ASSERT_EQ(json["results"].size(), 4u);  // 2 lengths, 2 caches
  for (const Json& f : json["results"]) {
    EXPECT_LT(f["relative_error"].get<double>(), 1e-6) << "double against double";
    EXPECT_EQ(f["batch"], 2);
    const int cells = f["cells"];
    const bool four = f["cache"] == "turbo4";
    EXPECT_EQ(f["format"], four ? "turbo4/turbo4" : "turbo3/turbo2");
    // Two sequences, two heads: codes and two bytes of scale a row.
    EXPECT_EQ(f["bytes"], 4.0 * cells * (four ? 2 * 34 : 26 + 18));
    EXPECT_EQ(f["rounds"], 5);
    EXPECT_NEAR(f["gigabytes_per_second"].get<double>(),
                f["bytes"].get<double>() / f["microseconds"].get<double>() * 1e-3, 1e-6);
  }
  EXPECT_TRUE(Has(Read(dir_ / "plot.svg"), "Paper GPU"));
  const auto table = RunCuda({"-d", "80", "--kv", "balanced", "--kv", "k=turbo2,v=turbo4"});
  ASSERT_EQ(table.exit_code, 0) << table.err;
  for (const char* part : {"Paper GPU", "balanced", "turbo4/turbo3", "pair", "of copy"}) {
    EXPECT_TRUE(Has(table.out, part)) << part << "\n" << table.out;
  }
}

TEST_F(Bench, WrongGpuKernelsAreNotTimed) {
  for (const char* fault : {"wrong", "codes"}) {
    environment_["FAKE_MODE"] = fault;
    const auto run = RunCuda({"--kv", "turbo4"});
    EXPECT_EQ(run.exit_code, 1) << fault;
    EXPECT_TRUE(Has(run.err, "turbo4 on the GPU is wrong")) << run.err;
    EXPECT_EQ(run.out, "");
  }
}

TEST_F(Bench, WithoutAGpuItSaysWhatIsMissing) {
  struct Failure {
    const char* variable;
    const char* value;
    std::vector<std::string> arguments;
    int exit_code;
    const char* part;
  };
  const std::vector<Failure> failures = {
      {"FAKE_MODE", "no device", {}, 3, "made of paper"},
      {"FAKE_NO_GPU", "1", {}, 3, "no CUDA-capable device"},
      {"FAKE_MODE", "", {"--kv", "turbo3t"}, 3, "trellis"},
      {"FAKE_MODE", "", {"--kv", "k=turbo4,v=f16"}, 2, "at f16"},
      {"FAKE_MODE", "", {"-d", "112"}, 3, "112"},
      {"FAKE_MODE", "", {"--tokens", "16"}, 2, "one new token"},
      {"FAKE_MODE", "", {"--cuda-library", "/nonexistent.so"}, 1, "/nonexistent.so"},
  };
  for (const Failure& failure : failures) {
    environment_.erase("FAKE_NO_GPU");
    environment_.erase("FAKE_MODE");
    environment_[failure.variable] = failure.value;
    const auto run = RunCuda(failure.arguments);
    EXPECT_EQ(run.exit_code, failure.exit_code) << failure.part << "\n" << run.err;
    EXPECT_TRUE(Has(run.err, failure.part)) << "wanted: " << failure.part << "\n" << run.err;
    EXPECT_EQ(run.out, "") << failure.part;
  }
  EXPECT_EQ(Run({"attention", "--device", "tpu"}).exit_code, 2);
}

}  // namespace
}  // namespace turboquant
