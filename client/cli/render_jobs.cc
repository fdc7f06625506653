#include "client/cli/render_jobs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/text.h"
#include "engine/tensor/dtype.h"

namespace gradwire::cli {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string TimeText(const google::protobuf::Timestamp& wire, absl::Time now) {
  return absl::StrCat(absl::FormatTime("%Y-%m-%d %H:%M:%S", TimeOf(wire), absl::LocalTimeZone()),
                      ", ", ShortDuration(now - TimeOf(wire)), " ago");
}

std::string AgeText(bool known, const google::protobuf::Timestamp& wire, absl::Time now) {
  return known ? ShortDuration(now - TimeOf(wire)) : "-";
}

// A free text at the end of a row, only where some row has one.
template <typename Messages>
bool AnyIsNamed(const Messages& messages) {
  return std::any_of(messages.begin(), messages.end(),
                     [](const auto& message) { return !message.display_name().empty(); });
}

// "adam lr=0.001": a message with one choice, on one line.
std::string ChoiceText(const google::protobuf::Message& message) {
  std::string text = message.ShortDebugString();
  text.erase(std::remove_if(text.begin(), text.end(), [](char c) { return c == '{' || c == '}'; }),
             text.end());
  return Printable(absl::StrJoin(absl::StrSplit(text, ' ', absl::SkipEmpty()), " "));
}

std::string PercentText(const v1::TrainingJob& job) {
  return job.progress().percent() > 0 ? absl::StrFormat("%.0f", job.progress().percent()) : "-";
}

std::string ColumnTypeText(const v1::Column& column) {
  return absl::StrCat(DTypeName(DTypeFromOnnx(column.data_type())), "[",
                      absl::StrJoin(column.shape(), ","), "]");
}

int64_t BytesOf(const v1::Dataset& dataset) {
  int64_t sum = 0;
  for (const v1::Column& column : dataset.columns()) sum += column.received_bytes();
  return sum;
}

std::string RowsText(const v1::Dataset& dataset) {
  return dataset.state() == v1::Dataset::SEALED ? absl::StrCat(dataset.rows()) : "-";
}

}  // namespace

absl::Time TimeOf(const google::protobuf::Timestamp& wire) {
  return absl::FromUnixSeconds(wire.seconds()) + absl::Nanoseconds(wire.nanos());
}

absl::Duration DurationOf(const google::protobuf::Duration& wire) {
  return absl::Seconds(wire.seconds()) + absl::Nanoseconds(wire.nanos());
}

std::string StepText(const v1::Progress& progress) {
  if (progress.total_steps() <= 0) return absl::StrCat(progress.step());
  return absl::StrCat(progress.step(), "/", progress.total_steps());
}

std::string JobsAsText(const std::vector<v1::TrainingJob>& jobs, absl::Time now) {
  if (jobs.empty()) return "no jobs\n";
  const bool named = AnyIsNamed(jobs);
  Rows rows = {{"NAME", "STATE", "STEP", "%", "LOSS", "ETA", "AGE", named ? "TITLE" : ""}};
  for (const v1::TrainingJob& job : jobs) {
    const v1::Progress& progress = job.progress();
    rows.push_back(
        {Printable(job.name()), v1::TrainingJob::State_Name(job.state()), StepText(progress),
         PercentText(job), progress.step() > 0 ? ShortNumber(progress.loss()) : "-",
         progress.has_eta() ? ShortDuration(DurationOf(progress.eta())) : "-",
         AgeText(job.has_create_time(), job.create_time(), now), Printable(job.display_name())});
  }
  return AlignedTable(rows);
}

