#include "server/rpc/streams.h"

#include "engine/base/guarded.h"

namespace gradwire::rpc {
namespace {

// What a stream takes of the budget as long as it is open: so their number is bounded.
constexpr int64_t kOpenStreamBytes = 16 << 10;

absl::Status CallerWentAway() { return absl::CancelledError("the caller went away"); }

}  // namespace

// ---- Stream.

Stream::Stream(const Environment& environment, const std::string& method,
               grpc::CallbackServerContext* context)
    : shell_(environment, method, context),
      link_(std::make_shared<Link>()),
      message_memory_(environment.admission) {
  absl::MutexLock lock(&link_->mutex);
  link_->stream = this;
}

void Stream::StartWith(int64_t request_bytes) {
  if (!shell_.Enter([link = link_] { LookAgain(link); })) return End(Draining());
  if (request_bytes > 0) shell_.CountRequest(request_bytes);
  absl::Status status = shell_.call().memory.Grow(kOpenStreamBytes + request_bytes, "the stream");
  if (status.ok()) {
    status = shell_.environment().workers->Submit(
        [this](server::Workspace& workspace) { Run(workspace); });
  }
  if (!status.ok()) End(status);
}

void Stream::Run(server::Workspace& workspace) {
  server::Call& call = shell_.call();
  call.workspace = &workspace;
  call.gate = shell_.environment().workers->gate();
  absl::Status status = Poll();
  if (status.ok()) status = Guarded([this] { return Step(); });
  if (!status.ok()) End(status);
}

absl::Status Stream::Resume() {
  const bool queued = shell_.environment().workers->Resume(
      [this](server::Workspace& workspace) { Run(workspace); });
  return queued ? absl::OkStatus() : Draining();
}

void Stream::GoOn() {
  const absl::Status status = Resume();
  if (!status.ok()) End(status);
}

absl::Status Stream::HoldMessage(int64_t bytes) {
  return message_memory_.Grow(bytes, "a message of the stream");
}

void Stream::DropMessage() {
  message_.Clear();
  message_memory_.Release();
}

void Stream::LookAgain(const std::shared_ptr<Link>& link) {
  Stream* stream;
  {
    absl::MutexLock lock(&link->mutex);
    stream = link->stream;
    if (stream == nullptr || !stream->EndsNow(*link)) return;
    link->state = State::kBusy;
  }
  stream->End(Draining());
}

void Stream::End(const absl::Status& status) {
  {
    absl::MutexLock lock(&link_->mutex);
    link_->state = State::kEnded;
  }
  Close();
  const grpc::Status wire = shell_.Conclude(status);
  // An outstanding read may still fill the message: OnDone frees that.
  message_memory_.Release();
  shell_.call().memory.Release();
  FinishRpc(wire);
}

void Stream::Leave() {
  {
    absl::MutexLock lock(&link_->mutex);
    link_->stream = nullptr;
  }
  shell_.Leave();
}

// ---- ServerStreamCall.

ServerStreamCall::ServerStreamCall(const Environment& environment, const std::string& method,
                                   grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request)
    : Stream(environment, method, context),
      // This call's own, as in UnaryCall.
      request_(const_cast<grpc::ByteBuffer*>(request)) {}

absl::Status ServerStreamCall::Step() {
  if (request_ != nullptr) {
    GW_RETURN_IF_ERROR(Open(std::exchange(request_, nullptr)));
  }
  GW_ASSIGN_OR_RETURN(const server::Next next, Pull());
  switch (next) {
    case server::Next::kMessage:
      return Write();
    case server::Next::kWait:
      return Wait();
    case server::Next::kEnd:
      End(absl::OkStatus());
      return absl::OkStatus();
  }
  return absl::InternalError("a source answered neither of the three");
}

absl::Status ServerStreamCall::Encode(const google::protobuf::Message& next) {
  GW_RETURN_IF_ERROR(HoldMessage(static_cast<int64_t>(next.ByteSizeLong())));
  return shell().Serialize(next, &message());
}

absl::Status ServerStreamCall::Write() {
  {
    absl::MutexLock lock(&link()->mutex);
    // Once the state has changed CancelAll looks for it.
    GW_RETURN_IF_ERROR(Poll());
    link()->state = State::kTransfer;
  }
  sent_metadata_ = true;
  StartWrite(&message());
  return absl::OkStatus();
}

absl::Status ServerStreamCall::Wait() {
  // Callers may want to know that the stream is open, before anything happens on it.
  if (!std::exchange(sent_metadata_, true)) StartSendInitialMetadata();
  OnReady([link = link()] { Wake(*link); });
  const std::shared_ptr<Link> link = this->link();
  absl::MutexLock lock(&link->mutex);
  GW_RETURN_IF_ERROR(Poll());
  if (draining()) return Draining();
  if (std::exchange(link->woken, false)) return Resume();
  link->state = State::kWaiting;
  return absl::OkStatus();
}

void ServerStreamCall::Wake(Link& link) {
  absl::MutexLock lock(&link.mutex);
  if (link.state == State::kBusy) link.woken = true;
  if (link.state != State::kWaiting) return;
  link.state = State::kBusy;
  // It fails when the workers have stopped, when gRPC is about to cancel what waits.
  if (!static_cast<ServerStreamCall*>(link.stream)->Resume().ok()) link.state = State::kWaiting;
}

bool ServerStreamCall::EndsNow(const Link& link) {
  // A reader that does not read would hold up the shutdown. Called by the thread that shuts down,
  // so that gRPC's reaction comes on another one, which may wait for the lock.
  if (link.state == State::kTransfer && shell().cancel().cancelled()) shell().context().TryCancel();
  return link.state == State::kWaiting;
}

void ServerStreamCall::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&link()->mutex);
    link()->state = State::kBusy;
  }
  DropMessage();
  if (ok) return GoOn();
  const absl::Status status = Poll();
  End(status.ok() ? CallerWentAway() : status);
}

