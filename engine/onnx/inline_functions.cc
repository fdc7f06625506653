#include "engine/onnx/inline_functions.h"

#include <utility>

namespace gradwire {
namespace {

constexpr int kMaxFunctionDepth = 16;

std::string CanonicalDomain(const std::string& domain) { return domain == "ai.onnx" ? "" : domain; }

struct Pending {
  FlatNode node;
  int depth;
};

class Inliner {
 public:
  Inliner(const onnx::ModelProto& model, const OpRegistry& ops, int64_t max_nodes)
      : model_(model), max_nodes_(max_nodes) {
    for (const onnx::FunctionProto& f : model.functions()) {
      // Says to others what an op of ours computes; and to us, where a later version wrote it.
      if (f.domain() == "gradwire" && ops.KnowsOnnx(f.domain(), f.name())) continue;
      functions_.emplace(std::pair(CanonicalDomain(f.domain()), f.name()), &f);
    }
  }

  absl::StatusOr<std::vector<FlatNode>> Run() {
    auto opsets = std::make_shared<const OpsetImports>(OpsetsOf(model_.opset_import()));
    std::vector<FlatNode> out;
    std::vector<Pending> stack;
    for (int i = model_.graph().node_size() - 1; i >= 0; --i) {
      stack.push_back({{&model_.graph().node(i), nullptr, opsets}, 0});
    }
    while (!stack.empty()) {
      Pending top = std::move(stack.back());
      stack.pop_back();
      const onnx::NodeProto& node = *top.node.proto;
      auto it = functions_.find(std::pair(CanonicalDomain(node.domain()), node.op_type()));
      if (it == functions_.end()) {
        out.push_back(std::move(top.node));
      } else {
        GW_RETURN_IF_ERROR(Expand(*it->second, node, top.depth, &stack));
      }
      if (static_cast<int64_t>(out.size() + stack.size()) > max_nodes_) {
        return Error(Reason::kGraphTooLarge,
                     absl::StrCat("the model has more than ", max_nodes_,
                                  " nodes once its functions are inlined (--max-nodes)"));
      }
    }
    return out;
  }

 private:
  absl::Status Expand(const onnx::FunctionProto& f, const onnx::NodeProto& call, int depth,
                      std::vector<Pending>* stack) {
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
    absl::flat_hash_map<std::string, std::string> names;
    for (int i = 0; i < f.input_size(); ++i) {
      names[f.input(i)] = i < call.input_size() ? call.input(i) : "";
    }
    for (int i = 0; i < call.output_size(); ++i) {
      if (!call.output(i).empty()) names[f.output(i)] = call.output(i);
    }
    const std::string prefix = absl::StrCat(f.name(), "#", ++calls_, "/");
    auto opsets = std::make_shared<const OpsetImports>(OpsetsOf(f.opset_import()));
    auto rename = [&](const std::string& name) {
      if (name.empty()) return name;
      auto it = names.find(name);
      return it != names.end() ? it->second : prefix + name;
    };
    for (int i = f.node_size() - 1; i >= 0; --i) {
      auto copy = std::make_shared<onnx::NodeProto>(f.node(i));
      copy->set_name(prefix + copy->name());
      for (std::string& name : *copy->mutable_input()) name = rename(name);
      for (std::string& name : *copy->mutable_output()) name = rename(name);
      BindAttributes(call, copy.get());
      const onnx::NodeProto* proto = copy.get();
      stack->push_back({{proto, std::move(copy), opsets}, depth + 1});
    }
    return absl::OkStatus();
  }

  // Attributes that refer to the function's own take the call's value; unset ones disappear.
  static void BindAttributes(const onnx::NodeProto& call, onnx::NodeProto* node) {
    google::protobuf::RepeatedPtrField<onnx::AttributeProto> bound;
    for (const onnx::AttributeProto& attr : node->attribute()) {
      if (attr.ref_attr_name().empty()) {
        *bound.Add() = attr;
        continue;
      }
      for (const onnx::AttributeProto& given : call.attribute()) {
        if (given.name() != attr.ref_attr_name()) continue;
        onnx::AttributeProto* copy = bound.Add();
        *copy = given;
        copy->set_name(attr.name());
      }
    }
    node->mutable_attribute()->Swap(&bound);
  }

  const onnx::ModelProto& model_;
  const int64_t max_nodes_;
  absl::flat_hash_map<std::pair<std::string, std::string>, const onnx::FunctionProto*> functions_;
  int64_t calls_ = 0;
};

}  // namespace

OpsetImports OpsetsOf(const google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& imports) {
  OpsetImports out;
  for (const onnx::OperatorSetIdProto& import : imports) {
    out[CanonicalDomain(import.domain())] = import.version();
  }
  return out;
}

absl::StatusOr<std::vector<FlatNode>> InlineFunctions(const onnx::ModelProto& model,
                                                      const OpRegistry& ops, int64_t max_nodes) {
  return Inliner(model, ops, max_nodes).Run();
}

}  // namespace gradwire
