// Resize and Upsample: per axis a sparse matrix whose weights follow from attributes and sizes, so
// that everything else is Resample and Gather. What ONNX's text leaves open (which elements a
// filter takes, and how the edge counts) is as in its reference implementation.
#include <algorithm>
#include <cmath>

#include "engine/base/checked.h"
#include "engine/ops/builders.h"
#include "engine/ops/indexing_rows.h"
#include "engine/ops/resample.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;

struct Sampling {
  enum Mode { kNearest, kLinear, kCubic } mode = kNearest;
  std::string transform, nearest_mode;
  double cubic_a = -0.75;
  bool exclude_outside = false;
  bool antialias = false;
};

// One axis of the result. `scale` may differ a little from out / in.
struct ResizedAxis {
  int axis = 0;
  int64_t in = 0, out = 0;
  double scale = 1;
  double start = 0, end = 1;  // of the region of interest, in parts of the input
};

bool OneOf(absl::string_view name, std::initializer_list<absl::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// ---- Weights

// Where element x of the result lies in the input. The length of the result is a whole number here,
// as in ONNX's text and in ONNX Runtime, although ONNX's reference takes scale * length in its
// place.
double Position(const std::string& transform, const ResizedAxis& a, int64_t x) {
  const auto at = static_cast<double>(x), in = static_cast<double>(a.in);
  const auto out = static_cast<double>(a.out);
  if (transform == "asymmetric") return at / a.scale;
  if (transform == "tf_half_pixel_for_nn") return (at + 0.5) / a.scale;
  if (transform == "align_corners") return a.out == 1 ? 0 : at * (in - 1) / (out - 1);
  if (transform == "pytorch_half_pixel" && a.out == 1) return 0;
  if (transform == "tf_crop_and_resize") {
    const double part = a.out == 1 ? 0.5 : at / (out - 1);
    return (a.start + part * (a.end - a.start)) * (in - 1);
  }
  const double half_pixel = (at + 0.5) / a.scale - 0.5;
  if (transform != "half_pixel_symmetric") return half_pixel;
  return half_pixel + in / 2 * (1 - out / (a.scale * in));
}

double Kernel(const Sampling& sampling, double x) {
  x = std::fabs(x);
  if (sampling.mode == Sampling::kLinear) return std::max(1 - x, 0.0);
  const double a = sampling.cubic_a;
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

int64_t NearestTap(const std::string& mode, double position) {
  const double floor = std::floor(position), rest = position - floor;
  const bool up = rest > 0 && (mode == "ceil" || (mode == "round_prefer_floor" && rest > 0.5) ||
                               (mode == "round_prefer_ceil" && rest >= 0.5));
  return static_cast<int64_t>(floor) + (up ? 1 : 0);
}

// How far to each side of a position elements have weight, in elements of the input.
double Reach(const Sampling& sampling, const ResizedAxis& a) {
  if (sampling.mode == Sampling::kNearest) return 1;
  const double shrink = sampling.antialias ? std::min(a.scale, 1.0) : 1;
  return (sampling.mode == Sampling::kCubic ? 2 : 1) / shrink;
}

void AddRow(const Sampling& sampling, const ResizedAxis& a, double position, TapRows* rows) {
  const double reach = Reach(sampling, a);
  // Further out the edge has all of the weight as well.
  position = std::clamp(position, -reach - 2, static_cast<double>(a.in) + reach + 2);
  const auto clamped = [&](int64_t tap) { return std::clamp<int64_t>(tap, 0, a.in - 1); };
  if (sampling.mode == Sampling::kNearest) {
    rows->taps.push_back(clamped(NearestTap(sampling.nearest_mode, position)));
    rows->weights.push_back(1);
  } else {
    const double shrink = sampling.antialias ? std::min(a.scale, 1.0) : 1;
    // The element to the left, strictly: an integer position is at 1 from it.
    const auto left = static_cast<int64_t>(std::ceil(position)) - 1;
    const auto first = static_cast<int64_t>(std::floor(-reach)) + 1;
    double sum = 0, inside = 0;
    std::vector<double> weights;
    for (int64_t k = first; k <= 1 - first; ++k) {
      const double distance = static_cast<double>(left + k) - position;
      weights.push_back(Kernel(sampling, distance * shrink));
      sum += weights.back();
      if (left + k == clamped(left + k)) inside += weights.back();
    }
    const bool exclude = sampling.exclude_outside && inside != 0;
    if (exclude) sum = inside;
    const auto row_start = static_cast<size_t>(rows->offsets.back());
    for (int64_t k = first; k <= 1 - first; ++k) {
      const int64_t tap = clamped(left + k);
      const double weight = weights[static_cast<size_t>(k - first)] / sum;
      if (weight == 0 || (exclude && tap != left + k)) continue;
      if (rows->taps.size() > row_start && rows->taps.back() == tap) {
        rows->weights.back() += weight;
      } else {
        rows->taps.push_back(tap);
        rows->weights.push_back(weight);
      }
    }
  }
  rows->offsets.push_back(static_cast<int64_t>(rows->taps.size()));
}

// x along one axis. What lies outside the input in tf_crop_and_resize is noted in `outside`.
ValueId ResizeAxis(NodeImport& n, ValueId x, const Sampling& sampling, const ResizedAxis& a,
                   std::vector<bool>* outside) {
  if (a.out == 0) {
    Dims dims = n.b.shape(x).dims();
    dims[static_cast<size_t>(a.axis)] = 0;
    return Slice(n.b, x, std::vector<int64_t>(dims.size(), 0), std::vector<int64_t>(dims.size(), 1),
                 Shape(dims));
  }
  const double taps = std::min(2 * Reach(sampling, a) + 2, 1e12);
  if (!IndicesFit(n, SaturatingMul(a.out, static_cast<int64_t>(taps)))) return kNoValue;
  TapRows rows{{0}, {}, {}};
  const bool crops = sampling.transform == "tf_crop_and_resize";
  bool identity = a.in == a.out, single = true;
  for (int64_t i = 0; i < a.out; ++i) {
    const double position = Position(sampling.transform, a, i);
    outside->push_back(crops && (position < 0 || position > static_cast<double>(a.in - 1)));
    AddRow(sampling, a, position, &rows);
    single = single && rows.offsets.back() == i + 1 && rows.weights.back() == 1;
    identity = identity && single && rows.taps.back() == i;
  }
  if (identity) return x;
  if (!single) return Resample(n.b, x, a.axis, std::move(rows));
  return Gather(n.b, x, n.b.Constant(Tensor::FromVector<int64_t>({a.out}, rows.taps)), a.axis);
}

ValueId ResizeAll(NodeImport& n, const Sampling& sampling, const std::vector<ResizedAxis>& axes,
                  double extrapolation) {
  GraphBuilder& b = n.b;
  ValueId x = n.in(0), kept = kNoValue;
  const int rank = b.shape(x).rank();
  for (const ResizedAxis& a : axes) {
    std::vector<bool> outside;
    x = ResizeAxis(n, x, sampling, a, &outside);
    if (!b.ok()) return kNoValue;
    if (std::count(outside.begin(), outside.end(), true) == 0) continue;
    Dims dims(static_cast<size_t>(rank), 1);
    dims[static_cast<size_t>(a.axis)] = a.out;
    outside.flip();
    const ValueId mask = b.Constant(Tensor::FromVector<bool>(Shape(dims), outside));
    kept = kept == kNoValue ? mask : And(b, kept, mask);
  }
  return kept == kNoValue ? x : Where(b, kept, x, b.ScalarLike(x, extrapolation));
}

// ---- Arguments

// Frozen numbers; empty where the input is left out or has no elements.
std::optional<std::vector<double>> FrozenNumbers(NodeImport& n, int i) {
  std::vector<double> out;
  if (!n.has(i)) return out;
  const std::optional<Tensor> value = n.Frozen(i);
  if (!value) return std::nullopt;
  if (value->num_elements() > 2 * Shape::kMaxRank) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("input ", i, " has ", value->num_elements(), " elements"));
    return std::nullopt;
  }
  for (int64_t k = 0; k < value->num_elements(); ++k) out.push_back(ElementAsDouble(*value, k));
  return out;
}

