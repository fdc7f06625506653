#include "engine/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kBelowOne = 1 - 1e-16;

constexpr HyperparameterDef Lr(double fallback) { return {"lr", fallback, 0, kInf}; }
constexpr HyperparameterDef kWeightDecay = {"weight_decay", 0, 0, kInf};
constexpr HyperparameterDef kBeta1 = {"beta1", 0.9, 0, kBelowOne};
constexpr HyperparameterDef kBeta2 = {"beta2", 0.999, 0, kBelowOne};
constexpr HyperparameterDef kEps = {"eps", 1e-8, 0, kInf};
constexpr HyperparameterDef Flag(const char* name) { return {name, 0, 0, 1}; }

double Get(const Hyperparameters& h, const char* name) { return h.at(name); }

// ---- Pieces of update rules. Scalars are named; `c` is one of this step's.

ValueId Scaled(UpdateContext& u, ValueId x, const char* c) { return Mul(u.b, x, u.scalar(c)); }

// The gradient with the penalty's: g + weight_decay * p.
ValueId Penalised(UpdateContext& u) {
  ValueId g = Get(u.hyper, "maximize") != 0 ? Neg(u.b, u.gradient) : u.gradient;
  if (Get(u.hyper, "weight_decay") == 0) return g;
  return Add(u.b, g, Scaled(u, u.parameter, "weight_decay"));
}

// p * (1 - lr * weight_decay), apart from the gradient.
ValueId Decayed(UpdateContext& u) {
  if (Get(u.hyper, "weight_decay") == 0) return u.parameter;
  return Scaled(u, u.parameter, "decay");
}

// average + (1 - beta) * (x - average)
ValueId Average(UpdateContext& u, const char* slot, ValueId x, const char* weight) {
  ValueId& average = u.slots[slot];
  return average = Add(u.b, average, Scaled(u, Sub(u.b, x, average), weight));
}

// beta * average + (1 - beta) * x^2
ValueId SquareAverage(UpdateContext& u, const char* slot, ValueId x, const char* beta,
                      const char* weight) {
  ValueId& average = u.slots[slot];
  return average =
             Add(u.b, Scaled(u, average, beta), Scaled(u, Mul(u.b, x, x), weight));
}

ValueId Descend(UpdateContext& u, ValueId parameter, ValueId direction, const char* rate) {
  return Sub(u.b, parameter, Scaled(u, direction, rate));
}

void CommonScalars(const StepNumbers& n, Scalars* out) {
  for (const auto& [name, value] : n.hyper) (*out)[name] = value;
  const auto decay = n.hyper.find("weight_decay");
  if (decay != n.hyper.end()) (*out)["decay"] = 1 - Get(n.hyper, "lr") * decay->second;
  for (const char* beta : {"beta1", "beta2", "alpha", "rho"}) {
    const auto found = n.hyper.find(beta);
    if (found != n.hyper.end()) (*out)[absl::StrCat("1-", beta)] = 1 - found->second;
  }
}

double Correction(const StepNumbers& n, const char* beta) {
  return 1 - std::pow(Get(n.hyper, beta), static_cast<double>(n.step));
}


// ---- SGD

std::vector<SlotDef> SgdSlots(const Hyperparameters& h) {
  if (Get(h, "momentum") == 0) return {};
  return {{"momentum_buffer"}};
}
void SgdScalars(const StepNumbers& n, OptimizerMemory*, Scalars* out) {
  // PyTorch's first buffer is the gradient itself, undamped.
  (*out)["undamped"] = n.step == 1 ? 1 : 1 - Get(n.hyper, "dampening");
}
ValueId SgdUpdate(UpdateContext& u) {
  ValueId g = Penalised(u);
  if (Get(u.hyper, "momentum") != 0) {
    ValueId& buffer = u.slots["momentum_buffer"];
    buffer = Add(u.b, Scaled(u, buffer, "momentum"), Scaled(u, g, "undamped"));
    g = Get(u.hyper, "nesterov") != 0 ? Add(u.b, g, Scaled(u, buffer, "momentum")) : buffer;
  }
  return Descend(u, u.parameter, g, "lr");
}

// ---- Adam and its kin

