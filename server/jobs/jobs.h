// File: jobs.h
//
// Jobs: training jobs from their creation to their end: the queue, what runs, and taking up again
// what a stopped server has left. training_service.proto says what each call means.
//
//   Jobs jobs(shared, {.max_running = 2});
//   GW_RETURN_IF_ERROR(jobs.TakeUp());              // at start
//   GW_RETURN_IF_ERROR(jobs.Create(request, resolve, &job)); // ...
//   jobs.Stop();                                    // checkpoints, and leaves them queued
//
// Every change is in the store before the call returns; what runs follows from the store. Jobs run
// side by side up to max_running; the others wait, the highest priority first, then the oldest.
//
// Thread-safety: every method may be called from any thread.
#ifndef GRADWIRE_SERVER_JOBS_JOBS_H_
#define GRADWIRE_SERVER_JOBS_JOBS_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "google/protobuf/empty.pb.h"
#include "gradwire/v1/training_service.pb.h"
#include "server/jobs/job_run.h"

namespace gradwire::jobs {

struct JobsOptions {
  int max_running = 1;
};

class Jobs {
 public:
  Jobs(const Shared& shared, const JobsOptions& options) : shared_(shared), options_(options) {}
  ~Jobs();  // Stop()

  // Queues the jobs that an earlier server has left, and starts to run.
  absl::Status TakeUp();
  // Running jobs checkpoint and go back to the queue; returns when all have.
  void Stop();

  // `resolve` puts the model in the place of its name.
  absl::Status Create(const v1::CreateTrainingJobRequest& request,
                      absl::FunctionRef<absl::Status(v1::TrainingJob*)> resolve,
                      v1::TrainingJob* response);
  absl::Status Get(const std::string& name, v1::TrainingJob* response);
  absl::Status List(const v1::ListTrainingJobsRequest& request,
                    v1::ListTrainingJobsResponse* response);
  absl::Status Delete(const v1::DeleteTrainingJobRequest& request,
                      google::protobuf::Empty* response);
  absl::Status Cancel(const v1::CancelTrainingJobRequest& request, v1::TrainingJob* response);
  absl::Status Pause(const v1::PauseTrainingJobRequest& request, v1::TrainingJob* response);
  absl::Status Resume(const v1::ResumeTrainingJobRequest& request, v1::TrainingJob* response);
  absl::Status Estimate(const v1::TrainingJob& job, v1::TrainingEstimate* response);

  const Shared& shared() const { return shared_; }

 private:
  using QueueKey = std::tuple<int64_t, int64_t, std::string>;  // -priority, serial, id
  static QueueKey KeyOf(const JobRecord& record);

  // Checks a job in full; compiles it. `start` gets the digest of the checkpoint that it starts
  // from.
  absl::Status Check(const v1::TrainingJob& job, v1::TrainingEstimate* estimate,
                     std::string* start);
  absl::Status CheckStop(const std::string& id, const v1::Stop& stop);
  void Enqueue(const JobRecord& record);
  // The next one that may start; null where there is none, or no room.
  const QueueKey* NextToStart() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work();
  // Stores that a job runs. False where it is not to run any more.
  absl::StatusOr<bool> Enter(const std::string& id);
  void Launch(const std::string& id);
  // Deletes what has expired: jobs, graphs, data sets, and answers to old calls.
  absl::Status DeleteExpired();
  // Has the end of a run stored that could not be stored before, so that a call finds the state.
  void Settle(const std::string& id);
  absl::Status Remove(store::Store::Transaction& t, const store::Resource& resource,
                      std::vector<std::string>* blobs);
  // What only the running server knows of a job.
  void AddLiveState(absl::Span<v1::TrainingJob* const> jobs);
  // `positions`: of the queue, by id.
  void AddLiveState(const std::string& id,
                    const absl::flat_hash_map<absl::string_view, int>& positions,
                    v1::TrainingJob* job) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Shared& shared_;
  const JobsOptions options_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<QueueKey> queue_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<JobRun>> running_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> ended_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
  absl::Time next_forgetting_ = absl::InfinitePast();  // the thread's
};

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_JOBS_H_
