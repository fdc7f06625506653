// File: convert.h
//
// ConvertTensor: a tensor in another element type, without losing its values.
//
//   GW_ASSIGN_OR_RETURN(Tensor x, ConvertTensor(doubles, DType::kFloat, "x"));
//
// Thread-safety: pure function.
#ifndef GRADWIRE_CLIENT_CONVERT_H_
#define GRADWIRE_CLIENT_CONVERT_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

// The elements of `tensor` as `dtype`: to nearest (ties to even) for floating types; between other
// types exactly. 64-bit integers beyond 2^53 go through the nearest double. `where` begins
// messages. Errors: INVALID_TENSOR where a value does not fit: 0.5 as INT64, 300 as UINT8, 2 as
// BOOL, or a finite number that would become infinite.
absl::StatusOr<Tensor> ConvertTensor(const TensorView& tensor, DType dtype,
                                     absl::string_view where);

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_CONVERT_H_
