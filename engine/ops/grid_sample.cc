// GridSample: floor, gathers and arithmetic, so that derivatives by the input and by the grid
// follow.
#include <algorithm>
#include <array>

#include "engine/base/checked.h"
#include "engine/ops/builders.h"
#include "engine/ops/indexing_rows.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;

struct Sampling {
  enum Mode { kNearest, kLinear, kCubic } mode = kLinear;
  enum Padding { kZeros, kBorder, kReflection } padding = kZeros;
  bool align_corners = false;
};

// One of the elements that a sample looks at along an axis: its index and weight, and whether it
// lies inside, each a value for every sample. An absent weight is 1.
struct Tap {
  ValueId index, inside, weight;
};

// The coordinates along one axis of a given extent.
class AxisSampler {
 public:
  AxisSampler(GraphBuilder& b, const Sampling& sampling, int64_t extent)
      : b_(b), sampling_(sampling), extent_(extent), last_(static_cast<double>(extent - 1)) {}

  std::vector<Tap> Taps(ValueId grid) const {
    const ValueId at = Unnormalized(grid);
    if (sampling_.mode == Sampling::kCubic) return CubicTaps(Bordered(at));
    const ValueId x = Padded(at);
    if (sampling_.mode == Sampling::kNearest) return {At(Round(b_, x), kNoValue)};
    const ValueId left = Floor(b_, x);
    const ValueId right_weight = Sub(b_, x, left);
    return {At(left, Sub(b_, b_.ScalarLike(x, 1), right_weight)),
            At(Plus(b_, left, 1), right_weight)};
  }

 private:
  // -1 and 1 are the centres of the outermost elements, or their outer edges.
  ValueId Unnormalized(ValueId grid) const {
    const ValueId from_zero = Plus(b_, grid, 1);
    if (sampling_.align_corners) return Times(b_, from_zero, last_ / 2);
    return Times(b_, Plus(b_, Times(b_, from_zero, static_cast<double>(extent_)), -1), 0.5);
  }

  // Mirrored at the outermost elements' centres or edges until it lies between them.
  ValueId Reflected(ValueId x) const {
    const double low = sampling_.align_corners ? 0 : -0.5;
    const double span = sampling_.align_corners ? last_ : last_ + 1;
    if (span <= 0) return b_.Zeros(x);
    const ValueId width = b_.ScalarLike(x, span);
    const ValueId distance = Abs(b_, Plus(b_, x, -low));
    const ValueId rest = TruncatedMod(b_, distance, width);
    const ValueId turns = Floor(b_, Div(b_, distance, width));
    const ValueId odd =
        Equal(b_, TruncatedMod(b_, turns, b_.ScalarLike(x, 2)), b_.ScalarLike(x, 1));
    return Plus(b_, Where(b_, odd, Sub(b_, width, rest), rest), low);
  }

  ValueId Padded(ValueId x) const {
    if (sampling_.padding == Sampling::kZeros) return x;
    return Clipped(sampling_.padding == Sampling::kReflection ? Reflected(x) : x);
  }

  // Beyond the border, a cubic sample is taken at the border: so ONNX, unlike PyTorch, which
  // extends the input there and interpolates.
  ValueId Bordered(ValueId x) const {
    if (sampling_.padding != Sampling::kBorder) return x;
    const double rim = sampling_.align_corners ? 0 : 0.5;
    const ValueId outside =
        Or(b_, Less(b_, x, b_.ScalarLike(x, -rim)), Greater(b_, x, b_.ScalarLike(x, last_ + rim)));
    return Where(b_, outside, Clipped(x), x);
  }

  // Between the outermost elements; the derivative at both ends is 0.
  ValueId Clipped(ValueId x) const {
    const ValueId first = b_.ScalarLike(x, 0), last = b_.ScalarLike(x, last_);
    return Where(b_, LessOrEqual(b_, x, first), first,
                 Where(b_, GreaterOrEqual(b_, x, last), last, x));
  }

  Tap At(ValueId place, ValueId weight) const {
    const ValueId first = b_.ScalarLike(place, 0), last = b_.ScalarLike(place, last_);
    const ValueId inside = And(b_, GreaterOrEqual(b_, place, first), LessOrEqual(b_, place, last));
    // NaN is not inside, and becomes 0.
    const ValueId index = Cast(b_, Where(b_, inside, place, first), DType::kInt64);
    return {index, inside, weight};
  }

