// Activation functions made of other ops.
#include <cmath>
#include <numbers>

#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"

namespace gradwire {
namespace {

using Values = std::vector<ValueId>;

// Samples on both sides of 0, and further out than steps reach.
Domain BothSides(Attrs attrs = {}, int opset = 0) {
  auto sample = [&](Dims shape, double low, double high) {
    return Sample{.inputs = {{.shape = std::move(shape), .low = low, .high = high}},
                  .attrs = attrs,
                  .opset = opset};
  };
  return {.samples = {sample({2, 3}, -2, -0.3), sample({2, 3}, 0.3, 2), sample({}, -0.2, -0.1),
                      sample({4}, 3.5, 5), sample({0, 2}, 0, 1)}};
}

ValueId IsPositive(GraphBuilder& b, ValueId x) { return Greater(b, x, b.ScalarLike(x, 0)); }

// x where it is not positive, else 0. Functions of it are finite where another branch is taken, so
// that no zero cotangent meets an infinity; unlike Min(x, 0) it passes all of the derivative at 0.
ValueId NonPositivePart(GraphBuilder& b, ValueId x) {
  return Where(b, IsPositive(b, x), b.ScalarLike(x, 0), x);
}

// x above 0, alpha * (exp(x / scale) - 1) below.
ValueId ExponentialUnit(GraphBuilder& b, ValueId x, double alpha, double scale) {
  ValueId below = NonPositivePart(b, x);
  if (scale != 1) below = Div(b, below, b.ScalarLike(x, scale));
  return Where(b, IsPositive(b, x), x, Times(b, Expm1(b, below), alpha));
}

ValueId HardSigmoid(GraphBuilder& b, ValueId x, double alpha, double beta) {
  const ValueId line = Plus(b, Times(b, x, alpha), beta);
  const ValueId zero = b.ScalarLike(x, 0);
  const ValueId one = b.ScalarLike(x, 1);
  return Where(b, LessOrEqual(b, line, zero), zero,
               Where(b, GreaterOrEqual(b, line, one), one, line));
}

// ---- Piecewise linear

Values ImportLeakyRelu(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  const ValueId x = n.in(0);
  const ValueId slope = n.b.ScalarLike(x, n.attrs.Float("alpha", 0.01f));
  return {Mul(n.b, x, Where(n.b, IsPositive(n.b, x), n.b.ScalarLike(x, 1), slope))};
}

const OpDef kLeakyReluOp = {
    .name = "LeakyRelu",
    .doc = "`x` above 0, `alpha * x` (0.01) below. The derivative at 0 is `alpha`.",
    .onnx = {{.name = "LeakyRelu", .since = 6, .import = ImportLeakyRelu}},
    .domain = BothSides({{"alpha", 0.2}}),
};

Values ImportPRelu(NodeImport& n) {
  if (!HasInputs(n, 2)) return {};
  GraphBuilder& b = n.b;
  const ValueId x = n.in(0);
  ValueId slope = n.in(1);
  if (n.opset < 7 && b.shape(slope).rank() == 1 && b.shape(x).rank() > 2) {  // one a channel
    Dims dims(static_cast<size_t>(b.shape(x).rank() - 1), 1);
    dims[0] = b.shape(slope)[0];
    slope = Reshape(b, slope, Shape(std::move(dims)));
  }
  if (!BroadcastsTo(b.shape(slope), b.shape(x))) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("slope of shape ", b.shape(slope).ToString(),
                                                " does not broadcast to ", b.shape(x).ToString()));
    return {};
  }
  return {Where(b, IsPositive(b, x), x, Mul(b, slope, NonPositivePart(b, x)))};
}

const OpDef kPReluOp = {
    .name = "PRelu",
    .doc = "`x` above 0, `slope * x` below. The derivative at 0 is `slope`.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "PRelu", .since = 6, .import = ImportPRelu}},
    .domain = {.samples = {{.inputs = {{.shape = {2, 3}, .low = -2, .high = -0.3}, {.shape = {3}}}},
                           {.inputs = {{.shape = {2, 3}, .low = 0.3, .high = 2}, {.shape = {1}}}},
                           {.inputs = {{.shape = {1, 2, 2}, .low = -2, .high = -0.3},
                                       {.shape = {2}}},
                            .opset = 6}}},
};

Values ImportThresholdedRelu(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  const ValueId x = n.in(0);
  const ValueId alpha = n.b.ScalarLike(x, n.attrs.Float("alpha", 1));
  return {Where(n.b, LessOrEqual(n.b, x, alpha), n.b.ScalarLike(x, 0), x)};
}

