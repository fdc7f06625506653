// Reductions. Sum, maximum and minimum are core ops; the others are said with them.
#include <algorithm>
#include <limits>

#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

// ---- Types and references

bool Contains(const std::vector<int64_t>& axes, int d) {
  return std::find(axes.begin(), axes.end(), d) != axes.end();
}

// The extents that are left: reduced ones dropped, or 1.
Shape ReducedShape(const Shape& in, const std::vector<int64_t>& axes, bool keepdims) {
  Dims dims;
  for (int d = 0; d < in.rank(); ++d) {
    if (!Contains(axes, d)) {
      dims.push_back(in[d]);
    } else if (keepdims) {
      dims.push_back(1);
    }
  }
  return Shape(std::move(dims));
}

absl::StatusOr<std::vector<TensorType>> InferReduce(const InferArgs& args) {
  const TensorType& in = args.in[0];
  if (!InClass(in.dtype, kNumeric)) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("input is ", DTypeName(in.dtype), ", expected a number"));
  }
  int64_t previous = -1;
  for (int64_t axis : args.attrs.Ints("axes")) {
    if (axis <= previous || axis >= in.shape.rank()) {
      return Error(Reason::kShapeMismatch,
                   absl::StrCat("axis ", axis, ", expected rising axes of ", in.shape.ToString()));
    }
    previous = axis;
  }
  return std::vector<TensorType>{
      {in.dtype, ReducedShape(in.shape, args.attrs.Ints("axes"), false)}};
}

struct SumStep {
  template <typename T>
  using Total = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
  template <typename T>
  static Total<T> Start() {
    return 0;
  }
  template <typename T>
  static void Take(Total<T>* total, T x) {
    *total += static_cast<Total<T>>(x);
  }
};
// NaN wins over everything, as in NumPy and PyTorch; over nothing the result is the least value.
struct MaxStep {
  template <typename T>
  using Total = T;
  template <typename T>
  static T Start() {
    if constexpr (std::is_floating_point_v<T>) return -std::numeric_limits<T>::infinity();
    return std::numeric_limits<T>::lowest();
  }
  template <typename T>
  static void Take(T* total, T x) {
    if (x > *total || x != x) *total = x;
  }
};
struct MinStep {
  template <typename T>
  using Total = T;
  template <typename T>
  static T Start() {
    if constexpr (std::is_floating_point_v<T>) return std::numeric_limits<T>::infinity();
    return std::numeric_limits<T>::max();
  }
  template <typename T>
  static void Take(T* total, T x) {
    if (x < *total || x != x) *total = x;
  }
};

template <typename Step>
absl::Status ReferenceReduce(const ReferenceArgs& args) {
  const Shape& in = args.in[0].shape();
  const Dims strides = in.Strides();
  Dims kept, kept_strides, reduced, reduced_strides;
  int64_t count = 1;
  for (int d = 0; d < in.rank(); ++d) {
    const bool gone = Contains(args.attrs.Ints("axes"), d);
    (gone ? reduced : kept).push_back(in[d]);
    (gone ? reduced_strides : kept_strides).push_back(strides[d]);
    if (gone) count *= in[d];
  }
  const bool known = VisitNumeric(args.in[0].dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* data = args.in[0].data<T>();
    T* out = static_cast<T*>(args.out[0]);
    StridedWalk outer(kept, kept_strides), inner(reduced, reduced_strides);
    const int64_t n = args.out_types[0].shape.num_elements();
    for (int64_t i = 0; i < n; ++i, outer.Next()) {
      auto total = Step::template Start<T>();
      for (int64_t k = 0; k < count; ++k, inner.Next()) {
        Step::template Take<T>(&total, data[outer.offset() + inner.offset()]);
      }
      out[i] = static_cast<T>(total);
    }
  });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "reductions have no kernel for this type");
}

// Over extents of 1 only, a reduction changes the shape alone.
ValueId SimplifyReduce(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  const Shape in = b.shape(n.in[0]);
  for (int64_t axis : n.attrs.Ints("axes")) {
    if (in[static_cast<int>(axis)] != 1) return kNoValue;
  }
  return Reshape(b, n.in[0], type.shape);
}

