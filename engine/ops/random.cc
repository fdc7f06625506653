// Random values: pure functions of a seed, a step and the stream that import gave to the node.
#include <algorithm>
#include <bit>
#include <numbers>

#include "engine/base/philox.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

// ---- Generator

// Four words for elements 4 * block .. 4 * block + 3. `half` 1 gives four more.
PhiloxBlock Draw(uint64_t key, uint64_t stream, uint64_t block, uint32_t half) {
  return Philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32) | (half << 31),
                 static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                key);
}

// DOUBLE has FLOAT's 24 bits in front, so that both draw the same up to precision.
absl::Status RandomUniformReference(const ReferenceArgs& args) {
  const int64_t* seed = args.in[0].data<int64_t>();
  const uint64_t key = Mix(Mix(static_cast<uint64_t>(seed[0])) + static_cast<uint64_t>(seed[1]));
  const auto stream = static_cast<uint64_t>(args.attrs.Int("stream"));
  const int64_t n = args.out_types[0].shape.num_elements();
  const bool wide = args.out_types[0].dtype == DType::kDouble;
  for (int64_t first = 0; first < n; first += 4) {
    const auto block = static_cast<uint64_t>(first / 4);
    const PhiloxBlock high = Draw(key, stream, block, 0);
    const PhiloxBlock low = wide ? Draw(key, stream, block, 1) : PhiloxBlock{};
    for (int64_t i = first; i < std::min(n, first + 4); ++i) {
      const auto lane = static_cast<size_t>(i - first);
      if (wide) {
        const uint64_t bits = (uint64_t{high[lane]} << 32 | low[lane]) >> 11;
        static_cast<double*>(args.out[0])[i] = static_cast<double>(bits) * 0x1p-53;
      } else {
        static_cast<float*>(args.out[0])[i] = static_cast<float>(high[lane] >> 8) * 0x1p-24f;
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TensorType>> InferRandomUniform(const InferArgs& args) {
  if (args.in[0] != TensorType{DType::kInt64, {2}}) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("the seed is ", args.in[0].ToString(), ", expected INT64[2]"));
  }
  const DType dtype = DTypeFromOnnx(args.attrs.Int("dtype"));
  if (!IsFloating(dtype)) {
    return Error(Reason::kDtypeUnsupported, absl::StrCat("random values of type ", DTypeName(dtype),
                                                         ", expected FLOAT or DOUBLE"));
  }
  GW_ASSIGN_OR_RETURN(Shape shape, Shape::Make(args.attrs.Ints("shape")));
  return std::vector<TensorType>{{dtype, std::move(shape)}};
}

// ---- ONNX's random ops

// Uniform in [0, 1). An attribute `seed` gives the same numbers in every call; without one they
// follow from the call's seed and the node. Draw 1 is independent of draw 0.
ValueId DrawUniform(NodeImport& n, const TensorType& type, int64_t draw) {
  if (!n.attrs.Has("seed")) {
    return RandomUniform(n.b, n.Seed(), type, draw == 0 ? n.stream : ~n.stream);
  }
  const auto bits = std::bit_cast<int64_t>(FloatAttr(n, "seed", 0));
  const ValueId seed = n.b.Constant(Tensor::FromVector<int64_t>({2}, {bits, 0}));
  return RandomUniform(n.b, seed, type, draw);
}

// The type of the result: `dtype` or otherwise that of the input, and the shape. Computed in DOUBLE
// if it is that, else in FLOAT.
std::optional<TensorType> DrawnType(NodeImport& n, bool like, int64_t otherwise) {
  const int64_t number = IntAttr(n, "dtype", otherwise);
  const DType dtype = DTypeFromOnnx(number);
  if (!IsFloating(dtype) && dtype != DType::kFloat16 && dtype != DType::kBfloat16) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("dtype is ", number, ", expected a floating type"));
    return std::nullopt;
  }
  const auto dims = like ? std::optional(ToVector(n.type(0).shape.dims()))
                         : RequiredInts(n, "shape", n.num_inputs());
  if (!dims || !n.b.ok()) return std::nullopt;
  const std::optional<Shape> shape = ResultShape(n.b, *dims);
  return shape ? std::optional(TensorType{dtype, *shape}) : std::nullopt;
}

