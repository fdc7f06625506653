// Functions of one floating value.
#include <cmath>
#include <numbers>

#include "engine/kernels/tiles.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"

namespace gradwire {
namespace {

ValueId PlusOne(GraphBuilder& b, ValueId x) { return Plus(b, x, 1); }
ValueId OneMinus(GraphBuilder& b, ValueId x) { return Sub(b, b.ScalarLike(x, 1), x); }
// 1 - x^2 as a product, which is accurate near 1.
ValueId OneMinusSquare(GraphBuilder& b, ValueId x) { return Mul(b, OneMinus(b, x), PlusOne(b, x)); }

// ---- Roots, exponentials, logarithms

const OpDef kSqrtOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::sqrt(x); },
    {
        .name = "Sqrt",
        .doc = "The square root; the derivative at 0 is infinite.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Div(b, b.ScalarLike(n.out[0], 0.5), n.out[0]);
        }},
        .lowering = Pointwise{tiles::Sqrt},
        .onnx = {{.name = "Sqrt", .since = 6}},
        .domain = {.low = 0.3, .high = 3},
    });

const OpDef kReciprocalOp = PointwiseOp<kFloating, 1>(
    []<typename T>(T x) { return T{1} / x; },
    {
        .name = "Reciprocal",
        .doc = "`1 / x`.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Neg(b, Square(b, n.out[0]));
        }},
        .lowering = Pointwise{tiles::Reciprocal},
        .onnx = {{.name = "Reciprocal", .since = 6}},
        .domain = {.low = 0.3, .high = 2},
    });

const OpDef kExpOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::exp(x); },
    {
        .name = "Exp",
        .doc = "`e^x`.",
        .derivative = Elementwise{[](GraphBuilder&, const NodeView& n, int) { return n.out[0]; }},
        .lowering = Pointwise{tiles::Exp},
        .onnx = {{.name = "Exp", .since = 6}},
    });

const OpDef kExpm1Op = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::expm1(x); },
    {
        .name = "Expm1",
        .doc = "`e^x - 1`, accurate near 0.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return PlusOne(b, n.out[0]);
        }},
        .lowering = Pointwise{tiles::Expm1},
        .onnx = {{.name = "Expm1", .domain = "gradwire"}},
        // tanh(x/2) (e^x + 1): exact at both ends, and of functions that runtimes have in DOUBLE.
        .onnx_function = R"(Expm1 (x) => (y) {
          half = Constant <value_float: float = 0.5> ()
          one = Constant <value_float: float = 1.0> ()
          h = CastLike (half, x)
          i = CastLike (one, x)
          xh = Mul (x, h)
          t = Tanh (xh)
          e = Exp (x)
          ei = Add (e, i)
          y = Mul (t, ei)
        })",
    });

const OpDef kLogOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::log(x); },
    {
        .name = "Log",
        .doc = "The natural logarithm; NaN below 0.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Reciprocal(b, n.in[0]);
        }},
        .lowering = Pointwise{tiles::Log},
        .onnx = {{.name = "Log", .since = 6}},
        .domain = {.low = 0.2, .high = 3},
    });

const OpDef kLog1pOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::log1p(x); },
    {
        .name = "Log1p",
        .doc = "`log(1 + x)`, accurate near 0.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Reciprocal(b, PlusOne(b, n.in[0]));
        }},
        .lowering = Pointwise{tiles::Log1p},
        .onnx = {{.name = "Log1p", .domain = "gradwire"}},
        // u = 1 + x, and log(u) corrected for what rounding took from x (Goldberg, "What every
        // computer scientist should know about floating-point arithmetic", 1991, theorem 4).
        .onnx_function = R"(Log1p (x) => (y) {
          one = Constant <value_float: float = 1.0> ()
          i = CastLike (one, x)
          u = Add (i, x)
          d = Sub (u, i)
          z = Sub (i, i)
          lost = Equal (d, z)
          kept = Equal (d, x)
          q = Div (x, d)
          r = Where (kept, i, q)
          l = Log (u)
          lr = Mul (l, r)
          y = Where (lost, x, lr)
        })",
        .domain = {.low = -0.7, .high = 2},
    });

// ---- Trigonometric

const OpDef kSinOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::sin(x); },
    {
        .name = "Sin",
        .doc = "The sine of radians.",
        .derivative =
            Elementwise{[](GraphBuilder& b, const NodeView& n, int) { return Cos(b, n.in[0]); }},
        .lowering = Pointwise{tiles::Sin},
        .onnx = {{.name = "Sin", .since = 7}},
    });