std::vector<SlotDef> Moments(const Hyperparameters&) { return {{"exp_avg"}, {"exp_avg_sq"}}; }
std::vector<SlotDef> AdamSlots(const Hyperparameters& h) {
  std::vector<SlotDef> out = Moments(h);
  if (Get(h, "amsgrad") != 0) out.push_back({"max_exp_avg_sq"});
  return out;
}
void AdamScalars(const StepNumbers& n, OptimizerMemory*, Scalars* out) {
  (*out)["step_size"] = Get(n.hyper, "lr") / Correction(n, "beta1");
  (*out)["bias2_sqrt"] = std::sqrt(Correction(n, "beta2"));
}
ValueId AdamStep(UpdateContext& u, ValueId parameter, ValueId g) {
  const ValueId average = Average(u, "exp_avg", g, "1-beta1");
  ValueId square = SquareAverage(u, "exp_avg_sq", g, "beta2", "1-beta2");
  if (Get(u.hyper, "amsgrad") != 0) {
    square = u.slots["max_exp_avg_sq"] = Max(u.b, u.slots["max_exp_avg_sq"], square);
  }
  const ValueId root = Div(u.b, Sqrt(u.b, square), u.scalar("bias2_sqrt"));
  return Descend(u, parameter, Div(u.b, average, Add(u.b, root, u.scalar("eps"))), "step_size");
}
ValueId AdamUpdate(UpdateContext& u) { return AdamStep(u, u.parameter, Penalised(u)); }
ValueId AdamWUpdate(UpdateContext& u) {
  const ValueId g = Get(u.hyper, "maximize") != 0 ? Neg(u.b, u.gradient) : u.gradient;
  return AdamStep(u, Decayed(u), g);
}

std::vector<SlotDef> AdamaxSlots(const Hyperparameters&) { return {{"exp_avg"}, {"exp_inf"}}; }
void AdamaxScalars(const StepNumbers& n, OptimizerMemory*, Scalars* out) {
  (*out)["step_size"] = Get(n.hyper, "lr") / Correction(n, "beta1");
}
ValueId AdamaxUpdate(UpdateContext& u) {
  const ValueId g = Penalised(u);
  const ValueId average = Average(u, "exp_avg", g, "1-beta1");
  ValueId& norm = u.slots["exp_inf"];
  norm = Max(u.b, Scaled(u, norm, "beta2"), Add(u.b, Abs(u.b, g), u.scalar("eps")));
  return Descend(u, u.parameter, Div(u.b, average, norm), "step_size");
}

// Decoupled or not, as NAdam and RAdam have it: the parameter and the gradient to go on with.
std::pair<ValueId, ValueId> DecayedEitherWay(UpdateContext& u) {
  if (Get(u.hyper, "decoupled_weight_decay") == 0) return {u.parameter, Penalised(u)};
  const ValueId g = Get(u.hyper, "maximize") != 0 ? Neg(u.b, u.gradient) : u.gradient;
  return {Decayed(u), g};
}

void NAdamScalars(const StepNumbers& n, OptimizerMemory* memory, Scalars* out) {
  const double lr = Get(n.hyper, "lr"), beta1 = Get(n.hyper, "beta1");
  const auto mu_at = [&](double step) {
    return beta1 * (1 - 0.5 * std::pow(0.96, step * Get(n.hyper, "momentum_decay")));
  };
  const double mu = mu_at(static_cast<double>(n.step));
  const double next = mu_at(static_cast<double>(n.step + 1));
  double& product = memory->emplace("mu_product", 1).first->second;
  product *= mu;
  (*out)["gradient_rate"] = lr * (1 - mu) / (1 - product);
  (*out)["average_rate"] = lr * next / (1 - product * next);
  (*out)["bias2"] = Correction(n, "beta2");
}
ValueId NAdamUpdate(UpdateContext& u) {
  const auto [parameter, g] = DecayedEitherWay(u);
  const ValueId average = Average(u, "exp_avg", g, "1-beta1");
  const ValueId square = SquareAverage(u, "exp_avg_sq", g, "beta2", "1-beta2");
  const ValueId root =
      Add(u.b, Sqrt(u.b, Div(u.b, square, u.scalar("bias2"))), u.scalar("eps"));
  const ValueId p = Descend(u, parameter, Div(u.b, g, root), "gradient_rate");
  return Descend(u, p, Div(u.b, average, root), "average_rate");
}

