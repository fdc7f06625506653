#include "engine/tensor/tensor.h"

#include <algorithm>
#include <cstdlib>

namespace gradwire {
namespace {

constexpr size_t kAlignment = 64;

enum class Fill { kZeros, kNothing };

std::shared_ptr<void> Allocate(int64_t bytes, Fill fill) {
  if (bytes < 0 || bytes > INT64_MAX - 64) return nullptr;
  const size_t size =
      (std::max<size_t>(static_cast<size_t>(bytes), 1) + kAlignment - 1) / kAlignment * kAlignment;
  void* p = std::aligned_alloc(kAlignment, size);
  if (p == nullptr) return nullptr;
  if (fill == Fill::kZeros) std::memset(p, 0, size);
  return std::shared_ptr<void>(p, std::free);
}

}  // namespace

absl::StatusOr<Tensor> Tensor::Make(TensorType type) {
  Tensor t;
  t.data_ = Allocate(type.bytes(), Fill::kZeros);
  if (t.data_ == nullptr) {
    return Error(Reason::kMemoryLimit, absl::StrCat("cannot allocate ", type.ToString()));
  }
  t.type_ = std::move(type);
  return t;
}

Tensor::Tensor(TensorType type)
    : type_(std::move(type)), data_(Allocate(type_.bytes(), Fill::kZeros)) {
  if (data_ == nullptr) std::abort();
}

Tensor Tensor::CopyOf(TensorView view) {
  Tensor t;
  t.type_ = view.type();
  t.data_ = Allocate(view.bytes(), Fill::kNothing);
  if (t.data_ == nullptr) std::abort();
  if (view.bytes() > 0) std::memcpy(t.mutable_raw(), view.raw(), static_cast<size_t>(view.bytes()));
  return t;
}

bool Tensor::operator==(const Tensor& o) const {
  if (type_ != o.type_ || empty() != o.empty()) return false;
  return empty() || std::memcmp(raw(), o.raw(), static_cast<size_t>(bytes())) == 0;
}

double ElementAsDouble(const TensorView& view, int64_t i) {
  double out = 0;
  VisitDType(view.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    T value;
    std::memcpy(&value, static_cast<const char*>(view.raw()) + i * static_cast<int64_t>(sizeof(T)),
                sizeof(T));
    out = static_cast<double>(value);
  });
  return out;
}

int64_t ElementAsInt64(const TensorView& view, int64_t i) {
  int64_t out = 0;
  VisitDType(view.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    T value;
    std::memcpy(&value, static_cast<const char*>(view.raw()) + i * static_cast<int64_t>(sizeof(T)),
                sizeof(T));
    out = static_cast<int64_t>(value);
  });
  return out;
}

Tensor Converted(const TensorView& view, DType dtype) {
  if (view.dtype() == dtype) return Tensor::CopyOf(view);
  const bool integral = !IsFloating(view.dtype()) && !IsFloating(dtype);
  Tensor out(TensorType{dtype, view.shape()});
  VisitDType(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < out.num_elements(); ++i) {
      out.mutable_data<T>()[i] = integral ? static_cast<T>(ElementAsInt64(view, i))
                                          : static_cast<T>(ElementAsDouble(view, i));
    }
  });
  return out;
}

std::vector<int64_t> ToInt64s(const TensorView& view) {
  std::vector<int64_t> out(static_cast<size_t>(view.num_elements()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = ElementAsInt64(view, static_cast<int64_t>(i));
  return out;
}

}  // namespace gradwire
