// Transcendental tiles, for FLOAT and DOUBLE.
#include "engine/kernels/simd_targets.h"
#include "engine/kernels/tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/tiles_math.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

// After foreach_target.h.
#include "engine/kernels/sleef-inl.h"
#include "engine/kernels/tiles_loops-inl.h"
#include "hwy/highway.h"

// Each has a struct <name>Op below.
// clang-format off
#ifndef GW_MATH_TILES
#define GW_MATH_UNARY_TILES(X)                                                                   \
  X(Exp)                                                                                         \
  X(Expm1)                                                                                       \
  X(Log) X(Log1p) X(Sin) X(Cos) X(Tan) X(Asin) X(Acos) X(Atan) X(Sinh) X(Cosh) X(Asinh) X(Acosh) \
      X(Atanh) X(Tanh) X(Erf) X(Sigmoid) X(Softplus)
#define GW_MATH_TILES(X) GW_MATH_UNARY_TILES(X) X(FloatPow)
#endif
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace gradwire::tiles {
namespace HWY_NAMESPACE {

template <class D>
HWY_INLINE hn::Vec<D> Constant(D d, double value) {
  return hn::Set(d, static_cast<hn::TFromD<D>>(value));
}
template <class D>
inline constexpr bool kIsFloat = sizeof(hn::TFromD<D>) == 4;

// 2^q for integral q in [-1022, 1023] (float: [-126, 127]): q + magic ends in the bits of q.
template <class D, class V>
HWY_INLINE V PowerOfTwo(D d, V q) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  constexpr int kMantissaBits = kIsFloat<D> ? 23 : 52;
  const V magic = Constant(d, kIsFloat<D> ? 0x1.8p23 : 0x1.8p52);
  const auto bits = hn::ShiftLeft<kMantissaBits>(hn::BitCast(di, hn::Add(q, magic)));
  constexpr TI kBias = kIsFloat<D> ? 127 : 1023;
  return hn::BitCast(d, hn::Add(bits, hn::Set(di, kBias << kMantissaBits)));
}

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2, with the coefficients of Highway's Exp. Odd and even
// powers apart, for shorter chains.
template <class D, class V>
HWY_INLINE V ExpTail(D d, V r) {
  const V z = hn::Mul(r, r);
  if constexpr (kIsFloat<D>) {
    V even = Constant(d, +0.00139304355252534151077271);
    even = hn::MulAdd(even, z, Constant(d, +0.0416664853692054748535156));
    even = hn::MulAdd(even, z, Constant(d, +0.5));
    V odd = Constant(d, +0.000198527617612853646278381);
    odd = hn::MulAdd(odd, z, Constant(d, +0.00833336077630519866943359));
    odd = hn::MulAdd(odd, z, Constant(d, +0.166666671633720397949219));
    return hn::MulAdd(odd, r, even);
  } else {
    V even = Constant(d, +2.08860621107283687536341e-9);
    even = hn::MulAdd(even, z, Constant(d, +2.75573911234900471893338e-7));
    even = hn::MulAdd(even, z, Constant(d, +2.4801587159235472998791e-5));
    even = hn::MulAdd(even, z, Constant(d, +0.00138888888889774492207962));
    even = hn::MulAdd(even, z, Constant(d, +0.0416666666666665047591422));
    even = hn::MulAdd(even, z, Constant(d, +0.5));
    V odd = Constant(d, +2.51112930892876518610661e-8);
    odd = hn::MulAdd(odd, z, Constant(d, +2.75572362911928827629423e-6));
    odd = hn::MulAdd(odd, z, Constant(d, +0.000198412698960509205564975));
    odd = hn::MulAdd(odd, z, Constant(d, +0.00833333333331652721664984));
    odd = hn::MulAdd(odd, z, Constant(d, +0.166666666666666851703837));
    return hn::MulAdd(odd, r, even);
  }
}

// exp(x) to little more than half a unit in the last place: Highway's Exp, with what the reduction
// and the sum 1 + r lose carried along; *error gets what the result still lacks. Right everywhere
// but at NaN, where it gives a number.
template <class D, class V>
HWY_INLINE V ExpNotNan(D d, V x, V* error) {
  x = hn::Min(x, Constant(d, kIsFloat<D> ? 89.0 : 710.0));
  x = hn::Max(x, Constant(d, kIsFloat<D> ? -104.0 : -746.0));
  const V q = hn::Round(hn::Mul(x, Constant(d, 1.44269504088896340736)));
  const V ln2_low =
      Constant(d, kIsFloat<D> ? 1.428606765330187045e-6 : 0.28235290563031577122588448175e-12);
  const V head = hn::NegMulAdd(
      q, Constant(d, kIsFloat<D> ? 0.693145751953125 : 0.6931471805596629565116018), x);
  const V r = hn::NegMulAdd(q, ln2_low, head);
  const V lost = hn::NegMulAdd(q, ln2_low, hn::Sub(head, r));
  const V one = Constant(d, 1.0);
  const V sum = hn::Add(one, r);
  const V rest = hn::Add(hn::Sub(r, hn::Sub(sum, one)), lost);
  const V tail = hn::MulAdd(hn::Mul(r, r), ExpTail(d, r), rest);
  const V y = hn::Add(sum, tail);
  // In two steps, the second of which rounds a denormal result.
  const V half = hn::Round(hn::Mul(q, Constant(d, 0.5)));
  const V scale = PowerOfTwo(d, half), scale_rest = PowerOfTwo(d, hn::Sub(q, half));
  *error = hn::Mul(hn::Mul(hn::Add(hn::Sub(sum, y), tail), scale), scale_rest);
  return hn::Mul(hn::Mul(y, scale), scale_rest);
}
template <class D, class V>
HWY_INLINE V ExpNotNan(D d, V x) {
  V error;
  return ExpNotNan(d, x, &error);
}

struct ExpOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    return hn::IfThenElse(hn::IsNaN(x), x, ExpNotNan(d, x));
  }
};

