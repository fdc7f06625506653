#include "client/cli/values.h"

#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/convert.h"
#include "engine/base/status.h"
#include "engine/io/csv.h"
#include "engine/io/file.h"
#include "engine/io/npy.h"
#include "engine/io/npz.h"
#include "engine/io/safetensors.h"

namespace gradwire::cli {
namespace {

// Reads nested lists; depth of recursion: at most the largest rank.
class ValueParser {
 public:
  ValueParser(absl::string_view text, absl::string_view name) : text_(text), name_(name) {}

  absl::Status Parse() {
    GW_RETURN_IF_ERROR(ParseItem(0));
    SkipBlanks();
    if (at_ < text_.size()) {
      return Fail(text_[at_] == ',' ? "expected the end; lists are written [1,2]"
                                    : "expected the end");
    }
    dims_.resize(static_cast<size_t>(std::max(rank_, 0)));
    return absl::OkStatus();
  }

  const std::vector<int64_t>& dims() const { return dims_; }
  const std::vector<absl::string_view>& numbers() const { return numbers_; }

 private:
  absl::Status Fail(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(
        name_, ": column ", at_ + 1, " of '",
        text_.size() > 60 ? absl::StrCat(text_.substr(0, 57), "...") : std::string(text_),
        "': ", what));
  }

  void SkipBlanks() {
    while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }

  bool Take(char c) {
    SkipBlanks();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  absl::Status ParseItem(int depth) {
    if (Take('[')) return ParseList(depth);
    if (rank_ >= 0 && rank_ != depth) return Fail("expected a list, as elsewhere at this depth");
    rank_ = depth;
    const size_t start = at_;
    while (at_ < text_.size() && !absl::StrContains("[], \t\n", text_.substr(at_, 1))) ++at_;
    if (at_ == start) return Fail("expected a number or a list");
    numbers_.push_back(text_.substr(start, at_ - start));
    return absl::OkStatus();
  }

  absl::Status ParseList(int depth) {
    if (depth == Shape::kMaxRank) {
      return Fail(absl::StrCat("lists nest at most ", Shape::kMaxRank, " deep"));
    }
    if (rank_ >= 0 && depth >= rank_) return Fail("expected a number, as elsewhere at this depth");
    int64_t count = 0;
    if (!Take(']')) {
      do {
        GW_RETURN_IF_ERROR(ParseItem(depth + 1));
        ++count;
      } while (Take(','));
      if (!Take(']')) return Fail("expected ',' or ']'");
    } else if (rank_ < 0) {
      rank_ = depth + 1;  // an empty list: nothing lies deeper
    }
    if (dims_.size() <= static_cast<size_t>(depth)) dims_.resize(depth + 1, -1);
    if (dims_[depth] >= 0 && dims_[depth] != count) {
      return Fail(absl::StrCat("lists differ in length: got ", count, ", expected ", dims_[depth]));
    }
    dims_[depth] = count;
    return absl::OkStatus();
  }

  absl::string_view text_;
  absl::string_view name_;
  size_t at_ = 0;
  int rank_ = -1;  // unknown until the first number
  std::vector<int64_t> dims_;
  std::vector<absl::string_view> numbers_;
};

// Integers of 64 bits, which a double cannot hold all of.
template <typename T>
bool ParseExact(absl::string_view text, Tensor* tensor, int64_t i) {
  return absl::SimpleAtoi(text, &tensor->mutable_data<T>()[i]);
}

bool ParseDouble(absl::string_view text, double* out) {
  if (text == "true" || text == "false") {
    *out = text == "true" ? 1 : 0;
    return true;
  }
  return absl::SimpleAtod(text, out);
}

absl::StatusOr<Tensor> ReadNamed(
    const std::string& path, const std::string& array, absl::string_view name,
    absl::StatusOr<std::vector<std::pair<std::string, Tensor>>> arrays) {
  GW_RETURN_IF_ERROR(arrays.status());
  const absl::string_view wanted = array.empty() ? name : absl::string_view(array);
  std::vector<std::string> names;
  for (auto& [key, tensor] : *arrays) {
    if (key == wanted) return std::move(tensor);
    names.push_back(key);
  }
  if (array.empty() && arrays->size() == 1) return std::move(arrays->front().second);
  constexpr size_t kShown = 8;
  const bool more = names.size() > kShown;
  names.resize(std::min(names.size(), kShown));
  return absl::NotFoundError(absl::StrCat(path, " has no array '", wanted,
                                          "'; it has: ", absl::StrJoin(names, ", "),
                                          more ? ", ..." : "", "; choose one with @FILE:ARRAY"));
}

}  // namespace

absl::StatusOr<Tensor> ParseValue(absl::string_view text, DType dtype, absl::string_view name) {
  if (absl::StripAsciiWhitespace(text).empty()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the value is empty"));
  }
  ValueParser parser(text, name);
  GW_RETURN_IF_ERROR(parser.Parse());
  GW_ASSIGN_OR_RETURN(Shape shape, Shape::Make(parser.dims()));
  const bool exact = dtype == DType::kInt64 || dtype == DType::kUint64;
  Tensor tensor(TensorType{exact ? dtype : DType::kDouble, std::move(shape)});
  for (size_t i = 0; i < parser.numbers().size(); ++i) {
    const absl::string_view number = parser.numbers()[i];
    bool ok;
    if (dtype == DType::kInt64) {
      ok = ParseExact<int64_t>(number, &tensor, static_cast<int64_t>(i));
    } else if (dtype == DType::kUint64) {
      ok = ParseExact<uint64_t>(number, &tensor, static_cast<int64_t>(i));
    } else {
      ok = ParseDouble(number, &tensor.mutable_data<double>()[i]);
    }
    if (!ok) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": '", number.substr(0, 60), "' is no ", DTypeName(dtype), " number"));
    }
  }
  return exact ? tensor : ConvertTensor(tensor, dtype, name);
}

