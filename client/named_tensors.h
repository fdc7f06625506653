// File: named_tensors.h
//
// NamedTensors: tensors by the name of the ONNX value each belongs to. What a Client takes and
// gives.
//
//   NamedTensors inputs = {{"x", 2}, {"w", {0.5, 1.5}}, {"m", Tensor::FromVector<float>(...)}};
//   inputs["x"] = Tensor::Scalar(3.0);
//   for (const auto& [name, tensor] : inputs) ...      // it is a std::map, ordered by name
#ifndef GRADWIRE_CLIENT_NAMED_TENSORS_H_
#define GRADWIRE_CLIENT_NAMED_TENSORS_H_

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/tensor/tensor.h"

namespace gradwire {

// What may be written where a tensor is wanted. Numbers are DOUBLE scalars, except that a float is
// a FLOAT scalar; lists of numbers are vectors. For any other type or shape, pass a Tensor.
class TensorValue {
 public:
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  TensorValue(T number)  // NOLINT: implicit, so that {"x", 2} can be written
      : tensor_(ScalarOf(number)) {}
  TensorValue(std::initializer_list<double> vector)  // NOLINT
      : TensorValue(std::vector<double>(vector)) {}
  TensorValue(const std::vector<double>& vector)  // NOLINT
      : tensor_(Tensor::FromVector<double>({static_cast<int64_t>(vector.size())}, vector)) {}
  TensorValue(const std::vector<float>& vector)  // NOLINT
      : tensor_(Tensor::FromVector<float>({static_cast<int64_t>(vector.size())}, vector)) {}
  TensorValue(Tensor tensor) : tensor_(std::move(tensor)) {}  // NOLINT

  const Tensor& tensor() const { return tensor_; }

 private:
  template <typename T>
  static Tensor ScalarOf(T number) {
    if constexpr (std::is_same_v<T, float>) {
      return Tensor::Scalar(number);
    } else {
      return Tensor::Scalar(static_cast<double>(number));
    }
  }

  Tensor tensor_;
};

class NamedTensors : public std::map<std::string, Tensor> {
 public:
  using Entry = std::pair<std::string, TensorValue>;

  NamedTensors() = default;
  NamedTensors(std::initializer_list<Entry> entries) {
    for (const Entry& entry : entries) insert_or_assign(entry.first, entry.second.tensor());
  }
};

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_NAMED_TENSORS_H_
