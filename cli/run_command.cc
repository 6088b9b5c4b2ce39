#include "cli/run_command.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/exit_code.h"
#include "cli/llama_log.h"
#include "cli/llama_run.h"
#include "cli/locate.h"
#include "cli/process.h"
#include "cli/report_table.h"
#include "kvcache/policy.h"
#include "model/gguf_file.h"

namespace turboquant {
namespace {

using Json = nlohmann::ordered_json;

struct Generation {
  ProcessResult process;
  LlamaLog log;
  bool interrupted = false;  // by Ctrl-C
};

int Fail(const Status& status) {
  PrintError(status.message());
  return ExitCodeOf(status);
}

Result<Policy> ChosenPolicy(const RunOptions& options) {
  if (options.kv) return Policy::Parse(*options.kv);
  if (const std::string text = Environment("TURBOQUANT_KV"); !text.empty()) {
    Result<Policy> policy = Policy::Parse(text);
    if (policy.ok()) return policy;
    return InvalidArgument("TURBOQUANT_KV: " + policy.status().message());
  }
  return Policy();
}

EnvironmentChanges OurEnvironment(const std::string& plugin, const Policy& policy) {
  if (const std::string other = Environment("GGML_BACKEND_PATH");
      !other.empty() && other != plugin) {
    Note("GGML_BACKEND_PATH=" + other + " is replaced by " + plugin +
         " (ggml takes one plugin only)");
  }
  return CompressedEnvironment(plugin, policy.ToString());
}

// The command line of one generation. Conversation mode with a single turn applies the model's
// chat template where it has one, prints clean text and ends.
std::vector<std::string> CompletionArguments(const RunOptions& options, const std::string& tool,
                                             const GgufModel& model) {
  std::vector<std::string> argv = {tool, "-m", options.model};
  if (!options.prompt_file.empty()) {
    argv.insert(argv.end(), {"-f", options.prompt_file});
  } else {
    argv.insert(argv.end(), {"-p", options.prompt});
  }
  argv.insert(argv.end(),
              {"-n", std::to_string(options.predict), "-c", std::to_string(options.context),
               "--temp", fmt::format("{}", options.temperature), "--seed",
               std::to_string(options.seed), "--no-display-prompt", "-lv", "4"});
  argv.push_back(model.has_chat_template ? "-st" : "-no-cnv");
  if (options.threads > 0) argv.insert(argv.end(), {"-t", std::to_string(options.threads)});
  argv.insert(argv.end(), options.passthrough.begin(), options.passthrough.end());
  return argv;
}

// Runs one generation; streams its text when `stream`. A failed run is a Status with llama.cpp's
// own last words.
Result<Generation> Generate(const std::vector<std::string>& argv,
                            const EnvironmentChanges& environment, const std::string& plugin,
                            bool stream) {
  std::function<void(std::string_view)> print;
  if (stream) {
    print = [](std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
  }
  Result<ProcessResult> process = RunCaptured(argv, environment, print);
  if (!process.ok()) return process.status();
  Generation result;
  result.process = std::move(process.value());
  result.log = ParseLlamaLog(result.process.err, plugin);
  result.interrupted = result.process.exit_code == kExitInterrupted;
  if (!result.interrupted) {
    if (Status s = CheckExit(argv[0], result.process); !s.ok()) return s;
  }
  return result;
}

std::string Mib(std::optional<double> mib) { return mib ? fmt::format("{:.1f}", *mib) : "-"; }

std::string Speed(const std::optional<PerfLine>& perf) {
  return perf && perf->tokens > 0 ? fmt::format("{:.1f}", perf->tokens_per_second()) : "-";
}

// Measured bits of a stored value: f16 has 16.
std::optional<double> BitsPerValue(const LlamaLog& log) {
  if (!log.compression || log.compression->f16_mib <= 0) return std::nullopt;
  return 16.0 * log.compression->mib / log.compression->f16_mib;
}

// What the f16 cache takes: as llama.cpp says in the f16 run, else as the plugin computes it.
std::optional<double> StockMib(const Generation& ours, const Generation* stock) {
  if (stock != nullptr && stock->log.kv_buffer_mib) return stock->log.kv_buffer_mib;
  if (ours.log.compression) return ours.log.compression->f16_mib;
  return std::nullopt;
}

std::optional<double> OurMib(const Generation& ours) {
  if (ours.log.compression) return ours.log.compression->mib;
  return ours.log.kv_buffer_mib;
}

// "3.41x" where both sides are known.
std::string Ratio(std::optional<double> over, std::optional<double> under, const char* word) {
  if (!over || !under || *under <= 0) return "";
  return fmt::format("{:.2f}x {}", *over / *under, word);
}

std::optional<double> TokensPerSecond(const std::optional<PerfLine>& perf) {
  if (!perf || perf->tokens == 0) return std::nullopt;
  return perf->tokens_per_second();
}

std::vector<std::string> SpeedRow(const std::string& name, const std::optional<PerfLine>& ours,
                                  const std::optional<PerfLine>& stock) {
  return {name, Speed(ours), Speed(stock),
          Ratio(TokensPerSecond(ours), TokensPerSecond(stock), "as fast")};
}

std::string ResultTable(const Generation& ours, const Generation* stock, bool color) {
  const auto& compression = ours.log.compression;
  const LlamaLog none;
  const LlamaLog& stock_log = stock != nullptr ? stock->log : none;
  const auto bits = BitsPerValue(ours.log);
  return FormatTable(
      {{"", "this run", "f16 (stock)", ""},
       {"KV cache, MiB", Mib(OurMib(ours)), Mib(StockMib(ours, stock)),
        compression ? Ratio(StockMib(ours, stock), OurMib(ours), "smaller") : ""},
       {"bits per value", bits ? fmt::format("{:.2f}", *bits) : "16.00", "16.00", ""},
       {"KV layers compressed",
        compression
            ? fmt::format("{} of {}", compression->layers_compressed, compression->layers_total)
            : "0",
        "0", ""},
       SpeedRow("prompt, tokens/s", ours.log.prompt, stock_log.prompt),
       SpeedRow("generation, tokens/s", ours.log.generation, stock_log.generation)},
      color);
}

Json PerfJson(const std::optional<PerfLine>& perf) {
  if (!perf) return nullptr;
  return {{"tokens", perf->tokens},
          {"milliseconds", perf->milliseconds},
          {"tokens_per_second", perf->tokens_per_second()}};
}

// Text as JSON; bytes that are not UTF-8 (a cut multi-byte character) are replaced.
std::string Dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

Json Optional(std::optional<double> value) { return value ? Json(*value) : Json(nullptr); }

Json GenerationJson(const std::string& name, const Generation& run, std::optional<double> mib,
                    std::optional<double> bits) {
  Json json = {{"name", name},
               {"kv_mib", Optional(mib)},
               {"bits_per_value", Optional(bits)},
               {"prompt", PerfJson(run.log.prompt)},
               {"generation", PerfJson(run.log.generation)},
               {"text", run.process.out}};
  if (run.log.compression) {
    json["layers_compressed"] = run.log.compression->layers_compressed;
    json["layers_total"] = run.log.compression->layers_total;
  }
  return json;
}

Json ResultJson(const RunOptions& options, const GgufModel& model, const Policy& policy,
                const std::string& tool, const std::string& plugin, const Generation& ours,
                const Generation* stock) {
  Json runs = Json::array();
  const auto bits = BitsPerValue(ours.log);
  runs.push_back(GenerationJson("turboquant", ours, OurMib(ours), bits ? bits : 16.0));
  if (stock != nullptr) runs.push_back(GenerationJson("f16", *stock, StockMib(ours, stock), 16.0));
  Json json = {{"schema_version", kJsonSchemaVersion},
               {"command", "run"},
               {"model",
                {{"path", options.model},
                 {"architecture", model.architecture},
                 {"layers", model.block_count},
                 {"kv_layers", model.kv_layers()},
                 {"key_length", model.key_length},
                 {"value_length", model.value_length}}},
               {"policy", policy.ToString()},
               {"tool", tool},
               {"plugin", plugin},
               {"context", options.context},
               {"seed", options.seed},
               {"temperature", options.temperature},
               {"f16_kv_mib", Optional(StockMib(ours, stock))},
               {"runs", runs}};
  if (stock != nullptr) json["same_text"] = ours.process.out == stock->process.out;
  return json;
}

int RunModel(const RunOptions& options, const Policy& policy) {
  const Result<GgufModel> model = ReadGgufFile(options.model);
  if (!model.ok()) return Fail(model.status());
  if (Status s = CheckHasKvCache(model.value(), options.model); !s.ok()) return Fail(s);
  const Result<std::string> plugin = FindPlugin();
  if (!plugin.ok()) return Fail(plugin.status());

  const bool chat = options.prompt.empty() && options.prompt_file.empty();
  if (chat) {
    if (options.json) {
      return Fail(InvalidArgument("--json needs a prompt: add -p PROMPT or -f FILE"));
    }
    const Result<std::string> tool = FindLlamaTool("llama-cli", options.llama_bin);
    if (!tool.ok()) return Fail(tool.status());
    std::vector<std::string> argv = {tool.value(), "-m", options.model, "-c",
                                     std::to_string(options.context)};
    if (options.threads > 0) argv.insert(argv.end(), {"-t", std::to_string(options.threads)});
    argv.insert(argv.end(), options.passthrough.begin(), options.passthrough.end());
    Note("no prompt given: opening llama.cpp's own chat, KV cache " + policy.ToString());
    return Fail(ReplaceProcess(argv, OurEnvironment(plugin.value(), policy)));
  }

  const Result<std::string> tool = FindCompletionTool(options.llama_bin);
  if (!tool.ok()) return Fail(tool.status());
  const std::vector<std::string> argv = CompletionArguments(options, tool.value(), model.value());
  Note(fmt::format("{} layers, head_dim {}; KV cache {}", model.value().block_count,
                   model.value().key_length, policy.ToString()));
  const Result<Generation> ours =
      Generate(argv, OurEnvironment(plugin.value(), policy), plugin.value(), !options.json);
  if (!ours.ok()) {
    if (!options.json) fmt::print("\n");
    return Fail(ours.status());
  }
  if (ours.value().interrupted) return kExitInterrupted;
  if (!policy.pass_through()) {
    if (Status s = CheckCompressed(ours.value().log); !s.ok()) return Fail(s);
  }

  std::optional<Generation> stock;
  if (!options.no_compare) {
    Note("the same with stock f16, for comparison ...");
    Result<Generation> run = Generate(argv, StockEnvironment(), "", false);
    if (!run.ok()) return Fail(run.status());
    if (run.value().interrupted) return kExitInterrupted;
    stock = std::move(run.value());
  }
  const Generation* stock_run = stock ? &*stock : nullptr;
  if (options.json) {
    fmt::print("{}\n", Dump(ResultJson(options, model.value(), policy, tool.value(), plugin.value(),
                                       ours.value(), stock_run)));
    return kExitOk;
  }
  if (!ours.value().process.out.ends_with('\n')) fmt::print("\n");
  fmt::print("{}", ResultTable(ours.value(), stock_run, UseColor(STDOUT_FILENO)));
  if (stock_run != nullptr) {
    const bool same = ours.value().process.out == stock_run->process.out;
    fmt::print("{}\n", same ? "text: the same as with f16"
                            : "text: differs from f16 (greedy sampling turns small differences "
                              "into other words)");
  }
  return kExitOk;
}

// turboquant run -- llama-server ...
int RunTool(const RunOptions& options, const Policy& policy) {
  const Result<std::string> tool = FindLlamaTool(options.passthrough[0], options.llama_bin);
  if (!tool.ok()) return Fail(tool.status());
  const Result<std::string> plugin = FindPlugin();
  if (!plugin.ok()) return Fail(plugin.status());
  std::vector<std::string> argv = options.passthrough;
  argv[0] = tool.value();
  Note("starting " + tool.value() + ", KV cache " + policy.ToString());
  return Fail(ReplaceProcess(argv, OurEnvironment(plugin.value(), policy)));
}

}  // namespace

int RunCommand(const RunOptions& options) {
  const Result<Policy> policy = ChosenPolicy(options);
  if (!policy.ok()) return Fail(policy.status());
  if (!options.model.empty()) return RunModel(options, policy.value());
  if (options.passthrough.empty()) {
    return Fail(InvalidArgument(
        "nothing to run: give a model (turboquant run -m MODEL -p PROMPT) or a llama.cpp tool "
        "(turboquant run -- llama-server -m MODEL)"));
  }
  if (!options.prompt.empty() || !options.prompt_file.empty() || options.json) {
    return Fail(InvalidArgument("-p, -f and --json need a model: add -m MODEL"));
  }
  return RunTool(options, policy.value());
}

}  // namespace turboquant
