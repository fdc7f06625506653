// Picking and placing elements by an index each. Everything is said with Gather and GatherGrad on
// places counted through the data; an index outside its axis becomes a place behind the end, so
// that it is an error when the Program runs, and never another element.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/base/checked.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"
#include "engine/ops/indexing_rows.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;

int64_t Product(absl::Span<const int64_t> extents) {
  int64_t product = 1;
  for (int64_t extent : extents) product = SaturatingMul(product, extent);
  return product;
}

// ---- LastWriter

absl::StatusOr<std::vector<TensorType>> InferLastWriter(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckIndexType(args.in[0].dtype));
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape({args.attrs.Int("extent")}));
  return std::vector<TensorType>{{DType::kInt64, std::move(shape)}};
}

absl::Status ReferenceLastWriter(const ReferenceArgs& args) {
  const int64_t extent = args.out_types[0].shape[0], count = args.in[0].num_elements();
  GW_RETURN_IF_ERROR(CheckIndices(args.in[0], extent));
  auto* out = static_cast<int64_t*>(args.out[0]);
  std::fill(out, out + extent, -1);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = IndexAt(args.in[0], i);
    out[index < 0 ? index + extent : index] = i;
  }
  return absl::OkStatus();
}

// A maximum of the positions: ONNX leaves the order of writes open.
void ExportLastWriter(NodeExport& n) {
  const int64_t count = n.in_type(0).shape.num_elements();
  const std::string none = n.Add("ConstantOfShape", {n.Ints({n.attrs.Int("extent")})},
                                 {{"value", Tensor::FromVector<int64_t>({1}, {-1})}});
  const std::string flat =
      n.Add("Reshape", {n.in(0), n.Ints({count})}, {{"allowzero", int64_t{1}}});
  n.Add("ScatterElements", {none, flat, n.Ints(Iota(0, count))}, n.out(0),
        {{"reduction", std::string("max")}});
}

const OpDef kLastWriterOp = {
    .name = "LastWriter",
    .doc =
        "For each place below `extent`, the position of the last index that names it, and -1 where"
        " none does: which of several updates stays.",
    .attrs = {{"extent", int64_t{0}, true}},
    .infer = InferLastWriter,
    .reference = ReferenceLastWriter,
    .export_onnx = ExportLastWriter,
    .domain = {.samples = {{.inputs = {Given({4}, {2, 0, 2, -4}, DType::kInt64)},
                            .attrs = {{"extent", int64_t{4}}}},
                           {.inputs = {Given({2, 2}, {1, 1, 1, 0}, DType::kInt32)},
                            .attrs = {{"extent", int64_t{3}}}},
                           {.inputs = {Given({0}, {}, DType::kInt64)},
                            .attrs = {{"extent", int64_t{2}}}}}},
};

// ---- Places

// For each element of `indices`, which replace those along `axis`.
ValueId ElementPlaces(NodeImport& n, ValueId indices, const Shape& data, int axis) {
  GraphBuilder& b = n.b;
  const Shape shape = b.shape(indices);
  const Dims strides = data.Strides();
  const auto stride = [&](int d) { return strides[static_cast<size_t>(d)]; };
  const ValueId index = FromStart(b, indices, data[axis]);
  ValueId place = Mul(b, index, Integer(b, stride(axis)));
  for (int d = 0; d < shape.rank(); ++d) {
    if (d == axis || shape[d] <= 1) continue;
    if (!IndicesFit(n, shape[d])) return kNoValue;
    place = Add(b, place, Counting(b, shape[d], shape.rank(), d, stride(d)));
  }
  return Where(b, Inside(b, index, data[axis]), place, Integer(b, data.num_elements()));
}

