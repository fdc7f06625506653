// File: arguments.h
//
// The command line of `gradwire`, parsed: what stands in contract and help texts, as fields.
// Nothing of the file system or the network is looked at.
//
//   cli::ParsedArguments parsed = cli::ParseArguments({"grad", "x^2", "x=2"});
//   if (!parsed.arguments) { ... parsed.text, parsed.is_error ... }
#ifndef GRADWIRE_CLIENT_CLI_ARGUMENTS_H_
#define GRADWIRE_CLIENT_CLI_ARGUMENTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/cli/read_columns.h"
#include "client/client.h"
#include "client/datasets.h"
#include "gradwire/v1/training_service.pb.h"

namespace gradwire::cli {

enum class Command {
  kEval,
  kGrad,
  kVjp,
  kJvp,
  kHvp,
  kJacobian,
  kHessian,
  kCheck,
  kAnalyze,
  kMinimize,
  kTrain,
  kEstimate,
  kExport,
  kJobsList,
  kJobsShow,
  kJobsWatch,
  kJobsPause,
  kJobsResume,
  kJobsCancel,
  kJobsDelete,
  kJobsCheckpoints,
  kJobsDownload,
  kDatasetsImport,
  kDatasetsList,
  kDatasetsShow,
  kDatasetsDelete,
  kHealth,
  kServerStatus
};

// NAME=VALUE as written.
struct Assignment {
  std::string name;
  std::string value;
};

// A field of a job that an option sets.
struct Override {
  std::string option;  // as written, for messages: "--lr"
  std::string key;     // in TOML: "stop.epochs"
  std::string value;
  bool is_text = false;  // a string, whatever it looks like; else a TOML value where it is one
};

struct Arguments {
  Command command = Command::kEval;
  std::string server;
  bool json = false;
  bool show_info = false;
  std::string service;  // of health

  // ---- Of what computes, and of minimize.
  std::string model_path;  // exactly one of the two is set, where something is computed
  std::string formula;
  std::vector<Assignment> inputs;
  // The K vectors of vjp, jvp and hvp.
  std::vector<std::vector<Assignment>> vectors;
  std::vector<std::string> wrt;
  std::vector<std::string> outputs;
  std::string output_name;
  std::optional<Loss> loss;
  bool per_example = false;
  int64_t directions = 0;
  double step = 0;
  JacobianOptions::Direction direction = JacobianOptions::Direction::kAuto;
  CallOptions call;
  // What --deadline says, for calls that are not bounded where it does not.
  absl::Duration long_deadline = absl::InfiniteDuration();

  // ---- Of jobs.
  std::string job_file;
  std::vector<Override> overrides;
  std::vector<std::string> names;  // "jobs/{id}", "jobs/{id}/checkpoints/{step}", "datasets/{id}"
  std::vector<v1::TrainingJob::State> states;
  int64_t limit = 0;  // of a list; 0: none
  v1::ResumeTrainingJobRequest resume;
  bool watch = false;
  bool validate_only = false;
  bool estimate = false;
  std::optional<int64_t> after_event;
  std::string plot_path;
  std::string out_path;

  // ---- Of data sets.
  FileImport import;
  ImportOptions upload;  // `resume` and `ttl`
};

struct ParsedArguments {
  std::optional<Arguments> arguments;
  // Without arguments: a help text or the version, or what is wrong with the usage.
  std::string text;
  bool is_error = false;
};

// `words` are the words after the program's name.
ParsedArguments ParseArguments(std::vector<std::string> words);

// True where the words ask for JSON: for errors that come before they could be parsed.
bool AskForJson(const std::vector<std::string>& words);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_ARGUMENTS_H_
