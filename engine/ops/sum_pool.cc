// Pools that add: sums over windows as a core op, averages and p-norms said with it.
#include <type_traits>

#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"
#include "engine/ops/window_import.h"

namespace gradwire {
namespace {

using Types = absl::StatusOr<std::vector<TensorType>>;

// ---- Types

absl::Status CheckFloating(DType dtype) {
  if (IsFloating(dtype)) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported,
               absl::StrCat("input is ", DTypeName(dtype), ", expected FLOAT or DOUBLE"));
}

Types InferSumPool(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckFloating(args.in[0].dtype));
  GW_ASSIGN_OR_RETURN(Pool pool, MakePool(args.in[0].shape, args.attrs));
  return std::vector<TensorType>{{args.in[0].dtype, std::move(pool.output)}};
}

Types InferSumPoolGrad(const InferArgs& args) {
  const Shape& g = args.in[0].shape;
  GW_RETURN_IF_ERROR(CheckFloating(args.in[0].dtype));
  if (g.rank() < 3) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("input is ", g.ToString(), ", expected [N,C,...], rank 3 or more"));
  }
  std::vector<int64_t> dims = {g[0], g[1]};
  const std::vector<int64_t>& extents = args.attrs.Ints("shape");
  dims.insert(dims.end(), extents.begin(), extents.end());
  GW_ASSIGN_OR_RETURN(Shape x, ResultShape(dims));
  GW_ASSIGN_OR_RETURN(const Pool pool, MakePool(x, args.attrs));
  if (pool.output != g) {
    return Error(Reason::kShapeMismatch, absl::StrCat("the output's gradient is ", g.ToString(),
                                                      ", expected ", pool.output.ToString()));
  }
  return std::vector<TensorType>{{args.in[0].dtype, std::move(x)}};
}

// ---- References: a plane is one channel of one member of the batch

// An element goes from the side that is const to the other.
template <typename X, typename Y>
void Pass(X& x, Y& y) {
  if constexpr (std::is_const_v<X>) {
    y += x;
  } else {
    x += y;
  }
}

// Everything that the windows of the last dimension meet on one line of x, for one line of y.
template <typename X, typename Y>
void PassLine(const WindowDim& d, X* x, Y* y) {
  const Range inside = d.Inside();
  const int64_t count = inside.end - inside.begin;
  for (int64_t k = 0; count > 0 && k < d.kernel; ++k) {
    X* from = x + d.At(inside.begin, k);
    Y* to = y + inside.begin;
    if (d.stride == 1) {
#pragma omp simd
      for (int64_t q = 0; q < count; ++q) Pass(from[q], to[q]);
    } else {
      for (int64_t q = 0; q < count; ++q) Pass(from[q * d.stride], to[q]);
    }
  }
  for (const Range& edge : {Range{0, inside.begin}, Range{inside.end, d.out}}) {
    for (int64_t q = edge.begin; q < edge.end; ++q) {
      const Range positions = d.Positions(q);
      for (int64_t k = positions.begin; k < positions.end; ++k) Pass(x[d.At(q, k)], y[q]);
    }
  }
}

template <typename X, typename Y>
void PassPlane(const Window& w, X* x, Y* y) {
  for (int64_t o = 0; o < w[0].out; ++o) {
    const Range a = w[0].Positions(o);
    for (int64_t p = 0; p < w[1].out; ++p, y += w[2].out) {
      const Range b = w[1].Positions(p);
      for (int64_t i = a.begin; i < a.end; ++i) {
        for (int64_t j = b.begin; j < b.end; ++j) {
          PassLine(w[2], x + (w[0].At(o, i) * w[1].in + w[1].At(p, j)) * w[2].in, y);
        }
      }
    }
  }
}

