// File: optimizer.h
//
// Optimisers as rows of one table. A row says which hyperparameters there are (PyTorch's names,
// defaults and legal values), which slots (tensors like the parameter) it keeps, which numbers each
// step needs, and builds the update of one parameter as nodes, so that it is compiled with the
// gradient into one Program. A new optimiser is one entry in optimizer.cc.
//
//   GW_ASSIGN_OR_RETURN(Optimizer adam, Optimizer::Make("adam", {{"lr", 1e-2}, {"amsgrad", 1}}));
//   GW_ASSIGN_OR_RETURN(adam, adam.Under(schedule));   // where there is a schedule
//   ... engine/optim/training_step.h builds the step of it; then, for each step from 1:
//   Hyperparameters now = adam.HyperAt(schedule.At(adam.hyper().at("lr"), step - 1));
//   Scalars scalars = adam.ScalarsOf({step, now}, &memory);
//
// What changes from step to step (learning rate, bias corrections) is computed by the host in
// double, as PyTorch does, and enters the Program as rank 0 inputs: no schedule compiles anything
// anew. Flags (nesterov, amsgrad, centered) and whether there is a momentum or a weight decay
// choose nodes and slots.
//
// Formulas: torch.optim of PyTorch 2, the single-tensor path (not capturable, not fused);
// torch 1.13 differs in NAdam, whose second product of momenta it takes wrongly. Errors:
// INVALID_SPEC, all of a specification's problems at once. Thread-safety: immutable.
#ifndef GRADWIRE_ENGINE_OPTIM_OPTIMIZER_H_
#define GRADWIRE_ENGINE_OPTIM_OPTIMIZER_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/base/settings.h"
#include "engine/graph/builder.h"
#include "engine/optim/schedule.h"

namespace gradwire {

using Hyperparameters = Settings;

// A tensor of the parameter's type that is kept from step to step; named as in PyTorch's
// state_dict.
struct SlotDef {
  std::string name;
  double initial = 0;
};

struct StepNumbers {
  int64_t step = 1;       // this one, from 1
  Hyperparameters hyper;  // as scheduled
};
// What an optimiser remembers between steps that is no tensor: finite numbers, to be kept exactly
// in checkpoints. Empty at the start.
using OptimizerMemory = std::map<std::string, double>;
using Scalars = std::map<std::string, double>;

// The update of one parameter while it is built.
struct UpdateContext {
  GraphBuilder& b;
  const Hyperparameters& hyper;
  ValueId parameter;
  ValueId gradient;
  std::map<std::string, ValueId> slots;  // in: the values; out: the next ones
  // The rank 0 input, of the parameter's element type, that takes the scalar of this name.
  std::function<ValueId(const std::string& name)> scalar;
};

struct OptimizerRow {
  const char* name;
  const char* doc;
  std::vector<SettingDef> hyper;
  std::vector<SlotDef> (*slots)(const Hyperparameters& h);
  // Adds to what every row has: each hyperparameter x by its name, and "1-x". Null: nothing.
  void (*scalars)(const StepNumbers& n, OptimizerMemory* memory, Scalars* out) = nullptr;
  // Returns the parameter's next value, and sets the slots'.
  ValueId (*update)(UpdateContext& u);
  // What no single hyperparameter shows; null where there is nothing.
  void (*check)(const Hyperparameters& h, Problems* problems) = nullptr;
};

absl::Span<const OptimizerRow> AllOptimizers();

class Optimizer {
 public:
  static absl::StatusOr<Optimizer> Make(absl::string_view name, const Hyperparameters& given);
  // With other values of some: for a group of parameters.
  absl::StatusOr<Optimizer> With(const Hyperparameters& changes) const;
  // As `schedule` needs it: a momentum that moves has its slots. INVALID_SPEC where the schedule
  // moves a momentum and this optimiser has none.
  absl::StatusOr<Optimizer> Under(const Schedule& schedule) const;

  const char* name() const { return row_->name; }
  const Hyperparameters& hyper() const { return hyper_; }
  // The hyperparameters with what a schedule says: the learning rate, and momentum or beta1.
  Hyperparameters HyperAt(const ScheduledRate& rate) const;

  std::vector<SlotDef> slots() const { return row_->slots(hyper_); }
  // The scalars of a step. `memory` moves on to the next step: a step that fails needs the old one.
  Scalars ScalarsOf(const StepNumbers& n, OptimizerMemory* memory) const;
  ValueId Update(UpdateContext& u) const { return row_->update(u); }

 private:
  const OptimizerRow* row_ = nullptr;
  Hyperparameters hyper_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPTIM_OPTIMIZER_H_
