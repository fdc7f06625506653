#include "engine/kernels/conv_loops.h"

#include <algorithm>
#include <cstdint>

#include "engine/kernels/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/conv_loops.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

// After foreach_target.h.
#include "hwy/highway.h"

#ifndef GRADWIRE_ENGINE_KERNELS_CONV_LOOPS_ONCE_
#define GRADWIRE_ENGINE_KERNELS_CONV_LOOPS_ONCE_
namespace gradwire::convolution {

// Walks one row of a column matrix in pieces that each lie in one line of the output: `before`
// columns of padding, `inside` that meet x at `in` and then every `step`, `after` of padding again.
//
//   for (Pieces p(c, row, points); p.Next();) { ... p.column, p.before, p.inside, p.in, p.after }
class Pieces {
 public:
  Pieces(const Convolution& c, int64_t row, Range points)
      : w_(c.window), step(c.window[2].stride), points_(points), next_(points.begin) {
    const int64_t taps = c.taps(), tap = row % taps;
    k_[2] = tap % w_[2].kernel;
    k_[1] = tap / w_[2].kernel % w_[1].kernel;
    k_[0] = tap / w_[2].kernel / w_[1].kernel;
    for (size_t d = 0; d < 3; ++d) met_[d] = w_[d].Windows(k_[d]);
    channel_ = row / taps * c.in_points();
    const int64_t line = points.begin / w_[2].out;
    o_[0] = line / w_[1].out;
    o_[1] = line % w_[1].out;
    o_[2] = points.begin % w_[2].out;
  }

  bool Next() {
    if (next_ >= points_.end) return false;
    const int64_t length = std::min(w_[2].out - o_[2], points_.end - next_);
    column = next_ - points_.begin;
    before = length;
    inside = after = 0;
    if (met_[0].Contains(o_[0]) && met_[1].Contains(o_[1])) {
      const int64_t begin = std::clamp(met_[2].begin, o_[2], o_[2] + length);
      const int64_t end = std::clamp(met_[2].end, begin, o_[2] + length);
      before = begin - o_[2];
      inside = end - begin;
      after = length - before - inside;
      in = channel_ + (w_[0].At(o_[0], k_[0]) * w_[1].in + w_[1].At(o_[1], k_[1])) * w_[2].in +
           w_[2].At(begin, k_[2]);
    }
    next_ += length;
    o_[2] = 0;
    if (++o_[1] == w_[1].out) {
      o_[1] = 0;
      ++o_[0];
    }
    return true;
  }

 private:
  const Window& w_;

 public:
  const int64_t step;
  int64_t column = 0, before = 0, inside = 0, after = 0, in = 0;

 private:
  const Range points_;
  int64_t next_;
  int64_t channel_;
  int64_t k_[3], o_[3];
  Range met_[3];
};

}  // namespace gradwire::convolution
#endif  // GRADWIRE_ENGINE_KERNELS_CONV_LOOPS_ONCE_

HWY_BEFORE_NAMESPACE();
namespace gradwire::convolution {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// out[i] = x[i * step]. Lines are short: no call.
template <class T>
HWY_INLINE void CopyPiece(const T* x, int64_t step, int64_t n, T* out) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  if (step == 1 && n >= lanes) {
    for (int64_t i = 0; i + lanes < n; i += lanes) hn::StoreU(hn::LoadU(d, x + i), d, out + i);
    hn::StoreU(hn::LoadU(d, x + n - lanes), d, out + n - lanes);
    return;
  }
  for (int64_t i = 0; i < n; ++i) out[i] = x[i * step];
}

// y[i * y_step] += weight * x[i * x_step].
template <class T>
HWY_INLINE void AddPiece(T weight, const T* x, int64_t x_step, int64_t n, T* y, int64_t y_step) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  if (x_step == 1 && y_step == 1) {
    const auto factor = hn::Set(d, weight);
    for (; i + lanes <= n; i += lanes) {
      hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
    }
  }
  for (; i < n; ++i) y[i * y_step] += weight * x[i * x_step];
}

template <class T>
void Columns(const Convolution& c, const Part& part, const T* x, T* out) {
  for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
    for (Pieces p(c, row, part.points); p.Next();) {
      T* to = out + p.column;
      for (int64_t i = 0; i < p.before; ++i) to[i] = T{0};
      CopyPiece(x + p.in, p.step, p.inside, to + p.before);
      to += p.before + p.inside;
      for (int64_t i = 0; i < p.after; ++i) to[i] = T{0};
    }
    out += part.points.end - part.points.begin;
  }
}

template <class T>
void AddColumns(const Convolution& c, const Part& part, const T* columns, T* x) {
  for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
    for (Pieces p(c, row, part.points); p.Next();) {
      AddPiece(T{1}, columns + p.column + p.before, 1, p.inside, x + p.in, p.step);
    }
    columns += part.points.end - part.points.begin;
  }
}

template <class T>
void AddOutput(const Convolution& c, int64_t row, T weight, const T* x, T* y) {
  for (Pieces p(c, row, {0, c.out_points()}); p.Next();) {
    AddPiece(weight, x + p.in, p.step, p.inside, y + p.column + p.before, 1);
  }
}

template <class T>
void AddInput(const Convolution& c, int64_t row, T weight, const T* y, T* x) {
  for (Pieces p(c, row, {0, c.out_points()}); p.Next();) {
    AddPiece(weight, y + p.column + p.before, 1, p.inside, x + p.in, p.step);
  }
}

template <class T>
T Dot(const Convolution& c, int64_t row, const T* x, const T* y) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sums = hn::Zero(d);
  T rest = 0;
  for (Pieces p(c, row, {0, c.out_points()}); p.Next();) {
    const T* a = x + p.in;
    const T* b = y + p.column + p.before;
    int64_t i = 0;
    if (p.step == 1) {
      for (; i + lanes <= p.inside; i += lanes) {
        sums = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sums);
      }
    }
    for (; i < p.inside; ++i) rest += a[i * p.step] * b[i];
  }
  return hn::GetLane(hn::SumOfLanes(d, sums)) + rest;
}

template <class T>
Loops<T> LoopsOf() {
  return {&Columns<T>, &AddColumns<T>, &AddOutput<T>, &AddInput<T>, &Dot<T>};
}
Loops<float> FloatLoops() { return LoopsOf<float>(); }
Loops<double> DoubleLoops() { return LoopsOf<double>(); }

}  // namespace HWY_NAMESPACE
}  // namespace gradwire::convolution
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gradwire::convolution {

HWY_EXPORT(FloatLoops);
HWY_EXPORT(DoubleLoops);

template <>
Loops<float> BestLoops<float>() {
  return HWY_DYNAMIC_DISPATCH(FloatLoops)();
}
template <>
Loops<double> BestLoops<double>() {
  return HWY_DYNAMIC_DISPATCH(DoubleLoops)();
}

}  // namespace gradwire::convolution
#endif  // HWY_ONCE