// ---- Derivatives

ValueId SumTranspose(GraphBuilder& b, const NodeView& n, int, ValueId g) {
  const Shape in = b.shape(n.in[0]);
  return Expand(b, Reshape(b, g, ReducedShape(in, n.attrs.Ints("axes"), true)), in);
}

// What part of an extremum's derivative each element has: all that attain it share equally.
ValueId TieShares(GraphBuilder& b, const NodeView& n) {
  const Axes& axes = n.attrs.Ints("axes");
  const ValueId top = Reshape(b, n.out[0], ReducedShape(b.shape(n.in[0]), axes, true));
  const ValueId mask = Cast(b, Equal(b, n.in[0], top), b.dtype(n.in[0]));
  return Div(b, mask, ReduceSum(b, mask, axes, true));
}

const General kExtremum = {
    .vjp = [](GraphBuilder& b, const NodeView& n,
              absl::Span<const ValueId> g) -> std::vector<ValueId> {
      const ValueId kept =
          Reshape(b, g[0], ReducedShape(b.shape(n.in[0]), n.attrs.Ints("axes"), true));
      return {Mul(b, TieShares(b, n), kept)};
    },
    .jvp = [](GraphBuilder& b, const NodeView& n,
              absl::Span<const ValueId> t) -> std::vector<ValueId> {
      return {ReduceSum(b, Mul(b, TieShares(b, n), t[0]), n.attrs.Ints("axes"))};
    }};

// ---- Composites

int64_t ReducedCount(const Shape& in, const Axes& axes) {
  int64_t count = 1;
  for (int64_t axis : axes) count *= in[static_cast<int>(axis)];
  return count;
}

Axes OrAll(const GraphBuilder& b, ValueId x, const Axes& axes) {
  return axes.empty() ? Iota(0, b.shape(x).rank()) : axes;
}

ValueId ReduceL1(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims) {
  return ReduceSum(b, Abs(b, x), axes, keepdims);
}
ValueId ReduceSumSquare(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims) {
  return ReduceSum(b, Mul(b, x, x), axes, keepdims);
}
ValueId ReduceLogSum(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims) {
  return Log(b, ReduceSum(b, x, axes, keepdims));
}
ValueId ReduceL2(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims) {
  return NormRoot(b, ReduceSumSquare(b, x, axes, keepdims), 2);
}

using ReduceFn = ValueId (*)(GraphBuilder&, ValueId, const Axes&, bool);

// kAxesInput: the first opset in which the axes are an input.
template <ReduceFn kReduce, int kAxesInput>
std::vector<ValueId> ImportReduce(NodeImport& n) {
  if (!TakesInputs(n, 1, n.opset < kAxesInput ? 1 : 2)) return {};
  const std::optional<std::vector<int64_t>> given = n.IntsFromAttrOrInput("axes", 1);
  const bool keepdims = IntAttr(n, "keepdims", 1) != 0;
  const bool noop = IntAttr(n, "noop_with_empty_axes", 0) != 0;
  if (!n.b.ok()) return {};
  if ((!given || given->empty()) && noop) return {n.in(0)};
  const int rank = n.type(0).shape.rank();
  const Axes axes = n.Axes(given.value_or(std::vector<int64_t>()), rank);
  if (!n.b.ok()) return {};
  // Whether any or all are true: extremes of BOOL, since opset 20.
  const bool extreme = kReduce == gradwire::ReduceMax || kReduce == gradwire::ReduceMin;
  if (extreme && n.opset >= 20 && n.type(0).dtype == DType::kBool) {
    const ValueId numbers = Cast(n.b, n.in(0), DType::kUint8);
    return {Cast(n.b, kReduce(n.b, numbers, axes, keepdims), DType::kBool)};
  }
  return {kReduce(n.b, n.in(0), axes, keepdims)};
}