void RAdamScalars(const StepNumbers& n, OptimizerMemory*, Scalars* out) {
  const double beta2 = Get(n.hyper, "beta2"), bias2 = Correction(n, "beta2");
  const auto t = static_cast<double>(n.step);
  const double limit = 2 / (1 - beta2) - 1;
  const double rho = limit - 2 * t * std::pow(beta2, t) / bias2;
  const bool rectified = rho > 5;
  (*out)["bias1"] = Correction(n, "beta1");
  (*out)["rectified"] = rectified ? 1 : 0;
  (*out)["bias2_sqrt"] = std::sqrt(bias2);
  (*out)["rectifier"] = rectified ? std::sqrt((rho - 4) * (rho - 2) * limit /
                                              ((limit - 4) * (limit - 2) * rho))
                                  : 1;
}
ValueId RAdamUpdate(UpdateContext& u) {
  GraphBuilder& b = u.b;
  const auto [parameter, g] = DecayedEitherWay(u);
  const ValueId average = Div(b, Average(u, "exp_avg", g, "1-beta1"), u.scalar("bias1"));
  const ValueId square = SquareAverage(u, "exp_avg_sq", g, "beta2", "1-beta2");
  const ValueId adaptive =
      Div(b, u.scalar("bias2_sqrt"), Add(b, Sqrt(b, square), u.scalar("eps")));
  const ValueId rectified = Scaled(u, Mul(b, average, adaptive), "rectifier");
  const ValueId is_rectified = Greater(b, u.scalar("rectified"), b.ScalarLike(average, 0));
  return Descend(u, parameter, Where(b, is_rectified, rectified, average), "lr");
}

// ---- RMSprop, Adagrad, Adadelta

std::vector<SlotDef> RmspropSlots(const Hyperparameters& h) {
  std::vector<SlotDef> out = {{"square_avg"}};
  if (Get(h, "centered") != 0) out.push_back({"grad_avg"});
  if (Get(h, "momentum") != 0) out.push_back({"momentum_buffer"});
  return out;
}
void OnlyCommonScalars(const StepNumbers&, OptimizerMemory*, Scalars*) {}
ValueId RmspropUpdate(UpdateContext& u) {
  GraphBuilder& b = u.b;
  const ValueId g = Penalised(u);
  ValueId square = SquareAverage(u, "square_avg", g, "alpha", "1-alpha");
  if (Get(u.hyper, "centered") != 0) {
    const ValueId average = Average(u, "grad_avg", g, "1-alpha");
    square = Sub(b, square, Mul(b, average, average));
  }
  const ValueId direction = Div(b, g, Add(b, Sqrt(b, square), u.scalar("eps")));
  if (Get(u.hyper, "momentum") == 0) return Descend(u, u.parameter, direction, "lr");
  ValueId& buffer = u.slots["momentum_buffer"];
  buffer = Add(b, Scaled(u, buffer, "momentum"), direction);
  return Descend(u, u.parameter, buffer, "lr");
}

std::vector<SlotDef> AdagradSlots(const Hyperparameters& h) {
  return {{"sum", Get(h, "initial_accumulator_value")}};
}
void AdagradScalars(const StepNumbers& n, OptimizerMemory*, Scalars* out) {
  (*out)["rate"] =
      Get(n.hyper, "lr") / (1 + static_cast<double>(n.step - 1) * Get(n.hyper, "lr_decay"));
}
ValueId AdagradUpdate(UpdateContext& u) {
  const ValueId g = Penalised(u);
  ValueId& sum = u.slots["sum"];
  sum = Add(u.b, sum, Mul(u.b, g, g));
  return Descend(u, u.parameter, Div(u.b, g, Add(u.b, Sqrt(u.b, sum), u.scalar("eps"))), "rate");
}

std::vector<SlotDef> AdadeltaSlots(const Hyperparameters&) {
  return {{"square_avg"}, {"acc_delta"}};
}
ValueId AdadeltaUpdate(UpdateContext& u) {
  GraphBuilder& b = u.b;
  const ValueId g = Penalised(u);
  const ValueId square = SquareAverage(u, "square_avg", g, "rho", "1-rho");
  const ValueId root = Sqrt(b, Add(b, square, u.scalar("eps")));
  const ValueId before = Sqrt(b, Add(b, u.slots["acc_delta"], u.scalar("eps")));
  const ValueId delta = Mul(b, Div(b, before, root), g);
  SquareAverage(u, "acc_delta", delta, "rho", "1-rho");
  return Descend(u, u.parameter, delta, "lr");
}

// ---- Rprop, ASGD

