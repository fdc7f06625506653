// File: plot.h
//
// Line plots as SVG.
//
//   PlotAsSvg("jobs/3f", "step", {{"loss", {{"training", {{1, 2.3}, {2, 1.9}}}}}})
#ifndef GRADWIRE_CLIENT_CLI_PLOT_H_
#define GRADWIRE_CLIENT_CLI_PLOT_H_

#include <string>
#include <utility>
#include <vector>

namespace gradwire::cli {

struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // in order of x
};

struct PlotPanel {
  std::string label;  // of the vertical axis
  std::vector<PlotSeries> series;
};

// Panels one below the other over one horizontal axis. An axis of positive numbers that span a
// factor of 100 and more is logarithmic. Lines are broken where a number is not finite.
std::string PlotAsSvg(const std::string& title, const std::string& x_label,
                      const std::vector<PlotPanel>& panels);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_PLOT_H_
