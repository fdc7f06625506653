#include "server/jobs/jobs.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status.h"
#include "proto/codec/time_codec.h"
#include "server/jobs/checkpoints.h"
#include "server/jobs/evaluation.h"
#include "server/jobs/gradient_stepper.h"
#include "server/store/once.h"
#include "server/store/page.h"

namespace gradwire::jobs {
namespace {

using store::Kind;
using store::Store;
using State = v1::TrainingJob;

constexpr absl::Duration kExpiryPeriod = absl::Seconds(10);
// Of an estimate.
constexpr absl::Duration kTrialTime = absl::Milliseconds(500);
constexpr int64_t kTrialSteps = 20;

absl::Status WrongState(const v1::TrainingJob& job, absl::string_view expected) {
  return Error(Reason::kWrongState,
               absl::StrCat(job.name(), " is ", v1::TrainingJob::State_Name(job.state()),
                            ", expected ", expected));
}

// What the caller may say; the rest is the server's.
v1::TrainingJob Specification(const v1::TrainingJob& given) {
  v1::TrainingJob job = given;
  job.clear_name();
  job.clear_state();
  job.clear_state_reason();
  job.clear_progress();
  job.clear_create_time();
  job.clear_start_time();
  job.clear_end_time();
  job.clear_last_event();
  job.clear_plan_digest();
  job.set_learning_rate_factor(1);
  return job;
}

// The shortest of a few steps on the first batches of the job's data; nullopt where none succeeds
// in time. Changes the stepper's state.
std::optional<absl::Duration> TimeOfStep(Stepper& stepper,
                                         const std::vector<std::unique_ptr<BatchReader>>& readers,
                                         const v1::TrainingJob& job, const Shared& shared) {
  const absl::Time deadline = absl::Now() + kTrialTime;
  const CancelToken token(deadline);
  Arena arena;
  RunContext context{.arena = &arena, .cancel = &token};
  std::optional<absl::Duration> shortest;
  BatchPlace place;
  for (int64_t i = 0; i < kTrialSteps && absl::Now() < deadline; ++i) {
    const auto claim = shared.claim_processors(stepper.threads());
    const absl::Time start = absl::Now();
    std::vector<const Batch*> batches;
    for (const auto& reader : readers) {
      batches.push_back(&reader->Read(place));
      place = reader->order().Next(place);
    }
    if (!stepper.Step({.step = i, .seed = job.seed()}, batches, context).ok()) break;
    const absl::Duration time = absl::Now() - start;
    shortest = std::min(shortest.value_or(time), time);
  }
  return shortest;
}

}  // namespace

Jobs::QueueKey Jobs::KeyOf(const JobRecord& record) {
  return {-int64_t{record.job.priority()}, record.resource.serial, record.resource.id};
}

Jobs::~Jobs() { Stop(); }

absl::Status Jobs::TakeUp() {
  constexpr int kLeft[] = {State::QUEUED, State::RUNNING, State::PAUSING, State::CANCELLING};
  GW_RETURN_IF_ERROR(shared_.store->Write([&](Store::Transaction& t) -> absl::Status {
    GW_ASSIGN_OR_RETURN(const auto rows, t.List(Kind::kJob, 0, INT32_MAX, kLeft));
    for (const store::Resource& row : rows) {
      GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, row.id));
      const State::State state = record.job.state();
      if (state == State::PAUSING) {
        GW_RETURN_IF_ERROR(ChangeState(t, record, State::PAUSED, "the server was restarted"));
      } else if (state == State::CANCELLING) {
        GW_RETURN_IF_ERROR(ChangeState(t, record, State::CANCELLED, "the server was restarted"));
      } else {
        if (state == State::RUNNING) {
          GW_RETURN_IF_ERROR(ChangeState(t, record, State::QUEUED, "the server was restarted"));
        }
        Enqueue(record);
      }
    }
    return absl::OkStatus();
  }));
  thread_ = std::thread([this] { Work(); });
  return absl::OkStatus();
}

