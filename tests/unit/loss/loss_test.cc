#include "engine/loss/loss.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/ops/builders.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// make_golden.py says what is in it.
const json& Golden() {
  static const auto& golden = *new json([] {
    std::ifstream file(GRADWIRE_SOURCE_DIR "/tests/unit/loss/golden.json");
    return json::parse(file);
  }());
  return golden;
}

Tensor TensorOf(const json& t, DType dtype) {
  const auto dims = t["shape"].get<std::vector<int64_t>>();
  return Converted(Tensor::FromVector<double>(Shape(Dims(dims.begin(), dims.end())),
                                              t["values"].get<std::vector<double>>()),
                   dtype);
}
LossSpec SpecOf(const json& c) {
  LossSpec spec{.name = c["name"].get<std::string>(), .settings = c["settings"].get<Settings>()};
  if (c["reduction"] == "sum") spec.reduction = LossSpec::kSum;
  if (c.contains("weight")) spec.weight = TensorOf(c["weight"], DType::kDouble);
  return spec;
}
std::string NameOf(const json& c) {
  return absl::StrCat(c["name"].get<std::string>(), " ", c["settings"].dump(), " ",
                      c["reduction"].get<std::string>(), c.contains("weight") ? " weighted" : "");
}

absl::StatusOr<Graph> LossGraph(const LossSpec& spec, const TensorType& prediction,
                                const TensorType& target) {
  GraphBuilder b;
  const ValueId x = b.Input("x", prediction, Stage::kPoint);
  const ValueId t = b.Input("t", target, Stage::kPoint);
  b.Output("loss", AddLoss(b, spec, x, t));
  return std::move(b).Build();
}

struct Answer {
  double loss = 0;
  std::vector<double> gradient;
};
Answer Compute(const LossSpec& spec, const Tensor& x, const Tensor& t) {
  const Graph graph = Value(LossGraph(spec, x.type(), t.type()));
  EXPECT_EQ(graph.type(graph.FindOutput("loss")), (TensorType{x.dtype(), {}}));
  BoundProgram program(CompileGraph(Value(Gradient(graph, "loss", {"x"}))), {{"x", x}, {"t", t}});
  const absl::Status status = program.Run();
  EXPECT_TRUE(status.ok()) << status;
  return {ElementAsDouble(program.Output("loss"), 0), ToDoubles(program.Output(GradientName("x")))};
}

void ExpectGolden(const json& c, DType dtype, DType labels, double tolerance) {
  const Answer got = Compute(SpecOf(c), TensorOf(c["prediction"], dtype),
                             TensorOf(c["target"], c["labels"].get<bool>() ? labels : dtype));
  const auto loss = c["loss"].get<double>();
  EXPECT_NEAR(got.loss, loss, tolerance * std::max(1.0, std::abs(loss))) << NameOf(c);
  const auto gradient = c["gradient"].get<std::vector<double>>();
  ASSERT_EQ(got.gradient.size(), gradient.size()) << NameOf(c);
  for (size_t i = 0; i < gradient.size(); ++i) {
    ASSERT_NEAR(got.gradient[i], gradient[i], tolerance * std::max(1.0, std::abs(gradient[i])))
        << NameOf(c) << ", element " << i;
  }
}

TEST(LossTest, ValuesAndGradientsEqualThoseOfPyTorch) {
  for (const json& c : Golden()["cases"]) ExpectGolden(c, DType::kDouble, DType::kInt64, 1e-14);
}

TEST(LossTest, FloatsAndShorterLabelsGiveTheSame) {
  for (const json& c : Golden()["cases"]) ExpectGolden(c, DType::kFloat, DType::kInt32, 2e-6);
}

TEST(LossTest, EveryRowIsInTheGoldenFile) {
  std::set<std::string> covered;
  for (const json& c : Golden()["cases"]) covered.insert(c["name"].get<std::string>());
  for (const LossRow& row : AllLosses()) {
    EXPECT_TRUE(covered.contains(row.name)) << row.name;
    EXPECT_NE(std::string(row.doc), "") << row.name;
  }
}

// The clamp of a variance hides it from the value but, as in PyTorch, not from the derivative; at a
// kink differences see both sides.
bool Smooth(const json& c) {
  return c["name"] != "l1" && !(c["name"] == "gaussian_nll" && c["settings"].contains("eps"));
}

