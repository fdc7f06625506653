// File: builder.h
//
// GraphBuilder: the only way to make a Graph. Types are inferred and checked as nodes are added;
// equal nodes are made once (hash-consing), constants are folded (up to a size), and exact
// identities (x*1, a transpose of a transpose) are applied on the spot, so no later pass does.
//
// Errors are sticky: the first one is kept, later calls do nothing and return kNoValue, and Build()
// reports it. So code that builds never tests a status.
//
//   GraphBuilder b;
//   ValueId x = b.Input("x", {DType::kDouble, {}}, Stage::kPoint);
//   ValueId y = Mul(b, x, x);              // typed functions: engine/ops/builders.h
//   b.Output("y", y);
//   absl::StatusOr<Graph> graph = std::move(b).Build();
//
// Cost: amortised O(1) a node. Not thread-safe.
#ifndef GRADWIRE_ENGINE_GRAPH_BUILDER_H_
#define GRADWIRE_ENGINE_GRAPH_BUILDER_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/graph/graph.h"

namespace gradwire {

class GraphBuilder {
 public:
  GraphBuilder();
  // Continues from a copy of `base`: same value ids, inputs, marks and origins; no outputs, no
  // updates.
  explicit GraphBuilder(const Graph& base);
  GraphBuilder(const GraphBuilder&) = delete;
  GraphBuilder& operator=(const GraphBuilder&) = delete;
  ~GraphBuilder();

  // ---- Building
  ValueId Input(absl::string_view name, TensorType type, Stage stage);
  ValueId Constant(Tensor value);
  // A rank 0 constant of the given type; booleans and integers take the value converted.
  ValueId Scalar(DType dtype, double value);
  // A rank 0 constant of the dtype of `like`.
  ValueId ScalarLike(ValueId like, double value) { return Scalar(type(like).dtype, value); }
  // `value` repeated to a type: a constant, whatever the size.
  ValueId Full(TensorType type, double value);  // by value: types may move while nodes are added
  ValueId Zeros(ValueId like) { return Full(type(like), 0); }

  // Adds a core op. Returns its first output; `AddMulti` all of them.
  ValueId Add(const OpDef& op, absl::Span<const ValueId> in, Attrs attrs = {});
  std::vector<ValueId> AddMulti(const OpDef& op, absl::Span<const ValueId> in, Attrs attrs = {});

  void Output(absl::string_view name, ValueId value);
  void Update(absl::string_view input, ValueId next);
  void Mark(absl::string_view name, ValueId value);

  // ---- Looking
  const TensorType& type(ValueId v) const;
  const Shape& shape(ValueId v) const { return type(v).shape; }
  DType dtype(ValueId v) const { return type(v).dtype; }
  // The value of a constant node, null for anything else.
  const Tensor* ConstantValue(ValueId v) const;
  // The value that every element of v is known to have (a scalar constant, repeated or not).
  std::optional<double> UniformValue(ValueId v) const;
  // The node that makes v, null for inputs. Valid until the next Add.
  const Node* Producer(ValueId v) const;
  absl::Span<const ValueId> operands(const Node& node) const { return graph_.operands(node); }
  int32_t num_values() const { return graph_.num_values(); }
  // The graph so far, without outputs: for evaluation of a value while building.
  const Graph& so_far() const { return graph_; }

  // ---- Errors and origins
  void Fail(const absl::Status& status);
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }
  // From `limit` on every further node fails with GRAPH_TOO_LARGE, also one that is there already:
  // what is unrolled into this graph is work of at most that much. Without a call: no limit.
  void LimitNodes(int64_t limit) { nodes_left_ = limit; }
  void ClearError() { status_ = absl::OkStatus(); }  // to collect the errors of several nodes
  // Nodes added from now on come from this model node.
  void SetOrigins(Origins origins) { graph_.origins_ = std::move(origins); }
  void SetOrigin(int32_t origin) { origin_ = origin; }
  int32_t origin() const { return origin_; }

  // Takes everything. Nodes that no output, update or mark needs are dropped; inputs stay.
  absl::StatusOr<Graph> Build() &&;

 private:
  std::optional<std::vector<ValueId>> Fold(const OpDef& op, absl::Span<const ValueId> in,
                                           const Attrs& attrs, absl::Span<const TensorType> types);
  absl::StatusOr<Attrs> Complete(const OpDef& op, Attrs attrs) const;
  int32_t Append(const OpDef& op, absl::Span<const ValueId> in, Attrs attrs,
                 std::vector<TensorType> types);
  uint64_t HashNode(const OpDef& op, absl::Span<const ValueId> in, const Attrs& attrs) const;

  Graph graph_;
  absl::Status status_;
  int32_t origin_ = -1;
  int64_t nodes_left_ = INT64_MAX;
  int64_t folded_bytes_ = 0;
  absl::flat_hash_map<uint64_t, absl::InlinedVector<int32_t, 1>> consed_;  // hash -> nodes
};

// The op of constant nodes, attribute "value". Lives with the builder because hash-consing and
// folding make such nodes; its row is in the op table like all others.
extern const OpDef kConstantOp;
// Repeats its input to the attribute "shape" (NumPy broadcasting); for Full().
extern const OpDef kExpandOp;

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_BUILDER_H_
