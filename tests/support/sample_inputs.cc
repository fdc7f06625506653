#include "tests/support/sample_inputs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/onnx/import.h"

namespace gradwire {
namespace {

constexpr int kUsualOpset = 18;
// ONNX had NumPy's broadcasting from opset 7 on for operators of two inputs, from 8 on for more.
constexpr int kFirstBroadcastingOpset = 8;

uint64_t Mix(uint64_t x) {  // SplitMix64
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// ---- Shapes that pointwise rows get

// The input's share of `shape`. Way 0 is all of it; the others broadcast.
Dims Share(const Dims& shape, int way, size_t input) {
  if (way == 0) return shape;
  if (way == 1) return input == 0 ? shape : Dims(shape.begin() + !shape.empty(), shape.end());
  if (way == 2) return input == 0 ? Dims() : shape;
  if (way == 3) return input == 0 ? shape : Dims();
  Dims out = shape;  // ones in turn
  for (size_t d = 0; d < out.size(); ++d) {
    if ((d + input) % 2 == 1) out[d] = 1;
  }
  return out;
}

std::vector<std::vector<SampleInput>> GeneratedInputs(const OpDef& op, int opset) {
  static const Dims kShapes[] = {{}, {7}, {2, 3}, {3, 37}, {2, 3, 4}, {2, 1, 3, 2}, {0}, {2, 0, 3}};
  const auto count = static_cast<size_t>(op.min_inputs);
  const int ways = count < 2 || opset < kFirstBroadcastingOpset ? 1 : 5;
  std::vector<std::vector<SampleInput>> out;
  for (const Dims& shape : kShapes) {
    for (int way = 0; way < ways; ++way) {
      if (way > 0 && shape.empty()) continue;
      std::vector<SampleInput> inputs;
      for (size_t i = 0; i < count; ++i) {
        inputs.push_back(
            {.shape = Share(shape, way, i), .low = op.domain.low, .high = op.domain.high});
      }
      out.push_back(std::move(inputs));
    }
  }
  return out;
}

// ---- Bindings

struct OpsetRange {
  int first, last;
};
OpsetRange RangeOf(const OnnxBinding& binding) {
  if (!binding.domain.empty()) return {binding.since, std::max(binding.since, kUsualOpset)};
  return {std::max(binding.since, kMinOpset), std::min(binding.until, kMaxOpset)};
}

// Bindings by what they spell, oldest first.
std::vector<std::vector<const OnnxBinding*>> BindingGroups(const OpDef& op) {
  std::map<std::string, std::vector<const OnnxBinding*>> groups;
  for (const OnnxBinding& binding : op.onnx) {
    const OpsetRange range = RangeOf(binding);
    if (range.first > range.last) continue;
    groups[absl::StrCat(binding.domain, ":", binding.name)].push_back(&binding);
  }
  std::vector<std::vector<const OnnxBinding*>> out;
  for (auto& [key, group] : groups) {
    std::sort(group.begin(), group.end(),
              [](const OnnxBinding* a, const OnnxBinding* b) { return a->since < b->since; });
    out.push_back(std::move(group));
  }
  return out;
}

// ---- Plans

bool LeavesTypeOpen(const std::vector<SampleInput>& inputs) {
  return std::any_of(inputs.begin(), inputs.end(), [](const SampleInput& input) {
    return !input.absent && input.dtype == DType::kUndefined;
  });
}

class Planner {
 public:
  explicit Planner(const OpDef& op) : op_(op) {}

  std::vector<CasePlan> Run() {
    const auto groups = BindingGroups(op_);
    for (const auto& group : groups) {
      for (const OnnxBinding* binding : group) AddGenerated(binding);
      AddSamples(group);
    }
    if (groups.empty()) {
      AddGenerated(nullptr);
      AddSamples({});
    }
    return std::move(plans_);
  }

 private:
  void Add(CasePlan plan) {
    plan.op = &op_;
    if (!LeavesTypeOpen(plan.sample.inputs)) {
      plans_.push_back(std::move(plan));
      return;
    }
    for (DType dtype : {DType::kFloat, DType::kDouble, DType::kInt64, DType::kInt32}) {
      plan.dtype = dtype;
      // Whether a row with samples takes integers is its own business; floating types it must say.
      const bool taken =
          plan.generated ? AdmitsGenerated(op_, dtype) : IsFloating(dtype) || BuildCase(plan).ok();
      if (taken) plans_.push_back(plan);
    }
  }

  void AddGenerated(const OnnxBinding* binding) {
    if (!GetsGeneratedShapes(op_)) return;
    const OpsetRange range = binding == nullptr ? OpsetRange{0, 0} : RangeOf(*binding);
    const int usual =
        binding == nullptr ? kUsualOpset : std::clamp(kUsualOpset, range.first, range.last);
    for (auto& inputs : GeneratedInputs(op_, usual)) {
      Add({.binding = binding, .opset = usual, .sample = {.inputs = inputs}, .generated = true});
    }
    const std::vector<SampleInput> plain(
        static_cast<size_t>(op_.min_inputs),
        {.shape = {2, 3}, .low = op_.domain.low, .high = op_.domain.high});
    for (int opset : {range.first, range.last}) {
      if (binding == nullptr || opset == usual) continue;
      Add({.binding = binding,
           .opset = opset,
           .sample = {.inputs = plain},
           .generated = true,
           .values_only = true});
    }
  }

  void AddSamples(const std::vector<const OnnxBinding*>& group) {
    for (const Sample& sample : op_.domain.samples) {
      CasePlan plan = {.sample = sample};
      if (!group.empty()) {
        plan.binding = group.back();
        const OpsetRange newest = RangeOf(*group.back());
        plan.opset =
            sample.opset != 0 ? sample.opset : std::clamp(kUsualOpset, newest.first, newest.last);
        for (const OnnxBinding* binding : group) {
          if (binding->since <= plan.opset && plan.opset <= binding->until) plan.binding = binding;
        }
      }
      Add(plan);
      if (plan.binding == nullptr || sample.opset != 0) continue;
      const int last = RangeOf(*plan.binding).last;
      if (last == plan.opset) continue;
      plan.opset = last;
      plan.values_only = true;
      Add(plan);
    }
  }

  const OpDef& op_;
  std::vector<CasePlan> plans_;
};

// ---- Cases

Tensor ValueOf(const SampleInput& input, DType dtype, Draw& draw) {
  const TensorType type{dtype, Shape(input.shape)};
  if (input.values.empty()) return DrawTensor(type, input.low, input.high, draw);
  Tensor tensor(type);
  VisitDType(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (size_t i = 0; i < static_cast<size_t>(tensor.num_elements()); ++i) {
      const double value = input.values[i % input.values.size()];
      constexpr auto kLowest = static_cast<double>(std::numeric_limits<T>::lowest());
      constexpr auto kHighest = static_cast<double>(std::numeric_limits<T>::max());
      tensor.mutable_data<T>()[i] = static_cast<T>(std::clamp(value, kLowest, kHighest));
    }
  });
  return tensor;
}

class CaseBuilder {
 public:
  CaseBuilder(const CasePlan& plan, uint64_t salt)
      : plan_(plan), draw_(absl::StrCat(plan.op->name, plan.opset), salt) {}

