// File: sleef-inl.h
//
// SLEEF's vector functions under one name per function, for whatever instruction set the including
// file is being compiled: `sleef::Exp(d, v)`. Where SLEEF has no vectors for it, libm lane by lane.
//
// <sleef.h> shows a file only the functions of the instruction sets it is compiled for as a whole;
// files under foreach_target are compiled for the baseline, so the functions are declared here.
// clang-format off
#if defined(GRADWIRE_ENGINE_KERNELS_SLEEF_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GRADWIRE_ENGINE_KERNELS_SLEEF_INL_H_
#undef GRADWIRE_ENGINE_KERNELS_SLEEF_INL_H_
#else
#define GRADWIRE_ENGINE_KERNELS_SLEEF_INL_H_
#endif
// clang-format on

#include <cmath>

#include "hwy/highway.h"

#undef GW_SLEEF_F32
#undef GW_SLEEF_F64
#undef GW_SLEEF_V32
#undef GW_SLEEF_V64
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
#define GW_SLEEF_F32(name) Sleef_##name##f16_u10avx512f
#define GW_SLEEF_F64(name) Sleef_##name##d8_u10avx512f
#define GW_SLEEF_V32 __m512
#define GW_SLEEF_V64 __m512d
#elif HWY_ARCH_X86 && HWY_TARGET == HWY_AVX2
#define GW_SLEEF_F32(name) Sleef_##name##f8_u10avx2
#define GW_SLEEF_F64(name) Sleef_##name##d4_u10avx2
#define GW_SLEEF_V32 __m256
#define GW_SLEEF_V64 __m256d
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_SSE4
#define GW_SLEEF_F32(name) Sleef_##name##f4_u10sse4
#define GW_SLEEF_F64(name) Sleef_##name##d2_u10sse4
#define GW_SLEEF_V32 __m128
#define GW_SLEEF_V64 __m128d
#endif

HWY_BEFORE_NAMESPACE();
namespace gradwire::tiles {
namespace HWY_NAMESPACE {
namespace sleef {
namespace hn = hwy::HWY_NAMESPACE;

#undef GW_SLEEF_UNARY
#undef GW_SLEEF_BINARY
#ifdef GW_SLEEF_F32
#define GW_SLEEF_UNARY(Name, name)                          \
  extern "C" GW_SLEEF_V32 GW_SLEEF_F32(name)(GW_SLEEF_V32); \
  extern "C" GW_SLEEF_V64 GW_SLEEF_F64(name)(GW_SLEEF_V64); \
  template <class D>                                        \
  HWY_INLINE hn::Vec<D> Name(D, hn::Vec<D> x) {             \
    if constexpr (sizeof(hn::TFromD<D>) == 4) {             \
      return hn::Vec<D>{GW_SLEEF_F32(name)(x.raw)};         \
    } else {                                                \
      return hn::Vec<D>{GW_SLEEF_F64(name)(x.raw)};         \
    }                                                       \
  }
#define GW_SLEEF_BINARY(Name, name)                                       \
  extern "C" GW_SLEEF_V32 GW_SLEEF_F32(name)(GW_SLEEF_V32, GW_SLEEF_V32); \
  extern "C" GW_SLEEF_V64 GW_SLEEF_F64(name)(GW_SLEEF_V64, GW_SLEEF_V64); \
  template <class D>                                                      \
  HWY_INLINE hn::Vec<D> Name(D, hn::Vec<D> x, hn::Vec<D> y) {             \
    if constexpr (sizeof(hn::TFromD<D>) == 4) {                           \
      return hn::Vec<D>{GW_SLEEF_F32(name)(x.raw, y.raw)};                \
    } else {                                                              \
      return hn::Vec<D>{GW_SLEEF_F64(name)(x.raw, y.raw)};                \
    }                                                                     \
  }
#else
#define GW_SLEEF_UNARY(Name, name)                                            \
  template <class D>                                                          \
  HWY_INLINE hn::Vec<D> Name(D d, hn::Vec<D> x) {                             \
    HWY_ALIGN hn::TFromD<D> lanes[HWY_LANES(hn::TFromD<D>)];                  \
    hn::Store(x, d, lanes);                                                   \
    for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = std::name(lanes[i]); \
    return hn::Load(d, lanes);                                                \
  }
#define GW_SLEEF_BINARY(Name, name)                                                     \
  template <class D>                                                                    \
  HWY_INLINE hn::Vec<D> Name(D d, hn::Vec<D> x, hn::Vec<D> y) {                         \
    HWY_ALIGN hn::TFromD<D> lanes[HWY_LANES(hn::TFromD<D>)];                            \
    HWY_ALIGN hn::TFromD<D> other[HWY_LANES(hn::TFromD<D>)];                            \
    hn::Store(x, d, lanes);                                                             \
    hn::Store(y, d, other);                                                             \
    for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = std::name(lanes[i], other[i]); \
    return hn::Load(d, lanes);                                                          \
  }
#endif

GW_SLEEF_UNARY(Exp, exp)
GW_SLEEF_UNARY(Expm1, expm1)
GW_SLEEF_UNARY(Log, log)
GW_SLEEF_UNARY(Log1p, log1p)
GW_SLEEF_UNARY(Sin, sin)
GW_SLEEF_UNARY(Cos, cos)
GW_SLEEF_UNARY(Tan, tan)
GW_SLEEF_UNARY(Asin, asin)
GW_SLEEF_UNARY(Acos, acos)
GW_SLEEF_UNARY(Atan, atan)
GW_SLEEF_UNARY(Sinh, sinh)
GW_SLEEF_UNARY(Cosh, cosh)
GW_SLEEF_UNARY(Asinh, asinh)
GW_SLEEF_UNARY(Acosh, acosh)
GW_SLEEF_UNARY(Atanh, atanh)
GW_SLEEF_UNARY(Tanh, tanh)
GW_SLEEF_UNARY(Erf, erf)
GW_SLEEF_BINARY(Pow, pow)

}  // namespace sleef
}  // namespace HWY_NAMESPACE
}  // namespace gradwire::tiles
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
