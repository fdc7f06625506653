// The loops are plain C++ that the compiler vectorises for each instruction set. Every accumulator
// belongs to one column, so vectors of any width give the same bits.
#include "engine/kernels/reduce.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>

#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/kernels/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/reduce.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gradwire {
namespace HWY_NAMESPACE {

constexpr int64_t kBlockElements = 4096;  // of a contiguous axis
constexpr int64_t kBlockRows = 64;        // of an axis with an inner dimension
constexpr int64_t kWidth = 256;           // columns handled together: acc and a few rows fit in L1
constexpr int64_t kMaxSegments = 32;
constexpr int64_t kMinTeamElements = 1 << 16;

template <class T>
constexpr T Infinity() {
  if constexpr (std::is_floating_point_v<T>) return std::numeric_limits<T>::infinity();
  return std::numeric_limits<T>::max();
}
template <class T>
constexpr T MinusInfinity() {
  if constexpr (std::is_floating_point_v<T>) return -std::numeric_limits<T>::infinity();
  return std::numeric_limits<T>::min();
}

struct SumOp {
  template <class T>
  static constexpr T Identity() {
    return T{0};
  }
  template <class T>
  static HWY_INLINE T Apply(T acc, T x) {
    if constexpr (std::is_floating_point_v<T>) {
      return acc + x;
    } else {  // wraps
      using U = std::make_unsigned_t<std::common_type_t<T, int>>;
      return static_cast<T>(static_cast<U>(acc) + static_cast<U>(x));
    }
  }
};
struct MaxOp {
  template <class T>
  static constexpr T Identity() {
    return MinusInfinity<T>();
  }
  template <class T>
  static HWY_INLINE T Apply(T acc, T x) {
    const T larger = x > acc ? x : acc;
    return x != x ? x : larger;
  }
};
struct MinOp {
  template <class T>
  static constexpr T Identity() {
    return Infinity<T>();
  }
  template <class T>
  static HWY_INLINE T Apply(T acc, T x) {
    const T smaller = x < acc ? x : acc;
    return x != x ? x : smaller;
  }
};

// acc[j] = op(acc[j], row r [j]) for every row in order. Four rows a pass, to touch acc less often.
template <class Op, class T>
HWY_INLINE void AddRows(const T* in, int64_t rows, int64_t stride, int64_t width, T* acc) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T* p0 = in + r * stride;
    const T* p1 = p0 + stride;
    const T* p2 = p1 + stride;
    const T* p3 = p2 + stride;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      const T two = Op::template Apply<T>(Op::template Apply<T>(acc[j], p0[j]), p1[j]);
      acc[j] = Op::template Apply<T>(Op::template Apply<T>(two, p2[j]), p3[j]);
    }
  }
  for (; r < rows; ++r) {
    const T* p = in + r * stride;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) acc[j] = Op::template Apply<T>(acc[j], p[j]);
  }
}

// n neighbours: kLanes accumulators side by side, then folded in halves.
template <class Op, class T, int64_t kLanes>
HWY_INLINE T ReduceInLanes(const T* in, int64_t n) {
  HWY_ALIGN T acc[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) acc[j] = Op::template Identity<T>();
  const int64_t rows = n / kLanes;
  AddRows<Op>(in, rows, kLanes, kLanes, acc);
  AddRows<Op>(in + rows * kLanes, 1, 0, n - rows * kLanes, acc);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) acc[j] = Op::template Apply<T>(acc[j], acc[j + half]);
  }
  return acc[0];
}
template <class Op, class T>
HWY_INLINE T ReduceNeighbours(const T* in, int64_t n) {
  if (n >= 128) return ReduceInLanes<Op, T, 64>(in, n);
  if (n >= 16) return ReduceInLanes<Op, T, 8>(in, n);
  T acc = Op::template Identity<T>();
  for (int64_t i = 0; i < n; ++i) acc = Op::template Apply<T>(acc, in[i]);
  return acc;
}

// Combines values of `width` columns, given one after the other, in a balanced binary tree: a stack
// of subtrees, as a binary counter. Runs of 2^k values form subtrees, so a caller may combine such
// runs by themselves first and get the same bits.
template <class Op, class T>
class PairwiseStack {
 public:
  explicit PairwiseStack(int64_t width) : width_(width) {}

  // Where the next value goes, filled with the identity; then Push() counts it.
  T* Next() {
    T* next = levels_ + depth_ * width_;
    std::fill(next, next + width_, Op::template Identity<T>());
    return next;
  }
  void Push() {
    ++depth_;
    for (uint64_t count = ++count_; count % 2 == 0; count /= 2) Merge();
  }
  const T* Finish() {
    if (depth_ == 0) {
      Next();
      depth_ = 1;
    }
    while (depth_ > 1) Merge();
    return levels_;
  }

 private:
  void Merge() {
    --depth_;
    AddRows<Op>(levels_ + depth_ * width_, 1, 0, width_, levels_ + (depth_ - 1) * width_);
  }

