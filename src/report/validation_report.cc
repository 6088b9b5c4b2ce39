#include "report/validation_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "report/svg.h"

namespace turboquant {
namespace {

using Json = nlohmann::ordered_json;

struct Look {
  std::string_view family;
  std::string_view color;  // of a palette that colour-blind people can tell apart (Okabe and Ito)
  SvgMarker marker;
  std::string_view legend;
};

constexpr Look kLooks[] = {
    {"trellis", "#d55e00", SvgMarker::kDiamond, "turbo*t · trellis"},
    {"scalar", "#0072b2", SvgMarker::kCircle, "turbo* · Lloyd-Max"},
    {"fractional", "#56b4e9", SvgMarker::kCircle, "turbo*.5 · fractional"},
    {"product", "#cc79a7", SvgMarker::kSquare, "turbo*q · product, unbiased"},
    {"uniform", "#999999", SvgMarker::kTriangle, "evenly spaced, one scale"},
    {"affine groups", "#009e73", SvgMarker::kTriangle, "kivi* · scale and zero in groups"},
    {"ggml blocks", "#3d3d3d", SvgMarker::kSquare, "q4_0, q8_0 · blocks of ggml"},
    {"nf4", "#b8860b", SvgMarker::kDiamond, "nf4"},
    {"f16", "#3d3d3d", SvgMarker::kCircle, "f16"},
};

const Look& LookOf(const std::string& family) {
  for (const Look& look : kLooks) {
    if (look.family == family) return look;
  }
  return kLooks[0];
}

constexpr double kWidth = 1200, kHeight = 700;
constexpr SvgBox kPlot = {84, 110, 724, 624};
constexpr SvgBox kRanks = {872, 110, 1150, 624};
constexpr double kMinBits = 1, kMaxBits = 5.2;
constexpr double kMinDistortion = 0.0012, kMaxDistortion = 0.6;
constexpr std::string_view kBelow = "#f1efe9";  // the area below Shannon's bound
constexpr double kMaxBitsRanked = 12;           // f16 is no quantiser to rank

std::string Tooltip(const RatePoint& p) {
  return fmt::format("{}: {:.3f} bits a value, distortion {:.3g}, {:.2f} dB above Shannon", p.spec,
                     p.bits_per_value, p.distortion, DecibelsAboveShannon(p));
}

// Names of points, each where it covers the least of what is there.
class Labels {
 public:
  explicit Labels(Svg* svg) : svg_(svg) {}
  void Occupy(const SvgBox& box) { taken_.push_back(box); }
  void Place(SvgPoint at, std::string_view text, std::string_view color) {
    const struct {
      double dx, dy;
      SvgAnchor anchor;
    } kPlaces[] = {{9, 4, SvgAnchor::kStart},    {-9, 4, SvgAnchor::kEnd},
                   {8, -7, SvgAnchor::kStart},   {-8, 15, SvgAnchor::kEnd},
                   {0, -11, SvgAnchor::kMiddle}, {0, 20, SvgAnchor::kMiddle},
                   {8, 16, SvgAnchor::kStart},   {-8, -7, SvgAnchor::kEnd},
                   {12, -18, SvgAnchor::kStart}, {-12, 26, SvgAnchor::kEnd}};
    int fewest = 1000;
    SvgPoint best{};
    SvgAnchor anchor = SvgAnchor::kStart;
    for (const auto& place : kPlaces) {
      const SvgPoint here = {at.x + place.dx, at.y + place.dy};
      const SvgBox box = SvgTextBox(here, kSize, place.anchor, text);
      const auto hits = static_cast<int>(std::count_if(
          taken_.begin(), taken_.end(), [&](const SvgBox& other) { return box.Overlaps(other); }));
      if (hits >= fewest) continue;
      fewest = hits;
      best = here;
      anchor = place.anchor;
    }
    Occupy(SvgTextBox(best, kSize, anchor, text));
    svg_->TextWithHalo(best, kSize, anchor, text,
                       fmt::format("fill=\"{}\" font-weight=\"600\"", color), "#ffffff");
  }

