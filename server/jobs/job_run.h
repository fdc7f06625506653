// File: job_run.h
//
// JobRun: a training job while it runs, on a thread of its own: batches, steps, evaluations,
// events, checkpoints and the rule for stopping.
//
// What a run does is a function of the job, its data and the checkpoint that it starts from; so one
// that was killed and starts again from its last checkpoint ends with the same bytes. Events that
// were written before the kill are not written again.
//
// Thread-safety: every method may be called from any thread.
#ifndef GRADWIRE_SERVER_JOBS_JOB_RUN_H_
#define GRADWIRE_SERVER_JOBS_JOB_RUN_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "gradwire/v1/training_service.pb.h"
#include "server/jobs/datasets.h"
#include "server/jobs/records.h"
#include "server/store/blob_store.h"
#include "server/store/store.h"

namespace gradwire::jobs {

// The right to use so many processors, as long as the result lives.
using ClaimProcessors = std::function<std::shared_ptr<void>(int threads)>;

// What all jobs of a server share. All outlive the runs.
struct Shared {
  Engine* engine;
  store::Store* store;
  store::BlobStore* blobs;
  Datasets* datasets;
  Watchers* watchers;
  ReserveMemory reserve_memory;
  ClaimProcessors claim_processors;
};

class JobRun {
 public:
  JobRun(const Shared& shared, std::string id) : shared_(shared), id_(std::move(id)) {}
  ~JobRun();  // Abandon(), and waits
  JobRun(const JobRun&) = delete;
  JobRun& operator=(const JobRun&) = delete;

  // `on_end` is called once, from the run's thread, when the job's new state is stored.
  void Start(std::function<void()> on_end);
  // Ends the run after the step under way, with a checkpoint.
  void Stop() { stop_ = true; }
  // As Stop, of a server that stops: the run ends also where its end cannot be stored.
  void Abandon();
  v1::Progress progress() const;

  struct End {
    v1::TrainingJob::State state;
    std::string reason;
  };
  // How the run has ended, where the store could not take it yet: the disk is full, say. It is
  // tried again every second, and by SaveEnd at once.
  std::optional<End> unsaved_end() const;
  absl::Status SaveEnd();

 private:
  class Loop;
  void Run();

  const Shared& shared_;
  const std::string id_;
  std::atomic<bool> stop_{false};
  mutable absl::Mutex mutex_;
  v1::Progress progress_ ABSL_GUARDED_BY(mutex_);
  std::optional<End> end_ ABSL_GUARDED_BY(mutex_);
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Mutex saving_;  // before mutex_
  std::thread thread_;
};

// The job as it was created (the blob), with the record's changes since.
absl::StatusOr<v1::TrainingJob> WholeJob(const JobRecord& record, store::BlobStore& blobs);

// A checkpoint's row and file. CORRUPT_DATA where the file is damaged.
absl::StatusOr<std::shared_ptr<const store::Blob>> OpenCheckpoint(const store::CheckpointRow& row,
                                                                  store::BlobStore& blobs);

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_JOB_RUN_H_
