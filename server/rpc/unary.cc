#include "server/rpc/unary.h"

#include "engine/base/guarded.h"
#include "engine/base/status.h"

namespace gradwire::rpc {
namespace {

google::protobuf::ArenaOptions WithBlock(char* block, size_t bytes) {
  google::protobuf::ArenaOptions options;
  options.initial_block = block;
  options.initial_block_size = bytes;
  return options;
}

}  // namespace

// Quick calls need next to no memory, and their threads are shared by all servers of the process:
// so their workspaces draw on a small budget of their own.
server::Workspace& WorkspaceOfThisThread() {
  static auto& admission = *new server::Admission(int64_t{256} << 20);
  thread_local server::Workspace workspace(&admission, int64_t{4} << 20);
  return workspace;
}

UnaryCall::UnaryCall(const Environment& environment, const std::string& method,
                     grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                     grpc::ByteBuffer* response)
    : shell_(environment, method, context),
      // The buffer is this call's own; gRPC declares it const for handlers that only read it. It is
      // freed as soon as it is parsed.
      request_bytes_(const_cast<grpc::ByteBuffer*>(request)),
      response_bytes_(response),
      arena_(WithBlock(arena_block_, sizeof(arena_block_))) {}

void UnaryCall::Start() {
  if (!shell_.Enter()) return FinishWith(Draining());
  bool finished = false;
  const absl::Status status = Dispatch(&finished);
  if (!finished && !status.ok()) FinishWith(status);
}

absl::Status UnaryCall::Dispatch(bool* finished) {
  server::Call& call = shell_.call();
  const auto request_size = static_cast<int64_t>(request_bytes_->Length());
  shell_.CountRequest(request_size);
  GW_RETURN_IF_ERROR(call.memory.Grow(request_size, "the request"));
  if (request_size < kSmallRequestBytes) {
    GW_RETURN_IF_ERROR(ParseOnce());
    if (IsQuick(call)) {
      *finished = true;
      RunAndFinish(WorkspaceOfThisThread(), nullptr);
      return absl::OkStatus();
    }
  }
  server::Workers& workers = *shell_.environment().workers;
  return workers.Submit(
      [this, &workers](server::Workspace& workspace) { RunAndFinish(workspace, workers.gate()); });
}

absl::Status UnaryCall::ParseOnce() {
  if (std::exchange(parsed_, true)) return absl::OkStatus();
  return Parse(request_bytes_);
}

void UnaryCall::RunAndFinish(server::Workspace& workspace, server::CpuGate* gate) {
  server::Call& call = shell_.call();
  call.workspace = &workspace;
  call.gate = gate;
  absl::Status status = shell_.cancel().Poll();
  if (status.ok()) {
    status = Guarded([&]() -> absl::Status {
      GW_RETURN_IF_ERROR(ParseOnce());
      GW_RETURN_IF_ERROR(Run(call));
      return shell_.Serialize(response(), response_bytes_);
    });
  }
  workspace.Trim();
  FinishWith(std::move(status));
}

void UnaryCall::FinishWith(absl::Status status) {
  const grpc::Status wire = shell_.Conclude(std::move(status));
  // Freed before the caller hears of it, since its next request may follow at once.
  arena_.Reset();
  request_bytes_->Clear();
  shell_.call().memory.Release();
  Finish(wire);
}

void UnaryCall::OnDone() {
  shell_.Leave();
  delete this;
}

}  // namespace gradwire::rpc
