// Convolutions (cross-correlations, as ONNX and PyTorch define them). The three core ops are the
// three ways to leave out one factor of sum(x * w * g) over everything that a window meets, so each
// one's derivatives are the other two.
#include <algorithm>

#include "engine/base/checked.h"
#include "engine/graph/window.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"
#include "engine/ops/window_import.h"

namespace gradwire {
namespace {

using Types = absl::StatusOr<std::vector<TensorType>>;

// ---- Types

absl::Status CheckTypes(const InferArgs& args) {
  const DType first = args.in[0].dtype, second = args.in[1].dtype;
  if (first == second && IsFloating(first)) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported,
               absl::StrCat("inputs are ", DTypeName(first), " and ", DTypeName(second),
                            "; expected two of FLOAT or two of DOUBLE"));
}

absl::Status CheckRanks(const InferArgs& args) {
  const Shape &a = args.in[0].shape, &b = args.in[1].shape;
  if (a.rank() >= 3 && a.rank() == b.rank()) return absl::OkStatus();
  return Error(Reason::kShapeMismatch,
               absl::StrCat("inputs are ", a.ToString(), " and ", b.ToString(),
                            "; expected equal ranks, at least 3"));
}

// An error unless `y` is what the convolution gives.
absl::Status CheckOutput(const Convolution& c, const Shape& y) {
  if (c.Output() == y) return absl::OkStatus();
  return Error(Reason::kShapeMismatch, absl::StrCat("the output's gradient is ", y.ToString(),
                                                    ", expected ", c.Output().ToString()));
}

Types InferConv(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckTypes(args));
  GW_ASSIGN_OR_RETURN(const Convolution c,
                      Convolution::Make(args.in[0].shape, args.in[1].shape, args.attrs));
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(c.Output().dims()));
  return std::vector<TensorType>{{args.in[0].dtype, std::move(shape)}};
}

Types InferConvInputGrad(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckTypes(args));
  GW_RETURN_IF_ERROR(CheckRanks(args));
  const Shape &y = args.in[0].shape, &w = args.in[1].shape;
  const std::vector<int64_t>& extents = args.attrs.Ints("shape");
  std::vector<int64_t> dims = {y[0], SaturatingMul(w[1], args.attrs.Int("group"))};
  dims.insert(dims.end(), extents.begin(), extents.end());
  GW_ASSIGN_OR_RETURN(Shape x, ResultShape(dims));
  GW_ASSIGN_OR_RETURN(const Convolution c, Convolution::Make(x, w, args.attrs));
  GW_RETURN_IF_ERROR(CheckOutput(c, y));
  return std::vector<TensorType>{{args.in[0].dtype, std::move(x)}};
}

Types InferConvWeightGrad(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckTypes(args));
  GW_RETURN_IF_ERROR(CheckRanks(args));
  const Shape &x = args.in[0].shape, &y = args.in[1].shape;
  const std::vector<int64_t>& extents = args.attrs.Ints("kernel");
  // A group below 1 is refused by Make.
  std::vector<int64_t> dims = {y[1], x[1] / std::max<int64_t>(args.attrs.Int("group"), 1)};
  dims.insert(dims.end(), extents.begin(), extents.end());
  GW_ASSIGN_OR_RETURN(Shape w, ResultShape(dims));
  GW_ASSIGN_OR_RETURN(const Convolution c, Convolution::Make(x, w, args.attrs));
  GW_RETURN_IF_ERROR(CheckOutput(c, y));
  return std::vector<TensorType>{{args.in[0].dtype, std::move(w)}};
}

// ---- References

// Which element of each of the three values, and where its points begin.
struct Channels {
  int64_t group = 0, out = 0, in = 0;  // of the group
};
int64_t InputAt(const Convolution& c, int64_t n, Channels ch) {
  return ((n * c.groups + ch.group) * c.in_channels + ch.in) * c.in_points();
}
int64_t OutputAt(const Convolution& c, int64_t n, Channels ch) {
  return ((n * c.groups + ch.group) * c.out_channels + ch.out) * c.out_points();
}
int64_t KernelAt(const Convolution& c, Channels ch) {
  return ((ch.group * c.out_channels + ch.out) * c.in_channels + ch.in) * c.taps();
}

