// File: run.h
//
// The command line program, without its process.
//
//   int exit_code = cli::Run({"grad", "x^2", "x=2"}, {.out = &std::cout, .err = &std::cerr});
#ifndef GRADWIRE_CLIENT_CLI_RUN_H_
#define GRADWIRE_CLIENT_CLI_RUN_H_

#include <ostream>
#include <string>
#include <vector>

namespace gradwire::cli {

// Exit codes, fixed by the contract.
enum ExitCode {
  kOk = 0,
  kCheckFailed = 1,  // of health: the server is not serving
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
};

// `words` are the words after the program's name.
int Run(const std::vector<std::string>& words, const Console& console);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_RUN_H_