void Jobs::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (auto& [id, run] : running_) run->Stop();
  }
  if (thread_.joinable()) thread_.join();
  absl::MutexLock lock(&mutex_);
  running_.clear();
}

void Jobs::Enqueue(const JobRecord& record) {
  absl::MutexLock lock(&mutex_);
  queue_.insert(KeyOf(record));
}

const Jobs::QueueKey* Jobs::NextToStart() const {
  if (stopping_ || static_cast<int>(running_.size()) >= options_.max_running) return nullptr;
  for (const QueueKey& key : queue_) {
    // One that was paused and resumed at once may not have ended yet.
    if (running_.count(std::get<2>(key)) == 0) return &key;
  }
  return nullptr;
}

void Jobs::Work() {
  absl::Time next_expiry = absl::Now();
  while (true) {
    std::vector<std::unique_ptr<JobRun>> over;
    std::string start;
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this] {
        mutex_.AssertHeld();
        return !ended_.empty() || (stopping_ && running_.empty()) || NextToStart() != nullptr;
      };
      mutex_.AwaitWithDeadline(absl::Condition(&due), next_expiry);
      for (const std::string& id : std::exchange(ended_, {})) {
        over.push_back(std::move(running_[id]));
        running_.erase(id);
      }
      if (stopping_ && running_.empty()) return;
      if (const QueueKey* next = NextToStart()) {
        start = std::get<2>(*next);
        queue_.erase(QueueKey(*next));
      }
    }
    over.clear();  // joins their threads
    if (absl::Now() >= next_expiry) {
      Expire();
      next_expiry = absl::Now() + kExpiryPeriod;
    }
    if (start.empty()) continue;
    bool runs = false;
    const absl::Status status = shared_.store->Write([&](Store::Transaction& t) -> absl::Status {
      GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, start));
      runs = record.job.state() == State::QUEUED;
      return runs ? ChangeState(t, record, State::RUNNING, "") : absl::OkStatus();
    });
    if (!status.ok() || !runs) continue;
    shared_.watchers->Notify(start);
    auto run = std::make_unique<JobRun>(shared_, start);
    JobRun* const started = run.get();
    absl::MutexLock lock(&mutex_);
    running_[start] = std::move(run);
    started->Start([this, start] {
      absl::MutexLock ended(&mutex_);
      ended_.push_back(start);
    });
    if (stopping_) started->Stop();
  }
}

absl::Status Jobs::Check(const v1::TrainingJob& job, v1::TrainingEstimate* estimate) {
  std::shared_ptr<const SealedDataset> data;
  if (!job.dataset().empty()) {
    GW_ASSIGN_OR_RETURN(data, shared_.datasets->Open(job.dataset()));
  }
  GW_ASSIGN_OR_RETURN(const JobModel model, ReadJob(*shared_.engine, job, std::move(data)));
  GW_ASSIGN_OR_RETURN(const auto stepper, MakeStepper(*shared_.engine, model));
  EvaluationBytes evaluation;
  if (!job.evaluation().dataset().empty()) {
    GW_ASSIGN_OR_RETURN(const auto evaluator, MakeEvaluator(shared_, job, model));
    evaluation = evaluator->bytes();
  }
  if (job.start().from_case() != v1::Start::FROM_NOT_SET) {
    GW_ASSIGN_OR_RETURN(
        const store::CheckpointRow row,
        FindCheckpoint(*shared_.store,
                       job.start().has_job() ? job.start().job() : job.start().checkpoint()));
    GW_ASSIGN_OR_RETURN(const auto file, OpenCheckpoint(row, *shared_.blobs));
    GW_RETURN_IF_ERROR(StartFrom(file->bytes(), *stepper));
  }
  if (estimate == nullptr) return absl::OkStatus();
  const auto readers = MakeReaders(model, job);
  absl::Duration step = absl::Seconds(stepper->cost().estimated_seconds * model.accumulation);
  const int64_t peak = PeakBytes(model, *stepper, readers, evaluation);
  // What a step takes is measured, unless it is certain to be long, or there is no room.
  if (step < kTrialTime) {
    const auto memory = shared_.reserve_memory(peak);
    if (memory.ok()) step = TimeOfStep(*stepper, readers, job, shared_).value_or(step);
  }
  *estimate->mutable_step_time() = codec::ToProto(step);
  *estimate->mutable_total_time() = codec::ToProto(step * model.total_steps);
  estimate->set_total_steps(model.total_steps);
  estimate->set_peak_bytes(peak);
  estimate->set_flops_per_step(stepper->cost().flops * std::max(model.accumulation, 1));
  for (const StateTensor& s : stepper->state()) {
    estimate->set_checkpoint_bytes(estimate->checkpoint_bytes() + s.tensor->bytes());
    if (s.parameter) {
      estimate->set_parameters(estimate->parameters() + s.tensor->num_elements());
    }
  }
  return absl::OkStatus();
}

