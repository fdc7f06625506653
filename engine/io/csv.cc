#include "engine/io/csv.h"

#include <vector>

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

}  // namespace

absl::StatusOr<Tensor> ReadCsv(absl::string_view bytes) {
  absl::ConsumePrefix(&bytes, "\xEF\xBB\xBF");
  std::vector<double> numbers;
  int64_t rows = 0;
  int64_t columns = 0;
  char separator = '\0';
  for (int64_t line_number = 1; !bytes.empty(); ++line_number) {
    const absl::string_view line = absl::StripTrailingAsciiWhitespace(TakeUntil('\n', &bytes));
    if (line.empty()) continue;
    const bool first = separator == '\0';
    if (first) separator = SeparatorOf(line);
    const size_t before = numbers.size();
    absl::string_view bad_field;
    if (!ReadLine(line, separator, &numbers, &bad_field)) {
      numbers.resize(before);
      if (first) continue;
      return Malformed(line_number, absl::StrCat("'", bad_field.substr(0, 64), "' is no number"));
    }
    const auto width = static_cast<int64_t>(numbers.size() - before);
    if (rows++ == 0) columns = width;
    if (width != columns) {
      return Malformed(line_number, absl::StrCat("rows differ in length: got ", width,
                                                 " numbers, expected ", columns));
    }
  }
  if (rows == 0) return Error(Reason::kInvalidTensor, "csv: there are no numbers");
  return Tensor::FromVector<double>(columns == 1 ? Shape{rows} : Shape{rows, columns}, numbers);
}

}  // namespace gradwire