// Functions that SLEEF gets right everywhere and computes lane by lane.
#undef GW_FROM_SLEEF
#define GW_FROM_SLEEF(Name)               \
  struct Name##Op {                       \
    template <class D, class V>           \
    static HWY_INLINE V Apply(D d, V x) { \
      return sleef::Name(d, x);           \
    }                                     \
  };
GW_FROM_SLEEF(Expm1)
GW_FROM_SLEEF(Log)
GW_FROM_SLEEF(Asin)
GW_FROM_SLEEF(Acos)
GW_FROM_SLEEF(Atan)
GW_FROM_SLEEF(Atanh)

// SLEEF's log1p overflows near the largest numbers.
struct Log1pOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const auto large = hn::Gt(x, Constant(d, 1e30));
    V r = sleef::Log1p(d, x);
    if (!hn::AllFalse(d, large)) r = hn::IfThenElse(large, sleef::Log(d, x), r);
    return r;
  }
};

// SLEEF reduces all lanes by the method that the largest one needs, and the methods differ in the
// last bit. So that an element's bits do not depend on its neighbours, each class of magnitudes
// gets a call of its own, with zeros in the place of the others. Almost always there is one class.
template <class Op>
struct TrigOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const V magnitude = hn::Abs(x);
    const auto small = hn::Lt(magnitude, Constant(d, kIsFloat<D> ? 125.0 : 15.0));
    if (HWY_LIKELY(hn::AllTrue(d, small))) return Op::Apply(d, x);
    const auto up_to_medium = kIsFloat<D> ? small : hn::Lt(magnitude, Constant(d, 1e14));
    const auto medium = hn::AndNot(small, up_to_medium);
    const auto large = hn::Not(up_to_medium);
    V r = Op::Apply(d, hn::IfThenElseZero(small, x));
    if (!hn::AllFalse(d, medium)) {
      r = hn::IfThenElse(medium, Op::Apply(d, hn::IfThenElseZero(medium, x)), r);
    }
    if (!hn::AllFalse(d, large)) {
      r = hn::IfThenElse(large, Op::Apply(d, hn::IfThenElseZero(large, x)), r);
    }
    return r;
  }
};
struct SleefSin {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    return sleef::Sin(d, x);
  }
};
struct SleefCos {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    return sleef::Cos(d, x);
  }
};
struct SleefTan {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    return sleef::Tan(d, x);
  }
};
using SinOp = TrigOp<SleefSin>;
using CosOp = TrigOp<SleefCos>;
using TanOp = TrigOp<SleefTan>;

