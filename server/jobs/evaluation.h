// File: evaluation.h
//
// Evaluator: loss and metrics of a job's parameters on another data set, in EVAL mode.
//
//   GW_ASSIGN_OR_RETURN(auto evaluator, MakeEvaluator(shared, job, model));
//   GW_ASSIGN_OR_RETURN(auto values, evaluator->Evaluate(*stepper, arena));   // "loss", "accuracy"
//
// loss is the mean over batches, weighted by their rows. Of `prediction` against `target`:
//   accuracy, top_k  classes: the largest of the last dimension, the 5 largest, against indices
//   mae, r2          numbers of equal shape
//   auc              the area under the ROC curve: one score and one 0/1 a row, ties halved
// Thread-safety: an object belongs to one thread.
#ifndef GRADWIRE_SERVER_JOBS_EVALUATION_H_
#define GRADWIRE_SERVER_JOBS_EVALUATION_H_

#include <map>
#include <memory>
#include <string>

#include "server/jobs/gradient_stepper.h"
#include "server/jobs/job_run.h"
#include "server/jobs/stepper.h"

namespace gradwire::jobs {

class Evaluator {
 public:
  virtual ~Evaluator() = default;
  virtual absl::StatusOr<std::map<std::string, double>> Evaluate(Stepper& stepper,
                                                                 Arena& arena) = 0;
  virtual EvaluationBytes bytes() const = 0;
};

// Checks everything that the job says of its evaluation, all problems at once.
absl::StatusOr<std::unique_ptr<Evaluator>> MakeEvaluator(const Shared& shared,
                                                         const v1::TrainingJob& job,
                                                         const JobModel& model);
bool LessIsBetter(absl::string_view metric);

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_EVALUATION_H_
