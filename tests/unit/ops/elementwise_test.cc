// Values and derivatives of pointwise ops at their special points: kinks, ties, NaN, the ends of
// integer ranges. What holds for every op is tested by the conformance suite.
#include <cmath>
#include <limits>
#include <optional>

#include "engine/autodiff/autodiff.h"
#include "engine/exec/specialize.h"
#include "engine/graph/node_import.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "gtest/gtest.h"
#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

using Doubles = std::vector<double>;

ValueId Vector(GraphBuilder& b, const Doubles& values) {
  return b.Constant(Tensor::FromVector<double>({static_cast<int64_t>(values.size())}, values));
}

// The elements of a value that has been folded to a constant.
Doubles Folded(const GraphBuilder& b, ValueId v) {
  EXPECT_TRUE(b.ok()) << b.status();
  const Tensor* tensor = b.ConstantValue(v);
  EXPECT_NE(tensor, nullptr);
  Doubles out;
  for (int64_t i = 0; tensor != nullptr && i < tensor->num_elements(); ++i) {
    out.push_back(ElementAsDouble(*tensor, i));
  }
  return out;
}

// The partial derivatives by input i that the op's own rule gives.
Doubles Partials(absl::string_view name, const std::vector<Doubles>& inputs, int i) {
  GraphBuilder b;
  const OpDef* op = AllOps().Find(name);
  std::vector<ValueId> in;
  for (const Doubles& values : inputs) in.push_back(Vector(b, values));
  const std::vector<ValueId> out = {b.Add(*op, in)};
  return Folded(b, std::get<Elementwise>(op->derivative).partial(b, {Attrs(), in, out}, i));
}

// What an ONNX node makes of inputs that are already in the builder.
std::vector<ValueId> Import(GraphBuilder& b, absl::string_view name, int opset,
                            const std::vector<ValueId>& in, Attrs attrs = {},
                            Mode mode = Mode::kAsGraph, int outputs = 1) {
  ConstantScope scope(b);
  NodeImport n(b, attrs, in, outputs, opset, mode, scope, 1);
  return AllOps().FindOnnx("", name, opset).binding->import(n);
}

struct Slopes {
  Doubles values;
  std::vector<Doubles> gradients;
};

// Values of an imported op, and the gradients of their sum by every input.
Slopes Differentiate(absl::string_view name, int opset, const std::vector<Doubles>& inputs,
                     Attrs attrs = {}) {
  GraphBuilder b;
  std::vector<ValueId> in;
  NamedViews views;
  std::vector<Tensor> tensors;
  for (const Doubles& values : inputs) {
    const Shape shape = values.size() == 1 ? Shape() : Shape{static_cast<int64_t>(values.size())};
    tensors.push_back(Tensor::FromVector<double>(shape, values));
    const std::string input = absl::StrCat("x", in.size());
    in.push_back(b.Input(input, tensors.back().type(), Stage::kPoint));
    views.emplace(input, tensors.back());
  }
  const ValueId y = Import(b, name, opset, in, std::move(attrs))[0];
  const ValueId seed = b.Full(TensorType(b.type(y)), 1);
  b.Output("y", y);
  for (ValueId g : Cotangents(b, {y}, {seed}, in)) b.Output(absl::StrCat("g", g), g);
  const absl::StatusOr<Graph> graph = std::move(b).Build();
  EXPECT_TRUE(graph.ok()) << graph.status();
  std::vector<ValueId> wanted;
  for (const GraphOutput& output : graph->outputs()) wanted.push_back(output.value);
  const auto results = EvaluateByReference(*graph, views, wanted, 1 << 20);
  EXPECT_TRUE(results.ok()) << results.status();
  Slopes out;
  for (size_t k = 0; k < results->size(); ++k) {
    Doubles& row = k == 0 ? out.values : out.gradients.emplace_back();
    for (int64_t i = 0; i < (*results)[k].num_elements(); ++i) {
      row.push_back(ElementAsDouble((*results)[k], i));
    }
  }
  return out;
}

TEST(ElementwiseTest, ReluAndAbsHaveNoSlopeAtZero) {
  EXPECT_EQ(Partials("Relu", {{-1, 0, 2}}, 0), (Doubles{0, 0, 1}));
  EXPECT_EQ(Partials("Abs", {{-1, 0, 2}}, 0), (Doubles{-1, 0, 1}));
  GraphBuilder b;
  EXPECT_TRUE(std::isnan(Folded(b, Relu(b, Vector(b, {kNan, 1})))[0]));
  EXPECT_TRUE(std::isnan(Folded(b, Sign(b, Vector(b, {kNan, 1})))[0]));
}

