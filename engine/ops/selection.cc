// Ops that choose elements by their value. Those whose number of results depends on values have
// them evaluated while the graph is built.
#include <algorithm>
#include <cmath>

#include "engine/base/team.h"
#include "engine/ops/builders.h"
#include "engine/ops/indexing_rows.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;
using Types = absl::StatusOr<std::vector<TensorType>>;

// A total order up to equality, in which NaN comes last.
template <typename T>
bool Below(T x, T y) {
  if constexpr (std::is_floating_point_v<T>) return x < y || (std::isnan(y) && !std::isnan(x));
  return x < y;
}

// ---- TopIndices

Types InferTopIndices(const InferArgs& args) {
  const int64_t axis = args.attrs.Int("axis"), k = args.attrs.Int("k");
  const TensorType& in = args.in[0];
  if (!InClass(in.dtype, kNumeric)) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("input is ", DTypeName(in.dtype), ", expected a number"));
  }
  GW_RETURN_IF_ERROR(CheckAxis(axis, in.shape));
  if (k < 0 || k > in.shape[static_cast<int>(axis)]) {
    return Error(Reason::kShapeMismatch, absl::StrCat("asks for ", k, " elements along axis ", axis,
                                                      " of ", in.shape.ToString()));
  }
  Dims dims = in.shape.dims();
  dims[static_cast<size_t>(axis)] = k;
  return std::vector<TensorType>{{DType::kInt64, Shape(std::move(dims))}};
}

// One line of elements, `stride` apart, and its k results, which are kept as a heap with the one
// that is to be replaced first in front.
template <typename T>
class TopOfLine {
 public:
  TopOfLine(const T* line, int64_t stride, bool largest, int64_t* out, int64_t k)
      : line_(line), stride_(stride), largest_(largest), out_(out), k_(k) {}

  void Select(int64_t extent) {
    for (int64_t i = 0; i < k_; ++i) at(i) = i;
    for (int64_t i = k_ / 2; i-- > 0;) SiftDown(i, k_);
    for (int64_t i = k_; i < extent; ++i) {
      if (!Before(i, at(0))) continue;
      at(0) = i;
      SiftDown(0, k_);
    }
    for (int64_t size = k_ - 1; size > 0; --size) {  // the worst goes to the end
      std::swap(at(0), at(size));
      SiftDown(0, size);
    }
  }

 private:
  int64_t& at(int64_t i) { return out_[i * stride_]; }
  bool Before(int64_t i, int64_t j) const {
    const T x = line_[i * stride_], y = line_[j * stride_];
    if (largest_ ? Below(y, x) : Below(x, y)) return true;
    return i < j && !(largest_ ? Below(x, y) : Below(y, x));
  }
  void SiftDown(int64_t i, int64_t size) {
    for (int64_t child = 2 * i + 1; child < size; child = 2 * i + 1) {
      if (child + 1 < size && Before(at(child), at(child + 1))) ++child;
      if (!Before(at(i), at(child))) return;
      std::swap(at(i), at(child));
      i = child;
    }
  }

  const T* line_;
  int64_t stride_;
  bool largest_;
  int64_t* out_;
  int64_t k_;
};

absl::Status ReferenceTopIndices(const ReferenceArgs& args) {
  const int64_t axis = args.attrs.Int("axis"), k = args.attrs.Int("k");
  const bool largest = args.attrs.Int("largest") != 0;
  const Runs runs(args.in[0].shape(), axis);
  if (k == 0 || args.in[0].num_elements() == 0) return absl::OkStatus();
  const bool known = VisitNumeric(args.in[0].dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* data = args.in[0].data<T>();
    auto* out = static_cast<int64_t*>(args.out[0]);
    const int64_t lines = runs.outer * runs.inner;
    const int64_t block =
        std::max<int64_t>(kBlockBytes / static_cast<int64_t>(sizeof(T)) / runs.extent, 1);
    ParallelFor(args.threads, (lines + block - 1) / block, [&](int64_t part) {
      const int64_t end = std::min(lines, (part + 1) * block);
      for (int64_t line = part * block; line < end; ++line) {
        const int64_t o = line / runs.inner, i = line % runs.inner;
        TopOfLine<T>(data + o * runs.extent * runs.inner + i, runs.inner, largest,
                     out + o * k * runs.inner + i, k)
            .Select(runs.extent);
      }
    });
  });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "TopIndices has no kernel for this type");
}

