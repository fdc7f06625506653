#include "engine/autodiff/autodiff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/engine.h"
#include "engine/ops/builders.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {
namespace {

using testing::Contains;
using testing::DoubleEq;
using testing::ElementsAre;
using testing::Field;
using testing::SizeIs;
using Doubles = std::vector<double>;

const TensorType kScalar{DType::kDouble, {}};

// Output name -> elements.
std::map<std::string, Doubles> Compute(const Graph& graph, const NamedTensors& inputs) {
  BoundProgram bound(CompileGraph(graph), inputs);
  EXPECT_TRUE(bound.Run().ok());
  std::map<std::string, Doubles> out;
  for (const SignatureEntry& e : bound.program().signature().outputs) {
    out[e.name] = ToDoubles(bound.Output(e.name));
  }
  return out;
}

NamedTensors Scalars(const std::map<std::string, double>& values) {
  NamedTensors out;
  for (const auto& [name, value] : values) out[name] = Tensor::Scalar(value);
  return out;
}

// A graph with one of its outputs, under another name.
Graph OnlyOutput(const Graph& graph, absl::string_view output, absl::string_view name) {
  GraphBuilder b(graph);
  b.Output(name, graph.FindOutput(output));
  return Value(std::move(b).Build());
}

// The gradient of a formula of scalars, as a call asks for it.
std::map<std::string, Doubles> GradientOfFormula(const std::string& formula,
                                                 const std::map<std::string, double>& at,
                                                 const std::vector<std::string>& wrt) {
  Engine engine(QuickEngine());
  const NamedTensors inputs = Scalars(at);
  NamedViews views;
  for (const auto& [name, tensor] : inputs) views[name] = tensor;
  const auto model = Value(engine.LoadModel(ModelFormat::kFormula, formula, views));
  const Prepared prepared =
      Value(engine.Prepare(*model, {.kind = Computation::kGradient, .wrt = wrt}, views));
  BoundProgram bound(prepared.program, inputs);
  EXPECT_TRUE(bound.Run().ok());
  std::map<std::string, Doubles> out;
  for (const std::string& w : wrt) out[w] = ToDoubles(bound.Output(GradientName(w)));
  return out;
}

// ---- Weights that are used again and again -----------------------------------------------------

// sum over i in `uses` of sum(sin(x_i w)) for x_i [rows, 5] and w [5, 7], and its gradient by w.
Graph GradientOfProducts(int64_t rows, const std::vector<int>& uses) {
  GraphBuilder b;
  const ValueId w = b.Input("w", {DType::kDouble, {5, 7}}, Stage::kParameter);
  ValueId sum = b.Scalar(DType::kDouble, 0);
  for (int i : uses) {
    const ValueId x = b.Input(absl::StrCat("x", i), {DType::kDouble, {rows, 5}}, Stage::kPoint);
    sum = Add(b, sum, ReduceSum(b, Sin(b, MatMul(b, x, w)), {}));
  }
  b.Output("f", sum);
  return Value(Gradient(Value(std::move(b).Build()), "f", {"w"}));
}

int64_t ProductsOf(const Graph& graph) {
  return std::count_if(graph.nodes().begin(), graph.nodes().end(),
                       [](const Node& node) { return node.op->name == "MatMul"; });
}

TEST(SharedWeightTest, ItsGradientIsTheSumOfThoseOfEachUse) {
  for (const int64_t rows : {1, 2, 20}) {
    NamedTensors inputs = {{"w", Random({DType::kDouble, {5, 7}}, 1)}};
    Doubles sum(35, 0);
    for (int i = 0; i < 3; ++i) {
      const std::string x = absl::StrCat("x", i);
      inputs[x] = Random({DType::kDouble, {rows, 5}}, static_cast<uint32_t>(i) + 2);
      const auto one = Compute(GradientOfProducts(rows, {i}), {{"w", inputs["w"]}, {x, inputs[x]}});
      for (size_t k = 0; k < sum.size(); ++k) sum[k] += one.at(GradientName("w"))[k];
    }
    const auto all = Compute(GradientOfProducts(rows, {0, 1, 2}), inputs);
    EXPECT_THAT(all.at(GradientName("w")), testing::Pointwise(testing::DoubleNear(1e-13), sum))
        << rows << " rows";
  }
}

TEST(SharedWeightTest, ItsGradientIsOneProductWhereThoseOfTheUsesAreThin) {
  EXPECT_EQ(ProductsOf(GradientOfProducts(2, {0, 1, 2})), 3 + 1);
  EXPECT_EQ(ProductsOf(GradientOfProducts(20, {0, 1, 2})), 3 + 3) << "copies would cost more";
}

// ---- What is differentiated by -----------------------------------------------------------------

TEST(WrtTest, AnUnreachedInputGetsZerosOfItsShape) {
  GraphBuilder b;
  const ValueId x = b.Input("x", kScalar, Stage::kPoint);
  b.Input("unused", {DType::kFloat, {2, 3}}, Stage::kPoint);
  b.Output("f", Mul(b, x, x));
  const Graph gradient = Value(Gradient(Value(std::move(b).Build()), "f", {"x", "unused"}));
  EXPECT_EQ(gradient.type(gradient.FindOutput(GradientName("unused"))),
            (TensorType{DType::kFloat, {2, 3}}));
  const auto values = Compute(gradient, Scalars({{"x", 3}}));
  EXPECT_EQ(values.at(GradientName("x")), Doubles{6});
  EXPECT_EQ(values.at(GradientName("unused")), Doubles(6, 0));
}

TEST(WrtTest, AnInputReachedThroughAStepFunctionOnlyGetsZeros) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {3}}, Stage::kPoint);
  b.Output("f", ReduceSum(b, Sign(b, x), {}));
  const Graph gradient = Value(Gradient(Value(std::move(b).Build()), "f", {"x"}));
  EXPECT_EQ(Compute(gradient, {{"x", Vector({1, -2, 3})}}).at(GradientName("x")), Doubles(3, 0));
}

