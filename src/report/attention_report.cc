// The report of `turboquant bench attention`.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "report/bench_document.h"
#include "report/chart.h"

namespace turboquant {
namespace {

const AttentionFigure* Find(const AttentionBenchResult& result, const AttentionFigure& like,
                            const std::string& cache, int threads) {
  for (const AttentionFigure& f : result.figures) {
    if (f.tokens == like.tokens && f.cells == like.cells && f.cache == cache &&
        f.threads == threads) {
      return &f;
    }
  }
  return nullptr;
}

double OverF16(const AttentionBenchResult& result, const AttentionFigure& f) {
  const AttentionFigure* f16 = Find(result, f, "f16", f.threads);
  return f16 == nullptr ? 0 : f16->seconds.median / f.seconds.median;
}

template <typename T, typename Member>
std::vector<T> Distinct(const std::vector<AttentionFigure>& figures, Member member) {
  std::vector<T> values;
  for (const AttentionFigure& f : figures) {
    if (std::find(values.begin(), values.end(), f.*member) == values.end()) {
      values.push_back(f.*member);
    }
  }
  return values;
}

// "1 token" is a step of generation.
std::string StepName(int tokens) {
  return tokens == 1 ? "1 new token" : fmt::format("{} new tokens", tokens);
}

BenchJson Records(const AttentionBenchResult& result) {
  BenchJson records = BenchJson::array();
  for (const AttentionFigure& f : result.figures) {
    records.push_back({{"cache", f.cache},
                       {"policy", f.policy.empty() ? BenchJson(nullptr) : BenchJson(f.policy)},
                       {"table", result.table},
                       {"head_dim", result.head_dim},
                       {"kv_heads", result.num_kv_heads},
                       {"group", result.group},
                       {"tokens", f.tokens},
                       {"cells", f.cells},
                       {"threads", f.threads},
                       {"microseconds", f.seconds.median * 1e6},
                       {"microseconds_min", f.seconds.min * 1e6},
                       {"microseconds_max", f.seconds.max * 1e6},
                       {"rounds", f.seconds.rounds},
                       {"tokens_per_second", f.tokens / f.seconds.median},
                       {"times_f16", OverF16(result, f)},
                       {"cache_bytes", f.cache_bytes},
                       {"bits_per_value", f.bits_per_value},
                       {"gigabytes_per_second", f.cache_bytes / f.seconds.median * 1e-9},
                       {"relative_error", f.error},
                       {"loss_against_f16", f.loss},
                       {"seed", result.seed}});
  }
  return records;
}

BenchTable TableOf(const AttentionBenchResult& result, int tokens) {
  BenchTable table;
  table.title = fmt::format("{}: one layer, rows of {} values, {} kv heads, {} query heads each",
                            StepName(tokens), result.head_dim, result.num_kv_heads, result.group);
  const std::vector<int> threads = Distinct<int>(result.figures, &AttentionFigure::threads);
  table.rows = {{"cache", "cells", "MiB", "bits/value"}};
  for (int t : threads) {
    table.rows[0].insert(table.rows[0].end(),
                         {fmt::format("{} thread{}: us", t, t == 1 ? "" : "s"), "+-", "x f16"});
  }
  table.rows[0].insert(table.rows[0].end(), {"error", "loss"});
  for (const AttentionFigure& f : result.figures) {
    if (f.tokens != tokens || f.threads != threads[0]) continue;
    std::vector<std::string> row = {f.cache, std::to_string(f.cells),
                                    Three(f.cache_bytes / (1 << 20)),
                                    fmt::format("{:.2f}", f.bits_per_value)};
    for (int t : threads) {
      const AttentionFigure* other = Find(result, f, f.cache, t);
      if (other == nullptr) continue;
      row.push_back(Three(other->seconds.median * 1e6));
      row.push_back(Spread(other->seconds));
      row.push_back(fmt::format("{:.2f}x", OverF16(result, *other)));
    }
    row.push_back(fmt::format("{:.0e}", f.error));
    row.push_back(f.policy.empty() ? "-" : fmt::format("{:.3f}", f.loss));
    table.rows.push_back(row);
  }
  return table;
}

std::vector<ChartSeries> SeriesOf(const AttentionBenchResult& result, int tokens, int threads) {
  std::vector<ChartSeries> all;
  int ours = 0;
  for (const std::string& cache : Distinct<std::string>(result.figures, &AttentionFigure::cache)) {
    ChartSeries series;
    series.name = cache;
    if (cache == "f16") {
      series.color = kChartGrey;
      series.marker = SvgMarker::kSquare;
    } else {
      series.color = ChartColor(ours++);
    }
    for (const AttentionFigure& f : result.figures) {
      if (f.cache != cache || f.tokens != tokens || f.threads != threads) continue;
      const Timing us = f.seconds * 1e6;
      series.points.push_back({static_cast<double>(f.cells), us.median, us.min, us.max,
                               fmt::format("{}, {} cells: {} us, {:.2f}x f16", cache, f.cells,
                                           Three(us.median), OverF16(result, f))});
    }
    all.push_back(series);
  }
  return all;
}

std::string SvgOf(const BenchProvenance& provenance, const AttentionBenchResult& result) {
  const std::vector<int> tokens = Distinct<int>(result.figures, &AttentionFigure::tokens);
  int threads = 1;
  for (const AttentionFigure& f : result.figures) threads = std::max(threads, f.threads);
  const double width = std::max(640.0, 40 + 570.0 * static_cast<double>(tokens.size()));
  Svg svg(width, 530, "turboquant: attention of one layer",
          "Time of one layer's attention over the number of cells for every cache");
  svg.Text({40, 36}, 20, SvgAnchor::kStart, "Attention of one layer by the cache's format",
           "fill=\"#111\" font-weight=\"700\"");
  svg.Text({40, 58}, 13, SvgAnchor::kStart,
           fmt::format("Rows of {} values, {} kv heads, {} query heads each; {}, {}, {} threads",
                       result.head_dim, result.num_kv_heads, result.group, result.machine.cpu,
                       result.table, threads),
           "fill=\"#555\"");
  double left = 96;
  for (int t : tokens) {
    DrawLines({{left, 140, left + 480, 440},
               StepName(t) + ": time, less is better",
               "cells of the cache",
               "microseconds"},
              ChartScale::kLogarithmic, SeriesOf(result, t, threads), &svg);
    left += 570;
  }
  DrawLegend({48, 92}, SeriesOf(result, tokens[0], threads), &svg);
  svg.Text({40, 516}, 11, SvgAnchor::kStart, ProvenanceLine(provenance), "fill=\"#999\"");
  return svg.Finish();
}

}  // namespace

BenchReport ReportAttention(const BenchProvenance& provenance, const AttentionBenchResult& result) {
  BenchReport report;
  const auto [fewest, most] = std::minmax_element(result.layers.begin(), result.layers.end());
  report.conditions = {MachineLine(result.machine),
                       fmt::format("{} kernels, threads {}; {} layers of the same rows take turns",
                                   result.table, result.pinned ? "pinned" : "not pinned",
                                   *fewest == *most ? std::to_string(*fewest)
                                                    : fmt::format("{} to {}", *fewest, *most))};
  std::vector<std::string> said;
  for (const AttentionFigure& f : result.figures) {
    if (f.policy.empty() || std::find(said.begin(), said.end(), f.cache) != said.end()) continue;
    said.push_back(f.cache);
    report.conditions.push_back(fmt::format("{}: {}", f.cache, f.policy));
  }
  for (int tokens : Distinct<int>(result.figures, &AttentionFigure::tokens)) {
    report.tables.push_back(TableOf(result, tokens));
  }
  report.notes = {
      fmt::format("Medians of {} interleaved rounds; +- is half of the distance between the "
                  "quartiles. f16: an f16 "
                  "cache by our own attention on the same instructions.",
                  result.rounds),
      "error: relative to double over the rows as the cache decodes them, checked before timing. "
      "loss: what the codec costs against f16, on random rows (logits with a deviation of 2)."};
  if (const std::string busy = BusyNote(result.processor_share); !busy.empty()) {
    report.notes.push_back(busy);
  }
  const BenchJson conditions = {{"table", result.table},
                                {"head_dim", result.head_dim},
                                {"kv_heads", result.num_kv_heads},
                                {"group", result.group},
                                {"layers", result.layers},
                                {"threads_pinned", result.pinned},
                                {"rounds", result.rounds},
                                {"seed", result.seed},
                                {"processor_share", result.processor_share},
                                {"seconds", result.seconds}};
  const BenchJson records = Records(result);
  report.json = BenchJsonText(provenance, "attention", result.machine, conditions, records);
  report.csv = BenchCsvText(provenance, "attention", result.machine, records);
  report.svg = SvgOf(provenance, result);
  return report;
}

}  // namespace turboquant
