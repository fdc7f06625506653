// Ops that repeat and rearrange elements, masks over positions, and sums along an axis.
#include <algorithm>
#include <cstring>

#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/ops/builders.h"
#include "engine/ops/indexing_rows.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;
using Types = absl::StatusOr<std::vector<TensorType>>;

// ---- Tile

Outputs ImportTile(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  const Shape in = n.type(0).shape;
  const auto repeats = n.FrozenInts(1);
  if (!repeats) return {};
  if (repeats->size() != static_cast<size_t>(in.rank())) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("has ", repeats->size(), " repeats for ", in.ToString()));
    return {};
  }
  Dims dims = in.dims();
  for (size_t d = 0; d < dims.size(); ++d) dims[d] = SaturatingMul(dims[d], (*repeats)[d]);
  const std::optional<Shape> out = ResultShape(n.b, dims);
  if (!out) return {};
  if (out->num_elements() == 0) {
    const ValueId none = Slice(n.b, Reshape(n.b, n.in(0), {in.num_elements()}), {0}, {1}, {0});
    return {Reshape(n.b, none, *out)};
  }
  // One axis at a time, so that no rank is too high.
  ValueId x = n.in(0);
  int64_t before = 1, after = in.num_elements();
  for (int d = 0; d < in.rank(); ++d) {
    const int64_t times = (*repeats)[static_cast<size_t>(d)];
    if (times > 1) x = Expand(n.b, Reshape(n.b, x, {before, 1, after}), {before, times, after});
    before *= times * in[d];
    after /= in[d];
  }
  return {Reshape(n.b, x, *out)};
}

const OpDef kTileOp =
    {
        .name = "Tile",
        .doc = "The input repeated along each dimension. The numbers of times decide the shape.",
        .min_inputs = 2,
        .max_inputs = 2,
        .onnx = {{.name = "Tile", .since = 6, .import = ImportTile}},
        .domain = {.samples =
                       {
                           {.inputs = {Drawn({2, 3}), FrozenVector({2, 1})}, .opset = 6},
                           {.inputs = {Drawn({2, 1, 3}), FrozenVector({1, 3, 2})}},
                           {.inputs = {Drawn({2}), FrozenVector({0})}},
                           {.inputs = {Drawn({}), FrozenVector({})}},
                           {.inputs = {Drawn({0, 2}), FrozenVector({2, 2})}},
                       }},
};

// ---- Trilu, EyeLike

// The number of each column minus that of its row, [rows, columns].
ValueId Diagonals(NodeImport& n, int64_t rows, int64_t columns) {
  if (!IndicesFit(n, std::max(rows, columns))) return kNoValue;
  return Sub(n.b, Counting(n.b, columns, 2, 1), Counting(n.b, rows, 2, 0));
}

Outputs ImportTrilu(NodeImport& n) {
  if (!TakesInputs(n, 1, 2)) return {};
  GraphBuilder& b = n.b;
  const Shape in = n.type(0).shape;
  if (in.rank() < 2) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("input is ", in.ToString(), ", expected rank 2 or more"));
    return {};
  }
  ValueId k = Integer(b, 0);
  if (n.has(1)) {
    if (n.type(1).dtype != DType::kInt64 || n.type(1).shape.num_elements() != 1) {
      n.Fail(Reason::kShapeMismatch,
             absl::StrCat("k is ", n.type(1).ToString(), ", expected one INT64"));
      return {};
    }
    k = Reshape(b, n.in(1), Shape());
  }
  const ValueId diagonal = Diagonals(n, in[in.rank() - 2], in[in.rank() - 1]);
  if (!b.ok()) return {};
  const bool upper = IntAttr(n, "upper", 1) != 0;
  const ValueId kept = upper ? GreaterOrEqual(b, diagonal, k) : LessOrEqual(b, diagonal, k);
  return {Where(b, kept, n.in(0), b.ScalarLike(n.in(0), 0))};
}