// For each tuple of the last dimension of `indices` ([batch, count, tuple]) the row of
// [batch, extents...] that it names, flat.
ValueId TuplePlaces(NodeImport& n, ValueId indices, absl::Span<const int64_t> extents) {
  GraphBuilder& b = n.b;
  if (!b.ok()) return kNoValue;
  const int64_t batch = b.shape(indices)[0], count = b.shape(indices)[1];
  ValueId place = kNoValue, inside = kNoValue;
  for (size_t j = 0; j < extents.size(); ++j) {
    const ValueId part =
        Reshape(b, Slice(b, indices, {0, 0, static_cast<int64_t>(j)}, {1, 1, 1}, {batch, count, 1}),
                {batch, count});
    const ValueId index = FromStart(b, part, extents[j]);
    const ValueId moved = Mul(b, index, Integer(b, Product(extents.subspan(j + 1))));
    const ValueId fits = Inside(b, index, extents[j]);
    place = j == 0 ? moved : Add(b, place, moved);
    inside = j == 0 ? fits : And(b, inside, fits);
  }
  const int64_t rows = Product(extents);
  if (batch > 1) {
    if (!IndicesFit(n, batch)) return kNoValue;
    place = Add(b, place, Counting(b, batch, 2, 0, rows));
  }
  place = Where(b, inside, place, Integer(b, SaturatingMul(batch, rows)));
  return Reshape(b, place, {SaturatingMul(batch, count)});
}

// ---- What happens where several updates meet

struct Reduction {
  BinaryBuilder combine = nullptr;  // null: the last one stays
  ValueId neutral = kNoValue;
};

ValueId Bound(GraphBuilder& b, DType dtype, bool lowest) {
  Tensor bound({dtype, Shape()});
  VisitNumeric(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Limits = std::numeric_limits<T>;
    const T highest = Limits::has_infinity ? Limits::infinity() : Limits::max();
    const T least = Limits::has_infinity ? static_cast<T>(-highest) : Limits::lowest();
    *bound.mutable_data<T>() = lowest ? least : highest;
  });
  return b.Constant(std::move(bound));
}

std::optional<Reduction> ReadReduction(NodeImport& n) {
  GraphBuilder& b = n.b;
  const std::string name = StringAttr(n, "reduction", "none");
  const DType dtype = n.type(0).dtype;
  const int since = name == "add" || name == "mul"   ? 16
                    : name == "min" || name == "max" ? 18
                    : name == "none"                 ? 1
                                                     : 1000;
  if (n.opset < since) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("reduction \"", name, "\" is not one of opset ", n.opset));
  } else if (name != "none" && !InClass(dtype, kNumeric)) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("reduction \"", name, "\" of ", DTypeName(dtype), ", expected a number"));
  }
  if (!b.ok()) return std::nullopt;
  if (name == "add") return Reduction{Add, b.Scalar(dtype, 0)};
  if (name == "mul") return Reduction{Mul, b.Scalar(dtype, 1)};
  if (name == "max") return Reduction{Max, Bound(b, dtype, true)};
  if (name == "min") return Reduction{Min, Bound(b, dtype, false)};
  return Reduction{};
}

// `count` rows of x from row `start` on.
ValueId Rows(GraphBuilder& b, ValueId x, int64_t start, int64_t count) {
  if (!b.ok()) return kNoValue;
  Dims dims = b.shape(x).dims();
  dims[0] = count;
  std::vector<int64_t> starts(dims.size(), 0);
  starts[0] = start;
  return Slice(b, x, starts, std::vector<int64_t>(dims.size(), 1), Shape(dims));
}

// Updates sorted by their place, each combined with all before it of the same place: Hillis and
// Steele's scan. Its derivatives of any order are exact, whatever the values are.
struct Scanned {
  ValueId places, updates;
};
Scanned ScanByPlace(GraphBuilder& b, ValueId places, ValueId updates, const Reduction& reduction) {
  const int64_t count = b.shape(places)[0];
  const ValueId order = TopIndices(b, places, 0, count, false);
  const ValueId sorted = Gather(b, places, order, 0);
  ValueId x = Gather(b, updates, order, 0);
  for (int64_t step = 1; step < count; step *= 2) {
    const ValueId same =
        Reshape(b, Equal(b, Rows(b, sorted, step, count - step), Rows(b, sorted, 0, count - step)),
                {count - step, 1});
    const ValueId before = Where(b, same, Rows(b, x, 0, count - step), reduction.neutral);
    const ValueId parts[] = {Rows(b, x, 0, step),
                             reduction.combine(b, before, Rows(b, x, step, count - step))};
    x = Concat(b, parts, 0);
  }
  return {sorted, x};
}

bool AddsUp(const Reduction& reduction) {
  return reduction.combine == static_cast<BinaryBuilder>(gradwire::Add);
}

// Sums that began with 0 are never -0: adding them to 0 changes nothing.
ValueId PlusSums(GraphBuilder& b, ValueId data, ValueId sums) {
  const std::optional<double> known = b.UniformValue(data);
  return known && *known == 0 && !std::signbit(*known) ? sums : Add(b, data, sums);
}

