#include "engine/onnx/import.h"

#include <algorithm>
#include <memory>

#include "engine/onnx/inline_functions.h"
#include "engine/onnx/tensor_proto.h"

namespace gradwire {
namespace {

constexpr char kReservedPrefix[] = "gradwire.";

// Names in messages are the user's: cut and made printable.
std::string Quoted(absl::string_view name) {
  std::string out = "\"";
  for (char c : name.substr(0, 80)) out += static_cast<unsigned char>(c) < 32 ? '?' : c;
  return absl::StrCat(out, name.size() > 80 ? "..." : "", "\"");
}

absl::StatusOr<AttrValue> AttributeValue(const onnx::AttributeProto& attr) {
  switch (attr.type()) {
    case onnx::AttributeProto::INT:
      return AttrValue(static_cast<int64_t>(attr.i()));
    case onnx::AttributeProto::FLOAT:
      return AttrValue(static_cast<double>(attr.f()));
    case onnx::AttributeProto::STRING:
      return AttrValue(attr.s());
    case onnx::AttributeProto::INTS:
      return AttrValue(std::vector<int64_t>(attr.ints().begin(), attr.ints().end()));
    case onnx::AttributeProto::FLOATS:
      return AttrValue(std::vector<double>(attr.floats().begin(), attr.floats().end()));
    case onnx::AttributeProto::STRINGS:
      return AttrValue(std::vector<std::string>(attr.strings().begin(), attr.strings().end()));
    case onnx::AttributeProto::TENSOR: {
      GW_ASSIGN_OR_RETURN(Tensor t, TensorFromProto(attr.t()));
      return AttrValue(std::move(t));
    }
    default:
      return Error(Reason::kUnsupportedOp,
                   absl::StrCat("attribute ", Quoted(attr.name()), " is of a kind (",
                                static_cast<int>(attr.type()), ") that is not supported"));
  }
}

class Importer {
 public:
  Importer(const onnx::ModelProto& proto, const OpRegistry& ops, const ImportLimits& limits)
      : proto_(proto), graph_(proto.graph()), ops_(ops), limits_(limits) {}

  absl::StatusOr<Model> Run() {
    if (graph_.node_size() > limits_.max_nodes) {
      return Error(Reason::kGraphTooLarge,
                   absl::StrCat("the model has ", graph_.node_size(), " nodes, the limit is ",
                                limits_.max_nodes, " (--max-nodes)"));
    }
    GW_ASSIGN_OR_RETURN(nodes_, InlineFunctions(proto_, ops_, limits_.max_nodes));
    for (const onnx::TensorProto& init : graph_.initializer()) ReadInitializer(init);
    if (graph_.sparse_initializer_size() > 0) {
      problems_.Add(Reason::kInvalidModel, "model", "sparse initialisers are not supported");
    }
    for (const onnx::ValueInfoProto& input : graph_.input()) ReadInput(input);
    DefineOutputs();
    ReadNodes();
    ReadOutputs();
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    GW_RETURN_IF_ERROR(Sort());
    return std::move(model_);
  }

 private:
  // A new value; a name may be defined once.
  ModelValue Define(const std::string& name, const std::string& where) {
    const auto v = static_cast<ModelValue>(model_.value_names.size());
    if (name.empty()) {
      problems_.Add(Reason::kInvalidModel, where, "has an empty name");
    } else if (absl::string_view(name).substr(0, sizeof(kReservedPrefix) - 1) == kReservedPrefix) {
      problems_.Add(Reason::kInvalidModel, where,
                    absl::StrCat("name ", Quoted(name), " begins with the reserved gradwire."));
    }
    auto [it, fresh] = model_.value_by_name.emplace(name, v);
    if (!fresh) {
      problems_.Add(Reason::kInvalidModel, where,
                    absl::StrCat("value ", Quoted(name), " is defined twice"));
      return it->second;
    }
    model_.value_names.push_back(name);
    return v;
  }

  void ReadInitializer(const onnx::TensorProto& proto) {
    const std::string where = absl::StrCat("initializer ", Quoted(proto.name()));
    absl::StatusOr<Tensor> tensor = TensorFromProto(proto);
    problems_.Add(tensor.status(), where);
    const ModelValue v = Define(proto.name(), where);
    if (tensor.ok()) model_.initializers.push_back({v, *std::move(tensor)});
  }

