#include "tests/support/conformance.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "engine/exec/self_check.h"
#include "engine/kernels/own_provider.h"
#include "engine/onednn/provider.h"
#include "engine/ops/all_ops.h"

namespace gradwire {
namespace {

constexpr size_t kMaxFailures = 12;
constexpr int64_t kMaxBytes = int64_t{64} << 20;
constexpr size_t kGuardBytes = 64;

std::vector<ValueId> OutputValues(const Graph& graph) {
  std::vector<ValueId> out;
  for (const GraphOutput& o : graph.outputs()) out.push_back(o.value);
  return out;
}

// A buffer of exactly `type` between guards, filled with `poison`.
class GuardedBuffer {
 public:
  GuardedBuffer(TensorType type, uint8_t poison)
      : type_(std::move(type)),
        bytes_(static_cast<size_t>(type_.bytes())),
        storage_(TensorType{DType::kUint8, {static_cast<int64_t>(bytes_ + 2 * kGuardBytes)}}) {
    std::memset(storage_.mutable_raw(), poison, bytes_ + 2 * kGuardBytes);
    std::memset(storage_.mutable_raw(), kGuard, kGuardBytes);
    std::memset(data() + bytes_, kGuard, kGuardBytes);
  }
  uint8_t* data() { return storage_.mutable_data<uint8_t>() + kGuardBytes; }
  bool GuardsHold() {
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (data()[i - kGuardBytes] != kGuard || data()[bytes_ + i] != kGuard) return false;
    }
    return true;
  }
  Tensor Take() { return Tensor::CopyOf(TensorView(type_, data())); }

 private:
  static constexpr uint8_t kGuard = 0xC3;
  TensorType type_;
  size_t bytes_;
  Tensor storage_;
};

absl::StatusOr<Values> RunNodeGuarded(const Graph& graph, const Node& node,
                                      const std::vector<TensorView>& in, uint8_t poison) {
  std::vector<TensorType> types;
  std::vector<GuardedBuffer> buffers;
  std::vector<void*> out;
  for (int32_t k = 0; k < node.num_outputs; ++k) {
    types.push_back(graph.type(node.first_output + k));
    buffers.emplace_back(types.back(), poison);
    out.push_back(buffers.back().data());
  }
  GW_RETURN_IF_ERROR(node.op->reference({node.attrs, in, types, out}));
  Values values;
  for (GuardedBuffer& buffer : buffers) {
    if (!buffer.GuardsHold()) {
      return absl::InternalError(absl::StrCat("the reference of ", node.op->name,
                                              " writes past its output ",
                                              types[values.size()].ToString()));
    }
    values.push_back(buffer.Take());
  }
  return values;
}

double Epsilon(DType dtype) {
  return dtype == DType::kFloat ? double{std::numeric_limits<float>::epsilon()}
                                : std::numeric_limits<double>::epsilon();
}

double SmallestNormal(DType dtype) {
  return dtype == DType::kFloat ? double{std::numeric_limits<float>::min()}
                                : std::numeric_limits<double>::min();
}

// What a plan has in common with its twin of another type.
std::string TwinKey(const CasePlan& plan) {
  CasePlan twin = plan;
  twin.dtype = DType::kUndefined;
  return twin.ToString();
}

class RowChecker {
 public:
  RowChecker(const OpDef& op, CompileFn compile, RowReport* report)
      : op_(op), compile_(std::move(compile)), recorder_(report) {}

  void Run() {
    recorder_.Enter(std::string(op_.name));
    const std::vector<CasePlan> plans = PlanCases(op_);
    recorder_.Check(!plans.empty(), "cases",
                    [] { return "neither its type rule nor its samples give a case"; });
    if (GetsGeneratedShapes(op_)) {
      recorder_.Check(AdmitsGenerated(op_, DType::kFloat) == AdmitsGenerated(op_, DType::kDouble),
                      "types", [] { return "FLOAT and DOUBLE are not treated alike"; });
    }
    for (const CasePlan& plan : plans) CheckPlan(plan);
    if (recorder_.report().gradient_checks > 0) recorder_.report().no_gradient_check.clear();
  }

 private:
  void CheckPlan(const CasePlan& plan) {
    recorder_.Enter(plan.ToString());
    absl::StatusOr<OpCase> built = BuildCase(plan);
    if (!recorder_.Check(built.status(), "build")) return;
    ++recorder_.report().cases;
    CheckCase(plan, *built);
    // What a row refuses does not depend on which of the generated shapes it refuses it for.
    if (!plan.generated || plan.sample.inputs[0].shape == Dims{2, 3}) {
      CheckRejections(plan, compile_, recorder_);
      recorder_.Enter(plan.ToString());
      CheckBentNodes(built->graph, recorder_);
    }
    CasePlan training = plan;
    training.mode = Mode::kTrain;
    absl::StatusOr<OpCase> trained = BuildCase(training);
    recorder_.Enter(training.ToString());
    if (!recorder_.Check(trained.status(), "build")) return;
    if (trained->graph.digest() == built->graph.digest()) return;
    ++recorder_.report().cases;
    CheckCase(training, *trained);
  }

