#include "client/cli/raw_arguments.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/base/status.h"

namespace gradwire::cli {

void AddList(CLI::App* app, const std::string& name, std::vector<std::string>* out,
             const std::string& value, const std::string& help) {
  app->add_option(name, *out, help)
      ->type_name(value)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void AddText(CLI::App* app, const std::string& name, std::string* out, const std::string& value,
             const std::string& help) {
  app->add_option(name, *out, help)->type_name(value);
}

absl::StatusOr<Assignment> ParseAssignment(absl::string_view word) {
  const size_t equals = word.find('=');
  const absl::string_view name = absl::StripAsciiWhitespace(word.substr(0, equals));
  if (equals == absl::string_view::npos || name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", word, "' is no NAME=VALUE; a formula goes first, in quotes"));
  }
  return Assignment{std::string(name),
                    std::string(absl::StripAsciiWhitespace(word.substr(equals + 1)))};
}

absl::Status AddInputs(const std::vector<std::string>& words, Arguments* out) {
  for (const std::string& word : words) {
    GW_ASSIGN_OR_RETURN(Assignment assignment, ParseAssignment(word));
    for (const Assignment& other : out->inputs) {
      if (other.name == assignment.name) {
        return absl::InvalidArgumentError(absl::StrCat(assignment.name, " is given twice"));
      }
    }
    out->inputs.push_back(std::move(assignment));
  }
  return absl::OkStatus();
}

std::vector<std::string> SplitNames(const std::vector<std::string>& lists) {
  std::vector<std::string> names;
  for (const std::string& list : lists) {
    for (absl::string_view name : absl::StrSplit(list, ',', absl::SkipWhitespace())) {
      names.emplace_back(absl::StripAsciiWhitespace(name));
    }
  }
  return names;
}

absl::StatusOr<std::map<std::string, std::vector<std::string>>> ParseMap(
    absl::string_view option, const std::vector<std::string>& lists) {
  std::map<std::string, std::vector<std::string>> out;
  std::vector<std::string>* values = nullptr;
  for (const std::string& entry : SplitNames(lists)) {
    const size_t equals = entry.find('=');
    if (equals != std::string::npos) {
      const auto [at, is_new] = out.try_emplace(entry.substr(0, equals));
      if (!is_new) {
        return absl::InvalidArgumentError(absl::StrCat(option, ": ", at->first, " is given twice"));
      }
      values = &at->second;
    }
    const std::string value = equals == std::string::npos ? entry : entry.substr(equals + 1);
    if (values == nullptr || equals == 0 || value.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(option, ": '", entry, "' is no NAME=VALUE"));
    }
    values->push_back(value);
  }
  return out;
}

absl::StatusOr<int> Choose(absl::string_view option, const std::string& text,
                           const std::vector<absl::string_view>& choices) {
  const std::string lower = absl::AsciiStrToLower(absl::StripAsciiWhitespace(text));
  for (size_t i = 0; i < choices.size(); ++i) {
    if (lower == absl::AsciiStrToLower(choices[i])) return static_cast<int>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": got '", text, "', expected one of ", absl::StrJoin(choices, ", ")));
}

absl::StatusOr<int64_t> ParseCount(absl::string_view option, const std::string& text) {
  int64_t count;
  if (absl::SimpleAtoi(text, &count) && count >= 0) return count;
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": got '", text, "', expected a whole number, not negative"));
}

absl::StatusOr<absl::Duration> ParsePeriod(absl::string_view option, const std::string& text) {
  double seconds;
  absl::Duration period;
  if (absl::SimpleAtod(text, &seconds)) {
    period = absl::Seconds(std::isnan(seconds) ? 0 : seconds);
  } else if (!absl::ParseDuration(text, &period)) {
    period = absl::ZeroDuration();
  }
  if (period > absl::ZeroDuration()) return period;
  return absl::InvalidArgumentError(absl::StrCat(
      option, ": got '", text, "', expected seconds above 0, or a duration such as 1h30m"));
}

}  // namespace gradwire::cli
