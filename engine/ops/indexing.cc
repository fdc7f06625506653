// Ops that pick, place and join elements.
#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_join.h"
#include "engine/base/checked.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/indexing_rows.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;
using Types = absl::StatusOr<std::vector<TensorType>>;

// ---- Slice and its transpose

// Whether starts + i * steps stays inside `whole` for every index i of `part`. Steps are at most an
// extent wide, so that later arithmetic on them cannot overflow.
absl::Status CheckWindow(const Attrs& attrs, const Shape& whole, absl::Span<const int64_t> part) {
  const std::vector<int64_t>& starts = attrs.Ints("starts");
  const std::vector<int64_t>& steps = attrs.Ints("steps");
  const auto rank = static_cast<size_t>(whole.rank());
  if (starts.size() != rank || steps.size() != rank || part.size() != rank) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("has ", starts.size(), " starts, ", steps.size(), " steps and ",
                              part.size(), " extents for ", whole.ToString()));
  }
  for (size_t d = 0; d < rank; ++d) {
    const int64_t extent = whole[static_cast<int>(d)], widest = std::max<int64_t>(extent, 1);
    bool inside = part[d] >= 0 && part[d] <= extent && steps[d] != 0 && steps[d] <= widest &&
                  steps[d] >= -widest;
    if (inside && part[d] > 0) {
      int64_t last = 0;
      inside = starts[d] >= 0 && starts[d] < extent && CheckedMul(part[d] - 1, steps[d], &last) &&
               CheckedAdd(starts[d], last, &last) && last >= 0 && last < extent;
    }
    if (!inside) {
      return Error(Reason::kShapeMismatch,
                   absl::StrCat("dimension ", d, ": ", part[d], " elements from ", starts[d],
                                " by ", steps[d], " leave ", whole.ToString()));
    }
  }
  return absl::OkStatus();
}

Types InferSlice(const InferArgs& args) {
  const std::vector<int64_t>& part = args.attrs.Ints("shape");
  GW_RETURN_IF_ERROR(CheckWindow(args.attrs, args.in[0].shape, part));
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(part));
  return std::vector<TensorType>{{args.in[0].dtype, std::move(shape)}};
}

Types InferUnslice(const InferArgs& args) {
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(args.attrs.Ints("shape")));
  GW_RETURN_IF_ERROR(CheckWindow(args.attrs, shape, args.in[0].shape));
  return std::vector<TensorType>{{args.in[0].dtype, std::move(shape)}};
}

// Where the elements starts + i * steps of something laid out as `whole` lie.
Layout WindowLayout(const Attrs& attrs, const Layout& whole, const Shape& part) {
  Layout layout = whole;
  const bool empty = part.num_elements() == 0;
  for (int d = 0; d < part.rank(); ++d) {
    if (!empty) layout.offset += attrs.Ints("starts")[d] * whole.strides[d];
    if (part[d] > 1) layout.strides[d] *= attrs.Ints("steps")[d];
  }
  return layout;
}

std::optional<Layout> SliceLayout(const Attrs& attrs, const TensorType&, const Layout& in_layout,
                                  const TensorType& out) {
  return WindowLayout(attrs, in_layout, out.shape);
}

absl::Status ReferenceUnslice(const ReferenceArgs& args) {
  const Shape& part = args.in[0].shape();
  const TensorType& out = args.out_types[0];
  if (out.bytes() == 0) return absl::OkStatus();
  std::memset(args.out[0], 0, static_cast<size_t>(out.bytes()));
  if (part.num_elements() == 0) return absl::OkStatus();
  const Layout window = WindowLayout(args.attrs, Layout::RowMajor(out.shape), part);
  const int64_t bytes = DTypeBytes(out.dtype);
  CopyStrided(bytes, part.dims(), args.in[0].raw(), part.Strides(),
              static_cast<char*>(args.out[0]) + window.offset * bytes, window.strides);
  return absl::OkStatus();
}

// One number a dimension, small and canonical: what is not stepped over has a step of 1.
Attrs WindowAttrs(std::vector<int64_t> starts, std::vector<int64_t> steps, const Shape& part,
                  const Shape& shape) {
  for (int d = 0; d < part.rank(); ++d) {
    const auto i = static_cast<size_t>(d);
    if (part[d] <= 1 && i < steps.size()) steps[i] = 1;
    if (part[d] == 0 && i < starts.size()) starts[i] = 0;
  }
  return Attrs{{"starts", std::move(starts)},
               {"steps", std::move(steps)},
               {"shape", ToVector(shape.dims())}};
}

