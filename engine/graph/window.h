// File: window.h
//
// Window       how a kernel slides over the spatial dimensions of a value, for convolutions and
//              pools.
// Convolution  the extents of y = x * w, which Conv and both of its gradients share.
//
// Window o of a dimension reads, for k in [0, kernel), the input at o * stride - before +
// k * dilation; what lies outside [0, in) is padding. There are as many windows as begin inside the
// padded input and end in it: out = (before + in + after - span) / stride + 1.
//
//   GW_ASSIGN_OR_RETURN(Convolution c, Convolution::Make(x.shape, w.shape, attrs));
//   c.Output()   // [N, M, out...]
//
// Whatever is made here is checked: type rules make it from what a model says, kernels make the
// same again from the types of a valid graph. No position that its functions compute overflows.
// Thread-safety: values.
#ifndef GRADWIRE_ENGINE_GRAPH_WINDOW_H_
#define GRADWIRE_ENGINE_GRAPH_WINDOW_H_

#include <algorithm>
#include <array>
#include <string>

#include "engine/graph/op_def.h"

namespace gradwire {

// [begin, end)
struct Range {
  int64_t begin = 0, end = 0;
  bool Contains(int64_t i) const { return i >= begin && i < end; }
};

struct WindowDim {
  int64_t in = 1, kernel = 1, stride = 1, dilation = 1;
  int64_t before = 0, after = 0;  // padding
  int64_t out = 1;

  int64_t span() const { return (kernel - 1) * dilation + 1; }
  // Where window o has its position k: may be padding.
  int64_t At(int64_t o, int64_t k) const { return o * stride - before + k * dilation; }
  // The windows whose position k is an element.
  Range Windows(int64_t k) const;
  // The positions of window o that are elements.
  Range Positions(int64_t o) const;
  // The windows that meet no padding.
  Range Inside() const {
    const int64_t begin = Windows(0).begin;
    return {begin, std::max(begin, Windows(kernel - 1).end)};
  }
};

// Outermost dimension first; where there are fewer than three, the first ones have extent 1.
inline constexpr int kMaxWindowRank = 3;
using Window = std::array<WindowDim, kMaxWindowRank>;

// `attrs` has "strides" and "dilations" (one a dimension, at least 1) and "pads" (before each
// dimension, then after each, at least 0). Errors name every dimension that is wrong:
// INVALID_MODEL for attributes, SHAPE_MISMATCH where the kernel is larger than the padded input.
absl::StatusOr<Window> MakeWindow(absl::Span<const int64_t> in, absl::Span<const int64_t> kernel,
                                  const Attrs& attrs);

// The spatial dimensions of a value [N, C, ...].
inline absl::Span<const int64_t> SpatialDims(const Shape& shape) {
  return absl::MakeConstSpan(shape.dims()).subspan(2);
}

struct Convolution {
  int rank = 1;  // of the window, 1 to 3
  int64_t batch = 0;
  int64_t groups = 1;
  int64_t in_channels = 0;  // of one group
  int64_t out_channels = 0;
  Window window;

  // x [N, C, in...], w [M, C / group, kernel...]; `attrs` as for MakeWindow, and "group".
  static absl::StatusOr<Convolution> Make(const Shape& x, const Shape& w, const Attrs& attrs);
  // The one that a node of this kind computes, or is a gradient of:
  //   kConv            in = x, w   out = y
  //   kConvInputGrad   in = y, w   out = x
  //   kConvWeightGrad  in = x, y   out = w
  static absl::StatusOr<Convolution> Of(PrimitiveKind kind, absl::Span<const TensorType> in,
                                        const TensorType& out, const Attrs& attrs);
  Shape Output() const;
  // Elements of one channel of x, of one channel of y, and of one channel of one kernel.
  int64_t in_points() const;
  int64_t out_points() const;
  int64_t taps() const;
  // Of any of the three kinds; saturates.
  int64_t flops() const;
  // All of it: "2x[4,9,9] * 6x[2,3,3] strides 1,1 pads 0,0,0,0 dilations 1,1 groups 2".
  std::string ToString() const;
};

inline bool IsConvolution(PrimitiveKind kind) {
  return kind == PrimitiveKind::kConv || kind == PrimitiveKind::kConvInputGrad ||
         kind == PrimitiveKind::kConvWeightGrad;
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_WINDOW_H_
