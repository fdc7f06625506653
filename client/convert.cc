#include "client/convert.h"

#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "proto/codec/tensor_codec.h"

namespace gradwire {

absl::StatusOr<Tensor> ConvertTensor(const TensorView& tensor, DType dtype,
                                     absl::string_view where) {
  if (tensor.dtype() == dtype || tensor.num_elements() == 0) {
    GW_ASSIGN_OR_RETURN(Tensor copy, Tensor::Make({dtype, tensor.shape()}));
    if (tensor.bytes() > 0) std::memcpy(copy.mutable_raw(), tensor.raw(), tensor.bytes());
    return copy;
  }
  // By way of the wire's numbers, whose conversions are the server's own.
  v1::Tensor wire = codec::ToProto(tensor);
  codec::MakeReadable(&wire);
  wire.set_data_type(static_cast<v1::DataType>(dtype));
  std::vector<Tensor> owned;
  GW_RETURN_IF_ERROR(codec::ViewOf(wire, where, &owned).status());
  return std::move(owned.front());
}

}  // namespace gradwire
