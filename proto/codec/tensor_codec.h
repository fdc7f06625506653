// File: tensor_codec.h
//
// Tensors on the wire <-> tensors of the engine. Server and client use it; it knows no gRPC.
//
//   std::vector<Tensor> owned;  // keeps what could not be read in place
//   GW_ASSIGN_OR_RETURN(TensorView x, codec::ViewOf(request.inputs().at("x"), "inputs.x", &owned));
//
//   v1::Tensor* out = &(*response.mutable_outputs())["y"];
//   codec::StartTensor(program.output_type(0), out);
//   Run(..., out->mutable_data()->data());  // the result is written once, into the reply
//   if (options.readable()) codec::MakeReadable(out);
//
// Thread-safety: all functions are pure apart from their out-parameters.
#ifndef GRADWIRE_PROTO_CODEC_TENSOR_CODEC_H_
#define GRADWIRE_PROTO_CODEC_TENSOR_CODEC_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tensor/tensor.h"
#include "gradwire/v1/tensor.pb.h"

namespace gradwire::codec {

// The elements of `tensor`, checked; always aligned for their type.
//
// `data` is read in place where it is aligned to the element size, as the heap memory of a
// std::string is: the view then points into `tensor`, which must stay unchanged while it is in use.
// Else, and for `values`, the elements are copied or converted into a Tensor appended to `owned`,
// which must outlive the view (`owned` may grow meanwhile). `values` go to `data_type` (DOUBLE if
// unset) as tensor.proto says.
//
// `where` is the path of the field, such as "inputs.x" or "cotangents[1].y": messages begin with
// it.
//
// Cost: O(1) for aligned `data`, except that the bytes of a BOOL are checked; else O(elements).
//
// Errors: DTYPE_UNSUPPORTED for a data_type that is none of ours, or that is unset with `data`;
// INVALID_TENSOR for a negative or overflowing shape, rank above Shape::kMaxRank, both or neither
// of data and values, a wrong count of bytes or values, a value that does not fit the type, a BOOL
// byte other than 0 and 1; MEMORY_LIMIT where a copy cannot be allocated.
absl::StatusOr<TensorView> ViewOf(const v1::Tensor& tensor, absl::string_view where,
                                  std::vector<Tensor>* owned);

// Makes `out` a tensor of this type with zeroed `data` of the right size, to be written through
// out->mutable_data()->data(). That memory is aligned for every element type. The caller has
// checked that the bytes fit a message.
void StartTensor(const TensorType& type, v1::Tensor* out);

// Moves the elements of a valid tensor from `data` to `values`; without `data` it does nothing.
// Integers of INT64 and UINT64 beyond 2^53 are rounded to the nearest double.
void MakeReadable(v1::Tensor* tensor);

// A copy of `view`, in `data`.
v1::Tensor ToProto(const TensorView& view);

}  // namespace gradwire::codec

#endif  // GRADWIRE_PROTO_CODEC_TENSOR_CODEC_H_
