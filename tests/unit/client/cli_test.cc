#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/arguments.h"
#include "client/cli/commands.h"
#include "client/cli/render_json.h"
#include "client/cli/render_text.h"
#include "client/cli/run.h"
#include "client/cli/signature.h"
#include "client/cli/values.h"
#include "engine/base/status.h"
#include "engine/io/npy.h"

namespace gradwire::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- Values.

Tensor Value(const std::string& text, DType dtype = DType::kDouble) {
  absl::StatusOr<Tensor> tensor = ParseValue(text, dtype, "x");
  EXPECT_TRUE(tensor.ok()) << text << ": " << tensor.status();
  return tensor.ok() ? *tensor : Tensor();
}

std::string Mistake(const std::string& text, DType dtype = DType::kDouble) {
  const absl::Status status = ParseValue(text, dtype, "x").status();
  EXPECT_FALSE(status.ok()) << text;
  return std::string(status.message());
}

TEST(ParseValueTest, ReadsNumbersAndLists) {
  EXPECT_TRUE(Value("-1.5") == Tensor::Scalar(-1.5));
  EXPECT_TRUE(Value("1e-3") == Tensor::Scalar(1e-3));
  EXPECT_TRUE(Value("[2,3]") == Tensor::FromVector<double>({2}, {2, 3}));
  EXPECT_TRUE(Value(" [ [1, 2] , [3, 4] ] ") == Tensor::FromVector<double>({2, 2}, {1, 2, 3, 4}));
  EXPECT_EQ(Value("[]").shape(), (Shape{0}));
  EXPECT_EQ(Value("[[],[]]").shape(), (Shape{2, 0}));
  EXPECT_TRUE(std::isnan(Value("nan").data<double>()[0]));
  EXPECT_EQ(Value("-inf").data<double>()[0], -std::numeric_limits<double>::infinity());
}

TEST(ParseValueTest, TakesTheTypeAskedFor) {
  EXPECT_TRUE(Value("0.1", DType::kFloat) == Tensor::Scalar(0.1f));
  EXPECT_TRUE(Value("9223372036854775807", DType::kInt64) == Tensor::Scalar<int64_t>(INT64_MAX));
  EXPECT_TRUE(Value("[true,0]", DType::kBool) == Tensor::FromVector<bool>({2}, {true, false}));
  EXPECT_EQ(Value("1.5", DType::kFloat16).bytes(), 2);
  EXPECT_THAT(Mistake("1.5", DType::kInt64), HasSubstr("no INT64 number"));
  Mistake("300", DType::kUint8);
  Mistake("2", DType::kBool);
  Mistake("1e300", DType::kFloat);
}

TEST(ParseValueTest, PointsAtMistakes) {
  EXPECT_THAT(Mistake("[1,2"), HasSubstr("column 5"));
  EXPECT_THAT(Mistake("1,2"), HasSubstr("lists are written [1,2]"));
  EXPECT_THAT(Mistake("[[1,2],[3]]"), HasSubstr("differ in length"));
  for (const char* text : {"", " ", "[", "]", "[1,]", "[,1]", "[1 2]", "[[1],2]", "[1,[2]]", "two",
                           "1]", "[[],1]", "[[],[1]]"}) {
    Mistake(text);
  }
  EXPECT_THAT(Mistake(std::string(100000, '[')), HasSubstr("at most 16 deep"));
}

TEST(ReadValueTest, ConvertsFilesToTheModelsType) {
  const std::string path = absl::StrCat(testing::TempDir(), "/cli_", getpid(), ".npy");
  std::ofstream(path, std::ios::binary) << *WriteNpy(Tensor::FromVector<double>({2}, {1, 2}));
  absl::StatusOr<Tensor> x = ReadValue({"x", "@" + path}, DType::kFloat, false);
  ASSERT_TRUE(x.ok()) << x.status();
  EXPECT_TRUE(*x == Tensor::FromVector<float>({2}, {1, 2}));
  EXPECT_FALSE(ReadValue({"x", "@" + path + ":a"}, DType::kFloat, false).ok());
  EXPECT_FALSE(ReadValue({"x", "@missing.npy"}, DType::kFloat, false).ok());
  EXPECT_FALSE(ReadValue({"x", "@"}, DType::kFloat, false).ok());
  unlink(path.c_str());
}

// ---- Signatures.

