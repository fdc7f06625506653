#include "engine/optim/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/unit/optim/training_run.h"

namespace gradwire {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr double kBase = 0.1;
constexpr double kTolerance = 1e-12;

ScheduleSpec SpecOf(const json& c) {
  return {.name = c["name"].get<std::string>(),
          .numbers = c["numbers"].get<Settings>(),
          .words = c["words"].get<std::map<std::string, std::string>>(),
          .milestones = c["milestones"].get<std::vector<int64_t>>()};
}

// Relative, down to what is left of a cancellation in rates that end at 0.
void ExpectRate(double got, double want, const std::string& where) {
  ASSERT_NEAR(got, want, kTolerance * std::abs(want) + 1e-17) << where;
}

TEST(ScheduleTest, RatesEqualThoseOfPyTorchSteppedAfterEachStep) {
  const auto observed = Golden()["observed"].get<std::vector<double>>();
  for (const json& c : Golden()["schedules"]) {
    Schedule schedule = Value(Schedule::Make(SpecOf(c)));
    for (size_t t = 0; t < observed.size(); ++t) {
      const std::string where = absl::StrCat(c["name"].get<std::string>(), " ", c["numbers"].dump(),
                                             ", ", t, " steps done");
      const ScheduledRate rate = schedule.At(kBase, static_cast<int64_t>(t));
      ExpectRate(rate.lr, c["lr"][t].get<double>(), where);
      ASSERT_EQ(rate.momentum.has_value(), c.contains("momentum")) << where;
      if (rate.momentum) ExpectRate(*rate.momentum, c["momentum"][t].get<double>(), where);
      schedule.Observe(observed[t]);
    }
  }
}

TEST(ScheduleTest, EveryRowHasGoldenRates) {
  std::set<std::string> covered;
  for (const json& c : Golden()["schedules"]) covered.insert(c["name"].get<std::string>());
  for (const ScheduleRow& row : AllSchedules()) {
    EXPECT_TRUE(covered.contains(row.name)) << row.name;
    EXPECT_NE(std::string(row.doc), "") << row.name;
  }
}

TEST(ScheduleTest, WithoutASpecificationTheRateStays) {
  for (const Schedule& schedule : {Schedule(), Value(Schedule::Make({}))}) {
    for (int64_t steps : {0, 1, 1'000'000}) EXPECT_EQ(schedule.At(kBase, steps).lr, kBase);
  }
}

TEST(ScheduleTest, RatesFarAlongAreFiniteAndQuick) {
  for (const json& c : Golden()["schedules"]) {
    const Schedule schedule = Value(Schedule::Make(SpecOf(c)));
    const double lr = schedule.At(kBase, int64_t{1} << 52).lr;
    EXPECT_TRUE(std::isfinite(lr) && lr >= 0) << c["name"] << ": " << lr;
  }
}

TEST(ScheduleTest, OneCycleStaysWhereItHasEnded) {
  const Schedule schedule =
      Value(Schedule::Make({.name = "one_cycle", .numbers = {{"max_lr", 1}, {"total_steps", 10}}}));
  EXPECT_EQ(schedule.At(kBase, 10).lr, schedule.At(kBase, 9).lr);
  EXPECT_EQ(schedule.At(kBase, 1000).momentum, schedule.At(kBase, 9).momentum);
  for (double share : {0.0, 1.0}) {
    const Schedule single = Value(
        Schedule::Make({.name = "one_cycle",
                        .numbers = {{"max_lr", 1}, {"total_steps", 1}, {"pct_start", share}}}));
    EXPECT_TRUE(std::isfinite(single.At(kBase, 0).lr));
  }
}

TEST(ScheduleTest, PlateauResumesFromItsMemory) {
  const ScheduleSpec spec = {.name = "reduce_on_plateau",
                             .numbers = {{"patience", 1}, {"cooldown", 2}, {"factor", 0.5}}};
  Schedule whole = Value(Schedule::Make(spec)), resumed = Value(Schedule::Make(spec));
  for (int t = 0; t < 30; ++t) {
    const double loss = 1.0 / (1 + t % 7);
    whole.Observe(loss);
    // A Schedule of its own each time, from what JSON keeps of the memory.
    Schedule next = Value(Schedule::Make(spec));
    next.set_memory(json::parse(json(resumed.memory()).dump()).get<Settings>());
    next.Observe(loss);
    resumed = next;
    ASSERT_EQ(resumed.memory(), whole.memory()) << t;
    ASSERT_EQ(resumed.At(kBase, t).lr, whole.At(kBase, t).lr) << t;
  }
  EXPECT_LT(whole.At(kBase, 30).lr, kBase / 2);
}

TEST(ScheduleTest, PlateauTakesALossThatIsNotFiniteForNoBetter) {
  Schedule schedule = Value(Schedule::Make(
      {.name = "reduce_on_plateau", .numbers = {{"patience", 0}}, .words = {{"mode", "max"}}}));
  for (const double loss : std::vector<double>{NAN, INFINITY, 1}) schedule.Observe(loss);
  EXPECT_EQ(schedule.memory().at("best"), 1);
  EXPECT_EQ(schedule.memory().at("reductions"), 2);
}

TEST(ScheduleTest, AllProblemsOfASpecificationAreReportedAtOnce) {
  const absl::Status status =
      Schedule::Make(
          {.name = "cyclic",
           .numbers = {{"max_lr", -1}, {"step_size_up", 2.5}, {"steps", 3}, {"base_momentum", 1}},
           .words = {{"mode", "square"}, {"kind", "x"}},
           .milestones = {4}})
          .status();
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  std::vector<std::string> places;
  for (const Violation& v : ViolationsOf(status)) places.push_back(v.where);
  EXPECT_EQ(places,
            (std::vector<std::string>{"schedule.cyclic.base_lr", "schedule.cyclic.base_momentum",
                                      "schedule.cyclic.max_lr", "schedule.cyclic.step_size_up",
                                      "schedule.cyclic.steps", "schedule.cyclic.kind",
                                      "schedule.cyclic.mode", "schedule.cyclic.milestones"}));
}

TEST(ScheduleTest, RefusesWhatHasNoMeaning) {
  const std::vector<ScheduleSpec> refused = {
      {.name = "step"},
      {.name = "step", .numbers = {{"step_size", 0}}},
      {.name = "multi_step"},
      {.name = "multi_step", .milestones = {3, -1}},
      {.name = "exponential", .numbers = {{"gamma", INFINITY}}},
      {.name = "linear", .numbers = {{"start_factor", 0}}},
      {.name = "warmup_linear", .numbers = {{"warmup_steps", 5}, {"total_steps", 5}}},
      {.name = "one_cycle", .numbers = {{"max_lr", 1}, {"total_steps", 5}, {"pct_start", 1.1}}},
      {.name = "reduce_on_plateau", .numbers = {{"factor", 1}}},
      {.name = ""},
  };
  for (const ScheduleSpec& spec : refused) {
    EXPECT_TRUE(HasReason(Schedule::Make(spec).status(), Reason::kInvalidSpec)) << spec.name;
  }
  EXPECT_THAT(std::string(Schedule::Make({.name = "cosines"}).status().message()),
              HasSubstr("there is no \"cosines\", only constant, step, multi_step"));
}

}  // namespace
}  // namespace gradwire
