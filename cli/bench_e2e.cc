// turboquant bench e2e: the stock llama-bench with and without the plugin.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/parallel.h"
#include "base/sha256.h"
#include "cli/bench_command.h"
#include "cli/bench_output.h"
#include "cli/exit_code.h"
#include "cli/llama_run.h"
#include "cli/locate.h"
#include "cli/progress.h"
#include "eval/llama_bench.h"
#include "kvcache/policy.h"
#include "model/gguf_file.h"

namespace turboquant {
namespace {

constexpr char kDefaultPreset[] = "balanced";

Result<std::vector<CacheContender>> Contenders(const BenchEndToEndOptions& options) {
  std::vector<CacheContender> contenders;
  for (const std::string& name : options.stock) {
    CacheContender contender;
    if (!ParseStockCache(name, &contender)) {
      return InvalidArgument("unknown stock cache '" + name +
                             "': use a type of llama.cpp, e.g. f16, q8_0, q4_0 or q8_0/q4_0 "
                             "(keys/values); our formats go with --kv");
    }
    contenders.push_back(contender);
  }
  std::vector<std::string> ours = options.kv;
  if (ours.empty()) ours = {kDefaultPreset};
  for (const std::string& spec : ours) {
    const Result<Policy> policy = Policy::Parse(spec);
    if (!policy.ok()) return policy.status();
    if (policy.value().pass_through()) {
      return InvalidArgument("--kv " + spec +
                             " compresses nothing; f16 is compared as a stock cache (--stock f16)");
    }
    contenders.push_back({spec, false, "", "", policy.value().ToString()});
  }
  for (size_t i = 0; i < contenders.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (contenders[i].name == contenders[j].name) {
        return InvalidArgument("'" + contenders[i].name + "' is named twice");
      }
    }
  }
  return contenders;
}

Result<std::string> HashFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> buffer(size_t{1} << 20);
  Sha256 hash;
  while (in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hash.Update(buffer.data(), static_cast<size_t>(in.gcount()));
  }
  if (!in.eof()) return NotFound("cannot read " + path);
  return hash.Finish();
}

class EndToEndBench {
 public:
  EndToEndBench(const BenchEndToEndOptions& options, std::vector<CacheContender> contenders,
                std::string tool, std::string plugin)
      : options_(options),
        tool_(std::move(tool)),
        plugin_(std::move(plugin)),
        progress_("bench e2e") {
    result_.contenders = std::move(contenders);
    result_.threads = options.threads > 0 ? options.threads : HardwareThreads();
    result_.rounds = options.rounds;
  }

