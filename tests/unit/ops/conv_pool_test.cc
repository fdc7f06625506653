// Values and conventions of convolutions and pools that are known, and what they refuse. What the
// samples of the rows cover (derivatives of every order, kernels) is in tests/conformance.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/ops/builders.h"
#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

using testing::HasSubstr;

constexpr int64_t kMin = INT64_MIN, kMax = INT64_MAX;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

using Attributes = std::vector<std::pair<const char*, AttrValue>>;
using List = std::vector<int64_t>;

// ---- Conv

Tensor Line(std::vector<double> values) {
  const auto n = static_cast<int64_t>(values.size());
  return Tensor::FromVector<double>({1, 1, n}, values);
}

// Of 0, 1, ..., n - 1 with the kernel (100, 10, 1) or its first taps: digits show what was met.
std::string Slid(int64_t n, const Attributes& attributes, int64_t taps = 3) {
  std::vector<double> kernel = {100, 10, 1};
  kernel.resize(static_cast<size_t>(taps));
  OneNode node("Conv");
  for (const auto& [name, value] : attributes) node.With(name, value);
  return node.Counting({1, 1, n}).Input(Line(kernel)).Result();
}

TEST(ConvTest, SlidesWithoutFlippingTheKernel) {
  EXPECT_EQ(Slid(5, {}), "[1,1,3]: 12 123 234");
  EXPECT_EQ(Slid(5, {{"strides", List{2}}}), "[1,1,2]: 12 234");
  EXPECT_EQ(Slid(5, {{"pads", List{1, 2}}}), "[1,1,6]: 1 12 123 234 340 400");
  EXPECT_EQ(Slid(5, {{"dilations", List{2}}}), "[1,1,1]: 24");
  EXPECT_EQ(Slid(5, {{"pads", List{7, 0}}, {"strides", List{4}}}), "[1,1,3]: 0 0 123");
}

TEST(ConvTest, AutoPadMakesOneWindowForEveryStride) {
  // The kernel (100, 10) needs one element of padding.
  EXPECT_EQ(Slid(4, {{"auto_pad", std::string("SAME_UPPER")}}, 2), "[1,1,4]: 10 120 230 300");
  EXPECT_EQ(Slid(4, {{"auto_pad", std::string("SAME_LOWER")}}, 2), "[1,1,4]: 0 10 120 230");
  EXPECT_EQ(Slid(5, {{"auto_pad", std::string("SAME_UPPER")}, {"strides", List{2}}}, 2),
            "[1,1,3]: 10 230 400");
  EXPECT_EQ(Slid(4, {{"auto_pad", std::string("VALID")}, {"pads", List{9, 9}}}, 2),
            "[1,1,3]: 10 120 230");
  EXPECT_EQ(Slid(5, {{"auto_pad", std::string("SAME_UPPER")}, {"dilations", List{3}}}, 2),
            "[1,1,5]: 20 30 140 200 300");
}

TEST(ConvTest, GroupsAndBias) {
  const Tensor kernel = Tensor::FromVector<double>({4, 1, 1}, {1, 10, 100, 1000});
  OneNode node("Conv");
  node.Counting({1, 2, 2}).Input(kernel).Input(Tensor::FromVector<double>({4}, {5, 6, 7, 8}));
  EXPECT_EQ(node.With("group", int64_t{2}).Result(), "[1,4,2]: 5 6 6 16 207 307 2008 3008");
}

TEST(ConvTest, SumsOverNoChannelsOrNoBatchAreZerosOrNothing) {
  EXPECT_EQ(OneNode("Conv").Counting({1, 0, 3}).Counting({2, 0, 2}).Result(), "[1,2,2]: 0 0 0 0");
  EXPECT_EQ(OneNode("Conv").Counting({0, 2, 3}).Counting({2, 2, 2}).Result(), "[0,2,2]:");
}

std::string Refusal(Shape x, Shape w, const Attributes& attributes) {
  OneNode node("Conv");
  for (const auto& [name, value] : attributes) node.With(name, value);
  return node.Counting(std::move(x)).Counting(std::move(w)).Result();
}