const OpDef kThresholdedReluOp = {
    .name = "ThresholdedRelu",
    .doc = "`x` above `alpha` (1), else 0. The derivative at `alpha` is 0.",
    .onnx = {{.name = "ThresholdedRelu", .since = 10, .import = ImportThresholdedRelu}},
    .domain = BothSides({{"alpha", 0.25}}),
};

Values ImportShrink(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  GraphBuilder& b = n.b;
  const ValueId x = n.in(0);
  const double lambda = n.attrs.Float("lambd", 0.5), bias = n.attrs.Float("bias", 0);
  if (!IsFloating(b.dtype(x))) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("input is ", DTypeName(b.dtype(x)), ", expected FLOAT or DOUBLE"));
    return {};
  }
  return {Where(
      b, Less(b, x, b.ScalarLike(x, -lambda)), Plus(b, x, bias),
      Where(b, Greater(b, x, b.ScalarLike(x, lambda)), Plus(b, x, -bias), b.ScalarLike(x, 0)))};
}

const OpDef kShrinkOp = {
    .name = "Shrink",
    .doc =
        "`x + bias` (0) below `-lambd` (-0.5), `x - bias` above `lambd`, else 0. The derivative at"
        " both kinks is 0.",
    .onnx = {{.name = "Shrink", .since = 9, .import = ImportShrink}},
    .domain = BothSides({{"lambd", 0.25}, {"bias", 0.125}}),
};

// The bound of Clip that `name` and input i give, as a scalar; kNoValue for none.
ValueId ClipBound(NodeImport& n, absl::string_view name, int i) {
  if (n.opset < 11) {
    return n.attrs.Has(name) ? n.b.ScalarLike(n.in(0), n.attrs.Float(name)) : kNoValue;
  }
  if (!n.has(i) || n.type(i).shape.rank() == 0) return n.in(i);
  if (n.type(i).shape.num_elements() != 1) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat(name, " has shape ", n.type(i).shape.ToString(), ", expected a scalar"));
    return kNoValue;
  }
  return Reshape(n.b, n.in(i), Shape());
}

Values ImportClip(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  ValueId x = n.in(0);
  const ValueId low = ClipBound(n, "min", 1);
  const ValueId high = ClipBound(n, "max", 2);
  if (low != kNoValue) x = Where(n.b, Less(n.b, x, low), low, x);
  if (high != kNoValue) x = Where(n.b, Greater(n.b, x, high), high, x);
  return {x};
}

const OpDef kClipOp = {
    .name = "Clip",
    .doc =
        "`x` between `min` and `max`, either of which may be left out; `max` where they contradict "
        "each other. The derivative by `x` is 1 at the bounds too; where `x` is clipped it goes to "
        "the bound.",
    .max_inputs = 3,
    .onnx = {{.name = "Clip", .since = 6, .import = ImportClip}},
    .domain = {.samples = {{.inputs = {{.shape = {2, 3}, .low = -0.9, .high = 0.9},
                                       {.shape = {}, .values = {-1}},
                                       {.shape = {}, .values = {1}}}},
                           {.inputs = {{.shape = {2, 3}, .low = 1.2, .high = 3},
                                       {.shape = {}, .values = {-1}},
                                       {.shape = {}, .values = {1}}}},
                           {.inputs = {{.shape = {2, 3}, .low = -3, .high = -1.2},
                                       {.shape = {}, .values = {-1}}}},
                           {.inputs = {{.shape = {4}, .low = 1.2, .high = 3},
                                       {.shape = {}, .absent = true},
                                       {.shape = {}, .values = {1}}}},
                           {.inputs = {{.shape = {2, 3}, .low = -3, .high = -1.2}},
                            .attrs = {{"min", -1.0}, {"max", 1.0}},
                            .opset = 6}}},
};

Values ImportHardSigmoid(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  return {HardSigmoid(n.b, n.in(0), n.attrs.Float("alpha", 0.2f), n.attrs.Float("beta", 0.5f))};
}

const OpDef kHardSigmoidOp = {
    .name = "HardSigmoid",
    .doc = "`alpha * x + beta` (0.2, 0.5) between 0 and 1. The derivative at both kinks is 0.",
    .onnx = {{.name = "HardSigmoid", .since = 6, .import = ImportHardSigmoid}},
    .domain = BothSides(),
};

Values ImportHardSwish(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  return {Mul(n.b, n.in(0), HardSigmoid(n.b, n.in(0), 1.0 / 6, 0.5))};
}

const OpDef kHardSwishOp = {
    .name = "HardSwish",
    .doc = "`x` times `x / 6 + 1/2` between 0 and 1. The derivative is 0 at -3 and 1 at 3.",
    .onnx = {{.name = "HardSwish", .since = 14, .import = ImportHardSwish}},
    .domain = BothSides(),
};

