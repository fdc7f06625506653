// Constants, and ops that change a shape or ask for one. All but Constant are views: no data moves.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_join.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;

const std::vector<AttrDef> kShapeAttr = {{"shape", std::vector<int64_t>(), true}};

absl::Status CopyDense(const ReferenceArgs& args) {
  if (const int64_t bytes = args.in[0].bytes(); bytes > 0) {
    std::memcpy(args.out[0], args.in[0].raw(), static_cast<size_t>(bytes));
  }
  return absl::OkStatus();
}

// ---- Constant

Outputs ImportConstant(NodeImport& n) {
  if (!TakesInputs(n, 0, 0)) return {};
  if (n.attrs.entries().size() != 1) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("has ", n.attrs.entries().size(), " attributes, expected one value"));
    return {};
  }
  const auto& [name, value] = n.attrs.entries()[0];
  auto vector = [](const auto& values) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    using Element = std::conditional_t<std::is_same_v<T, double>, float, int64_t>;
    std::vector<Element> converted;
    for (T x : values) converted.push_back(static_cast<Element>(x));
    const auto size = static_cast<int64_t>(converted.size());
    return Tensor::FromVector<Element>({size}, converted);
  };
  if (const auto* t = std::get_if<Tensor>(&value); t != nullptr && name == "value") {
    return {n.b.Constant(*t)};
  }
  if (const auto* x = std::get_if<double>(&value); x != nullptr && name == "value_float") {
    return {n.b.Constant(Tensor::Scalar(static_cast<float>(*x)))};
  }
  if (const auto* x = std::get_if<int64_t>(&value); x != nullptr && name == "value_int") {
    return {n.b.Constant(Tensor::Scalar<int64_t>(*x))};
  }
  if (const auto* xs = std::get_if<std::vector<double>>(&value); xs && name == "value_floats") {
    return {n.b.Constant(vector(*xs))};
  }
  if (const auto* xs = std::get_if<std::vector<int64_t>>(&value); xs && name == "value_ints") {
    return {n.b.Constant(vector(*xs))};
  }
  const bool text = name == "value_string" || name == "value_strings";
  n.Fail(text ? Reason::kDtypeUnsupported : Reason::kInvalidModel,
         absl::StrCat("attribute ", name, " is not a dense tensor or number"));
  return {};
}

}  // namespace

const OpDef
    kConstantOp =
        {
            .name = "Constant",
            .doc = "A value that is part of the graph.",
            .attrs = {{"value", Tensor(), true}},
            .min_inputs = 0,
            .max_inputs = 0,
            .infer = [](const InferArgs& args) -> absl::StatusOr<std::vector<TensorType>> {
              const Tensor& value = args.attrs.tensor("value");
              if (value.empty() || value.dtype() == DType::kUndefined) {
                return Error(Reason::kInvalidModel, "attribute value holds no tensor");
              }
              return std::vector<TensorType>{value.type()};
            },
            .reference =
                [](const ReferenceArgs& args) {
                  const Tensor& value = args.attrs.tensor("value");
                  if (const int64_t bytes = value.bytes(); bytes > 0) {
                    std::memcpy(args.out[0], value.raw(), static_cast<size_t>(bytes));
                  }
                  return absl::OkStatus();
                },
            .onnx = {{.name = "Constant", .since = 1, .import = ImportConstant}},
            .domain =
                {.samples =
                     {
                         {.inputs = {},
                          .attrs = {{"value", Tensor::FromVector<double>({2}, {1.5, -2})}},
                          .opset = 6},
                         {.inputs = {}, .attrs = {{"value", Tensor::FromVector<int64_t>({0}, {})}}},
                         {.inputs = {}, .attrs = {{"value_float", 0.5}}},
                         {.inputs = {}, .attrs = {{"value_floats", std::vector<double>{1, 2}}}},
                         {.inputs = {}, .attrs = {{"value_int", int64_t{7}}}},
                         {.inputs = {}, .attrs = {{"value_ints", Ints({7, -1, 0})}}},
                     }},
};