bool StepsByOne(const Attrs& attrs) {
  const std::vector<int64_t>& steps = attrs.Ints("steps");
  return std::all_of(steps.begin(), steps.end(), [](int64_t step) { return step == 1; });
}

const std::vector<AttrDef> kWindowAttrs = {{"starts", std::vector<int64_t>(), true},
                                           {"steps", std::vector<int64_t>(), true},
                                           {"shape", std::vector<int64_t>(), true}};

extern const OpDef kSliceOp, kUnsliceOp;

ValueId SimplifySlice(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  const std::vector<int64_t>&starts = n.attrs.Ints("starts"), &steps = n.attrs.Ints("steps");
  if (b.shape(n.in[0]) == type.shape && StepsByOne(n.attrs)) return n.in[0];
  if (const ValueId scalar = RepeatedScalar(b, n.in[0]); scalar != kNoValue) {
    return Expand(b, scalar, type.shape);
  }
  const Node* inner = b.Producer(n.in[0]);
  if (inner == nullptr) return kNoValue;
  const ValueId source = inner->num_operands == 1 ? b.operands(*inner)[0] : kNoValue;
  if (inner->op == &kUnsliceOp && inner->attrs.Ints("starts") == starts &&
      inner->attrs.Ints("steps") == steps && b.shape(source) == type.shape) {
    return source;
  }
  if (inner->op != &kSliceOp) return kNoValue;
  std::vector<int64_t> both_starts = inner->attrs.Ints("starts");
  std::vector<int64_t> both_steps = inner->attrs.Ints("steps");
  for (size_t d = 0; d < starts.size(); ++d) {
    both_starts[d] += starts[d] * both_steps[d];
    both_steps[d] *= steps[d];
  }
  return Slice(b, source, both_starts, both_steps, type.shape);
}

// The window that ONNX's (start, end, step) means for an extent: clamped, counted without overflow.
struct Window {
  int64_t start, count;
};
Window ClampedWindow(int64_t start, int64_t end, int64_t step, int64_t extent) {
  if (extent == 0) return {0, 0};
  if (start < 0) start += extent;
  if (end < 0) end += extent;
  if (step > 0) {
    start = std::clamp<int64_t>(start, 0, extent);
    end = std::clamp<int64_t>(end, 0, extent);
    return {start, end <= start ? 0 : (end - start - 1) / step + 1};
  }
  start = std::clamp<int64_t>(start, 0, extent - 1);
  end = std::clamp<int64_t>(end, -1, extent - 1);
  // Dividing by the negative step itself: -step would overflow for the smallest one.
  return {start, end >= start ? 0 : (end - start + 1) / step + 1};
}

Outputs ImportSlice(NodeImport& n) {
  const bool inputs = n.opset >= 10;
  if (!TakesInputs(n, inputs ? 3 : 1, inputs ? 5 : 1)) return {};
  const Shape in = n.type(0).shape;
  const auto starts = RequiredInts(n, "starts", 1), ends = RequiredInts(n, "ends", 2);
  const auto axes = n.IntsFromAttrOrInput("axes", 3), steps = n.FrozenInts(4);
  if (!n.b.ok()) return {};
  const size_t count = starts->size();
  if (count > static_cast<size_t>(in.rank()) || ends->size() != count ||
      (axes && axes->size() != count) || (steps && steps->size() != count)) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("has ", count, " starts, ", ends->size(), " ends, ",
                        axes ? axes->size() : count, " axes and ", steps ? steps->size() : count,
                        " steps for ", in.ToString()));
    return {};
  }
  std::vector<int64_t> first(static_cast<size_t>(in.rank()), 0), stride(first.size(), 1);
  std::vector<bool> seen(first.size(), false);
  Dims dims = in.dims();
  for (size_t i = 0; i < count; ++i) {
    const auto axis =
        static_cast<size_t>(n.Axis(axes ? (*axes)[i] : static_cast<int64_t>(i), in.rank()));
    const int64_t step = steps ? (*steps)[i] : 1;
    if (!n.b.ok()) return {};
    if (seen[axis] || step == 0) {
      n.Fail(Reason::kInvalidModel, seen[axis] ? "the same axis is given twice" : "a step is 0");
      return {};
    }
    seen[axis] = true;
    const Window window = ClampedWindow((*starts)[i], (*ends)[i], step, dims[axis]);
    first[axis] = window.start;
    stride[axis] = step;
    dims[axis] = window.count;
  }
  return {Slice(n.b, n.in(0), first, stride, Shape(std::move(dims)))};
}

