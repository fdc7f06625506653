#include "engine/ops/pointwise_row.h"

namespace gradwire {

bool InClass(DType dtype, TypeClass type_class) {
  switch (type_class) {
    case kFloating:
      return IsFloating(dtype);
    case kNumeric:
      return IsFloating(dtype) || IsInteger(dtype);
    case kBoolean:
      return dtype == DType::kBool;
    case kAnyType:
      return dtype != DType::kUndefined;
    case kInteger:
      return IsInteger(dtype);
  }
  return false;
}

absl::StatusOr<TensorType> InferBroadcast(absl::Span<const TensorType> in, TypeClass type_class) {
  static constexpr const char* kExpected[] = {"FLOAT or DOUBLE", "a number", "BOOL", "any",
                                              "an integer"};
  TensorType out = in[0];
  for (size_t i = 0; i < in.size(); ++i) {
    if (!InClass(in[i].dtype, type_class)) {
      return Error(Reason::kDtypeUnsupported,
                   absl::StrCat("input ", i, " is ", DTypeName(in[i].dtype), ", expected ",
                                kExpected[type_class]));
    }
    if (in[i].dtype != out.dtype) {
      return Error(Reason::kDtypeUnsupported,
                   absl::StrCat("inputs differ in type: ", DTypeName(out.dtype), " and ",
                                DTypeName(in[i].dtype), "; insert a Cast"));
    }
    Shape joined;
    if (!BroadcastShapes(out.shape, in[i].shape, &joined)) {
      return Error(Reason::kShapeMismatch,
                   absl::StrCat("shapes ", out.shape.ToString(), " and ", in[i].shape.ToString(),
                                " do not broadcast"));
    }
    out.shape = joined;
  }
  return out;
}

BroadcastWalk::BroadcastWalk(absl::Span<const TensorView> in, const Shape& out)
    : extents_(out.dims()), index_(out.dims().size(), 0), offsets_(in.size(), 0) {
  for (const TensorView& view : in) {
    const Dims dense = view.shape().Strides();
    const int lead = out.rank() - view.shape().rank();
    Dims strides(out.dims().size(), 0);
    for (int i = 0; i < view.shape().rank(); ++i) {
      if (view.shape()[i] != 1) strides[static_cast<size_t>(i + lead)] = dense[i];
    }
    strides_.push_back(std::move(strides));
  }
}

void BroadcastWalk::Next() {
  for (size_t d = extents_.size(); d-- > 0;) {
    ++index_[d];
    for (size_t k = 0; k < offsets_.size(); ++k) offsets_[k] += strides_[k][d];
    if (index_[d] < extents_[d]) return;
    for (size_t k = 0; k < offsets_.size(); ++k) offsets_[k] -= strides_[k][d] * extents_[d];
    index_[d] = 0;
  }
}

}  // namespace gradwire
