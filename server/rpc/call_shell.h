// What the shells of all rpcs have in common, unary or not: a CallShell is the part of a call that
// does not depend on how many messages go either way.
#ifndef GRADWIRE_SERVER_RPC_CALL_SHELL_H_
#define GRADWIRE_SERVER_RPC_CALL_SHELL_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "engine/base/cancel.h"
#include "google/protobuf/message.h"
#include "server/core/call.h"
#include "server/rpc/in_flight.h"

namespace gradwire::rpc {

// What all calls of a server share.
struct Environment {
  server::Admission* admission;
  server::Workers* workers;
  InFlight* in_flight;
  int64_t max_message_bytes;
};

// absl::Status -> grpc::Status with google.rpc.Status as details.
grpc::Status ToGrpc(const absl::Status& status);
// What a call gets that is not served because the server stops.
absl::Status Draining();

// The members belong to whoever runs the call at the moment, but for cancel(), which is
// thread-safe.
class CallShell {
 public:
  // All outlive the call.
  CallShell(const Environment& environment, const std::string& method,
            grpc::CallbackServerContext* context);

  // False where the server takes no calls any more. `look_again`: see InFlight.
  bool Enter(std::function<void()> look_again = nullptr);
  // Where Enter was true: the last thing, in OnDone.
  void Leave();

  // Counts a message that has arrived, for the log.
  void CountRequest(int64_t bytes);
  // RESULT_TOO_LARGE above the server's limit.
  absl::Status Serialize(const google::protobuf::Message& message, grpc::ByteBuffer* bytes) const;
  // Logs how the call ended, and says what its caller is told.
  grpc::Status Conclude(absl::Status status);

  const Environment& environment() const { return environment_; }
  const grpc::CallbackServerContext& context() const { return context_; }
  CancelToken& cancel() { return cancel_; }
  server::Call& call() { return call_; }

 private:
  void Log(const absl::Status& status) const;

  const Environment& environment_;
  const std::string& method_;
  const grpc::CallbackServerContext& context_;
  CancelToken cancel_;
  server::Call call_;
  int64_t requests_ = 0;
  int64_t request_bytes_ = 0;
  bool entered_ = false;
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_CALL_SHELL_H_
