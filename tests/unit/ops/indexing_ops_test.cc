// The conventions of ops that index, order, round and resize. Inputs are constants, so that the
// builder folds every result. What the samples of the rows cover is in tests/conformance.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/engine.h"
#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

Tensor Doubles(Shape shape, std::vector<double> values) {
  return Tensor::FromVector<double>(std::move(shape), values);
}
Tensor Longs(Shape shape, std::vector<int64_t> values) {
  return Tensor::FromVector<int64_t>(std::move(shape), values);
}
AttrValue Text(const char* value) { return std::string(value); }

std::string Scattered(std::vector<int64_t> at, std::vector<double> updates, const char* reduction) {
  const auto n = static_cast<int64_t>(at.size());
  return OneNode("ScatterElements")
      .Input(Doubles({4}, {1, 2, 3, 4}))
      .Input(Longs({n}, std::move(at)))
      .Input(Doubles({n}, std::move(updates)))
      .With("reduction", Text(reduction))
      .Result();
}

TEST(ScatterElementsTest, TheLastOfSeveralUpdatesStays) {
  EXPECT_EQ(Scattered({1, 1, -1}, {5, 6, 7}, "none"), "[4]: 1 6 3 7");
}

TEST(ScatterElementsTest, ReductionsIncludeTheData) {
  EXPECT_EQ(Scattered({1, 1, -3, 0}, {5, 0, 7, 2}, "mul"), "[4]: 2 0 3 4");
  EXPECT_EQ(Scattered({1, 3, 1}, {5, 3, 7}, "max"), "[4]: 1 7 3 4");
  EXPECT_EQ(Scattered({1, 3, 1}, {5, 3, -7}, "min"), "[4]: 1 -7 3 3");
  EXPECT_EQ(Scattered({1, 3, 1}, {5, 3, -7}, "add"), "[4]: 1 0 3 7");
}

TEST(ScatterElementsTest, RefusesWhatIsOutside) {
  for (const char* reduction : {"none", "add", "mul"}) {
    EXPECT_EQ(Scattered({4}, {1}, reduction), "INVALID_TENSOR") << reduction;
    EXPECT_EQ(Scattered({-5}, {1}, reduction), "INVALID_TENSOR") << reduction;
  }
  EXPECT_EQ(Scattered({0}, {1}, "median"), "INVALID_MODEL");
}

TEST(GatherElementsTest, AnIndexOutsideIsNoOtherElement) {
  const auto gathered = [](int64_t index) {
    return OneNode("GatherElements")
        .Counting({2, 3})
        .Input(Longs({1, 1}, {index}))
        .With("axis", int64_t{1})
        .Result();
  };
  EXPECT_EQ(gathered(-3), "[1,1]: 0");
  EXPECT_EQ(gathered(3), "INVALID_TENSOR");
  EXPECT_EQ(gathered(-4), "INVALID_TENSOR");
}

TEST(GatherNDTest, AnIndexOutsideIsNoOtherRow) {
  const auto gathered = [](int64_t row, int64_t column) {
    return OneNode("GatherND").Counting({2, 3}).Input(Longs({1, 2}, {row, column})).Result();
  };
  EXPECT_EQ(gathered(1, -1), "[1]: 5");
  EXPECT_EQ(gathered(0, 3), "INVALID_TENSOR");
  EXPECT_EQ(gathered(INT64_MAX, 0), "INVALID_TENSOR");
}

TEST(TopKTest, EqualElementsComeInTheirOrderAndNaNIsGreatest) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  OneNode largest("TopK", 18, 2);
  largest.Input(Doubles({5}, {2, nan, 1, 2, 2})).Ints({4});
  EXPECT_EQ(largest.Result(1), "[4]: 1 0 3 4");
  OneNode least("TopK", 18, 2);
  least.Input(Doubles({5}, {2, nan, 1, 2, 2})).Ints({5}).With("largest", int64_t{0});
  EXPECT_EQ(least.Result(1), "[5]: 2 0 3 4 1");
  EXPECT_EQ(OneNode("TopK", 18, 2).Counting({3}).Ints({4}).Result(), "SHAPE_MISMATCH");
}

TEST(ArgMaxTest, ChoosesTheFirstOrTheLast) {
  const auto at = [](const char* op, int64_t last) {
    return OneNode(op)
        .Input(Doubles({5}, {1, 3, 1, 3, 2}))
        .With("keepdims", int64_t{0})
        .With("select_last_index", last)
        .Result();
  };
  EXPECT_EQ(at("ArgMax", 0), "[]: 1");
  EXPECT_EQ(at("ArgMax", 1), "[]: 3");
  EXPECT_EQ(at("ArgMin", 0), "[]: 0");
  EXPECT_EQ(at("ArgMin", 1), "[]: 2");
  EXPECT_EQ(OneNode("ArgMax").Counting({2, 0}).With("axis", int64_t{1}).Result(), "SHAPE_MISMATCH");
}

TEST(ModTest, TheSignIsThatOfTheDivisorOrOfTheDividend) {
  const auto rest = [](int64_t fmod) {
    return OneNode("Mod")
        .Input(Longs({4}, {-4, 7, -5, 7}))
        .Input(Longs({4}, {3, -3, -3, 0}))
        .With("fmod", fmod)
        .Result();
  };
  EXPECT_EQ(rest(0), "[4]: 2 -2 -2 0");
  EXPECT_EQ(rest(1), "[4]: -1 1 -2 0");
}

TEST(RoundTest, HalvesGoToTheEvenNeighbour) {
  EXPECT_EQ(OneNode("Round").Input(Doubles({5}, {0.5, 1.5, -2.5, 2.6, -0.4})).Result(),
            "[5]: 0 2 -2 3 -0");
}