// A reduction over nothing is sampled only where its result is finite.
std::vector<Sample> ReduceSamples(int axes_input, bool finite_over_nothing, double low = -2,
                                  double high = 2) {
  auto in = [&](Dims shape) { return Drawn(std::move(shape), low, high); };
  std::vector<Sample> samples = {
      {.inputs = {in({2, 3, 4})}},
      {.inputs = {in({2, 3, 4})}, .attrs = {{"axes", Ints({-1})}}, .opset = axes_input - 1},
      {.inputs = {in({2, 3, 4})},
       .attrs = {{"axes", Ints({0, 2})}, {"keepdims", int64_t{0}}},
       .opset = axes_input - 1},
      {.inputs = {in({2, 3, 4}), FrozenVector({-2})}, .opset = axes_input},
      {.inputs = {in({2, 3, 4}), FrozenVector({2, 0})},
       .attrs = {{"keepdims", int64_t{0}}},
       .opset = axes_input},
      {.inputs = {in({3}), FrozenVector({})},
       .attrs = {{"noop_with_empty_axes", int64_t{1}}},
       .opset = axes_input},
      {.inputs = {in({5, 1}), FrozenVector({1})}, .opset = axes_input},
      {.inputs = {in({})}, .attrs = {{"keepdims", int64_t{0}}}},
      {.inputs = {in({0, 3}), FrozenVector({1})}, .opset = axes_input},
      {.inputs = {in({7, 67}), FrozenVector({1})}, .opset = axes_input},
  };
  if (finite_over_nothing) {
    samples.push_back({.inputs = {in({3, 0}), FrozenVector({1})}, .opset = axes_input});
  }
  return samples;
}

// A row that is said with others.
template <ReduceFn kReduce>
OpDef Composite(absl::string_view name, absl::string_view doc, bool finite_over_nothing,
                double low = -2) {
  return {.name = name,
          .doc = doc,
          .max_inputs = 2,
          .onnx = {{.name = name, .since = 1, .import = ImportReduce<kReduce, 18>}},
          .domain = {.samples = ReduceSamples(18, finite_over_nothing, low)}};
}

// ---- Rows

const std::vector<AttrDef> kReduceAttrs = {{"axes", std::vector<int64_t>(), true}};

// No axes mean all of them to ONNX, and none to us.
void ExportReduce(NodeExport& n, absl::string_view op) {
  const std::vector<int64_t>& axes = n.attrs.Ints("axes");
  if (axes.empty()) {
    n.Add("Identity", {n.in(0)}, n.out(0));
  } else {
    n.Add(op, {n.in(0), n.Ints(axes)}, n.out(0), {{"keepdims", int64_t{0}}});
  }
}

const OpDef kReduceSumOp = {
    .name = "ReduceSum",
    .doc =
        "Sum over `axes`, all where none are given; 0 over nothing. The order of additions is"
        " fixed; the reference adds FLOAT in double.",
    .attrs = kReduceAttrs,
    .infer = InferReduce,
    .reference = ReferenceReduce<SumStep>,
    .simplify = SimplifyReduce,
    .derivative = Linear{SumTranspose},
    .lowering = Reduce{ReduceKind::kSum},
    .onnx = {{.name = "ReduceSum", .since = 1, .import = ImportReduce<ReduceSum, 13>}},
    .export_onnx = [](NodeExport& n) { ExportReduce(n, "ReduceSum"); },
    .domain = {.samples = ReduceSamples(13, true)},
};

const OpDef kReduceMaxOp = {
    .name = "ReduceMax",
    .doc =
        "Maximum over `axes`; NaN if there is one, the least value over nothing. Elements that"
        " attain it share its derivative equally, as in PyTorch's amax.",
    .attrs = kReduceAttrs,
    .infer = InferReduce,
    .reference = ReferenceReduce<MaxStep>,
    .simplify = SimplifyReduce,
    .derivative = kExtremum,
    .lowering = Reduce{ReduceKind::kMax},
    .onnx = {{.name = "ReduceMax", .since = 1, .import = ImportReduce<ReduceMax, 18>}},
    .export_onnx = [](NodeExport& n) { ExportReduce(n, "ReduceMax"); },
    .domain = {.samples = ReduceSamples(18, false)},
};

