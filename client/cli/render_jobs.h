// File: render_jobs.h
//
// Jobs, checkpoints, estimates and data sets as text for people.
//
//   NAME       STATE      STEP       %  LOSS    ETA  AGE
//   jobs/3f2c  RUNNING    450/1000  45  0.0712  2s   1m05s
#ifndef GRADWIRE_CLIENT_CLI_RENDER_JOBS_H_
#define GRADWIRE_CLIENT_CLI_RENDER_JOBS_H_

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gradwire/v1/dataset_service.pb.h"
#include "gradwire/v1/training_service.pb.h"

namespace gradwire::cli {

absl::Time TimeOf(const google::protobuf::Timestamp& wire);
absl::Duration DurationOf(const google::protobuf::Duration& wire);

// "450/1000", or "450" where the end is not known.
std::string StepText(const v1::Progress& progress);

std::string JobsAsText(const std::vector<v1::TrainingJob>& jobs, absl::Time now);
// Everything that a person asks of one job.
std::string JobAsText(const v1::TrainingJob& job, absl::Time now);
std::string CheckpointsAsText(const std::vector<v1::Checkpoint>& checkpoints, absl::Time now);
std::string EstimateAsText(const v1::TrainingEstimate& estimate);
std::string DatasetsAsText(const std::vector<v1::Dataset>& datasets, absl::Time now);
std::string DatasetAsText(const v1::Dataset& dataset, absl::Time now);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_RENDER_JOBS_H_
