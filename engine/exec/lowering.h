// File: lowering.h
//
// What the phases of Compile hand to each other: a Graph becomes a list of LoweredSteps over
// *roots* (values that have storage) read through layouts. Private to engine/exec.
//
//   Partition   nodes -> steps: Map clusters, primitives with what folds into them, reductions,
//               reference nodes; views become layouts; copies appear where a layout is not accepted
//   Order       steps -> schedule, by stage, then topological
//   AssignBuffers  roots -> offsets in one arena
#ifndef GRADWIRE_ENGINE_EXEC_LOWERING_H_
#define GRADWIRE_ENGINE_EXEC_LOWERING_H_

#include <memory>
#include <string>
#include <vector>

#include "engine/exec/compile.h"
#include "engine/graph/graph.h"

namespace gradwire {

// How a step reads a value: element [i, j, ...] of `type` lies in the buffer of `root` at
// layout.offset + i * strides[0] + ...
struct Operand {
  ValueId root = kNoValue;
  TensorType type;
  Layout layout;
  bool dense() const { return layout.IsDense(type.shape); }
};

struct MapInstruction {
  TileFn fn;
  // Which operand: >= 0 an instruction of this cluster, < 0 the step's input -1 - index.
  absl::InlinedVector<int32_t, 3> in;
  DType dtype;  // of the result
  ValueId result;
};

// A reduction of an instruction's result over the trailing `reduce_inner` elements of the space,
// made while the tile is in L1.
struct MapReduction {
  ReduceKind kind;
  int32_t instruction;
  DType dtype;
  ValueId result;
};

struct LoweredStep {
  enum Kind { kMap, kReduce, kPrimitive, kReference };
  Kind kind;
  Stage stage = Stage::kConstant;
  std::vector<Operand> in;
  std::vector<ValueId> out;  // roots that this step writes, dense
  int32_t last_node = -1;    // for ordering and labels
  int32_t num_nodes = 1;
  // kMap
  Shape space;  // what is iterated over
  std::vector<MapInstruction> instructions;
  std::vector<MapReduction> reductions;  // their results are the last of `out`
  int64_t reduce_inner = 0;
  // kReduce: over the middle of [outer, axis, inner]
  ReduceKind reduce = ReduceKind::kSum;
  int64_t outer = 0, axis = 0, inner = 0;
  // kPrimitive
  Proposal proposal;
  int64_t flops = 0;
};

// The graph with storage decided: every root has a type, a stage, and is an input, a constant or
// the output of one step.
struct Lowered {
  const Graph* graph = nullptr;
  std::vector<LoweredStep> steps;
  std::vector<TensorType> types;      // by root; ids past the graph's are copies
  std::vector<Stage> stages;          // by root
  std::vector<Operand> outputs;       // of the graph, each dense and distinct storage
  std::vector<ValueId> update_roots;  // of the graph's updates, dense
};

absl::StatusOr<Lowered> Partition(const Graph& graph, const CompileOptions& options);

// Sorts steps: stage first, then topological, earliest node first.
void Order(Lowered* lowered);

// Where a root lives.
struct Place {
  enum Where : uint8_t {
    kNowhere,
    kArena,
    kInput,
    kOutput,
    kConstant,
    kUpdate,
  } where = kNowhere;
  int32_t index = 0;   // of the input, output, constant or update
  int64_t offset = 0;  // bytes, for kArena
};
struct Buffers {
  std::vector<Place> places;     // by root
  std::vector<int64_t> scratch;  // by step: arena offset
  int64_t arena_bytes = 0;
};
// scratch_bytes: by step. MEMORY_LIMIT where the total overflows.
absl::StatusOr<Buffers> AssignBuffers(const Lowered& lowered,
                                      absl::Span<const int64_t> scratch_bytes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_LOWERING_H_
