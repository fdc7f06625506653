#include "client/cli/commands.h"

#include "client/cli/compute_command.h"
#include "client/cli/datasets_command.h"
#include "client/cli/jobs_command.h"
#include "client/cli/minimize_command.h"
#include "client/cli/server_command.h"
#include "client/cli/train_command.h"

namespace gradwire::cli {

const char kProgramHelp[] =
    "Derivatives of computation graphs, and training by them, on a Gradwire server.";

const char kProgramExamples[] = R"(
Values: a number (2, -1.5, 1e-3, nan), a nested list ([[1,2],[3,4]]), or @FILE: .npy, .npz,
.safetensors or .csv. Of a file with several arrays the one called NAME is taken, or the one named
by @FILE:ARRAY. Element types are the model's; inputs of a formula are DOUBLE.

Exit codes: 0 ok; 1 a check failed or a job did; 2 usage or a local file; 3 refused by the server;
4 unavailable; 5 deadline; 130 interrupted.

Examples:
  gradwire grad 'x^2*y + y^3' x=2 y=3
  gradwire minimize '(1-x)^2 + 100*(y-x^2)^2' x=-1.2 y=1 --watch
  gradwire train examples/digits.toml --watch
  gradwire COMMAND --help
)";

namespace {

constexpr char kEvalHelp[] = R"(
Examples:
  gradwire eval 'a @ b' 'a=[[1,2],[3,4]]' 'b=[1,1]'
  gradwire eval 'u = x^2; v = u + 1; return u, v' x=3
  gradwire eval --model mlp.onnx images=@digits.npz --outputs logits --output=json
)";

constexpr char kGradHelp[] = R"(
Examples:
  gradwire grad 'x^2*y + y^3' x=2 y=3
  gradwire grad 'sum(w * x^2)' 'x=[1,2,3]' w=@w.npy --wrt w
  gradwire grad --model loss.onnx images=@x.npy labels=@y.npy --output-name loss --precision double
  gradwire grad 'x^2*y' 'x=[1,2,3]' y=5 --batch x
)";

constexpr char kVjpHelp[] = R"(
Prints the outputs and, for each cotangent v, (J'v) at every value differentiated by.

Examples:
  gradwire vjp 'x^2' 'x=[1,2]' --cotangent 'f=[1,0]' --cotangent 'f=[0,1]'
  gradwire vjp 'u = x*y; v = x+y; return u, v' x=2 y=3 --cotangent u=1 --cotangent v=1
)";

constexpr char kJvpHelp[] = R"(
Prints the outputs and, for each tangent v, (Jv) at every output.

Examples:
  gradwire jvp 'x^2*y' x=2 y=3 --tangent x=1 --tangent y=0.5
  gradwire jvp 'x^2*y' x=2 y=3 --tangent x=1 --tangent x=0 --tangent y=1
)";

constexpr char kHvpHelp[] = R"(
Examples:
  gradwire hvp '(1-x)^2 + 100*(y-x^2)^2' x=1 y=2 --vector x=1 --vector y=0
  gradwire hvp 'sum(x^3)' 'x=[1,2]' --vector 'x=[1,0]' --vector 'x=[0,1]' --output=json
)";

constexpr char kJacobianHelp[] = R"(
Prints the outputs and one matrix: a row for each element of the outputs, a column for each element
of what is differentiated by. JSON has a block for each pair of names, of shape [output..., wrt...].

Examples:
  gradwire jacobian 'x^2 * y' 'x=[1,2]' y=3
  gradwire jacobian --model mlp.onnx x=@x.npy --outputs logits --wrt x --output=json
)";

constexpr char kHessianHelp[] = R"(
Prints the scalar, its gradient and one matrix with a row and a column for each element of what is
differentiated by. JSON has a block for each pair of names, of shape [row..., column...].

Examples:
  gradwire hessian '(1-x)^2 + 100*(y-x^2)^2' x=-1.5 y=0.25
  gradwire hessian 'logsumexp(x)' 'x=[1,2,3]'
  gradwire hessian --model mlp.onnx x=@x.npy target=@t.npy --loss mse --wrt bias --output=json
)";