// ---- As ONNX

// Adds a Slice that takes `counts` elements from `starts` on.
std::string AddSlice(NodeExport& n, const std::string& x, std::vector<int64_t> starts,
                     std::vector<int64_t> steps, absl::Span<const int64_t> counts,
                     const std::string& out) {
  std::vector<int64_t> ends(starts.size());
  for (size_t d = 0; d < starts.size(); ++d) {
    if (counts[d] == 0) starts[d] = ends[d] = 0, steps[d] = 1;
    if (counts[d] == 0) continue;
    const int64_t last = starts[d] + (counts[d] - 1) * steps[d];
    ends[d] = steps[d] > 0 ? last + 1 : last - 1;
    if (ends[d] < 0) ends[d] = std::numeric_limits<int64_t>::min();  // -1 would mean the last one
  }
  n.Add("Slice",
        {x, n.Ints(starts), n.Ints(ends), n.Ints(Iota(0, static_cast<int64_t>(starts.size()))),
         n.Ints(steps)},
        out);
  return out;
}

void ExportSlice(NodeExport& n) {
  if (n.out_type().shape.rank() == 0) return n.Add("Identity", {n.in(0)}, n.out(0));
  AddSlice(n, n.in(0), n.attrs.Ints("starts"), n.attrs.Ints("steps"), n.out_type().shape, n.out(0));
}

// Zeros between the elements of dimension d, so that they stand `step` apart.
std::string Spread(NodeExport& n, const std::string& x, size_t d, int64_t step, Dims* dims) {
  std::vector<int64_t> apart = ToVector(*dims);
  apart.insert(apart.begin() + static_cast<std::ptrdiff_t>(d) + 1, 1);
  std::vector<int64_t> pads(2 * apart.size(), 0);
  pads[apart.size() + d + 1] = step - 1;
  const std::string column = n.Add("Reshape", {x, n.Ints(apart)}, {{"allowzero", int64_t{1}}});
  const std::string padded = n.Add("Pad", {column, n.Ints(pads)});
  const int64_t extent = (*dims)[d];
  (*dims)[d] = extent * step;
  const std::string joined =
      n.Add("Reshape", {padded, n.Ints(ToVector(*dims))}, {{"allowzero", int64_t{1}}});
  (*dims)[d] = (extent - 1) * step + 1;
  return AddSlice(n, joined, std::vector<int64_t>(dims->size(), 0),
                  std::vector<int64_t>(dims->size(), 1), *dims, n.NewName());
}

void ExportUnslice(NodeExport& n) {
  Dims dims = n.in_type(0).shape.dims();
  const size_t rank = dims.size();
  std::vector<int64_t> starts = n.attrs.Ints("starts"), steps = n.attrs.Ints("steps");
  std::vector<int64_t> first(rank, 0), by(rank, 1);
  for (size_t d = 0; d < rank; ++d) {
    if (steps[d] >= 0 || dims[d] == 0) continue;
    first[d] = dims[d] - 1;
    by[d] = -1;
    starts[d] += (dims[d] - 1) * steps[d];
    steps[d] = -steps[d];
  }
  std::string x = n.in(0);
  if (std::count(by.begin(), by.end(), -1) > 0) {
    x = AddSlice(n, x, first, by, dims, n.NewName());
  }
  for (size_t d = 0; d < rank; ++d) {
    if (steps[d] > 1 && dims[d] > 1) x = Spread(n, x, d, steps[d], &dims);
  }
  std::vector<int64_t> pads(2 * rank, 0);
  for (size_t d = 0; d < rank; ++d) {
    pads[d] = dims[d] == 0 ? 0 : starts[d];
    pads[rank + d] = n.out_type().shape[static_cast<int>(d)] - pads[d] - dims[d];
  }
  if (rank == 0) return n.Add("Identity", {x}, n.out(0));
  n.Add("Pad", {x, n.Ints(pads)}, n.out(0));
}

