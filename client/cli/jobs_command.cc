#include "client/cli/jobs_command.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/message_json.h"
#include "client/cli/names.h"
#include "client/cli/render_jobs.h"
#include "client/cli/report.h"
#include "client/cli/status_line.h"
#include "client/cli/text.h"
#include "client/cli/watch.h"
#include "client/training.h"
#include "engine/base/status.h"
#include "engine/io/file.h"

namespace gradwire::cli {
namespace {

bool TakesOneName(Command command) {
  switch (command) {
    case Command::kExport:
    case Command::kJobsShow:
    case Command::kJobsWatch:
    case Command::kJobsResume:
    case Command::kJobsCheckpoints:
    case Command::kJobsDownload:
      return true;
    default:
      return false;
  }
}

absl::Status CheckStates(const RawArguments& raw, Arguments* out) {
  std::vector<absl::string_view> names;
  const google::protobuf::EnumDescriptor& type = *v1::TrainingJob::State_descriptor();
  for (int i = 1; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
  for (const std::string& state : SplitNames(raw.states)) {
    GW_ASSIGN_OR_RETURN(const int i, Choose("--state", state, names));
    out->states.push_back(static_cast<v1::TrainingJob::State>(type.value(i + 1)->number()));
  }
  return absl::OkStatus();
}

// What `resume` changes.
absl::Status CheckResume(const RawArguments& raw, v1::ResumeTrainingJobRequest* out) {
  for (const auto& [option, value] : raw.fields) {
    if (option == "--steps") {
      GW_ASSIGN_OR_RETURN(const int64_t steps, ParseCount(option, value));
      out->mutable_stop()->set_steps(steps);
    } else if (option == "--epochs") {
      GW_ASSIGN_OR_RETURN(const int64_t epochs, ParseCount(option, value));
      out->mutable_stop()->set_epochs(epochs);
    } else if (option == "--wall-time") {
      GW_ASSIGN_OR_RETURN(const absl::Duration time, ParsePeriod(option, value));
      out->mutable_stop()->mutable_wall_time()->set_seconds(absl::ToInt64Seconds(time));
    } else if (option == "--lr-factor") {
      double factor;
      if (!absl::SimpleAtod(value, &factor) || !std::isfinite(factor)) {
        return absl::InvalidArgumentError(
            absl::StrCat(option, ": got '", value, "', expected a number"));
      }
      out->set_learning_rate_factor(factor);
    } else if (option == "--priority") {
      int32_t priority;
      if (!absl::SimpleAtoi(value, &priority)) {
        return absl::InvalidArgumentError(
            absl::StrCat(option, ": got '", value, "', expected a whole number"));
      }
      out->set_priority(priority);
    }
  }
  return absl::OkStatus();
}

void AddField(CLI::App* app, const std::string& option, const std::string& value,
              const std::string& help, RawArguments* raw) {
  app->add_option_function<std::string>(
         option, [raw, option](const std::string& text) { raw->fields[option] = text; }, help)
      ->type_name(value);
}

absl::StatusOr<v1::TrainingJob> Change(const TrainingClient& training, const Arguments& arguments,
                                       const std::string& name) {
  switch (arguments.command) {
    case Command::kJobsPause:
      return training.Pause(name, arguments.call.deadline);
    case Command::kJobsCancel:
      return training.Cancel(name, arguments.call.deadline);
    default: {
      v1::ResumeTrainingJobRequest request = arguments.resume;
      request.set_name(name);
      return training.Resume(request, arguments.call.deadline);
    }
  }
}

}  // namespace

void AddJobOptions(Command command, CLI::App* app, RawArguments* raw) {
  if (command == Command::kJobsList) {
    AddList(app, "--state", &raw->states, "A,B", "Only jobs in these states: RUNNING,QUEUED,...");
    AddText(app, "--limit", &raw->limit, "N", "The newest so many [100]; 0: all");
    return;
  }
  const bool has_checkpoint = command == Command::kExport || command == Command::kJobsDownload;
  auto* names = app->add_option("NAME", raw->words,
                                has_checkpoint ? "A job, for its last checkpoint; or "
                                                 "JOB/checkpoints/STEP"
                                               : "jobs/{id}, or {id} alone");
  names->type_name(has_checkpoint ? "JOB[/checkpoints/STEP]" : "JOB")->required();
  if (TakesOneName(command)) names->expected(1);
  if (has_checkpoint) {
    app->add_option("-o,--out", raw->out, "Where it goes; it appears when it is whole")
        ->type_name("FILE")
        ->required();
  }
  if (command == Command::kJobsShow || command == Command::kJobsWatch) {
    AddText(app, "--plot", &raw->plot, "FILE.svg", "Plot loss and evaluations over the steps");
  }
  if (command == Command::kJobsWatch) {
    AddText(app, "--after", &raw->after, "EVENT",
            "Begin after this event [text: the newest; json: 0, all of them]");
  }
  if (command == Command::kJobsResume) {
    AddField(app, "--steps", "N",
             "Stop at this step; the --steps, --epochs and --wall-time given "
             "replace all of the job's rules for stopping",
             raw);
    AddField(app, "--epochs", "N", "Stop after so many epochs", raw);
    AddField(app, "--wall-time", "TIME", "Stop after so much time of running: 90s, 1h30m", raw);
    AddField(app, "--lr-factor", "F", "Multiply the learning rate [1]", raw);
    AddField(app, "--priority", "N", "Jobs of higher priority start first", raw);
  }
}

absl::Status CheckJobs(const RawArguments& raw, Arguments* out) {
  GW_ASSIGN_OR_RETURN(out->limit, ParseCount("--limit", raw.limit));
  for (const std::string& word : raw.words) out->names.push_back(WithCollection("jobs", word));
  out->out_path = raw.out;
  out->plot_path = raw.plot;
  GW_RETURN_IF_ERROR(CheckStates(raw, out));
  if (!raw.after.empty()) {
    GW_ASSIGN_OR_RETURN(out->after_event, ParseCount("--after", raw.after));
  }
  return CheckResume(raw, &out->resume);
}

absl::StatusOr<int> RunJobsList(const Client& client, const Arguments& arguments,
                                const Console& console) {
  GW_ASSIGN_OR_RETURN(
      const std::vector<v1::TrainingJob> jobs,
      TrainingClient(client).List(arguments.states, arguments.call.deadline, arguments.limit));
  if (arguments.json) {
    *console.out << MessagesAsJson("jobs", jobs) << "\n";
  } else {
    *console.out << JobsAsText(jobs, absl::Now());
    if (arguments.limit > 0 && static_cast<int64_t>(jobs.size()) == arguments.limit) {
      *console.out << "the newest " << arguments.limit << "; --limit 0 lists all\n";
    }
  }
  return kOk;
}

absl::StatusOr<int> RunJobsShow(const Client& client, const Arguments& arguments,
                                const Console& console) {
  const TrainingClient training(client);
  GW_ASSIGN_OR_RETURN(const v1::TrainingJob job,
                      training.Get(arguments.names.front(), arguments.call.deadline));
  if (!arguments.plot_path.empty()) {
    GW_RETURN_IF_ERROR(WritePlot(training, job, arguments.plot_path));
  }
  *console.out << (arguments.json ? MessageAsJson(job) + "\n" : JobAsText(job, absl::Now()));
  return kOk;
}

absl::StatusOr<int> RunJobsWatch(const Client& client, const Arguments& arguments,
                                 const Console& console) {
  const TrainingClient training(client);
  GW_ASSIGN_OR_RETURN(const v1::TrainingJob job,
                      training.Get(arguments.names.front(), arguments.call.deadline));
  WatchSettings settings;
  settings.after_event = arguments.after_event.value_or(arguments.json ? 0 : job.last_event());
  settings.json = arguments.json;
  settings.deadline = arguments.long_deadline;
  GW_ASSIGN_OR_RETURN(const v1::TrainingJob ended, WatchJob(training, job, settings, console));
  if (!arguments.plot_path.empty()) {
    GW_RETURN_IF_ERROR(WritePlot(training, ended, arguments.plot_path));
  }
  return ExitCodeOf(ended.state());
}

absl::StatusOr<int> RunJobsChange(const Client& client, const Arguments& arguments,
                                  const Console& console) {
  const TrainingClient training(client);
  std::vector<v1::TrainingJob> jobs;
  for (const std::string& name : arguments.names) {
    GW_ASSIGN_OR_RETURN(v1::TrainingJob job, Change(training, arguments, name));
    if (!arguments.json) {
      *console.out << name << " " << v1::TrainingJob::State_Name(job.state()) << "\n";
    }
    jobs.push_back(std::move(job));
  }
  if (arguments.json) *console.out << MessagesAsJson("jobs", jobs) << "\n";
  return kOk;
}

absl::StatusOr<int> RunJobsDelete(const Client& client, const Arguments& arguments,
                                  const Console& console) {
  for (const std::string& name : arguments.names) {
    GW_RETURN_IF_ERROR(TrainingClient(client).Delete(name, arguments.call.deadline));
    if (!arguments.json) *console.out << name << " is deleted\n";
  }
  if (arguments.json) *console.out << DeletedAsJson(arguments.names) << "\n";
  return kOk;
}

absl::StatusOr<int> RunJobsCheckpoints(const Client& client, const Arguments& arguments,
                                       const Console& console) {
  GW_ASSIGN_OR_RETURN(
      const std::vector<v1::Checkpoint> checkpoints,
      TrainingClient(client).ListCheckpoints(arguments.names.front(), arguments.call.deadline));
  if (arguments.json) {
    *console.out << MessagesAsJson("checkpoints", checkpoints) << "\n";
  } else {
    *console.out << CheckpointsAsText(checkpoints, absl::Now());
  }
  return kOk;
}

absl::StatusOr<int> RunDownload(const Client& client, const Arguments& arguments,
                                const Console& console) {
  const TrainingClient training(client);
  const std::string& path = arguments.out_path;
  {
    StatusLine line(console.err, console.width_err);
    DownloadOptions options;
    options.patience.deadline = arguments.long_deadline;
    options.progress = ShowTransfer("downloading", &line);
    GW_RETURN_IF_ERROR(arguments.command == Command::kExport
                           ? training.ExportModel(arguments.names.front(), path, options)
                           : training.DownloadCheckpoint(arguments.names.front(), path, options));
  }
  GW_ASSIGN_OR_RETURN(const int64_t bytes, OrLocal(FileBytes(path)));
  if (arguments.json) {
    *console.out << "{\"path\": " << StringAsJson(path) << ", \"bytes\": " << bytes << "}\n";
  } else {
    *console.out << path << ": " << BytesText(bytes) << "\n";
  }
  return kOk;
}

}  // namespace gradwire::cli
