#include "server/jobs/job_run.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/guarded.h"
#include "engine/base/status.h"
#include "proto/codec/time_codec.h"
#include "server/jobs/checkpoints.h"
#include "server/jobs/evaluation.h"
#include "server/jobs/gradient_stepper.h"

namespace gradwire::jobs {
namespace {

constexpr absl::Duration kFlushPeriod = absl::Milliseconds(250);
constexpr absl::Duration kCheckpointPeriod = absl::Seconds(30);
constexpr absl::Duration kSaveEndPeriod = absl::Seconds(1);
// Parameters are digested at least this often; a function of the step alone, so that every run of a
// job digests the same ones.
constexpr int64_t kDigestSteps = 100;

}  // namespace

absl::StatusOr<v1::TrainingJob> WholeJob(const JobRecord& record, store::BlobStore& blobs) {
  v1::TrainingJob job = record.job;
  if (record.resource.blobs.empty()) return Error(Reason::kCorruptData, "the job has no model");
  GW_ASSIGN_OR_RETURN(const auto blob, blobs.Get(record.resource.blobs[0]));
  v1::TrainingJob created;
  if (!created.ParseFromArray(blob->bytes().data(), static_cast<int>(blob->bytes().size()))) {
    return Error(Reason::kCorruptData, "the job's specification does not parse");
  }
  *job.mutable_model() = created.model();
  *job.mutable_inputs() = created.inputs();
  return job;
}

absl::StatusOr<std::shared_ptr<const store::Blob>> OpenCheckpoint(const store::CheckpointRow& row,
                                                                  store::BlobStore& blobs) {
  return blobs.Get(row.blob, store::BlobStore::Verify::kAlways);
}

// One run, on its thread.
class JobRun::Loop {
 public:
  explicit Loop(JobRun* run)
      : run_(*run), shared_(run->shared_), id_(run->id_), writer_(shared_, id_) {}

  // The state that the job is left in, and why.
  End Run() {
    std::string reason;
    absl::Status status = Guarded([&]() -> absl::Status {
      GW_RETURN_IF_ERROR(Prepare());
      GW_ASSIGN_OR_RETURN(reason, Train());
      return absl::OkStatus();
    });
    // Whatever was done is kept: a step that failed has changed nothing.
    if (between_steps_ && !absl::IsResourceExhausted(status)) {
      const absl::Status saved = Save();
      if (status.ok()) status = saved;
    }
    const absl::Status flushed = Flush();
    if (status.ok()) status = flushed;
    if (status.ok()) {
      if (!reason.empty()) return {v1::TrainingJob::SUCCEEDED, reason};
      return {v1::TrainingJob::QUEUED, "stopped"};
    }
    const std::string message =
        absl::StrCat(ReasonNameOf(status).empty() ? absl::StatusCodeToString(status.code())
                                                  : ReasonNameOf(status),
                     ": ", status.message());
    // Nothing is wrong with the job where the machine has no room.
    const bool no_room = absl::IsResourceExhausted(status);
    return {no_room ? v1::TrainingJob::PAUSED : v1::TrainingJob::FAILED, message};
  }

 private:
  absl::Status Prepare() {
    std::vector<store::CheckpointRow> checkpoints;
    GW_RETURN_IF_ERROR(shared_.store->Read([&](store::Store::Snapshot& s) -> absl::Status {
      GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(s, id_));
      GW_ASSIGN_OR_RETURN(job_, WholeJob(record, *shared_.blobs));
      start_blob_ = record.resource.blobs.size() > 1 ? record.resource.blobs[1] : "";
      GW_ASSIGN_OR_RETURN(checkpoints, s.Checkpoints(id_));
      GW_ASSIGN_OR_RETURN(const auto last, s.LastEvent(id_, static_cast<int>(EventType::kMetrics)));
      logged_step_ = last ? last->step : 0;
      GW_ASSIGN_OR_RETURN(const auto evaluation,
                          s.LastEvent(id_, static_cast<int>(EventType::kEvaluation)));
      logged_evaluation_ = evaluation ? evaluation->step : 0;
      return absl::OkStatus();
    }));
    std::shared_ptr<const SealedDataset> data;
    if (!job_.dataset().empty()) {
      GW_ASSIGN_OR_RETURN(data, shared_.datasets->Open(job_.dataset()));
    }
    GW_ASSIGN_OR_RETURN(model_, ReadJob(*shared_.engine, job_, std::move(data)));
    GW_ASSIGN_OR_RETURN(stepper_, MakeStepper(*shared_.engine, model_));
    readers_ = MakeReaders(model_, job_);
    if (!job_.evaluation().dataset().empty()) {
      GW_ASSIGN_OR_RETURN(evaluator_, MakeEvaluator(shared_, job_, model_));
    }
    const EvaluationBytes evaluation =
        evaluator_ == nullptr ? EvaluationBytes() : evaluator_->bytes();
    GW_ASSIGN_OR_RETURN(memory_,
                        shared_.reserve_memory(PeakBytes(model_, *stepper_, readers_, evaluation)));
    GW_RETURN_IF_ERROR(Restart(checkpoints));
    GW_RETURN_IF_ERROR(TellPlan());
    if (arena_.Reserve(stepper_->cost().arena_bytes) == nullptr) {
      return Error(Reason::kMemoryLimit, "the system has no more memory");
    }
    between_steps_ = true;
    return absl::OkStatus();
  }

