#include "client/cli/run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/answer.h"
#include "client/cli/arguments.h"
#include "client/cli/render_json.h"
#include "client/cli/render_text.h"
#include "client/cli/signature.h"
#include "client/cli/values.h"
#include "client/client.h"
#include "client/load_model.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

// An error, and whose it is.
struct Failure {
  absl::Status status;
  const char* local_reason = "";  // "USAGE" or "LOCAL_INPUT"; empty: the server's
};

int ExitCodeOf(const Failure& failure) {
  if (*failure.local_reason != '\0') return kUsage;
  switch (failure.status.code()) {
    case absl::StatusCode::kUnavailable:
      return kUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return kDeadline;
    default:
      return kRefused;
  }
}

int Report(const Failure& failure, bool json, const Console& console) {
  if (json) {
    *console.out << ErrorAsJson(failure.status, failure.local_reason) << "\n";
  } else {
    *console.err << ErrorAsText(failure.status, failure.local_reason, console.colour_err);
  }
  return ExitCodeOf(failure);
}

// Says how to start a server where there is none.
absl::Status Explained(const absl::Status& status, const Client& client) {
  if (status.code() != absl::StatusCode::kUnavailable || !ReasonNameOf(status).empty()) {
    return status;
  }
  return absl::UnavailableError(
      absl::StrCat("no server answers at ", client.address(), ": ", status.message(),
                   "\n  start one:          gradwire-server --listen=", client.address(),
                   "\n  or choose another:  --server=HOST:PORT, or GRADWIRE_SERVER"));
}

// ---- Inputs.

struct Prepared {
  ModelSource model = ModelSource::Formula("");
  ModelSignature signature;
  NamedTensors inputs;
  std::vector<NamedTensors> vectors;
};

// The type in which the value called `name` is sent.
DType WireType(const ModelSignature& signature, const std::string& name,
               CallOptions::Precision precision) {
  const DType dtype = signature.TypeOf(name);
  if (!IsFloating(dtype) || precision == CallOptions::Precision::kAsGraph) return dtype;
  return precision == CallOptions::Precision::kFloat ? DType::kFloat : DType::kDouble;
}

absl::Status ReadValues(const std::vector<Assignment>& assignments, const Arguments& arguments,
                        const ModelSignature& signature, NamedTensors* out) {
  for (const Assignment& assignment : assignments) {
    // Inputs of a formula have no stated type, so a file's mask stays one.
    const bool keep_bool = !arguments.formula.empty();
    GW_ASSIGN_OR_RETURN(
        (*out)[assignment.name],
        ReadValue(assignment, WireType(signature, assignment.name, arguments.call.precision),
                  keep_bool));
  }
  return absl::OkStatus();
}

// A file, or the name of a graph that the server keeps.
absl::StatusOr<ModelSource> ModelAt(const std::string& path) {
  if (absl::StartsWith(path, "graphs/")) return ModelSource::Kept(path);
  return LoadModel(path);
}

absl::StatusOr<Prepared> Prepare(const Arguments& arguments) {
  Prepared prepared;
  if (arguments.model_path.empty()) {
    prepared.model = ModelSource::Formula(arguments.formula);
  } else {
    GW_ASSIGN_OR_RETURN(prepared.model, ModelAt(arguments.model_path));
  }
  prepared.signature = SignatureOf(prepared.model);
  GW_RETURN_IF_ERROR(ReadValues(arguments.inputs, arguments, prepared.signature, &prepared.inputs));
  for (const std::vector<Assignment>& vector : arguments.vectors) {
    GW_RETURN_IF_ERROR(
        ReadValues(vector, arguments, prepared.signature, &prepared.vectors.emplace_back()));
  }
  return prepared;
}

// ---- Calls.

std::string ValueName(const Arguments& arguments, const ModelSignature& signature) {
  if (!arguments.output_name.empty()) return arguments.output_name;
  return signature.outputs.size() == 1 ? signature.outputs.front() : "f";
}

