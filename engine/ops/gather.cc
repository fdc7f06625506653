// Picking elements by index, and ONNX's Pad, which is said with it.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/ops/builders.h"
#include "engine/ops/indexing_rows.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {

absl::Status CheckIndexType(DType dtype) {
  if (dtype == DType::kInt32 || dtype == DType::kInt64) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported,
               absl::StrCat("indices are ", DTypeName(dtype), ", expected INT32 or INT64"));
}

absl::Status CheckAxis(int64_t axis, const Shape& shape) {
  if (axis >= 0 && axis < shape.rank()) return absl::OkStatus();
  return Error(Reason::kShapeMismatch,
               absl::StrCat("axis ", axis, " is outside the dimensions of ", shape.ToString()));
}

int64_t IndexAt(const TensorView& indices, int64_t i) {
  return indices.dtype() == DType::kInt32 ? indices.data<int32_t>()[i] : indices.data<int64_t>()[i];
}

absl::Status CheckIndices(const TensorView& indices, int64_t extent) {
  const int64_t count = indices.num_elements();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = IndexAt(indices, i);
    if (index >= -extent && index < extent) continue;
    return Error(Reason::kInvalidTensor,
                 absl::StrCat("index ", index, " at position ", i, " is outside [", -extent, ", ",
                              extent - 1, "]"));
  }
  return absl::OkStatus();
}

namespace {

using Types = absl::StatusOr<std::vector<TensorType>>;

// The input's shape with `indices` in the place of dimension `axis`.
Types InferGather(const InferArgs& args) {
  const int64_t axis = args.attrs.Int("axis");
  const Shape &data = args.in[0].shape, &indices = args.in[1].shape;
  GW_RETURN_IF_ERROR(CheckIndexType(args.in[1].dtype));
  GW_RETURN_IF_ERROR(CheckAxis(axis, data));
  Dims dims(data.dims().begin(), data.dims().begin() + axis);
  dims.insert(dims.end(), indices.dims().begin(), indices.dims().end());
  dims.insert(dims.end(), data.dims().begin() + axis + 1, data.dims().end());
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(dims));
  return std::vector<TensorType>{{args.in[0].dtype, std::move(shape)}};
}

Types InferGatherGrad(const InferArgs& args) {
  const int64_t axis = args.attrs.Int("axis"), extent = args.attrs.Int("extent");
  const Shape &x = args.in[0].shape, &indices = args.in[1].shape;
  GW_RETURN_IF_ERROR(CheckIndexType(args.in[1].dtype));
  if (!InClass(args.in[0].dtype, kNumeric)) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("input is ", DTypeName(args.in[0].dtype), ", expected a number"));
  }
  bool fits = axis >= 0 && axis <= x.rank() - indices.rank();
  for (int d = 0; fits && d < indices.rank(); ++d) {
    fits = x[static_cast<int>(axis) + d] == indices[d];
  }
  if (!fits) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("input ", x.ToString(), " does not hold indices ", indices.ToString(),
                              " at dimension ", axis));
  }
  Dims dims(x.dims().begin(), x.dims().begin() + axis);
  dims.push_back(extent);
  dims.insert(dims.end(), x.dims().begin() + axis + indices.rank(), x.dims().end());
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(dims));
  return std::vector<TensorType>{{args.in[0].dtype, std::move(shape)}};
}

absl::Status ReferenceGather(const ReferenceArgs& args) {
  const TensorView &data = args.in[0], &indices = args.in[1];
  const Runs runs(data.shape(), args.attrs.Int("axis"));
  GW_RETURN_IF_ERROR(CheckIndices(indices, runs.extent));
  if (args.out_types[0].bytes() == 0) return absl::OkStatus();
  const int64_t count = indices.num_elements(), rows = runs.outer * count;
  const int64_t bytes = runs.inner * DTypeBytes(data.dtype());
  const int64_t rows_per_block = std::max<int64_t>(kBlockBytes / bytes, 1);
  const int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
  ParallelFor(args.threads, blocks, [&](int64_t block) {
    const int64_t end = std::min(rows, (block + 1) * rows_per_block);
    for (int64_t row = block * rows_per_block; row < end; ++row) {
      int64_t index = IndexAt(indices, row % count);
      if (index < 0) index += runs.extent;
      std::memcpy(static_cast<char*>(args.out[0]) + row * bytes,
                  data.data<char>() + (row / count * runs.extent + index) * bytes,
                  static_cast<size_t>(bytes));
    }
  });
  return absl::OkStatus();
}

