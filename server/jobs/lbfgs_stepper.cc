// L-BFGS as a Stepper: value and gradient are one Program; the algorithm runs beside it.
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"
#include "engine/optim/lbfgs.h"
#include "server/jobs/checkpoints.h"
#include "server/jobs/gradient_stepper.h"

namespace gradwire::jobs {
namespace {

nlohmann::json ExactVector(const Vector& v) {
  nlohmann::json out = nlohmann::json::array();
  for (double x : v) out.push_back(ExactJson(x));
  return out;
}
Vector FromExactVector(const nlohmann::json& json) {
  Vector out;
  for (const auto& x : json) out.push_back(FromExactJson(x));
  return out;
}

LbfgsOptions OptionsOf(const JobModel& model, bool round) {
  const auto& s = model.lbfgs;
  LbfgsOptions out{.lr = s.at("lr"),
                   .max_iter = static_cast<int64_t>(s.at("max_iter")),
                   .tolerance_grad = s.at("tolerance_grad"),
                   .tolerance_change = s.at("tolerance_change"),
                   .history_size = static_cast<int64_t>(s.at("history_size")),
                   .strong_wolfe = s.at("strong_wolfe") != 0,
                   .round_to_float = round};
  if (s.count("max_eval") > 0) out.max_eval = static_cast<int64_t>(s.at("max_eval"));
  return out;
}

class LbfgsStepper final : public Stepper {
 public:
  LbfgsStepper(Engine& engine, const JobModel& model) : engine_(engine), model_(model) {}

  absl::Status Build() {
    GW_ASSIGN_OR_RETURN(const Batch batch, model_.EmptyBatch(model_.batch_size));
    GW_ASSIGN_OR_RETURN(prepared_, Prepare(model_.data == nullptr ? nullptr : &batch));
    bool all_float = true;
    for (const TrainedParameter& p : model_.parameters) {
      const SignatureEntry* entry = nullptr;
      for (const SignatureEntry& e : prepared_.program->signature().inputs) {
        if (e.name == p.name) entry = &e;
      }
      if (entry == nullptr) {
        return Error(Reason::kUnknownWrt, absl::StrCat("the loss does not depend on ", p.name));
      }
      GW_ASSIGN_OR_RETURN(Tensor value, model_.InitialValue(p.name, entry->type.dtype));
      all_float &= value.dtype() == DType::kFloat;
      parameters_.emplace_back(p.name, std::move(value));
    }
    lbfgs_ = std::make_unique<Lbfgs>(OptionsOf(model_, all_float));
    return absl::OkStatus();
  }

  std::vector<StateTensor> state() override {
    std::vector<StateTensor> out;
    for (auto& [name, tensor] : parameters_) out.push_back({name, &tensor, true});
    return out;
  }

  nlohmann::json SaveMemory() const override {
    const Lbfgs::State& s = lbfgs_->state();
    nlohmann::json changes = nlohmann::json::array(), steps = changes, rho = changes;
    for (const Vector& v : s.gradient_changes) changes.push_back(ExactVector(v));
    for (const Vector& v : s.steps) steps.push_back(ExactVector(v));
    for (double r : s.rho) rho.push_back(ExactJson(r));
    nlohmann::json schedule = nlohmann::json::object();
    for (const auto& [name, value] : model_.schedule.memory()) schedule[name] = ExactJson(value);
    return {{"iterations", s.iterations},
            {"t", ExactJson(s.t)},
            {"scale", ExactJson(s.scale)},
            {"previous_value", ExactJson(s.previous_value)},
            {"direction", ExactVector(s.direction)},
            {"previous_gradient", ExactVector(s.previous_gradient)},
            {"gradient_changes", std::move(changes)},
            {"steps", std::move(steps)},
            {"rho", std::move(rho)},
            {"schedule", std::move(schedule)}};
  }

  absl::Status LoadMemory(const nlohmann::json& json) override {
    try {
      Lbfgs::State s;
      s.iterations = json.at("iterations").get<int64_t>();
      s.t = FromExactJson(json.at("t"));
      s.scale = FromExactJson(json.at("scale"));
      s.previous_value = FromExactJson(json.at("previous_value"));
      s.direction = FromExactVector(json.at("direction"));
      s.previous_gradient = FromExactVector(json.at("previous_gradient"));
      for (const auto& v : json.at("gradient_changes")) {
        s.gradient_changes.push_back(FromExactVector(v));
      }
      for (const auto& v : json.at("steps")) s.steps.push_back(FromExactVector(v));
      for (const auto& r : json.at("rho")) s.rho.push_back(FromExactJson(r));
      lbfgs_->set_state(std::move(s));
      std::map<std::string, double> schedule;
      for (const auto& [name, value] : json.at("schedule").items()) {
        schedule[name] = FromExactJson(value);
      }
      model_.schedule.set_memory(std::move(schedule));
    } catch (const nlohmann::json::exception& error) {
      return Error(Reason::kCorruptData, absl::StrCat("the checkpoint: ", error.what()));
    }
    return absl::OkStatus();
  }

  void Observe(double loss) override { model_.schedule.Observe(loss); }

