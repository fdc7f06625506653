// File: minimize_command.h
//
// minimize: a training job without data, watched to its end. The functions are columns of the table
// in commands.h.
#ifndef GRADWIRE_CLIENT_CLI_MINIMIZE_COMMAND_H_
#define GRADWIRE_CLIENT_CLI_MINIMIZE_COMMAND_H_

#include "client/cli/commands.h"

namespace gradwire::cli {

void AddMinimizeOptions(Command command, CLI::App* app, RawArguments* raw);
absl::Status CheckMinimize(const RawArguments& raw, Arguments* out);
absl::StatusOr<int> RunMinimize(const Client& client, const Arguments& arguments,
                                const Console& console);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_MINIMIZE_COMMAND_H_
