// File: report.h
//
// Errors of a command: whose they are, how they are shown, and what the program ends with.
//
//   GW_ASSIGN_OR_RETURN(Tensor x, OrLocal(ReadValue(...)));   // ends 2, not 3
#ifndef GRADWIRE_CLIENT_CLI_REPORT_H_
#define GRADWIRE_CLIENT_CLI_REPORT_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/console.h"

namespace gradwire::cli {

// A wrong command line.
absl::Status UsageError(absl::string_view message);

// The same error, as one of this machine's: a local file, a value on the command line.
absl::Status AsLocal(absl::Status status);
template <typename T>
absl::StatusOr<T> OrLocal(absl::StatusOr<T> result) {
  if (result.ok()) return result;
  return AsLocal(result.status());
}

// Says how to start a server where none answers, and why a call may be unknown to it.
absl::Status Explained(const absl::Status& status, const std::string& address);

// Shows an error, and gives its ExitCode.
int Report(const absl::Status& status, bool json, const Console& console);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_REPORT_H_