TEST(WrtTest, EqualExtremesShareTheDerivative) {
  const Doubles shares = {0.5, 0.5, 0, 1 / 3.0, 1 / 3.0, 1 / 3.0};
  for (const double sign : {1, -1}) {
    GraphBuilder b;
    const ValueId x = b.Input("x", {DType::kDouble, {2, 3}}, Stage::kPoint);
    const ValueId top = sign > 0 ? ReduceMax(b, x, {1}, false) : ReduceMin(b, x, {1}, false);
    b.Output("f", ReduceSum(b, top, {}));
    const Graph graph = Value(std::move(b).Build());
    const Tensor at = Tensor::FromVector<double>({2, 3}, {sign, sign, 0, 2, 2, 2});
    EXPECT_EQ(Compute(Value(Gradient(graph, "f", {"x"})), {{"x", at}}).at(GradientName("x")),
              shares);
    const Tensor along = Tensor::FromVector<double>({2, 3}, {1, 3, 9, 3, 6, 0});
    const auto tangents = Compute(Value(Jvp(graph, {"x"})), {{"x", at}, {TangentName("x"), along}});
    EXPECT_EQ(tangents.at(TangentName("f")), Doubles{2 + 3}) << sign;
  }
}

TEST(WrtTest, TheOutputItselfHasGradientOne) {
  EXPECT_EQ(GradientOfFormula("f = x*x; f", {{"x", 3}}, {"x"}).at("x"), Doubles{6});
  EXPECT_EQ(GradientOfFormula("u = x*x", {{"x", 3}}, {"u"}).at("u"), Doubles{1});
}

TEST(WrtTest, AValueInBetweenGetsTheGradientAtItself) {
  const auto gradients = GradientOfFormula("u = x*y; u*u + x", {{"x", 2}, {"y", 5}}, {"u", "x"});
  EXPECT_EQ(gradients.at("u"), Doubles{20});
  EXPECT_EQ(gradients.at("x"), Doubles{20 * 5 + 1});
}