// exp(a)/2 where exp(a) itself may overflow, in which range SLEEF gives up: a - 1 is exact there,
// and the factor e/2 is a rounded head with the rest added.
template <class D, class V>
HWY_INLINE V HalfExp(D d, V a) {
  using T = hn::TFromD<D>;
  constexpr long double kHalfE = 1.35914091422952261768014373567633125L;
  constexpr T kHead = static_cast<T>(kHalfE);
  constexpr T kRest = static_cast<T>(kHalfE - kHead);
  const V e = ExpNotNan(d, hn::Sub(a, Constant(d, 1.0)));
  return hn::MulAdd(e, hn::Set(d, kHead), hn::Mul(e, hn::Set(d, kRest)));
}
template <class D>
HWY_INLINE double HyperbolicIsExpFrom(D) {
  return kIsFloat<D> ? 87.0 : 708.0;
}

struct SinhOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const V a = hn::Abs(x);
    const auto large = hn::Gt(a, Constant(d, HyperbolicIsExpFrom(d)));
    V r = sleef::Sinh(d, x);
    if (!hn::AllFalse(d, large)) r = hn::IfThenElse(large, hn::CopySign(HalfExp(d, a), x), r);
    return r;
  }
};
struct CoshOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const V a = hn::Abs(x);
    const auto large = hn::Gt(a, Constant(d, HyperbolicIsExpFrom(d)));
    V r = sleef::Cosh(d, x);
    if (!hn::AllFalse(d, large)) r = hn::IfThenElse(large, HalfExp(d, a), r);
    return r;
  }
};

// SLEEF squares the argument, which overflows; log(2a) is exact to the last bit long before that.
template <class D, class V>
HWY_INLINE V LogOfTwice(D d, V a) {
  return hn::Add(sleef::Log(d, a), Constant(d, 0.69314718055994530942));
}
struct AsinhOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const V a = hn::Abs(x);
    const auto large = hn::Gt(a, Constant(d, 1e9));
    V r = sleef::Asinh(d, x);
    if (!hn::AllFalse(d, large)) r = hn::IfThenElse(large, hn::CopySign(LogOfTwice(d, a), x), r);
    return r;
  }
};
struct AcoshOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const auto large = hn::Gt(x, Constant(d, 1e9));
    V r = sleef::Acosh(d, x);
    if (!hn::AllFalse(d, large)) r = hn::IfThenElse(large, LogOfTwice(d, x), r);
    return r;
  }
};