// From x to y, or from y to x.
template <bool kForward>
absl::Status ReferenceSumPool(const ReferenceArgs& args) {
  const Shape &in = args.in[0].shape(), &out = args.out_types[0].shape;
  GW_ASSIGN_OR_RETURN(const Pool pool, MakePool(kForward ? in : out, args.attrs));
  const int64_t planes = out[0] * out[1];
  const int64_t from = planes == 0 ? 0 : in.num_elements() / planes;
  const int64_t to = planes == 0 ? 0 : out.num_elements() / planes;
  const bool known = VisitFloating(args.in[0].dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    ParallelFor(args.threads, planes, [&](int64_t plane) {
      const T* source = args.in[0].data<T>() + plane * from;
      T* sums = static_cast<T*>(args.out[0]) + plane * to;
      std::fill_n(sums, to, T{0});
      if constexpr (kForward) {
        PassPlane(pool.window, source, sums);
      } else {
        PassPlane(pool.window, sums, source);
      }
    });
  });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "SumPool has no kernel for this type");
}

// ---- Core rows

int64_t Taps(const Attrs& attrs, const Shape& x) {
  int64_t taps = 1;
  const std::vector<int64_t>& kernel = attrs.Ints("kernel");
  for (size_t i = 0; i < kernel.size(); ++i) {
    taps = SaturatingMul(taps, std::min(kernel[i], x[static_cast<int>(i) + 2]));
  }
  return taps;
}

Attrs WindowOf(const Attrs& attrs) {
  std::vector<Attrs::Entry> entries;
  for (const char* name : {"kernel", "strides", "pads", "dilations"}) {
    entries.emplace_back(name, *attrs.Find(name));
  }
  return Attrs(std::move(entries));
}

ValueId SumPoolGrad(GraphBuilder& b, const NodeView& n, int, ValueId g);

const std::vector<AttrDef> kWindowAttrs = {{"kernel", std::vector<int64_t>(), true},
                                           {"strides", std::vector<int64_t>(), true},
                                           {"pads", std::vector<int64_t>(), true},
                                           {"dilations", std::vector<int64_t>(), true}};

// Attributes of a core pool, and the extents of its input where it is the gradient's.
Attrs Windows(std::vector<int64_t> kernel, std::vector<int64_t> strides, std::vector<int64_t> pads,
              std::vector<int64_t> dilations, std::vector<int64_t> shape = {}) {
  std::vector<Attrs::Entry> entries = {{"kernel", std::move(kernel)},
                                       {"strides", std::move(strides)},
                                       {"pads", std::move(pads)},
                                       {"dilations", std::move(dilations)}};
  if (!shape.empty()) entries.emplace_back("shape", std::move(shape));
  return Attrs(std::move(entries));
}

const OpDef kSumPoolOp =
    {
        .name = "SumPool",
        .doc =
            "The sum of each window of `[N, C, ...]`, one to three dimensions; padding counts as 0."
            " Averages, p-norms of windows and LRN are made of it.",
        .attrs = kWindowAttrs,
        .infer = InferSumPool,
        .reference = ReferenceSumPool<true>,
        .derivative = Linear{SumPoolGrad},
        .flops =
            [](const InferArgs& args, const TensorType& out) {
              return SaturatingMul(out.shape.num_elements(), Taps(args.attrs, args.in[0].shape));
            },
        .no_onnx_form = "derivatives of convolutions and pools are not written as ONNX yet",
        .domain = {.samples =
                       {
                           {.inputs = {Drawn({2, 3, 4, 6})},
                            .attrs = Windows({2, 2}, {2, 2}, {0, 0, 0, 0}, {1, 1})},
                           {.inputs = {Drawn({1, 2, 5, 5})},
                            .attrs = Windows({3, 2}, {1, 1}, {1, 0, 2, 1}, {1, 2})},
                           {.inputs = {Drawn({2, 1, 7})}, .attrs = Windows({3}, {2}, {4, 3}, {1})},
                           {.inputs = {Drawn({1, 2, 3, 4, 3})},
                            .attrs = Windows({2, 2, 2}, {1, 2, 1}, {0, 0, 1, 0, 0, 1}, {1, 1, 1})},
                           {.inputs = {Drawn({0, 2, 4})}, .attrs = Windows({2}, {1}, {0, 0}, {1})},
                       }},
};

