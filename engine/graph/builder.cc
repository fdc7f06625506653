#include "engine/graph/builder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/hash/hash.h"

namespace gradwire {
namespace {

// Floating constants are folded up to this many elements (numbers that could be tables are left to
// the Program); integers and booleans, which decide shapes, further.
constexpr int64_t kMaxFoldedFloats = 4096;
constexpr int64_t kMaxFoldedIntegers = int64_t{1} << 20;
// What is not folded is computed by the Program: a loop of foldings may not fill the memory.
constexpr int64_t kMaxFoldedBytes = int64_t{128} << 20;

bool Foldable(const TensorType& type) {
  return type.shape.num_elements() <=
         (IsFloating(type.dtype) ? kMaxFoldedFloats : kMaxFoldedIntegers);
}

Tensor ScalarTensor(DType dtype, double value) {
  Tensor t(TensorType{dtype, Shape()});
  VisitDType(dtype, [&](auto tag) {
    *t.mutable_data<typename decltype(tag)::type>() =
        static_cast<typename decltype(tag)::type>(value);
  });
  return t;
}

}  // namespace

GraphBuilder::GraphBuilder() = default;
GraphBuilder::~GraphBuilder() = default;

GraphBuilder::GraphBuilder(const Graph& base) : graph_(base) {
  graph_.outputs_.clear();
  graph_.updates_.clear();
  for (size_t i = 0; i < graph_.nodes_.size(); ++i) {
    const Node& node = graph_.nodes_[i];
    consed_[HashNode(*node.op, graph_.operands(node), node.attrs)].push_back(
        static_cast<int32_t>(i));
  }
}

void GraphBuilder::Fail(const absl::Status& status) {
  if (!status_.ok() || status.ok()) return;
  if (graph_.origins_ != nullptr && origin_ >= 0 && !ReasonNameOf(status).empty()) {
    Problems where;
    where.Add(status, (*graph_.origins_)[static_cast<size_t>(origin_)]);
    status_ = where.ToStatus();
  } else {
    status_ = status;
  }
}

const TensorType& GraphBuilder::type(ValueId v) const {
  static const TensorType kNone{DType::kFloat, Shape()};
  return v < 0 || v >= graph_.num_values() ? kNone : graph_.type(v);
}

ValueId GraphBuilder::Input(absl::string_view name, TensorType type, Stage stage) {
  if (!ok()) return kNoValue;
  const ValueId v = graph_.num_values();
  graph_.types_.push_back(std::move(type));
  graph_.producers_.push_back(-1);
  graph_.inputs_.push_back({std::string(name), v, stage});
  return v;
}

ValueId GraphBuilder::Constant(Tensor value) {
  return Add(kConstantOp, {}, Attrs{{"value", std::move(value)}});
}

ValueId GraphBuilder::Scalar(DType dtype, double value) {
  return Constant(ScalarTensor(dtype, value));
}

ValueId GraphBuilder::Full(TensorType type, double value) {
  const ValueId scalar = Scalar(type.dtype, value);
  if (type.shape.rank() == 0) return scalar;
  return Add(
      kExpandOp, {scalar},
      Attrs{{"shape", std::vector<int64_t>(type.shape.dims().begin(), type.shape.dims().end())}});
}

ValueId GraphBuilder::Add(const OpDef& op, absl::Span<const ValueId> in, Attrs attrs) {
  std::vector<ValueId> out = AddMulti(op, in, std::move(attrs));
  return out.empty() ? kNoValue : out[0];
}

uint64_t GraphBuilder::HashNode(const OpDef& op, absl::Span<const ValueId> in,
                                const Attrs& attrs) const {
  return absl::HashOf(&op, in, attrs.digest());
}

absl::StatusOr<Attrs> GraphBuilder::Complete(const OpDef& op, Attrs attrs) const {
  if (op.attrs.empty()) return Attrs();
  bool same = attrs.entries().size() == op.attrs.size();
  for (const AttrDef& def : op.attrs) {
    const AttrValue* value = attrs.Find(def.name);
    if (value == nullptr) {
      if (def.required) {
        return Error(Reason::kInvalidModel, absl::StrCat("attribute ", def.name, " is missing"));
      }
      same = false;
    } else if (value->index() != def.fallback.index()) {
      return Error(Reason::kInvalidModel,
                   absl::StrCat("attribute ", def.name, " is of the wrong type"));
    }
  }
  if (same) return attrs;
  std::vector<Attrs::Entry> entries;
  for (const AttrDef& def : op.attrs) {
    const AttrValue* value = attrs.Find(def.name);
    entries.emplace_back(def.name, value != nullptr ? *value : def.fallback);
  }
  return Attrs(std::move(entries));
}

std::vector<ValueId> GraphBuilder::AddMulti(const OpDef& op, absl::Span<const ValueId> in,
                                            Attrs given) {
  if (!ok()) return {};
  if (--nodes_left_ < 0) {
    Fail(Error(Reason::kGraphTooLarge,
               "the model expands to too many nodes: loops and recurrent layers are unrolled"));
    return {};
  }
  if (op.infer == nullptr) {
    Fail(absl::InternalError(absl::StrCat(op.name, " is a composite and cannot be a node")));
    return {};
  }
  if (static_cast<int>(in.size()) < op.min_inputs || static_cast<int>(in.size()) > op.max_inputs) {
    Fail(Error(Reason::kInvalidModel,
               absl::StrCat("has ", in.size(), " inputs, expected ", op.min_inputs,
                            op.max_inputs == op.min_inputs ? ""
                            : op.max_inputs >= kVariadic   ? " or more"
                                                           : absl::StrCat(" to ", op.max_inputs))));
    return {};
  }
  absl::InlinedVector<TensorType, 4> types;
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] < 0 || in[i] >= graph_.num_values()) {
      Fail(Error(Reason::kInvalidModel, absl::StrCat("input ", i, " is left out")));
      return {};
    }
    types.push_back(type(in[i]));
  }
  absl::StatusOr<Attrs> attrs = Complete(op, std::move(given));
  if (!attrs.ok()) {
    Fail(attrs.status());
    return {};
  }
  const uint64_t hash = HashNode(op, in, *attrs);
  auto& bucket = consed_[hash];
  for (int32_t index : bucket) {
    const Node& node = graph_.nodes_[static_cast<size_t>(index)];
    if (node.op == &op && graph_.operands(node) == in && node.attrs == *attrs) {
      std::vector<ValueId> out;
      for (int32_t k = 0; k < node.num_outputs; ++k) out.push_back(node.first_output + k);
      return out;
    }
  }
  absl::StatusOr<std::vector<TensorType>> out_types = op.infer({types, *attrs});
  if (!out_types.ok()) {
    Fail(out_types.status());
    return {};
  }
  if (op.simplify != nullptr && out_types->size() == 1) {
    // `in` may point into the operand array, which the rule may grow.
    const absl::InlinedVector<ValueId, 4> operands(in.begin(), in.end());
    const ValueId simpler = op.simplify(*this, NodeView{*attrs, operands, {}}, (*out_types)[0]);
    if (!ok()) return {};
    if (simpler != kNoValue) return {simpler};
    if (auto folded = Fold(op, operands, *attrs, *out_types)) return *folded;
    if (!ok()) return {};
    const int32_t index = Append(op, operands, *std::move(attrs), *std::move(out_types));
    consed_[hash].push_back(index);
    return {graph_.nodes_.back().first_output};
  }
  const absl::InlinedVector<ValueId, 4> operands(in.begin(), in.end());
  if (auto folded = Fold(op, operands, *attrs, *out_types)) return *folded;
  if (!ok()) return {};
  const int32_t index = Append(op, operands, *std::move(attrs), *std::move(out_types));
  consed_[hash].push_back(index);
  const Node& node = graph_.nodes_.back();
  std::vector<ValueId> out;
  for (int32_t k = 0; k < node.num_outputs; ++k) out.push_back(node.first_output + k);
  return out;
}

