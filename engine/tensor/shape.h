// File: shape.h
//
// Shape: the extent of each dimension, all known and non-negative. Rank 0 is a scalar; an extent of
// 0 is legal. A Shape made through Make() has a product that fits int64; everything past the
// decoders relies on that.
#ifndef GRADWIRE_ENGINE_TENSOR_SHAPE_H_
#define GRADWIRE_ENGINE_TENSOR_SHAPE_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "engine/base/status.h"
#include "engine/tensor/dtype.h"

namespace gradwire {

using Dims = absl::InlinedVector<int64_t, 6>;

class Shape {
 public:
  // Largest rank that any tensor may have.
  static constexpr int kMaxRank = 16;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : dims_(dims) {}
  explicit Shape(Dims dims) : dims_(std::move(dims)) {}
  // Checks what comes from outside: no negative extent, rank <= kMaxRank, product and bytes fit.
  static absl::StatusOr<Shape> Make(absl::Span<const int64_t> dims);

  int rank() const { return static_cast<int>(dims_.size()); }
  int64_t operator[](int i) const { return dims_[i]; }
  const Dims& dims() const { return dims_; }
  operator absl::Span<const int64_t>() const { return dims_; }  // NOLINT: a Shape is its extents
  int64_t num_elements() const;
  Dims Strides() const;          // row-major, in elements
  std::string ToString() const;  // "[2,3]"
  bool operator==(const Shape& o) const { return dims_ == o.dims_; }
  bool operator!=(const Shape& o) const { return dims_ != o.dims_; }

 private:
  Dims dims_;
};

// NumPy's rule: trailing dimensions match or one of them is 1. False where they do not.
bool BroadcastShapes(const Shape& a, const Shape& b, Shape* out);
// True when `from` can be broadcast to exactly `to`.
bool BroadcastsTo(const Shape& from, const Shape& to);

// What a value is: element type and concrete shape.
struct TensorType {
  DType dtype = DType::kUndefined;
  Shape shape;
  int64_t bytes() const;         // saturates at INT64_MAX
  std::string ToString() const;  // "FLOAT[2,3]"
  bool operator==(const TensorType& o) const { return dtype == o.dtype && shape == o.shape; }
  bool operator!=(const TensorType& o) const { return !(*this == o); }
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_TENSOR_SHAPE_H_
