#include "server/core/quick_calls.h"

#include <string>

#include "absl/hash/hash.h"
#include "absl/types/span.h"
#include "google/protobuf/map.h"
#include "google/protobuf/repeated_field.h"

namespace gradwire::server {
namespace {

using Names = google::protobuf::RepeatedPtrField<std::string>;
using Maps = google::protobuf::RepeatedPtrField<v1::TensorMap>;

bool HoldsFloats(const v1::Tensor& tensor) {
  return tensor.data_type() == v1::FLOAT || tensor.data_type() == v1::DOUBLE ||
         tensor.data_type() == v1::UNDEFINED;
}

// A map has no order: a sum has none either.
uint64_t Key(const google::protobuf::Map<std::string, v1::Tensor>& tensors) {
  uint64_t sum = tensors.size();
  for (const auto& [name, tensor] : tensors) {
    uint64_t one = absl::HashOf(name, static_cast<int>(tensor.data_type()), tensor.values_size(),
                                absl::MakeConstSpan(tensor.shape().data(), tensor.shape_size()));
    if (!HoldsFloats(tensor)) {
      one = absl::HashOf(one, tensor.data(),
                         absl::MakeConstSpan(tensor.values().data(), tensor.values_size()));
    }
    sum += one;
  }
  return sum;
}

uint64_t Key(const Names& names) {
  uint64_t hash = static_cast<uint64_t>(names.size());
  for (const std::string& name : names) hash = absl::HashOf(hash, name);
  return hash;
}

uint64_t Key(const Maps& maps) {
  uint64_t hash = static_cast<uint64_t>(maps.size());
  for (const v1::TensorMap& map : maps) hash = absl::HashOf(hash, Key(map.tensors()));
  return hash;
}

// `method` keeps the rpcs apart.
template <typename Request, typename... Parts>
uint64_t KeyOf(int method, const Request& request, const Parts&... own) {
  const v1::Model& model = request.model();
  const v1::ComputeOptions& options = request.options();
  const std::string& source = model.has_onnx()    ? model.onnx()
                              : model.has_text()  ? model.text()
                              : model.has_graph() ? model.graph()
                                                  : model.expression();
  return absl::HashOf(method, static_cast<int>(model.source_case()), source, Key(request.inputs()),
                      static_cast<int>(options.mode()), static_cast<int>(options.precision()),
                      Key(options.batch()), own...) |
         1;
}

}  // namespace

uint64_t QuickKey(const v1::EvaluateRequest& request) {
  return KeyOf(1, request, Key(request.outputs()));
}
uint64_t QuickKey(const v1::ComputeGradientRequest& request) {
  return KeyOf(2, request, request.output(), Key(request.wrt()));
}
uint64_t QuickKey(const v1::ComputeVjpRequest& request) {
  return KeyOf(3, request, Key(request.cotangents()), Key(request.wrt()));
}
uint64_t QuickKey(const v1::ComputeJvpRequest& request) {
  return KeyOf(4, request, Key(request.tangents()), Key(request.outputs()));
}
uint64_t QuickKey(const v1::ComputeHvpRequest& request) {
  return KeyOf(5, request, request.output(), request.has_cotangents(),
               Key(request.cotangents().tensors()), Key(request.vectors()), Key(request.wrt()));
}
uint64_t QuickKey(const v1::ComputeJacobianRequest& request) {
  return KeyOf(6, request, Key(request.outputs()), Key(request.wrt()),
               static_cast<int>(request.direction()));
}
uint64_t QuickKey(const v1::ComputeHessianRequest& request) {
  return KeyOf(7, request, request.output(), request.has_cotangents(),
               Key(request.cotangents().tensors()), Key(request.wrt()));
}
uint64_t QuickKey(const v1::CheckGradientsRequest&) { return 0; }

}  // namespace gradwire::server
