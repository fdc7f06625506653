// Derivatives of one case: against differences, against each other, and their kernels.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/autodiff/autodiff.h"
#include "tests/support/conformance.h"

namespace gradwire {
namespace {

constexpr int64_t kMaxBytes = int64_t{64} << 20;
constexpr int kDirections = 2;

struct Precisions {
  std::vector<double> steps;  // one of these has to do: the largest that no kink is in reach of
  double differences;         // relative
  double adjoint;
};
// A graph that rounds to FLOAT on its way is a staircase for small steps.
Precisions PrecisionOf(const Graph& graph) {
  for (ValueId v = 0; v < graph.num_values(); ++v) {
    if (graph.type(v).dtype == DType::kFloat) return {{0.1}, 3e-3, 1e-4};
  }
  return {{1e-2, 1e-3, 1e-4}, 1e-7, 1e-9};
}

double Dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.num_elements(); ++i) {
    sum += ElementAsDouble(a, i) * ElementAsDouble(b, i);
  }
  return sum;
}

double DotOfMagnitudes(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.num_elements(); ++i) {
    sum += std::fabs(ElementAsDouble(a, i) * ElementAsDouble(b, i));
  }
  return sum;
}

Tensor Moved(const TensorView& x, const Tensor& direction, double step) {
  Tensor out = Tensor::CopyOf(x);
  VisitDType(x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < out.num_elements(); ++i) {
      out.mutable_data<T>()[i] =
          static_cast<T>(ElementAsDouble(x, i) + step * ElementAsDouble(direction, i));
    }
  });
  return out;
}

// Inputs by name that own their data.
class Point {
 public:
  explicit Point(const NamedViews& views) : views_(views) {}
  Point(const Point&) = delete;
  void Set(const std::string& name, Tensor value) {
    data_.push_back(std::move(value));
    views_[name] = data_.back();
  }
  const NamedViews& views() const { return views_; }

 private:
  NamedViews views_;
  std::vector<Tensor> data_;
};

absl::StatusOr<Values> Evaluate(const Graph& graph, const NamedViews& inputs,
                                const std::vector<std::string>& outputs) {
  std::vector<ValueId> wanted;
  for (const std::string& name : outputs) wanted.push_back(graph.FindOutput(name));
  return EvaluateByReference(graph, inputs, wanted, kMaxBytes);
}

class DerivativeChecker {
 public:
  DerivativeChecker(const OpDef& op, const OpCase& c, const CompileFn& compile, Recorder& recorder)
      : op_(op), case_(c), compile_(compile), recorder_(recorder), draw_(op.name) {
    for (const GraphOutput& o : c.graph.outputs()) {
      if (IsFloating(c.graph.type(o.value).dtype)) outputs_.push_back(o.name);
    }
  }

  void Run(bool compare) {
    if (const auto* none = std::get_if<NotDifferentiable>(&op_.derivative)) {
      GiveReason(absl::StrCat("not differentiable: ", none->why));
      return ExpectRefusal();
    }
    if (case_.wrt.empty() || outputs_.empty()) {
      return GiveReason(outputs_.empty() ? "no floating output" : "no floating input");
    }
    if (!Derive()) return;
    CheckKernels();
    if (!compare) return;
    if (StopsGradients()) {
      GiveReason("passes its input on and has derivative 0 by definition (checked to be 0)");
      return CheckZero();
    }
    for (int i = 0; i < kDirections; ++i) {
      Randomize();
      CompareAdjoint();
      CompareFirstOrder();
      CompareSecondOrder();
    }
    const TensorType& out = case_.graph.type(case_.graph.FindOutput(outputs_[0]));
    if (out.shape.num_elements() > 0) ++recorder_.report().gradient_checks;
  }

 private:
  // The first one: later cases may lack what is compared for less interesting reasons.
  void GiveReason(const std::string& reason) {
    std::string& known = recorder_.report().no_gradient_check;
    if (known.empty()) known = reason;
  }

  void ExpectRefusal() {
    if (case_.wrt.empty() || outputs_.empty()) return;
    const absl::Status status = Vjp(case_.graph, case_.wrt).status();
    recorder_.Check(HasReason(status, Reason::kNotDifferentiable), "refusal",
                    [&] { return status.ToString(); });
  }

  bool Derive() {
    absl::StatusOr<Graph> vjp = Vjp(case_.graph, case_.wrt);
    absl::StatusOr<Graph> jvp = Jvp(case_.graph, case_.wrt);
    absl::StatusOr<Graph> hvp = Hvp(case_.graph, "", case_.wrt);
    const bool made = recorder_.Check(vjp.status(), "Vjp") & recorder_.Check(jvp.status(), "Jvp") &
                      recorder_.Check(hvp.status(), "Hvp");
    if (!made) return false;
    vjp_ = *std::move(vjp);
    jvp_ = *std::move(jvp);
    hvp_ = *std::move(hvp);
    return true;
  }

  // Random cotangents for the outputs and tangents for what is differentiated by.
  void Randomize() {
    cotangents_.clear();
    tangents_.clear();
    for (const std::string& name : outputs_) {
      cotangents_.push_back(
          DrawTensor(case_.graph.type(case_.graph.FindOutput(name)), -1, 1, draw_));
    }
    for (const std::string& name : case_.wrt) {
      tangents_.push_back(DrawTensor(case_.inputs.at(name).type(), -1, 1, draw_));
    }
  }

  // Every input that a derivative graph may have, moved by `step` along the tangents.
  void SetInputs(Point& point, double step) const {
    for (size_t i = 0; i < outputs_.size(); ++i) {
      point.Set(CotangentName(outputs_[i]), cotangents_[i]);
    }
    for (size_t i = 0; i < case_.wrt.size(); ++i) {
      point.Set(TangentName(case_.wrt[i]), tangents_[i]);
      if (step != 0) {
        point.Set(case_.wrt[i], Moved(case_.inputs.at(case_.wrt[i]), tangents_[i], step));
      }
    }
  }