  void ReadInput(const onnx::ValueInfoProto& info) {
    auto known = model_.value_by_name.find(info.name());
    // Before IR version 4 every initialiser is listed as an input too.
    if (known != model_.value_by_name.end() &&
        known->second < static_cast<ModelValue>(model_.initializers.size())) {
      return;
    }
    const std::string where = absl::StrCat("input ", Quoted(info.name()));
    ModelInput input;
    input.value = Define(info.name(), where);
    if (!info.type().has_tensor_type()) {
      if (info.type().value_case() != onnx::TypeProto::VALUE_NOT_SET) {
        problems_.Add(Reason::kUnsupportedOp, where, "is not a tensor");
      }
      model_.inputs.push_back(std::move(input));
      return;
    }
    const onnx::TypeProto_Tensor& type = info.type().tensor_type();
    input.dtype = DTypeFromOnnx(type.elem_type());
    if (input.dtype == DType::kUndefined && type.elem_type() != 0) {
      problems_.Add(Reason::kDtypeUnsupported, where,
                    absl::StrCat("element type ", type.elem_type(), " is not supported"));
    }
    if (type.has_shape()) input.dims = ReadDims(type.shape(), where);
    model_.inputs.push_back(std::move(input));
  }

  std::vector<ModelDim> ReadDims(const onnx::TensorShapeProto& shape, const std::string& where) {
    std::vector<ModelDim> dims;
    std::vector<int64_t> known;
    for (const auto& d : shape.dim()) {
      ModelDim dim;
      if (d.has_dim_value()) {
        dim.extent = d.dim_value();
        known.push_back(dim.extent);
      } else {
        dim.symbol = d.dim_param();
      }
      dims.push_back(std::move(dim));
    }
    if (absl::StatusOr<Shape> made = Shape::Make(known); !made.ok()) {
      problems_.Add(Reason::kInvalidModel, where, std::string(made.status().message()));
    }
    return dims;
  }

  void DefineOutputs() {
    outputs_.resize(nodes_.size());
    auto origins = std::make_shared<std::vector<std::string>>();
    for (size_t i = 0; i < nodes_.size(); ++i) {
      origins->push_back(NodeLabel(i, *nodes_[i].proto));
      for (const std::string& name : nodes_[i].proto->output()) {
        outputs_[i].push_back(name.empty() ? -1 : Define(name, origins->back()));
      }
    }
    model_.origins = std::move(origins);
  }

  void ReadNodes() {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const onnx::NodeProto& proto = *nodes_[i].proto;
      const std::string& where = (*model_.origins)[i];
      ModelNode node;
      node.outputs = outputs_[i];
      for (const std::string& name : proto.input()) {
        node.inputs.push_back(-1);
        if (name.empty()) continue;
        auto it = model_.value_by_name.find(name);
        if (it == model_.value_by_name.end()) {
          problems_.Add(Reason::kInvalidModel, where,
                        absl::StrCat("input ", Quoted(name), " is not defined anywhere"));
        } else {
          node.inputs.back() = it->second;
        }
      }
      FindOp(nodes_[i], where, &node);
      if (node.op != nullptr) node.attrs = ReadAttrs(proto, where);
      model_.nodes.push_back(std::move(node));
    }
  }

  void FindOp(const FlatNode& flat, const std::string& where, ModelNode* node) {
    const std::string domain = flat.proto->domain() == "ai.onnx" ? "" : flat.proto->domain();
    const std::string& type = flat.proto->op_type();
    node->op = nullptr;
    auto version = flat.opsets->find(domain);
    if (!ops_.KnowsOnnx(domain, type)) {
      problems_.Add(Reason::kUnsupportedOp, where,
                    absl::StrCat("op ", domain.empty() ? "" : Quoted(domain),
                                 domain.empty() ? "" : ".", Quoted(type), " is not supported"));
      return;
    }
    if (version == flat.opsets->end()) {
      problems_.Add(Reason::kInvalidModel, where,
                    absl::StrCat("opset_import names no version for domain ", Quoted(domain)));
      return;
    }
    if (domain.empty() && (version->second < kMinOpset || version->second > kMaxOpset)) {
      problems_.Add(Reason::kUnsupportedOpset, where,
                    absl::StrCat("opset ", version->second, ", supported are ", kMinOpset, " to ",
                                 kMaxOpset));
      return;
    }
    node->opset = static_cast<int>(std::min<int64_t>(version->second, 1000));
    const OpRegistry::Match match = ops_.FindOnnx(domain, type, node->opset);
    if (match.op == nullptr) {
      problems_.Add(Reason::kUnsupportedOp, where,
                    absl::StrCat("op ", Quoted(type), " is not supported in opset ", node->opset));
      return;
    }
    node->op = match.op;
    node->binding = match.binding;
  }

  Attrs ReadAttrs(const onnx::NodeProto& proto, const std::string& where) {
    std::vector<Attrs::Entry> entries;
    for (const onnx::AttributeProto& attr : proto.attribute()) {
      const bool twice = std::any_of(entries.begin(), entries.end(),
                                     [&](const Attrs::Entry& e) { return e.first == attr.name(); });
      absl::StatusOr<AttrValue> value = AttributeValue(attr);
      if (twice || !value.ok()) {
        problems_.Add(twice ? Error(Reason::kInvalidModel,
                                    absl::StrCat("attribute ", Quoted(attr.name()), " twice"))
                            : value.status(),
                      where);
        continue;
      }
      entries.emplace_back(attr.name(), *std::move(value));
      if (entries.size() > 64) {
        problems_.Add(Reason::kInvalidModel, where, "has more than 64 attributes");
        break;
      }
    }
    return Attrs(std::move(entries));
  }

