// File: elementwise_rows.h
//
// What the family files of pointwise ops share: a row with its type rule and reference filled in,
// and how ONNX spells binary ops (before opset 7 broadcasting was asked for by attributes).
//
//   const OpDef kSinOp = PointwiseOp<kFloating, 1>([](auto x) { return std::sin(x); }, {
//       .name = "Sin", .doc = "...", .derivative = ..., .lowering = Pointwise{tiles::Sin}});
#ifndef GRADWIRE_ENGINE_OPS_ELEMENTWISE_ROWS_H_
#define GRADWIRE_ENGINE_OPS_ELEMENTWISE_ROWS_H_

#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/graph/node_export.h"
#include "engine/graph/node_import.h"
#include "engine/ops/pointwise_row.h"

namespace gradwire {

// The rows of functions.cc and rounding.cc; ElementwiseOps() includes them.
std::vector<const OpDef*> FunctionOps();
std::vector<const OpDef*> RoundingOps();

// `row` completed for an op of kInputs values of one type, with an output of that type. Fn is a
// functor without state that is called with any type of the class.
template <TypeClass kClass, int kInputs, typename Fn>
OpDef PointwiseOp(Fn, OpDef row) {
  row.min_inputs = row.max_inputs = kInputs;
  row.infer = InferSameType<kClass>;
  row.reference = PointwiseReference<Fn, kInputs, kClass>;
  return row;
}

// False for integers, which have no NaN.
template <typename T>
bool IsNan(T x) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(x);
  return false;
}

using BinaryBuilder = ValueId (*)(GraphBuilder& b, ValueId x, ValueId y);

// True when the first `count` inputs are there; else fails.
bool HasInputs(NodeImport& n, int count);

// The second operand as opsets before 7 line it up with the first: with broadcast=1 its dimensions
// start at `axis` of the first operand's (absent: they are the last ones), without they are equal.
// kNoValue after a failure.
ValueId LegacyOperand(NodeImport& n);

template <BinaryBuilder kBuild>
std::vector<ValueId> ImportBinary(NodeImport& n) {
  if (!HasInputs(n, 2)) return {};
  const ValueId y = n.opset < 7 ? LegacyOperand(n) : n.in(1);
  if (y == kNoValue) return {};
  return {kBuild(n.b, n.in(0), y)};
}

// The bindings of an op that opset 7 gave NumPy's broadcasting.
template <BinaryBuilder kBuild>
std::vector<OnnxBinding> Broadcasting(absl::string_view name) {
  return {{.name = name, .since = 6, .until = 6, .import = ImportBinary<kBuild>},
          {.name = name, .since = 7}};
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_ELEMENTWISE_ROWS_H_
