// Comparisons, boolean algebra, choice and conversion of types.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/kernels/tiles.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"

namespace gradwire {
namespace {

// ---- Comparisons

// Two numbers of one type, compared by Fn, to BOOL.
template <typename Fn>
OpDef Comparison(Fn, OpDef row) {
  row.min_inputs = row.max_inputs = 2;
  row.infer = InferCompare<kNumeric>;
  row.reference = PointwiseReference<Fn, 2, kNumeric>;
  return row;
}

absl::StatusOr<std::vector<TensorType>> InferEqual(const InferArgs& args) {
  return args.in[0].dtype == DType::kBool ? InferCompare<kBoolean>(args)
                                          : InferCompare<kNumeric>(args);
}

struct EqualFn {
  template <typename T>
  bool operator()(T x, T y) const {
    return x == y;
  }
};

const OpDef kEqualOp = {
    .name = "Equal",
    .doc = "`x == y`, as BOOL; NaN equals nothing.",
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferEqual,
    .reference = PointwiseReference<EqualFn, 2, kAnyType>,
    .lowering = Pointwise{tiles::Equal},
    .onnx = Broadcasting<Equal>("Equal"),
};

const OpDef kLessOp =
    Comparison([](auto x, auto y) { return x < y; }, {
                                                         .name = "Less",
                                                         .doc = "`x < y`, as BOOL; false for NaN.",
                                                         .lowering = Pointwise{tiles::Less},
                                                         .onnx = Broadcasting<Less>("Less"),
                                                     });

const OpDef kLessOrEqualOp = Comparison([](auto x, auto y) { return x <= y; },
                                        {
                                            .name = "LessOrEqual",
                                            .doc = "`x <= y`, as BOOL; false for NaN.",
                                            .lowering = Pointwise{tiles::LessOrEqual},
                                            .onnx = {{.name = "LessOrEqual", .since = 12}},
                                        });

const OpDef kGreaterOp =
    Comparison([](auto x, auto y) { return x > y; }, {
                                                         .name = "Greater",
                                                         .doc = "`x > y`, as BOOL; false for NaN.",
                                                         .lowering = Pointwise{tiles::Greater},
                                                         .onnx = Broadcasting<Greater>("Greater"),
                                                     });

const OpDef kGreaterOrEqualOp = Comparison([](auto x, auto y) { return x >= y; },
                                           {
                                               .name = "GreaterOrEqual",
                                               .doc = "`x >= y`, as BOOL; false for NaN.",
                                               .lowering = Pointwise{tiles::GreaterOrEqual},
                                               .onnx = {{.name = "GreaterOrEqual", .since = 12}},
                                           });

// ---- Boolean algebra

SampleInput Bools(Dims shape, std::vector<double> values) {
  return {.shape = std::move(shape), .dtype = DType::kBool, .values = std::move(values)};
}

Domain TwoBools() {
  return {.samples = {{.inputs = {Bools({2, 2}, {0, 0, 1, 1}), Bools({2, 2}, {0, 1, 0, 1})}},
                      {.inputs = {Bools({2, 1}, {0, 1}), Bools({2}, {0, 1})}}}};
}

extern const OpDef kNotOp;
const OpDef kNotOp = PointwiseOp<kBoolean, 1>(
    [](bool x) { return !x; },
    {
        .name = "Not",
        .doc = "True where `x` is false.",
        .simplify =
            [](GraphBuilder& b, const NodeView& n, const TensorType&) {
              const Node* node = b.Producer(n.in[0]);
              return node != nullptr && node->op == &kNotOp ? b.operands(*node)[0] : kNoValue;
            },
        .lowering = Pointwise{tiles::Not},
        .onnx = {{.name = "Not", .since = 6}},
        .domain = {.samples = {{.inputs = {Bools({2}, {0, 1})}}}},
    });

const OpDef kAndOp = PointwiseOp<kBoolean, 2>([](bool x, bool y) { return x && y; },
                                              {
                                                  .name = "And",
                                                  .doc = "True where both are.",
                                                  .lowering = Pointwise{tiles::And},
                                                  .onnx = Broadcasting<And>("And"),
                                                  .domain = TwoBools(),
                                              });

const OpDef kOrOp = PointwiseOp<kBoolean, 2>([](bool x, bool y) { return x || y; },
                                             {
                                                 .name = "Or",
                                                 .doc = "True where one of them is.",
                                                 .lowering = Pointwise{tiles::Or},
                                                 .onnx = Broadcasting<Or>("Or"),
                                                 .domain = TwoBools(),
                                             });

ValueId Differ(GraphBuilder& b, ValueId x, ValueId y) {
  if (b.dtype(x) != DType::kBool) {
    b.Fail(Error(Reason::kDtypeUnsupported,
                 absl::StrCat("input 0 is ", DTypeName(b.dtype(x)), ", expected BOOL")));
  }
  return Not(b, Equal(b, x, y));
}

const OpDef kXorOp = {
    .name = "Xor",
    .doc = "True where exactly one of two booleans is.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "Xor", .since = 6, .import = ImportBinary<Differ>}},
    .domain = TwoBools(),
};

// ---- Choice

absl::StatusOr<std::vector<TensorType>> InferWhere(const InferArgs& args) {
  if (args.in[0].dtype != DType::kBool) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("the condition is ", DTypeName(args.in[0].dtype), ", expected BOOL"));
  }
  GW_ASSIGN_OR_RETURN(TensorType type, InferBroadcast(args.in.subspan(1), kAnyType));
  Shape shape;
  if (!BroadcastShapes(args.in[0].shape, type.shape, &shape)) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("the condition of shape ", args.in[0].shape.ToString(),
                              " does not broadcast with ", type.shape.ToString()));
  }
  return std::vector<TensorType>{{type.dtype, std::move(shape)}};
}

