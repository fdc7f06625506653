// File: summary.h
//
// What a model consists of, told without judging it: also of models with ops that the server does
// not have.
//
//   GW_ASSIGN_OR_RETURN(ModelSummary summary, SummarizeModel(proto, AllOps(), max_nodes));
//   summary.PathTo("node 7 \"fc1\" (MatMul)")   // {"output f", "node 9 (Add)", "node 7 ..."}
//
// Errors: GRAPH_TOO_LARGE; INVALID_MODEL for local functions that cannot be inlined. Cost: linear
// in nodes.
#ifndef GRADWIRE_ENGINE_ONNX_SUMMARY_H_
#define GRADWIRE_ENGINE_ONNX_SUMMARY_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/graph/model.h"

namespace onnx {
class ModelProto;
}

namespace gradwire {

// A value at the model's border; what it does not state is left out.
struct ValueSummary {
  std::string name;
  DType dtype = DType::kUndefined;
  bool has_rank = false;
  std::vector<ModelDim> dims;
};

struct OpUse {
  std::string domain;  // "" is ai.onnx
  std::string name;
  int64_t count = 0;
  bool supported = false;
};

class ModelSummary {
 public:
  std::vector<ValueSummary> inputs;  // without those that are initialisers
  std::vector<ValueSummary> parameters;
  std::vector<ValueSummary> outputs;
  std::vector<OpUse> ops;  // by domain and name, after inlining
  int64_t num_nodes = 0;

  // The way from an output to the node with this label, as labels, the output first; long ways
  // without their middle. Empty where no output needs the node, or there is no such label.
  std::vector<std::string> PathTo(const std::string& label) const;

 private:
  friend absl::StatusOr<ModelSummary> SummarizeModel(const onnx::ModelProto&, const OpRegistry&,
                                                     int64_t max_nodes);
  static constexpr int32_t kUnneeded = -1;
  struct Step {
    int32_t consumer = kUnneeded;  // the next node on the way, or
    int32_t output = -1;           // the output that the way ends at
  };
  std::vector<std::string> labels_;
  std::vector<Step> steps_;
  absl::flat_hash_map<std::string, int32_t> node_of_label_;
};

absl::StatusOr<ModelSummary> SummarizeModel(const onnx::ModelProto& proto, const OpRegistry& ops,
                                            int64_t max_nodes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_SUMMARY_H_
