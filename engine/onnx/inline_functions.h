// Local functions of a model, expanded: a flat list of nodes with unique value names, for the graph
// of the model and for each graph that a node holds. Functions of the domain "gradwire" that name
// an op of the table are not: the op is what they describe.
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

// Graphs in nodes may nest this deep.
inline constexpr int kMaxBodyDepth = 16;

class FunctionInliner {
 public:
  // Looks at `model` as long as it lives. max_nodes bounds what all calls give together.
  FunctionInliner(const onnx::ModelProto& model, const OpRegistry& ops, int64_t max_nodes);

  // The nodes of the model's graph.
  absl::StatusOr<std::vector<FlatNode>> Flatten();
  // Those of a graph that a node holds, which has these opsets.
  absl::StatusOr<std::vector<FlatNode>> Flatten(const onnx::GraphProto& body,
                                                const std::shared_ptr<const OpsetImports>& opsets);
  // Errors: GRAPH_TOO_LARGE above max_nodes; INVALID_MODEL for functions that contain themselves or
  // nest too deep, and for calls that do not match.

 private:
  struct Pending {
    FlatNode node;
    int depth;
  };
  struct Function {
    const onnx::FunctionProto* proto;
    int64_t nodes;  // with those of the graphs in it
  };
  absl::Status Expand(const Function& f, const onnx::NodeProto& call, int depth,
                      std::vector<Pending>* stack);
  absl::Status TooLarge() const;

  const onnx::ModelProto& model_;
  const int64_t max_nodes_;
  absl::flat_hash_map<std::pair<std::string, std::string>, Function> functions_;
  int64_t calls_ = 0;
  int64_t given_ = 0;   // nodes
  int64_t copied_ = 0;  // nodes that calls have copied
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_INLINE_FUNCTIONS_H_
