// Ops that round, remainders, and what they are tested for: NaN and infinities.
#include <cmath>
#include <limits>

#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Values = std::vector<ValueId>;

template <typename Fn>
OpDef RoundingOp(Fn fn, OpDef row) {
  row.lowering = Pointwise{ScalarTile<Fn, 1>};
  return PointwiseOp<kFloating, 1>(fn, std::move(row));
}

// Inside one step, with more samples on both sides of 0.
Domain BetweenSteps(double low, double high) {
  return {.low = low,
          .high = high,
          .samples = {{.inputs = {Drawn({2, 3}, low + 2, high + 2)}},
                      {.inputs = {Drawn({2, 3}, low - 3, high - 3)}}}};
}

const OpDef kFloorOp =
    RoundingOp([](auto x) { return std::floor(x); },
               {
                   .name = "Floor",
                   .doc = "The greatest integer that is not above `x`. The derivative is 0.",
                   .onnx = {{.name = "Floor", .since = 6}},
                   .domain = BetweenSteps(0.1, 0.9),
               });

const OpDef kCeilOp =
    RoundingOp([](auto x) { return std::ceil(x); },
               {
                   .name = "Ceil",
                   .doc = "The least integer that is not below `x`. The derivative is 0.",
                   .onnx = {{.name = "Ceil", .since = 6}},
                   .domain = BetweenSteps(0.1, 0.9),
               });

const OpDef kRoundOp =
    RoundingOp([](auto x) { return std::nearbyint(x); },
               {
                   .name = "Round",
                   .doc = "The nearest integer, an even one at halves. The derivative is 0.",
                   .onnx = {{.name = "Round", .since = 11}},
                   .domain = BetweenSteps(-0.4, 0.4),
               });

// ---- Remainders

// Integers divided by 0 leave 0, as in Div. A divisor of -1 leaves 0 too: the quotient may have no
// representation.
template <typename T>
bool LeavesNothing(T y) {
  return y == T{0} || (std::is_signed_v<T> && y == static_cast<T>(-1));
}

struct TruncatedModFn {
  template <typename T>
  T operator()(T x, T y) const {
    if constexpr (std::is_floating_point_v<T>) {
      return std::fmod(x, y);
    } else {
      return LeavesNothing(y) ? T{0} : static_cast<T>(x % y);
    }
  }
};

struct FlooredModFn {
  template <typename T>
  T operator()(T x, T y) const {
    const T rest = TruncatedModFn{}(x, y);
    return rest != T{0} && (rest < T{0}) != (y < T{0}) ? static_cast<T>(rest + y) : rest;
  }
};

// out = x - q * y with an integer q that is constant between steps. The quotient of the difference
// is q up to rounding.
ValueId ModPartial(GraphBuilder& b, const NodeView& n, int i) {
  if (i == 0) return b.ScalarLike(n.in[0], 1);
  return Neg(b, Round(b, Div(b, Sub(b, n.in[0], n.out[0]), n.in[1])));
}

extern const OpDef kTruncatedModOp, kFlooredModOp;

Values ImportMod(NodeImport& n) {
  if (!TakesInputs(n, 2, 2)) return {};
  const bool truncated = IntAttr(n, "fmod", 0) != 0;
  return {n.b.Add(truncated ? kTruncatedModOp : kFlooredModOp, {n.in(0), n.in(1)})};
}

Sample ModSample(SampleInput x, SampleInput y, int64_t fmod) {
  return {.inputs = {std::move(x), std::move(y)}, .attrs = {{"fmod", fmod}}};
}

const OpDef kModOp = {
    .name = "Mod",
    .doc =
        "What is left of `x` after taking out `y`: with the sign of `y` (`fmod` 0) or of `x` (1)."
        " Integers divided by 0 leave 0. The derivative by `x` is 1, by `y` it is"
        " `-floor(x / y)` or `-trunc(x / y)`.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "Mod", .since = 10, .import = ImportMod}},
    .domain = {.samples =
                   {
                       ModSample(Drawn({2, 3}, 2.2, 2.8), Drawn({3}, 0.9, 1), 0),
                       ModSample(Drawn({2, 3}, -2.8, -2.2), Drawn({}, 0.9, 1), 0),
                       ModSample(Drawn({2, 3}, -2.8, -2.2), Drawn({}, 0.9, 1), 1),
                       ModSample(Drawn({2, 1}, 2.2, 2.8), Drawn({2}, -1, -0.9), 1),
                       ModSample(Given({5}, {-7, 7, -7, 7, 0}, DType::kInt8),
                                 Given({5}, {3, -3, -3, 0, -1}, DType::kInt8), 0),
                       ModSample(Given({3}, {200, 7, 9}, DType::kUint8),
                                 Given({3}, {7, 9, 0}, DType::kUint8), 1),
                   }},
};