absl::Status Jobs::Estimate(const v1::TrainingJob& job, v1::TrainingEstimate* response) {
  return Check(job, response);
}

absl::Status Jobs::Create(const v1::CreateTrainingJobRequest& request, v1::TrainingJob* response) {
  bool answered = false;
  GW_RETURN_IF_ERROR(shared_.store->Read([&](Store::Snapshot& s) -> absl::Status {
    GW_ASSIGN_OR_RETURN(answered, store::FindAnswer(s, "CreateTrainingJob", request, response));
    return absl::OkStatus();
  }));
  if (answered) return absl::OkStatus();
  v1::TrainingJob job = Specification(request.job());
  GW_RETURN_IF_ERROR(Check(job, nullptr));
  if (request.validate_only()) {
    *response = std::move(job);
    response->clear_model();
    response->clear_inputs();
    return absl::OkStatus();
  }
  const store::BlobStore::Hold hold(shared_.blobs);
  GW_ASSIGN_OR_RETURN(const std::string blob, shared_.blobs->Put(job.SerializeAsString()));
  std::optional<JobRecord> made;
  GW_RETURN_IF_ERROR(store::Once(
      *shared_.store, "CreateTrainingJob", request, response,
      [&](Store::Transaction& t) -> absl::Status {
        const std::string id = NewId();
        JobRecord record;
        record.resource = {.kind = Kind::kJob, .id = id, .state = State::QUEUED, .blobs = {blob}};
        record.job = job;
        record.job.clear_model();
        record.job.clear_inputs();
        record.job.set_name(absl::StrCat(kJobPrefix, id));
        *record.job.mutable_create_time() = codec::ToProto(absl::Now());
        GW_RETURN_IF_ERROR(ChangeState(t, record, State::QUEUED, ""));
        GW_ASSIGN_OR_RETURN(record, GetJob(t, id));
        *response = record.job;
        made = std::move(record);
        return absl::OkStatus();
      }));
  if (made) Enqueue(*made);
  return absl::OkStatus();
}

void Jobs::AddLiveState(absl::Span<v1::TrainingJob* const> jobs) {
  absl::MutexLock lock(&mutex_);
  absl::flat_hash_map<absl::string_view, int> positions;
  for (const QueueKey& key : queue_) {
    positions.emplace(std::get<2>(key), static_cast<int>(positions.size()));
  }
  for (v1::TrainingJob* job : jobs) {
    AddLiveState(job->name().substr(sizeof(kJobPrefix) - 1), positions, job);
  }
}

void Jobs::AddLiveState(const std::string& id,
                        const absl::flat_hash_map<absl::string_view, int>& positions,
                        v1::TrainingJob* job) const {
  if (job->state() == State::QUEUED) {
    const auto position = positions.find(id);
    job->mutable_progress()->set_queue_position(
        position == positions.end() ? static_cast<int>(positions.size()) : position->second);
    if (job->state_reason().empty() && !running_.empty()) {
      job->set_state_reason(absl::StrCat("waits for one of ", running_.size(), " running jobs"));
    }
    return;
  }
  const auto run = running_.find(id);
  if (run == running_.end() || job->state() != State::RUNNING) return;
  const v1::Progress live = run->second->progress();
  if (live.step() >= job->progress().step()) *job->mutable_progress() = live;
}

