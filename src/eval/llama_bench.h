// A comparison of KV caches by the stock llama-bench: what it says, as numbers, and what its runs
// together show. Running it is the command's work (cli/bench_e2e.cc).
#ifndef TURBOQUANT_EVAL_LLAMA_BENCH_H_
#define TURBOQUANT_EVAL_LLAMA_BENCH_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "eval/machine.h"
#include "eval/timing.h"

namespace turboquant {

// One test of one run.
struct LlamaBenchTest {
  int prompt = 0;    // tokens of the prompt, or 0
  int generate = 0;  // tokens generated, or 0
  int depth = 0;     // tokens in the cache before it
  double tokens_per_second = 0;
  std::string type_k, type_v;  // of the cache, as llama-bench says
  std::string model_type;      // "llama 256M Q4_1"
  std::string build_commit;    // of llama.cpp
};

// The output of llama-bench -o json.
Result<std::vector<LlamaBenchTest>> ParseLlamaBench(std::string_view json);

// A cache that is compared.
struct CacheContender {
  std::string name;            // as the user wrote it
  bool stock = true;           // llama.cpp's own, without the plugin
  std::string type_k, type_v;  // stock: of -ctk and -ctv
  std::string policy;          // ours: in full
};

// "q8_0", "q8_0/q4_0": a stock contender. False if it is none.
bool ParseStockCache(std::string_view name, CacheContender* contender);

// One contender in one test at one depth.
struct EndToEndFigure {
  size_t contender = 0;
  bool prompt = false;  // else generation
  int tokens = 0;       // of the test
  int depth = 0;
  Timing tokens_per_second;
  std::vector<double> samples;
  double kv_mib = 0;          // of the KV cache in this test; 0: unknown
  double bits_per_value = 0;  // measured; 0: unknown
};

struct EndToEndResult {
  Machine machine;
  std::string model_name;
  std::string model_sha256;
  std::string model_type;
  std::string llama_commit;
  std::string ggml_version;
  int threads = 0;
  int rounds = 0;
  double other_load = 0;  // share of the machine that others used meanwhile
  double seconds = 0;
  std::vector<CacheContender> contenders;
  std::vector<EndToEndFigure> figures;  // by test, depth, contender
};

// The figure of another contender in the same test; null if there is none.
const EndToEndFigure* SameTest(const EndToEndResult& result, const EndToEndFigure& figure,
                               size_t contender);

}  // namespace turboquant

#endif  // TURBOQUANT_EVAL_LLAMA_BENCH_H_
