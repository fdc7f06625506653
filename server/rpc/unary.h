// The shell around every unary rpc: admission, deadline and cancellation, the choice of a thread,
// and status and reply on the way back. An rpc is a row:
//
//   auto service = std::make_unique<UnaryService>(&environment, "gradwire.v1.GradientService");
//   service->Add("Evaluate", &core, &GradientCore::Evaluate);
//
// Requests arrive as raw bytes, so that they are admitted before they are parsed, large ones are
// parsed by a worker, and malformed ones get a reason.
#ifndef GRADWIRE_SERVER_RPC_UNARY_H_
#define GRADWIRE_SERVER_RPC_UNARY_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <string>

#include "google/protobuf/arena.h"
#include "server/core/call.h"
#include "server/rpc/in_flight.h"
#include "server/rpc/wire.h"

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

// One call, from its arrival to OnDone, when gRPC lets go of it. It may be cancelled at any moment:
// OnDone comes only after Finish, and Finish is the last thing that a worker does with it.
class UnaryCall : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(const Environment& environment, const std::string& method,
            grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
            grpc::ByteBuffer* response);
  // To be called once, from the handler.
  void Start();

 protected:
  virtual absl::Status Parse(grpc::ByteBuffer* request) = 0;
  virtual bool IsQuick(server::Call& call) = 0;
  virtual absl::Status Run(server::Call& call) = 0;
  virtual const google::protobuf::Message& response() const = 0;
  google::protobuf::Arena& arena() { return arena_; }

 private:
  void OnCancel() override { cancel_.Cancel(); }
  void OnDone() override;
  // On the thread that received the call where it is small and quick, else on a worker.
  absl::Status Dispatch(bool* finished);
  void RunAndFinish(server::Workspace& workspace, server::CpuGate* gate);
  absl::Status ParseOnce();
  absl::Status SerializeResponse();
  void FinishWith(absl::Status status);
  void LogCall(const absl::Status& status) const;

  const Environment& environment_;
  const std::string& method_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const request_bytes_;
  grpc::ByteBuffer* const response_bytes_;
  const int64_t request_size_;
  CancelToken cancel_;
  server::Call call_;
  bool entered_ = false;
  bool parsed_ = false;
  alignas(16) char arena_block_[2048];
  google::protobuf::Arena arena_;
};

template <typename Core, typename Request, typename Response>
class TypedUnaryCall final : public UnaryCall {
 public:
  using Method = absl::Status (Core::*)(const Request&, Response*, server::Call&);
  template <typename... Args>
  TypedUnaryCall(Core* core, Method method, Args&&... args)
      : UnaryCall(std::forward<Args>(args)...),
        core_(*core),
        run_(method),
        request_(google::protobuf::Arena::CreateMessage<Request>(&arena())),
        response_(google::protobuf::Arena::CreateMessage<Response>(&arena())) {}

 private:
  absl::Status Parse(grpc::ByteBuffer* bytes) override {
    if constexpr (requires { request_->mutable_inputs(); }) {
      if (bytes->Length() > kLargeRequestBytes) {
        return ParseLarge(bytes, request_, request_->mutable_model(), request_->mutable_inputs());
      }
    }
    return rpc::Parse(bytes, request_);
  }
  bool IsQuick(server::Call& call) override { return core_.IsQuick(*request_, call); }
  absl::Status Run(server::Call& call) override {
    return (core_.*run_)(*request_, response_, call);
  }
  const google::protobuf::Message& response() const override { return *response_; }

  Core& core_;
  const Method run_;
  Request* const request_;
  Response* const response_;
};

// A gRPC service made of unary rpcs. Rows are added before the server starts.
class UnaryService : public grpc::Service {
 public:
  // `environment` outlives the service. `name` is the service's full name.
  UnaryService(const Environment* environment, std::string name)
      : environment_(*environment), name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  template <typename Core, typename Request, typename Response>
  void Add(const std::string& rpc, Core* core,
           absl::Status (Core::*method)(const Request&, Response*, server::Call&)) {
    AddHandler(rpc, [core, method](auto&&... args) -> UnaryCall* {
      return new TypedUnaryCall<Core, Request, Response>(core, method, args...);
    });
  }

 private:
  using MakeCall = std::function<UnaryCall*(const Environment&, const std::string& method,
                                            grpc::CallbackServerContext*, const grpc::ByteBuffer*,
                                            grpc::ByteBuffer*)>;
  void AddHandler(const std::string& rpc, MakeCall make);

  const Environment& environment_;
  const std::string name_;
  std::deque<std::string> methods_;  // "/service/rpc"; gRPC keeps pointers to them
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_UNARY_H_
