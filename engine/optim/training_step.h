// File: training_step.h
//
// One step of training as a Graph: forward, loss, backward, clipping, weight decay and update. The
// parameters, the optimiser's slots and whatever state the model has of its own (running
// statistics) are inputs that the Program updates at its end, all of them or none.
//
//   TrainingSpec spec{.loss = "loss", .parameters = {{"w"}, {"b"}}, .groups = {adam}};
//   GW_ASSIGN_OR_RETURN(TrainingGraphs g, BuildTrainingStep(graph, spec));
//   // Inputs of g.step: those of `graph`, and g.slots and g.scalars. For each step, write the
//   // numbers of Optimizer::ScalarsOf (of each group, converted to the input's dtype) and run it.
//
// With accumulation K > 1 a step is K runs of g.accumulate, one a batch, and one of g.step, whose
// inputs are then the parameters, the slots and the scalars only. Loss and gradient are the means
// over the K batches. Who gives up after a part of the K runs sets the accumulators (the slots that
// g.accumulate has) to their initial value, 0.
//
// Outputs of g.step: the loss before the update, and kGradientNorm. Of g.accumulate: the loss.
//
// Clipping is that of torch.nn.utils (clip_grad_value_, clip_grad_norm_): by value, or gradients
// times min(1, limit / (norm + 1e-6)), of each tensor's norm or of the norm of all. Norms are
// accumulated in the parameters' dtype, the wider one where there are two.
//
// Errors, all at once: UNKNOWN_OUTPUT, NOT_SCALAR, NOT_DIFFERENTIABLE of the loss; UNKNOWN_WRT of
// parameters; INVALID_SPEC of the rest. Cost: linear in nodes. Thread-safety: pure function.
#ifndef GRADWIRE_ENGINE_OPTIM_TRAINING_STEP_H_
#define GRADWIRE_ENGINE_OPTIM_TRAINING_STEP_H_

#include <optional>
#include <string>
#include <vector>

#include "engine/graph/graph.h"
#include "engine/optim/optimizer.h"

namespace gradwire {

// Output: the 2-norm of the whole gradient, before clipping.
inline constexpr char kGradientNorm[] = "gradwire.grad_norm";

struct Clipping {
  enum Kind { kNone, kValue, kNorm, kGlobalNorm } kind = kNone;
  double limit = 0;
};

struct TrainedParameter {
  std::string name;  // a floating input of the graph
  int group = 0;     // index into TrainingSpec::groups
};

struct TrainingSpec {
  std::string loss;                          // a floating output of one element
  std::vector<TrainedParameter> parameters;  // what is not among them is frozen
  std::vector<Optimizer> groups;
  Clipping clip = {};
  int accumulation = 1;
};

// A tensor that is kept beside the parameters: an input, and a state, of the Graphs.
struct SlotTensor {
  std::string name;  // "gradwire.slot.exp_avg.w", "gradwire.accumulator.w"
  TensorType type;
  double initial = 0;
};

// A rank 0 input that takes one of the optimiser's numbers before each step.
struct ScalarInput {
  std::string name;  // of the input: "gradwire.scalar.0.lr.FLOAT"
  DType dtype;
  int group;
  std::string scalar;  // of Optimizer::ScalarsOf: "lr"
};

struct TrainingGraphs {
  Graph step;
  std::optional<Graph> accumulate;  // where accumulation > 1
  std::vector<SlotTensor> slots;
  std::vector<ScalarInput> scalars;
};

absl::StatusOr<TrainingGraphs> BuildTrainingStep(const Graph& graph, const TrainingSpec& spec);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPTIM_TRAINING_STEP_H_