std::string JobAsText(const v1::TrainingJob& job, absl::Time now) {
  std::vector<std::pair<std::string, std::string>> rows = {{"job", Printable(job.name())}};
  const auto add = [&rows](bool shown, const char* name, const std::string& value) {
    if (shown) rows.emplace_back(name, Printable(value));
  };
  const v1::Progress& p = job.progress();
  add(!job.display_name().empty(), "title", job.display_name());
  add(true, "state", v1::TrainingJob::State_Name(job.state()));
  add(!job.state_reason().empty(), "reason", job.state_reason());
  add(job.state() == v1::TrainingJob::QUEUED, "jobs before it", absl::StrCat(p.queue_position()));
  add(true, "step", StepText(p));
  add(p.percent() > 0, "percent", absl::StrFormat("%.1f", p.percent()));
  add(p.epoch() > 0, "epoch", absl::StrCat(p.epoch()));
  add(p.step() > 0, "loss", ShortNumber(p.loss()));
  add(p.best_step() > 0, "best",
      absl::StrCat(ShortNumber(p.best_value()), " at step ", p.best_step()));
  add(p.steps_per_second() > 0, "steps/s", ShortNumber(p.steps_per_second()));
  add(p.has_eta(), "ETA", ShortDuration(DurationOf(p.eta())));
  add(job.has_create_time(), "created", TimeText(job.create_time(), now));
  add(job.has_start_time(), "started", TimeText(job.start_time(), now));
  add(job.has_end_time(), "ended", TimeText(job.end_time(), now));
  add(!job.model().expression().empty(), "formula", job.model().expression());
  add(job.has_loss(), "loss function", job.loss().named());
  add(job.has_optimizer(), "optimizer", ChoiceText(job.optimizer()));
  add(job.has_schedule(), "schedule", ChoiceText(job.schedule()));
  add(!job.dataset().empty(), "data set", job.dataset());
  add(job.batch_size() > 0, "batch size", absl::StrCat(job.batch_size()));
  add(job.has_stop(), "stop", ChoiceText(job.stop()));
  add(job.priority() != 0, "priority", absl::StrCat(job.priority()));
  for (const auto& [name, value] : job.labels()) {
    rows.emplace_back(absl::StrCat("label ", Printable(name)), Printable(value));
  }
  add(job.last_event() > 0, "last event", absl::StrCat(job.last_event()));
  add(!job.plan_digest().empty(), "plan", job.plan_digest());
  return NameTable(rows);
}

std::string CheckpointsAsText(const std::vector<v1::Checkpoint>& checkpoints, absl::Time now) {
  if (checkpoints.empty()) return "no checkpoints\n";
  Rows rows = {{"NAME", "STEP", "EPOCH", "SIZE", "AGE", "BEST", "PARAMETERS"}};
  for (const v1::Checkpoint& checkpoint : checkpoints) {
    rows.push_back({Printable(checkpoint.name()), absl::StrCat(checkpoint.step()),
                    absl::StrCat(checkpoint.epoch()), BytesText(checkpoint.bytes()),
                    AgeText(checkpoint.has_create_time(), checkpoint.create_time(), now),
                    checkpoint.best() ? "best" : "-", Printable(checkpoint.parameter_digest())});
  }
  return AlignedTable(rows);
}

std::string EstimateAsText(const v1::TrainingEstimate& estimate) {
  return NameTable(
      {{"time per step", absl::FormatDuration(DurationOf(estimate.step_time()))},
       {"steps", estimate.total_steps() > 0 ? absl::StrCat(estimate.total_steps()) : "not known"},
       {"total time",
        estimate.has_total_time() ? ShortDuration(DurationOf(estimate.total_time())) : "not known"},
       {"peak memory", BytesText(estimate.peak_bytes())},
       {"flops per step", absl::StrCat(estimate.flops_per_step())},
       {"parameters", absl::StrCat(estimate.parameters())},
       {"checkpoint", BytesText(estimate.checkpoint_bytes())}});
}

std::string DatasetsAsText(const std::vector<v1::Dataset>& datasets, absl::Time now) {
  if (datasets.empty()) return "no data sets\n";
  const bool named = AnyIsNamed(datasets);
  Rows rows = {{"NAME", "STATE", "ROWS", "COLUMNS", "SIZE", "AGE", named ? "TITLE" : ""}};
  for (const v1::Dataset& dataset : datasets) {
    std::vector<std::string> columns;
    for (const v1::Column& column : dataset.columns()) columns.push_back(column.name());
    rows.push_back({Printable(dataset.name()), v1::Dataset::State_Name(dataset.state()),
                    RowsText(dataset), Printable(absl::StrJoin(columns, ",")),
                    BytesText(BytesOf(dataset)),
                    AgeText(dataset.has_create_time(), dataset.create_time(), now),
                    Printable(dataset.display_name())});
  }
  return AlignedTable(rows);
}

std::string DatasetAsText(const v1::Dataset& dataset, absl::Time now) {
  std::vector<std::pair<std::string, std::string>> rows = {
      {"data set", Printable(dataset.name())},
      {"title", Printable(dataset.display_name())},
      {"state", v1::Dataset::State_Name(dataset.state())},
      {"rows", RowsText(dataset)}};
  for (const v1::Column& column : dataset.columns()) {
    rows.emplace_back(
        absl::StrCat("column ", Printable(column.name())),
        absl::StrCat(ColumnTypeText(column), " a row, ", BytesText(column.received_bytes())));
  }
  if (dataset.has_create_time()) rows.emplace_back("created", TimeText(dataset.create_time(), now));
  if (!dataset.content_hash().empty()) {
    rows.emplace_back("content hash", Printable(dataset.content_hash()));
  }
  return NameTable(rows);
}

}  // namespace gradwire::cli