const OpDef kSliceOp = {
    .name = "Slice",
    .doc =
        "`x[starts + i * steps]` in each dimension, ONNX's starts and ends clamped to the extents."
        " Moves no data.",
    .attrs = kWindowAttrs,
    .infer = InferSlice,
    .reference = ReadView<SliceLayout>,
    .simplify = SimplifySlice,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
      return Unslice(b, g, n.attrs.Ints("starts"), n.attrs.Ints("steps"), Shape(b.shape(n.in[0])));
    }},
    .lowering = View{SliceLayout},
    .onnx = {{.name = "Slice", .since = 1, .import = ImportSlice}},
    .export_onnx = ExportSlice,
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({5, 4}), FrozenVector({1, 0}), FrozenVector({4, 3})}},
                       {.inputs = {Drawn({5, 4}), FrozenVector({-1}), FrozenVector({-100}),
                                   FrozenVector({-2}), FrozenVector({-2})}},
                       {.inputs = {Drawn({5, 4}), FrozenVector({1}), FrozenVector({1000}),
                                   FrozenVector({0}), FrozenVector({3})}},
                       {.inputs = {Drawn({5, 4}), FrozenVector({3}), FrozenVector({2})}},
                       {.inputs = {Drawn({5, 4})},
                        .attrs = {{"starts", Ints({0, 1})}, {"ends", Ints({2, -1})}},
                        .opset = 9},
                       {.inputs = {Drawn({2, 5, 3})},
                        .attrs = {{"starts", Ints({2})}, {"ends", Ints({9})}, {"axes", Ints({1})}},
                        .opset = 6},
                       {.inputs = {Drawn({0, 3}), FrozenVector({0}), FrozenVector({1})}},
                   }},
};

const OpDef kUnsliceOp = {
    .name = "Unslice",
    .doc =
        "Zeros of `shape` with the input placed at `starts + i * steps`: the transpose of Slice.",
    .attrs = kWindowAttrs,
    .infer = InferUnslice,
    .reference = ReferenceUnslice,
    .simplify =
        [](GraphBuilder& b, const NodeView& n, const TensorType& type) {
          return b.shape(n.in[0]) == type.shape && StepsByOne(n.attrs) ? n.in[0] : kNoValue;
        },
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
      return Slice(b, g, n.attrs.Ints("starts"), n.attrs.Ints("steps"), Shape(b.shape(n.in[0])));
    }},
    .export_onnx = ExportUnslice,
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3})},
                        .attrs = {{"starts", Ints({1, 0})},
                                  {"steps", Ints({2, 1})},
                                  {"shape", Ints({5, 3})}}},
                       {.inputs = {Drawn({3})},
                        .attrs = {{"starts", Ints({4})},
                                  {"steps", Ints({-2})},
                                  {"shape", Ints({6})}}},
                       {.inputs = {Drawn({0, 2})},
                        .attrs = {{"starts", Ints({0, 1})},
                                  {"steps", Ints({1, 1})},
                                  {"shape", Ints({2, 3})}}},
                   }},
};

// ---- Split

// The extents of the pieces; ONNX gives them, or their number, or means the number of outputs.
std::optional<std::vector<int64_t>> SplitExtents(NodeImport& n, int64_t extent) {
  auto pieces = n.IntsFromAttrOrInput("split", 1);
  const int64_t count = IntAttr(n, "num_outputs", n.num_outputs);
  if (!n.b.ok()) return std::nullopt;
  if (!pieces) {
    if (count < std::max(n.num_outputs, 1)) {
      n.Fail(Reason::kInvalidModel,
             absl::StrCat("num_outputs is ", count, ", the node has ", n.num_outputs));
      return std::nullopt;
    }
    // Equal pieces, the last one smaller; below opset 18 the division must leave nothing.
    const int64_t piece = extent / count + (extent % count == 0 ? 0 : 1);
    const int64_t last = extent - SaturatingMul(piece, count - 1);
    if (last < 0 || (n.opset < 18 && last != piece)) {
      n.Fail(Reason::kShapeMismatch,
             absl::StrCat("extent ", extent, " cannot be split in ", count));
      return std::nullopt;
    }
    // Outputs that are not asked for take no memory here, however many the attribute says.
    pieces.emplace(static_cast<size_t>(n.num_outputs), piece);
    if (count == n.num_outputs) pieces->back() = last;
    return pieces;
  }
  int64_t total = 0;
  bool fits = static_cast<int64_t>(pieces->size()) >= n.num_outputs;
  for (int64_t piece : *pieces) fits = fits && piece >= 0 && CheckedAdd(total, piece, &total);
  if (!fits || total != extent) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("pieces are [",
                        absl::StrJoin(pieces->begin(),
                                      pieces->begin() + static_cast<int64_t>(
                                                            std::min<size_t>(pieces->size(), 16)),
                                      ","),
                        "], expected ", n.num_outputs, " or more with a sum of ", extent));
    return std::nullopt;
  }
  return pieces;
}

