// Normalisations, all said with core ops: Compile fuses them into passes over the elements. The
// variance is the mean square of what is left after the mean was taken away: it does not cancel.
#include <algorithm>

#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/structural.h"
#include "engine/ops/window_import.h"

namespace gradwire {
namespace {

// ---- Parts

// The mean over `axes`, which stay as extents of 1. SumTo adds neighbouring dimensions on the spot
// where ReduceSum over all of the axes would move elements.
ValueId MeanOver(GraphBuilder& b, ValueId x, const Axes& axes) {
  if (!b.ok()) return kNoValue;
  Dims dims = b.shape(x).dims();
  int64_t count = 1;
  for (int64_t axis : axes) {
    count *= dims[static_cast<size_t>(axis)];
    dims[static_cast<size_t>(axis)] = 1;
  }
  const ValueId sum = SumTo(b, x, Shape(std::move(dims)));
  return count == 1 ? sum : Div(b, sum, b.ScalarLike(x, static_cast<double>(count)));
}

struct Moments {
  ValueId mean, centred, variance;
};
Moments MomentsOf(GraphBuilder& b, ValueId x, const Axes& axes) {
  Moments m;
  m.mean = MeanOver(b, x, axes);
  m.centred = Sub(b, x, m.mean);
  m.variance = MeanOver(b, Mul(b, m.centred, m.centred), axes);
  return m;
}

// 1 / sqrt(x + epsilon)
ValueId InverseRoot(GraphBuilder& b, ValueId x, double epsilon) {
  return Reciprocal(b, Sqrt(b, Add(b, x, b.ScalarLike(x, epsilon))));
}

bool TakesFloating(NodeImport& n) {
  if (IsFloating(n.type(0).dtype)) return true;
  n.Fail(Reason::kDtypeUnsupported,
         absl::StrCat("input is ", DTypeName(n.type(0).dtype), ", expected FLOAT or DOUBLE"));
  return false;
}

bool HasRank(NodeImport& n, int at_least) {
  const Shape& x = n.type(0).shape;
  if (x.rank() >= at_least) return true;
  n.Fail(Reason::kShapeMismatch,
         absl::StrCat("input is ", x.ToString(), ", expected rank ", at_least, " or more"));
  return false;
}

// Input i, which has to be of this shape, as `dtype` and with the extents of 1 that `lined_up` has.
// kNoValue after a failure.
ValueId Parameter(NodeImport& n, int i, const Shape& expected, const Shape& lined_up, DType dtype) {
  const TensorType got = n.type(i);
  if (got.shape != expected || !IsFloating(got.dtype)) {
    n.Fail(IsFloating(got.dtype) ? Reason::kShapeMismatch : Reason::kDtypeUnsupported,
           absl::StrCat("input ", i, " is ", got.ToString(), ", expected ",
                        TensorType{dtype, expected}.ToString(), " for an input of ",
                        n.type(0).shape.ToString()));
    return kNoValue;
  }
  return Reshape(n.b, Cast(n.b, n.in(i), dtype), lined_up);
}

// A vector over dimension 1 of something of this rank.
Shape AlongChannels(int64_t channels, int rank) {
  Dims dims(static_cast<size_t>(std::max(rank - 1, 1)), 1);
  dims[0] = channels;
  return Shape(std::move(dims));
}

// ---- BatchNormalization

bool BatchNormTrains(NodeImport& n) {
  if (n.mode != Mode::kAsGraph) return n.mode == Mode::kTrain;
  if (n.opset >= 14) return IntAttr(n, "training_mode", 0) != 0;
  return n.opset < 7 ? IntAttr(n, "is_test", 0) == 0 : n.num_outputs > 1;
}

// What the statistics become in training: ONNX takes the population's variance, and `momentum`
// is the part that stays.
void Blend(NodeImport& n, int input, ValueId batch, double momentum, std::vector<ValueId>* out) {
  GraphBuilder& b = n.b;
  const ValueId state = n.State(input);
  const ValueId before = Cast(b, state, b.dtype(batch));
  const ValueId blend = Add(b, Mul(b, before, b.ScalarLike(before, momentum)),
                            Mul(b, batch, b.ScalarLike(batch, 1 - momentum)));
  out->push_back(Cast(b, blend, b.dtype(state)));
  if (b.ok()) n.SetState(input, out->back());
}

std::vector<ValueId> ImportBatchNormalization(NodeImport& n) {
  if (!TakesInputs(n, 5, 5) || !TakesFloating(n) || !HasRank(n, 1)) return {};
  GraphBuilder& b = n.b;
  const Shape x = n.type(0).shape;
  const double epsilon = FloatAttr(n, "epsilon", 1e-5), momentum = FloatAttr(n, "momentum", 0.9);
  const bool by_channel = n.opset >= 9 || IntAttr(n, "spatial", 1) != 0;
  const bool trains = BatchNormTrains(n);
  // Statistics are of a channel, or of each element of a member of the batch.
  const int64_t channels = x.rank() > 1 ? x[1] : 1;
  const Shape each = by_channel || x.rank() == 1
                         ? Shape{channels}
                         : Shape(Dims(x.dims().begin() + 1, x.dims().end()));
  const Shape lined_up = by_channel ? AlongChannels(channels, x.rank()) : each;
  // From opset 14 on, types may differ: the widest computes.
  DType dtype = n.type(0).dtype;
  for (int i = 1; i < 5; ++i) dtype = n.type(i).dtype == DType::kDouble ? DType::kDouble : dtype;
  const ValueId wide = Cast(b, n.in(0), dtype);
  ValueId parameters[5];
  for (int i = 1; i < 5; ++i) parameters[i] = Parameter(n, i, each, lined_up, dtype);
  if (!b.ok()) return {};
  const ValueId scale = parameters[1], bias = parameters[2];
  const auto normalised = [&](ValueId centred, ValueId spread) {
    const ValueId factor = Mul(b, scale, InverseRoot(b, spread, epsilon));
    return Cast(b, Add(b, Mul(b, centred, factor), bias), n.type(0).dtype);
  };
  if (!trains) {
    return {normalised(Sub(b, wide, parameters[3]), parameters[4]), n.in(3), n.in(4), n.in(3),
            n.in(4)};
  }
  Axes axes = {0};
  for (int d = 2; by_channel && d < x.rank(); ++d) axes.push_back(d);
  const Moments m = MomentsOf(b, wide, axes);
  const ValueId batch_mean = Reshape(b, m.mean, each),
                batch_variance = Reshape(b, m.variance, each);
  std::vector<ValueId> out = {normalised(m.centred, Reshape(b, batch_variance, lined_up))};
  Blend(n, 3, batch_mean, momentum, &out);
  Blend(n, 4, batch_variance, momentum, &out);
  if (n.opset < 14) {
    for (ValueId saved : {batch_mean, batch_variance}) {
      out.push_back(Cast(b, saved, n.type(0).dtype));
    }
  }
  return out;
}

std::vector<Sample> BatchNormalizationSamples() {
  const auto inputs = [](Dims x, const Dims& each) {
    return std::vector<SampleInput>{Drawn(std::move(x)), Drawn(each), Drawn(each), Drawn(each),
                                    Drawn(each, 0.3, 2)};
  };
  const Attrs::Entry trains = {"training_mode", int64_t{1}}, momentum = {"momentum", 0.77};
  return {
      {.inputs = inputs({2, 3, 4, 2}, {3})},
      {.inputs = inputs({3, 2, 4}, {2}), .attrs = {{"epsilon", 1e-2}}, .opset = 9},
      {.inputs = inputs({4, 3}, {3}), .attrs = {trains, momentum}, .opset = 14, .num_outputs = 3},
      {.inputs = inputs({2, 2, 3, 4}, {2}), .attrs = {trains}, .num_outputs = 3},
      {.inputs = inputs({2, 2, 2, 2, 3}, {2}), .attrs = {trains}},
      {.inputs = inputs({5}, {1}), .attrs = {momentum}},
      {.inputs = inputs({3, 2, 4}, {2}), .attrs = {momentum}, .opset = 13, .num_outputs = 5},
      {.inputs = inputs({3, 2, 2}, {2, 2}),
       .attrs = {{"spatial", int64_t{0}}},
       .opset = 7,
       .num_outputs = 3},
      {.inputs = inputs({3, 2, 2}, {2, 2}), .attrs = {{"spatial", int64_t{0}}}, .opset = 8},
      {.inputs = inputs({3, 2, 2}, {2}), .attrs = {{"is_test", int64_t{1}}}, .opset = 6},
      {.inputs = inputs({3, 2, 2}, {2}), .opset = 6, .num_outputs = 5},
  };
}

const OpDef kBatchNormalizationOp = {
    .name = "BatchNormalization",
    .doc =
        "`scale (x - mean) / sqrt(var + epsilon) + bias` by channel: with the running statistics,"
        " or in training with the batch's (mode TRAIN, or what the node says). Then the running"
        " ones become `momentum` of themselves and the rest of the batch's, whose variance is"
        " divided by the number of elements as ONNX says (PyTorch: by one less, and its momentum"
        " is 1 less ours). A training job keeps them in the initialisers.",
    .min_inputs = 5,
    .max_inputs = 5,
    .onnx = {{.name = "BatchNormalization", .since = 6, .import = ImportBatchNormalization}},
    .state_inputs = {3, 4},
    .domain = {.samples = BatchNormalizationSamples()},
};

// ---- LayerNormalization and RMSNormalization

// The type that the statistics are computed in: that of the input, or stash_type where it is wider.
// kUndefined after a failure.
DType StatisticsType(NodeImport& n, DType* stash) {
  const int64_t said = IntAttr(n, "stash_type", 1);
  *stash = DTypeFromOnnx(said);
  if (!IsFloating(*stash)) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("stash_type is ", said, ", expected 1 (FLOAT) or 11 (DOUBLE)"));
    return DType::kUndefined;
  }
  return n.type(0).dtype == DType::kDouble ? DType::kDouble : *stash;
}