// Elements are moved as bits, whatever they mean.
template <typename Bits>
void Choose(const ReferenceArgs& args) {
  BroadcastWalk walk(args.in, args.out_types[0].shape);
  const int64_t n = args.out_types[0].shape.num_elements();
  const bool* condition = args.in[0].data<bool>();
  auto* out = static_cast<Bits*>(args.out[0]);
  for (int64_t i = 0; i < n; ++i, walk.Next()) {
    const int from = condition[walk.offset(0)] ? 1 : 2;
    out[i] = args.in[static_cast<size_t>(from)].template data<Bits>()[walk.offset(from)];
  }
}

absl::Status WhereReference(const ReferenceArgs& args) {
  switch (DTypeBytes(args.out_types[0].dtype)) {
    case 1:
      Choose<uint8_t>(args);
      break;
    case 2:
      Choose<uint16_t>(args);
      break;
    case 4:
      Choose<uint32_t>(args);
      break;
    default:
      Choose<uint64_t>(args);
      break;
  }
  return absl::OkStatus();
}

ValueId SimplifyWhere(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  ValueId chosen = n.in[1] == n.in[2] ? n.in[1] : kNoValue;
  if (const std::optional<double> condition = b.UniformValue(n.in[0])) {
    chosen = *condition != 0 ? n.in[1] : n.in[2];
  }
  return chosen != kNoValue && b.type(chosen) == type ? chosen : kNoValue;
}

const OpDef kWhereOp = {
    .name = "Where",
    .doc = "`x` where the condition is true, else `y`. The derivative goes to the one chosen.",
    .min_inputs = 3,
    .max_inputs = 3,
    .infer = InferWhere,
    .reference = WhereReference,
    .simplify = SimplifyWhere,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int i, ValueId g) {
      const ValueId zero = b.ScalarLike(g, 0);
      return i == 1 ? Where(b, n.in[0], g, zero) : Where(b, n.in[0], zero, g);
    }},
    .lowering = Pointwise{tiles::Where},
    .onnx = {{.name = "Where", .since = 9}},
    .domain = {.samples = {{.inputs = {Bools({2, 2}, {0, 1, 1, 0}),
                                       {.shape = {2, 2}},
                                       {.shape = {2, 2}}}},
                           {.inputs = {Bools({2, 1}, {0, 1}), {.shape = {3}}, {.shape = {}}}},
                           {.inputs = {Bools({}, {1}), {.shape = {2, 1}}, {.shape = {3}}}},
                           {.inputs = {Bools({0, 1}, {}), {.shape = {2}}, {.shape = {}}}}}},
};

// ---- Conversion

// The two 16-bit formats: 1 sign bit, then the exponent, then the fraction.
struct Narrow {
  int fraction_bits;
  int bias;
  float rebias;  // two to the power of FLOAT's bias minus this one
};
constexpr Narrow kHalf = {10, 15, 0x1p112f};
constexpr Narrow kBrain = {7, 127, 1};

