// Every row of the op table, and the derivatives of every row, written as ONNX and read back: the
// same bits. One test a row. run_exports.py has outside programs run what is written here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/autodiff/autodiff.h"
#include "engine/engine.h"
#include "engine/onnx/export.h"
#include "engine/onnx/import.h"
#include "engine/onnx/tensor_proto.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
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

// The rows say which these are, and why.
bool HasNoForm(const Graph& graph) {
  return std::any_of(graph.nodes().begin(), graph.nodes().end(),
                     [](const Node& node) { return !node.op->no_onnx_form.empty(); });
}

// Appends a case to DIR/ROW.cases, where GRADWIRE_EXPORT_DIR is DIR: what it is, the model, its
// inputs, the right outputs. Each is its length in 8 bytes, then its bytes.
void Keep(const OpDef& op, const std::string& what, const std::string& model,
          const NamedViews& inputs, const Graph& graph, const Values& outputs) {
  const char* folder = std::getenv("GRADWIRE_EXPORT_DIR");
  if (folder == nullptr) return;
  std::ofstream file(absl::StrCat(folder, "/", op.name, ".cases"),
                     std::ios::binary | std::ios::app);
  const auto write = [&](const std::string& bytes) {
    const auto size = static_cast<uint64_t>(bytes.size());
    file.write(reinterpret_cast<const char*>(&size), sizeof size);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  };
  const auto tensors = [&](const std::vector<std::pair<std::string, TensorView>>& named) {
    onnx::GraphProto proto;
    for (const auto& [name, view] : named) {
      *proto.add_initializer() = TensorToProto(view);
      proto.mutable_initializer()->rbegin()->set_name(name);
    }
    write(proto.SerializeAsString());
  };
  write(what);
  write(model);
  tensors({inputs.begin(), inputs.end()});
  std::vector<std::pair<std::string, TensorView>> named;
  for (size_t i = 0; i < outputs.size(); ++i) {
    named.emplace_back(Exported(graph.outputs()[i].name), outputs[i]);
  }
  tensors(named);
}

// False where the graph has no ONNX form, and should not.
bool ExpectSameBits(const OpDef& op, const Graph& graph, const NamedViews& inputs,
                    const std::string& what) {
  const absl::StatusOr<std::string> bytes = ExportOnnx(graph, {});
  if (HasNoForm(graph)) {
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
  Keep(op, what, *bytes, renamed, graph, *want);
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
  int compared = 0, without = 0;
  for (const CasePlan& plan : PlanCases(*GetParam().op)) {
    if (plan.values_only) continue;
    const absl::StatusOr<OpCase> c = BuildCase(plan);
    if (!c.ok()) continue;  // the conformance test of the row tells
    const std::string what = plan.ToString();
    without += HasNoForm(c->graph);
    compared += ExpectSameBits(*GetParam().op, c->graph, c->inputs, what);
    if (c->wrt.empty()) continue;
    const std::pair<const char*, absl::StatusOr<Graph>> derivatives[] = {
        {"vjp of ", Vjp(c->graph, c->wrt)},
        {"jvp of ", Jvp(c->graph, c->wrt)},
        {"hvp of ", Hvp(c->graph, "", c->wrt)}};
    for (const auto& [kind, derivative] : derivatives) {
      if (!derivative.ok()) continue;
      NamedViews inputs = c->inputs;
      std::vector<Tensor> directions;
      Draw draw(what);
      for (const GraphInput& input : derivative->inputs()) {
        if (inputs.contains(input.name)) continue;
        directions.push_back(DrawTensor(derivative->type(input.value), -1, 1, draw));
        inputs.emplace(input.name, directions.back());
      }
      compared += ExpectSameBits(*GetParam().op, *derivative, inputs, kind + what);
    }
  }
  EXPECT_GT(compared + without, 0);
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

// The model with its functions in another domain, where they are inlined: as others read it.
std::string WithForeignFunctions(const std::string& bytes) {
  onnx::ModelProto model = *ParseOnnx(bytes);
  const auto rename = [](auto* protos) {
    for (auto& proto : *protos) {
      if (proto.domain() == "gradwire") proto.set_domain("elsewhere");
    }
  };
  rename(model.mutable_functions());
  rename(model.mutable_graph()->mutable_node());
  rename(model.mutable_opset_import());
  return model.SerializeAsString();
}

template <typename T>
Tensor SpecialValues() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> out = {T(-0.9), T(-0.999999), Limits::quiet_NaN()};
  for (const double x : {0.0, 1e-40, 1e-30, 1e-9, 1e-3, 0.1, 1.0, 2.5, 20.5, 88.5, 100.0, 179.0,
                         300.0, 709.5, 1500.0, 1e6, 1e9, 1e30}) {
    out.insert(out.end(), {static_cast<T>(x), static_cast<T>(-x)});
  }
  for (const T x : {Limits::max(), Limits::infinity()}) out.insert(out.end(), {x, -x});
  return Tensor::FromVector<T>({static_cast<int64_t>(out.size())}, out);
}

TEST(OnnxExportTest, FunctionsForOthersComputeWhatTheRowsDo) {
  int compared = 0;
  for (const OpDef* op : AllOps().rows()) {
    if (op->onnx_function.empty()) continue;
    for (const Tensor& x : {SpecialValues<float>(), SpecialValues<double>()}) {
      GraphBuilder b;
      b.Output("y", b.Add(*op, {b.Input("x", x.type(), Stage::kPoint)}));
      const Graph graph = *std::move(b).Build();
      const auto bytes = ExportOnnx(graph, {});
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      const auto back = ReadBack(WithForeignFunctions(*bytes), {{"x", x}});
      ASSERT_TRUE(back.ok()) << back.status();
      const Values want = *Evaluate(graph, {{"x", x}}), got = *Evaluate(*back, {{"x", x}});
      EXPECT_EQ(Difference(got[0], want[0], {8, true}), "") << op->name;
      compared += op->name == "StopGradient" || back->nodes().size() > 1;
    }
  }
  EXPECT_EQ(compared, 6) << "inlined functions of two types each";
}

// Bug: no function of our domain was inlined, so that a model of a later version was refused.
TEST(OnnxExportTest, FunctionsOfOpsThatThisVersionLacksAreInlined) {
  Engine engine({});
  const auto model = engine.LoadModel(ModelFormat::kText, R"(
      <ir_version: 8, opset_import: ["" : 18, "gradwire" : 1]>
      g (double x) => (double y) { y = gradwire.Later (x) }
      <domain: "gradwire", opset_import: ["" : 18]> Later (x) => (y) { y = Sin (x) })",
                                      {});
  EXPECT_TRUE(model.ok()) << model.status();
}