constexpr char kCheckHelp[] = R"(
For each value differentiated by: the worst entry, by reverse mode and by differences, in DOUBLE. A
kink is a place where the function has no derivative to compare. Exit code 1: something is wrong.

Examples:
  gradwire check 'x^2*y + y^3' x=2 y=3
  gradwire check --model mlp.onnx images=@digits.npz labels=@digits.npz --directions 10
  gradwire check 'relu(x)' x=0 --output=json
)";

constexpr char kAnalyzeHelp[] = R"(
Lists every node that the server cannot compute or differentiate, with the way from the output that
needs it. Inputs may be left out; then there are no costs. Exit code 1: something is in the way.

Examples:
  gradwire analyze 'x^2*y + y^3' x=2 y=3
  gradwire analyze --model mlp.onnx
  gradwire analyze --model mlp.onnx images=@digits.npz labels=@digits.npz --output=json
)";

constexpr char kMinimizeHelp[] = R"(
Runs a training job without data to its end, and prints the minimum: value, parameters, the norm of
the gradient there, and why it stopped. By default L-BFGS, until the gradient's norm is at most 1e-8
or 1000 steps are done. The job is kept for a day. Exit code 1: it failed or was cancelled.

Examples:
  gradwire minimize '(1-x)^2 + 100*(y-x^2)^2' x=-1.2 y=1 --watch
  gradwire minimize 'sum((x - c)^2)' 'x=[0,0]' 'c=[1,2]' --wrt x --optimizer adam --lr 0.1
  gradwire minimize --model loss.onnx data=@data.npy --gtol 1e-6 --output=json
)";

constexpr char kTrainHelp[] = R"(
The job as TOML has the fields of TrainingJob in training_service.proto. Besides:
  model = "mlp.onnx"               a file, beside the job file; or a formula
  dataset = "digits.npz"           a file, uploaded once; or "datasets/{id}"; or a table:
  [dataset]                        file, columns, dtype, scale, shape, rows, except, as the options
  file = "digits.npz"              of `gradwire datasets import`; [evaluation.dataset] takes from it
  columns = {x = "images"}         what it leaves out
  optimizer = "adam"               with its defaults; or optimizer.adam.lr = 1e-3
  loss = "softmax_cross_entropy"   or a table
  inputs.w = [0, 0]                or "@w.npy"
  start_from = "jobs/{id}"         or "jobs/{id}/checkpoints/{step}"
  stop.wall_time = "1h30m"

Prints the job's name, or with --watch how it goes: through restarts of the server, until it ends.
Ctrl-C leaves the watch; the job goes on. With --output=json: the job, then one object a line for
each event. Exit code 1: the job failed or was cancelled.

Examples:
  gradwire train examples/digits.toml --watch
  gradwire train digits.toml --lr 1e-3 --epochs 50 --set 'evaluation.metrics=["accuracy"]'
  gradwire train --model mlp.onnx --output-name logits --loss softmax_cross_entropy \
    --dataset datasets/3f2c --optimizer adam --lr 1e-3 --batch-size 64 --epochs 10 --watch
)";

constexpr char kEstimateHelp[] = R"(
The data is uploaded, since the job could not be checked without it; the job is not created.

Examples:
  gradwire estimate examples/digits.toml
  gradwire estimate digits.toml --batch-size 256 --output=json
)";

constexpr char kExportHelp[] = R"(
Examples:
  gradwire export jobs/3f2c -o trained.onnx
  gradwire export jobs/3f2c/checkpoints/600 -o at600.onnx
)";

constexpr char kJobsListHelp[] = R"(
Examples:
  gradwire jobs list
  gradwire jobs list --state running,queued --limit 0 --output=json
)";

constexpr char kJobsShowHelp[] = R"(
Examples:
  gradwire jobs show 3f2c
  gradwire jobs show jobs/3f2c --plot loss.svg
)";

constexpr char kJobsWatchHelp[] = R"(
Rides over restarts of the server. Ctrl-C leaves the watch; the job goes on. With --output=json: one
object a line for each event, from the first one on. Exit code 1: the job failed or was cancelled.

