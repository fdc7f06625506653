#include "client/cli/render_json.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/convert.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
void AppendNumber(T value, std::string* out) {
  if constexpr (std::is_same_v<T, bool>) {
    out->append(value ? "true" : "false");
  } else if constexpr (std::is_integral_v<T>) {
    absl::StrAppend(out, value);
  } else if (std::isnan(value)) {
    out->append("\"NaN\"");
  } else if (std::isinf(value)) {
    out->append(value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
  } else {
    absl::StrAppendFormat(out, std::is_same_v<T, float> ? "%.9g" : "%.17g", value);
  }
}

void AppendTensor(const TensorView& tensor, absl::string_view dtype, std::string* out) {
  if (tensor.dtype() == DType::kFloat16 || tensor.dtype() == DType::kBfloat16) {
    absl::StatusOr<Tensor> wide = ConvertTensor(tensor, DType::kFloat, dtype);
    if (wide.ok()) return AppendTensor(*wide, dtype, out);
  }
  absl::StrAppend(out, "{\"dtype\": \"", dtype, "\", \"shape\": [",
                  absl::StrJoin(tensor.shape().dims(), ", "), "], \"data\": [");
  VisitDType(tensor.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < tensor.num_elements(); ++i) {
      T value;
      std::memcpy(&value, static_cast<const char*>(tensor.raw()) + i * sizeof(T), sizeof(T));
      if (i > 0) out->append(", ");
      AppendNumber(value, out);
    }
  });
  out->append("]}");
}

void AppendTensors(const NamedTensors& tensors, std::string* out) {
  const char* separator = "{";
  for (const auto& [name, tensor] : tensors) {
    absl::StrAppend(out, separator, StringAsJson(name), ": ");
    AppendTensor(tensor, DTypeName(tensor.dtype()), out);
    separator = ", ";
  }
  out->append(tensors.empty() ? "{}" : "}");
}

void AppendVectors(const std::vector<NamedTensors>& vectors, std::string* out) {
  out->append("[");
  for (size_t i = 0; i < vectors.size(); ++i) {
    if (i > 0) out->append(", ");
    AppendTensors(vectors[i], out);
  }
  out->append("]");
}

// As protobuf's JSON writes a Duration: seconds, with all the nanoseconds.
std::string Seconds(absl::Duration duration) {
  const int64_t ns = absl::ToInt64Nanoseconds(duration);
  return absl::StrFormat("%d.%09ds", ns / 1000000000, ns % 1000000000);
}

// On one line, with blanks after commas and colons. Depth of recursion: that of our own objects.
std::string Dump(const Json& json) {
  if (!json.is_structured()) return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string out = json.is_object() ? "{" : "[";
  const char* separator = "";
  for (const auto& [key, value] : json.items()) {
    out += separator;
    if (json.is_object()) absl::StrAppend(&out, StringAsJson(key), ": ");
    out += Dump(value);
    separator = ", ";
  }
  out += json.is_object() ? "}" : "]";
  return out;
}

Json InfoAsJson(const CallInfo& info) {
  return {{"graph_digest", info.graph_digest},
          {"plan_digest", info.plan_digest},
          {"cache_hit", info.cache_hit},
          {"compile_time", Seconds(info.compile_time)},
          {"queue_time", Seconds(info.queue_time)},
          {"compute_time", Seconds(info.compute_time)},
          {"peak_bytes", info.peak_bytes},
          {"flops", info.flops},
          {"threads", info.threads},
          {"engine_version", info.engine_version},
          {"cpu_isa", info.cpu_isa}};
}

}  // namespace

std::string StringAsJson(absl::string_view text) { return Dump(Json(std::string(text))); }

std::string NumberAsJson(double number) {
  std::string out;
  AppendNumber(number, &out);
  return out;
}

std::string TensorAsJson(const TensorView& tensor) {
  std::string out;
  AppendTensor(tensor, DTypeName(tensor.dtype()), &out);
  return out;
}

