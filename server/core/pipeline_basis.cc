// Jacobians and Hessians: every unit vector in turn, on one forward pass.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "proto/codec/tensor_codec.h"
#include "server/core/pipeline.h"

namespace gradwire::server {
namespace {

void SetElement(DType dtype, int64_t index, double value, void* to) {
  if (dtype == DType::kFloat) {
    static_cast<float*>(to)[index] = static_cast<float>(value);
  } else {
    static_cast<double*>(to)[index] = value;
  }
}

char* DataOf(v1::Tensor* tensor) { return tensor->mutable_data()->data(); }

// Where `to` is a block of `width` columns, its column `index` becomes `column`.
void CopyColumn(const TensorView& column, int64_t index, int64_t width, DType dtype, char* to) {
  for (int64_t i = 0; i < column.num_elements(); ++i) {
    SetElement(dtype, i * width + index, ElementAsDouble(column, i), to);
  }
}

}  // namespace

Pipeline::Basis Pipeline::ListBasis() const {
  Basis basis;
  const auto& inputs = prepared_.program->signature().inputs;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].stage != Stage::kDirection) continue;
    basis.directions.push_back(i);
    basis.largest_bytes = std::max(basis.largest_bytes, inputs[i].type.bytes());
  }
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (!outputs_[i].per_vector) continue;
    basis.results.push_back(i);
    basis.forward = outputs_[i].role == Role::kTangent;
  }
  return basis;
}

absl::StatusOr<TensorType> Pipeline::BlockType(const Basis& basis, size_t d, size_t r) const {
  const auto& signature = prepared_.program->signature();
  const TensorType* row = &signature.inputs[basis.directions[d]].type;
  const TensorType* column = &signature.outputs[basis.results[r]].type;
  if (basis.forward) std::swap(row, column);
  const Shape leading = ResultType(*row).shape;
  std::vector<int64_t> dims(leading.dims().begin(), leading.dims().end());
  dims.insert(dims.end(), column->shape.dims().begin(), column->shape.dims().end());
  GW_ASSIGN_OR_RETURN(Shape shape, Shape::Make(dims));
  return TensorType{column->dtype, std::move(shape)};
}

absl::Status Pipeline::AdmitBasis(const Basis& basis) {
  const auto& signature = prepared_.program->signature();
  int64_t reply = 0, buffers = 0;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const auto& [dtype, shape] = signature.outputs[i].type;
    // Of a result of each direction: room for one.
    const bool in_blocks = outputs_[i].per_vector || outputs_[i].hidden;
    const int64_t n = SaturatingMul(shape.num_elements(), in_blocks ? 1 : points_);
    buffers = SaturatingAdd(buffers, MemoryBytes(n, dtype, outputs_[i].name));
    if (!in_blocks) reply = SaturatingAdd(reply, WireBytes(n, dtype, outputs_[i].name));
  }
  for (const size_t d : basis.directions) {
    const TensorType& direction = signature.inputs[d].type;
    const std::string name = NameOfDirection(d);
    for (const size_t r : basis.results) {
      const TensorType& result = signature.outputs[r].type;
      const DType dtype = basis.forward ? direction.dtype : result.dtype;
      const int64_t n = SaturatingMul(
          SaturatingMul(direction.shape.num_elements(), result.shape.num_elements()), points_);
      const std::string names = absl::StrCat(name, outputs_[r].name);
      reply = SaturatingAdd(reply, WireBytes(n, dtype, names));
      buffers = SaturatingAdd(buffers, MemoryBytes(n, dtype, names));
    }
  }
  // A block that no memory could hold is told as what it is.
  GW_RETURN_IF_ERROR(CheckReplyBytes(reply));
  return AdmitBytes(reply, SaturatingAdd(buffers, basis.largest_bytes),
                    std::max(basis.largest_bytes, LargestAbsentVector()));
}