TEST(BitShiftTest, WhatIsShiftedOutIsGone) {
  const auto shifted = [](const char* direction) {
    return OneNode("BitShift")
        .Input(Tensor::FromVector<uint8_t>({3}, {1, 255, 8}))
        .Input(Tensor::FromVector<uint8_t>({3}, {8, 4, 3}))
        .With("direction", Text(direction))
        .Result();
  };
  EXPECT_EQ(shifted("LEFT"), "[3]: 0 240 64");
  EXPECT_EQ(shifted("RIGHT"), "[3]: 0 15 1");
  EXPECT_EQ(shifted("UP"), "INVALID_MODEL");
}

TEST(OneHotTest, IndicesOutsideAreNowhere) {
  EXPECT_EQ(OneNode("OneHot")
                .Input(Longs({3}, {-1, 2, -3}))
                .Ints({2})
                .Input(Doubles({2}, {7, 9}))
                .Result(),
            "[3,2]: 7 9 7 7 7 7");
}

TEST(CumSumTest, ExclusiveAndReverse) {
  const auto sums = [](int64_t exclusive, int64_t reverse) {
    return OneNode("CumSum")
        .Input(Doubles({3}, {1, 2, 4}))
        .Ints({0})
        .With("exclusive", exclusive)
        .With("reverse", reverse)
        .Result();
  };
  EXPECT_EQ(sums(0, 0), "[3]: 1 3 7");
  EXPECT_EQ(sums(1, 0), "[3]: 0 1 3");
  EXPECT_EQ(sums(0, 1), "[3]: 7 6 4");
  EXPECT_EQ(sums(1, 1), "[3]: 6 4 0");
}

TEST(UniqueTest, ComesSortedOrAsItFirstOccurs) {
  for (const int64_t sorted : {1, 0}) {
    OneNode node("Unique", 18, 4);
    node.Input(Doubles({5}, {3, 1, 3, 2, 1})).With("sorted", sorted);
    EXPECT_EQ(node.Result(0), sorted ? "[3]: 1 2 3" : "[3]: 3 1 2");
    EXPECT_EQ(node.Result(1), sorted ? "[3]: 1 3 0" : "[3]: 0 1 3");
    EXPECT_EQ(node.Result(2), sorted ? "[5]: 2 0 2 1 0" : "[5]: 0 1 0 2 1");
    EXPECT_EQ(node.Result(3), sorted ? "[3]: 2 1 2" : "[3]: 2 2 1");
  }
}

TEST(NonZeroTest, AScalarHasNoIndices) {
  EXPECT_EQ(OneNode("NonZero").Input(Tensor::Scalar(2.0)).Result(), "[0,1]:");
  EXPECT_EQ(OneNode("NonZero").Input(Doubles({2, 2}, {0, 1, 2, 0})).Result(), "[2,2]: 0 1 1 0");
}

TEST(ReverseSequenceTest, RefusesALengthOutside) {
  const auto reversed = [](int64_t length) {
    return OneNode("ReverseSequence").Counting({3, 1}).Ints({length}).Result();
  };
  EXPECT_EQ(reversed(2), "[3,1]: 1 0 2");
  EXPECT_EQ(reversed(0), "[3,1]: 0 1 2");
  EXPECT_EQ(reversed(4), "INVALID_TENSOR");
  EXPECT_EQ(reversed(-1), "INVALID_TENSOR");
}

TEST(ResizeTest, FollowsTheCoordinatesThatAreAskedFor) {
  const auto resized = [](const char* transform, const char* mode, std::vector<int64_t> size) {
    return OneNode("Resize", 19)
        .Counting({4})
        .Without()
        .Without()
        .Ints(std::move(size))
        .With("mode", Text(mode))
        .With("coordinate_transformation_mode", Text(transform))
        .Result();
  };
  EXPECT_EQ(resized("align_corners", "linear", {3}), "[3]: 0 1.5 3");
  EXPECT_EQ(resized("half_pixel", "linear", {2}), "[2]: 0.5 2.5");
  EXPECT_EQ(resized("asymmetric", "linear", {8}), "[8]: 0 0.5 1 1.5 2 2.5 3 3");
  EXPECT_EQ(resized("asymmetric", "nearest", {2}), "[2]: 0 2");
  EXPECT_EQ(resized("half_pixel", "linear", {0}), "[0]:");
  EXPECT_EQ(resized("quarter_pixel", "linear", {2}), "INVALID_MODEL");
  EXPECT_EQ(resized("half_pixel", "linear", {2, 2}), "SHAPE_MISMATCH");
  EXPECT_EQ(resized("half_pixel", "linear", {INT64_MAX / 8}), "MEMORY_LIMIT");
}

TEST(FreezingTest, FloatsDecideAShapeUnlessADerivativeIsTakenByThem) {
  Engine engine({});
  const auto model = engine.LoadModel(ModelFormat::kText, R"(
      <ir_version: 8, opset_import: ["" : 18]>
      g (int64[2] i, float d, double[2] v) => (double[?, ?] y) { y = OneHot (i, d, v) })",
                                      {});
  ASSERT_TRUE(model.ok()) << model.status();
  const Tensor i = Longs({2}, {0, 1}), d = Tensor::Scalar(3.0f), v = Doubles({2}, {0, 1});
  const NamedViews inputs = {{"i", i}, {"d", d}, {"v", v}};
  const auto derive = [&](std::vector<std::string> wrt) {
    return engine.Export(**model, {.kind = Computation::kVjp, .wrt = std::move(wrt)}, inputs)
        .status();
  };
  EXPECT_TRUE(derive({"v"}).ok()) << derive({"v"});
  EXPECT_TRUE(HasReason(derive({"d"}), Reason::kDataDependentShape)) << derive({"d"});
}

}  // namespace
}  // namespace gradwire
