// L-BFGS as a Stepper: value and gradient are one Program; the algorithm runs beside it, on all
// parameters as one vector.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"
#include "server/jobs/checkpoints.h"
#include "server/jobs/gradient_stepper.h"

namespace gradwire::jobs {
namespace {

constexpr char kStatePrefix[] = "gradwire.lbfgs.";

class LbfgsStepper final : public Stepper {
 public:
  LbfgsStepper(Engine& engine, const JobModel& model)
      : engine_(engine), model_(model), lbfgs_(*model.lbfgs) {}

  absl::Status Build() {
    GW_ASSIGN_OR_RETURN(const Batch batch, model_.EmptyBatch(model_.batch_size));
    GW_RETURN_IF_ERROR(RefuseStates(batch));
    GW_ASSIGN_OR_RETURN(prepared_, Prepare(model_.data == nullptr ? nullptr : &batch));
    DType dtype = DType::kFloat;
    int64_t size = 0;
    for (const TrainedParameter& p : model_.parameters) {
      const SignatureEntry* entry = nullptr;
      for (const SignatureEntry& e : prepared_.program->signature().inputs) {
        if (e.name == p.name) entry = &e;
      }
      if (entry == nullptr) {
        return Error(Reason::kUnknownWrt, absl::StrCat("the loss does not depend on ", p.name));
      }
      GW_ASSIGN_OR_RETURN(Tensor value, model_.InitialValue(p.name, entry->type.dtype));
      GW_ASSIGN_OR_RETURN(tried_[p.name], Tensor::Make(entry->type));
      if (value.dtype() == DType::kDouble) dtype = DType::kDouble;
      size += value.num_elements();
      parameters_.emplace_back(p.name, std::move(value));
    }
    vector_ = {dtype, {size}};
    for (const SignatureEntry& entry : prepared_.program->signature().outputs) {
      GW_ASSIGN_OR_RETURN(outputs_[entry.name], Tensor::Make(entry.type));
    }
    return absl::OkStatus();
  }

  std::vector<StateTensor> state() override {
    std::vector<StateTensor> out;
    for (auto& [name, tensor] : parameters_) out.push_back({name, &tensor, true});
    const auto add = [&](std::string name, Tensor* tensor) {
      out.push_back({absl::StrCat(kStatePrefix, name), tensor, false});
    };
    if (memory_.n_iter == 0) return out;
    add("d", &memory_.d);
    add("prev_flat_grad", &memory_.prev_flat_grad);
    for (size_t i = 0; i < memory_.ro.size(); ++i) {
      add(absl::StrCat("old_dirs.", i), &memory_.old_dirs[i]);
      add(absl::StrCat("old_stps.", i), &memory_.old_stps[i]);
    }
    return out;
  }

  nlohmann::json SaveMemory() const override {
    nlohmann::json ro = nlohmann::json::array(), schedule = nlohmann::json::object();
    for (double r : memory_.ro) ro.push_back(ExactJson(r));
    for (const auto& [name, value] : model_.schedule.memory()) schedule[name] = ExactJson(value);
    return {{"n_iter", memory_.n_iter},
            {"func_evals", memory_.func_evals},
            {"t", ExactJson(memory_.t)},
            {"h_diag", ExactJson(memory_.h_diag)},
            {"prev_loss", ExactJson(memory_.prev_loss)},
            {"ro", std::move(ro)},
            {"schedule", std::move(schedule)}};
  }