Outputs ImportSplit(NodeImport& n) {
  if (!TakesInputs(n, 1, 2)) return {};
  const Shape in = n.type(0).shape;
  const int axis = n.Axis(IntAttr(n, "axis", 0), in.rank());
  if (!n.b.ok()) return {};
  const auto pieces = SplitExtents(n, in[axis]);
  if (!pieces) return {};
  std::vector<int64_t> starts(static_cast<size_t>(in.rank()), 0), steps(starts.size(), 1);
  Outputs out;
  for (int i = 0; i < n.num_outputs; ++i) {
    Dims dims = in.dims();
    dims[static_cast<size_t>(axis)] = (*pieces)[static_cast<size_t>(i)];
    out.push_back(Slice(n.b, n.in(0), starts, steps, Shape(std::move(dims))));
    starts[static_cast<size_t>(axis)] += (*pieces)[static_cast<size_t>(i)];
  }
  return out;
}

const OpDef kSplitOp = {
    .name = "Split",
    .doc =
        "Consecutive slices along `axis`: of the extents `split`, or equal ones (from opset 18 on"
        " the last may be smaller).",
    .max_inputs = 2,
    .onnx = {{.name = "Split", .since = 2, .import = ImportSplit}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({6, 2})}, .opset = 13, .num_outputs = 3},
                       {.inputs = {Drawn({2, 5}), FrozenVector({2, 0, 3})},
                        .attrs = {{"axis", int64_t{-1}}},
                        .num_outputs = 3},
                       {.inputs = {Drawn({2, 5})},
                        .attrs = {{"axis", int64_t{1}}, {"split", Ints({1, 4})}},
                        .opset = 11,
                        .num_outputs = 2},
                       {.inputs = {Drawn({7})},
                        .attrs = {{"num_outputs", int64_t{3}}},
                        .opset = 18,
                        .num_outputs = 3},
                       {.inputs = {Drawn({0, 2})}, .opset = 13, .num_outputs = 2},
                   }},
};

// ---- Concat

Types InferConcat(const InferArgs& args) {
  const TensorType& first = args.in[0];
  const int64_t axis = args.attrs.Int("axis");
  if (axis < 0 || axis >= first.shape.rank()) {
    return Error(
        Reason::kShapeMismatch,
        absl::StrCat("axis ", axis, " is outside the dimensions of ", first.shape.ToString()));
  }
  std::vector<int64_t> dims = ToVector(first.shape.dims());
  int64_t& extent = dims[static_cast<size_t>(axis)];
  for (size_t i = 1; i < args.in.size(); ++i) {
    const TensorType& next = args.in[i];
    if (next.dtype != first.dtype) {
      return Error(Reason::kDtypeUnsupported,
                   absl::StrCat("inputs differ in type: ", DTypeName(first.dtype), " and ",
                                DTypeName(next.dtype), "; insert a Cast"));
    }
    bool fits = next.shape.rank() == first.shape.rank();
    for (int d = 0; fits && d < first.shape.rank(); ++d) {
      fits = d == axis || next.shape[d] == first.shape[d];
    }
    if (!fits) {
      return Error(
          Reason::kShapeMismatch,
          absl::StrCat("input 0 is ", first.shape.ToString(), ", input ", i, " ",
                       next.shape.ToString(), "; they may differ in dimension ", axis, " only"));
    }
    extent = SaturatingAdd(extent, next.shape[static_cast<int>(axis)]);
  }
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(dims));
  return std::vector<TensorType>{{first.dtype, std::move(shape)}};
}

absl::Status ReferenceConcat(const ReferenceArgs& args) {
  const int64_t axis = args.attrs.Int("axis");
  const TensorType& out = args.out_types[0];
  if (out.bytes() == 0) return absl::OkStatus();
  const Runs all(out.shape, axis);
  const int64_t bytes = DTypeBytes(out.dtype), row = all.extent * all.inner * bytes;
  int64_t at = 0;
  for (const TensorView& in : args.in) {
    const int64_t piece = in.bytes() / all.outer;
    if (piece == 0) continue;
    for (int64_t i = 0; i < all.outer; ++i) {
      std::memcpy(static_cast<char*>(args.out[0]) + i * row + at, in.data<char>() + i * piece,
                  static_cast<size_t>(piece));
    }
    at += piece;
  }
  return absl::OkStatus();
}

