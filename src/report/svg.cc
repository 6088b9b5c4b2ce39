#include "report/svg.h"

#include <fmt/core.h>

#include <cmath>

namespace turboquant {
namespace {

std::string Escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string_view AnchorName(SvgAnchor anchor) {
  return anchor == SvgAnchor::kStart ? "start" : anchor == SvgAnchor::kMiddle ? "middle" : "end";
}

// Characters, not bytes, of UTF-8.
size_t Characters(std::string_view text) {
  size_t n = 0;
  for (char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return n;
}

}  // namespace

Svg::Svg(double width, double height, std::string_view title, std::string_view description) {
  body_ = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:g} {1:g}\" width=\"{0:g}\" "
      "height=\"{1:g}\" role=\"img\" font-family=\"Inter, 'Helvetica Neue', Helvetica, Arial, "
      "'DejaVu Sans', sans-serif\">\n<title>{2}</title>\n<desc>{3}</desc>\n"
      "<rect width=\"{0:g}\" height=\"{1:g}\" fill=\"#ffffff\"/>\n",
      width, height, Escaped(title), Escaped(description));
}

void Svg::Line(SvgPoint from, SvgPoint to, std::string_view style) {
  body_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n",
                       from.x, from.y, to.x, to.y, style);
}

void Svg::Path(const std::vector<SvgPoint>& points, bool closed, std::string_view style) {
  body_ += "<path d=\"";
  for (size_t i = 0; i < points.size(); ++i) {
    body_ += fmt::format("{}{:.1f} {:.1f}", i == 0 ? "M" : " L", points[i].x, points[i].y);
  }
  body_ += fmt::format("{}\" {}/>\n", closed ? " Z" : "", style);
}

void Svg::Rect(const SvgBox& box, std::string_view style, std::string_view tooltip) {
  body_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" {}",
                       box.left, box.top, box.right - box.left, box.bottom - box.top, style);
  body_ += tooltip.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", Escaped(tooltip));
}

void Svg::Marker(SvgMarker marker, SvgPoint at, double radius, std::string_view color,
                 std::string_view tooltip) {
  const std::string style =
      fmt::format("fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"1.4\"", color);
  const std::string tip = tooltip.empty() ? "" : fmt::format("<title>{}</title>", Escaped(tooltip));
  const double r = radius;
  if (marker == SvgMarker::kCircle) {
    body_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" {}>{}</circle>\n", at.x,
                         at.y, r, style, tip);
    return;
  }
  std::vector<SvgPoint> corners;
  if (marker == SvgMarker::kSquare) {
    corners = {{-0.9 * r, -0.9 * r}, {0.9 * r, -0.9 * r}, {0.9 * r, 0.9 * r}, {-0.9 * r, 0.9 * r}};
  } else if (marker == SvgMarker::kDiamond) {
    corners = {{0, -1.25 * r}, {1.25 * r, 0}, {0, 1.25 * r}, {-1.25 * r, 0}};
  } else {
    corners = {{0, -1.2 * r}, {1.1 * r, 0.8 * r}, {-1.1 * r, 0.8 * r}};
  }
  std::string points;
  for (const SvgPoint& c : corners) points += fmt::format("{:.1f},{:.1f} ", at.x + c.x, at.y + c.y);
  body_ += fmt::format("<polygon points=\"{}\" {}>{}</polygon>\n", points, style, tip);
}

void Svg::Text(SvgPoint at, double size, SvgAnchor anchor, std::string_view text,
               std::string_view style) {
  body_ += fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{:g}\" text-anchor=\"{}\" {}>{}</text>\n", at.x,
      at.y, size, AnchorName(anchor), style, Escaped(text));
}

void Svg::TextWithHalo(SvgPoint at, double size, SvgAnchor anchor, std::string_view text,
                       std::string_view style, std::string_view halo) {
  const std::string outline = fmt::format(
      "{} aria-hidden=\"true\" stroke=\"{}\" stroke-width=\"3.5\" stroke-linejoin=\"round\"", style,
      halo);
  Text(at, size, anchor, text, outline);
  Text(at, size, anchor, text, style);
}

void Svg::TextUpwards(SvgPoint at, double size, std::string_view text) {
  body_ += fmt::format(
      "<text transform=\"translate({:.1f} {:.1f}) rotate(-90)\" font-size=\"{:g}\" "
      "text-anchor=\"middle\" fill=\"#444\">{}</text>\n",
      at.x, at.y, size, Escaped(text));
}

std::string Svg::Finish() const { return body_ + "</svg>\n"; }

SvgBox SvgTextBox(SvgPoint at, double size, SvgAnchor anchor, std::string_view text) {
  const double width = 0.58 * size * static_cast<double>(Characters(text));
  const double left = anchor == SvgAnchor::kStart    ? at.x
                      : anchor == SvgAnchor::kMiddle ? at.x - width / 2
                                                     : at.x - width;
  return {left, at.y - 0.8 * size, left + width, at.y + 0.25 * size};
}

SvgAxis::SvgAxis(double low, double high, double from, double to, bool logarithmic)
    : low_(low), high_(high), from_(from), to_(to), logarithmic_(logarithmic) {}

double SvgAxis::At(double value) const {
  const double share = logarithmic_ ? std::log(value / low_) / std::log(high_ / low_)
                                    : (value - low_) / (high_ - low_);
  return from_ + share * (to_ - from_);
}

}  // namespace turboquant
