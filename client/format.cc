#include "client/format.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/convert.h"

namespace gradwire {
namespace {

constexpr int64_t kEdge = 3;

template <typename T>
std::string Shortest(T number) {
  char buffer[64];
  const std::to_chars_result result = std::to_chars(buffer, buffer + sizeof(buffer), number);
  return std::string(buffer, result.ptr);
}

std::string FormatElement(const TensorView& tensor, int64_t i) {
  std::string text;
  VisitDType(tensor.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    T value;
    std::memcpy(&value, static_cast<const char*>(tensor.raw()) + i * sizeof(T), sizeof(T));
    if constexpr (std::is_same_v<T, bool>) {
      text = value ? "true" : "false";
    } else if constexpr (std::is_same_v<T, double>) {
      text = tensor.shape().rank() == 0 ? Shortest(value) : absl::StrFormat("%.8g", value);
    } else {
      text = Shortest(value);
    }
  });
  return text;
}

// Writes one array. Depth of recursion: the rank, at most 16.
class ArrayWriter {
 public:
  ArrayWriter(const TensorView& tensor, const TensorFormat& format)
      : tensor_(tensor),
        strides_(tensor.shape().Strides()),
        format_(format),
        summarise_(tensor.num_elements() > format.summarise_above),
        column_(format.indent) {
    MeasureElements(0, 0);
  }

  std::string Write() {
    WriteAxis(0, 0);
    return std::move(out_);
  }

 private:
  // Calls fn(index), with -1 for the ellipsis, for what is shown of an axis.
  template <typename Fn>
  void ForEachShown(int axis, const Fn& fn) {
    const int64_t extent = tensor_.shape()[axis];
    const bool cut = summarise_ && extent > 2 * kEdge;
    for (int64_t i = 0; i < extent; ++i) {
      if (cut && i == kEdge) {
        fn(-1);
        i = extent - kEdge;
      }
      fn(i);
    }
  }

  void MeasureElements(int axis, int64_t offset) {
    if (axis == tensor_.shape().rank()) {
      element_width_ = std::max(element_width_, FormatElement(tensor_, offset).size());
      return;
    }
    ForEachShown(axis, [&](int64_t i) {
      if (i >= 0) MeasureElements(axis + 1, offset + i * strides_[axis]);
    });
  }

  void Append(absl::string_view text) {
    absl::StrAppend(&out_, text);
    column_ += static_cast<int>(text.size());
  }

  void NewLine(int axis) {
    out_ += '\n';
    column_ = 0;
    Append(std::string(static_cast<size_t>(format_.indent + axis + 1), ' '));
  }

  void WriteAxis(int axis, int64_t offset) {
    if (axis == tensor_.shape().rank()) {
      const std::string element = FormatElement(tensor_, offset);
      Append(std::string(element_width_ - element.size(), ' '));
      Append(element);
      return;
    }
    const bool last_axis = axis + 1 == tensor_.shape().rank();
    bool first = true;
    Append("[");
    ForEachShown(axis, [&](int64_t i) {
      if (!first) Append(",");
      if (!first &&
          (!last_axis || column_ + static_cast<int>(element_width_) + 2 > format_.width)) {
        NewLine(axis);
      } else if (!first) {
        Append(" ");
      }
      first = false;
      if (i < 0) {
        Append("...");
      } else {
        WriteAxis(axis + 1, offset + i * strides_[axis]);
      }
    });
    Append("]");
  }

  const TensorView& tensor_;
  const Dims strides_;
  const TensorFormat& format_;
  const bool summarise_;
  int column_;
  size_t element_width_ = 0;
  std::string out_;
};

}  // namespace

std::string FormatTensor(const TensorView& tensor, const TensorFormat& format) {
  if (tensor.dtype() == DType::kFloat16 || tensor.dtype() == DType::kBfloat16) {
    absl::StatusOr<Tensor> wide = ConvertTensor(tensor, DType::kFloat, "");
    return wide.ok() ? FormatTensor(*wide, format) : std::string(wide.status().message());
  }
  if (tensor.num_elements() == 0) return absl::StrCat("empty ", tensor.type().ToString());
  return ArrayWriter(tensor, format).Write();
}

std::ostream& operator<<(std::ostream& out, const TensorView& tensor) {
  return out << FormatTensor(tensor);
}

std::string FormatNumber(double number) { return Shortest(number); }

}  // namespace gradwire