const OpDef kSumPoolGradOp = {
    .name = "SumPoolGrad",
    .doc =
        "Each element added to everything in its window, in zeros of spatial extents `shape`: the"
        " gradient of SumPool.",
    .attrs =
        [] {
          std::vector<AttrDef> attrs = kWindowAttrs;
          attrs.push_back({"shape", std::vector<int64_t>(), true});
          return attrs;
        }(),
    .infer = InferSumPoolGrad,
    .reference = ReferenceSumPool<false>,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
      return SumPool(b, g, WindowOf(n.attrs));
    }},
    .flops =
        [](const InferArgs& args, const TensorType& out) {
          return SaturatingMul(args.in[0].shape.num_elements(), Taps(args.attrs, out.shape));
        },
    .no_onnx_form = "derivatives of convolutions and pools are not written as ONNX yet",
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3, 2, 3})},
                        .attrs = Windows({2, 2}, {2, 2}, {0, 0, 0, 0}, {1, 1}, {4, 6})},
                       {.inputs = {Drawn({1, 2, 6, 4})},
                        .attrs = Windows({3, 2}, {1, 1}, {1, 0, 2, 1}, {1, 2}, {5, 5})},
                       {.inputs = {Drawn({2, 1, 6})}, .attrs = Windows({3}, {2}, {4, 3}, {1}, {7})},
                       {.inputs = {Drawn({0, 2, 3})}, .attrs = Windows({2}, {1}, {0, 0}, {1}, {4})},
                   }},
};

ValueId SumPoolGrad(GraphBuilder& b, const NodeView& n, int, ValueId g) {
  const Attrs window = WindowOf(n.attrs);
  std::vector<Attrs::Entry> entries(window.entries().begin(), window.entries().end());
  entries.emplace_back("shape", ToVector(SpatialDims(b.shape(n.in[0]))));
  return b.Add(kSumPoolGradOp, {g}, Attrs(std::move(entries)));
}

// ---- Averages

// How many elements, or elements and padding, each window of a dimension holds. kNoValue after a
// failure.
ValueId Counts(NodeImport& n, const WindowDim& d, int place, int spatial_rank) {
  if (!IndicesFit(n, d.out)) return kNoValue;
  std::vector<double> counts;
  for (int64_t o = 0; o < d.out; ++o) {
    const Range positions = d.Positions(o);
    counts.push_back(static_cast<double>(positions.end - positions.begin));
  }
  if (*std::min_element(counts.begin(), counts.end()) == 0) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("dimension ", place + 2,
                        ": windows lie in the padding alone: there is no average of nothing"));
    return kNoValue;
  }
  const DType dtype = n.type(0).dtype;
  const bool uniform = std::count(counts.begin(), counts.end(), counts[0]) == d.out;
  if (uniform) return n.b.Scalar(dtype, counts[0]);
  Dims dims(static_cast<size_t>(spatial_rank), 1);
  dims[static_cast<size_t>(place)] = d.out;
  const Tensor tensor = Tensor::FromVector<double>(Shape(std::move(dims)), counts);
  return n.b.Constant(dtype == DType::kDouble ? tensor : Converted(tensor, dtype));
}

std::vector<ValueId> ImportAveragePool(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  GraphBuilder& b = n.b;
  const Shape x = n.type(0).shape;
  const bool with_padding = IntAttr(n, "count_include_pad", 0) != 0;
  std::optional<std::vector<Attrs::Entry>> attrs = PoolAttrs(n, IntAttr(n, "ceil_mode", 0) != 0);
  // What ceil_mode adds is no padding that counts.
  std::optional<std::vector<Attrs::Entry>> plain = PoolAttrs(n, false);
  if (!b.ok()) return {};
  const Attrs windows(*std::move(attrs));
  const std::vector<int64_t> pads = Attrs(*std::move(plain)).Ints("pads");
  const ValueId sums = SumPool(b, n.in(0), windows);
  if (!b.ok()) return {};
  const absl::StatusOr<Pool> pool = MakePool(x, windows);
  if (!pool.ok()) {
    b.Fail(pool.status());
    return {};
  }
  const int rank = x.rank() - 2;
  ValueId count = kNoValue;
  for (int i = 0; i < rank && b.ok(); ++i) {
    WindowDim d = pool->window[static_cast<size_t>(i + kMaxWindowRank - rank)];
    if (with_padding) {
      d.in += d.before + pads[static_cast<size_t>(i + rank)];
      d.before = 0;
    }
    const ValueId held = Counts(n, d, i, rank);
    count = count == kNoValue ? held : Mul(b, count, held);
  }
  return {Div(b, sums, count)};
}