TEST(LossTest, GradientsAgreeWithDifferences) {
  constexpr double kStep = 1e-6;
  for (const json& c : Golden()["cases"]) {
    if (!Smooth(c)) continue;
    const LossSpec spec = SpecOf(c);
    const Tensor x = TensorOf(c["prediction"], DType::kDouble);
    const Tensor t =
        TensorOf(c["target"], c["labels"].get<bool>() ? DType::kInt64 : DType::kDouble);
    BoundProgram program(CompileGraph(Value(LossGraph(spec, x.type(), t.type()))),
                         {{"x", x}, {"t", t}});
    const auto at = [&](int64_t i, double shift) {
      Tensor moved = Tensor::CopyOf(x);
      moved.mutable_data<double>()[i] += shift;
      program.Set("x", moved);
      EXPECT_TRUE(program.Run().ok());
      return ElementAsDouble(program.Output("loss"), 0);
    };
    const std::vector<double> gradient = Compute(spec, x, t).gradient;
    for (int64_t i = 0; i < x.num_elements(); ++i) {
      const double difference = (at(i, kStep) - at(i, -kStep)) / (2 * kStep);
      ASSERT_NEAR(gradient[static_cast<size_t>(i)], difference,
                  1e-7 * std::max(1.0, std::abs(difference)))
          << NameOf(c) << ", element " << i;
    }
  }
}

TEST(LossTest, LargeLogitsDoNotOverflow) {
  const Tensor x = Tensor::FromVector<float>({4}, {1000, -1000, 1000, -1000});
  const Tensor t = Tensor::FromVector<float>({4}, {1, 0, 0, 1});
  const Answer bce = Compute({.name = "bce_with_logits"}, x, t);
  EXPECT_EQ(bce.loss, 500);
  EXPECT_EQ(bce.gradient, (std::vector<double>{0, 0, 0.25, -0.25}));
  const Tensor scores = Tensor::FromVector<float>({1, 3}, {1000, 0, -1000});
  const Answer ce =
      Compute({.name = "softmax_cross_entropy"}, scores, Tensor::FromVector<int64_t>({1}, {1}));
  EXPECT_EQ(ce.loss, 1000);
  EXPECT_EQ(ce.gradient, (std::vector<double>{1, -1, 0}));
}

TEST(LossTest, TargetsOfOtherNumberTypesAreConverted) {
  const Tensor x = Vector({0.5, -0.5, 2});
  const Answer want = Compute({.name = "bce_with_logits"}, x, Vector({1, 0, 1}));
  for (const DType dtype : {DType::kFloat, DType::kInt32, DType::kUint8, DType::kBool}) {
    const Answer got = Compute({.name = "bce_with_logits"}, x, Converted(Vector({1, 0, 1}), dtype));
    EXPECT_EQ(got.loss, want.loss) << DTypeName(dtype);
    EXPECT_EQ(got.gradient, want.gradient) << DTypeName(dtype);
  }
  const Tensor scores = Tensor::FromVector<double>({2, 2}, {1, 2, 3, 5});
  EXPECT_EQ(Compute({.name = "nll"}, scores, Converted(Vector({1, 0}), DType::kUint8)).loss, -2.5);
}

TEST(LossTest, ALabelOutsideTheClassesFailsTheRun) {
  for (const char* name : {"softmax_cross_entropy", "nll"}) {
    for (const int64_t label : {-1, 3, -101}) {
      BoundProgram program(CompileGraph(Value(LossGraph({.name = name}, {DType::kDouble, {2, 3}},
                                                        {DType::kInt64, {2}}))),
                           {{"t", Tensor::FromVector<int64_t>({2}, {0, label})}});
      EXPECT_TRUE(HasReason(program.Run(), Reason::kInvalidTensor)) << name << " " << label;
    }
  }
}

TEST(LossTest, AllProblemsAreReportedAtOnce) {
  const absl::Status status =
      LossGraph({.name = "huber", .settings = {{"delta", 0}, {"beta", 1}}, .weight = Vector({1})},
                {DType::kInt64, {2, 3}}, {DType::kFloat, {3}})
          .status();
  std::vector<std::string> places;
  for (const Violation& v : ViolationsOf(status)) places.push_back(v.where);
  EXPECT_EQ(places, (std::vector<std::string>{"loss.huber.beta", "loss.huber.delta",
                                              "loss.huber.prediction", "loss.huber.target",
                                              "loss.huber.weight"}))
      << status;
}