// Threads share out columns, never rows: each element is added up by one of them, in the order of
// the indices.
template <typename T>
void ScatterAdd(const ReferenceArgs& args, const Runs& runs) {
  const TensorView& indices = args.in[1];
  const int64_t count = indices.num_elements();
  const int64_t width = std::max<int64_t>(
      kBlockBytes / static_cast<int64_t>(sizeof(T)) / std::max<int64_t>(count, 1), 16);
  const int64_t column_blocks = (runs.inner + width - 1) / width;
  T* out = static_cast<T*>(args.out[0]);
  ParallelFor(args.threads, runs.outer * column_blocks, [&](int64_t block) {
    const int64_t o = block / column_blocks, first = block % column_blocks * width;
    const int64_t n = std::min(width, runs.inner - first);
    const T* from = args.in[0].data<T>() + o * count * runs.inner + first;
    T* to = out + o * runs.extent * runs.inner + first;
    for (int64_t i = 0; i < count; ++i, from += runs.inner) {
      int64_t index = IndexAt(indices, i);
      if (index < 0) index += runs.extent;
      T* row = to + index * runs.inner;
      for (int64_t k = 0; k < n; ++k) row[k] = WrappingAdd(row[k], from[k]);
    }
  });
}

absl::Status ReferenceGatherGrad(const ReferenceArgs& args) {
  const TensorType& out = args.out_types[0];
  const Runs runs(out.shape, args.attrs.Int("axis"));
  GW_RETURN_IF_ERROR(CheckIndices(args.in[1], runs.extent));
  if (out.bytes() == 0) return absl::OkStatus();
  std::memset(args.out[0], 0, static_cast<size_t>(out.bytes()));
  const bool known = VisitNumeric(
      out.dtype, [&](auto tag) { ScatterAdd<typename decltype(tag)::type>(args, runs); });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "GatherGrad has no kernel for this type");
}

// One index that is known is a slice: a view, with a cheaper transpose.
ValueId SimplifyGather(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  const Tensor* indices = b.ConstantValue(n.in[1]);
  if (indices == nullptr || indices->num_elements() != 1) return kNoValue;
  const Shape data = b.shape(n.in[0]);
  const auto axis = static_cast<size_t>(n.attrs.Int("axis"));
  const int64_t extent = data[static_cast<int>(axis)], index = ElementAsInt64(*indices, 0);
  if (absl::Status s = CheckIndices(*indices, extent); !s.ok()) {
    b.Fail(s);
    return kNoValue;
  }
  Dims dims = data.dims();
  dims[axis] = 1;
  std::vector<int64_t> starts(dims.size(), 0);
  starts[axis] = index < 0 ? index + extent : index;
  const std::vector<int64_t> steps(dims.size(), 1);
  return Reshape(b, Slice(b, n.in[0], starts, steps, Shape(std::move(dims))), type.shape);
}

const OpDef kGatherOp = {
    .name = "Gather",
    .doc =
        "Slices of the input at `indices` along `axis`; negative indices count from the end, any"
        " others outside the extent are an error. Derivatives of repeated indices add up.",
    .attrs = {{"axis", int64_t{0}}},
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferGather,
    .reference = ReferenceGather,
    .simplify = SimplifyGather,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int i, ValueId g) {
      if (i != 0) return kNoValue;
      const auto axis = static_cast<int>(n.attrs.Int("axis"));
      return GatherGrad(b, g, n.in[1], axis, b.shape(n.in[0])[axis]);
    }},
    .onnx = {{.name = "Gather",
              .since = 1,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!TakesInputs(n, 2, 2)) return {};
                const int axis = n.Axis(IntAttr(n, "axis", 0), n.type(0).shape.rank());
                return {Gather(n.b, n.in(0), n.in(1), axis)};
              }}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({5, 3}), Given({4}, {0, 4, -1, 2}, DType::kInt64)}},
                       {.inputs = {Drawn({2, 5}), Given({2, 2}, {1, 1, 0, -5}, DType::kInt32)},
                        .attrs = {{"axis", int64_t{1}}}},
                       {.inputs = {Drawn({2, 3, 2}), Given({}, {2}, DType::kInt64)},
                        .attrs = {{"axis", int64_t{-2}}}},
                       {.inputs = {Drawn({4}), Given({3}, {3, 3, 3}, DType::kInt64)}, .opset = 6},
                       {.inputs = {Drawn({5, 3}), Given({0}, {}, DType::kInt64)}},
                       {.inputs = {Drawn({3, 0}), Given({2}, {1, 2}, DType::kInt64)}},
                   }},
};

