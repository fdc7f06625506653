#include "engine/onnx/onnx_text.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/base/status.h"
#include "gtest/gtest.h"

namespace gradwire {
namespace {

using namespace std::string_literals;  // NOLINT: for literals that hold '\0'

using onnx::AttributeProto;
using onnx::TensorProto;

constexpr char kSeed[] = R"(
# f(x, y) = x^2 y
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
seed (double x, double y) => (double f) <double two = {2}, double x2> {
  x2 = Pow(x, two)
  f = Mul(x2, y)  # the product
})";

onnx::ModelProto Parse(absl::string_view text) {
  auto model = ParseOnnxText(text);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : onnx::ModelProto();
}

// The only node of a graph around `node`.
onnx::NodeProto ParseNode(absl::string_view node) {
  const onnx::ModelProto model = Parse(absl::StrCat("g (x) => (y) {", node, "}"));
  EXPECT_EQ(model.graph().node_size(), 1) << node;
  return model.graph().node_size() == 1 ? model.graph().node(0) : onnx::NodeProto();
}

AttributeProto ParseAttribute(absl::string_view attribute) {
  const onnx::NodeProto node = ParseNode(absl::StrCat("y = Op <", attribute, "> (x)"));
  EXPECT_EQ(node.attribute_size(), 1) << attribute;
  return node.attribute_size() == 1 ? node.attribute(0) : AttributeProto();
}

TensorProto ParseTensor(absl::string_view tensor) {
  return ParseAttribute(absl::StrCat("t = ", tensor)).t();
}

std::string Refused(absl::string_view text) {
  const auto model = ParseOnnxText(text);
  if (model.ok()) return "accepted";
  EXPECT_EQ(ReasonNameOf(model.status()), "INVALID_MODEL") << text;
  return std::string(model.status().message());
}

std::string RefusedNode(absl::string_view node) {
  const std::string message = Refused(absl::StrCat("g (x) => (y) {\n", node, "\n}"));
  return message.substr(0, message.find('\n'));
}

TEST(OnnxTextTest, ModelHasItsHeaderSignatureAndNodes) {
  const onnx::ModelProto model = Parse(kSeed);
  EXPECT_EQ(model.ir_version(), 8);
  ASSERT_EQ(model.opset_import_size(), 2);
  EXPECT_EQ(model.opset_import(0).version(), 17);
  EXPECT_EQ(model.opset_import(1).domain(), "local");
  const onnx::GraphProto& graph = model.graph();
  EXPECT_EQ(graph.name(), "seed");
  ASSERT_EQ(graph.input_size(), 2);
  EXPECT_EQ(graph.input(1).name(), "y");
  ASSERT_EQ(graph.initializer_size(), 1);
  EXPECT_EQ(graph.initializer(0).name(), "two");
  EXPECT_EQ(graph.initializer(0).double_data(0), 2);
  ASSERT_EQ(graph.value_info_size(), 1);
  ASSERT_EQ(graph.node_size(), 2);
  EXPECT_EQ(graph.node(0).op_type(), "Pow");
  EXPECT_EQ(absl::StrJoin(graph.node(0).input(), ","), "x,two");
  EXPECT_EQ(graph.node(1).output(0), "f");
}

TEST(OnnxTextTest, HeaderTakesEveryFieldOfAModel) {
  const onnx::ModelProto model = Parse(
      R"(<ir_version: 7, opset_import: [], producer_name: "p", producer_version: "1.0",
          domain: "d", model_version: 5, doc_string: "say \"hi\"",
          metadata_props: ["a": "b", "c": "d"]> g () => () {})");
  EXPECT_EQ(model.producer_name(), "p");
  EXPECT_EQ(model.producer_version(), "1.0");
  EXPECT_EQ(model.domain(), "d");
  EXPECT_EQ(model.model_version(), 5);
  EXPECT_EQ(model.doc_string(), "say \"hi\"");
  ASSERT_EQ(model.metadata_props_size(), 2);
  EXPECT_EQ(model.metadata_props(1).value(), "d");
}

TEST(OnnxTextTest, GraphWithoutHeaderIsOpset17) {
  const onnx::ModelProto model = Parse("g (float x) => (float y) { y = Neg(x) }");
  EXPECT_EQ(model.ir_version(), 8);
  ASSERT_EQ(model.opset_import_size(), 1);
  EXPECT_EQ(model.opset_import(0).version(), 17);
}

TEST(OnnxTextTest, BracketsTellScalarsFromUnknownRanks) {
  const onnx::ModelProto model =
      Parse(R"(g (double s, double[] u, double[N, ?, 3, "a+b"] d, untyped) => () {})");
  const auto type = [&](int i) { return model.graph().input(i).type().tensor_type(); };
  EXPECT_TRUE(type(0).has_shape());
  EXPECT_EQ(type(0).shape().dim_size(), 0);
  EXPECT_FALSE(type(1).has_shape());
  ASSERT_EQ(type(2).shape().dim_size(), 4);
  EXPECT_EQ(type(2).shape().dim(0).dim_param(), "N");
  EXPECT_FALSE(type(2).shape().dim(1).has_dim_value() || type(2).shape().dim(1).has_dim_param());
  EXPECT_EQ(type(2).shape().dim(2).dim_value(), 3);
  EXPECT_EQ(type(2).shape().dim(3).dim_param(), "a+b");
  EXPECT_FALSE(model.graph().input(3).has_type());
}

TEST(OnnxTextTest, NestedTypesParse) {
  const onnx::ModelProto model = Parse(
      "g (seq(map(int64, float[N])) m, optional(double) o, sparse_tensor(float[2]) s) => () {}");
  EXPECT_EQ(model.graph().input(0).type().sequence_type().elem_type().map_type().key_type(), 7);
  EXPECT_EQ(model.graph().input(1).type().optional_type().elem_type().tensor_type().elem_type(),
            11);
  EXPECT_EQ(model.graph().input(2).type().sparse_tensor_type().elem_type(), 1);
}

TEST(OnnxTextTest, InitialisersStandInTheSignatureOrTheGraph) {
  const onnx::ModelProto model = Parse(
      R"(g (float[2] x = {1, -2.5}) => (y) <float[2] "w.1" = {3, 4}, float[2] t,
            float[2] e = ["location": "w.bin", "offset": "0"]> { y = Mul(x, "w.1") })");
  const onnx::GraphProto& graph = model.graph();
  ASSERT_EQ(graph.initializer_size(), 3);
  EXPECT_EQ(graph.initializer(0).name(), "x");
  EXPECT_EQ(graph.initializer(0).float_data(1), -2.5f);
  EXPECT_EQ(graph.initializer(1).name(), "w.1");
  EXPECT_EQ(graph.node(0).input(1), "w.1");
  EXPECT_EQ(graph.initializer(2).data_location(), TensorProto::EXTERNAL);
  EXPECT_EQ(graph.initializer(2).external_data(0).value(), "w.bin");
  EXPECT_EQ(graph.value_info_size(), 1);
}

TEST(OnnxTextTest, NodesTakeDomainsLabelsAndOmittedInputs) {
  const onnx::NodeProto node = ParseNode(R"(["n 1"] a, "b c" = ai.onnx.ml.Op("", x,, y,))");
  EXPECT_EQ(node.name(), "n 1");
  EXPECT_EQ(node.domain(), "ai.onnx.ml");
  EXPECT_EQ(node.op_type(), "Op");
  EXPECT_EQ(absl::StrJoin(node.input(), "|"), "|x||y");
  EXPECT_EQ(absl::StrJoin(node.output(), "|"), "a|b c");
}

TEST(OnnxTextTest, AttributesStandBeforeOrAfterTheInputs) {
  for (const char* text : {"y = Op <a = 1, b = 2> (x)", "y = Op (x) <a = 1, b = 2>"}) {
    const onnx::NodeProto node = ParseNode(text);
    ASSERT_EQ(node.attribute_size(), 2) << text;
    EXPECT_EQ(node.attribute(1).i(), 2);
    EXPECT_EQ(absl::StrJoin(node.input(), ","), "x");
  }
}

TEST(OnnxTextTest, AttributeTypesFollowTheirValues) {
  EXPECT_EQ(ParseAttribute("a = -3").i(), -3);
  EXPECT_EQ(ParseAttribute("a = 2.5e-1").f(), 0.25f);
  EXPECT_EQ(ParseAttribute("a: float = 3").f(), 3.0f);
  EXPECT_EQ(ParseAttribute("a = -inf").f(), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(ParseAttribute(R"(a = "s\\t")").s(), "s\\t");
  EXPECT_EQ(ParseAttribute("a = [1, 2]").type(), AttributeProto::INTS);
  EXPECT_EQ(ParseAttribute("a = [\"p\", \"q\"]").strings(1), "q");
  EXPECT_EQ(ParseAttribute("a: ints = []").type(), AttributeProto::INTS);
  EXPECT_EQ(ParseAttribute("a: type_proto = float[2]").tp().tensor_type().elem_type(), 1);
  EXPECT_EQ(ParseAttribute("a = [float {1}, float {2}]").tensors_size(), 2);
  const AttributeProto mixed = ParseAttribute("a = [1, 0.5, 2]");
  EXPECT_EQ(mixed.type(), AttributeProto::FLOATS);
  EXPECT_EQ(absl::StrJoin(mixed.floats(), ","), "1,0.5,2");
  EXPECT_EQ(mixed.ints_size(), 0);
}

TEST(OnnxTextTest, TensorsKeepEveryElementTypeWhereItBelongs) {
  EXPECT_EQ(ParseTensor("float[2] {1, 2}").float_data(1), 2);
  EXPECT_EQ(ParseTensor("double {4.9e-324}").double_data(0), 4.9e-324);
  EXPECT_TRUE(std::isnan(ParseTensor("double {nan}").double_data(0)));
  EXPECT_EQ(ParseTensor("int64[1] {-9223372036854775808}").int64_data(0), INT64_MIN);
  EXPECT_EQ(ParseTensor("uint64[1] {18446744073709551615}").uint64_data(0), UINT64_MAX);
  EXPECT_EQ(ParseTensor("uint32[1] {4294967295}").uint64_data(0), UINT32_MAX);
  EXPECT_EQ(ParseTensor("bool[2] {0, 1}").int32_data(1), 1);
  EXPECT_EQ(ParseTensor("float16[1] {15360}").int32_data(0), 15360);
  EXPECT_EQ(ParseTensor("complex64[1] {1, 2}").float_data_size(), 2);
  EXPECT_EQ(ParseTensor("string[1] {\"q\"}").string_data(0), "q");
  const TensorProto named = ParseTensor("int32[2,0] w = {}");
  EXPECT_EQ(named.name(), "w");
  EXPECT_EQ(named.dims_size(), 2);
}

TEST(OnnxTextTest, GraphAttributesHoldNodes) {
  const onnx::NodeProto node = ParseNode(
      "y = If (x) <then_branch = t () => (float a) { a = Neg(x) },"
      "            else_branch = e () => (float b) <float q> { q = Abs(x) b = Neg(q) }>");
  ASSERT_EQ(node.attribute_size(), 2);
  EXPECT_EQ(node.attribute(0).g().name(), "t");
  EXPECT_EQ(node.attribute(1).g().node_size(), 2);
}

TEST(OnnxTextTest, FunctionsFollowTheGraph) {
  const onnx::ModelProto model = Parse(R"(
    <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N] x) => (float[N] y) { y = local.f <alpha = 2.0> (x) }
    <domain: "local", opset_import: ["" : 17], doc_string: "twice">
    f <alpha, beta> (a) => (b) { c = Op <k: float = @alpha> (a) b = Neg(c) }
    <domain: "local", opset_import: ["" : 17]>
    h (float[N] a, d) => (b) <float[N] c> { b = Add(a, d) })");
  ASSERT_EQ(model.functions_size(), 2);
  const onnx::FunctionProto& f = model.functions(0);
  EXPECT_EQ(f.name(), "f");
  EXPECT_EQ(f.domain(), "local");
  EXPECT_EQ(absl::StrJoin(f.attribute(), ","), "alpha,beta");
  ASSERT_EQ(f.node_size(), 2);
  EXPECT_EQ(f.node(0).attribute(0).ref_attr_name(), "alpha");
  EXPECT_EQ(f.node(0).attribute(0).type(), AttributeProto::FLOAT);
  EXPECT_EQ(absl::StrJoin(model.functions(1).input(), ","), "a,d");
}

