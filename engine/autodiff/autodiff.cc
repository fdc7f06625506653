#include "engine/autodiff/autodiff.h"

#include "engine/ops/builders.h"

namespace gradwire {
namespace {

using Names = std::vector<std::string>;

absl::StatusOr<ValueId> FindWrt(const Graph& graph, absl::string_view name) {
  const ValueId v = graph.FindNamed(name);
  if (v == kNoValue) {
    return Error(Reason::kUnknownWrt, absl::StrCat("wrt: there is no value \"", name, "\""));
  }
  if (!IsFloating(graph.type(v).dtype)) {
    return Error(Reason::kNotDifferentiable,
                 absl::StrCat("wrt: \"", name, "\" is ", graph.type(v).ToString(),
                              "; only FLOAT and DOUBLE values have derivatives"));
  }
  return v;
}

absl::StatusOr<std::vector<ValueId>> FindWrts(const Graph& graph, const Names& wrt) {
  std::vector<ValueId> out;
  Problems problems;
  for (const std::string& name : wrt) {
    absl::StatusOr<ValueId> v = FindWrt(graph, name);
    if (v.ok()) out.push_back(*v);
    problems.Add(v.status(), "");
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

absl::StatusOr<ValueId> FindScalar(const Graph& graph, absl::string_view output) {
  const ValueId y = graph.FindOutput(output);
  if (y == kNoValue) {
    return Error(Reason::kUnknownOutput, absl::StrCat("there is no output \"", output, "\""));
  }
  const TensorType& type = graph.type(y);
  if (type.shape.num_elements() != 1) {
    return Error(Reason::kNotScalar,
                 absl::StrCat("output \"", output, "\" is ", type.ToString(),
                              ", expected one element; use a vjp with a cotangent, or add a "
                              "reduction to the model"));
  }
  if (!IsFloating(type.dtype)) {
    return Error(Reason::kNotDifferentiable,
                 absl::StrCat("output \"", output, "\" is ", type.ToString(),
                              "; only FLOAT and DOUBLE values have derivatives"));
  }
  return y;
}

void OutputGradients(GraphBuilder& b, const Names& wrt, absl::Span<const ValueId> xs,
                     absl::Span<const ValueId> gradients) {
  for (size_t i = 0; i < wrt.size(); ++i) {
    b.Output(GradientName(wrt[i]), gradients[i] != kNoValue ? gradients[i] : b.Zeros(xs[i]));
  }
}

// Vjp whose cotangent inputs have the given stage.
absl::StatusOr<Graph> VjpAtStage(const Graph& graph, const Names& wrt, Stage stage) {
  GW_ASSIGN_OR_RETURN(const std::vector<ValueId> xs, FindWrts(graph, wrt));
  GraphBuilder b(graph);
  std::vector<ValueId> ys, cotangents;
  for (const GraphOutput& o : graph.outputs()) {
    b.Output(o.name, o.value);
    if (!IsFloating(b.dtype(o.value))) continue;
    ys.push_back(o.value);
    cotangents.push_back(b.Input(CotangentName(o.name), TensorType(b.type(o.value)), stage));
  }
  OutputGradients(b, wrt, xs, Cotangents(b, ys, cotangents, xs));
  return std::move(b).Build();
}

}  // namespace

std::string CotangentName(absl::string_view output) {
  return absl::StrCat("gradwire.cotangent.", output);
}
std::string TangentName(absl::string_view name) { return absl::StrCat("gradwire.tangent.", name); }
std::string GradientName(absl::string_view wrt) { return absl::StrCat("gradwire.gradient.", wrt); }
std::string ProductName(absl::string_view wrt) { return TangentName(GradientName(wrt)); }

absl::StatusOr<Graph> Vjp(const Graph& graph, const Names& wrt) {
  return VjpAtStage(graph, wrt, Stage::kDirection);
}

absl::StatusOr<Graph> Gradient(const Graph& graph, absl::string_view output, const Names& wrt) {
  GW_ASSIGN_OR_RETURN(const ValueId y, FindScalar(graph, output));
  GW_ASSIGN_OR_RETURN(const std::vector<ValueId> xs, FindWrts(graph, wrt));
  GraphBuilder b(graph);
  b.Output(output, y);
  const ValueId one = b.Full(TensorType(b.type(y)), 1);
  OutputGradients(b, wrt, xs, Cotangents(b, {y}, {one}, xs));
  return std::move(b).Build();
}

absl::StatusOr<Graph> Jvp(const Graph& graph, const Names& wrt) {
  GW_ASSIGN_OR_RETURN(const std::vector<ValueId> xs, FindWrts(graph, wrt));
  GraphBuilder b(graph);
  std::vector<ValueId> x_tangents, ys;
  for (size_t i = 0; i < xs.size(); ++i) {
    x_tangents.push_back(
        b.Input(TangentName(wrt[i]), TensorType(b.type(xs[i])), Stage::kDirection));
  }
  for (const GraphOutput& o : graph.outputs()) {
    b.Output(o.name, o.value);
    ys.push_back(o.value);
  }
  const std::vector<ValueId> tangents = Tangents(b, xs, x_tangents, ys);
  for (size_t i = 0; i < ys.size(); ++i) {
    if (!IsFloating(b.dtype(ys[i]))) continue;
    b.Output(TangentName(graph.outputs()[i].name),
             tangents[i] != kNoValue ? tangents[i] : b.Zeros(ys[i]));
  }
  return std::move(b).Build();
}

absl::StatusOr<Graph> Hvp(const Graph& graph, absl::string_view output, const Names& wrt) {
  absl::StatusOr<Graph> gradient =
      output.empty() ? VjpAtStage(graph, wrt, Stage::kPoint) : Gradient(graph, output, wrt);
  GW_RETURN_IF_ERROR(gradient.status());
  GW_ASSIGN_OR_RETURN(const std::vector<ValueId> xs, FindWrts(*gradient, wrt));
  GraphBuilder b(*gradient);
  std::vector<ValueId> vectors, gradients;
  for (size_t i = 0; i < xs.size(); ++i) {
    vectors.push_back(b.Input(TangentName(wrt[i]), TensorType(b.type(xs[i])), Stage::kDirection));
    gradients.push_back(gradient->FindOutput(GradientName(wrt[i])));
  }
  for (const GraphOutput& o : gradient->outputs()) b.Output(o.name, o.value);
  const std::vector<ValueId> products = Tangents(b, xs, vectors, gradients);
  for (size_t i = 0; i < wrt.size(); ++i) {
    b.Output(ProductName(wrt[i]), products[i] != kNoValue ? products[i] : b.Zeros(xs[i]));
  }
  return std::move(b).Build();
}

}  // namespace gradwire
