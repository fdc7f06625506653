#include "server/jobs/gradient_stepper.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"
#include "server/jobs/checkpoints.h"

namespace gradwire::jobs {
namespace {

constexpr int64_t kDebugBytes = int64_t{1} << 30;

bool AllFinite(const Tensor& t) {
  if (!IsFloating(t.dtype())) return true;
  for (int64_t i = 0; i < t.num_elements(); ++i) {
    if (!std::isfinite(ElementAsDouble(t, i))) return false;
  }
  return true;
}

void Fill(Tensor* t, double value) {
  for (int64_t i = 0; i < t->num_elements(); ++i) {
    if (t->dtype() == DType::kFloat) {
      t->mutable_data<float>()[i] = static_cast<float>(value);
    } else {
      t->mutable_data<double>()[i] = value;
    }
  }
}

void SetScalar(double value, Tensor* t) { Fill(t, value); }

// The Programs of a step for batches of so many rows, and their buffers.
struct Plan {
  TrainingGraphs graphs;
  std::shared_ptr<const Program> step;
  std::shared_ptr<const Program> accumulate;
};

class GradientStepper final : public Stepper {
 public:
  GradientStepper(Engine& engine, const JobModel& model) : engine_(engine), model_(model) {}

  absl::Status Build() {
    GW_ASSIGN_OR_RETURN(
        main_, PlanFor(model_.data == nullptr ? 0 : model_.batch_size, model_.accumulation));
    const Plan* plan = main_;
    const Graph& graph = plan->graphs.step;
    for (const TrainedParameter& p : model_.parameters) {
      const ValueId v = graph.FindInput(p.name);
      if (v == kNoValue) {
        return Error(Reason::kUnknownWrt, absl::StrCat("the loss does not depend on ", p.name));
      }
      GW_ASSIGN_OR_RETURN(state_[p.name], model_.InitialValue(p.name, graph.type(v).dtype));
      order_.push_back(p.name);
    }
    // States of the model itself, such as running statistics: every batch updates them.
    const Graph& batch = plan->graphs.accumulate ? *plan->graphs.accumulate : graph;
    for (const StateUpdate& update : batch.updates()) {
      if (state_.count(update.input) > 0 || absl::StartsWith(update.input, "gradwire.")) continue;
      const ValueId v = batch.FindInput(update.input);
      GW_ASSIGN_OR_RETURN(state_[update.input],
                          model_.InitialValue(update.input, batch.type(v).dtype));
      order_.push_back(update.input);
    }
    num_parameters_ = model_.parameters.size();
    for (const SlotTensor& slot : plan->graphs.slots) {
      GW_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Make(slot.type));
      if (slot.initial != 0) Fill(&tensor, slot.initial);
      state_[slot.name] = std::move(tensor);
      order_.push_back(slot.name);
    }
    for (const std::string& name : order_) {
      GW_ASSIGN_OR_RETURN(next_[name], Tensor::Make(state_.at(name).type()));
    }
    memory_.resize(model_.groups.size());
    const auto arena = [](const Program& program) {
      return program.cost().arena_bytes - program.cost().update_bytes;
    };
    cost_ = (plan->accumulate == nullptr ? plan->step : plan->accumulate)->cost();
    cost_.arena_bytes = arena(*plan->step);
    if (plan->accumulate != nullptr) {
      cost_.arena_bytes = std::max(cost_.arena_bytes, arena(*plan->accumulate));
    }
    return absl::OkStatus();
  }

  std::vector<StateTensor> state() override {
    std::vector<StateTensor> out;
    for (size_t i = 0; i < order_.size(); ++i) {
      out.push_back({order_[i], &state_.at(order_[i]), i < num_parameters_});
    }
    return out;
  }

  nlohmann::json SaveMemory() const override {
    const auto exact = [](const std::map<std::string, double>& from) {
      nlohmann::json out = nlohmann::json::object();
      for (const auto& [name, value] : from) out[name] = ExactJson(value);
      return out;
    };
    nlohmann::json groups = nlohmann::json::array();
    for (const OptimizerMemory& memory : memory_) groups.push_back(exact(memory));
    return {{"groups", std::move(groups)}, {"schedule", exact(model_.schedule.memory())}};
  }

