// Adding an op takes one row and nothing else: this file adds one and shows what follows from it.
// docs/adding-an-op.md walks through the row below.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "engine/autodiff/autodiff.h"
#include "engine/onnx/import.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"
#include "server/core/ops_page.h"
#include "server/core/server_core.h"
#include "tests/support/conformance.h"

namespace gradwire {
namespace {

// [toy op]
struct SoftcubeFn {
  template <typename T>
  T operator()(T x) const {
    return x * x * x / (T{1} + x * x);
  }
};

const OpDef kSoftcubeOp = PointwiseOp<kFloating, 1>(
    SoftcubeFn{}, {
                      .name = "Softcube",
                      .doc = "`x^3 / (1 + x^2)`: a cube near 0, the identity far away.",
                      .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
                        const ValueId x = n.in[0], one = b.ScalarLike(x, 1);
                        const ValueId r = Reciprocal(b, Add(b, one, Mul(b, x, x)));
                        // 1 + (x^2 - 1) / (1 + x^2)^2
                        return Add(b, one, Mul(b, Sub(b, Mul(b, x, x), one), Mul(b, r, r)));
                      }},
                      .lowering = Pointwise{ScalarTile<SoftcubeFn, 1>},
                      .onnx = {{.name = "Softcube", .domain = "gradwire"}},
                      .domain = {.low = -3, .high = 3},
                  });
// [toy op]

OpRegistry WithToy() {
  const auto known = AllOps().rows();
  std::vector<const OpDef*> rows(known.begin(), known.end());
  rows.push_back(&kSoftcubeOp);
  return OpRegistry(std::move(rows));
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// y = Softcube(x) as a client would send it.
onnx::ModelProto SoftcubeModel() {
  onnx::ModelProto model;
  model.set_ir_version(8);
  auto* opset = model.add_opset_import();
  opset->set_domain("gradwire");
  opset->set_version(1);
  onnx::GraphProto* graph = model.mutable_graph();
  onnx::NodeProto* node = graph->add_node();
  node->set_op_type("Softcube");
  node->set_domain("gradwire");
  node->add_input("x");
  node->add_output("y");
  onnx::ValueInfoProto* x = graph->add_input();
  x->set_name("x");
  x->mutable_type()->mutable_tensor_type()->set_elem_type(onnx::TensorProto::DOUBLE);
  graph->add_output()->set_name("y");
  return model;
}

TEST(ToyOpTest, IsUnknownWithoutItsRow) {
  const absl::Status status = ImportModel(SoftcubeModel(), AllOps(), {}).status();
  EXPECT_TRUE(HasReason(status, Reason::kUnsupportedOp)) << status;
}

TEST(ToyOpTest, IsImportedAndDifferentiated) {
  const OpRegistry registry = WithToy();
  absl::StatusOr<Model> model = ImportModel(SoftcubeModel(), registry, {});
  ASSERT_TRUE(model.ok()) << model.status();
  const Tensor x = Tensor::Scalar(2.0);
  const NamedViews inputs = {{"x", x}};
  absl::StatusOr<Specialized> special =
      Specialize(*model, {.inputs = &inputs, .outputs = {}, .marks = {"x"}});
  ASSERT_TRUE(special.ok()) << special.status();
  absl::StatusOr<Graph> gradient = Gradient(special->graph, "y", {"x"});
  ASSERT_TRUE(gradient.ok()) << gradient.status();
  auto program = Compile(*gradient, {});
  ASSERT_TRUE(program.ok()) << program.status();
  absl::StatusOr<Values> values = RunProgram(**program, inputs, 0);
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_DOUBLE_EQ(ElementAsDouble((*values)[0], 0), 8.0 / 5);
  EXPECT_DOUBLE_EQ(ElementAsDouble((*values)[1], 0), 1 + 3.0 / 25);
}

TEST(ToyOpTest, PassesTheChecksOfEveryRow) {
  const RowReport report = Conformance().CheckRow(kSoftcubeOp);
  for (const std::string& failure : report.failures) ADD_FAILURE() << failure;
  EXPECT_GT(report.gradient_checks, 0);
}

TEST(ToyOpTest, FailsTheChecksWithAWrongDerivative) {
  OpDef wrong = kSoftcubeOp;
  wrong.derivative =
      Elementwise{[](GraphBuilder& b, const NodeView& n, int) { return b.ScalarLike(n.in[0], 1); }};
  EXPECT_FALSE(Conformance().CheckRow(wrong).failures.empty());
}

TEST(ToyOpTest, IsListedAmongTheCapabilities) {
  const std::vector<v1::OpCapability> all = server::DescribeOps(WithToy());
  const auto toy = std::find_if(all.begin(), all.end(),
                                [](const auto& row) { return row.name() == "Softcube"; });
  ASSERT_NE(toy, all.end());
  EXPECT_EQ(toy->domain(), "gradwire");
  EXPECT_TRUE(toy->value() && toy->vjp() && toy->jvp());
  EXPECT_EQ(toy->data_types_size(), 2) << "FLOAT and DOUBLE";
  EXPECT_EQ(toy->doc(), kSoftcubeOp.doc);
}

TEST(ToyOpTest, IsDocumented) {
  EXPECT_TRUE(absl::StrContains(
      server::OpsPage(WithToy()),
      "\n| Softcube | gradwire.Softcube | f32 f64 | value vjp jvp 2nd | elementwise | pointwise | "
      "`x^3 / (1 + x^2)`: a cube near 0, the identity far away. |\n"));
}

TEST(ToyOpTest, IsTheOneThatTheGuideWalksThrough) {
  const std::string marker = "// [toy op]\n";
  const std::string source = ReadFile(GRADWIRE_SOURCE_DIR "/tests/conformance/toy_op_test.cc");
  const size_t first = source.find(marker) + marker.size();
  const size_t last = source.find(marker, first);
  ASSERT_NE(last, std::string::npos);
  EXPECT_TRUE(absl::StrContains(ReadFile(GRADWIRE_SOURCE_DIR "/docs/adding-an-op.md"),
                                source.substr(first, last - first)))
      << "docs/adding-an-op.md shows another row than this file";
}

}  // namespace
}  // namespace gradwire
