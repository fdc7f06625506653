// Comparison, logic, selection and conversion tiles. Plain loops over unlike element types, which
// the compiler vectorises for each instruction set: no element's result involves rounding, so its
// bits cannot depend on how.
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "engine/kernels/simd_targets.h"
#include "engine/kernels/tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/tiles_mask.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

// After foreach_target.h.
#include "hwy/highway.h"

#ifndef GW_MASK_TILES
#define GW_COMPARE_TILES(X) \
  X(Equal, ==) X(Less, <) X(LessOrEqual, <=) X(Greater, >) X(GreaterOrEqual, >=)
#define GW_MASK_TILES(X) \
  X(Equal) X(Less) X(LessOrEqual) X(Greater) X(GreaterOrEqual) X(Not) X(And) X(Or) X(Where) X(Cast)
#endif

HWY_BEFORE_NAMESPACE();
namespace gradwire::tiles {
namespace HWY_NAMESPACE {

#undef GW_COMPARE
#define GW_COMPARE(Name, op)                    \
  struct Name##Op {                             \
    template <class T>                          \
    static HWY_INLINE uint8_t Apply(T a, T b) { \
      return static_cast<uint8_t>(a op b);      \
    }                                           \
  };
GW_COMPARE_TILES(GW_COMPARE)

template <class Op, class T>
void CompareLoop(const void* const* in, void* out, int64_t n) {
  const T* a = static_cast<const T*>(in[0]);
  const T* b = static_cast<const T*>(in[1]);
  uint8_t* y = static_cast<uint8_t*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = Op::template Apply<T>(a[i], b[i]);
}

template <class Op>
TileFn PickCompare(Types in, DType out) {
  if (in.size() != 2 || in[0] != in[1] || out != DType::kBool) return nullptr;
  if (in[0] == DType::kBool) {
    return std::is_same_v<Op, EqualOp> ? &CompareLoop<Op, uint8_t> : nullptr;
  }
  TileFn fn = nullptr;
  VisitDType(in[0], [&fn](auto tag) { fn = &CompareLoop<Op, typename decltype(tag)::type>; });
  return fn;
}

void NotLoop(const void* const* in, void* out, int64_t n) {
  const uint8_t* x = static_cast<const uint8_t*>(in[0]);
  uint8_t* y = static_cast<uint8_t*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] == 0;
}
void AndLoop(const void* const* in, void* out, int64_t n) {
  const uint8_t* a = static_cast<const uint8_t*>(in[0]);
  const uint8_t* b = static_cast<const uint8_t*>(in[1]);
  uint8_t* y = static_cast<uint8_t*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] & b[i];
}
void OrLoop(const void* const* in, void* out, int64_t n) {
  const uint8_t* a = static_cast<const uint8_t*>(in[0]);
  const uint8_t* b = static_cast<const uint8_t*>(in[1]);
  uint8_t* y = static_cast<uint8_t*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] | b[i];
}

bool AllBool(Types in, size_t inputs, DType out) {
  if (in.size() != inputs || out != DType::kBool) return false;
  for (DType dtype : in) {
    if (dtype != DType::kBool) return false;
  }
  return true;
}

// T is an unsigned integer of the element's size: the bits move unread.
template <class T>
void WhereLoop(const void* const* in, void* out, int64_t n) {
  const uint8_t* condition = static_cast<const uint8_t*>(in[0]);
  const T* a = static_cast<const T*>(in[1]);
  const T* b = static_cast<const T*>(in[2]);
  T* y = static_cast<T*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T mask = static_cast<T>(-static_cast<T>(condition[i] != 0));
    y[i] = static_cast<T>((a[i] & mask) | (b[i] & static_cast<T>(~mask)));
  }
}

template <class To, class From>
HWY_INLINE To CastOne(From v) {
  if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    // 2^digits, exact in either floating type, is the first value too large.
    constexpr From kEnd = static_cast<From>(To{1} << (std::numeric_limits<To>::digits - 1)) * 2;
    if (v >= kEnd) return std::numeric_limits<To>::max();
    if (v > static_cast<From>(std::numeric_limits<To>::min())) return static_cast<To>(v);
    return v == v ? std::numeric_limits<To>::min() : To{0};
  } else {
    return static_cast<To>(v);
  }
}