std::vector<SlotDef> RpropSlots(const Hyperparameters&) { return {{"prev"}, {"step_size"}}; }
void RpropScalars(const StepNumbers& n, OptimizerMemory*, Scalars* out) {
  (*out)["first"] = n.step == 1 ? 1 : 0;
}
ValueId RpropUpdate(UpdateContext& u) {
  GraphBuilder& b = u.b;
  const ValueId zero = b.ScalarLike(u.parameter, 0), one = b.ScalarLike(u.parameter, 1);
  const ValueId g = Get(u.hyper, "maximize") != 0 ? Neg(b, u.gradient) : u.gradient;
  const ValueId agreement = Mul(b, g, u.slots["prev"]);
  const ValueId turned = Less(b, agreement, zero);
  const ValueId factor = Where(b, Greater(b, agreement, zero), u.scalar("etaplus"),
                               Where(b, turned, u.scalar("etaminus"), one));
  // The first step's sizes are the learning rate as it is then.
  const ValueId size =
      Where(b, Greater(b, u.scalar("first"), zero), u.scalar("lr"), u.slots["step_size"]);
  u.slots["step_size"] = Min(b, Max(b, Mul(b, size, factor), u.scalar("step_size_min")),
                             u.scalar("step_size_max"));
  u.slots["prev"] = Where(b, turned, zero, g);
  return Sub(b, u.parameter, Mul(b, Sign(b, u.slots["prev"]), u.slots["step_size"]));
}

std::vector<SlotDef> AsgdSlots(const Hyperparameters&) { return {{"ax"}}; }
void AsgdScalars(const StepNumbers& n, OptimizerMemory* memory, Scalars* out) {
  const double lr = Get(n.hyper, "lr"), lambd = Get(n.hyper, "lambd");
  const auto t = static_cast<double>(n.step);
  double& eta = memory->emplace("eta", lr).first->second;
  double& mu = memory->emplace("mu", 1).first->second;
  (*out)["eta"] = eta;
  (*out)["shrink"] = 1 - lambd * eta;
  (*out)["mu"] = mu;
  eta = lr / std::pow(1 + lambd * lr * t, Get(n.hyper, "alpha"));
  mu = 1 / std::max(1.0, t - Get(n.hyper, "t0"));
}
ValueId AsgdUpdate(UpdateContext& u) {
  const ValueId g = Penalised(u);
  const ValueId p = Descend(u, Scaled(u, u.parameter, "shrink"), g, "eta");
  ValueId& average = u.slots["ax"];
  average = Add(u.b, average, Scaled(u, Sub(u.b, p, average), "mu"));
  return p;
}

const std::vector<OptimizerRow>& Table() {
  static const auto& rows = *new std::vector<OptimizerRow>{
      {"sgd",
       "Stochastic gradient descent, with momentum (torch.optim.SGD).",
       {Lr(1e-3), {"momentum", 0, 0, kInf}, {"dampening", 0, -kInf, kInf}, kWeightDecay,
        Flag("nesterov"), Flag("maximize")},
       SgdSlots, SgdScalars, SgdUpdate},
      {"adam",
       "Adaptive moments (torch.optim.Adam).",
       {Lr(1e-3), kBeta1, kBeta2, kEps, kWeightDecay, Flag("amsgrad"), Flag("maximize")},
       AdamSlots, AdamScalars, AdamUpdate},
      {"adamw",
       "Adam with weight decay apart from the gradient (torch.optim.AdamW).",
       {Lr(1e-3), kBeta1, kBeta2, kEps, {"weight_decay", 1e-2, 0, kInf}, Flag("amsgrad"),
        Flag("maximize")},
       AdamSlots, AdamScalars, AdamWUpdate},
      {"adamax",
       "Adam by the infinity norm (torch.optim.Adamax).",
       {Lr(2e-3), kBeta1, kBeta2, kEps, kWeightDecay, Flag("maximize")},
       AdamaxSlots, AdamaxScalars, AdamaxUpdate},
      {"nadam",
       "Adam with Nesterov momentum (torch.optim.NAdam).",
       {Lr(2e-3), kBeta1, kBeta2, kEps, kWeightDecay, {"momentum_decay", 4e-3, 0, kInf},
        Flag("decoupled_weight_decay"), Flag("maximize")},
       Moments, NAdamScalars, NAdamUpdate},
      {"radam",
       "Rectified Adam (torch.optim.RAdam).",
       {Lr(1e-3), kBeta1, kBeta2, kEps, kWeightDecay, Flag("decoupled_weight_decay"),
        Flag("maximize")},
       Moments, RAdamScalars, RAdamUpdate},
      {"rmsprop",
       "Gradients divided by their running root mean square (torch.optim.RMSprop).",
       {Lr(1e-2), {"alpha", 0.99, 0, 1}, kEps, kWeightDecay, {"momentum", 0, 0, kInf},
        Flag("centered"), Flag("maximize")},
       RmspropSlots, OnlyCommonScalars, RmspropUpdate},
      {"adagrad",
       "Gradients divided by the root of their sum of squares (torch.optim.Adagrad).",
       {Lr(1e-2), {"lr_decay", 0, 0, kInf}, kWeightDecay,
        {"initial_accumulator_value", 0, 0, kInf}, {"eps", 1e-10, 0, kInf}, Flag("maximize")},
       AdagradSlots, AdagradScalars, AdagradUpdate},
      {"adadelta",
       "Steps in proportion to the steps before (torch.optim.Adadelta).",
       {Lr(1), {"rho", 0.9, 0, 1}, {"eps", 1e-6, 0, kInf}, kWeightDecay, Flag("maximize")},
       AdadeltaSlots, OnlyCommonScalars, AdadeltaUpdate},
      {"rprop",
       "Steps by the signs of gradients alone (torch.optim.Rprop).",
       {Lr(1e-2), {"etaminus", 0.5, 1e-300, kBelowOne}, {"etaplus", 1.2, 1 + 1e-15, kInf},
        {"step_size_min", 1e-6, 0, kInf}, {"step_size_max", 50, 0, kInf}, Flag("maximize")},
       RpropSlots, RpropScalars, RpropUpdate},
      {"asgd",
       "Averaged stochastic gradient descent (torch.optim.ASGD); the average is the slot ax.",
       {Lr(1e-2), {"lambd", 1e-4, 0, kInf}, {"alpha", 0.75, -kInf, kInf}, {"t0", 1e6, 0, kInf},
        kWeightDecay, Flag("maximize")},
       AsgdSlots, AsgdScalars, AsgdUpdate},
  };
  return rows;
}

