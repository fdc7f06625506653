// File: tensor.h
//
// Tensor      owns (shares) 64-byte aligned memory; copies are cheap and share the bytes.
// TensorView  looks at somebody else's bytes: a received message, an arena, a Tensor. Data may be
//             unaligned by up to the element size's alignment; read it through data<T>() only when
//             it is aligned for T (`aligned()`), else copy.
// Both are dense and row-major. Thread-safety: as for std::vector; shared bytes are immutable once
// a Tensor has been copied.
//
//   Tensor t = Tensor::FromVector<double>({2, 2}, {1, 2, 3, 4});
//   TensorView v = t;  v.data<double>()[3] == 4
#ifndef GRADWIRE_ENGINE_TENSOR_TENSOR_H_
#define GRADWIRE_ENGINE_TENSOR_TENSOR_H_

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "engine/tensor/shape.h"

namespace gradwire {

class TensorView {
 public:
  TensorView() = default;
  TensorView(TensorType type, const void* data) : type_(std::move(type)), data_(data) {}
  const TensorType& type() const { return type_; }
  DType dtype() const { return type_.dtype; }
  const Shape& shape() const { return type_.shape; }
  int64_t num_elements() const { return type_.shape.num_elements(); }
  int64_t bytes() const { return type_.bytes(); }
  const void* raw() const { return data_; }
  bool aligned() const {
    const int64_t size = DTypeBytes(type_.dtype);
    return size == 0 || reinterpret_cast<uintptr_t>(data_) % static_cast<uintptr_t>(size) == 0;
  }
  template <typename T>
  const T* data() const {
    return static_cast<const T*>(data_);
  }

 private:
  TensorType type_;
  const void* data_ = nullptr;
};

class Tensor {
 public:
  Tensor() = default;
  // Zeroed memory. Exhaustion is MEMORY_LIMIT through Make(); the constructor aborts on it and is
  // for sizes already admitted.
  explicit Tensor(TensorType type);
  static absl::StatusOr<Tensor> Make(TensorType type);
  static Tensor CopyOf(TensorView view);
  template <typename T>
  static Tensor FromVector(Shape shape, const std::vector<T>& values);
  template <typename T>
  static Tensor Scalar(T value);

  bool empty() const { return data_ == nullptr; }
  const TensorType& type() const { return type_; }
  DType dtype() const { return type_.dtype; }
  const Shape& shape() const { return type_.shape; }
  int64_t num_elements() const { return type_.shape.num_elements(); }
  int64_t bytes() const { return type_.bytes(); }
  const void* raw() const { return data_.get(); }
  void* mutable_raw() { return data_.get(); }
  template <typename T>
  const T* data() const {
    return static_cast<const T*>(raw());
  }
  template <typename T>
  T* mutable_data() {
    return static_cast<T*>(mutable_raw());
  }
  operator TensorView() const { return TensorView(type_, raw()); }  // NOLINT
  // Same type and same bytes (so NaN equals NaN, and 0 differs from -0).
  bool operator==(const Tensor& o) const;

 private:
  TensorType type_;
  std::shared_ptr<void> data_;
};

// Element i converted to double (or int64): for printing, tests and small host-side decisions.
double ElementAsDouble(const TensorView& view, int64_t i);
int64_t ElementAsInt64(const TensorView& view, int64_t i);
// An aligned copy with another element type; between floating types it rounds to nearest even.
Tensor Converted(const TensorView& view, DType dtype);
// All elements of an integer or boolean tensor.
std::vector<int64_t> ToInt64s(const TensorView& view);

template <typename T>
Tensor Tensor::FromVector(Shape shape, const std::vector<T>& values) {
  Tensor t(TensorType{kDTypeOf<T>, std::move(shape)});
  T* out = t.mutable_data<T>();
  for (size_t i = 0; i < values.size(); ++i) out[i] = values[i];  // vector<bool> has no data()
  return t;
}

template <typename T>
Tensor Tensor::Scalar(T value) {
  Tensor t(TensorType{kDTypeOf<T>, Shape()});
  *t.mutable_data<T>() = value;
  return t;
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_TENSOR_TENSOR_H_