  absl::StatusOr<OpCase> Run() {
    for (const SampleInput& input : plan_.sample.inputs) {
      const DType dtype = input.dtype == DType::kUndefined ? plan_.dtype : input.dtype;
      values_.push_back(input.absent ? Tensor() : ValueOf(input, dtype, draw_));
    }
    absl::Status built = !plan_.sample.text.empty() ? ThroughText()
                         : plan_.binding != nullptr ? ThroughModel()
                                                    : ThroughBuilder();
    GW_RETURN_IF_ERROR(built);
    for (const GraphInput& input : case_.graph.inputs()) Bind(input);
    return std::move(case_);
  }

 private:
  static std::string InputName(size_t i) { return absl::StrCat("x", i); }

  absl::Status ThroughModel() {
    Model model;
    auto add_value = [&](std::string name) {
      const auto value = static_cast<ModelValue>(model.value_names.size());
      model.value_by_name.emplace(name, value);
      model.value_names.push_back(std::move(name));
      return value;
    };
    ModelNode node = {.op = plan_.op,
                      .binding = plan_.binding,
                      .attrs = plan_.sample.attrs,
                      .inputs = {},
                      .outputs = {},
                      .opset = plan_.opset};
    NamedViews given;
    for (size_t i = 0; i < values_.size(); ++i) {
      const SampleInput& input = plan_.sample.inputs[i];
      node.inputs.push_back(input.absent ? -1 : add_value(InputName(i)));
      if (input.absent) continue;
      if (input.constant) {
        model.initializers.push_back({node.inputs.back(), values_[i]});
      } else {
        model.inputs.push_back({node.inputs.back(), values_[i].dtype(), std::nullopt});
        given[InputName(i)] = values_[i];
      }
    }
    for (int i = 0; i < plan_.sample.num_outputs; ++i) {
      node.outputs.push_back(add_value(absl::StrCat("y", i)));
      model.outputs.push_back(node.outputs.back());
    }
    model.nodes.push_back(std::move(node));
    model.origins = std::make_shared<const std::vector<std::string>>(
        1, absl::StrCat("node 0 (", plan_.binding->name, ")"));
    const SpecializeRequest request = {
        .inputs = &given, .outputs = {}, .marks = {}, .mode = plan_.mode};
    GW_ASSIGN_OR_RETURN(Specialized specialized, Specialize(model, request));
    case_.graph = std::move(specialized.graph);
    return absl::OkStatus();
  }