TEST(ElementwiseTest, TiesOfMinAndMaxShareTheDerivative) {
  for (int i : {0, 1}) {
    const double first = i == 0 ? 1 : 0;
    EXPECT_EQ(Partials("Max", {{2, 3, 1}, {1, 3, 2}}, i), (Doubles{first, 0.5, 1 - first}));
    EXPECT_EQ(Partials("Min", {{2, 3, 1}, {1, 3, 2}}, i), (Doubles{1 - first, 0.5, first}));
  }
  GraphBuilder b;
  const ValueId x = Vector(b, {kNan, 1});
  const ValueId y = Vector(b, {2, kNan});
  for (ValueId v : {Max(b, x, y), Min(b, x, y)}) {
    EXPECT_TRUE(std::isnan(Folded(b, v)[0]));
    EXPECT_TRUE(std::isnan(Folded(b, v)[1]));
  }
}

TEST(ElementwiseTest, PowIsFlatWherePyTorchSaysSo) {
  const std::vector<Doubles> at = {{0, 0, 0, 2, 0}, {0, 1, 2, 3, -1}};
  EXPECT_EQ(Partials("Pow", at, 0), (Doubles{0, 1, 0, 12, -kInf}));
  EXPECT_EQ(Partials("Pow", at, 1), (Doubles{0, 0, 0, 8 * std::log(2.0), -kInf}));
}

TEST(ElementwiseTest, PowWithConstantExponentBecomesProducts) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {2}}, Stage::kPoint);
  auto pow = [&](double exponent) { return Pow(b, x, b.Scalar(DType::kDouble, exponent)); };
  const ValueId square = Mul(b, x, x);
  EXPECT_EQ(pow(1), x);
  EXPECT_EQ(pow(2), square);
  EXPECT_EQ(pow(3), Mul(b, square, x));
  EXPECT_EQ(pow(4), Mul(b, square, square));
  EXPECT_EQ(pow(7), Mul(b, Mul(b, square, square), Mul(b, square, x)));
  EXPECT_EQ(pow(0), b.Full({DType::kDouble, {2}}, 1));
  EXPECT_EQ(pow(-1), Reciprocal(b, x));
  EXPECT_EQ(pow(-2), Reciprocal(b, square));
  EXPECT_EQ(b.Producer(pow(0.5))->op->name, "Pow");
  EXPECT_EQ(b.Producer(Pow(b, x, b.Full({DType::kDouble, {3, 2}}, 1)))->op->name, "Pow");
}

TEST(ElementwiseTest, OnlyExactIdentitiesAreApplied) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {2}}, Stage::kPoint);
  const ValueId n = b.Input("n", {DType::kInt32, {2}}, Stage::kPoint);
  auto scalar = [&](double value) { return b.Scalar(DType::kDouble, value); };
  EXPECT_NE(Add(b, x, scalar(0.0)), x);  // would keep -0
  EXPECT_EQ(Add(b, x, scalar(-0.0)), x);
  EXPECT_EQ(Sub(b, x, scalar(0.0)), x);
  EXPECT_NE(Sub(b, x, scalar(-0.0)), x);
  EXPECT_EQ(Add(b, n, b.Scalar(DType::kInt32, 0)), n);
  EXPECT_EQ(Mul(b, scalar(1), x), x);
  EXPECT_EQ(Mul(b, x, scalar(-1)), Neg(b, x));
  EXPECT_EQ(Div(b, x, scalar(1)), x);
  EXPECT_EQ(Neg(b, Neg(b, x)), x);
  EXPECT_EQ(Add(b, scalar(2), Neg(b, x)), Sub(b, scalar(2), x));
  EXPECT_NE(Sub(b, x, x), b.Zeros(x));
  EXPECT_NE(Mul(b, x, b.Full({DType::kDouble, {3, 2}}, 1)), x);  // another shape
  EXPECT_EQ(Mul(b, x, b.Full({DType::kDouble, {2}}, 5)), Mul(b, x, scalar(5)));
}