std::optional<Sampling> ReadSampling(NodeImport& n, bool upsample) {
  Sampling out;
  const std::string mode = StringAttr(n, "mode", "nearest");
  const bool simple = upsample || n.opset < 11;
  out.transform =
      simple ? "asymmetric" : StringAttr(n, "coordinate_transformation_mode", "half_pixel");
  out.nearest_mode = simple ? "floor" : StringAttr(n, "nearest_mode", "round_prefer_floor");
  out.cubic_a = FloatAttr(n, "cubic_coeff_a", -0.75);
  out.exclude_outside = IntAttr(n, "exclude_outside", 0) != 0;
  out.antialias = IntAttr(n, "antialias", 0) != 0;
  out.mode = mode == "cubic"    ? Sampling::kCubic
             : mode == "linear" ? Sampling::kLinear
                                : Sampling::kNearest;
  const bool known_mode = OneOf(mode, {"nearest", "linear"}) || (mode == "cubic" && !simple);
  const bool known_transform =
      OneOf(out.transform, {"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric",
                            "tf_crop_and_resize"}) ||
      (out.transform == "tf_half_pixel_for_nn" && n.opset < 13) ||
      (out.transform == "half_pixel_symmetric" && n.opset >= 19);
  const bool known_nearest =
      OneOf(out.nearest_mode, {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"});
  if (!known_mode || !known_transform || !known_nearest || !std::isfinite(out.cubic_a)) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("mode \"", mode, "\", coordinate_transformation_mode \"", out.transform,
                        "\", nearest_mode \"", out.nearest_mode, "\", cubic_coeff_a ", out.cubic_a,
                        ": not all of them are of opset ", n.opset));
  }
  return n.b.ok() ? std::optional<Sampling>(out) : std::nullopt;
}

