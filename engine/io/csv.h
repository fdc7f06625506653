// File: csv.h
//
// Tables of numbers as text: commas, semicolons or tabs between them, one row a line.
//
//   GW_ASSIGN_OR_RETURN(Tensor table, ReadCsv("x,y\n1,2\n3,4.5\n"));   // DOUBLE[2,2]
//   GW_ASSIGN_OR_RETURN(CsvTable named, ReadCsvTable("x,y\n1,2\n3,4.5\n"));   // names: x, y
//
// Any bytes may be read. Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_IO_CSV_H_
#define GRADWIRE_ENGINE_IO_CSV_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

// DOUBLE [rows, columns], or [rows] where there is one column. A first line in which some field is
// no number is a header and left out; empty lines are skipped. Numbers are written as in C, with a
// point: 1, -0.5, 1e-3, nan, inf. The separator is the first of `,`, `;` and tab in the first line.
// Errors: INVALID_TENSOR, with the line, for a field that is no number, rows of different lengths,
// or a file without numbers.
absl::StatusOr<Tensor> ReadCsv(absl::string_view bytes);

struct CsvTable {
  // From the header, without blanks and quotes around them; without a header "0", "1", ...
  std::vector<std::string> names;
  Tensor numbers;  // DOUBLE [rows, columns], always of rank 2
};

// As ReadCsv, with the names of the columns. Besides its errors, INVALID_TENSOR for a header with
// another number of fields than the rows.
absl::StatusOr<CsvTable> ReadCsvTable(absl::string_view bytes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_CSV_H_