std::optional<std::vector<ValueId>> GraphBuilder::Fold(const OpDef& op,
                                                       absl::Span<const ValueId> in,
                                                       const Attrs& attrs,
                                                       absl::Span<const TensorType> types) {
  if (&op == &kConstantOp || op.reference == nullptr || in.empty()) return std::nullopt;
  absl::InlinedVector<TensorView, 4> views;
  for (ValueId v : in) {
    const Tensor* value = ConstantValue(v);
    if (value == nullptr) return std::nullopt;
    views.push_back(*value);
  }
  // A repeated floating scalar stays one scalar.
  if (&op == &kExpandOp && IsFloating(types[0].dtype)) return std::nullopt;
  std::vector<Tensor> results;
  std::vector<void*> out;
  for (const TensorType& type : types) {
    if (!Foldable(type) || folded_bytes_ > kMaxFoldedBytes) return std::nullopt;
    folded_bytes_ += type.bytes();
    results.emplace_back(type);
    out.push_back(results.back().mutable_raw());
  }
  if (absl::Status s = op.reference({attrs, views, types, out}); !s.ok()) {
    Fail(s);
    return std::nullopt;
  }
  std::vector<ValueId> values;
  for (Tensor& t : results) values.push_back(Constant(std::move(t)));
  return values;
}

int32_t GraphBuilder::Append(const OpDef& op, absl::Span<const ValueId> in, Attrs attrs,
                             std::vector<TensorType> types) {
  const auto index = static_cast<int32_t>(graph_.nodes_.size());
  graph_.nodes_.push_back({&op, std::move(attrs), static_cast<int32_t>(graph_.operands_.size()),
                           static_cast<int32_t>(in.size()), graph_.num_values(),
                           static_cast<int32_t>(types.size()), origin_});
  graph_.operands_.insert(graph_.operands_.end(), in.begin(), in.end());
  for (TensorType& type : types) {
    graph_.types_.push_back(std::move(type));
    graph_.producers_.push_back(index);
  }
  return index;
}

void GraphBuilder::Output(absl::string_view name, ValueId value) {
  if (ok()) graph_.outputs_.push_back({std::string(name), value});
}

