// Conventions of normalisations, averages and transposed convolutions that are known, and what they
// refuse. Derivatives and kernels: tests/conformance.
#include <gtest/gtest.h>

#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

using List = std::vector<int64_t>;
using Attributes = std::vector<std::pair<const char*, AttrValue>>;

constexpr int64_t kMax = INT64_MAX;

Tensor Row(Shape shape, const std::vector<double>& values) {
  return Tensor::FromVector<double>(std::move(shape), values);
}

class NodeWith : public OneNode {
 public:
  NodeWith(const char* op, const Attributes& attributes, int opset = 18, int outputs = 1)
      : OneNode(op, opset, outputs) {
    for (const auto& [name, value] : attributes) With(name, value);
  }
};

// ---- BatchNormalization of the columns (1, 3) and (2, 6); epsilon makes the roots exact.

class Columns : public NodeWith {
 public:
  Columns(int opset, int outputs, const Attributes& attributes)
      : NodeWith("BatchNormalization", attributes, opset, outputs) {
    Input(Row({2, 2}, {1, 2, 3, 6})).Input(Row({2}, {1, 1})).Input(Row({2}, {0, 100}));
    Input(Row({2}, {1, 1})).Input(Row({2}, {4, 16}));
  }
};

TEST(BatchNormalizationTest, FrozenStatisticsAreTheInputs) {
  Columns node(15, 1, {{"epsilon", 0.0}});
  EXPECT_EQ(node.Result(), "[2,2]: 0 100.25 1 101.25");
}

TEST(BatchNormalizationTest, TrainingTakesTheBatchAndBlendsThePopulationsVariance) {
  const Attributes trains = {{"epsilon", 0.0}, {"momentum", 0.75}, {"training_mode", int64_t{1}}};
  Columns node(14, 3, trains);
  EXPECT_EQ(node.Result(0), "[2,2]: -1 99 1 101");
  EXPECT_EQ(node.Result(1), "[2]: 1.25 1.75");  // 3/4 of 1, 1/4 of 2 and 4
  EXPECT_EQ(node.Result(2), "[2]: 3.25 13");    // 3/4 of 4 and 16, 1/4 of 1 and 4
}

TEST(BatchNormalizationTest, OldOpsetsTrainByTheirOutputsOrIsTest) {
  const Attributes exact = {{"epsilon", 0.0}, {"momentum", 0.75}};
  EXPECT_EQ(Columns(13, 1, exact).Result(), "[2,2]: 0 100.25 1 101.25");
  EXPECT_EQ(Columns(9, 5, exact).Result(), "[2,2]: -1 99 1 101");
  EXPECT_EQ(Columns(9, 5, exact).Result(3), "[2]: 2 4");
  EXPECT_EQ(Columns(9, 5, exact).Result(4), "[2]: 1 4");
  EXPECT_EQ(Columns(6, 1, exact).Result(), "[2,2]: -1 99 1 101");
  EXPECT_EQ(Columns(6, 1, {{"epsilon", 0.0}, {"is_test", int64_t{1}}}).Result(),
            "[2,2]: 0 100.25 1 101.25");
}

TEST(BatchNormalizationTest, StatisticsOfEachElementWhereSpatialIsOff) {
  NodeWith node("BatchNormalization", {{"epsilon", 0.0}, {"spatial", int64_t{0}}}, 7);
  node.Counting({1, 1, 3}).Input(Row({1, 3}, {1, 1, 1})).Input(Row({1, 3}, {0, 10, 20}));
  node.Input(Row({1, 3}, {0, 1, 2})).Input(Row({1, 3}, {1, 1, 1}));
  EXPECT_EQ(node.Result(), "[1,1,3]: 0 10 20");
}

TEST(BatchNormalizationTest, RefusesWhatDoesNotFit) {
  OneNode node("BatchNormalization");
  node.Counting({2, 3}).Counting({2}).Counting({3}).Counting({3}).Counting({3});
  EXPECT_EQ(node.Result(), "SHAPE_MISMATCH");
  OneNode four("BatchNormalization");
  EXPECT_EQ(four.Counting({2, 3}).Counting({3}).Counting({3}).Counting({3}).Result(),
            "INVALID_MODEL");
  OneNode integers("BatchNormalization");
  for (int i = 0; i < 5; ++i) integers.Ints({1, 2});
  EXPECT_EQ(integers.Result(), "DTYPE_UNSUPPORTED");
}

// ---- The others