  absl::Status LoadMemory(const nlohmann::json& json) override {
    const auto read = [](const nlohmann::json& from) {
      std::map<std::string, double> out;
      for (const auto& [name, value] : from.items()) out[name] = FromExactJson(value);
      return out;
    };
    const nlohmann::json groups = json.value("groups", nlohmann::json::array());
    if (groups.size() != memory_.size()) {
      return Error(Reason::kCorruptData, "the checkpoint has another number of parameter groups");
    }
    for (size_t i = 0; i < memory_.size(); ++i) memory_[i] = read(groups[i]);
    model_.schedule.set_memory(read(json.value("schedule", nlohmann::json::object())));
    return absl::OkStatus();
  }

  void Observe(double loss) override { model_.schedule.Observe(loss); }

  absl::StatusOr<StepResult> Step(const StepSettings& settings,
                                  absl::Span<const Batch* const> batches,
                                  RunContext& context) override {
    std::vector<OptimizerMemory> memory = memory_;
    StepResult result;
    result.learning_rate = SetScalars(settings, &memory);
    // What was accumulated before a step that failed is not part of this one.
    if (model_.accumulation > 1) ClearAccumulators();
    const int count = batches.empty() ? model_.accumulation : static_cast<int>(batches.size());
    seed_[0] = static_cast<int64_t>(settings.seed);
    Plan* plan = nullptr;
    for (int i = 0; i < count; ++i) {
      const Batch* batch = batches.empty() ? nullptr : batches[static_cast<size_t>(i)];
      GW_ASSIGN_OR_RETURN(plan, PlanFor(batch == nullptr ? 0 : batch->rows, count));
      seed_[1] = settings.step * model_.accumulation + i;
      last_batch_ = static_cast<size_t>(i);
      last_graph_ = count == 1 ? &plan->graphs.step : &*plan->graphs.accumulate;
      GW_RETURN_IF_ERROR(Run(count == 1 ? *plan->step : *plan->accumulate, batch, context));
    }
    if (count > 1) {
      last_graph_ = &plan->graphs.step;
      GW_RETURN_IF_ERROR(Run(*plan->step, nullptr, context));
    }
    result.loss = ElementAsDouble(outputs_.at(model_.loss), 0);
    result.gradient_norm = ElementAsDouble(outputs_.at(kGradientNorm), 0);
    memory_ = std::move(memory);
    return result;
  }

  std::string FirstBadNode(const StepSettings&, absl::Span<const Batch* const> batches) override {
    const Batch* batch = batches.empty() ? nullptr : batches[last_batch_];
    if (last_graph_ == nullptr) return "";
    const Graph& graph = *last_graph_;
    NamedViews inputs = model_.Inputs(batch);
    for (const auto& [name, tensor] : state_) inputs.insert_or_assign(name, TensorView(tensor));
    for (const auto& [name, tensor] : scalars_) inputs.emplace(name, tensor);
    for (const auto& [name, tensor] : constants_) inputs.emplace(name, tensor);
    const Tensor seed = Tensor::FromVector<int64_t>({2}, {seed_[0], seed_[1]});
    inputs.emplace(kSeedInput, seed);
    // In pieces: the values of all nodes together may be far more than a step needs.
    constexpr size_t kPiece = 64;
    std::vector<ValueId> wanted;
    std::vector<const Node*> nodes;
    const auto look = [&]() -> std::string {
      const auto values = EvaluateByReference(graph, inputs, wanted, kDebugBytes);
      for (size_t i = 0; values.ok() && i < values->size(); ++i) {
        if (!AllFinite((*values)[i])) return graph.Label(*nodes[i]);
      }
      wanted.clear();
      nodes.clear();
      return "";
    };
    for (const Node& node : graph.nodes()) {
      wanted.push_back(node.first_output);
      nodes.push_back(&node);
      if (wanted.size() < kPiece && &node != &graph.nodes().back()) continue;
      if (const std::string label = look(); !label.empty()) return label;
    }
    return "";
  }

