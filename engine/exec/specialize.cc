#include "engine/exec/specialize.h"

#include <algorithm>

#include "engine/exec/freezer.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

// What a model may expand to: composites build several core nodes each, loops and recurrent layers
// unroll. Also how many nodes of the model may be imported, those of a body once a trip.
constexpr int64_t kMaxNodesPerModelNode = 64;
constexpr int64_t kAlwaysAllowedNodes = 400'000;

// Distinct for each node of each trip of a body, with any likelihood: names a random stream.
int64_t StreamIn(int64_t outer, int64_t trip, int64_t node) {
  uint64_t x = static_cast<uint64_t>(outer) * 0x9E3779B97F4A7C15 + static_cast<uint64_t>(trip);
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9 + static_cast<uint64_t>(node);
  x = (x ^ (x >> 32)) * 0x94D049BB133111EB;
  return static_cast<int64_t>(x >> 1 | uint64_t{1} << 62);  // the model's own nodes count from 0
}

// Marks what `values` need, going backwards; gives the nodes.
std::vector<bool> NeededNodes(const Model& model, std::vector<bool>* values) {
  std::vector<bool> nodes(model.nodes.size(), false);
  for (size_t i = model.nodes.size(); i-- > 0;) {
    const ModelNode& node = model.nodes[i];
    nodes[i] = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ModelValue v) {
      return v >= 0 && (*values)[static_cast<size_t>(v)];
    });
    if (!nodes[i]) continue;
    for (const auto* reads : {&node.inputs, &node.captures}) {
      for (ModelValue v : *reads) {
        if (v >= 0) (*values)[static_cast<size_t>(v)] = true;
      }
    }
  }
  return nodes;
}

std::string DimsToString(const std::vector<ModelDim>& dims) {
  std::string out = "[";
  for (size_t i = 0; i < dims.size(); ++i) {
    absl::StrAppend(&out, i ? "," : "",
                    dims[i].extent >= 0      ? absl::StrCat(dims[i].extent)
                    : dims[i].symbol.empty() ? "?"
                                             : dims[i].symbol);
  }
  return out + "]";
}

// The model, or a run of a body, while its nodes are imported.
struct Scope {
  const Model& model;
  std::vector<ValueId> values;  // by ModelValue; kNoValue: not built (yet)
  int64_t trip = 0;
  int64_t stream = 0;  // of the node whose body it is
};

class Specializer final : public ImportScope {
 public:
  Specializer(const Model& model, const SpecializeRequest& request)
      : model_(model),
        request_(request),
        top_{model, std::vector<ValueId>(model.value_names.size(), kNoValue)},
        scope_(&top_),
        freezer_(builder_) {}

  absl::StatusOr<Specialized> Run() {
    ResolveNames();
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    MarkNeeded();
    DeclareInputs();
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    builder_.SetOrigins(model_.origins);
    imports_left_ =
        kAlwaysAllowedNodes + kMaxNodesPerModelNode * static_cast<int64_t>(model_.nodes.size());
    builder_.LimitNodes(imports_left_);
    for (size_t i = 0; i < model_.nodes.size(); ++i) {
      if (!needed_node_[i]) continue;
      ImportNode(i, static_cast<int64_t>(i));
      const bool full = HasReason(builder_.status(), Reason::kGraphTooLarge);
      problems_.Add(builder_.status(), "");
      if (full) break;  // every further node would say so
      builder_.ClearError();
    }
    CheckOutputs();
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    builder_.SetOrigin(-1);
    for (ModelValue v : outputs_) builder_.Output(Name(v), top_.values[static_cast<size_t>(v)]);
    if (request_.update_states) UpdateStates();
    Specialized out;
    GW_ASSIGN_OR_RETURN(out.graph, std::move(builder_).Build());
    out.frozen = freezer_.used();
    return out;
  }

  absl::StatusOr<Tensor> Freeze(ValueId value, Purpose purpose) override {
    return freezer_.Value(value, purpose);
  }

