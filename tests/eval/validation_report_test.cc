// The documents of a validation: what is in them, and that readers can read them.
#include "report/validation_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "report/svg.h"

namespace turboquant {
namespace {

ValidationResult Example() {
  ValidationResult result;
  result.rows = 5000;
  result.threads = 2;
  result.seconds = 1.5;
  result.checks.push_back({"distortion", "turbo3", 128, 5000, 0.0335, 0.0334, 0.033, 0.034});
  result.checks.push_back(
      {"shannon", "turbo2.5:split=outlier,channels=0-15", 128, 5000, 0.03, 0, 0.02, 1.0});
  for (const auto& [spec, family, bits, distortion] :
       std::vector<std::tuple<const char*, const char*, double, double>>{
           {"turbo2", "scalar", 2.125, 0.115},
           {"turbo3", "scalar", 3.125, 0.0335},
           {"turbo3t", "trellis", 3.125, 0.0231},
           {"f16", "f16", 16, 4e-8}}) {
    RatePoint p;
    p.spec = spec;
    p.family = family;
    p.head_dim = 128;
    p.samples = 1000;
    p.bits_per_value = bits;
    p.distortion = distortion;
    p.shannon = std::pow(4.0, -bits);
    p.encode_ns = 800;
    result.rate.push_back(p);
  }
  return result;
}

TEST(ValidationReport, DecibelsAreSixABit) {
  RatePoint p;
  p.shannon = 0.01;
  p.distortion = 0.04;
  EXPECT_NEAR(DecibelsAboveShannon(p), 6.0206, 1e-4);
}

TEST(ValidationReport, JsonHasEveryFigure) {
  ValidationResult result = Example();
  const auto json = nlohmann::json::parse(ValidationJson(result));
  EXPECT_EQ(json["schema_version"], kValidationSchemaVersion);
  EXPECT_EQ(json["ok"], true);
  ASSERT_EQ(json["checks"].size(), 2u);
  EXPECT_EQ(json["checks"][0]["measured"], 0.0335);
  EXPECT_EQ(json["checks"][0]["ok"], true);
  EXPECT_TRUE(json["checks"][1]["expected"].is_null());
  ASSERT_EQ(json["rate"].size(), 4u);
  EXPECT_EQ(json["rate"][0]["encode_ns"], 800);
  EXPECT_TRUE(json["rate"][0]["decode_ns"].is_null());
  result.checks[0].measured = 0.04;
  EXPECT_EQ(nlohmann::json::parse(ValidationJson(result))["ok"], false);
}

// Fields of a line of CSV, with quoting.
size_t Fields(const std::string& line) {
  size_t fields = 1;
  bool quoted = false;
  for (char c : line) {
    quoted = c == '"' ? !quoted : quoted;
    fields += c == ',' && !quoted ? 1 : 0;
  }
  return fields;
}

TEST(ValidationReport, CsvIsATable) {
  std::istringstream csv(ValidationCsv(Example()));
  std::string line;
  std::getline(csv, line);
  const size_t columns = Fields(line);
  EXPECT_EQ(columns, 15u);
  size_t lines = 0;
  while (std::getline(csv, line)) {
    EXPECT_EQ(Fields(line), columns) << line;
    ++lines;
  }
  EXPECT_EQ(lines, 6u);
}

// Every tag is closed in order, every attribute quoted.
bool WellFormed(const std::string& xml) {
  std::vector<std::string> open;
  size_t at = 0;
  while ((at = xml.find('<', at)) != std::string::npos) {
    const size_t end = xml.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = xml.substr(at + 1, end - at - 1);
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0) return false;
    const std::string name =
        tag.substr(tag[0] == '/' ? 1 : 0, tag.find_first_of(" /", 1) - (tag[0] == '/' ? 1 : 0));
    if (tag[0] == '/') {
      if (open.empty() || open.back() != name) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
    at = end;
  }
  return open.empty();
}

TEST(ValidationReport, SvgShowsTheCodecsAndIsWellFormed) {
  const std::string svg = ValidationSvg(Example());
  EXPECT_TRUE(WellFormed(svg));
  EXPECT_NE(svg.find(">turbo3t</text>"), std::string::npos);
  EXPECT_NE(svg.find("2.125 bits a value, distortion 0.115"), std::string::npos);
  EXPECT_EQ(svg.find(">f16<"), std::string::npos) << "16 bits are not on the plot";
  EXPECT_TRUE(WellFormed(ValidationSvg(ValidationResult())));
  EXPECT_FALSE(WellFormed(svg.substr(0, svg.size() / 2)));
}

TEST(Svg, TextIsEscapedAndAxesMap) {
  Svg svg(10, 10, "a<b", "c&d");
  svg.Text({1, 1}, 5, SvgAnchor::kStart, "<script>\"&");
  const std::string text = svg.Finish();
  EXPECT_TRUE(WellFormed(text));
  EXPECT_NE(text.find("&lt;script&gt;&quot;&amp;"), std::string::npos);
  EXPECT_NE(text.find("a&lt;b"), std::string::npos);
  const SvgAxis linear(0, 10, 100, 200, false);
  EXPECT_DOUBLE_EQ(linear.At(2.5), 125);
  const SvgAxis logarithmic(0.01, 1, 300, 100, true);
  EXPECT_NEAR(logarithmic.At(0.1), 200, 1e-9);
  EXPECT_TRUE(logarithmic.Holds(0.5));
  EXPECT_FALSE(logarithmic.Holds(2));
}

}  // namespace
}  // namespace turboquant
