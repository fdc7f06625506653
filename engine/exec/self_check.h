// File: self_check.h
//
// Believe no kernel unproved: every provider's kernels, our pointwise loops and our reductions are
// compared with the reference on a sweep of small shapes, twice, on poisoned memory, before Compile
// may use them. What disagrees is
// declined: the next provider, or the reference, takes the node. Debian 13's oneDNN computes some
// gradients wrong, so this is not a formality.
#ifndef GRADWIRE_ENGINE_EXEC_SELF_CHECK_H_
#define GRADWIRE_ENGINE_EXEC_SELF_CHECK_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "engine/exec/kernel.h"
#include "engine/graph/op_def.h"
#include "engine/kernels/reduce.h"

namespace gradwire {

struct CheckedProviders {
  std::vector<std::shared_ptr<const KernelProvider>> providers;
  absl::flat_hash_set<TileFn> declined_tiles;
  absl::flat_hash_set<ReduceFn> declined_reductions;
  int64_t checks = 0;                 // kernels run
  std::vector<std::string> declined;  // one line for each kind of kernel that was wrong
};

// Wraps the providers so that a kind of kernel (primitive, dtype, what is folded in) that failed
// its check is not proposed. With `skip` nothing is run and nothing declined. Takes well under a
// second.
CheckedProviders CheckProviders(std::vector<std::shared_ptr<const KernelProvider>> providers,
                                const OpRegistry& ops, int threads, bool skip);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_SELF_CHECK_H_
