#include "client/messages.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/tensor_codec.h"
#include "proto/codec/time_codec.h"

namespace gradwire {

void SetOptions(const CallOptions& options, v1::ComputeOptions* out) {
  out->set_mode(static_cast<v1::ComputeOptions::Mode::Value>(options.mode));
  out->set_precision(static_cast<v1::ComputeOptions::Precision::Value>(options.precision));
  out->set_seed(options.seed);
  out->set_check_finite(options.check_finite);
  out->mutable_batch()->Assign(options.batch.begin(), options.batch.end());
}

// A default-made Tensor has no type; DTYPE_UNSUPPORTED comes back from the server.
void SetTensors(const NamedTensors& tensors, google::protobuf::Map<std::string, v1::Tensor>* out) {
  for (const auto& [name, tensor] : tensors) (*out)[name] = codec::ToProto(tensor);
}

namespace {

using WireTensors = google::protobuf::Map<std::string, v1::Tensor>;

template <typename WireMaps>
void SetVectors(const std::vector<NamedTensors>& vectors, WireMaps* out) {
  for (const NamedTensors& vector : vectors) SetTensors(vector, out->Add()->mutable_tensors());
}

void SetNames(const std::vector<std::string>& names,
              google::protobuf::RepeatedPtrField<std::string>* out) {
  out->Assign(names.begin(), names.end());
}

// A reply that does not decode is the server's fault.
absl::StatusOr<Tensor> TensorOf(const v1::Tensor& wire, absl::string_view where) {
  std::vector<Tensor> owned;
  absl::StatusOr<TensorView> view = codec::ViewOf(wire, where, &owned);
  if (!view.ok()) {
    return absl::InternalError(absl::StrCat("the reply is malformed: ", view.status().message()));
  }
  if (!owned.empty()) return std::move(owned.front());
  GW_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Make(view->type()));
  if (view->bytes() > 0) std::memcpy(tensor.mutable_raw(), view->raw(), view->bytes());
  return tensor;
}

absl::Status ReadTensors(const WireTensors& wire, NamedTensors* out) {
  for (const auto& [name, tensor] : wire) {
    GW_ASSIGN_OR_RETURN((*out)[name], TensorOf(tensor, name));
  }
  return absl::OkStatus();
}

template <typename WireMaps>
absl::Status ReadVectors(const WireMaps& wire, std::vector<NamedTensors>* out) {
  for (const auto& map : wire) {
    GW_RETURN_IF_ERROR(ReadTensors(map.tensors(), &out->emplace_back()));
  }
  return absl::OkStatus();
}

CallInfo InfoOf(const v1::ComputeInfo& wire) {
  return {.graph_digest = wire.graph_digest(),
          .plan_digest = wire.plan_digest(),
          .cache_hit = wire.cache_hit(),
          .compile_time = codec::DurationOf(wire.compile_time()),
          .queue_time = codec::DurationOf(wire.queue_time()),
          .compute_time = codec::DurationOf(wire.compute_time()),
          .peak_bytes = wire.peak_bytes(),
          .flops = wire.flops(),
          .threads = wire.threads(),
          .engine_version = wire.engine_version(),
          .cpu_isa = wire.cpu_isa()};
}

template <typename Request>
absl::Status SetLoss(const std::optional<Loss>& loss, Request* request) {
  if (!loss) return absl::OkStatus();
  v1::Loss* out = request->mutable_loss();
  if (loss->graph) {
    GW_RETURN_IF_ERROR(loss->graph->status());
    *out->mutable_graph() = ToProto(*loss->graph);
  } else {
    out->set_named(loss->named);
  }
  if (loss->sum) out->set_reduction(v1::Loss::SUM);
  for (const auto& [name, value] : loss->parameters) (*out->mutable_parameters())[name] = value;
  if (!loss->weight.empty()) *out->mutable_weight() = codec::ToProto(loss->weight);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::EvaluateRequest> RequestOf(const ModelSource& model, const NamedTensors& inputs,
                                              const EvaluateOptions& options) {
  v1::EvaluateRequest request;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  SetNames(options.outputs, request.mutable_outputs());
  return request;
}

absl::StatusOr<v1::ComputeGradientRequest> RequestOf(const ModelSource& model,
                                                     const NamedTensors& inputs,
                                                     const GradientOptions& options) {
  v1::ComputeGradientRequest request;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  SetNames(options.wrt, request.mutable_wrt());
  GW_RETURN_IF_ERROR(SetLoss(options.loss, &request));
  request.set_per_example(options.per_example);
  return request;
}

absl::StatusOr<v1::ComputeVjpRequest> RequestOf(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const std::vector<NamedTensors>& cotangents,
                                                const VjpOptions& options) {
  v1::ComputeVjpRequest request;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  SetVectors(cotangents, request.mutable_cotangents());
  SetNames(options.wrt, request.mutable_wrt());
  return request;
}

absl::StatusOr<v1::ComputeJvpRequest> RequestOf(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const std::vector<NamedTensors>& tangents,
                                                const JvpOptions& options) {
  v1::ComputeJvpRequest request;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  SetVectors(tangents, request.mutable_tangents());
  SetNames(options.outputs, request.mutable_outputs());
  return request;
}

absl::StatusOr<v1::ComputeHvpRequest> RequestOf(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const std::vector<NamedTensors>& vectors,
                                                const HvpOptions& options) {
  v1::ComputeHvpRequest request;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  if (!options.cotangents.empty()) {
    SetTensors(options.cotangents, request.mutable_cotangents()->mutable_tensors());
  }
  SetVectors(vectors, request.mutable_vectors());
  SetNames(options.wrt, request.mutable_wrt());
  GW_RETURN_IF_ERROR(SetLoss(options.loss, &request));
  return request;
}

absl::StatusOr<v1::ComputeJacobianRequest> RequestOf(const ModelSource& model,
                                                     const NamedTensors& inputs,
                                                     const JacobianOptions& options) {
  v1::ComputeJacobianRequest request;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  SetNames(options.outputs, request.mutable_outputs());
  SetNames(options.wrt, request.mutable_wrt());
  request.set_direction(
      static_cast<v1::ComputeJacobianRequest::Direction::Value>(options.direction));
  return request;
}

absl::StatusOr<v1::ComputeHessianRequest> RequestOf(const ModelSource& model,
                                                    const NamedTensors& inputs,
                                                    const HessianOptions& options) {
  v1::ComputeHessianRequest request;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  if (!options.cotangents.empty()) {
    SetTensors(options.cotangents, request.mutable_cotangents()->mutable_tensors());
  }
  GW_RETURN_IF_ERROR(SetLoss(options.loss, &request));
  SetNames(options.wrt, request.mutable_wrt());
  return request;
}

absl::StatusOr<EvaluateResult> ResultOf(const v1::EvaluateResponse& response) {
  EvaluateResult result;
  GW_RETURN_IF_ERROR(ReadTensors(response.outputs(), &result.outputs));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<GradientResult> ResultOf(const v1::ComputeGradientResponse& response) {
  GradientResult result;
  GW_ASSIGN_OR_RETURN(result.value, TensorOf(response.value(), "value"));
  GW_RETURN_IF_ERROR(ReadTensors(response.gradients(), &result.gradients));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<VjpResult> ResultOf(const v1::ComputeVjpResponse& response) {
  VjpResult result;
  GW_RETURN_IF_ERROR(ReadTensors(response.outputs(), &result.outputs));
  GW_RETURN_IF_ERROR(ReadVectors(response.gradients(), &result.gradients));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<JvpResult> ResultOf(const v1::ComputeJvpResponse& response) {
  JvpResult result;
  GW_RETURN_IF_ERROR(ReadTensors(response.outputs(), &result.outputs));
  GW_RETURN_IF_ERROR(ReadVectors(response.tangents(), &result.tangents));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<HvpResult> ResultOf(const v1::ComputeHvpResponse& response) {
  HvpResult result;
  GW_ASSIGN_OR_RETURN(result.value, TensorOf(response.value(), "value"));
  GW_RETURN_IF_ERROR(ReadTensors(response.gradients(), &result.gradients));
  GW_RETURN_IF_ERROR(ReadVectors(response.products(), &result.products));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<JacobianResult> ResultOf(const v1::ComputeJacobianResponse& response) {
  JacobianResult result;
  GW_RETURN_IF_ERROR(ReadTensors(response.outputs(), &result.outputs));
  for (const v1::Jacobian& block : response.jacobians()) {
    GW_ASSIGN_OR_RETURN(Tensor values, TensorOf(block.jacobian(), block.output()));
    const int row_rank = result.outputs[block.output()].shape().rank();
    result.jacobians.push_back({block.output(), block.wrt(), std::move(values), row_rank});
  }
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<HessianResult> ResultOf(const v1::ComputeHessianResponse& response) {
  HessianResult result;
  GW_ASSIGN_OR_RETURN(result.value, TensorOf(response.value(), "value"));
  GW_RETURN_IF_ERROR(ReadTensors(response.gradients(), &result.gradients));
  for (const v1::Hessian& block : response.hessians()) {
    GW_ASSIGN_OR_RETURN(Tensor values, TensorOf(block.hessian(), block.row()));
    const int row_rank = result.gradients[block.row()].shape().rank();
    result.hessians.push_back({block.row(), block.column(), std::move(values), row_rank});
  }
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<v1::CheckGradientsRequest> RequestOf(const ModelSource& model,
                                                    const NamedTensors& inputs,
                                                    const CheckOptions& options) {
  v1::CheckGradientsRequest request;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  SetNames(options.wrt, request.mutable_wrt());
  GW_RETURN_IF_ERROR(SetLoss(options.loss, &request));
  request.set_directions(options.directions);
  request.set_step(options.step);
  return request;
}

absl::StatusOr<CheckResult> ResultOf(const v1::CheckGradientsResponse& response) {
  CheckResult result;
  result.passed = response.passed();
  for (const v1::GradientCheck& check : response.checks()) {
    result.worst.push_back({.wrt = check.wrt(),
                            .verdict = static_cast<CheckResult::Entry::Verdict>(check.verdict()),
                            .compared = check.compared(),
                            .is_direction = check.is_direction(),
                            .coordinates = {check.coordinates().begin(), check.coordinates().end()},
                            .analytic = check.analytic(),
                            .numeric = check.numeric(),
                            .error = check.error(),
                            .step = check.step()});
  }
  if (response.has_adjoint_error()) result.adjoint_error = response.adjoint_error();
  if (response.has_second_order_error()) {
    result.second_order_error = response.second_order_error();
  }
  GW_ASSIGN_OR_RETURN(result.value, TensorOf(response.value(), "value"));
  result.info = InfoOf(response.info());
  return result;
}

}  // namespace gradwire
