#include "cli/doctor_command.h"

#include <fmt/core.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/exit_code.h"
#include "cli/llama_log.h"
#include "cli/locate.h"
#include "cli/process.h"
#include "cli/report_table.h"
#include "kernels/kernel_api.h"
#include "kvcache/policy.h"
#include "model/gguf_file.h"

namespace turboquant {
namespace {

using Json = nlohmann::ordered_json;

struct Findings {
  std::string tool;          // a stock tool that was run
  std::string tool_version;  // its own words
  GgmlVersion ggml;
  std::string plugin;
  std::optional<bool> plugin_loads;  // nothing: not tried
  std::string kernels;
  std::string policy;
  std::optional<CompressionLine> compression;
  // The first thing that stands in the way; OK: compression is active.
  Status verdict;
};

// "version: 0.5.0-dev (build 1, commit 0c1e570)" -> the words behind "version: ".
std::string ToolVersion(const std::string& tool) {
  const Result<ProcessResult> run =
      RunCaptured({tool, "--version"}, {{"GGML_BACKEND_PATH", std::nullopt}});
  if (!run.ok()) return "";
  for (const std::string& text : {run.value().out, run.value().err}) {
    const size_t at = text.find("version: ");
    if (at != std::string::npos) return text.substr(at + 9, text.find('\n', at) - at - 9);
  }
  return "";
}

// Why the plugin does not load: its own line first, else ggml's.
std::string LoadFailure(const LlamaLog& log, const ProcessResult& run) {
  if (!log.plugin_lines.empty()) return log.plugin_lines.back();
  if (!log.load_error.empty()) return log.load_error;
  if (run.exit_code != 0) return LastLines(run.err, 3);
  return "this llama.cpp did not look at GGML_BACKEND_PATH (it was built without "
         "GGML_BACKEND_DL, or it is too old)";
}

// Runs a stock tool with the plugin; with a model it also generates one token.
Status TryPlugin(const DoctorOptions& options, const Policy& policy, Findings* findings) {
  std::vector<std::string> argv = {findings->tool, "-lv", "4"};
  if (options.model.empty()) {
    argv.push_back("--list-devices");
  } else {
    argv.insert(argv.end(), {"-m", options.model, "-p", "Hello", "-n", "1", "-c", "1024", "-no-cnv",
                             "--no-display-prompt"});
  }
  const Result<ProcessResult> run = RunCaptured(
      argv, {{"GGML_BACKEND_PATH", findings->plugin}, {"TURBOQUANT_KV", policy.ToString()}});
  if (!run.ok()) return run.status();
  const LlamaLog log = ParseLlamaLog(run.value().err, findings->plugin);
  findings->compression = log.compression;
  findings->plugin_loads = log.plugin_loaded.value_or(log.compression.has_value());
  if (!*findings->plugin_loads) {
    return Unsupported("the plugin does not load: " + LoadFailure(log, run.value()));
  }
  if (run.value().exit_code != 0) {
    return Status(
        StatusCode::kInternal,
        fmt::format("{} failed with exit code {}; its last words were:\n{}", findings->tool,
                    run.value().exit_code, LastLines(run.value().err, 12)));
  }
  if (policy.pass_through()) {
    return Status(StatusCode::kNotFound,
                  "the policy asks for f16, so nothing is compressed; choose a format with --kv "
                  "or TURBOQUANT_KV");
  }
  if (!options.model.empty() && (!log.compression || log.compression->layers_compressed == 0)) {
    return Unsupported("the plugin loads but compresses no layer of this model" +
                       (log.plugin_lines.empty() ? "" : ": " + log.plugin_lines.back()));
  }
  return OkStatus();
}

Status Examine(const DoctorOptions& options, Findings* findings) {
  const std::string text = options.kv ? *options.kv : Environment("TURBOQUANT_KV");
  const Result<Policy> policy = text.empty() ? Result<Policy>(Policy()) : Policy::Parse(text);
  if (!policy.ok()) return policy.status();
  findings->policy = policy.value().ToString();
  findings->kernels = std::string(BestKernels().name);

  const Result<std::string> tool = FindCompletionTool(options.llama_bin);
  if (!tool.ok()) return tool.status();
  findings->tool = tool.value();
  findings->tool_version = ToolVersion(findings->tool);
  findings->ggml = FindGgmlVersion(findings->tool);
  const Result<std::string> plugin = FindPlugin();
  if (!plugin.ok()) return plugin.status();
  findings->plugin = plugin.value();
  if (!options.model.empty()) {
    const Result<GgufModel> model = ReadGgufFile(options.model);
    if (!model.ok()) return model.status();
    if (Status s = CheckHasKvCache(model.value(), options.model); !s.ok()) return s;
  }
  return TryPlugin(options, policy.value(), findings);
}

std::string OrUnknown(const std::string& text) { return text.empty() ? "unknown" : text; }

void PrintFindings(const DoctorOptions& options, const Findings& findings) {
  const auto line = [](const char* name, const std::string& value) {
    fmt::print("{:<12}{}\n", name, value);
  };
  line("llama.cpp", findings.tool.empty()
                        ? "not found"
                        : OrUnknown(findings.tool_version) + "  " + findings.tool);
  line("ggml", findings.ggml.version.empty()
                   ? "unknown (no libggml-base.so beside the tool)"
                   : findings.ggml.version +
                         (findings.ggml.commit.empty() ? "" : " (" + findings.ggml.commit + ")") +
                         "  " + findings.ggml.library);
  line("plugin", findings.plugin.empty()  ? "not found"
                 : !findings.plugin_loads ? findings.plugin + "  not tried"
                 : *findings.plugin_loads ? findings.plugin + "  loads"
                                          : findings.plugin + "  DOES NOT LOAD");
  line("kernels", OrUnknown(findings.kernels));
  line("policy", OrUnknown(findings.policy));
  if (findings.compression) {
    line("KV cache",
         fmt::format("{} of {} layers compressed, {:.1f} MiB instead of {:.1f} MiB",
                     findings.compression->layers_compressed, findings.compression->layers_total,
                     findings.compression->mib, findings.compression->f16_mib));
  }
  if (findings.verdict.ok()) {
    line("verdict", options.model.empty()
                        ? "ready: the plugin loads (add -m MODEL to check a model's cache)"
                        : "compression is active");
  } else {
    line("verdict", "NOT ACTIVE");
    PrintError(findings.verdict.message());
  }
}

Json FindingsJson(const DoctorOptions& options, const Findings& findings) {
  Json json = {{"schema_version", kJsonSchemaVersion},
               {"command", "doctor"},
               {"active", findings.verdict.ok()},
               {"error", findings.verdict.ok() ? Json(nullptr) : Json(findings.verdict.message())},
               {"exit_code", ExitCodeOf(findings.verdict)},
               {"llama_cpp", {{"tool", findings.tool}, {"version", findings.tool_version}}},
               {"ggml",
                {{"version", findings.ggml.version},
                 {"commit", findings.ggml.commit},
                 {"library", findings.ggml.library}}},
               {"plugin",
                {{"path", findings.plugin},
                 {"loads", findings.plugin_loads ? Json(*findings.plugin_loads) : Json(nullptr)}}},
               {"kernels", findings.kernels},
               {"policy", findings.policy},
               {"model", options.model.empty() ? Json(nullptr) : Json(options.model)},
               {"kv_cache", nullptr}};
  if (findings.compression) {
    json["kv_cache"] = {{"layers_compressed", findings.compression->layers_compressed},
                        {"layers_total", findings.compression->layers_total},
                        {"policy", findings.compression->policy},
                        {"mib", findings.compression->mib},
                        {"f16_mib", findings.compression->f16_mib}};
  }
  return json;
}

}  // namespace

int DoctorCommand(const DoctorOptions& options) {
  Findings findings;
  findings.verdict = Examine(options, &findings);
  if (options.json) {
    fmt::print("{}\n",
               FindingsJson(options, findings).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    PrintFindings(options, findings);
  }
  return ExitCodeOf(findings.verdict);
}

}  // namespace turboquant
