// Arithmetic, and ops that hand a value on. Functions of one value are in functions.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "engine/kernels/tiles.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"

namespace gradwire {

extern const OpDef kAddOp, kSubOp, kMulOp, kDivOp, kMinOp, kMaxOp, kPowOp, kNegOp, kAbsOp, kSignOp,
    kStopGradientOp, kTagOp;

// ---- ONNX

bool HasInputs(NodeImport& n, int count) {
  for (int i = 0; i < count; ++i) {
    if (n.has(i)) continue;
    n.Fail(Reason::kInvalidModel, absl::StrCat("input ", i, " is missing"));
    return false;
  }
  return true;
}

ValueId LegacyOperand(NodeImport& n) {
  const Shape& x = n.type(0).shape;
  const Shape& y = n.type(1).shape;
  auto mismatch = [&](absl::string_view rule) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("shapes ", x.ToString(), " and ", y.ToString(),
                                                ": ", rule, " (opset ", n.opset, ")"));
    return kNoValue;
  };
  if (n.attrs.Int("broadcast", 0) == 0) {
    return x == y ? n.in(1) : mismatch("they must be equal without broadcast=1");
  }
  Dims dims = y.dims();
  if (n.attrs.Has("axis")) {
    const int axis = n.Axis(n.attrs.Int("axis"), x.rank());
    if (!n.b.ok()) return kNoValue;
    if (axis + y.rank() > x.rank()) return mismatch("the second does not fit at axis");
    dims.resize(static_cast<size_t>(x.rank() - axis), 1);
  }
  const Shape aligned(std::move(dims));
  if (!BroadcastsTo(aligned, x)) return mismatch("the second does not broadcast to the first");
  return aligned == y ? n.in(1) : Reshape(n.b, n.in(1), aligned);
}

namespace {

// Any number of inputs, joined from left to right. Before opset 8 their shapes are equal.
ValueId FoldInputs(NodeImport& n, BinaryBuilder join) {
  if (!HasInputs(n, std::max(1, n.num_inputs()))) return kNoValue;
  ValueId result = n.in(0);
  for (int i = 1; i < n.num_inputs(); ++i) {
    if (n.opset < 8 && n.type(i).shape != n.type(0).shape) {
      n.Fail(Reason::kShapeMismatch,
             absl::StrCat("shapes ", n.type(0).shape.ToString(), " and ",
                          n.type(i).shape.ToString(), " must be equal before opset 8"));
      return kNoValue;
    }
    result = join(n.b, result, n.in(i));
  }
  return result;
}

template <BinaryBuilder kJoin>
std::vector<ValueId> ImportVariadic(NodeImport& n) {
  return {FoldInputs(n, kJoin)};
}

std::vector<ValueId> ImportMean(NodeImport& n) {
  const ValueId sum = FoldInputs(n, Add);
  if (sum == kNoValue) return {};
  return {Div(n.b, sum, n.b.ScalarLike(sum, n.num_inputs()))};
}

// ---- Arithmetic of one type

// f(x, y), where integers wrap.
template <typename T, typename F>
T Wrapping(F f, T x, T y) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(f(static_cast<uint64_t>(x), static_cast<uint64_t>(y)));
  } else {
    return f(x, y);
  }
}

struct DivFn {
  template <typename T>
  T operator()(T x, T y) const {
    if constexpr (std::is_integral_v<T>) {
      if (y == 0) return 0;
      // The quotient of the smallest integer and -1 has no representation: it wraps.
      if (std::is_signed_v<T> && y == static_cast<T>(-1)) {
        return Wrapping(std::minus<>(), T{0}, x);
      }
    }
    return static_cast<T>(x / y);
  }
};

struct PowFn {
  template <typename T>
  T operator()(T x, T y) const {
    if constexpr (std::is_floating_point_v<T>) {
      return std::pow(x, y);
    } else {
      if (std::is_signed_v<T> && y < T{0}) return OfNegative(x, y);
      T result = 1;
      for (uint64_t left = static_cast<uint64_t>(y); left != 0; left >>= 1) {
        if (left & 1) result = Wrapping(std::multiplies<>(), result, x);
        x = Wrapping(std::multiplies<>(), x, x);
      }
      return result;
    }
  }
  // 1 / x^-y, truncated; 0 for x = 0, as in integer division.
  template <typename T>
  static T OfNegative(T x, T y) {
    if (x == T{1}) return 1;
    if (x == static_cast<T>(-1)) return y % 2 == 0 ? T{1} : static_cast<T>(-1);
    return 0;
  }
};

