// File: text.h
//
// Small pieces of text for people.
//
//   ShortDuration(absl::Seconds(4000))            // "1h06m"
//   AlignedTable({{"NAME", "STATE"}, {"jobs/1", "RUNNING"}})
#ifndef GRADWIRE_CLIENT_CLI_TEXT_H_
#define GRADWIRE_CLIENT_CLI_TEXT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace gradwire::cli {

// Names come from models and other people: a terminal must not obey what is in them.
std::string Printable(absl::string_view name);

// "3.5 MiB".
std::string BytesText(int64_t bytes);
// At most six characters: "0.42s", "12s", "3m05s", "1h06m", "3d04h".
std::string ShortDuration(absl::Duration duration);
// To four significant digits.
std::string ShortNumber(double number);

// Rows of a name and a value, the names padded.
std::string NameTable(const std::vector<std::pair<std::string, std::string>>& rows);
// Columns as wide as their widest entry, two blanks between them.
std::string AlignedTable(const std::vector<std::vector<std::string>>& rows);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_TEXT_H_
