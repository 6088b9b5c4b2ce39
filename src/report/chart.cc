#include "report/chart.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace turboquant {
namespace {

constexpr std::string_view kColors[] = {"#0072b2", "#56b4e9", "#d55e00", "#e8a33d",
                                        "#009e73", "#8ccf7e", "#cc79a7", "#7a5195"};
constexpr std::string_view kGrid = "stroke=\"#e6e6e6\" stroke-width=\"1\"";
constexpr std::string_view kTickText = "fill=\"#555\"";

// 1, 2 or 5 times a power of ten, so that at most `most` steps cover `range`.
double NiceStep(double range, int most) {
  const double least = range / most;
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least * 0.999) return factor * power;
  }
  return 10 * power;
}

std::string TickText(double value) {
  if (value >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:g}k", value / 1e3);
  return fmt::format("{:g}", value);
}

void DrawTitle(const ChartPlace& place, Svg* svg) {
  svg->Text({place.box.left, place.box.top - 14}, 14, SvgAnchor::kStart, place.title,
            "fill=\"#222\" font-weight=\"600\"");
}

std::vector<double> DistinctX(const std::vector<ChartSeries>& series) {
  std::vector<double> xs;
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) xs.push_back(p.x);
  }
  std::sort(xs.begin(), xs.end());
  xs.erase(std::unique(xs.begin(), xs.end()), xs.end());
  return xs;
}

std::vector<double> Ticks(ChartScale scale, double low, double high) {
  std::vector<double> ticks;
  if (scale == ChartScale::kLinear) {
    const double step = NiceStep(high, 6);
    for (int i = 0; i * step <= high * 1.0001; ++i) ticks.push_back(i * step);
    return ticks;
  }
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10) {
    for (double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * power;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push_back(tick);
    }
  }
  return ticks;
}

}  // namespace

std::string_view ChartColor(int i) { return kColors[i % static_cast<int>(std::size(kColors))]; }

void DrawBars(const ChartPlace& place, const std::vector<ChartBarGroup>& groups, Svg* svg) {
  double most = 0;
  size_t rows = 0;
  for (const ChartBarGroup& group : groups) {
    rows += group.bars.size();
    for (const ChartBar& bar : group.bars) most = std::max({most, bar.value, bar.mark});
  }
  if (rows == 0 || most <= 0) return;
  DrawTitle(place, svg);
  const SvgBox& box = place.box;
  const SvgAxis x(0, most * 1.04, box.left, box.right, false);
  const double step = NiceStep(most, 6);
  for (int i = 0; i * step <= most * 1.04; ++i) {
    svg->Line({x.At(i * step), box.top}, {x.At(i * step), box.bottom},
              i == 0 ? "stroke=\"#666\" stroke-width=\"1.2\"" : kGrid);
    svg->Text({x.At(i * step), box.bottom + 18}, 12, SvgAnchor::kMiddle, TickText(i * step),
              kTickText);
  }
  svg->Text({(box.left + box.right) / 2, box.bottom + 40}, 13, SvgAnchor::kMiddle, place.x_label,
            "fill=\"#444\"");
  // A heading takes as much room as a bar.
  const double height = (box.bottom - box.top) / static_cast<double>(rows + groups.size());
  double y = box.top;
  for (const ChartBarGroup& group : groups) {
    svg->Text({box.left + 6, y + 0.72 * height}, 12, SvgAnchor::kStart, group.title,
              "fill=\"#222\" font-weight=\"600\" stroke=\"#ffffff\" stroke-width=\"4\" "
              "paint-order=\"stroke\"");
    y += height;
    for (const ChartBar& bar : group.bars) {
      const double thick = std::min(0.74 * height, 20.0);
      const double top = y + (height - thick) / 2;
      const double base = y + height / 2 + 4;
      svg->Rect({box.left, top, x.At(bar.value), top + thick},
                fmt::format("fill=\"{}\"", bar.color), bar.tooltip);
      svg->Text({box.left - 8, base}, 12, SvgAnchor::kEnd, bar.name, "fill=\"#333\"");
      double end = x.At(bar.value);
      if (bar.mark > 0) {
        svg->Line({x.At(bar.mark), top - 2}, {x.At(bar.mark), top + thick + 2},
                  "stroke=\"#111\" stroke-width=\"2\"");
        end = std::max(end, x.At(bar.mark));
      }
      svg->Text({end + 6, base}, 11.5, SvgAnchor::kStart, bar.text,
                "fill=\"#333\" stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\"");
      y += height;
    }
  }
}