Examples:
  gradwire jobs watch 3f2c
  gradwire jobs watch 3f2c --plot loss.svg --deadline 3600
  gradwire jobs watch 3f2c --output=json --after 120
)";

constexpr char kJobsPauseHelp[] = R"(
Stops after the step under way, with a checkpoint.

Examples:
  gradwire jobs pause 3f2c
)";

constexpr char kJobsResumeHelp[] = R"(
Goes on from the last checkpoint; what is given here replaces what the job says.

Examples:
  gradwire jobs resume 3f2c
  gradwire jobs resume 3f2c --epochs 60 --lr-factor 0.1
)";

constexpr char kJobsCancelHelp[] = R"(
What the job has computed is kept.

Examples:
  gradwire jobs cancel 3f2c 77ab
)";

constexpr char kJobsDeleteHelp[] = R"(
With its history and checkpoints. A job that has not ended is refused: cancel it first.

Examples:
  gradwire jobs delete 3f2c 77ab
)";

constexpr char kJobsCheckpointsHelp[] = R"(
Examples:
  gradwire jobs checkpoints 3f2c
)";

constexpr char kJobsDownloadHelp[] = R"(
Parameters, optimiser state and running statistics, as one safetensors file.

Examples:
  gradwire jobs download 3f2c -o last.safetensors
  gradwire jobs download 3f2c/checkpoints/600 -o at600.safetensors
)";

constexpr char kDatasetsImportHelp[] = R"(
The first dimension of every array counts the rows. Arrays of .npz and .csv have names (of .csv
those of its header, else 0, 1, ...); that of .npy and IDX is called as the file, without its
ending. What lies on the server already is not sent again. Prints the data set's name.

Examples:
  gradwire datasets import digits.npz --columns x=images,t=labels --dtype x=float --scale x=1/16
  gradwire datasets import digits.npz --except 4::5 --name training --ttl 24h
  gradwire datasets import points.csv --columns x=a,b,c,t=label --dtype x=float,t=int64
  gradwire datasets import train-images-idx3-ubyte train-labels-idx1-ubyte --name mnist \
    --columns x=train-images-idx3-ubyte,t=train-labels-idx1-ubyte --scale x=1/255 \
    --shape x=1x28x28 --dtype t=int64
)";

constexpr char kDatasetsListHelp[] = R"(
Examples:
  gradwire datasets list
)";

constexpr char kDatasetsShowHelp[] = R"(
Examples:
  gradwire datasets show 3f2c
)";

constexpr char kDatasetsDeleteHelp[] = R"(
Refused while a job that has not ended reads it.

Examples:
  gradwire datasets delete 3f2c
)";

constexpr char kHealthHelp[] = R"(
Examples:
  gradwire health
  gradwire health --server 127.0.0.1:50051 --deadline 1
  gradwire health --service gradwire.v1.GradientService
)";

constexpr char kServerStatusHelp[] = R"(
Examples:
  gradwire server status
  gradwire server status --output=json
)";

