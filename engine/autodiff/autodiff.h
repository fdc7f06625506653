// File: autodiff.h
//
// Derivatives of Graphs, as Graphs.
//
//   Vjp       reverse mode: adds cotangent inputs for the outputs, gradients by the cotangents
//   Gradient  Vjp of one scalar output with cotangent 1
//   Jvp       forward mode: adds tangent inputs, tangents of the outputs
//   Hvp       Jvp of a gradient: needs no rule of its own
//
// The result keeps the graph's inputs (same names) and appends, at Stage::kDirection, one input for
// each cotangent, tangent or vector. Second and higher order: apply these to their own results.
//
//   GW_ASSIGN_OR_RETURN(Graph g, Gradient(graph, "f", {"x", "y"}));
//   g.FindOutput(GradientName("x"))
//
// `wrt` may name any floating input or mark of the graph; one that an output does not depend on
// gives zeros. Accumulation order is fixed by the graph. Cost: linear in nodes. Errors:
// NOT_DIFFERENTIABLE naming every node on the way that has no derivative, UNKNOWN_WRT,
// UNKNOWN_OUTPUT, NOT_SCALAR.
#ifndef GRADWIRE_ENGINE_AUTODIFF_AUTODIFF_H_
#define GRADWIRE_ENGINE_AUTODIFF_AUTODIFF_H_

#include <string>
#include <vector>

#include "engine/graph/builder.h"

namespace gradwire {

// Names of the inputs and outputs that derivatives add. Models may not use the prefix "gradwire.".
std::string CotangentName(absl::string_view output);  // input
std::string TangentName(absl::string_view name);      // input (of wrt), output (of an output)
std::string GradientName(absl::string_view wrt);      // output
std::string ProductName(absl::string_view wrt);       // output: Hessian-vector product

// Outputs: the graph's outputs, then GradientName(w) for each w of wrt. Inputs: + CotangentName(o)
// for each floating output.
absl::StatusOr<Graph> Vjp(const Graph& graph, const std::vector<std::string>& wrt);

// Outputs: `output`, then GradientName(w) for each w.
absl::StatusOr<Graph> Gradient(const Graph& graph, absl::string_view output,
                               const std::vector<std::string>& wrt);

// Outputs: the graph's outputs, then TangentName(o) for each floating output. Inputs: +
// TangentName(w) for each w.
absl::StatusOr<Graph> Jvp(const Graph& graph, const std::vector<std::string>& wrt);

// Of the scalar `output`, or, with output empty, of the sum over outputs of <cotangent, output>
// (the cotangents are then point-stage inputs). Outputs: the value(s), GradientName(w),
// ProductName(w). Inputs: + TangentName(w) for each w.
absl::StatusOr<Graph> Hvp(const Graph& graph, absl::string_view output,
                          const std::vector<std::string>& wrt);

// The walkers themselves, for builders of larger graphs (training steps, higher order): cotangents
// of `wrt` given those of `ys`; kNoValue for zero.
std::vector<ValueId> Cotangents(GraphBuilder& b, absl::Span<const ValueId> ys,
                                absl::Span<const ValueId> y_cotangents,
                                absl::Span<const ValueId> wrt);
std::vector<ValueId> Tangents(GraphBuilder& b, absl::Span<const ValueId> xs,
                              absl::Span<const ValueId> x_tangents, absl::Span<const ValueId> ys);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_AUTODIFF_AUTODIFF_H_