// Calls fn(point of x, point of y, tap) for everything that the windows meet in one channel, by
// tap and then by window.
template <typename Fn>
void ForEachMeeting(const Convolution& c, const Fn& fn) {
  const WindowDim &a = c.window[0], &b = c.window[1], &d = c.window[2];
  int64_t tap = 0;
  for (int64_t i = 0; i < a.kernel; ++i) {
    for (int64_t j = 0; j < b.kernel; ++j) {
      for (int64_t k = 0; k < d.kernel; ++k, ++tap) {
        const Range s = a.Windows(i), t = b.Windows(j), u = d.Windows(k);
        for (int64_t o = s.begin; o < s.end; ++o) {
          for (int64_t p = t.begin; p < t.end; ++p) {
            for (int64_t q = u.begin; q < u.end; ++q) {
              fn((a.At(o, i) * b.in + b.At(p, j)) * d.in + d.At(q, k), (o * b.out + p) * d.out + q,
                 tap);
            }
          }
        }
      }
    }
  }
}

// out[meeting] += first[meeting] * second[meeting] over everything.
template <PrimitiveKind kKind>
absl::Status ReferenceConvolution(const ReferenceArgs& args) {
  const TensorType types[] = {args.in[0].type(), args.in[1].type()};
  GW_ASSIGN_OR_RETURN(const Convolution c,
                      Convolution::Of(kKind, types, args.out_types[0], args.attrs));
  const bool known = VisitFloating(types[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T *first = args.in[0].data<T>(), *second = args.in[1].data<T>();
    T* out = static_cast<T*>(args.out[0]);
    std::fill_n(out, args.out_types[0].shape.num_elements(), T{0});
    Channels ch;
    for (ch.group = 0; ch.group < c.groups; ++ch.group) {
      for (ch.out = 0; ch.out < c.out_channels; ++ch.out) {
        for (ch.in = 0; ch.in < c.in_channels; ++ch.in) {
          const int64_t w = KernelAt(c, ch);
          for (int64_t n = 0; n < c.batch; ++n) {
            const int64_t x = InputAt(c, n, ch), y = OutputAt(c, n, ch);
            ForEachMeeting(c, [&](int64_t in_point, int64_t out_point, int64_t tap) {
              const int64_t in = x + in_point, at = y + out_point, weight = w + tap;
              if constexpr (kKind == PrimitiveKind::kConv) out[at] += first[in] * second[weight];
              if constexpr (kKind == PrimitiveKind::kConvInputGrad) {
                out[in] += first[at] * second[weight];
              }
              if constexpr (kKind == PrimitiveKind::kConvWeightGrad) {
                out[weight] += first[in] * second[at];
              }
            });
          }
        }
      }
    }
  });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "convolutions have no kernel for this type");
}

// ---- Rows

template <PrimitiveKind kKind>
int64_t ConvolutionFlops(const InferArgs& args, const TensorType& out) {
  const absl::StatusOr<Convolution> c = Convolution::Of(kKind, args.in, out, args.attrs);
  return c.ok() ? c->flops() : 0;
}

// `attrs` of one of the three as those of another: only the extents that are given differ.
Attrs AttrsWith(const Attrs& attrs, const char* name, absl::Span<const int64_t> extents) {
  std::vector<Attrs::Entry> entries;
  for (const char* shared : {"strides", "pads", "dilations", "group"}) {
    entries.emplace_back(shared, *attrs.Find(shared));
  }
  if (name != nullptr) entries.emplace_back(name, ToVector(extents));
  return Attrs(std::move(entries));
}