  // Keys' kernel with a = -3/4.
  std::vector<Tap> CubicTaps(ValueId x) const {
    constexpr double kA = -0.75;
    const ValueId left = Floor(b_, x);
    const ValueId t = Sub(b_, x, left);
    const ValueId u = Sub(b_, b_.ScalarLike(x, 1), t);
    // Within 1 of an element, and from 1 to 2 (d is the distance).
    const auto near = [&](ValueId d) {
      return Plus(b_, Mul(b_, Plus(b_, Times(b_, d, kA + 2), -(kA + 3)), Mul(b_, d, d)), 1);
    };
    const auto far = [&](ValueId d) {
      const ValueId inner = Plus(b_, Mul(b_, Plus(b_, Times(b_, d, kA), -5 * kA), d), 8 * kA);
      return Plus(b_, Mul(b_, inner, d), -4 * kA);
    };
    const ValueId weights[] = {far(Plus(b_, t, 1)), near(t), near(u), far(Plus(b_, u, 1))};
    std::vector<Tap> taps;
    for (int k = 0; k < 4; ++k) {
      taps.push_back(At(Padded(Plus(b_, left, k - 1)), weights[static_cast<size_t>(k)]));
    }
    return taps;
  }

  GraphBuilder& b_;
  const Sampling& sampling_;
  int64_t extent_;
  double last_;
};

std::optional<Sampling> ReadSampling(NodeImport& n) {
  Sampling out;
  const std::string mode = StringAttr(n, "mode", n.opset < 20 ? "bilinear" : "linear");
  const std::string padding = StringAttr(n, "padding_mode", "zeros");
  out.align_corners = IntAttr(n, "align_corners", 0) != 0;
  if (mode == "nearest") {
    out.mode = Sampling::kNearest;
  } else if (mode == (n.opset < 20 ? "bicubic" : "cubic")) {
    out.mode = Sampling::kCubic;
  } else if (mode != (n.opset < 20 ? "bilinear" : "linear")) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("mode \"", mode, "\" is not one of opset ", n.opset));
  }
  if (padding == "border") {
    out.padding = Sampling::kBorder;
  } else if (padding == "reflection") {
    out.padding = Sampling::kReflection;
  } else if (padding != "zeros") {
    n.Fail(Reason::kInvalidModel, absl::StrCat("padding_mode \"", padding, "\" is not known"));
  }
  return n.b.ok() ? std::optional<Sampling>(out) : std::nullopt;
}

// Where the batches fit and the grid has a coordinate for each of the input's spatial dimensions.
bool GridFits(NodeImport& n) {
  const TensorType x = n.type(0), grid = n.type(1);
  const int rank = x.shape.rank();
  bool fits = rank >= 3 && grid.shape.rank() == rank && grid.shape[0] == x.shape[0] &&
              grid.shape[rank - 1] == rank - 2;
  const bool nothing = grid.shape.num_elements() == 0;
  for (int d = 2; fits && d < rank; ++d) fits = x.shape[d] > 0 || nothing;
  if (!fits) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("grid ", grid.shape.ToString(),
                                                " does not fit input ", x.shape.ToString()));
  } else if (!IsFloating(x.dtype) || !IsFloating(grid.dtype)) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("input is ", DTypeName(x.dtype), ", grid ", DTypeName(grid.dtype),
                        "; expected FLOAT or DOUBLE"));
  } else if (!IndicesFit(n, x.shape[0])) {
    return false;
  }
  return n.b.ok();
}

constexpr int64_t kMaxTaps = 64;  // a sample, all axes together

// The sum over all combinations of one tap an axis, [samples, channels]. `rows` is the input with
// a row an element; samples are [batch, samples of one].
ValueId SumOfTaps(GraphBuilder& b, ValueId rows, const std::vector<std::vector<Tap>>& axes,
                  absl::Span<const int64_t> extents) {
  const Shape samples = b.shape(axes[0][0].index);
  const int64_t batch = samples[0], count = samples.num_elements();
  int64_t combinations = 1, elements = 1;
  for (const auto& taps : axes) combinations *= static_cast<int64_t>(taps.size());
  for (int64_t extent : extents) elements *= extent;
  const ValueId start = Counting(b, batch, 2, 0, elements);
  const ValueId zero = b.ScalarLike(rows, 0);
  ValueId total = kNoValue;
  for (int64_t c = 0; c < combinations; ++c) {
    ValueId place = start, inside = kNoValue, weight = kNoValue;
    int64_t rest = c, stride = elements;
    for (size_t d = 0; d < axes.size(); ++d) {
      const auto size = static_cast<int64_t>(axes[d].size());
      const Tap& tap = axes[d][static_cast<size_t>(rest % size)];
      rest /= size;
      stride /= extents[d];
      place = Add(b, place, Mul(b, tap.index, Integer(b, stride)));
      inside = inside == kNoValue ? tap.inside : And(b, inside, tap.inside);
      if (tap.weight == kNoValue) continue;
      weight = weight == kNoValue ? tap.weight : Mul(b, weight, tap.weight);
    }
    const auto column = [&](ValueId v) { return Reshape(b, v, {count, 1}); };
    ValueId value = Where(b, column(inside), Gather(b, rows, Reshape(b, place, {count}), 0), zero);
    if (weight != kNoValue) value = Mul(b, value, column(weight));
    total = total == kNoValue ? value : Add(b, total, value);
  }
  return total;
}

