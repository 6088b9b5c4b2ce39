// The report of `turboquant bench kernels`.
#include <fmt/core.h>

#include <algorithm>
#include <optional>

#include "report/bench_document.h"
#include "report/chart.h"

namespace turboquant {
namespace {

using Rows = std::vector<std::vector<std::string>>;

constexpr std::string_view kF16 = "f16";

const char* ResidenceName(Residence residence) {
  return residence == Residence::kCache ? "cache" : "memory";
}

// The figure that differs from `like` in what is given.
const KernelFigure* Find(const KernelBenchResult& result, const KernelFigure& like,
                         std::string_view kernel, std::string_view format, Residence residence,
                         int threads) {
  for (const KernelFigure& f : result.figures) {
    if (f.table == like.table && f.head_dim == like.head_dim && f.group == like.group &&
        f.kernel == kernel && f.format == format && f.residence == residence &&
        f.threads == threads) {
      return &f;
    }
  }
  return nullptr;
}

// How many times faster than f16 under the same conditions.
double OverF16(const KernelBenchResult& result, const KernelFigure& f) {
  const KernelFigure* f16 = Find(result, f, f.kernel, kF16, f.residence, f.threads);
  return f16 == nullptr ? 0 : f16->seconds_per_row.median / f.seconds_per_row.median;
}

std::string Times(double ratio) { return fmt::format("{:.2f}x", ratio); }

BenchJson Records(const KernelBenchResult& result) {
  BenchJson records = BenchJson::array();
  for (const KernelFigure& f : result.figures) {
    const double median = f.seconds_per_row.median;
    const bool bound = f.bound_seconds > 0;
    records.push_back(
        {{"kernel", f.kernel},
         {"table", f.table},
         {"format", f.format},
         {"head_dim", f.head_dim},
         {"group", f.group == 0 ? BenchJson(nullptr) : BenchJson(f.group)},
         {"rows_in", ResidenceName(f.residence)},
         {"threads", f.threads},
         {"bytes_per_row", f.bytes_per_row},
         {"ns_per_row", median * 1e9},
         {"ns_per_row_min", f.seconds_per_row.min * 1e9},
         {"ns_per_row_max", f.seconds_per_row.max * 1e9},
         {"rounds", f.seconds_per_row.rounds},
         {"rows_per_second", 1 / median},
         {"cycles_per_row", f.cycles_per_row},
         {"gigabytes_per_second", f.bytes_per_row / median * 1e-9},
         {"bound_ns_per_row", bound ? BenchJson(f.bound_seconds * 1e9) : BenchJson(nullptr)},
         {"share_of_bandwidth", bound ? BenchJson(f.bound_seconds / median) : BenchJson(nullptr)},
         {"times_f16", OverF16(result, f)},
         {"relative_error", f.error},
         {"seed", result.seed}});
  }
  return records;
}

BenchJson Conditions(const KernelBenchResult& result) {
  return {{"clock_hz", result.clock},
          {"cache_bytes", result.cache_bytes},
          {"memory_bytes", result.memory_bytes},
          {"cache_bytes_per_second", result.cache_bandwidth},
          {"memory_bytes_per_second_1_thread", result.memory_bandwidth.front()},
          {"memory_bytes_per_second", result.memory_bandwidth.back()},
          {"threads", result.threads},
          {"threads_pinned", result.pinned},
          {"rounds", result.rounds},
          {"sample_seconds", result.sample_seconds},
          {"seed", result.seed},
          {"processor_share", result.processor_share},
          {"seconds", result.seconds}};
}

// One shape's kernels of attention.
BenchTable AttentionTable(const KernelBenchResult& result, const KernelFigure& shape) {
  BenchTable table;
  table.title = fmt::format("{}: rows of {} values, {} query head{} a kv head", shape.table,
                            shape.head_dim, shape.group, shape.group == 1 ? "" : "s");
  table.rows = {{"kernel", "format", "bytes", "cycles", "+-", "bound", "x f16"}};
  std::vector<int> all_threads;  // of figures from memory
  for (int threads : {1, result.threads}) {
    if (threads == 1 && !all_threads.empty()) break;
    if (Find(result, shape, "scores", kF16, Residence::kMemory, threads) == nullptr) continue;
    all_threads.push_back(threads);
    table.rows[0].insert(table.rows[0].end(),
                         {fmt::format("{} thread{}: ns", threads, threads == 1 ? "" : "s"), "GB/s",
                          "of read", "x f16"});
  }
  for (const KernelFigure& f : result.figures) {
    if (f.table != shape.table || f.head_dim != shape.head_dim || f.group != shape.group ||
        f.residence != Residence::kCache) {
      continue;
    }
    std::vector<std::string> row = {f.kernel,
                                    f.format,
                                    fmt::format("{:.0f}", f.bytes_per_row),
                                    Three(f.cycles_per_row),
                                    Spread(f.seconds_per_row),
                                    Three(f.bound_seconds * result.clock),
                                    Times(OverF16(result, f))};
    for (int threads : all_threads) {
      const KernelFigure* m = Find(result, f, f.kernel, f.format, Residence::kMemory, threads);
      if (m == nullptr) continue;
      row.push_back(Three(m->seconds_per_row.median * 1e9));
      row.push_back(Three(m->bytes_per_row / m->seconds_per_row.median * 1e-9));
      row.push_back(Percent(m->bound_seconds / m->seconds_per_row.median));
      row.push_back(Times(OverF16(result, *m)));
    }
    table.rows.push_back(row);
  }
  return table;
}

// Encoding and decoding, all tables of one row length.
BenchTable CodecTable(const KernelBenchResult& result, int head_dim) {
  BenchTable table;
  table.title = fmt::format("Encoding and decoding: rows of {} values, one thread", head_dim);
  table.rows = {
      {"table", "format", "encode cycles", "+-", "Mrows/s", "decode cycles", "+-", "Mrows/s"}};
  for (const KernelFigure& f : result.figures) {
    if (f.kernel != "encode" || f.head_dim != head_dim) continue;
    const KernelFigure* decode = Find(result, f, "decode", f.format, Residence::kCache, 1);
    std::vector<std::string> row = {f.table, f.format};
    for (const KernelFigure* c : {&f, decode}) {
      row.push_back(Three(c->cycles_per_row));
      row.push_back(Spread(c->seconds_per_row));
      row.push_back(Three(1e-6 / c->seconds_per_row.median));
    }
    table.rows.push_back(row);
  }
  return table;
}

// Shapes in the order they were measured: one figure of each.
std::vector<const KernelFigure*> Shapes(const KernelBenchResult& result) {
  std::vector<const KernelFigure*> shapes;
  for (const KernelFigure& f : result.figures) {
    if (f.group == 0) continue;
    const bool known = std::any_of(shapes.begin(), shapes.end(), [&](const KernelFigure* s) {
      return s->table == f.table && s->head_dim == f.head_dim && s->group == f.group;
    });
    if (!known) shapes.push_back(&f);
  }
  return shapes;
}

std::string ColorOf(const KernelBenchResult& result, const std::string& format) {
  if (format == kF16) return std::string(kChartGrey);
  int i = 0;
  std::vector<std::string> seen;
  for (const KernelFigure& f : result.figures) {
    if (f.format == kF16 || std::find(seen.begin(), seen.end(), f.format) != seen.end()) continue;
    if (f.format == format) break;
    seen.push_back(f.format);
    ++i;
  }
  return std::string(ChartColor(i));
}

// Bars of one table: what a key and a value take together.
ChartBarGroup Bars(const KernelBenchResult& result, const KernelFigure& shape, Residence residence,
                   int threads) {
  ChartBarGroup group;
  group.title = shape.table;
  for (const KernelFigure& k : result.figures) {
    if (k.table != shape.table || k.head_dim != shape.head_dim || k.group != shape.group ||
        k.kernel != "scores" || k.residence != residence || k.threads != threads) {
      continue;
    }
    const KernelFigure* v = Find(result, k, "sums", k.format, residence, threads);
    if (v == nullptr) continue;
    ChartBar bar;
    bar.name = k.format;
    bar.color = ColorOf(result, k.format);
    const double seconds = k.seconds_per_row.median + v->seconds_per_row.median;
    const double bound = k.bound_seconds + v->bound_seconds;
    if (residence == Residence::kCache) {
      bar.value = k.cycles_per_row + v->cycles_per_row;
      bar.text = fmt::format("{} + {}", Three(k.cycles_per_row), Three(v->cycles_per_row));
    } else {
      bar.value = 1e-6 / seconds;
      bar.mark = 1e-6 / bound;
      const KernelFigure* k16 = Find(result, k, "scores", kF16, residence, threads);
      const KernelFigure* v16 = Find(result, k, "sums", kF16, residence, threads);
      const double f16 =
          k16 == nullptr ? 0 : k16->seconds_per_row.median + v16->seconds_per_row.median;
      bar.text = k.format == kF16
                     ? fmt::format("{} of bandwidth", Percent(bound / seconds))
                     : fmt::format("{:.1f}x f16, {}", f16 / seconds, Percent(bound / seconds));
    }
    bar.tooltip = fmt::format("{} {}: {} ns a pair", shape.table, k.format, Three(seconds * 1e9));
    group.bars.push_back(bar);
  }
  std::reverse(group.bars.begin(), group.bars.end());  // f16 first, then fewer and fewer bits
  return group;
}

std::string KernelSvg(const BenchProvenance& provenance, const KernelBenchResult& result) {
  // The last shape stands for all; plain C++ would dwarf the others.
  std::vector<const KernelFigure*> shown;
  const std::vector<const KernelFigure*> shapes = Shapes(result);
  if (shapes.empty()) return "";
  const auto pick = [&](bool scalar) {
    for (const KernelFigure* s : shapes) {
      if (s->head_dim == shapes.back()->head_dim && s->group == shapes.back()->group &&
          (s->table == "scalar") == scalar) {
        shown.push_back(s);
      }
    }
  };
  pick(false);
  if (shown.empty()) pick(true);
  std::vector<ChartBarGroup> cycles;
  std::vector<ChartBarGroup> rates;
  size_t rows = 0;
  for (const KernelFigure* shape : shown) {
    cycles.push_back(Bars(result, *shape, Residence::kCache, 1));
    rates.push_back(Bars(result, *shape, Residence::kMemory, result.threads));
    rows += cycles.back().bars.size() + 1;
  }
  const double plot = 27.0 * static_cast<double>(rows);
  const double height = 112 + plot + 96;
  Svg svg(1240, height, "turboquant: kernels of attention",
          "Cycles and rate of the kernels over codes beside an f16 cache");
  svg.Text({40, 36}, 20, SvgAnchor::kStart, "Attention on codes, one row of keys and one of values",
           "fill=\"#111\" font-weight=\"700\"");
  svg.Text({40, 58}, 13, SvgAnchor::kStart,
           fmt::format("Rows of {} values, {} query head{} a kv head. {}, {:.2f} GHz.",
                       shown[0]->head_dim, shown[0]->group, shown[0]->group == 1 ? "" : "s",
                       result.machine.cpu, result.clock * 1e-9),
           "fill=\"#555\"");
  DrawBars({{110, 112, 550, 112 + plot},
            "Codes in the L2 cache: cycles, keys + values",
            "cycles for a pair of rows, one thread; less is better",
            ""},
           cycles, &svg);
  DrawBars({{740, 112, 1110, 112 + plot},
            fmt::format("From memory, {} thread{}: million pairs of rows a second", result.threads,
                        result.threads == 1 ? "" : "s"),
            fmt::format("M pairs/s; more is better; tick: what {:.1f} GB/s allow",
                        result.memory_bandwidth.back() * 1e-9),
            ""},
           rates, &svg);
  svg.Text({40, height - 14}, 11, SvgAnchor::kStart, ProvenanceLine(provenance), "fill=\"#999\"");
  return svg.Finish();
}

}  // namespace

BenchReport ReportKernels(const BenchProvenance& provenance, const KernelBenchResult& result) {
  BenchReport report;
  const double memory = static_cast<double>(result.memory_bytes);
  report.conditions.push_back(MachineLine(result.machine));
  report.conditions.push_back(fmt::format(
      "clock {:.2f} GHz (measured); reads {:.1f} GB/s from cache ({}), from memory {:.1f} GB/s on "
      "1 "
      "thread{}",
      result.clock * 1e-9, result.cache_bandwidth * 1e-9,
      Bytes(static_cast<double>(result.cache_bytes)), result.memory_bandwidth.front() * 1e-9,
      result.threads > 1 ? fmt::format(", {:.1f} GB/s on {}", result.memory_bandwidth.back() * 1e-9,
                                       result.threads)
                         : ""));
  std::string walk = fmt::format("memory: a walk around {}", Bytes(memory));
  if (result.machine.l3_bytes > 0) {
    walk += fmt::format(", {:.1f} x L3{}", memory / static_cast<double>(result.machine.l3_bytes),
                        memory < 2 * static_cast<double>(result.machine.l3_bytes)
                            ? ": much of it may come from L3"
                            : "");
  }
  report.conditions.push_back(walk +
                              fmt::format("; threads {}", result.pinned ? "pinned" : "not pinned"));
  for (const KernelFigure* shape : Shapes(result)) {
    report.tables.push_back(AttentionTable(result, *shape));
  }
  std::vector<int> dims;
  for (const KernelFigure& f : result.figures) {
    if (f.kernel == "encode" && std::find(dims.begin(), dims.end(), f.head_dim) == dims.end()) {
      dims.push_back(f.head_dim);
      report.tables.push_back(CodecTable(result, f.head_dim));
    }
  }
  report.notes = {
      fmt::format("Medians of {} interleaved rounds; +- is half of the distance between the "
                  "quartiles. cycles: a "
                  "row with its codes in the L2 cache; bound: its bytes at the cache's bandwidth.",
                  result.rounds),
      "ns, GB/s, of read: a row from memory, its bytes over the time, and the share of the "
      "measured "
      "read bandwidth. x f16: an f16 cache, converted in the loop, on the same instructions.",
      "Results were compared before timing: codes and decoded values bit for bit with the scalar "
      "table, scores and sums with double (1e-3)."};
  if (const std::string busy = BusyNote(result.processor_share); !busy.empty()) {
    report.notes.push_back(busy);
  }
  const BenchJson records = Records(result);
  report.json = BenchJsonText(provenance, "kernels", result.machine, Conditions(result), records);
  report.csv = BenchCsvText(provenance, "kernels", result.machine, records);
  report.svg = KernelSvg(provenance, result);
  return report;
}

std::string BenchMarkdown(const BenchProvenance& provenance, const BenchReport& report) {
  std::string text =
      fmt::format("`{}`, commit {}, {}.\n", provenance.command, provenance.commit, provenance.date);
  for (const std::string& line : report.conditions) text += "\n- " + line;
  text += "\n";
  for (const BenchTable& table : report.tables) {
    text += fmt::format("\n**{}**\n\n", table.title);
    for (size_t r = 0; r < table.rows.size(); ++r) {
      text += "|";
      for (const std::string& cell : table.rows[r]) text += " " + cell + " |";
      text += "\n";
      if (r > 0) continue;
      text += "|";
      for (size_t c = 0; c < table.rows[0].size(); ++c) text += c == 0 ? "---|" : "---:|";
      text += "\n";
    }
  }
  for (const std::string& note : report.notes) text += "\n" + note + "\n";
  return text;
}

}  // namespace turboquant