std::vector<Sample> AveragePoolSamples() {
  const Attrs::Entry ceil = {"ceil_mode", int64_t{1}}, all = {"count_include_pad", int64_t{1}};
  return {
      {.inputs = {Drawn({2, 3, 4, 6})},
       .attrs = {{"kernel_shape", Ints({2, 2})}, {"strides", Ints({2, 2})}}},
      {.inputs = {Drawn({1, 2, 5, 5})},
       .attrs = {{"kernel_shape", Ints({3, 2})}, {"pads", Ints({1, 0, 2, 1})}}},
      {.inputs = {Drawn({1, 2, 5, 5})},
       .attrs = {{"kernel_shape", Ints({3, 2})}, {"pads", Ints({1, 0, 2, 1})}, all}},
      {.inputs = {Drawn({1, 2, 7, 6})},
       .attrs = {{"kernel_shape", Ints({3, 2})}, {"strides", Ints({2, 3})}, ceil, all}},
      {.inputs = {Drawn({1, 2, 8, 6})},
       .attrs = {{"kernel_shape", Ints({3, 2})},
                 {"strides", Ints({2, 3})},
                 {"pads", Ints({1, 0, 1, 1})},
                 ceil,
                 all}},
      {.inputs = {Drawn({1, 2, 9, 6})},
       .attrs = {{"kernel_shape", Ints({2, 2})}, {"dilations", Ints({3, 2})}, ceil, all},
       .opset = 19},
      {.inputs = {Drawn({2, 2, 6})},
       .attrs = {{"kernel_shape", Ints({3})}, {"strides", Ints({2})}, ceil}},
      {.inputs = {Drawn({1, 1, 3, 4, 3})}, .attrs = {{"kernel_shape", Ints({2, 2, 2})}}},
      {.inputs = {Drawn({1, 1, 5, 4})},
       .attrs = {{"kernel_shape", Ints({2, 3})},
                 {"auto_pad", std::string("SAME_UPPER")},
                 {"strides", Ints({2, 1})}}},
      {.inputs = {Drawn({1, 1, 5})},
       .attrs = {{"kernel_shape", Ints({2})}, {"auto_pad", std::string("SAME_LOWER")}, all},
       .opset = 7},
      {.inputs = {Drawn({1, 1, 5})},
       .attrs = {{"kernel_shape", Ints({2})}, {"auto_pad", std::string("VALID")}},
       .opset = 6},
      {.inputs = {Drawn({1, 1, 40, 37}, -1, 1)},
       .attrs = {{"kernel_shape", Ints({3, 3})}, {"pads", Ints({1, 1, 1, 1})}}},
      {.inputs = {Drawn({0, 2, 4})}, .attrs = {{"kernel_shape", Ints({2})}}},
  };
}

const OpDef kAveragePoolOp = {
    .name = "AveragePool",
    .doc =
        "The mean of each window of `[N, C, ...]`: of its elements, or with `count_include_pad` of"
        " elements and padding; what `ceil_mode` adds behind the padding never counts, as in"
        " PyTorch. With `ceil_mode`, windows begin in the input or the padding before it.",
    .onnx = {{.name = "AveragePool", .since = 1, .import = ImportAveragePool}},
    .domain = {.samples = AveragePoolSamples()},
};

// ---- Norms

// `p` as an integer of at least 1: below opset 2 it was a float.
std::optional<double> PoolPower(NodeImport& n) {
  const int64_t p = IntAttr(n, "p", 2);
  if (p < 1) n.Fail(Reason::kInvalidModel, absl::StrCat("p is ", p, ", expected 1 or more"));
  if (!n.b.ok()) return std::nullopt;
  return static_cast<double>(p);
}

