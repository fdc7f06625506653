#include "client/cli/compute_command.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/answer.h"
#include "client/cli/render_json.h"
#include "client/cli/render_text.h"
#include "client/cli/report.h"
#include "client/cli/values.h"
#include "client/load_model.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

struct VectorOption {
  Command command;
  const char* name;
  const char* help;
};
constexpr VectorOption kVectorOptions[] = {
    {Command::kVjp, "--cotangent",
     "Cotangent of an output; a NAME given again begins the next of K"},
    {Command::kJvp, "--tangent", "Tangent of an input; a NAME given again begins the next of K"},
    {Command::kHvp, "--vector", "Vector to multiply with; a NAME given again begins the next of K"},
};

const VectorOption* VectorOptionOf(Command command) {
  for (const VectorOption& option : kVectorOptions) {
    if (option.command == command) return &option;
  }
  return nullptr;
}

absl::Status AddVectors(const std::vector<std::string>& words, Arguments* out) {
  for (const std::string& word : words) {
    GW_ASSIGN_OR_RETURN(Assignment assignment, ParseAssignment(word));
    const auto has_name = [&](const Assignment& other) { return other.name == assignment.name; };
    if (out->vectors.empty() ||
        std::any_of(out->vectors.back().begin(), out->vectors.back().end(), has_name)) {
      out->vectors.emplace_back();
    }
    out->vectors.back().push_back(std::move(assignment));
  }
  return absl::OkStatus();
}

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

