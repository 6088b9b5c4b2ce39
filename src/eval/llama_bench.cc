#include "eval/llama_bench.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace turboquant {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kStockTypes[] = {"f16",  "bf16", "q8_0", "q4_0",
                                            "q4_1", "q5_0", "q5_1", "iq4_nl"};

bool IsStockType(std::string_view name) {
  return std::find(std::begin(kStockTypes), std::end(kStockTypes), name) != std::end(kStockTypes);
}

std::string TextOf(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// A number, or a failure to be seen by the caller.
bool NumberOf(const Json& object, const char* key, double* value) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return false;
  *value = found->get<double>();
  return true;
}

}  // namespace

Result<std::vector<LlamaBenchTest>> ParseLlamaBench(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_array() || json.empty()) {
    return Unsupported(
        "llama-bench printed no list of tests; is it older than llama.cpp v0.5.0? Its output "
        "begins with '" +
        std::string(text.substr(0, 60)) + "'");
  }
  std::vector<LlamaBenchTest> tests;
  for (const Json& object : json) {
    double prompt = 0;
    double generate = 0;
    double depth = 0;
    LlamaBenchTest test;
    if (!object.is_object() || !NumberOf(object, "n_prompt", &prompt) ||
        !NumberOf(object, "n_gen", &generate) || !NumberOf(object, "n_depth", &depth) ||
        !NumberOf(object, "avg_ts", &test.tokens_per_second) || test.tokens_per_second <= 0) {
      return Unsupported(
          "a test of llama-bench lacks n_prompt, n_gen, n_depth or avg_ts; use a newer llama.cpp");
    }
    test.prompt = static_cast<int>(prompt);
    test.generate = static_cast<int>(generate);
    test.depth = static_cast<int>(depth);
    test.type_k = TextOf(object, "type_k");
    test.type_v = TextOf(object, "type_v");
    test.model_type = TextOf(object, "model_type");
    test.build_commit = TextOf(object, "build_commit");
    tests.push_back(std::move(test));
  }
  return tests;
}

bool ParseStockCache(std::string_view name, CacheContender* contender) {
  const size_t slash = name.find('/');
  const std::string_view k = name.substr(0, slash);
  const std::string_view v = slash == std::string_view::npos ? k : name.substr(slash + 1);
  if (!IsStockType(k) || !IsStockType(v)) return false;
  *contender = {std::string(name), true, std::string(k), std::string(v), ""};
  return true;
}

const EndToEndFigure* SameTest(const EndToEndResult& result, const EndToEndFigure& figure,
                               size_t contender) {
  for (const EndToEndFigure& f : result.figures) {
    if (f.contender == contender && f.prompt == figure.prompt && f.tokens == figure.tokens &&
        f.depth == figure.depth) {
      return &f;
    }
  }
  return nullptr;
}

}  // namespace turboquant