namespace {

// ---- Expand

std::optional<Layout> ExpandLayout(const Attrs&, const TensorType& in, const Layout& in_layout,
                                   const TensorType& out) {
  Layout layout{Dims(static_cast<size_t>(out.shape.rank()), 0), in_layout.offset};
  const int lead = out.shape.rank() - in.shape.rank();
  for (int d = 0; d < in.shape.rank(); ++d) {
    if (in.shape[d] == out.shape[d + lead]) layout.strides[d + lead] = in_layout.strides[d];
  }
  return layout;
}

ValueId SimplifyExpand(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  if (b.shape(n.in[0]) == type.shape) return n.in[0];
  const Node* inner = b.Producer(n.in[0]);
  if (inner == nullptr || inner->op != &kExpandOp) return kNoValue;
  return Expand(b, b.operands(*inner)[0], type.shape);
}

Outputs ImportExpand(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  const std::optional<std::vector<int64_t>> dims = n.FrozenInts(1);
  if (!dims) return {};
  const std::optional<Shape> wanted = ResultShape(n.b, *dims);
  if (!wanted) return {};
  const Shape in = n.type(0).shape;
  Shape joined;
  if (!BroadcastShapes(in, *wanted, &joined)) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("input ", in.ToString(), " does not broadcast with ", wanted->ToString()));
    return {};
  }
  return {Expand(n.b, n.in(0), joined)};
}

}  // namespace

const OpDef kExpandOp = {
    .name = "Expand",
    .doc = "The input repeated to a shape by NumPy broadcasting. Moves no data.",
    .attrs = kShapeAttr,
    .infer = [](const InferArgs& args) -> absl::StatusOr<std::vector<TensorType>> {
      GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(args.attrs.Ints("shape")));
      if (!BroadcastsTo(args.in[0].shape, shape)) {
        return Error(Reason::kShapeMismatch,
                     absl::StrCat("input ", args.in[0].shape.ToString(), " cannot be repeated to ",
                                  shape.ToString()));
      }
      return std::vector<TensorType>{{args.in[0].dtype, std::move(shape)}};
    },
    .reference = ReadView<ExpandLayout>,
    .simplify = SimplifyExpand,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
      return SumTo(b, g, Shape(b.shape(n.in[0])));
    }},
    .lowering = View{ExpandLayout},
    .onnx = {{.name = "Expand", .since = 8, .import = ImportExpand}},
    .export_onnx =
        [](NodeExport& n) {
          n.Add("Expand", {n.in(0), n.Ints(n.attrs.Ints("shape"))}, n.out(0));
        },
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({3, 1}), FrozenVector({2, 3, 4})}},
                       {.inputs = {Drawn({3, 4}), FrozenVector({1})}},
                       {.inputs = {Drawn({3, 1}), FrozenVector({1, 4})}, .opset = 8},
                       {.inputs = {Drawn({}), FrozenVector({2, 2})}},
                       {.inputs = {Drawn({1}), FrozenVector({0})}},
                   }},
};

