// Max pooling, and its inverse.
#include <algorithm>
#include <atomic>
#include <type_traits>

#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/graph/window.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"
#include "engine/ops/structural.h"
#include "engine/ops/window_import.h"

namespace gradwire {
namespace {

using Types = absl::StatusOr<std::vector<TensorType>>;

absl::Status CheckNumber(DType dtype) {
  if (InClass(dtype, kNumeric)) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported,
               absl::StrCat("input is ", DTypeName(dtype), ", expected a number"));
}

absl::Status CheckRank(const Shape& x) {
  if (x.rank() >= 3) return absl::OkStatus();
  return Error(Reason::kShapeMismatch,
               absl::StrCat("input is ", x.ToString(), ", expected [N,C,...], rank 3 or more"));
}

// An error where some window would have no element: a maximum over nothing has no index. (Windows
// that step over a whole dimension from the padding before it are refused, hit or miss.)
absl::Status CheckWindowsHoldElements(const Window& window, int rank) {
  for (size_t i = window.size() - static_cast<size_t>(rank); i < window.size(); ++i) {
    const WindowDim& d = window[i];
    const bool left = d.before > 0 && (d.before >= d.span() || d.dilation > d.in);
    if (!left && d.At(d.out - 1, 0) < d.in) continue;
    return Error(
        Reason::kShapeMismatch,
        absl::StrCat("dimension ", i + 2 + static_cast<size_t>(rank) - window.size(),
                     ": windows lie in the padding alone: extent ", d.in, ", pads ", d.before,
                     " and ", d.after, ", kernel ", d.kernel, ", dilation ", d.dilation));
  }
  return absl::OkStatus();
}

Types InferMaxPool(const InferArgs& args) {
  const Shape& x = args.in[0].shape;
  GW_RETURN_IF_ERROR(CheckNumber(args.in[0].dtype));
  GW_RETURN_IF_ERROR(CheckRank(x));
  GW_ASSIGN_OR_RETURN(const Window window,
                      MakeWindow(SpatialDims(x), args.attrs.Ints("kernel"), args.attrs));
  GW_RETURN_IF_ERROR(CheckWindowsHoldElements(window, x.rank() - 2));
  GW_ASSIGN_OR_RETURN(const Pool pool, MakePool(x, args.attrs));
  return std::vector<TensorType>{{args.in[0].dtype, pool.output}, {DType::kInt64, pool.output}};
}

Types InferMaxPoolGrad(const InferArgs& args) {
  const TensorType &g = args.in[0], &indices = args.in[1];
  GW_RETURN_IF_ERROR(CheckNumber(g.dtype));
  GW_RETURN_IF_ERROR(CheckRank(g.shape));
  if (indices != TensorType{DType::kInt64, g.shape}) {
    return Error(Reason::kShapeMismatch, absl::StrCat("indices are ", indices.ToString(),
                                                      ", expected INT64", g.shape.ToString()));
  }
  std::vector<int64_t> dims = {g.shape[0], g.shape[1]};
  const std::vector<int64_t>& extents = args.attrs.Ints("shape");
  dims.insert(dims.end(), extents.begin(), extents.end());
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(dims));
  return std::vector<TensorType>{{g.dtype, std::move(shape)}};
}

// ---- References: a plane is one channel of one member of the batch

// The elements of one window: for i < counts[0], j < counts[1], k < counts[2] those at
// first + i * steps[0] + j * steps[1] + k * steps[2] of its plane.
struct Elements {
  int64_t first;
  int64_t counts[3], steps[3];
};

