#include "engine/optim/training_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/ops/builders.h"
#include "tests/unit/optim/training_run.h"

namespace gradwire {
namespace {

using testing::HasSubstr;

constexpr double kRate = 0.1;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Optimizer Sgd(double lr = kRate) { return Value(Optimizer::Make("sgd", {{"lr", lr}})); }

// loss = mean((x w + b - t)^2); running = 0.9 running + 0.1 mean(x), a state of the model's own.
Graph Regression() {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {4, 3}}, Stage::kPoint);
  const ValueId t = b.Input("t", {DType::kDouble, {4, 2}}, Stage::kPoint);
  const ValueId w = b.Input("w", {DType::kDouble, {3, 2}}, Stage::kParameter);
  const ValueId bias = b.Input("b", {DType::kDouble, {2}}, Stage::kParameter);
  const ValueId running = b.Input("running", {DType::kDouble, {3}}, Stage::kParameter);
  b.Input("steps", {DType::kInt64, {}}, Stage::kParameter);
  const ValueId error = Sub(b, Add(b, MatMul(b, x, w), bias), t);
  b.Output("loss", ReduceMean(b, Mul(b, error, error), {}));
  b.Output("errors", error);
  b.Update("running", Add(b, Mul(b, b.ScalarLike(running, 0.9), running),
                          Mul(b, b.ScalarLike(running, 0.1), ReduceMean(b, x, {0}))));
  return Value(std::move(b).Build());
}

NamedTensors Parameters() {
  return {{"w", Random({DType::kDouble, {3, 2}}, 1)},
          {"b", Random({DType::kDouble, {2}}, 2)},
          {"running", Vector({1, 2, 3})},
          {"steps", Tensor::Scalar<int64_t>(0)}};
}
NamedTensors DrawBatch(uint32_t seed) {
  return {{"x", Random({DType::kDouble, {4, 3}}, 10 + seed)},
          {"t", Random({DType::kDouble, {4, 2}}, 20 + seed)}};
}
NamedTensors Merged(NamedTensors a, const NamedTensors& b) {
  a.insert(b.begin(), b.end());
  return a;
}

// Gradients of the regression by an independent Program.
struct Slopes {
  std::vector<double> w, b;
  double Norm() const {
    double sum = 0;
    for (double g : w) sum += g * g;
    for (double g : b) sum += g * g;
    return std::sqrt(sum);
  }
};
Slopes GradientAt(const NamedTensors& inputs) {
  BoundProgram program(CompileGraph(Value(Gradient(Regression(), "loss", {"w", "b"}))), inputs);
  EXPECT_TRUE(program.Run().ok());
  return {ToDoubles(program.Output(GradientName("w"))),
          ToDoubles(program.Output(GradientName("b")))};
}

std::vector<double> Moved(const Tensor& start, const std::vector<double>& slope, double rate) {
  std::vector<double> out = ToDoubles(start);
  for (size_t i = 0; i < out.size(); ++i) out[i] -= rate * slope[i];
  return out;
}

TrainingSpec BothParameters(const Clipping& clip = {}, int accumulation = 1) {
  return {.loss = "loss",
          .parameters = {{"w"}, {"b"}},
          .groups = {Sgd()},
          .clip = clip,
          .accumulation = accumulation};
}

TEST(TrainingStepTest, MovesParametersDownTheGradientAndReportsItsNorm) {
  TrainingRun run(Regression(), BothParameters(), Parameters());
  const Slopes slopes = GradientAt(Merged(DrawBatch(0), Parameters()));
  ASSERT_TRUE(run.Step(DrawBatch(0)).ok());
  ExpectNear(run.State("w"), Moved(Parameters()["w"], slopes.w, kRate), 1e-14, "w");
  ExpectNear(run.State("b"), Moved(Parameters()["b"], slopes.b, kRate), 1e-14, "b");
  EXPECT_NEAR(run.Output(kGradientNorm), slopes.Norm(), 1e-14);
  EXPECT_GT(run.Output("loss"), 0);
}