const OpDef kTruncatedModOp = PointwiseOp<kNumeric, 2>(
    TruncatedModFn{},
    {
        .name = "TruncatedMod",
        .doc = "`x - trunc(x / y) * y`, as C's `fmod` and `%`; integers divided by 0 leave 0.",
        .derivative = Elementwise{ModPartial},
        .lowering = Pointwise{ScalarTile<TruncatedModFn, 2>},
        .export_onnx =
            [](NodeExport& n) {
              n.Add("Mod", {n.in(0), n.in(1)}, n.out(0), {{"fmod", int64_t{1}}});
            },
        .domain = {.low = 30, .high = 57},
    });

// Of floating types, ONNX has the other remainder only.
void ExportFlooredMod(NodeExport& n) {
  const DType dtype = n.out_type().dtype;
  if (!IsFloating(dtype)) return n.Add("Mod", {n.in(0), n.in(1)}, n.out(0));
  const std::string zero = n.Add("Constant", {}, {{"value", Tensor({dtype, Shape()})}});
  const std::string rest = n.Add("Mod", {n.in(0), n.in(1)}, {{"fmod", int64_t{1}}});
  const std::string signs =
      n.Add("Xor", {n.Add("Less", {rest, zero}), n.Add("Less", {n.in(1), zero})});
  const std::string some = n.Add("Not", {n.Add("Equal", {rest, zero})});
  n.Add("Where", {n.Add("And", {some, signs}), n.Add("Add", {rest, n.in(1)}), rest}, n.out(0));
}

const OpDef kFlooredModOp = PointwiseOp<kNumeric, 2>(
    FlooredModFn{},
    {
        .name = "FlooredMod",
        .doc = "`x - floor(x / y) * y`, as Python's `%`; integers divided by 0 leave 0.",
        .derivative = Elementwise{ModPartial},
        .lowering = Pointwise{ScalarTile<FlooredModFn, 2>},
        .export_onnx = ExportFlooredMod,
        .domain = {.low = 30, .high = 57},
    });

// ---- Questions

// 16-bit floats as FLOAT, which holds all of them.
ValueId Computable(NodeImport& n) {
  const DType dtype = n.type(0).dtype;
  const bool narrow = dtype == DType::kFloat16 || dtype == DType::kBfloat16;
  return narrow ? Cast(n.b, n.in(0), DType::kFloat) : n.in(0);
}

Values ImportIsNaN(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const ValueId x = Computable(n);
  return {Not(n.b, Equal(n.b, x, x))};
}

const OpDef kIsNaNOp = {
    .name = "IsNaN",
    .doc = "True where `x` is NaN.",
    .onnx = {{.name = "IsNaN", .since = 9, .import = ImportIsNaN}},
    .domain = {.samples = {{.inputs = {Given({3}, {1, std::nan(""), 0})}},
                           {.inputs = {Drawn({2, 3})}}}},
};

Values ImportIsInf(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const ValueId x = Computable(n);
  if (!IsFloating(n.b.dtype(x))) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("input is ", DTypeName(n.b.dtype(x)), ", expected a floating type"));
    return {};
  }
  const double infinity = std::numeric_limits<double>::infinity();
  const ValueId high = Equal(n.b, x, n.b.ScalarLike(x, infinity));
  const ValueId low = Equal(n.b, x, n.b.ScalarLike(x, -infinity));
  const bool positive = IntAttr(n, "detect_positive", 1) != 0;
  const bool negative = IntAttr(n, "detect_negative", 1) != 0;
  if (positive && negative) return {Or(n.b, high, low)};
  if (positive || negative) return {positive ? high : low};
  return {n.b.Full({DType::kBool, n.type(0).shape}, 0)};
}

Sample InfinitySample(Attrs attrs) {
  return {.inputs = {{.shape = {4},
                      .low = -2,
                      .high = 2,
                      .values = {1, std::numeric_limits<double>::infinity(),
                                 -std::numeric_limits<double>::infinity(), 0}}},
          .attrs = std::move(attrs)};
}

const OpDef kIsInfOp = {
    .name = "IsInf",
    .doc = "True where `x` is infinite: in the directions `detect_positive`, `detect_negative`.",
    .onnx = {{.name = "IsInf", .since = 10, .import = ImportIsInf}},
    .domain = {.samples = {InfinitySample({}), InfinitySample({{"detect_positive", int64_t{0}}}),
                           InfinitySample({{"detect_negative", int64_t{0}}}),
                           InfinitySample({{"detect_negative", int64_t{0}},
                                           {"detect_positive", int64_t{0}}})}},
};

// ---- Bits

template <int kInputs, typename Fn>
OpDef BitwiseOp(Fn fn, OpDef row) {
  const SampleInput bytes = Given({4}, {0, 255, 85, 7}, DType::kUint8);
  const SampleInput words = Given({2, 1}, {-1, 12}, DType::kInt32);
  const SampleInput longs = Given({3}, {5, -6, 1e15}, DType::kInt64);
  row.domain.samples = {{.inputs = {bytes}}, {.inputs = {longs}}, {.inputs = {words}}};
  if (kInputs == 2) {
    row.domain.samples[0].inputs.push_back(Given({}, {15}, DType::kUint8));
    row.domain.samples[1].inputs.push_back(longs);
    row.domain.samples[2].inputs.push_back(Given({2}, {6, -3}, DType::kInt32));
  }
  return PointwiseOp<kInteger, kInputs>(fn, std::move(row));
}