// Where the largest element is: the first of equal ones and the last NaN, as in PyTorch.
template <typename T>
int64_t PlaceOfLargest(const Elements& e, const T* x) {
  int64_t place = e.first;
  T largest = x[place];
  bool nan = false;
  for (int64_t i = 0; i < e.counts[0]; ++i) {
    for (int64_t j = 0; j < e.counts[1]; ++j) {
      int64_t at = e.first + i * e.steps[0] + j * e.steps[1];
      for (int64_t k = 0; k < e.counts[2]; ++k, at += e.steps[2]) {
        // No branch, because which element is the largest cannot be predicted.
        const T value = x[at];
        place ^= (place ^ at) & -static_cast<int64_t>(value > largest);
        largest = value > largest ? value : largest;
        nan |= IsNan(value);
      }
    }
  }
  if (!nan) return place;
  for (int64_t i = 0; i < e.counts[0]; ++i) {
    for (int64_t j = 0; j < e.counts[1]; ++j) {
      int64_t at = e.first + i * e.steps[0] + j * e.steps[1];
      for (int64_t k = 0; k < e.counts[2]; ++k, at += e.steps[2]) {
        if (IsNan(x[at])) place = at;
      }
    }
  }
  return place;
}

// Where the elements of a window that meets no padding are, from its first one on, in order.
struct Taps {
  static constexpr int64_t kMost = 64;
  int64_t count = 0;  // 0: there is no such window, or they are too many
  int64_t at[kMost];

  explicit Taps(const Window& w) {
    if (SaturatingMul(SaturatingMul(w[0].kernel, w[1].kernel), w[2].kernel) > kMost) return;
    for (const WindowDim& d : w) {
      const Range inside = d.Inside();
      if (inside.begin >= inside.end) return;  // no window is whole
    }
    for (int64_t i = 0; i < w[0].kernel; ++i) {
      for (int64_t j = 0; j < w[1].kernel; ++j) {
        for (int64_t k = 0; k < w[2].kernel; ++k) {
          at[count++] =
              (i * w[0].dilation * w[1].in + j * w[1].dilation) * w[2].in + k * w[2].dilation;
        }
      }
    }
  }
};

// PlaceOfLargest for n windows without padding, `stride` apart, the first at x + begin: tap by tap
// over a run of windows, so that it compiles to vectors. kStride: the stride; 0: any.
template <int64_t kStride, typename T>
void PoolRow(const Taps& taps, const T* x, int64_t begin, int64_t stride, int64_t n, int64_t first,
             T* values, int64_t* indices) {
  using Tap = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;  // as wide as a mask
  constexpr int64_t kRun = 64;
  const int64_t step = kStride == 0 ? stride : kStride;
  for (int64_t q = 0; q < n; q += kRun) {
    const int64_t run = std::min(kRun, n - q);
    T largest[kRun];
    Tap which[kRun];
    const T* const start = x + begin + q * step;
    for (int64_t i = 0; i < run; ++i) {
      largest[i] = start[i * step];
      which[i] = 0;
    }
    for (Tap t = 1; t < taps.count; ++t) {
      const T* const from = start + taps.at[t];
#pragma omp simd
      for (int64_t i = 0; i < run; ++i) {
        const T value = from[i * step];
        // Nothing is larger than a NaN: after one only another takes its place.
        const bool take = (value > largest[i]) | IsNan(value);
        largest[i] = take ? value : largest[i];
        which[i] = take ? t : which[i];
      }
    }
    for (int64_t i = 0; i < run; ++i) {
      values[q + i] = largest[i];
      indices[q + i] = first + begin + (q + i) * step + taps.at[which[i]];
    }
  }
}

template <typename T>
void PoolPlane(const Window& w, const T* x, int64_t first, T* values, int64_t* indices) {
  const Range inside = w[2].Inside();
  const Taps taps(w);
  const int64_t line = w[2].in, sheet = w[1].in * line;
  for (int64_t o = 0; o < w[0].out; ++o) {
    const Range a = w[0].Positions(o);
    for (int64_t p = 0; p < w[1].out; ++p) {
      const Range b = w[1].Positions(p);
      const int64_t begin = w[0].At(o, a.begin) * sheet + w[1].At(p, b.begin) * line;
      const bool whole = taps.count > 0 && w[0].Inside().Contains(o) && w[1].Inside().Contains(p);
      for (int64_t q = 0; q < w[2].out; ++q) {
        if (whole && q == inside.begin && inside.end > q) {
          const int64_t n = inside.end - q, at = begin + w[2].At(q, 0), stride = w[2].stride;
          const auto row = stride == 1   ? PoolRow<1, T>
                           : stride == 2 ? PoolRow<2, T>
                                         : PoolRow<0, T>;
          row(taps, x, at, stride, n, first, values, indices);
          values += n;
          indices += n;
          q = inside.end - 1;
          continue;
        }
        const Range c = inside.Contains(q) ? Range{0, w[2].kernel} : w[2].Positions(q);
        const Elements window = {begin + w[2].At(q, c.begin),
                                 {a.end - a.begin, b.end - b.begin, c.end - c.begin},
                                 {w[0].dilation * sheet, w[1].dilation * line, w[2].dilation}};
        const int64_t place = PlaceOfLargest(window, x);
        *values++ = x[place];
        *indices++ = first + place;
      }
    }
  }
}

