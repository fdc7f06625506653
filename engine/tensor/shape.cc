#include "engine/tensor/shape.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "engine/base/checked.h"

namespace gradwire {

absl::StatusOr<Shape> Shape::Make(absl::Span<const int64_t> dims) {
  if (dims.size() > kMaxRank) {
    return Error(Reason::kInvalidTensor,
                 absl::StrCat("rank ", dims.size(), " is above ", kMaxRank));
  }
  int64_t product = 8;  // of the widest element, so that bytes fit too
  for (int64_t d : dims) {
    if (d < 0) return Error(Reason::kInvalidTensor, absl::StrCat("negative extent ", d));
    // Zero extents do not excuse the others: [0, 2^62, 2^62] is refused as well.
    if (!CheckedMul(product, std::max<int64_t>(d, 1), &product)) {
      return Error(Reason::kInvalidTensor, absl::StrCat("shape [", absl::StrJoin(dims, ","),
                                                        "] overflows: more than 2^60 elements"));
    }
  }
  return Shape(Dims(dims.begin(), dims.end()));
}

int64_t Shape::num_elements() const {
  int64_t n = 1;
  for (int64_t d : dims_) n *= d;
  return n;
}

Dims Shape::Strides() const {
  Dims strides(dims_.size());
  int64_t step = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= dims_[i];
  }
  return strides;
}

std::string Shape::ToString() const { return absl::StrCat("[", absl::StrJoin(dims_, ","), "]"); }

bool BroadcastShapes(const Shape& a, const Shape& b, Shape* out) {
  const int rank = std::max(a.rank(), b.rank());
  Dims dims(rank);
  for (int i = 0; i < rank; ++i) {
    const int64_t da = i < rank - a.rank() ? 1 : a[i - (rank - a.rank())];
    const int64_t db = i < rank - b.rank() ? 1 : b[i - (rank - b.rank())];
    if (da != db && da != 1 && db != 1) return false;
    dims[i] = da == 1 ? db : da;
  }
  *out = Shape(std::move(dims));
  return true;
}

bool BroadcastsTo(const Shape& from, const Shape& to) {
  if (from.rank() > to.rank()) return false;
  const int lead = to.rank() - from.rank();
  for (int i = 0; i < from.rank(); ++i) {
    if (from[i] != 1 && from[i] != to[i + lead]) return false;
  }
  return true;
}

int64_t TensorType::bytes() const { return SaturatingMul(shape.num_elements(), DTypeBytes(dtype)); }

std::string TensorType::ToString() const {
  return absl::StrCat(DTypeName(dtype), shape.ToString());
}

}  // namespace gradwire
