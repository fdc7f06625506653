#include "server/core/analysis_core.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/core/pipeline.h"

namespace gradwire::server {
namespace {

void AddValues(const std::vector<ValueSummary>& values,
               google::protobuf::RepeatedPtrField<v1::ValueInfo>* out) {
  for (const ValueSummary& value : values) {
    v1::ValueInfo* info = out->Add();
    info->set_name(value.name);
    info->set_data_type(static_cast<v1::DataType>(value.dtype));
    info->set_has_rank(value.has_rank);
    for (const ModelDim& dim : value.dims) {
      v1::Dimension* to = info->add_shape();
      if (dim.extent >= 0) {
        to->set_extent(dim.extent);
      } else {
        to->set_symbol(dim.symbol);
      }
    }
  }
}

void AddSummary(const ModelSummary& summary, v1::AnalyzeGraphResponse* out) {
  AddValues(summary.inputs, out->mutable_inputs());
  AddValues(summary.parameters, out->mutable_parameters());
  AddValues(summary.outputs, out->mutable_outputs());
  out->set_node_count(summary.num_nodes);
  for (const OpUse& use : summary.ops) {
    v1::OpUse* to = out->add_ops();
    to->set_domain(use.domain);
    to->set_name(use.name);
    to->set_count(use.count);
    to->set_supported(use.supported);
  }
}

// What the caller could mend is an issue; what is the server's trouble stays an error.
bool IsIssue(const absl::Status& status) {
  return absl::IsInvalidArgument(status) && !ReasonNameOf(status).empty();
}

void AddIssues(const absl::Status& status, const ModelSummary& summary,
               v1::AnalyzeGraphResponse* out) {
  std::vector<Violation> places = ViolationsOf(status);
  if (places.empty()) places.push_back({"", std::string(status.message())});
  for (const Violation& place : places) {
    v1::Issue* issue = out->add_issues();
    issue->set_reason(ReasonNameOf(status));
    issue->set_where(place.where);
    issue->set_message(place.what);
    for (std::string& label : summary.PathTo(place.where)) issue->add_path(std::move(label));
  }
}

void SetCost(const Cost& cost, v1::Cost* out) {
  out->set_flops(cost.flops);
  out->set_peak_bytes(cost.arena_bytes);
  out->set_moved_bytes(cost.moved_bytes);
  out->set_nodes(cost.nodes);
  out->set_steps(cost.steps);
  out->set_input_bytes(cost.input_bytes);
  out->set_output_bytes(cost.output_bytes);
}

// A gradient where there is one scalar, else a vector-Jacobian product.
absl::Status PrepareDerivative(const v1::AnalyzeGraphRequest& request, Pipeline& p) {
  Computation computation;
  computation.wrt.assign(request.wrt().begin(), request.wrt().end());
  if (!request.output().empty()) computation.outputs = {request.output()};
  computation.kind = Computation::kVjp;
  if (!request.output().empty() || p.model().outputs.size() == 1) {
    computation.kind = Computation::kGradient;
    const absl::Status status = p.Prepare(computation);
    if (!HasReason(status, Reason::kNotScalar)) return status;
    computation.kind = Computation::kVjp;
  }
  return p.Prepare(computation);
}

absl::Status Analyze(const v1::AnalyzeGraphRequest& request, Pipeline& p,
                     v1::AnalyzeGraphResponse* out) {
  GW_RETURN_IF_ERROR(p.Load());
  Computation value{.kind = Computation::kValue, .outputs = {}, .wrt = {}};
  if (!request.output().empty()) value.outputs = {request.output()};
  GW_RETURN_IF_ERROR(p.Prepare(value));
  out->set_computable(true);
  out->set_graph_digest(p.prepared().graph_digest.Hex());
  SetCost(p.prepared().program->cost(), out->mutable_value_cost());

  GW_RETURN_IF_ERROR(PrepareDerivative(request, p));
  out->set_differentiable(true);
  for (const std::string& name : p.prepared().wrt) out->add_wrt(name);
  out->set_graph_digest(p.prepared().graph_digest.Hex());
  out->set_plan_digest(p.prepared().program->plan_digest().Hex());
  SetCost(p.prepared().program->cost(), out->mutable_gradient_cost());
  return absl::OkStatus();
}

}  // namespace

absl::Status AnalysisCore::AnalyzeGraph(const v1::AnalyzeGraphRequest& request,
                                        v1::AnalyzeGraphResponse* response, Call& call) {
  Pipeline p(engine_, graphs_, /*max_message_bytes=*/0, call, PartsOf(request));
  GW_RETURN_IF_ERROR(p.CheckRequest());
  GW_ASSIGN_OR_RETURN(const ModelBytes model, p.FindModel());
  GW_ASSIGN_OR_RETURN(const ModelSummary summary,
                      engine_.Summarize(model.format, model.bytes, p.inputs()));
  AddSummary(summary, response);
  const absl::Status status = Analyze(request, p, response);
  if (!IsIssue(status)) return status;
  AddIssues(status, summary, response);
  return absl::OkStatus();
}

}  // namespace gradwire::server
