// File: schedule.h
//
// Learning rates over steps: pure functions of the number of steps done, with the values that
// PyTorch's schedulers give when they are stepped once after every optimiser step.
//
//   GW_ASSIGN_OR_RETURN(Schedule s, Schedule::Make({.name = "step",
//                                                   .numbers = {{"step_size", 5}, {"gamma",
//                                                   0.5}}}));
//   s.At(/*base_lr=*/0.1, /*steps_done=*/7).lr   // 0.05
//
// reduce_on_plateau is the one that remembers: Observe() tells it the losses. memory() is all that
// it knows, finite numbers by name, for checkpoints.
//
// Sources: torch.optim.lr_scheduler (the closed forms where it has them, which equal the chained
// ones but for rounding; tests compare with the chained). warmup_linear and warmup_cosine are the
// LambdaLR of base * (s + 1) / warmup_steps, then base or, with total_steps, down to 0 there.
//
// Errors: INVALID_SPEC, all of a specification's problems at once. Cost: a few arithmetic
// operations. Thread-safety: At() is const; Observe() changes the object.
#ifndef GRADWIRE_ENGINE_OPTIM_SCHEDULE_H_
#define GRADWIRE_ENGINE_OPTIM_SCHEDULE_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/settings.h"

namespace gradwire {

struct ScheduleSpec {
  std::string name = "constant";
  Settings numbers = {};                          // PyTorch's names in lower case
  std::map<std::string, std::string> words = {};  // mode, anneal_strategy, threshold_mode
  std::vector<int64_t> milestones = {};           // of multi_step
};

struct ScheduledRate {
  double lr = 0;
  // Of cyclic and one_cycle: the optimiser's momentum, or beta1 where it has that.
  std::optional<double> momentum = std::nullopt;
};

struct ScheduleRow;

class Schedule {
 public:
  Schedule();  // constant
  static absl::StatusOr<Schedule> Make(const ScheduleSpec& spec);

  // The rate of the step that follows `steps_done` steps. cyclic and one_cycle have rates of their
  // own and do not look at base_lr. After its total_steps one_cycle stays where it has ended.
  ScheduledRate At(double base_lr, int64_t steps_done) const;

  // One more loss (or metric) for reduce_on_plateau, which takes one that is not finite for no
  // better; other schedules ignore it.
  void Observe(double loss);
  const Settings& memory() const { return memory_; }
  void set_memory(Settings memory) { memory_ = std::move(memory); }

  // With defaults filled in.
  const ScheduleSpec& spec() const { return spec_; }
  double number(const char* name) const { return spec_.numbers.at(name); }
  const std::string& word(const char* name) const { return spec_.words.at(name); }

 private:
  const ScheduleRow* row_ = nullptr;
  ScheduleSpec spec_;
  Settings memory_;
};

struct ScheduleWord {
  const char* name;
  std::vector<std::string> choices;  // the first is the default
};

struct ScheduleRow {
  const char* name;
  const char* doc;
  std::vector<SettingDef> numbers;
  std::vector<ScheduleWord> words = {};
  bool has_milestones = false;
  ScheduledRate (*at)(const Schedule& s, double base_lr, double steps_done);
  // What no single number shows; its own numbers are legal by then. Null where there is nothing.
  void (*check)(const Schedule& s, absl::string_view where, Problems* problems) = nullptr;
  void (*observe)(const Schedule& s, double loss, Settings* memory) = nullptr;
};
absl::Span<const ScheduleRow> AllSchedules();

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPTIM_SCHEDULE_H_