int64_t Planes(const Shape& shape) { return shape[0] * shape[1]; }

// Elements of one plane; 0 where there is none.
int64_t PlaneSize(const Shape& shape) {
  return Planes(shape) == 0 ? 0 : shape.num_elements() / Planes(shape);
}

absl::Status ReferenceMaxPool(const ReferenceArgs& args) {
  const Shape &x = args.in[0].shape(), &y = args.out_types[0].shape;
  GW_ASSIGN_OR_RETURN(const Pool pool, MakePool(x, args.attrs));
  const int64_t from = PlaneSize(x), to = PlaneSize(y);
  const bool known = VisitNumeric(args.in[0].dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    ParallelFor(args.threads, Planes(x), [&](int64_t plane) {
      PoolPlane(pool.window, args.in[0].data<T>() + plane * from, plane * from,
                static_cast<T*>(args.out[0]) + plane * to,
                static_cast<int64_t*>(args.out[1]) + plane * to);
    });
  });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "MaxPool has no kernel for this type");
}

absl::Status IndexError(const TensorView& indices, int64_t from, int64_t to) {
  const auto* data = indices.data<int64_t>();
  for (int64_t i = 0; i < indices.num_elements(); ++i) {
    const int64_t plane = i / from;
    if (data[i] >= plane * to && data[i] < (plane + 1) * to) continue;
    return Error(Reason::kInvalidTensor,
                 absl::StrCat("index ", data[i], " at position ", i, " is outside [", plane * to,
                              ", ", (plane + 1) * to - 1, "], its channel"));
  }
  return absl::OkStatus();
}

absl::Status ReferenceMaxPoolGrad(const ReferenceArgs& args) {
  const Shape &g = args.in[0].shape(), &x = args.out_types[0].shape;
  const int64_t from = PlaneSize(g), to = PlaneSize(x);
  std::atomic<bool> outside{false};
  const bool known = VisitNumeric(args.in[0].dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    ParallelFor(args.threads, Planes(x), [&](int64_t plane) {
      const T* in = args.in[0].data<T>() + plane * from;
      const int64_t* at = args.in[1].data<int64_t>() + plane * from;
      T* out = static_cast<T*>(args.out[0]) + plane * to;
      std::fill_n(out, to, T{0});
      for (int64_t i = 0; i < from; ++i) {
        const auto index = static_cast<uint64_t>(at[i]) - static_cast<uint64_t>(plane * to);
        if (index >= static_cast<uint64_t>(to)) {
          outside.store(true, std::memory_order_relaxed);
        } else {
          out[index] = WrappingAdd(out[index], in[i]);
        }
      }
    });
  });
  if (!known) return Error(Reason::kDtypeUnsupported, "MaxPoolGrad has no kernel for this type");
  return outside.load() ? IndexError(args.in[1], from, to) : absl::OkStatus();
}

// ---- Rows

// The elements of x at `indices`, which count through all of it.
ValueId GatherAt(GraphBuilder& b, ValueId x, ValueId indices) {
  if (!b.ok()) return kNoValue;
  return Gather(b, Reshape(b, x, {b.shape(x).num_elements()}), indices, 0);
}