// Bug: it came back as sums over single elements, with an index for each, and was refused from 2^24
// elements on.
TEST(OnnxExportTest, AGradientOfGatherComesBackAsOneGatherGrad) {
  const TensorType table{DType::kFloat, {50000, 512}}, ids{DType::kInt64, {40000}};
  GraphBuilder b;
  const ValueId w = b.Input("w", table, Stage::kParameter);
  b.Output("y", Gather(b, w, b.Input("i", ids, Stage::kPoint), 0));
  const auto vjp = Vjp(*std::move(b).Build(), {"w"});
  ASSERT_TRUE(vjp.ok()) << vjp.status();
  const auto bytes = ExportOnnx(*vjp, {});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  // Nothing runs: types are all that is looked at.
  const NamedViews inputs = {{"w", TensorView(table, nullptr)},
                             {"i", TensorView(ids, nullptr)},
                             {"cotangent.y", TensorView({DType::kFloat, {40000, 512}}, nullptr)}};
  const auto back = ReadBack(*bytes, inputs);
  ASSERT_TRUE(back.ok()) << back.status();
  const auto count = [&](absl::string_view name) {
    return std::count_if(back->nodes().begin(), back->nodes().end(),
                         [&](const Node& node) { return node.op->name == name; });
  };
  EXPECT_EQ(count("GatherGrad"), 1);
  EXPECT_EQ(count("Gather") + count("GatherGrad") + count("Reshape"), back->nodes().size())
      << PrintGraph(*back);
}

// Bug: it stayed an input, which other values could be given to without effect.
TEST(OnnxExportTest, AnInputThatDecidesAShapeIsFixed) {
  Engine engine({});
  const auto model = engine.LoadModel(ModelFormat::kText, R"(
      <ir_version: 8, opset_import: ["" : 18]>
      g (double[4] x, int64[2] s) => (double[?, ?] y) { y = Reshape (x, s) })",
                                      {});
  ASSERT_TRUE(model.ok()) << model.status();
  const Tensor x = Tensor::FromVector<double>({4}, {1, 2, 3, 4});
  const Tensor s = Tensor::FromVector<int64_t>({2}, {2, 2});
  const auto bytes =
      engine.Export(**model, {.kind = Computation::kVjp, .wrt = {"x"}}, {{"x", x}, {"s", s}});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const onnx::GraphProto graph = ParseOnnx(*bytes)->graph();
  ASSERT_EQ(graph.initializer_size(), 1);
  EXPECT_EQ(graph.initializer(0).name(), "s");
  ASSERT_EQ(graph.input_size(), 2);
  EXPECT_EQ(graph.input(0).name(), "x");
  EXPECT_EQ(graph.input(1).name(), "cotangent.y");
}

// Bug: they became inputs, and their values were lost.
TEST(OnnxExportTest, InitialisersTakeThePrecisionThatIsAskedFor) {
  Engine engine({});
  const auto model =
      engine.LoadModel(ModelFormat::kText,
                       R"(<ir_version: 8, opset_import: ["" : 18]> g (float[2] x) => (float[2] y)
         <float[2] w = {3, 4}> { y = Mul (w, x) })",
                       {});
  ASSERT_TRUE(model.ok()) << model.status();
  const Tensor x = Tensor::FromVector<float>({2}, {1, 2});
  const auto bytes = engine.Export(
      **model, {.kind = Computation::kVjp, .precision = Precision::kDouble}, {{"x", x}});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto back = engine.LoadModel(ModelFormat::kOnnx, *bytes, {});
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ((*back)->model->initializers.size(), 1u);
  EXPECT_EQ((*back)->model->initializers[0].data, Tensor::FromVector<double>({2}, {3, 4}));
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
  b.Input("v0__", scalar, Stage::kPoint);
  b.Input("gradwire.gradient.my_gradwire.v0", scalar, Stage::kPoint);
  b.Input("gradwire.tangent.gradwire.gradient.v0", scalar, Stage::kPoint);
  b.Output("v1", b.Add(*AllOps().Find("Mul"), {x, y}));
  b.Output("v2", x);
  const Graph graph = *std::move(b).Build();
  const auto bytes = ExportOnnx(graph, {});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  std::vector<std::string> names;
  const onnx::GraphProto written = ParseOnnx(*bytes)->graph();
  for (const onnx::ValueInfoProto& input : written.input()) names.push_back(input.name());
  EXPECT_EQ(names, std::vector<std::string>(
                       {"v0", "v0_", "v0__", "gradient.my_gradwire.v0", "tangent.gradient.v0"}));
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
