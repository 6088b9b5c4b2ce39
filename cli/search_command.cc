#include "cli/search_command.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/parallel.h"
#include "cli/exit_code.h"
#include "cli/report_table.h"
#include "eval/vector_search.h"

namespace turboquant {
namespace {

using Json = nlohmann::ordered_json;

int Fail(const Status& status) {
  PrintError(status.message());
  return ExitCodeOf(status);
}

struct Comparison {
  SearchResult exact;
  Recall recall;
};

Result<std::vector<float>> ReadQueries(const SearchOptions& options, uint64_t width) {
  const Result<ArrayInput> input = OpenArray(options.queries, options.raw);
  if (!input.ok()) return input.status();
  const ArrayView& array = input.value().array;
  if (array.shape.back() != width) {
    return InvalidArgument(
        fmt::format("{} has vectors of {} values, {} of {}: queries must be as "
                    "long as the vectors they are compared with.",
                    options.queries, array.shape.back(), options.base, width));
  }
  std::vector<float> queries(array.values());
  array.Read(0, queries.size(), queries.data());
  return queries;
}

Result<Comparison> Compare(const SearchOptions& options, const RowFile& file,
                           const std::vector<float>& queries, const SearchResult& found,
                           int threads) {
  const Result<ArrayInput> input = OpenArray(options.exact, options.raw);
  if (!input.ok()) return input.status();
  const ArrayView& array = input.value().array;
  if (array.shape.back() != file.shape().back() || array.values() != file.values()) {
    return InvalidArgument(options.exact + " has the shape " + ShapeText(array.shape) + ", " +
                           options.base + " " + ShapeText(file.shape()) +
                           ": give the array that was encoded.");
  }
  Comparison comparison;
  comparison.exact = SearchArray(array, queries, options.k, threads);
  comparison.recall = CompareSearches(found, comparison.exact);
  return comparison;
}

double Speed(const RowFile& file, size_t queries, double seconds) {
  return seconds > 0 ? static_cast<double>(file.vectors()) * static_cast<double>(queries) / seconds
                     : 0;
}

void PrintJson(const RowFile& file, size_t queries, const SearchOptions& options,
               const SearchResult& found, const std::optional<Comparison>& comparison) {
  Json json = {{"schema_version", kJsonSchemaVersion},
               {"command", "search"},
               {"codec", file.codec().spec_text()},
               {"bits_per_value", file.BitsPerValue()},
               {"vectors", file.vectors()},
               {"queries", queries},
               {"k", options.k},
               {"seconds", found.seconds},
               {"products_per_second", Speed(file, queries, found.seconds)},
               {"exact", nullptr},
               {"neighbours", Json::array()}};
  if (comparison) {
    json["exact"] = {{"seconds", comparison->exact.seconds},
                     {"products_per_second", Speed(file, queries, comparison->exact.seconds)},
                     {"recall_at_k", comparison->recall.at_k},
                     {"best_at_k", comparison->recall.best_at_k},
                     {"best_at_1", comparison->recall.best_at_1}};
  }
  for (const auto& of_query : found.neighbours) {
    Json list = Json::array();
    for (const Neighbour& n : of_query) list.push_back({{"index", n.index}, {"score", n.score}});
    json["neighbours"].push_back(std::move(list));
  }
  fmt::print("{}\n", json.dump(2));
}

void PrintText(const RowFile& file, size_t queries, const SearchOptions& options,
               const SearchResult& found, const std::optional<Comparison>& comparison) {
  const auto line = [](const char* name, const std::string& value) {
    fmt::print("{:<13}{}\n", name, value);
  };
  line("vectors", fmt::format("{} of {} values, {}, {:.3f} bits a value", file.vectors(),
                              file.shape().back(), file.codec().spec_text(), file.BitsPerValue()));
  line("queries", fmt::format("{}, best {} each", queries, options.k));
  line("speed", fmt::format("{} vectors/s of all queries together ({:.3f} s)",
                            CountText(Speed(file, queries, found.seconds)), found.seconds));
  if (comparison) {
    line("exact", fmt::format("{} vectors/s over f32 ({:.3f} s)",
                              CountText(Speed(file, queries, comparison->exact.seconds)),
                              comparison->exact.seconds));
    line("recall", fmt::format("{:.4f} of the exact {} found; the exact best among them {:.4f}, "
                               "in front {:.4f}",
                               comparison->recall.at_k, options.k, comparison->recall.best_at_k,
                               comparison->recall.best_at_1));
  }
  for (size_t q = 0; q < std::min<size_t>(queries, static_cast<size_t>(options.show)); ++q) {
    std::string list;
    for (const Neighbour& n : found.neighbours[q]) {
      list += fmt::format("{}{} ({:.4g})", list.empty() ? "" : ", ", n.index, n.score);
    }
    line(fmt::format("query {}", q).c_str(), list);
  }
}

}  // namespace

int SearchCommand(const SearchOptions& options) {
  const Result<RowFileInput> input = OpenRowFile(options.base);
  if (!input.ok()) return Fail(input.status());
  const RowFile& file = input.value().rows;
  if (Status s = file.Verify(); !s.ok()) return Fail(About(options.base, s));
  const Result<std::vector<float>> queries = ReadQueries(options, file.shape().back());
  if (!queries.ok()) return Fail(queries.status());
  const int threads = options.threads > 0 ? options.threads : HardwareThreads();
  const size_t count = queries.value().size() / file.shape().back();
  const SearchResult found = SearchRows(file, queries.value(), options.k, threads);
  std::optional<Comparison> comparison;
  if (!options.exact.empty()) {
    Result<Comparison> compared = Compare(options, file, queries.value(), found, threads);
    if (!compared.ok()) return Fail(compared.status());
    comparison = std::move(compared.value());
  }
  if (options.json) {
    PrintJson(file, count, options, found, comparison);
  } else {
    PrintText(file, count, options, found, comparison);
  }
  return kExitOk;
}

}  // namespace turboquant