ValueId Conv(GraphBuilder& b, const NodeView& n, ValueId x, ValueId w);
ValueId ConvInputGrad(GraphBuilder& b, const NodeView& n, ValueId g, ValueId w, ValueId x);
ValueId ConvWeightGrad(GraphBuilder& b, const NodeView& n, ValueId x, ValueId g, ValueId w);

const std::vector<AttrDef> kSharedAttrs = {{"strides", std::vector<int64_t>(), true},
                                           {"pads", std::vector<int64_t>(), true},
                                           {"dilations", std::vector<int64_t>(), true},
                                           {"group", int64_t{1}, true}};

std::vector<AttrDef> SharedAttrsAnd(const char* extents) {
  std::vector<AttrDef> attrs = kSharedAttrs;
  attrs.push_back({extents, std::vector<int64_t>(), true});
  return attrs;
}

std::vector<ValueId> ImportConv(NodeImport& n);
std::vector<Sample> ConvSamples();
std::vector<Sample> GradSamples(PrimitiveKind kind);

const OpDef kConvOp = {
    .name = "Conv",
    .doc =
        "Cross-correlation of `[N, C, ...]` with kernels `[M, C/group, ...]` over one to three"
        " dimensions, with strides, dilations, groups and padding by zeros (`auto_pad` as ONNX"
        " says); ONNX's bias is added after it. Sums may be taken in any fixed order. Where a "
        "kernel"
        " holds an infinity, its products with padding count as 0 or as NaN.",
    .attrs = kSharedAttrs,
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferConv,
    .reference = ReferenceConvolution<PrimitiveKind::kConv>,
    .derivative =
        Bilinear{.lhs = [](GraphBuilder& b, const NodeView& n,
                           ValueId g) { return ConvInputGrad(b, n, g, n.in[1], n.in[0]); },
                 .rhs = [](GraphBuilder& b, const NodeView& n,
                           ValueId g) { return ConvWeightGrad(b, n, n.in[0], g, n.in[1]); }},
    .lowering = Primitive{PrimitiveKind::kConv},
    .flops = ConvolutionFlops<PrimitiveKind::kConv>,
    .onnx = {{.name = "Conv", .since = 1, .import = ImportConv}},
    .domain = {.samples = ConvSamples()},
};

const OpDef kConvInputGradOp = {
    .name = "ConvInputGrad",
    .doc =
        "The gradient of Conv by its input, which has the spatial extents `shape`, from the "
        "output's"
        " and the kernels: a transposed convolution.",
    .attrs = SharedAttrsAnd("shape"),
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferConvInputGrad,
    .reference = ReferenceConvolution<PrimitiveKind::kConvInputGrad>,
    .derivative = Bilinear{
        .lhs = [](GraphBuilder& b, const NodeView& n, ValueId g) { return Conv(b, n, g, n.in[1]); },
        .rhs = [](GraphBuilder& b, const NodeView& n,
                  ValueId g) { return ConvWeightGrad(b, n, g, n.in[0], n.in[1]); }},
    .lowering = Primitive{PrimitiveKind::kConvInputGrad},
    .flops = ConvolutionFlops<PrimitiveKind::kConvInputGrad>,
    .no_onnx_form = "derivatives of convolutions and pools are not written as ONNX yet",
    .domain = {.samples = GradSamples(PrimitiveKind::kConvInputGrad)},
};

const OpDef kConvWeightGradOp = {
    .name = "ConvWeightGrad",
    .doc =
        "The gradient of Conv by its kernels, which have the spatial extents `kernel`, from the"
        " input and the output's.",
    .attrs = SharedAttrsAnd("kernel"),
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferConvWeightGrad,
    .reference = ReferenceConvolution<PrimitiveKind::kConvWeightGrad>,
    .derivative =
        Bilinear{.lhs = [](GraphBuilder& b, const NodeView& n,
                           ValueId g) { return ConvInputGrad(b, n, n.in[1], g, n.in[0]); },
                 .rhs = [](GraphBuilder& b, const NodeView& n,
                           ValueId g) { return Conv(b, n, n.in[0], g); }},
    .lowering = Primitive{PrimitiveKind::kConvWeightGrad},
    .flops = ConvolutionFlops<PrimitiveKind::kConvWeightGrad>,
    .no_onnx_form = "derivatives of convolutions and pools are not written as ONNX yet",
    .domain = {.samples = GradSamples(PrimitiveKind::kConvWeightGrad)},
};

