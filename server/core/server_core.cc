#include "server/core/server_core.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/common.h"
#include "server/core/op_probe.h"

namespace gradwire::server {
namespace {

std::string ProtobufVersion() {
  return absl::StrCat(GOOGLE_PROTOBUF_VERSION / 1000000, ".", GOOGLE_PROTOBUF_VERSION / 1000 % 1000,
                      ".", GOOGLE_PROTOBUF_VERSION % 1000);
}

std::string DocOf(const OpDef& op) {
  std::string doc(op.doc);
  if (const auto* none = std::get_if<NotDifferentiable>(&op.derivative)) {
    absl::StrAppend(&doc, doc.empty() ? "" : " ", "Not differentiable: ", none->why, ".");
  }
  return doc;
}

// "onnx/kernel: detail" as the engine words a declined kernel.
v1::DeclinedKernel Declined(const std::string& line) {
  v1::DeclinedKernel out;
  const size_t space = line.find(' ');
  const size_t colon = line.find(": ");
  out.set_provider(line.substr(0, space));
  if (space == std::string::npos) return out;
  out.set_kernel(line.substr(space + 1, colon == std::string::npos ? colon : colon - space - 1));
  if (colon != std::string::npos) out.set_detail(line.substr(colon + 2));
  return out;
}

// A row of the losses, the optimisers or the schedules.
void Describe(const char* name, const char* doc, absl::Span<const SettingDef> settings,
              v1::Choice* out) {
  out->set_name(name);
  out->set_doc(doc);
  for (const SettingDef& def : settings) {
    v1::Setting* setting = out->add_settings();
    setting->set_name(def.name);
    if (!std::isnan(def.fallback)) setting->set_fallback(def.fallback);
    setting->set_range(def.range.ToString());
  }
}

void DescribeTraining(v1::Capabilities* out) {
  for (const LossRow& row : AllLosses()) {
    Describe(row.name, row.doc, row.settings, out->add_losses());
  }
  for (const OptimizerRow& row : AllOptimizers()) {
    Describe(row.name, row.doc, row.hyper, out->add_optimizers());
  }
  Describe("lbfgs", Lbfgs::kDoc, Lbfgs::Defs(), out->add_optimizers());
  for (const ScheduleRow& row : AllSchedules()) {
    Describe(row.name, row.doc, row.numbers, out->add_schedules());
  }
}

}  // namespace

std::vector<v1::OpCapability> DescribeOps(const OpRegistry& registry) {
  std::vector<v1::OpCapability> out;
  for (const OpDef* op : registry.rows()) {
    for (const OnnxBinding& binding : op->onnx) {
      const OpsetRange opsets = OpsetsOf(binding);
      if (opsets.empty()) continue;
      v1::OpCapability row;
      row.set_domain(std::string(binding.domain));
      row.set_name(std::string(binding.name));
      row.set_first_opset(opsets.first);
      row.set_last_opset(opsets.last);
      const OpProbe probe = ProbeOp(*op, binding, opsets);
      for (DType dtype : probe.dtypes) row.add_data_types(static_cast<v1::DataType>(dtype));
      row.set_value(!probe.dtypes.empty());
      row.set_vjp(probe.vjp);
      row.set_jvp(probe.jvp);
      row.set_doc(DocOf(*op));
      out.push_back(std::move(row));
    }
  }
  const auto key = [](const v1::OpCapability& row) {
    return std::make_tuple(row.domain(), row.name(), row.first_opset());
  };
  std::sort(out.begin(), out.end(),
            [&key](const auto& a, const auto& b) { return key(a) < key(b); });
  return out;
}

v1::Capabilities ServerCore::Describe() const {
  v1::Capabilities out;
  for (v1::OpCapability& row : DescribeOps(engine_.ops())) *out.add_ops() = std::move(row);
  DescribeTraining(&out);
  v1::Limits* limits = out.mutable_limits();
  limits->set_max_message_bytes(options_.max_message_bytes);
  limits->set_memory_limit_bytes(options_.memory_limit_bytes);
  limits->set_program_cache_bytes(engine_.options().cache_bytes);
  limits->set_max_nodes(engine_.options().max_nodes);
  limits->set_max_rank(Shape::kMaxRank);
  limits->set_min_opset(kMinOpset);
  limits->set_max_opset(kMaxOpset);
  v1::Versions* versions = out.mutable_versions();
  versions->set_engine(std::string(Engine::version()));
  versions->set_onednn(engine_.onednn_version());
  versions->set_grpc(options_.grpc_version);
  versions->set_protobuf(ProtobufVersion());
  out.set_cpu_isa(engine_.isa());
  out.set_workers(options_.workers);
  out.set_threads(options_.threads);
  out.set_durability(options_.on_disk ? v1::ON_DISK : v1::MEMORY_ONLY);
  const SelfCheckReport& report = engine_.self_check();
  out.mutable_self_check()->set_checks(static_cast<int32_t>(report.checks));
  for (const std::string& line : report.declined) {
    *out.mutable_self_check()->add_declined() = Declined(line);
  }
  return out;
}

absl::Status ServerCore::GetCapabilities(const v1::GetCapabilitiesRequest& request,
                                         v1::Capabilities* response, Call&) {
  if (!request.GetReflection()->GetUnknownFields(request).empty()) {
    return Error(Reason::kInvalidSpec, "request: has a field that this server does not know");
  }
  absl::call_once(once_, [this] {
    capabilities_ = Describe();
    known_ = true;
  });
  *response = capabilities_;
  return absl::OkStatus();
}

}  // namespace gradwire::server
