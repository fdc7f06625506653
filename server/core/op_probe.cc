#include "server/core/op_probe.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/autodiff/autodiff.h"
#include "engine/engine.h"
#include "engine/exec/specialize.h"

namespace gradwire::server {
namespace {

constexpr DType kAllTypes[] = {DType::kFloat,   DType::kUint8,  DType::kInt8,   DType::kUint16,
                               DType::kInt16,   DType::kInt32,  DType::kInt64,  DType::kBool,
                               DType::kFloat16, DType::kDouble, DType::kUint32, DType::kUint64,
                               DType::kBfloat16};

// Samples that fit the binding, those made for its opsets first; a plain one where there are none.
std::vector<Sample> SamplesFor(const OpDef& op, OpsetRange opsets) {
  std::vector<Sample> out;
  for (const Sample& sample : op.domain.samples) {
    if (sample.opset >= opsets.first && sample.opset <= opsets.last) out.push_back(sample);
  }
  for (const Sample& sample : op.domain.samples) {
    if (sample.opset == 0) out.push_back(sample);
  }
  if (out.empty()) {
    const SampleInput input = {.shape = {2, 3}};
    out.push_back({.inputs = std::vector<SampleInput>(std::max(op.min_inputs, 0), input)});
  }
  return out;
}

Tensor ValueOf(const SampleInput& input, DType dtype) {
  Tensor tensor(TensorType{dtype, Shape(input.shape)});
  VisitDType(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* to = tensor.mutable_data<T>();
    const double plain = input.low <= 1 && 1 < input.high ? 1 : input.low;
    for (int64_t i = 0; i < tensor.num_elements(); ++i) {
      const bool given = static_cast<size_t>(i) < input.values.size();
      to[i] = static_cast<T>(given ? input.values[static_cast<size_t>(i)] : plain);
    }
  });
  return tensor;
}

// A model of one node, with the inputs of a call of it.
struct Probe {
  Model model;
  std::vector<Tensor> data;
  NamedViews inputs;
  std::vector<std::string> floating;
};

ModelValue AddValue(Model& model, const std::string& name) {
  model.value_names.push_back(name);
  const auto value = static_cast<ModelValue>(model.value_names.size() - 1);
  model.value_by_name.emplace(name, value);
  return value;
}

Probe MakeProbe(const OpDef& op, const OnnxBinding& binding, const Sample& sample, DType dtype,
                int opset) {
  Probe p;
  ModelNode node = {.op = &op,
                    .binding = &binding,
                    .attrs = sample.attrs,
                    .inputs = {},
                    .outputs = {},
                    .opset = opset};
  const bool in_text = !sample.text.empty();
  for (size_t i = 0; i < sample.inputs.size(); ++i) {
    const SampleInput& input = sample.inputs[i];
    if (input.absent) {
      node.inputs.push_back(-1);
      continue;
    }
    const std::string name = absl::StrCat("x", i);
    const ModelValue value = AddValue(p.model, name);
    node.inputs.push_back(value);
    const bool open = input.dtype == DType::kUndefined;
    const DType type = open ? dtype : input.dtype;
    p.data.push_back(ValueOf(input, type));
    if (input.constant && !in_text) {
      p.model.initializers.push_back({value, p.data.back()});
    } else {
      p.model.inputs.push_back({value, type, std::nullopt});
      p.inputs.emplace(name, p.data.back());
      if (IsFloating(type)) p.floating.push_back(name);
    }
  }
  if (in_text) {
    if (absl::StatusOr<Model> model = ModelOfSample(sample, opset); model.ok()) {
      p.model = *std::move(model);
    }
    return p;
  }
  for (int i = 0; i < sample.num_outputs; ++i) {
    node.outputs.push_back(AddValue(p.model, absl::StrCat("y", i)));
    p.model.outputs.push_back(node.outputs.back());
  }
  p.model.nodes.push_back(std::move(node));
  p.model.origins = std::make_shared<const std::vector<std::string>>(1, std::string(binding.name));
  return p;
}

// The types of the outputs, where the op takes this sample.
std::optional<std::vector<DType>> Try(const Probe& p, OpProbe* found) {
  const SpecializeRequest request = {.inputs = &p.inputs, .outputs = {}, .marks = {}};
  absl::StatusOr<Specialized> special = Specialize(p.model, request);
  if (!special.ok()) return std::nullopt;
  const Graph& graph = special->graph;
  std::vector<DType> types;
  for (const GraphOutput& o : graph.outputs()) types.push_back(graph.type(o.value).dtype);
  std::vector<std::string> wrt;
  for (const std::string& name : p.floating) {
    if (graph.FindInput(name) != kNoValue) wrt.push_back(name);
  }
  if (!wrt.empty() && std::any_of(types.begin(), types.end(), IsFloating)) {
    const absl::StatusOr<Graph> reverse = Vjp(graph, wrt);
    found->vjp |= reverse.ok();
    found->second |= reverse.ok() && Jvp(*reverse, wrt).ok();
    found->jvp = found->jvp || Jvp(graph, wrt).ok();
  }
  return types;
}

bool LeavesTypeOpen(const Sample& sample) {
  return std::any_of(sample.inputs.begin(), sample.inputs.end(), [](const SampleInput& input) {
    return !input.absent && input.dtype == DType::kUndefined;
  });
}

// What a sample with fixed types shows: those of its inputs, or, where it has none, of its outputs.
void AddFixedTypes(const Sample& sample, const std::vector<DType>& outputs,
                   std::vector<DType>* types) {
  bool any = false;
  for (const SampleInput& input : sample.inputs) {
    if (input.absent || input.constant) continue;
    types->push_back(input.dtype);
    any = true;
  }
  if (!any) types->insert(types->end(), outputs.begin(), outputs.end());
}

}  // namespace

OpsetRange OpsetsOf(const OnnxBinding& binding) {
  if (!binding.domain.empty()) return {binding.since, binding.since};
  return {std::max(binding.since, kMinOpset), std::min(binding.until, kMaxOpset)};
}

OpProbe ProbeOp(const OpDef& op, const OnnxBinding& binding, OpsetRange opsets) {
  OpProbe found;
  std::vector<DType>& types = found.dtypes;
  for (const Sample& sample : SamplesFor(op, opsets)) {
    const int opset = sample.opset != 0 ? sample.opset : std::clamp(18, opsets.first, opsets.last);
    const bool open = LeavesTypeOpen(sample);
    for (const DType dtype : kAllTypes) {
      if (open && std::find(types.begin(), types.end(), dtype) != types.end()) continue;
      const auto outputs = Try(MakeProbe(op, binding, sample, dtype, opset), &found);
      if (outputs && open) types.push_back(dtype);
      if (outputs && !open) AddFixedTypes(sample, *outputs, &types);
      if (!open) break;
    }
  }
  std::sort(types.begin(), types.end());
  types.erase(std::unique(types.begin(), types.end()), types.end());
  return found;
}

}  // namespace gradwire::server
