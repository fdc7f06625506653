// File: tensor_proto.h
//
// onnx::TensorProto -> Tensor. Every size is checked before anything is allocated; external data,
// segments and strings are refused. Errors: INVALID_MODEL, DTYPE_UNSUPPORTED.
#ifndef GRADWIRE_ENGINE_ONNX_TENSOR_PROTO_H_
#define GRADWIRE_ENGINE_ONNX_TENSOR_PROTO_H_

#include "engine/tensor/tensor.h"
#include "onnx/onnx.pb.h"

namespace gradwire {

absl::StatusOr<Tensor> TensorFromProto(const onnx::TensorProto& proto);
// Fills raw_data; the name is the caller's.
onnx::TensorProto TensorToProto(const TensorView& tensor);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ONNX_TENSOR_PROTO_H_