// Cephes' approximations (Moshier, tanh.c and tanhf.c) below 0.625; 1 - 2/(exp(2a)+1) above, where
// the quotient is under half of the result and so are its errors.
struct TanhOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const V one = Constant(d, 1.0), half = Constant(d, 0.5);
    const V a = hn::Abs(x);
    const V e = ExpNotNan(d, hn::Min(hn::Add(a, a), Constant(d, 50.0)));
    const V two = Constant(d, 2.0);
    const V sum = hn::Add(e, one);
    const V lost = hn::Sub(one, hn::Sub(sum, e));
    const V q = hn::Div(two, sum);
    // What the rounding of e + 1, of the quotient and of 1 - q lost, put back.
    const V q_rest = hn::Mul(hn::NegMulAdd(q, lost, hn::NegMulAdd(q, sum, two)), hn::Mul(q, half));
    const V head = hn::Sub(one, q);
    const V far = hn::Add(head, hn::Sub(hn::Sub(hn::Sub(one, head), q), q_rest));
    const V z = hn::Mul(a, a);
    const V near = hn::MulAdd(hn::Mul(a, z), Correction(d, z), a);
    const V r = hn::IfThenElse(hn::Lt(a, Constant(d, 0.625)), near, far);
    return hn::IfThenElse(hn::IsNaN(x), x, hn::CopySign(r, x));
  }
  template <class D, class V>
  static HWY_INLINE V Correction(D d, V z) {
    if constexpr (kIsFloat<D>) {
      V p = Constant(d, -5.70498872745E-3);
      p = hn::MulAdd(p, z, Constant(d, 2.06390887954E-2));
      p = hn::MulAdd(p, z, Constant(d, -5.37397155531E-2));
      p = hn::MulAdd(p, z, Constant(d, 1.33314422036E-1));
      return hn::MulAdd(p, z, Constant(d, -3.33332819422E-1));
    } else {
      V p = Constant(d, -9.64399179425052238628E-1);
      p = hn::MulAdd(p, z, Constant(d, -9.92877231001918586564E1));
      p = hn::MulAdd(p, z, Constant(d, -1.61468768441708447952E3));
      V q = hn::Add(z, Constant(d, 1.12811678491632931402E2));
      q = hn::MulAdd(q, z, Constant(d, 2.23548839060100448583E3));
      q = hn::MulAdd(q, z, Constant(d, 4.84406305325125486048E3));
      return hn::Div(p, q);
    }
  }
};

// c[0] + c[1] z + c[2] z^2 + ...
template <class D, class V, size_t kTerms>
HWY_INLINE V Polynomial(D d, V z, const double (&c)[kTerms]) {
  V p = Constant(d, c[kTerms - 1]);
  for (size_t i = kTerms - 1; i-- > 0;) p = hn::MulAdd(p, z, Constant(d, c[i]));
  return p;
}

// FLOAT: x + x near(x^2) below 0.9, and 1 - exp(-(x + x far(x))) above, with what the rounding of
// the exponent lost put back. Both polynomials are minimax fits of the result's relative error, to
// values of 40 digits. SLEEF's erf carries pairs of numbers along and takes five times as long.
struct ErfOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    if constexpr (kIsFloat<D>) {
      constexpr double kNear[] = {1.2837916612625122e-1, -3.7612634897232056e-1,
                                  1.1283715069293976e-1, -2.6860509067773819e-2,
                                  5.2038589492440224e-3, -8.1756390864029527e-4,
                                  8.5131032392382622e-5};
      constexpr double kFar[] = {1.2863707542419434e-1, 6.3519805669784546e-1,
                                 1.0615903139114380e-1, -2.3694552481174469e-2,
                                 3.6103352904319763e-3, -3.1485635554417968e-4,
                                 1.0432930139359087e-5};
      const V near = hn::MulAdd(x, Polynomial(d, hn::Mul(x, x), kNear), x);
      const V a = hn::Min(hn::Abs(x), Constant(d, 4.0));  // where the result is 1
      const V q = Polynomial(d, a, kFar);
      const V s = hn::MulAdd(a, q, a);
      const V lost = hn::MulAdd(a, q, hn::Sub(a, s));
      const V e = ExpNotNan(d, hn::Neg(s));
      const V far = hn::Sub(Constant(d, 1.0), hn::NegMulAdd(e, lost, e));
      const V r = hn::IfThenElse(hn::Lt(a, Constant(d, 0.9)), near, hn::CopySign(far, x));
      return hn::IfThenElse(hn::IsNaN(x), x, r);
    } else {
      return sleef::Erf(d, x);
    }
  }
};

