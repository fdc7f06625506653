// Requests and answers of GradientService, from and to the library's own types. Of the library
// only: not a public header.
#ifndef GRADWIRE_CLIENT_MESSAGES_H_
#define GRADWIRE_CLIENT_MESSAGES_H_

#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/connection.h"
#include "engine/base/status.h"
#include "gradwire/v1/gradient_service.pb.h"

namespace gradwire {

void SetTensors(const NamedTensors& tensors, google::protobuf::Map<std::string, v1::Tensor>* out);
void SetOptions(const CallOptions& options, v1::ComputeOptions* out);

// What all requests have in common.
template <typename Request>
absl::Status StartRequest(const ModelSource& model, const NamedTensors& inputs,
                          const CallOptions& options, Request* request) {
  GW_RETURN_IF_ERROR(model.status());
  *request->mutable_model() = ToProto(model);
  SetTensors(inputs, request->mutable_inputs());
  SetOptions(options, request->mutable_options());
  return absl::OkStatus();
}

absl::StatusOr<v1::EvaluateRequest> RequestOf(const ModelSource& model, const NamedTensors& inputs,
                                              const EvaluateOptions& options);
absl::StatusOr<v1::ComputeGradientRequest> RequestOf(const ModelSource& model,
                                                     const NamedTensors& inputs,
                                                     const GradientOptions& options);
absl::StatusOr<v1::ComputeVjpRequest> RequestOf(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const std::vector<NamedTensors>& cotangents,
                                                const VjpOptions& options);
absl::StatusOr<v1::ComputeJvpRequest> RequestOf(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const std::vector<NamedTensors>& tangents,
                                                const JvpOptions& options);
absl::StatusOr<v1::ComputeHvpRequest> RequestOf(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const std::vector<NamedTensors>& vectors,
                                                const HvpOptions& options);
absl::StatusOr<v1::ComputeJacobianRequest> RequestOf(const ModelSource& model,
                                                     const NamedTensors& inputs,
                                                     const JacobianOptions& options);
absl::StatusOr<v1::ComputeHessianRequest> RequestOf(const ModelSource& model,
                                                    const NamedTensors& inputs,
                                                    const HessianOptions& options);
absl::StatusOr<v1::CheckGradientsRequest> RequestOf(const ModelSource& model,
                                                    const NamedTensors& inputs,
                                                    const CheckOptions& options);

// INTERNAL for an answer that does not decode: it is the server's fault.
absl::StatusOr<EvaluateResult> ResultOf(const v1::EvaluateResponse& response);
absl::StatusOr<GradientResult> ResultOf(const v1::ComputeGradientResponse& response);
absl::StatusOr<VjpResult> ResultOf(const v1::ComputeVjpResponse& response);
absl::StatusOr<JvpResult> ResultOf(const v1::ComputeJvpResponse& response);
absl::StatusOr<HvpResult> ResultOf(const v1::ComputeHvpResponse& response);
absl::StatusOr<JacobianResult> ResultOf(const v1::ComputeJacobianResponse& response);
absl::StatusOr<HessianResult> ResultOf(const v1::ComputeHessianResponse& response);
absl::StatusOr<CheckResult> ResultOf(const v1::CheckGradientsResponse& response);

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_MESSAGES_H_
