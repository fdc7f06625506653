#include "engine/optim/training_step.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/autodiff/autodiff.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

constexpr double kNormEpsilon = 1e-6;  // of torch.nn.utils.clip_grad_norm_
constexpr char kLossAccumulator[] = "gradwire.loss_accumulator";

std::string AccumulatorName(const std::string& parameter) {
  return absl::StrCat("gradwire.accumulator.", parameter);
}

// ---- What a specification must be

void CheckLoss(const Graph& graph, const std::string& loss, Problems* problems) {
  const ValueId v = graph.FindOutput(loss);
  if (v == kNoValue) {
    problems->Add(Reason::kUnknownOutput, "loss",
                  absl::StrCat("there is no output \"", loss, "\""));
    return;
  }
  const TensorType& type = graph.type(v);
  if (type.shape.num_elements() != 1) {
    problems->Add(Reason::kNotScalar, "loss",
                  absl::StrCat("\"", loss, "\" is ", type.ToString(), ", expected one element"));
  } else if (!IsFloating(type.dtype)) {
    problems->Add(
        Reason::kNotDifferentiable, "loss",
        absl::StrCat("\"", loss, "\" is ", type.ToString(), ", expected FLOAT or DOUBLE"));
  }
}

void CheckParameters(const Graph& graph, const TrainingSpec& spec, Problems* problems) {
  absl::flat_hash_set<absl::string_view> seen, updated;
  for (const StateUpdate& u : graph.updates()) updated.insert(u.input);
  for (const TrainedParameter& p : spec.parameters) {
    const auto refuse = [&](Reason reason, std::string what) {
      problems->Add(reason, absl::StrCat("parameters.", p.name), std::move(what));
    };
    const ValueId v = graph.FindInput(p.name);
    if (v == kNoValue) {
      refuse(Reason::kUnknownWrt, "the graph has no such input");
    } else if (!IsFloating(graph.type(v).dtype)) {
      refuse(Reason::kNotDifferentiable,
             absl::StrCat("is ", graph.type(v).ToString(), ", expected FLOAT or DOUBLE"));
    }
    if (!seen.insert(p.name).second) refuse(Reason::kInvalidSpec, "is there twice");
    if (updated.contains(p.name)) {
      refuse(Reason::kInvalidSpec, "is updated by the model itself and cannot be trained");
    }
    if (p.group < 0 || p.group >= static_cast<int>(spec.groups.size())) {
      refuse(Reason::kInvalidSpec, absl::StrCat("group ", p.group, " of ", spec.groups.size()));
    }
  }
}

absl::Status Check(const Graph& graph, const TrainingSpec& spec) {
  Problems problems;
  CheckLoss(graph, spec.loss, &problems);
  CheckParameters(graph, spec, &problems);
  if (spec.parameters.empty()) {
    problems.Add(Reason::kInvalidSpec, "parameters", "there is nothing to train");
  }
  if (spec.clip.kind != Clipping::kNone && !kPositive.Holds(spec.clip.limit)) {
    problems.Add(Reason::kInvalidSpec, "clip",
                 absl::StrCat("got ", spec.clip.limit, ", expected ", kPositive.ToString()));
  }
  if (spec.accumulation < 1) {
    problems.Add(Reason::kInvalidSpec, "accumulation",
                 absl::StrCat("got ", spec.accumulation, ", expected at least 1"));
  }
  return problems.ToStatus();
}

// ---- Gradients

// A place to make a step from: parameters in the order of the specification.
struct Position {
  ValueId loss = kNoValue;
  std::vector<ValueId> parameters;
  std::vector<ValueId> gradients;
};

