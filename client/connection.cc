#include "client/connection.h"

#include <grpc/grpc.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status.h"
#include "google/rpc/status.pb.h"
#include "proto/codec/status_codec.h"

namespace gradwire {
namespace {

constexpr char kDefaultAddress[] = "127.0.0.1:50051";

constexpr absl::Duration kFirstWait = absl::Milliseconds(100);
constexpr absl::Duration kLongestWait = absl::Seconds(5);

// The second entry takes the streams out: a try of AppendDataset would be kept in memory whole, to
// be repeated. It holds no healthCheckConfig: that crashes gRPC 1.51 at the first call.
constexpr char kServiceConfig[] = R"({"methodConfig": [
{"name": [{"service": "gradwire.v1.GradientService"}, {"service": "gradwire.v1.GraphService"},
          {"service": "gradwire.v1.ServerService"},
          {"service": "gradwire.v1.DatasetService"}, {"service": "gradwire.v1.TrainingService"}],
 "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s",
                 "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}},
{"name": [{"service": "gradwire.v1.DatasetService", "method": "AppendDataset"},
          {"service": "gradwire.v1.TrainingService", "method": "WatchTrainingJob"},
          {"service": "gradwire.v1.TrainingService", "method": "DownloadCheckpoint"},
          {"service": "gradwire.v1.TrainingService", "method": "ExportModel"}]}]})";

bool IsLocal(absl::string_view address) {
  for (absl::string_view prefix : {"127.", "localhost:", "[::1]", "unix:", "unix-abstract:"}) {
    if (absl::StartsWith(address, prefix)) return true;
  }
  return false;
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  // For good: where the last channel takes gRPC down, it may wait 10 s for its poller of a socket
  // that was full (1.51).
  static const int up = (grpc_init(), 0);
  static_cast<void>(up);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // the server's limit holds, in both directions
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetServiceConfigJSON(kServiceConfig);
  // Otherwise DNS could supply a service config of its own.
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  // Requests above 256 KiB, models for instance, would not be tried again otherwise.
  arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, std::numeric_limits<int>::max());
  // By default a server that was away for long is looked for every two minutes only.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  if (IsLocal(address)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

std::string AddressOrDefault(absl::string_view address) {
  if (!address.empty()) return std::string(address);
  const char* from_environment = std::getenv("GRADWIRE_SERVER");
  const bool is_set = from_environment != nullptr && *from_environment != '\0';
  return is_set ? from_environment : kDefaultAddress;
}

// A server that goes away in the middle of a stream may also leave it CANCELLED or UNKNOWN.
bool IsAway(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kUnavailable) return true;
  return ReasonNameOf(status).empty() && (status.code() == absl::StatusCode::kCancelled ||
                                          status.code() == absl::StatusCode::kUnknown);
}

}  // namespace

Connection::Connection(absl::string_view address)
    : address(AddressOrDefault(address)),
      channel(MakeChannel(this->address)),
      gradients(v1::GradientService::NewStub(channel)),
      graphs(v1::GraphService::NewStub(channel)),
      server(v1::ServerService::NewStub(channel)),
      datasets(v1::DatasetService::NewStub(channel)),
      training(v1::TrainingService::NewStub(channel)) {}

absl::Status ToStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details()) &&
      details.code() == static_cast<int>(status.error_code())) {
    return codec::FromRpcStatus(details);
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

void SetDeadline(absl::Time deadline, grpc::ClientContext* context) {
  // Later times overflow the clock.
  if (deadline > absl::Now() + absl::Hours(24 * 365 * 100)) return;
  context->set_deadline(absl::ToChronoTime(deadline));
}

v1::Model ToProto(const ModelSource& model) {
  v1::Model out;
  switch (model.form()) {
    case ModelSource::Form::kOnnx:
      out.set_onnx(model.content());
      break;
    case ModelSource::Form::kText:
      out.set_text(model.content());
      break;
    case ModelSource::Form::kFormula:
      out.set_expression(model.content());
      break;
    case ModelSource::Form::kKept:
      out.set_graph(model.content());
      break;
  }
  return out;
}

std::string NewRequestId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(random(), absl::kZeroPad8));
  return id;
}

Backoff::Backoff(const Patience& patience)
    : patience_(patience), deadline_(absl::Now() + patience.deadline), wait_(kFirstWait) {}

absl::Duration Backoff::time_left() const { return deadline_ - absl::Now(); }

void Backoff::NoteProgress() {
  outage_start_ = absl::InfiniteFuture();
  wait_ = kFirstWait;
}

bool Backoff::WaitAfter(absl::Status* status) {
  if (!IsAway(*status)) return false;
  const absl::Time now = absl::Now();
  outage_start_ = std::min(outage_start_, now);
  if (now + wait_ >= deadline_) {
    *status = absl::DeadlineExceededError(
        absl::StrCat("the deadline passes while the server is away: ", status->message()));
    return false;
  }
  if (now + wait_ > outage_start_ + patience_.outage) return false;
  if (patience_.on_outage) patience_.on_outage(*status);
  absl::SleepFor(wait_);
  wait_ = std::min(2 * wait_, kLongestWait);
  return true;
}

}  // namespace gradwire
