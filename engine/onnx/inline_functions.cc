#include "engine/onnx/inline_functions.h"

#include <utility>

#include "engine/base/checked.h"

namespace gradwire {
namespace {

constexpr int kMaxFunctionDepth = 16;

std::string CanonicalDomain(const std::string& domain) { return domain == "ai.onnx" ? "" : domain; }

// Nodes of these and of the graphs in them; at most max_depth deep, INT64_MAX where they are
// deeper.
template <typename Nodes>
int64_t CountNodes(const Nodes& nodes, int depth_left) {
  if (depth_left < 0) return INT64_MAX;
  int64_t count = nodes.size();
  for (const onnx::NodeProto& node : nodes) {
    for (const onnx::AttributeProto& attr : node.attribute()) {
      if (attr.has_g()) count = SaturatingAdd(count, CountNodes(attr.g().node(), depth_left - 1));
    }
  }
  return count;
}

// What a call makes of a function's nodes: its own names for values, the call's attributes.
class Instance {
 public:
  Instance(const onnx::FunctionProto& f, const onnx::NodeProto& call, std::string prefix)
      : call_(call), prefix_(std::move(prefix)) {
    for (int i = 0; i < f.input_size(); ++i) {
      names_[f.input(i)] = i < call.input_size() ? call.input(i) : "";
    }
    for (int i = 0; i < call.output_size(); ++i) {
      if (!call.output(i).empty()) names_[f.output(i)] = call.output(i);
    }
  }

  // Graphs nest at most kMaxBodyDepth deep: they were counted.
  void Adapt(onnx::NodeProto* node) const {
    node->set_name(prefix_ + node->name());
    for (std::string& name : *node->mutable_input()) name = Renamed(name);
    for (std::string& name : *node->mutable_output()) name = Renamed(name);
    BindAttributes(node);
    for (onnx::AttributeProto& attr : *node->mutable_attribute()) {
      if (!attr.has_g()) continue;
      // Every name in it, its own ones too: they stay distinct, and may hide what they hid.
      onnx::GraphProto* body = attr.mutable_g();
      for (auto& value : *body->mutable_input()) value.set_name(Renamed(value.name()));
      for (auto& value : *body->mutable_output()) value.set_name(Renamed(value.name()));
      for (auto& value : *body->mutable_initializer()) value.set_name(Renamed(value.name()));
      for (onnx::NodeProto& inner : *body->mutable_node()) Adapt(&inner);
    }
  }

 private:
  std::string Renamed(const std::string& name) const {
    if (name.empty()) return name;
    auto it = names_.find(name);
    return it != names_.end() ? it->second : prefix_ + name;
  }

  // Attributes that refer to the function's own take the call's value; unset ones disappear.
  void BindAttributes(onnx::NodeProto* node) const {
    google::protobuf::RepeatedPtrField<onnx::AttributeProto> bound;
    for (onnx::AttributeProto& attr : *node->mutable_attribute()) {
      if (attr.ref_attr_name().empty()) {
        bound.Add()->Swap(&attr);
        continue;
      }
      for (const onnx::AttributeProto& given : call_.attribute()) {
        if (given.name() != attr.ref_attr_name()) continue;
        onnx::AttributeProto* copy = bound.Add();
        *copy = given;
        copy->set_name(attr.name());
      }
    }
    node->mutable_attribute()->Swap(&bound);
  }

  const onnx::NodeProto& call_;
  const std::string prefix_;
  absl::flat_hash_map<std::string, std::string> names_;
};

}  // namespace

FunctionInliner::FunctionInliner(const onnx::ModelProto& model, const OpRegistry& ops,
                                 int64_t max_nodes)
    : model_(model), max_nodes_(max_nodes) {
  for (const onnx::FunctionProto& f : model.functions()) {
    // Says to others what an op of ours computes; and to us, where a later version wrote it.
    if (f.domain() == "gradwire" && ops.KnowsOnnx(f.domain(), f.name())) continue;
    functions_.emplace(std::pair(CanonicalDomain(f.domain()), f.name()),
                       Function{&f, CountNodes(f.node(), kMaxBodyDepth)});
  }
}

absl::StatusOr<std::vector<FlatNode>> FunctionInliner::Flatten() {
  return Flatten(model_.graph(),
                 std::make_shared<const OpsetImports>(OpsetsOf(model_.opset_import())));
}

absl::StatusOr<std::vector<FlatNode>> FunctionInliner::Flatten(
    const onnx::GraphProto& body, const std::shared_ptr<const OpsetImports>& opsets) {
  std::vector<FlatNode> out;
  std::vector<Pending> stack;
  for (int i = body.node_size() - 1; i >= 0; --i) {
    stack.push_back({{&body.node(i), nullptr, opsets}, 0});
  }
  while (!stack.empty()) {
    Pending top = std::move(stack.back());
    stack.pop_back();
    const onnx::NodeProto& node = *top.node.proto;
    auto it = functions_.find(std::pair(CanonicalDomain(node.domain()), node.op_type()));
    if (it == functions_.end()) {
      out.push_back(std::move(top.node));
    } else {
      GW_RETURN_IF_ERROR(Expand(it->second, node, top.depth, &stack));
    }
    if (given_ + static_cast<int64_t>(out.size() + stack.size()) > max_nodes_) return TooLarge();
  }
  given_ += static_cast<int64_t>(out.size());
  return out;
}

absl::Status FunctionInliner::TooLarge() const {
  return Error(Reason::kGraphTooLarge,
               absl::StrCat("the model has more than ", max_nodes_,
                            " nodes once its functions are inlined (--max-nodes)"));
}

absl::Status FunctionInliner::Expand(const Function& function, const onnx::NodeProto& call,
                                     int depth, std::vector<Pending>* stack) {
  const onnx::FunctionProto& f = *function.proto;
  const std::string where = absl::StrCat("function \"", f.name(), "\": ");
  if (depth >= kMaxFunctionDepth) {
    return Error(Reason::kInvalidModel, absl::StrCat(where, "functions nest deeper than ",
                                                     kMaxFunctionDepth, ", or call themselves"));
  }
  if (call.input_size() > f.input_size() || call.output_size() > f.output_size()) {
    return Error(
        Reason::kInvalidModel,
        absl::StrCat(where, "called with ", call.input_size(), " inputs and ", call.output_size(),
                     " outputs, expected ", f.input_size(), " and ", f.output_size()));
  }
  copied_ = SaturatingAdd(copied_, function.nodes);
  if (copied_ > max_nodes_ && function.nodes > f.node_size()) return TooLarge();
  const Instance instance(f, call, absl::StrCat(f.name(), "#", ++calls_, "/"));
  auto opsets = std::make_shared<const OpsetImports>(OpsetsOf(f.opset_import()));
  for (int i = f.node_size() - 1; i >= 0; --i) {
    auto copy = std::make_shared<onnx::NodeProto>(f.node(i));
    instance.Adapt(copy.get());
    const onnx::NodeProto* proto = copy.get();
    stack->push_back({{proto, std::move(copy), opsets}, depth + 1});
  }
  return absl::OkStatus();
}

OpsetImports OpsetsOf(const google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& imports) {
  OpsetImports out;
  for (const onnx::OperatorSetIdProto& import : imports) {
    out[CanonicalDomain(import.domain())] = import.version();
  }
  return out;
}

}  // namespace gradwire
