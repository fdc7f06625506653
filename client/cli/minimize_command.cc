#include "client/cli/minimize_command.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/answer.h"
#include "client/cli/compute_command.h"
#include "client/cli/job_file.h"
#include "client/cli/render_json.h"
#include "client/cli/render_text.h"
#include "client/cli/report.h"
#include "client/cli/text.h"
#include "client/cli/train_command.h"
#include "client/cli/watch.h"
#include "client/format.h"
#include "client/training.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

// A day later nobody asks for it any more.
constexpr char kDefaults[] = R"(
optimizer = "lbfgs"
stop.steps = 1000
stop.gradient_norm = 1e-8
ttl = "24h"
)";

absl::StatusOr<v1::TrainingJob> MakeJob(const Arguments& arguments,
                                        const ModelAndInputs& prepared) {
  GW_ASSIGN_OR_RETURN(JobPlan plan, ParseJob(kDefaults, "", "", arguments.overrides));
  v1::TrainingJob job = std::move(plan.job);
  *job.mutable_model() = ToProto(prepared.model);
  for (const auto& [name, tensor] : prepared.inputs) {
    (*job.mutable_inputs())[name] = ToProto(tensor);
  }
  for (const std::string& name : arguments.wrt) job.add_trainable(name);
  job.set_output(arguments.output_name);
  if (job.optimizer().has_lbfgs()) {
    // Otherwise L-BFGS's own tolerances, 1e-7 and 1e-9, let it stand still above --gtol.
    v1::Lbfgs* lbfgs = job.mutable_optimizer()->mutable_lbfgs();
    if (!lbfgs->has_tolerance_grad()) lbfgs->set_tolerance_grad(0);
    if (!lbfgs->has_tolerance_change()) lbfgs->set_tolerance_change(0);
  }
  return job;
}

absl::StatusOr<v1::TrainingJob> RunToEnd(const TrainingClient& training, const v1::TrainingJob& job,
                                         const Arguments& arguments, const Console& console) {
  WatchSettings settings;
  settings.after_event = job.last_event();
  settings.deadline = arguments.long_deadline;
  if (arguments.watch) {
    // The result alone goes to the standard output.
    const Console on_err = {.out = console.err,
                            .err = console.err,
                            .colour_out = console.colour_err,
                            .colour_err = console.colour_err,
                            .width_out = console.width_err,
                            .width_err = console.width_err};
    return WatchJob(training, job, settings, on_err);
  }
  std::ostream nowhere(nullptr);
  return WatchJob(training, job, settings, {.out = &nowhere, .err = &nowhere});
}

struct Minimum {
  Tensor value;
  NamedTensors parameters;
  double gradient_norm = 0;
};

// Value and gradient where the job ended, computed anew: its last metrics are of the step before.
absl::StatusOr<Minimum> MinimumOf(const Client& client, const TrainingClient& training,
                                  const std::string& job, const ModelAndInputs& prepared,
                                  const Arguments& arguments) {
  Minimum out;
  GW_ASSIGN_OR_RETURN(out.parameters, training.Parameters(job));
  NamedTensors inputs = prepared.inputs;
  GradientOptions options;
  options.output = arguments.output_name;
  options.call.deadline = arguments.call.deadline;
  for (const auto& [name, tensor] : out.parameters) {
    inputs[name] = tensor;
    options.wrt.push_back(name);
  }
  GW_ASSIGN_OR_RETURN(const GradientResult result,
                      client.Gradient(prepared.model, inputs, options));
  out.value = result.value;
  double sum = 0;
  for (const auto& [name, gradient] : result.gradients) {
    for (int64_t i = 0; i < gradient.num_elements(); ++i) {
      sum += ElementAsDouble(gradient, i) * ElementAsDouble(gradient, i);
    }
  }
  out.gradient_norm = std::sqrt(sum);
  return out;
}