struct SigmoidOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    const V one = Constant(d, 1.0);
    V error;
    const V z = ExpNotNan(d, hn::Neg(hn::Abs(x)), &error);
    const auto negative = hn::Lt(x, hn::Zero(d));
    const V numerator = hn::IfThenElse(negative, z, one);
    // The quotient with what rounding z, 1 + z and the division lost put back.
    const V sum = hn::Add(one, z);
    const V lost = hn::Add(hn::Sub(z, hn::Sub(sum, one)), error);
    const V inverse = hn::Div(one, sum);
    const V q = hn::Mul(numerator, inverse);
    const V rest = hn::Add(hn::NegMulAdd(q, lost, hn::NegMulAdd(q, sum, numerator)),
                           hn::IfThenElseZero(negative, error));
    return hn::IfThenElse(hn::IsNaN(x), x, hn::MulAdd(rest, inverse, q));
  }
};

struct SoftplusOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x) {
    V error;
    const V z = ExpNotNan(d, hn::Neg(hn::Abs(x)), &error);
    // SLEEF loses a bit of denormal numbers.
    const auto tiny = hn::Lt(z, Constant(d, kIsFloat<D> ? 1e-8 : 1e-17));
    const V slope = hn::Div(Constant(d, 1.0), hn::Add(Constant(d, 1.0), z));
    const V log = hn::IfThenElse(tiny, z, hn::MulAdd(error, slope, sleef::Log1p(d, z)));
    const V r = hn::Add(hn::Max(x, hn::Zero(d)), log);
    return hn::IfThenElse(hn::IsNaN(x), x, r);
  }
};

// x^3 with one rounding wherever the intermediate values stay in range.
template <class D, class V>
HWY_INLINE V Cube(D d, V x) {
  const V square = hn::Mul(x, x);
  const V lost = hn::MulSub(x, x, square);
  const V fused = hn::MulAdd(square, x, hn::Mul(lost, x));
  return hn::IfThenElse(hn::Lt(hn::Abs(x), Constant(d, kIsFloat<D> ? 1e12 : 1e100)), fused,
                        hn::Mul(square, x));
}

// The exponents that graphs are full of take their exact or nearly exact short cut.
struct FloatPowOp {
  template <class D, class V>
  static HWY_INLINE V Apply(D d, V x, V y) {
    const auto one = hn::Eq(y, Constant(d, 1.0));
    const auto two = hn::Eq(y, Constant(d, 2.0));
    const auto three = hn::Eq(y, Constant(d, 3.0));
    const auto minus_one = hn::Eq(y, Constant(d, -1.0));
    const auto direct = hn::Or(hn::Or(one, two), hn::Or(three, minus_one));
    V r = x;
    if (!hn::AllTrue(d, direct)) r = hn::IfThenElse(direct, x, sleef::Pow(d, x, y));
    r = hn::IfThenElse(two, hn::Mul(x, x), r);
    if (!hn::AllFalse(d, three)) r = hn::IfThenElse(three, Cube(d, x), r);
    if (!hn::AllFalse(d, minus_one)) r = hn::IfThenElse(minus_one, hn::Div(Constant(d, 1.0), x), r);
    return r;
  }
};

#undef GW_PICK
#define GW_PICK(Name) \
  TileFn Pick##Name(Types in, DType out) { return PickUnary<Name##Op>(in, out); }
GW_MATH_UNARY_TILES(GW_PICK)
TileFn PickFloatPow(Types in, DType out) { return PickBinary<FloatPowOp>(in, out); }

}  // namespace HWY_NAMESPACE
}  // namespace gradwire::tiles
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gradwire::tiles {

TileFn FloatPow(Types in, DType out);  // called by Pow

#define GW_TILE(Name)     \
  HWY_EXPORT(Pick##Name); \
  TileFn Name(Types in, DType out) { return HWY_DYNAMIC_DISPATCH(Pick##Name)(in, out); }
GW_MATH_TILES(GW_TILE)
#undef GW_TILE

}  // namespace gradwire::tiles
#endif  // HWY_ONCE