  absl::Status ThroughText() {
    GW_ASSIGN_OR_RETURN(const Model model, ModelOfSample(plan_.sample, plan_.opset));
    NamedViews given;
    for (size_t i = 0; i < values_.size(); ++i) {
      if (!plan_.sample.inputs[i].absent) given[InputName(i)] = values_[i];
    }
    const SpecializeRequest request = {
        .inputs = &given, .outputs = {}, .marks = {}, .mode = plan_.mode};
    GW_ASSIGN_OR_RETURN(Specialized specialized, Specialize(model, request));
    case_.graph = std::move(specialized.graph);
    return absl::OkStatus();
  }

  absl::Status ThroughBuilder() {
    GraphBuilder b;
    std::vector<ValueId> in;
    for (size_t i = 0; i < values_.size(); ++i) {
      in.push_back(plan_.sample.inputs[i].absent
                       ? kNoValue
                       : b.Input(InputName(i), values_[i].type(), Stage::kPoint));
    }
    const std::vector<ValueId> out = b.AddMulti(*plan_.op, in, plan_.sample.attrs);
    GW_RETURN_IF_ERROR(b.status());
    for (size_t i = 0; i < out.size(); ++i) b.Output(absl::StrCat("y", i), out[i]);
    GW_ASSIGN_OR_RETURN(case_.graph, std::move(b).Build());
    return absl::OkStatus();
  }

  void Bind(const GraphInput& input) {
    Tensor value = Tensor::FromVector<int64_t>({2}, {7, 1});  // the seed, where it is none of ours
    for (size_t i = 0; i < values_.size(); ++i) {
      if (input.name != InputName(i)) continue;
      value = values_[i];
      if (IsFloating(value.dtype()) && !plan_.sample.inputs[i].constant) {
        case_.wrt.push_back(input.name);
      }
    }
    case_.data.push_back(std::move(value));
    case_.inputs[input.name] = case_.data.back();
  }

  const CasePlan& plan_;
  Draw draw_;
  std::vector<Tensor> values_;  // of the sample's inputs
  OpCase case_;
};

}  // namespace

std::string CasePlan::ToString() const {
  std::string out = std::string(op->name);
  if (binding != nullptr) absl::StrAppend(&out, " opset ", opset);
  for (const SampleInput& input : sample.inputs) {
    const DType type = input.dtype == DType::kUndefined ? dtype : input.dtype;
    absl::StrAppend(&out, " ",
                    input.absent ? "-" : TensorType{type, Shape(input.shape)}.ToString());
  }
  if (!sample.attrs.empty()) absl::StrAppend(&out, " {", sample.attrs.ToString(), "}");
  if (mode == Mode::kTrain) out += " in training";
  return out;
}

bool GetsGeneratedShapes(const OpDef& op) {
  return op.infer != nullptr && std::holds_alternative<Pointwise>(op.lowering) &&
         op.min_inputs > 0 && std::none_of(op.attrs.begin(), op.attrs.end(), [](const AttrDef& a) {
           return a.required;
         });
}

bool AdmitsGenerated(const OpDef& op, DType dtype) {
  const std::vector<TensorType> in(static_cast<size_t>(op.min_inputs), {dtype, {2, 3}});
  std::vector<Attrs::Entry> entries;
  for (const AttrDef& def : op.attrs) entries.emplace_back(def.name, def.fallback);
  const Attrs attrs(std::move(entries));
  return op.infer({in, attrs}).ok();
}

std::vector<CasePlan> PlanCases(const OpDef& op) { return Planner(op).Run(); }

absl::StatusOr<OpCase> BuildCase(const CasePlan& plan, uint64_t salt) {
  return CaseBuilder(plan, salt).Run();
}

Draw::Draw(absl::string_view key, uint64_t salt) : state_(Mix(salt)) {
  for (char c : key) state_ = Mix(state_ ^ static_cast<unsigned char>(c));
}

double Draw::Uniform() {
  state_ += 0x9E3779B97F4A7C15;
  return static_cast<double>(Mix(state_) >> 11) * 0x1p-53;
}

Tensor DrawTensor(const TensorType& type, double low, double high, Draw& draw) {
  Tensor tensor(type);
  VisitDType(type.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* to = tensor.mutable_data<T>();
    for (int64_t i = 0; i < tensor.num_elements(); ++i) {
      if constexpr (std::is_same_v<T, bool>) {
        to[i] = draw.Uniform() < 0.5;
      } else if constexpr (std::is_floating_point_v<T>) {
        to[i] = static_cast<T>(static_cast<float>(draw.Uniform(low, high)));
      } else {
        const double first = std::max(std::ceil(low), std::is_signed_v<T> ? -1e9 : 0.0);
        const double count = std::max(std::ceil(high) - first, 1.0);
        to[i] = static_cast<T>(first + std::floor(draw.Uniform() * count));
      }
    }
  });
  return tensor;
}

}  // namespace gradwire