 private:
  static constexpr double kSize = 12;
  Svg* svg_;
  std::vector<SvgBox> taken_;
};

void DrawAxes(const SvgAxis& x, const SvgAxis& y, Svg* svg) {
  constexpr std::string_view kGrid = "stroke=\"#e6e6e6\" stroke-width=\"1\"";
  for (double bits = 1; bits <= 5; bits += 0.5) {
    svg->Line({x.At(bits), kPlot.top}, {x.At(bits), kPlot.bottom}, kGrid);
    svg->Text({x.At(bits), kPlot.bottom + 20}, 12, SvgAnchor::kMiddle, fmt::format("{:g}", bits),
              "fill=\"#555\"");
  }
  for (double d : {0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002}) {
    svg->Line({kPlot.left, y.At(d)}, {kPlot.right, y.At(d)}, kGrid);
    svg->Text({kPlot.left - 9, y.At(d) + 4}, 12, SvgAnchor::kEnd, fmt::format("{:g}", d),
              "fill=\"#555\"");
  }
  svg->Text({(kPlot.left + kPlot.right) / 2, kPlot.bottom + 46}, 13, SvgAnchor::kMiddle,
            "bits a value: all stored bytes, scales included", "fill=\"#444\"");
  svg->TextUpwards({kPlot.left - 58, (kPlot.top + kPlot.bottom) / 2}, 13,
                   "distortion  E|x − x̂|² / |x|²");
}

void DrawShannon(const SvgAxis& x, const SvgAxis& y, Svg* svg) {
  std::vector<SvgPoint> curve;
  for (double bits = kMinBits; bits <= kMaxBits; bits += 0.02) {
    const double d = std::exp2(-2 * bits);
    if (!y.Holds(d)) break;
    curve.push_back({x.At(bits), y.At(d)});
  }
  std::vector<SvgPoint> below = curve;
  below.push_back({curve.back().x, kPlot.bottom});
  below.push_back({kPlot.left, kPlot.bottom});
  svg->Path(below, true, fmt::format("fill=\"{}\"", kBelow));
  DrawAxes(x, y, svg);
  svg->Path(curve, false, "fill=\"none\" stroke=\"#222\" stroke-width=\"2\"");
  svg->TextWithHalo({x.At(1.12), y.At(0.0042)}, 13, SvgAnchor::kStart,
                    "Shannon’s bound 2^(−2 bits)", "fill=\"#222\" font-weight=\"600\"", kBelow);
  svg->TextWithHalo({x.At(1.12), y.At(0.0042) + 18}, 12, SvgAnchor::kStart,
                    "no code of a Gaussian source can be in this area", "fill=\"#6b675d\"", kBelow);
}

void DrawLegend(const std::vector<RatePoint>& points, Svg* svg) {
  double row = kPlot.top + 20;
  for (const Look& look : kLooks) {
    const bool shown = std::any_of(points.begin(), points.end(), [&](const RatePoint& p) {
      return p.family == look.family && p.bits_per_value <= kMaxBits;
    });
    if (!shown) continue;
    svg->Marker(look.marker, {kPlot.right - 226, row - 4}, 5.5, look.color, "");
    svg->Text({kPlot.right - 212, row}, 12.5, SvgAnchor::kStart, look.legend);
    row += 20;
  }
}

void DrawPlot(const std::vector<RatePoint>& points, Svg* svg) {
  const SvgAxis x(kMinBits, kMaxBits, kPlot.left, kPlot.right, false);
  const SvgAxis y(kMinDistortion, kMaxDistortion, kPlot.bottom, kPlot.top, true);
  svg->Text({kPlot.left, kPlot.top - 18}, 14, SvgAnchor::kStart, "Distortion against bits",
            "fill=\"#222\" font-weight=\"600\"");
  DrawShannon(x, y, svg);
  svg->Rect(kPlot, "fill=\"none\" stroke=\"#bbb\"");
  std::map<std::string, std::vector<const RatePoint*>> families;
  Labels labels(svg);
  labels.Occupy({kPlot.right - 4, 0, kWidth, kHeight});  // no name across the frame
  for (const RatePoint& p : points) {
    if (p.bits_per_value > kMaxBits || !y.Holds(p.distortion)) continue;
    families[p.family].push_back(&p);
    const SvgPoint at = {x.At(p.bits_per_value), y.At(p.distortion)};
    labels.Occupy({at.x - 7, at.y - 7, at.x + 7, at.y + 7});
  }
  for (auto& [family, members] : families) {
    std::sort(members.begin(), members.end(), [](const RatePoint* a, const RatePoint* b) {
      return a->bits_per_value < b->bits_per_value;
    });
    std::vector<SvgPoint> line;
    for (const RatePoint* p : members)
      line.push_back({x.At(p->bits_per_value), y.At(p->distortion)});
    svg->Path(line, false,
              fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" "
                          "stroke-opacity=\"0.55\"",
                          LookOf(family).color));
  }
  // The first families of the legend on top.
  for (auto look = std::rbegin(kLooks); look != std::rend(kLooks); ++look) {
    for (const RatePoint* p : families[std::string(look->family)]) {
      svg->Marker(look->marker, {x.At(p->bits_per_value), y.At(p->distortion)}, 5.5, look->color,
                  Tooltip(*p));
    }
  }
  for (const Look& look : kLooks) {
    const auto found = families.find(std::string(look.family));
    if (found == families.end()) continue;
    for (const RatePoint* p : found->second) {
      labels.Place({x.At(p->bits_per_value), y.At(p->distortion)}, p->spec, look.color);
    }
  }
  DrawLegend(points, svg);
}

void DrawRanks(std::vector<RatePoint> points, Svg* svg) {
  points.erase(std::remove_if(points.begin(), points.end(),
                              [](const RatePoint& p) { return p.bits_per_value > kMaxBitsRanked; }),
               points.end());
  if (points.empty()) return;
  std::sort(points.begin(), points.end(), [](const RatePoint& a, const RatePoint& b) {
    return DecibelsAboveShannon(a) < DecibelsAboveShannon(b);
  });
  const double most = std::ceil(DecibelsAboveShannon(points.back()) / 2) * 2;
  const SvgAxis x(0, most, kRanks.left, kRanks.right, false);
  svg->Text({kRanks.left, kRanks.top - 18}, 14, SvgAnchor::kStart, "Above Shannon’s bound, in dB",
            "fill=\"#222\" font-weight=\"600\"");
  for (double db = 0; db <= most; db += 2) {
    svg->Line({x.At(db), kRanks.top}, {x.At(db), kRanks.bottom},
              db == 0 ? "stroke=\"#222\" stroke-width=\"2\"" : "stroke=\"#e6e6e6\"");
    svg->Text({x.At(db), kRanks.bottom + 20}, 12, SvgAnchor::kMiddle, fmt::format("{:g}", db),
              "fill=\"#555\"");
  }
  svg->Text({(kRanks.left + kRanks.right) / 2, kRanks.bottom + 46}, 13, SvgAnchor::kMiddle,
            "10 log₁₀ of the ratio; 6 dB are one bit", "fill=\"#444\"");
  const double step = (kRanks.bottom - kRanks.top) / static_cast<double>(points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    const RatePoint& p = points[i];
    const Look& look = LookOf(p.family);
    const double y = kRanks.top + (static_cast<double>(i) + 0.5) * step;
    const double db = DecibelsAboveShannon(p);
    svg->Line({kRanks.left, y}, {x.At(db), y},
              fmt::format("stroke=\"{}\" stroke-width=\"2\" stroke-opacity=\"0.55\"", look.color));
    svg->Marker(look.marker, {x.At(db), y}, 5, look.color, Tooltip(p));
    svg->Text({kRanks.left - 56, y + 4}, 12, SvgAnchor::kEnd, p.spec,
              fmt::format("fill=\"{}\" font-weight=\"600\"", look.color));
    svg->Text({kRanks.left - 10, y + 4}, 11, SvgAnchor::kEnd,
              fmt::format("{:.3f}", p.bits_per_value), "fill=\"#888\"");
  }
}

}  // namespace

