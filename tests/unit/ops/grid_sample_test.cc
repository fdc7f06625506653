#include <gtest/gtest.h>

#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

// The image 4 8 / 12 16 at the points x, y, x, y, ...
std::string Sampled(std::vector<double> points, const char* mode, int64_t align_corners,
                    const char* padding = "zeros") {
  const auto count = static_cast<int64_t>(points.size() / 2);
  OneNode node("GridSample", 20);
  node.Input(Tensor::FromVector<double>({1, 1, 2, 2}, {4, 8, 12, 16}))
      .Input(Tensor::FromVector<double>({1, 1, count, 2}, points));
  return node.With("mode", std::string(mode))
      .With("align_corners", align_corners)
      .With("padding_mode", std::string(padding))
      .Evaluated();
}

TEST(GridSampleTest, WeighsNeighboursByHowNearTheyAre) {
  // A quarter of the way from left to right, three quarters from top to bottom, both, the middle.
  EXPECT_EQ(Sampled({-0.5, -1, -1, 0.5, -0.5, 0.5, 0, 0}, "linear", 1), "[1,1,1,4]: 5 10 11 10");
}

TEST(GridSampleTest, EndsAreCornersOrPixelCentres) {
  EXPECT_EQ(Sampled({-1, -1, 1, 1}, "linear", 1), "[1,1,1,2]: 4 16");
  // The corner of a pixel has three neighbours outside.
  EXPECT_EQ(Sampled({-1, -1, 1, 1, -0.5, -0.5}, "linear", 0), "[1,1,1,3]: 1 4 4");
  EXPECT_EQ(Sampled({-1, -1, 1, 1, -0.5, -0.5}, "linear", 0, "border"), "[1,1,1,3]: 4 16 4");
}

TEST(GridSampleTest, NearestTakesOne) {
  EXPECT_EQ(Sampled({-0.9, 0.1, 0.2, -0.3}, "nearest", 1), "[1,1,1,2]: 12 8");
}

}  // namespace
}  // namespace gradwire
