// File: read_columns.h
//
// Files as the columns of a data set.
//
//   FileImport import;
//   import.files = {"digits.npz"};
//   import.columns = {{"x", {"images"}}, {"labels", {"labels"}}};
//   import.dtypes = {{"x", DType::kFloat}};
//   import.scales = {{"x", 1.0 / 16}};
//   import.except = *ParseRowSlice("4::5");
//   GW_ASSIGN_OR_RETURN(NamedTensors columns, ReadColumns(import));
#ifndef GRADWIRE_CLIENT_CLI_READ_COLUMNS_H_
#define GRADWIRE_CLIENT_CLI_READ_COLUMNS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/named_tensors.h"
#include "engine/tensor/dtype.h"

namespace gradwire::cli {

// Rows start, start + step, ... before stop, as Python's START:STOP:STEP; none of them negative.
struct RowSlice {
  int64_t start = 0;
  int64_t stop = INT64_MAX;
  int64_t step = 1;

  bool Contains(int64_t row) const {
    return row >= start && row < stop && (row - start) % step == 0;
  }
};
absl::StatusOr<RowSlice> ParseRowSlice(absl::string_view text);

// FLOAT or float, INT64 or int64, ...
absl::StatusOr<DType> ParseDType(absl::string_view text);

struct FileImport {
  // .npz, .npy, .csv, or IDX (any other name, known by its first bytes).
  std::vector<std::string> files;
  std::string display_name;  // default: the first file's name
  // Column -> the array of the files that it is, or several of them, each one number a row. Arrays
  // of .npz and .csv have names; that of .npy and IDX is called as the file, without its ending.
  // Default: every array is a column of its name.
  std::map<std::string, std::vector<std::string>> columns;
  // Of columns. A scaled column is multiplied before it is converted, and is FLOAT where nothing
  // else is said and the file has no floating type.
  std::map<std::string, DType> dtypes;
  std::map<std::string, double> scales;
  std::map<std::string, std::vector<int64_t>> shapes;  // of one row
  // Rows that are taken; rows that are left out. At most one of the two.
  std::optional<RowSlice> rows;
  std::optional<RowSlice> except;
};

// Errors: those of the readers, naming the file; INVALID_SPEC, all at once, for names that there
// are not or twice; SHAPE_MISMATCH; INVALID_TENSOR for values that a type cannot hold.
absl::StatusOr<NamedTensors> ReadColumns(const FileImport& import);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_READ_COLUMNS_H_