Outputs ImportGridSample(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  GraphBuilder& b = n.b;
  const std::optional<Sampling> sampling = ReadSampling(n);
  if (!sampling || !GridFits(n)) return {};
  const TensorType type = n.type(0);
  const Shape x = type.shape, grid = n.type(1).shape;
  const int spatial = x.rank() - 2;
  Dims out(x.dims().begin(), x.dims().begin() + 2);
  out.insert(out.end(), grid.dims().begin() + 1, grid.dims().end() - 1);
  const std::optional<Shape> shape = ResultShape(b, out);
  if (!shape) return {};
  if (shape->num_elements() == 0) {
    return {Reshape(b, Slice(b, Reshape(b, n.in(0), {x.num_elements()}), {0}, {1}, {0}), *shape)};
  }
  const int64_t samples = grid.num_elements() / (x[0] * spatial);
  const ValueId points =
      Reshape(b, Cast(b, n.in(1), type.dtype), {x[0], samples, int64_t{spatial}});
  std::vector<std::vector<Tap>> axes;
  int64_t combinations = 1;
  for (int d = 0; d < spatial; ++d) {  // the last coordinate belongs to the first dimension
    const ValueId along =
        Slice(b, points, {0, 0, int64_t{spatial - 1 - d}}, {1, 1, 1}, {x[0], samples, 1});
    axes.push_back(AxisSampler(b, *sampling, x[d + 2]).Taps(Reshape(b, along, {x[0], samples})));
    combinations = SaturatingMul(combinations, static_cast<int64_t>(axes.back().size()));
  }
  if (combinations > kMaxTaps) {
    n.Fail(Reason::kUnsupportedOp, absl::StrCat("a sample of ", spatial, " dimensions looks at ",
                                                combinations, " elements, more than ", kMaxTaps));
    return {};
  }
  if (!b.ok()) return {};
  std::vector<int64_t> last = Iota(0, x.rank());  // channels
  std::rotate(last.begin() + 1, last.begin() + 2, last.end());
  const ValueId rows = Reshape(b, Transpose(b, n.in(0), last), {x.num_elements() / x[1], x[1]});
  const ValueId sum = SumOfTaps(b, rows, axes, absl::MakeConstSpan(x.dims()).subspan(2));
  const ValueId by_batch = Transpose(b, Reshape(b, sum, {x[0], samples, x[1]}), {0, 2, 1});
  return {Reshape(b, by_batch, *shape)};
}

std::vector<Sample> GridSamples() {
  std::vector<Sample> samples;
  const auto add = [&](Dims x, Dims grid, const char* mode, const char* padding, int64_t align,
                       int opset, double reach) {
    samples.push_back({.inputs = {Drawn(std::move(x)), Drawn(std::move(grid), -reach, reach)},
                       .attrs = {{"mode", std::string(mode)},
                                 {"padding_mode", std::string(padding)},
                                 {"align_corners", align}},
                       .opset = opset});
  };
  add({2, 2, 3, 4}, {2, 2, 3, 2}, "bilinear", "zeros", 0, 16, 1.3);
  add({1, 2, 3, 4}, {1, 2, 3, 2}, "bilinear", "border", 1, 16, 1.3);
  add({1, 1, 3, 2}, {1, 2, 2, 2}, "bilinear", "reflection", 0, 16, 2.4);
  add({1, 1, 3, 4}, {1, 2, 2, 2}, "nearest", "reflection", 1, 16, 2.4);
  add({1, 2, 4, 4}, {1, 2, 2, 2}, "bicubic", "zeros", 0, 16, 0.9);
  add({1, 1, 4, 5}, {1, 2, 2, 2}, "cubic", "border", 1, 20, 0.9);
  add({1, 1, 4, 5}, {1, 2, 2, 2}, "cubic", "reflection", 0, 20, 0.9);
  add({1, 2, 2, 3, 2}, {1, 2, 1, 2, 3}, "linear", "zeros", 0, 20, 1.1);
  add({1, 1, 2, 3, 2}, {1, 2, 1, 2, 3}, "nearest", "border", 0, 20, 1.1);
  add({1, 2, 3}, {1, 4, 1}, "linear", "zeros", 1, 20, 1.1);
  add({1, 0, 2, 2}, {1, 2, 2, 2}, "linear", "zeros", 1, 20, 1);
  return samples;
}

const OpDef kGridSampleOp = {
    .name = "GridSample",
    .doc =
        "The input sampled at the points of a grid, in coordinates from -1 to 1 with the last"
        " dimension first: the nearest element (half to even), a linear or a cubic interpolation."
        " What lies outside is 0, the border, or a reflection. Derivatives by input and grid; 0 by"
        " the grid for the nearest element, and where the border is taken.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "GridSample", .since = 16, .import = ImportGridSample}},
    .domain = {.samples = GridSamples()},
};

}  // namespace

std::vector<const OpDef*> GridSampleOps() { return {&kGridSampleOp}; }

}  // namespace gradwire
