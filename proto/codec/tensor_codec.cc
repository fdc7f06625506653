#include "proto/codec/tensor_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status.h"

namespace gradwire::codec {
namespace {

static_assert(std::endian::native == std::endian::little, "`data` is little-endian on the wire");

// The 16-bit floating types, which have no C++ type.
struct HalfFormat {
  int mantissa_bits;
  int bias;
};
constexpr HalfFormat kFloat16Format = {10, 15};
constexpr HalfFormat kBfloat16Format = {7, 127};

bool IsHalf(DType dtype) { return dtype == DType::kFloat16 || dtype == DType::kBfloat16; }

HalfFormat FormatOf(DType dtype) {
  return dtype == DType::kFloat16 ? kFloat16Format : kBfloat16Format;
}

double DecodeHalf(uint16_t bits, HalfFormat format) {
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const int exponent = (bits & 0x7FFF) >> format.mantissa_bits;
  double magnitude;
  if (exponent == 2 * format.bias + 1) {
    magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, 1 - format.bias - format.mantissa_bits);
  } else {
    magnitude = std::ldexp(mantissa + (1 << format.mantissa_bits),
                           exponent - format.bias - format.mantissa_bits);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Rounds once, from the double, to nearest even; false where a finite value becomes infinite.
bool EncodeHalf(double value, HalfFormat format, uint16_t* out) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const int infinity = (2 * format.bias + 1) << format.mantissa_bits;
  int bits;
  if (std::isnan(value)) {
    bits = infinity | (1 << (format.mantissa_bits - 1));
  } else if (std::isinf(value)) {
    bits = infinity;
  } else {
    const int exponent =
        value == 0 ? 1 - format.bias : std::max(std::ilogb(value), 1 - format.bias);
    if (exponent > format.bias) return false;
    // In units of the last place; the implicit bit and a carry of rounding add to the exponent.
    const double units =
        std::nearbyint(std::ldexp(std::fabs(value), format.mantissa_bits - exponent));
    bits = ((exponent + format.bias - 1) << format.mantissa_bits) + static_cast<int>(units);
    if (bits >= infinity) return false;
  }
  *out = static_cast<uint16_t>(sign | bits);
  return true;
}

// Converts one number; false where it does not fit.
template <typename T>
bool Convert(double value, T* out) {
  if constexpr (std::is_same_v<T, bool>) {
    if (value != 0 && value != 1) return false;
  } else if constexpr (std::is_same_v<T, float>) {
    // A double just above the largest float still rounds to it.
    constexpr double kLimit = 0x1.ffffffp127;
    if (std::isfinite(value) && std::fabs(value) >= kLimit) return false;
  } else if constexpr (std::is_integral_v<T>) {
    const double end = std::ldexp(1.0, std::numeric_limits<T>::digits);
    // Written so that NaN fails.
    if (!(value >= static_cast<double>(std::numeric_limits<T>::min()) && value < end)) return false;
    if (value != std::trunc(value)) return false;
  }
  *out = static_cast<T>(value);
  return true;
}

absl::Status Invalid(absl::string_view where, absl::string_view what) {
  return Error(Reason::kInvalidTensor, absl::StrCat(where, ": ", what));
}

absl::StatusOr<DType> DTypeOf(const v1::Tensor& tensor, absl::string_view where) {
  if (tensor.data_type() == v1::UNDEFINED) {
    if (tensor.data().empty()) return DType::kDouble;
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat(where,
                              ": data_type is unset: got data without it, expected one of "
                              "DataType"));
  }
  const DType dtype = DTypeFromOnnx(tensor.data_type());
  if (dtype != DType::kUndefined) return dtype;
  return Error(Reason::kDtypeUnsupported,
               absl::StrCat(where, ": data_type is unknown: got ",
                            static_cast<int>(tensor.data_type()), ", expected one of DataType"));
}

absl::Status CheckCounts(const v1::Tensor& tensor, const TensorType& type,
                         absl::string_view where) {
  if (tensor.values_size() > 0 && !tensor.data().empty()) {
    return Invalid(where, "both data and values are set: expected one of them");
  }
  const int64_t elements = type.shape.num_elements();
  if (tensor.values_size() > 0) {
    if (tensor.values_size() == elements) return absl::OkStatus();
    return Invalid(where, absl::StrCat("wrong count of values: got ", tensor.values_size(),
                                       ", expected ", elements, " for ", type.ToString()));
  }
  if (tensor.data().empty() && elements > 0) {
    return Invalid(where, absl::StrCat("neither data nor values is set: expected ", elements,
                                       " elements for ", type.ToString()));
  }
  if (static_cast<int64_t>(tensor.data().size()) == type.bytes()) return absl::OkStatus();
  return Invalid(where, absl::StrCat("wrong count of bytes in data: got ", tensor.data().size(),
                                     ", expected ", type.bytes(), " for ", type.ToString()));
}

absl::Status CheckBools(const std::string& data, absl::string_view where) {
  for (size_t i = 0; i < data.size(); ++i) {
    const auto byte = static_cast<unsigned char>(data[i]);
    if (byte <= 1) continue;
    return Invalid(
        where, absl::StrCat("element ", i, " is no BOOL: got byte ", byte, ", expected 0 or 1"));
  }
  return absl::OkStatus();
}

// The index of the first value that does not fit the type of `out`, or -1.
int64_t ConvertValues(const v1::Tensor& tensor, Tensor* out) {
  const double* values = tensor.values().data();
  const int64_t n = tensor.values_size();
  if (IsHalf(out->dtype())) {
    const HalfFormat format = FormatOf(out->dtype());
    auto* to = static_cast<uint16_t*>(out->mutable_raw());
    for (int64_t i = 0; i < n; ++i) {
      if (!EncodeHalf(values[i], format, &to[i])) return i;
    }
    return -1;
  }
  int64_t bad = -1;
  VisitDType(out->dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* to = out->mutable_data<T>();
    for (int64_t i = 0; i < n; ++i) {
      if (!Convert<T>(values[i], &to[i])) {
        bad = i;
        return;
      }
    }
  });
  return bad;
}

}  // namespace