const OpDef kLpPoolOp = {
    .name = "LpPool",
    .doc =
        "`sum(|x|^p)^(1/p)` of each window of `[N, C, ...]`, p at least 1; the derivative of a"
        " window of zeros is 0. With `ceil_mode`, windows begin in the input or the padding before"
        " it.",
    .onnx = {{.name = "LpPool",
              .since = 2,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!TakesInputs(n, 1, 1)) return {};
                const std::optional<double> p = PoolPower(n);
                std::optional<std::vector<Attrs::Entry>> attrs =
                    PoolAttrs(n, IntAttr(n, "ceil_mode", 0) != 0);
                if (!n.b.ok()) return {};
                const ValueId powers = PowerOfMagnitude(n.b, n.in(0), *p);
                return {NormRoot(n.b, SumPool(n.b, powers, Attrs(*std::move(attrs))), *p)};
              }}},
    .domain =
        {.samples =
             {
                 {.inputs = {Drawn({2, 3, 4, 6}, 0.2)},
                  .attrs = {{"kernel_shape", Ints({2, 2})}, {"strides", Ints({2, 2})}}},
                 {.inputs = {Drawn({1, 2, 5}, 0.2)},
                  .attrs = {{"kernel_shape", Ints({3})}, {"pads", Ints({1, 0})}, {"p", int64_t{1}}},
                  .opset = 11},
                 {.inputs = {Drawn({1, 2, 5, 4}, 0.2)},
                  .attrs = {{"kernel_shape", Ints({2, 2})},
                            {"dilations", Ints({2, 1})},
                            {"strides", Ints({2, 1})},
                            {"ceil_mode", int64_t{1}},
                            {"p", int64_t{3}}}},
                 {.inputs = {Drawn({1, 1, 3, 4, 3}, 0.2)},
                  .attrs = {{"kernel_shape", Ints({2, 2, 2})},
                            {"auto_pad", std::string("SAME_UPPER")}},
                  .opset = 6},
             }},
};

// ---- Pools over everything

// The spatial axes of [N, C, ...]; empty after a failure.
Axes SpatialAxes(NodeImport& n) {
  const Shape& x = n.type(0).shape;
  if (x.rank() >= 3) return Iota(2, x.rank());
  n.Fail(Reason::kShapeMismatch,
         absl::StrCat("input is ", x.ToString(), ", expected [N,C,...], rank 3 or more"));
  return {};
}

std::vector<Sample> GlobalSamples(double low) {
  return {
      {.inputs = {Drawn({2, 3, 4, 5}, low)}},
      {.inputs = {Drawn({2, 2, 3}, low)}, .opset = 6},
      {.inputs = {Drawn({1, 2, 2, 3, 2}, low)}},
      {.inputs = {Drawn({0, 2, 3}, low)}},
  };
}

const OpDef kGlobalAveragePoolOp = {
    .name = "GlobalAveragePool",
    .doc = "The mean of each channel of `[N, C, ...]`.",
    .onnx = {{.name = "GlobalAveragePool",
              .since = 1,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!TakesInputs(n, 1, 1)) return {};
                const absl::Status floating = CheckFloating(n.type(0).dtype);
                if (!floating.ok()) n.b.Fail(floating);
                const Axes axes = SpatialAxes(n);
                if (!n.b.ok()) return {};
                return {ReduceMean(n.b, n.in(0), axes, true)};
              }}},
    .domain = {.samples = GlobalSamples(-2)},
};

const OpDef kGlobalLpPoolOp = {
    .name = "GlobalLpPool",
    .doc = "`sum(|x|^p)^(1/p)` of each channel of `[N, C, ...]`; the derivative of zeros is 0.",
    .onnx = {{.name = "GlobalLpPool",
              .since = 2,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!TakesInputs(n, 1, 1)) return {};
                const absl::Status floating = CheckFloating(n.type(0).dtype);
                if (!floating.ok()) n.b.Fail(floating);
                const std::optional<double> p = PoolPower(n);
                const Axes axes = SpatialAxes(n);
                if (!n.b.ok()) return {};
                const ValueId powers = PowerOfMagnitude(n.b, n.in(0), *p);
                return {NormRoot(n.b, ReduceSum(n.b, powers, axes, true), *p)};
              }}},
    .domain = {.samples = GlobalSamples(0.2)},
};

}  // namespace

ValueId SumPool(GraphBuilder& b, ValueId x, const Attrs& window) {
  return b.Add(kSumPoolOp, {x}, window);
}

std::vector<const OpDef*> SumPoolOps() {
  return {&kSumPoolOp, &kSumPoolGradOp,       &kAveragePoolOp,
          &kLpPoolOp,  &kGlobalAveragePoolOp, &kGlobalLpPoolOp};
}

}  // namespace gradwire