TEST(WrtTest, AValueThatIsAnotherUnderASecondNameIsToldApart) {
  const auto gradients = GradientOfFormula("u = x; u*x", {{"x", 3}}, {"u", "x"});
  EXPECT_EQ(gradients.at("u"), Doubles{3}) << "x is held";
  EXPECT_EQ(gradients.at("x"), Doubles{6}) << "u moves along";
}

TEST(WrtTest, ValuesOfEqualFormulasAreToldApart) {
  const auto gradients =
      GradientOfFormula("u = x*y; v = x*y; u*v^2", {{"x", 2}, {"y", 5}}, {"u", "v", "x"});
  EXPECT_EQ(gradients.at("u"), Doubles{100});
  EXPECT_EQ(gradients.at("v"), Doubles{200});
  EXPECT_EQ(gradients.at("x"), Doubles{300 * 5});
}

TEST(WrtTest, OneOfTwoValuesOfEqualFormulasIsNotTheOther) {
  EXPECT_EQ(GradientOfFormula("u = x*y; v = x*y; u*v^2", {{"x", 2}, {"y", 5}}, {"u"}).at("u"),
            Doubles{100});
  EXPECT_EQ(GradientOfFormula("u = x*y; v = x*y; u*v^2", {{"x", 2}, {"y", 5}}, {"v"}).at("v"),
            Doubles{200});
}

TEST(WrtTest, AllUnknownNamesAreToldAtOnce) {
  GraphBuilder b;
  const ValueId x = b.Input("x", kScalar, Stage::kPoint);
  b.Output("f", Mul(b, x, x));
  const absl::Status status = Gradient(Value(std::move(b).Build()), "f", {"p", "x", "q"}).status();
  EXPECT_TRUE(HasReason(status, Reason::kUnknownWrt)) << status;
  EXPECT_THAT(ViolationsOf(status), SizeIs(2));
}

// ---- What has no derivative --------------------------------------------------------------------

absl::StatusOr<std::vector<TensorType>> SameType(const InferArgs& args) {
  return std::vector<TensorType>{args.in[0]};
}
const OpDef kOpaqueOp = {
    .name = "Opaque",
    .doc = "",
    .infer = SameType,
    .reference = [](const ReferenceArgs& args) -> absl::Status {
      std::memcpy(args.out[0], args.in[0].raw(), static_cast<size_t>(args.in[0].bytes()));
      return absl::OkStatus();
    },
    .derivative = NotDifferentiable{"it is a black box"},
};

// Two opaque nodes in a row, one beside them, and one that the output does not need.
Graph OpaqueGraph() {
  GraphBuilder b;
  b.SetOrigins(std::make_shared<const std::vector<std::string>>(
      std::vector<std::string>{"node first", "node second", "node beside", "node unneeded"}));
  const ValueId x = b.Input("x", kScalar, Stage::kPoint);
  const ValueId y = b.Input("y", kScalar, Stage::kPoint);
  b.SetOrigin(0);
  const ValueId first = b.Add(kOpaqueOp, {Sin(b, x)});
  b.SetOrigin(1);
  const ValueId second = b.Add(kOpaqueOp, {Exp(b, first)});
  b.SetOrigin(2);
  const ValueId beside = b.Add(kOpaqueOp, {Cos(b, x)});
  b.SetOrigin(3);
  const ValueId unneeded = b.Add(kOpaqueOp, {Tanh(b, x)});
  b.SetOrigin(-1);
  b.Output("f", Mul(b, Add(b, second, beside), y));
  b.Output("g", unneeded);
  return Value(std::move(b).Build());
}

void ExpectAllThree(const absl::Status& status) {
  EXPECT_TRUE(HasReason(status, Reason::kNotDifferentiable)) << status;
  const std::vector<Violation> violations = ViolationsOf(status);
  for (const char* where : {"node first", "node second", "node beside"}) {
    EXPECT_THAT(violations, Contains(Field(&Violation::where, where)));
  }
  EXPECT_THAT(violations, SizeIs(3));
}

TEST(NotDifferentiableTest, ReverseModeNamesEveryNodeOnTheWay) {
  ExpectAllThree(Gradient(OpaqueGraph(), "f", {"x"}).status());
}

