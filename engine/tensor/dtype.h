// File: dtype.h
//
// Element types: ONNX's fixed-width types, with ONNX's names and numbers. FLOAT and DOUBLE are
// computed in; INT32, INT64 and BOOL serve as indices and masks; the rest are stored and moved.
#ifndef GRADWIRE_ENGINE_TENSOR_DTYPE_H_
#define GRADWIRE_ENGINE_TENSOR_DTYPE_H_

#include <cstdint>
#include <type_traits>

#include "absl/strings/string_view.h"

namespace gradwire {

enum class DType : uint8_t {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kUint32 = 12,
  kUint64 = 13,
  kBfloat16 = 16,
};

// ONNX's name, "FLOAT"; "UNDEFINED" for anything not listed.
absl::string_view DTypeName(DType dtype);
// The type of an ONNX number, kUndefined if it is none of ours (8, STRING, for example).
DType DTypeFromOnnx(int64_t number);
// Bytes of one element; 0 for kUndefined.
int64_t DTypeBytes(DType dtype);
inline bool IsFloating(DType d) { return d == DType::kFloat || d == DType::kDouble; }
inline bool IsInteger(DType d) {
  return d != DType::kUndefined && !IsFloating(d) && d != DType::kBool && d != DType::kFloat16 &&
         d != DType::kBfloat16;
}

template <typename T>
struct DTypeOfT;
template <>
struct DTypeOfT<float> {
  static constexpr DType value = DType::kFloat;
};
template <>
struct DTypeOfT<double> {
  static constexpr DType value = DType::kDouble;
};
template <>
struct DTypeOfT<int8_t> {
  static constexpr DType value = DType::kInt8;
};
template <>
struct DTypeOfT<uint8_t> {
  static constexpr DType value = DType::kUint8;
};
template <>
struct DTypeOfT<int16_t> {
  static constexpr DType value = DType::kInt16;
};
template <>
struct DTypeOfT<uint16_t> {
  static constexpr DType value = DType::kUint16;
};
template <>
struct DTypeOfT<int32_t> {
  static constexpr DType value = DType::kInt32;
};
template <>
struct DTypeOfT<uint32_t> {
  static constexpr DType value = DType::kUint32;
};
template <>
struct DTypeOfT<int64_t> {
  static constexpr DType value = DType::kInt64;
};
template <>
struct DTypeOfT<uint64_t> {
  static constexpr DType value = DType::kUint64;
};
template <>
struct DTypeOfT<bool> {
  static constexpr DType value = DType::kBool;
};
template <typename T>
inline constexpr DType kDTypeOf = DTypeOfT<T>::value;

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls fn(TypeTag<T>{}) with the C++ type of `dtype`; returns false, without a call, for FLOAT16,
// BFLOAT16 and UNDEFINED, which have none.
template <typename Fn>
bool VisitDType(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::kFloat:
      fn(TypeTag<float>{});
      return true;
    case DType::kDouble:
      fn(TypeTag<double>{});
      return true;
    case DType::kInt8:
      fn(TypeTag<int8_t>{});
      return true;
    case DType::kUint8:
      fn(TypeTag<uint8_t>{});
      return true;
    case DType::kInt16:
      fn(TypeTag<int16_t>{});
      return true;
    case DType::kUint16:
      fn(TypeTag<uint16_t>{});
      return true;
    case DType::kInt32:
      fn(TypeTag<int32_t>{});
      return true;
    case DType::kUint32:
      fn(TypeTag<uint32_t>{});
      return true;
    case DType::kInt64:
      fn(TypeTag<int64_t>{});
      return true;
    case DType::kUint64:
      fn(TypeTag<uint64_t>{});
      return true;
    case DType::kBool:
      fn(TypeTag<bool>{});
      return true;
    default:
      return false;
  }
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_TENSOR_DTYPE_H_