  void CheckCase(const CasePlan& plan, const OpCase& c) {
    if (plan.generated) {
      const DType out = c.graph.type(c.graph.outputs()[0].value).dtype;
      recorder_.Check(out == c.data[0].dtype() || out == DType::kBool, "type rule", [&] {
        return absl::StrCat(DTypeName(out), ", expected the inputs' type or BOOL");
      });
    }
    const Values values = CheckExecution(c.graph, c.inputs, compile_, recorder_);
    if (values.empty()) return;
    CheckTwin(plan, values);
    CheckSpecialValues(c, compile_, recorder_);
    if (!plan.values_only) {
      CheckDerivatives(op_, c, plan.dtype != DType::kFloat, compile_, recorder_);
    }
  }

  void CheckTwin(const CasePlan& plan, const Values& values) {
    if (plan.dtype == DType::kFloat) {
      narrow_[TwinKey(plan)] = values;
    } else if (plan.dtype == DType::kDouble) {
      auto twin = narrow_.find(TwinKey(plan));
      if (twin == narrow_.end()) return;
      const std::string difference = FloatDifference(twin->second, values);
      recorder_.Check(difference.empty(), "FLOAT against DOUBLE", [&] { return difference; });
    }
  }

  const OpDef& op_;
  const CompileFn compile_;
  Recorder recorder_;
  std::map<std::string, Values> narrow_;  // outputs of FLOAT cases
};

}  // namespace

bool Recorder::Check(bool ok, absl::string_view what, const std::function<std::string()>& message) {
  ++report_->checks;
  if (ok) return true;
  if (report_->failures.size() < kMaxFailures) {
    report_->failures.push_back(absl::StrCat(where_, ": ", what, ": ", message()));
  }
  return false;
}

bool Recorder::Check(const absl::Status& status, absl::string_view what) {
  return Check(status.ok(), what, [&] { return status.ToString(); });
}

Tolerance ToleranceFor(const Graph& graph) {
  const auto counts = [](const Node& node) { return node.op != &kConstantOp; };
  const auto nodes = std::count_if(graph.nodes().begin(), graph.nodes().end(), counts);
  bool pointwise = true;
  for (const Node& node : graph.nodes()) {
    pointwise =
        pointwise && (!counts(node) || std::holds_alternative<Pointwise>(node.op->lowering));
  }
  if (nodes <= 1 && pointwise) return {4, true};
  return {64, false};
}

std::string Difference(const Tensor& got, const Tensor& want, Tolerance tolerance) {
  if (got.type() != want.type()) {
    return absl::StrCat("is ", got.type().ToString(), ", expected ", want.type().ToString());
  }
  if (!IsFloating(got.dtype())) return got == want ? "" : "differs";
  const double eps = Epsilon(got.dtype());
  double largest = 1;
  for (int64_t i = 0; i < want.num_elements(); ++i) {
    const double w = std::fabs(ElementAsDouble(want, i));
    if (std::isfinite(w)) largest = std::max(largest, w);
  }
  for (int64_t i = 0; i < want.num_elements(); ++i) {
    const double g = ElementAsDouble(got, i), w = ElementAsDouble(want, i);
    bool alike = g == w || (std::isnan(g) && std::isnan(w));
    if (!alike && std::isfinite(g) && std::isfinite(w)) {
      const double scale =
          tolerance.per_element ? std::max(std::fabs(w), SmallestNormal(got.dtype())) : largest;
      alike = std::fabs(g - w) <= tolerance.epsilons * eps * scale;
    }
    if (!alike) return absl::StrCat("element ", i, " is ", g, ", expected ", w);
  }
  return "";
}

std::string FloatDifference(const Values& narrow, const Values& wide) {
  if (narrow.size() != wide.size()) return "another number of outputs";
  for (size_t i = 0; i < narrow.size(); ++i) {
    if (narrow[i].shape() != wide[i].shape()) return "another shape";
    if (narrow[i].dtype() != DType::kFloat || wide[i].dtype() != DType::kDouble) continue;
    const Tensor rounded = Converted(wide[i], DType::kFloat);
    std::string difference = Difference(narrow[i], rounded, {256, false});
    if (!difference.empty()) return difference;
  }
  return "";
}

