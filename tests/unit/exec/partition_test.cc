#include <gtest/gtest.h>

#include "engine/engine.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {
namespace {

// The only output of a model on its inputs.
double Evaluate(absl::string_view text, const NamedViews& inputs) {
  Engine engine({});
  auto model = engine.LoadModel(ModelFormat::kText, text, inputs);
  EXPECT_TRUE(model.ok()) << model.status();
  auto prepared = engine.Prepare(**model, {.kind = Computation::kValue}, inputs);
  EXPECT_TRUE(prepared.ok()) << prepared.status();
  Bindings bindings;
  for (const SignatureEntry& e : prepared->program->signature().inputs) {
    auto given = inputs.find(e.name);
    if (given != inputs.end()) {
      bindings.inputs.push_back(given->second.raw());
      continue;
    }
    for (const ModelInitializer& init : (*model)->model->initializers) {
      if ((*model)->model->value_names[static_cast<size_t>(init.value)] == e.name) {
        bindings.inputs.push_back(init.data.raw());
      }
    }
  }
  Tensor out(prepared->program->signature().outputs[0].type);
  bindings.outputs = {out.mutable_raw()};
  Arena arena;
  RunContext context{.arena = &arena};
  EXPECT_TRUE(prepared->program->Run(bindings, context).ok());
  return ElementAsDouble(out, 0);
}

// Bug: a parameter-stage node that waited for its consumer's cluster was put into a cluster that
// ran before the consumer's other operand existed, because that operand's stage was not known yet.
TEST(PartitionTest, ParameterValueBesideALaterPointValueIsReadAfterBothExist) {
  const Tensor x = Tensor::FromVector<float>({2, 3}, {1, 2, 3, -1, 5, 6});
  NamedViews inputs;
  inputs["x"] = x;
  EXPECT_NEAR(Evaluate(R"(<ir_version: 8, opset_import: ["" : 18]>
      g (float[N,3] x) => (float f) <float[3,2] w = {0.1,0.2,0.3,0.4,0.5,0.6}> {
        b = ReduceMean<keepdims=0>(w)
        m = MatMul(x, w)
        a = ReduceMean<keepdims=0>(m)
        f = Add(a, b) })",
                       inputs),
              4.05, 1e-6);
}

// Bug: the type of a view was read after a copy had moved all types. Many views of transposed
// values make the array of types grow in the middle of one.
TEST(PartitionTest, ViewsThatNeedCopiesKeepTheirTypes) {
  std::string text =
      R"(<ir_version: 8, opset_import: ["" : 17]> g (double[3,4] x) => (double y) {)";
  std::string sum = "";
  for (int i = 0; i < 40; ++i) {
    const std::string n = std::to_string(i);
    text += " c" + n + " = Constant<value_float=" + n + ".0>() d" + n + " = Cast<to=11>(c" + n +
            ") a" + n + " = Add(x, d" + n + ") t" + n + " = Transpose(a" + n + ") s" + n +
            " = Flatten<axis=0>(t" + n + ") r" + n + " = ReduceMax<keepdims=0>(s" + n + ")";
    sum += (i ? ", r" : "r") + n;
  }
  text += " y = Sum(" + sum + ") }";
  const Tensor x = Tensor::FromVector<double>({3, 4}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  NamedViews inputs;
  inputs["x"] = x;
  EXPECT_EQ(Evaluate(text, inputs), 40 * 11 + 39 * 40 / 2);
}

// What steps a model makes of x [1,2,1,2] = 1 2 3 4, v [2] = 10 -20 and a kernel w that gives x
// again, and what comes out.
struct Outcome {
  std::vector<double> values;
  std::string steps;
};
Outcome OutcomeOf(const std::string& nodes) {
  const std::string text = R"(<ir_version: 8, opset_import: ["" : 18]>
      g (double[1,2,1,2] x, double[2] v) => (double[1,2,1,2] y)
        <double[2,2,1,1] w = {1,0,0,1}> {)" +
                           nodes + "}";
  Engine engine(QuickEngine());
  const NamedTensors tensors = {{"x", Tensor::FromVector<double>({1, 2, 1, 2}, {1, 2, 3, 4})},
                                {"v", Vector({10, -20})},
                                {"w", Tensor::FromVector<double>({2, 2, 1, 1}, {1, 0, 0, 1})}};
  const NamedViews views = {{"x", tensors.at("x")}, {"v", tensors.at("v")}};
  const auto model = Value(engine.LoadModel(ModelFormat::kText, text, views));
  BoundProgram bound(Value(engine.Prepare(*model, {.kind = Computation::kValue}, views)).program,
                     tensors);
  return {ToDoubles(bound.Results()[0]), bound.program().Describe()};
}

TEST(PartitionTest, AConvolutionTakesBiasAndActivationAlong) {
  const Outcome sum = OutcomeOf("y = Conv(x, w, v)");
  EXPECT_EQ(sum.values, (std::vector<double>{11, 12, -17, -16}));
  EXPECT_NE(sum.steps.find("conv+bias f64"), std::string::npos) << sum.steps;
  const Outcome relu = OutcomeOf("c = Conv(x, w, v) y = Relu(c)");
  EXPECT_EQ(relu.values, (std::vector<double>{11, 12, 0, 0}));
  EXPECT_NE(relu.steps.find("conv+bias+relu f64"), std::string::npos) << relu.steps;
}

TEST(PartitionTest, AVectorAlongTheLastDimensionIsNoBiasOfAConvolution) {
  const Outcome sum = OutcomeOf("c = Conv(x, w) y = Add(c, v)");
  EXPECT_EQ(sum.values, (std::vector<double>{11, -18, 13, -16}));
  EXPECT_EQ(sum.steps.find("+bias"), std::string::npos) << sum.steps;
}

}  // namespace
}  // namespace gradwire
