#include "engine/onnx/onnx_text_types.h"

#include <cstdint>

namespace gradwire::onnx_text {
namespace {

using onnx::AttributeProto;

constexpr ElementType kElementTypes[] = {
    {"float", 1, Storage::kFloat},
    {"uint8", 2, Storage::kInt32, 0, 255},
    {"int8", 3, Storage::kInt32, -128, 127},
    {"uint16", 4, Storage::kInt32, 0, 65535},
    {"int16", 5, Storage::kInt32, -32768, 32767},
    {"int32", 6, Storage::kInt32, INT32_MIN, INT32_MAX},
    {"int64", 7, Storage::kInt64},
    {"string", 8, Storage::kString},
    {"bool", 9, Storage::kInt32, 0, 1},
    {"float16", 10, Storage::kInt32, 0, 65535},  // its bits, as onnx.parser takes them
    {"double", 11, Storage::kDouble},
    {"uint32", 12, Storage::kUint64, 0, UINT32_MAX},
    {"uint64", 13, Storage::kUint64, 0, kNoBound},
    {"complex64", 14, Storage::kFloat, 0, 0, 2},
    {"complex128", 15, Storage::kDouble, 0, 0, 2},
    {"bfloat16", 16, Storage::kInt32, 0, 65535},
    {"float8e4m3fn", 17, Storage::kInt32, 0, 255},
    {"float8e4m3fnuz", 18, Storage::kInt32, 0, 255},
    {"float8e5m2", 19, Storage::kInt32, 0, 255},
    {"float8e5m2fnuz", 20, Storage::kInt32, 0, 255},
    {"uint4", 21, Storage::kInt32, INT32_MIN, INT32_MAX, 0},
    {"int4", 22, Storage::kInt32, INT32_MIN, INT32_MAX, 0},
    {"float4e2m1", 23, Storage::kInt32, INT32_MIN, INT32_MAX, 0},
    {"float8e8m0", 24, Storage::kInt32, 0, 255},
    {"uint2", 25, Storage::kInt32, INT32_MIN, INT32_MAX, 0},
    {"int2", 26, Storage::kInt32, INT32_MIN, INT32_MAX, 0},
};

struct AttributeKind {
  absl::string_view name;
  AttributeType type;
  AttributeType element;  // of a list; UNDEFINED for a single value
};

constexpr AttributeKind kAttributeKinds[] = {
    {"float", AttributeProto::FLOAT, AttributeProto::UNDEFINED},
    {"int", AttributeProto::INT, AttributeProto::UNDEFINED},
    {"string", AttributeProto::STRING, AttributeProto::UNDEFINED},
    {"tensor", AttributeProto::TENSOR, AttributeProto::UNDEFINED},
    {"graph", AttributeProto::GRAPH, AttributeProto::UNDEFINED},
    {"type_proto", AttributeProto::TYPE_PROTO, AttributeProto::UNDEFINED},
    {"sparse_tensor", AttributeProto::SPARSE_TENSOR, AttributeProto::UNDEFINED},
    {"floats", AttributeProto::FLOATS, AttributeProto::FLOAT},
    {"ints", AttributeProto::INTS, AttributeProto::INT},
    {"strings", AttributeProto::STRINGS, AttributeProto::STRING},
    {"tensors", AttributeProto::TENSORS, AttributeProto::TENSOR},
    {"graphs", AttributeProto::GRAPHS, AttributeProto::GRAPH},
    {"type_protos", AttributeProto::TYPE_PROTOS, AttributeProto::TYPE_PROTO},
    {"sparse_tensors", AttributeProto::SPARSE_TENSORS, AttributeProto::SPARSE_TENSOR},
};

}  // namespace

const ElementType* FindElementType(absl::string_view name) {
  for (const ElementType& type : kElementTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

const ElementType* FindElementType(int number) {
  for (const ElementType& type : kElementTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

AttributeType FindAttributeType(absl::string_view name) {
  for (const AttributeKind& kind : kAttributeKinds) {
    if (kind.name == name) return kind.type;
  }
  return AttributeProto::UNDEFINED;
}

absl::string_view AttributeTypeName(AttributeType type) {
  for (const AttributeKind& kind : kAttributeKinds) {
    if (kind.type == type) return kind.name;
  }
  return "untyped";
}

AttributeType ListOf(AttributeType element) {
  for (const AttributeKind& kind : kAttributeKinds) {
    if (kind.element == element && element != AttributeProto::UNDEFINED) return kind.type;
  }
  return AttributeProto::UNDEFINED;
}

AttributeType ElementOf(AttributeType type) {
  for (const AttributeKind& kind : kAttributeKinds) {
    if (kind.type == type && kind.element != AttributeProto::UNDEFINED) return kind.element;
  }
  return type;
}

}  // namespace gradwire::onnx_text
