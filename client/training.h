// File: training.h
//
// TrainingClient: training jobs on a server. A job runs where the server is, with the caller gone,
// and survives restarts of it.
//
//   Client client = Client::Connect();
//   v1::TrainingJob job;
//   job.mutable_model()->set_expression("mean((x @ w - t)^2)");
//   (*job.mutable_inputs())["w"] = ToProto(Tensor::FromVector<double>({2}, {0, 0}));
//   job.set_dataset(DatasetClient(client).Import({{"x", x}, {"t", t}}).value().name());
//   job.set_batch_size(32);
//   job.mutable_optimizer()->mutable_adam()->set_lr(0.05);
//   job.mutable_stop()->set_epochs(20);
//   TrainingClient training(client);
//   job = training.Create(job).value();
//   absl::Status watched = training.Watch(job.name(), 0, [](const v1::TrainingEvent& event) {
//     if (event.has_metrics()) std::cout << event.metrics().values().at("loss") << "\n";
//     return true;  // go on watching
//   });
//   std::cout << training.Parameters(job.name()).value()["w"];
//
// Jobs, events and checkpoints are the messages of training_service.proto, whose comments say what
// each field means. ToProto, of tensors and models, makes the fields; PyTorch's or any other .onnx
// file goes in by ToProto(*LoadModel("mlp.onnx")).
//
// Errors: the server's, as in client.h. Calls that change something carry a request_id of their
// own, so that each has one effect, and are tried again while UNAVAILABLE, up to 4 times within a
// second or so. Watch, Parameters and the two downloads ride over restarts of the server
// (patience.h).
//
// Thread-safety: all methods may be called from any thread. Copies share one connection.
#ifndef GRADWIRE_CLIENT_TRAINING_H_
#define GRADWIRE_CLIENT_TRAINING_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "client/datasets.h"
#include "client/named_tensors.h"
#include "client/patience.h"
#include "gradwire/v1/training_service.pb.h"

namespace gradwire {

v1::Tensor ToProto(const TensorView& tensor);
v1::Model ToProto(const ModelSource& model);

// True where a job has ended: SUCCEEDED, FAILED or CANCELLED.
bool HasEnded(v1::TrainingJob::State state);

struct DownloadOptions {
  Patience patience;
  TransferProgress progress;
};

class TrainingClient {
 public:
  explicit TrainingClient(const Client& client) : connection_(client.connection()) {}

  // Stores and queues a job; the answer has its name.
  absl::StatusOr<v1::TrainingJob> Create(const v1::TrainingJob& job,
                                         absl::Duration deadline = kDeadline) const;
  // Checks a job as Create does, and stores nothing.
  absl::Status Validate(const v1::TrainingJob& job, absl::Duration deadline = kDeadline) const;
  // What a job would need.
  absl::StatusOr<v1::TrainingEstimate> Estimate(const v1::TrainingJob& job,
                                                absl::Duration deadline = kDeadline) const;

  absl::StatusOr<v1::TrainingJob> Get(const std::string& name,
                                      absl::Duration deadline = kDeadline) const;
  // The newest jobs, at most `limit` (0: all), in one of `states` (empty: in any), newest first,
  // without model and inputs.
  absl::StatusOr<std::vector<v1::TrainingJob>> List(
      const std::vector<v1::TrainingJob::State>& states = {}, absl::Duration deadline = kDeadline,
      int64_t limit = 0) const;

  absl::StatusOr<v1::TrainingJob> Cancel(const std::string& name,
                                         absl::Duration deadline = kDeadline) const;
  absl::StatusOr<v1::TrainingJob> Pause(const std::string& name,
                                        absl::Duration deadline = kDeadline) const;
  // The request's name and what is to change; its request_id is filled in where it is empty.
  absl::StatusOr<v1::TrainingJob> Resume(v1::ResumeTrainingJobRequest request,
                                         absl::Duration deadline = kDeadline) const;
  absl::Status Delete(const std::string& name, absl::Duration deadline = kDeadline) const;

  // Calls `on_event` with every event after number `after_event` (0: with all of them), in order
  // and each once, as they happen: through restarts of the server, until the job has ended,
  // `on_event` returns false (OK, both) or patience is at its end. Errors: the server's; DATA_LOSS
  // where it leaves an event out.
  absl::Status Watch(const std::string& name, int64_t after_event,
                     const std::function<bool(const v1::TrainingEvent&)>& on_event,
                     const Patience& patience = {}) const;

  // The history of metrics, thinned out on the server.
  absl::StatusOr<v1::QueryMetricsResponse> QueryMetrics(const v1::QueryMetricsRequest& request,
                                                        absl::Duration deadline = kDeadline) const;

  // Newest first.
  absl::StatusOr<std::vector<v1::Checkpoint>> ListCheckpoints(
      const std::string& name, absl::Duration deadline = kDeadline) const;

  // `name` is a checkpoint's ("jobs/{id}/checkpoints/{step}"), or a job's for its last one.
  //
  // The parameters, by name: a checkpoint's tensors without the optimiser's state.
  absl::StatusOr<NamedTensors> Parameters(const std::string& name,
                                          const Patience& patience = {}) const;
  // The checkpoint's safetensors file, or the model with the trained values as .onnx, into a file
  // at `path`, which appears there when it is whole (new_file.h).
  absl::Status DownloadCheckpoint(const std::string& name, const std::string& path,
                                  const DownloadOptions& options = {}) const;
  absl::Status ExportModel(const std::string& name, const std::string& path,
                           const DownloadOptions& options = {}) const;

 private:
  static constexpr absl::Duration kDeadline = absl::Seconds(60);

  std::shared_ptr<const Connection> connection_;
};

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_TRAINING_H_
