// File: compute_stream.h
//
// ComputeStream: many computations under way on one stream, for the inner loops of samplers and
// optimisers: each costs a fraction of a call (Client).
//
//   ComputeStream stream(client);
//   auto a = stream.Gradient(model, {{"x", 1}});
//   auto b = stream.Gradient(model, {{"x", 2}});
//   absl::StatusOr<GradientResult> result = a.get();   // b is computed meanwhile
//   ...
//   GW_RETURN_IF_ERROR(stream.Close());
//
// Every method gives a future at once, and what it gives is what Client's method of that name
// would: a computation fails alone. When the stream breaks off (UNAVAILABLE, DEADLINE_EXCEEDED), so
// does everything without an answer; nothing is tried again. `call.deadline` of the options is not
// looked at: the stream's own holds for all.
//
// Cost: sending waits while the server has 64 calls of the stream under way. Large models are best
// kept on the server first (Client::KeepGraph). Thread-safety: all methods may be called from any
// thread; the destructor by one, after them. It closes the stream and drops what has no answer.
#ifndef GRADWIRE_CLIENT_COMPUTE_STREAM_H_
#define GRADWIRE_CLIENT_COMPUTE_STREAM_H_

#include <future>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"

namespace gradwire {

class ComputeStream {
 public:
  template <typename Result>
  using Future = std::future<absl::StatusOr<Result>>;

  explicit ComputeStream(const Client& client, absl::Duration deadline = absl::InfiniteDuration());
  ~ComputeStream();

  Future<EvaluateResult> Evaluate(const ModelSource& model, const NamedTensors& inputs,
                                  const EvaluateOptions& options = {});
  Future<GradientResult> Gradient(const ModelSource& model, const NamedTensors& inputs,
                                  const GradientOptions& options = {});
  Future<VjpResult> Vjp(const ModelSource& model, const NamedTensors& inputs,
                        const std::vector<NamedTensors>& cotangents,
                        const VjpOptions& options = {});
  Future<JvpResult> Jvp(const ModelSource& model, const NamedTensors& inputs,
                        const std::vector<NamedTensors>& tangents, const JvpOptions& options = {});
  Future<HvpResult> Hvp(const ModelSource& model, const NamedTensors& inputs,
                        const std::vector<NamedTensors>& vectors, const HvpOptions& options = {});
  Future<JacobianResult> Jacobian(const ModelSource& model, const NamedTensors& inputs,
                                  const JacobianOptions& options = {});
  Future<HessianResult> Hessian(const ModelSource& model, const NamedTensors& inputs,
                                const HessianOptions& options = {});

  // Waits for all answers, and gives how the stream ended. What is asked for later fails.
  absl::Status Close();

 private:
  class State;
  const std::unique_ptr<State> state_;
};

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_COMPUTE_STREAM_H_
