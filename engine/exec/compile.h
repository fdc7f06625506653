// File: compile.h
//
// Compile: Graph -> Program. A pure function: it never times anything, and equal arguments on equal
// machines give equal plans. Phases, one file each: partition, layouts, order, buffers, steps.
// Cost: linear in nodes (n log n in live buffers).
#ifndef GRADWIRE_ENGINE_EXEC_COMPILE_H_
#define GRADWIRE_ENGINE_EXEC_COMPILE_H_

#include <memory>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "engine/exec/program.h"
#include "engine/kernels/reduce.h"

namespace gradwire {

struct CompileOptions {
  int threads = 1;
  // Asked in this order for each primitive; what none takes runs its reference.
  std::vector<std::shared_ptr<const KernelProvider>> providers;
  // Loops that failed their self-check: their nodes run the reference.
  absl::flat_hash_set<TileFn> declined_tiles;
  absl::flat_hash_set<ReduceFn> declined_reductions;
  // False runs every node alone through its reference: the oracle.
  bool fast = true;
};

// Errors: INTERNAL only (a Graph is valid by construction), MEMORY_LIMIT where a plan's byte count
// overflows.
absl::StatusOr<std::shared_ptr<const Program>> Compile(const Graph& graph,
                                                       const CompileOptions& options);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_COMPILE_H_
