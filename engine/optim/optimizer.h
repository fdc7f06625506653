// File: optimizer.h
//
// Optimisers as rows of one table. A row says what hyperparameters there are (PyTorch's names and
// defaults), which slots (tensors like the parameter) it keeps, which numbers each step needs, and
// builds the update of one parameter as nodes, to be compiled with the gradient into one Program.
//
//   GW_ASSIGN_OR_RETURN(Optimizer adam, Optimizer::Make("adam", {{"lr", 1e-2}}));
//   OptimizerUpdate u = adam.Update(b, parameter, gradient, slots, scalars);
//   adam.Scalars(settings, &memory)   // each step, in double, as PyTorch computes them
//
// Numbers that change from step to step (the learning rate, bias corrections) are inputs of the
// Program, so no schedule compiles anything anew.
//
// Rules and defaults are those of PyTorch 2 (torch.optim, the single-tensor path): see the row.
// Errors: INVALID_SPEC, all of a specification's problems at once. Thread-safety: immutable.
#ifndef GRADWIRE_ENGINE_OPTIM_OPTIMIZER_H_
#define GRADWIRE_ENGINE_OPTIM_OPTIMIZER_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/graph/builder.h"

namespace gradwire {

using Hyperparameters = std::map<std::string, double>;  // flags are 0 or 1

struct HyperparameterDef {
  const char* name;
  double fallback;
  double min, max;  // legal values, both included
};

struct SlotDef {
  std::string name;
  double initial = 0;
};

// What the numbers of a step depend on.
struct StepNumbers {
  int64_t step = 1;  // this one, from 1
  Hyperparameters hyper;  // lr (and momentum, beta1) as scheduled
};
// What an optimiser remembers between steps that is no tensor: exact, to be kept in checkpoints.
using OptimizerMemory = std::map<std::string, double>;
using Scalars = std::map<std::string, double>;

// The update of one parameter while it is built.
class UpdateContext {
 public:
  GraphBuilder& b;
  const Hyperparameters& hyper;
  ValueId parameter;
  ValueId gradient;
  std::map<std::string, ValueId> slots;                     // in: the values; out: the next ones
  std::function<ValueId(const std::string& name)> scalar;   // a rank 0 input of the parameter's type
};

struct OptimizerRow {
  const char* name;
  const char* doc;
  std::vector<HyperparameterDef> hyper;
  std::vector<SlotDef> (*slots)(const Hyperparameters& h);
  void (*scalars)(const StepNumbers& n, OptimizerMemory* memory, Scalars* out);
  // Returns the parameter's next value, and sets the slots'.
  ValueId (*update)(UpdateContext& u);
};

absl::Span<const OptimizerRow> AllOptimizers();

class Optimizer {
 public:
  // Unknown names, values out of range or not finite: all at once.
  static absl::StatusOr<Optimizer> Make(const std::string& name, const Hyperparameters& given);

  const std::string& name() const { return name_; }
  const Hyperparameters& hyper() const { return hyper_; }
  // With other values of some: for a group of parameters.
  absl::StatusOr<Optimizer> With(const Hyperparameters& changes) const;
  std::vector<SlotDef> slots() const { return row_->slots(hyper_); }
  Scalars ScalarsOf(const StepNumbers& n, OptimizerMemory* memory) const;
  ValueId Update(UpdateContext& u) const { return row_->update(u); }

 private:
  const OptimizerRow* row_ = nullptr;
  std::string name_;
  Hyperparameters hyper_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPTIM_OPTIMIZER_H_