absl::Status ReadVectors(const Arguments& arguments, const ModelSignature& signature,
                         std::vector<NamedTensors>* out) {
  for (const std::vector<Assignment>& vector : arguments.vectors) {
    GW_RETURN_IF_ERROR(ReadValues(vector, arguments, signature, &out->emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status ReadLoss(const RawArguments& raw, Arguments* out) {
  if (raw.loss.empty() && raw.loss_formula.empty()) {
    return raw.loss_settings.empty()
               ? absl::OkStatus()
               : absl::InvalidArgumentError("--loss-setting is of a --loss: give one");
  }
  if (!raw.loss.empty() && !raw.loss_formula.empty()) {
    return absl::InvalidArgumentError("--loss and --loss-formula: give one of them");
  }
  Loss& loss = out->loss.emplace();
  loss.named = raw.loss;
  if (!raw.loss_formula.empty()) loss.graph = ModelSource::Formula(raw.loss_formula);
  for (const std::string& word : raw.loss_settings) {
    GW_ASSIGN_OR_RETURN(const Assignment setting, ParseAssignment(word));
    if (!absl::SimpleAtod(setting.value, &loss.parameters[setting.name])) {
      return absl::InvalidArgumentError(
          absl::StrCat("--loss-setting: got '", word, "', expected NAME=NUMBER"));
    }
  }
  return absl::OkStatus();
}

// ---- Calls.

absl::StatusOr<Answer> Eval(const Client& client, const ModelAndInputs& p,
                            const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(EvaluateResult result,
                      client.Evaluate(p.model, p.inputs, {arguments.outputs, arguments.call}));
  Answer answer;
  answer.outputs = std::move(result.outputs);
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Grad(const Client& client, const ModelAndInputs& p,
                            const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(GradientResult result,
                      client.Gradient(p.model, p.inputs,
                                      {arguments.output_name, arguments.wrt, arguments.call,
                                       arguments.loss, arguments.per_example}));
  Answer answer;
  answer.value_name = ValueName(arguments, p.signature);
  answer.value = std::move(result.value);
  answer.gradients = std::move(result.gradients);
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Vjp(const Client& client, const ModelAndInputs& p,
                           const std::vector<NamedTensors>& vectors, const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(VjpResult result,
                      client.Vjp(p.model, p.inputs, vectors, {arguments.wrt, arguments.call}));
  Answer answer;
  answer.outputs = std::move(result.outputs);
  answer.vectors = std::move(result.gradients);
  answer.vectors_key = "gradients";
  answer.vectors_symbol = "J'";
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Jvp(const Client& client, const ModelAndInputs& p,
                           const std::vector<NamedTensors>& vectors, const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(JvpResult result,
                      client.Jvp(p.model, p.inputs, vectors, {arguments.outputs, arguments.call}));
  Answer answer;
  answer.outputs = std::move(result.outputs);
  answer.vectors = std::move(result.tangents);
  answer.vectors_key = "tangents";
  answer.vectors_symbol = "J";
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Hvp(const Client& client, const ModelAndInputs& p,
                           const std::vector<NamedTensors>& vectors, const Arguments& arguments) {
  HvpOptions options;
  options.output = arguments.output_name;
  options.wrt = arguments.wrt;
  options.call = arguments.call;
  options.loss = arguments.loss;
  GW_ASSIGN_OR_RETURN(HvpResult result, client.Hvp(p.model, p.inputs, vectors, options));
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

absl::StatusOr<Answer> JacobianOf(const Client& client, const ModelAndInputs& p,
                                  const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(
      JacobianResult result,
      client.Jacobian(p.model, p.inputs,
                      {arguments.outputs, arguments.wrt, arguments.direction, arguments.call}));
  Answer answer;
  answer.outputs = std::move(result.outputs);
  answer.blocks = std::move(result.jacobians);
  answer.block_names = &kJacobianNames;
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> HessianOf(const Client& client, const ModelAndInputs& p,
                                 const Arguments& arguments) {
  GW_ASSIGN_OR_RETURN(HessianResult result, client.Hessian(p.model, p.inputs,
                                                           {.output = arguments.output_name,
                                                            .loss = arguments.loss,
                                                            .wrt = arguments.wrt,
                                                            .call = arguments.call}));
  Answer answer;
  answer.value_name = ValueName(arguments, p.signature);
  answer.value = std::move(result.value);
  answer.gradients = std::move(result.gradients);
  answer.blocks = std::move(result.hessians);
  answer.block_names = &kHessianNames;
  answer.info = std::move(result.info);
  return answer;
}

absl::StatusOr<Answer> Compute(const Client& client, const ModelAndInputs& p,
                               const std::vector<NamedTensors>& vectors,
                               const Arguments& arguments) {
  switch (arguments.command) {
    case Command::kEval:
      return Eval(client, p, arguments);
    case Command::kGrad:
      return Grad(client, p, arguments);
    case Command::kVjp:
      return Vjp(client, p, vectors, arguments);
    case Command::kJvp:
      return Jvp(client, p, vectors, arguments);
    case Command::kHvp:
      return Hvp(client, p, vectors, arguments);
    case Command::kJacobian:
      return JacobianOf(client, p, arguments);
    case Command::kHessian:
      return HessianOf(client, p, arguments);
    default:
      return absl::InternalError("no computation");
  }
}

}  // namespace

void AddComputeOptions(Command command, CLI::App* app, RawArguments* raw) {
  app->add_option("FORMULA", raw->words, "A formula (unless --model is given), then NAME=VALUE ...")
      ->type_name("NAME=VALUE");
  AddText(app, "--model", &raw->model, "FILE", "Model file (.onnx, .onnxtxt), or graphs/SHA256");
  AddList(app, "--in", &raw->in, "NAME=VALUE", "An input; the same as NAME=VALUE alone");
  if (const VectorOption* option = VectorOptionOf(command)) {
    AddList(app, option->name, &raw->vectors, "NAME=VALUE", option->help);
  }
  const bool is_jacobian = command == Command::kJacobian;
  if (command == Command::kEval || command == Command::kJvp || is_jacobian) {
    AddList(app, "--outputs", &raw->outputs, "A,B", "Values to compute [all outputs]");
  }
  if (command != Command::kEval && command != Command::kJvp) {
    AddList(app, "--wrt", &raw->wrt, "A,B",
            "Differentiate by these [the parameters, else the inputs]");
  }
  if (is_jacobian) {
    AddText(app, "--direction", &raw->direction, "auto|forward|reverse",
            "By columns or by rows [the fewer ones]");
  }
  const bool has_loss = command == Command::kGrad || command == Command::kHvp ||
                        command == Command::kHessian || command == Command::kCheck;
  if (has_loss || command == Command::kAnalyze) {
    AddText(app, "--output-name", &raw->output_name, "NAME", "The scalar f [the only output]");
  }
  if (has_loss) {
    AddText(app, "--loss", &raw->loss, "NAME",
            "Loss of the output and the input `target`: mse, softmax_cross_entropy, ... is f");
    AddList(app, "--loss-setting", &raw->loss_settings, "NAME=NUMBER", "A setting of --loss");
    AddText(app, "--loss-formula", &raw->loss_formula, "FORMULA",
            "A formula of the model's values is f: 'mean((y - t)^2)'");
  }
  if (command == Command::kCheck) {
    AddText(app, "--directions", &raw->directions, "N", "Random directions for each value [2]");
    AddText(app, "--step", &raw->step, "H", "Of the differences [1e-3]");
  }
  AddText(app, "--precision", &raw->precision, "as_graph|float|double", "Arithmetic [as_graph]");
  AddText(app, "--mode", &raw->mode, "as_graph|train|eval", "Dropout and the like [as_graph]");
  if (command == Command::kAnalyze) return;
  if (command != Command::kCheck) {
    AddList(app, "--batch", &raw->batch, "A,B",
            "Inputs with an extra leading axis of points; so have the results");
  }
  if (command == Command::kGrad) {
    app->add_flag("--per-example", raw->per_example,
                  "A gradient for each row of the model's batch axis");
  }
  AddText(app, "--seed", &raw->seed, "N", "Key of random draws [0]");
  app->add_flag("--check-finite", raw->check_finite, "Fail where a result is NaN or infinite");
  app->add_flag("--info", raw->info, "Show how it was computed (json always does)");
}

absl::Status CheckModelAndInputs(const RawArguments& raw, Arguments* out) {
  std::vector<std::string> words = raw.words;
  out->model_path = raw.model;
  if (raw.model.empty()) {
    if (words.empty()) {
      return absl::InvalidArgumentError("nothing to compute: give a formula, or --model FILE");
    }
    out->formula = std::string(absl::StripAsciiWhitespace(words.front()));
    words.erase(words.begin());
  }
  GW_RETURN_IF_ERROR(AddInputs(words, out));
  GW_RETURN_IF_ERROR(AddInputs(raw.in, out));
  out->wrt = SplitNames(raw.wrt);
  out->output_name = raw.output_name;
  return absl::OkStatus();
}

absl::Status CheckCompute(const RawArguments& raw, Arguments* out) {
  GW_ASSIGN_OR_RETURN(const int mode, Choose("--mode", raw.mode, {"as_graph", "train", "eval"}));
  GW_ASSIGN_OR_RETURN(const int precision,
                      Choose("--precision", raw.precision, {"as_graph", "float", "double"}));
  GW_ASSIGN_OR_RETURN(const int direction,
                      Choose("--direction", raw.direction, {"auto", "forward", "reverse"}));
  out->direction = static_cast<JacobianOptions::Direction>(direction);
  out->call.mode = static_cast<CallOptions::Mode>(mode);
  out->call.precision = static_cast<CallOptions::Precision>(precision);
  out->call.check_finite = raw.check_finite;
  out->call.batch = SplitNames(raw.batch);
  out->per_example = raw.per_example;
  GW_ASSIGN_OR_RETURN(out->directions, ParseCount("--directions", raw.directions));
  if (!absl::SimpleAtod(raw.step, &out->step)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--step: got '", raw.step, "', expected a number"));
  }
  if (!absl::SimpleAtoi(raw.seed, &out->call.seed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--seed: got '", raw.seed, "', expected a whole number from 0 to 2^64-1"));
  }
  GW_RETURN_IF_ERROR(CheckModelAndInputs(raw, out));
  GW_RETURN_IF_ERROR(AddVectors(raw.vectors, out));
  const VectorOption* option = VectorOptionOf(out->command);
  if (option != nullptr && out->vectors.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("give at least one ", option->name, " NAME=VALUE"));
  }
  GW_RETURN_IF_ERROR(ReadLoss(raw, out));
  out->outputs = SplitNames(raw.outputs);
  out->show_info = raw.info;
  return absl::OkStatus();
}

namespace {

// A file, or the name of a graph that the server keeps.
absl::StatusOr<ModelSource> ModelAt(const std::string& path) {
  if (absl::StartsWith(path, "graphs/")) return ModelSource::Kept(path);
  return LoadModel(path);
}

// Without its inputs a graph is not known to be wrong.
bool IsInTheWay(const GraphAnalysis::Issue& issue) { return issue.reason != "MISSING_INPUT"; }

}  // namespace

absl::StatusOr<ModelAndInputs> ReadModelAndInputs(const Arguments& arguments) {
  ModelAndInputs out;
  if (arguments.model_path.empty()) {
    out.model = ModelSource::Formula(arguments.formula);
  } else {
    GW_ASSIGN_OR_RETURN(out.model, ModelAt(arguments.model_path));
  }
  out.signature = SignatureOf(out.model);
  GW_RETURN_IF_ERROR(ReadValues(arguments.inputs, arguments, out.signature, &out.inputs));
  return out;
}

std::string ValueName(const Arguments& arguments, const ModelSignature& signature) {
  if (arguments.loss) return "loss";
  if (!arguments.output_name.empty()) return arguments.output_name;
  return signature.outputs.size() == 1 ? signature.outputs.front() : "f";
}

absl::StatusOr<int> RunCompute(const Client& client, const Arguments& arguments,
                               const Console& console) {
  GW_ASSIGN_OR_RETURN(const ModelAndInputs prepared, OrLocal(ReadModelAndInputs(arguments)));
  std::vector<NamedTensors> vectors;
  GW_RETURN_IF_ERROR(AsLocal(ReadVectors(arguments, prepared.signature, &vectors)));
  GW_ASSIGN_OR_RETURN(const Answer answer, Compute(client, prepared, vectors, arguments));
  if (arguments.json) {
    *console.out << AnswerAsJson(answer) << "\n";
  } else {
    *console.out << AnswerAsText(answer, arguments.show_info, console.colour_out);
  }
  return kOk;
}

absl::StatusOr<int> RunCheck(const Client& client, const Arguments& arguments,
                             const Console& console) {
  GW_ASSIGN_OR_RETURN(const ModelAndInputs prepared, OrLocal(ReadModelAndInputs(arguments)));
  GW_ASSIGN_OR_RETURN(
      const CheckResult result,
      client.Check(
          prepared.model, prepared.inputs,
          {.output = arguments.output_name,
           .wrt = arguments.wrt,
           .loss = arguments.loss,
           .directions = static_cast<int>(std::min<int64_t>(arguments.directions, 1 << 30)),
           .step = arguments.step,
           .call = arguments.call}));
  *console.out << (arguments.json ? CheckAsJson(result) + "\n"
                                  : CheckAsText(result, ValueName(arguments, prepared.signature),
                                                console.colour_out));
  return result.passed ? kOk : kCheckFailed;
}

absl::StatusOr<int> RunAnalyze(const Client& client, const Arguments& arguments,
                               const Console& console) {
  GW_ASSIGN_OR_RETURN(const ModelAndInputs prepared, OrLocal(ReadModelAndInputs(arguments)));
  GW_ASSIGN_OR_RETURN(const GraphAnalysis analysis,
                      client.Analyze(prepared.model, prepared.inputs,
                                     {arguments.output_name, arguments.wrt, arguments.call}));
  *console.out << (arguments.json ? AnalysisAsJson(analysis) + "\n"
                                  : AnalysisAsText(analysis, console.colour_out));
  return std::any_of(analysis.issues.begin(), analysis.issues.end(), IsInTheWay) ? kCheckFailed
                                                                                 : kOk;
}

}  // namespace gradwire::cli
