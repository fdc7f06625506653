#include "server/jobs/jobs.h"

#include <algorithm>
#include <cmath>
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

constexpr absl::Duration kExpiryPeriod = absl::Seconds(1);
constexpr absl::Duration kForgetPeriod = absl::Hours(1);
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
    for (auto& [id, run] : running_) run->Abandon();
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
  absl::Time next_expiry = absl::Now(), next_launch = next_expiry;
  while (true) {
    std::vector<std::shared_ptr<JobRun>> over;
    std::optional<QueueKey> next;
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this, &next_launch] {
        mutex_.AssertHeld();
        return !ended_.empty() || (stopping_ && running_.empty()) ||
               (NextToStart() != nullptr && absl::Now() >= next_launch);
      };
      mutex_.AwaitWithDeadline(absl::Condition(&due), next_expiry);
      for (const std::string& id : std::exchange(ended_, {})) {
        over.push_back(std::move(running_[id]));
        running_.erase(id);
      }
      if (stopping_ && running_.empty()) return;
      if (const QueueKey* first = NextToStart(); first != nullptr && absl::Now() >= next_launch) {
        next = *first;
        queue_.erase(*next);
      }
    }
    over.clear();  // joins their threads
    if (absl::Now() >= next_expiry) {
      DeleteExpired().IgnoreError();  // tried again next time
      next_expiry = absl::Now() + kExpiryPeriod;
    }
    if (!next) continue;
    const std::string& id = std::get<2>(*next);
    const absl::StatusOr<bool> runs = Enter(id);
    if (runs.ok() && *runs) Launch(id);
    if (runs.ok() || HasReason(runs.status(), Reason::kNotFound)) continue;
    // The store cannot take it: the disk is full, say. The job keeps its place.
    next_launch = absl::Now() + kExpiryPeriod;
    absl::MutexLock lock(&mutex_);
    queue_.insert(*next);
  }
}

absl::StatusOr<bool> Jobs::Enter(const std::string& id) {
  bool runs = false;
  GW_RETURN_IF_ERROR(shared_.store->Write([&](Store::Transaction& t) -> absl::Status {
    GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, id));
    runs = record.job.state() == State::QUEUED;
    return runs ? ChangeState(t, record, State::RUNNING, "") : absl::OkStatus();
  }));
  if (runs) shared_.watchers->Notify(id);
  return runs;
}

void Jobs::Launch(const std::string& id) {
  auto run = std::make_shared<JobRun>(shared_, id);
  JobRun& started = *run;
  absl::MutexLock lock(&mutex_);
  running_[id] = std::move(run);
  started.Start([this, id] {
    absl::MutexLock ended(&mutex_);
    ended_.push_back(id);
  });
  if (stopping_) started.Abandon();
}

void Jobs::Settle(const std::string& id) {
  std::shared_ptr<JobRun> run;
  {
    absl::MutexLock lock(&mutex_);
    if (const auto found = running_.find(id); found != running_.end()) run = found->second;
  }
  if (run != nullptr) run->SaveEnd().IgnoreError();  // else the call's own write tells
}

absl::Status Jobs::Check(const v1::TrainingJob& job, v1::TrainingEstimate* estimate,
                         std::string* start) {
  std::shared_ptr<const SealedDataset> data;
  if (!job.dataset().empty()) {
    GW_ASSIGN_OR_RETURN(data, shared_.datasets->Open(job.dataset()));
  }
  GW_ASSIGN_OR_RETURN(const JobModel model, ReadJob(*shared_.engine, job, std::move(data)));
  const auto made = MakeStepper(*shared_.engine, model);
  EvaluationBytes evaluation_bytes;
  absl::Status evaluation;
  if (!job.evaluation().dataset().empty()) {
    const auto evaluator = MakeEvaluator(shared_, job, model);
    evaluation = evaluator.status();
    if (evaluator.ok()) evaluation_bytes = (*evaluator)->bytes();
  }
  if (!made.ok() && !evaluation.ok()) {
    Problems problems;
    problems.Add(made.status(), "job");
    problems.Add(evaluation, "evaluation");
    return problems.ToStatus();
  }
  GW_RETURN_IF_ERROR(made.status());
  GW_RETURN_IF_ERROR(evaluation);
  const auto& stepper = *made;
  if (job.start().from_case() != v1::Start::FROM_NOT_SET) {
    GW_ASSIGN_OR_RETURN(
        const store::CheckpointRow row,
        FindCheckpoint(*shared_.store,
                       job.start().has_job() ? job.start().job() : job.start().checkpoint()));
    GW_ASSIGN_OR_RETURN(const auto file, OpenCheckpoint(row, *shared_.blobs));
    GW_RETURN_IF_ERROR(StartFrom(file->bytes(), *stepper));
    *start = row.blob;
  }
  if (estimate == nullptr) return absl::OkStatus();
  const auto readers = MakeReaders(model, job);
  absl::Duration step = absl::Seconds(stepper->cost().estimated_seconds * model.accumulation);
  const int64_t peak = PeakBytes(model, *stepper, readers, evaluation_bytes);
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
  std::string start;
  return Check(job, response, &start);
}

absl::Status Jobs::CheckStop(const std::string& id, const v1::Stop& stop) {
  v1::TrainingJob job;
  GW_RETURN_IF_ERROR(Get(absl::StrCat(kJobPrefix, id), &job));
  *job.mutable_stop() = stop;
  std::shared_ptr<const SealedDataset> data;
  if (!job.dataset().empty()) {
    GW_ASSIGN_OR_RETURN(data, shared_.datasets->Open(job.dataset()));
  }
  return ReadJob(*shared_.engine, job, std::move(data)).status();
}