// All cotangents in one sweep: one at a time would add up the starts again for each, which is
// quadratic in the number of inputs.
std::vector<ValueId> ConcatVjp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g) {
  const auto axis = static_cast<size_t>(n.attrs.Int("axis"));
  std::vector<int64_t> starts(static_cast<size_t>(b.shape(n.in[0]).rank()), 0);
  const std::vector<int64_t> steps(starts.size(), 1);
  std::vector<ValueId> out;
  for (ValueId in : n.in) {
    const Shape part = b.shape(in);
    out.push_back(Slice(b, g[0], starts, steps, part));
    starts[axis] += part[static_cast<int>(axis)];
  }
  return out;
}

std::vector<ValueId> ConcatJvp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t) {
  std::vector<ValueId> parts;
  for (size_t i = 0; i < t.size(); ++i) {
    parts.push_back(t[i] != kNoValue ? t[i] : b.Zeros(n.in[i]));
  }
  return {Concat(b, parts, static_cast<int>(n.attrs.Int("axis")))};
}

const OpDef
    kConcatOp =
        {
            .name = "Concat",
            .doc = "The inputs one after the other along `axis`.",
            .attrs = {{"axis", int64_t{0}, true}},
            .min_inputs = 1,
            .max_inputs = kVariadic,
            .infer = InferConcat,
            .reference = ReferenceConcat,
            .simplify = [](GraphBuilder&, const NodeView& n,
                           const TensorType&) { return n.in.size() == 1 ? n.in[0] : kNoValue; },
            .derivative = General{ConcatVjp, ConcatJvp},
            .onnx = {{.name = "Concat",
                      .since = 4,
                      .import = [](NodeImport& n) -> Outputs {
                        if (!TakesInputs(n, std::max(n.num_inputs(), 1), kVariadic)) return {};
                        if (!n.attrs.Has("axis"))
                          n.Fail(Reason::kInvalidModel, "attribute axis is missing");
                        const int axis = n.Axis(IntAttr(n, "axis", 0), n.type(0).shape.rank());
                        if (!n.b.ok()) return {};
                        return {Concat(n.b, n.inputs(), axis)};
                      }}},
            .domain =
                {.samples =
                     {
                         {.inputs = {Drawn({2, 3}), Drawn({2, 1}), Drawn({2, 2})},
                          .attrs = {{"axis", int64_t{1}}}},
                         {.inputs = {Drawn({2, 3}), Drawn({4, 3})},
                          .attrs = {{"axis", int64_t{-2}}}},
                         {.inputs = {Drawn({3})}, .attrs = {{"axis", int64_t{0}}}, .opset = 6},
                         {.inputs = {Drawn({0, 3}), Drawn({2, 3})},
                          .attrs = {{"axis", int64_t{0}}}},
                         {.inputs = {Drawn({2, 2, 1, 2}), Drawn({2, 2, 3, 2})},
                          .attrs = {{"axis", int64_t{2}}}},
                     }},
};

// ---- ArrayFeatureExtractor, of ai.onnx.ml

const OpDef kArrayFeatureExtractorOp = {
    .name = "ArrayFeatureExtractor",
    .doc =
        "The elements of the last dimension at the indices; of a vector, as a matrix of one row.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "ArrayFeatureExtractor",
              .domain = "ai.onnx.ml",
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!TakesInputs(n, 2, 2)) return {};
                const Shape x = n.type(0).shape;
                if (x.rank() == 0) {
                  n.Fail(Reason::kShapeMismatch, "the input is a scalar");
                  return {};
                }
                const int64_t count = n.type(1).shape.num_elements();
                const ValueId indices = Reshape(n.b, n.in(1), {count});
                const ValueId out = Gather(n.b, n.in(0), indices, x.rank() - 1);
                return {x.rank() > 1 ? out : Reshape(n.b, out, {1, count})};
              }}},
    .domain = {.samples = {{.inputs = {Drawn({2, 4}), Given({1, 3}, {3, 0, 3}, DType::kInt64)}},
                           {.inputs = {Drawn({4}), Given({2}, {1, 2}, DType::kInt64)}},
                           {.inputs = {Drawn({2, 2, 3}),
                                       Given({2, 2}, {1, 2, 0, 0}, DType::kInt64)}}}},
};