void GraphBuilder::Update(absl::string_view input, ValueId next) {
  if (!ok()) return;
  const ValueId state = graph_.FindInput(input);
  if (state == kNoValue || type(state) != type(next)) {
    Fail(Error(Reason::kShapeMismatch,
               absl::StrCat("update of \"", input, "\": ", type(next).ToString(), ", expected ",
                            type(state).ToString())));
    return;
  }
  graph_.updates_.push_back({std::string(input), next});
}

void GraphBuilder::Mark(absl::string_view name, ValueId value) {
  if (ok()) graph_.marks_.push_back({std::string(name), value});
}

const Node* GraphBuilder::Producer(ValueId v) const {
  if (v < 0 || v >= graph_.num_values()) return nullptr;
  const int32_t index = graph_.producer(v);
  return index < 0 ? nullptr : &graph_.nodes_[static_cast<size_t>(index)];
}

const Tensor* GraphBuilder::ConstantValue(ValueId v) const {
  const Node* node = Producer(v);
  return node != nullptr && node->op == &kConstantOp ? &node->attrs.tensor("value") : nullptr;
}

std::optional<double> GraphBuilder::UniformValue(ValueId v) const {
  const Node* node = Producer(v);
  if (node != nullptr && node->op == &kExpandOp) v = operands(*node)[0];
  const Tensor* value = ConstantValue(v);
  if (value == nullptr || value->num_elements() != 1) return std::nullopt;
  return ElementAsDouble(*value, 0);
}

absl::StatusOr<Graph> GraphBuilder::Build() && {
  GW_RETURN_IF_ERROR(status_);
  // Needed values, from the back; ids are topological, so one sweep does.
  std::vector<bool> needed(static_cast<size_t>(graph_.num_values()), false);
  for (const auto& o : graph_.outputs_) {
    if (o.value == kNoValue) return absl::InternalError("output of no value");
    needed[static_cast<size_t>(o.value)] = true;
  }
  for (const auto& m : graph_.marks_) needed[static_cast<size_t>(m.value)] = true;
  for (const auto& u : graph_.updates_) needed[static_cast<size_t>(u.next)] = true;
  for (size_t i = graph_.nodes_.size(); i-- > 0;) {
    const Node& node = graph_.nodes_[i];
    bool used = false;
    for (int32_t k = 0; k < node.num_outputs; ++k) {
      used = used || needed[static_cast<size_t>(node.first_output + k)];
    }
    if (!used) continue;
    needed[static_cast<size_t>(node.first_output)] = true;
    for (ValueId v : graph_.operands(node)) needed[static_cast<size_t>(v)] = true;
  }
  Graph out;
  std::vector<ValueId> renamed(needed.size(), kNoValue);
  auto take_value = [&](ValueId v, int32_t producer) {
    renamed[static_cast<size_t>(v)] = out.num_values();
    out.types_.push_back(std::move(graph_.types_[static_cast<size_t>(v)]));
    out.producers_.push_back(producer);
  };
  DigestBuilder digest;
  for (GraphInput& in : graph_.inputs_) {
    take_value(in.value, -1);
    in.value = renamed[static_cast<size_t>(in.value)];
    const TensorType& t = out.types_.back();
    digest.Add(in.name).Add(static_cast<int64_t>(t.dtype)).Add(t.shape.rank());
    for (int64_t d : t.shape.dims()) digest.Add(d);
    digest.Add(static_cast<int64_t>(in.stage));
  }
  out.inputs_ = std::move(graph_.inputs_);
  for (Node& node : graph_.nodes_) {
    if (!needed[static_cast<size_t>(node.first_output)]) continue;
    Node copy = std::move(node);
    digest.Add(copy.op->name).Add(copy.attrs.digest()).Add(copy.num_operands);
    const int32_t first = static_cast<int32_t>(out.operands_.size());
    for (ValueId v : graph_.operands(copy)) {
      out.operands_.push_back(renamed[static_cast<size_t>(v)]);
      digest.Add(out.operands_.back());
    }
    const ValueId old_output = copy.first_output;
    copy.first_operand = first;
    copy.first_output = out.num_values();
    const auto index = static_cast<int32_t>(out.nodes_.size());
    for (int32_t k = 0; k < copy.num_outputs; ++k) take_value(old_output + k, index);
    out.nodes_.push_back(std::move(copy));
  }
  auto named = [&](std::vector<GraphOutput>* list) {
    for (GraphOutput& o : *list) {
      o.value = renamed[static_cast<size_t>(o.value)];
      digest.Add(o.name).Add(o.value);
    }
    return std::move(*list);
  };
  out.outputs_ = named(&graph_.outputs_);
  out.marks_ = named(&graph_.marks_);
  for (StateUpdate& u : graph_.updates_) {
    u.next = renamed[static_cast<size_t>(u.next)];
    digest.Add(u.input).Add(u.next);
  }
  out.updates_ = std::move(graph_.updates_);
  out.origins_ = std::move(graph_.origins_);
  out.digest_ = digest.Finish();
  return out;
}

}  // namespace gradwire
