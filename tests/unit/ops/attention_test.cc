#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

struct Attended {
  std::string values, scores;
};

// The query (0, 1), the keys (0, 1) and (2, 3), the values 0 and 1; a scale of 1/2.
Attended Attend(const std::vector<std::pair<const char*, AttrValue>>& attributes) {
  OneNode node("Attention", 23, 4);
  node.Counting({1, 1, 1, 2}).Counting({1, 1, 2, 2}).Counting({1, 1, 2, 1}).With("scale", 0.5);
  for (const auto& [name, value] : attributes) node.With(name, value);
  return {node.Evaluated(0), node.Evaluated(3)};
}

std::string Row(double x, double y) { return absl::StrCat("[1,1,1,2]: ", x, " ", y); }
std::string Single(double x) { return absl::StrCat("[1,1,1,1]: ", x); }

// What a softmax makes of the second of two.
double SecondOf(double first, double second) { return 1 / (1 + std::exp(first - second)); }

TEST(AttentionTest, WeightsValuesByTheSoftmaxOfScaledScores) {
  const Attended plain = Attend({});
  EXPECT_EQ(plain.scores, Row(0.5, 1.5));
  EXPECT_EQ(plain.values, Single(SecondOf(0.5, 1.5)));
}

TEST(AttentionTest, ScoresAreCappedSmoothly) {
  const double first = 2 * std::tanh(0.5 / 2), second = 2 * std::tanh(1.5 / 2);
  const double weight = SecondOf(first, second);
  const std::string by_mode[] = {Row(0.5, 1.5), Row(first, second), Row(first, second),
                                 Row(1 - weight, weight)};
  for (int64_t mode = 0; mode < 4; ++mode) {
    const Attended capped = Attend({{"softcap", 2.0}, {"qk_matmul_output_mode", mode}});
    EXPECT_EQ(capped.scores, by_mode[mode]) << mode;
    EXPECT_EQ(capped.values, Single(weight)) << mode;
  }
}

TEST(AttentionTest, ACausalMaskHidesLaterKeys) {
  const Attended causal =
      Attend({{"is_causal", int64_t{1}}, {"qk_matmul_output_mode", int64_t{3}}});
  EXPECT_EQ(causal.scores, Row(1, 0));
  EXPECT_EQ(causal.values, Single(0));
}

}  // namespace
}  // namespace gradwire