const OpDef kTriluOp = {
    .name = "Trilu",
    .doc =
        "Matrices with 0 below (`upper` 1) or above (0) their `k`-th diagonal, counted upwards from"
        " the main one.",
    .max_inputs = 2,
    .onnx = {{.name = "Trilu", .since = 14, .import = ImportTrilu}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({3, 4})}},
                       {.inputs = {Drawn({2, 3, 3}), FrozenScalar(-1)},
                        .attrs = {{"upper", int64_t{0}}}},
                       {.inputs = {Drawn({2, 3}), Given({}, {1}, DType::kInt64)}},
                       {.inputs = {Drawn({3, 0})}},
                   }},
};

Outputs ImportEyeLike(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const Shape in = n.type(0).shape;
  const DType dtype = DTypeFromOnnx(IntAttr(n, "dtype", static_cast<int64_t>(n.type(0).dtype)));
  if (in.rank() != 2 || dtype == DType::kUndefined) {
    n.Fail(in.rank() != 2 ? Reason::kShapeMismatch : Reason::kDtypeUnsupported,
           absl::StrCat("input is ", in.ToString(), ", dtype ", IntAttr(n, "dtype", 0),
                        "; expected a matrix and a supported type"));
    return {};
  }
  const ValueId diagonal = Diagonals(n, in[0], in[1]);
  if (!n.b.ok()) return {};
  return {Cast(n.b, Equal(n.b, diagonal, Integer(n.b, IntAttr(n, "k", 0))), dtype)};
}

const OpDef kEyeLikeOp = {
    .name = "EyeLike",
    .doc = "A matrix of the input's shape with 1 on its `k`-th diagonal, 0 elsewhere.",
    .onnx = {{.name = "EyeLike", .since = 9, .import = ImportEyeLike}},
    .domain = {.samples = {{.inputs = {Drawn({3, 4})}},
                           {.inputs = {Drawn({3, 2})}, .attrs = {{"k", int64_t{-1}}}},
                           {.inputs = {Drawn({2, 2})},
                            .attrs = {{"dtype", static_cast<int64_t>(DType::kBool)}}}}},
};

// ---- OneHot

Outputs ImportOneHot(NodeImport& n) {
  if (!TakesInputs(n, 3, 3)) return {};
  GraphBuilder& b = n.b;
  const Shape in = n.type(0).shape;
  const std::optional<Tensor> depth = n.Frozen(1);
  if (!depth) return {};
  if (depth->num_elements() != 1 || n.type(2).shape != Shape({2})) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("depth is ", depth->type().ToString(), " and values ", n.type(2).ToString(),
                        ", expected one number and two values"));
    return {};
  }
  const int64_t extent = ElementAsInt64(*depth, 0);
  const int axis = n.Axis(IntAttr(n, "axis", -1), in.rank() + 1);
  if (extent < 0) n.Fail(Reason::kShapeMismatch, absl::StrCat("depth is ", extent));
  if (!b.ok() || !IndicesFit(n, extent)) return {};
  Dims dims = in.dims();
  dims.insert(dims.begin() + axis, extent);
  if (!ResultShape(b, dims)) return {};
  const ValueId index = FromStart(b, Unsqueeze(b, n.in(0), {axis}), extent);
  const ValueId hit = Equal(b, index, Counting(b, extent, in.rank() + 1, axis));
  const auto value = [&](int64_t i) {
    return Reshape(b, Slice(b, n.in(2), {i}, {1}, {1}), Shape());
  };
  return {Where(b, hit, value(1), value(0))};
}

const OpDef kOneHotOp =
    {
        .name = "OneHot",
        .doc =
            "`values[1]` where the position along a new dimension `axis` of extent `depth` is the "
            "index,"
            " else `values[0]`. Negative indices count from the end; those outside are nowhere.",
        .min_inputs = 3,
        .max_inputs = 3,
        .onnx = {{.name = "OneHot", .since = 9, .import = ImportOneHot}},
        .domain = {.samples =
                       {
                           {.inputs = {Given({3}, {0, -1, 7}, DType::kInt64), FrozenScalar(4),
                                       Drawn({2})}},
                           {.inputs = {Given({2, 2}, {0, 1, 2, -3}, DType::kInt32),
                                       FrozenVector({3}), Drawn({2})},
                            .attrs = {{"axis", int64_t{1}}}},
                           {.inputs = {Given({}, {1}, DType::kInt64),
                                       FrozenScalar(2, DType::kFloat), Drawn({2})},
                            .opset = 9},
                           {.inputs = {Given({2}, {0, 1}, DType::kInt64),
                                       FrozenScalar(0), Drawn({2})}},
                       }},
};