const OpDef kTopIndicesOp = {
    .name = "TopIndices",
    .doc =
        "Where along `axis` the `k` greatest elements are, the greatest first (the least where"
        " `largest` is 0). Of equal elements the one with the lower index comes first; NaN counts"
        " as greater than everything.",
    .attrs = {{"axis", int64_t{0}, true}, {"k", int64_t{0}, true}, {"largest", int64_t{1}}},
    .infer = InferTopIndices,
    .reference = ReferenceTopIndices,
    .export_onnx =
        [](NodeExport& n) {
          n.AddMulti("TopK", {n.in(0), n.Ints({n.attrs.Int("k")})}, {n.NewName(), n.out(0)},
                     {{"axis", n.attrs.Int("axis")}, {"largest", n.attrs.Int("largest")}});
        },
    .domain =
        {.samples =
             {
                 {.inputs = {Drawn({3, 5})}, .attrs = {{"axis", int64_t{1}}, {"k", int64_t{3}}}},
                 {.inputs = {Drawn({6, 2})},
                  .attrs = {{"axis", int64_t{0}}, {"k", int64_t{6}}, {"largest", int64_t{0}}}},
                 {.inputs = {Given({5}, {2, 1, 2, 1, 2})},
                  .attrs = {{"axis", int64_t{0}}, {"k", int64_t{4}}}},
                 {.inputs = {Drawn({2, 0})}, .attrs = {{"axis", int64_t{1}}, {"k", int64_t{0}}}},
             }},
};

// ---- TopK

Outputs ImportTopK(NodeImport& n) {
  if (!TakesInputs(n, n.opset < 10 ? 1 : 2, n.opset < 10 ? 1 : 2)) return {};
  const int axis = n.Axis(IntAttr(n, "axis", -1), n.type(0).shape.rank());
  const auto k = RequiredInts(n, "k", 1);
  if (!n.b.ok()) return {};
  if (k->size() != 1) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("k has ", k->size(), " elements, expected one"));
    return {};
  }
  const bool largest = IntAttr(n, "largest", 1) != 0;
  const ValueId indices = TopIndices(n.b, n.in(0), axis, (*k)[0], largest);
  return {GatherElements(n, n.in(0), indices, axis), indices};
}

const OpDef kTopKOp = {
    .name = "TopK",
    .doc =
        "The `k` greatest (or least) elements along `axis` and their indices, sorted whether asked"
        " for or not; of equal elements the first ones. Derivatives go to the elements chosen.",
    .max_inputs = 2,
    .onnx = {{.name = "TopK", .since = 1, .import = ImportTopK}},
    .domain =
        {.samples =
             {
                 {.inputs = {Drawn({3, 5}), FrozenVector({2})}, .num_outputs = 2},
                 {.inputs = {Drawn({4, 3, 2}), FrozenVector({3})},
                  .attrs = {{"axis", int64_t{0}}, {"largest", int64_t{0}}, {"sorted", int64_t{0}}},
                  .num_outputs = 2},
                 {.inputs = {Drawn({6})},
                  .attrs = {{"k", int64_t{1}}},
                  .opset = 6,
                  .num_outputs = 2},
                 {.inputs = {Drawn({2, 3}), FrozenVector({3})}, .opset = 10, .num_outputs = 2},
                 {.inputs = {Drawn({2, 3}), FrozenVector({0})}, .num_outputs = 2},
             }},
};

// ---- ArgMax, ArgMin, Hardmax

// The index of the extreme along `axis`, with that dimension kept. NaN is both extremes.
ValueId ArgExtreme(GraphBuilder& b, ValueId x, int axis, bool largest, bool last) {
  if (!b.ok()) return kNoValue;
  const Shape in = b.shape(x);
  const int64_t extent = in[axis];
  if (last && extent > 0) {
    std::vector<int64_t> starts(static_cast<size_t>(in.rank()), 0), steps(starts.size(), 1);
    starts[static_cast<size_t>(axis)] = extent - 1;
    steps[static_cast<size_t>(axis)] = -1;
    x = Slice(b, x, starts, steps, in);
  }
  if (!largest && IsFloating(b.dtype(x))) {
    x = Neg(b, x);
    largest = true;
  }
  const ValueId index = TopIndices(b, x, axis, 1, largest);
  return last ? Sub(b, Integer(b, extent - 1), index) : index;
}