// The axes that the node names, in its order: scales, sizes and roi are lined up with them.
std::vector<int> NamedAxes(NodeImport& n) {
  const int rank = n.type(0).shape.rank();
  std::vector<int> axes;
  if (n.opset < 18 || !n.attrs.Has("axes")) {
    for (int d = 0; d < rank; ++d) axes.push_back(d);
    return axes;
  }
  const auto given = n.IntsFromAttrOrInput("axes", -1);
  for (int64_t axis : given.value_or(std::vector<int64_t>())) {
    axes.push_back(n.Axis(axis, rank));
    if (!n.b.ok()) return {};
    if (std::count(axes.begin(), axes.end(), axes.back()) > 1) {
      n.Fail(Reason::kInvalidModel, "the same axis is given twice");
      return {};
    }
  }
  return axes;
}

// As ONNX's type inference computes extents: in FLOAT.
int64_t Scaled(int64_t extent, double scale) {
  const float product = std::floor(static_cast<float>(extent) * static_cast<float>(scale));
  return product < 9e18f ? static_cast<int64_t>(product) : INT64_MAX;
}

void ScaleAll(NodeImport& n, const std::vector<double>& scales, std::vector<ResizedAxis>* axes) {
  for (size_t i = 0; i < axes->size(); ++i) {
    ResizedAxis& a = (*axes)[i];
    a.scale = scales[i];
    if (!(a.scale > 0) || !std::isfinite(a.scale)) {
      return n.Fail(Reason::kInvalidModel, absl::StrCat("a scale is ", a.scale));
    }
    a.out = Scaled(a.in, a.scale);
  }
}

void SizeAll(NodeImport& n, const std::vector<int64_t>& sizes, std::vector<ResizedAxis>* axes) {
  const std::string policy = StringAttr(n, "keep_aspect_ratio_policy", "stretch");
  if (!OneOf(policy, {"stretch", "not_larger", "not_smaller"})) {
    return n.Fail(Reason::kInvalidModel, absl::StrCat("policy \"", policy, "\" is not known"));
  }
  for (size_t i = 0; i < axes->size(); ++i) {
    ResizedAxis& a = (*axes)[i];
    if (sizes[i] < 0 || (a.in == 0 && sizes[i] > 0)) {
      return n.Fail(Reason::kShapeMismatch,
                    absl::StrCat("extent ", a.in, " cannot be resized to ", sizes[i]));
    }
    a.out = sizes[i];
    a.scale = a.in == 0 ? 1 : static_cast<double>(a.out) / static_cast<double>(a.in);
  }
  if (policy == "stretch" || axes->empty()) return;
  const auto order = [](const ResizedAxis& a, const ResizedAxis& b) { return a.scale < b.scale; };
  const double scale = policy == "not_larger"
                           ? std::min_element(axes->begin(), axes->end(), order)->scale
                           : std::max_element(axes->begin(), axes->end(), order)->scale;
  for (ResizedAxis& a : *axes) {
    a.scale = scale;
    a.out = static_cast<int64_t>(std::min(scale * static_cast<double>(a.in) + 0.5, 9e18));
  }
}

