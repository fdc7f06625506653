// File: stepper.h
//
// Stepper: one step of a training job, as a call. What a job's model, loss, optimiser, schedule and
// clipping compile to, with the state that a step changes.
//
//   GW_ASSIGN_OR_RETURN(std::unique_ptr<Stepper> stepper, MakeStepper(&engine, job, model, data));
//   GW_ASSIGN_OR_RETURN(StepResult r, stepper->Step(settings, {&batch}, context));
//
// A step that fails (cancelled, a NaN, a deadline) has changed nothing. Thread-safety: an object
// belongs to one thread.
#ifndef GRADWIRE_SERVER_JOBS_STEPPER_H_
#define GRADWIRE_SERVER_JOBS_STEPPER_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "engine/engine.h"
#include "server/jobs/batches.h"

namespace gradwire::jobs {

struct StepSettings {
  int64_t step = 0;      // steps done before this one
  double lr_factor = 1;  // on every learning rate
  uint64_t seed = 0;     // of the job
};

struct StepResult {
  double loss = 0;           // before the update
  double gradient_norm = 0;  // of the whole gradient, before clipping
  double learning_rate = 0;  // of the first group
};

struct StateTensor {
  std::string name;
  Tensor* tensor;
  bool parameter;  // else the optimiser's, or a running statistic
};

class Stepper {
 public:
  virtual ~Stepper() = default;
  // All that a checkpoint holds, in a fixed order; the tensors stay where they are until the next
  // Step or LoadMemory.
  virtual std::vector<StateTensor> state() = 0;
  // What else the optimiser and the schedule remember, exactly. Loading comes before the tensors
  // are filled: it may change which there are.
  virtual nlohmann::json SaveMemory() const = 0;
  virtual absl::Status LoadMemory(const nlohmann::json& memory) = 0;
  // To be told the loss of each evaluation (or step, where there is none) that a schedule watches.
  virtual void Observe(double loss) = 0;

  // Each batch holds the columns in the order of `columns`; none for a job without data. Fewer than
  // the job's accumulation are averaged all the same: what an epoch has left.
  virtual absl::StatusOr<StepResult> Step(const StepSettings& settings,
                                          absl::Span<const Batch* const> batches,
                                          RunContext& context) = 0;
  // The label of the first node whose value is not finite in a step that failed so.
  virtual std::string FirstBadNode(const StepSettings& settings,
                                   absl::Span<const Batch* const> batches) = 0;

  // The batch of the last Step that was computed last: where it has failed.
  virtual size_t last_batch() const { return 0; }

  virtual const Cost& cost() const = 0;  // of one batch
  // Most that it holds beside state(), batches and the arena while it steps and is saved.
  virtual int64_t bytes() const = 0;
  virtual Digest plan_digest() const = 0;
  virtual int threads() const = 0;
};

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_STEPPER_H_
