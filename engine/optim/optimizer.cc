#include "engine/optim/optimizer.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_join.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

constexpr SettingDef Lr(double fallback) { return {"lr", fallback, kNonNegative}; }
constexpr SettingDef Eps(double fallback) { return {"eps", fallback, kNonNegative}; }
constexpr SettingDef Decay(double fallback) { return {"weight_decay", fallback, kNonNegative}; }
constexpr SettingDef Flag(const char* name) { return {name, 0, kFlag}; }
constexpr SettingDef kBeta1 = {"beta1", 0.9, kBelowOne};
constexpr SettingDef kBeta2 = {"beta2", 0.999, kBelowOne};
constexpr SettingDef kMomentum = {"momentum", 0, kNonNegative};
constexpr SettingDef kMaximize = Flag("maximize");

bool Has(const Hyperparameters& h, const char* name) { return h.at(name) != 0; }

// ---- Pieces of update rules. Scalars go by their names.

ValueId Scaled(UpdateContext& u, ValueId x, const char* scalar) {
  return Mul(u.b, x, u.scalar(scalar));
}

// What is followed downhill.
ValueId Slope(UpdateContext& u) {
  return Has(u.hyper, "maximize") ? Neg(u.b, u.gradient) : u.gradient;
}

// The same with the slope of the penalty weight_decay / 2 * |p|^2.
ValueId PenalisedSlope(UpdateContext& u) {
  const ValueId g = Slope(u);
  return Has(u.hyper, "weight_decay") ? Add(u.b, g, Scaled(u, u.parameter, "weight_decay")) : g;
}

// The parameter after the decay that goes by the learning rate alone.
ValueId DecayedParameter(UpdateContext& u) {
  return Has(u.hyper, "weight_decay") ? Scaled(u, u.parameter, "kept") : u.parameter;
}
void KeptScalar(const StepNumbers& n, Scalars* out) {
  (*out)["kept"] = 1 - n.hyper.at("lr") * n.hyper.at("weight_decay");
}

// slot + weight * (x - slot), the slot's next value.
ValueId MoveTowards(UpdateContext& u, const char* slot, ValueId x, const char* weight) {
  ValueId& average = u.slots[slot];
  return average = Add(u.b, average, Scaled(u, Sub(u.b, x, average), weight));
}

// keep * slot + weight * x^2, the slot's next value.
ValueId MixSquare(UpdateContext& u, const char* slot, ValueId x, const char* keep,
                  const char* weight) {
  ValueId& average = u.slots[slot];
  return average = Add(u.b, Scaled(u, average, keep), Mul(u.b, Scaled(u, x, weight), x));
}

ValueId Step(UpdateContext& u, ValueId parameter, ValueId direction, const char* rate) {
  return Sub(u.b, parameter, Scaled(u, direction, rate));
}

// parameter - rate * x / y, in PyTorch's order of operations.
ValueId StepByQuotient(UpdateContext& u, ValueId parameter, ValueId x, ValueId y,
                       const char* rate) {
  return Sub(u.b, parameter, Div(u.b, Scaled(u, x, rate), y));
}

ValueId RootPlusEps(UpdateContext& u, ValueId x) { return Add(u.b, Sqrt(u.b, x), u.scalar("eps")); }

double BiasCorrection(const StepNumbers& n, const char* beta) {
  return 1 - std::pow(n.hyper.at(beta), static_cast<double>(n.step));
}

std::vector<SlotDef> TwoMoments(const Hyperparameters&) { return {{"exp_avg"}, {"exp_avg_sq"}}; }

// ---- The rows

const OptimizerRow kSgd = {
    .name = "sgd",
    .doc = "Stochastic gradient descent, with momentum where it is not 0 (torch.optim.SGD).",
    .hyper =
        {Lr(1e-3), kMomentum, {"dampening", 0, kAnyNumber}, Decay(0), Flag("nesterov"), kMaximize},
    .slots = [](const Hyperparameters& h) -> std::vector<SlotDef> {
      if (!Has(h, "momentum")) return {};
      return {{"momentum_buffer"}};
    },
    .scalars =
        [](const StepNumbers& n, OptimizerMemory*, Scalars* out) {
          // The first buffer is the gradient itself, whatever the dampening.
          (*out)["gain"] = n.step == 1 ? 1 : 1 - n.hyper.at("dampening");
        },
    .update =
        [](UpdateContext& u) {
          ValueId g = PenalisedSlope(u);
          if (Has(u.hyper, "momentum")) {
            ValueId& buffer = u.slots["momentum_buffer"];
            buffer = Add(u.b, Scaled(u, buffer, "momentum"), Scaled(u, g, "gain"));
            g = Has(u.hyper, "nesterov") ? Add(u.b, g, Scaled(u, buffer, "momentum")) : buffer;
          }
          return Step(u, u.parameter, g, "lr");
        },
    .check =
        [](const Hyperparameters& h, Problems* problems) {
          if (!Has(h, "nesterov") || (Has(h, "momentum") && !Has(h, "dampening"))) return;
          problems->Add(Reason::kInvalidSpec, "optimizer.sgd.nesterov",
                        "needs a momentum above 0 and a dampening of 0");
        },
};

