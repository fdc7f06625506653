#include "client/client.h"

#include <grpcpp/generic/generic_stub.h>

#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/connection.h"
#include "engine/base/status.h"
#include "proto/codec/tensor_codec.h"
#include "proto/codec/time_codec.h"

namespace gradwire {
namespace {

void SetOptions(const CallOptions& options, v1::ComputeOptions* out) {
  out->set_mode(static_cast<v1::ComputeOptions::Mode::Value>(options.mode));
  out->set_precision(static_cast<v1::ComputeOptions::Precision::Value>(options.precision));
  out->set_seed(options.seed);
  out->set_check_finite(options.check_finite);
  out->mutable_batch()->Assign(options.batch.begin(), options.batch.end());
}

using WireTensors = google::protobuf::Map<std::string, v1::Tensor>;

// A default-made Tensor has no type; DTYPE_UNSUPPORTED comes back from the server.
void SetTensors(const NamedTensors& tensors, WireTensors* out) {
  for (const auto& [name, tensor] : tensors) (*out)[name] = codec::ToProto(tensor);
}

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

std::vector<Choice> ChoicesOf(const google::protobuf::RepeatedPtrField<v1::Choice>& wire) {
  std::vector<Choice> out;
  for (const v1::Choice& choice : wire) {
    Choice& to = out.emplace_back(Choice{choice.name(), choice.doc(), {}});
    for (const v1::Setting& setting : choice.settings()) {
      to.settings.push_back({setting.name(), std::nullopt, setting.range()});
      if (setting.has_fallback()) to.settings.back().fallback = setting.fallback();
    }
  }
  return out;
}

ServerCapabilities CapabilitiesOf(const v1::Capabilities& wire) {
  ServerCapabilities out;
  for (const v1::OpCapability& op : wire.ops()) {
    SupportedOp& to = out.ops.emplace_back();
    to = {.domain = op.domain(),
          .name = op.name(),
          .first_opset = op.first_opset(),
          .last_opset = op.last_opset(),
          .dtypes = {},
          .value = op.value(),
          .vjp = op.vjp(),
          .jvp = op.jvp(),
          .doc = op.doc()};
    for (int dtype : op.data_types()) to.dtypes.push_back(DTypeFromOnnx(dtype));
  }
  const v1::Limits& limits = wire.limits();
  out.max_message_bytes = limits.max_message_bytes();
  out.memory_limit_bytes = limits.memory_limit_bytes();
  out.program_cache_bytes = limits.program_cache_bytes();
  out.max_nodes = limits.max_nodes();
  out.max_rank = limits.max_rank();
  out.min_opset = limits.min_opset();
  out.max_opset = limits.max_opset();
  out.engine_version = wire.versions().engine();
  out.onednn_version = wire.versions().onednn();
  out.grpc_version = wire.versions().grpc();
  out.protobuf_version = wire.versions().protobuf();
  out.cpu_isa = wire.cpu_isa();
  out.workers = wire.workers();
  out.threads = wire.threads();
  out.memory_only = wire.durability() == v1::MEMORY_ONLY;
  out.self_checks = wire.self_check().checks();
  for (const v1::DeclinedKernel& kernel : wire.self_check().declined()) {
    out.unused_kernels.push_back({kernel.provider(), kernel.kernel(), kernel.detail()});
  }
  out.losses = ChoicesOf(wire.losses());
  out.optimizers = ChoicesOf(wire.optimizers());
  out.schedules = ChoicesOf(wire.schedules());
  return out;
}

std::vector<GraphAnalysis::Value> ValuesOf(
    const google::protobuf::RepeatedPtrField<v1::ValueInfo>& wire) {
  std::vector<GraphAnalysis::Value> out;
  for (const v1::ValueInfo& info : wire) {
    GraphAnalysis::Value& value = out.emplace_back();
    value.name = info.name();
    value.dtype = DTypeFromOnnx(info.data_type());
    value.has_rank = info.has_rank();
    for (const v1::Dimension& dim : info.shape()) {
      value.shape.push_back(dim.has_extent()       ? absl::StrCat(dim.extent())
                            : dim.symbol().empty() ? "?"
                                                   : dim.symbol());
    }
  }
  return out;
}

GraphAnalysis::Cost CostOf(const v1::Cost& wire) {
  return {wire.flops(),       wire.peak_bytes(),   wire.moved_bytes(), wire.steps(),
          wire.input_bytes(), wire.output_bytes(), wire.nodes()};
}

GraphAnalysis AnalysisOf(const v1::AnalyzeGraphResponse& wire) {
  GraphAnalysis out;
  out.inputs = ValuesOf(wire.inputs());
  out.parameters = ValuesOf(wire.parameters());
  out.outputs = ValuesOf(wire.outputs());
  out.node_count = wire.node_count();
  for (const v1::OpUse& use : wire.ops()) {
    out.ops.push_back({use.domain(), use.name(), use.count(), use.supported()});
  }
  for (const v1::Issue& issue : wire.issues()) {
    out.issues.push_back({issue.reason(),
                          issue.where(),
                          issue.message(),
                          {issue.path().begin(), issue.path().end()}});
  }
  out.computable = wire.computable();
  out.differentiable = wire.differentiable();
  out.wrt.assign(wire.wrt().begin(), wire.wrt().end());
  out.value_cost = CostOf(wire.value_cost());
  out.gradient_cost = CostOf(wire.gradient_cost());
  out.graph_digest = wire.graph_digest();
  out.plan_digest = wire.plan_digest();
  return out;
}

// grpc.health.v1's two messages have one field each, numbered 1. Written by hand because gRPC's
// installed libraries have no public stub of them, and a second copy of that proto in a program
// would clash with the first.
grpc::ByteBuffer HealthRequest(absl::string_view service) {
  std::string bytes;
  if (!service.empty()) {
    bytes = '\x0a';
    uint64_t size = service.size();
    for (; size >= 0x80; size >>= 7) bytes += static_cast<char>(size | 0x80);
    bytes += static_cast<char>(size);
    bytes.append(service.data(), service.size());
  }
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

absl::StatusOr<ServingStatus> ReadHealthResponse(const grpc::ByteBuffer& response) {
  grpc::Slice slice;
  if (!response.DumpToSingleSlice(&slice).ok()) return absl::InternalError("no health response");
  const uint8_t* bytes = slice.begin();
  if (slice.size() == 0) return ServingStatus::kUnknown;
  if (slice.size() != 2 || bytes[0] != 0x08) {
    return absl::InternalError("the health response is malformed");
  }
  switch (bytes[1]) {
    case 1:
      return ServingStatus::kServing;
    case 2:
      return ServingStatus::kNotServing;
    default:
      return ServingStatus::kUnknown;
  }
}

}  // namespace

Client::Client(std::shared_ptr<const Connection> connection) : connection_(std::move(connection)) {}

Client Client::Connect(absl::string_view address) {
  return Client(std::make_shared<Connection>(address));
}

const std::string& Client::address() const { return connection_->address; }

absl::StatusOr<EvaluateResult> Client::Evaluate(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const EvaluateOptions& options) const {
  v1::EvaluateRequest request;
  v1::EvaluateResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  SetNames(options.outputs, request.mutable_outputs());
  GW_RETURN_IF_ERROR(Call(*connection_->gradients, &v1::GradientService::Stub::Evaluate, request,
                          options.call.deadline, &response));
  EvaluateResult result;
  GW_RETURN_IF_ERROR(ReadTensors(response.outputs(), &result.outputs));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<GradientResult> Client::Gradient(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const GradientOptions& options) const {
  v1::ComputeGradientRequest request;
  v1::ComputeGradientResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  SetNames(options.wrt, request.mutable_wrt());
  GW_RETURN_IF_ERROR(SetLoss(options.loss, &request));
  request.set_per_example(options.per_example);
  GW_RETURN_IF_ERROR(Call(*connection_->gradients, &v1::GradientService::Stub::ComputeGradient,
                          request, options.call.deadline, &response));
  GradientResult result;
  GW_ASSIGN_OR_RETURN(result.value, TensorOf(response.value(), "value"));
  GW_RETURN_IF_ERROR(ReadTensors(response.gradients(), &result.gradients));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<VjpResult> Client::Vjp(const ModelSource& model, const NamedTensors& inputs,
                                      const std::vector<NamedTensors>& cotangents,
                                      const VjpOptions& options) const {
  v1::ComputeVjpRequest request;
  v1::ComputeVjpResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  SetVectors(cotangents, request.mutable_cotangents());
  SetNames(options.wrt, request.mutable_wrt());
  GW_RETURN_IF_ERROR(Call(*connection_->gradients, &v1::GradientService::Stub::ComputeVjp, request,
                          options.call.deadline, &response));
  VjpResult result;
  GW_RETURN_IF_ERROR(ReadTensors(response.outputs(), &result.outputs));
  GW_RETURN_IF_ERROR(ReadVectors(response.gradients(), &result.gradients));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<JvpResult> Client::Jvp(const ModelSource& model, const NamedTensors& inputs,
                                      const std::vector<NamedTensors>& tangents,
                                      const JvpOptions& options) const {
  v1::ComputeJvpRequest request;
  v1::ComputeJvpResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  SetVectors(tangents, request.mutable_tangents());
  SetNames(options.outputs, request.mutable_outputs());
  GW_RETURN_IF_ERROR(Call(*connection_->gradients, &v1::GradientService::Stub::ComputeJvp, request,
                          options.call.deadline, &response));
  JvpResult result;
  GW_RETURN_IF_ERROR(ReadTensors(response.outputs(), &result.outputs));
  GW_RETURN_IF_ERROR(ReadVectors(response.tangents(), &result.tangents));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<HvpResult> Client::Hvp(const ModelSource& model, const NamedTensors& inputs,
                                      const std::vector<NamedTensors>& vectors,
                                      const HvpOptions& options) const {
  v1::ComputeHvpRequest request;
  v1::ComputeHvpResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  if (!options.cotangents.empty()) {
    SetTensors(options.cotangents, request.mutable_cotangents()->mutable_tensors());
  }
  SetVectors(vectors, request.mutable_vectors());
  SetNames(options.wrt, request.mutable_wrt());
  GW_RETURN_IF_ERROR(SetLoss(options.loss, &request));
  GW_RETURN_IF_ERROR(Call(*connection_->gradients, &v1::GradientService::Stub::ComputeHvp, request,
                          options.call.deadline, &response));
  HvpResult result;
  GW_ASSIGN_OR_RETURN(result.value, TensorOf(response.value(), "value"));
  GW_RETURN_IF_ERROR(ReadTensors(response.gradients(), &result.gradients));
  GW_RETURN_IF_ERROR(ReadVectors(response.products(), &result.products));
  result.info = InfoOf(response.info());
  return result;
}

absl::StatusOr<JacobianResult> Client::Jacobian(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const JacobianOptions& options) const {
  v1::ComputeJacobianRequest request;
  v1::ComputeJacobianResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  SetNames(options.outputs, request.mutable_outputs());
  SetNames(options.wrt, request.mutable_wrt());
  request.set_direction(
      static_cast<v1::ComputeJacobianRequest::Direction::Value>(options.direction));
  GW_RETURN_IF_ERROR(Call(*connection_->gradients, &v1::GradientService::Stub::ComputeJacobian,
                          request, options.call.deadline, &response));
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

absl::StatusOr<HessianResult> Client::Hessian(const ModelSource& model, const NamedTensors& inputs,
                                              const HessianOptions& options) const {
  v1::ComputeHessianRequest request;
  v1::ComputeHessianResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  if (!options.cotangents.empty()) {
    SetTensors(options.cotangents, request.mutable_cotangents()->mutable_tensors());
  }
  GW_RETURN_IF_ERROR(SetLoss(options.loss, &request));
  SetNames(options.wrt, request.mutable_wrt());
  GW_RETURN_IF_ERROR(Call(*connection_->gradients, &v1::GradientService::Stub::ComputeHessian,
                          request, options.call.deadline, &response));
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

absl::StatusOr<GraphAnalysis> Client::Analyze(const ModelSource& model, const NamedTensors& inputs,
                                              const AnalyzeOptions& options) const {
  v1::AnalyzeGraphRequest request;
  v1::AnalyzeGraphResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  SetNames(options.wrt, request.mutable_wrt());
  GW_RETURN_IF_ERROR(Call(*connection_->graphs, &v1::GraphService::Stub::AnalyzeGraph, request,
                          options.call.deadline, &response));
  return AnalysisOf(response);
}

absl::StatusOr<std::string> Client::KeepGraph(const ModelSource& model,
                                              absl::Duration deadline) const {
  GW_RETURN_IF_ERROR(model.status());
  v1::CreateGraphRequest request;
  v1::Graph response;
  *request.mutable_model() = ToProto(model);
  GW_RETURN_IF_ERROR(Call(*connection_->graphs, &v1::GraphService::Stub::CreateGraph, request,
                          deadline, &response));
  return response.name();
}

absl::Status Client::DeleteGraph(const std::string& name, absl::Duration deadline) const {
  v1::DeleteGraphRequest request;
  google::protobuf::Empty response;
  request.set_name(name);
  return Call(*connection_->graphs, &v1::GraphService::Stub::DeleteGraph, request, deadline,
              &response);
}

absl::StatusOr<ServerCapabilities> Client::Capabilities(absl::Duration deadline) const {
  v1::Capabilities response;
  GW_RETURN_IF_ERROR(Call(*connection_->server, &v1::ServerService::Stub::GetCapabilities,
                          v1::GetCapabilitiesRequest(), deadline, &response));
  return CapabilitiesOf(response);
}

absl::StatusOr<ServingStatus> Client::Health(absl::string_view service,
                                             absl::Duration deadline) const {
  grpc::ClientContext context;
  SetDeadline(absl::Now() + deadline, &context);
  const grpc::ByteBuffer request = HealthRequest(service);
  grpc::ByteBuffer response;
  grpc::Status status;
  absl::Notification done;
  grpc::GenericStub(connection_->channel)
      .UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status result) {
                   status = std::move(result);
                   done.Notify();
                 });
  done.WaitForNotification();
  GW_RETURN_IF_ERROR(ToStatus(status));
  return ReadHealthResponse(response);
}

}  // namespace gradwire