std::string AnswerAsJson(const Answer& answer) {
  std::string out = "{";
  const auto begin_field = [&out](const char* key) {
    absl::StrAppend(&out, out.size() > 1 ? ", " : "", "\"", key, "\": ");
  };
  if (answer.value) {
    begin_field("value");
    out += TensorAsJson(*answer.value);
  }
  if (answer.outputs) {
    begin_field("outputs");
    AppendTensors(*answer.outputs, &out);
  }
  if (answer.gradients) {
    begin_field("gradients");
    AppendTensors(*answer.gradients, &out);
  }
  if (*answer.vectors_key != '\0') {
    begin_field(answer.vectors_key);
    AppendVectors(answer.vectors, &out);
  }
  if (answer.block_names != nullptr) {
    const BlockNames& names = *answer.block_names;
    begin_field(names.list);
    const char* separator = "[";
    for (const Block& block : answer.blocks) {
      absl::StrAppend(&out, separator, "{\"", names.row, "\": ", StringAsJson(block.row), ", \"",
                      names.column, "\": ", StringAsJson(block.column), ", \"", names.block,
                      "\": ", TensorAsJson(block.values), "}");
      separator = ", ";
    }
    out += answer.blocks.empty() ? "[]" : "]";
  }
  begin_field("info");
  absl::StrAppend(&out, Dump(InfoAsJson(answer.info)), "}");
  return out;
}

std::string CheckAsJson(const CheckResult& result) {
  constexpr const char* kVerdicts[] = {"AGREES", "DISAGREES", "KINK"};
  std::string out =
      absl::StrCat("{\"passed\": ", result.passed ? "true" : "false", ", \"checks\": [");
  for (const CheckResult::Entry& e : result.worst) {
    absl::StrAppend(
        &out, &e == result.worst.data() ? "" : ", ", "{\"wrt\": ", StringAsJson(e.wrt),
        ", \"verdict\": \"", kVerdicts[static_cast<int>(e.verdict)],
        "\", \"compared\": ", e.compared, ", \"is_direction\": ", e.is_direction ? "true" : "false",
        ", \"coordinates\": [", absl::StrJoin(e.coordinates, ", "),
        "], \"analytic\": ", NumberAsJson(e.analytic), ", \"numeric\": ", NumberAsJson(e.numeric),
        ", \"error\": ", NumberAsJson(e.error), ", \"step\": ", NumberAsJson(e.step), "}");
  }
  out += "]";
  if (result.adjoint_error) {
    absl::StrAppend(&out, ", \"adjoint_error\": ", NumberAsJson(*result.adjoint_error));
  }
  if (result.second_order_error) {
    absl::StrAppend(&out, ", \"second_order_error\": ", NumberAsJson(*result.second_order_error));
  }
  absl::StrAppend(&out, ", \"value\": ", TensorAsJson(result.value),
                  ", \"info\": ", Dump(InfoAsJson(result.info)), "}");
  return out;
}

std::string AnalysisAsJson(const GraphAnalysis& a) {
  const auto values = [](const std::vector<GraphAnalysis::Value>& from) {
    Json out = Json::array();
    for (const GraphAnalysis::Value& value : from) {
      Json json = {{"name", value.name}, {"data_type", std::string(DTypeName(value.dtype))}};
      if (value.has_rank) {
        json["shape"] = Json::array();
        for (const std::string& extent : value.shape) {
          int64_t number;
          json["shape"].push_back(absl::SimpleAtoi(extent, &number) ? Json(number) : Json(extent));
        }
      }
      out.push_back(std::move(json));
    }
    return out;
  };
  const auto cost = [](const GraphAnalysis::Cost& c) -> Json {
    return {{"flops", c.flops}, {"peak_bytes", c.peak_bytes},   {"moved_bytes", c.moved_bytes},
            {"steps", c.steps}, {"input_bytes", c.input_bytes}, {"output_bytes", c.output_bytes},
            {"nodes", c.nodes}};
  };
  Json json = {{"inputs", values(a.inputs)},
               {"parameters", values(a.parameters)},
               {"outputs", values(a.outputs)},
               {"node_count", a.node_count},
               {"ops", Json::array()},
               {"issues", Json::array()},
               {"computable", a.computable},
               {"differentiable", a.differentiable},
               {"wrt", a.wrt}};
  for (const GraphAnalysis::OpUse& use : a.ops) {
    json["ops"].push_back({{"domain", use.domain},
                           {"name", use.name},
                           {"count", use.count},
                           {"supported", use.supported}});
  }
  for (const GraphAnalysis::Issue& issue : a.issues) {
    json["issues"].push_back({{"reason", issue.reason},
                              {"where", issue.where},
                              {"message", issue.message},
                              {"path", issue.path}});
  }
  if (a.computable) json["value_cost"] = cost(a.value_cost);
  if (a.differentiable) json["gradient_cost"] = cost(a.gradient_cost);
  if (!a.graph_digest.empty()) json["graph_digest"] = a.graph_digest;
  if (!a.plan_digest.empty()) json["plan_digest"] = a.plan_digest;
  return Dump(json);
}