// Integer bases with a floating exponent are computed as DOUBLE, as NumPy does.
ValueId PowOfAnyTypes(GraphBuilder& b, ValueId x, ValueId y) {
  const DType base = b.dtype(x);
  if (base == b.dtype(y)) return Pow(b, x, y);
  if (IsInteger(base) && IsFloating(b.dtype(y))) {
    return Cast(b, Pow(b, Cast(b, x, DType::kDouble), Cast(b, y, DType::kDouble)), base);
  }
  return Pow(b, x, Cast(b, y, base));
}

absl::Status CopyReference(const ReferenceArgs& args) {
  if (args.in[0].bytes() > 0) {
    std::memcpy(args.out[0], args.in[0].raw(), static_cast<size_t>(args.in[0].bytes()));
  }
  return absl::OkStatus();
}

// ---- Identities

bool IsUniform(GraphBuilder& b, ValueId v, double value) {
  return b.UniformValue(v) == std::optional<double>(value);
}

// The operand of v's producer where that is `op`, else kNoValue.
ValueId OperandOf(GraphBuilder& b, ValueId v, const OpDef& op) {
  const Node* node = b.Producer(v);
  return node != nullptr && node->op == &op ? b.operands(*node)[0] : kNoValue;
}

// build(x, y) without an Expand that broadcasting makes superfluous.
ValueId WithoutExpand(GraphBuilder& b, const NodeView& n, const TensorType& type,
                      BinaryBuilder build) {
  const ValueId x = OperandOf(b, n.in[0], kExpandOp);
  if (x != kNoValue && b.shape(n.in[1]) == type.shape) return build(b, x, n.in[1]);
  const ValueId y = OperandOf(b, n.in[1], kExpandOp);
  if (y != kNoValue && b.shape(n.in[0]) == type.shape) return build(b, n.in[0], y);
  return kNoValue;
}

// x + 0 changes -0, x + -0 changes nothing; integers have one zero.
bool AddsNothing(GraphBuilder& b, ValueId v) {
  return IsUniform(b, v, 0) && (IsInteger(b.dtype(v)) || std::signbit(*b.UniformValue(v)));
}

ValueId SimplifyAdd(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  for (size_t i = 0; i < 2; ++i) {
    if (AddsNothing(b, n.in[1 - i]) && b.type(n.in[i]) == type) return n.in[i];
  }
  for (size_t i = 0; i < 2; ++i) {
    const ValueId negated = OperandOf(b, n.in[i], kNegOp);
    if (negated != kNoValue) return Sub(b, n.in[1 - i], negated);
  }
  return WithoutExpand(b, n, type, Add);
}

ValueId SimplifySub(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  if (IsUniform(b, n.in[1], 0) && !std::signbit(*b.UniformValue(n.in[1])) &&
      b.type(n.in[0]) == type) {
    return n.in[0];
  }
  const ValueId negated = OperandOf(b, n.in[1], kNegOp);
  if (negated != kNoValue) return Add(b, n.in[0], negated);
  return WithoutExpand(b, n, type, Sub);
}

ValueId SimplifyMul(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  for (size_t i = 0; i < 2; ++i) {
    if (b.type(n.in[i]) != type) continue;
    if (IsUniform(b, n.in[1 - i], 1)) return n.in[i];
    if (IsUniform(b, n.in[1 - i], -1)) return Neg(b, n.in[i]);
  }
  return WithoutExpand(b, n, type, Mul);
}

ValueId SimplifyDiv(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  if (b.type(n.in[0]) == type) {
    if (IsUniform(b, n.in[1], 1)) return n.in[0];
    if (IsUniform(b, n.in[1], -1)) return Neg(b, n.in[0]);
  }
  return WithoutExpand(b, n, type, Div);
}

// Products are cheaper than powers, and their derivatives are finite at 0.
ValueId SimplifyPow(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  const std::optional<double> exponent = b.UniformValue(n.in[1]);
  if (!exponent) return kNoValue;
  if (*exponent == 0) return b.Full(type, 1);
  const ValueId x = n.in[0];
  if (b.type(x) != type || *exponent != std::trunc(*exponent)) return kNoValue;
  if (*exponent < 0) {
    if (!IsFloating(type.dtype)) return kNoValue;
    if (*exponent == -1) return Reciprocal(b, x);
    return *exponent == -2 ? Reciprocal(b, Mul(b, x, x)) : kNoValue;
  }
  if (*exponent > 8) return kNoValue;
  ValueId result = kNoValue;
  ValueId power = x;  // x, x^2, x^4, x^8
  for (int left = static_cast<int>(*exponent); left != 0; left >>= 1) {
    if (left & 1) result = result == kNoValue ? power : Mul(b, power, result);
    if (left > 1) power = Mul(b, power, power);
  }
  return result;
}