  // Blocks are counted in 57 bits at most; one more is being filled.
  static constexpr int64_t kLevels = 60;
  const int64_t width_;
  int64_t depth_ = 0;
  uint64_t count_ = 0;
  T levels_[kLevels * kWidth];
};

// One column group of one outer index.
template <class T>
struct Task {
  const T* in;
  T* out;
  int64_t axis, inner, width;
  int64_t block;  // extent of a block along the axis
};

template <class Op, class T>
HWY_NOINLINE void ReduceBlocks(const Task<T>& task, int64_t begin, int64_t end, T* out) {
  PairwiseStack<Op, T> stack(task.width);
  for (int64_t b = begin; b < end; ++b) {
    const T* in = task.in + b * task.block * task.inner;
    const int64_t n = std::min(task.block, task.axis - b * task.block);
    T* value = stack.Next();
    if (task.inner == 1) {
      *value = ReduceNeighbours<Op>(in, n);
    } else {
      AddRows<Op>(in, n, task.inner, task.width, value);
    }
    stack.Push();
  }
  const T* result = stack.Finish();
  std::copy(result, result + task.width, out);
}

// One task by the whole team: segments of 2^k blocks first.
template <class Op, class T>
void ReduceByTeam(const Task<T>& task, int64_t blocks, int threads) {
  const uint64_t per_segment = static_cast<uint64_t>((blocks + kMaxSegments - 1) / kMaxSegments);
  const int64_t segment = static_cast<int64_t>(std::bit_ceil(per_segment));
  const int64_t segments = (blocks + segment - 1) / segment;
  T partial[kMaxSegments * kWidth];
  ParallelFor(threads, segments, [&](int64_t s) {
    ReduceBlocks<Op>(task, s * segment, std::min((s + 1) * segment, blocks),
                     partial + s * task.width);
  });
  PairwiseStack<Op, T> stack(task.width);
  for (int64_t s = 0; s < segments; ++s) {
    std::copy(partial + s * task.width, partial + (s + 1) * task.width, stack.Next());
    stack.Push();
  }
  const T* result = stack.Finish();
  std::copy(result, result + task.width, task.out);
}

template <class Op, class T>
void ReduceLoop(const void* in, void* out, int64_t outer, int64_t axis, int64_t inner,
                int threads) {
  const T* from = static_cast<const T*>(in);
  T* to = static_cast<T*>(out);
  if (outer == 0 || inner == 0) return;
  if (SaturatingMul(SaturatingMul(outer, axis), inner) < kMinTeamElements) threads = 1;
  const int64_t block = inner == 1 ? kBlockElements : kBlockRows;
  const int64_t blocks = (axis + block - 1) / block;
  if (inner == 1 && blocks <= 1) {
    ParallelFor(threads, outer,
                [=](int64_t o) { to[o] = ReduceNeighbours<Op>(from + o * axis, axis); });
    return;
  }
  const int64_t groups = (inner + kWidth - 1) / kWidth;
  const auto task = [=](int64_t i) {
    const int64_t o = i / groups;
    const int64_t column = i % groups * kWidth;
    return Task<T>{from + o * axis * inner + column,
                   to + o * inner + column,
                   axis,
                   inner,
                   std::min(kWidth, inner - column),
                   block};
  };
  const int64_t tasks = outer * groups;
  if (threads <= 1 || tasks >= threads) {
    ParallelFor(threads, tasks, [&](int64_t i) {
      const Task<T> t = task(i);
      if (blocks > 1) return ReduceBlocks<Op>(t, 0, blocks, t.out);
      std::fill(t.out, t.out + t.width, Op::template Identity<T>());
      AddRows<Op>(t.in, axis, inner, t.width, t.out);
    });
    return;
  }
  for (int64_t i = 0; i < tasks; ++i) ReduceByTeam<Op>(task(i), blocks, threads);
}

// Integers are compiled for the baseline alone: they are rare, and the loops take long to compile.
constexpr bool kHasIntegers = HWY_TARGET == HWY_STATIC_TARGET;

template <class Op>
ReduceFn Pick(DType dtype) {
  ReduceFn fn = nullptr;
  VisitDType(dtype, [&fn](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr bool kInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;
    if constexpr (std::is_floating_point_v<T> || (kInteger && kHasIntegers)) {
      fn = &ReduceLoop<Op, T>;
    }
  });
  return fn;
}

ReduceFn PickReduce(ReduceKind kind, DType dtype) {
  switch (kind) {
    case ReduceKind::kSum:
      return Pick<SumOp>(dtype);
    case ReduceKind::kMax:
      return Pick<MaxOp>(dtype);
    case ReduceKind::kMin:
      return Pick<MinOp>(dtype);
  }
  return nullptr;
}

}  // namespace HWY_NAMESPACE
}  // namespace gradwire
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gradwire {

HWY_EXPORT(PickReduce);
ReduceFn FindReduce(ReduceKind kind, DType dtype) {
  if (!IsFloating(dtype)) return HWY_STATIC_DISPATCH(PickReduce)(kind, dtype);
  return HWY_DYNAMIC_DISPATCH(PickReduce)(kind, dtype);
}

}  // namespace gradwire
#endif  // HWY_ONCE
