// turboquant bench: how fast kernels, attention and whole models are, beside their contenders.
#ifndef TURBOQUANT_CLI_BENCH_COMMAND_H_
#define TURBOQUANT_CLI_BENCH_COMMAND_H_

#include <string>
#include <vector>

namespace turboquant {

// Of all three.
struct BenchOutput {
  std::string format = "table";  // table, md, csv, json
  std::string svg;               // path; empty: none
  std::string command_line;      // for the record
};

struct BenchKernelsOptions {
  std::vector<std::string> tables;   // empty: all of this processor
  std::vector<std::string> formats;  // empty: all
  std::vector<int> head_dims;        // empty: 64 and 128, quick: 128
  std::vector<int> groups;           // empty: 1 and 4, quick: 4
  int threads = 0;                   // 0: 2, or 1 where there is no second
  int rounds = 0;                    // 0: 9, quick: 5
  double sample_ms = 0;              // 0: 3, quick: 1
  int memory_mib = 0;                // 0: chosen from the caches
  bool quick = false;
  BenchOutput output;
};

struct BenchAttentionOptions {
  std::string table;            // empty: the best of this processor
  std::vector<std::string> kv;  // ours; empty: turbo4, balanced, turbo3, turbo2
  int head_dim = 128;
  int kv_heads = 0;          // 0: 2, cuda: 8
  int group = 0;             // 0: 6, cuda: 4
  std::vector<int> tokens;   // empty: 1 and 512, quick: 1 and 128
  std::vector<int> cells;    // empty: 1024, 4096 and 16384, quick: 1024, 4096; cuda: 8, 32, 128 Ki
  std::vector<int> threads;  // empty: 1 and 2
  int rounds = 0;            // 0: 5, quick: 3
  double sample_ms = 0;      // 0: 10
  bool quick = false;
  std::string device = "cpu";  // or cuda
  std::string cuda_library;    // path; empty: found as the library finds it
  int batch = 1;               // sequences, cuda only
  BenchOutput output;
};

struct BenchEndToEndOptions {
  std::string model;
  std::vector<std::string> stock = {"f16", "q8_0", "q4_0"};  // llama.cpp's own caches
  std::vector<std::string> kv;                               // ours; empty: balanced
  std::vector<int> depths = {0, 4096};
  int prompt = 512;
  int generate = 32;
  int rounds = 3;
  int threads = 0;  // 0: all of the machine
  std::string llama_bin;
  BenchOutput output;
};

// Return the exit code.
int BenchKernelsCommand(const BenchKernelsOptions& options);
int BenchAttentionCommand(const BenchAttentionOptions& options);
int BenchCudaAttentionCommand(const BenchAttentionOptions& options);
int BenchEndToEndCommand(const BenchEndToEndOptions& options);

}  // namespace turboquant

#endif  // TURBOQUANT_CLI_BENCH_COMMAND_H_