constexpr CommandRow kCommands[] = {
    {Command::kEval, "", "eval", "Compute values: y = f(x)", kEvalHelp, AddComputeOptions,
     CheckCompute, RunCompute, true},
    {Command::kGrad, "", "grad", "Compute a scalar and its gradient", kGradHelp, AddComputeOptions,
     CheckCompute, RunCompute, true},
    {Command::kVjp, "", "vjp", "Compute K vector-Jacobian products (reverse mode)", kVjpHelp,
     AddComputeOptions, CheckCompute, RunCompute, true},
    {Command::kJvp, "", "jvp", "Compute K Jacobian-vector products (forward mode)", kJvpHelp,
     AddComputeOptions, CheckCompute, RunCompute, true},
    {Command::kHvp, "", "hvp", "Compute a scalar, its gradient and K Hessian-vector products",
     kHvpHelp, AddComputeOptions, CheckCompute, RunCompute, true},
    {Command::kJacobian, "", "jacobian", "Compute values and their whole Jacobian", kJacobianHelp,
     AddComputeOptions, CheckCompute, RunCompute, true},
    {Command::kHessian, "", "hessian", "Compute a scalar, its gradient and its whole Hessian",
     kHessianHelp, AddComputeOptions, CheckCompute, RunCompute, true},
    {Command::kCheck, "", "check", "Compare derivatives with differences of the function",
     kCheckHelp, AddComputeOptions, CheckCompute, RunCheck, true},
    {Command::kAnalyze, "", "analyze",
     "Say what a graph consists of, needs and costs, without running it", kAnalyzeHelp,
     AddComputeOptions, CheckCompute, RunAnalyze, true},
    {Command::kMinimize, "", "minimize", "Find a minimum of a function", kMinimizeHelp,
     AddMinimizeOptions, CheckMinimize, RunMinimize, true},
    {Command::kTrain, "", "train", "Start a training job", kTrainHelp, AddTrainOptions, CheckTrain,
     RunTrain},
    {Command::kEstimate, "", "estimate", "Say what a training job would need", kEstimateHelp,
     AddTrainOptions, CheckTrain, RunTrain},
    {Command::kExport, "", "export", "Save a trained model as .onnx", kExportHelp, AddJobOptions,
     CheckJobs, RunDownload},
    {Command::kJobsList, "jobs", "list", "List the jobs, newest first", kJobsListHelp,
     AddJobOptions, CheckJobs, RunJobsList},
    {Command::kJobsShow, "jobs", "show", "Show one job", kJobsShowHelp, AddJobOptions, CheckJobs,
     RunJobsShow},
    {Command::kJobsWatch, "jobs", "watch", "Show how a job goes, until it ends", kJobsWatchHelp,
     AddJobOptions, CheckJobs, RunJobsWatch},
    {Command::kJobsPause, "jobs", "pause", "Pause jobs", kJobsPauseHelp, AddJobOptions, CheckJobs,
     RunJobsChange},
    {Command::kJobsResume, "jobs", "resume", "Resume a paused or failed job", kJobsResumeHelp,
     AddJobOptions, CheckJobs, RunJobsChange},
    {Command::kJobsCancel, "jobs", "cancel", "End jobs for good", kJobsCancelHelp, AddJobOptions,
     CheckJobs, RunJobsChange},
    {Command::kJobsDelete, "jobs", "delete", "Remove jobs that have ended", kJobsDeleteHelp,
     AddJobOptions, CheckJobs, RunJobsDelete},
    {Command::kJobsCheckpoints, "jobs", "checkpoints", "List the checkpoints of a job",
     kJobsCheckpointsHelp, AddJobOptions, CheckJobs, RunJobsCheckpoints},
    {Command::kJobsDownload, "jobs", "download", "Save a checkpoint", kJobsDownloadHelp,
     AddJobOptions, CheckJobs, RunDownload},
    {Command::kDatasetsImport, "datasets", "import", "Upload files as a data set",
     kDatasetsImportHelp, AddDatasetOptions, CheckDatasets, RunDatasetsImport},
    {Command::kDatasetsList, "datasets", "list", "List the data sets, newest first",
     kDatasetsListHelp, nullptr, nullptr, RunDatasetsList},
    {Command::kDatasetsShow, "datasets", "show", "Show data sets", kDatasetsShowHelp,
     AddDatasetOptions, CheckDatasets, RunDatasetsShow},
    {Command::kDatasetsDelete, "datasets", "delete", "Remove data sets", kDatasetsDeleteHelp,
     AddDatasetOptions, CheckDatasets, RunDatasetsDelete},
    {Command::kHealth, "", "health", "Ask whether the server is serving (exit code 0: it is)",
     kHealthHelp, AddHealthOptions, CheckHealth, RunHealth},
    {Command::kServerStatus, "server", "status",
     "Show the server's versions, limits, ops and self-check", kServerStatusHelp, nullptr, nullptr,
     RunServerStatus},
};

}  // namespace

absl::Span<const CommandRow> Commands() { return kCommands; }

const CommandRow& RowOf(Command command) {
  for (const CommandRow& row : kCommands) {
    if (row.command == command) return row;
  }
  return kCommands[0];
}

std::string GroupSummary(const std::string& group) {
  if (group == "jobs") return "Training jobs: list, watch, pause, resume, cancel, ...";
  if (group == "datasets") return "Data to train on";
  return "About the server";
}

}  // namespace gradwire::cli
