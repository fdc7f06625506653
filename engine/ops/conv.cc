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

bool ConvShapesFit(NodeImport& n) {
  const Shape &x = n.type(0).shape, &w = n.type(1).shape;
  if (x.rank() >= 3 && w.rank() == x.rank()) return true;
  n.Fail(Reason::kShapeMismatch,
         absl::StrCat("input is ", x.ToString(), ", kernel ", w.ToString(),
                      "; expected [N,C,...] and [M,C/group,...] of equal rank, at least 3"));
  return false;
}

// x * w with the node's windows.
ValueId Convolve(NodeImport& n, ValueId x, ValueId w) {
  if (!n.b.ok()) return kNoValue;
  const std::vector<int64_t> kernel = ToVector(SpatialDims(n.b.shape(w)));
  if (const auto said = IntsAttr(n, "kernel_shape", kernel); said != kernel) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("kernel_shape does not fit the kernel ", n.b.shape(w).ToString()));
  }
  const int64_t group = IntAttr(n, "group", 1);
  std::optional<std::vector<Attrs::Entry>> attrs =
      WindowAttrs(n, SpatialDims(n.b.shape(x)), kernel, false);
  if (!n.b.ok()) return kNoValue;
  attrs->emplace_back("group", group);
  return n.b.Add(kConvOp, {x, w}, Attrs(*std::move(attrs)));
}

std::vector<ValueId> ImportConv(NodeImport& n) {
  if (!TakesInputs(n, 2, 3) || !ConvShapesFit(n)) return {};
  // Made before the convolution, which can then take the sum along.
  const ValueId bias = n.has(2) ? AlongChannels(n, 2, n.type(1).shape[0]) : kNoValue;
  const ValueId y = Convolve(n, n.in(0), n.in(1));
  return {bias == kNoValue ? y : Add(n.b, y, bias)};
}

// One spatial dimension of a ConvTranspose: element i of the input spreads over the output from
// i * stride - before on, by taps `dilation` apart.
struct Spread {
  int64_t in, kernel, stride, dilation, output_padding;
  int64_t before = 0, out = 0;

  // All that is met, without padding; INT64_MAX where that overflows.
  int64_t Full() const {
    const int64_t span = SaturatingAdd(SaturatingMul(kernel - 1, dilation), 1);
    return SaturatingAdd(SaturatingMul(in - 1, stride), span);
  }
};

// The list of one integer a dimension, or `fallback` for each.
std::vector<int64_t> DimensionsAttr(NodeImport& n, absl::string_view name, size_t count,
                                    int64_t fallback) {
  std::vector<int64_t> out = IntsAttr(n, name, std::vector<int64_t>(count, fallback));
  if (n.b.ok() && out.size() != count) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat(name, " has ", out.size(), " elements, expected ", count));
  }
  return out;
}

// The extents that output_shape or auto_pad ask for; nullopt where pads decide.
std::optional<std::vector<int64_t>> WantedExtents(NodeImport& n, const std::string& mode,
                                                  absl::Span<const int64_t> in,
                                                  absl::Span<const int64_t> strides) {
  if (n.attrs.Has("output_shape")) {
    std::vector<int64_t> shape = IntsAttr(n, "output_shape", {});
    if (shape.size() == in.size() + 2) shape.erase(shape.begin(), shape.begin() + 2);
    if (shape.size() == in.size()) return shape;
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("output_shape has ", shape.size(), " elements, expected ", in.size()));
  }
  if (mode != "SAME_UPPER" && mode != "SAME_LOWER") return std::nullopt;
  std::vector<int64_t> shape;
  for (size_t i = 0; i < in.size(); ++i) shape.push_back(SaturatingMul(in[i], strides[i]));
  return shape;
}

// Every dimension of the node; empty after a failure.
std::vector<Spread> Spreads(NodeImport& n, absl::Span<const int64_t> in,
                            absl::Span<const int64_t> kernel) {
  const size_t rank = in.size();
  const std::vector<int64_t> strides = DimensionsAttr(n, "strides", rank, 1);
  const std::vector<int64_t> dilations = DimensionsAttr(n, "dilations", rank, 1);
  const std::vector<int64_t> extra = DimensionsAttr(n, "output_padding", rank, 0);
  std::vector<int64_t> pads = DimensionsAttr(n, "pads", 2 * rank, 0);
  const std::string mode = AutoPad(n);
  if (!n.b.ok()) return {};
  if (mode != "NOTSET") pads.assign(2 * rank, 0);
  const auto wanted = WantedExtents(n, mode, in, strides);
  std::vector<Spread> out;
  for (size_t i = 0; i < rank && n.b.ok(); ++i) {
    Spread d{in[i], kernel[i], strides[i], dilations[i], extra[i]};
    const bool sane = d.in > 0 && d.kernel > 0 && d.stride > 0 && d.dilation > 0 &&
                      d.output_padding >= 0 && pads[i] >= 0 && pads[i + rank] >= 0;
    const int64_t full = sane ? SaturatingAdd(d.Full(), d.output_padding) : INT64_MAX;
    if (wanted) {
      d.out = (*wanted)[i];
      if (mode != "NOTSET" && d.out > full) {
        n.Fail(Reason::kUnsupportedOp,
               absl::StrCat("dimension ", i + 2, ": auto_pad with an output of ", d.out,
                            ", of which the kernels reach only ", full,
                            ", is not supported: runtimes differ in where they lie"));
      }
      // Where output_shape asks for more than is met, zeros follow.
      const int64_t total = std::max<int64_t>(full - std::max<int64_t>(d.out, 0), 0);
      d.before = mode == "SAME_UPPER" ? total / 2 : total - total / 2;
    } else {
      d.before = pads[i];
      d.out = full - SaturatingAdd(pads[i], pads[i + rank]);
    }
    if (full == INT64_MAX || d.out < 1 || d.before >= d.Full()) {
      n.Fail(
          sane ? Reason::kShapeMismatch : Reason::kInvalidModel,
          absl::StrCat("dimension ", i + 2, ": extent ", d.in, ", kernel ", d.kernel, ", stride ",
                       d.stride, ", dilation ", d.dilation, ", pads ", pads[i], " and ",
                       pads[i + rank], ", output_padding ", d.output_padding, " give no output"));
    }
    out.push_back(d);
  }
  return out;
}