// Input i, which broadcasts to the shape of input 0. kNoValue after a failure.
ValueId BroadcastParameter(NodeImport& n, int i) {
  const TensorType got = n.type(i), x = n.type(0);
  if (IsFloating(got.dtype) && BroadcastsTo(got.shape, x.shape)) {
    return Cast(n.b, n.in(i), x.dtype);
  }
  n.Fail(IsFloating(got.dtype) ? Reason::kShapeMismatch : Reason::kDtypeUnsupported,
         absl::StrCat("input ", i, " is ", got.ToString(), ", which does not broadcast to ",
                      x.ToString()));
  return kNoValue;
}

// What Layer- and RMSNormalization say in the same way. False after a failure.
struct FromAxisOn {
  std::vector<int64_t> axes;
  double epsilon = 0;
  DType stash = DType::kUndefined;
  ValueId scale = kNoValue;
  ValueId wide = kNoValue;  // the input in the type of the statistics
};
bool ReadFromAxisOn(NodeImport& n, int max_inputs, FromAxisOn* out) {
  if (!TakesInputs(n, 2, max_inputs) || !TakesFloating(n)) return false;
  const int rank = n.type(0).shape.rank();
  const int axis = n.Axis(IntAttr(n, "axis", -1), rank);
  out->epsilon = FloatAttr(n, "epsilon", 1e-5);
  const DType dtype = StatisticsType(n, &out->stash);
  if (!n.b.ok()) return false;
  out->axes = Iota(axis, rank);
  out->scale = BroadcastParameter(n, 1);
  out->wide = Cast(n.b, n.in(0), dtype);
  return n.b.ok();
}