  absl::StatusOr<StepResult> Step(const StepSettings& settings,
                                  absl::Span<const Batch* const> batches,
                                  RunContext& context) override {
    const Batch* batch = batches.empty() ? nullptr : batches[0];
    GW_ASSIGN_OR_RETURN(const Prepared prepared, Prepare(batch));
    const ScheduledRate rate = model_.schedule.At(lbfgs_->options().lr, settings.step);
    Vector x;
    for (const auto& [name, tensor] : parameters_) {
      for (int64_t i = 0; i < tensor.num_elements(); ++i) x.push_back(ElementAsDouble(tensor, i));
    }
    seed_[0] = static_cast<int64_t>(settings.seed);
    seed_[1] = settings.step;
    const auto evaluate = [&](const Vector& at, Vector* gradient) {
      return Evaluate(*prepared.program, batch, at, context, gradient);
    };
    const double lr = rate.lr * settings.lr_factor;
    GW_ASSIGN_OR_RETURN(const Lbfgs::Result r, lbfgs_->Step(&x, evaluate, lr));
    Scatter(x, &parameters_);
    double square = 0;
    for (double g : r.gradient) square += g * g;
    return StepResult{r.value, std::sqrt(square), lr};
  }

  std::string FirstBadNode(const StepSettings&, absl::Span<const Batch* const>) override {
    return "";  // the step evaluates at points of its own
  }
  const Cost& cost() const override { return prepared_.program->cost(); }
  int64_t bytes() const override {
    int64_t n = 0;
    for (const auto& [name, tensor] : parameters_) n += tensor.num_elements();
    const int64_t iterations =
        SaturatingMul(model_.total_steps, std::max<int64_t>(lbfgs_->options().max_iter, 1));
    const int64_t most = lbfgs_->options().history_size;
    const int64_t history = iterations == 0 ? most : std::min(most, iterations);
    // Numbers remembered and at hand; those remembered are text in a checkpoint's manifest.
    constexpr int64_t kAtHand = 10, kTextBytes = 300;
    const int64_t remembered = SaturatingMul(SaturatingAdd(SaturatingMul(2, history), 2), n);
    return SaturatingAdd(SaturatingMul(remembered, 8 + kTextBytes),
                         SaturatingAdd(8 * kAtHand * n, cost().input_bytes));
  }
  Digest plan_digest() const override { return prepared_.program->plan_digest(); }
  int threads() const override { return prepared_.program->threads(); }

 private:
  using Named = std::vector<std::pair<std::string, Tensor>>;

  absl::StatusOr<Prepared> Prepare(const Batch* batch) {
    Computation computation{.kind = Computation::kGradient, .outputs = {model_.loss}, .wrt = {}};
    for (const TrainedParameter& p : model_.parameters) computation.wrt.push_back(p.name);
    computation.mode = model_.mode;
    computation.precision = model_.precision;
    return engine_.Prepare(*model_.loaded, computation, model_.Inputs(batch));
  }

  static void Scatter(const Vector& x, Named* to) {
    size_t at = 0;
    for (auto& [name, tensor] : *to) {
      for (int64_t i = 0; i < tensor.num_elements(); ++i, ++at) {
        if (tensor.dtype() == DType::kFloat) {
          tensor.mutable_data<float>()[i] = static_cast<float>(x[at]);
        } else {
          tensor.mutable_data<double>()[i] = x[at];
        }
      }
    }
  }

  absl::StatusOr<double> Evaluate(const Program& program, const Batch* batch, const Vector& at,
                                  RunContext& context, Vector* gradient) {
    Named moved;
    for (const auto& [name, tensor] : parameters_) moved.emplace_back(name, Tensor(tensor.type()));
    Scatter(at, &moved);
    std::map<std::string, Tensor> values(moved.begin(), moved.end());
    Bindings bindings;
    for (const SignatureEntry& entry : program.signature().inputs) {
      if (entry.name == kSeedInput) {
        bindings.inputs.push_back(seed_);
        continue;
      }
      auto& value = values[entry.name];
      for (size_t c = 0; value.empty() && c < model_.fed.size(); ++c) {
        if (model_.fed[c] == entry.name) value = Converted(batch->tensors[c], entry.type.dtype);
      }
      if (value.empty()) {
        GW_ASSIGN_OR_RETURN(value, model_.InitialValue(entry.name, entry.type.dtype));
      }
      bindings.inputs.push_back(value.raw());
    }
    std::map<std::string, Tensor> outputs;
    for (const SignatureEntry& entry : program.signature().outputs) {
      GW_ASSIGN_OR_RETURN(outputs[entry.name], Tensor::Make(entry.type));
      bindings.outputs.push_back(outputs[entry.name].mutable_raw());
    }
    GW_RETURN_IF_ERROR(program.Run(bindings, context));
    gradient->clear();
    for (const auto& [name, tensor] : parameters_) {
      const Tensor& g = outputs.at(GradientName(name));
      for (int64_t i = 0; i < g.num_elements(); ++i) gradient->push_back(ElementAsDouble(g, i));
    }
    return ElementAsDouble(outputs.at(model_.loss), 0);
  }

  Engine& engine_;
  JobModel model_;
  Prepared prepared_;
  Named parameters_;
  std::unique_ptr<Lbfgs> lbfgs_;
  int64_t seed_[2] = {0, 0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Stepper>> MakeLbfgsStepper(Engine& engine, const JobModel& model) {
  auto stepper = std::make_unique<LbfgsStepper>(engine, model);
  GW_RETURN_IF_ERROR(stepper->Build());
  return std::unique_ptr<Stepper>(std::move(stepper));
}

}  // namespace gradwire::jobs