namespace {

// ---- Reshape

extern const OpDef kReshapeOp;

// Runs of dimensions that lie evenly in memory may be cut up anew. The same rule as PyTorch's
// view(): walks both shapes from the back, run by run.
std::optional<Layout> ReshapeLayout(const Attrs&, const TensorType& in, const Layout& in_layout,
                                    const TensorType& out) {
  if (in_layout.IsDense(in.shape)) return Layout{out.shape.Strides(), in_layout.offset};
  Dims extents, strides;  // those that are not 1
  for (int d = 0; d < in.shape.rank(); ++d) {
    if (in.shape[d] == 1) continue;
    extents.push_back(in.shape[d]);
    strides.push_back(in_layout.strides[d]);
  }
  Layout layout{Dims(static_cast<size_t>(out.shape.rank()), 0), in_layout.offset};
  int to = out.shape.rank() - 1;
  for (size_t last = extents.size(); last > 0;) {
    size_t first = last - 1;
    int64_t run = extents[first];
    const int64_t step = strides[last - 1];
    while (first > 0 && strides[first - 1] == strides[first] * extents[first]) {
      run *= extents[--first];
    }
    int64_t taken = 1;
    while (to >= 0 && (taken < run || out.shape[to] == 1)) {
      layout.strides[to] = taken * step;
      taken *= out.shape[to--];
    }
    if (taken != run) return std::nullopt;
    last = first;
  }
  return layout;
}

ValueId SimplifyReshape(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  if (b.shape(n.in[0]) == type.shape) return n.in[0];
  if (const ValueId scalar = RepeatedScalar(b, n.in[0]); scalar != kNoValue) {
    return Expand(b, scalar, type.shape);
  }
  const Node* inner = b.Producer(n.in[0]);
  if (inner == nullptr || inner->op != &kReshapeOp) return kNoValue;
  return Reshape(b, b.operands(*inner)[0], type.shape);
}

// ONNX's target, with 0 (copied) and -1 (what is left) replaced. False after a failure.
bool ResolveTarget(NodeImport& n, const Shape& in, bool allow_zero, std::vector<int64_t>* dims) {
  const std::string asked = absl::StrCat("[", absl::StrJoin(*dims, ","), "]");
  auto fail = [&](absl::string_view why) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("cannot reshape ", in.ToString(), " to ", asked, ": ", why));
    return false;
  };
  if (dims->size() > static_cast<size_t>(Shape::kMaxRank)) return fail("the rank is above 16");
  int open = -1;
  bool zero = false;
  for (size_t i = 0; i < dims->size(); ++i) {
    int64_t& d = (*dims)[i];
    if (d == 0 && !allow_zero) {
      if (i >= static_cast<size_t>(in.rank())) return fail("0 has no extent to copy");
      d = in[static_cast<int>(i)];
    } else if (d == 0) {
      zero = true;
    } else if (d == -1) {
      if (open >= 0) return fail("more than one -1");
      open = static_cast<int>(i);
    } else if (d < 0) {
      return fail("negative extent");
    }
  }
  if (open < 0) return true;
  if (zero) return fail("-1 beside an extent of 0");
  (*dims)[static_cast<size_t>(open)] = 1;
  const std::optional<Shape> rest = ResultShape(n.b, *dims);
  if (!rest) return false;
  const int64_t known = rest->num_elements();
  if (known == 0) return fail("-1 is not determined");
  if (in.num_elements() % known != 0) return fail("the number of elements is no multiple");
  (*dims)[static_cast<size_t>(open)] = in.num_elements() / known;
  return true;
}

Outputs ImportReshape(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  std::optional<std::vector<int64_t>> dims = n.FrozenInts(1);
  if (!dims) return {};
  const Shape in = n.type(0).shape;
  const bool allow_zero = n.opset >= 14 && IntAttr(n, "allowzero", 0) != 0;
  if (!n.b.ok() || !ResolveTarget(n, in, allow_zero, &*dims)) return {};
  const std::optional<Shape> shape = ResultShape(n.b, *dims);
  if (!shape) return {};
  return {Reshape(n.b, n.in(0), *shape)};
}

const OpDef kReshapeOp = {
    .name = "Reshape",
    .doc =
        "The same elements in row-major order under another shape. In ONNX, -1 takes what is left"
        " and 0 copies the input's extent (unless `allowzero`).",
    .attrs = kShapeAttr,
    .infer = [](const InferArgs& args) -> absl::StatusOr<std::vector<TensorType>> {
      GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(args.attrs.Ints("shape")));
      const Shape& in = args.in[0].shape;
      if (in.num_elements() != shape.num_elements()) {
        return Error(
            Reason::kShapeMismatch,
            absl::StrCat("cannot reshape ", in.ToString(), " (", in.num_elements(),
                         " elements) to ", shape.ToString(), " (", shape.num_elements(), ")"));
      }
      return std::vector<TensorType>{{args.in[0].dtype, std::move(shape)}};
    },
    .reference = CopyDense,
    .simplify = SimplifyReshape,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
      return Reshape(b, g, Shape(b.shape(n.in[0])));
    }},
    .lowering = View{ReshapeLayout},
    .onnx = {{.name = "Reshape", .since = 5, .import = ImportReshape}},
    .export_onnx =
        [](NodeExport& n) {
          n.Add("Reshape", {n.in(0), n.Ints(n.attrs.Ints("shape"))}, n.out(0),
                {{"allowzero", int64_t{1}}});
        },
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 6}), FrozenVector({3, 4})}},
                       {.inputs = {Drawn({2, 3, 4}), FrozenVector({0, -1})}},
                       {.inputs = {Drawn({2, 3, 4}), FrozenVector({-1})}, .opset = 5},
                       {.inputs = {Drawn({1}), FrozenVector({})}},
                       {.inputs = {Drawn({}), FrozenVector({1, 1})}},
                       {.inputs = {Drawn({0, 4}), FrozenVector({2, 0})},
                        .attrs = {{"allowzero", int64_t{1}}}},
                       {.inputs = {Drawn({0, 3}), FrozenVector({0, 3, 1})}},
                   }},
};