std::vector<ValueId> ImportLayerNormalization(NodeImport& n) {
  GraphBuilder& b = n.b;
  FromAxisOn over;
  if (!ReadFromAxisOn(n, 3, &over)) return {};
  const ValueId bias = n.has(2) ? BroadcastParameter(n, 2) : kNoValue;
  if (!b.ok()) return {};
  const Moments m = MomentsOf(b, over.wide, over.axes);
  const ValueId inverse = InverseRoot(b, m.variance, over.epsilon);
  ValueId y = Mul(b, Cast(b, Mul(b, m.centred, inverse), n.type(0).dtype), over.scale);
  if (bias != kNoValue) y = Add(b, y, bias);
  return {y, Cast(b, m.mean, over.stash), Cast(b, inverse, over.stash)};
}

std::vector<ValueId> ImportRmsNormalization(NodeImport& n) {
  GraphBuilder& b = n.b;
  FromAxisOn over;
  if (!ReadFromAxisOn(n, 2, &over)) return {};
  const ValueId square = MeanOver(b, Square(b, over.wide), over.axes);
  const ValueId y = Mul(b, over.wide, InverseRoot(b, square, over.epsilon));
  return {Mul(b, Cast(b, y, n.type(0).dtype), over.scale)};
}

const OpDef kLayerNormalizationOp = {
    .name = "LayerNormalization",
    .doc =
        "`scale (x - mean) / sqrt(var + epsilon) + bias` with mean and variance over all dimensions"
        " from `axis` on. They are computed in the wider of the input's type and `stash_type`,"
        " which is the type of the outputs Mean and InvStdDev.",
    .min_inputs = 2,
    .max_inputs = 3,
    .onnx = {{.name = "LayerNormalization", .since = 17, .import = ImportLayerNormalization}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3, 4}), Drawn({4}), Drawn({4})}},
                       {.inputs = {Drawn({2, 3, 4}), Drawn({3, 4}), Drawn({3, 4})},
                        .attrs = {{"axis", int64_t{1}}, {"epsilon", 0.1}},
                        .num_outputs = 3},
                       {.inputs = {Drawn({3, 4}), Drawn({3, 4})}, .attrs = {{"axis", int64_t{-2}}}},
                       {.inputs = {Drawn({2, 3, 4}), Drawn({1}), Drawn({3, 1})},
                        .attrs = {{"axis", int64_t{1}}, {"stash_type", int64_t{11}}}},
                       {.inputs = {Drawn({5, 67}, -20, 20), Drawn({67}), Drawn({67})}},
                       {.inputs = {Drawn({0, 4}), Drawn({4})}},
                   }},
};