absl::Status Jobs::Create(const v1::CreateTrainingJobRequest& request,
                          absl::FunctionRef<absl::Status(v1::TrainingJob*)> resolve,
                          v1::TrainingJob* response) {
  bool answered = false;
  GW_RETURN_IF_ERROR(shared_.store->Read([&](Store::Snapshot& s) -> absl::Status {
    GW_ASSIGN_OR_RETURN(answered, store::FindAnswer(s, "CreateTrainingJob", request, response));
    return absl::OkStatus();
  }));
  if (answered) return absl::OkStatus();
  v1::TrainingJob job = Specification(request.job());
  GW_RETURN_IF_ERROR(resolve(&job));
  std::string start;
  GW_RETURN_IF_ERROR(Check(job, nullptr, &start));
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
        // They may have been deleted since the check.
        for (const std::string& dataset : {job.dataset(), job.evaluation().dataset()}) {
          if (dataset.empty()) continue;
          GW_ASSIGN_OR_RETURN(const std::string data, IdOf(dataset, kDatasetPrefix));
          GW_ASSIGN_OR_RETURN(const auto found, t.Get(Kind::kDataset, data));
          if (!found) return NotFound(dataset);
        }
        if (!start.empty()) {
          GW_ASSIGN_OR_RETURN(const bool there, shared_.blobs->Has(start));
          if (!there) return NotFound("checkpoint that `start` names any more");
        }
        const std::string id = NewId();
        JobRecord record;
        record.resource = {
            .kind = Kind::kJob, .id = id, .state = State::QUEUED, .bytes = "", .blobs = {blob}};
        // Held, whatever happens to the job that it is of.
        if (!start.empty()) record.resource.blobs.push_back(start);
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
  if (run == running_.end() || HasEnded(job->state())) return;
  if (const auto end = run->second->unsaved_end()) {
    // Success is told when it will last.
    const bool bad = end->state == State::PAUSED || end->state == State::FAILED;
    if (bad) job->set_state(end->state);
    job->set_state_reason(
        bad ? end->reason
            : absl::StrCat("it has ended, which cannot be stored yet: ", end->reason));
    return;
  }
  if (job->state() != State::RUNNING) return;
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

absl::Status Jobs::Remove(Store::Transaction& t, const store::Resource& resource,
                          std::vector<std::string>* blobs) {
  *blobs = resource.blobs;
  if (resource.kind == Kind::kJob) {
    GW_ASSIGN_OR_RETURN(const auto checkpoints, t.Checkpoints(resource.id));
    for (const store::CheckpointRow& row : checkpoints) blobs->push_back(row.blob);
  }
  return t.Delete(resource.kind, resource.id);
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
                                   return Remove(t, record.resource, &blobs);
                                 }));
  shared_.watchers->Notify(id);
  for (const std::string& blob : blobs) {
    // Else at the next start.
    store::DeleteUnused(*shared_.store, *shared_.blobs, blob).IgnoreError();
  }
  return absl::OkStatus();
}

absl::Status Jobs::DeleteExpired() {
  const int64_t now = absl::ToUnixSeconds(absl::Now());
  Store& store = *shared_.store;
  std::vector<store::Resource> rows;
  GW_RETURN_IF_ERROR(store.Read([&](Store::Snapshot& s) -> absl::Status {
    GW_ASSIGN_OR_RETURN(rows, s.Expired(Kind::kJob, now));
    GW_ASSIGN_OR_RETURN(const auto graphs, s.Expired(Kind::kGraph, now));
    rows.insert(rows.end(), graphs.begin(), graphs.end());
    return absl::OkStatus();
  }));
  for (const store::Resource& row : rows) {
    std::vector<std::string> blobs;
    GW_RETURN_IF_ERROR(store.Write([&](Store::Transaction& t) -> absl::Status {
      GW_ASSIGN_OR_RETURN(const auto current, t.Get(row.kind, row.id));
      // A graph may have been kept for longer meanwhile.
      if (!current || current->expires == 0 || current->expires > now) return absl::OkStatus();
      return Remove(t, *current, &blobs);
    }));
    if (row.kind == Kind::kJob) shared_.watchers->Notify(row.id);
    for (const std::string& blob : blobs) {
      store::DeleteUnused(store, *shared_.blobs, blob).IgnoreError();
    }
  }
  // After the jobs that read them.
  GW_RETURN_IF_ERROR(shared_.datasets->DeleteExpired(now));
  if (absl::Now() < next_forgetting_) return absl::OkStatus();
  next_forgetting_ = absl::Now() + kForgetPeriod;
  return store.Write([&](Store::Transaction& t) {
    return t.ForgetRequests(now - absl::ToInt64Seconds(store::kAnswersAreKept), store::kMaxAnswers);
  });
}

absl::Status Jobs::Cancel(const v1::CancelTrainingJobRequest& request, v1::TrainingJob* response) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kJobPrefix));
  Settle(id);
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
  Settle(id);
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
  if (request.has_learning_rate_factor() &&
      (!(request.learning_rate_factor() > 0) || !std::isfinite(request.learning_rate_factor()))) {
    return Error(Reason::kInvalidSpec, "learning_rate_factor: expected a number above 0");
  }
  if (request.has_stop()) GW_RETURN_IF_ERROR(CheckStop(id, request.stop()));
  std::optional<JobRecord> queued;
  Settle(id);
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