// ---- Transpose

extern const OpDef kTransposeOp;

std::optional<Layout> TransposeLayout(const Attrs& attrs, const TensorType&,
                                      const Layout& in_layout, const TensorType&) {
  Layout layout{{}, in_layout.offset};
  for (int64_t d : attrs.Ints("perm")) {
    layout.strides.push_back(in_layout.strides[static_cast<size_t>(d)]);
  }
  return layout;
}

absl::StatusOr<std::vector<TensorType>> InferTranspose(const InferArgs& args) {
  const Shape& in = args.in[0].shape;
  const std::vector<int64_t>& perm = args.attrs.Ints("perm");
  uint32_t seen = 0;
  Dims dims;
  for (int64_t d : perm) {
    if (d < 0 || d >= in.rank() || (seen >> d & 1) != 0) break;
    seen |= uint32_t{1} << d;
    dims.push_back(in[static_cast<int>(d)]);
  }
  if (perm.size() != static_cast<size_t>(in.rank()) || dims.size() != perm.size()) {
    return Error(
        Reason::kShapeMismatch,
        absl::StrCat(
            "perm [",
            absl::StrJoin(perm.begin(),
                          perm.begin() + static_cast<int64_t>(std::min<size_t>(perm.size(), 32)),
                          ","),
            "] is no permutation of the dimensions of ", in.ToString()));
  }
  return std::vector<TensorType>{{args.in[0].dtype, Shape(std::move(dims))}};
}

ValueId SimplifyTranspose(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  const std::vector<int64_t>& perm = n.attrs.Ints("perm");
  if (std::is_sorted(perm.begin(), perm.end())) return n.in[0];
  if (const ValueId scalar = RepeatedScalar(b, n.in[0]); scalar != kNoValue) {
    return Expand(b, scalar, type.shape);
  }
  const Node* inner = b.Producer(n.in[0]);
  if (inner == nullptr || inner->op != &kTransposeOp) return kNoValue;
  const std::vector<int64_t>& first = inner->attrs.Ints("perm");
  std::vector<int64_t> both;
  for (int64_t d : perm) both.push_back(first[static_cast<size_t>(d)]);
  return Transpose(b, b.operands(*inner)[0], both);
}

Outputs ImportTranspose(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  std::vector<int64_t> perm = Iota(0, n.type(0).shape.rank());
  std::reverse(perm.begin(), perm.end());
  if (const auto given = n.IntsFromAttrOrInput("perm", 1)) perm = *given;
  return {Transpose(n.b, n.in(0), perm)};
}

const OpDef kTransposeOp = {
    .name = "Transpose",
    .doc =
        "Dimension i of the result is dimension `perm[i]` of the input; reversed where `perm` is"
        " left out.",
    .attrs = {{"perm", std::vector<int64_t>(), true}},
    .infer = InferTranspose,
    .reference = ReadView<TransposeLayout>,
    .simplify = SimplifyTranspose,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
      const std::vector<int64_t>& perm = n.attrs.Ints("perm");
      std::vector<int64_t> inverse(perm.size());
      for (size_t i = 0; i < perm.size(); ++i) {
        inverse[static_cast<size_t>(perm[i])] = static_cast<int64_t>(i);
      }
      // The gradient by a transposed weight is a product: better its factors swapped than a copy.
      const ValueId swapped = SwapFactors(b, g, inverse);
      return swapped != kNoValue ? swapped : Transpose(b, g, inverse);
    }},
    .lowering = View{TransposeLayout},
    .onnx = {{.name = "Transpose", .since = 1, .import = ImportTranspose}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3})}},
                       {.inputs = {Drawn({2, 3, 4})}, .attrs = {{"perm", Ints({1, 2, 0})}}},
                       {.inputs = {Drawn({2, 1, 3, 2})}, .attrs = {{"perm", Ints({0, 2, 1, 3})}}},
                       {.inputs = {Drawn({0, 3})}},
                       {.inputs = {Drawn({})}},
                   }},
};

