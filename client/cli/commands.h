// File: commands.h
//
// The table of commands: one row for each, with its help text, its options and what it does.
// Parsing, help and running read nothing else; a new command is a new row.
#ifndef GRADWIRE_CLIENT_CLI_COMMANDS_H_
#define GRADWIRE_CLIENT_CLI_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/cli/arguments.h"
#include "client/cli/console.h"
#include "client/cli/raw_arguments.h"
#include "client/client.h"

namespace gradwire::cli {

inline constexpr char kVersion[] = "0.1.0";

extern const char kProgramHelp[];
extern const char kProgramExamples[];

struct CommandRow {
  Command command;
  const char* group;  // the "jobs" of `jobs list`; "" where it stands alone
  const char* name;
  const char* summary;
  const char* examples;
  // Besides --server, --output and --deadline; null: none.
  void (*add_options)(Command command, CLI::App* app, RawArguments* raw);
  // Null: nothing to check.
  absl::Status (*check)(const RawArguments& raw, Arguments* out);
  // Gives the ExitCode.
  absl::StatusOr<int> (*run)(const Client& client, const Arguments& arguments,
                             const Console& console);
  bool takes_formula = false;
};

// In the order in which they are shown.
absl::Span<const CommandRow> Commands();
const CommandRow& RowOf(Command command);
std::string GroupSummary(const std::string& group);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_COMMANDS_H_
