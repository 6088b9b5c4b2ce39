// A small writer of SVG: shapes and text in the order they are drawn, and a logarithmic axis.
#ifndef TURBOQUANT_REPORT_SVG_H_
#define TURBOQUANT_REPORT_SVG_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace turboquant {

struct SvgPoint {
  double x = 0;
  double y = 0;
};

struct SvgBox {
  double left = 0, top = 0, right = 0, bottom = 0;
  bool Overlaps(const SvgBox& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

enum class SvgAnchor { kStart, kMiddle, kEnd };
enum class SvgMarker { kCircle, kSquare, kDiamond, kTriangle };

class Svg {
 public:
  Svg(double width, double height, std::string_view title, std::string_view description);

  // style: attributes, e.g. stroke="#888" stroke-width="1".
  void Line(SvgPoint from, SvgPoint to, std::string_view style);
  void Path(const std::vector<SvgPoint>& points, bool closed, std::string_view style);
  void Rect(const SvgBox& box, std::string_view style, std::string_view tooltip = "");
  void Marker(SvgMarker marker, SvgPoint at, double radius, std::string_view color,
              std::string_view tooltip);
  // at: the baseline. Text is escaped.
  void Text(SvgPoint at, double size, SvgAnchor anchor, std::string_view text,
            std::string_view style = "fill=\"#222\"");
  // The same on an outline of the background's color, which keeps it legible over lines. The
  // outline is a text of its own below: not every program knows paint-order.
  void TextWithHalo(SvgPoint at, double size, SvgAnchor anchor, std::string_view text,
                    std::string_view style, std::string_view halo);
  // Read from bottom to top, centred on `at`.
  void TextUpwards(SvgPoint at, double size, std::string_view text);

  std::string Finish() const;

 private:
  std::string body_;
};

// Where text of this size ends up, roughly: for placing labels.
SvgBox SvgTextBox(SvgPoint at, double size, SvgAnchor anchor, std::string_view text);

// Maps [low, high] to [from, to], on a logarithmic scale if asked for.
class SvgAxis {
 public:
  SvgAxis(double low, double high, double from, double to, bool logarithmic);
  double At(double value) const;
  bool Holds(double value) const { return value >= low_ && value <= high_; }

 private:
  double low_, high_, from_, to_;
  bool logarithmic_;
};

}  // namespace turboquant

#endif  // TURBOQUANT_REPORT_SVG_H_
