// Bars and lines of a bench report, drawn into a part of an Svg.
#ifndef TURBOQUANT_REPORT_CHART_H_
#define TURBOQUANT_REPORT_CHART_H_

#include <string>
#include <string_view>
#include <vector>

#include "report/svg.h"

namespace turboquant {

// Colours that colour-blind people can tell apart (Okabe and Ito), in the order of first use; grey
// stands for f16, the contender.
inline constexpr std::string_view kChartGrey = "#8a8a8a";
std::string_view ChartColor(int i);

struct ChartBar {
  std::string name;  // to the left of the bar
  double value = 0;
  double mark = 0;   // a tick at this value; 0: none
  std::string text;  // behind the bar
  std::string color;
  std::string tooltip;
};

struct ChartBarGroup {
  std::string title;
  std::vector<ChartBar> bars;
};

struct ChartPlace {
  SvgBox box;  // of the plot, without names and axis
  std::string title;
  std::string x_label;
  std::string y_label;  // of lines
};

// Horizontal bars from zero.
void DrawBars(const ChartPlace& place, const std::vector<ChartBarGroup>& groups, Svg* svg);

struct ChartPoint {
  double x = 0;
  double y = 0;
  double low = 0;  // of the rounds
  double high = 0;
  std::string tooltip;
};

struct ChartSeries {
  std::string name;
  std::string color;
  SvgMarker marker = SvgMarker::kCircle;
  std::vector<ChartPoint> points;
};

enum class ChartScale { kLinear, kLogarithmic };

// Lines over the distinct values of x, which are evenly spaced; y from zero, or logarithmic.
void DrawLines(const ChartPlace& place, ChartScale y_scale, const std::vector<ChartSeries>& series,
               Svg* svg);

// Names and markers of the series in one row from `at` on.
void DrawLegend(SvgPoint at, const std::vector<ChartSeries>& series, Svg* svg);

}  // namespace turboquant

#endif  // TURBOQUANT_REPORT_CHART_H_
