// File: gradient_core.h
//
// GradientCore: the rpcs of GradientService without their transport: protos in, protos out, an
// absl::Status with a reason. proto/gradwire/v1/gradient_service.proto says what each means.
//
//   GradientCore core(&engine, {.max_message_bytes = 64 << 20});
//   Call call;
//   call.workspace = &workspace;
//   call.memory = Reservation(&admission);
//   v1::ComputeGradientResponse reply;
//   absl::Status status = core.ComputeGradient(request, &reply, call);
//
// Each method computes on the calling thread. The request is read in place, and the results are
// written once, into the reply; after an error the reply is unspecified. Memory is reserved from
// `call.memory` and `call.workspace` before it is allocated.
// Errors: those of the .proto; INTERNAL is never the request's fault. No exception leaves a method.
// Thread-safety: every method may be called from any thread, each call with its own Call.
#ifndef GRADWIRE_SERVER_CORE_GRADIENT_CORE_H_
#define GRADWIRE_SERVER_CORE_GRADIENT_CORE_H_

#include "absl/status/status.h"
#include "engine/engine.h"
#include "gradwire/v1/gradient_service.pb.h"
#include "server/core/call.h"
#include "server/core/graph_store.h"
#include "server/core/quick_calls.h"

namespace gradwire::server {

class GradientCore {
 public:
  struct Options {
    int64_t max_message_bytes = int64_t{64} << 20;  // of a reply
    GraphStore* graphs = nullptr;                   // of models that are named; null: none
  };
  GradientCore(Engine* engine, const Options& options) : engine_(*engine), options_(options) {}

  absl::Status Evaluate(const v1::EvaluateRequest& request, v1::EvaluateResponse* response,
                        Call& call);
  absl::Status ComputeGradient(const v1::ComputeGradientRequest& request,
                               v1::ComputeGradientResponse* response, Call& call);
  absl::Status ComputeVjp(const v1::ComputeVjpRequest& request, v1::ComputeVjpResponse* response,
                          Call& call);
  absl::Status ComputeJvp(const v1::ComputeJvpRequest& request, v1::ComputeJvpResponse* response,
                          Call& call);
  absl::Status ComputeHvp(const v1::ComputeHvpRequest& request, v1::ComputeHvpResponse* response,
                          Call& call);
  absl::Status ComputeJacobian(const v1::ComputeJacobianRequest& request,
                               v1::ComputeJacobianResponse* response, Call& call);
  absl::Status ComputeHessian(const v1::ComputeHessianRequest& request,
                              v1::ComputeHessianResponse* response, Call& call);
  absl::Status CheckGradients(const v1::CheckGradientsRequest& request,
                              v1::CheckGradientsResponse* response, Call& call);
  // One message of the stream. Never an error: the response has the call's own status.
  absl::Status StreamCompute(const v1::StreamComputeRequest& request,
                             v1::StreamComputeResponse* response, Call& call);
  static void Refuse(const v1::StreamComputeRequest& request, const absl::Status& status,
                     v1::StreamComputeResponse* response);

  // True where the thread that received `request` may run it: see QuickCalls. Sets call.quick_key,
  // by which the call is remembered.
  template <typename Request>
  bool IsQuick(const Request& request, Call& call) const {
    call.quick_key = QuickKey(request);
    return call.quick_key != 0 && quick_calls_.Contains(call.quick_key);
  }
  bool IsQuick(const v1::StreamComputeRequest& request, Call& call) const;

 private:
  // Runs `fn` behind the one guard against exceptions, then remembers whether the call was quick.
  template <typename Request, typename Fn>
  absl::Status Compute(const Request& request, Call& call, const Fn& fn);

  Engine& engine_;
  const Options options_;
  QuickCalls quick_calls_;
};

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_GRADIENT_CORE_H_