// ScatterElements, which adds element by element, on [before, indices, after].
void ExportGatherGrad(NodeExport& n) {
  const auto axis = static_cast<int>(n.attrs.Int("axis"));
  const Shape& x = n.in_type(0).shape;
  const Attrs zero = {{"value", Tensor({n.out_type().dtype, Shape({1})})}};
  if (x.num_elements() == 0) {  // ONNX Runtime's Expand makes no dimension of 0
    return n.Add("ConstantOfShape", {n.Ints(ToVector(n.out_type().shape.dims()))}, n.out(0), zero);
  }
  const int64_t count = n.in_type(1).shape.num_elements();
  int64_t before = 1, after = 1;
  for (int d = 0; d < axis; ++d) before *= x[d];
  for (int d = axis + n.in_type(1).shape.rank(); d < x.rank(); ++d) after *= x[d];
  const Attrs as_given = {{"allowzero", int64_t{1}}};
  const std::string updates = n.Add("Reshape", {n.in(0), n.Ints({before, count, after})}, as_given);
  const std::string column = n.Add("Reshape", {n.in(1), n.Ints({1, count, 1})}, as_given);
  const std::string indices = n.Add("Expand", {column, n.Ints({before, count, after})});
  const std::string zeros =
      n.Add("ConstantOfShape", {n.Ints({before, n.attrs.Int("extent"), after})}, zero);
  const std::string sums = n.Add("ScatterElements", {zeros, indices, updates},
                                 {{"axis", int64_t{1}}, {"reduction", std::string("add")}});
  n.Add("Reshape", {sums, n.Ints(ToVector(n.out_type().shape))}, n.out(0), as_given);
}

const OpDef kGatherGradOp =
    {
        .name = "GatherGrad",
        .doc =
            "Zeros of `extent` along `axis` with the slices of the input added at the indices, in"
            " their order: the transpose of Gather.",
        .attrs = {{"axis", int64_t{0}, true}, {"extent", int64_t{0}, true}},
        .min_inputs = 2,
        .max_inputs = 2,
        .infer = InferGatherGrad,
        .reference = ReferenceGatherGrad,
        .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int i, ValueId g) {
          if (i != 0) return kNoValue;
          return Gather(b, g, n.in[1], static_cast<int>(n.attrs.Int("axis")));
        }},
        .export_onnx = ExportGatherGrad,
        .domain = {.samples =
                       {
                           {.inputs = {Drawn({3, 2}), Given({3}, {4, 0, 4}, DType::kInt64)},
                            .attrs = {{"axis", int64_t{0}}, {"extent", int64_t{5}}}},
                           {.inputs = {Drawn({2, 2, 2, 3}), Given({2, 2},
                                                                  {0, -1, 1, 1}, DType::kInt32)},
                            .attrs = {{"axis", int64_t{1}}, {"extent", int64_t{3}}}},
                           {.inputs = {Drawn({2}), Given({}, {1}, DType::kInt64)},
                            .attrs = {{"axis", int64_t{0}}, {"extent", int64_t{2}}}},
                           {.inputs = {Drawn({0, 2}), Given({0}, {}, DType::kInt64)},
                            .attrs = {{"axis", int64_t{0}}, {"extent", int64_t{3}}}},
                       }},
};

// ---- Pad

// How much is added before and after each dimension; negative amounts cut off.
struct Pads {
  std::vector<int64_t> before, after;
};

std::optional<Pads> ReadPads(NodeImport& n) {
  const Shape in = n.type(0).shape;
  const auto given = RequiredInts(n, "pads", 1);
  const auto axes = n.FrozenInts(3);
  if (!n.b.ok()) return std::nullopt;
  const size_t count = axes ? axes->size() : static_cast<size_t>(in.rank());
  if (count > static_cast<size_t>(in.rank()) || given->size() != 2 * count) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("has ", given->size(), " pads, expected two for ",
                                                count, " dimensions of ", in.ToString()));
    return std::nullopt;
  }
  Pads pads{std::vector<int64_t>(static_cast<size_t>(in.rank()), 0), {}};
  pads.after = pads.before;
  std::vector<bool> seen(pads.before.size(), false);
  for (size_t i = 0; i < count; ++i) {
    const int64_t asked = axes ? (*axes)[i] : static_cast<int64_t>(i);
    const auto axis = static_cast<size_t>(n.Axis(asked, in.rank()));
    if (!n.b.ok()) return std::nullopt;
    if (seen[axis]) {
      n.Fail(Reason::kInvalidModel, "the same axis is given twice");
      return std::nullopt;
    }
    seen[axis] = true;
    pads.before[axis] = (*given)[i];
    pads.after[axis] = (*given)[i + count];
  }
  return pads;
}

