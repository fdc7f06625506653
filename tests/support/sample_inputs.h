// File: sample_inputs.h
//
// Test cases of ops, computed from the rows of the op table alone.
//
//   for (const CasePlan& plan : PlanCases(op)) {
//     absl::StatusOr<OpCase> c = BuildCase(plan);
//     ... c->graph, c->inputs
//   }
//
// A row that ONNX spells becomes a model of one node that goes through Specialize, for each of its
// bindings; a row without a spelling is built with GraphBuilder. Rows of pointwise ops give an
// interval and get shapes of rank 0 to 4, of size 0 and with broadcasting by themselves; samples of
// rows are taken as they are. Values depend on the plan only: a failure can be repeated.
#ifndef GRADWIRE_TESTS_SUPPORT_SAMPLE_INPUTS_H_
#define GRADWIRE_TESTS_SUPPORT_SAMPLE_INPUTS_H_

#include <string>
#include <vector>

#include "engine/exec/specialize.h"
#include "engine/graph/op_def.h"

namespace gradwire {

struct CasePlan {
  const OpDef* op = nullptr;
  const OnnxBinding* binding = nullptr;  // null: by GraphBuilder
  int opset = 0;
  Sample sample;
  DType dtype = DType::kUndefined;  // of inputs that leave theirs open; undefined: none does
  Mode mode = Mode::kAsGraph;
  bool generated = false;    // shapes made from the row's interval
  bool values_only = false;  // another opset of a plan that is there: its derivatives are the same

  std::string ToString() const;  // 'Add opset 18 FLOAT[2,3] FLOAT[3]'
};

struct OpCase {
  Graph graph;
  NamedViews inputs;             // a value for every input of `graph`
  std::vector<std::string> wrt;  // the floating inputs that a call would give
  std::vector<Tensor> data;      // what `inputs` looks at
};

// Every plan of a row. Both FLOAT and DOUBLE where a type is open; integers too where the row takes
// them. Empty where the row gives nothing to make a case of.
std::vector<CasePlan> PlanCases(const OpDef& op);

// The case of a plan, with values drawn by `salt`. Errors are those of the row or of Specialize.
absl::StatusOr<OpCase> BuildCase(const CasePlan& plan, uint64_t salt = 0);

// True if a generated case of this row can have inputs of `dtype`, as its type rule says.
bool AdmitsGenerated(const OpDef& op, DType dtype);
// True if the row is given shapes by itself.
bool GetsGeneratedShapes(const OpDef& op);

// Reproducible numbers in [0, 1).
class Draw {
 public:
  explicit Draw(absl::string_view key, uint64_t salt = 0);
  double Uniform();
  double Uniform(double low, double high) { return low + (high - low) * Uniform(); }

 private:
  uint64_t state_;
};

// A tensor of that type, uniform in [low, high); floating values are exact in FLOAT, so that FLOAT
// and DOUBLE cases have the same inputs; integers lie in [low, high), booleans are either.
Tensor DrawTensor(const TensorType& type, double low, double high, Draw& draw);

}  // namespace gradwire

#endif  // GRADWIRE_TESTS_SUPPORT_SAMPLE_INPUTS_H_