// Rounds to nearest, ties to even; overflow gives infinity.
uint16_t ToNarrow(double value, Narrow format) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const int infinity = (2 * format.bias + 1) << format.fraction_bits;
  if (std::isnan(value)) {
    return static_cast<uint16_t>(sign | infinity | (1 << (format.fraction_bits - 1)));
  }
  const double magnitude = std::fabs(value);
  if (magnitude == 0) return static_cast<uint16_t>(sign);
  // From this power of two on, every value of the format rounds to infinity.
  if (magnitude >= std::ldexp(1.0, format.bias + 1)) return static_cast<uint16_t>(sign | infinity);
  const int exponent = std::max(std::ilogb(magnitude), 1 - format.bias);
  const auto fraction =
      static_cast<int>(std::nearbyint(std::ldexp(magnitude, format.fraction_bits - exponent)));
  // A fraction that was rounded up to the next power of two carries into the exponent, as it
  // should.
  const int bits = ((exponent + format.bias - 1) << format.fraction_bits) + fraction;
  return static_cast<uint16_t>(sign | std::min(bits, infinity));
}

float FromNarrow(uint16_t bits, Narrow format) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << (23 - format.fraction_bits);
  // Aligned with FLOAT's fraction, only the bias differs: a product with a power of two, which also
  // makes subnormal numbers normal.
  const uint32_t special = static_cast<uint32_t>(2 * format.bias + 1) << 23;
  const float value = (magnitude & special) == special
                          ? std::bit_cast<float>(magnitude | 0x7f800000u)
                          : std::bit_cast<float>(magnitude) * format.rebias;
  return (bits & 0x8000) != 0 ? -value : value;
}