TEST(NotDifferentiableTest, ForwardModeNamesEveryNodeOnTheWay) {
  ExpectAllThree(Jvp(OnlyOutput(OpaqueGraph(), "f", "f"), {"x"}).status());
}

TEST(NotDifferentiableTest, NodesThatAreNotOnTheWayDoNoHarm) {
  const Graph graph = OpaqueGraph();
  const auto values = Compute(Value(Gradient(graph, "f", {"y"})), Scalars({{"x", 0}, {"y", 7}}));
  EXPECT_THAT(values.at(GradientName("y")), ElementsAre(DoubleEq(2)));  // e^sin 0 + cos 0
  EXPECT_TRUE(Jvp(OnlyOutput(graph, "f", "f"), {"y"}).ok());
}

// ---- Higher order ------------------------------------------------------------------------------

// f = sum(tanh(A x)^2) + x0 * exp(x1) of five variables.
Graph Curved() {
  GraphBuilder b;
  const ValueId a = b.Input("a", {DType::kDouble, {4, 5}}, Stage::kParameter);
  const ValueId x = b.Input("x", {DType::kDouble, {5}}, Stage::kPoint);
  const ValueId h = Tanh(b, MatMul(b, a, Reshape(b, x, {5, 1})));
  const ValueId x0 = Slice(b, x, {0}, {1}, {1}), x1 = Slice(b, x, {1}, {1}, {1});
  b.Output("f", Add(b, ReduceSum(b, Mul(b, h, h), {}), ReduceSum(b, Mul(b, x0, Exp(b, x1)), {})));
  return Value(std::move(b).Build());
}

TEST(HvpTest, IsTheDifferenceOfGradients) {
  const Graph f = Curved();
  const Doubles x = {0.3, -0.7, 0.2, 1.1, -0.4}, v = {1, -2, 0.5, 0, 3};
  const Tensor a = Random({DType::kDouble, {4, 5}}, 3);
  const Doubles product = Compute(Value(Hvp(f, "f", {"x"})),
                                  {{"a", a}, {"x", Vector(x)}, {TangentName("x"), Vector(v)}})
                              .at(ProductName("x"));
  const Graph gradient = Value(Gradient(f, "f", {"x"}));
  const double step = 1e-5;
  const auto at = [&](double t) {
    Doubles moved = x;
    for (size_t i = 0; i < x.size(); ++i) moved[i] += t * v[i];
    return Compute(gradient, {{"a", a}, {"x", Vector(moved)}}).at(GradientName("x"));
  };
  const Doubles ahead = at(step), behind = at(-step);
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(product[i], (ahead[i] - behind[i]) / (2 * step), 1e-8) << i;
  }
}

TEST(HvpTest, OfCotangentsIsThatOfTheirSum) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {2}}, Stage::kPoint);
  b.Output("y", Mul(b, Mul(b, x, x), x));
  const Graph hvp = Value(Hvp(Value(std::move(b).Build()), "", {"x"}));
  const auto values = Compute(hvp, {{"x", Vector({2, 3})},
                                    {CotangentName("y"), Vector({1, 10})},
                                    {TangentName("x"), Vector({1, 1})}});
  EXPECT_EQ(values.at(GradientName("x")), (Doubles{12, 270}));
  EXPECT_EQ(values.at(ProductName("x")), (Doubles{12, 180}));
}

TEST(HigherOrderTest, TheThirdDerivativeOfAFifthPowerComesFromThreeGradients) {
  GraphBuilder b;
  const ValueId x = b.Input("x", kScalar, Stage::kPoint);
  b.Output("f", Pow(b, x, b.Scalar(DType::kDouble, 5)));
  Graph graph = Value(std::move(b).Build());
  const double expected[] = {5 * 16, 20 * 8, 60 * 4, 120 * 2, 120, 0};
  for (const double right : expected) {
    graph = OnlyOutput(Value(Gradient(graph, "f", {"x"})), GradientName("x"), "f");
    EXPECT_THAT(Compute(graph, Scalars({{"x", 2}})).at("f"), ElementsAre(DoubleEq(right)));
  }
}