TEST(LossTest, RefusesWhatDoesNotFit) {
  const TensorType scores{DType::kFloat, {4, 3}}, same = scores, labels{DType::kInt64, {4}};
  const Tensor three = Vector({1, 1, 1});
  struct Case {
    LossSpec spec;
    TensorType prediction, target;
    Reason reason;
    const char* says;
  };
  const std::vector<Case> cases = {
      {{.name = "mean_squares"}, scores, same, Reason::kInvalidSpec, "only mse, l1, huber"},
      {{.name = "mse"}, scores, labels, Reason::kShapeMismatch, "expected the shape [4,3]"},
      {{.name = "mse"}, scores, {DType::kFloat, {4, 1}}, Reason::kShapeMismatch, "[4,3]"},
      {{.name = "mse"}, scores, {DType::kFloat16, {4, 3}}, Reason::kDtypeUnsupported, "FLOAT16"},
      {{.name = "nll"}, scores, same, Reason::kDtypeUnsupported, "integer labels"},
      {{.name = "nll"}, scores, {DType::kInt64, {3}}, Reason::kShapeMismatch, "the shape [4]"},
      {{.name = "nll"}, {DType::kFloat, {}}, labels, Reason::kShapeMismatch, "[N,C,...]"},
      {{.name = "nll", .weight = Vector({1, 1})}, scores, labels, Reason::kShapeMismatch, "class"},
      {{.name = "nll", .weight = Converted(three, DType::kInt64)},
       scores,
       labels,
       Reason::kDtypeUnsupported,
       "INT64"},
      {{.name = "softmax_cross_entropy", .settings = {{"label_smoothing", 1.5}}},
       scores,
       labels,
       Reason::kInvalidSpec,
       "[0, 1]"},
      {{.name = "softmax_cross_entropy", .settings = {{"ignore_index", 1}}},
       scores,
       same,
       Reason::kInvalidSpec,
       "probabilities"},
      {{.name = "bce_with_logits", .weight = Vector({1, 1})},
       scores,
       same,
       Reason::kShapeMismatch,
       "does not broadcast"},
      {{.name = "gaussian_nll"}, scores, same, Reason::kShapeMismatch, "side by side"},
      {{.name = "gaussian_nll"},
       {DType::kFloat, {4, 6}},
       {DType::kFloat, {4, 6}},
       Reason::kShapeMismatch,
       "[4,3]"},
  };
  for (const Case& c : cases) {
    const absl::Status status = LossGraph(c.spec, c.prediction, c.target).status();
    EXPECT_TRUE(HasReason(status, c.reason)) << c.spec.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says)) << c.spec.name;
  }
}

TEST(LossTest, EmptyBatchesAndClassesDoNotCrash) {
  for (const LossRow& row : AllLosses()) {
    const bool classes =
        row.target == LossTarget::kLabels || row.target == LossTarget::kLabelsOrProbabilities;
    for (const Shape& shape : {Shape{0, 2}, Shape{2, 0}}) {
      const Shape target = classes                              ? Shape{shape[0]}
                           : row.target == LossTarget::kMoments ? Shape{shape[0], shape[1] / 2}
                                                                : shape;
      const LossSpec spec{.name = row.name, .reduction = LossSpec::kSum};
      const Graph graph = Value(LossGraph(spec, {DType::kFloat, shape},
                                          {classes ? DType::kInt64 : DType::kFloat, target}));
      BoundProgram program(CompileGraph(graph),
                           {{"t", Converted(Tensor(TensorType{DType::kDouble, target}),
                                            classes ? DType::kInt64 : DType::kFloat)}});
      const absl::Status status = program.Run();
      if (classes && shape[0] > 0) {  // labels, but no class that they could name
        EXPECT_TRUE(HasReason(status, Reason::kInvalidTensor)) << row.name << ": " << status;
      } else {
        EXPECT_TRUE(status.ok()) << row.name << ": " << status;
        EXPECT_EQ(ElementAsDouble(program.Output("loss"), 0), 0) << row.name;
      }
    }
  }
}

}  // namespace
}  // namespace gradwire
