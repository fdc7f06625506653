// Arithmetic tiles: vectors for FLOAT and DOUBLE, plain loops for integers.
#include <cstdint>
#include <limits>
#include <type_traits>

#include "engine/kernels/simd_targets.h"
#include "engine/kernels/tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/tiles_arith.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

// After foreach_target.h.
#include "engine/kernels/tiles_loops-inl.h"
#include "hwy/highway.h"

// Each has a struct <name>Op below.
#ifndef GW_ARITH_TILES
#define GW_ARITH_UNARY_TILES(X) X(Neg) X(Abs) X(Sign) X(Sqrt) X(Reciprocal) X(Relu)
#define GW_ARITH_BINARY_TILES(X) X(Add) X(Sub) X(Mul) X(Div) X(Min) X(Max)
#define GW_ARITH_TILES(X) GW_ARITH_UNARY_TILES(X) GW_ARITH_BINARY_TILES(X)
#endif

HWY_BEFORE_NAMESPACE();
namespace gradwire::tiles {
namespace HWY_NAMESPACE {

#undef GW_HIGHWAY_BINARY
#define GW_HIGHWAY_BINARY(Name)              \
  struct Name##Op {                          \
    template <class D, class V>              \
    static HWY_INLINE V Apply(D, V a, V b) { \
      return hn::Name(a, b);                 \
    }                                        \
  };
GW_HIGHWAY_BINARY(Add)
GW_HIGHWAY_BINARY(Sub)
GW_HIGHWAY_BINARY(Mul)
GW_HIGHWAY_BINARY(Div)

#undef GW_HIGHWAY_UNARY
#define GW_HIGHWAY_UNARY(Name)          \
  struct Name##Op {                     \
    template <class D, class V>         \
    static HWY_INLINE V Apply(D, V x) { \
      return hn::Name(x);               \
    }                                   \
  };
GW_HIGHWAY_UNARY(Neg)
GW_HIGHWAY_UNARY(Abs)
GW_HIGHWAY_UNARY(Sqrt)

// Comparisons, because what the CPU's own min and max do with NaN differs. Equal values (0 and -0)
// give the first.
struct MinOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D, V a, V b) {
    const V smaller = hn::IfThenElse(hn::Lt(b, a), b, a);
    return hn::IfThenElse(hn::IsNaN(b), b, smaller);
  }
};
struct MaxOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D, V a, V b) {
    const V larger = hn::IfThenElse(hn::Gt(b, a), b, a);
    return hn::IfThenElse(hn::IsNaN(b), b, larger);
  }
};
struct SignOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const V zero = hn::Zero(d);
    const V one = hn::Set(d, hn::TFromD<D>{1});
    const V sign = hn::IfThenElseZero(hn::Ne(x, zero), hn::CopySign(one, x));
    return hn::IfThenElse(hn::IsNaN(x), x, sign);
  }
};
struct ReciprocalOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    return hn::Div(hn::Set(d, hn::TFromD<D>{1}), x);
  }
};
struct ReluOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    return hn::IfThenZeroElse(hn::Le(x, hn::Zero(d)), x);
  }
};

#undef GW_PICK
#define GW_PICK(Name) \
  TileFn PickFloat##Name(Types in, DType out) { return PickUnary<Name##Op>(in, out); }
GW_ARITH_UNARY_TILES(GW_PICK)
#undef GW_PICK
#define GW_PICK(Name) \
  TileFn PickFloat##Name(Types in, DType out) { return PickBinary<Name##Op>(in, out); }