// ---- Other spellings of Reshape

Outputs ImportFlatten(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const Shape in = n.type(0).shape;
  const int64_t given = IntAttr(n, "axis", 1);
  if (given < -in.rank() || given > in.rank()) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("axis ", given, " is outside [", -in.rank(), ", ", in.rank(), "]"));
    return {};
  }
  const int64_t axis = given < 0 ? given + in.rank() : given;
  int64_t before = 1, after = 1;
  for (int d = 0; d < in.rank(); ++d) (d < axis ? before : after) *= in[d];
  return {Reshape(n.b, n.in(0), {before, after})};
}

Outputs ImportSqueeze(NodeImport& n) {
  if (!TakesInputs(n, 1, n.opset < 13 ? 1 : 2)) return {};
  const Shape in = n.type(0).shape;
  const std::optional<std::vector<int64_t>> given = n.IntsFromAttrOrInput("axes", 1);
  if (!n.b.ok()) return {};
  Axes axes;
  if (given && !given->empty()) axes = n.Axes(*given, in.rank());
  if (!n.b.ok()) return {};
  Dims dims;
  for (int d = 0; d < in.rank(); ++d) {
    const bool asked = std::find(axes.begin(), axes.end(), d) != axes.end();
    if (asked && in[d] != 1) {
      n.Fail(Reason::kShapeMismatch,
             absl::StrCat("axis ", d, " of ", in.ToString(), " is not of extent 1"));
      return {};
    }
    if (given ? !asked : in[d] != 1) dims.push_back(in[d]);
  }
  return {Reshape(n.b, n.in(0), Shape(std::move(dims)))};
}

Outputs ImportUnsqueeze(NodeImport& n) {
  if (!TakesInputs(n, n.opset < 13 ? 1 : 2, n.opset < 13 ? 1 : 2)) return {};
  const std::optional<std::vector<int64_t>> given = RequiredInts(n, "axes", 1);
  if (!given) return {};
  if (given->empty()) return {n.in(0)};
  const size_t rank = given->size() + static_cast<size_t>(n.type(0).shape.rank());
  if (rank > static_cast<size_t>(Shape::kMaxRank)) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("the result has rank ", rank, ", above ", Shape::kMaxRank));
    return {};
  }
  const Axes axes = n.Axes(*given, static_cast<int>(rank));
  if (!n.b.ok()) return {};
  return {Unsqueeze(n.b, n.in(0), axes)};
}

const OpDef
    kFlattenOp =
        {
            .name = "Flatten",
            .doc = "The input as a matrix: dimensions before `axis` by those from it on.",
            .onnx = {{.name = "Flatten", .since = 1, .import = ImportFlatten}},
            .domain = {.samples =
                           {
                               {.inputs = {Drawn({2, 3, 4})}},
                               {.inputs = {Drawn({2, 3, 4})},
                                .attrs = {{"axis", int64_t{0}}},
                                .opset = 6},
                               {.inputs = {Drawn({2, 3, 4})}, .attrs = {{"axis", int64_t{-1}}}},
                               {.inputs = {Drawn({2, 3})}, .attrs = {{"axis", int64_t{2}}}},
                               {.inputs = {Drawn({0, 3, 4})}},
                               {.inputs = {Drawn({})}, .attrs = {{"axis", int64_t{0}}}},
                           }},
};

const OpDef kSqueezeOp = {
    .name = "Squeeze",
    .doc = "Drops dimensions of extent 1: `axes`, or all of them.",
    .max_inputs = 2,
    .onnx = {{.name = "Squeeze", .since = 1, .import = ImportSqueeze}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({1, 3, 1, 2})}},
                       {.inputs = {Drawn({1, 3, 1}), FrozenVector({-1})}},
                       {.inputs = {Drawn({1, 3, 1})}, .attrs = {{"axes", Ints({0})}}, .opset = 11},
                       {.inputs = {Drawn({1, 1})}},
                       {.inputs = {Drawn({1, 0})}},
                   }},
};

