// The turboquant command: reads the command line and calls the command.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cli/array_commands.h"
#include "cli/bench_options.h"
#include "cli/build_info.h"
#include "cli/doctor_command.h"
#include "cli/exit_code.h"
#include "cli/report_table.h"
#include "cli/run_command.h"
#include "cli/search_command.h"
#include "cli/validate_command.h"

namespace {

using turboquant::BenchArguments;
using turboquant::CodebookOptions;
using turboquant::DecodeOptions;
using turboquant::DoctorOptions;
using turboquant::EncodeOptions;
using turboquant::InspectOptions;
using turboquant::RawOptions;
using turboquant::RunOptions;
using turboquant::SearchOptions;
using turboquant::ValidateOptions;

constexpr char kDescription[] =
    "turboquant: a stock llama.cpp with its KV cache in 2-4 bits a value.\n"
    "Examples:\n"
    "  turboquant run -m model.gguf -p \"Why is the sky blue?\"\n"
    "  turboquant run --kv turbo3,tail=256 -- llama-server -m model.gguf -c 32768\n"
    "  turboquant doctor -m model.gguf\n"
    "  turboquant encode vectors.npy vectors.tq --codec turbo3\n"
    "  turboquant search vectors.tq queries.npy --exact vectors.npy\n"
    "  turboquant validate --svg plot.svg\n"
    "  turboquant bench kernels --quick";

constexpr char kExitCodes[] = "Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 not supported here.";

// Of the commands that run llama.cpp.
constexpr char kCacheFooter[] =
    "Formats: turbo2 turbo3 turbo4, turbo2t turbo3t turbo4t (trellis: better, slower), turbo8, "
    "f16.\n"
    "Presets: quality, balanced (default), small.\n"
    "A SPEC is a preset or format and settings: k=turbo4,v=turbo3,sink=4,tail=128,center=on\n"
    "Environment: TURBOQUANT_KV (SPEC), TURBOQUANT_LLAMA_BIN (folder of llama.cpp's tools),\n"
    "  TURBOQUANT_PLUGIN (path of libggml-turboquant.so), TURBOQUANT_CACHE, NO_COLOR.\n";

constexpr char kEncodeFooter[] =
    "Options of a codec, as far as it has them; the message of a wrong one names those it has:\n"
    "  rotation=wht|haar|none  seed=N  scale=ls|norm|matched|unbiased  codebook=gauss|beta\n"
    "  states=4..256  projection=orthogonal|gaussian  split=half|outlier  channels=0-15+40-55\n"
    "  group=16..512\n";

constexpr char kRunDescription[] =
    "Generates text with stock llama.cpp and a compressed KV cache, then shows memory and speed\n"
    "next to f16. Text and table go to stdout, progress to stderr.\n"
    "  turboquant run -m MODEL -p PROMPT [-- more llama-completion flags]\n"
    "  turboquant run -m MODEL                  opens llama.cpp's chat\n"
    "  turboquant run -- llama-server -m MODEL  any llama.cpp tool; its exit code passes through";

constexpr char kDoctorDescription[] =
    "Says which llama.cpp and ggml are used, whether the plugin loads, the instruction set and\n"
    "the policy; with -m also how many layers of that model are compressed. Exits with 0 only if\n"
    "compression works.";

constexpr char kValidateDescription[] =
    "Measures every codec against theory: Lloyd-Max distortion, inner products and their bias, "
    "rate\n"
    "and distortion beside Shannon's bound, the sign projection, time of a row. Exits with 1 if a\n"
    "figure is off its bound. Figures come from fixed seeds and are the same everywhere.";

constexpr char kEncodeDescription[] =
    "Compresses an array of vectors, NPY or raw floats, into a row file (.tq) with checksums.\n"
    "  turboquant encode keys.npy keys.tq --codec turbo3t\n"
    "  turboquant encode keys.f16 keys.tq --raw f16 --dim 128\n"
    "Codecs: turbo1..turbo4, turbo8, turbo2t..turbo4t (trellis), turbo2.5, turbo3.5, "
    "turbo2q..turbo4q\n"
    "(unbiased), and for comparison f16 q8_0 q4_0 nf4 kivi2 uniform2 ...; options behind a colon:\n"
    "turbo3:scale=unbiased,seed=7";

constexpr char kDecodeDescription[] =
    "Writes a row file back as NPY, or with --raw as values alone. A file that is cut off or "
    "altered is\n"
    "refused.";

constexpr char kInspectDescription[] =
    "Says what is in a row file and whether it is intact, or describes an NPY or raw array.";

constexpr char kSearchDescription[] =
    "Finds the vectors of greatest inner product with each query in a row file; with --exact, "
    "recall\n"
    "and speed beside exact search over the array before compression.";

constexpr char kCodebookDescription[] =
    "Prints the Lloyd-Max codebook of N(0, 1), or with -d of a coordinate of the sphere of d "
    "dimensions.";

void AddRun(CLI::App* app, RunOptions* options) {
  app->add_option("-m,--model", options->model, "model file (GGUF)");
  CLI::Option* prompt = app->add_option("-p,--prompt", options->prompt, "prompt");
  app->add_option("-f,--file", options->prompt_file, "file that holds the prompt")
      ->excludes(prompt)
      ->check(CLI::ExistingFile);
  app->add_option("--kv", options->kv, "format of the KV cache, see below")->type_name("SPEC");
  app->add_option("-n,--predict", options->predict, "tokens to generate")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 24));
  app->add_option("-c,--ctx-size", options->context, "tokens of context")
      ->capture_default_str()
      ->check(CLI::Range(16, 1 << 24));
  app->add_option("-t,--threads", options->threads, "threads (default: llama.cpp's choice)")
      ->check(CLI::Range(1, 1024));
  app->add_option("--temp", options->temperature, "sampling temperature; 0: greedy")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 10.0));
  app->add_option("--seed", options->seed, "sampling seed")->capture_default_str();
  app->add_option("--llama-bin", options->llama_bin, "folder of llama.cpp's tools")
      ->type_name("DIR");
  app->add_flag("--no-compare", options->no_compare, "do not run f16 for comparison");
  app->add_flag("--json", options->json, "print one JSON document instead of text and table");
}

