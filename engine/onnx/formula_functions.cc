#include "engine/onnx/formula_functions.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace gradwire {
namespace {

constexpr FormulaFunction kFunctions[] = {
    {"abs", "Abs"},
    {"sign", "Sign"},
    {"sqrt", "Sqrt"},
    {"exp", "Exp"},
    {"log", "Log"},
    {"log1p", "Log1p", 1, 1, FormulaForm::kPlain, true},
    {"expm1", "Expm1", 1, 1, FormulaForm::kPlain, true},
    {"sin", "Sin"},
    {"cos", "Cos"},
    {"tan", "Tan"},
    {"asin", "Asin"},
    {"acos", "Acos"},
    {"atan", "Atan"},
    {"sinh", "Sinh"},
    {"cosh", "Cosh"},
    {"tanh", "Tanh"},
    {"erf", "Erf"},
    {"erfinv", "Erfinv", 1, 1, FormulaForm::kPlain, true},
    {"lgamma", "Lgamma", 1, 1, FormulaForm::kPlain, true},
    {"digamma", "Digamma", 1, 1, FormulaForm::kPlain, true},
    {"trigamma", "Polygamma", 1, 1, FormulaForm::kPlain, true},
    {"sigmoid", "Sigmoid"},
    {"relu", "Relu"},
    {"softplus", "Softplus"},
    {"pow", "Pow", 2, 2},
    {"min", "Min", 1, kAnyNumberOfArguments, FormulaForm::kExtremum},
    {"max", "Max", 1, kAnyNumberOfArguments, FormulaForm::kExtremum},
    {"clip", "Clip", 3, 3},
    {"where", "Where", 3, 3},
    {"sum", "ReduceSum", 1, 2, FormulaForm::kReduce},
    {"mean", "ReduceMean", 1, 2, FormulaForm::kReduce},
    {"prod", "ReduceProd", 1, 2, FormulaForm::kReduce},
    {"norm", "ReduceL2", 1, 2, FormulaForm::kReduce},
    {"dot", "ReduceSum", 2, 2, FormulaForm::kDot},
    {"matmul", "MatMul", 2, 2},
    {"transpose", "Transpose"},
    {"cholesky", "Cholesky", 1, 1, FormulaForm::kPlain, true},
    {"solve_lower", "TriangularSolve", 2, 2, FormulaForm::kPlain, true},
    {"solve_upper", "TriangularSolve", 2, 2, FormulaForm::kUpper, true},
    {"solve", "Solve", 2, 2, FormulaForm::kPlain, true},
    {"inv", "Inverse", 1, 1, FormulaForm::kPlain, true},
    {"det", "Det"},
    {"logdet", "LogDet", 1, 1, FormulaForm::kPlain, true},
    {"softmax", "Softmax", 1, 2, FormulaForm::kAxis},
    {"log_softmax", "LogSoftmax", 1, 2, FormulaForm::kAxis},
    {"logsumexp", "ReduceLogSumExp", 1, 2, FormulaForm::kReduce},
};

// Insertions, deletions and replacements that make b of a.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replace, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

absl::Span<const FormulaFunction> AllFormulaFunctions() { return kFunctions; }

const FormulaFunction* FindFormulaFunction(absl::string_view name) {
  const auto* it = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                [&](const FormulaFunction& f) { return f.name == name; });
  return it == std::end(kFunctions) ? nullptr : it;
}

std::string DidYouMean(absl::string_view name) {
  constexpr size_t kFarthest = 2, kLongest = 24;
  if (name.size() > kLongest) return "";
  const std::string lower = absl::AsciiStrToLower(name);
  const FormulaFunction* nearest = nullptr;
  size_t best = std::min(kFarthest, name.size() / 2) + 1;
  for (const FormulaFunction& f : kFunctions) {
    const size_t distance = EditDistance(lower, f.name);
    if (distance < best) {
      best = distance;
      nearest = &f;
    }
  }
  return nearest == nullptr ? "" : absl::StrCat("; did you mean '", nearest->name, "'?");
}

}  // namespace gradwire