// `graph`, which `b` continues, with the gradient of share * loss, and its own updates.
Position Differentiate(GraphBuilder& b, const Graph& graph, const TrainingSpec& spec,
                       double share) {
  Position at;
  at.loss = graph.FindOutput(spec.loss);
  for (const TrainedParameter& p : spec.parameters) {
    at.parameters.push_back(graph.FindInput(p.name));
  }
  const ValueId cotangent = b.Full(TensorType(b.type(at.loss)), share);
  at.gradients = Cotangents(b, {at.loss}, {cotangent}, at.parameters);
  for (size_t i = 0; i < at.gradients.size(); ++i) {
    if (at.gradients[i] == kNoValue) at.gradients[i] = b.Zeros(at.parameters[i]);
  }
  for (const StateUpdate& u : graph.updates()) b.Update(u.input, u.next);
  return at;
}

ValueId SlotInput(GraphBuilder& b, const SlotTensor& slot) {
  return b.Input(slot.name, slot.type, Stage::kParameter);
}

// The sums that K > 1 batches go into: the loss first, then the parameters.
std::vector<SlotTensor> Accumulators(const Graph& graph, const TrainingSpec& spec) {
  std::vector<SlotTensor> out = {{kLossAccumulator, graph.type(graph.FindOutput(spec.loss))}};
  for (const TrainedParameter& p : spec.parameters) {
    out.push_back({AccumulatorName(p.name), graph.type(graph.FindInput(p.name))});
  }
  return out;
}

absl::StatusOr<Graph> BuildAccumulate(const Graph& graph, const TrainingSpec& spec,
                                      absl::Span<const SlotTensor> accumulators) {
  GraphBuilder b(graph);
  const double count = spec.accumulation;
  const Position at = Differentiate(b, graph, spec, 1 / count);
  std::vector<ValueId> terms = {Div(b, at.loss, b.ScalarLike(at.loss, count))};
  terms.insert(terms.end(), at.gradients.begin(), at.gradients.end());
  for (size_t i = 0; i < terms.size() && b.ok(); ++i) {
    b.Update(accumulators[i].name, Add(b, SlotInput(b, accumulators[i]), terms[i]));
  }
  b.Output(spec.loss, at.loss);
  return std::move(b).Build();
}

// The position that the accumulators hold; they begin anew.
Position TakeAccumulated(GraphBuilder& b, const Graph& graph, const TrainingSpec& spec,
                         absl::Span<const SlotTensor> accumulators) {
  Position at;
  for (const TrainedParameter& p : spec.parameters) {
    at.parameters.push_back(
        b.Input(p.name, graph.type(graph.FindInput(p.name)), Stage::kParameter));
  }
  std::vector<ValueId> sums;
  for (const SlotTensor& accumulator : accumulators) {
    sums.push_back(SlotInput(b, accumulator));
    b.Update(accumulator.name, b.Zeros(sums.back()));
  }
  at.loss = sums[0];
  at.gradients.assign(sums.begin() + 1, sums.end());
  return at;
}

// ---- The rest of a step

class StepBuilder {
 public:
  StepBuilder(GraphBuilder& b, const TrainingSpec& spec, Position at, TrainingGraphs* out)
      : b_(b), spec_(spec), at_(std::move(at)), out_(*out) {}

  absl::StatusOr<Graph> Build() {
    b_.Output(spec_.loss, at_.loss);
    Clip();
    for (size_t i = 0; i < at_.parameters.size() && b_.ok(); ++i) Update(i);
    return std::move(b_).Build();
  }

 private:
  ValueId SumOfSquares(ValueId x) { return ReduceSum(b_, Mul(b_, x, x), {}); }

  // min(1, limit / (norm + epsilon)), NaN where the norm is.
  ValueId ShrinkFactor(ValueId norm) {
    const ValueId ratio = Div(b_, b_.ScalarLike(norm, spec_.clip.limit),
                              Add(b_, norm, b_.ScalarLike(norm, kNormEpsilon)));
    return Min(b_, ratio, b_.ScalarLike(norm, 1));
  }

