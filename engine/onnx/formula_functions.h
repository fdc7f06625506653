// File: formula_functions.h
//
// The functions of formulas (formula.h): one row each, from which the parser knows its operator and
// how many arguments it takes. A new elementwise function is one row in formula_functions.cc and a
// word in the manual page of formula.h.
//
//   const FormulaFunction* f = FindFormulaFunction("sin");  // f->op is "Sin"
//
// Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_ONNX_FORMULA_FUNCTIONS_H_
#define GRADWIRE_ENGINE_ONNX_FORMULA_FUNCTIONS_H_

#include <limits>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace gradwire {

// How a function becomes nodes.
enum class FormulaForm {
  kPlain,     // the op with the arguments as its inputs
  kReduce,    // f(x), f(x, axis): the axes are an input, the dimension goes away
  kAxis,      // f(x), f(x, axis): the axis is an attribute, -1 by default
  kExtremum,  // of several arguments elementwise, of one over all its elements
  kDot,       // sum(a*b)
  kUpper,     // with the attribute lower = 0
};

inline constexpr int kAnyNumberOfArguments = std::numeric_limits<int>::max();

struct FormulaFunction {
  absl::string_view name;
  const char* op;
  int min_arguments = 1;
  int max_arguments = 1;
  FormulaForm form = FormulaForm::kPlain;
  bool own_domain = false;  // the op is of domain "gradwire", not of ONNX
};

absl::Span<const FormulaFunction> AllFormulaFunctions();
// nullptr if there is none of that name.
const FormulaFunction* FindFormulaFunction(absl::string_view name);
// "; did you mean 'sin'?" for a name at most two letters, and half of them, away from
// a function's, else "".
std::string DidYouMean(absl::string_view name);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_FORMULA_FUNCTIONS_H_