absl::Status Jobs::Get(const std::string& name, v1::TrainingJob* response) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(name, kJobPrefix));
  JobRecord record;
  GW_RETURN_IF_ERROR(shared_.store->Read([&](Store::Snapshot& s) -> absl::Status {
    GW_ASSIGN_OR_RETURN(record, GetJob(s, id));
    return absl::OkStatus();
  }));
  GW_ASSIGN_OR_RETURN(*response, WholeJob(record, *shared_.blobs));
  AddLiveState({response});
  return absl::OkStatus();
}

absl::Status Jobs::List(const v1::ListTrainingJobsRequest& request,
                        v1::ListTrainingJobsResponse* response) {
  GW_ASSIGN_OR_RETURN(const store::Page page,
                      store::PageOf(request.page_size(), request.page_token()));
  const std::vector<int> states(request.states().begin(), request.states().end());
  std::vector<store::Resource> rows;
  GW_RETURN_IF_ERROR(shared_.store->Read([&](Store::Snapshot& s) -> absl::Status {
    GW_ASSIGN_OR_RETURN(rows, s.List(Kind::kJob, page.before, page.size, states));
    return absl::OkStatus();
  }));
  for (const store::Resource& row : rows) {
    v1::TrainingJob* job = response->add_jobs();
    if (!job->ParseFromString(row.bytes)) {
      return Error(Reason::kCorruptData,
                   absl::StrCat("the record of job ", row.id, " does not parse"));
    }
  }
  const std::vector<v1::TrainingJob*> listed(response->mutable_jobs()->pointer_begin(),
                                             response->mutable_jobs()->pointer_end());
  AddLiveState(listed);
  response->set_next_page_token(store::NextPageToken(page, rows));
  return absl::OkStatus();
}

absl::Status Jobs::Remove(Store::Transaction& t, const std::string& id,
                          std::vector<std::string>* blobs) {
  GW_ASSIGN_OR_RETURN(const auto resource, t.Get(Kind::kJob, id));
  if (!resource) return NotFound(absl::StrCat(kJobPrefix, id));
  blobs->insert(blobs->end(), resource->blobs.begin(), resource->blobs.end());
  GW_ASSIGN_OR_RETURN(const auto checkpoints, t.Checkpoints(id));
  for (const store::CheckpointRow& row : checkpoints) blobs->push_back(row.blob);
  return t.Delete(Kind::kJob, id);
}

absl::Status Jobs::Delete(const v1::DeleteTrainingJobRequest& request,
                          google::protobuf::Empty* response) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kJobPrefix));
  std::vector<std::string> blobs;
  GW_RETURN_IF_ERROR(store::Once(*shared_.store, "DeleteTrainingJob", request, response,
                                 [&](Store::Transaction& t) -> absl::Status {
                                   GW_ASSIGN_OR_RETURN(const JobRecord record, GetJob(t, id));
                                   if (!HasEnded(record.job.state())) {
                                     return WrongState(record.job,
                                                       "one that has ended; cancel it first");
                                   }
                                   return Remove(t, id, &blobs);
                                 }));
  shared_.watchers->Notify(id);
  for (const std::string& blob : blobs) {
    GW_RETURN_IF_ERROR(store::DeleteUnused(*shared_.store, *shared_.blobs, blob));
  }
  return absl::OkStatus();
}

void Jobs::Expire() {
  std::vector<std::string> blobs;
  const auto now = absl::ToUnixSeconds(absl::Now());
  shared_.store
      ->Write([&](Store::Transaction& t) -> absl::Status {
        GW_ASSIGN_OR_RETURN(const auto rows, t.Expired(Kind::kJob, now));
        for (const store::Resource& row : rows) GW_RETURN_IF_ERROR(Remove(t, row.id, &blobs));
        return absl::OkStatus();
      })
      .IgnoreError();  // tried again next time
  for (const std::string& blob : blobs) {
    store::DeleteUnused(*shared_.store, *shared_.blobs, blob).IgnoreError();
  }
}

