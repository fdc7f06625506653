#include "server/jobs/records.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "engine/base/status.h"
#include "proto/codec/time_codec.h"

namespace gradwire::jobs {

std::string NewId() {
  absl::BitGen random;
  return absl::StrCat(absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16));
}

absl::StatusOr<std::string> IdOf(const std::string& name, absl::string_view prefix) {
  absl::string_view id = name;
  const bool good = absl::ConsumePrefix(&id, prefix) && !id.empty() && id.size() <= 64 &&
                    std::all_of(id.begin(), id.end(), [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                    });
  if (good) return std::string(id);
  return Error(Reason::kInvalidSpec,
               absl::StrCat("name: got \"", name.substr(0, 80), "\", expected ", prefix, "ID"));
}

absl::Status NotFound(const std::string& name) {
  return Error(Reason::kNotFound, absl::StrCat("there is no ", name));
}

bool HasEnded(v1::TrainingJob::State state) {
  return state == v1::TrainingJob::SUCCEEDED || state == v1::TrainingJob::FAILED ||
         state == v1::TrainingJob::CANCELLED;
}

absl::StatusOr<JobRecord> GetJob(store::Store::Snapshot& snapshot, const std::string& id) {
  GW_ASSIGN_OR_RETURN(std::optional<store::Resource> resource, snapshot.Get(store::Kind::kJob, id));
  if (!resource) return NotFound(absl::StrCat(kJobPrefix, id));
  JobRecord record;
  if (!record.job.ParseFromString(resource->bytes)) {
    return Error(Reason::kCorruptData,
                 absl::StrCat("the record of ", kJobPrefix, id, " does not parse"));
  }
  record.resource = *std::move(resource);
  return record;
}

absl::Status PutJob(store::Store::Transaction& t, JobRecord& record) {
  store::Resource& resource = record.resource;
  resource.state = record.job.state();
  resource.expires = 0;
  if (HasEnded(record.job.state()) && record.job.has_ttl()) {
    const absl::Time end =
        codec::TimeOf(record.job.end_time()) + codec::DurationOf(record.job.ttl());
    resource.expires = std::max<int64_t>(absl::ToUnixSeconds(end), 1);
  }
  resource.bytes = record.job.SerializeAsString();
  return t.Put(resource);
}

absl::StatusOr<std::string> UserOfDataset(store::Store::Snapshot& snapshot,
                                          const std::string& dataset) {
  constexpr int kOpen[] = {v1::TrainingJob::QUEUED, v1::TrainingJob::RUNNING,
                           v1::TrainingJob::PAUSING, v1::TrainingJob::PAUSED,
                           v1::TrainingJob::CANCELLING};
  GW_ASSIGN_OR_RETURN(const auto rows, snapshot.List(store::Kind::kJob, 0, INT_MAX, kOpen));
  for (const store::Resource& row : rows) {
    v1::TrainingJob job;
    if (job.ParseFromString(row.bytes) &&
        (job.dataset() == dataset || job.evaluation().dataset() == dataset)) {
      return job.name();
    }
  }
  return std::string();
}

absl::Status AppendEvents(store::Store::Transaction& t, const std::string& id,
                          std::vector<v1::TrainingEvent>& events, v1::TrainingJob* job) {
  if (events.empty()) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(const std::optional<store::Event> last, t.LastEvent(id, -1));
  int64_t number = last ? last->number : 0;
  for (v1::TrainingEvent& event : events) {
    event.set_number(++number);
    const EventType type = event.has_metrics()      ? EventType::kMetrics
                           : event.has_evaluation() ? EventType::kEvaluation
                                                    : EventType::kOther;
    GW_RETURN_IF_ERROR(t.AppendEvent(
        id, {number, event.step(), static_cast<int>(type), event.SerializeAsString()}));
  }
  job->set_last_event(number);
  return absl::OkStatus();
}

v1::TrainingEvent StateEvent(const v1::TrainingJob& job) {
  v1::TrainingEvent event;
  *event.mutable_time() = codec::ToProto(absl::Now());
  event.set_step(job.progress().step());
  event.mutable_state()->set_state(job.state());
  event.mutable_state()->set_reason(job.state_reason());
  return event;
}

v1::TrainingEvent NoticeEvent(int64_t step, absl::string_view reason, absl::string_view message) {
  v1::TrainingEvent event;
  *event.mutable_time() = codec::ToProto(absl::Now());
  event.set_step(step);
  event.mutable_notice()->set_reason(std::string(reason));
  event.mutable_notice()->set_message(std::string(message));
  return event;
}

absl::Status ChangeState(store::Store::Transaction& t, JobRecord& record,
                         v1::TrainingJob::State state, absl::string_view reason) {
  v1::TrainingJob& job = record.job;
  job.set_state(state);
  job.set_state_reason(std::string(reason));
  const google::protobuf::Timestamp now = codec::ToProto(absl::Now());
  if (state == v1::TrainingJob::RUNNING && !job.has_start_time()) *job.mutable_start_time() = now;
  if (HasEnded(state)) {
    *job.mutable_end_time() = now;
  } else {
    job.clear_end_time();
  }
  if (state != v1::TrainingJob::RUNNING) job.mutable_progress()->clear_eta();
  std::vector<v1::TrainingEvent> events = {StateEvent(job)};
  GW_RETURN_IF_ERROR(AppendEvents(t, record.resource.id, events, &job));
  return PutJob(t, record);
}

int64_t Watchers::Version(const std::string& job) const {
  absl::MutexLock lock(&mutex_);
  const auto entry = entries_.find(job);
  return entry == entries_.end() ? 0 : entry->second.version;
}

void Watchers::Await(const std::string& job, const void* watcher, int64_t seen,
                     absl::AnyInvocable<void()> wake) {
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_[job];
    if (entry.version == seen) {
      entry.waiting.insert_or_assign(watcher, std::move(wake));
      return;
    }
  }
  wake();
}

void Watchers::Drop(const std::string& job, const void* watcher) {
  absl::MutexLock lock(&mutex_);
  const auto entry = entries_.find(job);
  if (entry != entries_.end()) entry->second.waiting.erase(watcher);
}

void Watchers::Notify(const std::string& job) {
  std::map<const void*, absl::AnyInvocable<void()>> waiting;
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_[job];
    ++entry.version;
    waiting = std::exchange(entry.waiting, {});
  }
  for (auto& [watcher, wake] : waiting) wake();
}

}  // namespace gradwire::jobs
