// File: console.h
//
// Where a command writes, and what it ends with.
#ifndef GRADWIRE_CLIENT_CLI_CONSOLE_H_
#define GRADWIRE_CLIENT_CLI_CONSOLE_H_

#include <ostream>

namespace gradwire::cli {

// Exit codes, fixed by the contract.
enum ExitCode {
  kOk = 0,
  kCheckFailed = 1,  // the server is not serving; the job FAILED or was CANCELLED
  kUsage = 2,        // or a local file
  kRefused = 3,
  kUnavailable = 4,
  kDeadline = 5,
  kInterrupted = 130,
};

struct Console {
  std::ostream* out;
  std::ostream* err;
  bool colour_out = false;
  bool colour_err = false;
  // Columns of the terminal behind it; 0 where there is none.
  int width_out = 0;
  int width_err = 0;
};

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_CONSOLE_H_
