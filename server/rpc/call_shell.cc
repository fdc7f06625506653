#include "server/rpc/call_shell.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "proto/codec/status_codec.h"
#include "server/rpc/log.h"
#include "server/rpc/wire.h"

namespace gradwire::rpc {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status wire = codec::ToRpcStatus(status);
  return grpc::Status(static_cast<grpc::StatusCode>(wire.code()), wire.message(),
                      wire.details().empty() ? "" : wire.SerializeAsString());
}

absl::Status Draining() {
  return Error(Reason::kDraining, "the server is shutting down: try another, or again");
}

CallShell::CallShell(const Environment& environment, const std::string& method,
                     grpc::CallbackServerContext* context)
    : environment_(environment),
      method_(method),
      context_(*context),
      cancel_(DeadlineOf(*context)) {
  call_.cancel = &cancel_;
  call_.memory = server::Reservation(environment.admission);
}

bool CallShell::Enter(std::function<void()> look_again) {
  entered_ = environment_.in_flight->Enter(&cancel_, std::move(look_again));
  return entered_;
}

void CallShell::Leave() {
  if (entered_) environment_.in_flight->Leave(&cancel_);
}

void CallShell::CountRequest(int64_t bytes) {
  ++requests_;
  request_bytes_ += bytes;
}

absl::Status CallShell::Serialize(const google::protobuf::Message& message,
                                  grpc::ByteBuffer* bytes) const {
  const auto size = static_cast<int64_t>(message.ByteSizeLong());
  if (size > environment_.max_message_bytes) {
    return Error(Reason::kResultTooLarge,
                 absl::StrCat("the reply has ", size, " bytes, the limit is ",
                              environment_.max_message_bytes));
  }
  return rpc::Serialize(message, bytes);
}

grpc::Status CallShell::Conclude(absl::Status status) {
  // Cancelled by us, not by the caller: it may try another server.
  if (absl::IsCancelled(status) && !context_.IsCancelled() && environment_.in_flight->draining()) {
    status = Draining();
  }
  Log(status);
  return ToGrpc(status);
}

void CallShell::Log(const absl::Status& status) const {
  const bool failed = status.code() == absl::StatusCode::kInternal;
  const LogLevel level = failed ? LogLevel::kError : LogLevel::kDebug;
  if (!LogEnabled(level)) return;
  rpc::Log(level, "call",
           {{"method", method_},
            {"code", absl::StatusCodeToString(status.code())},
            {"reason", ReasonNameOf(status)},
            {"message", failed ? status.message() : ""},
            {"queue_us", absl::ToInt64Microseconds(call_.queue_time)},
            {"compute_us", absl::ToInt64Microseconds(call_.compute_time)},
            {"total_us", absl::ToInt64Microseconds(absl::Now() - call_.arrival)},
            {"requests", requests_},
            {"request_bytes", request_bytes_},
            {"peer", context_.peer()}});
}

}  // namespace gradwire::rpc
