#include "engine/onnx/summary.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "engine/onnx/import.h"
#include "engine/onnx/inline_functions.h"

namespace gradwire {
namespace {

constexpr size_t kMaxPathLabels = 32;

ValueSummary SummaryOf(const onnx::ValueInfoProto& info) {
  ValueSummary out;
  out.name = info.name();
  if (!info.type().has_tensor_type()) return out;
  const onnx::TypeProto_Tensor& type = info.type().tensor_type();
  out.dtype = DTypeFromOnnx(type.elem_type());
  out.has_rank = type.has_shape();
  for (const auto& d : type.shape().dim()) {
    out.dims.push_back(d.has_dim_value() ? ModelDim{d.dim_value(), ""}
                                         : ModelDim{-1, d.dim_param()});
  }
  return out;
}

ValueSummary SummaryOf(const onnx::TensorProto& tensor) {
  ValueSummary out;
  out.name = tensor.name();
  out.dtype = DTypeFromOnnx(tensor.data_type());
  out.has_rank = true;
  for (int64_t extent : tensor.dims()) out.dims.push_back({extent, ""});
  return out;
}

// Counts in the graphs that nodes hold too.
absl::StatusOr<std::vector<OpUse>> CountOps(std::vector<FlatNode> nodes, FunctionInliner& inliner,
                                            const OpRegistry& ops) {
  std::map<std::pair<std::string, std::string>, OpUse> uses;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const FlatNode node = nodes[i];
    for (const onnx::AttributeProto& attr : node.proto->attribute()) {
      if (!attr.has_g()) continue;
      GW_ASSIGN_OR_RETURN(std::vector<FlatNode> inner, inliner.Flatten(attr.g(), node.opsets));
      std::move(inner.begin(), inner.end(), std::back_inserter(nodes));
    }
    const std::string domain = node.proto->domain() == "ai.onnx" ? "" : node.proto->domain();
    const std::string& name = node.proto->op_type();
    OpUse& use = uses[{domain, name}];
    if (use.count++ > 0) continue;
    use.domain = domain;
    use.name = name;
    const auto version = node.opsets->find(domain);
    use.supported =
        version != node.opsets->end() &&
        ops.FindOnnx(domain, name, static_cast<int>(std::min<int64_t>(version->second, 1000))).op !=
            nullptr;
  }
  std::vector<OpUse> out;
  for (auto& [key, use] : uses) out.push_back(std::move(use));
  return out;
}

}  // namespace

std::vector<std::string> ModelSummary::PathTo(const std::string& label) const {
  const auto found = node_of_label_.find(label);
  if (found == node_of_label_.end()) return {};
  std::vector<std::string> path;
  int32_t node = found->second;
  while (true) {
    path.push_back(labels_[static_cast<size_t>(node)]);
    const Step& step = steps_[static_cast<size_t>(node)];
    if (step.output >= 0) {
      path.push_back(absl::StrCat("output ", outputs[static_cast<size_t>(step.output)].name));
      break;
    }
    if (step.consumer == kUnneeded) return {};
    node = step.consumer;
  }
  std::reverse(path.begin(), path.end());
  if (path.size() > kMaxPathLabels) {
    const size_t left_out = path.size() - kMaxPathLabels + 1;
    const auto middle = path.begin() + kMaxPathLabels / 2;
    *middle = absl::StrCat("... ", left_out, " nodes ...");
    path.erase(middle + 1, middle + static_cast<std::ptrdiff_t>(left_out));
  }
  return path;
}

absl::StatusOr<ModelSummary> SummarizeModel(const onnx::ModelProto& proto, const OpRegistry& ops,
                                            int64_t max_nodes) {
  const onnx::GraphProto& graph = proto.graph();
  if (graph.node_size() > max_nodes) {
    return Error(Reason::kGraphTooLarge,
                 absl::StrCat("the model has ", graph.node_size(), " nodes, the limit is ",
                              max_nodes, " (--max-nodes)"));
  }
  FunctionInliner inliner(proto, ops, max_nodes);
  GW_ASSIGN_OR_RETURN(const std::vector<FlatNode> nodes, inliner.Flatten());
  ModelSummary out;
  absl::flat_hash_set<absl::string_view> parameters;
  for (const onnx::TensorProto& init : graph.initializer()) {
    out.parameters.push_back(SummaryOf(init));
    parameters.insert(init.name());
  }
  for (const onnx::ValueInfoProto& input : graph.input()) {
    if (!parameters.contains(input.name())) out.inputs.push_back(SummaryOf(input));
  }
  GW_ASSIGN_OR_RETURN(out.ops, CountOps(nodes, inliner, ops));
  out.num_nodes = static_cast<int64_t>(nodes.size());

  absl::flat_hash_map<absl::string_view, int32_t> producer;
  for (size_t i = 0; i < nodes.size(); ++i) {
    out.labels_.push_back(NodeLabel(i, *nodes[i].proto));
    out.node_of_label_.emplace(out.labels_.back(), static_cast<int32_t>(i));
    for (const std::string& name : nodes[i].proto->output()) {
      producer.emplace(name, static_cast<int32_t>(i));
    }
  }
  // Breadth first from the outputs, so that ways are short.
  out.steps_.resize(nodes.size());
  std::vector<int32_t> reached;
  std::vector<bool> seen(nodes.size(), false);
  const auto reach = [&](const std::string& value, const ModelSummary::Step& step) {
    const auto at = producer.find(value);
    if (value.empty() || at == producer.end() || seen[static_cast<size_t>(at->second)]) return;
    seen[static_cast<size_t>(at->second)] = true;
    out.steps_[static_cast<size_t>(at->second)] = step;
    reached.push_back(at->second);
  };
  for (const onnx::ValueInfoProto& output : graph.output()) {
    out.outputs.push_back(SummaryOf(output));
    reach(output.name(), {.output = static_cast<int32_t>(out.outputs.size()) - 1});
  }
  for (size_t k = 0; k < reached.size(); ++k) {
    const int32_t node = reached[k];
    for (const std::string& name : nodes[static_cast<size_t>(node)].proto->input()) {
      reach(name, {.consumer = node});
    }
  }
  return out;
}

}  // namespace gradwire
