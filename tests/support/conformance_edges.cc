// What lies at the edges of a row: extreme numbers, and calls that must be refused.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/support/conformance.h"

namespace gradwire {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 20;
constexpr size_t kMaxCombinations = 1024;

template <typename T>
std::vector<double> SpecialValues() {
  using Limits = std::numeric_limits<T>;
  const double denormal = Limits::denorm_min(), normal = Limits::min(), largest = Limits::max();
  const double infinity = Limits::infinity(), nan = Limits::quiet_NaN();
  return {0.0,       -0.0,       nan,     infinity, -infinity, 1e30,  -1e30, denormal,
          -denormal, normal / 4, -normal, largest,  -largest,  1.0,   -1.0,  2.5,
          -3.5,      1e-30,      1e5,     -1e5,     60.5,      -60.5, 0.5};
}

bool IsPointwiseGraph(const Graph& graph) {
  return std::all_of(graph.nodes().begin(), graph.nodes().end(), [](const Node& node) {
    return std::holds_alternative<Pointwise>(node.op->lowering) || node.num_operands == 0;
  });
}

// Runs `program` and the reference on the same inputs. An input that one refuses, both refuse.
void CompareOnce(const Graph& graph, const NamedViews& inputs, const Program& program,
                 absl::string_view what, Tolerance tolerance, Recorder& recorder) {
  absl::StatusOr<Values> want = EvaluateGuarded(graph, inputs);
  absl::StatusOr<Values> got = RunProgram(program, inputs, 0);
  if (!recorder.Check(got.status().code() == want.status().code(), what, [&] {
        return absl::StrCat(got.status().ToString(), ", the reference says ",
                            want.status().ToString());
      })) {
    return;
  }
  if (!want.ok()) {
    recorder.Check(!ReasonNameOf(want.status()).empty(), what,
                   [&] { return absl::StrCat("no reason: ", want.status().ToString()); });
    return;
  }
  for (size_t i = 0; i < want->size(); ++i) {
    const std::string difference = Difference((*got)[i], (*want)[i], tolerance);
    recorder.Check(difference.empty(), what, [&] {
      std::string at;
      for (const auto& [name, view] : inputs) {
        absl::StrAppend(&at, " ", name, "=");
        for (int64_t k = 0; k < std::min<int64_t>(view.num_elements(), 64); ++k) {
          absl::StrAppend(&at, ElementAsDouble(view, k), ",");
        }
      }
      return absl::StrCat(difference, " for", at);
    });
  }
}

// ---- Calls that may be refused

// A plan that was bent. If it is refused, then with a reason; if not, it works like any other.
void CheckBent(const CasePlan& plan, absl::string_view what, bool must_fail,
               const CompileFn& compile, Recorder& recorder) {
  recorder.Enter(absl::StrCat(plan.ToString(), " (", what, ")"));
  absl::StatusOr<OpCase> built = BuildCase(plan);
  if (!built.ok()) {
    recorder.Check(!ReasonNameOf(built.status()).empty(), "refusal",
                   [&] { return absl::StrCat("no reason: ", built.status().ToString()); });
    return;
  }
  if (!recorder.Check(!must_fail, "refusal", [] { return "is accepted"; })) return;
  recorder.Check(VerifyGraph(built->graph), "VerifyGraph");
  int64_t bytes = 0;
  for (ValueId v = 0; v < built->graph.num_values(); ++v) {
    bytes = std::min(bytes + std::min(built->graph.type(v).bytes(), 2 * kMaxBytes), 2 * kMaxBytes);
  }
  if (bytes > kMaxBytes) return;
  for (const bool fast : {false, true}) {
    auto program = compile(built->graph, fast);
    if (!recorder.Check(program.status(), "Compile")) continue;
    CompareOnce(built->graph, built->inputs, **program, fast ? "fast kernels" : "reference",
                {64, false}, recorder);
  }
}

std::vector<AttrValue> OtherAttrValues(const AttrValue& value) {
  constexpr int64_t kLow = std::numeric_limits<int64_t>::min();
  constexpr int64_t kHigh = std::numeric_limits<int64_t>::max();
  std::vector<AttrValue> out;
  if (std::holds_alternative<int64_t>(value)) {
    out = {std::string("x"), kLow, kHigh, int64_t{-1}, int64_t{100}};
  } else if (std::holds_alternative<std::vector<int64_t>>(value)) {
    out = {int64_t{1},
           std::vector<int64_t>{},
           std::vector<int64_t>{kLow, kHigh},
           std::vector<int64_t>(40, 1),
           std::vector<int64_t>{kHigh},
           std::vector<int64_t>{-9}};
  } else if (std::holds_alternative<double>(value)) {
    out = {std::string("x"), std::nan(""), std::numeric_limits<double>::infinity()};
  } else {
    out = {int64_t{1}, std::string("x"), Tensor()};
  }
  return out;
}

Attrs Replaced(const Attrs& attrs, absl::string_view name, const AttrValue* value) {
  std::vector<Attrs::Entry> entries;
  for (const Attrs::Entry& entry : attrs.entries()) {
    if (entry.first != name) {
      entries.push_back(entry);
    } else if (value != nullptr) {
      entries.emplace_back(entry.first, *value);
    }
  }
  return Attrs(std::move(entries));
}

// A mixture of FLOAT and DOUBLE that is taken means the same as one of them throughout.
void CheckMixture(const CasePlan& plan, const CasePlan& mixed, Recorder& recorder) {
  absl::StatusOr<OpCase> one = BuildCase(plan), other = BuildCase(mixed);
  if (!one.ok() || !other.ok()) return;
  absl::StatusOr<Values> want = EvaluateGuarded(one->graph, one->inputs);
  absl::StatusOr<Values> got = EvaluateGuarded(other->graph, other->inputs);
  if (!want.ok() || !got.ok()) return;
  for (Values* values : {&*want, &*got}) {
    for (Tensor& t : *values) {
      if (IsFloating(t.dtype())) t = Converted(t, DType::kDouble);
    }
  }
  Values narrow;
  for (const Tensor& t : *got) {
    narrow.push_back(IsFloating(t.dtype()) ? Converted(t, DType::kFloat) : t);
  }
  const std::string difference = FloatDifference(narrow, *want);
  recorder.Check(difference.empty(), "mixed types", [&] { return difference; });
}

class Bender {
 public:
  Bender(const CasePlan& plan, const CompileFn& compile, Recorder& recorder)
      : plan_(plan), compile_(compile), recorder_(recorder) {}

