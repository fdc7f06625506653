// File: graph.h
//
// Graph: a pure function of typed values, every shape concrete, free of layouts. All that autodiff,
// losses and optimisers ever see. Flat arrays, int ids, topological order: a node's inputs have
// smaller ids than its outputs. Only GraphBuilder::Build() makes one, so whoever holds a Graph need
// not check it. Immutable, hence safe to share between threads.
#ifndef GRADWIRE_ENGINE_GRAPH_GRAPH_H_
#define GRADWIRE_ENGINE_GRAPH_GRAPH_H_

#include <memory>
#include <string>
#include <vector>

#include "engine/graph/op_def.h"

namespace gradwire {

// How often a value changes. A node's stage is the highest of its inputs'; running a Program again
// from a stage re-runs only what depends on it: K cotangents cost one forward pass.
enum class Stage : uint8_t { kConstant, kParameter, kPoint, kDirection };

struct Node {
  const OpDef* op;
  Attrs attrs;
  int32_t first_operand;  // into the operand array; see Graph::operands
  int32_t num_operands;
  ValueId first_output;
  int32_t num_outputs;
  int32_t origin;  // index into origins(), -1 for none: the model node it came from
};

struct GraphInput {
  std::string name;
  ValueId value;
  Stage stage;
};
struct GraphOutput {
  std::string name;
  ValueId value;
};
// `input` takes the value of `next` once everything has run: how state changes. Same type.
struct StateUpdate {
  std::string input;
  ValueId next;
};

// Labels of model nodes for messages, 'node 7 "fc1" (MatMul)', shared by a graph and all derived
// from it.
using Origins = std::shared_ptr<const std::vector<std::string>>;

class Graph {
 public:
  Graph() = default;
  absl::Span<const Node> nodes() const { return nodes_; }
  absl::Span<const ValueId> operands(const Node& node) const {
    return absl::MakeConstSpan(operands_).subspan(static_cast<size_t>(node.first_operand),
                                                  static_cast<size_t>(node.num_operands));
  }
  int32_t num_values() const { return static_cast<int32_t>(types_.size()); }
  const TensorType& type(ValueId v) const { return types_[static_cast<size_t>(v)]; }
  // Index of the node that makes v, -1 for an input.
  int32_t producer(ValueId v) const { return producers_[static_cast<size_t>(v)]; }
  absl::Span<const GraphInput> inputs() const { return inputs_; }
  absl::Span<const GraphOutput> outputs() const { return outputs_; }
  absl::Span<const StateUpdate> updates() const { return updates_; }
  // Values that keep their name although they are neither inputs nor outputs (a `wrt` asks for
  // one).
  absl::Span<const GraphOutput> marks() const { return marks_; }
  // The input, mark or output of that name; kNoValue where there is none.
  ValueId FindInput(absl::string_view name) const;
  ValueId FindOutput(absl::string_view name) const;
  ValueId FindNamed(absl::string_view name) const;
  // Structure, types and names; not the values of inputs. Equal digests: the same function.
  const Digest& digest() const { return digest_; }
  const Origins& origins() const { return origins_; }
  // 'node 7 "fc1" (MatMul)', or the op's name where the origin is unknown.
  std::string Label(const Node& node) const;

 private:
  friend class GraphBuilder;
  std::vector<Node> nodes_;
  std::vector<ValueId> operands_;
  std::vector<TensorType> types_;
  std::vector<int32_t> producers_;
  std::vector<GraphInput> inputs_;
  std::vector<GraphOutput> outputs_;
  std::vector<StateUpdate> updates_;
  std::vector<GraphOutput> marks_;
  Origins origins_;
  Digest digest_;
};

// Re-derives every type and checks order, names and updates: for tests and debug builds, after each
// rewrite. INTERNAL names the first thing that does not hold.
absl::Status VerifyGraph(const Graph& graph);

// A listing for people: one line a node. At most max_lines.
std::string PrintGraph(const Graph& graph, int max_lines = 200);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_GRAPH_H_