// The input's gradient of the convolution whose windows are these spreads. It has as many elements
// as it needs for that many windows; zeros fill up the rest of `out`.
ValueId SpreadOut(GraphBuilder& b, ValueId x, ValueId w, const std::vector<Spread>& dims,
                  int64_t group) {
  if (!b.ok()) return kNoValue;
  std::vector<int64_t> strides, dilations, pads, after, met, starts(2, 0);
  for (const Spread& d : dims) {
    const int64_t rest = d.Full() - d.before - d.out;  // below 0: more than is met
    met.push_back(rest > -d.stride ? d.out : d.Full() - d.before);
    strides.push_back(d.stride);
    dilations.push_back(d.dilation);
    pads.push_back(d.before);
    after.push_back(std::max<int64_t>(rest, 0));
  }
  pads.insert(pads.end(), after.begin(), after.end());
  const ValueId y = b.Add(kConvInputGradOp, {x, w},
                          {{"strides", strides},
                           {"pads", pads},
                           {"dilations", dilations},
                           {"group", group},
                           {"shape", met}});
  if (!b.ok()) return kNoValue;
  std::vector<int64_t> shape = {b.shape(y)[0], b.shape(y)[1]};
  for (const Spread& d : dims) shape.push_back(d.out);
  const std::optional<Shape> whole = ResultShape(b, shape);
  if (!whole || *whole == b.shape(y)) return y;
  return Unslice(b, y, std::vector<int64_t>(shape.size(), 0), std::vector<int64_t>(shape.size(), 1),
                 *whole);
}

std::vector<ValueId> ImportConvTranspose(NodeImport& n) {
  if (!TakesInputs(n, 2, 3)) return {};
  const Shape x = n.type(0).shape, w = n.type(1).shape;
  const int64_t group = IntAttr(n, "group", 1);
  if (x.rank() < 3 || w.rank() != x.rank() || w[0] != x[1]) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("input is ", x.ToString(), ", kernel ", w.ToString(),
                        "; expected [N,C,...] and [C,M/group,...] of equal rank, at least 3"));
    return {};
  }
  if (group < 1) n.Fail(Reason::kInvalidModel, absl::StrCat("group is ", group));
  const std::vector<int64_t> kernel = ToVector(SpatialDims(w));
  if (IntsAttr(n, "kernel_shape", kernel) != kernel) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("kernel_shape does not fit the kernel ", w.ToString()));
  }
  if (!n.b.ok()) return {};
  const std::vector<Spread> dims = Spreads(n, SpatialDims(x), kernel);
  const ValueId bias = n.has(2) ? AlongChannels(n, 2, SaturatingMul(w[1], group)) : kNoValue;
  const ValueId y = SpreadOut(n.b, n.in(0), n.in(1), dims, group);
  return {bias == kNoValue ? y : Add(n.b, y, bias)};
}

std::vector<Sample> ConvTransposeSamples();

const OpDef kConvTransposeOp = {
    .name = "ConvTranspose",
    .doc =
        "The transpose of a convolution: each element of `[N, C, ...]` adds its multiple of the"
        " kernels `[C, M/group, ...]` to the output, one to three dimensions. `output_shape` and"
        " `auto_pad` choose the padding as ONNX says. Where an `output_shape` without `auto_pad`"
        " asks for more than the kernels reach, zeros follow; with it that is refused.",
    .min_inputs = 2,
    .max_inputs = 3,
    .onnx = {{.name = "ConvTranspose", .since = 1, .import = ImportConvTranspose}},
    .domain = {.samples = ConvTransposeSamples()},
};