  void Run() {
    BendInputs();
    BendAttrs();
    CasePlan more = plan_;
    more.sample.inputs.push_back({.shape = {2}, .dtype = DType::kInt64, .values = {0, 1}});
    Check(more, "one more input");
    if (plan_.generated && plan_.op->min_inputs > 1) BendBroadcasting();
  }

 private:
  void Check(const CasePlan& bent, absl::string_view what, bool must_fail = false) {
    CheckBent(bent, what, must_fail, compile_, recorder_);
  }

  void BendInputs() {
    for (size_t i = 0; i < plan_.sample.inputs.size(); ++i) {
      CasePlan bent = plan_;
      SampleInput& input = bent.sample.inputs[i];
      const SampleInput original = input;
      for (DType dtype : {DType::kBool, DType::kFloat, DType::kDouble, DType::kInt32, DType::kUint8,
                          DType::kFloat16}) {
        input.dtype = dtype;
        Check(bent, absl::StrCat("input ", i, " of another type"));
        const DType known = original.dtype == DType::kUndefined ? plan_.dtype : original.dtype;
        if (IsFloating(known) && IsFloating(dtype)) CheckMixture(plan_, bent, recorder_);
      }
      input = original;
      input.shape.push_back(7);
      Check(bent, absl::StrCat("input ", i, " of another rank"));
      input = original;
      if (!input.shape.empty()) input.shape.back() += 4;
      Check(bent, absl::StrCat("input ", i, " of another extent"));
      if (!input.shape.empty()) input.shape.front() = 0;
      Check(bent, absl::StrCat("input ", i, " empty"));
      input = original;
      input.absent = true;
      Check(bent, absl::StrCat("input ", i, " left out"));
      input = original;
      if (input.values.empty() || IsFloating(input.dtype)) continue;
      for (double value : {1000.0, -1000.0, -9.2e18, 9.2e18}) {
        input.values = {value};
        Check(bent, absl::StrCat("input ", i, " all ", value));
      }
    }
  }