// ---- Derivatives

// The share of one operand of Min or Max in the result, given where it lost.
ValueId Share(GraphBuilder& b, const NodeView& n, ValueId lost) {
  const auto constant = [&](double value) { return b.ScalarLike(n.in[0], value); };
  return Where(b, Equal(b, n.in[0], n.in[1]), constant(0.5),
               Where(b, lost, constant(0), constant(1)));
}

ValueId PowPartialBase(GraphBuilder& b, ValueId x, ValueId y) {
  const ValueId zero = b.ScalarLike(x, 0);
  if (const std::optional<double> exponent = b.UniformValue(y)) {
    if (*exponent == 0) return kNoValue;
    return Mul(b, b.ScalarLike(x, *exponent), Pow(b, x, b.ScalarLike(x, *exponent - 1)));
  }
  const ValueId slope = Mul(b, y, Pow(b, x, Sub(b, y, b.ScalarLike(y, 1))));
  return Where(b, Equal(b, y, zero), zero, slope);
}

// log(1) = 0 stands in for log(0) where the convention is 0: no infinity to multiply zeros with.
ValueId PowPartialExponent(GraphBuilder& b, ValueId x, ValueId y, ValueId out) {
  const ValueId zero = b.ScalarLike(x, 0);
  const ValueId flat = And(b, Equal(b, x, zero), GreaterOrEqual(b, y, zero));
  return Mul(b, out, Log(b, Where(b, flat, b.ScalarLike(x, 1), x)));
}

}  // namespace

// ---- Rows

// Sums are Elementwise rather than Linear: products with 1 vanish, while the tangent of a Linear op
// would add zeros for operands without one.
const OpDef kAddOp = PointwiseOp<kNumeric, 2>(
    [](auto x, auto y) { return Wrapping(std::plus<>(), x, y); },
    {
        .name = "Add",
        .doc = "`x + y`. Integers wrap.",
        .simplify = SimplifyAdd,
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return b.ScalarLike(n.in[0], 1);
        }},
        .lowering = Pointwise{tiles::Add},
        .onnx = Broadcasting<Add>("Add"),
    });

const OpDef kSubOp = PointwiseOp<kNumeric, 2>(
    [](auto x, auto y) { return Wrapping(std::minus<>(), x, y); },
    {
        .name = "Sub",
        .doc = "`x - y`. Integers wrap.",
        .simplify = SimplifySub,
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int i) {
          return b.ScalarLike(n.in[0], i == 0 ? 1 : -1);
        }},
        .lowering = Pointwise{tiles::Sub},
        .onnx = Broadcasting<Sub>("Sub"),
    });

const OpDef kMulOp = PointwiseOp<kNumeric, 2>(
    [](auto x, auto y) { return Wrapping(std::multiplies<>(), x, y); },
    {
        .name = "Mul",
        .doc = "`x * y`. Integers wrap.",
        .simplify = SimplifyMul,
        .derivative = Bilinear{
            [](GraphBuilder& b, const NodeView& n, ValueId g) { return Mul(b, g, n.in[1]); },
            [](GraphBuilder& b, const NodeView& n, ValueId g) { return Mul(b, g, n.in[0]); }},
        .lowering = Pointwise{tiles::Mul},
        .onnx = Broadcasting<Mul>("Mul"),
    });

const OpDef kDivOp = PointwiseOp<kNumeric, 2>(
    DivFn{}, {
                 .name = "Div",
                 .doc = "`x / y`. Integers truncate towards zero; an integer divided by 0 is 0.",
                 .simplify = SimplifyDiv,
                 .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int i) {
                   if (i == 0) return Reciprocal(b, n.in[1]);
                   return Neg(b, Div(b, n.out[0], n.in[1]));
                 }},
                 .lowering = Pointwise{tiles::Div},
                 .onnx = Broadcasting<Div>("Div"),
                 .domain = {.low = 0.3, .high = 2},
             });

const OpDef kMinOp = PointwiseOp<kNumeric, 2>(
    [](auto x, auto y) { return x <= y || IsNan(x) ? x : y; },
    {
        .name = "Min",
        .doc =
            "The smaller of `x` and `y`, NaN if either is. Where they are equal, each gets half of "
            "the derivative.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int i) {
          return Share(b, n, i == 0 ? Greater(b, n.in[0], n.in[1]) : Less(b, n.in[0], n.in[1]));
        }},
        .lowering = Pointwise{tiles::Min},
        .onnx = {{.name = "Min", .since = 6, .import = ImportVariadic<Min>}},
    });