  std::vector<ValueId> Inline(const Model& body, absl::Span<const ValueId> inputs,
                              int64_t trip) override {
    Scope inner{body, std::vector<ValueId>(body.value_names.size(), kNoValue), trip, stream_};
    for (const ModelCapture& c : body.captures) {
      inner.values[static_cast<size_t>(c.inner)] = scope_->values[static_cast<size_t>(c.outer)];
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      inner.values[static_cast<size_t>(body.inputs[i].value)] = inputs[i];
    }
    for (const ModelInitializer& init : body.initializers) {
      auto [it, fresh] = constants_.emplace(&init, kNoValue);
      if (fresh) it->second = WithPrecisionAsked(builder_.Constant(init.data));
      inner.values[static_cast<size_t>(init.value)] = it->second;
    }
    auto [needed, fresh] = needed_in_body_.emplace(&body, nullptr);
    if (fresh) {
      std::vector<bool> values(body.value_names.size(), false);
      for (ModelValue v : body.outputs) values[static_cast<size_t>(v)] = true;
      needed->second = std::make_shared<const std::vector<bool>>(NeededNodes(body, &values));
    }
    const std::shared_ptr<const std::vector<bool>> nodes = needed->second;
    Scope* const outer_scope = std::exchange(scope_, &inner);
    const int64_t outer_stream = stream_;
    const int32_t outer_origin = builder_.origin();
    for (size_t i = 0; i < body.nodes.size() && builder_.ok(); ++i) {
      if ((*nodes)[i]) {
        ImportNode(i, StreamIn(inner.stream, inner.trip, static_cast<int64_t>(i)));
      }
    }
    scope_ = outer_scope;
    stream_ = outer_stream;
    builder_.SetOrigin(outer_origin);
    std::vector<ValueId> out;
    for (ModelValue v : body.outputs) out.push_back(inner.values[static_cast<size_t>(v)]);
    return builder_.ok() ? out : std::vector<ValueId>();
  }

 private:
  const std::string& Name(ModelValue v) const { return model_.value_names[static_cast<size_t>(v)]; }

  void UpdateStates() {
    for (const GraphInput& input : builder_.so_far().inputs()) {
      const auto state = states_.find(input.value);
      if (state == states_.end() || state->second == input.value) continue;
      builder_.Update(input.name, state->second);
    }
  }

  void ResolveNames() {
    for (const std::string& name : request_.outputs) {
      const ModelValue v = model_.FindValue(name);
      if (v >= 0) {
        outputs_.push_back(v);
      } else {
        problems_.Add(Reason::kUnknownOutput, "outputs",
                      absl::StrCat("there is no value \"", name, "\"; the model's outputs are ",
                                   ListOutputs()));
      }
    }
    if (request_.outputs.empty()) outputs_ = model_.outputs;
    for (const std::string& name : request_.marks) {
      const ModelValue v = model_.FindValue(name);
      if (v >= 0) {
        marks_.push_back(v);
      } else {
        problems_.Add(Reason::kUnknownWrt, "wrt",
                      absl::StrCat("there is no value \"", name, "\" to differentiate by"));
      }
    }
  }

  std::string ListOutputs() const {
    std::string out;
    for (size_t i = 0; i < model_.outputs.size() && i < 8; ++i) {
      absl::StrAppend(&out, i ? ", " : "", "\"", Name(model_.outputs[i]), "\"");
    }
    return out;
  }

  void MarkNeeded() {
    needed_value_.assign(model_.value_names.size(), false);
    for (ModelValue v : outputs_) needed_value_[static_cast<size_t>(v)] = true;
    for (ModelValue v : marks_) needed_value_[static_cast<size_t>(v)] = true;
    needed_node_ = NeededNodes(model_, &needed_value_);
  }

  DType WithPrecision(DType dtype) const {
    if (!IsFloating(dtype)) return dtype;
    switch (request_.precision) {
      case Precision::kAsGraph:
        return dtype;
      case Precision::kFloat:
        return DType::kFloat;
      case Precision::kDouble:
        return DType::kDouble;
    }
    return dtype;
  }

  void DeclareInputs() {
    absl::flat_hash_map<std::string, const ModelInitializer*> initializers;
    for (const ModelInitializer& init : model_.initializers) {
      initializers.emplace(Name(init.value), &init);
    }
    absl::flat_hash_map<std::string, const ModelInput*> inputs;
    for (const ModelInput& input : model_.inputs) inputs.emplace(Name(input.value), &input);
    for (const auto& [name, view] : *request_.inputs) {
      if (!inputs.contains(name) && !initializers.contains(name)) {
        problems_.Add(Reason::kUnknownInput, absl::StrCat("inputs.", name),
                      absl::StrCat("the model has no input or initialiser of that name; it has ",
                                   ListInputs()));
      }
    }
    for (const ModelInput& input : model_.inputs) DeclareInput(input);
    for (const ModelInitializer& init : model_.initializers) DeclareInitializer(init);
  }

  std::string ListInputs() const {
    std::string out;
    for (size_t i = 0; i < model_.inputs.size() && i < 8; ++i) {
      absl::StrAppend(&out, i ? ", " : "", "\"", Name(model_.inputs[i].value), "\"");
    }
    return out.empty() ? "no inputs" : out;
  }