// data [rows, width] with updates [count, width] at rows `places` [count], which are counted from
// the start unless they are added up.
ValueId Placed(GraphBuilder& b, ValueId data, ValueId places, ValueId updates,
               const Reduction& reduction) {
  if (!b.ok()) return kNoValue;
  const int64_t rows = b.shape(data)[0];
  if (AddsUp(reduction)) return PlusSums(b, data, GatherGrad(b, updates, places, 0, rows));
  if (reduction.combine != nullptr) {
    const Scanned scanned = ScanByPlace(b, places, updates, reduction);
    places = scanned.places;
    updates = scanned.updates;
  }
  const ValueId last = b.Add(kLastWriterOp, {places}, Attrs{{"extent", rows}});
  const ValueId written = Reshape(b, GreaterOrEqual(b, last, Integer(b, 0)), {rows, 1});
  const ValueId update = Gather(b, updates, Max(b, last, Integer(b, 0)), 0);
  if (reduction.combine == nullptr) return Where(b, written, update, data);
  return reduction.combine(b, data, Where(b, written, update, reduction.neutral));
}

// ---- GatherElements, ScatterElements

// Whether indices of this shape name elements of the data along the axis.
bool ElementsFit(NodeImport& n, const Shape& data, const TensorType& indices, int axis) {
  n.b.Fail(CheckIndexType(indices.dtype));
  if (!n.b.ok()) return false;
  bool fits = indices.shape.rank() == data.rank();
  for (int d = 0; fits && d < data.rank(); ++d) fits = d == axis || indices.shape[d] <= data[d];
  if (!fits) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("indices ", indices.shape.ToString(),
                                                " do not fit data ", data.ToString()));
  }
  return fits;
}

Outputs ImportGatherElements(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  const Shape data = n.type(0).shape;
  const int axis = n.Axis(IntAttr(n, "axis", 0), data.rank());
  if (!n.b.ok() || !ElementsFit(n, data, n.type(1), axis)) return {};
  return {GatherElements(n, n.in(0), n.in(1), axis)};
}

// The indices along `axis` as a vector, where all else shares them; else kNoValue.
ValueId SharedIndices(GraphBuilder& b, ValueId indices, int axis) {
  const Shape shape = b.shape(indices);
  const Node* expand = b.Producer(indices);
  const ValueId column =
      expand != nullptr && expand->op == &kExpandOp ? b.operands(*expand)[0] : indices;
  const Shape in = b.shape(column);
  const int at = axis - (shape.rank() - in.rank());
  if (at < 0 || in[at] != shape[axis] || in.num_elements() != shape[axis]) return kNoValue;
  return Reshape(b, column, {shape[axis]});
}

Outputs ImportScatterElements(NodeImport& n) {
  if (!TakesInputs(n, 3, 3)) return {};
  GraphBuilder& b = n.b;
  const Shape data = n.type(0).shape, indices = n.type(1).shape;
  const int axis = n.Axis(IntAttr(n, "axis", 0), data.rank());
  if (!b.ok() || !ElementsFit(n, data, n.type(1), axis)) return {};
  const std::optional<Reduction> reduction = ReadReduction(n);
  if (!reduction) return {};
  if (indices != n.type(2).shape || n.type(2).dtype != n.type(0).dtype) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("updates are ", n.type(2).ToString(), ", expected ",
                                                TensorType{n.type(0).dtype, indices}.ToString()));
    return {};
  }
  if (indices.num_elements() == 0) return {n.in(0)};
  bool whole = true;
  for (int d = 0; d < data.rank(); ++d) whole = whole && (d == axis || indices[d] == data[d]);
  const ValueId shared = whole ? SharedIndices(b, n.in(1), axis) : kNoValue;
  if (shared != kNoValue && AddsUp(*reduction)) {
    return {PlusSums(b, n.in(0), GatherGrad(b, n.in(2), shared, axis, data[axis]))};
  }
  if (shared != kNoValue) {  // whole slices, which are rows once the axis comes first
    std::vector<int64_t> perm = Iota(0, data.rank());
    std::rotate(perm.begin(), perm.begin() + axis, perm.begin() + axis + 1);
    std::vector<int64_t> back(perm.size());
    for (size_t d = 0; d < perm.size(); ++d)
      back[static_cast<size_t>(perm[d])] = static_cast<int64_t>(d);
    const ValueId index = FromStart(b, shared, data[axis]);
    const ValueId places = Where(b, Inside(b, index, data[axis]), index, Integer(b, data[axis]));
    const ValueId moved = Transpose(b, n.in(0), perm);
    const Shape kept = b.shape(moved);
    const int64_t width = data.num_elements() / std::max<int64_t>(data[axis], 1);
    const ValueId placed =
        Placed(b, Reshape(b, moved, {data[axis], width}), places,
               Reshape(b, Transpose(b, n.in(2), perm), {indices[axis], width}), *reduction);
    return {Transpose(b, Reshape(b, placed, kept), back)};
  }
  const int64_t count = indices.num_elements(), total = data.num_elements();
  const ValueId places = Reshape(b, ElementPlaces(n, n.in(1), data, axis), {count});
  const ValueId placed = Placed(b, Reshape(b, n.in(0), {total, 1}), places,
                                Reshape(b, n.in(2), {count, 1}), *reduction);
  return {Reshape(b, placed, data)};
}