template <class From, class To>
void CastLoop(const void* const* in, void* out, int64_t n) {
  const From* x = static_cast<const From*>(in[0]);
  To* y = static_cast<To*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = CastOne<To, From>(x[i]);
}
template <class From>
void ToBoolLoop(const void* const* in, void* out, int64_t n) {
  const From* x = static_cast<const From*>(in[0]);
  uint8_t* y = static_cast<uint8_t*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] != 0;
}

// Booleans are read as the bytes they are.
template <class T>
using Storage = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;

template <class From>
TileFn PickCastFrom(DType out) {
  TileFn fn = nullptr;
  VisitDType(out, [&fn](auto tag) {
    using To = typename decltype(tag)::type;
    if constexpr (std::is_same_v<To, bool>) {
      fn = &ToBoolLoop<From>;
    } else {
      fn = &CastLoop<From, To>;
    }
  });
  return fn;
}

#undef GW_PICK_COMPARE
#define GW_PICK_COMPARE(Name, op) \
  TileFn Pick##Name(Types in, DType out) { return PickCompare<Name##Op>(in, out); }
GW_COMPARE_TILES(GW_PICK_COMPARE)

TileFn PickNot(Types in, DType out) { return AllBool(in, 1, out) ? &NotLoop : nullptr; }
TileFn PickAnd(Types in, DType out) { return AllBool(in, 2, out) ? &AndLoop : nullptr; }
TileFn PickOr(Types in, DType out) { return AllBool(in, 2, out) ? &OrLoop : nullptr; }
TileFn PickWhere(Types in, DType out) {
  if (in.size() != 3 || in[0] != DType::kBool || in[1] != out || in[2] != out) return nullptr;
  switch (DTypeBytes(out)) {
    case 1:
      return &WhereLoop<uint8_t>;
    case 2:
      return &WhereLoop<uint16_t>;
    case 4:
      return &WhereLoop<uint32_t>;
    case 8:
      return &WhereLoop<uint64_t>;
    default:
      return nullptr;
  }
}
TileFn PickCast(Types in, DType out) {
  if (in.size() != 1) return nullptr;
  TileFn fn = nullptr;
  VisitDType(in[0], [&fn, out](auto tag) {
    fn = PickCastFrom<Storage<typename decltype(tag)::type>>(out);
  });
  return fn;
}

}  // namespace HWY_NAMESPACE
}  // namespace gradwire::tiles
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gradwire::tiles {

#define GW_TILE(Name)     \
  HWY_EXPORT(Pick##Name); \
  TileFn Name(Types in, DType out) { return HWY_DYNAMIC_DISPATCH(Pick##Name)(in, out); }
GW_MASK_TILES(GW_TILE)
#undef GW_TILE

namespace {

template <int64_t kBytes>
void CopyLoop(const void* const* in, void* out, int64_t n) {
  if (n == 1) {  // inline, where a call would cost more than the copy
    std::memcpy(out, in[0], kBytes);
  } else if (n > 0 && out != in[0]) {
    std::memcpy(out, in[0], static_cast<size_t>(n * kBytes));
  }
}

template <class T>
void Fill(const void* in, void* out, int64_t n) {
  T value;
  std::memcpy(&value, in, sizeof(T));
  T* y = static_cast<T*>(out);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = value;
}

}  // namespace

TileFn Identity(Types in, DType out) {
  if (in.size() != 1 || in[0] != out) return nullptr;
  switch (DTypeBytes(out)) {
    case 1:
      return &CopyLoop<1>;
    case 2:
      return &CopyLoop<2>;
    case 4:
      return &CopyLoop<4>;
    case 8:
      return &CopyLoop<8>;
    default:
      return nullptr;
  }
}

void Splat(const void* in, void* out, int64_t n, int64_t element_bytes) {
  switch (element_bytes) {
    case 1:
      return Fill<uint8_t>(in, out, n);
    case 2:
      return Fill<uint16_t>(in, out, n);
    case 4:
      return Fill<uint32_t>(in, out, n);
    case 8:
      return Fill<uint64_t>(in, out, n);
    default:
      break;
  }
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(static_cast<char*>(out) + i * element_bytes, in,
                static_cast<size_t>(element_bytes));
  }
}

}  // namespace gradwire::tiles
#endif  // HWY_ONCE