TEST(OnnxTextTest, ErrorsShowTheLineWithACaret) {
  EXPECT_EQ(Refused("g (double x) => (double y) {\n  y : Neg(x)\n}"),
            "line 2, column 5: got ':', expected '='\n"
            "  y : Neg(x)\n"
            "    ^");
  EXPECT_EQ(Refused(""), "line 1, column 1: got the end of the text, expected a graph's name\n\n^");
  EXPECT_EQ(Refused("g (float x) -> (y) {}"),
            "line 1, column 13: got '-', expected '=>'\n"
            "g (float x) -> (y) {}\n"
            "            ^");
  EXPECT_EQ(Refused("<λ: 3>"),
            "line 1, column 2: got 'λ', expected a field of the header such as ir_version\n"
            "<λ: 3>\n"
            " ^");
}

TEST(OnnxTextTest, WrongNodesAreNamedWithGotAndExpected) {
  const struct {
    const char* node;
    const char* message;
  } kCases[] = {
      {"y = (x)", "line 2, column 5: got '(', expected an operator"},
      {"y = Op(x", "line 3, column 1: got '}', expected ')'"},
      {"y = Op<a = 99999999999999999999>(x)",
       "line 2, column 12: got 99999999999999999999, expected an integer of 64 bits"},
      {"y = Op<a = 1e39>(x)",
       "line 2, column 12: got 1e39, expected a number in the range of a "
       "float"},
      {"y = Op<a = 1e>(x)", "line 2, column 14: got an exponent without digits, expected digits"},
      {"y = Op<a = [1, \"s\"]>(x)",
       "line 2, column 16: got a value of type string, expected a "
       "value of type int like those before it"},
      {"y = Op<a = []>(x)",
       "line 2, column 12: got an empty list, expected a list type before it, as in `axes: ints = "
       "[]`"},
      {"y = Op<a: ints = 1>(x)",
       "line 2, column 18: got a value of type int, expected a value of type ints"},
      {"y = Op<a: number = 1>(x)",
       "line 2, column 11: got \"number\", expected an attribute type "
       "such as int, floats or tensor"},
      {"y = Op<a = float[2] {1}>(x)", "line 2, column 21: got 1 values, expected 2 by the shape"},
      {"y = Op<a = float[9223372036854775807,2] {1}>(x)",
       "line 2, column 41: got 1 values, expected 9223372036854775807 by the shape"},
      {"y = Op<a = int8[1] {128}>(x)",
       "line 2, column 21: got a value out of range, expected a value of type int8"},
      {"y = Op<a = uint64[1] {-1}>(x)",
       "line 2, column 23: got -1, expected a non-negative integer of 64 bits"},
      {"y = Op<a = float[N] {1}>(x)",
       "line 2, column 12: got a shape with an open dimension, expected sizes only"},
      {"y = Op<a = float[] {1}>(x)",
       "line 2, column 12: got a type of unknown rank, expected a tensor's shape (no brackets: a "
       "scalar)"},
      {"y = Op<a = \"s>(x)",
       "line 2, column 12: got a string without an end, expected a '\"' "
       "after it"},
  };
  for (const auto& c : kCases) EXPECT_EQ(RefusedNode(c.node), c.message);
}