// ---- GatherND, ScatterND

Outputs ImportGatherND(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  GraphBuilder& b = n.b;
  const Shape data = n.type(0).shape, indices = n.type(1).shape;
  const int64_t batch_dims = IntAttr(n, "batch_dims", 0);
  b.Fail(CheckIndexType(n.type(1).dtype));
  if (!b.ok()) return {};
  const auto lead = static_cast<int>(std::clamp<int64_t>(batch_dims, -1, Shape::kMaxRank));
  const int64_t tuple = indices.rank() == 0 ? 0 : indices[indices.rank() - 1];
  bool fits = lead >= 0 && lead < std::min(data.rank(), indices.rank()) && tuple >= 1 &&
              tuple <= data.rank() - lead;
  for (int d = 0; fits && d < lead; ++d) fits = data[d] == indices[d];
  if (!fits) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("indices ", indices.ToString(), " do not fit data ",
                                                data.ToString(), " with batch_dims ", batch_dims));
    return {};
  }
  const absl::Span<const int64_t> extents = data, dims = indices;
  const auto behind = static_cast<size_t>(lead + tuple);
  Dims out(dims.begin(), dims.end() - 1);
  out.insert(out.end(), extents.begin() + static_cast<std::ptrdiff_t>(behind), extents.end());
  const std::optional<Shape> shape = ResultShape(b, out);
  if (!shape) return {};
  if (shape->num_elements() == 0) {
    return {Reshape(b, Rows(b, Reshape(b, n.in(0), {data.num_elements()}), 0, 0), *shape)};
  }
  const int64_t batch = Product(extents.first(static_cast<size_t>(lead)));
  const int64_t width = Product(extents.subspan(behind));
  const int64_t count = indices.num_elements() / (batch * tuple);
  const ValueId places =
      TuplePlaces(n, Reshape(b, n.in(1), {batch, count, tuple}),
                  extents.subspan(static_cast<size_t>(lead), static_cast<size_t>(tuple)));
  const ValueId rows = Reshape(b, n.in(0), {data.num_elements() / width, width});
  return {Reshape(b, Gather(b, rows, places, 0), *shape)};
}

Outputs ImportScatterND(NodeImport& n) {
  if (!TakesInputs(n, 3, 3)) return {};
  GraphBuilder& b = n.b;
  const Shape data = n.type(0).shape, indices = n.type(1).shape;
  b.Fail(CheckIndexType(n.type(1).dtype));
  if (!b.ok()) return {};
  const std::optional<Reduction> reduction = ReadReduction(n);
  if (!reduction) return {};
  const int64_t tuple = indices.rank() == 0 ? 0 : indices[indices.rank() - 1];
  if (tuple < 1 || tuple > data.rank()) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("indices ", indices.ToString(), " do not fit data ", data.ToString()));
    return {};
  }
  const absl::Span<const int64_t> extents = data, dims = indices;
  Dims want(dims.begin(), dims.end() - 1);
  want.insert(want.end(), extents.begin() + tuple, extents.end());
  if (n.type(2) != TensorType{n.type(0).dtype, Shape(want)}) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("updates are ", n.type(2).ToString(), ", expected ",
                        TensorType{n.type(0).dtype, Shape(want)}.ToString()));
    return {};
  }
  if (n.type(2).shape.num_elements() == 0) return {n.in(0)};
  const int64_t count = indices.num_elements() / tuple;
  const int64_t width = Product(extents.subspan(static_cast<size_t>(tuple)));
  const ValueId places = TuplePlaces(n, Reshape(b, n.in(1), {1, count, tuple}),
                                     extents.first(static_cast<size_t>(tuple)));
  const ValueId placed = Placed(b, Reshape(b, n.in(0), {data.num_elements() / width, width}),
                                places, Reshape(b, n.in(2), {count, width}), *reduction);
  return {Reshape(b, placed, data)};
}

