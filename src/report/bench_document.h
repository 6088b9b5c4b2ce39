// What the three bench reports share: JSON with its provenance, CSV of flat records, wording.
#ifndef TURBOQUANT_REPORT_BENCH_DOCUMENT_H_
#define TURBOQUANT_REPORT_BENCH_DOCUMENT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "eval/machine.h"
#include "eval/timing.h"
#include "report/bench_report.h"

namespace turboquant {

using BenchJson = nlohmann::ordered_json;

// records: an array of flat objects with the same keys.
std::string BenchJsonText(const BenchProvenance& provenance, const std::string& mode,
                          const Machine& machine, const BenchJson& conditions,
                          const BenchJson& records);

// The records, and behind each the provenance.
std::string BenchCsvText(const BenchProvenance& provenance, const std::string& mode,
                         const Machine& machine, const BenchJson& records);

// "Intel(R) Xeon(R), 2 threads, L2 2 MiB, L3 480 MiB as reported"
std::string MachineLine(const Machine& machine);
std::string ProvenanceLine(const BenchProvenance& provenance);
// A warning if others used the machine; empty if not.
std::string BusyNote(double processor_share);

// "512 KiB", "1.5 GiB"
std::string Bytes(double bytes);
// "12.3", with three significant digits; "1234"
std::string Three(double value);
// "93 %"
std::string Percent(double share);
// "3 %"
std::string Spread(const Timing& timing);

}  // namespace turboquant

#endif  // TURBOQUANT_REPORT_BENCH_DOCUMENT_H_