template <bool kLargest>
Outputs ImportArgExtreme(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const Shape in = n.type(0).shape;
  const int axis = n.Axis(IntAttr(n, "axis", 0), in.rank());
  const bool last = IntAttr(n, "select_last_index", 0) != 0;
  const ValueId index = ArgExtreme(n.b, n.in(0), axis, kLargest, last);
  if (IntAttr(n, "keepdims", 1) != 0 || !n.b.ok()) return {index};
  Dims dims = in.dims();
  dims.erase(dims.begin() + axis);
  return {Reshape(n.b, index, Shape(std::move(dims)))};
}

Domain ArgDomain() {
  const SampleInput ties = Given({2, 4}, {1, 3, 3, 1, 2, 2, 0, 0});
  return {
      .samples = {
          {.inputs = {Drawn({2, 3})}, .opset = 6},
          {.inputs = {Drawn({2, 3, 2})},
           .attrs = {{"axis", int64_t{-2}}, {"keepdims", int64_t{0}}}},
          {.inputs = {ties}, .attrs = {{"axis", int64_t{1}}}},
          {.inputs = {ties}, .attrs = {{"axis", int64_t{1}}, {"select_last_index", int64_t{1}}}},
          {.inputs = {Drawn({3, 0})}},
      }};
}

const OpDef kArgMaxOp = {
    .name = "ArgMax",
    .doc =
        "The index of the greatest element along `axis`: the first one, or the last"
        " (`select_last_index`). NaN counts as greater than everything.",
    .onnx = {{.name = "ArgMax", .since = 1, .import = ImportArgExtreme<true>}},
    .domain = ArgDomain(),
};

const OpDef kArgMinOp = {
    .name = "ArgMin",
    .doc =
        "The index of the least element along `axis`: the first one, or the last"
        " (`select_last_index`). NaN counts as less than everything.",
    .onnx = {{.name = "ArgMin", .since = 1, .import = ImportArgExtreme<false>}},
    .domain = ArgDomain(),
};

Outputs ImportHardmax(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  GraphBuilder& b = n.b;
  const TensorType in = n.type(0);
  int axis = n.Axis(IntAttr(n, "axis", n.opset < 13 ? 1 : -1), in.shape.rank());
  if (!b.ok()) return {};
  ValueId x = n.in(0);
  if (n.opset < 13) {  // all dimensions from the axis on are one
    int64_t before = 1, after = 1;
    for (int d = 0; d < in.shape.rank(); ++d) (d < axis ? before : after) *= in.shape[d];
    x = Reshape(b, x, {before, after});
    axis = 1;
  }
  if (!b.ok()) return {};
  const Shape shape = b.shape(x);
  if (shape.num_elements() == 0) return {n.in(0)};
  if (!IndicesFit(n, shape[axis])) return {};
  const ValueId top = ArgExtreme(b, x, axis, true, false);
  const ValueId hit = Equal(b, Counting(b, shape[axis], shape.rank(), axis), top);
  return {Reshape(b, Cast(b, hit, in.dtype), in.shape)};
}

const OpDef kHardmaxOp = {
    .name = "Hardmax",
    .doc = "1 at the first greatest element along `axis`, 0 elsewhere. The derivative is 0.",
    .onnx = {{.name = "Hardmax", .since = 1, .import = ImportHardmax}},
    .domain =
        {.samples = {{.inputs = {Drawn({2, 3})}},
                     {.inputs = {Drawn({2, 3, 2})}, .attrs = {{"axis", int64_t{1}}}},
                     {.inputs = {Drawn({2, 3, 2})}, .attrs = {{"axis", int64_t{1}}}, .opset = 12}}},
};

// ---- NonZero, Compress

std::optional<Tensor> FrozenElements(NodeImport& n, int i) {
  std::optional<Tensor> value = n.Frozen(i);
  if (!value || !IndicesFit(n, value->num_elements())) return std::nullopt;
  return value;
}

// The places, counted row-major, of the elements that are not 0.
std::optional<std::vector<int64_t>> PlacesNotZero(NodeImport& n, const Tensor& value) {
  std::vector<int64_t> places;
  const bool known = VisitDType(value.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < value.num_elements(); ++i) {
      if (value.data<T>()[i] != T{0}) places.push_back(i);
    }
  });
  if (known) return places;
  n.Fail(Reason::kDtypeUnsupported, absl::StrCat(DTypeName(value.dtype()), " is not supported"));
  return std::nullopt;
}

