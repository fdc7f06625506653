// File: gradient_stepper.h
//
// What a job means in the engine's terms, and the Stepper of all optimisers that are compiled into
// the step (all but L-BFGS).
//
//   GW_ASSIGN_OR_RETURN(JobModel model, ReadJob(engine, job, data));        // checks everything
//   GW_ASSIGN_OR_RETURN(auto stepper, MakeStepper(engine, model));  // compiles
//
// Errors name every problem of the job at once. Thread-safety: ReadJob is a pure function.
#ifndef GRADWIRE_SERVER_JOBS_GRADIENT_STEPPER_H_
#define GRADWIRE_SERVER_JOBS_GRADIENT_STEPPER_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "gradwire/v1/training_service.pb.h"
#include "server/jobs/datasets.h"
#include "server/jobs/stepper.h"

namespace gradwire::jobs {

// Of an Evaluator: its working memory, which is that of the steps too, and what it has beside.
struct EvaluationBytes {
  int64_t arena = 0;
  int64_t held = 0;
};

// A job, read and checked.
struct JobModel {
  std::shared_ptr<const LoadedModel> loaded;
  std::map<std::string, Tensor> given;        // `inputs` of the job
  std::vector<std::string> fed;               // inputs that columns feed, and
  std::vector<const SealedColumn*> columns;   // those columns, in the same order
  std::shared_ptr<const SealedDataset> data;  // null without one
  std::string loss;                           // the scalar output
  std::string prediction;                     // what a loss by name is of
  std::vector<TrainedParameter> parameters;
  std::vector<Optimizer> groups;  // [0] is the job's own; empty for L-BFGS
  std::optional<Lbfgs> lbfgs;     // where that is the optimiser
  Schedule schedule;
  Clipping clip;
  int accumulation = 1;
  int64_t batch_size = 0;
  Mode mode = Mode::kTrain;
  Precision precision = Precision::kAsGraph;
  int64_t total_steps = 0;  // 0: not known

  // Views of a batch of so many rows, of the given inputs too: types for Specialize.
  NamedViews Inputs(const Batch* batch) const;
  // The batch's column that feeds an input; null where none does.
  const Tensor* Column(const Batch* batch, const std::string& input) const;
  // A batch of zeros: what Specialize looks at before there is data.
  absl::StatusOr<Batch> EmptyBatch(int64_t rows) const;
  // Of a parameter or another input that no column feeds: from `given`, else the model's
  // initialiser, as `dtype`.
  absl::StatusOr<Tensor> InitialValue(const std::string& name, DType dtype) const;
  // Whether a graph that these inputs' values decided is right for every step: a parameter has
  // another value in each, and so has, where one graph serves all batches, what columns feed.
  absl::Status CheckFrozen(absl::Span<const std::string> frozen, bool any_batch) const;
  // What it takes to read and to hold: values that were given, and the model's own.
  int64_t bytes() const;
};

// `data` is the job's data set, open; null without one.
absl::StatusOr<JobModel> ReadJob(Engine& engine, const v1::TrainingJob& job,
                                 std::shared_ptr<const SealedDataset> data);

// The columns of another data set that feed the same inputs.
absl::StatusOr<std::vector<const SealedColumn*>> MatchColumns(const JobModel& model,
                                                              const v1::TrainingJob& job,
                                                              const SealedDataset& data);

// The Stepper of the job's optimiser. Errors: those of Specialize and Gradient.
absl::StatusOr<std::unique_ptr<Stepper>> MakeStepper(Engine& engine, const JobModel& model);

// Of L-BFGS, which drives a Program of value and gradient from outside.
absl::StatusOr<std::unique_ptr<Stepper>> MakeLbfgsStepper(Engine& engine, const JobModel& model);

// A reader for each batch of a step; none without data.
std::vector<std::unique_ptr<BatchReader>> MakeReaders(const JobModel& model,
                                                      const v1::TrainingJob& job);

// Most that a job takes while it runs: model, working memory, state, a checkpoint under way,
// batches. `evaluation`: of the Evaluator, where there is one.
int64_t PeakBytes(const JobModel& model, Stepper& stepper,
                  const std::vector<std::unique_ptr<BatchReader>>& readers,
                  const EvaluationBytes& evaluation);

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_GRADIENT_STEPPER_H_
