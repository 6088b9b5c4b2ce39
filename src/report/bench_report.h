// Measurements of speed as documents: tables for people, JSON and CSV with every figure, a plot.
// Every document says how it came about.
#ifndef TURBOQUANT_REPORT_BENCH_REPORT_H_
#define TURBOQUANT_REPORT_BENCH_REPORT_H_

#include <string>
#include <vector>

#include "eval/attention_bench.h"
#include "eval/cuda_attention_bench.h"
#include "eval/kernel_bench.h"
#include "eval/llama_bench.h"

namespace turboquant {

// Version of the JSON documents.
inline constexpr int kBenchSchemaVersion = 1;

struct BenchProvenance {
  std::string command;  // the command line
  std::string version;
  std::string commit;
  std::string date;  // 2026-01-31
};

struct BenchTable {
  std::string title;
  std::vector<std::vector<std::string>> rows;  // the first is the heading
};

struct BenchReport {
  std::vector<std::string> conditions;  // lines: the machine, what was measured and how
  std::vector<BenchTable> tables;
  std::vector<std::string> notes;  // lines: how to read the tables, what was wrong
  std::string json;
  std::string csv;
  std::string svg;
};

BenchReport ReportKernels(const BenchProvenance& provenance, const KernelBenchResult& result);
BenchReport ReportAttention(const BenchProvenance& provenance, const AttentionBenchResult& result);
BenchReport ReportCudaAttention(const BenchProvenance& provenance,
                                const CudaAttentionResult& result);
BenchReport ReportEndToEnd(const BenchProvenance& provenance, const EndToEndResult& result);

// Tables, conditions and notes as Markdown.
std::string BenchMarkdown(const BenchProvenance& provenance, const BenchReport& report);

}  // namespace turboquant

#endif  // TURBOQUANT_REPORT_BENCH_REPORT_H_
