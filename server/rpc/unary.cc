#include "server/rpc/unary.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/status_codec.h"
#include "server/rpc/log.h"

namespace gradwire::rpc {
namespace {

// Larger requests are left to a worker unread.
constexpr int64_t kSmallRequestBytes = 16 << 10;

// Quick calls need next to no memory, and their threads are shared by all servers of the process:
// so their workspaces draw on a small budget of their own.
server::Workspace& WorkspaceOfThisThread() {
  static auto& admission = *new server::Admission(int64_t{256} << 20);
  thread_local server::Workspace workspace(&admission, int64_t{4} << 20);
  return workspace;
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

google::protobuf::ArenaOptions WithBlock(char* block, size_t bytes) {
  google::protobuf::ArenaOptions options;
  options.initial_block = block;
  options.initial_block_size = bytes;
  return options;
}

absl::Status Draining() {
  return Error(Reason::kDraining, "the server is shutting down: try another, or again");
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status wire = codec::ToRpcStatus(status);
  return grpc::Status(static_cast<grpc::StatusCode>(wire.code()), wire.message(),
                      wire.details().empty() ? "" : wire.SerializeAsString());
}

UnaryCall::UnaryCall(const Environment& environment, const std::string& method,
                     grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                     grpc::ByteBuffer* response)
    : environment_(environment),
      method_(method),
      context_(context),
      // The buffer is this call's own; gRPC declares it const for handlers that only read it. It is
      // freed as soon as it is parsed.
      request_bytes_(const_cast<grpc::ByteBuffer*>(request)),
      response_bytes_(response),
      request_size_(static_cast<int64_t>(request->Length())),
      cancel_(DeadlineOf(*context)),
      arena_(WithBlock(arena_block_, sizeof(arena_block_))) {
  call_.cancel = &cancel_;
  call_.memory = server::Reservation(environment.admission);
}

void UnaryCall::Start() {
  entered_ = environment_.in_flight->Enter(&cancel_);
  if (!entered_) return FinishWith(Draining());
  bool finished = false;
  const absl::Status status = Dispatch(&finished);
  if (!finished && !status.ok()) FinishWith(status);
}

absl::Status UnaryCall::Dispatch(bool* finished) {
  GW_RETURN_IF_ERROR(call_.memory.Grow(request_size_, "the request"));
  if (request_size_ < kSmallRequestBytes) {
    GW_RETURN_IF_ERROR(ParseOnce());
    if (IsQuick(call_)) {
      *finished = true;
      RunAndFinish(WorkspaceOfThisThread(), nullptr);
      return absl::OkStatus();
    }
  }
  server::Workers& workers = *environment_.workers;
  return workers.Submit(
      [this, &workers](server::Workspace& workspace) { RunAndFinish(workspace, workers.gate()); });
}

absl::Status UnaryCall::ParseOnce() {
  if (std::exchange(parsed_, true)) return absl::OkStatus();
  return Parse(request_bytes_);
}

void UnaryCall::RunAndFinish(server::Workspace& workspace, server::CpuGate* gate) {
  call_.workspace = &workspace;
  call_.gate = gate;
  absl::Status status = cancel_.Poll();
  if (status.ok()) status = ParseOnce();
  if (status.ok()) status = Run(call_);
  if (status.ok()) status = SerializeResponse();
  workspace.Trim();
  FinishWith(std::move(status));
}

absl::Status UnaryCall::SerializeResponse() {
  const auto size = static_cast<int64_t>(response().ByteSizeLong());
  if (size > environment_.max_message_bytes) {
    return Error(Reason::kResultTooLarge,
                 absl::StrCat("the reply has ", size, " bytes, the limit is ",
                              environment_.max_message_bytes));
  }
  return Serialize(response(), response_bytes_);
}

void UnaryCall::FinishWith(absl::Status status) {
  // Cancelled by us, not by the caller: it may try another server.
  if (absl::IsCancelled(status) && !context_->IsCancelled() && environment_.in_flight->draining()) {
    status = Draining();
  }
  LogCall(status);
  // Freed before the caller hears of it, since its next request may follow at once.
  arena_.Reset();
  request_bytes_->Clear();
  call_.memory.Release();
  Finish(ToGrpc(status));
}

void UnaryCall::OnDone() {
  InFlight* in_flight = environment_.in_flight;
  const bool entered = entered_;
  CancelToken* token = &cancel_;
  if (entered) in_flight->Leave(token);
  delete this;
}

void UnaryCall::LogCall(const absl::Status& status) const {
  const bool failed = status.code() == absl::StatusCode::kInternal;
  const LogLevel level = failed ? LogLevel::kError : LogLevel::kDebug;
  if (!LogEnabled(level)) return;
  Log(level, "call",
      {{"method", method_},
       {"code", absl::StatusCodeToString(status.code())},
       {"reason", ReasonNameOf(status)},
       {"message", failed ? status.message() : ""},
       {"queue_us", absl::ToInt64Microseconds(call_.queue_time)},
       {"compute_us", absl::ToInt64Microseconds(call_.compute_time)},
       {"total_us", absl::ToInt64Microseconds(absl::Now() - call_.arrival)},
       {"request_bytes", request_size_},
       {"peer", context_->peer()}});
}

void UnaryService::AddHandler(const std::string& rpc, MakeCall make) {
  const std::string& method = methods_.emplace_back(absl::StrCat("/", name_, "/", rpc));
  const int index = static_cast<int>(methods_.size()) - 1;
  AddMethod(new grpc::internal::RpcServiceMethod(method.c_str(),
                                                 grpc::internal::RpcMethod::NORMAL_RPC, nullptr));
  MarkMethodRawCallback(
      index, new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
                 [this, &method, make = std::move(make)](
                     grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                     grpc::ByteBuffer* response) -> grpc::ServerUnaryReactor* {
                   UnaryCall* call = make(environment_, method, context, request, response);
                   call->Start();
                   return call;
                 }));
}

}  // namespace gradwire::rpc
