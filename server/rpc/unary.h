// The shell around every unary rpc: admission, deadline and cancellation, the choice of a thread,
// and status and reply on the way back. service.h makes an rpc of it.
//
// Requests arrive as raw bytes, so that they are admitted before they are parsed, large ones are
// parsed by a worker, and malformed ones get a reason.
#ifndef GRADWIRE_SERVER_RPC_UNARY_H_
#define GRADWIRE_SERVER_RPC_UNARY_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <string>
#include <utility>

#include "google/protobuf/arena.h"
#include "server/core/call.h"
#include "server/rpc/call_shell.h"
#include "server/rpc/wire.h"

namespace gradwire::rpc {

// Larger requests are left to a worker.
inline constexpr int64_t kSmallRequestBytes = 16 << 10;

// For quick calls on threads of gRPC.
server::Workspace& WorkspaceOfThisThread();

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
  void OnCancel() override { shell_.cancel().Cancel(); }
  void OnDone() override;
  // On the thread that received the call where it is small and quick, else on a worker.
  absl::Status Dispatch(bool* finished);
  void RunAndFinish(server::Workspace& workspace, server::CpuGate* gate);
  absl::Status ParseOnce();
  void FinishWith(absl::Status status);

  CallShell shell_;
  grpc::ByteBuffer* const request_bytes_;
  grpc::ByteBuffer* const response_bytes_;
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

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_UNARY_H_
