#include "client/cli/train_command.h"

#include "absl/strings/str_cat.h"
#include "client/cli/datasets_command.h"
#include "client/cli/job_file.h"
#include "client/cli/message_json.h"
#include "client/cli/render_jobs.h"
#include "client/cli/report.h"
#include "client/cli/watch.h"
#include "client/training.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

struct JobField {
  const char* option;
  const char* key;  // in the job file; "*" is the only key of its table
  const char* value;
  const char* help;
  bool is_text = false;
  bool in_minimize = false;
};

constexpr JobField kJobFields[] = {
    {"--name", "display_name", "TEXT", "What people see", true, true},
    {"--model", "model", "FILE|FORMULA", "A .onnx or .onnxtxt file, or a formula", true},
    {"--output-name", "output", "NAME", "The output that is minimised, or that the loss is of",
     true},
    {"--loss", "loss", "NAME", "mse, softmax_cross_entropy, ...; left out: the output is it", true},
    {"--dataset", "dataset", "NAME|FILE", "datasets/{id}, or a file to be uploaded first", true},
    {"--batch-size", "batch_size", "N", "Rows of a step"},
    {"--seed", "seed", "N", "Key of everything random [0]"},
    {"--optimizer", "optimizer", "NAME", "sgd, adam, adamw, rmsprop, lbfgs, ...", true, true},
    {"--lr", "optimizer.\"*\".lr", "NUMBER", "Learning rate [PyTorch's default]", false, true},
    {"--schedule", "schedule", "NAME", "cosine, warmup_linear, ...: with its defaults", true},
    {"--epochs", "stop.epochs", "N", "Stop after so many epochs"},
    {"--steps", "stop.steps", "N", "Stop after so many steps", false, true},
    {"--wall-time", "stop.wall_time", "TIME", "Stop after so much time: 90s, 1h30m", true, true},
    {"--gtol", "stop.gradient_norm", "NUMBER", "Stop where the gradient's norm is at most this",
     false, true},
    {"--ftol", "stop.function_tolerance", "NUMBER", "Stop where a step changes the loss by less",
     false, true},
    {"--start-from", "start_from", "NAME", "A job or a checkpoint to begin with", true},
    {"--evaluation-dataset", "evaluation.dataset", "NAME|FILE", "Data to evaluate on", true},
};

// Uploads what the plan names, and puts the names into the job.
absl::Status Upload(const Client& client, const std::optional<FileImport>& import,
                    const Arguments& arguments, const Console& console, std::string* name) {
  if (!import) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(const v1::Dataset dataset,
                      UploadFiles(client, *import, {}, arguments, console));
  *name = dataset.name();
  if (!arguments.json) {
    *console.err << import->files.front() << " -> " << dataset.name() << " (" << dataset.rows()
                 << " rows)\n";
  }
  return absl::OkStatus();
}

}  // namespace

void AddJobFields(Command command, CLI::App* app, RawArguments* raw) {
  for (const JobField& field : kJobFields) {
    if (command == Command::kMinimize && !field.in_minimize) continue;
    const std::string option = field.option;
    app->add_option_function<std::string>(
           option, [raw, option](const std::string& text) { raw->fields[option] = text; },
           field.help)
        ->type_name(field.value);
  }
  AddList(app, "--set", &raw->set, "KEY=VALUE",
          "Any field of the job, as in its TOML file: --set optimizer.adam.beta1=0.8");
}

absl::Status CheckSettings(const RawArguments& raw) {
  for (const std::string& word : raw.set) {
    if (word.find('=') == std::string::npos || word.front() == '=') {
      return absl::InvalidArgumentError(absl::StrCat("--set: '", word, "' is no KEY=VALUE"));
    }
  }
  return absl::OkStatus();
}

