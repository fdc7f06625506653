// File: layout.h
//
// Layout: where the elements of a value lie inside a buffer. Layouts exist only in Compile and in
// kernels; a Graph has none. Strides and offset count elements. A stride of 0 repeats (broadcast),
// a negative one walks backwards.
#ifndef GRADWIRE_ENGINE_GRAPH_LAYOUT_H_
#define GRADWIRE_ENGINE_GRAPH_LAYOUT_H_

#include "engine/tensor/shape.h"

namespace gradwire {

struct Layout {
  Dims strides;        // one per dimension of the value
  int64_t offset = 0;  // of element [0, 0, ...]
  bool operator==(const Layout&) const = default;

  static Layout RowMajor(const Shape& shape) { return {shape.Strides(), 0}; }
  // Dense and in order; strides of extents 0 and 1 do not matter. The offset may be anything.
  bool IsDense(const Shape& shape) const {
    int64_t step = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
      if (shape[i] != 1 && strides[i] != step) return shape.num_elements() == 0;
      step *= shape[i];
    }
    return true;
  }
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_LAYOUT_H_
