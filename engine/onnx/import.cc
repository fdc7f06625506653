#include "engine/onnx/import.h"

#include <algorithm>
#include <memory>

#include "absl/container/flat_hash_set.h"
#include "engine/onnx/inline_functions.h"
#include "engine/onnx/tensor_proto.h"

namespace gradwire {
namespace {

constexpr char kReservedPrefix[] = "gradwire.";
constexpr size_t kMaxPlace = 240;  // bytes of a label that those in bodies repeat

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
    case onnx::AttributeProto::TYPE_PROTO:  // of what an empty optional would hold: no one asks
      return AttrValue(std::string());
    default:
      return Error(Reason::kUnsupportedOp,
                   absl::StrCat("attribute ", Quoted(attr.name()), " is of a kind (",
                                static_cast<int>(attr.type()), ") that is not supported"));
  }
}

// What the importers of a model's graphs share.
struct ImportContext {
  const OpRegistry& ops;
  FunctionInliner inliner;
  Problems problems;
  std::vector<std::string> origins;  // labels of all nodes
};

// Imports one graph: the model's, or a body, which a node of the graph `outer` holds.
class Importer {
 public:
  Importer(ImportContext& context, const onnx::GraphProto& graph, std::vector<FlatNode> nodes,
           Importer* outer, std::string label)
      : context_(context),
        problems_(context.problems),
        graph_(graph),
        nodes_(std::move(nodes)),
        outer_(outer),
        label_(std::move(label)),
        depth_(outer == nullptr ? 0 : outer->depth_ + 1) {}

  // Problems are those of the context.
  Model Run() {
    for (const onnx::TensorProto& init : graph_.initializer()) ReadInitializer(init);
    if (graph_.sparse_initializer_size() > 0) {
      problems_.Add(Reason::kInvalidModel, is_body() ? label_ : "model",
                    "sparse initialisers are not supported");
    }
    for (const onnx::ValueInfoProto& input : graph_.input()) ReadInput(input);
    DefineOutputs();
    ReadNodes();
    ReadOutputs();
    if (problems_.empty()) problems_.Add(Sort(), "");
    return std::move(model_);
  }

 private:
  bool is_body() const { return outer_ != nullptr; }

  // Messages begin with where a value stands.
  std::string Place(absl::string_view kind, absl::string_view name) const {
    return absl::StrCat(label_, is_body() ? " " : "", kind, " ", Quoted(name));
  }

  // The value of that name, here or in a graph around this one; -1 where there is none.
  ModelValue Resolve(const std::string& name) {
    auto it = model_.value_by_name.find(name);
    if (it != model_.value_by_name.end()) return it->second;
    if (outer_ == nullptr) return -1;
    const ModelValue outer = outer_->Resolve(name);  // graphs nest kMaxBodyDepth deep at most
    if (outer < 0) return -1;
    if (outer_->captured_.insert(outer).second) {
      outer_->captures_.push_back(outer);
    }
    const auto v = static_cast<ModelValue>(model_.value_names.size());
    model_.value_names.push_back(name);
    model_.value_by_name.emplace(name, v);
    model_.captures.push_back({outer, v});
    return v;
  }

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
    const std::string where = Place("initializer", proto.name());
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
    const std::string where = Place("input", info.name());
    ModelInput input;
    input.value = Define(info.name(), where);
    if (!info.type().has_tensor_type()) {
      if (!is_body() && info.type().value_case() != onnx::TypeProto::VALUE_NOT_SET) {
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
    first_origin_ = context_.origins.size();
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const std::string label =
          absl::StrCat(label_, is_body() ? " " : "", NodeLabel(i, *nodes_[i].proto));
      for (const std::string& name : nodes_[i].proto->output()) {
        outputs_[i].push_back(name.empty() ? -1 : Define(name, label));
      }
      context_.origins.push_back(label);
    }
  }