TEST(ElementwiseTest, IntegersWrapAndNeverTrap) {
  GraphBuilder b;
  constexpr int64_t kLowest = std::numeric_limits<int64_t>::min();
  auto ints = [&](std::vector<int64_t> v) {
    const auto size = static_cast<int64_t>(v.size());
    return b.Constant(Tensor::FromVector<int64_t>({size}, v));
  };
  auto values = [&](ValueId v) { return ToInt64s(*b.ConstantValue(v)); };
  using Ints = std::vector<int64_t>;
  EXPECT_EQ(values(Div(b, ints({kLowest, 7, -7}), ints({-1, 0, 2}))), (Ints{kLowest, 0, -3}));
  EXPECT_EQ(values(Abs(b, ints({kLowest, -2}))), (Ints{kLowest, 2}));
  EXPECT_EQ(values(Pow(b, ints({3, -1, 0, 2, 2}), ints({4, -3, -1, -1, 63}))),
            (Ints{81, -1, 0, 0, kLowest}));
}

TEST(ElementwiseTest, FunctionsAreStableFarOut) {
  GraphBuilder b;
  const ValueId x = Vector(b, {-1000, 1000, -kInf, kInf});
  EXPECT_EQ(Folded(b, Sigmoid(b, x)), (Doubles{0, 1, 0, 1}));
  EXPECT_EQ(Folded(b, Softplus(b, x)), (Doubles{0, 1000, 0, kInf}));
}

TEST(CastTest, RoundsToNarrowFormatsAndSaturatesIntegers) {
  GraphBuilder b;
  const Doubles values = {1 + 0x1p-11, 1 + 3 * 0x1p-11, 65519, 65520,
                          0x1p-24,     0x1p-25,         -0.0,  1e300};
  const Doubles half = {1, 1 + 0x1p-9, 65504, kInf, 0x1p-24, 0, 0, kInf};
  const ValueId x = Vector(b, values);
  EXPECT_EQ(Folded(b, Cast(b, Cast(b, x, DType::kFloat16), DType::kDouble)), half);
  const ValueId y = Vector(b, {1 + 0x1p-8, 1 + 3 * 0x1p-8, 3e38, 3.4e38, 0x1p-133, -kInf});
  EXPECT_EQ(Folded(b, Cast(b, Cast(b, y, DType::kBfloat16), DType::kDouble)),
            (Doubles{1, 1 + 0x1p-6, 0x1.c4p127, kInf, 0x1p-133, -kInf}));
  EXPECT_EQ(Folded(b, Cast(b, Vector(b, {-1.9, 300, kNan, 1e30}), DType::kUint8)),
            (Doubles{0, 255, 0, 255}));
  EXPECT_EQ(Folded(b, Cast(b, Vector(b, {0.5, 0, kNan}), DType::kBool)), (Doubles{1, 0, 1}));
}

TEST(CastTest, ThereAndBackVanishesOnlyWithoutLoss) {
  GraphBuilder b;
  const ValueId narrow = b.Input("f", {DType::kFloat, {2}}, Stage::kPoint);
  const ValueId wide = b.Input("d", {DType::kDouble, {2}}, Stage::kPoint);
  EXPECT_EQ(Cast(b, Cast(b, narrow, DType::kDouble), DType::kFloat), narrow);
  EXPECT_NE(Cast(b, Cast(b, wide, DType::kFloat), DType::kDouble), wide);
}

TEST(ActivationTest, SlopesAtKinks) {
  EXPECT_EQ(Differentiate("LeakyRelu", 16, {{-1, 0, 1}}, {{"alpha", 0.25}}).gradients[0],
            (Doubles{0.25, 0.25, 1}));
  EXPECT_EQ(Differentiate("Elu", 6, {{0, 1e6}}, {{"alpha", 0.5}}).gradients[0], (Doubles{0.5, 1}));
  EXPECT_EQ(Differentiate("Celu", 12, {{0, 1e6}}, {{"alpha", 0.5}}).gradients[0], (Doubles{1, 1}));
  EXPECT_EQ(Differentiate("HardSigmoid", 6, {{-2, 0, 2}}, {{"alpha", 0.25}}).gradients[0],
            (Doubles{0, 0.25, 0}));
  EXPECT_EQ(Differentiate("HardSwish", 14, {{-3, 0, 3}}).gradients[0], (Doubles{0, 0.5, 1}));
  const Slopes prelu = Differentiate("PRelu", 16, {{-2, 0, kInf}, {0.5, 0.5, 0.5}});
  EXPECT_EQ(prelu.gradients[0], (Doubles{0.5, 0.5, 1}));
  EXPECT_EQ(prelu.gradients[1], (Doubles{-2, 0, 0}));
}