void Check(const OptimizerRow& row, const Hyperparameters& given, Hyperparameters* hyper,
           Problems* problems) {
  for (const auto& [name, value] : given) {
    const auto def = std::find_if(row.hyper.begin(), row.hyper.end(),
                                  [&](const HyperparameterDef& d) { return name == d.name; });
    const std::string where = absl::StrCat("optimizer.", row.name, ".", name);
    if (def == row.hyper.end()) {
      std::vector<std::string> names;
      for (const HyperparameterDef& d : row.hyper) names.push_back(d.name);
      problems->Add(Reason::kInvalidSpec, where,
                    absl::StrCat("there is none; it has ", absl::StrJoin(names, ", ")));
    } else if (!std::isfinite(value) || value < def->min || value > def->max) {
      problems->Add(Reason::kInvalidSpec, where,
                    absl::StrCat("got ", value, ", expected ", def->min, " to ", def->max));
    } else {
      (*hyper)[name] = value;
    }
  }
  const auto is = [&](const char* name) { return hyper->count(name) > 0 && hyper->at(name) != 0; };
  if (is("nesterov") && (!is("momentum") || is("dampening"))) {
    problems->Add(Reason::kInvalidSpec, "optimizer.sgd.nesterov",
                  "needs a momentum above 0 and no dampening");
  }
}

}  // namespace

absl::Span<const OptimizerRow> AllOptimizers() { return Table(); }

absl::StatusOr<Optimizer> Optimizer::Make(const std::string& name, const Hyperparameters& given) {
  Optimizer out;
  std::vector<std::string> names;
  for (const OptimizerRow& row : Table()) {
    names.push_back(row.name);
    if (name == row.name) out.row_ = &row;
  }
  if (out.row_ == nullptr) {
    return Error(Reason::kInvalidSpec, absl::StrCat("optimizer: there is no \"", name,
                                                    "\", but ", absl::StrJoin(names, ", ")));
  }
  out.name_ = name;
  for (const HyperparameterDef& d : out.row_->hyper) out.hyper_[d.name] = d.fallback;
  Problems problems;
  Check(*out.row_, given, &out.hyper_, &problems);
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

absl::StatusOr<Optimizer> Optimizer::With(const Hyperparameters& changes) const {
  Optimizer out = *this;
  Problems problems;
  Check(*row_, changes, &out.hyper_, &problems);
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

Scalars Optimizer::ScalarsOf(const StepNumbers& n, OptimizerMemory* memory) const {
  Scalars out;
  CommonScalars(n, &out);
  row_->scalars(n, memory, &out);
  return out;
}

}  // namespace gradwire