const OpDef kReduceMinOp = {
    .name = "ReduceMin",
    .doc =
        "Minimum over `axes`; NaN if there is one, the greatest value over nothing. Elements that"
        " attain it share its derivative equally, as in PyTorch's amin.",
    .attrs = kReduceAttrs,
    .infer = InferReduce,
    .reference = ReferenceReduce<MinStep>,
    .simplify = SimplifyReduce,
    .derivative = kExtremum,
    .lowering = Reduce{ReduceKind::kMin},
    .onnx = {{.name = "ReduceMin", .since = 1, .import = ImportReduce<ReduceMin, 18>}},
    .export_onnx = [](NodeExport& n) { ExportReduce(n, "ReduceMin"); },
    .domain = {.samples = ReduceSamples(18, false)},
};

const OpDef kReduceMeanOp = Composite<ReduceMean>(
    "ReduceMean", "Sum over `axes` divided by the number of elements; NaN over nothing.", false);
const OpDef kReduceProdOp = Composite<ReduceProd>(
    "ReduceProd",
    "Product over `axes`, 1 over nothing, taken in pairs. Exact derivatives of any order where"
    " factors are 0.",
    true);
const OpDef kReduceLogSumExpOp = Composite<ReduceLogSumExp>(
    "ReduceLogSumExp", "log(sum(exp(x))) over `axes`, without overflow for large x.", false);
const OpDef kReduceL1Op =
    Composite<ReduceL1>("ReduceL1", "Sum of magnitudes over `axes`.", true, 0.2);
const OpDef kReduceL2Op = Composite<ReduceL2>(
    "ReduceL2", "Euclidean norm over `axes`; its derivative at 0 is 0, as in PyTorch.", true, 0.2);
const OpDef kReduceLogSumOp =
    Composite<ReduceLogSum>("ReduceLogSum", "Logarithm of the sum over `axes`.", false, 0.2);
const OpDef kReduceSumSquareOp =
    Composite<ReduceSumSquare>("ReduceSumSquare", "Sum of squares over `axes`.", true);

ValueId AddReduce(GraphBuilder& b, const OpDef& op, ValueId x, const Axes& given, bool keepdims) {
  if (!b.ok()) return kNoValue;
  const Shape in = b.shape(x);
  const Axes axes = OrAll(b, x, given);
  const ValueId reduced = b.Add(op, {x}, Attrs{{"axes", axes}});
  return keepdims ? Reshape(b, reduced, ReducedShape(in, axes, true)) : reduced;
}

}  // namespace

ValueId ReduceSum(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims) {
  return AddReduce(b, kReduceSumOp, x, axes, keepdims);
}
ValueId ReduceMax(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims) {
  return AddReduce(b, kReduceMaxOp, x, axes, keepdims);
}
ValueId ReduceMin(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims) {
  return AddReduce(b, kReduceMinOp, x, axes, keepdims);
}

ValueId ReduceMean(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims) {
  if (!b.ok()) return kNoValue;
  const TensorType in = b.type(x);
  const int64_t count = ReducedCount(in.shape, OrAll(b, x, axes));
  if (count == 0 && !IsFloating(in.dtype)) {
    b.Fail(Error(Reason::kShapeMismatch, absl::StrCat("mean of no elements of ", in.ToString())));
    return kNoValue;
  }
  const ValueId sum = ReduceSum(b, x, axes, keepdims);
  return count == 1 ? sum : Div(b, sum, b.ScalarLike(x, static_cast<double>(count)));
}

