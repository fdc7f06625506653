#include "engine/onnx/formula.h"

#include <random>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status.h"
#include "engine/onnx/formula_functions.h"
#include "gtest/gtest.h"

namespace gradwire {
namespace {

using namespace std::string_literals;  // NOLINT: for literals that hold '\0'

std::string Repeat(absl::string_view what, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) absl::StrAppend(&out, what);
  return out;
}

std::string Show(const onnx::TensorProto& t) {
  std::string dims = t.dims_size() == 0 ? "" : absl::StrCat("[", absl::StrJoin(t.dims(), ","), "]");
  std::string out;
  for (double v : t.double_data()) absl::StrAppend(&out, "double", dims, " ", v);
  for (float v : t.float_data()) absl::StrAppend(&out, "float", dims, " ", v);
  for (int64_t v : t.int64_data()) absl::StrAppend(&out, "int64", dims, " ", v);
  return out;
}

// "x, y => f; _1 = Pow(x, 2); f = Add(_1, y)", numbers written where they are used.
std::string Show(const onnx::ModelProto& model) {
  const onnx::GraphProto& g = model.graph();
  std::vector<std::string> in, out, nodes;
  absl::flat_hash_map<std::string, std::string> numbers;
  for (const auto& v : g.input()) in.push_back(v.name());
  for (const auto& v : g.output()) out.push_back(v.name());
  for (const auto& n : g.node()) {
    if (n.op_type() == "Constant" && absl::StartsWith(n.output(0), "_")) {
      numbers[n.output(0)] = Show(n.attribute(0).t());
      continue;
    }
    std::vector<std::string> operands;
    for (const auto& i : n.input()) operands.push_back(numbers.contains(i) ? numbers[i] : i);
    for (const auto& a : n.attribute()) {
      operands.push_back(
          absl::StrCat(a.name(), "=", a.has_t() ? Show(a.t()) : absl::StrCat(a.i())));
    }
    nodes.push_back(absl::StrCat(n.output(0), " = ", n.domain(), n.domain().empty() ? "" : ".",
                                 n.op_type(), "(", absl::StrJoin(operands, ", "), ")"));
  }
  return absl::StrCat(absl::StrJoin(in, ", "), " => ", absl::StrJoin(out, ", "), "; ",
                      absl::StrJoin(nodes, "; "));
}

std::string Parsed(absl::string_view formula, const FormulaTypes& types = {}) {
  const auto model = ParseFormula(formula, types);
  return model.ok() ? Show(*model) : std::string(model.status().message());
}

// What went wrong; the reason is checked on the way.
std::string Refused(absl::string_view formula) {
  const auto model = ParseFormula(formula, {});
  if (model.ok()) return "accepted";
  EXPECT_EQ(ReasonNameOf(model.status()), "INVALID_MODEL") << formula;
  return std::string(model.status().message());
}

TEST(FormulaTest, SeedBecomesOneNodePerOperation) {
  EXPECT_EQ(Parsed("x^2*y + y^3"),
            "x, y => f; _2 = Pow(x, double 2); _3 = Mul(_2, y); _5 = Pow(y, double 3); "
            "f = Add(_3, _5)");
  const auto model = ParseFormula("x^2*y + y^3", {});
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(model->ir_version(), 8);
  ASSERT_EQ(model->opset_import_size(), 1);
  EXPECT_EQ(model->opset_import(0).version(), 18);
  EXPECT_EQ(model->graph().node(1).name(), "Pow_at_2");
  const auto& type = model->graph().input(0).type().tensor_type();
  EXPECT_EQ(type.elem_type(), onnx::TensorProto::DOUBLE);
  EXPECT_FALSE(type.has_shape());
}

TEST(FormulaTest, PowerBindsTighterThanUnaryMinus) {
  EXPECT_EQ(Parsed("-x^2"), "x => f; _2 = Pow(x, double 2); f = Neg(_2)");
  EXPECT_EQ(Parsed("2^-3"), " => f; f = Pow(double 2, double -3)");
  EXPECT_EQ(Parsed("2^-x^y"), "x, y => f; _2 = Pow(x, y); _3 = Neg(_2); f = Pow(double 2, _3)");
}

TEST(FormulaTest, PowerGroupsToTheRightAndTheRestToTheLeft) {
  EXPECT_EQ(Parsed("a^b^c"), "a, b, c => f; _1 = Pow(b, c); f = Pow(a, _1)");
  EXPECT_EQ(Parsed("a-b-c"), "a, b, c => f; _1 = Sub(a, b); f = Sub(_1, c)");
  EXPECT_EQ(Parsed("a/b@c*d"),
            "a, b, c, d => f; _1 = Div(a, b); _2 = MatMul(_1, c); f = Mul(_2, d)");
  EXPECT_EQ(Parsed("a+b*c<d"), "a, b, c, d => f; _1 = Mul(b, c); _2 = Add(a, _1); f = Less(_2, d)");
}

TEST(FormulaTest, MinusBeforeANumberIsPartOfTheNumber) {
  EXPECT_EQ(Parsed("x*-2.5e-1"), "x => f; f = Mul(x, double -0.25)");
  EXPECT_EQ(Parsed("x - --.5"), "x => f; f = Sub(x, double 0.5)");
  EXPECT_EQ(Parsed("x*+3."), "x => f; f = Mul(x, double 3)");
}

TEST(FormulaTest, InputsComeInOrderOfFirstAppearanceWithTheTypesOfTheCall) {
  FormulaTypes types;
  types.inputs = {{"w", DType::kFloat}, {"m", DType::kBool}, {"unused", DType::kDouble}};
  const auto model = ParseFormula("where(m, w, 0)*2", types);
  ASSERT_TRUE(model.ok());
  ASSERT_EQ(model->graph().input_size(), 2);
  EXPECT_EQ(model->graph().input(0).name(), "m");
  EXPECT_EQ(model->graph().input(0).type().tensor_type().elem_type(), onnx::TensorProto::BOOL);
  EXPECT_EQ(model->graph().input(1).type().tensor_type().elem_type(), onnx::TensorProto::FLOAT);
}

TEST(FormulaTest, NumbersAreFloatOnlyBesideFloatInputsAlone) {
  FormulaTypes types;
  types.inputs["x"] = DType::kFloat;
  EXPECT_EQ(Parsed("2*x", types), "x => f; f = Mul(float 2, x)");
  EXPECT_EQ(Parsed("2*x+y", types), "x, y => f; _2 = Mul(double 2, x); f = Add(_2, y)");
  EXPECT_EQ(Parsed("2"), " => f; f = Constant(value=double 2)");
  EXPECT_EQ(Parsed("x*1e300", types),
            "formula: column 3: number out of the range of FLOAT, the type of the inputs\n"
            "x*1e300\n"
            "  ^");
}

TEST(FormulaTest, StatementsNameValuesAndTheLastOneIsTheOutput) {
  EXPECT_EQ(Parsed("u = x*y; \n\n v = u + 1\n"), "x, y => v; u = Mul(x, y); v = Add(u, double 1)");
  EXPECT_EQ(Parsed("u = x; u"), "x => f; u = Identity(x); f = Identity(u)");
  EXPECT_EQ(Parsed("x"), "x => f; f = Identity(x)");
  EXPECT_EQ(Parsed("r = sum(\n x\n)"), "x => r; r = ReduceSum(x, keepdims=0)");
}

TEST(FormulaTest, ReturnListsTheOutputs) {
  EXPECT_EQ(Parsed("u = x*y; v = x/y; return v, u;"), "x, y => v, u; u = Mul(x, y); v = Div(x, y)");
}

TEST(FormulaTest, GivenNamesNeverClashWithNamesOfTheFormula) {
  EXPECT_EQ(Parsed("f*_1*2"), "f, _1 => f_; _2 = Mul(f, _1); f_ = Mul(_2, double 2)");
  EXPECT_EQ(Parsed("f = x^2; f_ = f; 3*f"),
            "x => f__; f = Pow(x, double 2); f_ = Identity(f); f__ = Mul(double 3, f)");
}

TEST(FormulaTest, IndicesAndSlicesWorkAlongTheFirstAxis) {
  EXPECT_EQ(Parsed("x[-1]^2"), "x => f; _2 = Gather(x, int64 -1, axis=0); f = Pow(_2, double 2)");
  EXPECT_EQ(Parsed("x[1:-2]"), "x => f; f = Slice(x, int64[1] 1, int64[1] -2, int64[1] 0)");
  EXPECT_EQ(Parsed("x[:3]"), "x => f; f = Slice(x, int64[1] 0, int64[1] 3, int64[1] 0)");
  EXPECT_EQ(Parsed("x[2:][0]"),
            "x => f; _4 = Slice(x, int64[1] 2, int64[1] 9223372036854775807, int64[1] 0); "
            "f = Gather(_4, int64 0, axis=0)");
}

TEST(FormulaTest, ComparisonsGiveBool) {
  EXPECT_EQ(Parsed("where(x >= y, x, -1)"),
            "x, y => f; _1 = GreaterOrEqual(x, y); f = Where(_1, x, double -1)");
  EXPECT_EQ(Parsed("x != y"), "x, y => f; _1 = Equal(x, y); f = Not(_1)");
  EXPECT_EQ(Parsed("x <= y"), "x, y => f; f = LessOrEqual(x, y)");
}

TEST(FormulaTest, ReductionsTakeAnAxis) {
  EXPECT_EQ(Parsed("sum(x)"), "x => f; f = ReduceSum(x, keepdims=0)");
  EXPECT_EQ(Parsed("mean(x, -1)"), "x => f; f = ReduceMean(x, int64[1] -1, keepdims=0)");
  EXPECT_EQ(Parsed("logsumexp(x,0)"), "x => f; f = ReduceLogSumExp(x, int64[1] 0, keepdims=0)");
  EXPECT_EQ(Parsed("softmax(x)"), "x => f; f = Softmax(x, axis=-1)");
  EXPECT_EQ(Parsed("log_softmax(x, 0)"), "x => f; f = LogSoftmax(x, axis=0)");
}

TEST(FormulaTest, MinAndMaxOfOneArgumentReduceIt) {
  EXPECT_EQ(Parsed("max(x)"), "x => f; f = ReduceMax(x, keepdims=0)");
  EXPECT_EQ(Parsed("min(x, y, 0)"), "x, y => f; f = Min(x, y, double 0)");
}

TEST(FormulaTest, CompoundFunctionsAreSpelledOut) {
  EXPECT_EQ(Parsed("norm(x)"), "x => f; f = ReduceL2(x, keepdims=0)");
  EXPECT_EQ(Parsed("dot(a, b)"), "a, b => f; _1 = Mul(a, b); f = ReduceSum(_1, keepdims=0)");
  EXPECT_EQ(Parsed("matmul(a, transpose(b))"), "a, b => f; _1 = Transpose(b); f = MatMul(a, _1)");
  EXPECT_EQ(Parsed("clip(x, -1, pi)"), "x => f; f = Clip(x, double -1, double 3.14159)");
}

TEST(FormulaTest, OwnDomainIsImportedOnlyWhereUsed) {
  const auto model = ParseFormula("log1p(x) + expm1(x)", {});
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(Show(*model),
            "x => f; _1 = gradwire.Log1p(x); _2 = gradwire.Expm1(x); f = Add(_1, _2)");
  ASSERT_EQ(model->opset_import_size(), 2);
  EXPECT_EQ(model->opset_import(1).domain(), "gradwire");
  EXPECT_EQ(model->opset_import(1).version(), 1);
}

TEST(FormulaTest, MatricesAreFactoredAndSolved) {
  EXPECT_EQ(Parsed("solve_lower(cholesky(k), y)"),
            "k, y => f; _1 = gradwire.Cholesky(k); f = gradwire.TriangularSolve(_1, y)");
  EXPECT_EQ(Parsed("solve_upper(u, y)"), "u, y => f; f = gradwire.TriangularSolve(u, y, lower=0)");
  EXPECT_EQ(Parsed("det(a) + logdet(inv(a))"),
            "a => f; _1 = Det(a); _2 = gradwire.Inverse(a); _3 = gradwire.LogDet(_2); "
            "f = Add(_1, _3)");
  EXPECT_EQ(Parsed("lgamma(x) * trigamma(x)"),
            "x => f; _1 = gradwire.Lgamma(x); _2 = gradwire.Polygamma(x); f = Mul(_1, _2)");
}

TEST(FormulaTest, EveryFunctionParsesWithItsFewestArguments) {
  for (const FormulaFunction& f : AllFormulaFunctions()) {
    std::vector<std::string> arguments(f.min_arguments, "x");
    const std::string formula = absl::StrCat(f.name, "(", absl::StrJoin(arguments, ","), ")");
    EXPECT_TRUE(ParseFormula(formula, {}).ok()) << formula;
    const std::string none = absl::StrCat(f.name, "()");
    EXPECT_TRUE(absl::StrContains(Refused(none),
                                  absl::StrCat("column 1: ", f.name, " takes ", f.min_arguments)))
        << Refused(none);
    EXPECT_TRUE(absl::StrContains(Refused(std::string(f.name)), "is a function: write")) << f.name;
  }
}

TEST(FormulaTest, ErrorsPointAtTheirColumnWithACaret) {
  const struct {
    const char* formula;
    const char* message;
  } kCases[] = {
      {"", "formula: column 1: the formula is empty\n\n^"},
      {" ; ;", "formula: column 1: the formula is empty\n ; ;\n^"},
      {"x +",
       "formula: column 4: got the end of the formula, expected a number, a name or '('\n"
       "x +\n   ^"},
      {"(x*",
       "formula: column 4: got the end of the formula, expected a number, a name or '('\n"
       "(x*\n   ^"},
      {"(x",
       "formula: column 3: got the end of the formula, expected ')' for the '(' in column 1\n"
       "(x\n  ^"},
      {"x + sine(y)",
       "formula: column 5: unknown function 'sine'; did you mean 'sin'?\n"
       "x + sine(y)\n    ^"},
      {"x + $", "formula: column 5: unknown character '$'\nx + $\n    ^"},
      {"λ", "formula: column 1: unknown character 'λ'\nλ\n^"},
      {"sin(x, y)", "formula: column 1: sin takes 1 argument, got 2\nsin(x, y)\n^"},
      {"x*sum(x,0,1)",
       "formula: column 3: sum takes 1 or 2 arguments, got 3\n"
       "x*sum(x,0,1)\n  ^"},
      {"sum(x,y)", "formula: column 7: got 'y', expected an integer\nsum(x,y)\n      ^"},
      {"2x", "formula: column 2: got 'x', expected an operator (products need '*')\n2x\n ^"},
      {"x**2", "formula: column 2: a power is written '^'\nx**2\n ^"},
      {"x; x(2)", "formula: column 4: 'x' is not a function; products need '*'\nx; x(2)\n   ^"},
      {"a = x; a = y", "formula: column 8: 'a' is named twice\na = x; a = y\n       ^"},
      {"x + 1; x = 2",
       "formula: column 8: 'x' was used before this as an input\n"
       "x + 1; x = 2\n       ^"},
      {"sin = 3", "formula: column 1: 'sin' is taken; choose another name\nsin = 3\n^"},
      {"a < b < c",
       "formula: column 7: comparisons do not chain; multiply two of them or use "
       "parentheses\na < b < c\n      ^"},
      {"x[1.5]", "formula: column 3: got '1.5', expected an integer\nx[1.5]\n  ^"},
      {"x[9223372036854775808]",
       "formula: column 3: integer out of range\nx[9223372036854775808]\n  ^"},
      {"1e999", "formula: column 1: number out of range\n1e999\n^"},
      {"u = x; return u, x",
       "formula: column 18: 'x' is not a value that a statement names\n"
       "u = x; return u, x\n                 ^"},
      {"u = x; return u; u",
       "formula: column 18: nothing may follow 'return'\n"
       "u = x; return u; u\n                 ^"},
      {"u = x\nv = u +\nv",
       "formula: line 2, column 8: got the end of the line, expected a "
       "number, a name or '('\nv = u +\n       ^"},
  };
  for (const auto& c : kCases) EXPECT_EQ(Refused(c.formula), c.message);
}

TEST(FormulaTest, NestingIsBoundedAndTheColumnNamed) {
  const struct {
    std::string formula;
    int column;
  } kCases[] = {
      {Repeat("-", 257) + "x", 257}, {Repeat("(", 1 << 20), 257},     {Repeat("-", 1 << 20), 257},
      {Repeat("1^", 1 << 19), 514},  {Repeat("sin(", 1 << 18), 1028},
  };
  for (const auto& c : kCases) {
    EXPECT_TRUE(absl::StartsWith(Refused(c.formula), absl::StrCat("formula: column ", c.column,
                                                                  ": nested more than 256 deep\n")))
        << Refused(c.formula);
  }
  EXPECT_TRUE(ParseFormula(Repeat("(", 256) + "x" + Repeat(")", 256), {}).ok());
  EXPECT_TRUE(ParseFormula(Repeat("-", 256) + "x", {}).ok());
}

TEST(FormulaTest, LongSumsAndChainsNeedNoNesting) {
  const auto sum = ParseFormula(Repeat("x+", 100'000) + "x", {});
  ASSERT_TRUE(sum.ok());
  EXPECT_EQ(sum->graph().node_size(), 100'000);
  EXPECT_TRUE(ParseFormula(Repeat("x*y-", 1000) + "x" + Repeat("[0]", 1000), {}).ok());
}

TEST(FormulaTest, GraphsBeyondTheLimitAreTooLarge) {
  EXPECT_TRUE(ParseFormula("x+x+x", {}, 2).ok());
  EXPECT_EQ(ReasonNameOf(ParseFormula("x+x+x+x", {}, 2).status()), "GRAPH_TOO_LARGE");
  EXPECT_EQ(ReasonNameOf(ParseFormula("x" + Repeat("[0]", 9), {}, 4).status()), "GRAPH_TOO_LARGE");
  EXPECT_EQ(ReasonNameOf(ParseFormula("min(" + Repeat("x,", 1 << 20) + "x)", {}, 4).status()),
            "GRAPH_TOO_LARGE");
}

TEST(FormulaTest, AnyBytesGiveAnAnswer) {
  std::mt19937 random(7);
  const std::string alphabet = "xyf12.e+-*/@^()[],:;=<>! \n\t_sin\0\xff\xce\xbb"s;
  for (int i = 0; i < 20'000; ++i) {
    std::string formula(random() % 40, ' ');
    for (char& c : formula) c = alphabet[random() % alphabet.size()];
    const auto model = ParseFormula(formula, {});
    if (!model.ok()) {
      EXPECT_TRUE(absl::StartsWith(model.status().message(), "formula: ")) << formula;
    }
  }
}

}  // namespace
}  // namespace gradwire