TEST(SignatureTest, NamesTheOutputOfAFormula) {
  const auto outputs = [](const char* formula) {
    return SignatureOf(ModelSource::Formula(formula)).outputs;
  };
  EXPECT_THAT(outputs("x^2*y"), ElementsAre("f"));
  EXPECT_THAT(outputs("f^2"), ElementsAre("f_"));
  EXPECT_THAT(outputs("u = x^2; u + 1;"), ElementsAre("f"));
  EXPECT_THAT(outputs("u = x^2\nv = (u\n + 1)\n"), ElementsAre("v"));
  EXPECT_THAT(outputs("u = x; v = y; return u, v"), ElementsAre("u", "v"));
  EXPECT_THAT(outputs("x == y"), ElementsAre("f"));
  EXPECT_THAT(outputs("x[1;"), ElementsAre("f"));
}

TEST(SignatureTest, ReadsTypesFromText) {
  const ModelSignature signature = SignatureOf(ModelSource::Text(R"(
    <ir_version: 8, opset_import: ["" : 17]>  # double z
    net (float[N, 2] x, int64 labels.1) => (float loss)
    <float[2] w = {1, 2}> { two = Constant <value = double {2}> () loss = Foo(x, w) })"));
  EXPECT_EQ(signature.TypeOf("x"), DType::kFloat);
  EXPECT_EQ(signature.TypeOf("labels.1"), DType::kInt64);
  EXPECT_EQ(signature.TypeOf("w"), DType::kFloat);
  EXPECT_EQ(signature.TypeOf("hidden"), DType::kFloat);
  EXPECT_THAT(signature.outputs, ElementsAre("loss"));
}

// ---- Arguments.

Arguments Parse(const std::vector<std::string>& words) {
  ParsedArguments parsed = ParseArguments(words);
  EXPECT_TRUE(parsed.arguments.has_value()) << parsed.text;
  return parsed.arguments.value_or(Arguments());
}

std::string UsageError(const std::vector<std::string>& words) {
  const ParsedArguments parsed = ParseArguments(words);
  EXPECT_TRUE(parsed.is_error) << testing::PrintToString(words);
  return parsed.text;
}

TEST(ArgumentsTest, ReadsFormulaAndInputsInAnyPlace) {
  const Arguments a = Parse(
      {"grad", "--wrt", "x,y", "x^2", "x=-1.5", "--in", "y=[2,3]", "--output=json", "z=@z.npy"});
  EXPECT_EQ(a.command, Command::kGrad);
  EXPECT_EQ(a.formula, "x^2");
  ASSERT_EQ(a.inputs.size(), 3u);
  EXPECT_EQ(a.inputs[0].name, "x");
  EXPECT_EQ(a.inputs[0].value, "-1.5");
  EXPECT_EQ(a.inputs[1].value, "@z.npy");
  EXPECT_EQ(a.inputs[2].value, "[2,3]");
  EXPECT_THAT(a.wrt, ElementsAre("x", "y"));
  EXPECT_TRUE(a.json);
}

TEST(ArgumentsTest, AFormulaMayBeginWithMinusOrHoldEquals) {
  EXPECT_EQ(Parse({"grad", "-x^2", "x=2"}).formula, "-x^2");
  EXPECT_EQ(Parse({"grad", "-(x)", "x=2"}).formula, "-(x)");
  EXPECT_EQ(Parse({"eval", "u = x; u", "x=2"}).formula, "u = x; u");
  EXPECT_EQ(Parse({"eval", "--", "-x", "x=2"}).formula, "-x");
}

TEST(ArgumentsTest, WithAModelAllWordsAreInputs) {
  const Arguments a = Parse({"eval", "x=1", "--model", "m.onnx"});
  EXPECT_EQ(a.model_path, "m.onnx");
  EXPECT_EQ(a.formula, "");
  EXPECT_EQ(a.inputs.size(), 1u);
}

TEST(ArgumentsTest, ANameGivenAgainBeginsTheNextVector) {
  const Arguments a = Parse({"hvp", "x*y", "x=1", "y=2", "--vector", "x=1", "--vector", "y=0",
                             "--vector=y=1", "--vector", "x=-1"});
  ASSERT_EQ(a.vectors.size(), 2u);
  EXPECT_EQ(a.vectors[0].size(), 2u);
  EXPECT_EQ(a.vectors[1][0].name, "y");
  EXPECT_EQ(a.vectors[1][1].value, "-1");
  EXPECT_EQ(a.inputs.size(), 2u) << "--vector takes one word only";
}

TEST(ArgumentsTest, UsageErrorsSuggest) {
  EXPECT_THAT(UsageError({"grda", "x"}), HasSubstr("did you mean 'grad'"));
  EXPECT_THAT(UsageError({"hvp", "x", "--vetor", "x=1"}), HasSubstr("did you mean '--vector'"));
  EXPECT_THAT(UsageError({"hvp", "x", "x=1"}), HasSubstr("--vector"));
  EXPECT_THAT(UsageError({"server", "stats"}), HasSubstr("did you mean 'status'"));
  EXPECT_THAT(UsageError({"grad", "x", "y"}), HasSubstr("'y' is no NAME=VALUE"));
  EXPECT_THAT(UsageError({"grad", "x", "x=1", "--in", "x=2"}), HasSubstr("x is given twice"));
  EXPECT_THAT(UsageError({"grad", "x", "--precision=half"}), HasSubstr("as_graph, float, double"));
  EXPECT_THAT(UsageError({"grad", "x", "--deadline", "-1"}), HasSubstr("'-1'"));
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"grad"},
                                             {"grad", "x", "--seed=-1"},
                                             {"grad", "x", "=1"},
                                             {"grad", "x", "--wrt"},
                                             {"server"},
                                             {"health", "extra"},
                                             {"grad", "x", "--output=xml"},
                                             {"eval", "x", "--wrt=x"}}) {
    UsageError(words);
  }
}

