#include "engine/io/csv.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status.h"

namespace gradwire {
namespace {

absl::Status Malformed(int64_t line, absl::string_view what) {
  return Error(Reason::kInvalidTensor, absl::StrCat("csv: line ", line, ": ", what));
}

// Takes the text up to `end` off `*rest`, and `end` with it.
absl::string_view TakeUntil(char end, absl::string_view* rest) {
  const size_t at = rest->find(end);
  const absl::string_view taken = rest->substr(0, at);
  rest->remove_prefix(at == absl::string_view::npos ? rest->size() : at + 1);
  return taken;
}

char SeparatorOf(absl::string_view line) {
  const size_t at = line.find_first_of(",;\t");
  return at == absl::string_view::npos ? ',' : line[at];
}

// Appends the numbers of a line; false, with the field, where one is none.
bool ReadLine(absl::string_view line, char separator, std::vector<double>* numbers,
              absl::string_view* bad_field) {
  bool more = true;
  while (more) {
    more = line.find(separator) != absl::string_view::npos;
    absl::string_view field = absl::StripAsciiWhitespace(TakeUntil(separator, &line));
    double number;
    if (!absl::SimpleAtod(field, &number)) {
      *bad_field = field;
      return false;
    }
    numbers->push_back(number);
  }
  return true;
}

std::vector<std::string> ReadHeader(absl::string_view line, char separator) {
  std::vector<std::string> names;
  bool more = true;
  while (more) {
    more = line.find(separator) != absl::string_view::npos;
    absl::string_view field = absl::StripAsciiWhitespace(TakeUntil(separator, &line));
    if (field.size() >= 2 && field.front() == '"' && field.back() == '"') {
      field = field.substr(1, field.size() - 2);
    }
    names.emplace_back(field);
  }
  return names;
}

struct Parsed {
  std::vector<std::string> header;
  std::vector<double> numbers;
  int64_t rows = 0;
  int64_t columns = 0;
};

absl::StatusOr<Parsed> Parse(absl::string_view bytes) {
  absl::ConsumePrefix(&bytes, "\xEF\xBB\xBF");
  Parsed out;
  char separator = '\0';
  for (int64_t line_number = 1; !bytes.empty(); ++line_number) {
    const absl::string_view line = absl::StripTrailingAsciiWhitespace(TakeUntil('\n', &bytes));
    if (line.empty()) continue;
    const bool first = separator == '\0';
    if (first) separator = SeparatorOf(line);
    const size_t before = out.numbers.size();
    absl::string_view bad_field;
    if (!ReadLine(line, separator, &out.numbers, &bad_field)) {
      out.numbers.resize(before);
      if (first) {
        out.header = ReadHeader(line, separator);
        continue;
      }
      return Malformed(line_number, absl::StrCat("'", bad_field.substr(0, 64), "' is no number"));
    }
    const auto width = static_cast<int64_t>(out.numbers.size() - before);
    if (out.rows++ == 0) out.columns = width;
    if (width != out.columns) {
      return Malformed(line_number, absl::StrCat("rows differ in length: got ", width,
                                                 " numbers, expected ", out.columns));
    }
  }
  if (out.rows == 0) return Error(Reason::kInvalidTensor, "csv: there are no numbers");
  return out;
}

}  // namespace

absl::StatusOr<Tensor> ReadCsv(absl::string_view bytes) {
  GW_ASSIGN_OR_RETURN(const Parsed parsed, Parse(bytes));
  Shape shape = parsed.columns == 1 ? Shape{parsed.rows} : Shape{parsed.rows, parsed.columns};
  return Tensor::FromVector<double>(std::move(shape), parsed.numbers);
}

absl::StatusOr<CsvTable> ReadCsvTable(absl::string_view bytes) {
  GW_ASSIGN_OR_RETURN(Parsed parsed, Parse(bytes));
  CsvTable table;
  table.names = std::move(parsed.header);
  if (table.names.empty()) {
    for (int64_t i = 0; i < parsed.columns; ++i) table.names.push_back(absl::StrCat(i));
  }
  if (static_cast<int64_t>(table.names.size()) != parsed.columns) {
    return Error(Reason::kInvalidTensor, absl::StrCat("csv: the header has ", table.names.size(),
                                                      " fields, the rows have ", parsed.columns));
  }
  table.numbers = Tensor::FromVector<double>(Shape{parsed.rows, parsed.columns}, parsed.numbers);
  return table;
}

}  // namespace gradwire