void DrawLines(const ChartPlace& place, ChartScale y_scale, const std::vector<ChartSeries>& series,
               Svg* svg) {
  const std::vector<double> xs = DistinctX(series);
  double low = 0;
  double high = 0;
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      high = std::max(high, p.high);
      low = low == 0 ? p.low : std::min(low, p.low);
    }
  }
  if (xs.empty() || high <= 0 || low <= 0) return;
  DrawTitle(place, svg);
  const SvgBox& box = place.box;
  const bool logarithmic = y_scale == ChartScale::kLogarithmic;
  const double bottom = logarithmic ? low / 1.25 : 0;
  const double top = logarithmic ? high * 1.25 : high * 1.06;
  const SvgAxis y(bottom, top, box.bottom, box.top, logarithmic);
  for (double tick : Ticks(y_scale, bottom, top)) {
    svg->Line({box.left, y.At(tick)}, {box.right, y.At(tick)}, kGrid);
    svg->Text({box.left - 8, y.At(tick) + 4}, 12, SvgAnchor::kEnd, TickText(tick), kTickText);
  }
  const auto x_at = [&](double value) {
    const auto i = std::find(xs.begin(), xs.end(), value) - xs.begin();
    const double step = (box.right - box.left) / static_cast<double>(xs.size());
    return box.left + (static_cast<double>(i) + 0.5) * step;
  };
  for (double value : xs) {
    svg->Line({x_at(value), box.bottom}, {x_at(value), box.bottom + 5}, "stroke=\"#999\"");
    svg->Text({x_at(value), box.bottom + 20}, 12, SvgAnchor::kMiddle, fmt::format("{:.0f}", value),
              kTickText);
  }
  svg->Text({(box.left + box.right) / 2, box.bottom + 42}, 13, SvgAnchor::kMiddle, place.x_label,
            "fill=\"#444\"");
  svg->TextUpwards({box.left - 50, (box.top + box.bottom) / 2}, 13, place.y_label);
  svg->Rect(box, "fill=\"none\" stroke=\"#bbb\"");
  for (const ChartSeries& s : series) {
    std::vector<SvgPoint> line;
    for (const ChartPoint& p : s.points) {
      line.push_back({x_at(p.x), y.At(p.y)});
      svg->Line({x_at(p.x), y.At(p.low)}, {x_at(p.x), y.At(p.high)},
                fmt::format("stroke=\"{}\" stroke-width=\"1.5\" stroke-opacity=\"0.5\"", s.color));
    }
    svg->Path(line, false, fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"2\"", s.color));
  }
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      svg->Marker(s.marker, {x_at(p.x), y.At(p.y)}, 5, s.color, p.tooltip);
    }
  }
}

void DrawLegend(SvgPoint at, const std::vector<ChartSeries>& series, Svg* svg) {
  for (const ChartSeries& s : series) {
    svg->Marker(s.marker, {at.x + 6, at.y - 4}, 5.5, s.color, "");
    const SvgPoint text = {at.x + 18, at.y};
    svg->Text(text, 13, SvgAnchor::kStart, s.name);
    at.x = SvgTextBox(text, 13, SvgAnchor::kStart, s.name).right + 22;
  }
}

}  // namespace turboquant
