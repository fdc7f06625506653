#include "server/rpc/exchange.h"

#include "engine/base/guarded.h"
#include "server/rpc/unary.h"

namespace gradwire::rpc {
namespace {

// What an exchange takes of the budget as long as it is open: so their number is bounded.
constexpr int64_t kOpenExchangeBytes = 64 << 10;

}  // namespace

ExchangeCall::ExchangeCall(const Environment& environment, const std::string& method,
                           grpc::CallbackServerContext* context)
    : shell_(environment, method, context), link_(std::make_shared<Link>()) {
  absl::MutexLock lock(&link_->mutex);
  link_->call = this;
}

void ExchangeCall::Start() {
  absl::Status status;
  if (!shell_.Enter([link = link_] { LookAgain(link); })) status = Draining();
  if (status.ok()) status = shell_.call().memory.Grow(kOpenExchangeBytes, "the stream");
  if (!status.ok()) Fail(status);
  Advance();
}

void ExchangeCall::OnReadDone(bool ok) {
  {
    absl::MutexLock lock(&link_->mutex);
    if (finished_) return;
    if (!ok) {
      reading_ = false;
      has_all_ = true;
    }
  }
  if (ok) {
    // The next message may be read by another thread before this returns, so nothing that belongs
    // to the reading is looked at after it.
    const absl::Status status = Take();
    if (!status.ok()) Fail(status);
  }
  Advance();
}

// Computes the message that has been read, or has a worker do it.
absl::Status ExchangeCall::Take() {
  const auto bytes = static_cast<int64_t>(incoming_.Length());
  shell_.CountRequest(bytes);
  server::Reservation memory(shell_.environment().admission);
  GW_RETURN_IF_ERROR(memory.Grow(bytes, "a message of the stream"));
  GW_ASSIGN_OR_RETURN(const std::shared_ptr<Item> item, Parse(&incoming_));
  incoming_.Clear();
  item->call.cancel = &shell_.cancel();
  item->call.memory = std::move(memory);
  {
    absl::MutexLock lock(&link_->mutex);
    ++running_;
    reading_ = false;
  }
  if (bytes < kSmallRequestBytes && item->IsQuick()) {
    RunItem(*item, WorkspaceOfThisThread(), nullptr);
    Complete(*item);
    return absl::OkStatus();
  }
  server::Workers& workers = *shell_.environment().workers;
  // Not a call of its own to the queue: how many there are of a stream is bounded.
  const bool queued = workers.Resume([this, item, &workers](server::Workspace& workspace) {
    RunItem(*item, workspace, workers.gate());
    Complete(*item);
  });
  if (queued) return absl::OkStatus();
  item->Refuse(Draining());
  Complete(*item);
  return absl::OkStatus();
}

void ExchangeCall::RunItem(Item& item, server::Workspace& workspace, server::CpuGate* gate) {
  item.call.workspace = &workspace;
  item.call.gate = gate;
  absl::Status status = shell_.cancel().Poll();
  if (status.ok()) {
    status = Guarded([&] {
      item.Run();
      return absl::OkStatus();
    });
  }
  workspace.Trim();
  if (!status.ok()) item.Refuse(status);
}

// The call may be gone after it, unless this is a reaction of gRPC.
void ExchangeCall::Complete(Item& item) {
  const std::shared_ptr<Link> link = link_;
  Answer answer;
  absl::Status status = shell_.Serialize(item.response(), &answer.bytes);
  if (!status.ok()) {
    item.Refuse(status);
    status = shell_.Serialize(item.response(), &answer.bytes);
  }
  answer.memory = std::move(item.call.memory);
  bool finish;
  {
    absl::MutexLock lock(&link->mutex);
    --running_;
    if (status.ok()) {
      answers_.push_back(std::move(answer));
    } else if (failure_.ok()) {
      failure_ = status;
    }
    finish = AdvanceLocked(*link);
  }
  if (finish) FinishRpc();
}

void ExchangeCall::Fail(const absl::Status& status) {
  absl::MutexLock lock(&link_->mutex);
  if (failure_.ok()) failure_ = status;
}

bool ExchangeCall::AdvanceLocked(const Link&) {
  if (finished_) return false;
  const bool is_over = !failure_.ok() || shell_.cancel().cancelled();
  if (is_over) answers_.clear();
  if (!writing_ && !answers_.empty()) {
    outgoing_ = std::move(answers_.front());
    answers_.pop_front();
    writing_ = true;
    grpc::WriteOptions options;
    if (!answers_.empty()) options.set_buffer_hint();
    StartWrite(&outgoing_.bytes, options);
  }
  const bool takes_more = !is_over && !has_all_ && !shell_.environment().in_flight->draining();
  if (!takes_more && running_ == 0 && !writing_) {
    finished_ = true;
    return true;
  }
  if (takes_more && !reading_ && running_ + answers_.size() + (writing_ ? 1 : 0) < kMaxHeldCalls) {
    reading_ = true;
    StartRead(&incoming_);
  }
  return false;
}

void ExchangeCall::Advance() {
  const std::shared_ptr<Link> link = link_;
  bool finish;
  {
    absl::MutexLock lock(&link->mutex);
    finish = AdvanceLocked(*link);
  }
  if (finish) FinishRpc();
}

void ExchangeCall::LookAgain(const std::shared_ptr<Link>& link) {
  ExchangeCall* call;
  {
    absl::MutexLock lock(&link->mutex);
    call = link->call;
    if (call == nullptr || !call->AdvanceLocked(*link)) return;
  }
  call->FinishRpc();
}

void ExchangeCall::FinishRpc() {
  absl::Status status = failure_;
  if (status.ok()) status = shell_.cancel().Poll();
  if (status.ok() && !has_all_) status = Draining();
  const grpc::Status wire = shell_.Conclude(status);
  shell_.call().memory.Release();
  Finish(wire);
}

void ExchangeCall::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&link_->mutex);
    writing_ = false;
    outgoing_.bytes.Clear();
    outgoing_.memory.Release();
    if (!ok && failure_.ok()) failure_ = absl::CancelledError("the caller went away");
  }
  Advance();
}

void ExchangeCall::OnCancel() {
  shell_.cancel().Cancel();
  Advance();
}

void ExchangeCall::OnDone() {
  {
    absl::MutexLock lock(&link_->mutex);
    link_->call = nullptr;
  }
  shell_.Leave();
  delete this;
}

}  // namespace gradwire::rpc