void AddDoctor(CLI::App* app, DoctorOptions* options) {
  app->add_option("-m,--model", options->model, "also check this model's KV cache");
  app->add_option("--kv", options->kv, "policy to check with, see below")->type_name("SPEC");
  app->add_option("--llama-bin", options->llama_bin, "folder of llama.cpp's tools")
      ->type_name("DIR");
  app->add_flag("--json", options->json, "print one JSON document");
}

void AddValidate(CLI::App* app, ValidateOptions* options) {
  app->add_option("--rows", options->rows, "rows of a distortion cell")
      ->capture_default_str()
      ->check(CLI::Range(1000, 10000000));
  app->add_option("-t,--threads", options->threads, "threads (default: all)")
      ->check(CLI::Range(1, 1024));
  app->add_flag("--no-timing", options->no_timing, "do not measure times");
  CLI::Option* json = app->add_flag("--json", options->json, "print one JSON document");
  app->add_flag("--csv", options->csv, "print CSV")->excludes(json);
  app->add_option("--svg", options->svg, "also write the plot of distortion against bits")
      ->type_name("FILE");
}

void AddThreads(CLI::App* app, int* threads) {
  app->add_option("-t,--threads", *threads, "threads (default: all)")->check(CLI::Range(1, 1024));
}

void AddRaw(CLI::App* app, RawOptions* raw) {
  CLI::Option* dim = app->add_option("--dim", raw->dim, "values of a vector of raw input")
                         ->check(CLI::Range(1, 1 << 30));
  CLI::Option* type = app->add_option("--raw", raw->type, "input is raw floats: f32, f16 or f64")
                          ->type_name("TYPE")
                          ->check(CLI::IsMember({"f32", "f16", "f64"}));
  type->needs(dim);
  dim->needs(type);
}

void AddEncode(CLI::App* app, EncodeOptions* options) {
  app->add_option("input", options->input, "array to compress")->required();
  app->add_option("output", options->output, "row file to write")->required();
  app->add_option("--codec", options->codec, "codec, see above and below")
      ->capture_default_str()
      ->type_name("SPEC");
  app->add_option("--head-dim", options->head_dim,
                  "values of a row; vectors are cut into rows (default: the largest that fits)")
      ->check(CLI::Range(16, 1024));
  AddRaw(app, &options->raw);
  AddThreads(app, &options->threads);
  app->add_flag("--json", options->json, "print one JSON document");
}

void AddDecode(CLI::App* app, DecodeOptions* options) {
  app->add_option("input", options->input, "row file")->required();
  app->add_option("output", options->output, "file to write")->required();
  app->add_option("--type", options->type, "f32, f16 or f64")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "f16", "f64"}));
  app->add_flag("--raw", options->raw, "values alone, without NPY header");
  AddThreads(app, &options->threads);
  app->add_flag("--json", options->json, "print one JSON document");
}

void AddInspect(CLI::App* app, InspectOptions* options) {
  app->add_option("input", options->input, "row file or array")->required();
  AddRaw(app, &options->raw);
  AddThreads(app, &options->threads);
  app->add_flag("--json", options->json, "print one JSON document");
}

