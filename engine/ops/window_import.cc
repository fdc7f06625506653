#include "engine/ops/window_import.h"

#include <algorithm>

#include "engine/base/checked.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

// Both ends of one dimension.
struct Pads {
  int64_t before = 0, after = 0;
};

int64_t SpanOf(int64_t kernel, int64_t dilation) {
  return SaturatingAdd(SaturatingMul(kernel - 1, dilation), 1);
}

Pads SamePads(int64_t in, int64_t span, int64_t stride, bool odd_one_before) {
  if (in < 1) return {};
  const int64_t last = (in - 1) / stride * stride;  // where the last window begins, unpadded
  const int64_t total = std::max<int64_t>(SaturatingAdd(last, span) - in, 0);
  const int64_t half = total / 2;
  return odd_one_before ? Pads{total - half, half} : Pads{half, total - half};
}

// Padding that has room for the window which rounding down leaves out.
Pads CeilPads(Pads pads, int64_t in, int64_t span, int64_t stride) {
  const int64_t padded = SaturatingAdd(in, SaturatingAdd(pads.before, pads.after));
  // A span that is larger, but by less than a stride, makes one window as well.
  if (padded == INT64_MAX || span == INT64_MAX || span - padded >= stride) return pads;
  const int64_t rest = (padded - span) % stride;
  if (rest == 0) return pads;
  const int64_t missing = rest < 0 ? -rest : stride - rest;
  if (SaturatingAdd(padded - span - pads.before, missing) < in) pads.after += missing;
  return pads;
}

}  // namespace

std::vector<int64_t> IntsAttr(NodeImport& n, absl::string_view name,
                              std::vector<int64_t> otherwise) {
  const AttrValue* value = n.attrs.Find(name);
  if (value == nullptr) return otherwise;
  if (const auto* ints = std::get_if<std::vector<int64_t>>(value)) return *ints;
  n.Fail(Reason::kInvalidModel, absl::StrCat("attribute ", name, " is not a list of integers"));
  return otherwise;
}

std::string AutoPad(NodeImport& n) {
  std::string mode = StringAttr(n, "auto_pad", "NOTSET");
  if (mode != "NOTSET" && mode != "VALID" && mode != "SAME_UPPER" && mode != "SAME_LOWER") {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("auto_pad is \"", mode,
                        "\", expected NOTSET, VALID, SAME_UPPER or SAME_LOWER"));
  }
  return mode;
}

std::optional<std::vector<Attrs::Entry>> WindowAttrs(NodeImport& n, absl::Span<const int64_t> in,
                                                     const std::vector<int64_t>& kernel,
                                                     bool ceil_mode) {
  const size_t rank = in.size();
  const std::vector<int64_t> ones(rank, 1);
  const std::vector<int64_t> strides = IntsAttr(n, "strides", ones);
  const std::vector<int64_t> dilations = IntsAttr(n, "dilations", ones);
  std::vector<int64_t> pads = IntsAttr(n, "pads", std::vector<int64_t>(2 * rank, 0));
  const std::string mode = AutoPad(n);
  const bool same = mode == "SAME_UPPER" || mode == "SAME_LOWER";
  if (!n.b.ok()) return std::nullopt;
  if (mode != "NOTSET") pads.assign(2 * rank, 0);
  const bool complete = kernel.size() == rank && strides.size() == rank &&
                        dilations.size() == rank && pads.size() == 2 * rank;
  for (size_t i = 0; complete && i < rank; ++i) {
    Pads p{pads[i], pads[i + rank]};
    const bool sane =
        kernel[i] > 0 && strides[i] > 0 && dilations[i] > 0 && p.before >= 0 && p.after >= 0;
    if (!sane) continue;  // refused when the window is made
    const int64_t span = SpanOf(kernel[i], dilations[i]);
    if (same) p = SamePads(in[i], span, strides[i], mode == "SAME_LOWER");
    if (ceil_mode && mode == "NOTSET") p = CeilPads(p, in[i], span, strides[i]);
    pads[i] = p.before;
    pads[i + rank] = p.after;
  }
  return std::vector<Attrs::Entry>{
      {"strides", strides}, {"dilations", dilations}, {"pads", std::move(pads)}};
}

absl::StatusOr<Pool> MakePool(const Shape& x, const Attrs& attrs) {
  if (x.rank() < 3) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("input is ", x.ToString(), ", expected [N,C,...], rank 3 or more"));
  }
  GW_ASSIGN_OR_RETURN(const Window window, MakeWindow(SpatialDims(x), attrs.Ints("kernel"), attrs));
  Dims dims = {x[0], x[1]};
  for (int i = kMaxWindowRank - (x.rank() - 2); i < kMaxWindowRank; ++i) {
    dims.push_back(window[static_cast<size_t>(i)].out);
  }
  GW_ASSIGN_OR_RETURN(Shape output, ResultShape(dims));
  return Pool{window, std::move(output)};
}

std::optional<std::vector<Attrs::Entry>> PoolAttrs(NodeImport& n, bool ceil_mode) {
  const Shape x = n.type(0).shape;
  if (x.rank() < 3) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("input is ", x.ToString(), ", expected [N,C,...], rank 3 or more"));
  }
  if (!n.attrs.Has("kernel_shape")) n.Fail(Reason::kInvalidModel, "kernel_shape is missing");
  if (!n.b.ok()) return std::nullopt;
  const std::vector<int64_t> kernel = IntsAttr(n, "kernel_shape", {});
  std::optional<std::vector<Attrs::Entry>> attrs =
      WindowAttrs(n, SpatialDims(x), kernel, ceil_mode);
  if (!n.b.ok()) return std::nullopt;
  attrs->emplace_back("kernel", kernel);
  return attrs;
}

}  // namespace gradwire