TEST(TrainingStepTest, KeepsTheUpdatesOfTheModel) {
  TrainingRun run(Regression(), BothParameters(), Parameters());
  std::vector<double> running = {1, 2, 3};
  for (uint32_t seed = 0; seed < 3; ++seed) {
    const NamedTensors batch = DrawBatch(seed);
    ASSERT_TRUE(run.Step(batch).ok());
    const std::vector<double> x = ToDoubles(batch.at("x"));
    for (size_t i = 0; i < 3; ++i) {
      const double mean = (x[i] + x[i + 3] + x[i + 6] + x[i + 9]) / 4;
      running[i] = 0.9 * running[i] + 0.1 * mean;
    }
    ExpectNear(run.State("running"), running, 1e-14, "running");
  }
}

TEST(TrainingStepTest, LeavesOutWhatIsFrozen) {
  TrainingRun run(Regression(), {.loss = "loss", .parameters = {{"b"}}, .groups = {Sgd()}},
                  Parameters());
  ASSERT_TRUE(run.Step(DrawBatch(0)).ok());
  EXPECT_EQ(run.State("w"), ToDoubles(Parameters()["w"]));
  EXPECT_NE(run.State("b"), ToDoubles(Parameters()["b"]));
}

TEST(TrainingStepTest, GroupsHaveTheirOwnHyperparameters) {
  const std::vector<Optimizer> groups = {
      Sgd(), Value(Optimizer::Make("sgd", {{"lr", 0.01}, {"weight_decay", 0.5}}))};
  TrainingRun run(Regression(),
                  {.loss = "loss", .parameters = {{"w", 0}, {"b", 1}}, .groups = groups},
                  Parameters());
  Slopes slopes = GradientAt(Merged(DrawBatch(0), Parameters()));
  ASSERT_TRUE(run.Step(DrawBatch(0)).ok());
  ExpectNear(run.State("w"), Moved(Parameters()["w"], slopes.w, kRate), 1e-14, "w");
  const std::vector<double> b = ToDoubles(Parameters()["b"]);
  for (size_t i = 0; i < b.size(); ++i) slopes.b[i] += 0.5 * b[i];
  ExpectNear(run.State("b"), Moved(Parameters()["b"], slopes.b, 0.01), 1e-14, "b");
}

// ---- Clipping

TEST(ClippingTest, ByValueBoundsEachElement) {
  constexpr double kLimit = 0.05;
  TrainingRun run(Regression(), BothParameters({Clipping::kValue, kLimit}), Parameters());
  Slopes slopes = GradientAt(Merged(DrawBatch(0), Parameters()));
  ASSERT_TRUE(run.Step(DrawBatch(0)).ok());
  EXPECT_NEAR(run.Output(kGradientNorm), slopes.Norm(), 1e-14) << "of before clipping";
  bool clipped = false, kept = false;
  for (double& g : slopes.w) {
    (std::abs(g) > kLimit ? clipped : kept) = true;
    g = std::min(kLimit, std::max(-kLimit, g));
  }
  ASSERT_TRUE(clipped && kept) << "the test needs elements on both sides of the limit";
  ExpectNear(run.State("w"), Moved(Parameters()["w"], slopes.w, kRate), 1e-14, "w");
}

TEST(ClippingTest, ByGlobalNormShrinksAllAlike) {
  const Slopes slopes = GradientAt(Merged(DrawBatch(0), Parameters()));
  for (const double limit : {0.5 * slopes.Norm(), 2 * slopes.Norm()}) {
    TrainingRun run(Regression(), BothParameters({Clipping::kGlobalNorm, limit}), Parameters());
    ASSERT_TRUE(run.Step(DrawBatch(0)).ok());
    const double factor = std::min(1.0, limit / (slopes.Norm() + 1e-6));
    ExpectNear(run.State("w"), Moved(Parameters()["w"], slopes.w, factor * kRate), 1e-13, "w");
    ExpectNear(run.State("b"), Moved(Parameters()["b"], slopes.b, factor * kRate), 1e-13, "b");
  }
}

