// File: service.h
//
// Service: a gRPC service of which each rpc is a row, a name and a method of a core. The method's
// type says what kind of rpc it is:
//
//   auto service = std::make_unique<Service>(&environment, "gradwire.v1.DatasetService");
//   service->Add("GetDataset", &core, &DatasetCore::GetDataset);        // unary:
//       absl::Status GetDataset(const v1::GetDatasetRequest&, v1::Dataset*, server::Call&);
//   service->Add("AppendDataset", &core, &DatasetCore::AppendDataset);  // client stream:
//       absl::StatusOr<std::unique_ptr<server::Sink<v1::AppendDatasetRequest, v1::Dataset>>>
//           AppendDataset(server::Call&);
//   service->Add("WatchTrainingJob", &core, &Core::WatchTrainingJob);   // server stream:
//       absl::StatusOr<std::unique_ptr<server::Source<v1::TrainingEvent>>>
//           WatchTrainingJob(const v1::WatchTrainingJobRequest&, server::Call&);
//
// The core of a unary rpc has `bool IsQuick(const Request&, server::Call&)` too: whether the call
// may run on the thread that received it.
//   service->AddExchange("StreamCompute", &core, &Core::StreamCompute);  // each message a call:
//       absl::Status StreamCompute(const v1::StreamComputeRequest&, v1::StreamComputeResponse*,
//                                  server::Call&);
//
// Every call is admitted by its bytes before they are parsed, counted in flight, cancelled by its
// caller or its deadline, ended with DRAINING when the server stops (waiting streams at once), and
// logged. Errors arrive as ToGrpc() makes them. Rows are added before the server starts, by one
// thread.
#ifndef GRADWIRE_SERVER_RPC_SERVICE_H_
#define GRADWIRE_SERVER_RPC_SERVICE_H_

#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/impl/service_type.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "server/core/stream.h"
#include "server/rpc/call_shell.h"
#include "server/rpc/exchange.h"
#include "server/rpc/streams.h"
#include "server/rpc/unary.h"

namespace gradwire::rpc {

class Service : public grpc::Service {
 public:
  // `environment` and the cores outlive the service. `name` is the service's full name.
  Service(const Environment* environment, std::string name)
      : environment_(*environment), name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  template <typename Core, typename Request, typename Response>
  void Add(const std::string& rpc, Core* core,
           absl::Status (Core::*method)(const Request&, Response*, server::Call&)) {
    const std::string& path = AddPath(rpc, grpc::internal::RpcMethod::NORMAL_RPC);
    SetHandler(new grpc::internal::CallbackUnaryHandler<Bytes, Bytes>(
        [=, this, &path](Context* context, const Bytes* request, Bytes* response) {
          return Started(new TypedUnaryCall<Core, Request, Response>(
              core, method, environment_, path, context, request, response));
        }));
  }

  template <typename Core, typename Request, typename Response>
  void AddExchange(const std::string& rpc, Core* core,
                   absl::Status (Core::*method)(const Request&, Response*, server::Call&)) {
    const std::string& path = AddPath(rpc, grpc::internal::RpcMethod::BIDI_STREAMING);
    SetHandler(
        new grpc::internal::CallbackBidiHandler<Bytes, Bytes>([=, this, &path](Context* context) {
          return Started(new TypedExchange<Core, Request, Response>(core, method, environment_,
                                                                    path, context));
        }));
  }

  template <typename Core, typename Request, typename Message>
  void Add(const std::string& rpc, Core* core,
           absl::StatusOr<std::unique_ptr<server::Source<Message>>> (Core::*method)(
               const Request&, server::Call&)) {
    const std::string& path = AddPath(rpc, grpc::internal::RpcMethod::SERVER_STREAMING);
    SetHandler(new grpc::internal::CallbackServerStreamingHandler<Bytes, Bytes>(
        [=, this, &path](Context* context, const Bytes* request) {
          return Started(new TypedServerStream<Core, Request, Message>(core, method, environment_,
                                                                       path, context, request));
        }));
  }

  template <typename Core, typename Request, typename Response>
  void Add(const std::string& rpc, Core* core,
           absl::StatusOr<std::unique_ptr<server::Sink<Request, Response>>> (Core::*method)(
               server::Call&)) {
    const std::string& path = AddPath(rpc, grpc::internal::RpcMethod::CLIENT_STREAMING);
    SetHandler(new grpc::internal::CallbackClientStreamingHandler<Bytes, Bytes>(
        [=, this, &path](Context* context, Bytes* response) {
          return Started(new TypedClientStream<Core, Request, Response>(core, method, environment_,
                                                                        path, context, response));
        }));
  }

 private:
  using Bytes = grpc::ByteBuffer;
  using Context = grpc::CallbackServerContext;

  // gRPC holds on to the call until the handler has returned, whatever happens to it meanwhile.
  template <typename Call>
  static Call* Started(Call* call) {
    call->Start();
    return call;
  }
  // "/service/rpc".
  const std::string& AddPath(const std::string& rpc, grpc::internal::RpcMethod::RpcType type);
  // Of the last path; takes the handler.
  void SetHandler(grpc::internal::MethodHandler* handler);

  const Environment& environment_;
  const std::string name_;
  std::deque<std::string> paths_;  // gRPC keeps pointers to them
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_SERVICE_H_
