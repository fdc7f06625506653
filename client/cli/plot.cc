#include "client/cli/plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace gradwire::cli {
namespace {

constexpr double kWidth = 760;
constexpr double kLeft = 80;
constexpr double kRight = 20;
constexpr double kTop = 40;
constexpr double kPanelHeight = 220;
constexpr double kGap = 24;
constexpr double kBottom = 50;
constexpr int kTicks = 5;
constexpr double kLogSpan = 100;
constexpr size_t kMostMarkers = 60;
constexpr const char* kColours[] = {"#1f6fb4", "#d1495b", "#2e8b57", "#8a5cb8", "#b8860b"};

// XML 1.0 has no control characters.
std::string Escaped(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

class Axis {
 public:
  // Of the finite ones of the numbers.
  Axis(const std::vector<double>& numbers, bool may_be_log) {
    double low = INFINITY;
    double high = -INFINITY;
    for (double x : numbers) {
      if (!std::isfinite(x)) continue;
      low = std::min(low, x);
      high = std::max(high, x);
    }
    if (low > high) low = high = 0;
    log_ = may_be_log && low > 0 && high / low >= kLogSpan;
    if (log_) {
      low_ = std::floor(std::log10(low));
      high_ = std::ceil(std::log10(high));
      step_ = std::ceil((high_ - low_) / (2 * kTicks));
    } else {
      const double margin = high > low ? 0 : std::max(std::abs(low) / 2, 0.5);
      low_ = low - margin;
      high_ = high + margin;
      step_ = NiceStep((high_ - low_) / kTicks);
    }
  }

  // From 0 to 1; NaN where the axis has no place for it.
  double Place(double x) const {
    if (log_) x = x > 0 ? std::log10(x) : NAN;
    return std::isfinite(x) ? (x - low_) / (high_ - low_) : NAN;
  }

  std::vector<double> Ticks() const {
    std::vector<double> ticks;
    const double first = std::ceil(low_ / step_ - 1e-9);
    for (int i = 0; i <= 4 * kTicks && (first + i) * step_ <= high_ + step_ * 1e-9; ++i) {
      const double at = (first + i) * step_;
      ticks.push_back(log_ ? std::pow(10, at) : at);
    }
    return ticks;
  }

 private:
  // 1, 2 or 5 times a power of ten.
  static double NiceStep(double step) {
    const double power = std::pow(10, std::floor(std::log10(step)));
    for (double factor : {1, 2, 5}) {
      if (factor * power >= step) return factor * power;
    }
    return 10 * power;
  }

  bool log_;
  double low_, high_, step_;
};

std::string Text(double x, double y, const char* attributes, const std::string& text) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, attributes,
                         Escaped(text));
}

std::string Line(double x1, double y1, double x2, double y2, const char* colour) {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n",
                         x1, y1, x2, y2, colour);
}

// 0.05, 1e-09, 250: no sums of rounding errors.
std::string TickText(double tick) {
  return absl::StrFormat("%.6g", std::abs(tick) < 1e-300 ? 0 : tick);
}

struct Frame {
  double top;
  Axis x;
  Axis y;

  double X(double value) const { return kLeft + x.Place(value) * (kWidth - kLeft - kRight); }
  double Y(double value) const { return top + (1 - y.Place(value)) * kPanelHeight; }
};

std::string DrawAxes(const Frame& frame, const std::string& label, const std::string& x_label) {
  const double bottom = frame.top + kPanelHeight;
  std::string out;
  for (double tick : frame.y.Ticks()) {
    absl::StrAppend(&out, Line(kLeft, frame.Y(tick), kWidth - kRight, frame.Y(tick), "#e4e4e4"),
                    Text(kLeft - 8, frame.Y(tick) + 4, "text-anchor=\"end\"", TickText(tick)));
  }
  for (double tick : frame.x.Ticks()) {
    absl::StrAppend(&out, Line(frame.X(tick), bottom, frame.X(tick), bottom + 5, "#444"));
    if (x_label.empty()) continue;
    absl::StrAppend(&out,
                    Text(frame.X(tick), bottom + 19, "text-anchor=\"middle\"", TickText(tick)));
  }
  absl::StrAppend(&out, Line(kLeft, frame.top, kLeft, bottom, "#444"),
                  Line(kLeft, bottom, kWidth - kRight, bottom, "#444"));
  const double middle = frame.top + kPanelHeight / 2;
  const std::string turned =
      absl::StrFormat("text-anchor=\"middle\" transform=\"rotate(-90 16 %.1f)\"", middle);
  absl::StrAppend(&out, Text(16, middle, turned.c_str(), label));
  if (!x_label.empty()) {
    absl::StrAppend(
        &out, Text((kLeft + kWidth - kRight) / 2, bottom + 38, "text-anchor=\"middle\"", x_label));
  }
  return out;
}

std::string DrawSeries(const Frame& frame, const PlotSeries& series, const char* colour) {
  std::string path;
  std::string markers;
  bool pen_down = false;
  for (const auto& [x, y] : series.points) {
    const double at_x = frame.X(x);
    const double at_y = frame.Y(y);
    const bool visible = std::isfinite(at_x) && std::isfinite(at_y);
    if (visible) {
      absl::StrAppendFormat(&path, "%c%.1f %.1f", pen_down ? 'L' : 'M', at_x, at_y);
      absl::StrAppendFormat(&markers, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"/>\n",
                            at_x, at_y, colour);
    }
    pen_down = visible;
  }
  return absl::StrCat("<path d=\"", path, "\" fill=\"none\" stroke=\"", colour,
                      "\" stroke-width=\"1.5\"/>\n",
                      series.points.size() <= kMostMarkers ? markers : "");
}

}  // namespace

std::string PlotAsSvg(const std::string& title, const std::string& x_label,
                      const std::vector<PlotPanel>& panels) {
  std::vector<double> xs;
  for (const PlotPanel& panel : panels) {
    for (const PlotSeries& series : panel.series) {
      for (const auto& [x, y] : series.points) xs.push_back(x);
    }
  }
  const auto count = static_cast<double>(panels.size());
  const double height = kTop + count * (kPanelHeight + kGap) + kBottom;
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      kWidth, height, kWidth, height);
  absl::StrAppend(&out, Text(kLeft, 24, "font-size=\"15\"", title));
  double top = kTop;
  for (const PlotPanel& panel : panels) {
    std::vector<double> ys;
    for (const PlotSeries& series : panel.series) {
      for (const auto& [x, y] : series.points) ys.push_back(y);
    }
    const Frame frame{top, Axis(xs, /*may_be_log=*/false), Axis(ys, /*may_be_log=*/true)};
    absl::StrAppend(&out, DrawAxes(frame, panel.label, &panel == &panels.back() ? x_label : ""));
    for (size_t i = 0; i < panel.series.size(); ++i) {
      const char* colour = kColours[i % std::size(kColours)];
      const std::string style = absl::StrCat("text-anchor=\"end\" fill=\"", colour, "\"");
      absl::StrAppend(&out, DrawSeries(frame, panel.series[i], colour),
                      Text(kWidth - kRight - 6, top + 16 + 16 * static_cast<double>(i),
                           style.c_str(), panel.series[i].name));
    }
    top += kPanelHeight + kGap;
  }
  return out + "</svg>\n";
}

}  // namespace gradwire::cli