  void BendAttrs() {
    for (const Attrs::Entry& entry : plan_.sample.attrs.entries()) {
      CasePlan bent = plan_;
      bent.sample.attrs = Replaced(plan_.sample.attrs, entry.first, nullptr);
      Check(bent, absl::StrCat("without ", entry.first));
      for (const AttrValue& value : OtherAttrValues(entry.second)) {
        bent.sample.attrs = Replaced(plan_.sample.attrs, entry.first, &value);
        Check(bent, absl::StrCat("another ", entry.first));
      }
    }
  }

  void BendBroadcasting() {
    CasePlan bent = plan_;
    for (SampleInput& input : bent.sample.inputs) input.shape = {2, 3};
    bent.sample.inputs.back().shape = {2};
    Check(bent, "shapes that do not broadcast", true);
    bent.sample.inputs.back().shape = {3, 3};
    Check(bent, "shapes that do not broadcast", true);
  }

  const CasePlan& plan_;
  const CompileFn& compile_;
  Recorder& recorder_;
};

}  // namespace

void CheckSpecialValues(const OpCase& c, const CompileFn& compile, Recorder& recorder) {
  if (!IsPointwiseGraph(c.graph)) return;
  size_t floating = 0;
  int64_t elements = 0;
  for (const auto& [name, view] : c.inputs) {
    if (IsFloating(view.dtype())) {
      ++floating;
      elements = std::max(elements, view.num_elements());
    }
  }
  if (floating == 0 || elements < 4) return;
  auto program = compile(c.graph, true);
  if (!recorder.Check(program.status(), "Compile")) return;
  size_t combinations = 1;
  for (size_t i = 0; i < floating; ++i) {
    combinations = std::min(combinations * SpecialValues<float>().size(), kMaxCombinations);
  }
  for (size_t first = 0; first < combinations; first += static_cast<size_t>(elements)) {
    NamedViews inputs = c.inputs;
    std::vector<Tensor> data;
    size_t divisor = 1;
    for (const GraphInput& input : c.graph.inputs()) {
      const TensorType& type = c.graph.type(input.value);
      if (!IsFloating(type.dtype)) continue;
      const std::vector<double> special =
          type.dtype == DType::kFloat ? SpecialValues<float>() : SpecialValues<double>();
      Tensor tensor(type);
      for (int64_t k = 0; k < tensor.num_elements(); ++k) {
        const double x = special[(first + static_cast<size_t>(k)) / divisor % special.size()];
        if (type.dtype == DType::kFloat) tensor.mutable_data<float>()[k] = static_cast<float>(x);
        if (type.dtype == DType::kDouble) tensor.mutable_data<double>()[k] = x;
      }
      divisor *= special.size();
      data.push_back(std::move(tensor));
      inputs[input.name] = data.back();
    }
    CompareOnce(c.graph, inputs, **program, "special values", ToleranceFor(c.graph), recorder);
  }
}

void CheckRejections(const CasePlan& plan, const CompileFn& compile, Recorder& recorder) {
  Bender(plan, compile, recorder).Run();
}

}  // namespace gradwire