  void ReadOutputs() {
    std::vector<bool> seen(model_.value_names.size(), false);
    for (const onnx::ValueInfoProto& info : graph_.output()) {
      auto it = model_.value_by_name.find(info.name());
      if (it == model_.value_by_name.end()) {
        problems_.Add(Reason::kInvalidModel, absl::StrCat("output ", Quoted(info.name())),
                      "is not defined by any node, input or initialiser");
      } else if (seen[static_cast<size_t>(it->second)]) {
        problems_.Add(Reason::kInvalidModel, absl::StrCat("output ", Quoted(info.name())),
                      "is listed twice");
      } else {
        seen[static_cast<size_t>(it->second)] = true;
        model_.outputs.push_back(it->second);
      }
    }
    if (graph_.output_size() == 0) {
      problems_.Add(Reason::kInvalidModel, "model", "has no outputs");
    }
  }

  // Puts nodes in topological order, keeping the file's order where it is one already.
  absl::Status Sort() {
    std::vector<int32_t> producer(model_.value_names.size(), -1);
    for (size_t i = 0; i < model_.nodes.size(); ++i) {
      for (ModelValue v : model_.nodes[i].outputs) {
        if (v >= 0) producer[static_cast<size_t>(v)] = static_cast<int32_t>(i);
      }
    }
    std::vector<std::pair<int32_t, int32_t>> edges;  // producer -> consumer
    std::vector<int32_t> waiting(model_.nodes.size(), 0);
    for (size_t i = 0; i < model_.nodes.size(); ++i) {
      for (ModelValue v : model_.nodes[i].inputs) {
        if (v < 0 || producer[static_cast<size_t>(v)] < 0) continue;
        edges.emplace_back(producer[static_cast<size_t>(v)], static_cast<int32_t>(i));
        ++waiting[i];
      }
    }
    if (std::all_of(edges.begin(), edges.end(), [](auto e) { return e.first < e.second; })) {
      return absl::OkStatus();
    }
    std::stable_sort(edges.begin(), edges.end());
    std::vector<int32_t> order;
    for (size_t i = 0; i < waiting.size(); ++i) {
      if (waiting[i] == 0) order.push_back(static_cast<int32_t>(i));
    }
    for (size_t at = 0; at < order.size(); ++at) {
      auto it =
          std::lower_bound(edges.begin(), edges.end(), std::pair<int32_t, int32_t>(order[at], -1));
      for (; it != edges.end() && it->first == order[at]; ++it) {
        if (--waiting[static_cast<size_t>(it->second)] == 0) order.push_back(it->second);
      }
    }
    if (order.size() != model_.nodes.size()) {
      const size_t stuck = static_cast<size_t>(
          std::find_if(waiting.begin(), waiting.end(), [](int32_t w) { return w > 0; }) -
          waiting.begin());
      return Error(Reason::kInvalidModel,
                   absl::StrCat((*model_.origins)[stuck], ": is part of, or behind, a cycle of ",
                                model_.nodes.size() - order.size(), " nodes"));
    }
    std::vector<ModelNode> nodes;
    auto origins = std::make_shared<std::vector<std::string>>();
    for (int32_t i : order) {
      nodes.push_back(std::move(model_.nodes[static_cast<size_t>(i)]));
      origins->push_back((*model_.origins)[static_cast<size_t>(i)]);
    }
    model_.nodes = std::move(nodes);
    model_.origins = std::move(origins);
    return absl::OkStatus();
  }

  const onnx::ModelProto& proto_;
  const onnx::GraphProto& graph_;
  const OpRegistry& ops_;
  const ImportLimits limits_;
  Problems problems_;
  std::vector<FlatNode> nodes_;
  std::vector<std::vector<ModelValue>> outputs_;  // of nodes_
  Model model_;
};

}  // namespace

std::string NodeLabel(size_t index, const onnx::NodeProto& node) {
  return absl::StrCat("node ", index, node.name().empty() ? "" : " ",
                      node.name().empty() ? "" : Quoted(node.name()), " (",
                      node.op_type().substr(0, 80), ")");
}

absl::StatusOr<onnx::ModelProto> ParseOnnx(absl::string_view bytes) {
  onnx::ModelProto proto;
  if (bytes.size() > static_cast<size_t>(INT32_MAX) ||
      !proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Error(Reason::kInvalidModel,
                 absl::StrCat("these ", bytes.size(), " bytes are not an onnx.ModelProto"));
  }
  if (!proto.has_graph()) return Error(Reason::kInvalidModel, "the model has no graph");
  return proto;
}

absl::StatusOr<Model> ImportModel(const onnx::ModelProto& proto, const OpRegistry& ops,
                                  const ImportLimits& limits) {
  return Importer(proto, ops, limits).Run();
}

}  // namespace gradwire