TEST(ConvTest, RefusesHostileAttributes) {
  const Shape x = {1, 2, 5, 5}, w = {2, 2, 3, 3};
  for (const Attributes& attributes : std::vector<Attributes>{
           {{"strides", List{0, 1}}},
           {{"strides", List{1, kMin}}},
           {{"strides", List{1}}},
           {{"strides", int64_t{1}}},
           {{"dilations", List{1, -1}}},
           {{"dilations", List{}}},
           {{"pads", List{-1, 0, 0, 0}}},
           {{"pads", List{0, 0}}},
           {{"group", int64_t{0}}},
           {{"group", kMin}},
           {{"group", std::string("1")}},
           {{"auto_pad", std::string("SAME")}},
           {{"auto_pad", std::string("SAME_UPPER")}, {"strides", List{0, 0}}},
           {{"auto_pad", std::string("SAME_LOWER")}, {"dilations", List{kMax, 1, 1}}},
           // One output extent of nearly 2^63, which no shape can have.
           {{"pads", List{kMax - 5, 0, 0, 0}}},
       }) {
    EXPECT_EQ(Refusal(x, w, attributes), "INVALID_MODEL") << attributes[0].first;
  }
  for (const Attributes& attributes : std::vector<Attributes>{
           {{"dilations", List{3, 1}}},
           {{"dilations", List{kMax, kMax}}},
           {{"pads", List{kMax, 0, kMax, 0}}},
           {{"group", int64_t{2}}},
           {{"group", kMax}},
           {{"kernel_shape", List{3}}},
           {{"kernel_shape", List{3, 2}}},
       }) {
    EXPECT_EQ(Refusal(x, w, attributes), "SHAPE_MISMATCH") << attributes[0].first;
  }
  EXPECT_EQ(Refusal(x, {2, 2, 3}, {}), "SHAPE_MISMATCH");
  EXPECT_EQ(Refusal({2, 5}, {2, 5}, {}), "SHAPE_MISMATCH");
  EXPECT_EQ(Refusal(x, {2, 3, 3, 3}, {}), "SHAPE_MISMATCH");
  EXPECT_EQ(Refusal(x, {3, 1, 3, 3}, {{"group", int64_t{2}}}), "SHAPE_MISMATCH");
  EXPECT_EQ(Refusal(x, {2, 2, 0, 3}, {}), "INVALID_MODEL");
  // ONNX has windows of any rank: the model is right.
  EXPECT_EQ(Refusal({1, 1, 2, 2, 2, 2}, {1, 1, 1, 1, 1, 1}, {}), "UNSUPPORTED_OP");
}

TEST(ConvTest, HugePadsAndStridesCostNothing) {
  EXPECT_EQ(Slid(5, {{"pads", List{kMax / 4, kMax / 4}}, {"strides", List{kMax / 4}}}),
            "[1,1,3]: 0 12 0");
}

TEST(ConvTest, AnErrorNamesEveryDimensionThatIsWrong) {
  OneNode node("Conv");
  node.Counting({1, 1, 4, 5}).Counting({1, 1, 5, 3}).With("dilations", List{2, 3});
  EXPECT_THAT(std::string(node.Import().message()),
              testing::AllOf(HasSubstr("dimension 2: the kernel spans 9, more than the padded "
                                       "extent 0 + 4 + 0"),
                             HasSubstr("dimension 3: the kernel spans 7")));
}

TEST(ConvTest, RefusesABiasThatDoesNotFit) {
  const auto with_bias = [](Tensor bias) {
    return OneNode("Conv").Counting({1, 1, 3}).Counting({2, 1, 1}).Input(std::move(bias)).Result();
  };
  EXPECT_EQ(with_bias(Tensor::FromVector<double>({3}, {1, 2, 3})), "SHAPE_MISMATCH");
  EXPECT_EQ(with_bias(Tensor::FromVector<double>({2, 1}, {1, 2})), "SHAPE_MISMATCH");
  EXPECT_EQ(with_bias(Tensor::FromVector<float>({2}, {1, 2})), "DTYPE_UNSUPPORTED");
}

