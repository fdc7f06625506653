// File: specialize.h
//
// Specialize: Model -> Graph, for the types (and, where they decide a shape, the values) of
// one call. Every shape becomes concrete; ONNX nodes become core ops.
//
// Values that decide a shape or a branch carry no gradient. Specialize evaluates them with
// reference kernels on the values of this call and *freezes* the result; `Specialized::frozen`
// lists the inputs whose values it used, because another value needs another Graph. Evaluation is
// bounded in bytes and arithmetic. What decides a shape depends on no floating input that a
// derivative is taken by; a branch may. What is chosen by a branch and repeated by a loop is built
// as often as this call takes it, up to a bound on nodes (GRAPH_TOO_LARGE).
//
// Errors: MISSING_INPUT, UNKNOWN_INPUT, SHAPE_MISMATCH, DTYPE_UNSUPPORTED for inputs;
// UNKNOWN_OUTPUT, UNKNOWN_WRT for names; DATA_DEPENDENT_SHAPE; whatever the nodes' rules find. All
// problems at once.
#ifndef GRADWIRE_ENGINE_EXEC_SPECIALIZE_H_
#define GRADWIRE_ENGINE_EXEC_SPECIALIZE_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/graph/model.h"
#include "engine/graph/node_import.h"

namespace gradwire {

enum class Precision { kAsGraph, kFloat, kDouble };

using NamedViews = absl::flat_hash_map<std::string, TensorView>;

struct SpecializeRequest {
  // The call's inputs by name; may also name initialisers, whose values they replace.
  const NamedViews* inputs = nullptr;
  std::vector<std::string> outputs;  // any value names; empty: the model's outputs
  std::vector<std::string> marks;    // values that must stay distinct (wrt), any floating value
  Mode mode = Mode::kAsGraph;
  Precision precision = Precision::kAsGraph;
  // The graph updates the states of its nodes (running statistics): for a step of training.
  bool update_states = false;
};

struct Specialized {
  // Inputs: those of the model's inputs (stage point), then of its initialisers (stage parameter),
  // that an output or mark needs, in model order; then the seed, where something random wants it.
  // With a precision other than kAsGraph, floating inputs have that type: who binds converts.
  Graph graph;
  std::vector<std::string> frozen;  // inputs and initialisers whose values were used
};

absl::StatusOr<Specialized> Specialize(const Model& model, const SpecializeRequest& request);

// The floating initialisers that can be trained: all but running statistics.
std::vector<std::string> TrainableInitializers(const Model& model);

// The floating values that a derivative is taken by where a call names none: the floating
// initialisers but for running statistics, or the floating inputs where there are none.
std::vector<std::string> DefaultWrt(const Model& model, const NamedViews& inputs);

// Runs a graph's reference kernels on dense tensors: the oracle, and the evaluator of frozen
// values. `inputs` by name. Returns the values of `wanted`. Bounded by `max_bytes` of live tensors.
absl::StatusOr<std::vector<Tensor>> EvaluateByReference(const Graph& graph,
                                                        const NamedViews& inputs,
                                                        absl::Span<const ValueId> wanted,
                                                        int64_t max_bytes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_SPECIALIZE_H_