  size_t last_batch() const override { return last_batch_; }

  const Cost& cost() const override { return cost_; }
  int64_t bytes() const override {
    int64_t state = 0;
    for (const auto& [name, tensor] : state_) state += tensor.bytes();
    // next_, and inputs that are converted or do not change.
    return state + std::max<int64_t>(cost_.input_bytes - state, 0);
  }
  Digest plan_digest() const override { return main_->step->plan_digest(); }
  int threads() const override { return main_->step->threads(); }

 private:
  // For batches of so many rows, so many a step.
  absl::StatusOr<Plan*> PlanFor(int64_t rows, int count) {
    auto& plan = plans_[{rows == model_.batch_size ? 0 : rows, count}];
    if (plan != nullptr) return plan.get();
    GW_ASSIGN_OR_RETURN(const Batch batch, model_.EmptyBatch(rows));
    const NamedViews inputs = model_.Inputs(&batch);
    SpecializeRequest request;
    request.inputs = &inputs;
    request.outputs = {model_.loss};
    request.mode = model_.mode;
    request.precision = model_.precision;
    request.update_states = true;
    auto made = std::make_unique<Plan>();
    GW_ASSIGN_OR_RETURN(const Specialized specialized, Specialize(*model_.loaded->model, request));
    GW_RETURN_IF_ERROR(model_.CheckFrozen(specialized.frozen, true));
    TrainingSpec spec;
    spec.loss = model_.loss;
    spec.parameters = model_.parameters;
    spec.groups = model_.groups;
    spec.clip = model_.clip;
    spec.accumulation = count;
    GW_ASSIGN_OR_RETURN(made->graphs, BuildTrainingStep(specialized.graph, spec));
    GW_ASSIGN_OR_RETURN(made->step, engine_.CompileGraph(made->graphs.step));
    if (made->graphs.accumulate) {
      GW_ASSIGN_OR_RETURN(made->accumulate, engine_.CompileGraph(*made->graphs.accumulate));
    }
    for (const ScalarInput& s : made->graphs.scalars) {
      scalar_inputs_[s.name] = s;
      scalars_.emplace(s.name, Tensor(TensorType{s.dtype, {}}));
    }
    // The accumulating Program has the loss only, under the same name.
    for (const GraphOutput& output : made->graphs.step.outputs()) {
      outputs_.emplace(output.name, Tensor(made->graphs.step.type(output.value)));
    }
    plan = std::move(made);
    return plan.get();
  }

  // Returns the first group's learning rate.
  double SetScalars(const StepSettings& settings, std::vector<OptimizerMemory>* memory) {
    std::vector<Scalars> values;
    double first = 0;
    for (size_t g = 0; g < model_.groups.size(); ++g) {
      const Optimizer& group = model_.groups[g];
      ScheduledRate rate = model_.schedule.At(group.hyper().at("lr"), settings.step);
      rate.lr *= settings.lr_factor;
      if (g == 0) first = rate.lr;
      values.push_back(group.ScalarsOf({settings.step + 1, group.HyperAt(rate)}, &(*memory)[g]));
    }
    for (const auto& [name, input] : scalar_inputs_) {
      SetScalar(values[static_cast<size_t>(input.group)].at(input.scalar), &scalars_.at(name));
    }
    return first;
  }

  void ClearAccumulators() {
    for (auto& [name, tensor] : state_) {
      const bool sums =
          absl::StartsWith(name, "gradwire.accumulator.") || name == "gradwire.loss_accumulator";
      if (sums) Fill(&tensor, 0);
    }
  }