const OpDef kBitwiseAndOp = BitwiseOp<2>([]<typename T>(T x, T y) { return static_cast<T>(x & y); },
                                         {
                                             .name = "BitwiseAnd",
                                             .doc = "The bits that both integers have.",
                                             .onnx = {{.name = "BitwiseAnd", .since = 18}},
                                         });

const OpDef kBitwiseOrOp = BitwiseOp<2>([]<typename T>(T x, T y) { return static_cast<T>(x | y); },
                                        {
                                            .name = "BitwiseOr",
                                            .doc = "The bits that one of two integers has.",
                                            .onnx = {{.name = "BitwiseOr", .since = 18}},
                                        });

const OpDef kBitwiseXorOp =
    BitwiseOp<2>([]<typename T>(T x, T y) { return static_cast<T>(x ^ y); },
                 {
                     .name = "BitwiseXor",
                     .doc = "The bits that exactly one of two integers has.",
                     .onnx = {{.name = "BitwiseXor", .since = 18}},
                 });

const OpDef kBitwiseNotOp = BitwiseOp<1>([]<typename T>(T x) { return static_cast<T>(~x); },
                                         {
                                             .name = "BitwiseNot",
                                             .doc = "The bits that the integer does not have.",
                                             .onnx = {{.name = "BitwiseNot", .since = 18}},
                                         });

template <bool kLeft>
struct ShiftFn {
  template <typename T>
  T operator()(T x, T y) const {
    if (static_cast<uint64_t>(y) >= 8 * sizeof(T)) return 0;
    const auto bits = static_cast<uint64_t>(x);
    return static_cast<T>(kLeft ? bits << static_cast<uint64_t>(y)
                                : bits >> static_cast<uint64_t>(y));
  }
};

absl::StatusOr<std::vector<TensorType>> InferBitShift(const InferArgs& args) {
  const std::string direction = args.attrs.String("direction");
  if (direction != "LEFT" && direction != "RIGHT") {
    return Error(Reason::kInvalidModel,
                 absl::StrCat("direction is \"", direction, "\", expected LEFT or RIGHT"));
  }
  GW_ASSIGN_OR_RETURN(TensorType type, InferBroadcast(args.in, kInteger));
  const bool is_signed = type.dtype == DType::kInt8 || type.dtype == DType::kInt16 ||
                         type.dtype == DType::kInt32 || type.dtype == DType::kInt64;
  if (is_signed) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("input is ", DTypeName(type.dtype), ", expected an unsigned type"));
  }
  return std::vector<TensorType>{std::move(type)};
}

const OpDef kBitShiftOp = {
    .name = "BitShift",
    .doc =
        "Unsigned integers with their bits shifted by `y` places, LEFT or RIGHT; 0 where all are"
        " shifted out.",
    .attrs = {{"direction", std::string(), true}},
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferBitShift,
    .reference =
        [](const ReferenceArgs& args) {
          return args.attrs.String("direction") == "LEFT"
                     ? PointwiseReference<ShiftFn<true>, 2, kInteger>(args)
                     : PointwiseReference<ShiftFn<false>, 2, kInteger>(args);
        },
    .onnx = {{.name = "BitShift", .since = 11}},
    .domain = {.samples = {{.inputs = {Given({3}, {16, 4, 255}, DType::kUint8),
                                       Given({3}, {1, 9, 3}, DType::kUint8)},
                            .attrs = {{"direction", std::string("LEFT")}}},
                           {.inputs = {Given({2, 1}, {16, 4e9}, DType::kUint32),
                                       Given({2}, {1, 40}, DType::kUint32)},
                            .attrs = {{"direction", std::string("RIGHT")}}}}},
};

}  // namespace

ValueId Floor(GraphBuilder& b, ValueId x) { return b.Add(kFloorOp, {x}); }
ValueId Round(GraphBuilder& b, ValueId x) { return b.Add(kRoundOp, {x}); }
ValueId TruncatedMod(GraphBuilder& b, ValueId x, ValueId y) {
  return b.Add(kTruncatedModOp, {x, y});
}

std::vector<const OpDef*> RoundingOps() {
  return {&kFloorOp,      &kCeilOp,       &kRoundOp,   &kModOp,        &kTruncatedModOp,
          &kFlooredModOp, &kIsNaNOp,      &kIsInfOp,   &kBitwiseAndOp, &kBitwiseOrOp,
          &kBitwiseXorOp, &kBitwiseNotOp, &kBitShiftOp};
}

}  // namespace gradwire