TEST(ClippingTest, ByNormShrinksEachParameterByItself) {
  const Slopes slopes = GradientAt(Merged(DrawBatch(0), Parameters()));
  constexpr double kLimit = 0.1;
  TrainingRun run(Regression(), BothParameters({Clipping::kNorm, kLimit}), Parameters());
  ASSERT_TRUE(run.Step(DrawBatch(0)).ok());
  const auto factor = [&](const std::vector<double>& g) {
    double sum = 0;
    for (double x : g) sum += x * x;
    return std::min(1.0, kLimit / (std::sqrt(sum) + 1e-6));
  };
  ExpectNear(run.State("w"), Moved(Parameters()["w"], slopes.w, factor(slopes.w) * kRate), 1e-13,
             "w");
  ExpectNear(run.State("b"), Moved(Parameters()["b"], slopes.b, factor(slopes.b) * kRate), 1e-13,
             "b");
}

TEST(ClippingTest, ANaNIsNotClippedAway) {
  for (const auto kind : {Clipping::kValue, Clipping::kNorm, Clipping::kGlobalNorm}) {
    TrainingRun run(Regression(), BothParameters({kind, 0.1}), Parameters());
    NamedTensors batch = DrawBatch(0);
    batch["t"].mutable_data<double>()[0] = kNaN;
    run.step().context().check_finite = true;
    const absl::Status status = run.Step(batch);
    EXPECT_TRUE(HasReason(status, Reason::kNonFiniteValue)) << status;
    EXPECT_EQ(run.State("w"), ToDoubles(Parameters()["w"])) << "nothing has changed";
    EXPECT_EQ(run.State("running"), (std::vector<double>{1, 2, 3}));
    run.step().context().check_finite = false;
    ASSERT_TRUE(run.Step(batch).ok());
    EXPECT_TRUE(std::isnan(run.State("w")[0])) << "kind " << kind;
  }
}

// ---- Accumulation

TEST(AccumulationTest, OneStepOfSeveralBatchesEqualsOneOfTheirMean) {
  for (const auto kind : {Clipping::kNone, Clipping::kGlobalNorm}) {
    constexpr int kBatches = 3;
    TrainingRun run(Regression(), BothParameters({kind, 0.2}, kBatches), Parameters());
    NamedTensors state = Parameters();
    for (uint32_t step = 0; step < 2; ++step) {
      std::vector<NamedTensors> batches;
      Slopes mean{std::vector<double>(6), std::vector<double>(2)};
      for (uint32_t k = 0; k < kBatches; ++k) {
        batches.push_back(DrawBatch(10 * step + k));
        const Slopes one = GradientAt(Merged(batches.back(), state));
        for (size_t i = 0; i < 6; ++i) mean.w[i] += one.w[i] / kBatches;
        for (size_t i = 0; i < 2; ++i) mean.b[i] += one.b[i] / kBatches;
      }
      ASSERT_TRUE(run.AccumulatedStep(batches).ok());
      const double factor = kind == Clipping::kNone ? 1 : std::min(1.0, 0.2 / (mean.Norm() + 1e-6));
      const std::vector<double> w = Moved(state["w"], mean.w, factor * kRate);
      const std::vector<double> b = Moved(state["b"], mean.b, factor * kRate);
      ExpectNear(run.State("w"), w, 1e-12, absl::StrCat("w after step ", step));
      ExpectNear(run.State("b"), b, 1e-12, absl::StrCat("b after step ", step));
      EXPECT_NEAR(run.Output(kGradientNorm), mean.Norm(), 1e-12);
      state["w"] = Tensor::FromVector<double>({3, 2}, run.State("w"));
      state["b"] = Vector(run.State("b"));
    }
  }
}

TEST(AccumulationTest, TheLossOfAStepIsTheMeanOverItsBatches) {
  TrainingRun run(Regression(), BothParameters({}, 2), Parameters());
  double sum = 0;
  for (uint32_t seed = 0; seed < 2; ++seed) {
    TrainingRun alone(Regression(), BothParameters(), Parameters());
    ASSERT_TRUE(alone.Step(DrawBatch(seed)).ok());
    sum += alone.Output("loss");
  }
  ASSERT_TRUE(run.AccumulatedStep({DrawBatch(0), DrawBatch(1)}).ok());
  EXPECT_NEAR(run.Output("loss"), sum / 2, 1e-14);
}