GW_ARITH_BINARY_TILES(GW_PICK)

}  // namespace HWY_NAMESPACE
}  // namespace gradwire::tiles
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gradwire::tiles {

TileFn FloatPow(Types in, DType out);  // tiles_math.cc

namespace {

// Integer arithmetic wraps: it is done in an unsigned type at least as wide as int.
template <class T>
using Wide = std::make_unsigned_t<std::common_type_t<T, int>>;

struct IntAdd {
  template <class T>
  static T Apply(T a, T b) {
    return static_cast<T>(Wide<T>(a) + Wide<T>(b));
  }
};
struct IntSub {
  template <class T>
  static T Apply(T a, T b) {
    return static_cast<T>(Wide<T>(a) - Wide<T>(b));
  }
};
struct IntMul {
  template <class T>
  static T Apply(T a, T b) {
    return static_cast<T>(Wide<T>(a) * Wide<T>(b));
  }
};
struct IntDiv {
  template <class T>
  static T Apply(T a, T b) {
    if (b == 0) return 0;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return IntSub::Apply<T>(0, a);
    return static_cast<T>(a / b);
  }
};
struct IntMin {
  template <class T>
  static T Apply(T a, T b) {
    return b < a ? b : a;
  }
};
struct IntMax {
  template <class T>
  static T Apply(T a, T b) {
    return b > a ? b : a;
  }
};
// A negative exponent gives 1/x^|y| truncated: 0 but for 1 and -1 (and 0 where ONNX has no answer).
struct IntPow {
  template <class T>
  static T Apply(T x, T y) {
    if (y < 0) {
      if (x == 1) return 1;
      if (std::is_signed_v<T> && x == static_cast<T>(-1)) return y % 2 == 0 ? T{1} : x;
      return 0;
    }
    T power = 1;
    for (; y > 0; y = static_cast<T>(y / 2), x = IntMul::Apply<T>(x, x)) {
      if (y % 2 != 0) power = IntMul::Apply<T>(power, x);
    }
    return power;
  }
};
struct IntNeg {
  template <class T>
  static T Apply(T x) {
    return IntSub::Apply<T>(0, x);
  }
};
struct IntAbs {
  template <class T>
  static T Apply(T x) {
    return x < 0 ? IntNeg::Apply<T>(x) : x;
  }
};
struct IntSign {
  template <class T>
  static T Apply(T x) {
    return static_cast<T>((x > 0) - (x < 0));
  }
};
struct IntRelu {
  template <class T>
  static T Apply(T x) {
    return x > 0 ? x : T{0};
  }
};

template <class Op, class T>
void IntUnaryLoop(const void* const* in, void* out, int64_t n) {
  const T* x = static_cast<const T*>(in[0]);
  T* y = static_cast<T*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = Op::template Apply<T>(x[i]);
}
template <class Op, class T>
void IntBinaryLoop(const void* const* in, void* out, int64_t n) {
  const T* a = static_cast<const T*>(in[0]);
  const T* b = static_cast<const T*>(in[1]);
  T* y = static_cast<T*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = Op::template Apply<T>(a[i], b[i]);
}

template <class Op, int kInputs>
TileFn PickInteger(Types in, DType out) {
  if (!IsInteger(out) || in.size() != kInputs) return nullptr;
  for (DType dtype : in) {
    if (dtype != out) return nullptr;
  }
  TileFn fn = nullptr;
  VisitDType(out, [&fn](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
      if constexpr (kInputs == 1) {
        fn = &IntUnaryLoop<Op, T>;
      } else {
        fn = &IntBinaryLoop<Op, T>;
      }
    }
  });
  return fn;
}

}  // namespace

#define GW_EXPORT(Name) HWY_EXPORT(PickFloat##Name);
GW_ARITH_TILES(GW_EXPORT)
#undef GW_EXPORT

#define GW_TILE(Name, inputs)                                                   \
  TileFn Name(Types in, DType out) {                                            \
    if (IsFloating(out)) return HWY_DYNAMIC_DISPATCH(PickFloat##Name)(in, out); \
    return PickInteger<Int##Name, inputs>(in, out);                             \
  }
GW_TILE(Add, 2)
GW_TILE(Sub, 2)
GW_TILE(Mul, 2)
GW_TILE(Div, 2)
GW_TILE(Min, 2)
GW_TILE(Max, 2)
GW_TILE(Neg, 1)
GW_TILE(Abs, 1)
GW_TILE(Sign, 1)
GW_TILE(Relu, 1)
#undef GW_TILE

TileFn Sqrt(Types in, DType out) { return HWY_DYNAMIC_DISPATCH(PickFloatSqrt)(in, out); }
TileFn Reciprocal(Types in, DType out) {
  return HWY_DYNAMIC_DISPATCH(PickFloatReciprocal)(in, out);
}
TileFn Pow(Types in, DType out) {
  return IsFloating(out) ? FloatPow(in, out) : PickInteger<IntPow, 2>(in, out);
}

}  // namespace gradwire::tiles
#endif  // HWY_ONCE
