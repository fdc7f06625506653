#include "engine/optim/training_step.h"

#include <map>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "engine/autodiff/autodiff.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

constexpr double kNormEpsilon = 1e-6;
constexpr char kLossAccumulator[] = "gradwire.accumulator_of_loss";

std::string AccumulatorName(const std::string& parameter) {
  return absl::StrCat("gradwire.accumulator.", parameter);
}

class StepBuilder {
 public:
  StepBuilder(const Graph& gradient, const Graph& graph, const TrainingSpec& spec,
              TrainingGraphs* out)
      : gradient_(gradient), spec_(spec), out_(*out), b_(gradient) {
    // A rewrite starts without updates; the model's own (running statistics) go on.
    for (const StateUpdate& update : graph.updates()) b_.Update(update.input, update.next);
    loss_ = gradient.FindOutput(spec.loss);
    for (const TrainedParameter& p : spec.parameters) {
      parameters_.push_back(gradient.FindInput(p.name));
      gradients_.push_back(gradient.FindOutput(GradientName(p.name)));
    }
  }

  absl::StatusOr<Graph> Accumulate() && {
    b_.Update(kLossAccumulator, Add(b_, LossAccumulator(), loss_));
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const std::string name = AccumulatorName(spec_.parameters[i].name);
      b_.Update(name, Add(b_, Accumulator(i), gradients_[i]));
    }
    b_.Output(spec_.loss, loss_);
    return std::move(b_).Build();
  }

  absl::StatusOr<Graph> Step() && {
    if (spec_.accumulation > 1) TakeAccumulated();
    b_.Output(spec_.loss, loss_);
    Clip();
    for (size_t i = 0; i < parameters_.size(); ++i) Update(i);
    return std::move(b_).Build();
  }

 private:
  ValueId Slot(const std::string& name, const TensorType& type, double initial) {
    const ValueId v = b_.Input(name, type, Stage::kParameter);
    for (const SlotTensor& slot : out_.slots) {
      if (slot.name == name) return v;
    }
    out_.slots.push_back({name, type, initial});
    return v;
  }
  ValueId LossAccumulator() { return Slot(kLossAccumulator, TensorType(b_.type(loss_)), 0); }
  ValueId Accumulator(size_t i) {
    return Slot(AccumulatorName(spec_.parameters[i].name), TensorType(b_.type(parameters_[i])), 0);
  }

  // Means of what was accumulated and of this batch; the accumulators start anew.
  void TakeAccumulated() {
    const double share = 1.0 / spec_.accumulation;
    const auto mean = [&](ValueId sum, ValueId last) {
      return Mul(b_, Add(b_, sum, last), b_.ScalarLike(last, share));
    };
    const ValueId losses = LossAccumulator();
    loss_ = mean(losses, loss_);
    b_.Update(kLossAccumulator, b_.Zeros(losses));
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const ValueId sum = Accumulator(i);
      gradients_[i] = mean(sum, gradients_[i]);
      b_.Update(AccumulatorName(spec_.parameters[i].name), b_.Zeros(sum));
    }
  }

  ValueId SumOfSquares(ValueId x) { return ReduceSum(b_, Mul(b_, x, x), {}); }

  // min(1, limit / (norm + epsilon)), NaN where the norm is.
  ValueId Shrink(ValueId norm) {
    const ValueId ratio =
        Div(b_, b_.ScalarLike(norm, spec_.clip.limit), Add(b_, norm, b_.ScalarLike(norm, kNormEpsilon)));
    return Min(b_, ratio, b_.ScalarLike(norm, 1));
  }

  void Clip() {
    ValueId sum = kNoValue;
    const DType dtype = b_.dtype(loss_);
    for (ValueId g : gradients_) {
      const ValueId one = Cast(b_, SumOfSquares(g), dtype);
      sum = sum == kNoValue ? one : Add(b_, sum, one);
    }
    const ValueId norm = Sqrt(b_, sum);
    b_.Output(kGradientNorm, norm);
    const ValueId all = spec_.clip.kind == Clipping::kGlobalNorm ? Shrink(norm) : kNoValue;
    for (ValueId& g : gradients_) {
      if (spec_.clip.kind == Clipping::kValue) {
        g = Max(b_, Min(b_, g, b_.ScalarLike(g, spec_.clip.limit)),
                b_.ScalarLike(g, -spec_.clip.limit));
      } else if (spec_.clip.kind == Clipping::kNorm) {
        g = Mul(b_, g, Shrink(Sqrt(b_, SumOfSquares(g))));
      } else if (spec_.clip.kind == Clipping::kGlobalNorm) {
        g = Mul(b_, g, Cast(b_, all, b_.dtype(g)));
      }
    }
  }

  ValueId Scalar(int group, const std::string& scalar, DType dtype) {
    const auto key = std::tuple(group, scalar, dtype);
    const auto known = scalars_.find(key);
    if (known != scalars_.end()) return known->second;
    const std::string name =
        absl::StrCat("gradwire.scalar.", group, ".", scalar, ".", DTypeName(dtype));
    out_.scalars.push_back({name, dtype, group, scalar});
    return scalars_[key] = b_.Input(name, {dtype, {}}, Stage::kPoint);
  }

  void Update(size_t i) {
    const TrainedParameter& p = spec_.parameters[i];
    const Optimizer& optimizer = spec_.groups[static_cast<size_t>(p.group)];
    const TensorType type = b_.type(parameters_[i]);
    UpdateContext u{.b = b_,
                    .hyper = optimizer.hyper(),
                    .parameter = parameters_[i],
                    .gradient = gradients_[i],
                    .slots = {},
                    .scalar = [&](const std::string& name) {
                      return Scalar(p.group, name, type.dtype);
                    }};
    const auto name_of = [&](const std::string& slot) {
      return absl::StrCat("gradwire.slot.", slot, ".", p.name);
    };
    for (const SlotDef& slot : optimizer.slots()) {
      u.slots[slot.name] = Slot(name_of(slot.name), type, slot.initial);
    }
    b_.Update(p.name, optimizer.Update(u));
    for (const auto& [slot, next] : u.slots) b_.Update(name_of(slot), next);
  }

  const Graph& gradient_;
  const TrainingSpec& spec_;
  TrainingGraphs& out_;
  GraphBuilder b_;
  ValueId loss_;
  std::vector<ValueId> parameters_;
  std::vector<ValueId> gradients_;
  std::map<std::tuple<int, std::string, DType>, ValueId> scalars_;
};

}  // namespace

absl::StatusOr<TrainingGraphs> BuildTrainingStep(const Graph& graph, const TrainingSpec& spec) {
  std::vector<std::string> wrt;
  for (const TrainedParameter& p : spec.parameters) wrt.push_back(p.name);
  GW_ASSIGN_OR_RETURN(const Graph gradient, Gradient(graph, spec.loss, wrt));
  TrainingGraphs out;
  if (spec.accumulation > 1) {
    GW_ASSIGN_OR_RETURN(out.accumulate, StepBuilder(gradient, graph, spec, &out).Accumulate());
  }
  GW_ASSIGN_OR_RETURN(out.step, StepBuilder(gradient, graph, spec, &out).Step());
  return out;
}

}  // namespace gradwire
