// What the bench measures with: a wrong kernel ends it, whatever else happens.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "eval/attention_bench.h"
#include "eval/kernel_bench.h"
#include "eval/llama_bench.h"
#include "eval/timing.h"
#include "eval/work_team.h"

namespace turboquant {
namespace {

KernelBenchOptions TinyKernels(const KernelTable* table) {
  KernelBenchOptions options;
  options.tables = {table};
  options.formats = {Format::kTurbo3};
  options.head_dims = {64};
  options.groups = {2};
  options.threads = 1;
  options.rounds = 1;
  options.sample_seconds = 1e-5;
  options.memory_bytes = size_t{8} << 20;
  return options;
}

// Kernels with one fault each, around those of plain C++.
bool WrongEncode(int bits, const RotationView& r, const float* x, const float* mean, uint8_t* codes,
                 uint16_t* scale) {
  const bool finite = ScalarKernels().encode(bits, r, x, mean, codes, scale);
  codes[0] ^= 1;
  return finite;
}

void WrongDecode(const CodedRows& k, int n, float* out) {
  ScalarKernels().decode(k, n, out);
  out[n * k.head_dim - 1] *= 1.000001f;
}

void WrongScores(const CodedTiles& k, const uint8_t* prepared, int rows, int n, float* out,
                 int ld) {
  ScalarKernels().coded_scores(k, prepared, rows, n, out, ld);
  for (int j = 0; j < n; ++j) out[(rows - 1) * ld + j] *= 1.01f;
}

void WrongSums(const CodedTiles& v, const float* p, int ld, int rows, int n, float* o) {
  ScalarKernels().coded_accumulate(v, p, ld, rows, n - 1, o);  // forgets the last cell
}

void WrongHalfScores(const uint16_t* const* x, int head_dim, const float* q, int rows, int n,
                     float* out, int ld) {
  ScalarKernels().half_scores(x, head_dim, q, rows, n, out, ld);
  out[0] += 0.01f;
}

TEST(KernelBench, WrongKernelsAreNotTimed) {
  struct Fault {
    const char* name;
    void (*plant)(KernelTable* table);
  };
  const Fault faults[] = {
      {"encode", [](KernelTable* t) { t->encode = WrongEncode; }},
      {"decode", [](KernelTable* t) { t->decode = WrongDecode; }},
      {"coded_scores", [](KernelTable* t) { t->coded_scores = WrongScores; }},
      {"coded_accumulate", [](KernelTable* t) { t->coded_accumulate = WrongSums; }},
      {"half_scores", [](KernelTable* t) { t->half_scores = WrongHalfScores; }},
  };
  for (const Fault& fault : faults) {
    KernelTable table = ScalarKernels();
    fault.plant(&table);
    const auto result = BenchKernels(TinyKernels(&table));
    ASSERT_FALSE(result.ok()) << fault.name;
    EXPECT_EQ(result.status().code(), StatusCode::kInternal);
    EXPECT_EQ(result.status().message().rfind(fault.name, 0), 0u) << result.status().message();
  }
  EXPECT_TRUE(BenchKernels(TinyKernels(&ScalarKernels())).ok());
}

AttentionBenchOptions TinyAttention(const KernelTable* table) {
  AttentionBenchOptions options;
  options.kernels = table;
  options.policies = {Policy::Parse("turbo4,tail=32").value()};
  options.names = {"turbo4"};
  options.head_dim = 64;
  options.group = 2;
  options.tokens = {1};
  options.cells = {400};
  options.threads = {1, 2};
  options.rounds = 1;
  options.sample_seconds = 1e-5;
  return options;
}

TEST(AttentionBench, WrongAttentionIsNotTimed) {
  EXPECT_TRUE(BenchAttention(TinyAttention(&ScalarKernels())).ok());
  KernelTable table = ScalarKernels();
  table.coded_scores = WrongScores;
  const auto result = BenchAttention(TinyAttention(&table));
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kInternal);
  EXPECT_NE(result.status().message().find("turbo4 is wrong"), std::string::npos)
      << result.status().message();
}

TEST(WorkTeam, EveryThreadWorksOnceARunWhateverTheNumber) {
  WorkTeam team(4);
  std::vector<std::atomic<int>> calls(4);
  int expected[4] = {};
  for (int run = 0; run < 2000; ++run) {
    const int threads = 1 + run % team.threads();
    team.Run(threads, [&](int thread) {
      ++calls[thread];
      team.Barrier();
    });
    for (int t = 0; t < threads; ++t) ++expected[t];
  }
  for (int t = 0; t < team.threads(); ++t) EXPECT_EQ(calls[t], expected[t]) << t;
}

TEST(Timing, MedianQuartilesAndExtremes) {
  const Timing even = Summarise({4, 1, 3, 2});
  EXPECT_EQ(even.median, 2.5);
  EXPECT_EQ(even.min, 1);
  EXPECT_EQ(even.max, 4);
  EXPECT_EQ(even.rounds, 4);
  const Timing outlier = Summarise({10, 10, 10, 10, 1000});
  EXPECT_EQ(outlier.median, 10);
  EXPECT_EQ(outlier.spread(), 0);
  EXPECT_EQ(Summarise({1, 2, 3, 4, 5}).spread(), 1.0 / 3);
  EXPECT_EQ(Summarise({}).rounds, 0);
}

TEST(Sha256, VectorsOfTheStandard) {
  const auto hash = [](const std::string& text) {
    Sha256 sha;
    sha.Update(text.data(), text.size());
    return sha.Finish();
  };
  EXPECT_EQ(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  Sha256 pieces;
  for (int i = 0; i < 1000; ++i) pieces.Update(std::string(1000, 'a').data(), 1000);
  EXPECT_EQ(pieces.Finish(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(LlamaBench, ReadsItsJsonAndNamesWhatIsMissing) {
  const auto tests = ParseLlamaBench(
      R"([{"n_prompt": 512, "n_gen": 0, "n_depth": 4096, "avg_ts": 123.5, "type_k": "q8_0",
           "type_v": "q4_0", "model_type": "llama 256M Q4_1", "build_commit": "abc"}])");
  ASSERT_TRUE(tests.ok()) << tests.status().message();
  EXPECT_EQ(tests.value()[0].prompt, 512);
  EXPECT_EQ(tests.value()[0].depth, 4096);
  EXPECT_EQ(tests.value()[0].tokens_per_second, 123.5);
  EXPECT_EQ(tests.value()[0].type_v, "q4_0");
  for (const char* bad : {"", "{}", "[]", "[1]", "not json", R"([{"n_prompt": 1}])",
                          R"([{"n_prompt": 1, "n_gen": 0, "n_depth": 0, "avg_ts": "fast"}])",
                          R"([{"n_prompt": 1, "n_gen": 0, "n_depth": 0, "avg_ts": 0}])"}) {
    EXPECT_EQ(ParseLlamaBench(bad).status().code(), StatusCode::kUnsupported) << bad;
  }
}

TEST(LlamaBench, StockCaches) {
  CacheContender c;
  ASSERT_TRUE(ParseStockCache("q8_0/q4_0", &c));
  EXPECT_EQ(c.type_k, "q8_0");
  EXPECT_EQ(c.type_v, "q4_0");
  ASSERT_TRUE(ParseStockCache("f16", &c));
  EXPECT_EQ(c.type_v, "f16");
  for (const char* bad : {"", "turbo3", "q8_0/", "/q8_0", "f16/turbo3", "q8_0/q8_0/q8_0"}) {
    EXPECT_FALSE(ParseStockCache(bad, &c)) << bad;
  }
}

}  // namespace
}  // namespace turboquant
