// File: formula.h
//
// Reads a formula, the shortest way to write a model, and gives it as an ONNX model:
//
//   FormulaTypes types;
//   types.inputs["w"] = DType::kFloat;  // what is not listed is DOUBLE
//   absl::StatusOr<onnx::ModelProto> model = ParseFormula("r = x @ w - y; sum(r^2) / 2", types);
//   // inputs x, w, y (in order of first appearance); output "f"
//
// A formula is a list of statements, each ended by `;` or by the end of its line (a line goes on
// inside parentheses and brackets).
//   u = EXPR        names a value; every name is given once
//   EXPR            as the last statement: the output, called f (f_, f__, ... where the formula
//                   itself uses f); elsewhere its value is dropped
//   return u, v     as the last statement: these named values are the outputs
// Without `return` the last statement, named or not, is the only output. Names that no statement
// defines are the inputs. A name is letters, digits and `_`, and does not start with a digit.
//
// Operators, from the loosest to the tightest:
//   < <= > >= == !=     give bool; they do not chain
//   + -                 elementwise with broadcasting
//   * / @               @ is the matrix product
//   -x +x
//   a^b                 groups to the right: a^b^c = a^(b^c), -x^2 = -(x^2), 2^-3 = 2^(-3)
//   x[i] x[a:b]         along the first axis, i, a, b integers, negative ones from the end;
//                       a and b may be left out
// Functions:
//   abs sign sqrt exp log log1p expm1 sin cos tan asin acos atan sinh cosh tanh erf erfinv lgamma
//   digamma trigamma sigmoid relu softplus    elementwise
//   pow(a,b) min(a,b,...) max(a,b,...) clip(x,low,high) where(condition,a,b)
//   sum mean prod logsumexp   of all elements, or f(x, axis) along one, which goes away
//   min(x) max(x)       of all elements
//   softmax log_softmax f(x) along the last axis, f(x, axis)
//   norm(x) = sqrt(sum(x*x))   dot(a,b) = sum(a*b)   matmul(a,b)   transpose(x)
//   cholesky(a)   inv(a)   det(a)   logdet(a)   of a matrix, or each of a stack [..., n, n]
//   solve(a,b)   solve_lower(a,b)   solve_upper(a,b)    x with a @ x = b, b [..., n, m] or [n]; the
//                       latter two read that triangle of a only; cholesky reads the lower one
// `pi` is a constant. Numbers: 2, 0.5, .5, 1e-3.
//
// The model: opset 18 (and domain "gradwire", version 1, where one of its ops is used), one node
// per operation, called after its operator and place: `Pow_at_2` stands in column 2, `Mul_at_3_7`
// in line 3. Values without a name are _1, _2, ... . Numbers are Constant nodes, FLOAT where there
// is a FLOAT input and no DOUBLE one, else DOUBLE. Inputs have an element type and no shape:
// shapes come with the call. Outputs have no type. x^2 is a Pow by a Constant.
//
// Errors: INVALID_MODEL, pointing at the place (and naming the line where there are several):
//   formula: column 5: unknown function 'sine'; did you mean 'sin'?
//   x + sine(y)
//       ^
// GRAPH_TOO_LARGE where it makes more than `max_nodes` nodes, or has far more words than that.
// Cost: linear in the formula. Parentheses, brackets, signs and powers nest at most
// kMaxFormulaNesting deep; sums and products may be as long as they like. Any bytes may be passed.
// Thread-safety: pure function.
#ifndef GRADWIRE_ENGINE_ONNX_FORMULA_H_
#define GRADWIRE_ENGINE_ONNX_FORMULA_H_

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/onnx/text_scanner.h"
#include "engine/tensor/dtype.h"
#include "onnx/onnx.pb.h"

namespace gradwire {

inline constexpr int kMaxFormulaNesting = 256;

// What is known about the inputs of a formula before it is read: what the call sends.
struct FormulaTypes {
  // By name; a name that the formula does not use is ignored.
  absl::flat_hash_map<std::string, DType> inputs;
};

// Reads one formula; see above.
absl::StatusOr<onnx::ModelProto> ParseFormula(absl::string_view formula, const FormulaTypes& types,
                                              int64_t max_nodes = kDefaultMaxNodes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_FORMULA_H_
