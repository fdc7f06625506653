// File: raw_arguments.h
//
// The options of a command as text, before they are checked, and what the commands share in adding
// and checking them.
#ifndef GRADWIRE_CLIENT_CLI_RAW_ARGUMENTS_H_
#define GRADWIRE_CLIENT_CLI_RAW_ARGUMENTS_H_

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/arguments.h"

namespace gradwire::cli {

struct RawArguments {
  std::string server;
  std::string output = "text";
  std::string deadline;
  std::string service;
  std::vector<std::string> words;  // what stands without an option

  // ---- Of what computes.
  bool info = false;
  std::string model;
  std::vector<std::string> in;
  std::vector<std::string> vectors;
  std::vector<std::string> wrt;
  std::vector<std::string> outputs;
  std::string output_name;
  std::string loss;
  std::string loss_formula;
  std::vector<std::string> loss_settings;
  std::string direction = "auto";
  std::vector<std::string> batch;
  bool per_example = false;
  std::string directions = "0";
  std::string step = "0";
  std::string precision = "as_graph";
  std::string mode = "as_graph";
  std::string seed = "0";
  bool check_finite = false;

  // ---- Of jobs.
  std::map<std::string, std::string> fields;  // by option: those that set one field of a job
  std::vector<std::string> set;
  bool shuffle = false;
  bool watch = false;
  bool validate_only = false;
  bool estimate = false;
  std::vector<std::string> states;
  std::string limit = "100";
  std::string after;
  std::string plot;
  std::string out;
  std::string priority;

  // ---- Of data sets.
  std::string display_name;
  std::vector<std::string> columns;
  std::vector<std::string> dtypes;
  std::vector<std::string> scales;
  std::vector<std::string> shapes;
  std::string rows;
  std::string except;
  std::string resume;
  std::string ttl;
};

// An option that may be given several times.
void AddList(CLI::App* app, const std::string& name, std::vector<std::string>* out,
             const std::string& value, const std::string& help);
void AddText(CLI::App* app, const std::string& name, std::string* out, const std::string& value,
             const std::string& help);

// NAME=VALUE.
absl::StatusOr<Assignment> ParseAssignment(absl::string_view word);
// The same for words that name no NAME twice.
absl::Status AddInputs(const std::vector<std::string>& words, Arguments* out);
// Lists of names, separated by commas.
std::vector<std::string> SplitNames(const std::vector<std::string>& lists);
// "NAME=VALUE,NAME=VALUE", in lists; an entry without a NAME belongs to the one before: x=a,b,c.
absl::StatusOr<std::map<std::string, std::vector<std::string>>> ParseMap(
    absl::string_view option, const std::vector<std::string>& lists);
// The index of `text` in `choices`.
absl::StatusOr<int> Choose(absl::string_view option, const std::string& text,
                           const std::vector<absl::string_view>& choices);
// A whole number, not negative.
absl::StatusOr<int64_t> ParseCount(absl::string_view option, const std::string& text);
// Seconds, or a duration such as 90s or 1h30m; above 0.
absl::StatusOr<absl::Duration> ParsePeriod(absl::string_view option, const std::string& text);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_RAW_ARGUMENTS_H_