// low + (high - low) * u, or mean + scale * z of Box and Muller.
template <bool kLike, bool kNormal>
std::vector<ValueId> ImportRandom(NodeImport& n) {
  if (!TakesInputs(n, kLike ? 1 : 0, kLike ? 1 : 0)) return {};
  GraphBuilder& b = n.b;
  const auto type = DrawnType(n, kLike, kLike ? static_cast<int64_t>(n.type(0).dtype) : 1);
  if (!type) return {};
  const DType computed = type->dtype == DType::kDouble ? DType::kDouble : DType::kFloat;
  const TensorType drawn{computed, type->shape};
  const auto constant = [&](double value) { return b.Scalar(computed, value); };
  ValueId x = DrawUniform(n, drawn, 0);
  double shift = FloatAttr(n, kNormal ? "mean" : "low", 0);
  double factor = kNormal ? FloatAttr(n, "scale", 1) : FloatAttr(n, "high", 1) - shift;
  if (kNormal) {
    const ValueId radius = Sqrt(b, Mul(b, constant(-2), Log(b, Sub(b, constant(1), x))));
    const ValueId angle = Mul(b, constant(2 * std::numbers::pi), DrawUniform(n, drawn, 1));
    x = Mul(b, radius, Cos(b, angle));
  }
  return {Cast(b, Add(b, constant(shift), Mul(b, constant(factor), x)), type->dtype)};
}

std::vector<ValueId> ImportBernoulli(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  GraphBuilder& b = n.b;
  const TensorType in = n.type(0);
  const int64_t number = IntAttr(n, "dtype", static_cast<int64_t>(in.dtype));
  const DType dtype = DTypeFromOnnx(number);
  if (!IsFloating(in.dtype) || dtype == DType::kUndefined) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("input is ", DTypeName(in.dtype), ", dtype ", number,
                        "; expected FLOAT or DOUBLE and a supported type"));
    return {};
  }
  return {Cast(b, Less(b, DrawUniform(n, in, 0), n.in(0)), dtype)};
}

Sample ShapeSample(DType dtype, Attrs::Entry more) {
  return {.inputs = {},
          .attrs = {{"shape", Ints({3, 5})}, {"dtype", static_cast<int64_t>(dtype)}, more}};
}

const OpDef kRandomNormalOp = {
    .name = "RandomNormal",
    .doc =
        "Normal with `mean` and `scale`, of RandomUniform's numbers by Box and Muller. An attribute"
        " `seed` gives the same ones in every call.",
    .min_inputs = 0,
    .max_inputs = 0,
    .onnx = {{.name = "RandomNormal", .since = 1, .import = ImportRandom<false, true>}},
    .domain = {.samples = {ShapeSample(DType::kFloat, {"seed", 3.5}),
                           ShapeSample(DType::kDouble, {"scale", 2.0})}},
};

const OpDef kRandomNormalLikeOp = {
    .name = "RandomNormalLike",
    .doc = "RandomNormal of the input's shape.",
    .onnx = {{.name = "RandomNormalLike", .since = 1, .import = ImportRandom<true, true>}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3})}, .attrs = {{"mean", 1.0}}},
                           {.inputs = {Given({3}, {1}, DType::kInt64)},
                            .attrs = {{"dtype", int64_t{11}}, {"seed", 1.0}}}}},
};

const OpDef kRandomUniformLikeOp = {
    .name = "RandomUniformLike",
    .doc = "RandomUniform of the input's shape.",
    .onnx = {{.name = "RandomUniformLike", .since = 1, .import = ImportRandom<true, false>}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3})}, .attrs = {{"low", 1.0}, {"high", 3.0}}}}},
};

const OpDef kBernoulliOp = {
    .name = "Bernoulli",
    .doc = "1 with the probability that the input says, else 0. The derivative is 0.",
    .onnx = {{.name = "Bernoulli", .since = 15, .import = ImportBernoulli}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3}, 0.1, 0.9)}},
                           {.inputs = {Drawn({4}, 0.1, 0.9)},
                            .attrs = {{"dtype", int64_t{9}}, {"seed", 2.0}}}}},
};

const OpDef kRandomUniformOp = {
    .name = "RandomUniform",
    .doc =
        "Uniform in [0, 1): Philox4x32-10, keyed by the input `[seed, step]` and counting elements "
        "and the attribute `stream`; ONNX's `low` and `high` shift and scale it. An attribute "
        "`seed` gives the same numbers in every call. The derivative is 0.",
    .attrs = {{"shape", std::vector<int64_t>(), true},
              {"dtype", int64_t{1}},
              {"stream", int64_t{0}}},
    .infer = InferRandomUniform,
    .reference = RandomUniformReference,
    .derivative = Zero{},
    .onnx = {{.name = "RandomUniform", .since = 1, .import = ImportRandom<false, false>}},
    .no_onnx_form = "random values have no ONNX form; use mode EVAL, in which a Dropout draws none",
    .domain = {.samples = {ShapeSample(DType::kFloat, {"low", -1.0}),
                           ShapeSample(DType::kDouble, {"high", 2.0}),
                           ShapeSample(DType::kFloat, {"seed", 7.0})}},
};

