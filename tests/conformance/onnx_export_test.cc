// Every row of the op table, and the derivatives of every row, written as ONNX and read back: the
// same bits. One test a row.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/autodiff/autodiff.h"
#include "engine/engine.h"
#include "engine/onnx/export.h"
#include "engine/onnx/import.h"
#include "engine/ops/all_ops.h"
#include "tests/support/conformance.h"

namespace gradwire {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 30;

std::string Exported(absl::string_view name) {
  return absl::StrReplaceAll(name, {{"gradwire.", ""}});
}

absl::StatusOr<Values> Evaluate(const Graph& graph, const NamedViews& inputs) {
  std::vector<ValueId> wanted;
  for (const GraphOutput& output : graph.outputs()) wanted.push_back(output.value);
  return EvaluateByReference(graph, inputs, wanted, kMaxBytes);
}

absl::StatusOr<Graph> ReadBack(const std::string& bytes, const NamedViews& inputs) {
  GW_ASSIGN_OR_RETURN(const onnx::ModelProto proto, ParseOnnx(bytes));
  GW_ASSIGN_OR_RETURN(const Model model, ImportModel(proto, AllOps(), {}));
  SpecializeRequest request;
  request.inputs = &inputs;
  GW_ASSIGN_OR_RETURN(Specialized specialized, Specialize(model, request));
  return std::move(specialized.graph);
}

bool SameBytes(const Tensor& a, const Tensor& b) {
  return a.type() == b.type() && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

bool IsRandom(const Graph& graph) {
  return std::any_of(graph.nodes().begin(), graph.nodes().end(),
                     [](const Node& node) { return node.op->name == "RandomUniform"; });
}

// False where the graph has no ONNX form, and should not.
bool ExpectSameBits(const Graph& graph, const NamedViews& inputs, const std::string& what) {
  const absl::StatusOr<std::string> bytes = ExportOnnx(graph, {});
  if (IsRandom(graph)) {
    EXPECT_TRUE(HasReason(bytes.status(), Reason::kUnsupportedOp)) << what << bytes.status();
    return false;
  }
  EXPECT_TRUE(bytes.ok()) << what << ": " << bytes.status();
  if (!bytes.ok()) return false;
  NamedViews renamed;
  for (const auto& [name, view] : inputs) renamed.emplace(Exported(name), view);
  const absl::StatusOr<Graph> back = ReadBack(*bytes, renamed);
  EXPECT_TRUE(back.ok()) << what << ": " << back.status() << "\n" << PrintGraph(graph);
  if (!back.ok()) return false;
  const auto want = Evaluate(graph, inputs);
  const auto got = Evaluate(*back, renamed);
  EXPECT_EQ(want.status(), got.status()) << what;
  if (!want.ok() || !got.ok()) return false;
  for (size_t i = 0; i < want->size(); ++i) {
    EXPECT_TRUE(SameBytes((*want)[i], (*got)[i])) << what << ": output " << i << "\n"
                                                  << PrintGraph(graph) << PrintGraph(*back);
    EXPECT_EQ(back->outputs()[i].name, Exported(graph.outputs()[i].name));
  }
  return true;
}

struct Subject {
  std::string name;
  const OpDef* op = nullptr;
};
void PrintTo(const Subject& subject, std::ostream* out) { *out << subject.name; }

std::vector<Subject> Rows() {
  std::vector<Subject> out;
  for (const OpDef* op : AllOps().rows()) out.push_back({std::string(op->name), op});
  return out;
}

class OnnxExportTest : public testing::TestWithParam<Subject> {};

TEST_P(OnnxExportTest, ReadsBackTheSameBitsAndDerivatives) {
  int compared = 0, random = 0;
  for (const CasePlan& plan : PlanCases(*GetParam().op)) {
    if (plan.values_only) continue;
    const absl::StatusOr<OpCase> c = BuildCase(plan);
    if (!c.ok()) continue;  // the conformance test of the row tells
    const std::string what = plan.ToString();
    random += IsRandom(c->graph);
    compared += ExpectSameBits(c->graph, c->inputs, what);
    const absl::StatusOr<Graph> vjp = Vjp(c->graph, c->wrt);
    if (c->wrt.empty() || !vjp.ok()) continue;
    NamedViews inputs = c->inputs;
    std::vector<Tensor> cotangents;
    Draw draw(what);
    for (const GraphInput& input : vjp->inputs()) {
      if (inputs.contains(input.name)) continue;
      cotangents.push_back(DrawTensor(vjp->type(input.value), -1, 1, draw));
      inputs.emplace(input.name, cotangents.back());
    }
    compared += ExpectSameBits(*vjp, inputs, "vjp of " + what);
  }
  EXPECT_GT(compared + random, 0);
}

INSTANTIATE_TEST_SUITE_P(Ops, OnnxExportTest, testing::ValuesIn(Rows()),
                         [](const auto& info) { return info.param.name; });

TEST(OnnxExportTest, AThirdDerivativeIsMadeByThreeExports) {
  Engine engine({});
  const Tensor x = Tensor::Scalar(2.0);
  const NamedViews inputs = {{"x", x}};
  auto model = engine.LoadModel(ModelFormat::kFormula, "x^5", inputs);
  std::string output;  // the only one
  for (int order = 1; order <= 3; ++order) {
    ASSERT_TRUE(model.ok()) << model.status();
    Computation gradient{.kind = Computation::kGradient, .wrt = {"x"}};
    if (!output.empty()) gradient.outputs = {output};
    const auto bytes = engine.Export(**model, gradient, inputs);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    model = engine.LoadModel(ModelFormat::kOnnx, *bytes, {});
    ASSERT_TRUE(model.ok()) << model.status();
    // The value, then its derivative.
    ASSERT_EQ((*model)->model->outputs.size(), 2u);
    output = (*model)->model->value_names[static_cast<size_t>((*model)->model->outputs[1])];
  }
  SpecializeRequest request;
  request.inputs = &inputs;
  request.outputs = {output};
  const auto graph = Specialize(*(*model)->model, request);
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ((*Evaluate(graph->graph, inputs))[0].data<double>()[0], 60 * 4.0);
}

TEST(OnnxExportTest, InitialisersStayInitialisers) {
  Engine engine({});
  const auto model =
      engine.LoadModel(ModelFormat::kText,
                       R"(<ir_version: 8, opset_import: ["" : 17]> g (double[2] x) => (double f)
         <double[2] w = {3, 4}> { p = Mul (w, x) f = ReduceSum <keepdims = 0> (p) })",
                       {});
  ASSERT_TRUE(model.ok()) << model.status();
  const Tensor x = Tensor::FromVector<double>({2}, {1, 2});
  const auto bytes = engine.Export(**model, {.kind = Computation::kGradient}, {{"x", x}});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto back = engine.LoadModel(ModelFormat::kOnnx, *bytes, {});
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ((*back)->model->initializers.size(), 1u);
  EXPECT_EQ((*back)->model->initializers[0].data.data<double>()[1], 4);
  ASSERT_EQ((*back)->model->inputs.size(), 1u);
}

TEST(OnnxExportTest, EqualGraphsGiveEqualFiles) {
  const Tensor x = Tensor::FromVector<double>({3}, {1, 2, 3});
  std::string first;
  for (int i = 0; i < 2; ++i) {
    Engine engine({});
    const auto model =
        engine.LoadModel(ModelFormat::kFormula, "sum(log1p(x) * expm1(x))", {{"x", x}});
    const auto bytes = engine.Export(**model, {.kind = Computation::kGradient}, {{"x", x}});
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    if (i == 0) first = *bytes;
    EXPECT_EQ(first, *bytes);
  }
}

TEST(OnnxExportTest, RefusesStateUpdates) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {}}, Stage::kParameter);
  b.Update("x", b.Scalar(DType::kDouble, 1));
  b.Output("y", x);
  EXPECT_TRUE(HasReason(ExportOnnx(*std::move(b).Build(), {}).status(), Reason::kInvalidSpec));
}

TEST(OnnxExportTest, NamesNeverCollide) {
  GraphBuilder b;
  const TensorType scalar{DType::kDouble, {}};
  const ValueId x = b.Input("v0", scalar, Stage::kPoint);
  const ValueId y = b.Input("gradwire.v0", scalar, Stage::kPoint);
  b.Output("v1", b.Add(*AllOps().Find("Mul"), {x, y}));
  b.Output("v2", x);
  const Graph graph = *std::move(b).Build();
  const auto bytes = ExportOnnx(graph, {});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const Tensor two = Tensor::Scalar(2.0), three = Tensor::Scalar(3.0);
  const NamedViews inputs = {{"v0", two}, {"v0_", three}};
  const auto back = ReadBack(*bytes, inputs);
  ASSERT_TRUE(back.ok()) << back.status();
  const auto values = Evaluate(*back, inputs);
  EXPECT_EQ((*values)[0].data<double>()[0], 6);
  EXPECT_EQ((*values)[1].data<double>()[0], 2);
}

}  // namespace
}  // namespace gradwire