// The input without what negative pads cut off; those become 0.
ValueId CutNegative(NodeImport& n, Pads* pads) {
  const Shape in = n.type(0).shape;
  std::vector<int64_t> starts(pads->before.size(), 0);
  const std::vector<int64_t> steps(starts.size(), 1);
  Dims dims = in.dims();
  for (size_t d = 0; d < starts.size(); ++d) {
    const int64_t front = std::min<int64_t>(pads->before[d], 0);
    const int64_t back = std::min<int64_t>(pads->after[d], 0);
    if (front < -dims[d] || back < -dims[d] || dims[d] + front + back < 0) {
      n.Fail(Reason::kShapeMismatch,
             absl::StrCat("pads ", pads->before[d], " and ", pads->after[d], " cut more than ",
                          dims[d], " off dimension ", d));
      return kNoValue;
    }
    starts[d] = -front;
    dims[d] += front + back;
    pads->before[d] -= front;
    pads->after[d] -= back;
  }
  return Slice(n.b, n.in(0), starts, steps, Shape(std::move(dims)));
}

// The padded shape; an error where it overflows.
std::optional<Shape> PaddedShape(GraphBuilder& b, ValueId x, const Pads& pads) {
  std::vector<int64_t> dims = ToVector(b.shape(x).dims());
  for (size_t d = 0; d < dims.size(); ++d) {
    dims[d] = SaturatingAdd(dims[d], SaturatingAdd(pads.before[d], pads.after[d]));
  }
  return ResultShape(b, dims);
}

// The value to pad with at rank 0, kNoValue where it is +0: that is what Unslice fills with.
ValueId PadValue(NodeImport& n) {
  GraphBuilder& b = n.b;
  const DType dtype = n.type(0).dtype;
  ValueId value = kNoValue;
  if (n.opset < 11) {
    const double number = FloatAttr(n, "value", 0);
    if (DTypeBytes(dtype) == 2 && !IsInteger(dtype) && number != 0) {
      n.Fail(Reason::kDtypeUnsupported, absl::StrCat("cannot pad ", DTypeName(dtype), " with ",
                                                     number, ", expected FLOAT or DOUBLE"));
    }
    value = b.Scalar(dtype, number);
  } else if (n.has(2)) {
    if (n.type(2).dtype != dtype || n.type(2).shape.num_elements() != 1) {
      n.Fail(Reason::kShapeMismatch, absl::StrCat("constant_value is ", n.type(2).ToString(),
                                                  ", expected one ", DTypeName(dtype)));
      return kNoValue;
    }
    value = Reshape(b, n.in(2), Shape());
  }
  if (value == kNoValue || DTypeBytes(dtype) == 2) return value;
  const std::optional<double> known = b.UniformValue(value);
  return known && *known == 0 && !std::signbit(*known) ? kNoValue : value;
}

ValueId PadWithValue(NodeImport& n, ValueId x, const Pads& pads) {
  GraphBuilder& b = n.b;
  const ValueId value = PadValue(n);
  const std::optional<Shape> shape = PaddedShape(b, x, pads);
  if (!b.ok() || *shape == b.shape(x)) return x;
  const std::vector<int64_t> steps(pads.before.size(), 1);
  const ValueId placed = Unslice(b, x, pads.before, steps, *shape);
  if (value == kNoValue) return placed;
  const ValueId inside = b.Full({DType::kBool, b.shape(x)}, 1);
  return Where(b, Unslice(b, inside, pads.before, steps, *shape), placed, value);
}

// Which element of an extent stands at position i, which may be outside on both sides.
int64_t SourceIndex(absl::string_view mode, int64_t i, int64_t extent) {
  if (mode == "edge") return std::clamp<int64_t>(i, 0, extent - 1);
  const int64_t period = mode == "wrap" ? extent : std::max<int64_t>(2 * (extent - 1), 1);
  const int64_t at = (i % period + period) % period;
  return at < extent ? at : period - at;  // reflected without repeating the edge
}

ValueId PadByIndex(NodeImport& n, ValueId x, const Pads& pads, absl::string_view mode) {
  GraphBuilder& b = n.b;
  const std::optional<Shape> shape = PaddedShape(b, x, pads);
  if (!shape) return kNoValue;
  for (int d = 0; d < shape->rank(); ++d) {
    const int64_t extent = b.shape(x)[d], before = pads.before[static_cast<size_t>(d)];
    if ((*shape)[d] == extent) continue;
    if (extent == 0) {
      n.Fail(Reason::kShapeMismatch, absl::StrCat("dimension ", d, " is empty: nothing to ", mode));
      return kNoValue;
    }
    if (!IndicesFit(n, (*shape)[d])) return kNoValue;
    std::vector<int64_t> indices = Iota(-before, (*shape)[d] - before);
    for (int64_t& i : indices) i = SourceIndex(mode, i, extent);
    const ValueId picked = b.Constant(Tensor::FromVector<int64_t>({(*shape)[d]}, indices));
    x = Gather(b, x, picked, d);
    if (!b.ok()) return kNoValue;
  }
  return x;
}