absl::StatusOr<Answer> Eval(const Client& client, const Prepared& p, const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(EvaluateResult result,
                      client.Evaluate(p.model, p.inputs, {arguments.outputs, arguments.call}));
  Answer answer;
  answer.outputs = std::move(result.outputs);
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Grad(const Client& client, const Prepared& p, const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(
      GradientResult result,
      client.Gradient(p.model, p.inputs, {arguments.output_name, arguments.wrt, arguments.call}));
  Answer answer;
  answer.value_name = ValueName(arguments, p.signature);
  answer.value = std::move(result.value);
  answer.gradients = std::move(result.gradients);
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Vjp(const Client& client, const Prepared& p, const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(VjpResult result,
                      client.Vjp(p.model, p.inputs, p.vectors, {arguments.wrt, arguments.call}));
  Answer answer;
  answer.outputs = std::move(result.outputs);
  answer.vectors = std::move(result.gradients);
  answer.vectors_key = "gradients";
  answer.vectors_symbol = "J'";
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Jvp(const Client& client, const Prepared& p, const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(JvpResult result, client.Jvp(p.model, p.inputs, p.vectors,
                                                   {arguments.outputs, arguments.call}));
  Answer answer;
  answer.outputs = std::move(result.outputs);
  answer.vectors = std::move(result.tangents);
  answer.vectors_key = "tangents";
  answer.vectors_symbol = "J";
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Hvp(const Client& client, const Prepared& p, const Arguments& arguments) {
  HvpOptions options;
  options.output = arguments.output_name;
  options.wrt = arguments.wrt;
  options.call = arguments.call;
  GW_ASSIGN_OR_RETURN(HvpResult result, client.Hvp(p.model, p.inputs, p.vectors, options));
  Answer answer;
  answer.value_name = ValueName(arguments, p.signature);
  answer.value = std::move(result.value);
  answer.gradients = std::move(result.gradients);
  answer.vectors = std::move(result.products);
  answer.vectors_key = "products";
  answer.vectors_symbol = "H";
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Compute(const Client& client, const Prepared& prepared,
                               const Arguments& arguments) {
  switch (arguments.command) {
    case Command::kEval:
      return Eval(client, prepared, arguments);
    case Command::kGrad:
      return Grad(client, prepared, arguments);
    case Command::kVjp:
      return Vjp(client, prepared, arguments);
    case Command::kJvp:
      return Jvp(client, prepared, arguments);
    case Command::kHvp:
      return Hvp(client, prepared, arguments);
    case Command::kAnalyze:
    case Command::kHealth:
    case Command::kServerStatus:
      break;
  }
  return absl::InternalError("no computation");
}

int RunCompute(const Client& client, const Arguments& arguments, const Console& console) {
  absl::StatusOr<Prepared> prepared = Prepare(arguments);
  if (!prepared.ok()) {
    return Report({prepared.status(), "LOCAL_INPUT"}, arguments.json, console);
  }
  absl::StatusOr<Answer> answer = Compute(client, *prepared, arguments);
  if (!answer.ok()) {
    return Report({Explained(answer.status(), client)}, arguments.json, console);
  }
  if (arguments.json) {
    *console.out << AnswerAsJson(*answer) << "\n";
  } else {
    *console.out << AnswerAsText(*answer, arguments.show_info, console.colour_out);
  }
  return kOk;
}

// Without its inputs a graph is not known to be wrong.
bool IsInTheWay(const GraphAnalysis::Issue& issue) { return issue.reason != "MISSING_INPUT"; }

int RunAnalyze(const Client& client, const Arguments& arguments, const Console& console) {
  absl::StatusOr<Prepared> prepared = Prepare(arguments);
  if (!prepared.ok()) {
    return Report({prepared.status(), "LOCAL_INPUT"}, arguments.json, console);
  }
  absl::StatusOr<GraphAnalysis> analysis = client.Analyze(
      prepared->model, prepared->inputs, {arguments.output_name, arguments.wrt, arguments.call});
  if (!analysis.ok()) {
    return Report({Explained(analysis.status(), client)}, arguments.json, console);
  }
  *console.out << (arguments.json ? AnalysisAsJson(*analysis) + "\n"
                                  : AnalysisAsText(*analysis, console.colour_out));
  return std::any_of(analysis->issues.begin(), analysis->issues.end(), IsInTheWay) ? kCheckFailed
                                                                                   : kOk;
}

int RunHealth(const Client& client, const Arguments& arguments, const Console& console) {
  absl::StatusOr<ServingStatus> status = client.Health(arguments.service, arguments.call.deadline);
  if (!status.ok()) {
    return Report({Explained(status.status(), client)}, arguments.json, console);
  }
  const char* name = *status == ServingStatus::kServing      ? "SERVING"
                     : *status == ServingStatus::kNotServing ? "NOT_SERVING"
                                                             : "UNKNOWN";
  if (arguments.json) {
    *console.out << "{\"status\": \"" << name << "\"}\n";
  } else {
    *console.out << name << "\n";
  }
  return *status == ServingStatus::kServing ? kOk : kCheckFailed;
}

int RunServerStatus(const Client& client, const Arguments& arguments, const Console& console) {
  absl::StatusOr<ServerCapabilities> capabilities = client.Capabilities(arguments.call.deadline);
  if (!capabilities.ok()) {
    return Report({Explained(capabilities.status(), client)}, arguments.json, console);
  }
  if (arguments.json) {
    *console.out << CapabilitiesAsJson(*capabilities, client.address()) << "\n";
  } else {
    *console.out << CapabilitiesAsText(*capabilities, client.address());
  }
  return kOk;
}

}  // namespace

int Run(const std::vector<std::string>& words, const Console& console) {
  const ParsedArguments parsed = ParseArguments(words);
  if (!parsed.arguments) {
    if (parsed.is_error) {
      return Report({absl::InvalidArgumentError(parsed.text), "USAGE"}, AskForJson(words), console);
    }
    *console.out << parsed.text;
    return kOk;
  }
  const Arguments& arguments = *parsed.arguments;
  const Client client = Client::Connect(arguments.server);
  switch (arguments.command) {
    case Command::kAnalyze:
      return RunAnalyze(client, arguments, console);
    case Command::kHealth:
      return RunHealth(client, arguments, console);
    case Command::kServerStatus:
      return RunServerStatus(client, arguments, console);
    default:
      return RunCompute(client, arguments, console);
  }
}

}  // namespace gradwire::cli