  void DeclareInput(const ModelInput& input) {
    const std::string& name = Name(input.value);
    const std::string where = absl::StrCat("inputs.", name);
    auto given = request_.inputs->find(name);
    if (given == request_.inputs->end()) {
      if (needed_value_[static_cast<size_t>(input.value)]) {
        problems_.Add(Reason::kMissingInput, where, "a value for this input is missing");
      }
      return;
    }
    const TensorView& view = given->second;
    if (!CheckDType(where, input.dtype, view.dtype())) return;
    if (input.dims) CheckDims(where, *input.dims, view.shape());
    Declare(input.value, view, Stage::kPoint);
  }

  void DeclareInitializer(const ModelInitializer& init) {
    const std::string& name = Name(init.value);
    auto given = request_.inputs->find(name);
    if (given == request_.inputs->end()) {
      Declare(init.value, init.data, Stage::kParameter);
      return;
    }
    const std::string where = absl::StrCat("inputs.", name);
    if (!CheckDType(where, init.data.dtype(), given->second.dtype())) return;
    if (given->second.shape() != init.data.shape()) {
      problems_.Add(Reason::kShapeMismatch, where,
                    absl::StrCat("shape ", given->second.shape().ToString(),
                                 ", expected the initialiser's ", init.data.shape().ToString()));
      return;
    }
    Declare(init.value, given->second, Stage::kParameter);
  }

  bool CheckDType(const std::string& where, DType declared, DType got) {
    if (declared == DType::kUndefined || declared == got) return true;
    // With a precision asked for, either floating type will do: it is converted.
    if (request_.precision != Precision::kAsGraph && IsFloating(declared) && IsFloating(got)) {
      return true;
    }
    problems_.Add(Reason::kDtypeUnsupported, where,
                  absl::StrCat("is ", DTypeName(got), ", expected ", DTypeName(declared)));
    return false;
  }

  void CheckDims(const std::string& where, const std::vector<ModelDim>& dims, const Shape& shape) {
    bool fits = static_cast<int>(dims.size()) == shape.rank();
    for (size_t i = 0; fits && i < dims.size(); ++i) {
      const int64_t extent = shape[static_cast<int>(i)];
      if (dims[i].extent >= 0) {
        fits = dims[i].extent == extent;
      } else if (!dims[i].symbol.empty()) {
        auto [it, fresh] = symbols_.emplace(dims[i].symbol, std::pair(extent, where));
        if (!fresh && it->second.first != extent) {
          problems_.Add(Reason::kShapeMismatch, where,
                        absl::StrCat("dimension ", dims[i].symbol, " is ", extent, " here and ",
                                     it->second.first, " in ", it->second.second));
        }
      }
    }
    if (!fits) {
      problems_.Add(Reason::kShapeMismatch, where,
                    absl::StrCat("shape ", shape.ToString(), ", expected ", DimsToString(dims)));
    }
  }

  void Declare(ModelValue v, const TensorView& view, Stage stage) {
    if (!needed_value_[static_cast<size_t>(v)]) return;
    const ValueId id = builder_.Input(Name(v), {WithPrecision(view.dtype()), view.shape()}, stage);
    top_.values[static_cast<size_t>(v)] = id;
    if (stage == Stage::kParameter) states_.emplace(id, id);
    const bool varies = stage == Stage::kPoint && IsFloating(view.dtype()) &&
                        std::find(marks_.begin(), marks_.end(), v) != marks_.end();
    freezer_.Bind(id, Name(v), view, varies);
  }

  // Builds a node of the scope at hand. The builder keeps what is wrong with it.
  void ImportNode(size_t index, int64_t stream) {
    const ModelNode& node = scope_->model.nodes[index];
    const std::vector<ValueId>& values = scope_->values;
    absl::InlinedVector<ValueId, 4> in;
    for (ModelValue v : node.inputs) {
      in.push_back(v < 0 ? kNoValue : values[static_cast<size_t>(v)]);
      if (v >= 0 && in.back() == kNoValue) return;  // behind a node that failed
    }
    for (ModelValue v : node.captures) {
      if (values[static_cast<size_t>(v)] == kNoValue) return;
    }
    builder_.SetOrigin(node.origin);
    if (node.op == nullptr) return builder_.Fail(node.unsupported);
    if (--imports_left_ < 0) {
      return builder_.Fail(Error(Reason::kGraphTooLarge, "loops make the model too many nodes"));
    }
    int num_outputs = static_cast<int>(node.outputs.size());
    while (num_outputs > 0 && node.outputs[static_cast<size_t>(num_outputs - 1)] < 0) --num_outputs;
    stream_ = stream;
    NodeImport import(builder_, node.attrs, in, num_outputs, node.opset, request_.mode, *this,
                      stream, &states_);
    std::vector<ValueId> out =
        node.binding->import != nullptr ? node.binding->import(import) : ImportAsIs(node, import);
    for (size_t k = 0; k < node.outputs.size() && builder_.ok(); ++k) {
      if (node.outputs[k] < 0) continue;
      if (k < out.size() && out[k] != kNoValue) {
        SetValue(node.outputs[k], out[k]);
      } else {
        builder_.Fail(
            Error(Reason::kUnsupportedOp, absl::StrCat("output ", k, " is not supported")));
      }
    }
  }

