// File: conformance.h
//
// What every row of the op table has to hold, whatever it is. One call checks a row:
//
//   const Conformance conformance;
//   RowReport report = conformance.CheckRow(op);
//   report.failures   // empty: it holds
//
// Values       the reference fills exactly the inferred types; Compile with and without fast
//              kernels agrees with it; two runs give equal bits; FLOAT agrees with DOUBLE
// Derivatives  vjp and Hessian-vector products against differences, jvp against vjp, and the
//              values of all derivative graphs as above
// Edges        NaN, infinities, denormals and huge numbers through pointwise graphs; wrong types,
//              shapes, attributes and numbers of inputs give errors with a reason
//
// Nothing here knows an op by name. Thread-safety: none.
#ifndef GRADWIRE_TESTS_SUPPORT_CONFORMANCE_H_
#define GRADWIRE_TESTS_SUPPORT_CONFORMANCE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/exec/compile.h"
#include "tests/support/sample_inputs.h"

namespace gradwire {

struct RowReport {
  int64_t cases = 0;
  int64_t checks = 0;
  int64_t gradient_checks = 0;
  std::vector<std::string> failures;  // "what it was: what came out", the first few
  // Why no derivative of this row was compared with differences; empty if one was.
  std::string no_gradient_check;
};

class Conformance {
 public:
  Conformance();
  RowReport CheckRow(const OpDef& op) const;

 private:
  std::vector<std::shared_ptr<const KernelProvider>> providers_;
};

// ---- Parts, for conformance*.cc

// Collects what fails, with the case it failed in.
class Recorder {
 public:
  explicit Recorder(RowReport* report) : report_(report) {}
  void Enter(std::string where) { where_ = std::move(where); }
  // Returns `ok`. `message` is made only where it is needed.
  bool Check(bool ok, absl::string_view what, const std::function<std::string()>& message);
  bool Check(const absl::Status& status, absl::string_view what);
  RowReport& report() { return *report_; }

 private:
  RowReport* report_;
  std::string where_;
};

// What is compiled in the tests: with fast kernels, or the oracle.
using CompileFn =
    std::function<absl::StatusOr<std::shared_ptr<const Program>>(const Graph&, bool fast)>;

// By name, in the order of the graph's outputs.
using Values = std::vector<Tensor>;

// How far two floating values may be apart: |a - b| <= epsilons * eps * (relative to b, or to the
// largest finite number of the tensor, at least 1).
struct Tolerance {
  double epsilons = 16;
  bool per_element = true;
};
// For a graph: single nodes are held to ULPs, what is made of several nodes may cancel.
Tolerance ToleranceFor(const Graph& graph);
// "" where they agree: NaN with NaN, infinities alike, other types exactly.
std::string Difference(const Tensor& got, const Tensor& want, Tolerance tolerance);
// "" where outputs of FLOAT are those of DOUBLE, up to FLOAT's precision.
std::string FloatDifference(const Values& narrow, const Values& wide);

// Every reference kernel of the graph on poisoned buffers with guarded ends: an output that is not
// written, or written past its inferred type, is an error.
absl::StatusOr<Values> EvaluateGuarded(const Graph& graph, const NamedViews& inputs);
// Runs on a poisoned arena, inputs shifted by `shift` elements from aligned memory.
absl::StatusOr<Values> RunProgram(const Program& program, const NamedViews& inputs, int shift);
// All of "Values" above for one graph. Returns the reference's outputs, empty after a failure.
Values CheckExecution(const Graph& graph, const NamedViews& inputs, const CompileFn& compile,
                      Recorder& recorder);

// conformance_nodes.cc: each node's types against what its lowering says of them; and nodes like
// those of the graph, with attributes that are a little off.
bool CheckNodes(const Graph& graph, Recorder& recorder);
void CheckBentNodes(const Graph& graph, Recorder& recorder);

// conformance_derivatives.cc. With `compare` the derivatives are compared with differences.
void CheckDerivatives(const OpDef& op, const OpCase& c, bool compare, const CompileFn& compile,
                      Recorder& recorder);

// conformance_edges.cc
void CheckSpecialValues(const OpCase& c, const CompileFn& compile, Recorder& recorder);
void CheckRejections(const CasePlan& plan, const CompileFn& compile, Recorder& recorder);

}  // namespace gradwire

#endif  // GRADWIRE_TESTS_SUPPORT_CONFORMANCE_H_