  // Fails with kExitInterrupted's status when the user stops a run.
  Result<EndToEndResult> Run() {
    const auto start = std::chrono::steady_clock::now();
    const LoadMeter load;
    result_.machine = ThisMachine();
    result_.ggml_version = FindGgmlVersion(tool_).version;
    progress_.Update(0, "model hash");
    Result<std::string> hash = HashFile(options_.model);
    if (!hash.ok()) return hash.status();
    result_.model_name = std::filesystem::path(options_.model).filename().string();
    result_.model_sha256 = hash.value();
    if (Status s = MeasureStockBits(); !s.ok()) return s;
    const size_t all = options_.rounds * options_.depths.size() * result_.contenders.size();
    size_t done = 0;
    for (int round = 0; round < options_.rounds; ++round) {
      for (int depth : options_.depths) {
        for (size_t i = 0; i < result_.contenders.size(); ++i) {
          // Another one begins each round, so that none always follows the same.
          const size_t c = (i + round) % result_.contenders.size();
          progress_.Update(static_cast<double>(done++) / static_cast<double>(all),
                           fmt::format("{} at {}", result_.contenders[c].name, depth));
          if (Status s = Measure(c, depth); !s.ok()) return s;
        }
      }
    }
    progress_.Finish();
    Finish();
    result_.other_load = load.OthersShare();
    result_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  struct Key {
    bool generation;
    int depth;
    size_t contender;
    auto operator<=>(const Key&) const = default;
  };

  Result<ProcessResult> Start(const CacheContender& contender,
                              const std::vector<std::string>& arguments) const {
    std::vector<std::string> argv = {
        tool_, "-m", options_.model, "-t",  std::to_string(result_.threads), "-fa", "1",
        "-r",  "1",  "-o",           "json"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    if (contender.stock) {
      argv.insert(argv.end(), {"-ctk", contender.type_k, "-ctv", contender.type_v});
    }
    Result<ProcessResult> process =
        RunCaptured(argv, contender.stock ? StockEnvironment()
                                          : CompressedEnvironment(plugin_, contender.policy));
    if (!process.ok()) return process.status();
    if (process.value().exit_code == kExitInterrupted) {
      return Status(StatusCode::kInternal, "interrupted");
    }
    if (Status s = CheckExit(tool_, process.value()); !s.ok()) {
      return Status(s.code(), "with the cache " + contender.name + ": " + s.message());
    }
    return process;
  }

  // llama.cpp says the size of a stock cache only when asked to be verbose; once, outside of what
  // is timed.
  Status MeasureStockBits() {
    const CacheContender f16 = {"f16", true, "f16", "f16", ""};
    double f16_mib = 0;
    stock_bits_.assign(result_.contenders.size(), 0);
    for (int i = -1; i < static_cast<int>(result_.contenders.size()); ++i) {
      const CacheContender& contender = i < 0 ? f16 : result_.contenders[i];
      if (!contender.stock) continue;
      progress_.Update(0, "size of " + contender.name);
      const Result<ProcessResult> process =
          Start(contender, {"-p", "0", "-n", "1", "-d", "0", "-v"});
      if (!process.ok()) return process.status();
      const LlamaLog log = ParseLlamaLog(process.value().err);
      if (!log.plugin_lines.empty()) {
        return Unsupported("the plugin was active in a run with llama.cpp's own cache: " +
                           log.plugin_lines.front());
      }
      const double mib = log.kv_buffer_mib.value_or(0);
      if (i < 0) {
        f16_mib = mib;
      } else if (f16_mib > 0) {
        stock_bits_[i] = 16 * mib / f16_mib;
      }
    }
    return OkStatus();
  }

  Status Measure(size_t index, int depth) {
    const CacheContender& contender = result_.contenders[index];
    const Result<ProcessResult> process =
        Start(contender, {"-p", std::to_string(options_.prompt), "-n",
                          std::to_string(options_.generate), "-d", std::to_string(depth)});
    if (!process.ok()) return process.status();
    const LlamaLog log = ParseLlamaLog(process.value().err, plugin_);
    if (!contender.stock) {
      if (Status s = CheckCompressed(log); !s.ok()) {
        return {s.code(), contender.name + ": " + s.message()};
      }
    } else if (!log.plugin_lines.empty()) {
      return Unsupported("the plugin was active in a run with llama.cpp's own cache: " +
                         log.plugin_lines.front());
    }
    const Result<std::vector<LlamaBenchTest>> tests = ParseLlamaBench(process.value().out);
    if (!tests.ok()) return tests.status();
    // Every test has a context of its own; each announces its cache once.
    const bool one_each = log.compressions.size() == tests.value().size();
    for (size_t t = 0; t < tests.value().size(); ++t) {
      const LlamaBenchTest& test = tests.value()[t];
      if (contender.stock && (test.type_k != contender.type_k || test.type_v != contender.type_v)) {
        return Unsupported(fmt::format("llama-bench ran with the cache {}/{} instead of {}",
                                       test.type_k, test.type_v, contender.name));
      }
      EndToEndFigure& figure = figures_[{test.prompt == 0, depth, index}];
      figure.contender = index;
      figure.prompt = test.prompt > 0;
      figure.tokens = figure.prompt ? test.prompt : test.generate;
      figure.depth = depth;
      figure.samples.push_back(test.tokens_per_second);
      result_.model_type = test.model_type;
      result_.llama_commit = test.build_commit;
      if (contender.stock) {
        figure.bits_per_value = stock_bits_[index];
        continue;
      }
      const CompressionLine& line = one_each ? log.compressions[t] : *log.compression;
      figure.kv_mib = line.mib;
      if (line.f16_mib > 0) figure.bits_per_value = 16 * line.mib / line.f16_mib;
      f16_mib_[{figure.prompt, depth}] = line.f16_mib;
    }
    return OkStatus();
  }

  void Finish() {
    for (auto& [key, figure] : figures_) {
      figure.tokens_per_second = Summarise(figure.samples);
      // A stock cache in the same context, whose f16 size the plugin knows.
      if (result_.contenders[figure.contender].stock) {
        figure.kv_mib = figure.bits_per_value / 16 * f16_mib_[{figure.prompt, figure.depth}];
      }
      result_.figures.push_back(std::move(figure));
    }
  }

  const BenchEndToEndOptions& options_;
  const std::string tool_;
  const std::string plugin_;
  Progress progress_;
  EndToEndResult result_;
  std::vector<double> stock_bits_;
  std::map<Key, EndToEndFigure> figures_;
  std::map<std::pair<bool, int>, double> f16_mib_;  // of a test's context
};

}  // namespace

int BenchEndToEndCommand(const BenchEndToEndOptions& options) {
  if (options.model.empty()) {
    return FailBench(InvalidArgument("name a model: turboquant bench e2e -m MODEL"));
  }
  if (options.prompt == 0 && options.generate == 0) {
    return FailBench(InvalidArgument("-p 0 and -n 0 leave nothing to measure"));
  }
  Result<std::vector<CacheContender>> contenders = Contenders(options);
  if (!contenders.ok()) return FailBench(contenders.status());
  const Result<GgufModel> model = ReadGgufFile(options.model);
  if (!model.ok()) return FailBench(model.status());
  if (Status s = CheckHasKvCache(model.value(), options.model); !s.ok()) return FailBench(s);
  const Result<std::string> tool = FindLlamaTool("llama-bench", options.llama_bin);
  if (!tool.ok()) return FailBench(tool.status());
  const Result<std::string> plugin = FindPlugin();
  if (!plugin.ok()) return FailBench(plugin.status());
  if (Status s = CheckWritable(options.output.svg); !s.ok()) return FailBench(s);

  EndToEndBench bench(options, std::move(contenders.value()), tool.value(), plugin.value());
  const Result<EndToEndResult> result = bench.Run();
  if (!result.ok()) {
    if (result.status().message() == "interrupted") return kExitInterrupted;
    return FailBench(result.status());
  }
  const BenchProvenance provenance = ProvenanceOf(options.output);
  return PrintBench(options.output, provenance, ReportEndToEnd(provenance, result.value()));
}

}  // namespace turboquant
