// File: node_export.h
//
// NodeExport: what an `export_onnx` function of a row sees of one node, while a Graph is written as
// ONNX. It adds ONNX nodes (opset kExportOpset) whose last ones define the node's outputs.
//
//   .export_onnx = [](NodeExport& n) {
//     n.Add("Reshape", {n.in(0), n.Ints(n.attrs.Ints("shape"))}, n.out(0), {{"allowzero", 1}});
//   }
//
// A row without one becomes one ONNX node with the name of its newest binding, the same inputs and
// the attributes that the row declares: the converse of a binding without `import`.
#ifndef GRADWIRE_ENGINE_GRAPH_NODE_EXPORT_H_
#define GRADWIRE_ENGINE_GRAPH_NODE_EXPORT_H_

#include <string>
#include <vector>

#include "engine/graph/graph.h"

namespace gradwire {

// 18 is the first in which all reductions take their axes as an input.
inline constexpr int kExportOpset = 18;

class NodeExport {
 public:
  NodeExport(const Graph& graph, const Node& node)
      : attrs(node.attrs), graph_(graph), node_(node) {}
  virtual ~NodeExport() = default;

  const Attrs& attrs;
  const TensorType& in_type(int i) const { return graph_.type(graph_.operands(node_)[i]); }
  const TensorType& out_type(int k = 0) const { return graph_.type(node_.first_output + k); }

  // Names of values.
  virtual std::string in(int i) const = 0;
  virtual std::string out(int k) const = 0;
  // A new name for a value between two of the ONNX nodes.
  virtual std::string NewName() = 0;

  // An INT64 vector as a value.
  virtual std::string Ints(const std::vector<int64_t>& values) = 0;
  virtual void AddMulti(absl::string_view op, const std::vector<std::string>& inputs,
                        const std::vector<std::string>& outputs, const Attrs& attrs) = 0;
  void Add(absl::string_view op, const std::vector<std::string>& inputs, const std::string& output,
           const Attrs& attrs = {}) {
    AddMulti(op, inputs, {output}, attrs);
  }
  // The same, with a new name for the output.
  std::string Add(absl::string_view op, const std::vector<std::string>& inputs,
                  const Attrs& attrs = {}) {
    std::string output = NewName();
    Add(op, inputs, output, attrs);
    return output;
  }

  // The node has no ONNX form.
  virtual void Fail(absl::string_view why) = 0;

 private:
  const Graph& graph_;
  const Node& node_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_NODE_EXPORT_H_
