#include "cli/bench_options.h"

#include <cstdio>
#include <filesystem>

#include "cli/exit_code.h"

namespace turboquant {

const char kBenchDescription[] =
    "Measures speed beside its bound and its contenders, results checked before they are timed.\n"
    "  turboquant bench kernels --quick     kernels of this processor, cycles a row\n"
    "  turboquant bench attention --quick   attention of one layer, decode and prefill\n"
    "  turboquant bench attention --device cuda     decode attention on an NVIDIA GPU\n"
    "  turboquant bench e2e -m MODEL        stock llama.cpp with and without the plugin, tokens/s\n"
    "Each mode prints a table, -o md, csv or json, and --svg FILE draws it.";

namespace {

constexpr char kKernelsDescription[] =
    "Kernels of attention (scores of keys, sums of values) and of coding, for every instruction "
    "set\n"
    "of this processor and every format: cycles a row with the codes in the L2 cache, time and\n"
    "bandwidth from memory on one thread and on all, beside the bound (bytes over the measured "
    "read\n"
    "bandwidth) and an f16 cache on the same instructions.";

void AddOutput(CLI::App* app, BenchOutput* output) {
  app->add_option("-o,--output", output->format, "table, md, csv or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"table", "md", "csv", "json"}));
  app->add_option("--svg", output->svg, "also write a plot")->type_name("FILE");
}

void AddKernels(CLI::App* app, BenchArguments* arguments) {
  BenchKernelsOptions* options = &arguments->kernels;
  app->add_option("--isa", options->tables,
                  "scalar, avx2, avxvnni, avx512, avx512amx, neon, neondot (default: all it has)")
      ->delimiter(',');
  app->add_option("--format", options->formats, "turbo4,turbo3,... (default: all)")->delimiter(',');
  app->add_option("-d,--head-dim", options->head_dims, "values of a row (default: 64,128)")
      ->delimiter(',');
  app->add_option("-g,--group", options->groups, "query heads that share a kv head (default: 1,4)")
      ->delimiter(',');
  app->add_option("-t,--threads", options->threads, "threads of figures from memory (default: 2)")
      ->check(CLI::Range(1, 256));
  app->add_option("-r,--rounds", options->rounds, "rounds, of which the median (default: 9)")
      ->check(CLI::Range(1, 1000));
  app->add_option("--sample-ms", options->sample_ms, "time of one sample (default: 3)")
      ->check(CLI::Range(0.001, 1000.0));
  app->add_option("--memory", options->memory_mib,
                  "MiB to walk around for figures from memory (default: 4 x L3, at most 1024)")
      ->check(CLI::Range(8, 1 << 20));
  app->add_flag("--quick", options->quick, "one shape, 5 rounds of 1 ms");
  AddOutput(app, &arguments->output);
}

constexpr char kAttentionDescription[] =
    "The whole attention of one layer over a cache of so many cells: decoding of one token and "
    "prefill\n"
    "of many, compressed caches beside an f16 cache with the same rows. Errors are checked against "
    "double\n"
    "before timing. With --device cuda: decoding of one token of --batch sequences on the GPU, "
    "codes\n"
    "alone, beside the bandwidth of a copy on the device.";

void AddAttention(CLI::App* app, BenchArguments* arguments) {
  BenchAttentionOptions* options = &arguments->attention;
  app->add_option("--kv", options->kv,
                  "our caches, a SPEC each (default: turbo4, balanced, turbo3, turbo2)")
      ->type_name("SPEC")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_option("--isa", options->table,
                  "scalar, avx2, avxvnni, avx512, avx512amx, neon, neondot (default: the best)");
  app->add_option("-d,--head-dim", options->head_dim, "values of a row")->capture_default_str();
  app->add_option("--kv-heads", options->kv_heads, "kv heads (default: 2, cuda: 8)")
      ->check(CLI::Range(1, 256));
  app->add_option("-g,--group", options->group,
                  "query heads that share a kv head (default: 6, cuda: 4)")
      ->check(CLI::Range(1, 64));
  app->add_option("-n,--cells", options->cells,
                  "cells of the cache, the new tokens' included (default: 1024,4096,16384; cuda: "
                  "8192,32768,131072)")
      ->delimiter(',')
      ->check(CLI::Range(2, 1 << 22));
  app->add_option("--tokens", options->tokens, "new tokens (default: 1,512)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16));
  app->add_option("-t,--threads", options->threads, "threads (default: 1,2)")
      ->delimiter(',')
      ->check(CLI::Range(1, 256));
  app->add_option("-r,--rounds", options->rounds, "rounds, of which the median (default: 5)")
      ->check(CLI::Range(1, 1000));
  app->add_option("--sample-ms", options->sample_ms, "least time of one sample (default: 10)")
      ->check(CLI::Range(0.001, 10000.0));
  app->add_flag("--quick", options->quick, "1024 and 4096 cells, 1 and 128 tokens, 3 rounds");
  app->add_option("--device", options->device, "cpu or cuda")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app->add_option("--batch", options->batch, "cuda: sequences")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app->add_option("--cuda-library", options->cuda_library,
                  "cuda: path of libturboquant_cuda, if it is not where libraries are")
      ->type_name("FILE");
  AddOutput(app, &arguments->output);
}

constexpr char kEndToEndDescription[] =
    "Runs the stock llama-bench with llama.cpp's own KV caches and with ours in turns: tokens a "
    "second\n"
    "of a prompt and of generation behind so many tokens, as a ratio to the first cache, and the "
    "bytes\n"
    "of the cache. Ends without figures if the plugin was not active where it should be.\n"
    "  turboquant bench attention --quick   attention of one layer, decode and prefill\n"
    "  turboquant bench e2e -m MODEL --kv turbo4 --kv turbo3,tail=256 -d 0,4096,16384";

void AddEndToEnd(CLI::App* app, BenchArguments* arguments) {
  BenchEndToEndOptions* options = &arguments->end_to_end;
  app->add_option("-m,--model", options->model, "model file (GGUF)");
  app->add_option("--kv", options->kv, "our caches, a SPEC each (default: balanced)")
      ->type_name("SPEC")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_option("--stock", options->stock, "llama.cpp's own caches, keys/values")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("-d,--depth", options->depths, "tokens in the cache before a test")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  app->add_option("-p,--prompt", options->prompt, "tokens of the prompt test; 0: none")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  app->add_option("-n,--generate", options->generate, "tokens of the generation test; 0: none")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  app->add_option("-r,--rounds", options->rounds, "rounds, of which the median")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app->add_option("-t,--threads", options->threads, "threads (default: all)")
      ->check(CLI::Range(1, 1024));
  app->add_option("--llama-bin", options->llama_bin, "folder of llama.cpp's tools")
      ->type_name("DIR");
  AddOutput(app, &arguments->output);
}

}  // namespace

void AddBench(CLI::App* app, BenchArguments* arguments) {
  arguments->app = app;
  app->require_subcommand(0, 1);
  AddKernels(app->add_subcommand("kernels", kKernelsDescription), arguments);
  AddAttention(app->add_subcommand("attention", kAttentionDescription), arguments);
  AddEndToEnd(app->add_subcommand("e2e", kEndToEndDescription), arguments);
}

int BenchCommand(const BenchArguments& arguments) {
  if (arguments.app->got_subcommand("kernels")) {
    BenchKernelsOptions options = arguments.kernels;
    options.output = arguments.output;
    return BenchKernelsCommand(options);
  }
  if (arguments.app->got_subcommand("attention")) {
    BenchAttentionOptions options = arguments.attention;
    options.output = arguments.output;
    return BenchAttentionCommand(options);
  }
  if (arguments.app->got_subcommand("e2e")) {
    BenchEndToEndOptions options = arguments.end_to_end;
    options.output = arguments.output;
    return BenchEndToEndCommand(options);
  }
  std::fputs(arguments.app->help().c_str(), stdout);
  return kExitOk;
}

std::string CommandLineText(const std::vector<std::string>& arguments) {
  std::string text = "turboquant";
  for (const std::string& argument : arguments) {
    const std::string word = argument.find('/') == std::string::npos
                                 ? argument
                                 : std::filesystem::path(argument).filename().string();
    const bool plain = !word.empty() && word.find_first_of(" \t\"'$&|<>;*?()") == std::string::npos;
    text += plain ? " " + word : " '" + word + "'";
  }
  return text;
}

}  // namespace turboquant
