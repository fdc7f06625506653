#include "engine/graph/window.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "engine/base/checked.h"

namespace gradwire {
namespace {

// ceil(a / b) for b > 0, 0 for what is not positive.
int64_t CeilOrZero(int64_t a, int64_t b) {
  return a <= 0 ? 0 : b == 1 ? a : (a - 1) / b + 1;  // kernels ask often: most divide by 1
}

// What is wrong with one dimension, or "". Sets what it can.
std::string BadArgument(const WindowDim& d) {
  if (d.kernel < 1) return absl::StrCat("kernel is ", d.kernel, ", expected 1 or more");
  if (d.stride < 1) return absl::StrCat("stride is ", d.stride, ", expected 1 or more");
  if (d.dilation < 1) return absl::StrCat("dilation is ", d.dilation, ", expected 1 or more");
  if (d.before < 0 || d.after < 0) {
    return absl::StrCat("pads are ", d.before, " and ", d.after, ", expected 0 or more");
  }
  return "";
}

// The number of windows, or what is wrong.
std::string CountWindows(WindowDim* d) {
  int64_t span = 0, padded = 0;
  if (!CheckedMul(d->kernel - 1, d->dilation, &span) || !CheckedAdd(span, 1, &span) ||
      !CheckedAdd(d->before, d->after, &padded) || !CheckedAdd(padded, d->in, &padded)) {
    return "kernel, dilation and pads overflow";
  }
  if (span > padded) {
    return absl::StrCat("the kernel spans ", span, ", more than the padded extent ", d->before,
                        " + ", d->in, " + ", d->after);
  }
  d->out = (padded - span) / d->stride + 1;
  return "";
}

std::string Joined(absl::Span<const int64_t> values) { return absl::StrJoin(values, ","); }

}  // namespace

Range WindowDim::Windows(int64_t k) const {
  const int64_t first = k * dilation - before;  // where window 0 has it
  Range r{std::min(CeilOrZero(-first, stride), out), std::min(CeilOrZero(in - first, stride), out)};
  r.end = std::max(r.begin, r.end);
  return r;
}

Range WindowDim::Positions(int64_t o) const {
  const int64_t first = o * stride - before;
  Range r{std::min(CeilOrZero(-first, dilation), kernel),
          std::min(CeilOrZero(in - first, dilation), kernel)};
  r.end = std::max(r.begin, r.end);
  return r;
}

absl::StatusOr<Window> MakeWindow(absl::Span<const int64_t> in, absl::Span<const int64_t> kernel,
                                  const Attrs& attrs) {
  const std::vector<int64_t>&strides = attrs.Ints("strides"), &dilations = attrs.Ints("dilations"),
        &pads = attrs.Ints("pads");
  const size_t rank = in.size();
  if (rank < 1 || rank > kMaxWindowRank) {
    return Error(
        rank < 1 ? Reason::kShapeMismatch : Reason::kUnsupportedOp,
        absl::StrCat("there are ", rank, " spatial dimensions, expected 1 to ", kMaxWindowRank));
  }
  if (kernel.size() != rank || strides.size() != rank || dilations.size() != rank ||
      pads.size() != 2 * rank) {
    return Error(Reason::kInvalidModel,
                 absl::StrCat("kernel [", Joined(kernel), "], strides [", Joined(strides),
                              "], dilations [", Joined(dilations), "], pads [", Joined(pads),
                              "] are not all for ", rank, " dimensions"));
  }
  Window window;
  std::vector<std::string> bad_arguments, bad_shapes;
  for (size_t i = 0; i < rank; ++i) {
    WindowDim& d = window[i + kMaxWindowRank - rank];
    d = {in[i], kernel[i], strides[i], dilations[i], pads[i], pads[i + rank], 0};
    std::string wrong = BadArgument(d);
    auto* list = wrong.empty() ? &bad_shapes : &bad_arguments;
    if (wrong.empty()) wrong = CountWindows(&d);
    if (!wrong.empty()) list->push_back(absl::StrCat("dimension ", i + 2, ": ", wrong));
  }
  if (!bad_arguments.empty()) {
    return Error(Reason::kInvalidModel, absl::StrJoin(bad_arguments, "; "));
  }
  if (!bad_shapes.empty()) return Error(Reason::kShapeMismatch, absl::StrJoin(bad_shapes, "; "));
  return window;
}

absl::StatusOr<Convolution> Convolution::Make(const Shape& x, const Shape& w, const Attrs& attrs) {
  if (x.rank() < 3 || w.rank() != x.rank()) {
    return Error(
        Reason::kShapeMismatch,
        absl::StrCat("input is ", x.ToString(), ", kernel ", w.ToString(),
                     "; expected [N,C,...] and [M,C/group,...] of equal rank, at least 3"));
  }
  const int64_t groups = attrs.Int("group");
  if (groups < 1) {
    return Error(Reason::kInvalidModel, absl::StrCat("group is ", groups, ", expected 1 or more"));
  }
  if (x[1] % groups != 0 || w[0] % groups != 0 || w[1] != x[1] / groups) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("channels do not fit: input ", x.ToString(), ", kernel ",
                              w.ToString(), " for group ", groups));
  }
  Convolution c;
  c.rank = x.rank() - 2;
  c.batch = x[0];
  c.groups = groups;
  c.in_channels = w[1];
  c.out_channels = w[0] / groups;
  GW_ASSIGN_OR_RETURN(c.window, MakeWindow(SpatialDims(x), SpatialDims(w), attrs));
  return c;
}

absl::StatusOr<Convolution> Convolution::Of(PrimitiveKind kind, absl::Span<const TensorType> in,
                                            const TensorType& out, const Attrs& attrs) {
  return Make(kind == PrimitiveKind::kConvInputGrad ? out.shape : in[0].shape,
              kind == PrimitiveKind::kConvWeightGrad ? out.shape : in[1].shape, attrs);
}

Shape Convolution::Output() const {
  Dims dims = {batch, groups * out_channels};
  for (size_t i = window.size() - static_cast<size_t>(rank); i < window.size(); ++i) {
    dims.push_back(window[i].out);
  }
  return Shape(std::move(dims));
}

int64_t Convolution::in_points() const { return window[0].in * window[1].in * window[2].in; }
int64_t Convolution::out_points() const { return window[0].out * window[1].out * window[2].out; }
int64_t Convolution::taps() const { return window[0].kernel * window[1].kernel * window[2].kernel; }

int64_t Convolution::flops() const {
  const int64_t weights = groups * out_channels * in_channels * taps();
  return SaturatingMul(2, SaturatingMul(weights, batch * out_points()));
}

std::string Convolution::ToString() const {
  std::string in, kernel, strides, before, after, dilations;
  for (size_t i = window.size() - static_cast<size_t>(rank); i < window.size(); ++i) {
    const WindowDim& d = window[i];
    const char* comma = strides.empty() ? "" : ",";
    absl::StrAppend(&in, ",", d.in);
    absl::StrAppend(&kernel, ",", d.kernel);
    absl::StrAppend(&strides, comma, d.stride);
    absl::StrAppend(&before, comma, d.before);
    absl::StrAppend(&after, ",", d.after);
    absl::StrAppend(&dilations, comma, d.dilation);
  }
  return absl::StrCat(batch, "x[", groups * in_channels, in, "] * ", groups * out_channels, "x[",
                      in_channels, kernel, "] strides ", strides, " pads ", before, after,
                      " dilations ", dilations, " groups ", groups);
}

}  // namespace gradwire