// Input i as DOUBLE without its zero point, input `point`: exact, and so are sums below 2^53.
ValueId WithoutZeroPoint(NodeImport& n, int i, int point, bool by_channel) {
  GraphBuilder& b = n.b;
  const TensorType type = n.type(i);
  if (type.dtype != DType::kUint8 && type.dtype != DType::kInt8) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("input ", i, " is ", DTypeName(type.dtype), ", expected UINT8 or INT8"));
    return kNoValue;
  }
  const ValueId value = Cast(b, n.in(i), DType::kDouble);
  if (!n.has(point)) return value;
  const TensorType zero = n.type(point);
  const bool one = zero.shape.num_elements() == 1;
  const bool fits = one || (by_channel && zero.shape == Shape{type.shape[0]});
  if (zero.dtype != type.dtype || !fits) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("the zero point ", zero.ToString(),
                                                " does not fit input ", i, ", ", type.ToString()));
    return kNoValue;
  }
  Dims dims(static_cast<size_t>(type.shape.rank()), 1);
  dims[0] = zero.shape.num_elements();
  return Sub(b, value, Reshape(b, Cast(b, n.in(point), DType::kDouble), Shape(std::move(dims))));
}

const OpDef
    kConvIntegerOp =
        {
            .name = "ConvInteger",
            .doc = "Conv of 8-bit integers less their zero points, exactly, as INT32.",
            .min_inputs = 2,
            .max_inputs = 4,
            .onnx = {{.name = "ConvInteger",
                      .since = 10,
                      .import = [](NodeImport& n) -> std::vector<ValueId> {
                        if (!TakesInputs(n, 2, 4) || !ConvShapesFit(n)) return {};
                        const ValueId x = WithoutZeroPoint(n, 0, 2, false);
                        const ValueId w = WithoutZeroPoint(n, 1, 3, true);
                        return {Cast(n.b, Convolve(n, x, w), DType::kInt32)};
                      }}},
            .domain = {.samples =
                           {
                               {.inputs = {{.shape = {1, 2, 4, 4},
                                            .dtype = DType::kUint8,
                                            .low = 0,
                                            .high = 255},
                                           {.shape = {2, 2, 3, 2},
                                            .dtype = DType::kInt8,
                                            .low = -128,
                                            .high = 128},
                                           Given({}, {100}, DType::kUint8),
                                           Given({2}, {-3, 7}, DType::kInt8)},
                                .attrs = {{"pads", Ints({1, 0, 1, 0})}}},
                               {.inputs = {{.shape = {1, 4, 5},
                                            .dtype = DType::kInt8,
                                            .low = -128,
                                            .high = 128},
                                           {.shape = {2, 2, 3},
                                            .dtype = DType::kUint8,
                                            .low = 0,
                                            .high = 255}},
                                .attrs = {{"group", int64_t{2}}, {"strides", Ints({2})}}},
                           }},
};

// ---- Samples

std::vector<Sample> ConvTransposeSamples() {
  const auto same = [](const char* mode) { return Attrs::Entry{"auto_pad", std::string(mode)}; };
  return {
      {.inputs = {Drawn({2, 3, 4, 3}), Drawn({3, 2, 3, 2}), Drawn({2})}},
      {.inputs = {Drawn({1, 2, 4, 4}), Drawn({2, 1, 3, 3}), Drawn({1})},
       .attrs = {{"kernel_shape", Ints({3, 3})},
                 {"strides", Ints({3, 2})},
                 {"pads", Ints({1, 0, 1, 0})},
                 {"dilations", Ints({2, 2})},
                 {"output_padding", Ints({1, 0})}}},
      {.inputs = {Drawn({2, 4, 3}), Drawn({4, 3, 2}), Drawn({6})},
       .attrs = {{"group", int64_t{2}}, {"strides", Ints({2})}, {"output_padding", Ints({1})}},
       .opset = 6},
      {.inputs = {Drawn({1, 2, 3, 2, 3}), Drawn({2, 1, 3, 2, 3})},
       .attrs = {{"strides", Ints({3, 1, 3})}, {"pads", Ints({1, 0, 0, 0, 0, 0})}}},
      {.inputs = {Drawn({1, 1, 3, 3}), Drawn({1, 2, 3, 3})},
       .attrs = {{"strides", Ints({3, 2})}, {"output_shape", Ints({10, 8})}}},
      {.inputs = {Drawn({1, 1, 3, 3}), Drawn({1, 2, 3, 3})},
       .attrs = {{"strides", Ints({2, 2})}, same("SAME_UPPER")}},
      {.inputs = {Drawn({1, 1, 3, 3}), Drawn({1, 2, 4, 3})},
       .attrs = {{"strides", Ints({1, 3})}, same("SAME_LOWER")}},
      {.inputs = {Drawn({1, 1, 3}), Drawn({1, 2, 2})},
       .attrs = {same("VALID"), {"pads", Ints({9, 9})}}},
      // A dilation leaves more padding than a stride: zeros at the end.
      {.inputs = {Drawn({1, 1, 3}), Drawn({1, 1, 2})},
       .attrs = {{"dilations", Ints({4})}, {"output_padding", Ints({3})}}},
      {.inputs = {Drawn({0, 1, 3}), Drawn({1, 1, 2})}},
  };
}

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

std::vector<const OpDef*> ConvOps() {
  return {&kConvOp, &kConvInputGradOp, &kConvWeightGradOp, &kConvTransposeOp, &kConvIntegerOp};
}

}  // namespace gradwire