const OpDef kUnsqueezeOp = {
    .name = "Unsqueeze",
    .doc = "Inserts dimensions of extent 1 at `axes` of the result.",
    .max_inputs = 2,
    .onnx = {{.name = "Unsqueeze", .since = 1, .import = ImportUnsqueeze}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({3, 2}), FrozenVector({0, -1})}},
                       {.inputs = {Drawn({3, 2})}, .attrs = {{"axes", Ints({1})}}, .opset = 11},
                       {.inputs = {Drawn({}), FrozenVector({0})}},
                       {.inputs = {Drawn({0}), FrozenVector({1})}},
                   }},
};

// ---- Shapes as values

Outputs ImportShape(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const Shape in = n.type(0).shape;
  auto clamped = [&](absl::string_view name, int64_t otherwise) {
    const int64_t at = IntAttr(n, name, otherwise);
    return std::clamp<int64_t>(at < 0 ? at + in.rank() : at, 0, in.rank());
  };
  const int64_t start = clamped("start", 0), end = clamped("end", in.rank());
  std::vector<int64_t> dims;
  for (int64_t d = start; d < end; ++d) dims.push_back(in[static_cast<int>(d)]);
  const auto count = static_cast<int64_t>(dims.size());
  return {n.b.Constant(Tensor::FromVector<int64_t>({count}, dims))};
}

Outputs ImportSize(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  return {n.b.Constant(Tensor::Scalar<int64_t>(n.type(0).shape.num_elements()))};
}

Outputs ImportConstantOfShape(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  Tensor scalar = Tensor::Scalar(0.0f);
  if (const AttrValue* value = n.attrs.Find("value")) {
    const Tensor* given = std::get_if<Tensor>(value);
    if (given == nullptr || given->empty() || given->num_elements() != 1) {
      n.Fail(Reason::kInvalidModel, "attribute value is not a tensor of one element");
      return {};
    }
    scalar = Tensor({given->dtype(), Shape()});
    std::memcpy(scalar.mutable_raw(), given->raw(), static_cast<size_t>(given->bytes()));
  }
  const std::optional<std::vector<int64_t>> dims = n.FrozenInts(0);
  if (!dims) return {};
  const std::optional<Shape> shape = ResultShape(n.b, *dims);
  if (!shape) return {};
  return {Expand(n.b, n.b.Constant(std::move(scalar)), *shape)};
}

// How many steps of delta lead from start to below (or above) limit; nullopt where it is no number.
template <typename T>
std::optional<double> RangeCount(T start, T limit, T delta) {
  if (delta == 0) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>) {
    const double count = std::ceil((double{limit} - double{start}) / double{delta});
    if (std::isnan(count)) return std::nullopt;
    return std::max(count, 0.0);
  } else {
    const __int128 way = static_cast<__int128>(limit) - start, step = delta;
    if (way == 0 || (way > 0) != (step > 0)) return 0.0;
    return static_cast<double>((way + step + (step > 0 ? -1 : 1)) / step);
  }
}

Outputs ImportRange(NodeImport& n) {
  if (!TakesInputs(n, 3, 3)) return {};
  Tensor bound[3];
  for (int i = 0; i < 3; ++i) {
    const std::optional<Tensor> value = n.Frozen(i);
    if (!value) return {};
    if (value->num_elements() != 1 || value->dtype() != n.type(0).dtype) {
      n.Fail(Reason::kShapeMismatch, absl::StrCat("input ", i, " is ", value->type().ToString(),
                                                  ", expected one ", DTypeName(n.type(0).dtype)));
      return {};
    }
    bound[i] = *value;
  }
  ValueId result = kNoValue;
  const bool known = VisitNumeric(bound[0].dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T start = *bound[0].data<T>(), limit = *bound[1].data<T>(), delta = *bound[2].data<T>();
    const std::optional<double> count = RangeCount(start, limit, delta);
    if (!count) {
      return n.Fail(Reason::kInvalidModel,
                    absl::StrCat("no range from ", start, " to ", limit, " by ", delta));
    }
    if (!IndicesFit(n, static_cast<int64_t>(std::min(*count, 1e18)))) return;
    std::vector<T> values(static_cast<size_t>(*count));
    // The wide type holds every product below the limit without rounding or overflow.
    using Wide = std::conditional_t<std::is_floating_point_v<T>, double, __int128>;
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<T>(static_cast<Wide>(start) + static_cast<Wide>(i) * delta);
    }
    const auto size = static_cast<int64_t>(values.size());
    result = n.b.Constant(Tensor::FromVector<T>({size}, values));
  });
  if (!known) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("bounds are ", DTypeName(bound[0].dtype()), ", expected a number"));
  }
  return {result};
}

