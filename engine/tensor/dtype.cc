#include "engine/tensor/dtype.h"

namespace gradwire {
namespace {

struct Row {
  DType dtype;
  const char* name;
  int64_t bytes;
};
constexpr Row kRows[] = {
    {DType::kFloat, "FLOAT", 4},       {DType::kUint8, "UINT8", 1},
    {DType::kInt8, "INT8", 1},         {DType::kUint16, "UINT16", 2},
    {DType::kInt16, "INT16", 2},       {DType::kInt32, "INT32", 4},
    {DType::kInt64, "INT64", 8},       {DType::kBool, "BOOL", 1},
    {DType::kFloat16, "FLOAT16", 2},   {DType::kDouble, "DOUBLE", 8},
    {DType::kUint32, "UINT32", 4},     {DType::kUint64, "UINT64", 8},
    {DType::kBfloat16, "BFLOAT16", 2},
};

const Row* Find(DType dtype) {
  for (const Row& row : kRows) {
    if (row.dtype == dtype) return &row;
  }
  return nullptr;
}

}  // namespace

absl::string_view DTypeName(DType dtype) {
  const Row* row = Find(dtype);
  return row ? row->name : "UNDEFINED";
}

DType DTypeFromOnnx(int64_t number) {
  for (const Row& row : kRows) {
    if (static_cast<int64_t>(row.dtype) == number) return row.dtype;
  }
  return DType::kUndefined;
}

int64_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kDouble:
    case DType::kInt64:
    case DType::kUint64:
      return 8;
    case DType::kFloat:
    case DType::kInt32:
    case DType::kUint32:
      return 4;
    case DType::kUndefined:
      return 0;
    default:
      return Find(dtype)->bytes;
  }
}

}  // namespace gradwire