void AddSearch(CLI::App* app, SearchOptions* options) {
  app->add_option("base", options->base, "row file with the vectors")->required();
  app->add_option("queries", options->queries, "array of queries")->required();
  app->add_option("--exact", options->exact, "the array before compression, to compare with");
  app->add_option("-k", options->k, "neighbours of each query")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  app->add_option("--show", options->show, "queries whose neighbours are printed")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000));
  AddRaw(app, &options->raw);
  AddThreads(app, &options->threads);
  app->add_flag("--json", options->json, "print one JSON document, all neighbours in it");
}

void AddCodebook(CLI::App* app, CodebookOptions* options) {
  app->add_option("-b,--bits", options->bits, "bits of a code")
      ->capture_default_str()
      ->check(CLI::Range(1, 8));
  app->add_option("-d,--dim", options->dim, "dimension of the sphere; 0: N(0, 1)")
      ->capture_default_str()
      ->check(CLI::Range(0, 65536));
  app->add_flag("--grid", options->grid, "on the byte grid of the stored formats, 1 to 4 bits");
  CLI::Option* json = app->add_flag("--json", options->json, "print one JSON document");
  app->add_flag("--csv", options->csv, "print CSV")->excludes(json);
}

int Main(int argc, char** argv) {
  // What stands behind the first -- belongs to llama.cpp, untouched.
  std::vector<std::string> own;
  RunOptions run;
  DoctorOptions doctor;
  ValidateOptions validate;
  EncodeOptions encode;
  DecodeOptions decode;
  InspectOptions inspect;
  SearchOptions search;
  CodebookOptions codebook;
  BenchArguments bench;
  int i = 1;
  for (; i < argc && std::string(argv[i]) != "--"; ++i) own.emplace_back(argv[i]);
  const bool has_passthrough = i < argc;
  for (++i; i < argc; ++i) run.passthrough.emplace_back(argv[i]);

  CLI::App app(kDescription, "turboquant");
  app.footer(kExitCodes);
  app.set_version_flag("--version", std::string("turboquant ") + turboquant::BuildVersion());
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, std::function<int()>>> commands;
  const auto add = [&](const char* name, const char* description, auto add_options, auto command,
                       auto* options) {
    CLI::App* sub = app.add_subcommand(name, description);
    add_options(sub, options);
    commands.emplace_back(sub, [command, options] { return command(*options); });
  };
  add("run", kRunDescription, AddRun, turboquant::RunCommand, &run);
  add("doctor", kDoctorDescription, AddDoctor, turboquant::DoctorCommand, &doctor);
  add("encode", kEncodeDescription, AddEncode, turboquant::EncodeCommand, &encode);
  add("decode", kDecodeDescription, AddDecode, turboquant::DecodeCommand, &decode);
  add("inspect", kInspectDescription, AddInspect, turboquant::InspectCommand, &inspect);
  add("search", kSearchDescription, AddSearch, turboquant::SearchCommand, &search);
  add("codebook", kCodebookDescription, AddCodebook, turboquant::CodebookCommand, &codebook);
  add("validate", kValidateDescription, AddValidate, turboquant::ValidateCommand, &validate);
  add("bench", turboquant::kBenchDescription, turboquant::AddBench, turboquant::BenchCommand,
      &bench);
  app.footer(std::string(kCacheFooter) + kExitCodes);
  CLI::App* const bench_app = app.get_subcommand("bench");
  for (CLI::App* sub : {app.get_subcommand("run"), app.get_subcommand("doctor"),
                        bench_app->get_subcommand("attention"), bench_app->get_subcommand("e2e")}) {
    sub->footer(app.get_footer());
  }
  app.get_subcommand("encode")->footer(std::string(kEncodeFooter) + kExitCodes);
  bench.output.command_line = turboquant::CommandLineText(own);

  if (argc == 1) {
    std::fputs(app.help().c_str(), stdout);
    return turboquant::kExitOk;
  }
  if (!own.empty() && own[0][0] != '-') {
    std::string names;
    bool known = false;
    for (const auto& [sub, command] : commands) {
      known = known || sub->get_name() == own[0];
      names += (names.empty() ? "" : ", ") + sub->get_name();
    }
    if (!known) {
      turboquant::PrintError("unknown command '" + own[0] + "'; the commands are " + names);
      return turboquant::kExitUsage;
    }
  }
  try {
    std::vector<std::string> reversed(own.rbegin(), own.rend());
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    turboquant::PrintError(std::string(error.what()) + " (see turboquant --help)");
    return turboquant::kExitUsage;
  }
  for (const auto& [sub, command] : commands) {
    if (!sub->parsed()) continue;
    if (has_passthrough && sub->get_name() != "run") {
      turboquant::PrintError("-- is only for turboquant run");
      return turboquant::kExitUsage;
    }
    return command();
  }
  return turboquant::kExitUsage;  // not reached: a command is required
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {
    turboquant::PrintError(error.what());
    return turboquant::kExitFailure;
  }
}
