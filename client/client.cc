#include "client/client.h"

#include <grpcpp/generic/generic_stub.h>

#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/connection.h"
#include "client/messages.h"
#include "engine/base/status.h"
#include "proto/codec/time_codec.h"

namespace gradwire {
namespace {

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

// A call of GradientService, in the library's own types.
template <typename Stub, typename Request, typename Response>
auto Compute(Stub& stub,
             grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
             const absl::StatusOr<Request>& request, absl::Duration deadline)
    -> decltype(ResultOf(Response())) {
  GW_RETURN_IF_ERROR(request.status());
  Response response;
  GW_RETURN_IF_ERROR(Call(stub, method, *request, deadline, &response));
  return ResultOf(response);
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
  return Compute(*connection_->gradients, &v1::GradientService::Stub::Evaluate,
                 RequestOf(model, inputs, options), options.call.deadline);
}

absl::StatusOr<GradientResult> Client::Gradient(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const GradientOptions& options) const {
  return Compute(*connection_->gradients, &v1::GradientService::Stub::ComputeGradient,
                 RequestOf(model, inputs, options), options.call.deadline);
}

absl::StatusOr<VjpResult> Client::Vjp(const ModelSource& model, const NamedTensors& inputs,
                                      const std::vector<NamedTensors>& cotangents,
                                      const VjpOptions& options) const {
  return Compute(*connection_->gradients, &v1::GradientService::Stub::ComputeVjp,
                 RequestOf(model, inputs, cotangents, options), options.call.deadline);
}

absl::StatusOr<JvpResult> Client::Jvp(const ModelSource& model, const NamedTensors& inputs,
                                      const std::vector<NamedTensors>& tangents,
                                      const JvpOptions& options) const {
  return Compute(*connection_->gradients, &v1::GradientService::Stub::ComputeJvp,
                 RequestOf(model, inputs, tangents, options), options.call.deadline);
}

absl::StatusOr<HvpResult> Client::Hvp(const ModelSource& model, const NamedTensors& inputs,
                                      const std::vector<NamedTensors>& vectors,
                                      const HvpOptions& options) const {
  return Compute(*connection_->gradients, &v1::GradientService::Stub::ComputeHvp,
                 RequestOf(model, inputs, vectors, options), options.call.deadline);
}

absl::StatusOr<JacobianResult> Client::Jacobian(const ModelSource& model,
                                                const NamedTensors& inputs,
                                                const JacobianOptions& options) const {
  return Compute(*connection_->gradients, &v1::GradientService::Stub::ComputeJacobian,
                 RequestOf(model, inputs, options), options.call.deadline);
}

absl::StatusOr<HessianResult> Client::Hessian(const ModelSource& model, const NamedTensors& inputs,
                                              const HessianOptions& options) const {
  return Compute(*connection_->gradients, &v1::GradientService::Stub::ComputeHessian,
                 RequestOf(model, inputs, options), options.call.deadline);
}

absl::StatusOr<CheckResult> Client::Check(const ModelSource& model, const NamedTensors& inputs,
                                          const CheckOptions& options) const {
  return Compute(*connection_->gradients, &v1::GradientService::Stub::CheckGradients,
                 RequestOf(model, inputs, options), options.call.deadline);
}

absl::StatusOr<GraphAnalysis> Client::Analyze(const ModelSource& model, const NamedTensors& inputs,
                                              const AnalyzeOptions& options) const {
  v1::AnalyzeGraphRequest request;
  v1::AnalyzeGraphResponse response;
  GW_RETURN_IF_ERROR(StartRequest(model, inputs, options.call, &request));
  request.set_output(options.output);
  request.mutable_wrt()->Assign(options.wrt.begin(), options.wrt.end());
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