// ---- CumSum

Types InferCumSum(const InferArgs& args) {
  if (!InClass(args.in[0].dtype, kNumeric)) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("input is ", DTypeName(args.in[0].dtype), ", expected a number"));
  }
  GW_RETURN_IF_ERROR(CheckAxis(args.attrs.Int("axis"), args.in[0].shape));
  return std::vector<TensorType>{args.in[0]};
}

constexpr int64_t kColumns = 64;  // that are summed side by side

template <typename T>
void SumAlong(const ReferenceArgs& args, const Runs& runs, bool exclusive, bool reverse) {
  using Total = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
  const int64_t groups = (runs.inner + kColumns - 1) / kColumns;
  ParallelFor(args.threads, runs.outer * groups, [&](int64_t block) {
    const int64_t first = block % groups * kColumns;
    const int64_t n = std::min(kColumns, runs.inner - first);
    const int64_t start = block / groups * runs.extent * runs.inner + first;
    Total total[kColumns] = {};
    for (int64_t i = 0; i < runs.extent; ++i) {
      const int64_t at = start + (reverse ? runs.extent - 1 - i : i) * runs.inner;
      const T* from = args.in[0].data<T>() + at;
      T* to = static_cast<T*>(args.out[0]) + at;
      for (int64_t k = 0; k < n; ++k) {
        const Total before = total[k];
        total[k] += static_cast<Total>(from[k]);
        to[k] = static_cast<T>(exclusive ? before : total[k]);
      }
    }
  });
}

absl::Status ReferenceCumSum(const ReferenceArgs& args) {
  if (args.in[0].num_elements() == 0) return absl::OkStatus();
  const Runs runs(args.in[0].shape(), args.attrs.Int("axis"));
  const bool known = VisitNumeric(args.in[0].dtype(), [&](auto tag) {
    SumAlong<typename decltype(tag)::type>(args, runs, args.attrs.Int("exclusive") != 0,
                                           args.attrs.Int("reverse") != 0);
  });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "CumSum has no kernel for this type");
}

extern const OpDef kCumSumOp;

ValueId CumSum(GraphBuilder& b, ValueId x, int64_t axis, bool exclusive, bool reverse) {
  return b.Add(kCumSumOp, {x},
               Attrs{{"axis", axis},
                     {"exclusive", static_cast<int64_t>(exclusive)},
                     {"reverse", static_cast<int64_t>(reverse)}});
}

Outputs ImportCumSum(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  const auto given = n.FrozenInts(1);
  if (!given) return {};
  if (given->size() != 1) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("axis has ", given->size(), " elements, expected one"));
    return {};
  }
  const int axis = n.Axis((*given)[0], n.type(0).shape.rank());
  return {
      CumSum(n.b, n.in(0), axis, IntAttr(n, "exclusive", 0) != 0, IntAttr(n, "reverse", 0) != 0)};
}

Sample CumSumSample(Dims shape, double axis, int64_t exclusive, int64_t reverse) {
  return {.inputs = {Drawn(std::move(shape)), FrozenScalar(axis)},
          .attrs = {{"exclusive", exclusive}, {"reverse", reverse}}};
}

const OpDef kCumSumOp = {
    .name = "CumSum",
    .doc =
        "Sums of all elements up to each one along `axis`, without the element itself where"
        " `exclusive`, from the end where `reverse`. FLOAT is added in double; integers wrap.",
    .attrs = {{"axis", int64_t{0}, true}, {"exclusive", int64_t{0}}, {"reverse", int64_t{0}}},
    .infer = InferCumSum,
    .reference = ReferenceCumSum,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
      return CumSum(b, g, n.attrs.Int("axis"), n.attrs.Int("exclusive") != 0,
                    n.attrs.Int("reverse") == 0);
    }},
    .onnx = {{.name = "CumSum", .since = 11, .import = ImportCumSum}},
    .export_onnx =
        [](NodeExport& n) {
          const std::string axis =
              n.Add("Constant", {}, {{"value", Tensor::Scalar(n.attrs.Int("axis"))}});
          n.Add("CumSum", {n.in(0), axis}, n.out(0),
                {{"exclusive", n.attrs.Int("exclusive")}, {"reverse", n.attrs.Int("reverse")}});
        },
    .domain = {.samples = {CumSumSample({2, 4}, 1, 0, 0), CumSumSample({3, 2}, 0, 1, 0),
                           CumSumSample({2, 3, 2}, -2, 0, 1), CumSumSample({5}, 0, 1, 1),
                           CumSumSample({3, 70}, 0, 0, 0), CumSumSample({0, 2}, 0, 0, 0)}},
};

