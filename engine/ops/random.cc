// Random values: pure functions of a seed, a step and the stream that import gave to the node.
#include <algorithm>

#include "engine/base/philox.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"

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

Sample UniformSample(DType dtype) {
  return {.inputs = {{.shape = {2}, .dtype = DType::kInt64, .values = {7, 1}}},
          .attrs = {{"shape", std::vector<int64_t>{3, 5}},
                    {"dtype", static_cast<int64_t>(dtype)},
                    {"stream", int64_t{2}}}};
}

const OpDef kRandomUniformOp = {
    .name = "RandomUniform",
    .doc =
        "Uniform in [0, 1): Philox4x32-10, keyed by the input `[seed, step]` and counting elements "
        "and the attribute `stream`. The derivative is 0.",
    .attrs = {{"shape", std::vector<int64_t>(), true},
              {"dtype", int64_t{1}},
              {"stream", int64_t{0}}},
    .infer = InferRandomUniform,
    .reference = RandomUniformReference,
    .derivative = Zero{},
    .no_onnx_form = "random values have no ONNX form; use mode EVAL, in which a Dropout draws none",
    .domain = {.samples = {UniformSample(DType::kFloat), UniformSample(DType::kDouble)}},
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

std::vector<const OpDef*> RandomOps() { return {&kRandomUniformOp, &kDropoutOp}; }

}  // namespace gradwire
