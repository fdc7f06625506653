// File: program.h
//
// Program: a compiled Graph. Physical: steps, buffers at fixed offsets in one arena, layouts; never
// differentiated. Its plan is static, so peak bytes, FLOPs and bytes moved are exact before it
// runs.
//
//   GW_ASSIGN_OR_RETURN(std::shared_ptr<const Program> program, Compile(graph, options));
//   Arena arena;                                        // reuse it: first touches of pages are
//   dear Bindings bindings = {.inputs = {x}, .outputs = {y}}; // in the order of the signature
//   GW_RETURN_IF_ERROR(program->Run(bindings, {.arena = &arena, .cancel = &token}));
//   // K more directions on the same forward pass: change the direction inputs, then
//   GW_RETURN_IF_ERROR(program->Run(bindings, context, Stage::kDirection));
//
// Numerics: equal plan_digest, inputs and seed give equal bytes, always. Thread-safety: a Program
// is immutable; concurrent Runs need an Arena each.
#ifndef GRADWIRE_ENGINE_EXEC_PROGRAM_H_
#define GRADWIRE_ENGINE_EXEC_PROGRAM_H_

#include <memory>
#include <string>
#include <vector>

#include "engine/base/cancel.h"
#include "engine/exec/kernel.h"
#include "engine/graph/graph.h"

namespace gradwire {

// Reusable working memory, 2 MiB aligned, in huge pages where the system has them. Grows to the
// largest Program it has served, never shrinks. One Run at a time.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();
  // At least `bytes`, 2 MiB aligned; null where the system has no more. Contents are kept as long
  // as it does not grow.
  void* Reserve(int64_t bytes);
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

struct SignatureEntry {
  std::string name;
  TensorType type;
  Stage stage;
};
// A state update: after a Run that returned OK, the buffer bound to the input (or to the update)
// holds the new value.
struct Signature {
  std::vector<SignatureEntry> inputs;
  std::vector<SignatureEntry> outputs;
  std::vector<int> updated_inputs;  // indices into `inputs`
};

struct Cost {
  int64_t arena_bytes = 0;   // exact working memory of a Run
  int64_t update_bytes = 0;  // of them: not needed where Bindings.updates are given
  int64_t input_bytes = 0;
  int64_t output_bytes = 0;
  int64_t flops = 0;        // a multiply-add counts 2, a transcendental function 10
  int64_t moved_bytes = 0;  // read and written by the steps
  int64_t nodes = 0;        // of the Graph
  int64_t steps = 0;
  // Rough time on one core, for choosing where to run. Not a promise.
  double estimated_seconds = 0;
};

// Buffers of a Run, in the order of the signature. Inputs are read in place (any alignment of at
// least the element's); outputs are dense. An updated input's buffer is written by the commit tail,
// unless `updates` says where new values go instead: then inputs stay as they are, and who swaps
// the buffers after a Run that returned OK saves the copy.
struct Bindings {
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  std::vector<void*> updates;  // in the order of updated_inputs; or empty
};

struct RunContext {
  Arena* arena = nullptr;
  const CancelToken* cancel = nullptr;
  // Fails with NON_FINITE_VALUE, naming the first output that holds a NaN or an infinity, before
  // any state is committed.
  bool check_finite = false;
  // Where given, cost().steps elements: element i gets the seconds that step i took. Those of steps
  // that do not run stay as they are.
  double* step_seconds = nullptr;
};

class Program {
 public:
  class Plan;  // what Compile makes; engine/exec/plan.h
  explicit Program(std::unique_ptr<const Plan> plan);
  ~Program();

  const Signature& signature() const;
  const Cost& cost() const;
  // Of steps, layouts, offsets, kernels, threads and CPU: equal digests compute equal bits.
  const Digest& plan_digest() const;
  int threads() const;
  // What this object holds, for a cache that is bounded in bytes.
  int64_t footprint_bytes() const;
  // One line a step: its number and its kernel.
  std::string Describe() const;
  // The kernel of a step, below cost().steps.
  std::string DescribeStep(int64_t step) const;

  // Runs the steps of stage `from` and above; those below must have been run with this arena and
  // these bindings before. Between steps it polls `cancel`; the commit of state is not interrupted.
  // No allocation inside. Errors: CANCELLED, DEADLINE_EXCEEDED, NON_FINITE_VALUE, INVALID_TENSOR
  // (an index out of range, say), MEMORY_LIMIT (the arena could not grow). After an error the
  // outputs are unspecified and no state has changed.
  absl::Status Run(const Bindings& bindings, RunContext& context,
                   Stage from = Stage::kConstant) const;

 private:
  std::unique_ptr<const Plan> plan_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_PROGRAM_H_
