// File: with_loss.h
//
// A loss on top of a model, as a model: everything that is done with a model is then done with the
// two together.
//
//   LossOnModel loss{.named = {.name = "mse"}, .prediction = "y"};
//   GW_ASSIGN_OR_RETURN(Model both, WithLoss(model, loss));   // its only output: kLossOutput
//
// A named loss reads the value `prediction` and the value kTargetInput, which becomes an input
// where the model has no value of that name.
//
// A loss that is itself a model has one output. Its inputs are the model's values of the same
// names; those that the model does not have become inputs. Its initialisers are constants: nothing
// is trained by default that the model does not have. Its other names are its own.
//
// Errors: UNKNOWN_OUTPUT; INVALID_SPEC for a loss or setting that there is none of, for a loss
// model without exactly one output, and for one whose If, Loop or Scan reads values around it.
// What does not fit together in type or shape is found when the result is specialized, and told of
// the node 'loss "mse"'. Cost: a copy of the model's lists, not of its tensors. Thread-safety: pure
// functions.
#ifndef GRADWIRE_ENGINE_LOSS_WITH_LOSS_H_
#define GRADWIRE_ENGINE_LOSS_WITH_LOSS_H_

#include <string>

#include "engine/graph/model.h"
#include "engine/loss/loss.h"

namespace gradwire {

inline constexpr char kLossOutput[] = "gradwire.loss";
inline constexpr char kTargetInput[] = "target";

struct LossOnModel {
  LossSpec named = {};           // without a name: `graph`
  const Model* graph = nullptr;  // alive during the call
  std::string prediction = {};   // of a named loss; empty: the model's only output
};

absl::StatusOr<Model> WithLoss(const Model& model, const LossOnModel& loss);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_LOSS_WITH_LOSS_H_