ValueId IndexVector(GraphBuilder& b, const std::vector<int64_t>& values) {
  return b.Constant(Tensor::FromVector<int64_t>({static_cast<int64_t>(values.size())}, values));
}

Outputs ImportNonZero(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const std::optional<Tensor> value = FrozenElements(n, 0);
  if (!value) return {};
  const auto places = PlacesNotZero(n, *value);
  if (!places) return {};
  const Shape& in = value->shape();
  const auto count = static_cast<int64_t>(places->size());
  std::vector<int64_t> out;
  int64_t stride = std::max<int64_t>(value->num_elements(), 1);
  for (int d = 0; d < in.rank(); ++d) {
    stride /= std::max<int64_t>(in[d], 1);
    for (int64_t place : *places) out.push_back(place / stride % in[d]);
  }
  return {n.b.Constant(Tensor::FromVector<int64_t>({in.rank(), count}, out))};
}

const OpDef kNonZeroOp = {
    .name = "NonZero",
    .doc =
        "The indices of the elements that are not 0, a row a dimension. Their number decides a"
        " shape, so no derivative can be taken by what they depend on.",
    .onnx = {{.name = "NonZero", .since = 9, .import = ImportNonZero}},
    .domain = {.samples = {{.inputs = {Given({2, 3}, {1, 0, 2, 0, -3, 0})}},
                           {.inputs = {Given({3}, {1, 0, 1}, DType::kBool)}},
                           {.inputs = {Given({}, {3}, DType::kInt64)}},
                           {.inputs = {Drawn({2, 0})}}}},
};

Outputs ImportCompress(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  GraphBuilder& b = n.b;
  ValueId x = n.in(0);
  int axis = 0;
  if (n.attrs.Has("axis")) {
    axis = n.Axis(IntAttr(n, "axis", 0), b.shape(x).rank());
  } else {
    x = Reshape(b, x, {b.shape(x).num_elements()});
  }
  if (!b.ok()) return {};
  if (n.type(1).dtype != DType::kBool || n.type(1).shape.rank() != 1) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("condition is ", n.type(1).ToString(), ", expected a vector of BOOL"));
    return {};
  }
  const std::optional<Tensor> condition = FrozenElements(n, 1);
  if (!condition) return {};
  const auto places = PlacesNotZero(n, *condition);
  if (!places) return {};
  return {Gather(b, x, IndexVector(b, *places), axis)};
}

const OpDef kCompressOp = {
    .name = "Compress",
    .doc =
        "The slices along `axis` (elements, where there is none) whose condition is true. The"
        " condition decides a shape, so no derivative can be taken by what it depends on.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "Compress", .since = 9, .import = ImportCompress}},
    .domain = {.samples = {{.inputs = {Drawn({3, 2}), Given({3}, {0, 1, 1}, DType::kBool)},
                            .attrs = {{"axis", int64_t{0}}}},
                           {.inputs = {Drawn({3, 2}), Given({2}, {0, 1}, DType::kBool)},
                            .attrs = {{"axis", int64_t{-1}}}},
                           {.inputs = {Drawn({3, 2}), Given({5}, {0, 1, 0, 0, 1}, DType::kBool)}},
                           {.inputs = {Drawn({3}), Given({2}, {0, 0}, DType::kBool)}}}},
};

// ---- Unique

// Slices along an axis, ordered element by element.
template <typename T>
class SliceOrder {
 public:
  SliceOrder(const Tensor& x, int64_t axis) : data_(x.data<T>()), runs_(x.shape(), axis) {}
  bool operator()(int64_t i, int64_t j) const {
    for (int64_t o = 0; o < runs_.outer; ++o) {
      for (int64_t k = 0; k < runs_.inner; ++k) {
        const T x = data_[(o * runs_.extent + i) * runs_.inner + k];
        const T y = data_[(o * runs_.extent + j) * runs_.inner + k];
        if (Below(x, y)) return true;
        if (Below(y, x)) return false;
      }
    }
    return false;
  }

 private:
  const T* data_;
  Runs runs_;
};

struct Groups {
  std::vector<int64_t> first, inverse, counts;
};