// Adam and AdamW: they differ in what the weight decay does.
std::vector<SlotDef> AdamSlots(const Hyperparameters& h) {
  std::vector<SlotDef> out = TwoMoments(h);
  if (Has(h, "amsgrad")) out.push_back({"max_exp_avg_sq"});
  return out;
}
void AdamScalars(const StepNumbers& n, OptimizerMemory*, Scalars* out) {
  KeptScalar(n, out);
  (*out)["step_size"] = n.hyper.at("lr") / BiasCorrection(n, "beta1");
  (*out)["bias2_root"] = std::sqrt(BiasCorrection(n, "beta2"));
}
ValueId AdamStep(UpdateContext& u, ValueId parameter, ValueId g) {
  const ValueId average = MoveTowards(u, "exp_avg", g, "1-beta1");
  ValueId square = MixSquare(u, "exp_avg_sq", g, "beta2", "1-beta2");
  if (Has(u.hyper, "amsgrad")) {
    ValueId& largest = u.slots["max_exp_avg_sq"];
    square = largest = Max(u.b, largest, square);
  }
  const ValueId root = Div(u.b, Sqrt(u.b, square), u.scalar("bias2_root"));
  return StepByQuotient(u, parameter, average, Add(u.b, root, u.scalar("eps")), "step_size");
}

const OptimizerRow kAdam = {
    .name = "adam",
    .doc = "Adaptive moments (torch.optim.Adam).",
    .hyper = {Lr(1e-3), kBeta1, kBeta2, Eps(1e-8), Decay(0), Flag("amsgrad"), kMaximize},
    .slots = AdamSlots,
    .scalars = AdamScalars,
    .update = [](UpdateContext& u) { return AdamStep(u, u.parameter, PenalisedSlope(u)); },
};

const OptimizerRow kAdamW = {
    .name = "adamw",
    .doc = "Adam whose weight decay goes by the learning rate alone (torch.optim.AdamW).",
    .hyper = {Lr(1e-3), kBeta1, kBeta2, Eps(1e-8), Decay(1e-2), Flag("amsgrad"), kMaximize},
    .slots = AdamSlots,
    .scalars = AdamScalars,
    .update = [](UpdateContext& u) { return AdamStep(u, DecayedParameter(u), Slope(u)); },
};

const OptimizerRow kAdamax = {
    .name = "adamax",
    .doc = "Adam by the infinity norm (torch.optim.Adamax).",
    .hyper = {Lr(2e-3), kBeta1, kBeta2, Eps(1e-8), Decay(0), kMaximize},
    .slots = [](const Hyperparameters&) -> std::vector<SlotDef> {
      return {{"exp_avg"}, {"exp_inf"}};
    },
    .scalars =
        [](const StepNumbers& n, OptimizerMemory*, Scalars* out) {
          (*out)["step_size"] = n.hyper.at("lr") / BiasCorrection(n, "beta1");
        },
    .update =
        [](UpdateContext& u) {
          const ValueId g = PenalisedSlope(u);
          const ValueId average = MoveTowards(u, "exp_avg", g, "1-beta1");
          ValueId& norm = u.slots["exp_inf"];
          norm = Max(u.b, Scaled(u, norm, "beta2"), Add(u.b, Abs(u.b, g), u.scalar("eps")));
          return StepByQuotient(u, u.parameter, average, norm, "step_size");
        },
};

// NAdam and RAdam have weight decay of either kind: the parameter and the slope to go on with.
struct Point {
  ValueId parameter, slope;
};
Point Decayed(UpdateContext& u) {
  if (Has(u.hyper, "decoupled_weight_decay")) return {DecayedParameter(u), Slope(u)};
  return {u.parameter, PenalisedSlope(u)};
}

