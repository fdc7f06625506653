// What a Program holds. Private to engine/exec.
#ifndef GRADWIRE_ENGINE_EXEC_PLAN_H_
#define GRADWIRE_ENGINE_EXEC_PLAN_H_

#include <memory>
#include <string>
#include <vector>

#include "engine/exec/lowering.h"
#include "engine/exec/program.h"

namespace gradwire {

class Program::Plan {
 public:
  // A buffer operand: bases[where][index] + offset.
  struct Slot {
    Place::Where where;
    int32_t index;
    int64_t offset;  // bytes
  };
  struct Step {
    std::unique_ptr<Kernel> kernel;
    Stage stage;
    int32_t first_slot;
    int32_t num_in;
    int32_t num_out;
    int64_t scratch_offset;
  };
  struct Commit {  // the tail: input or update buffer <- slot
    Slot from;
    int32_t input;
    int64_t bytes;
  };

  Signature signature;
  Cost cost;
  Digest digest;
  int threads = 1;
  std::vector<Step> steps;
  std::vector<Slot> slots;  // of all steps, inputs then outputs
  std::vector<Commit> commits;
  std::vector<int64_t> update_offsets;  // arena: where an update goes that has no buffer of its own
  std::vector<Tensor> constants;
  int64_t pointers_offset = 0;  // arena: room for the operand pointers of one step
  int64_t footprint_bytes = 0;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_PLAN_H_
