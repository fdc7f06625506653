// Linear maps along one axis that look at few elements each: the core of Resize.
#include "engine/ops/resample.h"

#include <algorithm>

#include "engine/base/team.h"
#include "engine/ops/indexing_rows.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Types = absl::StatusOr<std::vector<TensorType>>;

extern const OpDef kResampleOp;

// The rows of a sparse matrix, as attributes hold them.
struct Rows {
  const std::vector<int64_t>& offsets;
  const std::vector<int64_t>& taps;
  const std::vector<double>& weights;
  explicit Rows(const Attrs& attrs)
      : offsets(attrs.Ints("offsets")),
        taps(attrs.Ints("taps")),
        weights(attrs.Floats("weights")) {}
  int64_t count() const { return static_cast<int64_t>(offsets.size()) - 1; }
};

Types InferResample(const InferArgs& args) {
  const TensorType& in = args.in[0];
  const int64_t axis = args.attrs.Int("axis");
  if (!IsFloating(in.dtype)) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("input is ", DTypeName(in.dtype), ", expected FLOAT or DOUBLE"));
  }
  GW_RETURN_IF_ERROR(CheckAxis(axis, in.shape));
  const Rows rows(args.attrs);
  const int64_t extent = in.shape[static_cast<int>(axis)];
  const auto size = static_cast<int64_t>(rows.taps.size());
  const bool fits = !rows.offsets.empty() && rows.offsets.front() == 0 &&
                    rows.offsets.back() == size &&
                    std::is_sorted(rows.offsets.begin(), rows.offsets.end()) &&
                    rows.weights.size() == rows.taps.size() &&
                    std::all_of(rows.taps.begin(), rows.taps.end(),
                                [&](int64_t tap) { return tap >= 0 && tap < extent; });
  if (!fits) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("offsets, ", rows.taps.size(), " taps and ", rows.weights.size(),
                              " weights are no rows over ", extent, " elements"));
  }
  Dims dims = in.shape.dims();
  dims[static_cast<size_t>(axis)] = rows.count();
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(dims));
  return std::vector<TensorType>{{in.dtype, std::move(shape)}};
}

constexpr int64_t kColumns = 64;  // that are summed side by side

// Products are rounded to T, as a Mul would, and added up in double, as a ReduceSum would.
template <typename T>
void SumTaps(const ReferenceArgs& args, const Runs& in, const Rows& rows) {
  const T* data = args.in[0].data<T>();
  T* out = static_cast<T*>(args.out[0]);
  const int64_t lines = in.outer * rows.count();
  const int64_t block = std::max<int64_t>(
      kBlockBytes / static_cast<int64_t>(sizeof(T)) / std::max<int64_t>(in.inner, 1), 1);
  ParallelFor(args.threads, (lines + block - 1) / block, [&](int64_t part) {
    const int64_t end = std::min(lines, (part + 1) * block);
    for (int64_t line = part * block; line < end; ++line) {
      const T* from = data + line / rows.count() * in.extent * in.inner;
      const auto row = static_cast<size_t>(line % rows.count());
      for (int64_t first = 0; first < in.inner; first += kColumns) {
        const int64_t n = std::min(kColumns, in.inner - first);
        double total[kColumns] = {};
        for (auto t = static_cast<size_t>(rows.offsets[row]);
             t < static_cast<size_t>(rows.offsets[row + 1]); ++t) {
          const T weight = static_cast<T>(rows.weights[t]);
          const T* source = from + rows.taps[t] * in.inner + first;
          for (int64_t k = 0; k < n; ++k) total[k] += static_cast<T>(weight * source[k]);
        }
        T* to = out + line * in.inner + first;
        for (int64_t k = 0; k < n; ++k) to[k] = static_cast<T>(total[k]);
      }
    }
  });
}

absl::Status ReferenceResample(const ReferenceArgs& args) {
  if (args.out_types[0].bytes() == 0) return absl::OkStatus();
  const Runs runs(args.in[0].shape(), args.attrs.Int("axis"));
  const Rows rows(args.attrs);
  const bool known = VisitFloating(args.in[0].dtype(), [&](auto tag) {
    SumTaps<typename decltype(tag)::type>(args, runs, rows);
  });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "Resample has no kernel for this type");
}

TapRows Transposed(const Rows& rows, int64_t extent) {
  TapRows out;
  out.offsets.assign(static_cast<size_t>(extent) + 1, 0);
  for (int64_t tap : rows.taps) ++out.offsets[static_cast<size_t>(tap) + 1];
  for (size_t i = 1; i < out.offsets.size(); ++i) out.offsets[i] += out.offsets[i - 1];
  std::vector<int64_t> next(out.offsets.begin(), out.offsets.end() - 1);
  out.taps.resize(rows.taps.size());
  out.weights.resize(rows.taps.size());
  for (int64_t row = 0; row < rows.count(); ++row) {
    for (auto t = static_cast<size_t>(rows.offsets[static_cast<size_t>(row)]);
         t < static_cast<size_t>(rows.offsets[static_cast<size_t>(row) + 1]); ++t) {
      const auto at = static_cast<size_t>(next[static_cast<size_t>(rows.taps[t])]++);
      out.taps[at] = row;
      out.weights[at] = rows.weights[t];
    }
  }
  return out;
}

