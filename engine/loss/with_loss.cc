#include "engine/loss/with_loss.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/graph/node_import.h"

namespace gradwire {
namespace {

// ---- A named loss is one node, whose import builds the loss's nodes

Attrs AttrsOf(const LossSpec& spec) {
  std::vector<std::string> names;
  std::vector<double> values;
  for (const auto& [name, value] : spec.settings) {
    names.push_back(name);
    values.push_back(value);
  }
  return Attrs{{"name", spec.name},
               {"reduction", static_cast<int64_t>(spec.reduction)},
               {"setting_names", std::move(names)},
               {"setting_values", std::move(values)},
               {"weight", spec.weight}};
}

std::vector<ValueId> ImportLoss(NodeImport& n) {
  LossSpec spec{.name = n.attrs.String("name"),
                .reduction = static_cast<LossSpec::Reduction>(n.attrs.Int("reduction")),
                .weight = n.attrs.tensor("weight")};
  const auto* names = std::get_if<std::vector<std::string>>(n.attrs.Find("setting_names"));
  for (size_t i = 0; i < names->size(); ++i) {
    spec.settings[(*names)[i]] = n.attrs.Floats("setting_values")[i];
  }
  return {AddLoss(n.b, spec, n.in(0), n.in(1))};
}

const OpDef kLossNode = {
    .name = "Loss", .doc = "", .onnx = {{.name = "Loss", .import = ImportLoss}}};

const OpDef kSameNode = {
    .name = "Same", .doc = "", .onnx = {{.name = "Same", .import = [](NodeImport& n) {
                                           return std::vector<ValueId>{n.in(0)};
                                         }}}};

// ---- Joining

class Joiner {
 public:
  explicit Joiner(const Model& model) : out_(model), origins_(*model.origins) {}

  absl::Status AddNamed(const LossOnModel& loss) {
    GW_RETURN_IF_ERROR(CheckLossSpec(loss.named));
    ModelValue prediction = -1;
    if (!loss.prediction.empty()) {
      prediction = out_.FindValue(loss.prediction);
    } else if (out_.outputs.size() == 1) {
      prediction = out_.outputs[0];
    }
    if (prediction < 0) {
      return Error(Reason::kUnknownOutput,
                   loss.prediction.empty()
                       ? absl::StrCat("output: the model has ", out_.outputs.size(),
                                      " outputs; say which one the loss is of")
                       : absl::StrCat("output: there is no value \"", loss.prediction, "\""));
    }
    ModelValue target = out_.FindValue(kTargetInput);
    if (target < 0) {
      target = NewValue(kTargetInput);
      out_.inputs.push_back({.value = target});
    }
    AddNode({.op = &kLossNode,
             .binding = &kLossNode.onnx[0],
             .attrs = AttrsOf(loss.named),
             .inputs = {prediction, target},
             .outputs = {NewValue(kLossOutput)},
             .opset = 1},
            absl::StrCat("loss \"", loss.named.name, "\""));
    return absl::OkStatus();
  }

  absl::Status AddGraph(const Model& loss) {
    if (loss.outputs.size() != 1) {
      return Error(Reason::kInvalidSpec,
                   absl::StrCat("loss.graph: has ", loss.outputs.size(), " outputs, expected one"));
    }
    for (const ModelNode& node : loss.nodes) {
      // A body's captures are values of the model that it came with.
      if (node.captures.empty()) continue;
      return Error(Reason::kInvalidSpec,
                   absl::StrCat("loss.graph: ", (*loss.origins)[static_cast<size_t>(node.origin)],
                                ": a body that reads values around it is not taken in a loss; put "
                                "the loss into the model"));
    }
    std::vector<ModelValue> ids(loss.value_names.size(), -1);
    const auto id = [&](ModelValue v) -> ModelValue& { return ids[static_cast<size_t>(v)]; };
    for (const ModelInput& input : loss.inputs) Connect(loss, input, &id(input.value));
    for (size_t v = 0; v < ids.size(); ++v) {
      if (ids[v] < 0) ids[v] = NewValue(absl::StrCat("gradwire.loss.", loss.value_names[v]));
    }
    for (const ModelInitializer& init : loss.initializers) AddConstant(id(init.value), init.data);
    for (ModelNode node : loss.nodes) {
      for (auto* list : {&node.inputs, &node.outputs}) {
        for (ModelValue& v : *list) v = v < 0 ? v : id(v);
      }
      AddNode(node,
              absl::StrCat("loss.graph: ", (*loss.origins)[static_cast<size_t>(node.origin)]));
    }
    // Its output may be one of its inputs, which has a name already.
    AddNode({.op = &kSameNode,
             .binding = &kSameNode.onnx[0],
             .attrs = {},
             .inputs = {id(loss.outputs[0])},
             .outputs = {NewValue(kLossOutput)},
             .opset = 1},
            "loss.graph");
    return absl::OkStatus();
  }

  Model Finish() && {
    out_.outputs = {out_.FindValue(kLossOutput)};
    out_.origins = std::make_shared<const std::vector<std::string>>(std::move(origins_));
    return std::move(out_);
  }

 private:
  ModelValue NewValue(std::string name) {
    const auto v = static_cast<ModelValue>(out_.value_names.size());
    out_.value_by_name.emplace(name, v);
    out_.value_names.push_back(std::move(name));
    return v;
  }

  void AddNode(ModelNode node, std::string label) {
    node.origin = static_cast<int32_t>(origins_.size());
    out_.nodes.push_back(std::move(node));
    origins_.push_back(std::move(label));
  }

  void Connect(const Model& loss, ModelInput input, ModelValue* id) {
    const std::string& name = loss.value_names[static_cast<size_t>(input.value)];
    *id = out_.FindValue(name);
    if (*id >= 0) return;
    input.value = *id = NewValue(name);
    if (input.dims) {
      // The letters of one model mean nothing in the other.
      for (ModelDim& dim : *input.dims) {
        if (!dim.symbol.empty()) dim.symbol = absl::StrCat("loss.", dim.symbol);
      }
    }
    out_.inputs.push_back(std::move(input));
  }

  void AddConstant(ModelValue v, const Tensor& value) {
    AddNode({.op = &kConstantOp,
             .binding = &kConstantOp.onnx[0],
             .attrs = Attrs{{"value", value}},
             .inputs = {},
             .outputs = {v},
             .opset = 1},
            absl::StrCat("loss.graph: ", out_.value_names[static_cast<size_t>(v)]));
  }

  Model out_;
  std::vector<std::string> origins_;
};

}  // namespace

absl::StatusOr<Model> WithLoss(const Model& model, const LossOnModel& loss) {
  Joiner joiner(model);
  if (loss.graph == nullptr) {
    GW_RETURN_IF_ERROR(joiner.AddNamed(loss));
  } else {
    GW_RETURN_IF_ERROR(joiner.AddGraph(*loss.graph));
  }
  return std::move(joiner).Finish();
}

}  // namespace gradwire