  // From the newest checkpoint that is whole; from the start where there is none.
  absl::Status Restart(const std::vector<store::CheckpointRow>& checkpoints) {
    for (const store::CheckpointRow& row : checkpoints) {
      const auto file = OpenCheckpoint(row, *shared_.blobs);
      absl::Status status = file.status();
      std::string plan;
      if (status.ok()) status = Restore((*file)->bytes(), *stepper_, &position_, &plan);
      if (status.ok()) {
        saved_step_ = position_.step;
        if (plan != stepper_->plan_digest().Hex()) {
          Notice("NUMERICS_CHANGED",
                 absl::StrCat("the checkpoint was computed by plan ", plan, ", this server's is ",
                              stepper_->plan_digest().Hex(),
                              ": results differ from here on in their last bits"));
        }
        return absl::OkStatus();
      }
      Notice(ReasonNameOf(status),
             absl::StrCat("checkpoint ", row.step, " is left out: ", status.message()));
    }
    if (start_blob_.empty()) return absl::OkStatus();
    GW_ASSIGN_OR_RETURN(const auto file,
                        shared_.blobs->Get(start_blob_, store::BlobStore::Verify::kAlways));
    return StartFrom(file->bytes(), *stepper_);
  }

  absl::Status TellPlan() {
    return shared_.store->Write([&](store::Store::Transaction& t) -> absl::Status {
      GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, id_));
      record.job.set_plan_digest(stepper_->plan_digest().Hex());
      return PutJob(t, record);
    });
  }

  // The rule that has ended the job, or "" where it was told to stop.
  absl::StatusOr<std::string> Train() {
    start_ = last_flush_ = last_checkpoint_ = absl::Now();
    start_step_ = position_.step;
    while (true) {
      if (const std::string rule = RuleThatHolds(); !rule.empty()) return rule;
      if (run_.stop_) return std::string();
      GW_RETURN_IF_ERROR(OneStep());
      const absl::Time now = absl::Now();
      position_.run_seconds += absl::ToDoubleSeconds(now - last_time_.value_or(start_));
      last_time_ = now;
      if (CheckpointIsDue(now)) GW_RETURN_IF_ERROR(StartCheckpoint(now));
      if (now - last_flush_ >= kFlushPeriod) GW_RETURN_IF_ERROR(Flush());
    }
  }

  absl::Status OneStep() {
    std::vector<const Batch*> batches;
    BatchPlace place = position_.place;
    for (const auto& reader : readers_) {
      if (place.epoch > position_.place.epoch) break;
      batches.push_back(&reader->Read(place));
      place = reader->order().Next(place);
    }
    const StepSettings settings{position_.step,
                                position_.lr_factor * std::max(job_.learning_rate_factor(), 0.0),
                                job_.seed()};
    digest_.clear();
    absl::StatusOr<StepResult> result = [&] {
      const auto claim = shared_.claim_processors(stepper_->threads());
      RunContext context{.arena = &arena_, .check_finite = true};
      return stepper_->Step(settings, batches, context);
    }();
    if (HasReason(result.status(), Reason::kNonFiniteValue) ||
        (result.ok() && !std::isfinite(result->loss))) {
      return NonFinite(result.status(), settings, batches, place);
    }
    GW_RETURN_IF_ERROR(result.status());
    const bool epoch_ends = place.epoch > position_.place.epoch;
    between_steps_ = false;
    if (position_.step > 0) {
      position_.loss_change = std::abs(result->loss - position_.last_loss);
    }
    ++position_.step;
    position_.place = place;
    position_.last_loss = result->loss;
    position_.gradient_norm = result->gradient_norm;
    LogMetrics(*result);
    if (evaluator_ == nullptr) stepper_->Observe(result->loss);
    if (evaluator_ != nullptr && EvaluationIsDue(epoch_ends)) GW_RETURN_IF_ERROR(Evaluate());
    between_steps_ = true;
    return absl::OkStatus();
  }

  absl::Status NonFinite(const absl::Status& status, const StepSettings& settings,
                         absl::Span<const Batch* const> batches, BatchPlace next) {
    const std::string node = stepper_->FirstBadNode(settings, batches);
    const BatchPlace place =
        batches.empty() ? position_.place : batches[stepper_->last_batch()]->place;
    const std::string what =
        absl::StrCat("step ", position_.step + 1, ", epoch ", place.epoch, ", batch ", place.index,
                     node.empty() ? "" : ", first at ", node, ": ",
                     status.ok() ? "the loss is not finite" : status.message());
    if (job_.non_finite() == v1::FAIL || readers_.empty()) {
      return Error(Reason::kNonFiniteValue, what);
    }
    if (job_.non_finite() == v1::HALVE_LR) position_.lr_factor /= 2;
    if (++skipped_in_a_row_ > 1000) {
      return Error(Reason::kNonFiniteValue,
                   absl::StrCat("1000 steps in a row were skipped; ", what));
    }
    NoticeOnce("NON_FINITE_VALUE", absl::StrCat("the step was skipped: ", what));
    position_.place = next;
    return absl::OkStatus();
  }

  // ---- Events. What was told before the run was killed is not told again.

  bool ToldBefore() const { return position_.step <= logged_step_; }

  v1::TrainingEvent* AddEvent() {
    v1::TrainingEvent& event = pending_.emplace_back();
    *event.mutable_time() = codec::ToProto(absl::Now());
    event.set_step(position_.step);
    return &event;
  }
  void Notice(absl::string_view reason, absl::string_view message) {
    pending_.push_back(NoticeEvent(position_.step, reason, message));
  }
  void NoticeOnce(absl::string_view reason, absl::string_view message) {
    if (position_.step >= logged_step_) Notice(reason, message);
  }

  void LogMetrics(const StepResult& result) {
    skipped_in_a_row_ = 0;
    if (ToldBefore()) return;
    v1::MetricPoint* point = AddEvent()->mutable_metrics();
    point->set_step(position_.step);
    point->set_epoch(position_.place.epoch);
    (*point->mutable_values())["loss"] = result.loss;
    (*point->mutable_values())["gradient_norm"] = result.gradient_norm;
    (*point->mutable_values())["learning_rate"] = result.learning_rate;
    const int64_t every =
        job_.checkpoints().every_steps() > 0 ? job_.checkpoints().every_steps() : kDigestSteps;
    if (position_.step % every == 0 || position_.step == model_.total_steps) {
      point->set_parameter_digest(DigestNow());
    }
  }

  bool EvaluationIsDue(bool epoch_ends) const {
    const int64_t every = job_.evaluation().every_steps();
    const bool last = position_.step == model_.total_steps;
    return last || (every > 0 ? position_.step % every == 0 : epoch_ends);
  }

  absl::Status Evaluate() {
    GW_ASSIGN_OR_RETURN(const auto values, evaluator_->Evaluate(*stepper_, arena_));
    stepper_->Observe(values.at("loss"));
    const std::string best_metric =
        job_.evaluation().best_metric().empty() ? "loss" : job_.evaluation().best_metric();
    const auto found = values.find(best_metric);
    if (found != values.end()) {
      const bool better = position_.best_step < 0 ||
                          (LessIsBetter(best_metric) ? found->second < position_.best_value
                                                     : found->second > position_.best_value);
      if (better) {
        position_.best_value = found->second;
        position_.best_step = position_.step;
        position_.evaluations_without_gain = 0;
      } else {
        ++position_.evaluations_without_gain;
      }
    }
    if (position_.step <= logged_evaluation_) return absl::OkStatus();
    v1::MetricPoint* point = AddEvent()->mutable_evaluation();
    point->set_step(position_.step);
    point->set_epoch(position_.place.epoch);
    for (const auto& [name, value] : values) (*point->mutable_values())[name] = value;
    return absl::OkStatus();
  }

  // ---- The rule for stopping

  std::string RuleThatHolds() const {
    const v1::Stop& stop = job_.stop();
    if (stop.steps() > 0 && position_.step >= stop.steps()) {
      return absl::StrCat(stop.steps(), " steps are done");
    }
    if (stop.epochs() > 0 && position_.place.epoch >= stop.epochs()) {
      return absl::StrCat(stop.epochs(), " epochs are done");
    }
    if (stop.has_wall_time() &&
        position_.run_seconds >= absl::ToDoubleSeconds(codec::DurationOf(stop.wall_time()))) {
      return "the time is up";
    }
    if (stop.patience() > 0 && position_.evaluations_without_gain >= stop.patience()) {
      return absl::StrCat("no gain in ", stop.patience(), " evaluations");
    }
    if (position_.step == 0) return "";  // what follows is of the last step
    if (stop.has_target_loss() && position_.last_loss <= stop.target_loss()) {
      return "the loss is at the target";
    }
    if (stop.gradient_norm() > 0 && position_.gradient_norm <= stop.gradient_norm()) {
      return "the gradient is small enough";
    }
    if (stop.function_tolerance() > 0 &&
        position_.loss_change <=
            stop.function_tolerance() * std::max(1.0, std::abs(position_.last_loss))) {
      return "the loss does not change any more";
    }
    return "";
  }

  // ---- Keeping

  // Of the parameters as they are: metrics and the checkpoint of a step want the same one.
  const std::string& DigestNow() {
    if (digest_.empty()) digest_ = ParameterDigest(*stepper_);
    return digest_;
  }

  bool CheckpointIsDue(absl::Time now) const {
    if (position_.step == saved_step_) return false;
    if (job_.checkpoints().best() && position_.step == position_.best_step) return true;
    const int64_t every = job_.checkpoints().every_steps();
    return every > 0 ? position_.step % every == 0 : now - last_checkpoint_ >= kCheckpointPeriod;
  }

  KeepRule Keep() const {
    const int keep = job_.checkpoints().keep();
    return {keep == 0 ? 2 : keep, job_.checkpoints().best() ? position_.best_step : -1};
  }

  absl::Status StartCheckpoint(absl::Time now) {
    last_checkpoint_ = now;
    saved_step_ = position_.step;
    // A run that starts from the checkpoint does not tell what came before it.
    GW_RETURN_IF_ERROR(Flush());
    return writer_.Start(TakeSnapshot(job_, *stepper_, position_, DigestNow()), Keep());
  }

  // The last checkpoint, on disk when it returns.
  absl::Status Save() {
    if (position_.step != saved_step_) {
      GW_RETURN_IF_ERROR(StartCheckpoint(absl::Now()));
    }
    return writer_.Wait();
  }

  v1::Progress ProgressNow() const {
    v1::Progress p;
    p.set_step(position_.step);
    p.set_total_steps(model_.total_steps);
    p.set_epoch(model_.data == nullptr ? 0 : position_.place.epoch + 1);
    p.set_loss(position_.last_loss);
    if (position_.best_step >= 0) {
      p.set_best_value(position_.best_value);
      p.set_best_step(position_.best_step);
    }
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
    const auto done = static_cast<double>(position_.step - start_step_);
    if (seconds > 0 && done > 0) p.set_steps_per_second(done / seconds);
    if (model_.total_steps > 0) {
      p.set_percent(100.0 * static_cast<double>(position_.step) /
                    static_cast<double>(model_.total_steps));
      if (done > 0) {
        const double left = static_cast<double>(model_.total_steps - position_.step);
        *p.mutable_eta() = codec::ToProto(absl::Seconds(left * seconds / done));
      }
    }
    return p;
  }

  absl::Status Flush() {
    last_flush_ = absl::Now();
    // Before the first step the stored progress is that of the run before.
    const bool has_begun = start_step_ >= 0;
    if (!has_begun && pending_.empty()) return absl::OkStatus();
    const v1::Progress progress = has_begun ? ProgressNow() : v1::Progress();
    if (has_begun) {
      absl::MutexLock lock(&run_.mutex_);
      run_.progress_ = progress;
    }
    GW_RETURN_IF_ERROR(shared_.store->Write([&](store::Store::Transaction& t) -> absl::Status {
      GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, id_));
      if (has_begun) *record.job.mutable_progress() = progress;
      GW_RETURN_IF_ERROR(AppendEvents(t, id_, pending_, &record.job));
      return PutJob(t, record);
    }));
    if (!pending_.empty()) shared_.watchers->Notify(id_);
    pending_.clear();  // only now: what could not be stored is told later
    return absl::OkStatus();
  }

  JobRun& run_;
  const Shared& shared_;
  const std::string id_;
  v1::TrainingJob job_;
  std::string start_blob_;  // the checkpoint that `start` names; "" for none
  JobModel model_;
  std::unique_ptr<Stepper> stepper_;
  std::vector<std::unique_ptr<BatchReader>> readers_;  // one for each micro-batch
  std::unique_ptr<Evaluator> evaluator_;
  std::shared_ptr<void> memory_;
  Arena arena_;
  CheckpointWriter writer_;

  Position position_;
  int64_t logged_step_ = 0;        // the last whose metrics are stored
  int64_t logged_evaluation_ = 0;  // and whose evaluation is
  int64_t saved_step_ = -1;        // of the last checkpoint; -1: none yet
  int64_t start_step_ = -1;        // of this run; -1: it has not begun
  int64_t skipped_in_a_row_ = 0;
  std::string digest_;          // of DigestNow; empty: not known
  bool between_steps_ = false;  // position and state are those of the end of a step
  std::vector<v1::TrainingEvent> pending_;
  absl::Time start_ = absl::Now(), last_flush_, last_checkpoint_;
  std::optional<absl::Time> last_time_;
};

