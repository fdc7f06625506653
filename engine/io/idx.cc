#include "engine/io/idx.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "engine/io/swap_bytes.h"

namespace gradwire {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are little-endian");

constexpr size_t kMagicBytes = 4;
constexpr size_t kExtentBytes = 4;

struct IdxType {
  uint8_t code;
  DType dtype;
};
constexpr IdxType kTypes[] = {
    {0x08, DType::kUint8}, {0x09, DType::kInt8},  {0x0B, DType::kInt16},
    {0x0C, DType::kInt32}, {0x0D, DType::kFloat}, {0x0E, DType::kDouble},
};

absl::Status Malformed(absl::string_view what) {
  return Error(Reason::kInvalidTensor, absl::StrCat("idx: ", what));
}

uint8_t ByteAt(absl::string_view bytes, size_t i) { return static_cast<uint8_t>(bytes[i]); }

DType TypeOf(uint8_t code) {
  for (const IdxType& type : kTypes) {
    if (type.code == code) return type.dtype;
  }
  return DType::kUndefined;
}

}  // namespace

bool LooksLikeIdx(absl::string_view bytes) {
  return bytes.size() >= kMagicBytes && bytes[0] == 0 && bytes[1] == 0 &&
         TypeOf(ByteAt(bytes, 2)) != DType::kUndefined && ByteAt(bytes, 3) <= Shape::kMaxRank;
}

absl::StatusOr<Tensor> ReadIdx(absl::string_view bytes) {
  if (bytes.size() < kMagicBytes || bytes[0] != 0 || bytes[1] != 0) {
    return Malformed("no IDX file: it does not begin with two zero bytes");
  }
  const DType dtype = TypeOf(ByteAt(bytes, 2));
  if (dtype == DType::kUndefined) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("idx: there is no element type ", ByteAt(bytes, 2)));
  }
  const size_t rank = ByteAt(bytes, 3);
  if (rank > Shape::kMaxRank) {
    return Malformed(absl::StrCat("got rank ", rank, ", expected at most ", Shape::kMaxRank));
  }
  bytes.remove_prefix(kMagicBytes);
  if (bytes.size() < rank * kExtentBytes) return Malformed("the header is cut off");
  Dims dims;
  for (size_t d = 0; d < rank; ++d) {
    int64_t extent = 0;
    for (size_t i = 0; i < kExtentBytes; ++i) {
      extent = extent << 8 | ByteAt(bytes, d * kExtentBytes + i);
    }
    dims.push_back(extent);
  }
  bytes.remove_prefix(rank * kExtentBytes);
  GW_ASSIGN_OR_RETURN(Shape shape, Shape::Make(dims));
  const TensorType type{dtype, std::move(shape)};
  if (type.bytes() != static_cast<int64_t>(bytes.size())) {
    return Malformed(absl::StrCat("wrong count of bytes: got ", bytes.size(), ", expected ",
                                  type.bytes(), " for ", type.ToString()));
  }
  GW_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Make(type));
  if (!bytes.empty()) std::memcpy(tensor.mutable_raw(), bytes.data(), bytes.size());
  SwapBytes(&tensor);
  return tensor;
}

}  // namespace gradwire
