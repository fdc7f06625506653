// File: step_kernels.h
//
// The kernels that Compile makes itself, for Map clusters, reductions and reference nodes.
#ifndef GRADWIRE_ENGINE_EXEC_STEP_KERNELS_H_
#define GRADWIRE_ENGINE_EXEC_STEP_KERNELS_H_

#include <memory>

#include "engine/exec/lowering.h"

namespace gradwire {

struct BoundKernel {
  std::unique_ptr<Kernel> kernel;
  int64_t scratch_bytes = 0;
};

// A Map cluster: for each tile of the iteration space, load what is not laid out like it, run the
// instructions over the tile while it is in L1, the results that others read going straight to
// memory.
BoundKernel MakeMapKernel(const LoweredStep& step, int threads);
BoundKernel MakeReduceKernel(const LoweredStep& step);
BoundKernel MakeReferenceKernel(const Node& node, const LoweredStep& step, const Lowered& lowered);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_STEP_KERNELS_H_
