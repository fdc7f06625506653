// File: datasets_command.h
//
// datasets import|list|show|delete. The functions are columns of the table in commands.h.
#ifndef GRADWIRE_CLIENT_CLI_DATASETS_COMMAND_H_
#define GRADWIRE_CLIENT_CLI_DATASETS_COMMAND_H_

#include "client/cli/commands.h"
#include "client/datasets.h"

namespace gradwire::cli {

void AddDatasetOptions(Command command, CLI::App* app, RawArguments* raw);
absl::Status CheckDatasets(const RawArguments& raw, Arguments* out);
absl::StatusOr<int> RunDatasetsImport(const Client& client, const Arguments& arguments,
                                      const Console& console);
absl::StatusOr<int> RunDatasetsList(const Client& client, const Arguments& arguments,
                                    const Console& console);
absl::StatusOr<int> RunDatasetsShow(const Client& client, const Arguments& arguments,
                                    const Console& console);
absl::StatusOr<int> RunDatasetsDelete(const Client& client, const Arguments& arguments,
                                      const Console& console);

// Reads and uploads files, showing how far it is on the standard error. What lies on the server
// already is not sent again. `options`: `resume` and `ttl` are read.
absl::StatusOr<v1::Dataset> UploadFiles(const Client& client, const FileImport& import,
                                        ImportOptions options, const Arguments& arguments,
                                        const Console& console);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_DATASETS_COMMAND_H_
