// File: run.h
//
// The command line program, without its process.
//
//   int exit_code = cli::Run({"grad", "x^2", "x=2"}, {.out = &std::cout, .err = &std::cerr});
#ifndef GRADWIRE_CLIENT_CLI_RUN_H_
#define GRADWIRE_CLIENT_CLI_RUN_H_

#include <string>
#include <vector>

#include "client/cli/console.h"

namespace gradwire::cli {

// `words` are the words after the program's name. Gives an ExitCode.
int Run(const std::vector<std::string>& words, const Console& console);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_RUN_H_