TEST(OnnxTextTest, LongLinesAreCutAroundThePlace) {
  const std::string message = Refused(absl::StrCat("g (x) => (y) { y = Op(", std::string(5000, 'x'),
                                                   " ! ", std::string(5000, 'y'), ")}"));
  const std::vector<std::string> lines = absl::StrSplit(message, '\n');
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], "line 1, column 5024: got '!', expected ')'");
  EXPECT_LT(lines[1].size(), 90u);
  EXPECT_EQ(lines[1][lines[2].size() - 1], '!');
}

TEST(OnnxTextTest, NestingIsBounded) {
  const auto graphs = [](int depth) {
    std::string text, end;
    for (int i = 0; i <= depth; ++i) {
      absl::StrAppend(&text, "g () => () { = Op <a = ");
      end += "> () }";
    }
    return absl::StrCat(text, "1", end);
  };
  EXPECT_TRUE(ParseOnnxText(graphs(kMaxTextNesting)).ok());
  EXPECT_TRUE(absl::StrContains(Refused(graphs(kMaxTextNesting + 1)), "graphs nested too deep"));
  EXPECT_TRUE(absl::StrContains(Refused(graphs(10'000)), "graphs nested too deep"));
  std::string types = "g (";
  for (int i = 0; i < 100'000; ++i) types += "seq(";
  EXPECT_TRUE(absl::StrContains(Refused(types), "types nested too deep"));
}

TEST(OnnxTextTest, GraphsBeyondTheLimitAreTooLarge) {
  std::string text = "g (x) => (y) {";
  for (int i = 0; i < 100; ++i) text += "y = Neg(x)\n";
  EXPECT_TRUE(ParseOnnxText(text + "}", 100).ok());
  EXPECT_EQ(ReasonNameOf(ParseOnnxText(text + "}", 99).status()), "GRAPH_TOO_LARGE");
  const std::string commas = "g (x) => (y) { y = Op(" + std::string(2 << 20, ',');
  EXPECT_EQ(ReasonNameOf(ParseOnnxText(commas, 10).status()), "GRAPH_TOO_LARGE");
}

TEST(OnnxTextTest, AnyBytesGiveAnAnswer) {
  std::mt19937 random(7);
  const std::string seed = absl::StrCat(kSeed, R"(<domain: "l", opset_import: []> f <a> (x) => (y) {
        y = Op <a = [1, 2.5], b: ints = [], c = float[2] {1, 2}, d = g () => () {}> (x, "") })");
  ASSERT_TRUE(ParseOnnxText(seed).ok());
  const std::string alphabet = "<>(){}[]=:,.\"\\#@-19aex \n\0\xff\xce"s;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = seed;
    if (i % 3 == 0) text.resize(1 + random() % text.size());
    for (int changes = random() % 4; changes > 0; --changes) {
      text[random() % text.size()] = alphabet[random() % alphabet.size()];
      text.insert(random() % text.size(), 1, alphabet[random() % alphabet.size()]);
    }
    const auto model = ParseOnnxText(text);
    if (!model.ok()) {
      EXPECT_TRUE(absl::StartsWith(model.status().message(), "line ")) << text;
    }
  }
}

}  // namespace
}  // namespace gradwire