const OpDef
    kMaxPoolGradOp =
        {
            .name = "MaxPoolGrad",
            .doc =
                "Zeros of spatial extents `shape` with the input added at the indices that MaxPool "
                "gave: its"
                " gradient.",
            .attrs = {{"shape", std::vector<int64_t>(), true}},
            .min_inputs = 2,
            .max_inputs = 2,
            .infer = InferMaxPoolGrad,
            .reference = ReferenceMaxPoolGrad,
            .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int i, ValueId g) {
              return i == 0 ? GatherAt(b, g, n.in[1]) : kNoValue;
            }},
            .no_onnx_form = "derivatives of convolutions and pools are not written as ONNX yet",
            .domain =
                {.samples =
                     {
                         {.inputs = {Drawn({1, 2, 3}),
                                     Given({1, 2, 3}, {0, 3, 3, 4, 7, 4}, DType::kInt64)},
                          .attrs = {{"shape", Ints({4})}}},
                         {.inputs = {Drawn({2, 1, 2, 2}),
                                     Given({2, 1, 2, 2}, {5, 5, 5, 0, 6, 7, 8, 11}, DType::kInt64)},
                          .attrs = {{"shape", Ints({2, 3})}}},
                         {.inputs = {Drawn({0, 1, 2}), Given({0, 1, 2}, {}, DType::kInt64)},
                          .attrs = {{"shape", Ints({4})}}},
                     }},
};

int64_t MaxPoolFlops(const InferArgs& args, const TensorType& out) {
  int64_t flops = out.shape.num_elements();
  const Shape& x = args.in[0].shape;
  const std::vector<int64_t>& kernel = args.attrs.Ints("kernel");
  for (size_t i = 0; i < kernel.size(); ++i) {
    flops = SaturatingMul(flops, std::min(kernel[i], x[static_cast<int>(i) + 2]));
  }
  return flops;
}

std::vector<ValueId> ImportMaxPool(NodeImport& n);
std::vector<Sample> MaxPoolSamples();

const OpDef kMaxPoolOp = {
    .name = "MaxPool",
    .doc =
        "The largest element of each window of `[N, C, ...]`, one to three dimensions, NaN if there"
        " is one; padding is never the largest. The second output is where it is, counted through"
        " the whole input (by columns within a channel where `storage_order` is 1): the first of"
        " equal ones, to which the derivative goes. With `ceil_mode`, windows begin in the input or"
        " the padding before it.",
    .attrs = {{"kernel", std::vector<int64_t>(), true},
              {"strides", std::vector<int64_t>(), true},
              {"pads", std::vector<int64_t>(), true},
              {"dilations", std::vector<int64_t>(), true}},
    .infer = InferMaxPool,
    .reference = ReferenceMaxPool,
    .derivative = General{.vjp = [](GraphBuilder& b, const NodeView& n,
                                    absl::Span<const ValueId> g) -> std::vector<ValueId> {
                            const Shape x = b.shape(n.in[0]);
                            return {b.Add(kMaxPoolGradOp, {g[0], n.out[1]},
                                          Attrs{{"shape", ToVector(SpatialDims(x))}})};
                          },
                          .jvp = [](GraphBuilder& b, const NodeView& n,
                                    absl::Span<const ValueId> t) -> std::vector<ValueId> {
                            return {GatherAt(b, t[0], n.out[1]), kNoValue};
                          }},
    .flops = MaxPoolFlops,
    .onnx = {{.name = "MaxPool", .since = 1, .import = ImportMaxPool}},
    .no_onnx_form = "derivatives of convolutions and pools are not written as ONNX yet",
    .domain = {.samples = MaxPoolSamples()},
};

// ---- ONNX

// Indices that count each channel of [N, C, ...] by columns, its first spatial dimension fastest.
ValueId ByColumns(GraphBuilder& b, ValueId indices, const Shape& x) {
  const auto number = [&](int64_t value) { return b.Constant(Tensor::Scalar<int64_t>(value)); };
  ValueId out = kNoValue, rest = indices;
  for (int d = x.rank() - 1; d >= 2; --d) {
    int64_t step = 1;
    for (int e = 2; e < d; ++e) step *= x[e];
    const ValueId extent = number(x[d]), next = Div(b, rest, extent);
    const ValueId term = Mul(b, Sub(b, rest, Mul(b, next, extent)), number(step));
    out = out == kNoValue ? term : Add(b, out, term);
    rest = next;
  }
  return Add(b, out, Mul(b, rest, number(PlaneSize(x))));
}