// Floating to integer truncates and saturates, NaN is 0; to boolean NaN is true; integers wrap.
template <typename To, typename From>
To Convert(From x) {
  if constexpr (std::is_same_v<To, bool>) {
    return x != From{0};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (std::isnan(x)) return 0;
    // The largest integer rounds up to a power of two where From cannot hold it.
    if (x >= static_cast<From>(std::numeric_limits<To>::max())) {
      return std::numeric_limits<To>::max();
    }
    if (x <= static_cast<From>(std::numeric_limits<To>::min())) {
      return std::numeric_limits<To>::min();
    }
    return static_cast<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

const Narrow* NarrowFormat(DType dtype) {
  if (dtype == DType::kFloat16) return &kHalf;
  return dtype == DType::kBfloat16 ? &kBrain : nullptr;
}

// Stores n values, read by `load`, as elements of `to`.
template <typename Load>
void StoreAs(DType to, void* out, int64_t n, Load load) {
  if (const Narrow* format = NarrowFormat(to)) {
    auto* narrow = static_cast<uint16_t*>(out);
    for (int64_t i = 0; i < n; ++i) narrow[i] = ToNarrow(static_cast<double>(load(i)), *format);
    return;
  }
  VisitDType(to, [&](auto tag) {
    using To = typename decltype(tag)::type;
    auto* values = static_cast<To*>(out);
    for (int64_t i = 0; i < n; ++i) values[i] = Convert<To>(load(i));
  });
}

absl::Status CastReference(const ReferenceArgs& args) {
  const TensorView& in = args.in[0];
  const DType to = args.out_types[0].dtype;
  const int64_t n = in.num_elements();
  if (const Narrow* format = NarrowFormat(in.dtype())) {
    const uint16_t* bits = in.data<uint16_t>();
    StoreAs(to, args.out[0], n, [=](int64_t i) { return FromNarrow(bits[i], *format); });
    return absl::OkStatus();
  }
  VisitDType(in.dtype(), [&](auto tag) {
    const auto* values = in.data<typename decltype(tag)::type>();
    StoreAs(to, args.out[0], n, [=](int64_t i) { return values[i]; });
  });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TensorType>> InferCast(const InferArgs& args) {
  const DType to = DTypeFromOnnx(args.attrs.Int("to"));
  if (to == DType::kUndefined || args.in[0].dtype == DType::kUndefined) {
    return Error(Reason::kDtypeUnsupported, absl::StrCat("attribute to=", args.attrs.Int("to"),
                                                         " is not a type that is supported"));
  }
  return std::vector<TensorType>{{to, args.in[0].shape}};
}

// Every value of `from` is one of `to`.
bool Holds(DType to, DType from) {
  if (from == DType::kBool) return true;
  if (from == DType::kFloat16 || from == DType::kBfloat16) return IsFloating(to);
  return from == DType::kFloat && to == DType::kDouble;
}

// A conversion to the type it has, or there and back without loss.
ValueId SimplifyCast(GraphBuilder& b, const NodeView& n, const TensorType& type) {
  if (b.dtype(n.in[0]) == type.dtype) return n.in[0];
  const Node* node = b.Producer(n.in[0]);
  if (node == nullptr || node->op->reference != CastReference) return kNoValue;
  const ValueId original = b.operands(*node)[0];
  return b.dtype(original) == type.dtype && Holds(b.dtype(n.in[0]), type.dtype) ? original
                                                                                : kNoValue;
}

Sample CastTo(DType to, DType from = DType::kUndefined) {
  return {.inputs = {{.shape = {2, 3}, .dtype = from, .low = 0}},
          .attrs = {{"to", static_cast<int64_t>(to)}}};
}

const OpDef kCastOp = {
    .name = "Cast",
    .doc =
        "`x` in the type `to` (a number of ONNX). Floating to integer truncates and saturates, NaN "
        "becomes 0; to BOOL it is `x != 0`; FLOAT16 and BFLOAT16 round to nearest even.",
    .attrs = {{"to", int64_t{0}, true}},
    .infer = InferCast,
    .reference = CastReference,
    .simplify = SimplifyCast,
    .derivative = Linear{[](GraphBuilder& b, const NodeView& n, int, ValueId g) {
      return Cast(b, g, b.dtype(n.in[0]));
    }},
    .lowering = Pointwise{tiles::Cast},
    .onnx = {{.name = "Cast",
              .since = 6,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!HasInputs(n, 1)) return {};
                // `saturate` and `round_mode` speak of 8-bit floats, which are not supported.
                const DType to = DTypeFromOnnx(n.attrs.Int("to"));
                if (to == DType::kUndefined) {
                  n.Fail(Reason::kDtypeUnsupported,
                         absl::StrCat("attribute to is ", n.attrs.Int("to"),
                                      ", expected a number of a supported element type"));
                  return {};
                }
                return {Cast(n.b, n.in(0), to)};
              }}},
    .domain = {.samples = {CastTo(DType::kFloat), CastTo(DType::kDouble), CastTo(DType::kInt64),
                           CastTo(DType::kBool), CastTo(DType::kUint8), CastTo(DType::kFloat16),
                           CastTo(DType::kBfloat16), CastTo(DType::kFloat, DType::kInt64),
                           CastTo(DType::kInt32, DType::kBool)}},
};

const OpDef kCastLikeOp = {
    .name = "CastLike",
    .doc = "The first input in the type of the second.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "CastLike",
              .since = 15,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!HasInputs(n, 2)) return {};
                return {Cast(n.b, n.in(0), n.type(1).dtype)};
              }}},
    .domain = {.samples = {{.inputs = {{.shape = {2, 3}},
                                       {.shape = {1}, .dtype = DType::kDouble}}}}},
};

}  // namespace

ValueId Equal(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kEqualOp, {x, y}); }
ValueId Less(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kLessOp, {x, y}); }
ValueId LessOrEqual(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kLessOrEqualOp, {x, y}); }
ValueId Greater(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kGreaterOp, {x, y}); }
ValueId GreaterOrEqual(GraphBuilder& b, ValueId x, ValueId y) {
  return b.Add(kGreaterOrEqualOp, {x, y});
}
ValueId Not(GraphBuilder& b, ValueId x) { return b.Add(kNotOp, {x}); }
ValueId And(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kAndOp, {x, y}); }
ValueId Or(GraphBuilder& b, ValueId x, ValueId y) { return b.Add(kOrOp, {x, y}); }
ValueId Where(GraphBuilder& b, ValueId condition, ValueId x, ValueId y) {
  return b.Add(kWhereOp, {condition, x, y});
}
ValueId Cast(GraphBuilder& b, ValueId x, DType to) {
  return b.Add(kCastOp, {x}, {{"to", static_cast<int64_t>(to)}});
}

std::vector<const OpDef*> LogicalOps() {
  return {&kEqualOp, &kLessOp, &kLessOrEqualOp, &kGreaterOp, &kGreaterOrEqualOp, &kNotOp,
          &kAndOp,   &kOrOp,   &kXorOp,         &kWhereOp,   &kCastOp,           &kCastLikeOp};
}

}  // namespace gradwire
