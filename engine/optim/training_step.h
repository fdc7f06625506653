// File: training_step.h
//
// One step of training as a Graph: forward, loss, backward, clipping and update, with the parameters
// and the optimiser's slots as state that changes at its end, or not at all.
//
//   TrainingSpec spec{.loss = "loss", .parameters = {{"w", 0}}, .groups = {adam}};
//   GW_ASSIGN_OR_RETURN(TrainingGraphs g, BuildTrainingStep(graph, spec));
//   // g.step: inputs of `graph`, g.slots, g.scalars; outputs loss and kGradientNorm
//
// With accumulation K > 1, K - 1 runs of g.accumulate and one of g.step make a step: the gradient
// and the loss are the means over the K batches.
//
// Clipping is that of torch.nn.utils: by value, or gradients times min(1, limit / (norm + 1e-6)).
// Errors: those of Gradient. Thread-safety: pure function.
#ifndef GRADWIRE_ENGINE_OPTIM_TRAINING_STEP_H_
#define GRADWIRE_ENGINE_OPTIM_TRAINING_STEP_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/graph/graph.h"
#include "engine/optim/optimizer.h"

namespace gradwire {

// Output: the 2-norm of the whole gradient, before clipping.
inline constexpr char kGradientNorm[] = "gradwire.gradient_norm";

struct Clipping {
  enum Kind { kNone, kValue, kNorm, kGlobalNorm } kind = kNone;
  double limit = 0;
};

struct TrainedParameter {
  std::string name;  // an input of the graph
  int group = 0;
};

struct TrainingSpec {
  std::string loss;  // a scalar output of the graph
  std::vector<TrainedParameter> parameters;
  std::vector<Optimizer> groups;
  Clipping clip;
  int accumulation = 1;
};

// A tensor that the step keeps beside the parameters: an input and a state of the Graphs.
struct SlotTensor {
  std::string name;  // "gradwire.slot.exp_avg.w"
  TensorType type;
  double initial = 0;
};

// A rank 0 input that takes a number of the optimiser's before each step.
struct ScalarInput {
  std::string name;  // of the input
  DType dtype;
  int group;
  std::string scalar;  // as in Optimizer::ScalarsOf
};

struct TrainingGraphs {
  Graph step;
  std::optional<Graph> accumulate;
  std::vector<SlotTensor> slots;
  std::vector<ScalarInput> scalars;
};

absl::StatusOr<TrainingGraphs> BuildTrainingStep(const Graph& graph, const TrainingSpec& spec);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPTIM_TRAINING_STEP_H_
