// File: conv_loops.h
//
// The inner loops of convolutions, compiled for each instruction set. Private to engine/kernels.
//
// A *column matrix* lays out what the windows of one group of one member of the batch meet: row
// (channel * taps + tap), column (point of the output), element the input that this tap meets
// there, 0 in the padding. In terms of it a convolution is a product: y = w columns(x).
//
//   const convolution::Loops<float> loops = convolution::BestLoops<float>();
//   loops.columns(c, {{0, rows}, {0, points}}, x, out);
//
// Thread-safety: pure functions. No allocation.
#ifndef GRADWIRE_ENGINE_KERNELS_CONV_LOOPS_H_
#define GRADWIRE_ENGINE_KERNELS_CONV_LOOPS_H_

#include "engine/graph/window.h"

namespace gradwire::convolution {

// A part of a column matrix.
struct Part {
  Range rows, points;
};

// x is the input of one group of one member, y one channel of its output.
template <class T>
struct Loops {
  // The part, its rows `stride` apart.
  void (*columns)(const Convolution& c, const Part& part, const T* x, int64_t stride, T* out);
  // Adds the part to x, each element where it came from: the transpose of `columns`.
  void (*add_columns)(const Convolution& c, const Part& part, const T* columns, T* x);
  // With rows of the column matrix that are not made, each with its weight of one output channel:
  // y += weights columns(x); its transpose columns(x) += weights y; weights += y columns(x)^T.
  void (*add_output)(const Convolution& c, Range rows, const T* weights, const T* x, T* y);
  void (*add_input)(const Convolution& c, Range rows, const T* weights, const T* y, T* x);
  void (*add_weights)(const Convolution& c, Range rows, const T* x, const T* y, T* weights);
};

// For the CPU found at run time. T is float or double.
template <class T>
Loops<T> BestLoops();

}  // namespace gradwire::convolution

#endif  // GRADWIRE_ENGINE_KERNELS_CONV_LOOPS_H_
