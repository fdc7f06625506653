// File: loss.h
//
// Losses by name, as rows of one table: nodes on top of a prediction and a target, with PyTorch's
// definitions and defaults, in forms that do not overflow.
//
//   LossSpec spec{.name = "softmax_cross_entropy", .settings = {{"label_smoothing", 0.1}}};
//   const ValueId loss = AddLoss(b, spec, scores, labels);   // rank 0; errors are sticky in b
//
// Targets of the prediction's shape may be of any number type or BOOL; they are converted. Labels
// are of any integer type; one outside [0, C) that is not ignore_index fails the Run. Derivatives
// are those of the nodes, by the prediction and by a floating target, with PyTorch's choices at
// kinks; docs of the rows say what is special.
//
// Errors, all at once: INVALID_SPEC (unknown loss or setting, a value out of range, a weight that
// has no place), SHAPE_MISMATCH, DTYPE_UNSUPPORTED. Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_LOSS_LOSS_H_
#define GRADWIRE_ENGINE_LOSS_LOSS_H_

#include <string>
#include <vector>

#include "engine/base/settings.h"
#include "engine/graph/builder.h"

namespace gradwire {

struct LossSpec {
  std::string name;
  Settings settings = {};  // PyTorch's names; flags are 0 or 1
  enum Reduction { kMean, kSum } reduction = kMean;
  // Class weights of softmax_cross_entropy and nll, pos_weight of bce_with_logits. Empty: none.
  Tensor weight = {};
};

// A loss while it is built.
struct LossContext {
  GraphBuilder& b;
  const Settings& settings;
  LossSpec::Reduction reduction;
  ValueId prediction;
  ValueId target;  // of the prediction's dtype, or labels of INT32 or INT64
  ValueId weight;  // of the prediction's dtype; kNoValue for none
};

// What prediction and target are to each other.
enum class LossTarget {
  kElements,               // of one shape
  kMoments,                // kElements, or the prediction's last dimension twice the target's
  kLabels,                 // [N, C, ...] and integers [N, ...], or [C] and []
  kLabelsOrProbabilities,  // kLabels, or both [N, C, ...]
};
enum class LossWeight { kNone, kOfClasses, kOfElements };

struct LossRow {
  const char* name;
  const char* doc;
  std::vector<SettingDef> settings = {};
  LossTarget target = LossTarget::kElements;
  LossWeight weight = LossWeight::kNone;
  ValueId (*build)(LossContext& c);
};
absl::Span<const LossRow> AllLosses();

// Name and settings only: what can be known without types.
absl::Status CheckLossSpec(const LossSpec& spec);
// What AddLoss would say of these types.
absl::Status CheckLoss(const LossSpec& spec, const TensorType& prediction,
                       const TensorType& target);
ValueId AddLoss(GraphBuilder& b, const LossSpec& spec, ValueId prediction, ValueId target);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_LOSS_LOSS_H_
