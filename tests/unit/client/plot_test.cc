#include "client/cli/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace gradwire::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

std::string Path(const std::string& svg) {
  const size_t begin = svg.find("<path d=\"") + 9;
  return svg.substr(begin, svg.find('"', begin) - begin);
}

std::string Plot(const std::vector<std::pair<double, double>>& points) {
  return PlotAsSvg("title", "step", {{"loss", {{"training", points}}}});
}

TEST(PlotTest, DrawsALineOverLabelledAxes) {
  const std::string svg = Plot({{0, 0}, {50, 5}, {100, 10}});
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  // From the lower left corner to the upper right one, evenly.
  EXPECT_EQ(Path(svg), "M80.0 260.0L410.0 150.0L740.0 40.0");
  for (const char* label :
       {">title<", ">step<", ">loss<", ">training<", ">0<", ">2<", ">10<", ">20<", ">100<"}) {
    EXPECT_THAT(svg, HasSubstr(label));
  }
  EXPECT_EQ(Count(svg, "<circle"), 3);
}

TEST(PlotTest, APositiveWideRangeIsLogarithmic) {
  const std::string svg = Plot({{0, 1e-4}, {1, 1e-2}, {2, 1}});
  EXPECT_EQ(Path(svg), "M80.0 260.0L410.0 150.0L740.0 40.0");
  EXPECT_THAT(svg, HasSubstr(">0.0001<"));
  EXPECT_THAT(Plot({{0, 1e-4}, {1, 0}, {2, 1}}), Not(HasSubstr(">0.0001<")))
      << "0 has no logarithm";
  EXPECT_THAT(Plot({{0, 1e-300}, {1, 1e300}}), HasSubstr(">1<"));
}

TEST(PlotTest, NumbersThatAreNotFiniteBreakTheLine) {
  const std::string svg = Plot({{0, 0}, {1, NAN}, {2, 5}, {3, INFINITY}, {4, 10}});
  EXPECT_EQ(Path(svg), "M80.0 260.0M410.0 150.0M740.0 40.0");
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

TEST(PlotTest, SurvivesAnyNumbers) {
  for (const auto& points :
       std::vector<std::vector<std::pair<double, double>>>{{},
                                                           {{1, 1}},
                                                           {{1, NAN}},
                                                           {{1, 0}, {2, 0}},
                                                           {{1, -1e308}, {2, 1e308}},
                                                           {{1, 1e-320}, {2, 1}},
                                                           {{1, 1}, {2, 1 + 1e-16}},
                                                           {{1e15, 1}, {1e15 + 1, 2}},
                                                           {{0, 5e-324}, {1, 1e-323}}}) {
    const std::string svg = Plot(points);
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_LT(svg.size(), 20000u);
  }
}

TEST(PlotTest, NamesCannotBecomeMarkup) {
  const std::string svg = PlotAsSvg("</text><script>", "x\x01y", {{"a&b", {{"\"q\"", {{0, 1}}}}}});
  EXPECT_THAT(svg, Not(HasSubstr("<script>")));
  EXPECT_THAT(svg, HasSubstr("&lt;script&gt;"));
  EXPECT_THAT(svg, HasSubstr("a&amp;b"));
  EXPECT_THAT(svg, HasSubstr("x y"));
}

TEST(PlotTest, StacksPanelsAndLeavesOutManyMarkers) {
  std::vector<std::pair<double, double>> many;
  for (int i = 0; i < 500; ++i) many.emplace_back(i, i);
  const std::string svg =
      PlotAsSvg("t", "step", {{"loss", {{"training", many}}}, {"accuracy", {{"eval", {{1, 2}}}}}});
  EXPECT_EQ(Count(svg, "<circle"), 1);
  EXPECT_EQ(Count(svg, "<path"), 2);
  EXPECT_EQ(Count(svg, ">step<"), 1) << "below the last panel only";
}

}  // namespace
}  // namespace gradwire::cli
