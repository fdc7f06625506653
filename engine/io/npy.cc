#include "engine/io/npy.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "engine/io/swap_bytes.h"

namespace gradwire {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are little-endian");

constexpr absl::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kMaxHeaderBytes = 64 * 1024;

struct NpyType {
  const char* code;
  DType dtype;
};
constexpr NpyType kTypes[] = {
    {"b1", DType::kBool},   {"i1", DType::kInt8},    {"i2", DType::kInt16},  {"i4", DType::kInt32},
    {"i8", DType::kInt64},  {"u1", DType::kUint8},   {"u2", DType::kUint16}, {"u4", DType::kUint32},
    {"u8", DType::kUint64}, {"f2", DType::kFloat16}, {"f4", DType::kFloat},  {"f8", DType::kDouble},
};

absl::Status Malformed(absl::string_view what) {
  return Error(Reason::kInvalidTensor, absl::StrCat("npy: ", what));
}

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

// Reads the header, a Python dict literal with these keys in any order:
//   {'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }
class HeaderParser {
 public:
  explicit HeaderParser(absl::string_view text) : rest_(text) {}

  absl::StatusOr<Header> Parse() {
    Header header;
    bool seen[3] = {};
    if (!Take("{")) return Malformed("the header is no dict");
    while (!Take("}")) {
      std::string key;
      if (!TakeString(&key) || !Take(":")) return Malformed("the header's keys are unreadable");
      bool ok = false;
      int index = -1;
      if (key == "descr") {
        index = 0;
        ok = TakeString(&header.descr);
        if (!ok && (Take("[") || Take("("))) {
          return Error(Reason::kDtypeUnsupported, "npy: records are not supported");
        }
      } else if (key == "fortran_order") {
        index = 1;
        ok = TakeBool(&header.fortran_order);
      } else if (key == "shape") {
        index = 2;
        ok = TakeShape(&header.shape);
      }
      if (!ok || seen[index]) return Malformed(absl::StrCat("the header's '", key, "' is invalid"));
      seen[index] = true;
      if (!Take(",") && !absl::StartsWith(Trimmed(), "}"))
        return Malformed("the header is cut off");
    }
    if (!Trimmed().empty()) return Malformed("the header goes on after its end");
    if (!seen[0] || !seen[1] || !seen[2]) {
      return Malformed("the header lacks one of descr, fortran_order and shape");
    }
    return header;
  }

