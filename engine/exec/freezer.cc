#include "engine/exec/freezer.h"

#include <algorithm>

#include "engine/base/checked.h"
#include "engine/exec/specialize.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

constexpr int64_t kMaxFrozenBytes = int64_t{256} << 20;
constexpr int64_t kMaxFrozenFlops = int64_t{4} << 30;  // a few seconds of reference loops

absl::Status RunReference(const Node& node, absl::Span<const TensorView> in,
                          absl::Span<const TensorType> types, std::vector<Tensor>* out) {
  std::vector<void*> raw;
  for (const TensorType& type : types) {
    GW_ASSIGN_OR_RETURN(Tensor t, Tensor::Make(type));
    raw.push_back(t.mutable_raw());
    out->push_back(std::move(t));
  }
  if (node.op == &kConstantOp) {
    (*out)[0] = node.attrs.tensor("value");
    return absl::OkStatus();
  }
  return node.op->reference({node.attrs, in, types, raw});
}

std::vector<TensorType> OutputTypes(const Graph& graph, const Node& node) {
  std::vector<TensorType> types;
  for (int32_t k = 0; k < node.num_outputs; ++k) types.push_back(graph.type(node.first_output + k));
  return types;
}

int64_t FlopsOf(const Node& node, absl::Span<const TensorView> in,
                absl::Span<const TensorType> out) {
  int64_t flops = 0;
  for (const TensorType& type : out) flops = SaturatingAdd(flops, type.shape.num_elements());
  for (const TensorView& view : in) flops = SaturatingAdd(flops, view.num_elements());
  if (node.op->flops == nullptr) return flops;
  std::vector<TensorType> types;
  for (const TensorView& view : in) types.push_back(view.type());
  return SaturatingAdd(flops, node.op->flops({types, node.attrs}, out[0]));
}

}  // namespace

void Freezer::Bind(ValueId value, absl::string_view name, TensorView data, bool varies) {
  inputs_.emplace(value, Bound{std::string(name), std::move(data), varies});
}

std::vector<std::string> Freezer::used() const {
  std::vector<std::string> out;
  for (const auto& [value, bound] : inputs_) {
    if (bound.used) out.push_back(bound.name);
  }
  std::sort(out.begin(), out.end());
  return out;
}

absl::StatusOr<Tensor> Freezer::InputValue(ValueId value, ImportScope::Purpose purpose) {
  auto it = inputs_.find(value);
  if (it == inputs_.end()) {
    return Error(Reason::kDataDependentShape, "a shape or an axis depends on a random value");
  }
  Bound& bound = it->second;
  if (purpose == ImportScope::Purpose::kShape && bound.varies) {
    return Error(Reason::kDataDependentShape,
                 absl::StrCat("a shape or an axis depends on the input \"", bound.name,
                              "\", by which a derivative is taken"));
  }
  if (bound.data.raw() == nullptr && bound.data.bytes() > 0) {
    return Error(Reason::kDataDependentShape,
                 absl::StrCat("a shape or an axis depends on the values of \"", bound.name,
                              "\", which are not known here"));
  }
  bound.used = true;
  return Converted(bound.data, builder_.dtype(value));
}

absl::Status Freezer::EvaluateNode(const Node& node) {
  const Graph& graph = builder_.so_far();
  if (node.op == &kTagOp) {
    return Error(Reason::kDataDependentShape,
                 absl::StrCat("a shape or an axis depends on \"", node.attrs.String("name"),
                              "\", by which a derivative is taken"));
  }
  std::vector<TensorView> in;
  for (ValueId v : graph.operands(node)) in.push_back(known_.at(v));
  const std::vector<TensorType> types = OutputTypes(graph, node);
  for (const TensorType& t : types) bytes_ = std::min(bytes_ + t.bytes(), INT64_MAX / 2);
  if (bytes_ > kMaxFrozenBytes) {
    return Error(Reason::kMemoryLimit,
                 absl::StrCat("evaluating a shape takes more than ", kMaxFrozenBytes, " bytes"));
  }
  flops_ = SaturatingAdd(flops_, FlopsOf(node, in, types));
  if (flops_ > kMaxFrozenFlops) {
    return Error(Reason::kGraphTooLarge,
                 "evaluating what decides shapes and branches takes too many operations");
  }
  std::vector<Tensor> out;
  GW_RETURN_IF_ERROR(RunReference(node, in, types, &out));
  for (int32_t k = 0; k < node.num_outputs; ++k) {
    known_[node.first_output + k] = out[static_cast<size_t>(k)];
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> Freezer::Value(ValueId value, ImportScope::Purpose purpose) {
  if (const Tensor* constant = builder_.ConstantValue(value)) return *constant;
  const Graph& graph = builder_.so_far();
  std::vector<ValueId> stack = {value};  // depth first, without recursion
  while (!stack.empty()) {
    const ValueId v = stack.back();
    if (known_.contains(v)) {
      stack.pop_back();
      continue;
    }
    const int32_t producer = graph.producer(v);
    if (producer < 0) {
      GW_ASSIGN_OR_RETURN(known_[v], InputValue(v, purpose));
      continue;
    }
    const Node& node = graph.nodes()[static_cast<size_t>(producer)];
    bool ready = true;
    for (ValueId operand : graph.operands(node)) {
      if (known_.contains(operand)) continue;
      ready = false;
      stack.push_back(operand);
    }
    if (!ready) continue;
    GW_RETURN_IF_ERROR(EvaluateNode(node));
  }
  return known_.at(value);
}

absl::StatusOr<std::vector<Tensor>> EvaluateByReference(const Graph& graph,
                                                        const NamedViews& inputs,
                                                        absl::Span<const ValueId> wanted,
                                                        int64_t max_bytes) {
  std::vector<Tensor> values(static_cast<size_t>(graph.num_values()));
  int64_t bytes = 0;
  for (const GraphInput& input : graph.inputs()) {
    auto it = inputs.find(input.name);
    if (it == inputs.end()) {
      return Error(Reason::kMissingInput, absl::StrCat("inputs.", input.name, ": missing"));
    }
    values[static_cast<size_t>(input.value)] = Converted(it->second, graph.type(input.value).dtype);
  }
  for (const Node& node : graph.nodes()) {
    std::vector<TensorView> in;
    for (ValueId v : graph.operands(node)) in.push_back(values[static_cast<size_t>(v)]);
    const std::vector<TensorType> types = OutputTypes(graph, node);
    for (const TensorType& t : types) bytes = std::min(bytes + t.bytes(), INT64_MAX / 2);
    if (bytes > max_bytes) {
      return Error(Reason::kMemoryLimit, absl::StrCat("more than ", max_bytes, " bytes"));
    }
    std::vector<Tensor> out;
    GW_RETURN_IF_ERROR(RunReference(node, in, types, &out));
    for (int32_t k = 0; k < node.num_outputs; ++k) {
      values[static_cast<size_t>(node.first_output + k)] = std::move(out[static_cast<size_t>(k)]);
    }
  }
  std::vector<Tensor> result;
  for (ValueId v : wanted) result.push_back(values[static_cast<size_t>(v)]);
  return result;
}

}  // namespace gradwire
