// File: training_core.h
//
// TrainingCore, DatasetCore: the rpcs of TrainingService and DatasetService without their
// transport. training_service.proto and dataset_service.proto say what each means; server/jobs does
// the work.
//
// Thread-safety: every method may be called from any thread.
#ifndef GRADWIRE_SERVER_CORE_TRAINING_CORE_H_
#define GRADWIRE_SERVER_CORE_TRAINING_CORE_H_

#include <memory>

#include "google/protobuf/empty.pb.h"
#include "gradwire/v1/dataset_service.pb.h"
#include "gradwire/v1/training_service.pb.h"
#include "server/core/call.h"
#include "server/core/graph_store.h"
#include "server/core/stream.h"
#include "server/jobs/datasets.h"
#include "server/jobs/jobs.h"

namespace gradwire::server {

class DatasetCore {
 public:
  explicit DatasetCore(jobs::Datasets* datasets) : datasets_(*datasets) {}

  absl::Status CreateDataset(const v1::CreateDatasetRequest& request, v1::Dataset* response, Call&);
  absl::StatusOr<std::unique_ptr<Sink<v1::AppendDatasetRequest, v1::Dataset>>> AppendDataset(Call&);
  absl::Status SealDataset(const v1::SealDatasetRequest& request, v1::Dataset* response, Call&);
  absl::Status GetDataset(const v1::GetDatasetRequest& request, v1::Dataset* response, Call&);
  absl::Status ListDatasets(const v1::ListDatasetsRequest& request,
                            v1::ListDatasetsResponse* response, Call&);
  absl::Status DeleteDataset(const v1::DeleteDatasetRequest& request,
                             google::protobuf::Empty* response, Call&);
  template <typename Request>
  bool IsQuick(const Request&, Call&) const {
    return false;  // they touch the disk
  }

 private:
  jobs::Datasets& datasets_;
};

class TrainingCore {
 public:
  TrainingCore(jobs::Jobs* jobs, GraphStore* graphs) : jobs_(*jobs), graphs_(*graphs) {}

  absl::Status CreateTrainingJob(const v1::CreateTrainingJobRequest& request,
                                 v1::TrainingJob* response, Call&);
  absl::Status GetTrainingJob(const v1::GetTrainingJobRequest& request, v1::TrainingJob* response,
                              Call&);
  absl::Status ListTrainingJobs(const v1::ListTrainingJobsRequest& request,
                                v1::ListTrainingJobsResponse* response, Call&);
  absl::Status DeleteTrainingJob(const v1::DeleteTrainingJobRequest& request,
                                 google::protobuf::Empty* response, Call&);
  absl::Status CancelTrainingJob(const v1::CancelTrainingJobRequest& request,
                                 v1::TrainingJob* response, Call&);
  absl::Status PauseTrainingJob(const v1::PauseTrainingJobRequest& request,
                                v1::TrainingJob* response, Call&);
  absl::Status ResumeTrainingJob(const v1::ResumeTrainingJobRequest& request,
                                 v1::TrainingJob* response, Call&);
  absl::StatusOr<std::unique_ptr<Source<v1::TrainingEvent>>> WatchTrainingJob(
      const v1::WatchTrainingJobRequest& request, Call&);
  absl::Status QueryMetrics(const v1::QueryMetricsRequest& request,
                            v1::QueryMetricsResponse* response, Call&);
  absl::Status EstimateTrainingJob(const v1::EstimateTrainingJobRequest& request,
                                   v1::TrainingEstimate* response, Call&);
  absl::Status ListCheckpoints(const v1::ListCheckpointsRequest& request,
                               v1::ListCheckpointsResponse* response, Call&);
  absl::StatusOr<std::unique_ptr<Source<v1::FileChunk>>> DownloadCheckpoint(
      const v1::DownloadCheckpointRequest& request, Call&);
  absl::StatusOr<std::unique_ptr<Source<v1::FileChunk>>> ExportModel(
      const v1::ExportModelRequest& request, Call&);
  template <typename Request>
  bool IsQuick(const Request&, Call&) const {
    return false;  // they touch the disk
  }

 private:
  // The model that the job names, in full.
  absl::Status Resolve(v1::TrainingJob* job);

  jobs::Jobs& jobs_;
  GraphStore& graphs_;
};

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_TRAINING_CORE_H_