template <typename Order>
Groups GroupSlices(int64_t extent, bool sorted, const Order& before) {
  std::vector<int64_t> order = Iota(0, extent);
  std::stable_sort(order.begin(), order.end(), before);
  Groups groups;
  groups.inverse.resize(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || before(order[i - 1], order[i])) {
      groups.first.push_back(order[i]);
      groups.counts.push_back(0);
    }
    ++groups.counts.back();
    groups.inverse[static_cast<size_t>(order[i])] = static_cast<int64_t>(groups.first.size()) - 1;
  }
  if (sorted) return groups;
  // By first occurrence.
  std::vector<int64_t> by_first = Iota(0, static_cast<int64_t>(groups.first.size()));
  const auto group = [&](int64_t g) { return static_cast<size_t>(g); };
  std::sort(by_first.begin(), by_first.end(),
            [&](int64_t g, int64_t h) { return groups.first[group(g)] < groups.first[group(h)]; });
  Groups out = groups;
  std::vector<int64_t> renamed(by_first.size());
  for (size_t i = 0; i < by_first.size(); ++i) {
    out.first[i] = groups.first[group(by_first[i])];
    out.counts[i] = groups.counts[group(by_first[i])];
    renamed[group(by_first[i])] = static_cast<int64_t>(i);
  }
  for (int64_t& g : out.inverse) g = renamed[group(g)];
  return out;
}

Outputs ImportUnique(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  GraphBuilder& b = n.b;
  ValueId x = n.in(0);
  const bool sorted = IntAttr(n, "sorted", 1) != 0, flat = !n.attrs.Has("axis");
  const int axis = flat ? 0 : n.Axis(IntAttr(n, "axis", 0), b.shape(x).rank());
  std::optional<Tensor> value = FrozenElements(n, 0);
  if (!b.ok() || !value) return {};
  if (flat) {
    x = Reshape(b, x, {value->num_elements()});
    Tensor vector({value->dtype(), Shape({value->num_elements()})});
    if (value->bytes() > 0) {
      std::memcpy(vector.mutable_raw(), value->raw(), static_cast<size_t>(value->bytes()));
    }
    value = std::move(vector);
  }
  Groups groups;
  if (!IndicesFit(n, value->shape()[axis])) return {};
  const bool known = VisitDType(value->dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    groups = GroupSlices(value->shape()[axis], sorted, SliceOrder<T>(*value, axis));
  });
  if (!known) {
    n.Fail(Reason::kDtypeUnsupported, absl::StrCat(DTypeName(value->dtype()), " is not supported"));
    return {};
  }
  const ValueId first = IndexVector(b, groups.first);
  return {Gather(b, x, first, axis), first, IndexVector(b, groups.inverse),
          IndexVector(b, groups.counts)};
}

const OpDef kUniqueOp = {
    .name = "Unique",
    .doc =
        "The distinct slices along `axis` (elements, where there is none), `sorted` or as they"
        " first occur; where they first occur; which of them each slice is; how often they occur."
        " Their number decides a shape, so no derivative can be taken by what they depend on.",
    .onnx = {{.name = "Unique", .since = 11, .import = ImportUnique}},
    .domain = {.samples = {{.inputs = {Given({6}, {2, 1, 1, 3, 4, 3})}, .num_outputs = 4},
                           {.inputs = {Given({2, 3}, {2, 1, 1, 3, 4, 3})},
                            .attrs = {{"sorted", int64_t{0}}},
                            .num_outputs = 4},
                           {.inputs = {Given({3, 2}, {1, 0, 0, 1, 1, 0}, DType::kInt32)},
                            .attrs = {{"axis", int64_t{0}}},
                            .num_outputs = 4},
                           {.inputs = {Given({2, 3}, {1, 0, 1, 2, 0, 2})},
                            .attrs = {{"axis", int64_t{-1}}},
                            .num_outputs = 3},
                           {.inputs = {Drawn({0})}, .num_outputs = 4}}},
};

}  // namespace

ValueId TopIndices(GraphBuilder& b, ValueId x, int axis, int64_t k, bool largest) {
  return b.Add(kTopIndicesOp, {x},
               Attrs{{"axis", static_cast<int64_t>(axis)},
                     {"k", k},
                     {"largest", static_cast<int64_t>(largest)}});
}

std::vector<const OpDef*> SelectionOps() {
  return {&kTopIndicesOp, &kTopKOp,    &kArgMaxOp,   &kArgMinOp,
          &kHardmaxOp,    &kNonZeroOp, &kCompressOp, &kUniqueOp};
}

}  // namespace gradwire
