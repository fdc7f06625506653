#include "client/cli/read_columns.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/convert.h"
#include "engine/base/status.h"
#include "engine/io/csv.h"
#include "engine/io/file.h"
#include "engine/io/idx.h"
#include "engine/io/npy.h"
#include "engine/io/npz.h"

namespace gradwire::cli {
namespace {

using NamedArrays = std::vector<std::pair<std::string, Tensor>>;

// ---- Files to arrays.

absl::StatusOr<NamedArrays> ReadCsvArrays(absl::string_view bytes) {
  GW_ASSIGN_OR_RETURN(const CsvTable table, ReadCsvTable(bytes));
  const int64_t rows = table.numbers.shape()[0];
  const int64_t columns = table.numbers.shape()[1];
  NamedArrays arrays;
  for (int64_t c = 0; c < columns; ++c) {
    GW_ASSIGN_OR_RETURN(Tensor column, Tensor::Make({DType::kDouble, {rows}}));
    for (int64_t r = 0; r < rows; ++r) {
      column.mutable_data<double>()[r] = table.numbers.data<double>()[r * columns + c];
    }
    arrays.emplace_back(table.names[c], std::move(column));
  }
  return arrays;
}

absl::StatusOr<NamedArrays> ReadArrays(const std::string& path) {
  GW_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  if (absl::EndsWith(path, ".npz")) return ReadNpz(bytes);
  if (absl::EndsWith(path, ".csv")) return ReadCsvArrays(bytes);
  const std::filesystem::path name(path);
  if (absl::EndsWith(path, ".npy")) {
    GW_ASSIGN_OR_RETURN(Tensor array, ReadNpy(bytes));
    return NamedArrays{{name.stem().string(), std::move(array)}};
  }
  if (LooksLikeIdx(bytes)) {
    GW_ASSIGN_OR_RETURN(Tensor array, ReadIdx(bytes));
    const bool has_ending = absl::EndsWith(path, ".idx");
    return NamedArrays{{(has_ending ? name.stem() : name.filename()).string(), std::move(array)}};
  }
  return absl::InvalidArgumentError("expected .npz, .npy, .csv, or an IDX file");
}

absl::StatusOr<NamedTensors> ReadAllArrays(const std::vector<std::string>& files) {
  NamedTensors out;
  for (const std::string& path : files) {
    absl::StatusOr<NamedArrays> arrays = ReadArrays(path);
    if (!arrays.ok()) {
      const absl::string_view message = arrays.status().message();
      return absl::Status(arrays.status().code(), absl::StrContains(message, path)
                                                      ? std::string(message)
                                                      : absl::StrCat(path, ": ", message));
    }
    for (auto& [name, array] : *arrays) {
      if (!out.try_emplace(name, std::move(array)).second) {
        return Error(Reason::kInvalidSpec,
                     absl::StrCat(path, ": an array called '", name, "' has come before"));
      }
    }
  }
  return out;
}

// ---- Arrays to columns.

// Arrays of one number a row, side by side: [rows, arrays].
absl::StatusOr<Tensor> Stack(const std::string& column, const std::vector<const Tensor*>& arrays) {
  const TensorType& type = arrays.front()->type();
  for (const Tensor* array : arrays) {
    if (array->shape().rank() == 1 && array->type() == type) continue;
    return Error(Reason::kShapeMismatch,
                 absl::StrCat(column, ": got ", array->type().ToString(), " beside ",
                              type.ToString(), ", expected one number a row in each"));
  }
  const auto width = static_cast<int64_t>(arrays.size());
  const int64_t rows = type.shape[0];
  const auto size = static_cast<size_t>(DTypeBytes(type.dtype));
  GW_ASSIGN_OR_RETURN(Shape shape, Shape::Make({rows, width}));
  GW_ASSIGN_OR_RETURN(Tensor out, Tensor::Make({type.dtype, std::move(shape)}));
  char* to = static_cast<char*>(out.mutable_raw());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c, to += size) {
      std::memcpy(to, static_cast<const char*>(arrays[c]->raw()) + r * size, size);
    }
  }
  return out;
}

