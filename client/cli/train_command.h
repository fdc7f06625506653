// File: train_command.h
//
// train and estimate: a job from a TOML file (job_file.h) and options. The functions are columns of
// the table in commands.h.
#ifndef GRADWIRE_CLIENT_CLI_TRAIN_COMMAND_H_
#define GRADWIRE_CLIENT_CLI_TRAIN_COMMAND_H_

#include "client/cli/commands.h"

namespace gradwire::cli {

void AddTrainOptions(Command command, CLI::App* app, RawArguments* raw);
absl::Status CheckTrain(const RawArguments& raw, Arguments* out);
absl::StatusOr<int> RunTrain(const Client& client, const Arguments& arguments,
                             const Console& console);

// The options that set one field of a job, as `minimize` has some of them too.
void AddJobFields(Command command, CLI::App* app, RawArguments* raw);
absl::Status CheckSettings(const RawArguments& raw);  // of --set
std::vector<Override> OverridesOf(const RawArguments& raw);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_TRAIN_COMMAND_H_
