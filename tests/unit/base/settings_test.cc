#include "engine/base/settings.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace gradwire {
namespace {

const std::vector<SettingDef> kDefs = {
    {"lr", 1e-3, kNonNegative}, {"nesterov", 0, kFlag}, {"steps", kRequired, kPositiveCount}};

TEST(SettingsTest, WhatIsNotGivenHasItsFallback) {
  Problems problems;
  EXPECT_EQ(Complete(kDefs, {{"lr", 0.5}, {"steps", 3}}, "s", &problems),
            (Settings{{"lr", 0.5}, {"nesterov", 0}, {"steps", 3}}));
  EXPECT_TRUE(problems.empty());
}

TEST(SettingsTest, AllProblemsAreCollected) {
  Problems problems;
  Complete(kDefs, {{"lr", INFINITY}, {"nesterov", 2}, {"rate", 1}}, "s", &problems);
  const std::vector<Violation> expected = {
      {"s.steps", "is required: a whole number of at least 1"},
      {"s.lr", "got inf, expected a number of at least 0"},
      {"s.nesterov", "got 2, expected 0 or 1"},
      {"s.rate", "there is no such setting, only lr, nesterov, steps"}};
  EXPECT_EQ(ViolationsOf(problems.ToStatus()), expected);
}

TEST(SettingsTest, RangesHoldTheirBoundsUnlessOpen) {
  EXPECT_TRUE(kUpToOne.Holds(0) && kUpToOne.Holds(1));
  EXPECT_TRUE(kBelowOne.Holds(0) && !kBelowOne.Holds(1));
  EXPECT_FALSE(kPositive.Holds(0));
  EXPECT_TRUE(kAnyNumber.Holds(-1e300));
  EXPECT_FALSE(kAnyNumber.Holds(NAN));
  EXPECT_TRUE(kCount.Holds(7) && !kCount.Holds(7.5) && !kCount.Holds(-1));
}

TEST(SettingsTest, RangesReadWell) {
  EXPECT_EQ(kUpToOne.ToString(), "a number in [0, 1]");
  EXPECT_EQ(kBelowOne.ToString(), "a number in [0, 1)");
  EXPECT_EQ(kPositive.ToString(), "a number above 0");
  EXPECT_EQ(kAnyNumber.ToString(), "a finite number");
  EXPECT_EQ(kCount.ToString(), "a whole number of at least 0");
  EXPECT_EQ((Range{.max = 2, .open_max = true}).ToString(), "a number below 2");
}

}  // namespace
}  // namespace gradwire