absl::StatusOr<TensorView> ViewOf(const v1::Tensor& tensor, absl::string_view where,
                                  std::vector<Tensor>* owned) {
  GW_ASSIGN_OR_RETURN(const DType dtype, DTypeOf(tensor, where));
  absl::StatusOr<Shape> shape =
      Shape::Make(absl::MakeConstSpan(tensor.shape().data(), tensor.shape_size()));
  if (!shape.ok()) return Invalid(where, shape.status().message());
  const TensorType type{dtype, *std::move(shape)};
  GW_RETURN_IF_ERROR(CheckCounts(tensor, type, where));

  if (tensor.values_size() == 0) {
    if (dtype == DType::kBool) GW_RETURN_IF_ERROR(CheckBools(tensor.data(), where));
    const TensorView view(type, tensor.data().data());
    if (view.aligned()) return view;
  }
  GW_ASSIGN_OR_RETURN(Tensor copy, Tensor::Make(type));
  if (tensor.values_size() == 0) {
    std::memcpy(copy.mutable_raw(), tensor.data().data(), tensor.data().size());
  } else if (const int64_t bad = ConvertValues(tensor, &copy); bad >= 0) {
    return Invalid(where, absl::StrFormat("value %d does not fit %s: got %.17g", bad,
                                          DTypeName(dtype), tensor.values(static_cast<int>(bad))));
  }
  owned->push_back(std::move(copy));
  return owned->back();
}

void StartTensor(const TensorType& type, v1::Tensor* out) {
  out->Clear();
  out->set_data_type(static_cast<v1::DataType>(type.dtype));
  out->mutable_shape()->Add(type.shape.dims().begin(), type.shape.dims().end());
  out->mutable_data()->resize(static_cast<size_t>(type.bytes()));
}

void MakeReadable(v1::Tensor* tensor) {
  const DType dtype = DTypeFromOnnx(tensor->data_type());
  const int64_t width = DTypeBytes(dtype);
  const std::string& data = tensor->data();
  if (width == 0 || data.empty()) return;
  const int64_t n = static_cast<int64_t>(data.size()) / width;
  tensor->mutable_values()->Resize(static_cast<int>(n), 0);
  double* values = tensor->mutable_values()->mutable_data();
  if (IsHalf(dtype)) {
    for (int64_t i = 0; i < n; ++i) {
      uint16_t bits;
      std::memcpy(&bits, data.data() + i * width, sizeof(bits));
      values[i] = DecodeHalf(bits, FormatOf(dtype));
    }
  } else {
    const TensorView view(TensorType{dtype, Shape({n})}, data.data());
    for (int64_t i = 0; i < n; ++i) values[i] = ElementAsDouble(view, i);
  }
  tensor->clear_data();
}

v1::Tensor ToProto(const TensorView& view) {
  v1::Tensor out;
  StartTensor(view.type(), &out);
  if (view.bytes() > 0) {
    std::memcpy(out.mutable_data()->data(), view.raw(), static_cast<size_t>(view.bytes()));
  }
  return out;
}

}  // namespace gradwire::codec
