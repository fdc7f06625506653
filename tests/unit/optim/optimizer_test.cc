#include "engine/optim/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "engine/ops/builders.h"
#include "tests/unit/optim/training_run.h"

namespace gradwire {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// A loss whose gradient by "p" is the input "g".
Graph LinearLoss(DType dtype, int64_t n) {
  GraphBuilder b;
  const ValueId p = b.Input("p", {dtype, {n}}, Stage::kParameter);
  const ValueId g = b.Input("g", {dtype, {n}}, Stage::kPoint);
  b.Output("loss", ReduceSum(b, Mul(b, p, g), {}));
  return Value(std::move(b).Build());
}

std::string NameOf(const json& c) {
  std::string name = c["name"].get<std::string>() + " " + c["hyper"].dump();
  if (c.contains("schedule")) name += " under " + c["schedule"]["name"].get<std::string>();
  return name;
}

Schedule ScheduleOf(const json& c) {
  if (!c.contains("schedule")) return Value(Schedule::Make({}));
  const json& s = c["schedule"];
  return Value(Schedule::Make({.name = s["name"].get<std::string>(),
                               .numbers = s["numbers"].get<Settings>(),
                               .words = s["words"].get<std::map<std::string, std::string>>(),
                               .milestones = s["milestones"].get<std::vector<int64_t>>()}));
}

// Ten steps with the golden gradients; `tolerance` of the parameters after each and of the slots.
void ExpectGolden(const json& c, DType dtype, double tolerance) {
  const auto start = Golden()["start"].get<std::vector<double>>();
  const auto gradients = Golden()["gradients"].get<std::vector<std::vector<double>>>();
  const Schedule schedule = ScheduleOf(c);
  const Optimizer optimizer =
      Value(Value(Optimizer::Make(c["name"].get<std::string>(), c["hyper"].get<Hyperparameters>()))
                .Under(schedule));
  const auto n = static_cast<int64_t>(start.size());
  TrainingRun run(LinearLoss(dtype, n),
                  {.loss = "loss", .parameters = {{"p"}}, .groups = {optimizer}},
                  {{"p", Converted(Vector(start), dtype)}}, schedule);
  for (size_t t = 0; t < gradients.size(); ++t) {
    const absl::Status status = run.Step({{"g", Converted(Vector(gradients[t]), dtype)}});
    ASSERT_TRUE(status.ok()) << status;
    ExpectNear(run.State("p"), c["parameters"][t].get<std::vector<double>>(), tolerance,
               absl::StrCat(NameOf(c), ", step ", t + 1));
  }
  for (const auto& [slot, values] : c["slots"].items()) {
    ExpectNear(run.State("gradwire.slot." + slot + ".p"), values.get<std::vector<double>>(),
               tolerance, absl::StrCat(NameOf(c), ", slot ", slot));
  }
  EXPECT_EQ(run.graphs().slots.size(), c["slots"].size()) << NameOf(c);
}

TEST(OptimizerTest, TrajectoriesEqualThoseOfPyTorch) {
  for (const json& c : Golden()["optimizers"]) ExpectGolden(c, DType::kDouble, 2e-13);
}

TEST(OptimizerTest, FloatTrajectoriesFollowThoseOfDouble) {
  for (const json& c : Golden()["optimizers"]) ExpectGolden(c, DType::kFloat, 3e-5);
}

TEST(OptimizerTest, EveryRowHasGoldenTrajectories) {
  std::set<std::string> covered;
  for (const json& c : Golden()["optimizers"]) covered.insert(c["name"].get<std::string>());
  for (const OptimizerRow& row : AllOptimizers()) {
    EXPECT_TRUE(covered.contains(row.name)) << row.name;
    EXPECT_TRUE(Optimizer::Make(row.name, {}).ok()) << row.name << " has no legal defaults";
    EXPECT_NE(std::string(row.doc), "") << row.name;
  }
}

TEST(OptimizerTest, DefaultsAreThoseOfPyTorch) {
  EXPECT_EQ(Value(Optimizer::Make("adamw", {})).hyper(), (Hyperparameters{{"lr", 1e-3},
                                                                          {"beta1", 0.9},
                                                                          {"beta2", 0.999},
                                                                          {"eps", 1e-8},
                                                                          {"weight_decay", 1e-2},
                                                                          {"amsgrad", 0},
                                                                          {"maximize", 0}}));
  EXPECT_EQ(Value(Optimizer::Make("adagrad", {})).hyper().at("eps"), 1e-10);
  EXPECT_EQ(Value(Optimizer::Make("nadam", {})).hyper().at("lr"), 2e-3);
}

TEST(OptimizerTest, MemoryResumesWhereItWasSaved) {
  for (const char* name : {"nadam", "asgd"}) {
    const Optimizer o = Value(Optimizer::Make(name, {{"lr", 0.1}}));
    OptimizerMemory whole, first;
    for (int64_t step = 1; step <= 3; ++step) o.ScalarsOf({step, o.hyper()}, &whole);
    for (int64_t step = 1; step <= 2; ++step) o.ScalarsOf({step, o.hyper()}, &first);
    OptimizerMemory resumed = json::parse(json(first).dump()).get<OptimizerMemory>();
    const Scalars third = o.ScalarsOf({3, o.hyper()}, &resumed);
    EXPECT_EQ(resumed, whole) << name;
    EXPECT_NE(resumed, first) << name;
    EXPECT_EQ(third, o.ScalarsOf({3, o.hyper()}, &first)) << name;
  }
}

TEST(OptimizerTest, AllProblemsOfASpecificationAreReportedAtOnce) {
  const absl::Status status =
      Optimizer::Make("adam",
                      {{"lr", -1}, {"beta1", 1}, {"eps", NAN}, {"amsgrad", 0.5}, {"momentum", 0.9}})
          .status();
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  const std::vector<Violation> expected = {
      {"optimizer.adam.amsgrad", "got 0.5, expected 0 or 1"},
      {"optimizer.adam.beta1", "got 1, expected a number in [0, 1)"},
      {"optimizer.adam.eps", "got nan, expected a number of at least 0"},
      {"optimizer.adam.lr", "got -1, expected a number of at least 0"},
      {"optimizer.adam.momentum",
       "there is no such setting, only lr, beta1, beta2, eps, weight_decay, amsgrad, maximize"}};
  EXPECT_EQ(ViolationsOf(status), expected);
}

TEST(OptimizerTest, RefusesWhatPyTorchRefuses) {
  const std::vector<std::pair<std::string, Hyperparameters>> refused = {
      {"sgd", {{"momentum", -0.1}}},
      {"sgd", {{"nesterov", 1}}},
      {"sgd", {{"nesterov", 1}, {"momentum", 0.9}, {"dampening", 0.1}}},
      {"rprop", {{"etaminus", 1}}},
      {"rprop", {{"etaplus", 1}}},
      {"adadelta", {{"rho", 1.5}}},
      {"adamax", {{"beta2", -0.1}}},
      {"lbfgs", {}},
      {"", {}},
      {"SGD", {}},
  };
  for (const auto& [name, hyper] : refused) {
    const absl::Status status = Optimizer::Make(name, hyper).status();
    EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << name << ": " << status;
  }
  EXPECT_THAT(std::string(Optimizer::Make("adamn", {}).status().message()),
              HasSubstr("there is no \"adamn\", only sgd, adam, adamw"));
}

TEST(OptimizerTest, AGroupChangesOnlyWhatItNames) {
  const Optimizer adam = Value(Optimizer::Make("adam", {{"eps", 1e-4}}));
  const Optimizer group = Value(adam.With({{"lr", 0.5}}));
  EXPECT_EQ(group.hyper().at("lr"), 0.5);
  EXPECT_EQ(group.hyper().at("eps"), 1e-4);
  EXPECT_EQ(adam.hyper().at("lr"), 1e-3);
  EXPECT_TRUE(HasReason(adam.With({{"lr", -1}}).status(), Reason::kInvalidSpec));
}

TEST(OptimizerTest, AMovingMomentumIsRefusedWhereThereIsNone) {
  const Schedule cycle =
      Value(Schedule::Make({.name = "one_cycle", .numbers = {{"max_lr", 1}, {"total_steps", 9}}}));
  const absl::Status status = Value(Optimizer::Make("adagrad", {})).Under(cycle).status();
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("adagrad has neither"));
  EXPECT_EQ(Value(Value(Optimizer::Make("sgd", {})).Under(cycle)).slots().size(), 1u);
  EXPECT_EQ(Value(Value(Optimizer::Make("adam", {})).Under(cycle)).hyper().at("beta1"), 0.9);
}

}  // namespace
}  // namespace gradwire