std::optional<std::vector<ResizedAxis>> ReadAxes(NodeImport& n, const std::vector<double>& scales,
                                                 const std::vector<double>& roi, int sizes_input) {
  std::vector<ResizedAxis> axes;
  for (int axis : NamedAxes(n)) axes.push_back({.axis = axis, .in = n.type(0).shape[axis]});
  std::optional<std::vector<int64_t>> sizes = n.FrozenInts(sizes_input);
  if (sizes && sizes->empty()) sizes.reset();
  if (!n.b.ok()) return std::nullopt;
  const size_t given = sizes ? sizes->size() : scales.size();
  if (sizes.has_value() != scales.empty() || given != axes.size() ||
      (!roi.empty() && roi.size() != 2 * axes.size())) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("has ", scales.size(), " scales, ", sizes ? sizes->size() : 0,
                        " sizes and ", roi.size(), " bounds for ", axes.size(),
                        " axes; expected scales or sizes, one an axis"));
    return std::nullopt;
  }
  sizes ? SizeAll(n, *sizes, &axes) : ScaleAll(n, scales, &axes);
  std::vector<int64_t> dims = ToVector(n.type(0).shape.dims());
  for (size_t i = 0; i < axes.size(); ++i) {
    dims[static_cast<size_t>(axes[i].axis)] = axes[i].out;
    if (roi.empty()) continue;
    axes[i].start = roi[i];
    axes[i].end = roi[i + axes.size()];
    if (!std::isfinite(axes[i].start) || !std::isfinite(axes[i].end)) {
      n.Fail(Reason::kInvalidModel, "a bound of roi is not finite");
    }
  }
  return n.b.ok() && ResultShape(n.b, dims) ? std::optional(axes) : std::nullopt;
}

Outputs Resized(NodeImport& n, bool upsample, const std::vector<double>& scales,
                const std::vector<double>& roi, int sizes_input) {
  const std::optional<Sampling> sampling = ReadSampling(n, upsample);
  if (!sampling) return {};
  const bool crops = sampling->transform == "tf_crop_and_resize";
  if (crops && roi.empty()) {
    n.Fail(Reason::kInvalidModel, "tf_crop_and_resize needs the input roi");
    return {};
  }
  const auto axes = ReadAxes(n, scales, crops ? roi : std::vector<double>(), sizes_input);
  if (!axes) return {};
  return {ResizeAll(n, *sampling, *axes, FloatAttr(n, "extrapolation_value", 0))};
}

Outputs ImportResize(NodeImport& n) {
  const bool early = n.opset < 11;
  if (!TakesInputs(n, early ? 2 : 1, early ? 2 : 4)) return {};
  const auto scales = FrozenNumbers(n, early ? 1 : 2);
  const auto roi = early ? std::vector<double>() : FrozenNumbers(n, 1);
  if (!n.b.ok()) return {};
  return Resized(n, false, *scales, *roi, 3);
}

Outputs ImportUpsample(NodeImport& n) {
  if (!TakesInputs(n, n.opset < 9 ? 1 : 2, n.opset < 9 ? 1 : 2)) return {};
  std::optional<std::vector<double>> scales = n.attrs.Floats("scales");
  if (n.opset >= 9) scales = FrozenNumbers(n, 1);
  if (!n.b.ok()) return {};
  return Resized(n, true, *scales, {}, 3);
}

// ---- Rows

SampleInput FrozenFloats(std::vector<double> values) {
  const auto n = static_cast<int64_t>(values.size());
  return {.shape = {n}, .dtype = DType::kFloat, .values = std::move(values), .constant = true};
}