std::vector<ValueId> ImportMaxPool(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const Shape x = n.type(0).shape;
  const bool by_columns = IntAttr(n, "storage_order", 0) != 0;
  std::optional<std::vector<Attrs::Entry>> attrs = PoolAttrs(n, IntAttr(n, "ceil_mode", 0) != 0);
  if (!n.b.ok()) return {};
  std::vector<ValueId> out = n.b.AddMulti(kMaxPoolOp, {n.in(0)}, Attrs(*std::move(attrs)));
  if (n.b.ok() && by_columns && n.num_outputs > 1) out[1] = ByColumns(n.b, out[1], x);
  return out;
}

std::vector<Sample> MaxPoolSamples() {
  return {
      {.inputs = {Drawn({2, 3, 4, 6})},
       .attrs = {{"kernel_shape", Ints({2, 2})}, {"strides", Ints({2, 2})}}},
      {.inputs = {Drawn({1, 2, 5, 5})},
       .attrs = {{"kernel_shape", Ints({3, 2})},
                 {"pads", Ints({1, 0, 2, 1})},
                 {"dilations", Ints({1, 2})},
                 {"storage_order", int64_t{1}}},
       .num_outputs = 2},
      {.inputs = {Drawn({2, 2, 6})},
       .attrs = {{"kernel_shape", Ints({3})}, {"strides", Ints({2})}, {"ceil_mode", int64_t{1}}},
       .num_outputs = 2},
      {.inputs = {Drawn({1, 2, 3, 4, 3})},
       .attrs = {{"kernel_shape", Ints({2, 2, 2})}, {"storage_order", int64_t{1}}},
       .num_outputs = 2},
      {.inputs = {Drawn({1, 1, 5, 4})},
       .attrs = {{"kernel_shape", Ints({2, 3})},
                 {"auto_pad", std::string("SAME_UPPER")},
                 {"strides", Ints({2, 1})}}},
      {.inputs = {Drawn({1, 1, 5})},
       .attrs = {{"kernel_shape", Ints({2})}, {"auto_pad", std::string("SAME_LOWER")}},
       .opset = 6},
      {.inputs = {Drawn({1, 1, 5})},
       .attrs = {{"kernel_shape", Ints({2})}, {"auto_pad", std::string("VALID")}},
       .opset = 10},
      {.inputs = {Drawn({0, 2, 4})}, .attrs = {{"kernel_shape", Ints({2})}}},
  };
}

// All of a channel is one window.
std::vector<ValueId> ImportGlobalMaxPool(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const Shape x = n.type(0).shape;
  if (absl::Status s = CheckRank(x); !s.ok()) {
    n.b.Fail(s);
    return {};
  }
  const std::optional<Shape> planes = ResultShape(n.b, {x[0], x[1], PlaneSize(x)});
  if (!n.b.ok()) return {};
  const ValueId largest = n.b.Add(kMaxPoolOp, {Reshape(n.b, n.in(0), *planes)},
                                  {{"kernel", std::vector<int64_t>{(*planes)[2]}},
                                   {"strides", Ints({1})},
                                   {"pads", Ints({0, 0})},
                                   {"dilations", Ints({1})}});
  Dims dims(static_cast<size_t>(x.rank()), 1);
  dims[0] = x[0];
  dims[1] = x[1];
  return {Reshape(n.b, largest, Shape(std::move(dims)))};
}

const OpDef kGlobalMaxPoolOp = {
    .name = "GlobalMaxPool",
    .doc =
        "The largest element of each channel of `[N, C, ...]`, NaN if there is one. The derivative"
        " goes to the first of equal ones.",
    .onnx = {{.name = "GlobalMaxPool", .since = 1, .import = ImportGlobalMaxPool}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3, 4, 5})}},
                       {.inputs = {Drawn({2, 2, 3})}, .opset = 6},
                       {.inputs = {Drawn({1, 2, 2, 3, 2})}},
                   }},
};

