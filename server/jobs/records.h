// File: records.h
//
// How jobs lie in the store: what each resource, event and name means.
//
//   job resource    id; state = v1::TrainingJob::State; bytes = a v1::TrainingJob without what is
//                   large (model, inputs); blobs = {digest of the whole job as it was created, and
//                   of the checkpoint that it starts from, where there is one}
//   event           bytes = a v1::TrainingEvent; type = EventType
//   checkpoint      bytes = a v1::Checkpoint; blob = the safetensors file
//
// Thread-safety: pure functions of the transaction they get.
#ifndef GRADWIRE_SERVER_JOBS_RECORDS_H_
#define GRADWIRE_SERVER_JOBS_RECORDS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "gradwire/v1/training_service.pb.h"
#include "server/store/store.h"

namespace gradwire::jobs {

enum class EventType { kOther = 0, kMetrics = 1, kEvaluation = 2 };

inline constexpr char kJobPrefix[] = "jobs/";
inline constexpr char kDatasetPrefix[] = "datasets/";

// 16 random lower-case hex digits.
std::string NewId();
// The id in "prefix/id". INVALID_SPEC where the name does not look like one.
absl::StatusOr<std::string> IdOf(const std::string& name, absl::string_view prefix);
absl::Status NotFound(const std::string& name);

bool HasEnded(v1::TrainingJob::State state);

// A job as the store has it, `resource` kept for Put.
struct JobRecord {
  store::Resource resource;
  v1::TrainingJob job;
};
// NOT_FOUND where there is none.
absl::StatusOr<JobRecord> GetJob(store::Store::Snapshot& snapshot, const std::string& id);
absl::Status PutJob(store::Store::Transaction& t, JobRecord& record);

// The name of a job that has not ended and reads the data set; "" where there is none.
absl::StatusOr<std::string> UserOfDataset(store::Store::Snapshot& snapshot,
                                          const std::string& dataset);

// Numbers the events on from the last one and appends them; job.last_event follows.
absl::Status AppendEvents(store::Store::Transaction& t, const std::string& id,
                          std::vector<v1::TrainingEvent>& events, v1::TrainingJob* job);
v1::TrainingEvent StateEvent(const v1::TrainingJob& job);
v1::TrainingEvent NoticeEvent(int64_t step, absl::string_view reason, absl::string_view message);

// Enters a new state, with its event.
absl::Status ChangeState(store::Store::Transaction& t, JobRecord& record,
                         v1::TrainingJob::State state, absl::string_view reason);

// Who waits for events of which job. Thread-safe.
class Watchers {
 public:
  // Changes with each Notify.
  int64_t Version(const std::string& job) const;
  // Calls `wake` once, at the next Notify; at once where the version is not `seen` any more.
  // `watcher` tells waiting ones apart.
  void Await(const std::string& job, const void* watcher, int64_t seen,
             absl::AnyInvocable<void()> wake);
  // Forgets the wake of a watcher that goes away.
  void Drop(const std::string& job, const void* watcher);
  void Notify(const std::string& job);

 private:
  struct Entry {
    int64_t version = 0;
    std::map<const void*, absl::AnyInvocable<void()>> waiting;
  };
  mutable absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_RECORDS_H_
