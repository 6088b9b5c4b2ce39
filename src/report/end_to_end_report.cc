// The report of `turboquant bench e2e`.
#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "report/bench_document.h"
#include "report/chart.h"

namespace turboquant {
namespace {

constexpr double kBusy = 0.05;  // share of the machine from which others' work is worth a warning

std::string TestName(const EndToEndFigure& f) {
  return fmt::format("{}{}", f.prompt ? "pp" : "tg", f.tokens);
}

double OverFirst(const EndToEndResult& result, const EndToEndFigure& f) {
  const EndToEndFigure* first = SameTest(result, f, 0);
  return first == nullptr || first->tokens_per_second.median <= 0
             ? 0
             : f.tokens_per_second.median / first->tokens_per_second.median;
}

BenchJson Known(double value) { return value > 0 ? BenchJson(value) : BenchJson(nullptr); }

BenchJson Records(const EndToEndResult& result, bool samples) {
  BenchJson records = BenchJson::array();
  for (const EndToEndFigure& f : result.figures) {
    const CacheContender& c = result.contenders[f.contender];
    BenchJson record = {{"cache", c.name},
                        {"stock", c.stock},
                        {"policy", c.stock ? BenchJson(nullptr) : BenchJson(c.policy)},
                        {"test", f.prompt ? "prompt" : "generation"},
                        {"tokens", f.tokens},
                        {"depth", f.depth},
                        {"tokens_per_second", f.tokens_per_second.median},
                        {"tokens_per_second_min", f.tokens_per_second.min},
                        {"tokens_per_second_max", f.tokens_per_second.max},
                        {"rounds", f.tokens_per_second.rounds},
                        {"times_first", OverFirst(result, f)},
                        {"kv_mib", Known(f.kv_mib)},
                        {"bits_per_value", Known(f.bits_per_value)},
                        {"threads", result.threads},
                        {"model", result.model_name},
                        {"model_sha256", result.model_sha256}};
    if (samples) record["samples"] = f.samples;
    records.push_back(record);
  }
  return records;
}

BenchTable TableOf(const EndToEndResult& result, bool prompt) {
  BenchTable table;
  const std::string& first = result.contenders[0].name;
  table.rows = {{"cache", "depth", "tokens/s", "min", "max", "x " + first, "KV MiB", "bits/value"}};
  for (const EndToEndFigure& f : result.figures) {
    if (f.prompt != prompt) continue;
    table.title = prompt ? fmt::format("Prompt, {} tokens behind depth tokens", TestName(f))
                         : fmt::format("Generation, {} tokens behind depth tokens", TestName(f));
    const CacheContender& c = result.contenders[f.contender];
    table.rows.push_back({c.name, std::to_string(f.depth), Three(f.tokens_per_second.median),
                          Three(f.tokens_per_second.min), Three(f.tokens_per_second.max),
                          fmt::format("{:.2f}x", OverFirst(result, f)),
                          f.kv_mib > 0 ? Three(f.kv_mib) : "-",
                          f.bits_per_value > 0 ? fmt::format("{:.2f}", f.bits_per_value) : "-"});
  }
  return table;
}

std::vector<ChartSeries> SeriesOf(const EndToEndResult& result, bool prompt) {
  constexpr std::string_view kStockColors[] = {kChartGrey, "#3d3d3d", "#b5b5b5"};
  constexpr SvgMarker kMarkers[] = {SvgMarker::kSquare, SvgMarker::kTriangle, SvgMarker::kDiamond};
  std::vector<ChartSeries> all;
  int stock = 0;
  int ours = 0;
  for (size_t i = 0; i < result.contenders.size(); ++i) {
    ChartSeries series;
    series.name = result.contenders[i].name;
    if (result.contenders[i].stock) {
      series.color = kStockColors[stock % 3];
      series.marker = kMarkers[stock++ % 3];
    } else {
      series.color = ChartColor(ours++);
    }
    for (const EndToEndFigure& f : result.figures) {
      if (f.contender != i || f.prompt != prompt) continue;
      const Timing& t = f.tokens_per_second;
      series.points.push_back(
          {static_cast<double>(f.depth), t.median, t.min, t.max,
           fmt::format("{} at {}: {} tokens/s, {:.2f}x {}", series.name, f.depth, Three(t.median),
                       OverFirst(result, f), result.contenders[0].name)});
    }
    all.push_back(series);
  }
  return all;
}

std::string SvgOf(const BenchProvenance& provenance, const EndToEndResult& result) {
  std::vector<bool> tests;
  for (bool prompt : {false, true}) {
    if (std::any_of(result.figures.begin(), result.figures.end(),
                    [&](const EndToEndFigure& f) { return f.prompt == prompt; })) {
      tests.push_back(prompt);
    }
  }
  const double width = tests.size() == 2 ? 1180 : 640;
  Svg svg(width, 530, "turboquant: tokens a second over depth",
          "Speed of llama-bench by depth for every KV cache");
  svg.Text({40, 36}, 20, SvgAnchor::kStart,
           fmt::format("{} by the KV cache's format", result.model_name),
           "fill=\"#111\" font-weight=\"700\"");
  svg.Text(
      {40, 58}, 13, SvgAnchor::kStart,
      fmt::format("Stock llama-bench, {} threads, {}; median, slowest and fastest of {} rounds",
                  result.threads, result.machine.cpu, result.rounds),
      "fill=\"#555\"");
  double left = 96;
  for (bool prompt : tests) {
    int tokens = 0;
    for (const EndToEndFigure& f : result.figures) tokens = f.prompt == prompt ? f.tokens : tokens;
    DrawLines({{left, 140, left + 480, 440},
               prompt ? fmt::format("Prompt of {} tokens", tokens)
                      : fmt::format("Generation of {} tokens", tokens),
               "tokens in the cache before",
               "tokens a second"},
              ChartScale::kLinear, SeriesOf(result, prompt), &svg);
    left += 570;
  }
  DrawLegend({48, 92}, SeriesOf(result, tests.empty() || tests[0]), &svg);
  svg.Text({40, 516}, 11, SvgAnchor::kStart, ProvenanceLine(provenance), "fill=\"#999\"");
  return svg.Finish();
}

}  // namespace

BenchReport ReportEndToEnd(const BenchProvenance& provenance, const EndToEndResult& result) {
  BenchReport report;
  report.conditions = {
      MachineLine(result.machine),
      fmt::format("{} ({}), sha256 {}", result.model_name, result.model_type,
                  result.model_sha256.substr(0, 12)),
      fmt::format("stock llama-bench, llama.cpp {}, ggml {}, -fa 1, {} threads",
                  result.llama_commit,
                  result.ggml_version.empty() ? "of unknown version" : result.ggml_version,
                  result.threads)};
  for (const CacheContender& c : result.contenders) {
    if (!c.stock) report.conditions.push_back(fmt::format("{}: {}", c.name, c.policy));
  }
  for (bool prompt : {true, false}) {
    BenchTable table = TableOf(result, prompt);
    if (table.rows.size() > 1) report.tables.push_back(std::move(table));
  }
  report.notes = {fmt::format(
      "Medians of {} interleaved rounds, slowest and fastest beside them. bits/value: all "
      "bytes of the KV cache in this context over its values, window included.",
      result.rounds)};
  if (result.other_load > kBusy) {
    report.notes.push_back(
        fmt::format("The machine was busy: others used {} of it meanwhile. Ratios of interleaved "
                    "rounds are better than nothing; repeat on a quiet machine.",
                    Percent(result.other_load)));
  }
  BenchJson contenders = BenchJson::array();
  for (const CacheContender& c : result.contenders) {
    contenders.push_back({{"cache", c.name},
                          {"stock", c.stock},
                          {"policy", c.stock ? BenchJson(nullptr) : BenchJson(c.policy)}});
  }
  const BenchJson conditions = {{"model", result.model_name},
                                {"model_sha256", result.model_sha256},
                                {"model_type", result.model_type},
                                {"llama_cpp_commit", result.llama_commit},
                                {"ggml_version", result.ggml_version},
                                {"threads", result.threads},
                                {"rounds", result.rounds},
                                {"caches", contenders},
                                {"others_share_of_machine", result.other_load},
                                {"seconds", result.seconds}};
  report.json = BenchJsonText(provenance, "e2e", result.machine, conditions, Records(result, true));
  report.csv = BenchCsvText(provenance, "e2e", result.machine, Records(result, false));
  report.svg = SvgOf(provenance, result);
  return report;
}

}  // namespace turboquant
