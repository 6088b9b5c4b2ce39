#include "cli/array_commands.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/parallel.h"
#include "cli/exit_code.h"
#include "cli/progress.h"
#include "cli/report_table.h"
#include "eval/array_coding.h"
#include "files/mapped_file.h"
#include "math/lloyd_max.h"

namespace turboquant {
namespace {

using Json = nlohmann::ordered_json;
using Lines = std::vector<std::pair<std::string, std::string>>;

int Threads(int wanted) { return wanted > 0 ? wanted : HardwareThreads(); }

int Fail(const Status& status) {
  PrintError(status.message());
  return ExitCodeOf(status);
}

void PrintLines(const Lines& lines) {
  for (const auto& [name, value] : lines) fmt::print("{:<13}{}\n", name, value);
}

void PrintJson(const Json& json) {
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

Json Header(const char* command) {
  return {{"schema_version", kJsonSchemaVersion}, {"command", command}};
}

// What encode and inspect say of a row file.
Lines RowFileLines(const RowFile& file) {
  const double f32 = 4.0 * static_cast<double>(file.values());
  return {{"shape", ShapeText(file.shape())},
          {"codec", file.codec().spec_text()},
          {"rows", fmt::format("{} of {} values, {} bytes each", file.rows(),
                               file.codec().head_dim(), file.codec().row_bytes())},
          {"size", fmt::format("{}, {:.3f} bits a value, {:.2f} times smaller than f32",
                               BytesText(static_cast<double>(file.Bytes())), file.BitsPerValue(),
                               f32 / static_cast<double>(file.Bytes()))}};
}

Json RowFileJson(const RowFile& file) {
  return {{"shape", file.shape()},
          {"codec", file.codec().spec_text()},
          {"head_dim", file.codec().head_dim()},
          {"rows", file.rows()},
          {"row_bytes", file.codec().row_bytes()},
          {"bytes", file.Bytes()},
          {"bits_per_value", file.BitsPerValue()}};
}

void Merge(Json* into, const Json& from) {
  for (const auto& [key, value] : from.items()) (*into)[key] = value;
}

}  // namespace

int EncodeCommand(const EncodeOptions& options) {
  Result<ArrayInput> input = OpenArray(options.input, options.raw);
  if (!input.ok()) return Fail(input.status());
  const ArrayView& array = input.value().array;
  const Result<RowFile> plan = RowFile::Plan(options.codec, array.shape, options.head_dim);
  if (!plan.ok()) return Fail(plan.status());
  auto output = MappedOutput::Create(options.output, plan.value().Bytes());
  if (!output.ok()) return Fail(output.status());
  Progress progress("encode");
  const CodingStats stats =
      EncodeArray(array, plan.value(), output.value()->bytes(), Threads(options.threads),
                  [&](double done) { progress.Update(done, options.codec); });
  progress.Finish();
  if (Status s = output.value()->Commit(); !s.ok()) return Fail(s);
  const double rows_per_second =
      stats.encode_seconds > 0 ? static_cast<double>(stats.rows) / stats.encode_seconds : 0;
  if (options.json) {
    Json json = Header("encode");
    Merge(&json, RowFileJson(plan.value()));
    Merge(&json, {{"distortion", stats.distortion},
                  {"mean_distortion", stats.mean_distortion},
                  {"worst_distortion", stats.worst_distortion},
                  {"invalid_rows", stats.invalid_rows},
                  {"zero_rows", stats.zero_rows},
                  {"rows_per_second", rows_per_second}});
    PrintJson(json);
    return kExitOk;
  }
  Lines lines = RowFileLines(plan.value());
  lines.emplace_back(
      "distortion", stats.distortion > 0
                        ? fmt::format("{:.4g} of the energy ({:.2f} dB below it); worst row {:.4g}",
                                      stats.distortion, -10 * std::log10(stats.distortion),
                                      stats.worst_distortion)
                        : "none");
  lines.emplace_back("speed", fmt::format("{} rows/s on {} threads", CountText(rows_per_second),
                                          Threads(options.threads)));
  PrintLines(lines);
  if (stats.invalid_rows > 0) {
    Note(fmt::format("{} of {} rows hold NaN, Inf or too much energy for a float: stored as zeros",
                     stats.invalid_rows, stats.rows));
  }
  return kExitOk;
}

int DecodeCommand(const DecodeOptions& options) {
  const Result<FloatType> type = ParseFloatType(options.type);
  if (!type.ok()) return Fail(type.status());
  const Result<RowFileInput> input = OpenRowFile(options.input);
  if (!input.ok()) return Fail(input.status());
  const RowFile& file = input.value().rows;
  if (Status s = file.Verify(); !s.ok()) return Fail(About(options.input, s));
  const std::vector<uint8_t> header =
      options.raw ? std::vector<uint8_t>() : NpyHeader(type.value(), file.shape());
  auto output = MappedOutput::Create(options.output,
                                     header.size() + file.values() * FloatBytes(type.value()));
  if (!output.ok()) return Fail(output.status());
  std::copy(header.begin(), header.end(), output.value()->bytes().begin());
  Progress progress("decode");
  const double seconds = DecodeArray(
      file, type.value(), output.value()->bytes().data() + header.size(), Threads(options.threads),
      [&](double done) { progress.Update(done, file.codec().spec_text()); });
  progress.Finish();
  if (Status s = output.value()->Commit(); !s.ok()) return Fail(s);
  const double rows_per_second = seconds > 0 ? static_cast<double>(file.rows()) / seconds : 0;
  if (options.json) {
    Json json = Header("decode");
    Merge(&json, RowFileJson(file));
    json["type"] = FloatTypeName(type.value());
    json["rows_per_second"] = rows_per_second;
    PrintJson(json);
    return kExitOk;
  }
  Lines lines = RowFileLines(file);
  lines.emplace_back("written", fmt::format("{} as {}", options.output, options.type));
  lines.emplace_back("speed", fmt::format("{} rows/s on {} threads", CountText(rows_per_second),
                                          Threads(options.threads)));
  PrintLines(lines);
  return kExitOk;
}

namespace {

int InspectRowFile(const InspectOptions& options) {
  const Result<RowFileInput> input = OpenRowFile(options.input);
  if (!input.ok()) return Fail(input.status());
  const RowFile& file = input.value().rows;
  uint64_t damaged = 0;
  for (uint64_t c = 0; c < file.chunks(); ++c) damaged += file.ChunkIsIntact(c) ? 0 : 1;
  const Status intact = file.Verify();
  if (options.json) {
    Json json = Header("inspect");
    json["kind"] = "row file";
    Merge(&json, RowFileJson(file));
    Merge(&json, {{"chunks", file.chunks()},
                  {"damaged_chunks", damaged},
                  {"error", intact.ok() ? Json(nullptr) : Json(intact.message())}});
    PrintJson(json);
    return ExitCodeOf(intact);
  }
  Lines lines = {{"kind", "row file, version 1"}};
  for (auto& line : RowFileLines(file)) lines.push_back(line);
  lines.emplace_back("checksums", fmt::format("{} of {} chunks of rows are intact",
                                              file.chunks() - damaged, file.chunks()));
  PrintLines(lines);
  return intact.ok() ? kExitOk : Fail(About(options.input, intact));
}

}  // namespace

int InspectCommand(const InspectOptions& options) {
  const auto file = MappedFile::Open(options.input);
  if (!file.ok()) return Fail(file.status());
  if (options.raw.type.empty() && LooksLikeRowFile(file.value()->bytes())) {
    return InspectRowFile(options);
  }
  const Result<ArrayInput> input = OpenArray(options.input, options.raw);
  if (!input.ok()) return Fail(input.status());
  const ArrayView& array = input.value().array;
  const ArrayStats stats = DescribeArray(array, Threads(options.threads));
  const Result<int> head_dim = ChooseHeadDim(array.shape.back());
  if (options.json) {
    Json json = Header("inspect");
    json["kind"] = options.raw.type.empty() ? "npy" : "raw";
    Merge(&json, {{"shape", array.shape},
                  {"type", FloatTypeName(array.type)},
                  {"minimum", stats.minimum},
                  {"maximum", stats.maximum},
                  {"mean", stats.mean},
                  {"rms", stats.rms},
                  {"least_norm", stats.least_norm},
                  {"greatest_norm", stats.greatest_norm},
                  {"zero_vectors", stats.zero_vectors},
                  {"non_finite", stats.non_finite},
                  {"head_dim", head_dim.ok() ? Json(head_dim.value()) : Json(nullptr)}});
    PrintJson(json);
    return kExitOk;
  }
  PrintLines({{"kind", fmt::format("{} array of {}", options.raw.type.empty() ? "NPY" : "raw",
                                   FloatTypeName(array.type))},
              {"shape", ShapeText(array.shape)},
              {"values", fmt::format("{:.5g} to {:.5g}, mean {:.4g}, rms {:.5g}", stats.minimum,
                                     stats.maximum, stats.mean, stats.rms)},
              {"norms", fmt::format("{:.5g} to {:.5g}, {} vectors of zeros", stats.least_norm,
                                    stats.greatest_norm, stats.zero_vectors)},
              {"not finite", fmt::format("{} values", stats.non_finite)},
              {"rows", head_dim.ok() ? fmt::format("turboquant encode would take rows of {}",
                                                   head_dim.value())
                                     : head_dim.status().message()}});
  return kExitOk;
}

int CodebookCommand(const CodebookOptions& options) {
  LloydMaxCodebook book;
  if (options.grid) {
    auto grid = SolveGridCodebook(options.bits, options.dim);
    if (!grid.ok()) return Fail(grid.status());
    book = std::move(grid.value().book);
  } else {
    auto solved = SolveLloydMax(options.bits, options.dim);
    if (!solved.ok()) return Fail(solved.status());
    book = std::move(solved.value());
  }
  const std::string density =
      options.dim == 0
          ? "N(0, 1)"
          : fmt::format("sqrt(d) times a coordinate of the unit sphere, d = {}", options.dim);
  if (options.json) {
    Json json = Header("codebook");
    Merge(&json, {{"bits", options.bits},
                  {"dim", options.dim},
                  {"grid", options.grid},
                  {"centroids", book.centroids},
                  {"thresholds", book.thresholds},
                  {"distortion", book.distortion},
                  {"entropy", book.entropy}});
    PrintJson(json);
    return kExitOk;
  }
  if (options.csv) {
    fmt::print("code,centroid,lower,upper\n");
  } else {
    PrintLines(
        {{"density", density},
         {"distortion", fmt::format("{:.9g}, {:.4f} times Shannon's bound", book.distortion,
                                    book.distortion * std::exp2(2 * options.bits))},
         {"entropy", fmt::format("{:.5f} bits of a code's {}", book.entropy, options.bits)}});
    fmt::print("\n");
  }
  std::vector<std::vector<std::string>> rows = {{"code", "centroid", "lower", "upper"}};
  for (size_t i = 0; i < book.centroids.size(); ++i) {
    rows.push_back(
        {std::to_string(i), fmt::format("{:.12f}", book.centroids[i]),
         i == 0 ? "-inf" : fmt::format("{:.12f}", book.thresholds[i - 1]),
         i + 1 == book.centroids.size() ? "inf" : fmt::format("{:.12f}", book.thresholds[i])});
    if (options.csv) {
      fmt::print("{},{},{},{}\n", rows.back()[0], rows.back()[1], rows.back()[2], rows.back()[3]);
    }
  }
  if (!options.csv) fmt::print("{}", FormatTable(rows, UseColor(STDOUT_FILENO)));
  return kExitOk;
}

}  // namespace turboquant