const OpDef kShapeOp = {
    .name = "Shape",
    .doc = "The extents of the input from `start` to before `end`, as INT64.",
    .onnx = {{.name = "Shape", .since = 1, .import = ImportShape}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 0, 3})}},
                       {.inputs = {Drawn({2, 3, 4})},
                        .attrs = {{"start", int64_t{-2}}, {"end", int64_t{9}}}},
                       {.inputs = {Drawn({})}, .opset = 6},
                   }},
};

const OpDef kSizeOp = {
    .name = "Size",
    .doc = "The number of elements of the input, as INT64.",
    .onnx = {{.name = "Size", .since = 1, .import = ImportSize}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3})}}, {.inputs = {Drawn({0})}}}},
};

const OpDef kConstantOfShapeOp = {
    .name = "ConstantOfShape",
    .doc = "The one element of `value` (FLOAT 0 where it is left out) repeated to a shape.",
    .onnx = {{.name = "ConstantOfShape", .since = 9, .import = ImportConstantOfShape}},
    .domain = {.samples =
                   {
                       {.inputs = {FrozenVector({2, 3})}},
                       {.inputs = {FrozenVector({})}},
                       {.inputs = {FrozenVector({0, 2})},
                        .attrs = {{"value", Tensor::FromVector<int64_t>({1}, {5})}}},
                   }},
};

const OpDef kRangeOp = {
    .name = "Range",
    .doc =
        "`start + i * delta` up to before `limit`. The three must be known before the graph runs.",
    .min_inputs = 3,
    .max_inputs = 3,
    .onnx = {{.name = "Range", .since = 11, .import = ImportRange}},
    .domain = {.samples =
                   {
                       {.inputs = {FrozenScalar(2), FrozenScalar(9), FrozenScalar(3)}},
                       {.inputs = {FrozenScalar(5), FrozenScalar(0), FrozenScalar(-2)}},
                       {.inputs = {FrozenScalar(5), FrozenScalar(0), FrozenScalar(2)}},
                       {.inputs = {FrozenScalar(0, DType::kFloat), FrozenScalar(1, DType::kFloat),
                                   FrozenScalar(0.25, DType::kFloat)}},
                   }},
};

std::vector<int64_t> Extents(const Shape& shape) { return ToVector(shape.dims()); }

}  // namespace

ValueId Expand(GraphBuilder& b, ValueId x, const Shape& shape) {
  return b.Add(kExpandOp, {x}, Attrs{{"shape", Extents(shape)}});
}

ValueId Reshape(GraphBuilder& b, ValueId x, const Shape& shape) {
  return b.Add(kReshapeOp, {x}, Attrs{{"shape", Extents(shape)}});
}

ValueId Transpose(GraphBuilder& b, ValueId x, const std::vector<int64_t>& perm) {
  return b.Add(kTransposeOp, {x}, Attrs{{"perm", perm}});
}

ValueId Unsqueeze(GraphBuilder& b, ValueId x, const Axes& axes) {
  if (!b.ok()) return kNoValue;
  std::vector<int64_t> dims = Extents(b.shape(x));
  for (int64_t axis : axes) {
    if (axis < 0 || axis > static_cast<int64_t>(dims.size())) {
      b.Fail(Error(Reason::kShapeMismatch, absl::StrCat("axis ", axis, " is outside the result")));
      return kNoValue;
    }
    dims.insert(dims.begin() + axis, 1);
  }
  const std::optional<Shape> shape = ResultShape(b, dims);
  return shape ? Reshape(b, x, *shape) : kNoValue;
}

std::vector<const OpDef*> ShapeOps() {
  return {&kConstantOp,  &kExpandOp, &kReshapeOp, &kTransposeOp,       &kFlattenOp, &kSqueezeOp,
          &kUnsqueezeOp, &kShapeOp,  &kSizeOp,    &kConstantOfShapeOp, &kRangeOp};
}

}  // namespace gradwire