const OpDef kCosOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::cos(x); },
    {
        .name = "Cos",
        .doc = "The cosine of radians.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Neg(b, Sin(b, n.in[0]));
        }},
        .lowering = Pointwise{tiles::Cos},
        .onnx = {{.name = "Cos", .since = 7}},
    });

const OpDef kTanOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::tan(x); },
    {
        .name = "Tan",
        .doc = "The tangent of radians.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return PlusOne(b, Square(b, n.out[0]));
        }},
        .lowering = Pointwise{tiles::Tan},
        .onnx = {{.name = "Tan", .since = 7}},
        .domain = {.low = -1, .high = 1},
    });

const OpDef kAsinOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::asin(x); },
    {
        .name = "Asin",
        .doc = "The arc sine; NaN outside [-1, 1], with an infinite derivative at its ends.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Reciprocal(b, Sqrt(b, OneMinusSquare(b, n.in[0])));
        }},
        .lowering = Pointwise{tiles::Asin},
        .onnx = {{.name = "Asin", .since = 7}},
        .domain = {.low = -0.9, .high = 0.9},
    });

const OpDef kAcosOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::acos(x); },
    {
        .name = "Acos",
        .doc = "The arc cosine; NaN outside [-1, 1], with an infinite derivative at its ends.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Neg(b, Reciprocal(b, Sqrt(b, OneMinusSquare(b, n.in[0]))));
        }},
        .lowering = Pointwise{tiles::Acos},
        .onnx = {{.name = "Acos", .since = 7}},
        .domain = {.low = -0.9, .high = 0.9},
    });

const OpDef kAtanOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::atan(x); },
    {
        .name = "Atan",
        .doc = "The arc tangent.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Reciprocal(b, PlusOne(b, Square(b, n.in[0])));
        }},
        .lowering = Pointwise{tiles::Atan},
        .onnx = {{.name = "Atan", .since = 7}},
    });

// ---- Hyperbolic

const OpDef kSinhOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::sinh(x); },
    {
        .name = "Sinh",
        .doc = "The hyperbolic sine.",
        .derivative =
            Elementwise{[](GraphBuilder& b, const NodeView& n, int) { return Cosh(b, n.in[0]); }},
        .lowering = Pointwise{tiles::Sinh},
        .onnx = {{.name = "Sinh", .since = 9}},
    });

const OpDef kCoshOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::cosh(x); },
    {
        .name = "Cosh",
        .doc = "The hyperbolic cosine.",
        .derivative =
            Elementwise{[](GraphBuilder& b, const NodeView& n, int) { return Sinh(b, n.in[0]); }},
        .lowering = Pointwise{tiles::Cosh},
        .onnx = {{.name = "Cosh", .since = 9}},
    });

const OpDef kTanhOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::tanh(x); },
    {
        .name = "Tanh",
        .doc = "The hyperbolic tangent.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return OneMinus(b, Square(b, n.out[0]));
        }},
        .lowering = Pointwise{tiles::Tanh, PostOp::kTanh},
        .onnx = {{.name = "Tanh", .since = 6}},
    });

const OpDef kAsinhOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::asinh(x); },
    {
        .name = "Asinh",
        .doc = "The inverse hyperbolic sine.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Reciprocal(b, Sqrt(b, PlusOne(b, Square(b, n.in[0]))));
        }},
        .lowering = Pointwise{tiles::Asinh},
        .onnx = {{.name = "Asinh", .since = 9}},
    });

const OpDef kAcoshOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::acosh(x); },
    {
        .name = "Acosh",
        .doc = "The inverse hyperbolic cosine; NaN below 1, with an infinite derivative at 1.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Reciprocal(b, Sqrt(b, Neg(b, OneMinusSquare(b, n.in[0]))));
        }},
        .lowering = Pointwise{tiles::Acosh},
        .onnx = {{.name = "Acosh", .since = 9}},
        .domain = {.low = 1.2, .high = 3},
    });

const OpDef kAtanhOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::atanh(x); },
    {
        .name = "Atanh",
        .doc = "The inverse hyperbolic tangent; NaN outside [-1, 1], infinite at its ends.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Reciprocal(b, OneMinusSquare(b, n.in[0]));
        }},
        .lowering = Pointwise{tiles::Atanh},
        .onnx = {{.name = "Atanh", .since = 9}},
        .domain = {.low = -0.9, .high = 0.9},
    });

// ---- Smooth and rectified steps

const OpDef kErfOp = PointwiseOp<kFloating, 1>(
    [](auto x) { return std::erf(x); },
    {
        .name = "Erf",
        .doc = "The error function, `2/sqrt(pi)` times the integral of `exp(-t^2)` from 0 to `x`.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          const ValueId scale = b.ScalarLike(n.in[0], 2 * std::numbers::inv_sqrtpi);
          return Mul(b, scale, Exp(b, Neg(b, Square(b, n.in[0]))));
        }},
        .lowering = Pointwise{tiles::Erf},
        .onnx = {{.name = "Erf", .since = 9}},
    });