  void ReadNodes() {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const onnx::NodeProto& proto = *nodes_[i].proto;
      const std::string where = context_.origins[first_origin_ + i];
      ModelNode node;
      node.origin = static_cast<int32_t>(first_origin_ + i);
      node.outputs = outputs_[i];
      for (const std::string& name : proto.input()) {
        node.inputs.push_back(-1);
        if (name.empty()) continue;
        node.inputs.back() = Resolve(name);
        if (node.inputs.back() < 0) {
          problems_.Add(Reason::kInvalidModel, where,
                        absl::StrCat("input ", Quoted(name), " is not defined anywhere"));
        }
      }
      node.unsupported = FindOp(nodes_[i], &node);
      // A branch that is never taken may hold what is not supported.
      if (!is_body()) problems_.Add(node.unsupported, where);
      captures_.clear();
      captured_.clear();
      if (node.op != nullptr) node.attrs = ReadAttrs(nodes_[i], where);
      node.captures = std::move(captures_);
      model_.nodes.push_back(std::move(node));
    }
  }

  // Sets op, binding and opset, or says why there is none.
  absl::Status FindOp(const FlatNode& flat, ModelNode* node) {
    const std::string domain = flat.proto->domain() == "ai.onnx" ? "" : flat.proto->domain();
    const std::string& type = flat.proto->op_type();
    node->op = nullptr;
    auto version = flat.opsets->find(domain);
    if (!context_.ops.KnowsOnnx(domain, type)) {
      return Error(Reason::kUnsupportedOp,
                   absl::StrCat("op ", domain.empty() ? "" : Quoted(domain),
                                domain.empty() ? "" : ".", Quoted(type), " is not supported"));
    }
    if (version == flat.opsets->end()) {
      return Error(Reason::kInvalidModel,
                   absl::StrCat("opset_import names no version for domain ", Quoted(domain)));
    }
    if (domain.empty() && (version->second < kMinOpset || version->second > kMaxOpset)) {
      return Error(Reason::kUnsupportedOpset,
                   absl::StrCat("opset ", version->second, ", supported are ", kMinOpset, " to ",
                                kMaxOpset));
    }
    node->opset = static_cast<int>(std::min<int64_t>(version->second, 1000));
    const OpRegistry::Match match = context_.ops.FindOnnx(domain, type, node->opset);
    if (match.op == nullptr) {
      return Error(Reason::kUnsupportedOp,
                   absl::StrCat("op ", Quoted(type), " is not supported in opset ", node->opset));
    }
    node->op = match.op;
    node->binding = match.binding;
    return absl::OkStatus();
  }

  absl::StatusOr<AttrValue> ReadBody(const onnx::AttributeProto& attr, const FlatNode& node,
                                     const std::string& where) {
    if (depth_ >= kMaxBodyDepth) {
      return Error(Reason::kInvalidModel, absl::StrCat("graphs nest deeper than ", kMaxBodyDepth));
    }
    GW_ASSIGN_OR_RETURN(std::vector<FlatNode> nodes,
                        context_.inliner.Flatten(attr.g(), node.opsets));
    Importer body(context_, attr.g(), std::move(nodes), this,
                  absl::StrCat(where.substr(0, kMaxPlace), " ", attr.name().substr(0, 40)));
    return AttrValue(std::make_shared<const Model>(body.Run()));
  }

  Attrs ReadAttrs(const FlatNode& node, const std::string& where) {
    const onnx::NodeProto& proto = *node.proto;
    std::vector<Attrs::Entry> entries;
    for (const onnx::AttributeProto& attr : proto.attribute()) {
      const bool twice = std::any_of(entries.begin(), entries.end(),
                                     [&](const Attrs::Entry& e) { return e.first == attr.name(); });
      absl::StatusOr<AttrValue> value = attr.type() == onnx::AttributeProto::GRAPH
                                            ? ReadBody(attr, node, where)
                                            : AttributeValue(attr);
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
      const ModelValue v = Resolve(info.name());
      if (v < 0) {
        problems_.Add(Reason::kInvalidModel, Place("output", info.name()),
                      "is not defined by any node, input or initialiser");
      } else if (!is_body() && seen[static_cast<size_t>(v)]) {
        problems_.Add(Reason::kInvalidModel, Place("output", info.name()), "is listed twice");
      } else {
        if (!is_body()) seen[static_cast<size_t>(v)] = true;
        model_.outputs.push_back(v);
      }
    }
    if (graph_.output_size() == 0 && !is_body()) {
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
      for (const auto* reads : {&model_.nodes[i].inputs, &model_.nodes[i].captures}) {
        for (ModelValue v : *reads) {
          if (v < 0 || producer[static_cast<size_t>(v)] < 0) continue;
          edges.emplace_back(producer[static_cast<size_t>(v)], static_cast<int32_t>(i));
          ++waiting[i];
        }
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
                   absl::StrCat(context_.origins[first_origin_ + stuck],
                                ": is part of, or behind, a cycle of ",
                                model_.nodes.size() - order.size(), " nodes"));
    }
    std::vector<ModelNode> nodes;
    for (int32_t i : order) nodes.push_back(std::move(model_.nodes[static_cast<size_t>(i)]));
    model_.nodes = std::move(nodes);
    return absl::OkStatus();
  }

  ImportContext& context_;
  Problems& problems_;
  const onnx::GraphProto& graph_;
  const std::vector<FlatNode> nodes_;
  Importer* const outer_;
  const std::string label_;  // of a body: where it stands
  const int depth_;
  size_t first_origin_ = 0;                       // of nodes_, in the context's labels
  std::vector<std::vector<ModelValue>> outputs_;  // of nodes_
  // What the bodies of the node at hand read of this graph.
  std::vector<ModelValue> captures_;
  absl::flat_hash_set<ModelValue> captured_;
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
  if (proto.graph().node_size() > limits.max_nodes) {
    return Error(Reason::kGraphTooLarge,
                 absl::StrCat("the model has ", proto.graph().node_size(), " nodes, the limit is ",
                              limits.max_nodes, " (--max-nodes)"));
  }
  ImportContext context{ops, FunctionInliner(proto, ops, limits.max_nodes), {}, {}};
  GW_ASSIGN_OR_RETURN(std::vector<FlatNode> nodes, context.inliner.Flatten());
  Model model = Importer(context, proto.graph(), std::move(nodes), nullptr, "").Run();
  GW_RETURN_IF_ERROR(context.problems.ToStatus());
  model.origins = std::make_shared<const std::vector<std::string>>(std::move(context.origins));
  return model;
}

}  // namespace gradwire