 private:
  absl::string_view Trimmed() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n')) {
      rest_.remove_prefix(1);
    }
    return rest_;
  }

  bool Take(absl::string_view token) {
    if (!absl::StartsWith(Trimmed(), token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }

  bool TakeString(std::string* out) {
    const absl::string_view text = Trimmed();
    if (text.empty() || (text.front() != '\'' && text.front() != '"')) return false;
    const size_t end = text.find(text.front(), 1);
    if (end == absl::string_view::npos) return false;
    *out = std::string(text.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    return true;
  }

  bool TakeBool(bool* out) {
    *out = Take("True");
    return *out || Take("False");
  }

  bool TakeShape(std::vector<int64_t>* out) {
    if (!Take("(")) return false;
    while (!Take(")")) {
      const absl::string_view text = Trimmed();
      size_t digits = 0;
      while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
      int64_t extent;
      if (!absl::SimpleAtoi(text.substr(0, digits), &extent) || out->size() > Shape::kMaxRank) {
        return false;
      }
      out->push_back(extent);
      rest_.remove_prefix(digits);
      Take("L");  // Python 2
      if (!Take(",") && !absl::StartsWith(Trimmed(), ")")) return false;
    }
    return true;
  }

  absl::string_view rest_;
};

absl::StatusOr<DType> ParseDescr(absl::string_view descr, bool* swap) {
  if (!descr.empty() && absl::StrContains("<>=|", descr.substr(0, 1))) {
    for (const NpyType& type : kTypes) {
      if (descr.substr(1) != type.code) continue;
      *swap = descr.front() == '>' && DTypeBytes(type.dtype) > 1;
      return type.dtype;
    }
  }
  return Error(Reason::kDtypeUnsupported,
               absl::StrCat("npy: element type '", descr.substr(0, 64), "' is not supported"));
}

// Column-major `from` to row-major.
void CopyTransposed(const char* from, Tensor* to) {
  const Shape& shape = to->shape();
  const int64_t size = DTypeBytes(to->dtype());
  const int rank = shape.rank();
  Dims index(static_cast<size_t>(rank), 0);
  Dims strides(static_cast<size_t>(rank), 1);
  for (int d = 1; d < rank; ++d) strides[d] = strides[d - 1] * shape[d - 1];
  char* out = static_cast<char*>(to->mutable_raw());
  int64_t offset = 0;
  for (int64_t i = 0; i < to->num_elements(); ++i, out += size) {
    std::memcpy(out, from + offset * size, static_cast<size_t>(size));
    for (int d = rank - 1; d >= 0; --d) {
      offset += strides[d];
      if (++index[d] < shape[d]) break;
      offset -= strides[d] * shape[d];
      index[d] = 0;
    }
  }
}

absl::Status CheckBools(const Tensor& tensor) {
  const auto* bytes = static_cast<const unsigned char*>(tensor.raw());
  for (int64_t i = 0; i < tensor.bytes(); ++i) {
    if (bytes[i] > 1) return Malformed(absl::StrCat("element ", i, " is no bool"));
  }
  return absl::OkStatus();
}

// Splits off the header's text; `bytes` is left with the elements.
absl::StatusOr<absl::string_view> TakeHeader(absl::string_view* bytes) {
  if (!absl::StartsWith(*bytes, kMagic) || bytes->size() < 10) return Malformed("no .npy file");
  const auto byte = [bytes](size_t i) {
    return static_cast<size_t>(static_cast<unsigned char>((*bytes)[i]));
  };
  const size_t version = byte(6);
  if (version < 1 || version > 3) return Malformed(absl::StrCat("unknown version ", version));
  size_t start = 10;
  size_t length = byte(8) | byte(9) << 8;
  if (version > 1) {
    start = 12;
    if (bytes->size() < start) return Malformed("the header is cut off");
    length |= byte(10) << 16 | byte(11) << 24;
  }
  if (length > kMaxHeaderBytes) return Malformed("the header is too long");
  if (bytes->size() - start < length) return Malformed("the header is cut off");
  const absl::string_view header = bytes->substr(start, length);
  bytes->remove_prefix(start + length);
  return header;
}

}  // namespace

absl::StatusOr<Tensor> ReadNpy(absl::string_view bytes) {
  GW_ASSIGN_OR_RETURN(const absl::string_view text, TakeHeader(&bytes));
  GW_ASSIGN_OR_RETURN(const Header header, HeaderParser(text).Parse());
  bool swap = false;
  GW_ASSIGN_OR_RETURN(const DType dtype, ParseDescr(header.descr, &swap));
  GW_ASSIGN_OR_RETURN(Shape shape, Shape::Make(header.shape));
  const TensorType type{dtype, std::move(shape)};
  if (type.bytes() != static_cast<int64_t>(bytes.size())) {
    return Malformed(absl::StrCat("wrong count of bytes: got ", bytes.size(), ", expected ",
                                  type.bytes(), " for ", type.ToString()));
  }
  GW_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Make(type));
  if (bytes.empty()) return tensor;
  if (header.fortran_order && type.shape.rank() > 1) {
    CopyTransposed(bytes.data(), &tensor);
  } else {
    std::memcpy(tensor.mutable_raw(), bytes.data(), bytes.size());
  }
  if (swap) SwapBytes(&tensor);
  if (dtype == DType::kBool) GW_RETURN_IF_ERROR(CheckBools(tensor));
  return tensor;
}

absl::StatusOr<std::string> WriteNpy(const TensorView& tensor) {
  const char* code = nullptr;
  for (const NpyType& type : kTypes) {
    if (type.dtype == tensor.dtype()) code = type.code;
  }
  if (code == nullptr) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("npy: NumPy has no ", DTypeName(tensor.dtype())));
  }
  std::string header = absl::StrCat("{'descr': '", DTypeBytes(tensor.dtype()) > 1 ? "<" : "|", code,
                                    "', 'fortran_order': False, 'shape': (");
  for (int64_t extent : tensor.shape().dims()) absl::StrAppend(&header, extent, ", ");
  // "(3, )" is a tuple of one as "(3,)" is; "()" is the scalar's.
  absl::StrAppend(&header, "), }");
  constexpr size_t kPrefix = 10;
  constexpr size_t kAlignment = 64;
  header.append(kAlignment - (kPrefix + header.size() + 1) % kAlignment, ' ');
  header += '\n';
  std::string out = absl::StrCat(kMagic, absl::string_view("\x01\x00", 2));
  out += static_cast<char>(header.size() & 0xFF);
  out += static_cast<char>(header.size() >> 8);
  out += header;
  out.append(static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.bytes()));
  return out;
}

}  // namespace gradwire