// ---- Exponential

Values ImportElu(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  return {ExponentialUnit(n.b, n.in(0), n.attrs.Float("alpha", 1), 1)};
}

const OpDef kEluOp = {
    .name = "Elu",
    .doc = "`x` above 0, `alpha * (exp(x) - 1)` (1) below. The derivative at 0 is `alpha`.",
    .onnx = {{.name = "Elu", .since = 6, .import = ImportElu}},
    .domain = BothSides({{"alpha", 1.5}}),
};

Values ImportCelu(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  const double alpha = n.attrs.Float("alpha", 1);
  return {ExponentialUnit(n.b, n.in(0), alpha, alpha)};
}

const OpDef kCeluOp = {
    .name = "Celu",
    .doc = "`x` above 0, `alpha * (exp(x / alpha) - 1)` (1) below. The derivative at 0 is 1.",
    .onnx = {{.name = "Celu", .since = 12, .import = ImportCelu}},
    .domain = BothSides({{"alpha", 1.5}}),
};

Values ImportSelu(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  const double alpha = n.attrs.Float("alpha", 1.67326319217681884765625);
  const double gamma = n.attrs.Float("gamma", 1.05070102214813232421875);
  return {Times(n.b, ExponentialUnit(n.b, n.in(0), alpha, 1), gamma)};
}

const OpDef kSeluOp = {
    .name = "Selu",
    .doc =
        "`gamma` times (`x` above 0, `alpha * (exp(x) - 1)` below). The derivative at 0 is "
        "`gamma * alpha`.",
    .onnx = {{.name = "Selu", .since = 6, .import = ImportSelu}},
    .domain = BothSides(),
};

// ---- Smooth

Values ImportGelu(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  GraphBuilder& b = n.b;
  const ValueId x = n.in(0);
  const std::string approximate = n.attrs.String("approximate", "none");
  ValueId bent = kNoValue;
  if (approximate == "none") {
    bent = Erf(b, Times(b, x, 1 / std::numbers::sqrt2));
  } else if (approximate == "tanh") {
    const ValueId cube = Mul(b, Mul(b, x, x), x);
    const double scale = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;
    bent = Tanh(b, Times(b, Add(b, x, Times(b, cube, 0.044715)), scale));
  } else {
    n.Fail(Reason::kInvalidModel, absl::StrCat("attribute approximate is \"", approximate,
                                               "\", expected \"none\" or \"tanh\""));
    return {};
  }
  return {Mul(b, Times(b, x, 0.5), Plus(b, bent, 1))};
}

Domain GeluDomain() {
  Domain domain = BothSides({{"approximate", std::string("none")}}, 20);
  for (Sample& sample : BothSides({{"approximate", std::string("tanh")}}, 20).samples) {
    domain.samples.push_back(std::move(sample));
  }
  return domain;
}

const OpDef kGeluOp = {
    .name = "Gelu",
    .doc =
        "`x/2 * (1 + erf(x / sqrt(2)))`; with `approximate` = \"tanh\", `x/2 * (1 + "
        "tanh(sqrt(2/pi) "
        "* (x + 0.044715 x^3)))`.",
    .onnx = {{.name = "Gelu", .since = 20, .import = ImportGelu}},
    .domain = GeluDomain(),
};

Values ImportSoftsign(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  return {Div(n.b, n.in(0), Plus(n.b, Abs(n.b, n.in(0)), 1))};
}

const OpDef kSoftsignOp = {
    .name = "Softsign",
    .doc = "`x / (1 + |x|)`.",
    .onnx = {{.name = "Softsign", .since = 6, .import = ImportSoftsign}},
    .domain = BothSides(),
};

Values ImportMish(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  return {Mul(n.b, n.in(0), Tanh(n.b, Softplus(n.b, n.in(0))))};
}

const OpDef kMishOp = {
    .name = "Mish",
    .doc = "`x * tanh(log(1 + exp(x)))`.",
    .onnx = {{.name = "Mish", .since = 18, .import = ImportMish}},
    .domain = BothSides({}, 18),
};

}  // namespace

std::vector<const OpDef*> ActivationOps() {
  return {&kLeakyReluOp, &kPReluOp, &kThresholdedReluOp,
          &kShrinkOp,    &kClipOp,  &kHardSigmoidOp,
          &kHardSwishOp, &kEluOp,   &kCeluOp,
          &kSeluOp,      &kGeluOp,  &kSoftsignOp,
          &kMishOp};
}

}  // namespace gradwire