// ---- MaxPool

// Values and indices of a pool over one line.
std::pair<std::string, std::string> Pooled(std::vector<double> line, int64_t kernel,
                                           const Attributes& attributes = {}) {
  OneNode node("MaxPool", 18, 2);
  for (const auto& [name, value] : attributes) node.With(name, value);
  node.Input(Line(std::move(line))).With("kernel_shape", List{kernel});
  return {node.Result(0), node.Result(1)};
}
using Both = std::pair<std::string, std::string>;

TEST(MaxPoolTest, TheFirstOfEqualMaximaIsTaken) {
  EXPECT_EQ(Pooled({1, 3, 3, 3}, 3), Both("[1,1,2]: 3 3", "[1,1,2]: 1 1"));
  EXPECT_EQ(Pooled({0, -0.0, 0}, 3), Both("[1,1,1]: 0", "[1,1,1]: 0"));
  EXPECT_EQ(Pooled({-kInf, -kInf}, 2), Both("[1,1,1]: -inf", "[1,1,1]: 0"));
}

TEST(MaxPoolTest, NanIsLargerThanEverything) {
  EXPECT_EQ(Pooled({1, kNaN, kInf}, 3), Both("[1,1,1]: nan", "[1,1,1]: 1"));
  EXPECT_EQ(Pooled({kNaN, 5}, 2), Both("[1,1,1]: nan", "[1,1,1]: 0"));
  EXPECT_EQ(Pooled({kNaN, 1, kNaN, 2}, 4), Both("[1,1,1]: nan", "[1,1,1]: 2"));  // as PyTorch
}

TEST(MaxPoolTest, PaddingIsNeverTheLargest) {
  EXPECT_EQ(Pooled({-3, -2, -5}, 2, {{"pads", List{1, 1}}}),
            Both("[1,1,4]: -3 -2 -2 -5", "[1,1,4]: 0 1 1 2"));
  EXPECT_EQ(Pooled({-3, -2, -5}, 2, {{"auto_pad", std::string("SAME_LOWER")}}),
            Both("[1,1,3]: -3 -2 -2", "[1,1,3]: 0 1 1"));
}

TEST(MaxPoolTest, CeilModeAddsAWindowOnlyWhereItBeginsInTheInputOrBeforeIt) {
  const Attributes ceil = {{"ceil_mode", int64_t{1}}, {"strides", List{2}}};
  EXPECT_EQ(Pooled({1, 2, 3, 4}, 3, ceil).first, "[1,1,2]: 3 4");
  EXPECT_EQ(Pooled({1, 2, 3}, 3, ceil).first, "[1,1,1]: 3");
  EXPECT_EQ(Pooled({1, 2, 3, 4}, 1, {{"ceil_mode", int64_t{1}}, {"strides", List{4}}}).first,
            "[1,1,1]: 1");  // a second window would begin behind the end
  EXPECT_EQ(
      Pooled({1, 2, 3}, 3, {{"ceil_mode", int64_t{1}}, {"strides", List{3}}, {"pads", List{1, 1}}})
          .first,
      "[1,1,2]: 2 3");
  EXPECT_EQ(Pooled({1, 2}, 1, {{"ceil_mode", int64_t{1}}, {"strides", List{kMax}}}).first,
            "[1,1,1]: 1");
}

TEST(MaxPoolTest, IndicesCountThroughTheWholeInput) {
  OneNode rows("MaxPool", 12, 2);
  rows.Counting({2, 1, 2, 3}).With("kernel_shape", List{2, 2});
  EXPECT_EQ(rows.Result(1), "[2,1,1,2]: 4 5 10 11");
  OneNode columns("MaxPool", 12, 2);
  columns.Counting({2, 1, 2, 3}).With("kernel_shape", List{2, 2}).With("storage_order", int64_t{1});
  EXPECT_EQ(columns.Result(1), "[2,1,1,2]: 3 5 9 11");
}

