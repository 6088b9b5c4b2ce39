#include "report/bench_document.h"

#include <fmt/core.h>

#include <cmath>

namespace turboquant {
namespace {

std::string CsvCell(const BenchJson& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  const std::string text = value.get<std::string>();
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

std::string BenchJsonText(const BenchProvenance& provenance, const std::string& mode,
                          const Machine& machine, const BenchJson& conditions,
                          const BenchJson& records) {
  const BenchJson json = {{"schema_version", kBenchSchemaVersion},
                          {"command", "bench"},
                          {"mode", mode},
                          {"command_line", provenance.command},
                          {"version", provenance.version},
                          {"commit", provenance.commit},
                          {"date", provenance.date},
                          {"device",
                           {{"cpu", machine.cpu},
                            {"threads", machine.threads},
                            {"l2_bytes", machine.l2_bytes},
                            {"l3_bytes", machine.l3_bytes},
                            {"memory_bytes", machine.memory_bytes}}},
                          {"conditions", conditions},
                          {"results", records}};
  return json.dump(1, ' ', false, BenchJson::error_handler_t::replace) + "\n";
}

std::string BenchCsvText(const BenchProvenance& provenance, const std::string& mode,
                         const Machine& machine, const BenchJson& records) {
  const BenchJson tail = {{"mode", mode},
                          {"cpu", machine.cpu},
                          {"cpu_threads", machine.threads},
                          {"version", provenance.version},
                          {"commit", provenance.commit},
                          {"date", provenance.date},
                          {"command_line", provenance.command}};
  std::string csv;
  const auto add = [&](const BenchJson& record, bool names) {
    std::string line;
    for (const BenchJson* part : {&record, &tail}) {
      for (const auto& [key, value] : part->items()) {
        line += (line.empty() ? "" : ",") + (names ? key : CsvCell(value));
      }
    }
    csv += line + "\n";
  };
  if (!records.empty()) add(records[0], true);
  for (const BenchJson& record : records) add(record, false);
  return csv;
}

std::string MachineLine(const Machine& machine) {
  std::string line = fmt::format("{}, {} threads", machine.cpu, machine.threads);
  if (machine.l2_bytes > 0) {
    line += fmt::format(", L2 {} a core", Bytes(static_cast<double>(machine.l2_bytes)));
  }
  if (machine.l3_bytes > 0) {
    line += fmt::format(", L3 {} as reported", Bytes(static_cast<double>(machine.l3_bytes)));
  }
  return line;
}

std::string ProvenanceLine(const BenchProvenance& provenance) {
  return fmt::format("{} (turboquant {}, commit {}, {})", provenance.command, provenance.version,
                     provenance.commit, provenance.date);
}

std::string BusyNote(double processor_share) {
  if (processor_share >= 0.95) return "";
  return fmt::format(
      "The machine was busy: this process had its processors for {:.0f} % of the time it measured. "
      "Times are too long; repeat on a quiet machine.",
      100 * processor_share);
}

std::string Bytes(double bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{} {}",
                     bytes == std::floor(bytes) ? fmt::format("{:.0f}", bytes) : Three(bytes),
                     kUnits[unit]);
}

std::string Three(double value) {
  const double size = std::fabs(value);
  return size >= 99.95   ? fmt::format("{:.0f}", value)
         : size >= 9.995 ? fmt::format("{:.1f}", value)
                         : fmt::format("{:.2f}", value);
}

std::string Percent(double share) { return fmt::format("{:.0f} %", 100 * share); }

std::string Spread(const Timing& timing) { return fmt::format("{:.0f} %", 100 * timing.spread()); }

}  // namespace turboquant
