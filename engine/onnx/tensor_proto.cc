#include "engine/onnx/tensor_proto.h"

#include <cstring>

namespace gradwire {
namespace {

// Copies a repeated field whose entries stand for one element each, narrowed to the element type.
template <typename Field>
absl::Status CopyField(const Field& field, const char* name, Tensor* out) {
  if (field.size() != out->num_elements()) {
    return Error(Reason::kInvalidModel,
                 absl::StrCat(name, " holds ", field.size(), " elements, expected ",
                              out->num_elements(), " for ", out->type().ToString()));
  }
  if (out->dtype() == DType::kFloat16 || out->dtype() == DType::kBfloat16) {
    for (int i = 0; i < field.size(); ++i) {
      out->mutable_data<uint16_t>()[i] = static_cast<uint16_t>(static_cast<int64_t>(field[i]));
    }
    return absl::OkStatus();
  }
  VisitDType(out->dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int i = 0; i < field.size(); ++i) out->mutable_data<T>()[i] = static_cast<T>(field[i]);
  });
  return absl::OkStatus();
}

absl::Status CopyTyped(const onnx::TensorProto& proto, Tensor* out) {
  switch (out->dtype()) {
    case DType::kFloat:
      return CopyField(proto.float_data(), "float_data", out);
    case DType::kDouble:
      return CopyField(proto.double_data(), "double_data", out);
    case DType::kInt64:
      return CopyField(proto.int64_data(), "int64_data", out);
    case DType::kUint32:
    case DType::kUint64:
      return CopyField(proto.uint64_data(), "uint64_data", out);
    default:
      return CopyField(proto.int32_data(), "int32_data", out);
  }
}

}  // namespace

absl::StatusOr<Tensor> TensorFromProto(const onnx::TensorProto& proto) {
  if (proto.data_location() == onnx::TensorProto::EXTERNAL || proto.external_data_size() > 0) {
    return Error(Reason::kInvalidModel,
                 "keeps its data in another file; send the model with its weights inside (the "
                 "gradwire command line does that)");
  }
  if (proto.has_segment())
    return Error(Reason::kInvalidModel, "segmented tensors are not supported");
  const DType dtype = DTypeFromOnnx(proto.data_type());
  if (dtype == DType::kUndefined) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("element type ", proto.data_type(), " is not supported"));
  }
  absl::StatusOr<Shape> shape =
      Shape::Make(std::vector<int64_t>(proto.dims().begin(), proto.dims().end()));
  if (!shape.ok()) return Error(Reason::kInvalidModel, shape.status().message());
  const TensorType type{dtype, *std::move(shape)};
  // The bytes must be there before memory is taken for them.
  const int64_t present = proto.has_raw_data() ? static_cast<int64_t>(proto.raw_data().size())
                                               : static_cast<int64_t>(proto.ByteSizeLong()) * 8;
  if (proto.has_raw_data() ? present != type.bytes() : present < type.shape.num_elements()) {
    return Error(Reason::kInvalidModel, absl::StrCat("holds ", present, " bytes, expected ",
                                                     type.bytes(), " for ", type.ToString()));
  }
  GW_ASSIGN_OR_RETURN(Tensor out, Tensor::Make(type));
  if (!proto.has_raw_data()) {
    GW_RETURN_IF_ERROR(CopyTyped(proto, &out));
    return out;
  }
  if (present > 0)
    std::memcpy(out.mutable_raw(), proto.raw_data().data(), static_cast<size_t>(present));
  if (dtype == DType::kBool) {
    for (int64_t i = 0; i < present; ++i) {
      auto* byte = static_cast<uint8_t*>(out.mutable_raw()) + i;
      *byte = *byte != 0;
    }
  }
  return out;
}

onnx::TensorProto TensorToProto(const TensorView& tensor) {
  onnx::TensorProto proto;
  proto.set_data_type(static_cast<int32_t>(tensor.dtype()));
  for (int64_t d : tensor.shape().dims()) proto.add_dims(d);
  proto.set_raw_data(tensor.raw(), static_cast<size_t>(tensor.bytes()));
  return proto;
}

}  // namespace gradwire