TEST(HigherOrderTest, ForwardOverForwardEqualsReverseOverReverse) {
  GraphBuilder b;
  const ValueId x = b.Input("x", kScalar, Stage::kPoint);
  b.Output("f", Exp(b, Sin(b, x)));
  const Graph f = Value(std::move(b).Build());
  GraphBuilder c;
  const ValueId y = c.Input("x", kScalar, Stage::kPoint);
  const ValueId one = c.Scalar(DType::kDouble, 1);
  const ValueId d = Tangents(c, {y}, {one}, {Exp(c, Sin(c, y))})[0];
  c.Output("dd", Tangents(c, {y}, {one}, {d})[0]);
  const Graph forward = Value(std::move(c).Build());
  const Graph reverse =
      OnlyOutput(Value(Gradient(OnlyOutput(Value(Gradient(f, "f", {"x"})), GradientName("x"), "d"),
                                "d", {"x"})),
                 GradientName("x"), "dd");
  const double sine = std::sin(0.7), cosine = std::cos(0.7);
  for (const Graph& graph : {forward, reverse}) {
    EXPECT_NEAR(Compute(graph, Scalars({{"x", 0.7}})).at("dd")[0],
                std::exp(sine) * (cosine * cosine - sine), 1e-14);
  }
}

// ---- Outputs -----------------------------------------------------------------------------------

TEST(OutputTest, TwoOutputsOfOneValueAddTheirCotangents) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {2}}, Stage::kPoint);
  const ValueId y = Mul(b, x, x);
  b.Output("y", y);
  b.Output("z", y);
  const Graph vjp = Value(Vjp(Value(std::move(b).Build()), {"x"}));
  const auto values = Compute(vjp, {{"x", Vector({3, 5})},
                                    {CotangentName("y"), Vector({1, 0})},
                                    {CotangentName("z"), Vector({10, 1})}});
  EXPECT_EQ(values.at("y"), (Doubles{9, 25}));
  EXPECT_EQ(values.at("z"), (Doubles{9, 25}));
  EXPECT_EQ(values.at(GradientName("x")), (Doubles{66, 10}));
}

TEST(OutputTest, TwoOutputsOfOneValueHaveTheSameTangent) {
  GraphBuilder b;
  const ValueId x = b.Input("x", kScalar, Stage::kPoint);
  const ValueId y = Mul(b, x, x);
  b.Output("y", y);
  b.Output("z", y);
  const auto values = Compute(Value(Jvp(Value(std::move(b).Build()), {"x"})),
                              Scalars({{"x", 3}, {TangentName("x"), 2}}));
  EXPECT_EQ(values.at(TangentName("y")), Doubles{12});
  EXPECT_EQ(values.at(TangentName("z")), Doubles{12});
}

TEST(OutputTest, AnInputMayBeAnOutput) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {2}}, Stage::kPoint);
  b.Output("y", x);
  const auto values = Compute(Value(Vjp(Value(std::move(b).Build()), {"x"})),
                              {{"x", Vector({3, 5})}, {CotangentName("y"), Vector({7, 8})}});
  EXPECT_EQ(values.at("y"), (Doubles{3, 5}));
  EXPECT_EQ(values.at(GradientName("x")), (Doubles{7, 8}));
}

TEST(OutputTest, AnIntegerOutputHasNoCotangentAndNoTangent) {
  GraphBuilder b;
  const ValueId x = b.Input("x", kScalar, Stage::kPoint);
  b.Output("f", Mul(b, x, x));
  b.Output("i", Cast(b, x, DType::kInt64));
  const Graph graph = Value(std::move(b).Build());
  EXPECT_EQ(Value(Vjp(graph, {"x"})).FindInput(CotangentName("i")), kNoValue);
  EXPECT_EQ(Value(Jvp(graph, {"x"})).FindOutput(TangentName("i")), kNoValue);
}

}  // namespace
}  // namespace gradwire