Sample BySizes(Dims shape, std::vector<double> sizes, Attrs attrs, int opset = 18) {
  return {.inputs = {Drawn(std::move(shape)), Absent(), Absent(), FrozenVector(std::move(sizes))},
          .attrs = std::move(attrs),
          .opset = opset};
}
Sample ByScales(Dims shape, std::vector<double> scales, Attrs attrs, int opset = 18) {
  return {.inputs = {Drawn(std::move(shape)), Absent(), FrozenFloats(std::move(scales))},
          .attrs = std::move(attrs),
          .opset = opset};
}

std::vector<Sample> ResizeSamples() {
  const auto text = [](const char* value) { return AttrValue(std::string(value)); };
  const AttrValue linear = text("linear"), cubic = text("cubic");
  const std::string transform = "coordinate_transformation_mode";
  return {
      ByScales({1, 2, 2, 3}, {1, 1, 2, 1.5}, {}),
      BySizes({2, 5}, {2, 3}, {{"nearest_mode", text("ceil")}, {transform, text("asymmetric")}}),
      BySizes({1, 1, 3, 4}, {1, 1, 5, 7}, {{"mode", linear}}),
      BySizes({3, 4}, {2, 6}, {{"mode", linear}, {transform, text("align_corners")}}, 13),
      BySizes({6}, {1}, {{"mode", linear}, {transform, text("pytorch_half_pixel")}}, 13),
      BySizes({5, 2}, {3, 2}, {{"mode", linear}, {"antialias", int64_t{1}}}),
      BySizes({4, 3}, {7, 2}, {{"mode", cubic}}),
      BySizes({4, 3}, {7, 2},
              {{"mode", cubic}, {"exclude_outside", int64_t{1}}, {"cubic_coeff_a", -0.5}}),
      BySizes({6, 3}, {2}, {{"mode", cubic}, {"antialias", int64_t{1}}, {"axes", Ints({0})}}),
      ByScales({4}, {0.6}, {{"mode", linear}, {transform, text("half_pixel_symmetric")}}, 19),
      BySizes({4, 6}, {2, 5}, {{"mode", linear}, {"keep_aspect_ratio_policy", text("not_larger")}}),
      {.inputs = {Drawn({4, 3}), FrozenFloats({0.4, 0, 1.2, 1}), Absent(), FrozenVector({3, 3})},
       .attrs = {{"mode", linear},
                 {transform, text("tf_crop_and_resize")},
                 {"extrapolation_value", 10.0}},
       .opset = 13},
      {.inputs = {Drawn({2, 4}), FrozenFloats({1, 0.5})}, .attrs = {{"mode", linear}}, .opset = 10},
      {.inputs = {Drawn({3}), FrozenFloats({}), FrozenFloats({2})},
       .attrs = {{transform, text("tf_half_pixel_for_nn")}},
       .opset = 11},
      BySizes({0, 3}, {0, 2}, {{"mode", linear}}),
      BySizes({2, 3}, {2, 0}, {{"mode", linear}}),
  };
}

const OpDef kResizeOp = {
    .name = "Resize",
    .doc =
        "The input sampled at other places along its axes: the nearest element, a linear or a cubic"
        " interpolation, with all of ONNX's coordinates, edges and filters. Scales, sizes and roi"
        " decide the graph; derivatives are by the input alone.",
    .max_inputs = 4,
    .onnx = {{.name = "Resize", .since = 10, .import = ImportResize}},
    .domain = {.samples = ResizeSamples()},
};

const OpDef kUpsampleOp = {
    .name = "Upsample",
    .doc = "Resize as it was before opset 10: element i of the result lies at i / scale.",
    .max_inputs = 2,
    .onnx = {{.name = "Upsample", .since = 7, .until = 9, .import = ImportUpsample}},
    .domain = {.samples = {{.inputs = {Drawn({1, 1, 2, 2}), FrozenFloats({1, 1, 2, 3})},
                            .opset = 9},
                           {.inputs = {Drawn({1, 1, 2, 2}), FrozenFloats({1, 1, 2, 2})},
                            .attrs = {{"mode", std::string("linear")}},
                            .opset = 9},
                           {.inputs = {Drawn({2, 2})},
                            .attrs = {{"scales", std::vector<double>{1, 2}}},
                            .opset = 7}}},
};

}  // namespace

std::vector<const OpDef*> ResizeOps() { return {&kResizeOp, &kUpsampleOp}; }

}  // namespace gradwire