const OptimizerRow kNAdam = {
    .name = "nadam",
    .doc = "Adam with Nesterov's momentum (torch.optim.NAdam).",
    .hyper = {Lr(2e-3),
              kBeta1,
              kBeta2,
              Eps(1e-8),
              Decay(0),
              {"momentum_decay", 4e-3, kNonNegative},
              Flag("decoupled_weight_decay"),
              kMaximize},
    .slots = TwoMoments,
    .scalars =
        [](const StepNumbers& n, OptimizerMemory* memory, Scalars* out) {
          const auto mu_at = [&](int64_t step) {
            return n.hyper.at("beta1") *
                   (1 -
                    0.5 * std::pow(0.96, static_cast<double>(step) * n.hyper.at("momentum_decay")));
          };
          const double lr = n.hyper.at("lr"), mu = mu_at(n.step), next = mu_at(n.step + 1);
          double& product = memory->emplace("mu_product", 1).first->second;
          product *= mu;
          KeptScalar(n, out);
          (*out)["slope_rate"] = lr * (1 - mu) / (1 - product);
          (*out)["average_rate"] = lr * next / (1 - product * next);
          (*out)["bias2"] = BiasCorrection(n, "beta2");
        },
    .update =
        [](UpdateContext& u) {
          const Point at = Decayed(u);
          const ValueId average = MoveTowards(u, "exp_avg", at.slope, "1-beta1");
          const ValueId square = MixSquare(u, "exp_avg_sq", at.slope, "beta2", "1-beta2");
          const ValueId root = RootPlusEps(u, Div(u.b, square, u.scalar("bias2")));
          const ValueId p = StepByQuotient(u, at.parameter, at.slope, root, "slope_rate");
          return StepByQuotient(u, p, average, root, "average_rate");
        },
};

const OptimizerRow kRAdam = {
    .name = "radam",
    .doc = "Adam that adapts only once its variance is known well enough (torch.optim.RAdam).",
    .hyper = {Lr(1e-3), kBeta1, kBeta2, Eps(1e-8), Decay(0), Flag("decoupled_weight_decay"),
              kMaximize},
    .slots = TwoMoments,
    .scalars =
        [](const StepNumbers& n, OptimizerMemory*, Scalars* out) {
          const double beta2 = n.hyper.at("beta2"), bias2 = BiasCorrection(n, "beta2");
          const auto t = static_cast<double>(n.step);
          const double limit = 2 / (1 - beta2) - 1;
          const double rho = limit - 2 * t * std::pow(beta2, t) / bias2;
          const bool adaptive = rho > 5;
          const double ratio = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho);
          KeptScalar(n, out);
          (*out)["bias1"] = BiasCorrection(n, "beta1");
          (*out)["bias2_root"] = std::sqrt(bias2);
          (*out)["adaptive"] = adaptive ? 1 : 0;
          (*out)["rectifier"] = adaptive ? std::sqrt(ratio) : 1;
        },
    .update =
        [](UpdateContext& u) {
          GraphBuilder& b = u.b;
          const Point at = Decayed(u);
          const ValueId average = MoveTowards(u, "exp_avg", at.slope, "1-beta1");
          const ValueId square = MixSquare(u, "exp_avg_sq", at.slope, "beta2", "1-beta2");
          const ValueId direction = Scaled(u, Div(b, average, u.scalar("bias1")), "lr");
          const ValueId rate =
              Scaled(u, Div(b, u.scalar("bias2_root"), RootPlusEps(u, square)), "rectifier");
          const ValueId adaptive = Greater(b, u.scalar("adaptive"), b.ScalarLike(square, 0));
          const ValueId factor = Where(b, adaptive, rate, b.ScalarLike(square, 1));
          return Sub(b, at.parameter, Mul(b, direction, factor));
        },
};

const OptimizerRow kRmsprop = {
    .name = "rmsprop",
    .doc = "Slopes over their running root mean square (torch.optim.RMSprop).",
    .hyper = {Lr(1e-2),
              {"alpha", 0.99, kNonNegative},
              Eps(1e-8),
              Decay(0),
              kMomentum,
              Flag("centered"),
              kMaximize},
    .slots =
        [](const Hyperparameters& h) {
          std::vector<SlotDef> out = {{"square_avg"}};
          if (Has(h, "momentum")) out.push_back({"momentum_buffer"});
          if (Has(h, "centered")) out.push_back({"grad_avg"});
          return out;
        },
    .update =
        [](UpdateContext& u) {
          const ValueId g = PenalisedSlope(u);
          ValueId square = MixSquare(u, "square_avg", g, "alpha", "1-alpha");
          if (Has(u.hyper, "centered")) {
            const ValueId average = MoveTowards(u, "grad_avg", g, "1-alpha");
            square = Sub(u.b, square, Mul(u.b, average, average));
          }
          const ValueId root = RootPlusEps(u, square);
          if (!Has(u.hyper, "momentum")) return StepByQuotient(u, u.parameter, g, root, "lr");
          ValueId& buffer = u.slots["momentum_buffer"];
          buffer = Add(u.b, Scaled(u, buffer, "momentum"), Div(u.b, g, root));
          return Step(u, u.parameter, buffer, "lr");
        },
};