const OpDef kRmsNormalizationOp = {
    .name = "RMSNormalization",
    .doc =
        "`scale x / sqrt(mean(x^2) + epsilon)` with the mean over all dimensions from `axis` on,"
        " computed in the wider of the input's type and `stash_type`.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "RMSNormalization", .since = 23, .import = ImportRmsNormalization}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3, 4}), Drawn({4})}},
                       {.inputs = {Drawn({2, 3, 4}), Drawn({3, 4})},
                        .attrs = {{"axis", int64_t{-2}}, {"epsilon", 0.1}}},
                       {.inputs = {Drawn({3, 4}), Drawn({1})},
                        .attrs = {{"axis", int64_t{0}}, {"stash_type", int64_t{11}}}},
                   }},
};

// ---- GroupNormalization and InstanceNormalization

std::vector<ValueId> ImportGroupNormalization(NodeImport& n) {
  if (!TakesInputs(n, 3, 3) || !TakesFloating(n) || !HasRank(n, 2)) return {};
  GraphBuilder& b = n.b;
  const TensorType x = n.type(0);
  const double epsilon = FloatAttr(n, "epsilon", 1e-5);
  const int64_t groups = IntAttr(n, "num_groups", 0), channels = x.shape[1];
  if (groups < 1 || channels % groups != 0) {
    n.Fail(groups < 1 ? Reason::kInvalidModel : Reason::kShapeMismatch,
           absl::StrCat("num_groups is ", groups, ", expected a divisor of the ", channels,
                        " channels"));
  }
  DType stash = DType::kUndefined;
  const DType dtype = StatisticsType(n, &stash);
  if (!b.ok()) return {};
  // Below opset 21 there is a scale for each group, then one for each channel.
  const bool by_group = n.opset < 21;
  const Shape each = {by_group ? groups : channels};
  const int rank = by_group ? 3 : x.shape.rank();
  const ValueId scale = Parameter(n, 1, each, AlongChannels(each[0], rank), x.dtype);
  const ValueId bias = Parameter(n, 2, each, AlongChannels(each[0], rank), x.dtype);
  if (!b.ok()) return {};
  int64_t points = 1;
  for (int d = 2; d < x.shape.rank(); ++d) points *= x.shape[d];
  const Shape grouped = {x.shape[0], groups, channels / groups * points};
  const Moments m = MomentsOf(b, Reshape(b, Cast(b, n.in(0), dtype), grouped), {2});
  ValueId y = Cast(b, Mul(b, m.centred, InverseRoot(b, m.variance, epsilon)), x.dtype);
  if (!by_group) y = Reshape(b, y, x.shape);
  return {Reshape(b, Add(b, Mul(b, y, scale), bias), x.shape)};
}

std::vector<ValueId> ImportInstanceNormalization(NodeImport& n) {
  if (!TakesInputs(n, 3, 3) || !TakesFloating(n) || !HasRank(n, 3)) return {};
  GraphBuilder& b = n.b;
  const Shape x = n.type(0).shape;
  const double epsilon = FloatAttr(n, "epsilon", 1e-5);
  const Shape each = {x[1]}, lined_up = AlongChannels(x[1], x.rank());
  const ValueId scale = Parameter(n, 1, each, lined_up, n.type(0).dtype);
  const ValueId bias = Parameter(n, 2, each, lined_up, n.type(0).dtype);
  if (!b.ok()) return {};
  const Moments m = MomentsOf(b, n.in(0), Iota(2, x.rank()));
  const ValueId factor = Mul(b, InverseRoot(b, m.variance, epsilon), scale);
  return {Add(b, Mul(b, m.centred, factor), bias)};
}

