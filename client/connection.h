// File: connection.h
//
// What the parts of the client library share: the channel to a server and its stubs, deadlines, the
// decoding of errors, and waiting for a server that is away. Users of the library include client.h,
// datasets.h or training.h instead.
//
//   v1::TrainingJob job;
//   GW_RETURN_IF_ERROR(Call(*connection.training, &v1::TrainingService::Stub::GetTrainingJob,
//                           request, absl::Seconds(60), &job));
//
// Unary calls are tried up to 4 times while they are UNAVAILABLE, by the channel itself, which
// sends the same bytes: a request_id is that of the first try. Streams are not; what reads or
// writes them goes on with a Backoff.
//
// Thread-safety: a Connection may be used by many threads; a Backoff belongs to one call.
#ifndef GRADWIRE_CLIENT_CONNECTION_H_
#define GRADWIRE_CLIENT_CONNECTION_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/model_source.h"
#include "client/patience.h"
#include "gradwire/v1/dataset_service.grpc.pb.h"
#include "gradwire/v1/gradient_service.grpc.pb.h"
#include "gradwire/v1/graph_service.grpc.pb.h"
#include "gradwire/v1/server_service.grpc.pb.h"
#include "gradwire/v1/training_service.grpc.pb.h"

namespace gradwire {

struct Connection {
  // As Client::Connect.
  explicit Connection(absl::string_view address);

  std::string address;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::GradientService::Stub> gradients;
  std::unique_ptr<v1::GraphService::Stub> graphs;
  std::unique_ptr<v1::ServerService::Stub> server;
  std::unique_ptr<v1::DatasetService::Stub> datasets;
  std::unique_ptr<v1::TrainingService::Stub> training;
};

// With reason and violations, where the status has them.
absl::Status ToStatus(const grpc::Status& status);

void SetDeadline(absl::Time deadline, grpc::ClientContext* context);

v1::Model ToProto(const ModelSource& model);

// 128 random bits in hex.
std::string NewRequestId();

template <typename Stub, typename Request, typename Response>
absl::Status Call(Stub& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, absl::Duration deadline, Response* response) {
  grpc::ClientContext context;
  SetDeadline(absl::Now() + deadline, &context);
  return ToStatus((stub.*method)(&context, request, response));
}

// The waits of one call with Patience.
class Backoff {
 public:
  explicit Backoff(const Patience& patience);

  absl::Time deadline() const { return deadline_; }
  absl::Duration time_left() const;

  // The server is there: the next outage begins from nothing.
  void NoteProgress();

  // True, after a wait, where `status` says that the server is away and there is patience left; the
  // call is to be tried again. Else *status is what the call ends with.
  bool WaitAfter(absl::Status* status);

 private:
  const Patience& patience_;
  const absl::Time deadline_;
  absl::Time outage_start_ = absl::InfiniteFuture();
  absl::Duration wait_;
};

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_CONNECTION_H_