absl::StatusOr<Values> EvaluateGuarded(const Graph& graph, const NamedViews& inputs) {
  Values values(static_cast<size_t>(graph.num_values()));
  for (const GraphInput& input : graph.inputs()) {
    values[static_cast<size_t>(input.value)] = Tensor::CopyOf(inputs.at(input.name));
  }
  for (const Node& node : graph.nodes()) {
    std::vector<TensorView> in;
    for (ValueId v : graph.operands(node)) in.push_back(values[static_cast<size_t>(v)]);
    GW_ASSIGN_OR_RETURN(Values first, RunNodeGuarded(graph, node, in, 0x00));
    GW_ASSIGN_OR_RETURN(const Values second, RunNodeGuarded(graph, node, in, 0xFF));
    for (size_t k = 0; k < first.size(); ++k) {
      if (first[k] != second[k]) {
        return absl::InternalError(absl::StrCat("the reference of ", node.op->name,
                                                " does not fill its output ",
                                                first[k].type().ToString()));
      }
      values[static_cast<size_t>(node.first_output) + k] = std::move(first[k]);
    }
  }
  Values out;
  for (ValueId v : OutputValues(graph)) out.push_back(values[static_cast<size_t>(v)]);
  return out;
}

absl::StatusOr<Values> RunProgram(const Program& program, const NamedViews& inputs, int shift) {
  std::vector<std::vector<char>> storage;
  Bindings bindings;
  for (const SignatureEntry& entry : program.signature().inputs) {
    const TensorView& view = inputs.at(entry.name);
    const auto bytes = static_cast<size_t>(view.bytes());
    const size_t skip = static_cast<size_t>(shift) * static_cast<size_t>(DTypeBytes(view.dtype()));
    storage.emplace_back(bytes + skip + kGuardBytes);
    char* to = storage.back().data() + skip;
    if (bytes > 0) std::memcpy(to, view.raw(), bytes);
    bindings.inputs.push_back(to);
  }
  Values outputs;
  for (const SignatureEntry& entry : program.signature().outputs) {
    outputs.emplace_back(entry.type);
    if (outputs.back().bytes() > 0) {
      std::memset(outputs.back().mutable_raw(), 0xFF, static_cast<size_t>(outputs.back().bytes()));
    }
    bindings.outputs.push_back(outputs.back().mutable_raw());
  }
  Arena arena;
  const int64_t arena_bytes = program.cost().arena_bytes;
  if (arena_bytes > 0) {
    std::memset(arena.Reserve(arena_bytes), shift == 0 ? 0xFF : 0x5A,
                static_cast<size_t>(arena_bytes));
  }
  RunContext context{.arena = &arena};
  GW_RETURN_IF_ERROR(program.Run(bindings, context));
  return outputs;
}

Values CheckExecution(const Graph& graph, const NamedViews& inputs, const CompileFn& compile,
                      Recorder& recorder) {
  if (!recorder.Check(VerifyGraph(graph), "VerifyGraph")) return {};
  if (!CheckNodes(graph, recorder)) return {};
  absl::StatusOr<Values> want = EvaluateGuarded(graph, inputs);
  if (!recorder.Check(want.status(), "reference")) return {};
  absl::StatusOr<Values> oracle =
      EvaluateByReference(graph, inputs, OutputValues(graph), kMaxBytes);
  if (!recorder.Check(oracle.status(), "EvaluateByReference")) return {};
  recorder.Check(*oracle == *want, "EvaluateByReference", [] { return "other values"; });
  for (size_t i = 0; i < want->size(); ++i) {
    const TensorType& inferred = graph.type(graph.outputs()[i].value);
    recorder.Check((*oracle)[i].type() == inferred, "type of result",
                   [&] { return inferred.ToString(); });
  }
  for (const bool fast : {false, true}) {
    const char* what = fast ? "fast kernels" : "compiled reference";
    auto program = compile(graph, fast);
    if (!recorder.Check(program.status(), what)) continue;
    absl::StatusOr<Values> got = RunProgram(**program, inputs, 0);
    absl::StatusOr<Values> again = RunProgram(**program, inputs, 1);
    if (!recorder.Check(got.status(), what) || !recorder.Check(again.status(), what)) continue;
    recorder.Check(*got == *again, what, [] { return "two runs give different bits"; });
    for (size_t i = 0; i < want->size(); ++i) {
      const Tolerance exact = {0, true};
      const std::string difference =
          Difference((*got)[i], (*want)[i], fast ? ToleranceFor(graph) : exact);
      recorder.Check(difference.empty(), what, [&] {
        return absl::StrCat(graph.outputs()[i].name, " ", difference, "\n", PrintGraph(graph, 20));
      });
    }
  }
  return *want;
}

Conformance::Conformance() {
  std::vector<std::shared_ptr<const KernelProvider>> all = {MakeOneDnnProvider(),
                                                            MakeOwnProvider()};
  providers_ = CheckProviders(std::move(all), AllOps(), 1, false).providers;
}

RowReport Conformance::CheckRow(const OpDef& op) const {
  RowReport report;
  const CompileFn compile = [this](const Graph& graph, bool fast) {
    CompileOptions options;
    options.providers = providers_;
    options.fast = fast;
    return Compile(graph, options);
  };
  RowChecker(op, compile, &report).Run();
  return report;
}

}  // namespace gradwire