std::string EndAsJson(const v1::TrainingJob& job) {
  return absl::StrCat("\"steps\": ", job.progress().step(), ", \"state\": \"",
                      v1::TrainingJob::State_Name(job.state()),
                      "\", \"reason\": ", StringAsJson(job.state_reason()),
                      ", \"job\": ", StringAsJson(job.name()), "}");
}

std::string MinimumAsJson(const Minimum& minimum, const v1::TrainingJob& job) {
  std::string out =
      absl::StrCat("{\"value\": ", TensorAsJson(minimum.value), ", \"parameters\": {");
  const char* separator = "";
  for (const auto& [name, tensor] : minimum.parameters) {
    absl::StrAppend(&out, separator, StringAsJson(name), ": ", TensorAsJson(tensor));
    separator = ", ";
  }
  return absl::StrCat(out, "}, \"gradient_norm\": ", NumberAsJson(minimum.gradient_norm), ", ",
                      EndAsJson(job));
}

std::string EndAsText(const v1::TrainingJob& job) {
  return Printable(absl::StrCat(v1::TrainingJob::State_Name(job.state()),
                                job.state_reason().empty() ? "" : ": ", job.state_reason()));
}

}  // namespace

void AddMinimizeOptions(Command command, CLI::App* app, RawArguments* raw) {
  app->add_option("FORMULA", raw->words,
                  "A formula (unless --model is given), then NAME=VALUE ...: where it starts")
      ->type_name("NAME=VALUE");
  AddText(app, "--model", &raw->model, "FILE", "Model file: .onnx or .onnxtxt");
  AddList(app, "--in", &raw->in, "NAME=VALUE", "An input; the same as NAME=VALUE alone");
  AddList(app, "--wrt", &raw->wrt, "A,B", "Change these only [the parameters, else the inputs]");
  AddText(app, "--output-name", &raw->output_name, "NAME", "What is minimised [the only output]");
  AddJobFields(command, app, raw);
  app->add_flag("--watch", raw->watch, "Show how it goes");
}

absl::Status CheckMinimize(const RawArguments& raw, Arguments* out) {
  GW_RETURN_IF_ERROR(CheckModelAndInputs(raw, out));
  GW_RETURN_IF_ERROR(CheckSettings(raw));
  out->overrides = OverridesOf(raw);
  out->watch = raw.watch;
  return absl::OkStatus();
}

absl::StatusOr<int> RunMinimize(const Client& client, const Arguments& arguments,
                                const Console& console) {
  GW_ASSIGN_OR_RETURN(const ModelAndInputs prepared, OrLocal(ReadModelAndInputs(arguments)));
  GW_ASSIGN_OR_RETURN(const v1::TrainingJob wanted, OrLocal(MakeJob(arguments, prepared)));
  const TrainingClient training(client);
  GW_ASSIGN_OR_RETURN(const v1::TrainingJob created,
                      training.Create(wanted, arguments.call.deadline));
  GW_ASSIGN_OR_RETURN(const v1::TrainingJob job, RunToEnd(training, created, arguments, console));
  if (job.state() != v1::TrainingJob::SUCCEEDED) {
    if (arguments.json) {
      *console.out << "{" << EndAsJson(job) << "\n";
    } else {
      *console.err << Printable(job.name()) << " " << EndAsText(job) << "\n";
    }
    return kCheckFailed;
  }
  GW_ASSIGN_OR_RETURN(const Minimum minimum,
                      MinimumOf(client, training, job.name(), prepared, arguments));
  if (arguments.json) {
    *console.out << MinimumAsJson(minimum, job) << "\n";
    return kOk;
  }
  Answer answer;
  answer.value_name = ValueName(arguments, prepared.signature);
  answer.value = minimum.value;
  answer.outputs = minimum.parameters;
  *console.out << AnswerAsText(answer, /*show_info=*/false, console.colour_out) << "\n"
               << NameTable({{"gradient norm", FormatNumber(minimum.gradient_norm)},
                             {"steps", absl::StrCat(job.progress().step())},
                             {"ended", EndAsText(job)},
                             {"job", Printable(job.name())}});
  return kOk;
}

}  // namespace gradwire::cli