TEST(LayerNormalizationTest, StatisticsHaveTheStashType) {
  NodeWith node("LayerNormalization", {{"epsilon", 0.0}}, 17, 3);
  node.Input(Row({2, 2}, {1, 3, 5, 13})).Input(Row({2}, {1, 10})).Input(Row(Shape(), {1}));
  EXPECT_EQ(node.Result(0), "[2,2]: 0 11 0 11");
  EXPECT_EQ(node.Result(1), "[2,1]: 2 9");
  EXPECT_EQ(node.Result(2), "[2,1]: 1 0.25");
  NodeWith half("LayerNormalization", {{"stash_type", int64_t{10}}}, 17);
  EXPECT_EQ(half.Counting({2, 2}).Counting({2}).Result(), "DTYPE_UNSUPPORTED");
  NodeWith wide("LayerNormalization", {}, 17);
  EXPECT_EQ(wide.Counting({2, 2}).Counting({3, 2, 2}).Result(), "SHAPE_MISMATCH");
}

TEST(GroupNormalizationTest, ScalesAreOfGroupsAndFromOpset21OfChannels) {
  const Attributes two = {{"epsilon", 0.0}, {"num_groups", int64_t{2}}};
  const auto group = [&](int opset, const std::vector<double>& scale) {
    const auto n = static_cast<int64_t>(scale.size());
    NodeWith node("GroupNormalization", two, opset);
    node.Input(Row({1, 4}, {1, 3, 5, 13}));
    return node.Input(Row({n}, scale)).Input(Row({n}, std::vector<double>(scale.size()))).Result();
  };
  EXPECT_EQ(group(18, {1, 10}), "[1,4]: -1 1 -10 10");
  EXPECT_EQ(group(21, {1, 10, 100, 1000}), "[1,4]: -1 10 -100 1000");
  EXPECT_EQ(group(21, {1, 10}), "SHAPE_MISMATCH");
  EXPECT_EQ(group(18, {1, 1, 1, 1}), "SHAPE_MISMATCH");
}

TEST(LpNormalizationTest, ZerosStayZeros) {
  EXPECT_EQ(NodeWith("LpNormalization", {}).Input(Row({2, 2}, {0, 0, 3, 4})).Result(),
            "[2,2]: 0 0 0.6 0.8");
  EXPECT_EQ(NodeWith("LpNormalization", {{"p", int64_t{3}}}).Counting({2}).Result(),
            "INVALID_MODEL");
}

TEST(MeanVarianceNormalizationTest, AConstantBecomesZeros) {
  EXPECT_EQ(NodeWith("MeanVarianceNormalization", {{"axes", List{0}}})
                .Input(Row({3}, {5, 5, 5}))
                .Result(),
            "[3]: 0 0 0");
}

TEST(LrnTest, OfAnEvenSizeOneMoreChannelLiesBehind) {
  const Attributes sums = {{"size", int64_t{2}}, {"alpha", 2.0}, {"beta", 1.0}, {"bias", 0.0}};
  EXPECT_EQ(NodeWith("LRN", sums).Input(Row({1, 3, 1}, {1, 2, 4})).Result(),
            "[1,3,1]: 0.2 0.1 0.25");
  EXPECT_EQ(NodeWith("LRN", {{"size", kMax}}).Counting({1, 3, 1}).Result(), "SHAPE_MISMATCH");
}

// ---- Averages

std::string Averaged(const std::vector<double>& x, int64_t kernel, const Attributes& attributes) {
  NodeWith node("AveragePool", attributes, 19);
  node.Input(Row({1, 1, static_cast<int64_t>(x.size())}, x)).With("kernel_shape", List{kernel});
  return node.Result();
}

TEST(AveragePoolTest, PaddingCountsOnlyWhereTheNodeSaysSo) {
  const Attributes pads = {{"pads", List{1, 1}}};
  const Attributes counted = {{"pads", List{1, 1}}, {"count_include_pad", int64_t{1}}};
  EXPECT_EQ(Averaged({2, 4, 6}, 2, pads), "[1,1,4]: 2 3 5 6");
  EXPECT_EQ(Averaged({2, 4, 6}, 2, counted), "[1,1,4]: 1 3 5 3");
}