const OpDef kMaxOp = PointwiseOp<kNumeric, 2>(
    [](auto x, auto y) { return x >= y || IsNan(x) ? x : y; },
    {
        .name = "Max",
        .doc =
            "The larger of `x` and `y`, NaN if either is. Where they are equal, each gets half of "
            "the derivative.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int i) {
          return Share(b, n, i == 0 ? Less(b, n.in[0], n.in[1]) : Greater(b, n.in[0], n.in[1]));
        }},
        .lowering = Pointwise{tiles::Max},
        .onnx = {{.name = "Max", .since = 6, .import = ImportVariadic<Max>}},
    });

const OpDef kPowOp = PointwiseOp<kNumeric, 2>(
    PowFn{},
    {
        .name = "Pow",
        .doc =
            "`x^y`. The derivative by `x` is `y * x^(y-1)`, and 0 where `y = 0`; the one by `y` is "
            "`x^y * log(x)`, and 0 where `x = 0` and `y >= 0`. Integers wrap and truncate.",
        .simplify = SimplifyPow,
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int i) {
          return i == 0 ? PowPartialBase(b, n.in[0], n.in[1])
                        : PowPartialExponent(b, n.in[0], n.in[1], n.out[0]);
        }},
        .lowering = Pointwise{tiles::Pow},
        .onnx = {{.name = "Pow", .since = 6, .import = ImportBinary<PowOfAnyTypes>}},
        .domain = {.low = 0.3,
                   .high = 2,
                   .samples = {{.inputs = {{.shape = {2, 3}, .low = 0.3, .high = 2},
                                           {.shape = {3}, .low = -2, .high = 2}}},
                               {.inputs = {{.shape = {}, .low = 0.3, .high = 2},
                                           {.shape = {4}, .low = -2, .high = 2}}},
                               {.inputs = {{.shape = {0, 2}}, {.shape = {2}}}}}},
    });

const OpDef kNegOp = PointwiseOp<kNumeric, 1>(
    []<typename T>(T x) -> T {
      if constexpr (std::is_integral_v<T>) return Wrapping(std::minus<>(), T{0}, x);
      return -x;
    },
    {
        .name = "Neg",
        .doc = "`-x`. Integers wrap.",
        .simplify = [](GraphBuilder& b, const NodeView& n,
                       const TensorType&) { return OperandOf(b, n.in[0], kNegOp); },
        .derivative =
            Linear{[](GraphBuilder& b, const NodeView&, int, ValueId g) { return Neg(b, g); }},
        .lowering = Pointwise{tiles::Neg},
        .onnx = {{.name = "Neg", .since = 6}},
    });

const OpDef kAbsOp = PointwiseOp<kNumeric, 1>(
    []<typename T>(T x) -> T {
      if constexpr (std::is_floating_point_v<T>) return std::fabs(x);
      return x < T{0} ? Wrapping(std::minus<>(), T{0}, x) : x;
    },
    {
        .name = "Abs",
        .doc = "`|x|`. The derivative is the sign of `x`: 0 at 0.",
        .derivative =
            Elementwise{[](GraphBuilder& b, const NodeView& n, int) { return Sign(b, n.in[0]); }},
        .lowering = Pointwise{tiles::Abs},
        .onnx = {{.name = "Abs", .since = 6}},
        .domain = {.low = 0.3,
                   .high = 2,
                   .samples = {{.inputs = {{.shape = {2, 3}, .low = -2, .high = -0.3}}}}},
    });

const OpDef kSignOp = PointwiseOp<kNumeric, 1>(
    []<typename T>(T x) -> T {
      return IsNan(x) ? x : static_cast<T>(static_cast<T>(x > T{0}) - static_cast<T>(x < T{0}));
    },
    {
        .name = "Sign",
        .doc = "-1, 0 or 1; NaN at NaN. The derivative is 0 everywhere.",
        .derivative = Zero{},
        .lowering = Pointwise{tiles::Sign},
        .onnx = {{.name = "Sign", .since = 9}},
        .domain = {.low = 0.3,
                   .high = 2,
                   .samples = {{.inputs = {{.shape = {2, 3}, .low = -2, .high = -0.3}}}}},
    });

