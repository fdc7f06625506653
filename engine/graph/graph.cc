#include "engine/graph/graph.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace gradwire {

ValueId Graph::FindInput(absl::string_view name) const {
  for (const GraphInput& in : inputs_) {
    if (in.name == name) return in.value;
  }
  return kNoValue;
}

ValueId Graph::FindOutput(absl::string_view name) const {
  for (const GraphOutput& out : outputs_) {
    if (out.name == name) return out.value;
  }
  return kNoValue;
}

ValueId Graph::FindNamed(absl::string_view name) const {
  if (ValueId v = FindInput(name); v != kNoValue) return v;
  for (const GraphOutput& mark : marks_) {
    if (mark.name == name) return mark.value;
  }
  return FindOutput(name);
}

std::string Graph::Label(const Node& node) const {
  if (origins_ != nullptr && node.origin >= 0 &&
      static_cast<size_t>(node.origin) < origins_->size()) {
    return (*origins_)[static_cast<size_t>(node.origin)];
  }
  return std::string(node.op->name);
}

absl::Status VerifyGraph(const Graph& graph) {
  std::vector<TensorType> in;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    const std::string where = absl::StrCat("verify: node ", i, " ", graph.Label(node), ": ");
    in.clear();
    for (ValueId v : graph.operands(node)) {
      if (v < 0 || v >= node.first_output) return absl::InternalError(where + "order");
      in.push_back(graph.type(v));
    }
    auto types = node.op->infer({in, node.attrs});
    if (!types.ok()) return absl::InternalError(where + std::string(types.status().message()));
    if (static_cast<int32_t>(types->size()) != node.num_outputs) {
      return absl::InternalError(where + "number of outputs");
    }
    for (int32_t k = 0; k < node.num_outputs; ++k) {
      if ((*types)[static_cast<size_t>(k)] != graph.type(node.first_output + k) ||
          graph.producer(node.first_output + k) != static_cast<int32_t>(i)) {
        return absl::InternalError(where + "type of output");
      }
    }
  }
  absl::flat_hash_set<absl::string_view> names;
  for (const GraphInput& input : graph.inputs()) {
    if (!names.insert(input.name).second) {
      return absl::InternalError(absl::StrCat("verify: duplicate input ", input.name));
    }
  }
  for (const StateUpdate& update : graph.updates()) {
    const ValueId state = graph.FindInput(update.input);
    if (state == kNoValue || graph.type(state) != graph.type(update.next)) {
      return absl::InternalError(absl::StrCat("verify: update of ", update.input));
    }
  }
  return absl::OkStatus();
}

std::string PrintGraph(const Graph& graph, int max_lines) {
  std::string out;
  for (const GraphInput& in : graph.inputs()) {
    absl::StrAppendFormat(&out, "%%%d = input \"%s\" : %s\n", in.value, in.name,
                          graph.type(in.value).ToString());
  }
  int lines = 0;
  for (const Node& node : graph.nodes()) {
    if (++lines > max_lines) {
      absl::StrAppend(&out, "... ", graph.nodes().size() - static_cast<size_t>(max_lines),
                      " more\n");
      break;
    }
    absl::StrAppendFormat(
        &out, "%%%d = %s(%s)%s : %s\n", node.first_output, node.op->name,
        absl::StrJoin(graph.operands(node), ", ",
                      [](std::string* s, ValueId v) { absl::StrAppend(s, "%", v); }),
        node.attrs.empty() ? "" : absl::StrCat(" {", node.attrs.ToString(), "}"),
        graph.type(node.first_output).ToString());
  }
  for (const GraphOutput& o : graph.outputs()) {
    absl::StrAppendFormat(&out, "output \"%s\" = %%%d\n", o.name, o.value);
  }
  for (const StateUpdate& u : graph.updates()) {
    absl::StrAppendFormat(&out, "update \"%s\" = %%%d\n", u.input, u.next);
  }
  return out;
}

}  // namespace gradwire
