// File: import.h
//
// ONNX -> Model: the decoder of everything a user may send. Structure is checked here (names
// resolve, no duplicates, no cycle, tensors hold what they claim); types and shapes are
// Specialize's business. Local functions are inlined, with bounds; nodes may stand in any order.
//
//   GW_ASSIGN_OR_RETURN(onnx::ModelProto proto, ParseOnnx(bytes));
//   GW_ASSIGN_OR_RETURN(Model model, ImportModel(proto, AllOps(), {}));
//
// Errors name every offending node at once: INVALID_MODEL, UNSUPPORTED_OP, UNSUPPORTED_OPSET,
// DTYPE_UNSUPPORTED, GRAPH_TOO_LARGE. What a body (of an If, a Loop) holds and is not supported is
// an error of Specialize, and only where the body is taken. Cost: linear in the model's bytes;
// graphs in nodes nest kMaxBodyDepth deep at most.
#ifndef GRADWIRE_ENGINE_ONNX_IMPORT_H_
#define GRADWIRE_ENGINE_ONNX_IMPORT_H_

#include "engine/graph/model.h"
#include "engine/onnx/opsets.h"
#include "onnx/onnx.pb.h"

namespace gradwire {

struct ImportLimits {
  int64_t max_nodes = 200'000;  // after inlining
};

// 'node 7 "fc1" (MatMul)': how messages name a node; `index` counts after inlining.
std::string NodeLabel(size_t index, const onnx::NodeProto& node);

absl::StatusOr<onnx::ModelProto> ParseOnnx(absl::string_view bytes);

absl::StatusOr<Model> ImportModel(const onnx::ModelProto& proto, const OpRegistry& ops,
                                  const ImportLimits& limits);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_IMPORT_H_