  void Clip() {
    const bool wide = std::any_of(at_.gradients.begin(), at_.gradients.end(),
                                  [&](ValueId g) { return b_.dtype(g) == DType::kDouble; });
    const DType dtype = wide ? DType::kDouble : DType::kFloat;
    ValueId sum = b_.Scalar(dtype, 0);
    for (ValueId g : at_.gradients) sum = Add(b_, sum, Cast(b_, SumOfSquares(g), dtype));
    const ValueId norm = Sqrt(b_, sum);
    b_.Output(kGradientNorm, norm);
    for (ValueId& g : at_.gradients) g = Clipped(g, norm);
  }

  ValueId Clipped(ValueId g, ValueId norm) {
    switch (spec_.clip.kind) {
      case Clipping::kNone:
        return g;
      case Clipping::kValue:
        return Min(b_, Max(b_, g, b_.ScalarLike(g, -spec_.clip.limit)),
                   b_.ScalarLike(g, spec_.clip.limit));
      case Clipping::kNorm:
        return Mul(b_, g, ShrinkFactor(Sqrt(b_, SumOfSquares(g))));
      case Clipping::kGlobalNorm:
        return Mul(b_, g, Cast(b_, ShrinkFactor(norm), b_.dtype(g)));
    }
    return g;
  }

  ValueId Scalar(int group, const std::string& scalar, DType dtype) {
    const auto [known, is_new] = scalars_.try_emplace({group, scalar, dtype}, kNoValue);
    if (is_new) {
      const std::string name =
          absl::StrCat("gradwire.scalar.", group, ".", scalar, ".", DTypeName(dtype));
      out_.scalars.push_back({name, dtype, group, scalar});
      known->second = b_.Input(name, {dtype, {}}, Stage::kPoint);
    }
    return known->second;
  }

  void Update(size_t i) {
    const TrainedParameter& p = spec_.parameters[i];
    const Optimizer& optimizer = spec_.groups[static_cast<size_t>(p.group)];
    const TensorType type = b_.type(at_.parameters[i]);
    const auto scalar = [&](const std::string& name) { return Scalar(p.group, name, type.dtype); };
    UpdateContext u{b_, optimizer.hyper(), at_.parameters[i], at_.gradients[i], {}, scalar};
    const auto name_of = [&](const std::string& slot) {
      return absl::StrCat("gradwire.slot.", slot, ".", p.name);
    };
    for (const SlotDef& slot : optimizer.slots()) {
      out_.slots.push_back({name_of(slot.name), type, slot.initial});
      u.slots[slot.name] = SlotInput(b_, out_.slots.back());
    }
    b_.Update(p.name, optimizer.Update(u));
    for (const auto& [slot, next] : u.slots) b_.Update(name_of(slot), next);
  }

  GraphBuilder& b_;
  const TrainingSpec& spec_;
  Position at_;
  TrainingGraphs& out_;
  std::map<std::tuple<int, std::string, DType>, ValueId> scalars_;
};

}  // namespace

absl::StatusOr<TrainingGraphs> BuildTrainingStep(const Graph& graph, const TrainingSpec& spec) {
  GW_RETURN_IF_ERROR(Check(graph, spec));
  TrainingGraphs out;
  if (spec.accumulation > 1) {
    out.slots = Accumulators(graph, spec);
    const std::vector<SlotTensor> accumulators = out.slots;
    GW_ASSIGN_OR_RETURN(out.accumulate, BuildAccumulate(graph, spec, accumulators));
    GraphBuilder b;
    Position at = TakeAccumulated(b, graph, spec, accumulators);
    GW_ASSIGN_OR_RETURN(out.step, StepBuilder(b, spec, std::move(at), &out).Build());
  } else {
    GraphBuilder b(graph);
    Position at = Differentiate(b, graph, spec, 1);
    GW_ASSIGN_OR_RETURN(out.step, StepBuilder(b, spec, std::move(at), &out).Build());
  }
  return out;
}

}  // namespace gradwire
