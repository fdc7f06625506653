// File: tiles_loops-inl.h
//
// Loops that run a vector function over n elements, compiled once per instruction set. A function
// is a struct with a static `Apply(d, v)` or `Apply(d, a, b)`. Every element goes through Apply as
// part of a full vector, tails too, so its bits do not depend on where it lies.
// clang-format off
#if defined(GRADWIRE_ENGINE_KERNELS_TILES_LOOPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GRADWIRE_ENGINE_KERNELS_TILES_LOOPS_INL_H_
#undef GRADWIRE_ENGINE_KERNELS_TILES_LOOPS_INL_H_
#else
#define GRADWIRE_ENGINE_KERNELS_TILES_LOOPS_INL_H_
#endif
// clang-format on

#include "engine/kernels/tiles.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gradwire::tiles {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

// One lane: there is no part of a vector.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadSome(D d, const T* p, int64_t) {
  return hn::LoadU(d, p);
}
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void StoreSome(hn::Vec<D> v, D d, T* p, int64_t) {
  hn::StoreU(v, d, p);
}

#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

// Loads and stores 1 <= n < Lanes(d) elements at p; what the other lanes hold does not matter.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadSome(D d, const T* p, int64_t n) {
  return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(n)), d, p);
}
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void StoreSome(hn::Vec<D> v, D d, T* p, int64_t n) {
  hn::BlendedStore(v, hn::FirstN(d, static_cast<size_t>(n)), d, p);
}

#else

// Loads and stores 1 <= n < Lanes(d) elements at p, in lanes of their own choice: two pieces of a
// power of two cover any n, overlapping, and cost less than AVX2's masks or a buffer.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadSome(D d, const T* p, int64_t n) {
  if (n == 1) return hn::Set(d, *p);
  constexpr int64_t kHalf = static_cast<int64_t>(hn::MaxLanes(D())) / 2;
  const hn::Half<D> half;
  if constexpr (kHalf > 2) {
    if (n < kHalf) return hn::ZeroExtendVector(d, LoadSome(half, p, n));
  }
  return hn::Combine(d, hn::LoadU(half, p + n - kHalf), hn::LoadU(half, p));
}
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void StoreSome(hn::Vec<D> v, D d, T* p, int64_t n) {
  if (n == 1) {
    *p = hn::GetLane(v);
    return;
  }
  constexpr int64_t kHalf = static_cast<int64_t>(hn::MaxLanes(D())) / 2;
  const hn::Half<D> half;
  if constexpr (kHalf > 2) {
    if (n < kHalf) {
      StoreSome(hn::LowerHalf(half, v), half, p, n);
      return;
    }
  }
  hn::StoreU(hn::UpperHalf(half, v), half, p + n - kHalf);
  hn::StoreU(hn::LowerHalf(half, v), half, p);
}

#endif

// In both loops the last full vector is loaded before the first store: it may overlap the one
// before it, whose elements an in-place run has already replaced.
template <class Op, class T>
void UnaryLoop(const void* const* in, void* out, int64_t n) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const T* x = static_cast<const T*>(in[0]);
  T* y = static_cast<T*>(out);
  if (n < lanes) {
    if (n > 0) StoreSome(Op::Apply(d, LoadSome(d, x, n)), d, y, n);
    return;
  }
  const auto last = hn::LoadU(d, x + n - lanes);
  for (int64_t i = 0; i + lanes < n; i += lanes) {
    hn::StoreU(Op::Apply(d, hn::LoadU(d, x + i)), d, y + i);
  }
  hn::StoreU(Op::Apply(d, last), d, y + n - lanes);
}

template <class Op, class T>
void BinaryLoop(const void* const* in, void* out, int64_t n) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const T* a = static_cast<const T*>(in[0]);
  const T* b = static_cast<const T*>(in[1]);
  T* y = static_cast<T*>(out);
  if (n < lanes) {
    if (n > 0) StoreSome(Op::Apply(d, LoadSome(d, a, n), LoadSome(d, b, n)), d, y, n);
    return;
  }
  const auto last_a = hn::LoadU(d, a + n - lanes);
  const auto last_b = hn::LoadU(d, b + n - lanes);
  for (int64_t i = 0; i + lanes < n; i += lanes) {
    hn::StoreU(Op::Apply(d, hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, y + i);
  }
  hn::StoreU(Op::Apply(d, last_a, last_b), d, y + n - lanes);
}

template <class Op>
TileFn PickUnary(Types in, DType out) {
  if (in.size() != 1 || in[0] != out) return nullptr;
  if (out == DType::kFloat) return &UnaryLoop<Op, float>;
  if (out == DType::kDouble) return &UnaryLoop<Op, double>;
  return nullptr;
}

template <class Op>
TileFn PickBinary(Types in, DType out) {
  if (in.size() != 2 || in[0] != out || in[1] != out) return nullptr;
  if (out == DType::kFloat) return &BinaryLoop<Op, float>;
  if (out == DType::kDouble) return &BinaryLoop<Op, double>;
  return nullptr;
}

}  // namespace HWY_NAMESPACE
}  // namespace gradwire::tiles
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