namespace {

Json ChoicesAsJson(const std::vector<Choice>& choices) {
  Json out = Json::array();
  for (const Choice& choice : choices) {
    Json settings = Json::array();
    for (const Choice::Setting& setting : choice.settings) {
      Json row = {{"name", setting.name}, {"range", setting.range}};
      if (setting.fallback) row["default"] = *setting.fallback;
      settings.push_back(std::move(row));
    }
    out.push_back({{"name", choice.name}, {"doc", choice.doc}, {"settings", std::move(settings)}});
  }
  return out;
}

}  // namespace

std::string CapabilitiesAsJson(const ServerCapabilities& c, absl::string_view address) {
  Json ops = Json::array();
  for (const SupportedOp& op : c.ops) {
    Json dtypes = Json::array();
    for (DType dtype : op.dtypes) dtypes.push_back(std::string(DTypeName(dtype)));
    ops.push_back({{"domain", op.domain},
                   {"name", op.name},
                   {"first_opset", op.first_opset},
                   {"last_opset", op.last_opset},
                   {"data_types", std::move(dtypes)},
                   {"value", op.value},
                   {"vjp", op.vjp},
                   {"jvp", op.jvp},
                   {"doc", op.doc}});
  }
  Json declined = Json::array();
  for (const UnusedKernel& kernel : c.unused_kernels) {
    declined.push_back(
        {{"provider", kernel.provider}, {"kernel", kernel.kernel}, {"detail", kernel.detail}});
  }
  const Json json = {{"server", std::string(address)},
                     {"versions",
                      {{"engine", c.engine_version},
                       {"onednn", c.onednn_version},
                       {"grpc", c.grpc_version},
                       {"protobuf", c.protobuf_version}}},
                     {"cpu_isa", c.cpu_isa},
                     {"workers", c.workers},
                     {"threads", c.threads},
                     {"durability", c.memory_only ? "MEMORY_ONLY" : "ON_DISK"},
                     {"limits",
                      {{"max_message_bytes", c.max_message_bytes},
                       {"memory_limit_bytes", c.memory_limit_bytes},
                       {"program_cache_bytes", c.program_cache_bytes},
                       {"max_nodes", c.max_nodes},
                       {"max_rank", c.max_rank},
                       {"min_opset", c.min_opset},
                       {"max_opset", c.max_opset}}},
                     {"self_check", {{"checks", c.self_checks}, {"declined", std::move(declined)}}},
                     {"losses", ChoicesAsJson(c.losses)},
                     {"optimizers", ChoicesAsJson(c.optimizers)},
                     {"schedules", ChoicesAsJson(c.schedules)},
                     {"ops", std::move(ops)}};
  return Dump(json);
}

std::string ErrorAsJson(const absl::Status& status, absl::string_view local_reason) {
  std::string reason = ReasonNameOf(status);
  if (reason.empty()) reason = std::string(local_reason);
  Json details = Json::array();
  for (const Violation& violation : ViolationsOf(status)) {
    details.push_back({{"field", violation.where}, {"description", violation.what}});
  }
  const Json json = {{"error",
                      {{"code", absl::StatusCodeToString(status.code())},
                       {"reason", reason},
                       {"message", std::string(status.message())},
                       {"details", std::move(details)}}}};
  return Dump(json);
}

}  // namespace gradwire::cli