// ---- Sums of windows

struct Part {
  ValueId value;
  std::vector<int64_t> starts;
  Dims extents;
};

// Whether two parts have the same window but for `axis`, in which b begins where a ends.
bool Adjoin(const Part& a, const Part& b, size_t axis) {
  for (size_t d = 0; d < a.starts.size(); ++d) {
    if (d == axis) continue;
    if (a.starts[d] != b.starts[d] || a.extents[d] != b.extents[d]) return false;
  }
  return a.starts[axis] + a.extents[axis] == b.starts[axis];
}

// Parts that lie side by side along the axis, as one each.
std::vector<Part> JoinAlong(GraphBuilder& b, std::vector<Part> parts, int axis) {
  const auto along = static_cast<size_t>(axis);
  const auto key = [&](const Part& part, size_t d) {
    return std::pair(part.starts[d], part.extents[d]);
  };
  std::stable_sort(parts.begin(), parts.end(), [&](const Part& x, const Part& y) {
    for (size_t d = 0; d < x.starts.size(); ++d) {
      if (d != along && key(x, d) != key(y, d)) return key(x, d) < key(y, d);
    }
    return x.starts[along] < y.starts[along];
  });
  std::vector<Part> joined;
  for (size_t first = 0, last; first < parts.size(); first = last) {
    Part whole = parts[first];
    std::vector<ValueId> values = {whole.value};
    for (last = first + 1; last < parts.size() && Adjoin(whole, parts[last], along); ++last) {
      values.push_back(parts[last].value);
      whole.extents[along] += parts[last].extents[along];
    }
    if (values.size() > 1) whole.value = Concat(b, values, axis);
    joined.push_back(std::move(whole));
  }
  return joined;
}

}  // namespace

ValueId Slice(GraphBuilder& b, ValueId x, const std::vector<int64_t>& starts,
              const std::vector<int64_t>& steps, const Shape& shape) {
  return b.Add(kSliceOp, {x}, WindowAttrs(starts, steps, shape, shape));
}

ValueId Unslice(GraphBuilder& b, ValueId x, const std::vector<int64_t>& starts,
                const std::vector<int64_t>& steps, const Shape& shape) {
  if (!b.ok()) return kNoValue;
  return b.Add(kUnsliceOp, {x}, WindowAttrs(starts, steps, Shape(b.shape(x)), shape));
}

ValueId Concat(GraphBuilder& b, absl::Span<const ValueId> xs, int axis) {
  return b.Add(kConcatOp, xs, Attrs{{"axis", static_cast<int64_t>(axis)}});
}

bool IsPlaced(const GraphBuilder& b, ValueId v) {
  const Node* node = b.Producer(v);
  return node != nullptr && node->op == &kUnsliceOp && StepsByOne(node->attrs);
}

ValueId SumPlaced(GraphBuilder& b, absl::Span<const ValueId> placed) {
  std::vector<Part> parts;
  if (!b.ok() || placed.empty()) return kNoValue;
  const Shape whole = b.shape(placed[0]);
  for (ValueId v : placed) {
    const Node* node = b.Producer(v);
    const ValueId part = b.operands(*node)[0];
    parts.push_back({part, node->attrs.Ints("starts"), b.shape(part).dims()});
  }
  for (int axis = whole.rank() - 1; axis >= 0 && parts.size() > 1; --axis) {
    parts = JoinAlong(b, std::move(parts), axis);
  }
  const std::vector<int64_t> steps(static_cast<size_t>(whole.rank()), 1);
  ValueId sum = kNoValue;
  for (const Part& part : parts) {
    const ValueId term = Unslice(b, part.value, part.starts, steps, whole);
    sum = sum == kNoValue ? term : Add(b, sum, term);
  }
  return sum;
}

std::vector<const OpDef*> IndexingOps() {
  std::vector<const OpDef*> rows = {&kSliceOp, &kUnsliceOp, &kSplitOp, &kConcatOp,
                                    &kArrayFeatureExtractorOp};
  for (auto* family : {GatherOps, ScatterOps, SelectionOps, ArrangementOps, ResampleOps, ResizeOps,
                       GridSampleOps}) {
    for (const OpDef* row : family()) rows.push_back(row);
  }
  return rows;
}

}  // namespace gradwire
