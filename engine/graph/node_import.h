// File: node_import.h
//
// NodeImport: what an `import` function of a row sees of one ONNX node, while Specialize walks the
// model. It builds core ops through `b` and returns the node's outputs.
//
//   .import = [](NodeImport& n) -> std::vector<ValueId> {
//     std::optional<std::vector<int64_t>> dims = n.FrozenInts(1);   // the "shape" input
//     if (!dims) return {};
//     return {Reshape(n.b, n.in(0), *dims)};
//   }
//
// Errors go to n.Fail(); the importer adds 'node 7 "fc1" (Reshape): '. Returning {} after a failure
// is enough.
#ifndef GRADWIRE_ENGINE_GRAPH_NODE_IMPORT_H_
#define GRADWIRE_ENGINE_GRAPH_NODE_IMPORT_H_

#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/graph/builder.h"
#include "engine/graph/model.h"

namespace gradwire {

// TRAIN and EVAL override what an export baked in (Dropout); AS_GRAPH keeps it.
enum class Mode { kAsGraph, kTrain, kEval };

inline constexpr char kSeedInput[] = "gradwire.seed";

// Import knows two kinds of values that are no tensors; their ids are below kNoValue. An optional
// that holds nothing is kNothing. A sequence is a list of values, with an id below that: it exists
// while a graph is built, and no graph has one.
inline constexpr ValueId kNothing = kNoValue - 1;

// What an import may ask of whoever walks the model.
class ImportScope {
 public:
  enum class Purpose { kShape, kBranch };
  virtual ~ImportScope() = default;
  // Evaluates a value on the call's data; see Specialize. Returns an error where it depends on
  // floating data (which a branch may), or the bounds are passed.
  virtual absl::StatusOr<Tensor> Freeze(ValueId value, Purpose purpose) = 0;
  // NodeImport::Inline.
  virtual std::vector<ValueId> Inline(const Model& body, absl::Span<const ValueId> inputs,
                                      int64_t trip) = 0;

  // A new list; kNoValue where lists have too many members together. List() is null for tensors.
  ValueId AddList(std::vector<ValueId> members);
  const std::vector<ValueId>* List(ValueId v) const;

 private:
  std::vector<std::vector<ValueId>> lists_;
  int64_t members_ = 0;
};

class NodeImport {
 public:
  // What each initialiser holds after a step of training, by its value: itself at first.
  using States = absl::flat_hash_map<ValueId, ValueId>;

  // Without `states`, nothing is updated.
  NodeImport(GraphBuilder& builder, const Attrs& node_attrs, absl::Span<const ValueId> inputs,
             int outputs, int node_opset, Mode call_mode, ImportScope& scope, int64_t stream_index,
             States* states = nullptr)
      : b(builder),
        attrs(node_attrs),
        num_outputs(outputs),
        opset(node_opset),
        mode(call_mode),
        stream(stream_index),
        in_(inputs),
        scope_(scope),
        states_(states) {}
  // A node of one output that the import of `outer` asks for, as in an activation by name.
  NodeImport(const NodeImport& outer, const Attrs& node_attrs, absl::Span<const ValueId> inputs,
             int node_opset)
      : NodeImport(outer.b, node_attrs, inputs, 1, node_opset, outer.mode, outer.scope_,
                   outer.stream, outer.states_) {}

  GraphBuilder& b;
  const Attrs& attrs;     // as in the file: defaults are the import function's business
  const int num_outputs;  // of the node, trailing ones that are left out not counted
  const int opset;
  const Mode mode;
  const int64_t stream;  // distinct for each node of the model: names its random stream

  int num_inputs() const { return static_cast<int>(in_.size()); }
  // A tensor; kNoValue where the input is left out, and, after Fail(), where it is none.
  ValueId in(int i) const;
  bool has(int i) const { return in(i) != kNoValue; }
  // All of them, each a tensor or kNoValue.
  absl::Span<const ValueId> inputs() const;
  const TensorType& type(int i) const { return b.type(in(i)); }
  // Whatever it is: a tensor, kNoValue, kNothing, a list.
  ValueId any(int i) const { return i < num_inputs() ? in_[static_cast<size_t>(i)] : kNoValue; }
  // The members of a sequence; null after Fail(). Holds until the next MakeList or Inline.
  const std::vector<ValueId>* List(int i) const;
  ValueId MakeList(std::vector<ValueId> members);

  // The value of an input that decides a shape, an axis or a branch (integer or boolean).
  // nullopt after Fail(). Absent inputs are nullopt without a failure.
  std::optional<Tensor> Frozen(int i);
  std::optional<std::vector<int64_t>> FrozenInts(int i);
  // `name` as an attribute, or else input i, frozen (axes moved from one to the other over opsets).
  std::optional<std::vector<int64_t>> IntsFromAttrOrInput(absl::string_view name, int i);

  // Whether a value of one element, which chooses a branch, is true; nullopt after Fail(). It may
  // depend on floating data: the graph is then one for these data.
  std::optional<bool> Decide(ValueId v);

  // The graph that an attribute holds; null after Fail().
  const Model* Body(absl::string_view name);
  // Builds the nodes of a body around values for its inputs, and gives its outputs; {} after a
  // failure. `trip` tells runs of one body apart: random ops in it draw other numbers in each.
  std::vector<ValueId> Inline(const Model& body, absl::Span<const ValueId> inputs, int64_t trip);

  // Axis normalised into [0, rank); fails where it is outside.
  int Axis(int64_t axis, int rank);
  // All of them, distinct, sorted; `axes` empty means all of them.
  std::vector<int64_t> Axes(const std::vector<int64_t>& axes, int rank);

  // Input i, which is one of the row's state_inputs, as the nodes before this one leave it.
  ValueId State(int i) const;
  // Leaves `next`, of the same type, in it: the initialiser's value after a step of training. Where
  // the call is no such step, or the input no initialiser, this does nothing.
  void SetState(int i, ValueId next);

  // The INT64[2] value {seed, step} that keys every random op: an input of the graph named
  // kSeedInput, made at its first use.
  ValueId Seed();

  void Fail(Reason reason, absl::string_view what) { b.Fail(Error(reason, what)); }

 private:
  absl::Span<const ValueId> in_;
  ImportScope& scope_;
  States* states_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_NODE_IMPORT_H_
