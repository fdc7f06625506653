#include "server/core/gradient_core.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/status_codec.h"
#include "server/core/gradient_checker.h"
#include "server/core/pipeline.h"

namespace gradwire::server {
namespace {

// A call of a quick kind that took longer than this all the same goes to a worker the next time.
constexpr absl::Duration kNoLongerQuick = absl::Milliseconds(2);

// The names, each once, in order: a reply has one entry a name.
std::vector<std::string> Unique(const google::protobuf::RepeatedPtrField<std::string>& names) {
  std::vector<std::string> out(names.begin(), names.end());
  if (out.size() < 2) return out;
  absl::flat_hash_set<std::string> seen;
  const auto repeated = [&seen](const std::string& name) { return !seen.insert(name).second; };
  out.erase(std::remove_if(out.begin(), out.end(), repeated), out.end());
  return out;
}

std::vector<std::string> NameOrDefault(const std::string& name) {
  return name.empty() ? std::vector<std::string>{} : std::vector<std::string>{name};
}

// What is differentiated: the loss, where the request has one.
template <typename Request>
std::vector<std::string> ScalarOf(const Request& request) {
  return request.has_loss() ? std::vector<std::string>{kLossOutput}
                            : NameOrDefault(request.output());
}
template <typename Request>
const v1::Loss* LossOf(const Request& request) {
  return request.has_loss() ? &request.loss() : nullptr;
}

// Where the scalar of second-order requests comes from.
template <typename Request>
absl::Status CheckScalarOf(const Request& request) {
  Problems problems;
  if (request.has_cotangents() && !request.output().empty()) {
    problems.Add(Reason::kInvalidSpec, "output",
                 "output and cotangents are both set: expected one of them");
  }
  if (request.has_cotangents() && request.has_loss()) {
    problems.Add(Reason::kInvalidSpec, "loss",
                 "loss and cotangents are both set: expected one of them");
  }
  return problems.ToStatus();
}

// Tangents belong to inputs and initialisers; other names are known to the model too, but a tangent
// there would contradict the value that the graph computes.
absl::Status CheckTangentNames(const Pipeline& p, const std::vector<std::string>& names) {
  const Model& model = p.model();
  absl::flat_hash_set<ModelValue> known;
  for (const ModelInput& input : model.inputs) known.insert(input.value);
  for (const ModelInitializer& init : model.initializers) known.insert(init.value);
  std::vector<std::string> good;
  for (const std::string& name : names) {
    if (known.contains(model.FindValue(name))) good.push_back(name);
  }
  return p.CheckVectorNames(good, Reason::kUnknownInput);
}

template <typename Repeated>
void AddEmpty(int count, Repeated* to) {
  to->Reserve(count);
  for (int k = 0; k < count; ++k) to->Add();
}

}  // namespace

template <typename Request, typename Fn>
absl::Status GradientCore::Compute(const Request& request, Call& call, const Fn& fn) {
  const absl::Time start = absl::Now();
  Pipeline pipeline(engine_, options_.graphs, options_.max_message_bytes, call, PartsOf(request));
  GW_RETURN_IF_ERROR(fn(pipeline));
  if (call.quick_key != 0) {
    const bool slow_here = call.gate == nullptr && absl::Now() - start > kNoLongerQuick;
    if (pipeline.quick() && !slow_here) {
      quick_calls_.Add(call.quick_key);
    } else {
      quick_calls_.Remove(call.quick_key);
    }
  }
  return absl::OkStatus();
}

absl::Status GradientCore::Evaluate(const v1::EvaluateRequest& request,
                                    v1::EvaluateResponse* response, Call& call) {
  return Compute(request, call, [&](Pipeline& p) -> absl::Status {
    GW_RETURN_IF_ERROR(p.Load());
    GW_RETURN_IF_ERROR(
        p.Prepare({.kind = Computation::kValue, .outputs = Unique(request.outputs()), .wrt = {}}));
    return p.Run(
        [&](Role, const std::string& name, int) { return &(*response->mutable_outputs())[name]; },
        response->mutable_info());
  });
}

absl::Status GradientCore::ComputeGradient(const v1::ComputeGradientRequest& request,
                                           v1::ComputeGradientResponse* response, Call& call) {
  return Compute(request, call, [&](Pipeline& p) -> absl::Status {
    if (request.per_example()) p.SplitRows();
    GW_RETURN_IF_ERROR(p.Load(LossOf(request), request.output()));
    GW_RETURN_IF_ERROR(p.Prepare({.kind = Computation::kGradient,
                                  .outputs = ScalarOf(request),
                                  .wrt = Unique(request.wrt())}));
    return p.Run(
        [&](Role role, const std::string& name, int) {
          return role == Role::kGradient ? &(*response->mutable_gradients())[name]
                                         : response->mutable_value();
        },
        response->mutable_info());
  });
}

absl::Status GradientCore::ComputeVjp(const v1::ComputeVjpRequest& request,
                                      v1::ComputeVjpResponse* response, Call& call) {
  return Compute(request, call, [&](Pipeline& p) -> absl::Status {
    p.AddVectors("cotangents", request.cotangents());
    GW_RETURN_IF_ERROR(p.Load());
    GW_RETURN_IF_ERROR(
        p.Prepare({.kind = Computation::kVjp, .outputs = {}, .wrt = Unique(request.wrt())}));
    GW_RETURN_IF_ERROR(p.CheckVectorNames(p.prepared().outputs, Reason::kUnknownOutput));
    AddEmpty(request.cotangents_size(), response->mutable_gradients());
    return p.Run(
        [&](Role role, const std::string& name, int k) {
          return role == Role::kGradient
                     ? &(*response->mutable_gradients(k)->mutable_tensors())[name]
                     : &(*response->mutable_outputs())[name];
        },
        response->mutable_info());
  });
}

absl::Status GradientCore::ComputeJvp(const v1::ComputeJvpRequest& request,
                                      v1::ComputeJvpResponse* response, Call& call) {
  return Compute(request, call, [&](Pipeline& p) -> absl::Status {
    p.AddVectors("tangents", request.tangents());
    GW_RETURN_IF_ERROR(p.Load());
    const std::vector<std::string> names = p.NamesOfVectors();
    GW_RETURN_IF_ERROR(CheckTangentNames(p, names));
    GW_RETURN_IF_ERROR(
        p.Prepare({.kind = Computation::kJvp, .outputs = Unique(request.outputs()), .wrt = names}));
    AddEmpty(request.tangents_size(), response->mutable_tangents());
    return p.Run(
        [&](Role role, const std::string& name, int k) {
          return role == Role::kTangent ? &(*response->mutable_tangents(k)->mutable_tensors())[name]
                                        : &(*response->mutable_outputs())[name];
        },
        response->mutable_info());
  });
}

absl::Status GradientCore::ComputeHvp(const v1::ComputeHvpRequest& request,
                                      v1::ComputeHvpResponse* response, Call& call) {
  return Compute(request, call, [&](Pipeline& p) -> absl::Status {
    const bool of_cotangents = request.has_cotangents();
    GW_RETURN_IF_ERROR(CheckScalarOf(request));
    p.AddVectors("vectors", request.vectors());
    if (of_cotangents) p.AddSharedCotangents(request.cotangents());
    GW_RETURN_IF_ERROR(p.Load(LossOf(request), request.output()));
    GW_RETURN_IF_ERROR(p.Prepare({.kind = Computation::kHvp,
                                  .outputs = ScalarOf(request),
                                  .wrt = Unique(request.wrt()),
                                  .hvp_of_cotangents = of_cotangents}));
    GW_RETURN_IF_ERROR(p.CheckVectorNames(p.prepared().wrt, Reason::kUnknownWrt));
    GW_RETURN_IF_ERROR(p.CheckSharedCotangentNames());
    AddEmpty(request.vectors_size(), response->mutable_products());
    GW_RETURN_IF_ERROR(p.Run(
        [&](Role role, const std::string& name, int k) {
          switch (role) {
            case Role::kProduct:
              return &(*response->mutable_products(k)->mutable_tensors())[name];
            case Role::kGradient:
              return &(*response->mutable_gradients())[name];
            default:
              return response->mutable_value();
          }
        },
        response->mutable_info()));
    if (of_cotangents) *response->mutable_value() = p.SharedCotangentSum();
    return absl::OkStatus();
  });
}

absl::Status GradientCore::ComputeJacobian(const v1::ComputeJacobianRequest& request,
                                           v1::ComputeJacobianResponse* response, Call& call) {
  return Compute(request, call, [&](Pipeline& p) -> absl::Status {
    using Direction = v1::ComputeJacobianRequest::Direction;
    if (!Direction::Value_IsValid(request.direction())) {
      return Error(Reason::kInvalidSpec,
                   absl::StrCat("direction: got ", static_cast<int>(request.direction()),
                                ", expected AUTO, FORWARD or REVERSE"));
    }
    GW_RETURN_IF_ERROR(p.Load());
    GW_RETURN_IF_ERROR(
        p.Prepare({.kind = Computation::kJacobian,
                   .outputs = Unique(request.outputs()),
                   .wrt = Unique(request.wrt()),
                   .direction = static_cast<Computation::Direction>(request.direction())}));
    return p.RunBasis(
        [&](const std::string& row, const std::string& column) {
          v1::Jacobian* block = response->add_jacobians();
          block->set_output(row);
          block->set_wrt(column);
          return block->mutable_jacobian();
        },
        [&](Role, const std::string& name, int) { return &(*response->mutable_outputs())[name]; },
        response->mutable_info());
  });
}

absl::Status GradientCore::ComputeHessian(const v1::ComputeHessianRequest& request,
                                          v1::ComputeHessianResponse* response, Call& call) {
  return Compute(request, call, [&](Pipeline& p) -> absl::Status {
    const bool of_cotangents = request.has_cotangents();
    GW_RETURN_IF_ERROR(CheckScalarOf(request));
    if (of_cotangents) p.AddSharedCotangents(request.cotangents());
    GW_RETURN_IF_ERROR(p.Load(LossOf(request), request.output()));
    GW_RETURN_IF_ERROR(p.Prepare({.kind = Computation::kHvp,
                                  .outputs = ScalarOf(request),
                                  .wrt = Unique(request.wrt()),
                                  .hvp_of_cotangents = of_cotangents}));
    GW_RETURN_IF_ERROR(p.CheckSharedCotangentNames());
    GW_RETURN_IF_ERROR(p.RunBasis(
        [&](const std::string& row, const std::string& column) {
          v1::Hessian* block = response->add_hessians();
          block->set_row(row);
          block->set_column(column);
          return block->mutable_hessian();
        },
        [&](Role role, const std::string& name, int) {
          return role == Role::kGradient ? &(*response->mutable_gradients())[name]
                                         : response->mutable_value();
        },
        response->mutable_info()));
    if (of_cotangents) *response->mutable_value() = p.SharedCotangentSum();
    return absl::OkStatus();
  });
}

absl::Status GradientCore::CheckGradients(const v1::CheckGradientsRequest& request,
                                          v1::CheckGradientsResponse* response, Call& call) {
  return GradientChecker(this, request, call).Check(response);
}

namespace {

// The calls that a stream takes: fn(request, method, where the response has its result).
template <typename Fn>
auto WithCall(const v1::StreamComputeRequest& request, const Fn& fn) {
  using Request = v1::StreamComputeRequest;
  using Response = v1::StreamComputeResponse;
  using Core = GradientCore;
  switch (request.call_case()) {
    case Request::kEvaluate:
      return fn(request.evaluate(), &Core::Evaluate, &Response::mutable_evaluate);
    case Request::kComputeGradient:
      return fn(request.compute_gradient(), &Core::ComputeGradient,
                &Response::mutable_compute_gradient);
    case Request::kComputeVjp:
      return fn(request.compute_vjp(), &Core::ComputeVjp, &Response::mutable_compute_vjp);
    case Request::kComputeJvp:
      return fn(request.compute_jvp(), &Core::ComputeJvp, &Response::mutable_compute_jvp);
    case Request::kComputeHvp:
      return fn(request.compute_hvp(), &Core::ComputeHvp, &Response::mutable_compute_hvp);
    case Request::kComputeJacobian:
      return fn(request.compute_jacobian(), &Core::ComputeJacobian,
                &Response::mutable_compute_jacobian);
    case Request::kComputeHessian:
      return fn(request.compute_hessian(), &Core::ComputeHessian,
                &Response::mutable_compute_hessian);
    case Request::CALL_NOT_SET:
      break;
  }
  return fn();
}

template <typename... Fns>
struct Overloaded : Fns... {
  using Fns::operator()...;
};
template <typename... Fns>
Overloaded(Fns...) -> Overloaded<Fns...>;

}  // namespace

bool GradientCore::IsQuick(const v1::StreamComputeRequest& request, Call& call) const {
  return WithCall(request, Overloaded{[&](const auto& of, auto, auto) { return IsQuick(of, call); },
                                      [] { return false; }});
}

absl::Status GradientCore::StreamCompute(const v1::StreamComputeRequest& request,
                                         v1::StreamComputeResponse* response, Call& call) {
  response->set_id(request.id());
  const absl::Status status =
      WithCall(request, Overloaded{[&](const auto& of, auto method, auto result) {
                                     return (this->*method)(of, (response->*result)(), call);
                                   },
                                   []() -> absl::Status {
                                     return Error(Reason::kInvalidSpec,
                                                  "call: got none that this server has");
                                   }});
  if (!status.ok()) Refuse(request, status, response);
  return absl::OkStatus();
}

void GradientCore::Refuse(const v1::StreamComputeRequest& request, const absl::Status& status,
                          v1::StreamComputeResponse* response) {
  response->Clear();
  response->set_id(request.id());
  const google::rpc::Status wire = codec::ToRpcStatus(status);
  v1::CallStatus* out = response->mutable_status();
  out->set_code(wire.code());
  out->set_reason(std::string(ReasonNameOf(status)));
  out->set_message(wire.message());
  out->set_details(wire.SerializeAsString());
}

}  // namespace gradwire::server