const OpDef kGroupNormalizationOp = {
    .name = "GroupNormalization",
    .doc =
        "`scale (x - mean) / sqrt(var + epsilon) + bias` with mean and variance of each of"
        " `num_groups` groups of channels of each member of the batch. Scale and bias are one for"
        " each channel; below opset 21 one for each group.",
    .min_inputs = 3,
    .max_inputs = 3,
    .onnx = {{.name = "GroupNormalization", .since = 18, .import = ImportGroupNormalization}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 4, 3, 2}), Drawn({2}), Drawn({2})},
                        .attrs = {{"num_groups", int64_t{2}}},
                        .opset = 18},
                       {.inputs = {Drawn({2, 4, 3, 2}), Drawn({4}), Drawn({4})},
                        .attrs = {{"num_groups", int64_t{2}}, {"epsilon", 0.1}},
                        .opset = 21},
                       {.inputs = {Drawn({2, 6}), Drawn({6}), Drawn({6})},
                        .attrs = {{"num_groups", int64_t{3}}, {"stash_type", int64_t{11}}},
                        .opset = 21},
                       {.inputs = {Drawn({1, 3, 5}), Drawn({3}), Drawn({3})},
                        .attrs = {{"num_groups", int64_t{1}}},
                        .opset = 23},
                   }},
};

const OpDef kInstanceNormalizationOp = {
    .name = "InstanceNormalization",
    .doc =
        "`scale (x - mean) / sqrt(var + epsilon) + bias` with mean and variance of each channel of"
        " each member of the batch.",
    .min_inputs = 3,
    .max_inputs = 3,
    .onnx = {{.name = "InstanceNormalization", .since = 6, .import = ImportInstanceNormalization}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3, 4, 2}), Drawn({3}), Drawn({3})}},
                       {.inputs = {Drawn({2, 2, 5}), Drawn({2}), Drawn({2})},
                        .attrs = {{"epsilon", 0.1}},
                        .opset = 6},
                       {.inputs = {Drawn({1, 2, 2, 3, 2}), Drawn({2}), Drawn({2})}},
                   }},
};

// ---- MeanVarianceNormalization, LpNormalization, LRN

constexpr double kMvnEpsilon = 1e-9;  // of ONNX's definition, added to the deviation

std::vector<ValueId> ImportMeanVarianceNormalization(NodeImport& n) {
  if (!TakesInputs(n, 1, 1) || !TakesFloating(n)) return {};
  GraphBuilder& b = n.b;
  const Axes axes = n.Axes(IntsAttr(n, "axes", {0, 2, 3}), n.type(0).shape.rank());
  if (!b.ok()) return {};
  const Moments m = MomentsOf(b, n.in(0), axes);
  const ValueId deviation = NormRoot(b, m.variance, 2);
  return {Div(b, m.centred, Add(b, deviation, b.ScalarLike(deviation, kMvnEpsilon)))};
}

const OpDef kMeanVarianceNormalizationOp = {
    .name = "MeanVarianceNormalization",
    .doc =
        "`(x - mean) / (sqrt(var) + 1e-9)` with mean and variance over `axes`; where the variance"
        " is 0, so is the derivative of its root.",
    .onnx = {{.name = "MeanVarianceNormalization",
              .since = 9,
              .import = ImportMeanVarianceNormalization}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3, 4, 2})}},
                       {.inputs = {Drawn({3, 5})}, .attrs = {{"axes", Ints({1})}}, .opset = 9},
                       {.inputs = {Drawn({3, 5})}, .attrs = {{"axes", Ints({-2})}}},
                   }},
};