  absl::StatusOr<const void*> BindInput(const SignatureEntry& entry, const Batch* batch) {
    if (entry.name == kSeedInput) return static_cast<const void*>(seed_);
    if (const auto s = state_.find(entry.name); s != state_.end()) return s->second.raw();
    if (const auto s = scalars_.find(entry.name); s != scalars_.end()) return s->second.raw();
    if (const Tensor* column = model_.Column(batch, entry.name)) {
      if (column->dtype() == entry.type.dtype) return column->raw();
      return static_cast<const void*>(
          (converted_[entry.name] = Converted(*column, entry.type.dtype)).raw());
    }
    auto known = constants_.find(entry.name);
    if (known == constants_.end()) {
      GW_ASSIGN_OR_RETURN(Tensor value, model_.InitialValue(entry.name, entry.type.dtype));
      known = constants_.emplace(entry.name, std::move(value)).first;
    }
    return known->second.raw();
  }

  absl::Status Run(const Program& program, const Batch* batch, RunContext& context) {
    Bindings bindings;
    GW_RETURN_IF_ERROR(Bind(program, batch, &bindings));
    GW_RETURN_IF_ERROR(program.Run(bindings, context));
    for (int i : program.signature().updated_inputs) {
      const std::string& name = program.signature().inputs[static_cast<size_t>(i)].name;
      std::swap(state_.at(name), next_.at(name));
    }
    return absl::OkStatus();
  }

  absl::Status Bind(const Program& program, const Batch* batch, Bindings* bindings) {
    for (const SignatureEntry& entry : program.signature().inputs) {
      GW_ASSIGN_OR_RETURN(const void* data, BindInput(entry, batch));
      bindings->inputs.push_back(data);
    }
    for (const SignatureEntry& entry : program.signature().outputs) {
      bindings->outputs.push_back(outputs_.at(entry.name).mutable_raw());
    }
    for (int i : program.signature().updated_inputs) {
      const std::string& name = program.signature().inputs[static_cast<size_t>(i)].name;
      bindings->updates.push_back(next_.at(name).mutable_raw());
    }
    return absl::OkStatus();
  }

  Engine& engine_;
  JobModel model_;
  // By rows (0: a full batch) and batches of a step.
  std::map<std::pair<int64_t, int>, std::unique_ptr<Plan>> plans_;
  Plan* main_ = nullptr;  // of full batches and steps
  // What ran last, and for which batch.
  const Graph* last_graph_ = nullptr;
  size_t last_batch_ = 0;
  std::map<std::string, Tensor> state_;
  std::map<std::string, Tensor> next_;  // what a step makes of it
  std::vector<std::string> order_;      // of state_: parameters first
  size_t num_parameters_ = 0;
  std::map<std::string, Tensor> constants_;  // inputs that do not change
  std::map<std::string, Tensor> converted_;
  std::map<std::string, ScalarInput> scalar_inputs_;
  std::map<std::string, Tensor> scalars_;
  std::map<std::string, Tensor> outputs_;
  std::vector<OptimizerMemory> memory_;  // by group
  Cost cost_;                            // of one batch
  int64_t seed_[2] = {0, 0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Stepper>> MakeStepper(Engine& engine, const JobModel& model) {
  if (model.lbfgs) return MakeLbfgsStepper(engine, model);
  auto stepper = std::make_unique<GradientStepper>(engine, model);
  GW_RETURN_IF_ERROR(stepper->Build());
  return std::unique_ptr<Stepper>(std::move(stepper));
}

int64_t PeakBytes(const JobModel& model, Stepper& stepper,
                  const std::vector<std::unique_ptr<BatchReader>>& readers,
                  const EvaluationBytes& evaluation) {
  int64_t bytes = SaturatingAdd(model.bytes(), stepper.bytes());
  const auto add = [&](int64_t more) { bytes = SaturatingAdd(bytes, more); };
  // The state, and its copy in a snapshot.
  for (const StateTensor& s : stepper.state()) add(SaturatingMul(2, s.tensor->bytes()));
  for (const auto& reader : readers) add(reader->bytes());
  add(std::max(stepper.cost().arena_bytes, evaluation.arena));
  add(stepper.cost().output_bytes);
  add(evaluation.held);
  return bytes;
}

}  // namespace gradwire::jobs
