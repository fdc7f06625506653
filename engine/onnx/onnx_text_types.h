// File: onnx_text_types.h
//
// The type names of ONNX's textual syntax (onnx_text.h): `float`, `int64`, ... of tensors and
// `ints`, `tensor`, ... of attributes.
//
//   const ElementType* type = FindElementType("bool");  // type->number is 9, its values are 0 to 1
//
// Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_ONNX_ONNX_TEXT_TYPES_H_
#define GRADWIRE_ENGINE_ONNX_ONNX_TEXT_TYPES_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "onnx/onnx.pb.h"

namespace gradwire::onnx_text {

// Where the values of an element type stand in a TensorProto.
enum class Storage { kInt32, kInt64, kUint64, kFloat, kDouble, kString };

struct ElementType {
  absl::string_view name;
  int number;
  Storage storage;
  int64_t lowest = 0;   // for integer storage
  int64_t highest = 0;  // for integer storage; -1: no bound but the storage's
  int values = 1;       // per element; 0: several elements share a value
};

inline constexpr int64_t kNoBound = -1;

// nullptr if there is none.
const ElementType* FindElementType(absl::string_view name);
const ElementType* FindElementType(int number);

using AttributeType = onnx::AttributeProto::AttributeType;

// UNDEFINED if there is none of that name.
AttributeType FindAttributeType(absl::string_view name);
absl::string_view AttributeTypeName(AttributeType type);
// The type of a list of `element`; UNDEFINED if `element` is a list itself.
AttributeType ListOf(AttributeType element);
// The element type of a list type; a single value's type is its own.
AttributeType ElementOf(AttributeType type);

}  // namespace gradwire::onnx_text

#endif  // GRADWIRE_ENGINE_ONNX_ONNX_TEXT_TYPES_H_
