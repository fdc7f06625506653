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

// A row of a column matrix: a channel and a tap of it.
class Row {
 public:
  Row(const Convolution& c, int64_t index) : w_(c.window), plane_(c.in_points()) {
    const int64_t taps = c.taps(), tap = index % taps;
    channel_ = index / taps * plane_;
    k_[0] = tap / w_[2].kernel / w_[1].kernel;
    k_[1] = tap / w_[2].kernel % w_[1].kernel;
    k_[2] = tap % w_[2].kernel;
    for (size_t d = 0; d < 3; ++d) met_[d] = w_[d].Windows(k_[d]);
  }
  // To the next one: consecutive rows are met without divisions.
  void Next() {
    for (size_t d = 3; d-- > 0;) {
      const bool wraps = ++k_[d] == w_[d].kernel;
      if (wraps) k_[d] = 0;
      met_[d] = w_[d].Windows(k_[d]);
      if (!wraps) return;
    }
    channel_ += plane_;
  }
  // The windows that meet an element, in one dimension.
  const Range& met(size_t d) const { return met_[d]; }
  bool padded() const {
    return met_[0].begin > 0 || met_[0].end < w_[0].out || met_[1].begin > 0 ||
           met_[1].end < w_[1].out || met_[2].begin > 0 || met_[2].end < w_[2].out;
  }
  // The element that a window of `met` meets.
  int64_t In(int64_t o0, int64_t o1, int64_t o2) const {
    return channel_ + (w_[0].At(o0, k_[0]) * w_[1].in + w_[1].At(o1, k_[1])) * w_[2].in +
           w_[2].At(o2, k_[2]);
  }

 private:
  const Window& w_;
  const int64_t plane_;
  int64_t channel_;
  int64_t k_[3];
  Range met_[3];
};

// Walks some points of a row in pieces without padding, each in one line of the output: columns
// [column, column + length) of the part are the elements `in`, `in` + stride, ...
//
//   for (Pieces p(c, row, points); p.Next();) { ... p.column, p.length, p.in }
class Pieces {
 public:
  Pieces(const Convolution& c, const Row& row, Range points)
      : row_(row), lines_(c.window[1].out), width_(c.window[2].out), points_(points) {
    next_ = points.begin;
    if (next_ > 0) {
      o_[0] = next_ / width_ / lines_;
      o_[1] = next_ / width_ % lines_;
      o_[2] = next_ % width_;
    }
  }

  bool Next() {
    while (next_ < points_.end) {
      const int64_t from = o_[2], to = std::min(width_, from + points_.end - next_);
      const int64_t begin = std::max(row_.met(2).begin, from), end = std::min(row_.met(2).end, to);
      const bool met = begin < end && row_.met(0).Contains(o_[0]) && row_.met(1).Contains(o_[1]);
      if (met) {
        column = next_ - points_.begin + begin - from;
        length = end - begin;
        in = row_.In(o_[0], o_[1], begin);
      }
      next_ += to - from;
      o_[2] = 0;
      if (++o_[1] == lines_) {
        o_[1] = 0;
        ++o_[0];
      }
      if (met) return true;
    }
    return false;
  }

  int64_t column = 0, length = 0, in = 0;

 private:
  const Row& row_;
  const int64_t lines_, width_;
  const Range points_;
  int64_t next_;
  int64_t o_[3] = {0, 0, 0};
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

// y += weight * x for whole vectors of d from *i on.
template <class D, class T>
HWY_INLINE void AddVectors(D d, T weight, const T* x, int64_t n, T* y, int64_t* i) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, weight);
  for (; *i + lanes <= n; *i += lanes) {
    hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, x + *i), hn::LoadU(d, y + *i)), d, y + *i);
  }
}

// y[i * y_step] += weight * x[i * x_step].
template <class T>
HWY_INLINE void AddPiece(T weight, const T* x, int64_t x_step, int64_t n, T* y, int64_t y_step) {
  int64_t i = 0;
  if (x_step == 1 && y_step == 1) {
    const hn::ScalableTag<T> d;
    AddVectors(d, weight, x, n, y, &i);
    AddVectors(hn::Half<decltype(d)>(), weight, x, n, y, &i);
  }
  for (; i < n; ++i) y[i * y_step] += weight * x[i * x_step];
}

template <class T>
void Columns(const Convolution& c, const Part& part, const T* x, int64_t stride, T* out) {
  const int64_t width = part.points.end - part.points.begin, step = c.window[2].stride;
  Row row(c, part.rows.begin);
  for (int64_t i = part.rows.begin; i < part.rows.end; ++i, row.Next(), out += stride) {
    if (row.padded()) std::fill_n(out, width, T{0});
    for (Pieces p(c, row, part.points); p.Next();) {
      CopyPiece(x + p.in, step, p.length, out + p.column);
    }
  }
}

template <class T>
void AddColumns(const Convolution& c, const Part& part, const T* columns, T* x) {
  const int64_t width = part.points.end - part.points.begin, step = c.window[2].stride;
  Row row(c, part.rows.begin);
  for (int64_t i = part.rows.begin; i < part.rows.end; ++i, row.Next(), columns += width) {
    for (Pieces p(c, row, part.points); p.Next();) {
      AddPiece(T{1}, columns + p.column, 1, p.length, x + p.in, step);
    }
  }
}

template <class T>
void AddOutput(const Convolution& c, Range rows, const T* weights, const T* x, T* y) {
  const int64_t step = c.window[2].stride;
  Row row(c, rows.begin);
  for (int64_t i = rows.begin; i < rows.end; ++i, row.Next()) {
    for (Pieces p(c, row, {0, c.out_points()}); p.Next();) {
      AddPiece(weights[i], x + p.in, step, p.length, y + p.column, 1);
    }
  }
}

template <class T>
void AddInput(const Convolution& c, Range rows, const T* weights, const T* y, T* x) {
  const int64_t step = c.window[2].stride;
  Row row(c, rows.begin);
  for (int64_t i = rows.begin; i < rows.end; ++i, row.Next()) {
    for (Pieces p(c, row, {0, c.out_points()}); p.Next();) {
      AddPiece(weights[i], y + p.column, 1, p.length, x + p.in, step);
    }
  }
}

template <class T>
void AddWeights(const Convolution& c, Range rows, const T* x, const T* y, T* weights) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t step = c.window[2].stride;
  Row row(c, rows.begin);
  for (int64_t r = rows.begin; r < rows.end; ++r, row.Next()) {
    auto sums = hn::Zero(d);
    T rest = 0;
    for (Pieces p(c, row, {0, c.out_points()}); p.Next();) {
      const T* a = x + p.in;
      const T* b = y + p.column;
      int64_t i = 0;
      for (; step == 1 && i + lanes <= p.length; i += lanes) {
        sums = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sums);
      }
      for (; i < p.length; ++i) rest += a[i * step] * b[i];
    }
    weights[r] += hn::GetLane(hn::SumOfLanes(d, sums)) + rest;
  }
}

template <class T>
Loops<T> LoopsOf() {
  return {&Columns<T>, &AddColumns<T>, &AddOutput<T>, &AddInput<T>, &AddWeights<T>};
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