std::vector<ValueId> ImportLpNormalization(NodeImport& n) {
  if (!TakesInputs(n, 1, 1) || !TakesFloating(n)) return {};
  GraphBuilder& b = n.b;
  const int64_t p = IntAttr(n, "p", 2);
  if (p != 1 && p != 2)
    n.Fail(Reason::kInvalidModel, absl::StrCat("p is ", p, ", expected 1 or 2"));
  const int axis = n.Axis(IntAttr(n, "axis", -1), n.type(0).shape.rank());
  if (!b.ok()) return {};
  const auto power = static_cast<double>(p);
  const ValueId powers = PowerOfMagnitude(b, n.in(0), power);
  const ValueId norm = NormRoot(b, ReduceSum(b, powers, {axis}, true), power);
  const ValueId zero = b.ScalarLike(norm, 0), is_zero = Equal(b, norm, zero);
  const ValueId safe = Where(b, is_zero, b.ScalarLike(norm, 1), norm);
  return {Where(b, is_zero, zero, Div(b, n.in(0), safe))};
}

const OpDef kLpNormalizationOp = {
    .name = "LpNormalization",
    .doc =
        "`x / norm(x)` along `axis`, the norm being the sum of magnitudes (`p` 1) or Euclid's (2)."
        " Zeros stay zeros, with a derivative of 0.",
    .onnx = {{.name = "LpNormalization", .since = 1, .import = ImportLpNormalization}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3, 4}, 0.2)}},
                       {.inputs = {Drawn({2, 3, 4}, 0.2)},
                        .attrs = {{"axis", int64_t{1}}, {"p", int64_t{1}}}},
                       {.inputs = {Drawn({5}, 0.2)}, .attrs = {{"p", int64_t{2}}}, .opset = 6},
                       {.inputs = {Drawn({2, 3}, 0.2)},
                        .attrs = {{"axis", int64_t{-2}}, {"p", int64_t{1}}},
                        .opset = 22},
                   }},
};

std::vector<ValueId> ImportLrn(NodeImport& n) {
  if (!TakesInputs(n, 1, 1) || !TakesFloating(n) || !HasRank(n, 2)) return {};
  GraphBuilder& b = n.b;
  const Shape x = n.type(0).shape;
  const double alpha = FloatAttr(n, "alpha", 1e-4), beta = FloatAttr(n, "beta", 0.75);
  const double bias = FloatAttr(n, "bias", 1);
  const int64_t size = IntAttr(n, "size", 0);
  if (size < 1)
    n.Fail(Reason::kInvalidModel, absl::StrCat("size is ", size, ", expected 1 or more"));
  if (!b.ok()) return {};
  // The channels become the dimension that windows slide over.
  int64_t points = 1;
  for (int d = 2; d < x.rank(); ++d) points *= x[d];
  const ValueId squares = Reshape(b, Mul(b, n.in(0), n.in(0)), {x[0], 1, x[1], points});
  const ValueId sums = SumPool(b, squares,
                               {{"kernel", Ints({size, 1})},
                                {"strides", Ints({1, 1})},
                                {"pads", Ints({(size - 1) / 2, 0, size / 2, 0})},
                                {"dilations", Ints({1, 1})}});
  const ValueId near = Mul(b, sums, b.ScalarLike(sums, alpha / static_cast<double>(size)));
  const ValueId base = Add(b, near, b.ScalarLike(near, bias));
  const ValueId factor = Pow(b, base, b.ScalarLike(base, -beta));
  return {Mul(b, n.in(0), Reshape(b, factor, x))};
}

const OpDef kLrnOp = {
    .name = "LRN",
    .doc =
        "`x / (bias + alpha / size * sum(x^2))^beta` with the sum over the `size` nearest channels:"
        " of an even number, one more lies behind.",
    .onnx = {{.name = "LRN", .since = 1, .import = ImportLrn}},
    .domain =
        {.samples =
             {
                 {.inputs = {Drawn({2, 5, 3, 2})}, .attrs = {{"size", int64_t{3}}}},
                 {.inputs = {Drawn({1, 4, 3})},
                  .attrs = {{"size", int64_t{4}}, {"alpha", 0.5}, {"beta", 0.6}, {"bias", 2.0}},
                  .opset = 6},
                 {.inputs = {Drawn({2, 3})}, .attrs = {{"size", int64_t{9}}, {"alpha", 0.5}}},
             }},
};

}  // namespace

std::vector<const OpDef*> NormalizationOps() {
  return {&kBatchNormalizationOp,    &kLayerNormalizationOp,
          &kRmsNormalizationOp,      &kGroupNormalizationOp,
          &kInstanceNormalizationOp, &kMeanVarianceNormalizationOp,
          &kLpNormalizationOp,       &kLrnOp};
}

}  // namespace gradwire