TEST(ArgumentsTest, EveryCommandHasExamples) {
  for (const CommandRow& row : Commands()) {
    std::vector<std::string> words = {row.name, "--help"};
    if (*row.group != '\0') words.insert(words.begin(), row.group);
    const std::string name = absl::StrCat(row.group, *row.group == '\0' ? "" : " ", row.name);
    const ParsedArguments parsed = ParseArguments(words);
    EXPECT_FALSE(parsed.is_error);
    EXPECT_THAT(parsed.text, HasSubstr(absl::StrCat("\n  gradwire ", name)));
    EXPECT_THAT(parsed.text, HasSubstr(absl::StrCat("Usage: gradwire ", name)));
    EXPECT_EQ(RowOf(row.command).name, row.name);
  }
}

// ---- Rendering.

Answer SampleAnswer() {
  Answer answer;
  answer.value_name = "f";
  answer.value = Tensor::Scalar(39.0);
  answer.gradients = NamedTensors{{"x", 12}, {"y", {1, -0.5}}};
  return answer;
}

TEST(JsonTest, WritesTensorsExactly) {
  EXPECT_EQ(TensorAsJson(Tensor::Scalar(39.0)),
            R"({"dtype": "DOUBLE", "shape": [], "data": [39]})");
  EXPECT_EQ(TensorAsJson(Tensor::FromVector<double>({1, 2}, {0.1, -0.0})),
            R"({"dtype": "DOUBLE", "shape": [1, 2], "data": [0.10000000000000001, -0]})");
  EXPECT_EQ(TensorAsJson(Tensor::FromVector<float>({3}, {NAN, INFINITY, -INFINITY})),
            R"({"dtype": "FLOAT", "shape": [3], "data": ["NaN", "Infinity", "-Infinity"]})");
  EXPECT_EQ(TensorAsJson(Tensor::Scalar(0.1f)),
            R"({"dtype": "FLOAT", "shape": [], "data": [0.100000001]})");
  EXPECT_EQ(TensorAsJson(Tensor::FromVector<bool>({2}, {true, false})),
            R"({"dtype": "BOOL", "shape": [2], "data": [true, false]})");
  EXPECT_EQ(TensorAsJson(Tensor::Scalar<uint64_t>(UINT64_MAX)),
            R"({"dtype": "UINT64", "shape": [], "data": [18446744073709551615]})");
  EXPECT_EQ(TensorAsJson(Tensor::FromVector<double>({0, 2}, {})),
            R"({"dtype": "DOUBLE", "shape": [0, 2], "data": []})");
  EXPECT_EQ(TensorAsJson(Value("1.5", DType::kBfloat16)),
            R"({"dtype": "BFLOAT16", "shape": [], "data": [1.5]})");
}

TEST(JsonTest, WritesOneObjectPerAnswer) {
  Answer answer = SampleAnswer();
  answer.vectors = {NamedTensors{{"x", 1}}, NamedTensors{{"a \"b\"\n", 2}}};
  answer.vectors_key = "products";
  answer.info.compute_time = absl::Microseconds(12);
  const nlohmann::json json = nlohmann::json::parse(AnswerAsJson(answer));
  EXPECT_EQ(json["value"]["data"][0], 39);
  EXPECT_EQ(json["gradients"]["y"]["data"][1], -0.5);
  EXPECT_EQ(json["products"][1]["a \"b\"\n"]["data"][0], 2);
  EXPECT_EQ(json["info"]["compute_time"], "0.000012000s");
  EXPECT_FALSE(json.contains("outputs"));
}