TEST(MaxPoolTest, TakesIntegers) {
  OneNode node("MaxPool", 12);
  node.Input(Tensor::FromVector<int8_t>({1, 1, 3}, {-128, -127, 5}));
  EXPECT_EQ(node.With("kernel_shape", List{2}).Result(), "[1,1,2]: -127 5");
}

TEST(MaxPoolTest, RefusesWindowsOverPaddingAlone) {
  for (const Attributes& attributes : std::vector<Attributes>{
           {{"pads", List{2, 0}}},
           {{"pads", List{0, 2}}},
           {{"pads", List{kMax / 2, 0}}},
           {{"pads", List{1, 9}}, {"strides", List{2}}},
           {{"pads", List{4, 4}}, {"dilations", List{5}}},
           {{"dilations", List{3}}},
       }) {
    EXPECT_EQ(Pooled({1, 2, 3}, 2, attributes).first, "SHAPE_MISMATCH") << attributes[0].first;
  }
  EXPECT_EQ(Pooled({1, 2, 3}, 4).first, "SHAPE_MISMATCH");
  EXPECT_EQ(Pooled({}, 1).first, "SHAPE_MISMATCH");
  // A stride that steps over the padding behind the input.
  EXPECT_EQ(Pooled({1, 2, 3}, 2, {{"pads", List{0, 9}}, {"strides", List{20}}}).first,
            "[1,1,1]: 2");
}

TEST(MaxPoolTest, RefusesHostileAttributes) {
  for (const Attributes& attributes : std::vector<Attributes>{
           {{"strides", List{0}}},
           {{"strides", List{1, 1}}},
           {{"pads", List{-1, 0}}},
           {{"dilations", List{kMin}}},
           {{"kernel_shape", List{}}},
           {{"ceil_mode", std::string("yes")}},
           {{"auto_pad", std::string("same_upper")}},
       }) {
    EXPECT_EQ(Pooled({1, 2, 3}, 2, attributes).first, "INVALID_MODEL") << attributes[0].first;
  }
  EXPECT_EQ(Pooled({1, 2, 3}, kMax, {{"pads", List{kMax, kMax}}}).first, "SHAPE_MISMATCH");
  EXPECT_EQ(Pooled({1, 2, 3}, 0).first, "INVALID_MODEL");
  EXPECT_EQ(OneNode("MaxPool").Counting({1, 1, 3}).Result(), "INVALID_MODEL");
  EXPECT_EQ(OneNode("MaxPool").Counting({3}).With("kernel_shape", List{1}).Result(),
            "SHAPE_MISMATCH");
}

TEST(MaxPoolTest, AHugeWindowCostsNoMoreThanItsInput) {
  EXPECT_EQ(Pooled({1, 2, 3}, kMax / 4, {{"pads", List{kMax / 4 - 1, 0}}}).first, "[1,1,3]: 1 2 3");
}

// ---- MaxPoolGrad

TEST(MaxPoolGradTest, AnIndexOutsideItsChannelIsAnError) {
  const OpDef* op = AllOps().Find("MaxPoolGrad");
  ASSERT_NE(op, nullptr);
  for (int64_t bad : {int64_t{-1}, int64_t{3}, int64_t{5}, kMin, kMax}) {
    GraphBuilder b;
    const ValueId g = b.Constant(Tensor::FromVector<double>({1, 2, 1}, {1, 2}));
    const ValueId at = b.Constant(Tensor::FromVector<int64_t>({1, 2, 1}, {bad, 4}));
    b.Add(*op, {g, at}, Attrs{{"shape", List{3}}});
    EXPECT_EQ(ReasonNameOf(b.status()), "INVALID_TENSOR") << bad;
    EXPECT_THAT(std::string(b.status().message()), HasSubstr("position 0")) << bad;
  }
}

}  // namespace
}  // namespace gradwire
