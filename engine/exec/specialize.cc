#include "engine/exec/specialize.h"

#include <algorithm>

#include "engine/exec/freezer.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

// A composite may build many core nodes; this many per model node is far above any honest model.
constexpr size_t kMaxNodesPerModelNode = 64;
constexpr size_t kAlwaysAllowedNodes = 1'000'000;

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

class Specializer {
 public:
  Specializer(const Model& model, const SpecializeRequest& request)
      : model_(model),
        request_(request),
        values_(model.value_names.size(), kNoValue),
        freezer_(builder_) {}

  absl::StatusOr<Specialized> Run() {
    ResolveNames();
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    MarkNeeded();
    DeclareInputs();
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    builder_.SetOrigins(model_.origins);
    for (size_t i = 0; i < model_.nodes.size(); ++i) {
      if (needed_node_[i]) ImportNode(i);
      if (builder_.so_far().nodes().size() >
          kAlwaysAllowedNodes + kMaxNodesPerModelNode * model_.nodes.size()) {
        return Error(Reason::kGraphTooLarge, "the model's nodes expand to too many");
      }
    }
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    builder_.SetOrigin(-1);
    for (ModelValue v : outputs_) builder_.Output(Name(v), values_[static_cast<size_t>(v)]);
    if (request_.update_states) UpdateStates();
    Specialized out;
    GW_ASSIGN_OR_RETURN(out.graph, std::move(builder_).Build());
    out.frozen = freezer_.used();
    return out;
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
    needed_value_.assign(values_.size(), false);
    needed_node_.assign(model_.nodes.size(), false);
    for (ModelValue v : outputs_) needed_value_[static_cast<size_t>(v)] = true;
    for (ModelValue v : marks_) needed_value_[static_cast<size_t>(v)] = true;
    for (size_t i = model_.nodes.size(); i-- > 0;) {
      const ModelNode& node = model_.nodes[i];
      needed_node_[i] = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ModelValue v) {
        return v >= 0 && needed_value_[static_cast<size_t>(v)];
      });
      if (!needed_node_[i]) continue;
      for (ModelValue v : node.inputs) {
        if (v >= 0) needed_value_[static_cast<size_t>(v)] = true;
      }
    }
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
    values_[static_cast<size_t>(v)] = id;
    if (stage == Stage::kParameter) states_.emplace(id, id);
    const bool varies = stage == Stage::kPoint && IsFloating(view.dtype()) &&
                        std::find(marks_.begin(), marks_.end(), v) != marks_.end();
    freezer_.Bind(id, Name(v), view, varies);
  }

  void ImportNode(size_t index) {
    const ModelNode& node = model_.nodes[index];
    absl::InlinedVector<ValueId, 4> in;
    for (ModelValue v : node.inputs) {
      in.push_back(v < 0 ? kNoValue : values_[static_cast<size_t>(v)]);
      if (v >= 0 && in.back() == kNoValue) return;  // behind a node that failed
    }
    builder_.SetOrigin(static_cast<int32_t>(index));
    int num_outputs = static_cast<int>(node.outputs.size());
    while (num_outputs > 0 && node.outputs[static_cast<size_t>(num_outputs - 1)] < 0) --num_outputs;
    NodeImport import(
        builder_, node.attrs, in, num_outputs, node.opset, request_.mode,
        [this](ValueId v) { return freezer_.Value(v); }, static_cast<int64_t>(index), &states_);
    std::vector<ValueId> out =
        node.binding->import != nullptr ? node.binding->import(import) : ImportAsIs(node, in);
    if (!builder_.ok()) {
      problems_.Add(builder_.status(), "");
      builder_.ClearError();
      return;
    }
    for (size_t k = 0; k < node.outputs.size(); ++k) {
      if (node.outputs[k] < 0) continue;
      if (k >= out.size() || out[k] == kNoValue) {
        problems_.Add(Reason::kUnsupportedOp, (*model_.origins)[index],
                      absl::StrCat("output ", k, " is not supported"));
        continue;
      }
      SetValue(node.outputs[k], out[k]);
    }
  }

  std::vector<ValueId> ImportAsIs(const ModelNode& node, absl::Span<const ValueId> in) {
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
    return builder_.AddMulti(*node.op, in, Attrs(std::move(entries)));
  }

  void SetValue(ModelValue v, ValueId id) {
    const DType wanted = WithPrecision(builder_.dtype(id));
    if (wanted != builder_.dtype(id)) id = Cast(builder_, id, wanted);
    if (std::find(marks_.begin(), marks_.end(), v) != marks_.end()) {
      id = Tag(builder_, id, Name(v));
      builder_.Mark(Name(v), id);
    }
    values_[static_cast<size_t>(v)] = id;
  }

  const Model& model_;
  const SpecializeRequest& request_;
  Problems problems_;
  std::vector<ModelValue> outputs_, marks_;
  std::vector<bool> needed_value_, needed_node_;
  absl::flat_hash_map<std::string, std::pair<int64_t, std::string>> symbols_;
  GraphBuilder builder_;
  std::vector<ValueId> values_;  // by ModelValue; kNoValue: not built (yet)
  NodeImport::States states_;
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
