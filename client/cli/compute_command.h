// File: compute_command.h
//
// eval, grad, vjp, jvp and hvp: one call that computes something. The functions are columns of the
// table in commands.h.
#ifndef GRADWIRE_CLIENT_CLI_COMPUTE_COMMAND_H_
#define GRADWIRE_CLIENT_CLI_COMPUTE_COMMAND_H_

#include "client/cli/commands.h"
#include "client/cli/signature.h"

namespace gradwire::cli {

void AddComputeOptions(Command command, CLI::App* app, RawArguments* raw);
absl::Status CheckCompute(const RawArguments& raw, Arguments* out);
absl::StatusOr<int> RunCompute(const Client& client, const Arguments& arguments,
                               const Console& console);
absl::StatusOr<int> RunCheck(const Client& client, const Arguments& arguments,
                             const Console& console);
absl::StatusOr<int> RunAnalyze(const Client& client, const Arguments& arguments,
                               const Console& console);

// Formula or --model, and NAME=VALUE, as `minimize` reads them too.
absl::Status CheckModelAndInputs(const RawArguments& raw, Arguments* out);

// A model and its inputs, read and converted to the types that it wants.
struct ModelAndInputs {
  ModelSource model = ModelSource::Formula("");
  ModelSignature signature;
  NamedTensors inputs;
};
absl::StatusOr<ModelAndInputs> ReadModelAndInputs(const Arguments& arguments);

// How an output is called in text: f in df/dx.
std::string ValueName(const Arguments& arguments, const ModelSignature& signature);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_COMPUTE_COMMAND_H_
