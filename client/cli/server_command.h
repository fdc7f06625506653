// File: server_command.h
//
// health and server status. The functions are columns of the table in commands.h.
#ifndef GRADWIRE_CLIENT_CLI_SERVER_COMMAND_H_
#define GRADWIRE_CLIENT_CLI_SERVER_COMMAND_H_

#include "client/cli/commands.h"

namespace gradwire::cli {

void AddHealthOptions(Command command, CLI::App* app, RawArguments* raw);
absl::Status CheckHealth(const RawArguments& raw, Arguments* out);
absl::StatusOr<int> RunHealth(const Client& client, const Arguments& arguments,
                              const Console& console);
absl::StatusOr<int> RunServerStatus(const Client& client, const Arguments& arguments,
                                    const Console& console);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_SERVER_COMMAND_H_