// ---- Dropout

// nullopt after a failure.
std::optional<bool> IsTraining(NodeImport& n) {
  if (n.mode != Mode::kAsGraph) return n.mode == Mode::kTrain;
  if (n.opset < 7) return n.attrs.Int("is_test", 0) == 0;
  if (n.opset < 12 || !n.has(2)) return false;
  const std::optional<Tensor> value = n.Frozen(2);
  if (!value) return std::nullopt;
  if (value->dtype() != DType::kBool || value->num_elements() != 1) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("training_mode is ", value->type().ToString(), ", expected one BOOL"));
    return std::nullopt;
  }
  return *value->data<bool>();
}

// The ratio as a scalar of x's type; it may be known only when the Program runs. kNoValue after a
// failure.
ValueId DropoutRatio(NodeImport& n) {
  GraphBuilder& b = n.b;
  const ValueId x = n.in(0);
  if (n.opset < 12 || !n.has(1)) return b.ScalarLike(x, n.attrs.Float("ratio", 0.5));
  if (n.type(1).shape.num_elements() != 1) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("ratio has shape ", n.type(1).shape.ToString(), ", expected a scalar"));
    return kNoValue;
  }
  const ValueId ratio = Cast(b, n.in(1), b.dtype(x));
  return StopGradient(b, b.shape(ratio).rank() == 0 ? ratio : Reshape(b, ratio, Shape()));
}

std::vector<ValueId> ImportDropout(NodeImport& n) {
  if (!HasInputs(n, 1)) return {};
  GraphBuilder& b = n.b;
  const ValueId x = n.in(0);
  const TensorType type = b.type(x);
  const std::optional<bool> training = IsTraining(n);
  if (!training) return {};
  std::vector<ValueId> out = {x};
  ValueId mask = kNoValue;
  if (*training) {
    const ValueId ratio = DropoutRatio(n);
    if (ratio == kNoValue) return {};
    const std::optional<double> known = b.UniformValue(ratio);
    if (known && !(*known >= 0 && *known <= 1)) {
      n.Fail(Reason::kInvalidModel, absl::StrCat("ratio is ", *known, ", expected 0 to 1"));
      return {};
    }
    if (!known || *known != 0) {
      mask = GreaterOrEqual(b, RandomUniform(b, n.Seed(), type, n.stream), ratio);
      const ValueId scale = Reciprocal(b, Sub(b, b.ScalarLike(x, 1), ratio));
      // A ratio of 1 drops everything: the infinite scale is never chosen.
      out[0] = Mul(b, x, Where(b, mask, scale, b.ScalarLike(x, 0)));
    }
  }
  if (n.num_outputs > 1) {
    if (mask == kNoValue) mask = b.Full({DType::kBool, type.shape}, 1);
    out.push_back(n.opset < 10 ? Cast(b, mask, type.dtype) : mask);
  }
  return out;
}

const OpDef kDropoutOp = {
    .name = "Dropout",
    .doc =
        "In training, each element is 0 with probability `ratio`, else `x / (1 - ratio)`; "
        "otherwise "
        "`x`. The second output tells which were kept.",
    .max_inputs = 3,
    .onnx = {{.name = "Dropout", .since = 6, .import = ImportDropout}},
    .domain = {.samples = {{.inputs = {{.shape = {2, 3}}}},
                           {.inputs = {{.shape = {2, 3}}}, .opset = 7}}},
};

}  // namespace

ValueId RandomUniform(GraphBuilder& b, ValueId seed, const TensorType& type, int64_t stream) {
  const Dims& dims = type.shape.dims();
  return b.Add(kRandomUniformOp, {seed},
               {{"shape", std::vector<int64_t>(dims.begin(), dims.end())},
                {"dtype", static_cast<int64_t>(type.dtype)},
                {"stream", stream}});
}

std::vector<const OpDef*> RandomOps() {
  return {&kRandomUniformOp,    &kRandomUniformLikeOp, &kRandomNormalOp,
          &kRandomNormalLikeOp, &kBernoulliOp,         &kDropoutOp};
}

}  // namespace gradwire