absl::StatusOr<Tensor> ReadTensorFile(const std::string& path, const std::string& array,
                                      absl::string_view name) {
  GW_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  if (absl::EndsWith(path, ".npz")) return ReadNamed(path, array, name, ReadNpz(bytes));
  if (absl::EndsWith(path, ".safetensors")) {
    return ReadNamed(path, array, name, ReadSafetensors(bytes));
  }
  if (!array.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " holds one array, without a name"));
  }
  if (absl::EndsWith(path, ".npy")) return ReadNpy(bytes);
  if (absl::EndsWith(path, ".csv")) return ReadCsv(bytes);
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": a file of values ends in .npy, .npz, .safetensors or .csv"));
}

absl::StatusOr<Tensor> ReadValue(const Assignment& assignment, DType dtype, bool keep_bool) {
  const std::string& value = assignment.value;
  if (value.empty() || value.front() != '@') return ParseValue(value, dtype, assignment.name);
  std::string path = value.substr(1);
  std::string array;
  for (const char* end : {".npz:", ".safetensors:"}) {
    const size_t at = path.rfind(end);
    if (at == std::string::npos) continue;
    const size_t colon = at + absl::string_view(end).size() - 1;
    array = path.substr(colon + 1);
    path.resize(colon);
    break;
  }
  absl::StatusOr<Tensor> tensor = ReadTensorFile(path, array, assignment.name);
  if (!tensor.ok()) {
    absl::Status status(
        tensor.status().code(),
        absl::StrCat(
            assignment.name, ": ",
            absl::StrContains(tensor.status().message(), path) ? "" : absl::StrCat(path, ": "),
            tensor.status().message()));
    return status;
  }
  if (keep_bool && tensor->dtype() == DType::kBool) return tensor;
  return ConvertTensor(*tensor, dtype, assignment.name);
}

}  // namespace gradwire::cli
