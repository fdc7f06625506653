#include "client/compute_stream.h"

#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "client/connection.h"
#include "client/messages.h"
#include "engine/base/status.h"
#include "google/rpc/status.pb.h"
#include "proto/codec/status_codec.h"

namespace gradwire {
namespace {

absl::Status StatusOf(const v1::CallStatus& wire) {
  google::rpc::Status details;
  if (details.ParseFromString(wire.details())) return codec::FromRpcStatus(details);
  return absl::Status(static_cast<absl::StatusCode>(wire.code()), wire.message());
}

}  // namespace

class ComputeStream::State {
 public:
  // Gets the answer, or how the stream ended.
  using Taker = absl::AnyInvocable<void(absl::StatusOr<v1::StreamComputeResponse>)>;

  State(const Client& client, absl::Duration deadline) : connection_(client.connection()) {
    SetDeadline(absl::Now() + deadline, &context_);
    stream_ = connection_->gradients->StreamCompute(&context_);
    reader_ = std::thread([this] { Read(); });
  }
  ~State() {
    context_.TryCancel();
    Close().IgnoreError();
  }

  void Send(v1::StreamComputeRequest request, Taker taker) {
    absl::MutexLock lock(&writing_);
    if (closed_) return taker(absl::FailedPreconditionError("the stream is closed"));
    absl::Status end;
    {
      absl::MutexLock waiting(&mutex_);
      request.set_id(++last_id_);
      end = end_;
      if (end.ok()) waiting_.emplace(last_id_, std::move(taker));
    }
    if (!end.ok()) return taker(end);
    // Where it fails the stream has broken off, and the reader answers.
    stream_->Write(request);
  }

  absl::Status Close() {
    {
      absl::MutexLock lock(&writing_);
      if (!std::exchange(closed_, true)) stream_->WritesDone();
    }
    absl::MutexLock lock(&closing_);
    if (reader_.joinable()) reader_.join();
    return EndStatus();
  }

 private:
  void Read() {
    v1::StreamComputeResponse response;
    while (stream_->Read(&response)) {
      Taker taker;
      {
        absl::MutexLock lock(&mutex_);
        const auto found = waiting_.find(response.id());
        if (found == waiting_.end()) continue;
        taker = std::move(found->second);
        waiting_.erase(found);
      }
      taker(std::move(response));
    }
    const absl::Status status = ToStatus(stream_->Finish());
    absl::flat_hash_map<uint64_t, Taker> unanswered;
    {
      absl::MutexLock lock(&mutex_);
      end_ = status;
      unanswered.swap(waiting_);
    }
    for (auto& [id, taker] : unanswered) {
      taker(status.ok() ? absl::InternalError("the server left out an answer") : status);
    }
  }

  absl::Status EndStatus() {
    absl::MutexLock lock(&mutex_);
    return end_;
  }

  const std::shared_ptr<const Connection> connection_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamComputeRequest, v1::StreamComputeResponse>>
      stream_;
  absl::Mutex mutex_;
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, Taker> waiting_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex writing_ ABSL_ACQUIRED_BEFORE(mutex_);
  bool closed_ ABSL_GUARDED_BY(writing_) = false;
  absl::Mutex closing_;
  std::thread reader_;
};

namespace {

template <typename Result>
ComputeStream::Future<Result> Failed(const absl::Status& status) {
  std::promise<absl::StatusOr<Result>> promise;
  promise.set_value(status);
  return promise.get_future();
}

// Sends `request` as the call that `field` gives the place of, and reads the answer of `result`.
template <typename Result, typename Request, typename Response, typename State>
ComputeStream::Future<Result> Ask(State& state, absl::StatusOr<Request> request,
                                  Request* (v1::StreamComputeRequest::*field)(),
                                  const Response& (v1::StreamComputeResponse::*result)() const) {
  if (!request.ok()) return Failed<Result>(request.status());
  v1::StreamComputeRequest message;
  *(message.*field)() = *std::move(request);
  std::promise<absl::StatusOr<Result>> promise;
  auto future = promise.get_future();
  state.Send(std::move(message), [promise = std::move(promise), result](
                                     absl::StatusOr<v1::StreamComputeResponse> response) mutable {
    absl::Status status = response.status();
    if (status.ok() && response->has_status()) status = StatusOf(response->status());
    if (status.ok()) {
      promise.set_value(ResultOf(((*response).*result)()));
    } else {
      promise.set_value(status);
    }
  });
  return future;
}

}  // namespace

ComputeStream::ComputeStream(const Client& client, absl::Duration deadline)
    : state_(std::make_unique<State>(client, deadline)) {}

ComputeStream::~ComputeStream() = default;

absl::Status ComputeStream::Close() { return state_->Close(); }

using RequestProto = v1::StreamComputeRequest;
using ResponseProto = v1::StreamComputeResponse;

ComputeStream::Future<EvaluateResult> ComputeStream::Evaluate(const ModelSource& model,
                                                              const NamedTensors& inputs,
                                                              const EvaluateOptions& options) {
  return Ask<EvaluateResult>(*state_, RequestOf(model, inputs, options),
                             &RequestProto::mutable_evaluate, &ResponseProto::evaluate);
}

ComputeStream::Future<GradientResult> ComputeStream::Gradient(const ModelSource& model,
                                                              const NamedTensors& inputs,
                                                              const GradientOptions& options) {
  return Ask<GradientResult>(*state_, RequestOf(model, inputs, options),
                             &RequestProto::mutable_compute_gradient,
                             &ResponseProto::compute_gradient);
}

ComputeStream::Future<VjpResult> ComputeStream::Vjp(const ModelSource& model,
                                                    const NamedTensors& inputs,
                                                    const std::vector<NamedTensors>& cotangents,
                                                    const VjpOptions& options) {
  return Ask<VjpResult>(*state_, RequestOf(model, inputs, cotangents, options),
                        &RequestProto::mutable_compute_vjp, &ResponseProto::compute_vjp);
}

ComputeStream::Future<JvpResult> ComputeStream::Jvp(const ModelSource& model,
                                                    const NamedTensors& inputs,
                                                    const std::vector<NamedTensors>& tangents,
                                                    const JvpOptions& options) {
  return Ask<JvpResult>(*state_, RequestOf(model, inputs, tangents, options),
                        &RequestProto::mutable_compute_jvp, &ResponseProto::compute_jvp);
}

ComputeStream::Future<HvpResult> ComputeStream::Hvp(const ModelSource& model,
                                                    const NamedTensors& inputs,
                                                    const std::vector<NamedTensors>& vectors,
                                                    const HvpOptions& options) {
  return Ask<HvpResult>(*state_, RequestOf(model, inputs, vectors, options),
                        &RequestProto::mutable_compute_hvp, &ResponseProto::compute_hvp);
}

ComputeStream::Future<JacobianResult> ComputeStream::Jacobian(const ModelSource& model,
                                                              const NamedTensors& inputs,
                                                              const JacobianOptions& options) {
  return Ask<JacobianResult>(*state_, RequestOf(model, inputs, options),
                             &RequestProto::mutable_compute_jacobian,
                             &ResponseProto::compute_jacobian);
}

ComputeStream::Future<HessianResult> ComputeStream::Hessian(const ModelSource& model,
                                                            const NamedTensors& inputs,
                                                            const HessianOptions& options) {
  return Ask<HessianResult>(*state_, RequestOf(model, inputs, options),
                            &RequestProto::mutable_compute_hessian,
                            &ResponseProto::compute_hessian);
}

}  // namespace gradwire