std::vector<ValueId> ImportPad(NodeImport& n) {
  const bool inputs = n.opset >= 11;
  if (!TakesInputs(n, inputs ? 2 : 1, n.opset >= 18 ? 4 : inputs ? 3 : 1)) return {};
  const std::string mode = StringAttr(n, "mode", "constant");
  if (mode != "constant" && mode != "reflect" && mode != "edge" &&
      (mode != "wrap" || n.opset < 19)) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("mode \"", mode, "\" is not one of opset ", n.opset));
    return {};
  }
  std::optional<Pads> pads = ReadPads(n);
  if (!pads) return {};
  const ValueId x = CutNegative(n, &*pads);
  if (!n.b.ok()) return {};
  return {mode == "constant" ? PadWithValue(n, x, *pads) : PadByIndex(n, x, *pads, mode)};
}

const OpDef kPadOp =
    {
        .name = "Pad",
        .doc =
            "The input with elements added around it: a value (`constant`), the edge (`edge`), a"
            " mirror image (`reflect`) or the other side (`wrap`). Negative pads cut off.",
        .max_inputs = 4,
        .onnx = {{.name = "Pad", .since = 2, .import = ImportPad}},
        .domain =
            {.samples =
                 {
                     {.inputs = {Drawn({2, 3}), FrozenVector({1, 0, 0, 2})}},
                     {.inputs = {Drawn({2, 3}), FrozenVector({0, 1, 1, 1}), Drawn({})}},
                     {.inputs = {Drawn({4, 5}), FrozenVector({-1, 2, 1, -3})}, .opset = 11},
                     {.inputs = {Drawn({2, 3}), FrozenVector({2, 1}), Absent(), FrozenVector({-1})},
                      .opset = 18},
                     {.inputs = {Drawn({2, 3})},
                      .attrs = {{"pads", Ints({0, 1, 2, 0})}, {"value", 1.5}},
                      .opset = 6},
                     {.inputs = {Drawn({3, 4}), FrozenVector({2, 1, 0, 3})},
                      .attrs = {{"mode", std::string("reflect")}}},
                     {.inputs = {Drawn({3, 4}), FrozenVector({2, 0, 0, 5})},
                      .attrs = {{"mode", std::string("edge")}}},
                     {.inputs = {Drawn({3, 2}), FrozenVector({4, 0, 2, 1})},
                      .attrs = {{"mode", std::string("wrap")}},
                      .opset = 19},
                     {.inputs = {Drawn({0, 2}), FrozenVector({1, 0, 1, 0})}},
                 }},
};

}  // namespace

ValueId Gather(GraphBuilder& b, ValueId x, ValueId indices, int axis) {
  return b.Add(kGatherOp, {x, indices}, Attrs{{"axis", static_cast<int64_t>(axis)}});
}

ValueId GatherGrad(GraphBuilder& b, ValueId x, ValueId indices, int axis, int64_t extent) {
  return b.Add(kGatherGradOp, {x, indices},
               Attrs{{"axis", static_cast<int64_t>(axis)}, {"extent", extent}});
}

ValueId Integer(GraphBuilder& b, int64_t value) { return b.Constant(Tensor::Scalar(value)); }

ValueId Counting(GraphBuilder& b, int64_t n, int rank, int axis, int64_t step) {
  std::vector<int64_t> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<int64_t>(i * static_cast<uint64_t>(step));
  }
  Dims dims(static_cast<size_t>(rank), 1);
  dims[static_cast<size_t>(axis)] = n;
  return b.Constant(Tensor::FromVector<int64_t>(Shape(std::move(dims)), values));
}

ValueId FromStart(GraphBuilder& b, ValueId indices, int64_t extent) {
  const ValueId index = Cast(b, indices, DType::kInt64);
  return Where(b, Less(b, index, Integer(b, 0)), Add(b, index, Integer(b, extent)), index);
}

ValueId Inside(GraphBuilder& b, ValueId index, int64_t extent) {
  return And(b, GreaterOrEqual(b, index, Integer(b, 0)), Less(b, index, Integer(b, extent)));
}

std::vector<const OpDef*> GatherOps() { return {&kGatherOp, &kGatherGradOp, &kPadOp}; }

}  // namespace gradwire