absl::Status Jobs::Cancel(const v1::CancelTrainingJobRequest& request, v1::TrainingJob* response) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kJobPrefix));
  GW_RETURN_IF_ERROR(
      store::Once(*shared_.store, "CancelTrainingJob", request, response,
                  [&](Store::Transaction& t) -> absl::Status {
                    GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, id));
                    const State::State state = record.job.state();
                    if (state == State::RUNNING || state == State::PAUSING) {
                      GW_RETURN_IF_ERROR(ChangeState(t, record, State::CANCELLING, "as asked for"));
                    } else if (state == State::QUEUED || state == State::PAUSED) {
                      GW_RETURN_IF_ERROR(ChangeState(t, record, State::CANCELLED, "as asked for"));
                    }
                    *response = record.job;
                    return absl::OkStatus();
                  }));
  shared_.watchers->Notify(id);
  absl::MutexLock lock(&mutex_);
  if (const auto run = running_.find(id);
      run != running_.end() && response->state() == State::CANCELLING) {
    run->second->Stop();
  }
  return absl::OkStatus();
}

absl::Status Jobs::Pause(const v1::PauseTrainingJobRequest& request, v1::TrainingJob* response) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kJobPrefix));
  GW_RETURN_IF_ERROR(
      store::Once(*shared_.store, "PauseTrainingJob", request, response,
                  [&](Store::Transaction& t) -> absl::Status {
                    GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, id));
                    const State::State state = record.job.state();
                    if (HasEnded(state) || state == State::CANCELLING) {
                      return WrongState(record.job, "one that has not ended");
                    }
                    if (state == State::RUNNING) {
                      GW_RETURN_IF_ERROR(ChangeState(t, record, State::PAUSING, "as asked for"));
                    } else if (state == State::QUEUED) {
                      GW_RETURN_IF_ERROR(ChangeState(t, record, State::PAUSED, "as asked for"));
                    }
                    *response = record.job;
                    return absl::OkStatus();
                  }));
  shared_.watchers->Notify(id);
  absl::MutexLock lock(&mutex_);
  if (const auto run = running_.find(id);
      run != running_.end() && response->state() == State::PAUSING) {
    run->second->Stop();
  }
  return absl::OkStatus();
}

absl::Status Jobs::Resume(const v1::ResumeTrainingJobRequest& request, v1::TrainingJob* response) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kJobPrefix));
  if (request.has_learning_rate_factor() && !(request.learning_rate_factor() > 0)) {
    return Error(Reason::kInvalidSpec, "learning_rate_factor: expected above 0");
  }
  std::optional<JobRecord> queued;
  GW_RETURN_IF_ERROR(
      store::Once(*shared_.store, "ResumeTrainingJob", request, response,
                  [&](Store::Transaction& t) -> absl::Status {
                    GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, id));
                    const State::State state = record.job.state();
                    if (state != State::PAUSED && state != State::FAILED) {
                      return WrongState(record.job, "PAUSED or FAILED");
                    }
                    if (request.has_stop()) *record.job.mutable_stop() = request.stop();
                    if (request.has_priority()) record.job.set_priority(request.priority());
                    if (request.has_learning_rate_factor()) {
                      record.job.set_learning_rate_factor(record.job.learning_rate_factor() *
                                                          request.learning_rate_factor());
                    }
                    GW_RETURN_IF_ERROR(ChangeState(t, record, State::QUEUED, "as asked for"));
                    *response = record.job;
                    queued = std::move(record);
                    return absl::OkStatus();
                  }));
  shared_.watchers->Notify(id);
  if (queued) Enqueue(*queued);
  return absl::OkStatus();
}

}  // namespace gradwire::jobs