// torch.nn.functional.avg_pool1d gives the same.
TEST(AveragePoolTest, WhatCeilModeAddsNeverCounts) {
  const Attributes ceil = {{"ceil_mode", int64_t{1}}, {"strides", List{2}}};
  EXPECT_EQ(Averaged({0, 1, 2, 3, 4, 5}, 3, ceil), "[1,1,3]: 1 3 4.5");
  const Attributes counted = {{"ceil_mode", int64_t{1}},
                              {"strides", List{3}},
                              {"pads", List{1, 1}},
                              {"count_include_pad", int64_t{1}}};
  EXPECT_EQ(Averaged({0, 1, 2, 3, 4, 6}, 3, counted), "[1,1,3]: 0.333333 3 3");
  // A window larger than the input, by less than a stride.
  EXPECT_EQ(Averaged({7}, 2, ceil), "[1,1,1]: 7");
}

TEST(AveragePoolTest, DilationsStepOverElements) {
  EXPECT_EQ(Averaged({0, 1, 2, 3, 4}, 2, {{"dilations", List{3}}}), "[1,1,2]: 1.5 2.5");
}

TEST(AveragePoolTest, RefusesAveragesOfNothing) {
  EXPECT_EQ(Averaged({1, 2}, 1, {{"pads", List{1, 0}}}), "SHAPE_MISMATCH");
  EXPECT_EQ(Averaged({1, 2}, 1, {{"pads", List{1, 0}}, {"count_include_pad", int64_t{1}}}),
            "[1,1,3]: 0 1 2");
  EXPECT_EQ(Averaged({1, 2}, kMax, {{"pads", List{kMax, kMax}}}), "SHAPE_MISMATCH");
  EXPECT_EQ(Averaged({1, 2, 3}, kMax / 4, {{"pads", List{kMax / 4 - 1, 0}}}), "[1,1,3]: 1 1.5 2");
}

TEST(GlobalPoolTest, TakeAllOfAChannel) {
  EXPECT_EQ(OneNode("GlobalAveragePool").Counting({1, 2, 2, 2}).Result(), "[1,2,1,1]: 1.5 5.5");
  EXPECT_EQ(OneNode("GlobalMaxPool").Counting({1, 2, 2, 2}).Result(), "[1,2,1,1]: 3 7");
  EXPECT_EQ(OneNode("GlobalLpPool").Input(Row({1, 1, 2}, {3, -4})).Result(), "[1,1,1]: 5");
  EXPECT_EQ(OneNode("GlobalAveragePool").Counting({2, 2}).Result(), "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("GlobalMaxPool").Counting({2}).Result(), "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("GlobalMaxPool").Counting({1, 1, 0}).Result(), "INVALID_MODEL");
}

TEST(LpPoolTest, TakesMagnitudes) {
  NodeWith node("LpPool", {{"kernel_shape", List{2}}, {"p", int64_t{3}}});
  EXPECT_EQ(node.Input(Row({1, 1, 3}, {0, -2, 0})).Result(), "[1,1,2]: 2 2");
  NodeWith none("LpPool", {{"kernel_shape", List{2}}, {"p", int64_t{0}}});
  EXPECT_EQ(none.Counting({1, 1, 3}).Result(), "INVALID_MODEL");
}

TEST(MaxUnpoolTest, PutsElementsBackWhereMaxPoolFoundThem) {
  const Attributes windows = {{"kernel_shape", List{2, 2}}, {"strides", List{2, 2}}};
  NodeWith node("MaxUnpool", windows);
  node.Input(Row({1, 1, 1, 2}, {7, 8})).Input(Tensor::FromVector<int64_t>({1, 1, 1, 2}, {5, 2}));
  EXPECT_EQ(node.Evaluated(), "[1,1,2,4]: 0 0 8 0 0 7 0 0");
  NodeWith other("MaxUnpool", windows);
  other.Input(Row({1, 1, 1, 2}, {7, 8})).Input(Tensor::FromVector<int64_t>({1, 1, 1, 2}, {5, 2}));
  EXPECT_EQ(other.Ints({1, 1, 3, 4}).Result(), "UNSUPPORTED_OP");
}

// ---- ConvTranspose of 1, 2 with the kernel (100, 10, 1)

std::string Spread(const Attributes& attributes, int64_t taps = 3) {
  std::vector<double> kernel = {100, 10, 1};
  kernel.resize(static_cast<size_t>(taps));
  NodeWith node("ConvTranspose", attributes);
  return node.Input(Row({1, 1, 2}, {1, 2})).Input(Row({1, 1, taps}, kernel)).Result();
}

