// File: jobs_command.h
//
// jobs list|show|watch|pause|resume|cancel|delete|checkpoints|download, and export. The functions
// are columns of the table in commands.h.
#ifndef GRADWIRE_CLIENT_CLI_JOBS_COMMAND_H_
#define GRADWIRE_CLIENT_CLI_JOBS_COMMAND_H_

#include "client/cli/commands.h"

namespace gradwire::cli {

void AddJobOptions(Command command, CLI::App* app, RawArguments* raw);
absl::Status CheckJobs(const RawArguments& raw, Arguments* out);
absl::StatusOr<int> RunJobsList(const Client& client, const Arguments& arguments,
                                const Console& console);
absl::StatusOr<int> RunJobsShow(const Client& client, const Arguments& arguments,
                                const Console& console);
absl::StatusOr<int> RunJobsWatch(const Client& client, const Arguments& arguments,
                                 const Console& console);
// pause, resume, cancel
absl::StatusOr<int> RunJobsChange(const Client& client, const Arguments& arguments,
                                  const Console& console);
absl::StatusOr<int> RunJobsDelete(const Client& client, const Arguments& arguments,
                                  const Console& console);
absl::StatusOr<int> RunJobsCheckpoints(const Client& client, const Arguments& arguments,
                                       const Console& console);
// jobs download, export
absl::StatusOr<int> RunDownload(const Client& client, const Arguments& arguments,
                                const Console& console);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_JOBS_COMMAND_H_
