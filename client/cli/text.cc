#include "client/cli/text.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace gradwire::cli {

std::string Printable(absl::string_view name) {
  std::string out(name);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return out;
}

std::string BytesText(int64_t bytes) {
  if (bytes >= int64_t{1} << 30) return absl::StrFormat("%.4g GiB", bytes / 1073741824.0);
  if (bytes >= int64_t{1} << 20) return absl::StrFormat("%.4g MiB", bytes / 1048576.0);
  if (bytes >= int64_t{1} << 10) return absl::StrFormat("%.4g KiB", bytes / 1024.0);
  return absl::StrCat(bytes, " bytes");
}

std::string ShortDuration(absl::Duration duration) {
  const double exact = absl::ToDoubleSeconds(duration);
  if (duration == absl::InfiniteDuration()) return "for ever";
  if (exact < 10) return absl::StrFormat("%.3gs", std::max(exact, 0.0));
  const auto seconds = static_cast<int64_t>(exact);
  const int64_t minutes = seconds / 60;
  const int64_t hours = minutes / 60;
  if (minutes == 0) return absl::StrCat(seconds, "s");
  if (hours == 0) return absl::StrFormat("%dm%02ds", minutes, seconds % 60);
  if (hours < 24) return absl::StrFormat("%dh%02dm", hours, minutes % 60);
  return absl::StrFormat("%dd%02dh", hours / 24, hours % 24);
}

std::string ShortNumber(double number) { return absl::StrFormat("%.4g", number); }

std::string NameTable(const std::vector<std::pair<std::string, std::string>>& rows) {
  std::vector<std::vector<std::string>> cells;
  for (const auto& [name, value] : rows) cells.push_back({name, value});
  return AlignedTable(cells);
}

std::string AlignedTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const std::vector<std::string>& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppend(&line, row[i], std::string(widths[i] - row[i].size() + 2, ' '));
    }
    absl::StrAppend(&out, absl::StripTrailingAsciiWhitespace(line), "\n");
  }
  return out;
}

}  // namespace gradwire::cli
