// FakeServer: DatasetService and TrainingService in this process, as far as a client can tell, with
// faults at will. What it stores outlives Restart(), as a data directory would.
//
//   FakeServer server;
//   server.state().append_breaks_after = 3;     // the stream breaks after three chunks, once
//   Client client = Client::Connect(server.address());
#ifndef GRADWIRE_TESTS_UNIT_CLIENT_FAKE_SERVER_H_
#define GRADWIRE_TESTS_UNIT_CLIENT_FAKE_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "engine/tensor/tensor.h"
#include "gradwire/v1/dataset_service.grpc.pb.h"
#include "gradwire/v1/gradient_service.grpc.pb.h"
#include "gradwire/v1/training_service.grpc.pb.h"

namespace gradwire {

struct FakeState {
  absl::Mutex mutex;
  std::map<std::string, v1::Dataset> datasets;
  std::map<std::string, std::map<std::string, std::string>> bytes;  // by data set and column
  std::map<std::string, v1::TrainingJob> jobs;
  std::map<std::string, std::vector<v1::TrainingEvent>> events;
  std::map<std::string, std::string> checkpoint_files;  // by job: safetensors
  v1::TrainingEstimate estimate;
  bool has_estimates = true;  // else the call is unknown

  // What the client did.
  std::vector<std::string> calls;                // "CreateDataset request_id", in order
  std::vector<v1::AppendDatasetRequest> chunks;  // without data
  std::vector<v1::CreateTrainingJobRequest> created;
  std::vector<v1::ResumeTrainingJobRequest> resumed;
  std::vector<int64_t> watched_after;
  int page_size = 2;

  // Faults. Counts go down to 0.
  int unavailable = 0;           // so many unary calls of any kind are refused
  int append_breaks_after = -1;  // chunks; the stream then ends UNAVAILABLE, once
  bool lose_bytes = false;       // of the chunk at which it breaks, half arrives
  int watch_breaks_after = -1;   // events
  grpc::StatusCode watch_break = grpc::StatusCode::UNAVAILABLE;
  bool watch_repeats = false;      // sends the last event seen again
  int64_t watch_leaves_out = 0;    // number of an event
  int download_breaks_after = -1;  // chunks
};

// A safetensors file of DOUBLE tensors.
std::string SafetensorsFile(const std::map<std::string, std::vector<double>>& tensors);

class FakeServer {
 public:
  FakeServer();
  ~FakeServer();

  const std::string& address() const { return address_; }
  FakeState& state() { return state_; }

  void Stop();
  void Start();
  void Restart() {
    Stop();
    Start();
  }

  // A job in the store, with events of `steps` steps from QUEUED to SUCCEEDED.
  void AddFinishedJob(const std::string& name, int64_t steps);

 private:
  std::string address_;
  FakeState state_;
  std::unique_ptr<grpc::Service> gradients_;
  std::unique_ptr<grpc::Service> datasets_;
  std::unique_ptr<grpc::Service> training_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace gradwire

#endif  // GRADWIRE_TESTS_UNIT_CLIENT_FAKE_SERVER_H_
