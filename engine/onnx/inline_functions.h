// Local functions of a model, expanded: a flat list of nodes with unique value names. Functions of
// the domain "gradwire" that name an op of the table are not: the op is what they describe.
#ifndef GRADWIRE_ENGINE_ONNX_INLINE_FUNCTIONS_H_
#define GRADWIRE_ENGINE_ONNX_INLINE_FUNCTIONS_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/base/status.h"
#include "engine/graph/op_def.h"
#include "onnx/onnx.pb.h"

namespace gradwire {

using OpsetImports = absl::flat_hash_map<std::string, int64_t>;  // by domain; "" is ai.onnx
OpsetImports OpsetsOf(const google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& imports);

struct FlatNode {
  const onnx::NodeProto* proto;            // of the model, or of `owned`
  std::shared_ptr<onnx::NodeProto> owned;  // set for nodes that came from a function
  std::shared_ptr<const OpsetImports> opsets;
};

// Errors: GRAPH_TOO_LARGE above max_nodes; INVALID_MODEL for functions that contain themselves or
// nest too deep, and for calls that do not match.
absl::StatusOr<std::vector<FlatNode>> InlineFunctions(const onnx::ModelProto& model,
                                                      const OpRegistry& ops, int64_t max_nodes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_INLINE_FUNCTIONS_H_