const OpDef kStopGradientOp = {
    .name = "StopGradient",
    .doc = "`x`, with a derivative of 0: a constant as far as differentiation goes.",
    .infer = InferSameType<kAnyType>,
    .reference = CopyReference,
    .simplify =
        [](GraphBuilder& b, const NodeView& n, const TensorType&) {
          return OperandOf(b, n.in[0], kStopGradientOp) == kNoValue ? kNoValue : n.in[0];
        },
    .derivative = Zero{},
    .lowering = Pointwise{tiles::Identity},
    .onnx = {{.name = "StopGradient", .domain = "gradwire"}},
    .onnx_function = "StopGradient (x) => (y) { y = Identity (x) }",
};

const OpDef kTagOp = {
    .name = "Tag",
    .doc =
        "`x` as a value of its own, named by the attribute `name`, that can be differentiated by.",
    .attrs = {{"name", std::string(), true}},
    .infer = InferSameType<kAnyType>,
    .reference = CopyReference,
    .derivative = Linear{[](GraphBuilder&, const NodeView&, int, ValueId g) { return g; }},
    .lowering = Pointwise{tiles::Identity},
    .export_onnx = [](NodeExport& n) { n.Add("Identity", {n.in(0)}, n.out(0)); },
    .domain = {.samples = {{.inputs = {{.shape = {2, 3}}}, .attrs = {{"name", std::string("t")}}}}},
};

namespace {

const OpDef kIdentityOp = {
    .name = "Identity",
    .doc = "`x`; adds nothing to the graph.",
    .onnx = {{.name = "Identity",
              .since = 6,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (n.any(0) < kNoValue) return {n.any(0)};  // a sequence or an optional
                if (!HasInputs(n, 1)) return {};
                return {n.in(0)};
              }}},
    .domain = {.samples = {{.inputs = {{.shape = {2, 3}}}}}},
};

std::vector<Sample> VariadicSamples() {
  return {{.inputs = {{.shape = {2, 3}}}},
          {.inputs = {{.shape = {2, 3}}, {.shape = {3}}, {.shape = {}}}},
          {.inputs = {{.shape = {2, 3}}, {.shape = {2, 3}}}, .opset = 6}};
}

const OpDef kSumOp = {
    .name = "Sum",
    .doc = "The sum of its inputs, from left to right.",
    .max_inputs = kVariadic,
    .onnx = {{.name = "Sum", .since = 6, .import = ImportVariadic<Add>}},
    .domain = {.samples = VariadicSamples()},
};

const OpDef kMeanOp = {
    .name = "Mean",
    .doc = "The mean of its inputs.",
    .max_inputs = kVariadic,
    .onnx = {{.name = "Mean", .since = 6, .import = ImportMean}},
    .domain = {.samples = VariadicSamples()},
};

}  // namespace

ValueId Add(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kAddOp, {x, y}); }
ValueId Sub(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kSubOp, {x, y}); }
ValueId Mul(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kMulOp, {x, y}); }
ValueId Div(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kDivOp, {x, y}); }
ValueId Min(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kMinOp, {x, y}); }
ValueId Max(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kMaxOp, {x, y}); }
ValueId Pow(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kPowOp, {x, y}); }
ValueId Neg(GraphBuilder& b, ValueId x) { return b.Add(kNegOp, {x}); }
ValueId Square(GraphBuilder& b, ValueId x) { return Mul(b, x, x); }
ValueId Plus(GraphBuilder& b, ValueId x, double term) { return Add(b, x, b.ScalarLike(x, term)); }
ValueId Times(GraphBuilder& b, ValueId x, double factor) {
  return Mul(b, x, b.ScalarLike(x, factor));
}
ValueId Abs(GraphBuilder& b, ValueId x) { return b.Add(kAbsOp, {x}); }
ValueId Sign(GraphBuilder& b, ValueId x) { return b.Add(kSignOp, {x}); }
ValueId StopGradient(GraphBuilder& b, ValueId x) { return b.Add(kStopGradientOp, {x}); }
ValueId Tag(GraphBuilder& b, ValueId x, absl::string_view name) {
  return b.Add(kTagOp, {x}, {{"name", std::string(name)}});
}

std::vector<const OpDef*> ElementwiseOps() {
  std::vector<const OpDef*> rows = {&kAddOp, &kSubOp,  &kMulOp, &kDivOp,      &kMinOp,
                                    &kMaxOp, &kPowOp,  &kNegOp, &kAbsOp,      &kSignOp,
                                    &kSumOp, &kMeanOp, &kTagOp, &kIdentityOp, &kStopGradientOp};
  for (auto* family : {FunctionOps, RoundingOps}) {
    for (const OpDef* row : family()) rows.push_back(row);
  }
  return rows;
}

}  // namespace gradwire
