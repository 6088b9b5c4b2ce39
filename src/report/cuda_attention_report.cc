// The report of `turboquant bench attention --device cuda`.
#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <vector>

#include "report/bench_document.h"
#include "report/chart.h"

namespace turboquant {
namespace {

double Share(const CudaAttentionResult& result, const CudaAttentionFigure& f) {
  return result.copy_bandwidth > 0 ? f.bytes / f.seconds.median / result.copy_bandwidth : 0;
}

std::string Splits(const CudaAttentionFigure& f) {
  return f.splits > 0 ? std::to_string(f.splits) : "uneven";
}

BenchJson Records(const CudaAttentionResult& result) {
  BenchJson records = BenchJson::array();
  for (const CudaAttentionFigure& f : result.figures) {
    records.push_back({{"cache", f.cache},
                       {"format", f.format},
                       {"device", result.device},
                       {"head_dim", result.head_dim},
                       {"kv_heads", result.num_kv_heads},
                       {"group", result.group},
                       {"batch", result.batch},
                       {"cells", f.cells},
                       {"path", f.path},
                       {"splits", f.splits > 0 ? BenchJson(f.splits) : BenchJson(nullptr)},
                       {"microseconds", f.seconds.median * 1e6},
                       {"microseconds_min", f.seconds.min * 1e6},
                       {"microseconds_max", f.seconds.max * 1e6},
                       {"rounds", f.seconds.rounds},
                       {"bytes", f.bytes},
                       {"bits_per_value", f.bits_per_value},
                       {"gigabytes_per_second", f.bytes / f.seconds.median * 1e-9},
                       {"share_of_copy_bandwidth", Share(result, f)},
                       {"relative_error", f.error},
                       {"seed", result.seed}});
  }
  return records;
}

std::string SvgOf(const BenchProvenance& provenance, const CudaAttentionResult& result) {
  std::vector<ChartSeries> series;
  for (const CudaAttentionFigure& f : result.figures) {
    auto at = std::find_if(series.begin(), series.end(),
                           [&](const ChartSeries& s) { return s.name == f.cache; });
    if (at == series.end()) {
      at = series.insert(series.end(), ChartSeries{});
      at->name = f.cache;
      at->color = ChartColor(static_cast<int>(series.size()) - 1);
    }
    const Timing us = f.seconds * 1e6;
    at->points.push_back({static_cast<double>(f.cells), us.median, us.min, us.max,
                          fmt::format("{}, {} cells: {} us, {:.0f} GB/s", f.cache, f.cells,
                                      Three(us.median), f.bytes / f.seconds.median * 1e-9)});
  }
  Svg svg(700, 530, "turboquant: decode attention on the GPU",
          "Time of one layer's decode attention over the number of cells for every cache");
  svg.Text({40, 36}, 20, SvgAnchor::kStart, "Decode attention of one layer on the GPU",
           "fill=\"#111\" font-weight=\"700\"");
  svg.Text({40, 58}, 13, SvgAnchor::kStart,
           fmt::format("{}: {} sequence{}, rows of {} values, {} kv heads, {} query heads each",
                       result.device, result.batch, result.batch == 1 ? "" : "s", result.head_dim,
                       result.num_kv_heads, result.group),
           "fill=\"#555\"");
  DrawLines({{96, 140, 640, 440}, "Time, less is better", "cells of a sequence", "microseconds"},
            ChartScale::kLogarithmic, series, &svg);
  DrawLegend({48, 92}, series, &svg);
  svg.Text({40, 516}, 11, SvgAnchor::kStart, ProvenanceLine(provenance), "fill=\"#999\"");
  return svg.Finish();
}

}  // namespace

BenchReport ReportCudaAttention(const BenchProvenance& provenance,
                                const CudaAttentionResult& result) {
  BenchReport report;
  report.conditions = {
      fmt::format("{}, {} multiprocessors, compute capability {}.{}; copies {} GB/s (read and "
                  "written)",
                  result.device, result.limits.num_sms, result.limits.compute_capability / 10,
                  result.limits.compute_capability % 10, Three(result.copy_bandwidth * 1e-9)),
      MachineLine(result.machine)};
  BenchTable table;
  table.title = fmt::format(
      "1 new token of {} sequence{}: one layer, rows of {} values, {} kv heads, {} "
      "query heads each",
      result.batch, result.batch == 1 ? "" : "s", result.head_dim, result.num_kv_heads,
      result.group);
  table.rows = {{"cache", "format", "cells", "MiB", "bits/value", "path", "splits", "us", "+-",
                 "GB/s", "of copy", "error"}};
  for (const CudaAttentionFigure& f : result.figures) {
    table.rows.push_back({f.cache, f.format, std::to_string(f.cells), Three(f.bytes / (1 << 20)),
                          fmt::format("{:.2f}", f.bits_per_value), f.path, Splits(f),
                          Three(f.seconds.median * 1e6), Spread(f.seconds),
                          Three(f.bytes / f.seconds.median * 1e-9), Percent(Share(result, f)),
                          fmt::format("{:.0e}", f.error)});
  }
  report.tables.push_back(table);
  report.notes = {
      fmt::format("Medians of {} replays of a graph of many launches, timed by events; several "
                  "caches take turns, so that cells come from memory. +- is half of the distance "
                  "between the quartiles.",
                  result.rounds),
      "of copy: codes and scales read a second over what a copy on the device reads and writes; "
      "reading alone may be faster than that. Codes alone: no window of exact rows.",
      "error: relative to double over the same rows coded by the CPU, checked before timing."};
  const BenchJson conditions = {{"gpu", result.device},
                                {"compute_capability", result.limits.compute_capability},
                                {"multiprocessors", result.limits.num_sms},
                                {"copy_bytes_per_second", result.copy_bandwidth},
                                {"head_dim", result.head_dim},
                                {"kv_heads", result.num_kv_heads},
                                {"group", result.group},
                                {"batch", result.batch},
                                {"rounds", result.rounds},
                                {"seed", result.seed},
                                {"seconds", result.seconds}};
  const BenchJson records = Records(result);
  report.json = BenchJsonText(provenance, "attention-cuda", result.machine, conditions, records);
  report.csv = BenchCsvText(provenance, "attention-cuda", result.machine, records);
  report.svg = SvgOf(provenance, result);
  return report;
}

}  // namespace turboquant