  void CheckKernels() {
    Randomize();
    Point point(case_.inputs);
    SetInputs(point, 0);
    for (const Graph* graph : {&vjp_, &jvp_, &hvp_}) {
      CheckExecution(*graph, point.views(), compile_, recorder_);
    }
  }

  // A row that hands its input on unchanged and yet has derivative zero does so on purpose.
  bool StopsGradients() const {
    if (!std::holds_alternative<Zero>(op_.derivative) || op_.infer == nullptr) return false;
    absl::StatusOr<Values> values = Evaluate(case_.graph, case_.inputs, outputs_);
    return values.ok() && values->size() == 1 && case_.wrt.size() == 1 &&
           (*values)[0] == Tensor::CopyOf(case_.inputs.at(case_.wrt[0]));
  }

  void CheckZero() {
    Point point(case_.inputs);
    SetInputs(point, 0);
    absl::StatusOr<Values> values = Evaluate(vjp_, point.views(), {GradientName(case_.wrt[0])});
    if (!recorder_.Check(values.status(), "gradient")) return;
    recorder_.Check((*values)[0] == Tensor((*values)[0].type()), "gradient",
                    [] { return "is not 0"; });
  }

  // One number of a graph at x + step * tangents: the sum of products of outputs and weights.
  double Weighed(const Graph& graph, double step, const std::vector<std::string>& names,
                 const Values& weights) const {
    Point point(case_.inputs);
    SetInputs(point, step);
    absl::StatusOr<Values> values = Evaluate(graph, point.views(), names);
    if (!recorder_.Check(values.status(), "evaluation")) return std::nan("");
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) sum += Dot((*values)[i], weights[i]);
    return sum;
  }

  // Central differences, extrapolated by Richardson, of Weighed at 0.
  void CompareWithDifferences(absl::string_view what, double derivative, const Graph& graph,
                              const std::vector<std::string>& names, const Values& weights) {
    const Precisions precision = PrecisionOf(graph);
    double best = std::nan("");
    for (const double step : precision.steps) {
      const auto difference = [&](double h) {
        return (Weighed(graph, h, names, weights) - Weighed(graph, -h, names, weights)) / (2 * h);
      };
      const double estimate = (4 * difference(step / 2) - difference(step)) / 3;
      if (!(std::fabs(estimate - derivative) >= std::fabs(best - derivative))) best = estimate;
      const double bound =
          precision.differences * (1 + std::max(std::fabs(estimate), std::fabs(derivative)));
      if (std::fabs(estimate - derivative) <= bound) {
        ++recorder_.report().checks;
        return;
      }
    }
    recorder_.Check(false, what,
                    [&] { return absl::StrCat("is ", derivative, ", differences give ", best); });
  }

  template <typename Name>
  std::vector<std::string> NamesOf(const std::vector<std::string>& of, Name name) const {
    std::vector<std::string> out;
    for (const std::string& s : of) out.push_back(name(s));
    return out;
  }

  void CompareFirstOrder() {
    const double derivative = Weighed(vjp_, 0, NamesOf(case_.wrt, GradientName), tangents_);
    CompareWithDifferences("gradient", derivative, case_.graph, outputs_, cotangents_);
  }

  // <u, H v> against differences of <u, gradient> along v, for a third direction u.
  void CompareSecondOrder() {
    Values u;
    for (const Tensor& t : tangents_) u.push_back(DrawTensor(t.type(), -1, 1, draw_));
    const double derivative = Weighed(hvp_, 0, NamesOf(case_.wrt, ProductName), u);
    CompareWithDifferences("Hessian-vector product", derivative, vjp_,
                           NamesOf(case_.wrt, GradientName), u);
  }

  // <cotangents, J tangents> = <J' cotangents, tangents>.
  void CompareAdjoint() {
    Point point(case_.inputs);
    SetInputs(point, 0);
    absl::StatusOr<Values> pushed = Evaluate(jvp_, point.views(), NamesOf(outputs_, TangentName));
    absl::StatusOr<Values> pulled = Evaluate(vjp_, point.views(), NamesOf(case_.wrt, GradientName));
    if (!recorder_.Check(pushed.status(), "jvp") || !recorder_.Check(pulled.status(), "vjp")) {
      return;
    }
    double forward = 0, backward = 0, scale = 1e-300;
    for (size_t i = 0; i < pushed->size(); ++i) {
      forward += Dot((*pushed)[i], cotangents_[i]);
      scale += DotOfMagnitudes((*pushed)[i], cotangents_[i]);
    }
    for (size_t i = 0; i < pulled->size(); ++i) {
      backward += Dot((*pulled)[i], tangents_[i]);
      scale += DotOfMagnitudes((*pulled)[i], tangents_[i]);
    }
    recorder_.Check(std::fabs(forward - backward) <= PrecisionOf(hvp_).adjoint * scale, "adjoint",
                    [&] { return absl::StrCat("<v, Ju> = ", forward, ", <J'v, u> = ", backward); });
  }

  const OpDef& op_;
  const OpCase& case_;
  const CompileFn& compile_;
  Recorder& recorder_;
  Draw draw_;
  std::vector<std::string> outputs_;  // the floating ones
  Graph vjp_, jvp_, hvp_;
  Values cotangents_, tangents_;
};

}  // namespace

void CheckDerivatives(const OpDef& op, const OpCase& c, bool compare, const CompileFn& compile,
                      Recorder& recorder) {
  DerivativeChecker(op, c, compile, recorder).Run(compare);
}

}  // namespace gradwire
