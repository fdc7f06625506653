// File: job_file.h
//
// A training job as TOML: the fields of v1.TrainingJob (toml_message.h), and a few conveniences.
//
//   model = "mlp.onnx"                     # a .onnx or .onnxtxt file, or a formula
//   dataset = "digits.npz"                 # a file, which is uploaded first; or "datasets/{id}"
//   loss = "softmax_cross_entropy"         # or a table
//   optimizer = "adam"                     # with its defaults; or optimizer.adam.lr = 1e-2
//   inputs.w = [0, 0]                      # or "@w.npy"
//   start_from = "jobs/3f2c"               # or "jobs/3f2c/checkpoints/100"
//   stop.wall_time = "30s"
//
// A dataset that is a table says how files become columns, with the names of FileImport's fields:
//
//   [dataset]
//   file = "digits.npz"                    # or files = [...]
//   columns = {x = "images", t = "labels"}
//   dtype = {x = "float"}
//   scale = {x = 0.0625}
//   except = "4::5"
//   [evaluation.dataset]                   # the rest is as in [dataset], where no file is given
//   rows = "4::5"
//
// Paths are relative to the job file; those of options to the working folder.
#ifndef GRADWIRE_CLIENT_CLI_JOB_FILE_H_
#define GRADWIRE_CLIENT_CLI_JOB_FILE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/arguments.h"
#include "client/cli/read_columns.h"
#include "gradwire/v1/training_service.pb.h"

namespace gradwire::cli {

struct JobPlan {
  v1::TrainingJob job;
  // What is to be uploaded before the job can be created; its name goes into the job.
  std::optional<FileImport> dataset;
  std::optional<FileImport> evaluation_dataset;
};

// Reads the model, but no data. `path` may be empty: then the overrides say everything. Errors:
// INVALID_SPEC with every mistake, each with file, line and key; for the file itself, those of
// ReadFile.
absl::StatusOr<JobPlan> ReadJob(const std::string& path, const std::vector<Override>& overrides);

// The same of a text that stands in `folder` and is called `source` in messages.
absl::StatusOr<JobPlan> ParseJob(absl::string_view text, const std::string& source,
                                 const std::string& folder, const std::vector<Override>& overrides);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_JOB_FILE_H_