double DecibelsAboveShannon(const RatePoint& point) {
  return 10 * std::log10(point.distortion / point.shannon);
}

std::string ValidationSvg(const ValidationResult& result) {
  Svg svg(kWidth, kHeight, "turboquant: distortion against bits",
          "Measured distortion of every codec beside Shannon's bound");
  const int head_dim = result.rate.empty() ? 0 : result.rate.front().head_dim;
  svg.Text({kPlot.left, 36}, 20, SvgAnchor::kStart, "How much each bit buys",
           "fill=\"#111\" font-weight=\"700\"");
  svg.Text({kPlot.left, 58}, 13, SvgAnchor::kStart,
           fmt::format("Rows of {} values, uniform on the sphere, through bytes and back. "
                       "Lower and further left is better.",
                       head_dim),
           "fill=\"#555\"");
  DrawPlot(result.rate, &svg);
  DrawRanks(result.rate, &svg);
  svg.Text({kPlot.left, kHeight - 14}, 11, SvgAnchor::kStart,
           fmt::format("turboquant validate, {} rows a cell", result.rows), "fill=\"#999\"");
  return svg.Finish();
}

std::string ValidationJson(const ValidationResult& result) {
  Json json = {{"schema_version", kValidationSchemaVersion},
               {"command", "validate"},
               {"ok", result.ok()},
               {"rows", result.rows},
               {"threads", result.threads},
               {"seconds", result.seconds},
               {"checks", Json::array()},
               {"rate", Json::array()}};
  for (const ValidationCheck& c : result.checks) {
    json["checks"].push_back({{"group", c.group},
                              {"subject", c.subject},
                              {"head_dim", c.head_dim},
                              {"samples", c.samples},
                              {"measured", c.measured},
                              {"expected", c.expected == 0 ? Json(nullptr) : Json(c.expected)},
                              {"low", c.low},
                              {"high", c.high},
                              {"ok", c.ok()}});
  }
  const auto time = [](double ns) { return ns == 0 ? Json(nullptr) : Json(ns); };
  for (const RatePoint& p : result.rate) {
    json["rate"].push_back({{"spec", p.spec},
                            {"family", p.family},
                            {"head_dim", p.head_dim},
                            {"samples", p.samples},
                            {"bits_per_value", p.bits_per_value},
                            {"distortion", p.distortion},
                            {"shannon", p.shannon},
                            {"decibels_above_shannon", DecibelsAboveShannon(p)},
                            {"bias", p.bias},
                            {"encode_ns", time(p.encode_ns)},
                            {"decode_ns", time(p.decode_ns)},
                            {"inner_product_ns", time(p.inner_product_ns)}});
  }
  return json.dump(2) + "\n";
}

std::string ValidationCsv(const ValidationResult& result) {
  std::string csv =
      "table,group,subject,head_dim,samples,bits_per_value,measured,expected,low,high,ok,bias,"
      "encode_ns,decode_ns,inner_product_ns\n";
  for (const ValidationCheck& c : result.checks) {
    csv += fmt::format("check,{},\"{}\",{},{},,{:.9g},{},{:.9g},{:.9g},{},,,,\n", c.group,
                       c.subject, c.head_dim, c.samples, c.measured,
                       c.expected == 0 ? "" : fmt::format("{:.9g}", c.expected), c.low, c.high,
                       c.ok() ? 1 : 0);
  }
  for (const RatePoint& p : result.rate) {
    csv += fmt::format("rate,{},{},{},{},{:.6g},{:.9g},,{:.9g},,,{:.6g},{:.1f},{:.1f},{:.1f}\n",
                       p.family, p.spec, p.head_dim, p.samples, p.bits_per_value, p.distortion,
                       p.shannon, p.bias, p.encode_ns, p.decode_ns, p.inner_product_ns);
  }
  return csv;
}

}  // namespace turboquant