ValueId ReduceProd(GraphBuilder& b, ValueId x, const Axes& given, bool keepdims) {
  if (!b.ok()) return kNoValue;
  const TensorType in = b.type(x);
  const Axes axes = OrAll(b, x, given);
  const Shape out = ReducedShape(in.shape, axes, keepdims);
  const Shape kept = ReducedShape(in.shape, axes, false);
  int64_t count = ReducedCount(in.shape, axes);
  if (count == 0) return b.Full({in.dtype, out}, 1);
  Axes perm;
  for (int d = 0; d < in.shape.rank(); ++d) {
    if (!Contains(axes, d)) perm.push_back(d);
  }
  perm.insert(perm.end(), axes.begin(), axes.end());
  Dims dims = {kept.num_elements(), count};
  ValueId rest = Reshape(b, Transpose(b, x, perm), Shape(dims));
  auto part = [&](int64_t first, int64_t n) {
    return Slice(b, rest, {0, first}, {1, 1}, {dims[0], n});
  };
  ValueId odd = kNoValue;  // the product of those that had no partner
  while (count > 1) {
    const int64_t half = count / 2;
    if (count % 2 == 1) {
      const ValueId last = part(count - 1, 1);
      odd = odd == kNoValue ? last : Mul(b, odd, last);
    }
    rest = Mul(b, part(0, half), part(half, half));
    count = half;
  }
  if (odd != kNoValue) rest = Mul(b, rest, odd);
  return Reshape(b, rest, out);
}

ValueId ReduceLogSumExp(GraphBuilder& b, ValueId x, const Axes& given, bool keepdims) {
  if (!b.ok()) return kNoValue;
  const Axes axes = OrAll(b, x, given);
  const Shape out = ReducedShape(b.shape(x), axes, keepdims);
  const ValueId top = StopGradient(b, ReduceMax(b, x, axes, true));
  const ValueId finite =
      Less(b, Abs(b, top), b.ScalarLike(x, std::numeric_limits<double>::infinity()));
  const ValueId shift = Where(b, finite, top, b.ScalarLike(x, 0));
  const ValueId sum = ReduceSum(b, Exp(b, Sub(b, x, shift)), axes, keepdims);
  return Add(b, Log(b, sum), Reshape(b, shift, out));
}

ValueId PowerOfMagnitude(GraphBuilder& b, ValueId x, double p) {
  if (p == 1) return Abs(b, x);
  if (p == 2) return Mul(b, x, x);
  return Pow(b, Abs(b, x), b.ScalarLike(x, p));
}

// The guard keeps the infinite slope of the root at 0 out of the derivative.
ValueId NormRoot(GraphBuilder& b, ValueId x, double p) {
  if (!b.ok() || p == 1) return x;
  const ValueId zero = b.ScalarLike(x, 0);
  const ValueId is_zero = Equal(b, x, zero);
  const ValueId safe = Where(b, is_zero, b.ScalarLike(x, 1), x);
  const ValueId root = p == 2 ? Sqrt(b, safe) : Pow(b, safe, b.ScalarLike(x, 1 / p));
  return Where(b, is_zero, zero, root);
}

ValueId SumTo(GraphBuilder& b, ValueId x, const Shape& shape) {
  if (!b.ok()) return kNoValue;
  const Shape in = b.shape(x);
  if (in == shape) return x;
  if (!BroadcastsTo(shape, in)) {
    b.Fail(Error(Reason::kShapeMismatch,
                 absl::StrCat("cannot sum ", in.ToString(), " down to ", shape.ToString())));
    return kNoValue;
  }
  const int lead = in.rank() - shape.rank();
  Axes axes;
  for (int d = 0; d < in.rank(); ++d) {
    if (d < lead || (shape[d - lead] == 1 && in[d] != 1)) axes.push_back(d);
  }
  // One run of neighbouring dimensions after the other, the last first: no element has to move.
  while (!axes.empty()) {
    size_t first = axes.size() - 1;
    while (first > 0 && axes[first - 1] + 1 == axes[first]) --first;
    x = ReduceSum(b, x, Axes(axes.begin() + static_cast<std::ptrdiff_t>(first), axes.end()));
    axes.resize(first);
  }
  return Reshape(b, x, shape);
}

std::vector<const OpDef*> ReductionOps() {
  return {&kReduceSumOp,       &kReduceMaxOp, &kReduceMinOp, &kReduceMeanOp,   &kReduceProdOp,
          &kReduceLogSumExpOp, &kReduceL1Op,  &kReduceL2Op,  &kReduceLogSumOp, &kReduceSumSquareOp};
}

}  // namespace gradwire