  absl::Status LoadMemory(const nlohmann::json& json) override {
    Lbfgs::State s;
    std::map<std::string, double> schedule;
    try {
      s.n_iter = json.at("n_iter").get<int64_t>();
      s.func_evals = json.at("func_evals").get<int64_t>();
      s.t = FromExactJson(json.at("t"));
      s.h_diag = FromExactJson(json.at("h_diag"));
      s.prev_loss = FromExactJson(json.at("prev_loss"));
      for (const auto& r : json.at("ro")) s.ro.push_back(FromExactJson(r));
      for (const auto& [name, value] : json.at("schedule").items()) {
        schedule[name] = FromExactJson(value);
      }
    } catch (const nlohmann::json::exception& error) {
      return Error(Reason::kCorruptData, absl::StrCat("the checkpoint: ", error.what()));
    }
    // Room for the tensors that follow.
    if (s.n_iter > 0) {
      GW_ASSIGN_OR_RETURN(s.d, Tensor::Make(vector_));
      GW_ASSIGN_OR_RETURN(s.prev_flat_grad, Tensor::Make(vector_));
    }
    for (size_t i = 0; i < s.ro.size(); ++i) {
      GW_ASSIGN_OR_RETURN(s.old_dirs.emplace_back(), Tensor::Make(vector_));
      GW_ASSIGN_OR_RETURN(s.old_stps.emplace_back(), Tensor::Make(vector_));
    }
    // It says whether the parts belong together.
    GW_RETURN_IF_ERROR(lbfgs_.set_state(s));
    memory_ = std::move(s);
    model_.schedule.set_memory(std::move(schedule));
    return absl::OkStatus();
  }

  void Observe(double loss) override { model_.schedule.Observe(loss); }

  absl::StatusOr<StepResult> Step(const StepSettings& settings,
                                  absl::Span<const Batch* const> batches,
                                  RunContext& context) override {
    const Batch* batch = batches.empty() ? nullptr : batches[0];
    GW_ASSIGN_OR_RETURN(const Prepared prepared, Prepare(batch));
    seed_[0] = static_cast<int64_t>(settings.seed);
    seed_[1] = settings.step;
    GW_ASSIGN_OR_RETURN(const Bindings bindings, Bind(*prepared.program, batch));
    const auto evaluate = [&](const Tensor& at, Tensor* gradient) -> absl::StatusOr<double> {
      Move(at, [&](const std::string& name, Tensor&) { return &tried_.at(name); });
      GW_RETURN_IF_ERROR(prepared.program->Run(bindings, context));
      Gather(
          [&](const std::string& name, const Tensor&) { return &outputs_.at(GradientName(name)); },
          gradient);
      return ElementAsDouble(outputs_.at(model_.loss), 0);
    };
    GW_ASSIGN_OR_RETURN(Tensor x, Tensor::Make(vector_));
    Gather([](const std::string&, const Tensor& value) { return &value; }, &x);
    const ScheduledRate rate = model_.schedule.At(lbfgs_.settings().at("lr"), settings.step);
    const double lr = rate.lr * settings.lr_factor;
    GW_RETURN_IF_ERROR(lbfgs_.set_state(memory_));
    GW_ASSIGN_OR_RETURN(const Lbfgs::Result r, lbfgs_.Step(lr, &x, evaluate));
    memory_ = lbfgs_.state();
    Move(x, [](const std::string&, Tensor& value) { return &value; });
    return StepResult{r.loss, r.gradient_norm, lr};
  }

  std::string FirstBadNode(const StepSettings&, absl::Span<const Batch* const>) override {
    return "";  // the step evaluates at points of its own
  }
  const Cost& cost() const override { return prepared_.program->cost(); }
  int64_t bytes() const override {
    const auto setting = [&](const char* name) {
      return static_cast<int64_t>(std::min(lbfgs_.settings().at(name), 1e15));
    };
    // As many pairs as there are moves.
    const int64_t moves = SaturatingMul(model_.total_steps, setting("max_iter"));
    const int64_t most = setting("history_size");
    const int64_t pairs = moves == 0 ? most : std::min(most, moves);
    // Vectors remembered, their copies in a snapshot, and those at hand in a step.
    constexpr int64_t kAtHand = 20;
    const int64_t vectors = SaturatingAdd(SaturatingMul(4, pairs), kAtHand);
    return SaturatingAdd(SaturatingMul(vectors, vector_.bytes()), cost().input_bytes);
  }
  Digest plan_digest() const override { return prepared_.program->plan_digest(); }
  int threads() const override { return prepared_.program->threads(); }