ValueId Conv(GraphBuilder& b, const NodeView& n, ValueId x, ValueId w) {
  return b.Add(kConvOp, {x, w}, AttrsWith(n.attrs, nullptr, {}));
}

// `x` and `w` give only their shapes here.
ValueId ConvInputGrad(GraphBuilder& b, const NodeView& n, ValueId g, ValueId w, ValueId x) {
  const Shape shape = b.shape(x);
  return b.Add(kConvInputGradOp, {g, w}, AttrsWith(n.attrs, "shape", SpatialDims(shape)));
}

ValueId ConvWeightGrad(GraphBuilder& b, const NodeView& n, ValueId x, ValueId g, ValueId w) {
  const Shape shape = b.shape(w);
  return b.Add(kConvWeightGradOp, {x, g}, AttrsWith(n.attrs, "kernel", SpatialDims(shape)));
}

// ---- ONNX

// The bias [M] in a shape that broadcasts along the channels of y, which is to be [N,M,...].
ValueId AlongChannels(NodeImport& n, int input, int64_t channels) {
  const TensorType got = n.type(input), want = {n.type(0).dtype, {channels}};
  if (got != want) {
    n.Fail(got.dtype == want.dtype ? Reason::kShapeMismatch : Reason::kDtypeUnsupported,
           absl::StrCat("the bias is ", got.ToString(), ", expected ", want.ToString()));
    return kNoValue;
  }
  Dims along(static_cast<size_t>(n.type(0).shape.rank()) - 1, 1);
  along[0] = channels;
  return Reshape(n.b, n.in(input), Shape(std::move(along)));
}

std::vector<ValueId> ImportConv(NodeImport& n) {
  if (!TakesInputs(n, 2, 3)) return {};
  const Shape x = n.type(0).shape, w = n.type(1).shape;
  if (x.rank() < 3 || w.rank() != x.rank()) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("input is ", x.ToString(), ", kernel ", w.ToString(),
                        "; expected [N,C,...] and [M,C/group,...] of equal rank, at least 3"));
    return {};
  }
  const std::vector<int64_t> kernel = ToVector(SpatialDims(w));
  if (const auto said = IntsAttr(n, "kernel_shape", kernel); said != kernel) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("kernel_shape does not fit the kernel ", w.ToString()));
    return {};
  }
  const int64_t group = IntAttr(n, "group", 1);
  std::optional<std::vector<Attrs::Entry>> attrs = WindowAttrs(n, SpatialDims(x), kernel, false);
  if (!n.b.ok()) return {};
  // Made before the convolution, which can then take the sum along.
  const ValueId bias = n.has(2) ? AlongChannels(n, 2, w[0]) : kNoValue;
  if (!n.b.ok()) return {};
  attrs->emplace_back("group", group);
  const ValueId y = n.b.Add(kConvOp, {n.in(0), n.in(1)}, Attrs(*std::move(attrs)));
  return {bias == kNoValue ? y : Add(n.b, y, bias)};
}

// ---- Samples

