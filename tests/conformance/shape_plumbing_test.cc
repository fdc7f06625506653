// What exporters write to compute shapes is gone once the shapes of a call are known. The GPT here
// was exported with open axes: two thirds of its nodes compute shapes.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>

#include "engine/autodiff/autodiff.h"
#include "engine/exec/specialize.h"
#include "engine/onnx/import.h"
#include "engine/onnx/tensor_proto.h"
#include "engine/ops/all_ops.h"

namespace gradwire {
namespace {

constexpr char kOpenGpt[] =
    GRADWIRE_SOURCE_DIR "/tests/conformance/cases/models/open_gpt_2_8_5_2_float32/model.onnx";

// The nodes of the model that left something to compute. Constants are not computed.
std::set<int32_t> Computing(const Graph& graph) {
  std::set<int32_t> out;
  for (const Node& node : graph.nodes()) {
    if (node.op != &kConstantOp) out.insert(node.origin);
  }
  return out;
}

// The nodes that compute integers without reading an input: shapes, in other words.
std::string ShapeArithmetic(const Graph& graph) {
  std::vector<bool> known(static_cast<size_t>(graph.num_values()), true);
  for (const GraphInput& input : graph.inputs()) known[static_cast<size_t>(input.value)] = false;
  std::string out;
  for (const Node& node : graph.nodes()) {
    bool of_constants = true;
    for (ValueId v : graph.operands(node)) of_constants &= known[static_cast<size_t>(v)];
    for (int32_t k = 0; k < node.num_outputs; ++k) {
      known[static_cast<size_t>(node.first_output + k)] = of_constants;
    }
    const DType dtype = graph.type(node.first_output).dtype;
    if (node.op != &kConstantOp && of_constants && !IsFloating(dtype) && dtype != DType::kBool) {
      out += graph.Label(node) + "; ";
    }
  }
  return out;
}

class ShapePlumbingTest : public testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(ShapePlumbingTest, IsGoneFromAnExportedGpt) {
  std::ifstream file(kOpenGpt, std::ios::binary);
  ASSERT_TRUE(file) << kOpenGpt;
  const auto proto = ParseOnnx(std::string(std::istreambuf_iterator<char>(file), {}));
  ASSERT_TRUE(proto.ok()) << proto.status();
  const auto model = ImportModel(*proto, AllOps(), {});
  ASSERT_TRUE(model.ok()) << model.status();
  const auto [batch, length] = GetParam();
  const Tensor ids({DType::kInt64, {batch, length}});
  const NamedViews inputs = {{"x", ids}, {"t", ids}};
  SpecializeRequest request;
  request.inputs = &inputs;
  const auto specialized = Specialize(*model, request);
  ASSERT_TRUE(specialized.ok()) << specialized.status();
  const Graph& graph = specialized->graph;

  EXPECT_EQ(model->nodes.size(), 237u);
  // What computes: 34 nodes a layer, 8 of embeddings, head and loss, 4 of the causal mask.
  EXPECT_LE(Computing(graph).size(), 80u) << PrintGraph(graph);
  EXPECT_EQ(ShapeArithmetic(graph), "");
  EXPECT_TRUE(specialized->frozen.empty()) << "shapes come from shapes, not from values";

  const auto gradient = Gradient(graph, "loss", TrainableInitializers(*model));
  ASSERT_TRUE(gradient.ok()) << gradient.status();
  EXPECT_EQ(ShapeArithmetic(*gradient), "");
}

INSTANTIATE_TEST_SUITE_P(Calls, ShapePlumbingTest,
                         testing::Values(std::pair(2, 5), std::pair(1, 1), std::pair(7, 3)));

}  // namespace
}  // namespace gradwire