absl::StatusOr<NamedTensors> ChooseColumns(const FileImport& import, NamedTensors arrays) {
  if (import.columns.empty()) return arrays;
  NamedTensors out;
  Problems problems;
  for (const auto& [column, sources] : import.columns) {
    std::vector<const Tensor*> found;
    for (const std::string& source : sources) {
      const auto at = arrays.find(source);
      if (at != arrays.end()) {
        found.push_back(&at->second);
        continue;
      }
      std::vector<std::string> names;
      for (const auto& [name, array] : arrays) names.push_back(name);
      problems.Add(Reason::kInvalidSpec, column,
                   absl::StrCat("the files have no array '", source,
                                "'; they have: ", absl::StrJoin(names, ", ")));
    }
    if (found.size() != sources.size() || found.empty()) continue;
    if (found.size() == 1) {
      out[column] = *found.front();
      continue;
    }
    absl::StatusOr<Tensor> stacked = Stack(column, found);
    problems.Add(stacked.status(), "");
    if (stacked.ok()) out[column] = *std::move(stacked);
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

absl::StatusOr<Tensor> TakeRows(const Tensor& column, const FileImport& import) {
  if (!import.rows && !import.except) return column;
  const Shape& shape = column.shape();
  std::vector<int64_t> taken;
  for (int64_t row = 0; row < shape[0]; ++row) {
    if (import.rows ? import.rows->Contains(row) : !import.except->Contains(row)) {
      taken.push_back(row);
    }
  }
  Dims dims = shape.dims();
  dims[0] = static_cast<int64_t>(taken.size());
  GW_ASSIGN_OR_RETURN(Tensor out, Tensor::Make({column.dtype(), Shape(dims)}));
  if (taken.empty()) return out;
  const size_t row_bytes = static_cast<size_t>(column.bytes() / shape[0]);
  char* to = static_cast<char*>(out.mutable_raw());
  for (int64_t row : taken) {
    if (row_bytes > 0) {
      std::memcpy(to, static_cast<const char*>(column.raw()) + row * row_bytes, row_bytes);
    }
    to += row_bytes;
  }
  return out;
}

absl::StatusOr<Tensor> ScaleAndConvert(const std::string& name, const Tensor& column,
                                       const FileImport& import) {
  const auto scale = import.scales.find(name);
  const auto wanted = import.dtypes.find(name);
  DType dtype = wanted == import.dtypes.end() ? column.dtype() : wanted->second;
  if (scale == import.scales.end()) {
    if (dtype == column.dtype()) return column;
    // Every integer becomes some floating number: nothing to check.
    if (IsFloating(dtype) && IsInteger(column.dtype())) return Converted(column, dtype);
    return ConvertTensor(column, dtype, name);
  }
  if (wanted == import.dtypes.end() && !IsFloating(dtype)) dtype = DType::kFloat;
  GW_ASSIGN_OR_RETURN(Tensor scaled, ConvertTensor(column, DType::kDouble, name));
  for (int64_t i = 0; i < scaled.num_elements(); ++i) {
    scaled.mutable_data<double>()[i] *= scale->second;
  }
  return ConvertTensor(scaled, dtype, name);
}

absl::StatusOr<Tensor> ShapeRows(const std::string& name, const Tensor& column,
                                 const FileImport& import) {
  const auto wanted = import.shapes.find(name);
  if (wanted == import.shapes.end()) return column;
  Dims dims = {column.shape()[0]};
  dims.insert(dims.end(), wanted->second.begin(), wanted->second.end());
  GW_ASSIGN_OR_RETURN(Shape shape, Shape::Make(dims));
  if (shape.num_elements() != column.num_elements()) {
    return Error(Reason::kShapeMismatch, absl::StrCat(name, ": got ", column.shape().ToString(),
                                                      ", which cannot become ", shape.ToString()));
  }
  GW_ASSIGN_OR_RETURN(Tensor out, Tensor::Make({column.dtype(), std::move(shape)}));
  if (column.bytes() > 0) {
    std::memcpy(out.mutable_raw(), column.raw(), static_cast<size_t>(column.bytes()));
  }
  return out;
}

absl::StatusOr<Tensor> Finish(const std::string& name, const Tensor& column,
                              const FileImport& import) {
  if (column.shape().rank() == 0) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat(name, ": got a scalar, expected one entry a row"));
  }
  GW_ASSIGN_OR_RETURN(const Tensor taken, TakeRows(column, import));
  GW_ASSIGN_OR_RETURN(const Tensor converted, ScaleAndConvert(name, taken, import));
  return ShapeRows(name, converted, import);
}

template <typename Value>
void CheckNames(const char* what, const std::map<std::string, Value>& settings,
                const NamedTensors& columns, Problems* problems) {
  for (const auto& [name, value] : settings) {
    if (columns.count(name) > 0) continue;
    problems->Add(Reason::kInvalidSpec, absl::StrCat(what, ".", name),
                  "there is no column of this name");
  }
}

}  // namespace

absl::StatusOr<RowSlice> ParseRowSlice(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  RowSlice out;
  bool ok = parts.size() == 2 || parts.size() == 3;
  int64_t* const fields[] = {&out.start, &out.stop, &out.step};
  for (size_t i = 0; ok && i < parts.size(); ++i) {
    if (parts[i].empty()) continue;
    ok = absl::SimpleAtoi(parts[i], fields[i]) && *fields[i] >= 0;
  }
  if (ok && out.step > 0) return out;
  return absl::InvalidArgumentError(
      absl::StrCat("got '", text,
                   "', expected START:STOP or START:STOP:STEP without negative numbers, as 4::5"));
}

absl::StatusOr<DType> ParseDType(absl::string_view text) {
  const std::string upper = absl::AsciiStrToUpper(text);
  std::vector<absl::string_view> names;
  for (int64_t number = 1; number <= static_cast<int64_t>(DType::kBfloat16); ++number) {
    const DType dtype = DTypeFromOnnx(number);
    if (dtype == DType::kUndefined) continue;
    if (upper == DTypeName(dtype)) return dtype;
    names.push_back(DTypeName(dtype));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("got '", text, "', expected one of ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<NamedTensors> ReadColumns(const FileImport& import) {
  if (import.rows && import.except) {
    return absl::InvalidArgumentError("rows and except exclude each other");
  }
  GW_ASSIGN_OR_RETURN(NamedTensors arrays, ReadAllArrays(import.files));
  GW_ASSIGN_OR_RETURN(NamedTensors columns, ChooseColumns(import, std::move(arrays)));
  Problems problems;
  CheckNames("dtype", import.dtypes, columns, &problems);
  CheckNames("scale", import.scales, columns, &problems);
  CheckNames("shape", import.shapes, columns, &problems);
  for (auto& [name, column] : columns) {
    absl::StatusOr<Tensor> finished = Finish(name, column, import);
    problems.Add(finished.status(), "");
    if (finished.ok()) column = *std::move(finished);
  }
  for (const auto& [name, column] : columns) {
    const auto& [first_name, first] = *columns.begin();
    if (column.shape().rank() == 0 || first.shape().rank() == 0) continue;  // has been told
    if (column.shape()[0] == first.shape()[0]) continue;
    problems.Add(Reason::kShapeMismatch, name,
                 absl::StrCat("got ", column.shape()[0], " rows, expected ", first.shape()[0],
                              " as in ", first_name));
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return columns;
}

}  // namespace gradwire::cli
