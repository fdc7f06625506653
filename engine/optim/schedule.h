// File: schedule.h
//
// Learning rates over steps: pure functions of the number of steps done, with the values that
// PyTorch's schedulers give when they are stepped once after every optimiser step.
//
//   GW_ASSIGN_OR_RETURN(Schedule s, Schedule::Make({.name = "step", .numbers = {{"step_size", 5},
//                                                                               {"gamma", 0.5}}}));
//   s.At(/*base lr=*/0.1, /*steps done=*/7).lr   // 0.05
//
// Sources: torch.optim.lr_scheduler; warmup_linear and warmup_cosine as in its LambdaLR examples:
// base * (s + 1) / warmup_steps, then base, or with total_steps down to 0 there.
// reduce_on_plateau is the one that remembers: Observe() tells it the losses.
//
// Errors: INVALID_SPEC, all of a specification's problems at once. Thread-safety: At() is const.
#ifndef GRADWIRE_ENGINE_OPTIM_SCHEDULE_H_
#define GRADWIRE_ENGINE_OPTIM_SCHEDULE_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"

namespace gradwire {

struct ScheduleSpec {
  std::string name = "constant";
  std::map<std::string, double> numbers = {};   // PyTorch's names; flags are 0 or 1
  std::map<std::string, std::string> words = {};  // mode, anneal_strategy, threshold_mode
  std::vector<double> milestones = {};
};

struct ScheduledRate {
  double lr = 0;
  std::optional<double> momentum;  // of cyclic and one_cycle: the optimiser's momentum, or beta1
};

struct ScheduleRow;

class Schedule {
 public:
  static absl::StatusOr<Schedule> Make(const ScheduleSpec& spec);
  ScheduledRate At(double base_lr, int64_t steps_done) const;

  // reduce_on_plateau only; others ignore it.
  void Observe(double loss);
  // What Observe() has led to, exactly: for checkpoints.
  const std::map<std::string, double>& memory() const { return memory_; }
  void set_memory(std::map<std::string, double> memory) { memory_ = std::move(memory); }

  // For rows.
  double number(const char* name) const { return spec_.numbers.at(name); }
  const std::string& word(const char* name) const { return spec_.words.at(name); }
  const ScheduleSpec& spec() const { return spec_; }

 private:
  const ScheduleRow* row_ = nullptr;
  ScheduleSpec spec_;  // with defaults
  std::map<std::string, double> memory_;
};

struct ScheduleNumber {
  const char* name;
  double fallback;  // NaN: required
  double min;
};
struct ScheduleWord {
  const char* name;
  std::vector<std::string> choices;  // the first is the default
};
struct ScheduleRow {
  const char* name;
  const char* doc;
  std::vector<ScheduleNumber> numbers;
  std::vector<ScheduleWord> words;
  ScheduledRate (*at)(const Schedule& s, double base_lr, double steps_done);
};
absl::Span<const ScheduleRow> AllSchedules();

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPTIM_SCHEDULE_H_