const OptimizerRow kAdagrad = {
    .name = "adagrad",
    .doc = "Slopes over the root of the sum of their squares (torch.optim.Adagrad).",
    .hyper = {Lr(1e-2),
              {"lr_decay", 0, kNonNegative},
              Decay(0),
              {"initial_accumulator_value", 0, kNonNegative},
              Eps(1e-10),
              kMaximize},
    .slots = [](const Hyperparameters& h) -> std::vector<SlotDef> {
      return {{"sum", h.at("initial_accumulator_value")}};
    },
    .scalars =
        [](const StepNumbers& n, OptimizerMemory*, Scalars* out) {
          const double decay = 1 + static_cast<double>(n.step - 1) * n.hyper.at("lr_decay");
          (*out)["rate"] = n.hyper.at("lr") / decay;
        },
    .update =
        [](UpdateContext& u) {
          const ValueId g = PenalisedSlope(u);
          ValueId& sum = u.slots["sum"];
          sum = Add(u.b, sum, Mul(u.b, g, g));
          return StepByQuotient(u, u.parameter, g, RootPlusEps(u, sum), "rate");
        },
};

const OptimizerRow kAdadelta = {
    .name = "adadelta",
    .doc = "Steps in proportion to the steps before (torch.optim.Adadelta).",
    .hyper = {Lr(1), {"rho", 0.9, kUpToOne}, Eps(1e-6), Decay(0), kMaximize},
    .slots = [](const Hyperparameters&) -> std::vector<SlotDef> {
      return {{"square_avg"}, {"acc_delta"}};
    },
    .update =
        [](UpdateContext& u) {
          const auto root = [&](ValueId x) { return Sqrt(u.b, Add(u.b, x, u.scalar("eps"))); };
          const ValueId g = PenalisedSlope(u);
          const ValueId square = MixSquare(u, "square_avg", g, "rho", "1-rho");
          const ValueId delta = Mul(u.b, Div(u.b, root(u.slots["acc_delta"]), root(square)), g);
          MixSquare(u, "acc_delta", delta, "rho", "1-rho");
          return Step(u, u.parameter, delta, "lr");
        },
};

// PyTorch's pairs are two settings each: etas = (etaminus, etaplus), step_sizes = (min, max).
const OptimizerRow kRprop = {
    .name = "rprop",
    .doc = "Steps by the signs of the slopes alone (torch.optim.Rprop).",
    .hyper = {Lr(1e-2),
              {"etaminus", 0.5, {.min = 0, .max = 1, .open_min = true, .open_max = true}},
              {"etaplus", 1.2, {.min = 1, .open_min = true}},
              {"step_size_min", 1e-6, kNonNegative},
              {"step_size_max", 50, kNonNegative},
              kMaximize},
    .slots = [](const Hyperparameters&) -> std::vector<SlotDef> {
      return {{"prev"}, {"step_size"}};
    },
    .scalars = [](const StepNumbers& n, OptimizerMemory*,
                  Scalars* out) { (*out)["first"] = n.step == 1 ? 1 : 0; },
    .update =
        [](UpdateContext& u) {
          GraphBuilder& b = u.b;
          const ValueId zero = b.ScalarLike(u.parameter, 0), one = b.ScalarLike(u.parameter, 1);
          const ValueId g = Slope(u);
          const ValueId agreement = Mul(b, g, u.slots["prev"]);
          const ValueId turned = Less(b, agreement, zero);
          const ValueId factor = Where(b, Greater(b, agreement, zero), u.scalar("etaplus"),
                                       Where(b, turned, u.scalar("etaminus"), one));
          // Step sizes begin at the learning rate of the first step.
          ValueId& size = u.slots["step_size"];
          size =
              Mul(b, Where(b, Greater(b, u.scalar("first"), zero), u.scalar("lr"), size), factor);
          size = Min(b, Max(b, size, u.scalar("step_size_min")), u.scalar("step_size_max"));
          ValueId& previous = u.slots["prev"];
          previous = Where(b, turned, zero, g);
          return Sub(b, u.parameter, Mul(b, Sign(b, previous), size));
        },
};