// ---- Rows

Attrs Reducing(const char* reduction, int64_t axis = 0) {
  if (axis == 0) return {{"reduction", std::string(reduction)}};
  return {{"axis", axis}, {"reduction", std::string(reduction)}};
}

const OpDef kGatherElementsOp = {
    .name = "GatherElements",
    .doc =
        "For each index, the element at its own position with the index in the place of that along"
        " `axis`. Derivatives of repeated indices add up.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "GatherElements", .since = 11, .import = ImportGatherElements}},
    .domain =
        {.samples =
             {
                 {.inputs = {Drawn({3, 3}), Given({2, 3}, {1, 0, 2, 0, -1, 2}, DType::kInt64)}},
                 {.inputs = {Drawn({2, 4}), Given({2, 3}, {1, 1, -4, 3, 0, 3}, DType::kInt32)},
                  .attrs = {{"axis", int64_t{1}}}},
                 {.inputs = {Drawn({2, 3, 2}), Given({1, 5, 2}, {2, 1, 0, -1}, DType::kInt64)},
                  .attrs = {{"axis", int64_t{-2}}},
                  .opset = 11},
                 {.inputs = {Drawn({4, 2}), Given({0, 2}, {}, DType::kInt64)}},
             }},
};

std::vector<Sample> ScatterSamples() {
  const SampleInput rows = Given({2, 3}, {1, 0, 2, 0, -1, 2}, DType::kInt64);
  const SampleInput repeated = Given({2, 3}, {1, 1, -4, 1, 1, 3}, DType::kInt32);
  return {
      {.inputs = {Drawn({3, 3}), rows, Drawn({2, 3})}, .attrs = Reducing("add")},
      {.inputs = {Drawn({2, 4}), repeated, Drawn({2, 3})}, .attrs = Reducing("add", 1)},
      {.inputs = {Drawn({4}), Given({0}, {}, DType::kInt64), Drawn({0})}, .attrs = Reducing("add")},
      {.inputs = {Drawn({3, 3}), rows, Drawn({2, 3})}, .opset = 11},
      {.inputs = {Drawn({2, 4}), repeated, Drawn({2, 3})}, .attrs = {{"axis", int64_t{-1}}}},
      {.inputs = {Drawn({2, 4}), repeated, Drawn({2, 3})}, .attrs = Reducing("mul", 1)},
      {.inputs = {Drawn({2, 4}), repeated, Drawn({2, 3})}, .attrs = Reducing("max", 1)},
      {.inputs = {Drawn({2, 4}), repeated, Drawn({2, 3})}, .attrs = Reducing("min", 1)},
      {.inputs = {Drawn({3, 2, 1}), Given({3, 4, 1}, {0, 1}, DType::kInt64), Drawn({3, 4, 1})},
       .attrs = Reducing("mul", 1)},
      {.inputs = {Drawn({4}), Given({4}, {3, -1, 0, -4}, DType::kInt64), Drawn({4})},
       .attrs = Reducing("mul")},
      {.inputs = {Drawn({3, 1}), Given({4, 1}, {0, 2, 2, 0}, DType::kInt64), Drawn({4, 1})},
       .attrs = Reducing("none")},
  };
}

constexpr absl::string_view kScatterDoc =
    "The data with each update in the place of the element that its index names along `axis`; where"
    " several meet, the last one stays (`none`), or they are combined with the data (`add`, `mul`,"
    " `max`, `min`). Equal extremes share derivatives as in Max and Min.";

const OpDef kScatterElementsOp = {
    .name = "ScatterElements",
    .doc = kScatterDoc,
    .min_inputs = 3,
    .max_inputs = 3,
    .onnx = {{.name = "ScatterElements", .since = 11, .import = ImportScatterElements}},
    .domain = {.samples = ScatterSamples()},
};