void ServerStreamCall::OnCancel() {
  shell().cancel().Cancel();
  {
    absl::MutexLock lock(&link()->mutex);
    if (link()->state != State::kWaiting) return;
    link()->state = State::kBusy;
  }
  End(Poll());
}

void ServerStreamCall::OnDone() {
  Leave();
  delete this;
}

// ---- ClientStreamCall.

ClientStreamCall::ClientStreamCall(const Environment& environment, const std::string& method,
                                   grpc::CallbackServerContext* context, grpc::ByteBuffer* response)
    : Stream(environment, method, context), response_(response) {}

absl::Status ClientStreamCall::Step() {
  if (!std::exchange(opened_, true)) {
    GW_RETURN_IF_ERROR(Open());
    return Read();
  }
  if (has_all_) {
    // Looked at here and not in OnReadDone, after which gRPC often learns it.
    if (shell().context().IsCancelled()) return CallerWentAway();
    End(FinishSink(response_));
    return absl::OkStatus();
  }
  const absl::Status status = Push(&message());
  DropMessage();
  return status.ok() ? Read() : status;
}

absl::Status ClientStreamCall::Read() {
  const std::shared_ptr<Link> link = this->link();
  absl::MutexLock lock(&link->mutex);
  GW_RETURN_IF_ERROR(Poll());
  link->state = State::kTransfer;
  // Under the lock: once it is free CancelAll may finish the call, and nothing starts after that.
  StartRead(&message());
  return absl::OkStatus();
}

bool ClientStreamCall::EndsNow(const Link& link) {
  // A drain lets uploads go on.
  return link.state == State::kTransfer && shell().cancel().cancelled();
}

void ClientStreamCall::OnReadDone(bool ok) {
  {
    absl::MutexLock lock(&link()->mutex);
    if (link()->state == State::kEnded) return;
    link()->state = State::kBusy;
  }
  has_all_ = !ok;
  if (has_all_) return GoOn();
  const auto bytes = static_cast<int64_t>(message().Length());
  shell().CountRequest(bytes);
  const absl::Status status = HoldMessage(bytes);
  if (!status.ok()) return End(status);
  GoOn();
}

void ClientStreamCall::OnDone() {
  Leave();
  delete this;
}

}  // namespace gradwire::rpc