// ---- DepthToSpace, SpaceToDepth

// nullopt after a failure.
std::optional<int64_t> BlockSize(NodeImport& n) {
  const int64_t size = IntAttr(n, "blocksize", 0);
  if (n.type(0).shape.rank() != 4 || size < 1 || size > INT32_MAX) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("input is ", n.type(0).shape.ToString(), ", blocksize ", size,
                        "; expected rank 4 and a positive number"));
  }
  return n.b.ok() ? std::optional<int64_t>(size) : std::nullopt;
}

ValueId Rearranged(GraphBuilder& b, ValueId x, const Shape& parts, const std::vector<int64_t>& perm,
                   std::initializer_list<int64_t> dims) {
  const std::optional<Shape> out = ResultShape(b, std::vector<int64_t>(dims));
  return out ? Reshape(b, Transpose(b, Reshape(b, x, parts), perm), *out) : kNoValue;
}

Outputs ImportDepthToSpace(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const auto size = BlockSize(n);
  if (!size) return {};
  const Shape in = n.type(0).shape;
  const int64_t s = *size, channels = in[1] / (s * s);
  const std::string mode = StringAttr(n, "mode", "DCR");
  if (mode != "DCR" && (mode != "CRD" || n.opset < 11)) {
    n.Fail(Reason::kInvalidModel, absl::StrCat("mode is \"", mode, "\", expected DCR or CRD"));
    return {};
  }
  if (channels * s * s != in[1]) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat(in[1], " channels are no multiple of ", s, " * ", s));
    return {};
  }
  const int64_t high = SaturatingMul(in[2], s), wide = SaturatingMul(in[3], s);
  if (mode == "DCR") {
    return {Rearranged(n.b, n.in(0), {in[0], s, s, channels, in[2], in[3]}, {0, 3, 4, 1, 5, 2},
                       {in[0], channels, high, wide})};
  }
  return {Rearranged(n.b, n.in(0), {in[0], channels, s, s, in[2], in[3]}, {0, 1, 4, 2, 5, 3},
                     {in[0], channels, high, wide})};
}

Outputs ImportSpaceToDepth(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const auto size = BlockSize(n);
  if (!size) return {};
  const Shape in = n.type(0).shape;
  const int64_t s = *size;
  if (n.attrs.Has("mode")) {
    n.Fail(Reason::kInvalidModel, absl::StrCat("attribute mode is not one of opset ", n.opset));
    return {};
  }
  if (in[2] % s != 0 || in[3] % s != 0) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("extents of ", in.ToString(), " are no multiples of ", s));
    return {};
  }
  return {Rearranged(n.b, n.in(0), {in[0], in[1], in[2] / s, s, in[3] / s, s}, {0, 3, 5, 1, 2, 4},
                     {in[0], SaturatingMul(in[1], s * s), in[2] / s, in[3] / s})};
}

const OpDef kDepthToSpaceOp = {
    .name = "DepthToSpace",
    .doc =
        "Channels moved into blocks of `blocksize` by `blocksize`: the block's position is the"
        " slower part of the channel (`DCR`) or the faster one (`CRD`).",
    .onnx = {{.name = "DepthToSpace", .since = 1, .import = ImportDepthToSpace}},
    .domain = {.samples = {{.inputs = {Drawn({1, 8, 2, 3})},
                            .attrs = {{"blocksize", int64_t{2}}},
                            .opset = 6},
                           {.inputs = {Drawn({2, 8, 1, 2})},
                            .attrs = {{"blocksize", int64_t{2}}, {"mode", std::string("CRD")}}},
                           {.inputs = {Drawn({0, 4, 1, 2})},
                            .attrs = {{"blocksize", int64_t{2}}}}}},
};