 private:
  // How often a line search evaluates would decide what running statistics become.
  absl::Status RefuseStates(const Batch& batch) const {
    const NamedViews inputs = model_.Inputs(&batch);
    SpecializeRequest request{.inputs = &inputs, .outputs = {model_.loss}, .marks = {}};
    request.mode = model_.mode;
    request.precision = model_.precision;
    request.update_states = true;
    GW_ASSIGN_OR_RETURN(const Specialized specialized, Specialize(*model_.loaded->model, request));
    if (specialized.graph.updates().empty()) return absl::OkStatus();
    return Error(Reason::kInvalidSpec,
                 absl::StrCat("optimizer: L-BFGS cannot train a model that updates ",
                              specialized.graph.updates()[0].input,
                              "; take another optimiser, or mode EVAL"));
  }

  absl::StatusOr<Prepared> Prepare(const Batch* batch) {
    Computation computation{.kind = Computation::kGradient, .outputs = {model_.loss}, .wrt = {}};
    for (const TrainedParameter& p : model_.parameters) computation.wrt.push_back(p.name);
    computation.mode = model_.mode;
    computation.precision = model_.precision;
    GW_ASSIGN_OR_RETURN(Prepared prepared,
                        engine_.Prepare(*model_.loaded, computation, model_.Inputs(batch)));
    GW_RETURN_IF_ERROR(model_.CheckFrozen(prepared.frozen, false));
    return prepared;
  }

  // The vector's parts into the tensor that `to` has for each parameter.
  template <typename To>
  void Move(const Tensor& vector, To to) {
    const auto* from = static_cast<const char*>(vector.raw());
    for (auto& [name, value] : parameters_) {
      const TensorView part(TensorType{vector_.dtype, value.shape()}, from);
      Tensor* into = to(name, value);
      const Tensor converted =
          value.dtype() == vector_.dtype ? Tensor() : Converted(part, value.dtype());
      std::memcpy(into->mutable_raw(), converted.empty() ? part.raw() : converted.raw(),
                  static_cast<size_t>(into->bytes()));
      from += part.bytes();
    }
  }

  // The other way.
  template <typename From>
  void Gather(From from, Tensor* vector) {
    auto* to = static_cast<char*>(vector->mutable_raw());
    for (const auto& [name, value] : parameters_) {
      const Tensor* part = from(name, value);
      const Tensor converted =
          part->dtype() == vector_.dtype ? *part : Converted(*part, vector_.dtype);
      std::memcpy(to, converted.raw(), static_cast<size_t>(converted.bytes()));
      to += converted.bytes();
    }
  }

  absl::StatusOr<Bindings> Bind(const Program& program, const Batch* batch) {
    Bindings bindings;
    for (const SignatureEntry& entry : program.signature().inputs) {
      if (entry.name == kSeedInput) {
        bindings.inputs.push_back(seed_);
        continue;
      }
      if (const auto tried = tried_.find(entry.name); tried != tried_.end()) {
        bindings.inputs.push_back(tried->second.raw());
        continue;
      }
      Tensor& value = fixed_[entry.name];
      if (const Tensor* column = model_.Column(batch, entry.name)) {
        value =
            column->dtype() == entry.type.dtype ? *column : Converted(*column, entry.type.dtype);
      } else if (value.empty()) {
        GW_ASSIGN_OR_RETURN(value, model_.InitialValue(entry.name, entry.type.dtype));
      }
      bindings.inputs.push_back(value.raw());
    }
    for (const SignatureEntry& entry : program.signature().outputs) {
      bindings.outputs.push_back(outputs_.at(entry.name).mutable_raw());
    }
    return bindings;
  }

  Engine& engine_;
  JobModel model_;
  Lbfgs lbfgs_;
  Lbfgs::State memory_;  // after the last step: what checkpoints hold
  Prepared prepared_;
  TensorType vector_;  // of all parameters together
  std::vector<std::pair<std::string, Tensor>> parameters_;
  std::map<std::string, Tensor> tried_;  // parameters where the Program evaluates
  std::map<std::string, Tensor> fixed_;  // its other inputs
  std::map<std::string, Tensor> outputs_;
  int64_t seed_[2] = {0, 0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Stepper>> MakeLbfgsStepper(Engine& engine, const JobModel& model) {
  auto stepper = std::make_unique<LbfgsStepper>(engine, model);
  GW_RETURN_IF_ERROR(stepper->Build());
  return std::unique_ptr<Stepper>(std::move(stepper));
}

}  // namespace gradwire::jobs