// The extents that MaxPool with these windows had as its input; empty after a failure.
std::vector<int64_t> UnpooledExtents(NodeImport& n) {
  const Shape x = n.type(0).shape;
  std::optional<std::vector<Attrs::Entry>> entries = PoolAttrs(n, false);
  if (!n.b.ok()) return {};
  const Attrs attrs(*std::move(entries));
  const auto rank = static_cast<size_t>(x.rank() - 2);
  const std::vector<int64_t>&kernel = attrs.Ints("kernel"), &strides = attrs.Ints("strides"),
        &pads = attrs.Ints("pads");
  if (kernel.size() != rank || strides.size() != rank || pads.size() != 2 * rank) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("kernel_shape, strides and pads are not all for ", rank, " dimensions"));
    return {};
  }
  std::vector<int64_t> out;
  for (size_t i = 0; i < rank; ++i) {
    if (kernel[i] < 1 || strides[i] < 1 || pads[i] < 0 || pads[i + rank] < 0) {
      n.Fail(Reason::kInvalidModel,
             absl::StrCat("dimension ", i + 2, ": kernel ", kernel[i], ", stride ", strides[i],
                          ", pads ", pads[i], " and ", pads[i + rank]));
      return {};
    }
    const int64_t last = SaturatingMul(x[static_cast<int>(i) + 2] - 1, strides[i]);
    out.push_back(SaturatingAdd(last, kernel[i]) - SaturatingAdd(pads[i], pads[i + rank]));
  }
  return out;
}

std::vector<ValueId> ImportMaxUnpool(NodeImport& n) {
  if (!TakesInputs(n, 2, 3)) return {};
  const std::vector<int64_t> extents = UnpooledExtents(n);
  if (!n.b.ok()) return {};
  if (n.has(2)) {
    std::optional<std::vector<int64_t>> given = n.FrozenInts(2);
    if (!given) return {};
    std::vector<int64_t> whole = {n.type(0).shape[0], n.type(0).shape[1]};
    whole.insert(whole.end(), extents.begin(), extents.end());
    if (*given != whole) {
      n.Fail(Reason::kUnsupportedOp,
             "an output_shape other than the one that the windows give is not supported: ONNX does"
             " not say what the indices then count");
      return {};
    }
  }
  GraphBuilder& b = n.b;
  const Attrs shape{{"shape", extents}};
  const ValueId sums = b.Add(kMaxPoolGradOp, {n.in(0), n.in(1)}, shape);
  const ValueId ones = b.Full(TensorType(n.type(0)), 1);
  const ValueId counts = b.Add(kMaxPoolGradOp, {ones, n.in(1)}, shape);
  return {Div(b, sums, Max(b, counts, b.ScalarLike(counts, 1)))};
}

const OpDef kMaxUnpoolOp = {
    .name = "MaxUnpool",
    .doc =
        "Zeros of the shape that MaxPool had with these windows, with the input at the indices that"
        " it gave; the mean of what has the same index.",
    .min_inputs = 2,
    .max_inputs = 3,
    .onnx = {{.name = "MaxUnpool", .since = 9, .import = ImportMaxUnpool}},
    .domain =
        {.samples =
             {
                 {.inputs = {Drawn({1, 1, 2, 2}),
                             Given({1, 1, 2, 2}, {5, 7, 13, 15}, DType::kInt64)},
                  .attrs = {{"kernel_shape", Ints({2, 2})}, {"strides", Ints({2, 2})}}},
                 {.inputs = {Drawn({1, 2, 3}), Given({1, 2, 3}, {1, 1, 4, 6, 9, 10}, DType::kInt64),
                             FrozenVector({1, 2, 6})},
                  .attrs = {{"kernel_shape", Ints({3})},
                            {"strides", Ints({2})},
                            {"pads", Ints({0, 1})}}},
             }},
};

}  // namespace

std::vector<const OpDef*> PoolOps() {
  return {&kMaxPoolOp, &kMaxPoolGradOp, &kGlobalMaxPoolOp, &kMaxUnpoolOp};
}

}  // namespace gradwire