TEST(JsonTest, WritesErrors) {
  const std::vector<Violation> places = {{"node 7 \"fc1\"", "too large"}};
  const nlohmann::json json =
      nlohmann::json::parse(ErrorAsJson(Error(Reason::kShapeMismatch, "bad \xFF shape", places)));
  EXPECT_EQ(json["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(json["error"]["reason"], "SHAPE_MISMATCH");
  EXPECT_EQ(json["error"]["details"][0]["field"], "node 7 \"fc1\"");
}

TEST(TextTest, AlignsNamesAndValues) {
  EXPECT_EQ(AnswerAsText(SampleAnswer(), false, false),
            "    f = 39\n"
            "df/dx = 12\n"
            "df/dy = [   1, -0.5]\n");
}

TEST(TextTest, NamesTheResultsOfVectors) {
  Answer answer;
  answer.vectors_symbol = "H";
  answer.vectors = {NamedTensors{{"x", 402}}};
  EXPECT_EQ(AnswerAsText(answer, false, false), "(Hv)[x] = 402\n");
  answer.vectors.push_back(NamedTensors{{"x", 1}});
  EXPECT_THAT(AnswerAsText(answer, false, false), HasSubstr("(Hv2)[x] = 1\n"));
}

TEST(TextTest, ControlCharactersOfNamesDoNotReachTheTerminal) {
  Answer answer;
  answer.outputs = NamedTensors{{"\x1b[2Jx", 1}};
  EXPECT_EQ(AnswerAsText(answer, false, false), "?[2Jx = 1\n");
}

TEST(TextTest, FormatsArraysLikeNumPy) {
  EXPECT_EQ(FormatTensor(Tensor::FromVector<double>({2, 2}, {1, 2, 3, 4.5})),
            "[[  1,   2],\n [  3, 4.5]]");
  EXPECT_EQ(FormatTensor(Tensor::Scalar(0.1)), "0.1");
  EXPECT_EQ(FormatTensor(Tensor::Scalar(1.0 / 3)), "0.3333333333333333");
  EXPECT_EQ(FormatTensor(Tensor::FromVector<double>({0, 3}, {})), "empty DOUBLE[0,3]");
  std::vector<int64_t> many(2000);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<int64_t>(i);
  EXPECT_EQ(FormatTensor(Tensor::FromVector<int64_t>({2000}, many)),
            "[   0,    1,    2, ..., 1997, 1998, 1999]");
  const std::string wrapped =
      FormatTensor(Tensor::FromVector<int64_t>({100}, std::vector<int64_t>(100, 7)), {.width = 20});
  EXPECT_THAT(wrapped, HasSubstr("7,\n 7"));
}

TEST(TextTest, ListsTheDetailsOfErrors) {
  const std::vector<Violation> places = {{"node 1", "first"}, {"node 2", "second"}};
  EXPECT_EQ(ErrorAsText(Error(Reason::kUnsupportedOp, "2 problems", places), "", false),
            "error: UNSUPPORTED_OP: 2 problems\n  node 1: first\n  node 2: second\n");
  EXPECT_EQ(ErrorAsText(absl::DeadlineExceededError("late"), "", false),
            "error: DEADLINE_EXCEEDED: late\n");
}

// ---- The program, without a server.

TEST(RunTest, ExitCodes) {
  const auto run = [](std::vector<std::string> words, std::string* text) {
    std::ostringstream out, err;
    const int code = cli::Run(words, {.out = &out, .err = &err});
    *text = out.str() + err.str();
    return code;
  };
  std::string text;
  EXPECT_EQ(run({"--version"}, &text), 0);
  EXPECT_EQ(run({"--help"}, &text), 0);
  EXPECT_EQ(run({}, &text), 2);
  EXPECT_EQ(run({"grad", "x", "x=@missing.npy"}, &text), 2);
  EXPECT_THAT(text, HasSubstr("missing.npy"));
  EXPECT_EQ(run({"health", "--server=unix:/nonexistent/socket"}, &text), 4);
  EXPECT_THAT(text, HasSubstr("gradwire-server --listen="));
  EXPECT_EQ(run({"grad", "x", "x=1", "--server=unix:/nonexistent/socket", "--output=json"}, &text),
            4);
  EXPECT_EQ(nlohmann::json::parse(text)["error"]["code"], "UNAVAILABLE");
}

}  // namespace
}  // namespace gradwire::cli