TEST(AccumulationTest, TheStepTakesNoBatch) {
  const TrainingGraphs graphs = Value(BuildTrainingStep(Regression(), BothParameters({}, 2)));
  EXPECT_EQ(graphs.step.FindInput("x"), kNoValue);
  EXPECT_EQ(graphs.accumulate->updates().size(), 4u) << "running, loss, w, b";
  for (const SlotTensor& slot : graphs.slots) EXPECT_EQ(slot.initial, 0) << slot.name;
}

// ---- Errors

TEST(TrainingStepTest, AllProblemsOfASpecificationAreReportedAtOnce) {
  const absl::Status status =
      BuildTrainingStep(Regression(),
                        {.loss = "lost",
                         .parameters = {{"v"}, {"w", 7}, {"w"}, {"steps"}, {"running"}},
                         .groups = {Sgd()},
                         .clip = {Clipping::kNorm, -1},
                         .accumulation = 0})
          .status();
  std::vector<std::string> places;
  for (const Violation& v : ViolationsOf(status)) places.push_back(v.where);
  EXPECT_EQ(places, (std::vector<std::string>{"loss", "parameters.v", "parameters.w",
                                              "parameters.w", "parameters.steps",
                                              "parameters.running", "clip", "accumulation"}))
      << status;
  EXPECT_TRUE(HasReason(status, Reason::kUnknownOutput)) << status;
}

TEST(TrainingStepTest, ALossOfSeveralElementsIsRefused) {
  const absl::Status status =
      BuildTrainingStep(Regression(), {.loss = "errors", .parameters = {{"w"}}, .groups = {Sgd()}})
          .status();
  EXPECT_TRUE(HasReason(status, Reason::kNotScalar)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("DOUBLE[4,2]"));
}

TEST(TrainingStepTest, AParameterThatTheLossDoesNotNeedStaysWhereItIs) {
  GraphBuilder b;
  const ValueId p = b.Input("p", {DType::kDouble, {2}}, Stage::kParameter);
  b.Input("idle", {DType::kDouble, {2}}, Stage::kParameter);
  b.Output("loss", ReduceSum(b, Mul(b, p, p), {}));
  TrainingRun run(Value(std::move(b).Build()),
                  {.loss = "loss", .parameters = {{"idle"}, {"p"}}, .groups = {Sgd()}},
                  {{"p", Vector({1, 2})}, {"idle", Vector({3, 4})}});
  ASSERT_TRUE(run.Step({}).ok());
  EXPECT_EQ(run.State("idle"), (std::vector<double>{3, 4}));
  ExpectNear(run.State("p"), {0.8, 1.6}, 1e-15, "p");
}

// A mixed model: norms in the wider dtype, scalars for each.
TEST(TrainingStepTest, FloatAndDoubleParametersTrainTogether) {
  GraphBuilder b;
  const ValueId p = b.Input("p", {DType::kFloat, {2}}, Stage::kParameter);
  const ValueId q = b.Input("q", {DType::kDouble, {2}}, Stage::kParameter);
  const ValueId wide = Cast(b, p, DType::kDouble);
  b.Output("loss", ReduceSum(b, Add(b, Mul(b, wide, wide), Mul(b, q, q)), {}));
  TrainingRun run(Value(std::move(b).Build()),
                  {.loss = "loss",
                   .parameters = {{"p"}, {"q"}},
                   .groups = {Sgd(0.25)},
                   .clip = {Clipping::kGlobalNorm, 5}},
                  {{"p", Tensor::FromVector<float>({2}, {3, 0})}, {"q", Vector({0, 4})}});
  ASSERT_TRUE(run.Step({}).ok());
  EXPECT_DOUBLE_EQ(run.Output(kGradientNorm), 10);
  EXPECT_EQ(run.step().Output(kGradientNorm).dtype(), DType::kDouble);
  ExpectNear(run.State("p"), {2.25, 0}, 1e-6, "p");
  ExpectNear(run.State("q"), {0, 3}, 1e-6, "q");
}

}  // namespace
}  // namespace gradwire