const OptimizerRow kAsgd = {
    .name = "asgd",
    .doc = "Averaged stochastic gradient descent; the average is the slot ax (torch.optim.ASGD).",
    .hyper = {Lr(1e-2),
              {"lambd", 1e-4, kNonNegative},
              {"alpha", 0.75, kNonNegative},
              {"t0", 1e6, kAnyNumber},
              Decay(0),
              kMaximize},
    .slots = [](const Hyperparameters&) -> std::vector<SlotDef> { return {{"ax"}}; },
    .scalars =
        [](const StepNumbers& n, OptimizerMemory* memory, Scalars* out) {
          const double lr = n.hyper.at("lr"), lambd = n.hyper.at("lambd");
          const auto t = static_cast<double>(n.step);
          double& eta = memory->emplace("eta", lr).first->second;
          double& mu = memory->emplace("mu", 1).first->second;
          (*out)["eta"] = eta;
          (*out)["kept"] = 1 - lambd * eta;
          (*out)["mu"] = mu;
          (*out)["1-mu"] = 1 - mu;
          // As in PyTorch, a learning rate works one step late.
          eta = lr / std::pow(1 + lambd * lr * t, n.hyper.at("alpha"));
          mu = 1 / std::max(1.0, t - n.hyper.at("t0"));
        },
    .update =
        [](UpdateContext& u) {
          const ValueId g = PenalisedSlope(u);
          const ValueId p = Step(u, Scaled(u, u.parameter, "kept"), g, "eta");
          ValueId& average = u.slots["ax"];
          average = Add(u.b, Scaled(u, average, "1-mu"), Scaled(u, p, "mu"));
          return p;
        },
};

std::string Where(const OptimizerRow& row) { return absl::StrCat("optimizer.", row.name); }

}  // namespace

absl::Span<const OptimizerRow> AllOptimizers() {
  static const auto& rows = *new std::vector<OptimizerRow>{
      kSgd, kAdam, kAdamW, kAdamax, kNAdam, kRAdam, kRmsprop, kAdagrad, kAdadelta, kRprop, kAsgd};
  return rows;
}

absl::StatusOr<Optimizer> Optimizer::Make(absl::string_view name, const Hyperparameters& given) {
  const auto rows = AllOptimizers();
  Optimizer out;
  out.row_ = std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return name == r.name; });
  if (out.row_ == rows.end()) {
    const auto add_name = [](std::string* text, const auto& row) { text->append(row.name); };
    return Error(Reason::kInvalidSpec, absl::StrCat("optimizer: there is no \"", name, "\", only ",
                                                    absl::StrJoin(rows, ", ", add_name)));
  }
  return out.With(given);
}

absl::StatusOr<Optimizer> Optimizer::With(const Hyperparameters& changes) const {
  Hyperparameters given = hyper_;
  for (const auto& [name, value] : changes) given[name] = value;
  Optimizer out = *this;
  Problems problems;
  out.hyper_ = Complete(row_->hyper, given, Where(*row_), &problems);
  if (row_->check != nullptr) row_->check(out.hyper_, &problems);
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

absl::StatusOr<Optimizer> Optimizer::Under(const Schedule& schedule) const {
  const std::optional<double> momentum = schedule.At(0, 0).momentum;
  if (!momentum.has_value() || hyper_.count("beta1") > 0) return *this;
  if (hyper_.count("momentum") == 0) {
    return Error(Reason::kInvalidSpec,
                 absl::StrCat("schedule.", schedule.spec().name, ".cycle_momentum: ", name(),
                              " has neither momentum nor beta1; set it to 0"));
  }
  return With({{"momentum", *momentum}});
}

Hyperparameters Optimizer::HyperAt(const ScheduledRate& rate) const {
  Hyperparameters out = hyper_;
  out["lr"] = rate.lr;
  if (rate.momentum.has_value()) {
    out[hyper_.count("beta1") > 0 ? "beta1" : "momentum"] = *rate.momentum;
  }
  return out;
}

Scalars Optimizer::ScalarsOf(const StepNumbers& n, OptimizerMemory* memory) const {
  Scalars out;
  for (const auto& [name, value] : n.hyper) {
    out[name] = value;
    out[absl::StrCat("1-", name)] = 1 - value;
  }
  if (row_->scalars != nullptr) row_->scalars(n, memory, &out);
  return out;
}

}  // namespace gradwire