// No branch takes exp of a large positive number.
const OpDef kSigmoidOp = PointwiseOp<kFloating, 1>(
    []<typename T>(T x) -> T {
      if (x >= T{0}) return T{1} / (T{1} + std::exp(-x));
      const T e = std::exp(x);
      return e / (T{1} + e);
    },
    {
        .name = "Sigmoid",
        .doc = "`1 / (1 + exp(-x))`, without overflow.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Mul(b, n.out[0], OneMinus(b, n.out[0]));
        }},
        .lowering = Pointwise{tiles::Sigmoid, PostOp::kSigmoid},
        .onnx = {{.name = "Sigmoid", .since = 6}},
    });

const OpDef kSoftplusOp = PointwiseOp<kFloating, 1>(
    []<typename T>(T x) { return (x > T{0} ? x : T{0}) + std::log1p(std::exp(-std::fabs(x))); },
    {
        .name = "Softplus",
        .doc = "`log(1 + exp(x))`, computed as `max(x, 0) + log1p(exp(-|x|))`.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Sigmoid(b, n.in[0]);
        }},
        .lowering = Pointwise{tiles::Softplus},
        .onnx = {{.name = "Softplus", .since = 6}},
    });

// The derivative looks at the output, so that the input need not be kept for it.
const OpDef kReluOp = PointwiseOp<kNumeric, 1>(
    []<typename T>(T x) { return x > T{0} || IsNan(x) ? x : T{0}; },
    {
        .name = "Relu",
        .doc = "`max(x, 0)`; NaN stays NaN. The derivative at 0 is 0.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          const ValueId out = n.out[0];
          return Cast(b, Greater(b, out, b.ScalarLike(out, 0)), b.dtype(out));
        }},
        .lowering = Pointwise{tiles::Relu, PostOp::kRelu},
        .onnx = {{.name = "Relu", .since = 6}},
        .domain = {.low = 0.3,
                   .high = 2,
                   .samples = {{.inputs = {{.shape = {2, 3}, .low = -2, .high = -0.3}}}}},
    });

}  // namespace

ValueId Sqrt(GraphBuilder& b, ValueId x) { return b.Add(kSqrtOp, {x}); }
ValueId Reciprocal(GraphBuilder& b, ValueId x) { return b.Add(kReciprocalOp, {x}); }
ValueId Exp(GraphBuilder& b, ValueId x) { return b.Add(kExpOp, {x}); }
ValueId Expm1(GraphBuilder& b, ValueId x) { return b.Add(kExpm1Op, {x}); }
ValueId Log(GraphBuilder& b, ValueId x) { return b.Add(kLogOp, {x}); }
ValueId Log1p(GraphBuilder& b, ValueId x) { return b.Add(kLog1pOp, {x}); }
ValueId Sin(GraphBuilder& b, ValueId x) { return b.Add(kSinOp, {x}); }
ValueId Cos(GraphBuilder& b, ValueId x) { return b.Add(kCosOp, {x}); }
ValueId Sinh(GraphBuilder& b, ValueId x) { return b.Add(kSinhOp, {x}); }
ValueId Cosh(GraphBuilder& b, ValueId x) { return b.Add(kCoshOp, {x}); }
ValueId Tanh(GraphBuilder& b, ValueId x) { return b.Add(kTanhOp, {x}); }
ValueId Erf(GraphBuilder& b, ValueId x) { return b.Add(kErfOp, {x}); }
ValueId Sigmoid(GraphBuilder& b, ValueId x) { return b.Add(kSigmoidOp, {x}); }
ValueId Softplus(GraphBuilder& b, ValueId x) { return b.Add(kSoftplusOp, {x}); }
ValueId Relu(GraphBuilder& b, ValueId x) { return b.Add(kReluOp, {x}); }

std::vector<const OpDef*> FunctionOps() {
  return {&kSqrtOp, &kReciprocalOp, &kExpOp,      &kExpm1Op, &kLogOp,   &kLog1pOp,
          &kSinOp,  &kCosOp,        &kTanOp,      &kAsinOp,  &kAcosOp,  &kAtanOp,
          &kSinhOp, &kCoshOp,       &kTanhOp,     &kAsinhOp, &kAcoshOp, &kAtanhOp,
          &kErfOp,  &kSigmoidOp,    &kSoftplusOp, &kReluOp};
}

}  // namespace gradwire
