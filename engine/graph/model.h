// File: model.h
//
// Model: what the user sent, decoded and checked for structure (names resolve, no cycles), but with
// symbolic dimensions and ONNX's own ops. engine/onnx makes Models; Specialize turns one into a
// Graph for the types of a call. Immutable, hence safe to share between threads.
#ifndef GRADWIRE_ENGINE_GRAPH_MODEL_H_
#define GRADWIRE_ENGINE_GRAPH_MODEL_H_

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/graph/graph.h"

namespace gradwire {

// Index into Model::value_names.
using ModelValue = int32_t;

struct ModelDim {
  int64_t extent = -1;  // -1: symbolic or unknown
  std::string symbol;   // equal symbols have equal extents in one call; "" is unknown
};

struct ModelInput {
  ModelValue value;
  DType dtype = DType::kUndefined;            // undefined: whatever the call sends (formulas)
  std::optional<std::vector<ModelDim>> dims;  // nullopt: rank unknown
};

struct ModelInitializer {
  ModelValue value;
  Tensor data;
};

struct ModelNode {
  const OpDef* op;  // null in a body whose node is not supported: `unsupported` says why
  const OnnxBinding* binding;
  Attrs attrs;                      // as in the file; graphs are Models
  std::vector<ModelValue> inputs;   // -1: left out
  std::vector<ModelValue> outputs;  // -1: left out
  int opset;
  int32_t origin = 0;                // whose label it has
  std::vector<ModelValue> captures;  // values that its bodies read, distinct
  absl::Status unsupported = {};
};

// How a body reads a value of the graph around it.
struct ModelCapture {
  ModelValue outer;
  ModelValue inner;
};

class Model {
 public:
  std::vector<std::string> value_names;
  absl::flat_hash_map<std::string, ModelValue> value_by_name;
  std::vector<ModelInput> inputs;  // without those that are initialisers
  std::vector<ModelInitializer> initializers;
  std::vector<ModelValue> outputs;
  std::vector<ModelNode> nodes;        // topological order
  std::vector<ModelCapture> captures;  // of a body
  Origins origins;                     // labels of nodes, those in bodies too; of a body: null

  // -1 where there is no such value.
  ModelValue FindValue(absl::string_view name) const {
    auto it = value_by_name.find(name);
    return it == value_by_name.end() ? -1 : it->second;
  }
  // By ModelValue: true for what serves as a state of nodes (OpDef::state_inputs) and nothing else.
  std::vector<bool> States() const {
    std::vector<bool> state(value_names.size(), false), other = state;
    for (const ModelNode& node : nodes) {
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        if (node.inputs[i] < 0) continue;
        const std::vector<int>& places = node.op->state_inputs;
        const bool is_state =
            std::find(places.begin(), places.end(), static_cast<int>(i)) != places.end();
        (is_state ? state : other)[static_cast<size_t>(node.inputs[i])] = true;
      }
    }
    for (size_t v = 0; v < state.size(); ++v) state[v] = state[v] && !other[v];
    return state;
  }
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_MODEL_H_