const OpDef kScatterOp = {
    .name = "Scatter",
    .doc = "ScatterElements before opset 11, without reductions.",
    .min_inputs = 3,
    .max_inputs = 3,
    .onnx = {{.name = "Scatter", .since = 9, .until = 10, .import = ImportScatterElements}},
    .domain = {.samples = {{.inputs = {Drawn({2, 4}),
                                       Given({2, 3}, {1, 1, 0, 3, 0, 3}, DType::kInt64),
                                       Drawn({2, 3})},
                            .attrs = {{"axis", int64_t{1}}}}}},
};

const OpDef kGatherNDOp =
    {
        .name = "GatherND",
        .doc =
            "Slices of the data at the tuples along the last dimension of `indices`, within each of"
            " `batch_dims` shared leading dimensions. Derivatives of repeated tuples add up.",
        .min_inputs = 2,
        .max_inputs = 2,
        .onnx = {{.name = "GatherND", .since = 11, .import = ImportGatherND}},
        .domain =
            {.samples =
                 {
                     {.inputs = {Drawn({2, 3}),
                                 Given({3, 2}, {0, 0, 1, -1, -2, 1}, DType::kInt64)}},
                     {.inputs = {Drawn({3, 2, 2}), Given({2, 1}, {2, 0}, DType::kInt64)}},
                     {.inputs = {Drawn({2, 3, 2}), Given({2, 2, 1}, {2, 0, 1, 1}, DType::kInt64)},
                      .attrs = {{"batch_dims", int64_t{1}}}},
                     {.inputs = {Drawn({2, 3, 2}), Given({2, 3, 1}, {1, 0, 1, 1}, DType::kInt64)},
                      .attrs = {{"batch_dims", int64_t{2}}}},
                     {.inputs = {Drawn({4}), Given({1}, {3}, DType::kInt64)}, .opset = 11},
                     {.inputs = {Drawn({2, 0}), Given({2, 1}, {1, 0}, DType::kInt64)}},
                 }},
};

std::vector<Sample> ScatterNDSamples() {
  const SampleInput tuples = Given({3, 2}, {0, 0, 1, -1, -2, 0}, DType::kInt64);
  const SampleInput rows = Given({4, 1}, {2, 0, 2, 2}, DType::kInt64);
  return {
      {.inputs = {Drawn({2, 3}), tuples, Drawn({3})}, .opset = 11},
      {.inputs = {Drawn({3, 2}), rows, Drawn({4, 2})}},
      {.inputs = {Drawn({3, 2}), rows, Drawn({4, 2})}, .attrs = Reducing("add")},
      {.inputs = {Drawn({3, 2}), rows, Drawn({4, 2})}, .attrs = Reducing("mul")},
      {.inputs = {Drawn({3, 2}), rows, Drawn({4, 2})}, .attrs = Reducing("max")},
      {.inputs = {Drawn({2, 3}), tuples, Drawn({3})}, .attrs = Reducing("min")},
      {.inputs = {Drawn({3, 2}), Given({0, 1}, {}, DType::kInt64), Drawn({0, 2})}},
      {.inputs = {Drawn({3, 0}), Given({1, 1}, {2}, DType::kInt64), Drawn({1, 0})}},
  };
}

const OpDef kScatterNDOp = {
    .name = "ScatterND",
    .doc =
        "The data with each update in the place of the slice that a tuple along the last dimension"
        " of `indices` names. Where several meet, as in ScatterElements.",
    .min_inputs = 3,
    .max_inputs = 3,
    .onnx = {{.name = "ScatterND", .since = 11, .import = ImportScatterND}},
    .domain = {.samples = ScatterNDSamples()},
};

}  // namespace

ValueId GatherElements(NodeImport& n, ValueId x, ValueId indices, int axis) {
  GraphBuilder& b = n.b;
  if (!b.ok()) return kNoValue;
  const Shape data = b.shape(x), shape = b.shape(indices);
  const int64_t count = shape.num_elements();
  const ValueId flat = Reshape(b, x, {data.num_elements()});
  if (count == 0) return Reshape(b, Rows(b, flat, 0, 0), shape);
  const ValueId places = Reshape(b, ElementPlaces(n, indices, data, axis), {count});
  return Reshape(b, Gather(b, flat, places, 0), shape);
}

std::vector<const OpDef*> ScatterOps() {
  return {&kGatherElementsOp, &kScatterElementsOp, &kScatterOp,
          &kGatherNDOp,       &kScatterNDOp,       &kLastWriterOp};
}

}  // namespace gradwire