// Rows of equal length, filled up with weights of 0: Gather, Mul and ReduceSum.
void ExportResample(NodeExport& n) {
  const auto axis = static_cast<int>(n.attrs.Int("axis"));
  const Rows rows(n.attrs);
  const TensorType &in = n.in_type(0), &out = n.out_type();
  if (out.shape.num_elements() == 0 || in.shape.num_elements() == 0) {
    return n.Add("ConstantOfShape", {n.Ints(ToVector(out.shape.dims()))}, n.out(0),
                 {{"value", Tensor({out.dtype, Shape({1})})}});
  }
  int64_t longest = 1;
  for (size_t r = 0; r + 1 < rows.offsets.size(); ++r) {
    longest = std::max(longest, rows.offsets[r + 1] - rows.offsets[r]);
  }
  std::vector<int64_t> taps(static_cast<size_t>(rows.count() * longest), 0);
  Tensor weights({out.dtype, Shape({rows.count(), longest, 1})});
  VisitFloating(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t r = 0; r < rows.count(); ++r) {
      const auto from = static_cast<size_t>(rows.offsets[static_cast<size_t>(r)]);
      const auto end = static_cast<size_t>(rows.offsets[static_cast<size_t>(r) + 1]);
      for (size_t t = from; t < end; ++t) {
        const auto at = static_cast<size_t>(r * longest) + (t - from);
        taps[at] = rows.taps[t];
        weights.mutable_data<T>()[at] = static_cast<T>(rows.weights[t]);
      }
    }
  });
  const Runs runs(in.shape, axis);
  const std::string picked = n.Add("Gather", {n.in(0), n.Ints(taps)}, {{"axis", int64_t{axis}}});
  const std::string lines =
      n.Add("Reshape", {picked, n.Ints({runs.outer, rows.count(), longest, runs.inner})});
  const std::string products =
      n.Add("Mul", {lines, n.Add("Constant", {}, {{"value", std::move(weights)}})});
  const std::string sums = n.Add("ReduceSum", {products, n.Ints({2})}, {{"keepdims", int64_t{0}}});
  n.Add("Reshape", {sums, n.Ints(ToVector(out.shape.dims()))}, n.out(0));
}

Attrs AttrsOf(int64_t axis, TapRows rows) {
  return Attrs{{"axis", axis},
               {"offsets", std::move(rows.offsets)},
               {"taps", std::move(rows.taps)},
               {"weights", std::move(rows.weights)}};
}

const OpDef kResampleOp =
    {
        .name = "Resample",
        .doc =
            "Weighted sums along `axis`: the i-th is over the elements `taps[offsets[i]]` to before"
            " `taps[offsets[i + 1]]`. Linear, and its own transpose with other rows.",
        .attrs = {{"axis", int64_t{0}, true},
                  {"offsets", std::vector<int64_t>(), true},
                  {"taps", std::vector<int64_t>(), true},
                  {"weights", std::vector<double>(), true}},
        .infer = InferResample,
        .reference = ReferenceResample,
        .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
          const auto axis = static_cast<int>(n.attrs.Int("axis"));
          return Resample(b, g, axis, Transposed(Rows(n.attrs), b.shape(n.in[0])[axis]));
        }},
        .export_onnx = ExportResample,
        .domain = {.samples =
                       {
                           {.inputs = {Drawn({2, 3})},
                            .attrs = AttrsOf(1, {{0, 1, 3, 3, 6},
                                                 {2, 0, 1, 2, 2, 0},
                                                 {1, 0.5, -0.25, 2, 1, 0.75}})},
                           {.inputs = {Drawn({3, 70})},
                            .attrs = AttrsOf(0, {{0, 2, 4}, {0, 1, 1, 2}, {0.3, 0.7, 0.6, 0.4}})},
                           {.inputs = {Drawn({0, 2})}, .attrs = AttrsOf(0, {{0, 0, 0}, {}, {}})},
                           {.inputs = {Drawn({2, 2})}, .attrs = AttrsOf(1, {{0}, {}, {}})},
                       }},
};

}  // namespace

ValueId Resample(GraphBuilder& b, ValueId x, int axis, TapRows rows) {
  return b.Add(kResampleOp, {x}, AttrsOf(axis, std::move(rows)));
}

std::vector<const OpDef*> ResampleOps() { return {&kResampleOp}; }

}  // namespace gradwire