std::vector<Sample> ConvSamples() {
  const AttrValue upper = std::string("SAME_UPPER"), lower = std::string("SAME_LOWER");
  return {
      {.inputs = {Drawn({2, 3, 5, 4}), Drawn({4, 3, 3, 2}), Drawn({4})}},
      {.inputs = {Drawn({2, 3, 6, 5}), Drawn({5, 3, 3, 3}), Drawn({5})},
       .attrs = {{"kernel_shape", Ints({3, 3})},
                 {"strides", Ints({2, 1})},
                 {"pads", Ints({1, 0, 2, 1})},
                 {"dilations", Ints({1, 2})},
                 {"group", int64_t{1}}}},
      {.inputs = {Drawn({2, 4, 7}), Drawn({6, 2, 3})},
       .attrs = {{"group", int64_t{2}}, {"strides", Ints({2})}, {"pads", Ints({1, 1})}}},
      {.inputs = {Drawn({1, 3, 5, 5}), Drawn({6, 1, 3, 3}), Drawn({6})},
       .attrs = {{"group", int64_t{3}}, {"pads", Ints({1, 1, 1, 1})}}},
      {.inputs = {Drawn({1, 2, 4, 3, 5}), Drawn({3, 2, 2, 3, 2})},
       .attrs = {{"dilations", Ints({2, 1, 1})}, {"strides", Ints({1, 1, 2})}}},
      {.inputs = {Drawn({1, 2, 6, 7}), Drawn({2, 2, 3, 2})},
       .attrs = {{"auto_pad", upper}, {"strides", Ints({2, 3})}}},
      {.inputs = {Drawn({1, 2, 6, 5}), Drawn({2, 2, 2, 4})}, .attrs = {{"auto_pad", lower}}},
      {.inputs = {Drawn({1, 2, 6}), Drawn({2, 2, 2})},
       .attrs = {{"auto_pad", std::string("VALID")}, {"pads", Ints({5, 5})}},
       .opset = 6},
      {.inputs = {Drawn({2, 5, 3, 3}), Drawn({4, 5, 1, 1})}},
      {.inputs = {Drawn({0, 2, 4, 4}), Drawn({3, 2, 2, 2}), Drawn({3})}},
      {.inputs = {Drawn({2, 20, 9, 9}, -1, 1), Drawn({17, 20, 3, 3}, -1, 1)},
       .attrs = {{"pads", Ints({1, 1, 1, 1})}}},
  };
}

// The same windows for the gradients, whose samples go past the import.
std::vector<Sample> GradSamples(PrimitiveKind kind) {
  struct Shapes {
    Dims x, w;
    std::vector<int64_t> strides, pads, dilations;
    int64_t group;
  };
  const Shapes cases[] = {
      {{2, 3, 5, 4}, {4, 3, 3, 2}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1},
      {{2, 3, 6, 5}, {5, 3, 3, 3}, {2, 1}, {1, 0, 2, 1}, {1, 2}, 1},
      {{2, 4, 7}, {6, 2, 3}, {2}, {1, 1}, {1}, 2},
      {{1, 3, 5, 5}, {6, 1, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 3},
      {{1, 2, 4, 3, 5}, {3, 2, 2, 3, 2}, {1, 1, 2}, {0, 0, 0, 0, 0, 0}, {2, 1, 1}, 1},
      {{0, 2, 4}, {3, 2, 2}, {1}, {0, 0}, {1}, 1},
  };
  std::vector<Sample> out;
  for (const Shapes& s : cases) {
    const Attrs shared = {
        {"strides", s.strides}, {"pads", s.pads}, {"dilations", s.dilations}, {"group", s.group}};
    const absl::StatusOr<Convolution> c = Convolution::Make(Shape(s.x), Shape(s.w), shared);
    if (!c.ok()) continue;
    const Dims y = c->Output().dims();
    if (kind == PrimitiveKind::kConvInputGrad) {
      out.push_back({.inputs = {Drawn(y), Drawn(s.w)},
                     .attrs = AttrsWith(shared, "shape", absl::MakeConstSpan(s.x).subspan(2))});
    } else {
      out.push_back({.inputs = {Drawn(s.x), Drawn(y)},
                     .attrs = AttrsWith(shared, "kernel", absl::MakeConstSpan(s.w).subspan(2))});
    }
  }
  return out;
}

}  // namespace

std::vector<const OpDef*> ConvOps() { return {&kConvOp, &kConvInputGradOp, &kConvWeightGradOp}; }

}  // namespace gradwire