JobRun::~JobRun() {
  Abandon();
  if (thread_.joinable()) thread_.join();
}

void JobRun::Start(std::function<void()> on_end) {
  thread_ = std::thread([this, on_end = std::move(on_end)] {
    Run();
    on_end();
  });
}

void JobRun::Abandon() {
  Stop();
  absl::MutexLock lock(&mutex_);
  abandoned_ = true;
}

v1::Progress JobRun::progress() const {
  absl::MutexLock lock(&mutex_);
  return progress_;
}

std::optional<JobRun::End> JobRun::unsaved_end() const {
  absl::MutexLock lock(&mutex_);
  return end_;
}

void JobRun::Run() {
  End end = Loop(this).Run();
  {
    absl::MutexLock lock(&mutex_);
    end_ = std::move(end);
  }
  while (!SaveEnd().ok()) {
    absl::MutexLock lock(&mutex_);
    // The next start takes the job up.
    if (mutex_.AwaitWithTimeout(absl::Condition(&abandoned_), kSaveEndPeriod)) return;
  }
}

absl::Status JobRun::SaveEnd() {
  absl::MutexLock saving(&saving_);
  const std::optional<End> end = unsaved_end();
  if (!end) return absl::OkStatus();
  const absl::Status status =
      shared_.store->Write([&](store::Store::Transaction& t) -> absl::Status {
        GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, id_));
        v1::TrainingJob::State next = end->state;
        std::string why = end->reason;
        const bool pausing = record.job.state() == v1::TrainingJob::PAUSING;
        const bool cancelling = record.job.state() == v1::TrainingJob::CANCELLING;
        // A run that stopped was told to: the state says by whom.
        if (next == v1::TrainingJob::QUEUED) {
          if (pausing) next = v1::TrainingJob::PAUSED;
          if (cancelling) next = v1::TrainingJob::CANCELLED;
          why = pausing || cancelling ? "as asked for" : "the server was stopped";
        } else if (cancelling && next == v1::TrainingJob::PAUSED) {
          next = v1::TrainingJob::CANCELLED;
        }
        return ChangeState(t, record, next, why);
      });
  if (!status.ok() && !HasReason(status, Reason::kNotFound)) return status;
  {
    absl::MutexLock lock(&mutex_);
    end_.reset();
  }
  shared_.watchers->Notify(id_);
  return absl::OkStatus();
}

}  // namespace gradwire::jobs