absl::Status Pipeline::StartBlocks(AddBlock add_block, Basis* basis) {
  const size_t num_results = basis->results.size();
  basis->blocks.resize(basis->directions.size() * num_results);
  std::vector<std::pair<size_t, size_t>> order;
  for (size_t d = 0; d < basis->directions.size(); ++d) {
    for (size_t r = 0; r < num_results; ++r) order.emplace_back(d, r);
  }
  if (basis->forward) {
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.second < b.second; });
  }
  for (const auto& [d, r] : order) {
    GW_ASSIGN_OR_RETURN(const TensorType type, BlockType(*basis, d, r));
    const std::string direction = NameOfDirection(basis->directions[d]);
    const std::string& result = outputs_[basis->results[r]].name;
    v1::Tensor* block =
        basis->forward ? add_block(result, direction) : add_block(direction, result);
    codec::StartTensor(type, block);  // with zeros
    basis->blocks[d * num_results + r] = block;
  }
  return absl::OkStatus();
}

// `unit` is zero, and so it is left.
absl::Status Pipeline::RunDirections(const Basis& basis, int64_t point, Tensor& unit,
                                     Bindings* bindings, RunContext& context) {
  const auto& signature = prepared_.program->signature();
  const size_t num_results = basis.results.size();
  GW_ASSIGN_OR_RETURN(const void* const zeros, BindView({}, nullptr));
  for (const size_t d : basis.directions) bindings->inputs[d] = zeros;
  Stage from = FirstStageOf(point);
  bool has_run = false;
  const auto run = [&]() -> absl::Status {
    has_run = true;
    return RunProgram(*bindings, context, std::exchange(from, Stage::kDirection));
  };
  for (size_t d = 0; d < basis.directions.size(); ++d) {
    const TensorType& type = signature.inputs[basis.directions[d]].type;
    v1::Tensor* const* blocks = &basis.blocks[d * num_results];
    bindings->inputs[basis.directions[d]] = unit.raw();
    for (int64_t i = 0; i < type.shape.num_elements(); ++i) {
      SetElement(type.dtype, i, 1, unit.mutable_raw());
      for (size_t r = 0; r < num_results && !basis.forward; ++r) {
        const SignatureEntry& entry = signature.outputs[basis.results[r]];
        // What no direction reaches is zero, and was computed once.
        if (entry.stage != Stage::kDirection) continue;
        const int64_t row = point * type.shape.num_elements() + i;
        bindings->outputs[basis.results[r]] = DataOf(blocks[r]) + row * entry.type.bytes();
      }
      GW_RETURN_IF_ERROR(run());
      for (size_t r = 0; r < num_results && basis.forward; ++r) {
        const Tensor& column = hidden_[basis.results[r]];
        const int64_t width = type.shape.num_elements();
        CopyColumn(
            column, i, width, type.dtype,
            DataOf(blocks[r]) + point * column.num_elements() * width * DTypeBytes(type.dtype));
      }
      SetElement(type.dtype, i, 0, unit.mutable_raw());
    }
    bindings->inputs[basis.directions[d]] = zeros;
  }
  return has_run ? absl::OkStatus() : run();  // the values, where there is no direction
}

absl::Status Pipeline::RunBasis(AddBlock add_block, Route route, v1::ComputeInfo* info) {
  Problems problems;
  CheckVectorTypes("cotangents", shared_cotangents_, CotangentName(""), &problems);
  GW_RETURN_IF_ERROR(problems.ToStatus());
  Basis basis = ListBasis();
  GW_RETURN_IF_ERROR(AdmitBasis(basis));
  GW_RETURN_IF_ERROR(StartBlocks(add_block, &basis));

  for (const size_t r : basis.results) outputs_[r].hidden = true;  // it goes into blocks
  GW_ASSIGN_OR_RETURN(Tensor unit, Tensor::Make({DType::kUint8, Shape({basis.largest_bytes})}));
  GW_RETURN_IF_ERROR(RunPoints(
      route, info, [&](int64_t point, Bindings* bindings, RunContext& context) -> absl::Status {
        const Turn turn{point};
        BindOutputs(turn, bindings);
        GW_RETURN_IF_ERROR(RunDirections(basis, point, unit, bindings, context));
        CopySharedResults(turn);
        return absl::OkStatus();
      }));
  if (readable()) {
    for (v1::Tensor* block : basis.blocks) codec::MakeReadable(block);
  }
  return absl::OkStatus();
}

}  // namespace gradwire::server