TEST(ActivationTest, ClipPassesItsBoundsAndGivesThemWhatItClips) {
  const Slopes clip = Differentiate("Clip", 13, {{-2, -1, 0, 1, 2}, {-1}, {1}});
  EXPECT_EQ(clip.values, (Doubles{-1, -1, 0, 1, 1}));
  EXPECT_EQ(clip.gradients[0], (Doubles{0, 1, 1, 1, 0}));
  EXPECT_EQ(clip.gradients[1], (Doubles{1}));
  EXPECT_EQ(clip.gradients[2], (Doubles{1}));
  const Slopes crossed = Differentiate("Clip", 13, {{-2, kNan}, {3}, {1}});
  EXPECT_EQ(crossed.values[0], 1);
  EXPECT_TRUE(std::isnan(crossed.values[1]));
}

TEST(LegacyBroadcastTest, AxisLinesTheSecondOperandUp) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kFloat, {2, 3, 4}}, Stage::kPoint);
  const ValueId y = b.Input("y", {DType::kFloat, {3}}, Stage::kPoint);
  const Attrs at_axis = {{"broadcast", int64_t{1}}, {"axis", int64_t{1}}};
  const ValueId sum = Import(b, "Add", 6, {x, y}, at_axis)[0];
  EXPECT_EQ(sum, Add(b, x, Reshape(b, y, {3, 1})));
  Import(b, "Add", 6, {x, y}, {{"broadcast", int64_t{1}}});  // a suffix would be [4]
  EXPECT_TRUE(HasReason(b.status(), Reason::kShapeMismatch));
  b.ClearError();
  Import(b, "Add", 6, {x, y});
  EXPECT_TRUE(HasReason(b.status(), Reason::kShapeMismatch));
}

TEST(RandomTest, DrawsDependOnSeedStepAndStreamOnly) {
  GraphBuilder b;
  auto draw = [&](int64_t seed, int64_t step, int64_t stream, DType dtype, int64_t size) {
    const ValueId key = b.Constant(Tensor::FromVector<int64_t>({2}, {seed, step}));
    return Folded(b, RandomUniform(b, key, {dtype, {size}}, stream));
  };
  const Doubles wide = draw(1, 2, 3, DType::kDouble, 999);
  const Doubles narrow = draw(1, 2, 3, DType::kFloat, 1001);
  double sum = 0;
  for (size_t i = 0; i < wide.size(); ++i) {
    EXPECT_GE(wide[i], 0);
    EXPECT_LT(wide[i], 1);
    EXPECT_NEAR(wide[i], narrow[i], 0x1p-24);
    sum += wide[i];
  }
  EXPECT_NEAR(sum / 999, 0.5, 0.05);
  EXPECT_NE(wide, draw(2, 2, 3, DType::kDouble, 999));
  EXPECT_NE(wide, draw(1, 3, 3, DType::kDouble, 999));
  EXPECT_NE(wide, draw(1, 2, 4, DType::kDouble, 999));
}

TEST(DropoutTest, TrainsWhereTheCallOrTheGraphSaysSo) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kFloat, {4}}, Stage::kPoint);
  const ValueId ratio = b.Scalar(DType::kFloat, 0.25);
  const ValueId yes = b.Scalar(DType::kBool, 1);
  EXPECT_EQ(Import(b, "Dropout", 13, {x, ratio})[0], x);
  EXPECT_EQ(Import(b, "Dropout", 13, {x, ratio, yes}, {}, Mode::kEval)[0], x);
  EXPECT_EQ(Import(b, "Dropout", 7, {x})[0], x);
  EXPECT_NE(Import(b, "Dropout", 6, {x})[0], x);
  EXPECT_NE(Import(b, "Dropout", 13, {x, ratio}, {}, Mode::kTrain)[0], x);
  const std::vector<ValueId> both =
      Import(b, "Dropout", 13, {x, ratio, yes}, {}, Mode::kAsGraph, 2);
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(b.type(both[1]), (TensorType{DType::kBool, {4}}));
  EXPECT_EQ(Import(b, "Dropout", 13, {x, b.Scalar(DType::kFloat, 0), yes})[0], x);
  EXPECT_TRUE(b.ok()) << b.status();
}

}  // namespace
}  // namespace gradwire