TEST(ConvTransposeTest, AddsTheKernelAtEveryElement) {
  EXPECT_EQ(Spread({}), "[1,1,4]: 100 210 21 2");
  EXPECT_EQ(Spread({{"strides", List{2}}}), "[1,1,5]: 100 10 201 20 2");
  EXPECT_EQ(Spread({{"pads", List{1, 2}}}), "[1,1,1]: 210");
  EXPECT_EQ(Spread({{"dilations", List{2}}}), "[1,1,6]: 100 200 10 20 1 2");
  EXPECT_EQ(Spread({{"auto_pad", std::string("VALID")}, {"pads", List{9, 9}}}),
            "[1,1,4]: 100 210 21 2");
}

TEST(ConvTransposeTest, ZerosFollowWhereMoreIsAskedForThanIsMet) {
  EXPECT_EQ(Spread({{"strides", List{3}}, {"output_padding", List{2}}}),
            "[1,1,8]: 100 10 1 200 20 2 0 0");
  EXPECT_EQ(Spread({{"dilations", List{2}}, {"output_padding", List{1}}}),
            "[1,1,7]: 100 200 10 20 1 2 0");
  EXPECT_EQ(Spread({{"strides", List{2}}, {"pads", List{0, 1}}, {"output_padding", List{1}}}),
            "[1,1,5]: 100 10 201 20 2");
  EXPECT_EQ(Spread({{"strides", List{3}}, {"output_shape", List{7}}}),
            "[1,1,7]: 100 10 1 200 20 2 0");
}

TEST(ConvTransposeTest, OutputShapeAndAutoPadChooseThePadding) {
  // Four are met, three wanted: the one that goes is the first, but for SAME_UPPER.
  EXPECT_EQ(Spread({{"output_shape", List{3}}}), "[1,1,3]: 210 21 2");
  EXPECT_EQ(Spread({{"output_shape", List{1, 1, 3}}}), "[1,1,3]: 210 21 2");
  const AttrValue upper = std::string("SAME_UPPER"), lower = std::string("SAME_LOWER");
  EXPECT_EQ(Spread({{"output_shape", List{3}}, {"auto_pad", upper}}), "[1,1,3]: 100 210 21");
  EXPECT_EQ(Spread({{"strides", List{2}}, {"auto_pad", upper}}), "[1,1,4]: 100 10 201 20");
  EXPECT_EQ(Spread({{"strides", List{2}}, {"auto_pad", lower}}), "[1,1,4]: 10 201 20 2");
}

// ONNX, its reference and its runtimes differ.
TEST(ConvTransposeTest, RefusesAutoPadThatWantsMoreThanTheKernelsReach) {
  const AttrValue upper = std::string("SAME_UPPER");
  EXPECT_EQ(Spread({{"strides", List{4}}, {"auto_pad", upper}}), "UNSUPPORTED_OP");
  EXPECT_EQ(Spread({{"output_shape", List{5}}, {"auto_pad", upper}}), "UNSUPPORTED_OP");
}

TEST(ConvTransposeTest, RefusesWhatGivesNoOutput) {
  EXPECT_EQ(Spread({{"pads", List{2, 2}}}), "SHAPE_MISMATCH");
  EXPECT_EQ(Spread({{"pads", List{kMax, kMax}}}), "SHAPE_MISMATCH");
  EXPECT_EQ(Spread({{"output_shape", List{0}}}), "SHAPE_MISMATCH");
  EXPECT_EQ(Spread({{"strides", List{kMax}}}), "SHAPE_MISMATCH");
  EXPECT_EQ(Spread({{"output_shape", List{kMax}}}), "INVALID_MODEL");
  EXPECT_EQ(Spread({{"strides", List{0}}}), "INVALID_MODEL");
  EXPECT_EQ(Spread({{"group", int64_t{0}}}), "INVALID_MODEL");
  EXPECT_EQ(Spread({{"group", int64_t{2}}}), "SHAPE_MISMATCH");
  EXPECT_EQ(Spread({{"kernel_shape", List{2}}}), "SHAPE_MISMATCH");
}

TEST(ConvIntegerTest, TakesTheZeroPointsAway) {
  OneNode node("ConvInteger");
  node.Input(Tensor::FromVector<uint8_t>({1, 1, 3}, {3, 4, 255}));
  node.Input(Tensor::FromVector<uint8_t>({1, 1, 2}, {2, 1}));
  node.Input(Tensor::FromVector<uint8_t>(Shape(), {3}));
  EXPECT_EQ(node.With("pads", List{1, 0}).Result(), "[1,1,3]: 0 1 254");
}

}  // namespace
}  // namespace gradwire
