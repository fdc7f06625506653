// File: export.h
//
// Graph -> ONNX: any Graph, derivative Graphs above all, as a model that other runtimes run, and
// that this one reads back to the same function, to be differentiated again.
//
//   GW_ASSIGN_OR_RETURN(Graph g, Gradient(graph, "f", {"x"}));
//   GW_ASSIGN_OR_RETURN(std::string bytes, ExportOnnx(g, {}));   // outputs "f" and "gradient.x"
//
// Names: inputs, outputs and marks keep theirs, without the "gradwire." of those that derivatives
// add, which models may not use: "gradient.x", "cotangent.y", "tangent.x", and "tangent.gradient.x"
// for Hessian-vector products. Where two would be equal, "_" is appended. Shapes are concrete, as
// in the Graph.
//
// Ops of ONNX's domain, opset kExportOpset (IR version 8). The few that ONNX lacks (Log1p, Expm1,
// StopGradient) keep the domain "gradwire" and bring a local function that says to other runtimes
// what they compute; read back here, they are themselves.
//
// Errors: UNSUPPORTED_OP for random values (a Dropout in training) and, with INVALID_SPEC, for
// state updates. GRAPH_TOO_LARGE above 2 GiB, protobuf's limit. Cost: linear in nodes and bytes.
// Thread-safety: pure function.
#ifndef GRADWIRE_ENGINE_ONNX_EXPORT_H_
#define GRADWIRE_ENGINE_ONNX_EXPORT_H_

#include <string>

#include "absl/container/flat_hash_map.h"
#include "engine/graph/graph.h"

namespace onnx {
class ModelProto;
}

namespace gradwire {

struct ExportOptions {
  // Inputs that become initialisers, with these values.
  absl::flat_hash_map<std::string, TensorView> initializers = {};
};

// A model with other values for some of its initialisers; an input that has a value here becomes an
// initialiser. Names that the model does not have are left out.
absl::StatusOr<std::string> WithInitializers(
    onnx::ModelProto model, const absl::flat_hash_map<std::string, TensorView>& values);

absl::StatusOr<std::string> ExportOnnx(const Graph& graph, const ExportOptions& options);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_EXPORT_H_
