#include "engine/ops/structural.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace gradwire {
namespace {

// Null where the attribute is left out, or of another type (which is reported).
template <typename T>
const T* TypedAttr(NodeImport& n, absl::string_view name, absl::string_view expected) {
  const AttrValue* value = n.attrs.Find(name);
  if (value == nullptr) return nullptr;
  const T* typed = std::get_if<T>(value);
  if (typed == nullptr) {
    n.Fail(Reason::kInvalidModel, absl::StrCat("attribute ", name, " is not ", expected));
  }
  return typed;
}

template <typename T>
void CopyElements(const Dims& extents, const void* src_data, const Dims& src_strides,
                  void* dst_data, const Dims& dst_strides) {
  const T* src = static_cast<const T*>(src_data);
  T* dst = static_cast<T*>(dst_data);
  for (int64_t extent : extents) {
    if (extent == 0) return;
  }
  if (extents.empty()) {
    *dst = *src;
    return;
  }
  const size_t last = extents.size() - 1;
  const int64_t count = extents[last], from_step = src_strides[last], to_step = dst_strides[last];
  int64_t rows = 1;
  for (size_t d = 0; d < last; ++d) rows *= extents[d];
  const Dims outer(extents.begin(), extents.end() - 1);
  StridedWalk from(outer, Dims(src_strides.begin(), src_strides.end() - 1));
  StridedWalk to(outer, Dims(dst_strides.begin(), dst_strides.end() - 1));
  for (int64_t row = 0; row < rows; ++row, from.Next(), to.Next()) {
    const T* s = src + from.offset();
    T* d = dst + to.offset();
    if (from_step == 1 && to_step == 1) {
      std::memcpy(d, s, static_cast<size_t>(count) * sizeof(T));
    } else {
      for (int64_t i = 0; i < count; ++i) d[i * to_step] = s[i * from_step];
    }
  }
}

}  // namespace

std::vector<int64_t> ToVector(absl::Span<const int64_t> values) {
  return std::vector<int64_t>(values.begin(), values.end());
}

std::vector<int64_t> Iota(int64_t first, int64_t last) {
  std::vector<int64_t> out(static_cast<size_t>(std::max<int64_t>(last - first, 0)));
  std::iota(out.begin(), out.end(), first);
  return out;
}

absl::StatusOr<Shape> ResultShape(absl::Span<const int64_t> dims) {
  absl::StatusOr<Shape> shape = Shape::Make(dims);
  if (!shape.ok()) return Error(Reason::kInvalidModel, shape.status().message());
  return shape;
}

std::optional<Shape> ResultShape(GraphBuilder& b, absl::Span<const int64_t> dims) {
  absl::StatusOr<Shape> shape = ResultShape(dims);
  if (!shape.ok()) {
    b.Fail(shape.status());
    return std::nullopt;
  }
  return *std::move(shape);
}

ValueId RepeatedScalar(const GraphBuilder& b, ValueId v) {
  const Node* node = b.Producer(v);
  if (node == nullptr || node->op != &kExpandOp) return kNoValue;
  const ValueId scalar = b.operands(*node)[0];
  return b.shape(scalar).rank() == 0 ? scalar : kNoValue;
}

bool TakesInputs(NodeImport& n, int min, int max) {
  if (!n.b.ok()) return false;
  if (n.num_inputs() > max) {
    n.Fail(Reason::kInvalidModel, absl::StrCat("has ", n.num_inputs(), " inputs, expected at most ",
                                               max, " in opset ", n.opset));
    return false;
  }
  for (int i = 0; i < min; ++i) {
    if (!n.has(i)) {
      n.Fail(Reason::kInvalidModel, absl::StrCat("input ", i, " is left out"));
      return false;
    }
  }
  return true;
}

int64_t IntAttr(NodeImport& n, absl::string_view name, int64_t otherwise) {
  const auto* value = TypedAttr<int64_t>(n, name, "an integer");
  return value == nullptr ? otherwise : *value;
}

double FloatAttr(NodeImport& n, absl::string_view name, double otherwise) {
  const auto* value = TypedAttr<double>(n, name, "a number");
  return value == nullptr ? otherwise : *value;
}

std::string StringAttr(NodeImport& n, absl::string_view name, absl::string_view otherwise) {
  const auto* value = TypedAttr<std::string>(n, name, "a string");
  return value == nullptr ? std::string(otherwise) : *value;
}

std::optional<std::vector<int64_t>> RequiredInts(NodeImport& n, absl::string_view name, int input) {
  std::optional<std::vector<int64_t>> values = n.IntsFromAttrOrInput(name, input);
  if (!values && n.b.ok()) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("needs ", name, ", as an attribute or as input ", input));
  }
  return values;
}

bool IndicesFit(NodeImport& n, int64_t count) {
  if (count <= kMaxIndexElements) return true;
  n.Fail(Reason::kMemoryLimit,
         absl::StrCat("needs a vector of ", count, " indices, more than ", kMaxIndexElements));
  return false;
}

void CopyStrided(int64_t element_bytes, const Dims& extents, const void* src,
                 const Dims& src_strides, void* dst, const Dims& dst_strides) {
  switch (element_bytes) {
    case 1:
      return CopyElements<uint8_t>(extents, src, src_strides, dst, dst_strides);
    case 2:
      return CopyElements<uint16_t>(extents, src, src_strides, dst, dst_strides);
    case 4:
      return CopyElements<uint32_t>(extents, src, src_strides, dst, dst_strides);
    default:
      return CopyElements<uint64_t>(extents, src, src_strides, dst, dst_strides);
  }
}

SampleInput Drawn(Dims shape, double low, double high) {
  return {.shape = std::move(shape), .low = low, .high = high};
}

SampleInput Given(Dims shape, std::vector<double> values, DType dtype) {
  return {.shape = std::move(shape), .dtype = dtype, .values = std::move(values)};
}

SampleInput FrozenVector(std::vector<double> values) {
  const auto n = static_cast<int64_t>(values.size());
  return {.shape = {n}, .dtype = DType::kInt64, .values = std::move(values), .constant = true};
}

SampleInput FrozenScalar(double value, DType dtype) {
  return {.shape = {}, .dtype = dtype, .values = {value}, .constant = true};
}

SampleInput Absent() { return {.shape = {}, .absent = true}; }

AttrValue Ints(std::initializer_list<int64_t> values) { return std::vector<int64_t>(values); }

}  // namespace gradwire