  std::vector<ValueId> ImportAsIs(const ModelNode& node, const NodeImport& import) {
    std::vector<Attrs::Entry> entries;
    for (const Attrs::Entry& entry : node.attrs.entries()) {
      const auto& defs = node.op->attrs;
      const bool known = std::any_of(defs.begin(), defs.end(),
                                     [&](const AttrDef& d) { return d.name == entry.first; });
      if (!known) {
        builder_.Fail(
            Error(Reason::kInvalidModel, absl::StrCat("attribute ", entry.first, " is not known")));
        return {};
      }
      entries.push_back(entry);
    }
    return builder_.AddMulti(*node.op, import.inputs(), Attrs(std::move(entries)));
  }

  void SetValue(ModelValue v, ValueId id) {
    if (id >= 0) id = WithPrecisionAsked(id);
    if (scope_ == &top_ && std::find(marks_.begin(), marks_.end(), v) != marks_.end()) {
      if (id < 0) return builder_.Fail(NoTensor(v));
      id = Tag(builder_, id, Name(v));
      builder_.Mark(Name(v), id);
    }
    scope_->values[static_cast<size_t>(v)] = id;
  }

  ValueId WithPrecisionAsked(ValueId id) {
    const DType wanted = WithPrecision(builder_.dtype(id));
    return wanted == builder_.dtype(id) ? id : Cast(builder_, id, wanted);
  }

  absl::Status NoTensor(ModelValue v) const {
    return Error(Reason::kUnsupportedOp,
                 absl::StrCat("value \"", Name(v),
                              "\" is a sequence or an empty optional, expected a tensor"));
  }

  void CheckOutputs() {
    for (ModelValue v : outputs_) {
      if (top_.values[static_cast<size_t>(v)] < kNoValue) problems_.Add(NoTensor(v), "outputs");
    }
  }

  const Model& model_;
  const SpecializeRequest& request_;
  Problems problems_;
  std::vector<ModelValue> outputs_, marks_;
  std::vector<bool> needed_value_, needed_node_;
  absl::flat_hash_map<std::string, std::pair<int64_t, std::string>> symbols_;
  GraphBuilder builder_;
  NodeImport::States states_;
  Scope top_;
  Scope* scope_;        // of the node that is being imported
  int64_t stream_ = 0;  // of that node
  int64_t imports_left_ = 0;
  // What does not differ from run to run of a body.
  absl::flat_hash_map<const ModelInitializer*, ValueId> constants_;
  absl::flat_hash_map<const Model*, std::shared_ptr<const std::vector<bool>>> needed_in_body_;
  Freezer freezer_;
};

}  // namespace

absl::StatusOr<Specialized> Specialize(const Model& model, const SpecializeRequest& request) {
  return Specializer(model, request).Run();
}

std::vector<std::string> TrainableInitializers(const Model& model) {
  const std::vector<bool> states = model.States();
  std::vector<std::string> out;
  for (const ModelInitializer& init : model.initializers) {
    const auto v = static_cast<size_t>(init.value);
    if (IsFloating(init.data.dtype()) && !states[v]) out.push_back(model.value_names[v]);
  }
  return out;
}

std::vector<std::string> DefaultWrt(const Model& model, const NamedViews& inputs) {
  std::vector<std::string> out = TrainableInitializers(model);
  if (!out.empty()) return out;
  for (const ModelInput& input : model.inputs) {
    const std::string& name = model.value_names[static_cast<size_t>(input.value)];
    auto given = inputs.find(name);
    const DType dtype = given != inputs.end() ? given->second.dtype() : input.dtype;
    if (IsFloating(dtype)) out.push_back(name);
  }
  return out;
}

}  // namespace gradwire