std::vector<Override> OverridesOf(const RawArguments& raw) {
  std::vector<Override> out;
  // In the order of the table: --lr looks for what --optimizer sets.
  for (const JobField& field : kJobFields) {
    const auto given = raw.fields.find(field.option);
    if (given == raw.fields.end()) continue;
    out.push_back({field.option, field.key, given->second, field.is_text});
  }
  if (raw.shuffle) out.push_back({"--shuffle", "shuffle", "true"});
  for (const std::string& word : raw.set) {
    const size_t equals = word.find('=');
    out.push_back({absl::StrCat("--set ", word.substr(0, equals)), word.substr(0, equals),
                   word.substr(equals + 1)});
  }
  return out;
}

void AddTrainOptions(Command command, CLI::App* app, RawArguments* raw) {
  app->add_option("FILE", raw->words, "The job as TOML; options add to it and override it")
      ->type_name("FILE.toml")
      ->expected(0, 1);
  AddJobFields(command, app, raw);
  app->add_flag("--shuffle", raw->shuffle, "Rows in another order every epoch");
  if (command == Command::kEstimate) return;
  app->add_flag("--watch", raw->watch, "Show how it goes until it ends");
  app->add_flag("--validate-only", raw->validate_only, "Check the job, and do not create it");
  app->add_flag("--estimate", raw->estimate, "Say what it would need, and do not create it");
  AddText(app, "--plot", &raw->plot, "FILE.svg", "With --watch: plot loss and evaluations");
}

absl::Status CheckTrain(const RawArguments& raw, Arguments* out) {
  GW_RETURN_IF_ERROR(CheckSettings(raw));
  if (!raw.words.empty()) out->job_file = raw.words.front();
  out->overrides = OverridesOf(raw);
  out->watch = raw.watch;
  out->validate_only = raw.validate_only;
  out->estimate = raw.estimate || out->command == Command::kEstimate;
  out->plot_path = raw.plot;
  if (out->job_file.empty() && out->overrides.empty()) {
    return absl::InvalidArgumentError("nothing to train: give a job file, or options");
  }
  if (!out->plot_path.empty() && !out->watch) {
    return absl::InvalidArgumentError("--plot goes with --watch; later: gradwire jobs show --plot");
  }
  return absl::OkStatus();
}

absl::StatusOr<int> RunTrain(const Client& client, const Arguments& arguments,
                             const Console& console) {
  GW_ASSIGN_OR_RETURN(JobPlan plan, OrLocal(ReadJob(arguments.job_file, arguments.overrides)));
  v1::TrainingJob& job = plan.job;
  GW_RETURN_IF_ERROR(Upload(client, plan.dataset, arguments, console, job.mutable_dataset()));
  if (plan.evaluation_dataset) {
    GW_RETURN_IF_ERROR(Upload(client, plan.evaluation_dataset, arguments, console,
                              job.mutable_evaluation()->mutable_dataset()));
  }
  const TrainingClient training(client);
  if (arguments.estimate) {
    GW_ASSIGN_OR_RETURN(const v1::TrainingEstimate estimate,
                        training.Estimate(job, arguments.call.deadline));
    *console.out << (arguments.json ? MessageAsJson(estimate) + "\n" : EstimateAsText(estimate));
    return kOk;
  }
  if (arguments.validate_only) {
    GW_RETURN_IF_ERROR(training.Validate(job, arguments.call.deadline));
    *console.out << (arguments.json ? "{\"valid\": true}\n" : "the job is valid\n");
    return kOk;
  }
  GW_ASSIGN_OR_RETURN(const v1::TrainingJob created, training.Create(job, arguments.call.deadline));
  if (arguments.json) *console.out << MessageAsJson(created) << "\n" << std::flush;
  if (!arguments.watch) {
    if (!arguments.json) *console.out << created.name() << "\n";
    return kOk;
  }
  WatchSettings settings;
  settings.after_event = arguments.json ? 0 : created.last_event();
  settings.json = arguments.json;
  settings.deadline = arguments.long_deadline;
  GW_ASSIGN_OR_RETURN(const v1::TrainingJob ended, WatchJob(training, created, settings, console));
  if (!arguments.plot_path.empty()) {
    GW_RETURN_IF_ERROR(WritePlot(training, ended, arguments.plot_path));
  }
  return ExitCodeOf(ended.state());
}

}  // namespace gradwire::cli