const OpDef kSpaceToDepthOp = {
    .name = "SpaceToDepth",
    .doc =
        "Blocks of `blocksize` by `blocksize` moved into channels: the converse of DepthToSpace.",
    .onnx = {{.name = "SpaceToDepth", .since = 1, .import = ImportSpaceToDepth}},
    .domain = {.samples = {{.inputs = {Drawn({1, 2, 4, 6})},
                            .attrs = {{"blocksize", int64_t{2}}},
                            .opset = 6},
                           {.inputs = {Drawn({2, 1, 3, 3})}, .attrs = {{"blocksize", int64_t{3}}}},
                           {.inputs = {Drawn({1, 2, 0, 2})},
                            .attrs = {{"blocksize", int64_t{2}}}}}},
};

// ---- ReverseSequence

Outputs ImportReverseSequence(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  GraphBuilder& b = n.b;
  const Shape in = n.type(0).shape;
  const int64_t batch_axis = IntAttr(n, "batch_axis", 1), time_axis = IntAttr(n, "time_axis", 0);
  const bool axes_fit =
      std::min(batch_axis, time_axis) == 0 && std::max(batch_axis, time_axis) == 1;
  if (!axes_fit || in.rank() < 2 || n.type(1).shape != Shape({in[static_cast<int>(batch_axis)]})) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("input is ", in.ToString(), ", sequence_lens ", n.type(1).shape.ToString(),
                        ", batch_axis ", batch_axis, ", time_axis ", time_axis,
                        "; expected the axes 0 and 1, and a length for each of the batch"));
    return {};
  }
  b.Fail(CheckIndexType(n.type(1).dtype));
  const auto batch_dim = static_cast<int>(batch_axis), time_dim = static_cast<int>(time_axis);
  const int64_t batch = in[batch_dim], time = in[time_dim];
  if (!b.ok() || !IndicesFit(n, batch) || !IndicesFit(n, time)) return {};
  if (in.num_elements() == 0) return {n.in(0)};
  Dims column = {1, 1};
  column[static_cast<size_t>(batch_dim)] = batch;
  const ValueId length = Reshape(b, Cast(b, n.in(1), DType::kInt64), Shape(column));
  const ValueId step = Counting(b, time, 2, time_dim);
  const ValueId mirrored = Sub(b, Sub(b, length, Integer(b, 1)), step);
  const ValueId from = Where(b, Less(b, step, length), mirrored, step);
  const int64_t rows = batch * time;
  const ValueId row = Add(b, Mul(b, from, Integer(b, time_dim == 0 ? batch : 1)),
                          Counting(b, batch, 2, batch_dim, batch_dim == 0 ? time : 1));
  // A length outside [0, time] is an error when the Program runs.
  const ValueId fits =
      And(b, GreaterOrEqual(b, length, Integer(b, 0)), LessOrEqual(b, length, Integer(b, time)));
  const ValueId places = Where(b, fits, row, Integer(b, rows));
  const ValueId flat = Reshape(b, n.in(0), {rows, in.num_elements() / rows});
  return {Reshape(b, Gather(b, flat, Reshape(b, places, {rows}), 0), in)};
}

const OpDef kReverseSequenceOp = {
    .name = "ReverseSequence",
    .doc =
        "The first `sequence_lens[i]` steps along `time_axis` of each of the batch in reverse, the"
        " rest as it is.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "ReverseSequence", .since = 10, .import = ImportReverseSequence}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({4, 3}), Given({3}, {1, 4, 3}, DType::kInt64)}},
                       {.inputs = {Drawn({2, 3, 2}), Given({2}, {2, 3}, DType::kInt64)},
                        .attrs = {{"batch_axis", int64_t{0}}, {"time_axis", int64_t{1}}}},
                       {.inputs = {Drawn({0, 2}), Given({2}, {0, 0}, DType::kInt64)}},
                   }},
};

}  // namespace

std::vector<const OpDef*> ArrangementOps() {
  return {&kTileOp,   &kTriluOp,        &kEyeLikeOp,      &kOneHotOp,
          &kCumSumOp, &kDepthToSpaceOp, &kSpaceToDepthOp, &kReverseSequenceOp};
}

}  // namespace gradwire
